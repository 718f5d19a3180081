"""OpenAI's HTTP API: files, batches, chat completions, responses, embeddings and models.

Sources: openai/resources (3.54.0), recorded replies, developers.openai.com, the provider notes.
"""

from __future__ import annotations

import mimetypes
import time
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import ClassVar

from .api import Api, Call, Operation, Upload
from .compatible import bent_batch, bent_file, new_number, offered, shown_order
from .engine import FINALIZING_SHARE
from .lines import GptCheck
from .openai_answers import DAYS_30, Gpt
from .openai_content import error_body, gpt_refusal, missing
from .openai_rules import CHAT, EMBEDDINGS, METADATA, RESPONSES, check_metadata
from .reading import Form
from .rows import Encoder
from .shapes import ANYTHING, NAMED, Shape, closed, fit, one_of
from .store import Batch, StoredFile
from .wire import Json, Refusal, RefusedError, Reply, new_id

_CREATE = closed(
    input_file_id=NAMED,
    endpoint=one_of(
        RESPONSES,
        CHAT,
        EMBEDDINGS,
        "/v1/completions",
        "/v1/moderations",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/videos",
        required=True,
    ),
    completion_window=one_of("24h", required=True),
    metadata=METADATA,
    output_expires_after=ANYTHING,
)
_EXPIRES = closed(
    anchor=one_of("created_at", required=True),
    seconds=Shape("integer", required=True, least=3600, most=DAYS_30),
)
_BAD_EXPIRY = Refusal(
    400,
    "Invalid 'output_expires_after': expected {{'anchor': 'created_at', 'seconds': 3600 to"
    " 2592000}}.",
    "output_expires_after",
    "invalid_value",
)
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_VANISHED: Json = {
    "ending": "batch_failed",
    "ending_options": {
        "code": "invalid_request",
        "param": "file_id",
        "message": "The input file does not exist.",
    },
}
_NO_USAGE: Json = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}
_NO_COUNTS = {"total": 0, "completed": 0, "failed": 0}


