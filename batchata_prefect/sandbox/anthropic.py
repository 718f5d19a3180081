"""Anthropic's HTTP API: Message Batches, messages, files and models.

Sources: anthropic/resources (2.12.0), recorded replies, platform.claude.com, the provider notes.
"""

from __future__ import annotations

import asyncio
import math
import mimetypes
import re
from array import array
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any, ClassVar

from .anthropic_answers import ENDPOINT, Claude
from .anthropic_rules import claude_refusal
from .api import Api, Call, Operation, Upload
from .reading import Element, Form, MalformedBodyError, TooLargeError, read_array, save_body
from .shapes import closed, fit, loose, matching, needed
from .store import Batch, StoredFile, save_index
from .wire import ERROR_TYPES, Json, Refusal, RefusedError, Reply, is_object, new_id

_VERSIONS = ("2026-10-21", "2023-06-01")
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
_RETRY_AFTER = 10
_EXPIRY_SECONDS = (3600, 7_776_000)

_CUSTOM_ID = re.compile("[a-zA-Z0-9_-]{1,64}")
_COUNT = "requests: List should have"
_REQUEST = closed(
    custom_id=needed(matching("^[a-zA-Z0-9_-]{1,64}$", most=64)),
    params=needed(loose()),
)


class Anthropic(Api):
    """The API under `/anthropic`."""

    name = "anthropic"
    canceling = "canceling"
    status_field = "processing_status"
    file_prefix = "file_01"
    batches_path = f"{ENDPOINT}/batches"
    check = None
    rows = Claude
    key_header = "x-api-key"
    deleted: ClassVar = {"type": "file_deleted"}
    misfit = staticmethod(claude_refusal)
    refusals: ClassVar[Mapping[str, Refusal]] = {
        "key": Refusal(401, "API key is invalid."),
        "no key": Refusal(401, "x-api-key header is required"),
        "path": Refusal(404, "Not Found"),
        "batch": Refusal(404, "Message Batch {id} not found."),
        "file": Refusal(404, "File not found: {id}"),
        "json": Refusal(400, "The request body is not valid JSON: {problem}"),
        "ended": Refusal(400, "Message Batch has already ended and cannot be canceled."),
        "results": Refusal(404, "Message Batch {id} has no available results."),
        "large": Refusal(413, "Request exceeds the maximum size"),
        "not after": Refusal(400, "after_id: {id} is not a Message Batch of this Workspace"),
        "content": Refusal(400, "File {id} is not downloadable."),
        "stream": Refusal(400, "stream: the sandbox does not stream"),
        "queue": Refusal(
            429,
            "Your organization has {waiting} batch requests in the processing queue and its limit"
            " is {most}.",
        ),
    }

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation("GET", f"{self.batches_path}/{{id}}/results", "results", self.results),
            Operation("POST", ENDPOINT, "message", self.message),
        ]

    def check_key(self, headers: Mapping[str, str]) -> None:
        """As `Api.check_key`; a known `anthropic-version` is needed too."""
        super().check_key(headers)
        version = headers.get("anthropic-version")
        if version not in _VERSIONS:
            problem = f'"{version}" is not a valid version' if version else "header is required"
            raise RefusedError(f"anthropic-version: {problem}")

    def headers(self) -> dict[str, str]:
        return {
            "request-id": new_id("req_01", 22),
            "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
            "anthropic-workspace-id": "wrkspc_01Sandbox",
            "anthropic-ratelimit-requests-limit": "4000",
            "anthropic-ratelimit-requests-remaining": "3999",
        }

    def error_body(self, problem: RefusedError, headers: Mapping[str, str]) -> Json:
        """As `Api.error_body`; see platform.claude.com api/errors."""
        usual = "api_error" if problem.status >= 500 else "invalid_request_error"
        error_type = problem.error_type or ERROR_TYPES.get(problem.status, usual)
        error = {"type": error_type, "message": problem.message}
        return {"type": "error", "error": error, "request_id": headers["request-id"]}

    def encoder(self, call: Call) -> Claude:
        headers = call.request.headers
        version, betas = headers["anthropic-version"], headers.get("anthropic-beta", "")
        return Claude(ENDPOINT, self.engine.read_file, None, version, betas)

    async def create(self, call: Call) -> Reply:
        limits, folder = self.engine.limits, self.engine.store.batches_dir
        batch_id, headers = new_id("msgbatch_01", 22), call.request.headers
        path = folder / f"{batch_id}.json"
        try:
            await save_body(call.request.stream(), path, limits.max_bytes)
            places, model = await asyncio.to_thread(_read_requests, path, limits.max_requests)
            self._check_queue(len(places) // 2)
            await asyncio.to_thread(save_index, folder / f"{batch_id}.index", places)
            batch = self.new_batch(
                batch_id,
                ENDPOINT,
                model=model,
                count=len(places) // 2,
                version=headers["anthropic-version"],
                betas=headers.get("anthropic-beta", ""),
            )
            return await self.start_batch(batch)
        except TooLargeError as error:
            raise self.refuse("large") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _check_queue(self, count: int) -> None:
        most = self.engine.limits.queued_requests
        waiting = sum(batch.count for batch in self.engine.running(self.name))
        if most is not None and waiting + count > most:
            raise self.refuse("queue", waiting=waiting, most=most)

    def batch_body(self, batch: Batch) -> Json:
        """As `Api.batch_body` (types/messages/message_batch.py)."""
        limits, ahead = self.engine.limits, self.engine.limits.clock_seconds
        created = datetime.fromtimestamp(batch.created_at + ahead, UTC)
        counts = dict.fromkeys(_COUNTS, 0) | {"processing": batch.count}
        status = "canceling" if batch.cancel_at is not None else "in_progress"
        if batch.final:
            counts, status = batch.counts, batch.status
        results_url = f"{self.url}/anthropic{self.batches_path}/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": counts,
            "ended_at": _moment(batch.ended_at, ahead) if batch.final else None,
            "created_at": created.isoformat(),
            "expires_at": (created + timedelta(seconds=limits.expires_seconds)).isoformat(),
            "archived_at": None,
            "cancel_initiated_at": _moment(batch.cancel_at, ahead),
            "results_url": results_url if batch.final else None,
        }

    async def retrieve(self, call: Call) -> Reply:
        reply, batch = await super().retrieve(call), self.find_batch(call)
        # The API says 10; here a batch takes less, and a client that obeys must not wait longer.
        wait = min(_RETRY_AFTER, math.floor(batch.takes))
        return Reply(reply.body, headers={} if batch.final else {"retry-after": str(wait)})

    async def list_batches(self, call: Call) -> Reply:
        size = ("limit", 20, 1000)
        shown, has_more = self.page(
            call, self.listed_batches(), size=size, after="after_id", what="not after"
        )
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        page = {"data": [self.batch_body(batch) for batch in shown], "has_more": has_more}
        return Reply({**page, "first_id": first, "last_id": last})

    async def results(self, call: Call) -> Reply:
        """GET /v1/messages/batches/{id}/results."""
        batch = self.find_batch(call)
        if not batch.final or call.bent("results_not_ready"):
            raise self.refuse("results", id=batch.id)
        path = self.engine.store.batches_dir / f"{batch.id}.results.jsonl"
        return Reply(file=path, media_type="application/x-jsonl")

    def read_upload(self, form: Form) -> Upload:
        if form.file_place is None:
            raise RefusedError("file: Field required")
        given, (least, most) = form.fields.get("expires_in_seconds"), _EXPIRY_SECONDS
        if given is not None and not (given.isdigit() and least <= int(given) <= most):
            raise RefusedError(f"expires_in_seconds: Input should be from {least} to {most}")
        filename = PurePath(form.filename or "").name or "unnamed"
        media_type = form.file_type or mimetypes.guess_type(filename)[0]
        seconds = None if given is None else int(given)
        return Upload("", filename, media_type or "application/octet-stream", seconds)

    def file_body(self, file: StoredFile) -> Json:
        """As `Api.file_body` (types/file_metadata.py)."""
        return {
            "type": "file",
            "id": file.id,
            "filename": file.filename,
            "mime_type": file.mime_type,
            "size_bytes": file.bytes,
            "created_at": _moment(file.created_at),
            "expires_at": _moment(file.expires_at),
            "downloadable": False,
        }

    async def content(self, call: Call) -> Reply:
        """As `Api.content`; uploaded files cannot be had back."""
        raise self.refuse("content", id=self.find_file(call).id)

    async def list_files(self, call: Call) -> Reply:
        """As `Api.list_files`; `page` goes on from the last one of the page before."""
        size = ("limit", 20, 1000)
        shown, has_more = self.page(call, self.newest_files(), size=size, after="page", what="file")
        data = [self.file_body(file) for file in shown]
        return Reply({"data": data, "next_page": shown[-1].id if has_more else None})


