"""Anthropic's Message Batches.

Sources: anthropic/resources/messages/batches.py, types/messages/*.py, types/usage.py (2.12.0), and
platform.claude.com: batch-processing, refusals-and-fallback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from os import SEEK_END
from typing import Any, ClassVar

from typing_extensions import override

from batchata_prefect.answers import Reply
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.errors import MissingCredentialsError, ProviderError
from batchata_prefect.models import BatchState, Chunk, EndingKind, Job, ProviderBatch, Request
from batchata_prefect.providers import Key, LoginForm, Provider, Requests, lists, wire
from batchata_prefect.providers.anthropic.body import render
from batchata_prefect.providers.anthropic.facts import BILLING, LIMITS, ClaudeCounting, is_small
from batchata_prefect.providers.anthropic.replies import exactly, ordinary, read_row
from batchata_prefect.providers.bodies import Again, continued
from batchata_prefect.providers.failures import status_of
from batchata_prefect.providers.rows import (
    count_at,
    object_at,
    parse,
)

_OPEN, _CLOSE = b'{"requests":[', b"]}"
_PIECE_BYTES = 256 * 1024
_STATES: Mapping[str, BatchState] = {"canceling": "canceling", "ended": "ended"}
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


class ResultsNotReadyError(ProviderError):
    """An ended batch whose results are not there yet, or not any more.

    Attributes:
        status_code: 404, as the provider answered.
    """

    status_code = 404


class Anthropic(Provider):
    """Message Batches: one call with all requests, results as one stream of rows."""

    name = "anthropic"
    address = "https://api.anthropic.com"
    hosts = ("api.anthropic.com",)
    billing = BILLING
    counting = ClaudeCounting()
    login_form = LoginForm(
        "Anthropic",
        "A key for Anthropic's Message Batches, as batchata-prefect uses it.",
        "https://platform.claude.com/docs/en/api/overview",
        "https://avatars.githubusercontent.com/u/76263028?s=200",
    )
    limits = LIMITS
    cites = True
    batches_path = "/v1/messages/batches"
    batches_cursor = "after_id"
    counts_at_once = True
    files_path = "/v1/files"
    console = "https://platform.claude.com/settings/workspaces/default/batches"
    keeps_days = 29  # [batch-processing]
    upload_fields: ClassVar = {"expires_in_seconds": wire.UPLOAD_SECONDS}
    """[anthropic/resources/files.py]"""

    def __init__(self) -> None:
        # Results never change, so that one look at the first row of an ended batch is enough.
        self._heads: dict[str, str] = {}

    @override
    def serves(self, model: str) -> bool:
        return model.startswith("claude")

    @override
    def most_output(self, model: str) -> int | None:
        # The 300k of a beta need a header, which is not sent.
        if not model.startswith("claude"):
            return None
        return 64_000 if is_small(model) else 128_000

    @override
    def takes_temperature(self, model: str) -> bool | None:
        return False  # none does [api/migration-2026-10-21]

    @override
    def connect(self, key: Key | None = None) -> Any:
        # Its own variables: `ANTHROPIC_API_KEY`, `..._AUTH_TOKEN`, `..._BASE_URL`, and profiles.
        import anthropic

        try:
            client = wire.sdk_client(
                anthropic.AsyncAnthropic,
                anthropic.DefaultAsyncHttpxClient,
                "ANTHROPIC_BASE_URL",
                key,
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

    @override
    def render(self, job: Job) -> Request:
        return render(job, self)

    @override
    def line(self, custom_id: str, body: bytes, endpoint: str) -> bytes:
        return b'{"custom_id":"%b","params":%b}' % (custom_id.encode(), body)

    @override
    def wire_bytes(self, lines_bytes: int, count: int) -> int:
        return len(_OPEN) + lines_bytes + max(count - 1, 0) + len(_CLOSE)

    @override
    async def create(self, client: Any, chunk: Chunk, requests: Requests) -> ProviderBatch:
        # The requests are streamed: memory does not grow with their number.
        # Told ahead: a streamed body without its length goes in chunks, which not all servers take.
        size = await asyncio.to_thread(_body_bytes, requests)
        reply = await wire.send(
            client,
            self.batches_path,
            "id",
            headers={"Content-Type": "application/json", "Content-Length": str(size)},
            content=wire.last_asked(_body(requests)),
        )
        return self.batch(reply)

    @override
    async def answer(self, client: Any, custom_id: str, body: bytes, endpoint: str) -> bytes:
        # [anthropic/resources/messages/messages.py]
        message, _, error = await wire.ask(client, endpoint, "content", body)
        kind, name = (b"succeeded", b"message") if message is not None else (b"errored", b"error")
        told = message if message is not None else dumps(error).encode()
        return b'{"custom_id":"%b","result":{"type":"%b","%b":%b}}' % (
            custom_id.encode(),
            kind,
            name,
            told,
        )

    @override
    async def head(self, client: Any, item: Mapping[str, Any], batch: ProviderBatch) -> str | None:
        # A batch carries nothing of ours but the custom_ids, which only its results show.
        head = self._heads.get(batch.batch_id)
        if head is None and batch.state == "ended":
            head = await lists.head_of(self.download(client, batch))
            if head is not None:
                self._heads[batch.batch_id] = head
        return head

    @override
    def is_gone(self, item: Mapping[str, Any]) -> bool:
        return bool(item.get("archived_at"))

    @override
    def batch(self, data: Mapping[str, Any]) -> ProviderBatch:
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

    @override
    async def download(self, client: Any, batch: ProviderBatch) -> AsyncGenerator[bytes]:
        rows = wire.stream(client, f"{self.batches_path}/{batch.batch_id}/results")
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

    @override
    def read(self, row: bytes, endpoint: str) -> Reply:
        # The fast way first: it takes only what it reads exactly as the other one would.
        if (reply := ordinary(row)) is not None:
            return reply
        reply = read_row(*parse(row))
        return exactly(reply, row) if reply.tool_calls else reply

    @override
    def uploads_following(self, page: Mapping[str, Any]) -> Mapping[str, Any]:
        following = page.get("next_page")
        return {"page": following} if following else {}

    @override
    def continued(self, body: bytes, row: bytes, *, goes_on: bool) -> Again | None:
        _, data = parse(row)
        return continued(body, object_at(object_at(data, "result"), "message"), goes_on=goes_on)


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
