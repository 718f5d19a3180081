"""Caps on what a server may send: bytes of a reply once unpacked, of a row, of a download.

A gateway's compressed reply of two megabytes can unpack to gigabytes, and a download need not end.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from batchata_prefect.content.bounds import bounds
from batchata_prefect.errors import ProviderError
from batchata_prefect.models import Chunk

_REQUEST_BYTES = 100_000
"""What a row holds besides its answer: the request's ids, its usage, echoes of its parameters."""

_streaming: ContextVar[bool] = ContextVar("_streaming", default=False)


class ReplyTooLargeError(ProviderError):
    """A server sends more than is read of a reply; a batch that was created goes on there."""


def http_client(kind: Any, **more: Any) -> Any:
    """An SDK's own default HTTP client, with a cap on what it reads.

    Args:
        kind: `DefaultAsyncHttpxClient` of the SDK.
        more: Further arguments of it.
    """
    # What is packed in other ways cannot be unpacked up to a size with the standard library.
    return kind(headers={"Accept-Encoding": "gzip"}, event_hooks={"response": [_cap]}, **more)


@contextmanager
def streaming() -> Generator[None]:
    """Leave the body of a good reply to who asked for it as a stream."""
    token = _streaming.set(True)
    try:
        yield
    finally:
        _streaming.reset(token)


async def _cap(response: Any) -> None:
    """Read a reply before anybody else does, as far as it may go."""
    import httpx2

    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"identity", "", "gzip", "x-gzip"}:
        raise httpx2.DecodingError(
            f"the reply is packed with {coding[:20]!r}, which nobody asked for",
            request=response.request,
        )
    if _streaming.get() and response.status_code < 400:
        return
    most = bounds().reply_bytes
    packed = zlib.decompressobj(16 + zlib.MAX_WBITS) if "gzip" in coding else None
    kept = bytearray()
    async for piece in response.stream:
        try:
            kept += piece if packed is None else packed.decompress(piece, most + 1 - len(kept))
        except zlib.error as error:
            raise httpx2.DecodingError(str(error), request=response.request) from error
        if len(kept) > most:
            raise ReplyTooLargeError(
                f"{response.request.url.path}: the reply has more than {most:,} bytes. What is "
                "asked here costs nothing to ask again; raise BATCHATA_MOST_REPLY_BYTES if the "
                "server is known to send so much"
            )
    await response.stream.aclose()
    response.headers.pop("content-encoding", None)
    response.stream = httpx2.ByteStream(bytes(kept))


class Download:
    """Counts the bytes of a chunk's results file as they come.

    Args:
        chunk: Whose results they are: its requests and the tokens that they may be answered with
            say how many bytes there can be.
        batch_id: The provider's name for it.
    """

    def __init__(self, chunk: Chunk, batch_id: str) -> None:
        limits = bounds()
        self._where = f"{chunk.name}: {batch_id}"
        self._row_most = limits.row_bytes
        self._most = limits.reply_bytes + chunk.count * _REQUEST_BYTES
        self._most += chunk.output_tokens * limits.token_bytes
        self._size = self._row = 0

    def take(self, piece: bytes) -> None:
        """Count a piece."""
        self._size += len(piece)
        # Rows that begin and end within a piece are no longer than it.
        ahead, behind = piece.find(b"\n"), piece.rfind(b"\n")
        row = self._row + (len(piece) if ahead < 0 else ahead)
        self._row = row if behind < 0 else len(piece) - behind - 1
        for size, most, what, variable in (
            (row, self._row_most, "a row of its results", "ROW_BYTES"),
            (self._size, self._most, "its results", "TOKEN_BYTES"),
        ):
            if size > most:
                raise ReplyTooLargeError(
                    f"{self._where} sends more than {most:,} bytes as {what}, and was not read "
                    "further. It is paid and lies at the provider; raise "
                    f"BATCHATA_MOST_{variable} and run again to read it"
                )
