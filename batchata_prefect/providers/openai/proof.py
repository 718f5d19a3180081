"""Whose a batch is: by its metadata, by its file, or by its rows.

Not every server that speaks this API gives metadata back, keeps the names of files, or shows what
is in them; each of these alone is proof.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from batchata_prefect.models import Chunk, ProviderBatch
from batchata_prefect.providers import wire
from batchata_prefect.providers.caps import first_line
from batchata_prefect.providers.provider import Provider
from batchata_prefect.providers.rows import object_at, text_at

TOKEN = "batchata_token"  # noqa: S105 - names a field, is no secret
_FILE_NAME = re.compile(r"batchata-([0-9a-f]{16})[0-9a-f]{48}\.jsonl")
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([0-9a-f]{16})-\d{1,12}"')
_HIDDEN = frozenset({400, 403, 404, 405})
"""Statuses of a file that is gone, or that a server does not give."""


class Proofs:
    """What is known of the batches and files of an account.

    Attributes:
        known: Id of a file or a batch -> head of the chunk that it is of; empty for none of ours.
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    async def head(self, provider: Provider, client: Any, item: Mapping[str, Any]) -> str | None:
        """Head of the chunk that a batch was made for; empty where it is none of ours.

        None where it cannot be told, or not before the batch has ended.
        """
        if (token := token_of(item)) is not None:
            return token[:16]
        batch = provider.batch(item)
        file_id, name = batch.input_file_id, batch.batch_id
        if (known := self.known.get(name, self.known.get(file_id or ""))) is not None:
            return known
        told = None if file_id is None else await _of_file(provider, client, file_id)
        if told is None and batch.state == "ended":
            told = await _of_rows(provider.download(client, batch))
        if told is not None:
            self.known[name] = told
        return told


def token_of(item: Mapping[str, Any]) -> str | None:
    """The token in a batch's metadata."""
    return text_at(object_at(item, "metadata"), TOKEN)


def file_name(chunk: Chunk) -> str:
    """What the file of a chunk is called."""
    return f"batchata-{chunk.token}.jsonl"


def may_be(batch: ProviderBatch, chunk: Chunk) -> bool:
    """Whether a batch that nothing is proven of may be a chunk's, and cost something."""
    has_begun = batch.succeeded or batch.failed or batch.output_file_id or batch.error_file_id
    if batch.ending in {"failed", "canceled", "expired"} and not has_begun:
        return False
    return batch.total in {None, chunk.count}


async def _of_file(provider: Provider, client: Any, file_id: str) -> str | None:
    path = f"{provider.files_path}/{file_id}"
    try:
        file = await wire.get(client, path, "id")
    except Exception as error:
        if wire.status_of(error) not in _HIDDEN:
            raise
        file = {}
    if (match := _FILE_NAME.fullmatch(text_at(file, "filename") or "")) is not None:
        return match[1]
    if provider.is_own(wire.base_url(client)):
        # There both are given back, so that it is somebody else's.
        return ""
    return await _of_rows(wire.stream(client, f"{path}/content"))


async def _of_rows(rows: AsyncGenerator[bytes]) -> str | None:
    """By the first row; None where there is none."""
    try:
        first = await first_line(rows)
    except Exception as error:
        if wire.status_of(error) not in _HIDDEN:
            raise
        return None
    match = _CUSTOM_ID.search(first)
    return match[1].decode() if match else "" if first.strip() else None