class OpenAI(Api):
    """The API under `/openai`."""

    name = "openai"
    canceling = "cancelling"
    status_field = "status"
    file_prefix = "file-"
    batches_path = "/v1/batches"
    check: ClassVar = GptCheck
    rows: ClassVar = Gpt
    key_header = ""
    deleted: ClassVar = {"object": "file", "deleted": True}
    misfit = staticmethod(gpt_refusal)
    create_shape = _CREATE
    refusals: ClassVar[Mapping[str, Refusal]] = {
        "key": Refusal(
            401,
            "Incorrect API key provided: {key}. You can find your API key at"
            " https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        ),
        "no key": Refusal(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization"
            " header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        ),
        "path": Refusal(404, "Invalid URL ({method} {path})"),
        "batch": Refusal(404, "No batch found with id '{id}'."),
        "file": Refusal(404, "No such File object: {id}", "{param}"),
        "json": Refusal(400, "We could not parse the JSON body of your request. ({problem})"),
        "ended": Refusal(409, "Cannot cancel a batch with status '{status}'."),
        "large": Refusal(400, "File is too large."),
        "content": Refusal(400, "Not allowed to download files of purpose: user_data"),
        "stream": Refusal(400, "The sandbox does not stream.", "stream", "unsupported_value"),
    }

    def operations(self) -> list[Operation]:
        direct = (CHAT, RESPONSES, EMBEDDINGS)
        messages = [Operation("POST", path, "message", self.message) for path in direct]
        return [*super().operations(), *messages]

    def headers(self) -> dict[str, str]:
        return {
            "x-request-id": new_id("req_", 32),
            "openai-organization": "org-sandbox",
            "openai-version": "2020-10-01",
            "openai-processing-ms": "12",
        }

    def error_body(self, problem: RefusedError, headers: Mapping[str, str]) -> Json:
        return error_body(problem)

    def encoder(self, call: Call) -> Encoder:
        path = call.request.scope["path"]
        endpoint = next(each for each in (CHAT, RESPONSES, EMBEDDINGS) if path.endswith(each[3:]))
        return self.rows(endpoint, self.engine.read_file, None)

    async def create(self, call: Call) -> Reply:
        """As `Api.create`: only the shape is checked; the file is checked while validating."""
        limits, asked = self.engine.limits, await self.read_object(call)
        fit(self.create_shape, asked, gpt_refusal)
        check_metadata(asked.get("metadata"))
        expires = asked.get("output_expires_after")
        if expires is not None:
            fit(_EXPIRES, expires, lambda _: _BAD_EXPIRY.of())
        batch = self.new_batch(
            new_number() if "numbers" in self.ways else f"batch_{uuid.uuid4().hex}",
            asked["endpoint"],
            metadata=asked.get("metadata") if limits.keeps_metadata else None,
            input_file_id=asked["input_file_id"],
            ways=self.ways,
            output_expires_after=expires and expires["seconds"],
            **(_VANISHED if call.bent("file_vanished") else {}),
        )
        return await self.start_batch(batch)

    @property
    def ways(self) -> list[str]:
        """What it differs in; nothing where it is OpenAI's own or Azure's."""
        return self.engine.limits.ways if self.name == OpenAI.name else []

    def new_file_id(self) -> str:
        return new_number() if "numbers" in self.ways else super().new_file_id()

    def batch_body(self, batch: Batch) -> Json:
        """As `Api.batch_body` (types/batch.py)."""
        now = time.time()
        status = _status(batch, now)
        limits = self.engine.limits
        ahead = limits.clock_seconds
        created = int(batch.created_at + ahead)
        ended = int(batch.ended_at + ahead) if batch.ended_at is not None and batch.final else None
        finalizing = batch.created_at + batch.takes * FINALIZING_SHARE
        ran = batch.validated_at is not None and batch.cancel_at is None
        body = {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "model": batch.model,
            "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
            "input_file_id": batch.input_file_id,
            "completion_window": "24h",
            "status": status,
            "output_file_id": batch.output_file_id if batch.final else None,
            "error_file_id": batch.error_file_id if batch.final else None,
            "created_at": created,
            "in_progress_at": _whole(batch.validated_at),
            "expires_at": created + int(limits.expires_seconds),
            "finalizing_at": (
                int(finalizing) if ran and status in ("finalizing", "completed") else None
            ),
            **{
                f"{end}_at": ended if status == end else None
                for end in ("completed", "failed", "expired", "cancelled")
            },
            "cancelling_at": _whole(batch.cancel_at),
            "request_counts": self._counts(batch, status, now),
            "usage": batch.usage or _NO_USAGE,
            "metadata": batch.metadata,
        }
        failed_rows = batch.final and batch.counts.get("failed", 0) > 0
        return bent_batch(body, self.ways, failed_rows=failed_rows)

    def _counts(self, batch: Batch, status: str, now: float) -> Json:
        if batch.final:
            return batch.counts or _NO_COUNTS
        if batch.validated_at is None:
            return _NO_COUNTS
        if status == "cancelling":
            done = self.engine.finished_share(batch)
        else:
            share = (now - batch.validated_at) / max(batch.due_at - batch.validated_at, 0.001)
            done = int(batch.count * min(max(share / FINALIZING_SHARE, 0.0), 1.0))
        return {"total": batch.count, "completed": done, "failed": 0}

    async def retrieve(self, call: Call) -> Reply:
        """As `Api.retrieve`; a fault can leave out its files, and its counts."""
        reply, batch = await super().retrieve(call), self.find_batch(call)
        bare = call.bent("no_output")
        if bare is not None and batch.status not in ("in_progress", self.canceling):
            reply.body.update(output_file_id=None, error_file_id=None)
            if not bare.options.get("counts", True):
                reply.body["request_counts"] = _NO_COUNTS
        return reply

    async def list_batches(self, call: Call) -> Reply:
        offered(self.ways, "no_list", "batches")
        shown = shown_order(self.listed_batches(), self.ways)
        page, has_more = shown, None
        if "no_filters" not in self.ways:
            size = ("limit", 20, 100)
            page, has_more = self.page(call, shown, size=size, after="after", what="batch")
            if "own_page" in self.ways:
                page, has_more = page[:2], None
        return Reply(_page([self.batch_body(batch) for batch in page], has_more))

    def read_upload(self, form: Form) -> Upload:
        purpose, filename = form.fields.get("purpose"), form.filename or "upload"
        if purpose is None:
            raise missing("purpose")
        if purpose not in _PURPOSES:
            listed = ", ".join(f"'{each}'" for each in _PURPOSES)
            text = f"'{purpose}' is not one of [{listed}] - 'purpose'"
            raise RefusedError(text, "purpose", "invalid_value")
        if form.file_place is None:
            raise missing("file")
        if purpose == "batch" and PurePath(filename).suffix not in ("", ".jsonl"):
            raise RefusedError("Invalid file format for Batch API. Must be .jsonl")
        media_type = mimetypes.guess_type(filename)[0] or form.file_type
        seconds = _expires_in(form.fields, purpose)
        return Upload(purpose, filename, media_type or "application/octet-stream", seconds)

    def file_body(self, file: StoredFile) -> Json:
        """As `Api.file_body` (types/file_object.py)."""
        body = {
            "object": "file",
            "id": file.id,
            "purpose": file.purpose,
            "filename": file.filename,
            "bytes": file.bytes,
            "created_at": int(file.created_at),
            "expires_at": _whole(file.expires_at),
            "status": "processed",
            "status_details": None,
        }
        return bent_file(body, self.ways)

    async def file(self, call: Call) -> Reply:
        offered(self.ways, "no_file", "file")
        return await super().file(call)

    async def delete_file(self, call: Call) -> Reply:
        offered(self.ways, "no_delete", "file")
        return await super().delete_file(call)

    async def content(self, call: Call) -> Reply:
        file = self.find_file(call)
        if file.purpose == "user_data":
            raise self.refuse("content")
        if file.purpose == "batch":
            offered(self.ways, "no_content", "file")
        return Reply(
            file=self.engine.file_path(file.id),
            media_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{file.filename}"'},
        )

    async def list_files(self, call: Call) -> Reply:
        """As `Api.list_files`; those of one purpose can be asked for."""
        offered(self.ways, "no_file_list", "file")
        purpose = call.request.query_params.get("purpose")
        shown = [file for file in self.newest_files() if purpose in (None, file.purpose)]
        size = ("limit", 10_000, 10_000)
        shown, has_more = self.page(call, shown, size=size, after="after", what="file")
        return Reply(_page([self.file_body(file) for file in shown], has_more))


def _status(batch: Batch, now: float) -> str:
    if batch.final:
        return batch.status
    if batch.cancel_at is not None:
        return "cancelling"
    if batch.validated_at is None:
        return "validating"
    finalizing = now >= batch.created_at + batch.takes * FINALIZING_SHARE
    return "finalizing" if finalizing else "in_progress"


def _whole(unix_seconds: float | None) -> int | None:
    return None if unix_seconds is None else int(unix_seconds)


def _page(data: list[Json], has_more: bool | None) -> Json:
    """A list; None where it does not say whether there are more."""
    page: Json = {"object": "list", "data": data}
    if has_more is None:
        return page
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {**page, "has_more": has_more, "first_id": first, "last_id": last}


def _expires_in(fields: dict[str, str], purpose: str) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return DAYS_30 if purpose == "batch" else None
    if anchor != "created_at":
        text = "Invalid value for 'expires_after[anchor]': expected 'created_at'."
        raise RefusedError(text, "expires_after[anchor]", "invalid_value")
    if seconds is None or not seconds.isdigit() or not 3600 <= int(seconds) <= DAYS_30:
        text = "Invalid 'expires_after[seconds]': expected an integer from 3600 to 2592000."
        raise RefusedError(text, "expires_after[seconds]", "invalid_value")
    return int(seconds)