def _moment(unix_seconds: float | None, ahead: float = 0) -> str | None:
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds + ahead, UTC).isoformat()


def _read_requests(path: Path, most: int) -> tuple[array[int], str | None]:
    """Places of the requests in a saved create body, and the first one's model."""
    places: array[int] = array("Q")
    known: set[str] = set()
    model: str | None = None
    others: list[str] = []
    try:
        for item in read_array(path, "requests"):
            if not isinstance(item, Element):
                others.append(item[0])
                if item == ("requests", []):
                    raise RefusedError(f"{_COUNT} at least 1 item after validation, not 0")
                if item[0] == "requests":
                    raise RefusedError("requests: Input should be a valid list")
                continue
            params = _check_request(item.value, len(places) // 2, known)
            if model is None and isinstance(params.get("model"), str):
                model = params["model"]
            places.extend((item.start, item.end))
    except MalformedBodyError as error:
        raise RefusedError(f"The request body is not valid JSON: {error}") from error
    count = len(places) // 2
    if not count:
        raise RefusedError("requests: Field required")
    if count > most:
        raise RefusedError(f"{_COUNT} at most {most} items after validation, not {count}")
    for extra in others:
        raise RefusedError(f"{extra}: Extra inputs are not permitted")
    return places, model


def _check_request(entry: Any, number: int, known: set[str]) -> Json:
    """The params of a request that is right, but for them."""
    custom_id = entry.get("custom_id") if is_object(entry) and len(entry) == 2 else None
    # Nearly all of a hundred thousand are right; only the others are looked at closely.
    if not (
        isinstance(custom_id, str)
        and _CUSTOM_ID.fullmatch(custom_id)
        and is_object(entry.get("params"))
    ):
        fit(_REQUEST, entry, lambda misfit: claude_refusal(misfit, "requests", number))
    custom_id = entry["custom_id"]
    if custom_id in known:
        raise RefusedError(
            "requests: custom_id's must be unique within a batch. Duplicate custom_id found:"
            f" {custom_id}"
        )
    known.add(custom_id)
    return entry["params"]
