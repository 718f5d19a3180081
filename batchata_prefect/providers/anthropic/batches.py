"""Anthropic's Message Batches.

Sources: anthropic/resources/messages/batches.py, types/messages/*.py, types/usage.py (2.12.0), and
platform.claude.com: batch-processing, refusals-and-fallback.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import datetime
from os import SEEK_END
from typing import Any

from batchata_prefect.answers import Reply
from batchata_prefect.errors import MissingCredentialsError, ParseError, ProviderError
from batchata_prefect.exact_json import dumps
from batchata_prefect.models import BatchState, Chunk, EndingKind, Job, ProviderBatch, Request
from batchata_prefect.providers import Found, Key, Ours, Requests, wire
from batchata_prefect.providers.anthropic.body import LIMITS, render
from batchata_prefect.providers.anthropic.models import most_tokens
from batchata_prefect.providers.anthropic.replies import exactly, ordinary
from batchata_prefect.providers.anthropic.rows import read_row
from batchata_prefect.providers.bodies import Again, continued, reworded, roomier
from batchata_prefect.providers.caps import http_client
from batchata_prefect.providers.failures import status_of
from batchata_prefect.providers.rows import (
    count_at,
    object_at,
    parse,
)

_PATH = "/v1/messages/batches"
_FILES = "/v1/files"
_OPEN, _CLOSE = b'{"requests":[', b"]}"
_CUSTOM_ID = re.compile(r"([0-9a-f]{16})-\d+")
"""What `Chunk.custom_id` looks like."""
_PIECE_BYTES = 256 * 1024
_STATES: Mapping[str, BatchState] = {"canceling": "canceling", "ended": "ended"}
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


class ResultsNotReadyError(ProviderError):
    """An ended batch whose results are not there yet, or not any more.

    Attributes:
        status_code: 404, as the provider answered.
    """

    status_code = 404


class Anthropic:
    """Message Batches: one call with all requests, results as one stream of rows."""

    name = "anthropic"
    limits = LIMITS

    def __init__(self) -> None:
        # Results never change, so that one look at the first row of an ended batch is enough.
        self._first_ids: dict[str, str] = {}

    def serves(self, model: str) -> bool:
        """Whether the model's name starts with `claude`."""
        return model.startswith("claude")

    def connect(self, key: Key | None = None) -> Any:
        """An `AsyncAnthropic` with the SDK's own variables: `ANTHROPIC_API_KEY`, `..._BASE_URL`.

        Args:
            key: Credentials in place of the variables.

        Raises:
            MissingCredentialsError: No key or token is set, and the SDK finds no profile.
        """
        import anthropic

        try:
            with wire.connecting("ANTHROPIC_BASE_URL"):
                client = anthropic.AsyncAnthropic(
                    max_retries=wire.RETRIES,
                    timeout=wire.timeouts(),
                    http_client=http_client(anthropic.DefaultAsyncHttpxClient),
                    **(key.arguments() if key else {}),
                )
        except anthropic.AnthropicError as error:
            raise MissingCredentialsError(
                f"Anthropic's credentials are unusable: {error}"
            ) from None
        if not (client.api_key or client.auth_token or client.credentials):
            raise MissingCredentialsError(
                "no Anthropic key: set ANTHROPIC_API_KEY in the environment or in .env"
            )
        wire.check_keys(
            client, ANTHROPIC_API_KEY=client.api_key, ANTHROPIC_AUTH_TOKEN=client.auth_token
        )
        return client

    def account(self, client: Any) -> str:
        """The base URL."""
        return wire.base_url(client)

    def render(self, job: Job) -> Request:
        """The job's exact request, with its estimate.

        Raises:
            ValidationError: The API would not take the job; the text names the job and why.
        """
        return render(job)

    def line(self, custom_id: str, body: bytes, endpoint: str) -> bytes:
        """One request of the create body."""
        return b'{"custom_id":"%b","params":%b}' % (custom_id.encode(), body)

    def wire_bytes(self, lines_bytes: int, count: int) -> int:
        """Bytes of the create body of so many lines."""
        return len(_OPEN) + lines_bytes + max(count - 1, 0) + len(_CLOSE)

    async def create(self, client: Any, chunk: Chunk, requests: Requests) -> ProviderBatch:
        """Create the batch, streaming the requests; memory does not grow with it."""
        size = await asyncio.to_thread(_body_bytes, requests)
        reply = await wire.send(
            client,
            _PATH,
            "id",
            headers={"Content-Type": "application/json", "Content-Length": str(size)},
            content=wire.last_asked(_body(requests)),
        )
        return _batch(reply)

    async def answer(self, client: Any, custom_id: str, body: bytes, endpoint: str) -> bytes:
        """One request through Messages [anthropic/resources/messages/messages.py], as a row."""
        message, _, error = await wire.ask(client, endpoint, "content", body)
        kind, name = (b"succeeded", b"message") if message is not None else (b"errored", b"error")
        told = message if message is not None else dumps(error).encode()
        return b'{"custom_id":"%b","result":{"type":"%b","%b":%b}}' % (
            custom_id.encode(),
            kind,
            name,
            told,
        )

    async def find(
        self, client: Any, chunk: Chunk, since: datetime, known: frozenset[str]
    ) -> Found:
        """Look for the chunk's batch among those of its time and its number of requests.

        A batch carries nothing of ours but the custom_ids, which only its results show.

        Raises:
            ProviderError: A batch that may be the chunk's has no results any more.
        """
        undecided: list[str] = []
        for item in await wire.batches_since(client, _PATH, "after_id", since):
            batch = _batch(item)
            if batch.batch_id in known or batch.total not in {None, chunk.count}:
                continue
            first = await self._first_id(client, batch) if batch.state == "ended" else None
            if first is not None:
                if chunk.ordinal(first) is not None:
                    return Found(batch)
            elif item.get("archived_at"):
                raise ProviderError(
                    f"{chunk.name}: {batch.batch_id} of {batch.created_at} may be this batch and "
                    "may have been paid for, but its results are gone after 29 days. Start over "
                    "with reuse_state=False if these jobs shall be sent again"
                )
            else:
                undecided.append(batch.batch_id)
        return Found(undecided=tuple(undecided))

    async def ours(self, client: Any, since: datetime) -> list[Ours]:
        """Batches whose custom_ids are of our form, and those whose results are not there yet."""
        found: list[Ours] = []
        for item in await wire.batches_since(client, _PATH, "after_id", since):
            batch = _batch(item)
            first = await self._first_id(client, batch) if batch.state == "ended" else None
            match = _CUSTOM_ID.fullmatch(first) if first is not None else None
            if match is not None or batch.state != "ended":
                found.append(Ours(batch, match[1] if match else None))
        return found

    async def _first_id(self, client: Any, batch: ProviderBatch) -> str | None:
        """The custom_id of an ended batch's first row; None where there is none to read yet."""
        found = self._first_ids.get(batch.batch_id)
        if found is not None:
            return found
        head = b""
        rows = self.download(client, batch)
        try:
            async for piece in rows:
                head += piece
                if b"\n" in piece:
                    break
            found, _ = parse(head.partition(b"\n")[0])
        except (ResultsNotReadyError, ParseError):
            return None
        finally:
            await rows.aclose()
        self._first_ids[batch.batch_id] = found
        return found

    async def poll(self, client: Any, batch_id: str) -> ProviderBatch:
        """The batch as it stands now."""
        return _batch(await wire.get(client, f"{_PATH}/{batch_id}", "id"))

    async def listed(self, client: Any) -> AsyncGenerator[list[ProviderBatch]]:
        """All batches of the workspace as they stand now, newest first; a call for each page."""
        async for items in wire.batch_pages(client, _PATH, "after_id"):
            yield [_batch(item) for item in items]

    async def cancel(self, client: Any, batch_id: str) -> ProviderBatch:
        """Ask for the batch's cancellation; an ended batch is given back as it is."""
        try:
            return _batch(await wire.post(client, f"{_PATH}/{batch_id}/cancel", "id"))
        except Exception as error:
            # What the API answers for an ended batch is not documented; it can only be a 4xx.
            if status_of(error) not in {400, 404, 409, 422}:
                raise
        return await self.poll(client, batch_id)

    async def download(self, client: Any, batch: ProviderBatch) -> AsyncGenerator[bytes]:
        """The result rows as they come.

        Raises:
            ResultsNotReadyError: The batch has ended, and its results are not there.
        """
        rows = wire.stream(client, f"{_PATH}/{batch.batch_id}/results")
        try:
            async for piece in rows:
                yield piece
        except Exception as error:
            if status_of(error) != 404:
                raise
            if batch.ending in {"canceled", "expired"} and batch.total and not batch.succeeded:
                return  # nothing of it has run, and there need not be a file that says so
            raise ResultsNotReadyError(f"{batch.batch_id} has no results to read") from None
        finally:
            await rows.aclose()

    def read(self, row: bytes, endpoint: str) -> Reply:
        """One result row.

        Raises:
            ParseError: The row is not JSON or carries no custom_id.
        """
        if (reply := ordinary(row)) is not None:
            return reply
        reply = read_row(*parse(row))
        return exactly(reply, row) if reply.tool_calls else reply

    async def upload(self, client: Any, name: str, media_type: str, data: bytes) -> str:
        """Store a document for some days [anthropic/resources/files.py]."""
        reply = await wire.send(
            client,
            _FILES,
            "id",
            headers={"Content-Type": "multipart/form-data"},
            body={"expires_in_seconds": wire.UPLOAD_SECONDS},
            files=[("file", (name, data, media_type))],
        )
        return str(reply["id"])

    async def uploads(self, client: Any, prefix: str) -> dict[str, str]:
        """Name -> id of the stored documents whose name begins with `prefix`."""
        found: dict[str, str] = {}
        params: dict[str, Any] = {"limit": 1000}
        while True:
            page = await wire.get(client, _FILES, "data", params)
            found |= wire.named(page["data"], "filename", prefix)
            following = page.get("next_page")
            if not following:
                return found
            params = {"limit": 1000, "page": following}

    async def forget(self, client: Any, file_id: str) -> None:
        """Delete a stored document."""
        await wire.delete(client, f"{_FILES}/{file_id}")

    def reworded(self, body: bytes, answer: str, fault: str) -> Again | None:
        """The request with the answer to it and what was wrong with it."""
        return reworded(body, answer, fault)

    def roomier(self, body: bytes, model: str) -> Again | None:
        """The request with more output tokens; None where the model has no more."""
        return roomier(body, most_tokens(model))

    def continued(self, body: bytes, row: bytes, *, goes_on: bool) -> Again | None:
        """The request with the turn that was paused handed back."""
        _, data = parse(row)
        return continued(body, object_at(object_at(data, "result"), "message"), goes_on=goes_on)

    async def discard(self, client: Any, batch: ProviderBatch) -> None:
        """Nothing was uploaded."""

    async def withdraw(self, client: Any, chunk: Chunk) -> None:
        """Nothing was uploaded."""


