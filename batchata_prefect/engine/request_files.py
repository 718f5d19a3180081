"""The requests of a chunk on their way out: a file, or its lines as they are read from the jobs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from batchata_prefect.engine.session import Session
from batchata_prefect.files import whole_file
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.models import Chunk
from batchata_prefect.providers import Provider, Requests
from batchata_prefect.providers.bodies import with_uploads

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LARGE_BYTES = 1 << 16
"""Of a request: for a chunk of larger ones, writing a file costs more than finding its length."""


def prepare_requests(
    run: Session, chunk: Chunk, ordinals: Sequence[int], uploads: Mapping[str, str]
) -> Requests:
    """Have the chunk file ready to be sent: one line a request, in the order of their places.

    Args:
        run: The session.
        chunk: The chunk.
        ordinals: Its jobs.
        uploads: Digest of a document -> id of its upload, which stands in for it.

    Returns:
        Opens the file, from its start. Where raw files are not kept and the requests are large it
        is none on disk, which halves what a run of documents writes.

    Raises:
        OSError: The disk is full or not writable; nothing was sent.
    """
    provider, path = run.providers[chunk.provider], run.request_file(chunk.token)
    # What is taken over from an earlier start is checked as it is read, before anything is sent.
    on_disk = run.settings.raw_files or uploads or run.spool.is_taken_over
    if not on_disk and chunk.size_bytes > chunk.count * _LARGE_BYTES:
        return partial(SpooledRequests, run.spool, provider, chunk, ordinals)
    jobs = run.spool.reader()
    try:
        # Not synced: after a loss of power it is made anew from the jobs, or not needed at all.
        with whole_file(path, synced=False) as file:
            for place, body in enumerate(jobs.bodies(ordinals)):
                sent = with_uploads(body, uploads) if uploads else body
                file.write(provider.line(chunk.custom_id(place), sent, chunk.endpoint))
                file.write(b"\n")
    finally:
        jobs.close()
    return partial(path.open, "rb")


class SpooledRequests(io.RawIOBase):
    """A chunk file that is not on disk: its lines are made from the jobs as they are read."""

    def __init__(
        self, spool: Spool, provider: Provider, chunk: Chunk, ordinals: Sequence[int]
    ) -> None:
        super().__init__()
        self._provider = provider
        self._chunk = chunk
        self._ordinals = ordinals
        self._jobs = spool.reader()
        self._size: int | None = None
        self._at = 0
        self._lines = self._from_start()
        self._line = memoryview(b"")

    def _from_start(self) -> Iterator[bytes]:
        line, chunk = self._provider.line, self._chunk
        for place, body in enumerate(self._jobs.bodies(self._ordinals)):
            yield line(chunk.custom_id(place), body, chunk.endpoint) + b"\n"

    def _bytes(self) -> int:
        if self._size is None:
            line, chunk = self._provider.line, self._chunk
            around = (
                len(line(chunk.custom_id(place), b"", chunk.endpoint)) + 1
                for place in range(chunk.count)
            )
            self._size = sum(around) + sum(self._jobs.body_bytes(self._ordinals))
        return self._size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """To its start and its end."""
        return True

    def tell(self) -> int:
        """Bytes before the next one that is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to the start or to the end.

        Raises:
            UnsupportedOperation: Somewhere else.
        """
        if (offset, whence) == (0, os.SEEK_END):
            self._at, self._lines = self._bytes(), iter(())
        elif (offset, whence) == (0, os.SEEK_SET):
            self._at, self._lines = 0, self._from_start()
        else:
            raise io.UnsupportedOperation(f"seek to {offset} from {whence}")
        self._line = memoryview(b"")
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read some bytes; 0 at the end.

        Raises:
            OSError: The jobs cannot be read.
        """
        if not self._line:
            self._line = memoryview(next(self._lines, b""))
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._line))
        target[:count] = self._line[:count]
        self._line = self._line[count:]
        self._at += count
        return count

    def close(self) -> None:
        """Close the files of the jobs."""
        if not self.closed:
            self._jobs.close()
        super().close()
