"""Chunks to send, and how to live with them: what the tests of the network verbs share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from batchata_prefect.models import Chunk, Job, ProviderBatch
from batchata_prefect.providers import Provider

T = TypeVar("T")
NOBODY: frozenset[str] = frozenset()


MODELS = {
    "anthropic": "claude-sonnet-5-5",
    "azure": "fleet",
    "gemini": "gemini-2.5-flash",
    "openai": "gpt-6-luna",
}

BASE_URLS = {
    "anthropic": "ANTHROPIC_BASE_URL",
    "azure": "AZURE_OPENAI_ENDPOINT",
    "gemini": "GOOGLE_GEMINI_BASE_URL",
    "openai": "OPENAI_BASE_URL",
}
KEYS = {
    "anthropic": "ANTHROPIC_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "openai": "OPENAI_API_KEY",
}
UNKNOWN = {
    "anthropic": "msgbatch_x",
    "gemini": "batches/x",
    "azure": "batch_x",
    "openai": "batch_x",
}
"""Ids of batches that do not exist."""


class Order:
    """A chunk and its file, ready to be created."""

    def __init__(self, provider: Provider, path: Path, prompts: list[str], salt: str = "") -> None:
        model = MODELS[provider.name]
        made = [
            provider.render(Job(id=str(at), model=model, prompt=prompt, max_tokens=50))
            for at, prompt in enumerate(prompts)
        ]
        bodies = [request.body for request in made]
        self.provider = provider
        self.path = path
        self.requests = partial(path.open, "rb")
        self.chunk = Chunk(
            sequence=0,
            round=0,
            token=hashlib.sha256(b"\n".join([salt.encode(), *bodies])).hexdigest(),
            provider=provider.name,
            endpoint=made[0].endpoint,
            model=model,
            count=len(bodies),
            size_bytes=0,
            input_tokens=0,
            output_tokens=0,
            reserved_usd=None,
        )
        with path.open("wb") as file:
            for at, body in enumerate(bodies):
                line = provider.line(self.chunk.custom_id(at), body, self.chunk.endpoint)
                file.write(line + b"\n")

    async def create(self, client: Any) -> ProviderBatch:
        return await self.provider.create(client, self.chunk, self.requests)

    async def find(self, client: Any, known: frozenset[str] = NOBODY) -> Any:
        return await self.provider.find(client, self.chunk, datetime.now(UTC), known)


@asynccontextmanager
async def connected(provider: Provider) -> AsyncIterator[Any]:
    client = provider.connect()
    try:
        yield client
    finally:
        await client.close()


def run(provider: Provider, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run `work` with a connected client, and close it."""

    async def main() -> T:
        async with connected(provider) as client:
            return await work(client)

    return asyncio.run(main())


async def finished(provider: Provider, client: Any, batch_id: str) -> ProviderBatch:
    while (batch := await provider.poll(client, batch_id)).state != "ended":
        await asyncio.sleep(0.02)
    return batch


async def rows(provider: Provider, client: Any, batch: ProviderBatch) -> list[bytes]:
    data = b"".join([piece async for piece in provider.download(client, batch)])
    return [row for row in data.split(b"\n") if row]


async def answers(order: Order, client: Any, batch: ProviderBatch) -> dict[int | None, Any]:
    replies = [
        order.provider.read(row, order.chunk.endpoint)
        for row in await rows(order.provider, client, batch)
    ]
    return {order.chunk.ordinal(reply.custom_id): reply for reply in replies}


def billed(sandbox: Any) -> list[str]:
    """Rows of batches that were billed; what went through the realtime API has no custom_id."""
    return [row.custom_id for row in sandbox.ledger.billed() if row.custom_id is not None]
