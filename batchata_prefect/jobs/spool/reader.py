"""Looking up single jobs of a spool, from any thread."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batchata_prefect.jobs.spool.layout import (
    BUFFER_BYTES,
    FAMILY_SHIFT,
    INDEX_BUFFER_BYTES,
    RECORD,
    STATE_MASK,
    Amendment,
    Context,
    Family,
    Stored,
    fingerprint,
    record_at,
    request_hash,
    unpack,
)

_HELD_BYTES = 32 << 20
_RECORDS_AT_ONCE = 1_000


class Records:
    """Records of an index one at a time, read some thousands at once."""

    def __init__(self, index: BinaryIO) -> None:
        self._index = index
        self._first = 0
        self._held = b""

    def at(self, ordinal: int) -> tuple[Any, ...]:
        """The record of a job; quick where jobs are asked for in their own order."""
        place = (ordinal - self._first) * RECORD.size
        if not 0 <= place < len(self._held):
            self._first, place = ordinal, 0
            size = RECORD.size * _RECORDS_AT_ONCE
            self._held = os.pread(self._index.fileno(), size, ordinal * RECORD.size)
        return RECORD.unpack_from(self._held, place)


class SpoolReader:
    """Looks up single jobs; has its own files, so each thread needs its own reader."""

    def __init__(
        self,
        directory: Path,
        codes: Sequence[int],
        families: Sequence[Family],
        amended: Mapping[int, Amendment],
        behind_ids: Sequence[bytes] | None = None,
    ) -> None:
        self._codes = codes
        self._amended = amended
        self._families = families
        self._index = (directory / "index").open("rb", buffering=INDEX_BUFFER_BYTES)
        self._bodies = (directory / "bodies").open("rb", buffering=0)
        self._contexts = (directory / "contexts").open("rb", buffering=0)
        self._behind_ids = behind_ids
        self._held = (0, b"", 0, b"")
        self.has_continued = any(each.continues for each in amended.values())
        """Whether some requests end with what the model has said."""

    def hold(self, ordinals: Sequence[int]) -> None:
        """Have the contexts of these jobs in memory, where they are small enough.

        Answers come in any order, and two calls of the system for each cost more than the reading.
        """
        if isinstance(ordinals, range):
            first, last = ordinals[0], ordinals[-1]
        elif not (known := [ordinal for ordinal in ordinals if ordinal >= 0]):
            return
        else:
            first, last = min(known), max(known)
        _, _, start, *_ = record_at(self._index, first)
        _, _, end, last_bytes, *_ = record_at(self._index, last)
        end += last_bytes
        if (last + 1 - first) * RECORD.size + end - start <= _HELD_BYTES:
            fds = self._index.fileno(), self._contexts.fileno()
            records = os.pread(fds[0], (last + 1 - first) * RECORD.size, first * RECORD.size)
            self._held = (first, records, start, os.pread(fds[1], end - start, start))

    def requests(self, ordinals: Iterable[int]) -> Iterator[bytes]:
        """Digests of the requests of jobs as they were added, in the order asked for."""
        first, second = tee(ordinals)
        begun: dict[int, hashlib.blake2b] = {}
        for ordinal, body in zip(first, self.bodies(second, as_added=True), strict=True):
            family = self.family(ordinal)
            if family.id not in begun:
                begun[family.id] = request_hash(family)
            hashed = begun[family.id].copy()
            hashed.update(body)
            yield hashed.digest()

    def bodies(self, ordinals: Iterable[int], *, as_added: bool = False) -> Iterator[bytes]:
        """The requests of jobs, in the order asked for; quick where that is their own order.

        Args:
            ordinals: The jobs.
            as_added: Whether to leave out what became of them since.
        """
        amended: Mapping[int, Amendment] = {} if as_added else self._amended
        records = Records(self._index)
        fd, held_from, held = self._bodies.fileno(), 0, b""
        for ordinal in ordinals:
            start, size, *_ = record = records.at(ordinal)
            if (changed := amended.get(ordinal)) is not None:
                start, size = changed.start, changed.size
            at = start - held_from
            if not 0 <= at <= at + size <= len(held):
                held_from, held, at = start, os.pread(fd, max(size, BUFFER_BYTES), start), 0
                if len(held) < size:
                    raise OSError(f"the spool {self._bodies.name!r} is cut short")
            body = held[at : at + size]
            if changed is None and self._behind_ids is not None:
                self._check(ordinal, body, record)
            yield body

    def continued(self, ordinal: int, round_: int) -> bytes | None:
        """The request that a job was sent with in a round, where it continued an answer."""
        changed = self._amended.get(ordinal)
        while changed is not None and changed.after_round >= round_:
            changed = changed.before
        if changed is None or not changed.continues:
            return None
        body = os.pread(self._bodies.fileno(), changed.size, changed.start)
        if len(body) < changed.size:
            raise OSError(f"the spool {self._bodies.name!r} is cut short")
        return body

    def _check(self, ordinal: int, body: bytes, record: tuple[Any, ...]) -> None:
        """See that a request of an earlier start is what it was."""
        assert self._behind_ids is not None
        _, _, start, size, *_, nth, _, print_ = record
        stored = unpack(os.pread(self._contexts.fileno(), size, start), 0)
        family_id = self._codes[ordinal] >> FAMILY_SHIFT
        told = fingerprint(orjson.loads(stored.job_id), self._behind_ids[family_id], body, nth)
        if told != print_:
            raise OSError(
                f"job {orjson.loads(stored.job_id)!r}: its request was damaged on disk; delete "
                f"{str(Path(self._bodies.name).parent.parent / 'jobs-*')!r} and run again"
            )

    def stored(self, ordinal: int) -> Stored:
        """The job at an ordinal as it was stored."""
        first, records, held_from, held = self._held
        at = (ordinal - first) * RECORD.size
        if 0 <= at < len(records):
            _, _, start, size, _, _, _, nth, _, _ = RECORD.unpack_from(records, at)
            packed = held[start - held_from : start - held_from + size]
        else:
            _, _, start, size, _, _, _, nth, _, _ = record_at(self._index, ordinal)
            packed = os.pread(self._contexts.fileno(), size, start)
        return unpack(packed, nth)

    def context(self, ordinal: int) -> Context:
        """The job at an ordinal."""
        stored = self.stored(ordinal)
        rest: dict[str, Any] = orjson.loads(stored.rest) if stored.rest else {}
        return Context(
            orjson.loads(stored.job_id),
            orjson.loads(orjson.loads(stored.metadata)) if stored.metadata else {},
            rest.get("schema"),
            rest.get("citations"),
            tuple(rest.get("sources", ())),
            self._codes[ordinal] & STATE_MASK,
            rest.get("prefix"),
            tuple(rest.get("files", ())),
            tuple(orjson.loads(stored.tags)) if stored.tags else (),
            rest.get("accept_truncated", False),
            rest.get("fault"),
        )

    def family(self, ordinal: int) -> Family:
        """The family of the job at an ordinal."""
        return self._families[self._codes[ordinal] >> FAMILY_SHIFT]

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        self._bodies.close()
        self._contexts.close()
