"""Gemini's Batch API: a file of requests goes up, a batch is made of it, a file of rows comes down.

Sources: google/genai/batches.py, files.py and _transformers.py (3.6.1); ai.google.dev:
gemini-api/docs/batch-api, api/batch-mode, api/files, gemini-api/docs/rate-limits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from io import RawIOBase
from os import SEEK_END
from typing import Any, BinaryIO

from typing_extensions import override

from batchata_prefect.answers import Reply
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.errors import blanked
from batchata_prefect.models import (
    BatchFault,
    BatchState,
    Chunk,
    EndingKind,
    Job,
    ProviderBatch,
    Request,
)
from batchata_prefect.money.billing import Billing
from batchata_prefect.providers import Key, LoginForm, Provider, Requests, lists, wire
from batchata_prefect.providers.failures import is_transient, status_of
from batchata_prefect.providers.gemini.body import render
from batchata_prefect.providers.gemini.client import Client
from batchata_prefect.providers.gemini.facts import LIMITS, WRITES_65K, GeminiCounting
from batchata_prefect.providers.gemini.replies import CODES, ordinary, read_row
from batchata_prefect.providers.rows import count_at, object_at, objects_at, parse, text_at

_JSONL = "application/jsonl"
_TOKEN = re.compile(r"batchata-([0-9a-f]{64})")
_STATES: Mapping[str, tuple[BatchState, EndingKind | None]] = {
    "CANCELLING": ("canceling", None),
    "SUCCEEDED": ("ended", "ended"),
    "PARTIALLY_SUCCEEDED": ("ended", "ended"),
    "CANCELLED": ("ended", "canceled"),
    "EXPIRED": ("ended", "expired"),
    "FAILED": ("ended", "failed"),
}
"""`BATCH_STATE_...` on the wire and `JOB_STATE_...` in the SDK -> what it is here."""

_LASTS = timedelta(hours=48)
"""After this a batch expires [batch-api]."""


class Gemini(Provider):
    """Batches of `generateContent`, each of one model."""

    name = "gemini"
    address = "https://generativelanguage.googleapis.com"
    hosts = ("generativelanguage.googleapis.com",)
    billing = Billing(listed_as="google")
    counting = GeminiCounting()
    login_form = LoginForm(
        "Gemini",
        "A key for Gemini's Batch API, as batchata-prefect uses it.",
        "https://ai.google.dev/gemini-api/docs/batch-api",
        "https://avatars.githubusercontent.com/u/161781182?s=200",
    )
    limits = LIMITS
    # A file ends 48 hours after its upload [files], and a batch may take as long: whether a request
    # that no longer finds its document is billed, nobody says.
    keeps_files = False
    # An id is the resource's whole name, such as `batches/abc`, as the SDK takes it.
    batches_path = ""
    id_field = "name"
    is_sorted = False  # that the newest come first is not documented
    files_path = ""
    gone = frozenset({403, 404})
    """ "You do not have permission to access the File ... or it may not exist" [public reports]."""

    @override
    def serves(self, model: str) -> bool:
        return model.startswith("gemini-") and "embedding" not in model

    @override
    def most_output(self, model: str) -> int | None:
        return 65_536 if WRITES_65K.match(model) else None  # [models pages]

    @override
    def takes_temperature(self, model: str) -> bool | None:
        return True

    @override
    def connect(self, key: Key | None = None) -> Any:
        # The SDK's own variables: `GEMINI_API_KEY`, `GOOGLE_API_KEY`, `GOOGLE_GEMINI_BASE_URL`.
        client = Client(key)
        wire.check_keys(client, GEMINI_API_KEY=client.api_key)
        return client

    @override
    def render(self, job: Job) -> Request:
        return render(job, self)

    @override
    def line(self, custom_id: str, body: bytes, endpoint: str) -> bytes:
        return b'{"key":"%b","request":%b}' % (custom_id.encode(), body)

    @override
    async def create(self, client: Any, chunk: Chunk, requests: Requests) -> ProviderBatch:
        file = await self.sent_ahead(chunk, requests, partial(self._uploaded, client, chunk))
        batch = {"displayName": f"batchata-{chunk.token}", "inputConfig": {"fileName": file}}
        path = chunk.endpoint.removesuffix(":generateContent") + ":batchGenerateContent"
        return self.batch(await wire.buy(client, path, "name", {"batch": batch}))

    async def _uploaded(self, client: Any, chunk: Chunk, requests: BinaryIO | RawIOBase) -> str:
        """The name of the chunk's file, which an earlier create may have left there.

        It is ours to choose, so that no upload is ever lost or made twice.
        """
        name = _file_name(chunk.token)
        size = await asyncio.to_thread(requests.seek, 0, SEEK_END)
        try:
            found = await wire.get(client, f"/{name}", "name")
        except Exception as error:
            if status_of(error) not in self.gone:
                raise
        else:
            if count_at(found, "sizeBytes") == size and text_at(found, "state") != "FAILED":
                return name
            await self.forget(client, name)
        body = {"file": {"name": name, "displayName": name, "mimeType": _JSONL}}
        files = [("file", (name, requests, _JSONL))]
        try:
            await wire.send(client, "/files", "file", headers={}, body=body, files=files)
        except Exception as error:
            if status_of(error) != 409:
                raise
            # What holds the name cannot be seen, such as an upload that was broken off.
            del body["file"]["name"]
            made = await wire.send(client, "/files", "file", headers={}, body=body, files=files)
            return str(made["file"]["name"])
        return name

    @override
    async def withdraw(self, client: Any, chunk: Chunk) -> None:
        await self.forget(client, _file_name(chunk.token))

    @override
    async def answer(self, client: Any, custom_id: str, body: bytes, endpoint: str) -> bytes:
        # A blocked prompt has no candidates.
        answered, _, error = await wire.ask(client, endpoint, "usageMetadata", body)
        if answered is not None:
            return b'{"key":"%b","response":%b}' % (custom_id.encode(), answered)
        told = dumps(error["error"] if isinstance(error, dict) and "error" in error else error)
        return b'{"key":"%b","error":%b}' % (custom_id.encode(), told.encode())

    @override
    async def pages(self, client: Any) -> AsyncGenerator[list[Mapping[str, Any]]]:
        def following(page: Mapping[str, Any]) -> Mapping[str, Any]:
            token = text_at(page, "nextPageToken")
            return {"pageToken": token} if token else {}

        # Without a size the list has been seen to be empty [python-genai#1250].
        async for page in lists.paged(client, "/batches", "", {"pageSize": lists.PAGE}, following):
            yield [item for item in objects_at(page, "operations") if item.get("name")]

    @override
    def made_at(self, item: Mapping[str, Any]) -> datetime | None:
        return wire.moment((object_at(item, "metadata") or item).get("createTime"))

    @override
    def token(self, item: Mapping[str, Any]) -> str | None:
        about = object_at(item, "metadata") or item
        match = _TOKEN.fullmatch(text_at(about, "displayName") or "")
        return match[1] if match else None

    @override
    def batch(self, data: Mapping[str, Any]) -> ProviderBatch:
        # An operation, whose metadata is the batch.
        about = object_at(data, "metadata") or data
        state, token = text_at(about, "state") or "", self.token(data)
        is_done = data.get("done") is True
        error = object_at(data, "error") or object_at(about, "error")
        otherwise = ("ended", "failed" if error else "ended") if is_done else ("in_progress", None)
        shown, ending = _STATES.get(state.partition("_STATE_")[2], otherwise)
        counts = object_at(about, "batchStats")
        succeeded = count_at(counts, "successfulRequestCount")
        created = self.made_at(data)
        output = object_at(about, "output") or object_at(data, "response")
        rows = text_at(output, "responsesFile")
        if ending == "failed" and (rows or succeeded):
            ending = "ended"  # it was begun, and what ran of it may have been billed
        given = text_at(object_at(about, "inputConfig"), "fileName")
        return ProviderBatch(
            batch_id=str(data["name"]),
            state=shown,
            raw_status=state,
            ending=ending,
            total=count_at(counts, "requestCount") or None,
            succeeded=succeeded,
            failed=count_at(counts, "failedRequestCount"),
            created_at=created,
            expires_at=None if created is None else created + _LASTS,
            ended_at=wire.moment(about.get("endTime")),
            faults=(_fault(error),) if error and ending == "failed" else (),
            output_file_id=rows,
            # Whether the API tells the file is not documented; its name follows from the batch's.
            input_file_id=given or (None if token is None else _file_name(token)),
        )

    @override
    async def cancel(self, client: Any, batch_id: str) -> ProviderBatch:
        # The answer to it is empty; a batch that has ended may be refused.
        try:
            await wire.post(client, f"/{batch_id}:cancel")
        except Exception as error:
            if status_of(error) not in {400, 404, 409}:
                raise
        batch = await self.poll(client, batch_id)
        # No state says that it is being canceled.
        return batch if batch.state == "ended" else replace(batch, state="canceling")

    @override
    async def download(self, client: Any, batch: ProviderBatch) -> AsyncGenerator[bytes]:
        if batch.output_file_id is None:
            return
        path = f"/{batch.output_file_id}:download?alt=media"
        async with aclosing(wire.stream(client, path)) as pieces:
            async for piece in pieces:
                yield piece

    @override
    def read(self, row: bytes, endpoint: str) -> Reply:
        # The fast way first: it takes only what it reads exactly as the other one would.
        if (reply := ordinary(row)) is not None:
            return reply
        return read_row(*parse(row, name="key"))


def _file_name(token: str) -> str:
    """The name of a chunk's file: at most 40 of `[a-z0-9-]` after the slash [api/files]."""
    return f"files/batchata-{token[:31]}"


def _fault(error: Mapping[str, Any]) -> BatchFault:
    number = count_at(error, "code")
    word, status = CODES.get(number, ("unknown", number or 400))
    said = (text_at(error, "status") or word).lower()
    code = f"http_{status}" if is_transient(status) else said
    return BatchFault(code, blanked(text_at(error, "message")) or f"no reason given ({said})")
