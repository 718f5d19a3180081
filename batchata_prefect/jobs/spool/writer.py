"""Adding jobs to the files of a spool, some thousands at a time."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from batchata_prefect.jobs.spool.layout import BUFFER_BYTES, RECORD, fingerprint
from batchata_prefect.models import Estimate

_HASHED_APART = 200_000
_HASHED_AT_ONCE = 2


class Writer:
    """Writes bodies, contexts and the index of a spool.

    Attributes:
        is_open: Whether jobs can be added.
        ends: Bytes of all bodies, and of all contexts.
        digests: Of all fingerprints, and of all contexts.
    """

    def __init__(self, directory: Path) -> None:
        self.is_open = False
        self.ends = (0, 0)
        self.digests = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        self._directory = directory
        self._files: list[BinaryIO] = []
        self._contexts: list[bytes] = []
        self._records: list[bytes] = []
        self._prints: list[bytes] = []
        self._hasher: ThreadPoolExecutor | None = None
        self._hashed: deque[tuple[int, tuple[int, ...], Future[bytes]]] = deque()

    def open(self) -> None:
        """Open the files, which are made where there are none."""
        for name in ("bodies", "index", "contexts"):
            (self._directory / name).touch(0o600)
        self._bodies = (self._directory / "bodies").open("ab", buffering=BUFFER_BYTES)
        self._files = [self._bodies]
        self._files += [
            (self._directory / name).open("r+b", buffering=0) for name in ("index", "contexts")
        ]
        self.is_open = True

    def put(
        self,
        job_id: str,
        behind_id: bytes,
        packed: bytes,
        body: bytes,
        estimate: Estimate,
        *,
        kind: int,
    ) -> None:
        """Add a job; its body is written, the rest of it gathered until `flush`."""
        start, context_start = self.ends
        size, context_size = self._bodies.write(body), len(packed)
        self.ends = (start + size, context_start + context_size)
        values = (start, size, context_start, context_size, *estimate, 0, kind)
        if size < _HASHED_APART:
            print_ = fingerprint(job_id, behind_id, body)
            self._records.append(RECORD.pack(*values, print_))
            self._prints.append(print_)
        else:
            self._hash_apart(values, job_id, behind_id, body)
        # Other metadata or tags change no request, but they do change the results.
        self._contexts.append(packed)

    def _hash_apart(
        self, values: tuple[int, ...], job_id: str, behind_id: bytes, body: bytes
    ) -> None:
        """Have a thread hash a large request while the next one is read and rendered."""
        if self._hasher is None:
            self._hasher = ThreadPoolExecutor(1, "batchata-hashing")
        pending = self._hasher.submit(fingerprint, job_id, behind_id, body)
        self._hashed.append((len(self._prints), values, pending))
        self._records.append(b"")
        self._prints.append(b"")
        if len(self._hashed) > _HASHED_AT_ONCE:
            self._take_hashed()

    def _take_hashed(self) -> None:
        at, values, pending = self._hashed.popleft()
        self._prints[at] = print_ = pending.result()
        self._records[at] = RECORD.pack(*values, print_)

    def flush(self, before: int) -> None:
        """Write down what was only gathered so far.

        Args:
            before: Number of jobs that are in the index already.
        """
        while self._hashed:
            self._take_hashed()
        _, index, context_file = self._files
        contexts, records = b"".join(self._contexts), b"".join(self._records)
        # At their places, so that what a full disk has cut off can be written again.
        _write_at(context_file, contexts, self.ends[1] - len(contexts))
        _write_at(index, records, before * RECORD.size)
        self.digests[0].update(b"".join(self._prints))
        self.digests[1].update(contexts)
        del self._contexts[:], self._records[:], self._prints[:]

    def close(self) -> None:
        """Close the files."""
        self.is_open = False
        if self._hasher is not None:
            self._hasher.shutdown()
            self._hasher = None
        for file in self._files:
            file.close()
        self._files = []


def _write_at(file: BinaryIO, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, start)
        view, start = view[written:], start + written