def _body_bytes(requests: Requests) -> int:
    with requests() as file:
        # The newline of the last request goes.
        return len(_OPEN) + max(file.seek(0, SEEK_END) - 1, 0) + len(_CLOSE)


async def _body(requests: Requests) -> AsyncIterator[bytes]:
    """The create body of a chunk file, piece by piece."""
    file = await asyncio.to_thread(requests)
    with file:
        yield _OPEN
        held = b""
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            # JSON on one line holds no line break, so that each one stands between two requests.
            piece = held + piece.replace(b"\n", b",")
            # The last one stands behind all of them.
            held = b"," if piece.endswith(b",") else b""
            yield piece.removesuffix(b",")
        yield _CLOSE


def _batch(data: Mapping[str, Any]) -> ProviderBatch:
    counts = object_at(data, "request_counts")
    status = str(data.get("processing_status"))
    state = _STATES.get(status, "in_progress")
    failed = sum(count_at(counts, name) for name in ("errored", "canceled", "expired"))
    ending: EndingKind | None = None
    if state == "ended":
        ending = "ended"
        if data.get("cancel_initiated_at") is not None:
            ending = "canceled"
        elif count_at(counts, "expired"):
            ending = "expired"
    return ProviderBatch(
        batch_id=str(data["id"]),
        state=state,
        raw_status=status,
        ending=ending,
        total=sum(count_at(counts, name) for name in _COUNTS) or None,
        succeeded=count_at(counts, "succeeded"),
        failed=failed,
        created_at=wire.moment(data.get("created_at")),
        expires_at=wire.moment(data.get("expires_at")),
        ended_at=wire.moment(data.get("ended_at")),
    )
