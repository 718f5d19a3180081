"""The index of a spool as a whole: searched, looked through, and changed where ids repeat.

Nearly always nothing has to be searched: ids are told apart by eight bytes each, and the
fingerprints of an earlier start lie in the order of the jobs. Only where two ids may be the same,
or jobs have moved, is a database of them made.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from batchata_prefect.errors import ValidationError
from batchata_prefect.files import scratch_database, whole_file
from batchata_prefect.jobs.spool.layout import (
    INDEX_BUFFER_BYTES,
    MADE,
    RECORD,
    REFUSED,
    digest,
    fingerprint,
    pack,
    record_at,
    unpack,
)
from batchata_prefect.money.ledger import FINGERPRINT_BYTES

_TABLE = """
CREATE TABLE jobs (
    ordinal INTEGER PRIMARY KEY, job_id TEXT NOT NULL, made TEXT, kind INTEGER NOT NULL,
    fingerprint BLOB NOT NULL
);
"""
_REPEATS = """
SELECT ordinal, nth FROM
    (SELECT ordinal, made, ROW_NUMBER() OVER
        (PARTITION BY COALESCE(made, job_id) ORDER BY made IS NOT NULL, ordinal) AS nth
     FROM jobs)
WHERE nth > 1 AND made IS NOT NULL
"""
_GIVEN_AGAIN = """
SELECT ordinal, job_id FROM
    (SELECT ordinal, job_id, kind,
        ROW_NUMBER() OVER (PARTITION BY job_id ORDER BY kind, ordinal) AS nth
     FROM jobs WHERE made IS NULL)
WHERE nth > 1 AND (ordinal >= ?1 OR kind = ?2) ORDER BY ordinal
"""
_HEAPS = 64
_LOOK_AHEAD = 4
_PRINTS_AT_ONCE = 2_000 * FINGERPRINT_BYTES
_NONE = b"\0" * FINGERPRINT_BYTES


class Known(NamedTuple):
    """What is looked for of a job.

    Attributes:
        ordinal: Place in the job set.
        given_id: Its id as it was added.
        nth: Which of the jobs with this id it is; 0 where it is the first.
        kind: Where the id is from.
        fingerprint: What it is recognised by.
    """

    ordinal: int
    given_id: str
    nth: int
    kind: int
    fingerprint: bytes

    def row(self) -> tuple[int, str, str | None, int, bytes]:
        """It as a row of the database."""
        job_id = f"{self.given_id}-{self.nth}" if self.nth else self.given_id
        made = self.given_id if self.kind == MADE else None
        return self.ordinal, job_id, made, self.kind, self.fingerprint


class Ids:
    """Ids and fingerprints of all jobs.

    Args:
        path: Where a database may be made.
        each: Gives every job.
    """

    def __init__(self, path: Path, each: Callable[[], Iterator[Known]]) -> None:
        self._path = path
        self._each = each
        self._database: sqlite3.Connection | None = None
        # In heaps, so that looking for two of a kind needs no copy of all.
        self._hashes = [array("q") for _ in range(_HEAPS)]

    def add(self, job_id: str) -> None:
        """One more job."""
        told = hash(job_id)
        self._hashes[told % _HEAPS].append(told)

    def reopen(self) -> None:
        """Take more jobs after `settle`."""
        self.close()
        for known in self._each():
            self.add(known.given_id)

    def settle(self) -> bool:
        """Whether two jobs may have the same id; no more can be added then before `reopen`."""
        may_repeat = self._may_repeat()
        for heap in self._hashes:
            del heap[:]
        return may_repeat

    def _may_repeat(self) -> bool:
        return any(len(set(heap)) < len(heap) for heap in self._hashes)

    def given_again(self, first: int) -> Iterator[tuple[int, str]]:
        """Jobs from an ordinal on that were given the id of another, and their id, in order.

        Of rows that make no job all, wherever they stand: one that makes a job has the id.
        """
        if not self._may_repeat():
            return iter(())
        return self._open().execute(_GIVEN_AGAIN, (first, REFUSED))

    def repeats(self) -> list[tuple[int, int]]:
        """Number the ids that we made up where they repeat; gives (ordinal, number)."""
        database = self._open()
        repeats: list[tuple[int, int]] = database.execute(_REPEATS).fetchall()
        database.executemany(
            "UPDATE jobs SET job_id = made || '-' || ?2 WHERE ordinal = ?1", repeats
        )
        return repeats

    def check(self) -> None:
        """See that ids are unique.

        Raises:
            ValidationError: Ids that the user gave repeat; all of them are named.
        """
        repeated = (
            self._open()
            .execute(
                "SELECT job_id, COUNT(*) FROM jobs GROUP BY job_id HAVING COUNT(*) > 1 LIMIT 100"
            )
            .fetchall()
        )
        if repeated:
            faults = [f"job id {job_id!r} is given {count} times" for job_id, count in repeated]
            raise ValidationError(
                "job ids must be unique, nothing was sent: " + "; ".join(faults[:10]), faults
            )

    def search(self, print_: bytes) -> int:
        """The job with a fingerprint; -1 where there is none."""
        database = self._open()
        database.execute("CREATE INDEX IF NOT EXISTS prints ON jobs (fingerprint)")
        row = database.execute(
            "SELECT ordinal FROM jobs WHERE fingerprint = ?", (print_,)
        ).fetchone()
        return -1 if row is None else row[0]

    def _open(self) -> sqlite3.Connection:
        """The database of the jobs as they are now, made where there is none."""
        if self._database is not None:
            return self._database
        database = scratch_database(self._path, _TABLE)
        database.executemany(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", (known.row() for known in self._each())
        )
        database.execute("COMMIT")
        self._database = database
        return database

    def close(self) -> None:
        """Close the database; the next one to ask makes it anew."""
        if self._database is not None:
            self._database.close()
            self._database = None


class Recorded:
    """The fingerprints on disk, at the places of their jobs; made anew at each start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def put(self, ordinal: int, print_: bytes) -> None:
        """Have the records know a job by this fingerprint."""
        if self._file is None:
            self._file = self._path.open("w+b", buffering=0)
        os.pwrite(self._file.fileno(), print_, ordinal * FINGERPRINT_BYTES)

    def prints(self, first: int, count: int) -> list[bytes] | None:
        """Those of jobs that follow each other, empty where it is a job's own; None for all."""
        if self._file is None:
            return None
        size = FINGERPRINT_BYTES
        held = os.pread(self._file.fileno(), count * size, first * size).ljust(count * size, b"\0")
        found = (held[at : at + size] for at in range(0, len(held), size))
        return [b"" if print_ == _NONE else print_ for print_ in found]

    def drop(self) -> None:
        """Know of none any more."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_index(directory: Path) -> BinaryIO:
    """The index of the spool in a folder, to be read."""
    return (directory / "index").open("rb", buffering=INDEX_BUFFER_BYTES)


def known_jobs(directory: Path, count: int) -> Iterator[Known]:
    """What is looked for of every job."""
    with open_index(directory) as index, (directory / "contexts").open("rb") as contexts:
        for ordinal in range(count):
            _, _, _, size, *_, nth, kind, print_ = RECORD.unpack(index.read(RECORD.size))
            job_id = orjson.loads(unpack(contexts.read(size), 0).job_id)
            yield Known(ordinal, job_id, nth, kind, print_)


def locate(
    index: BinaryIO, members: bytes, guess: int, count: int, search: Callable[[bytes], int]
) -> tuple[array[int], int]:
    """Find the jobs with these fingerprints.

    Args:
        index: The index, open.
        members: The fingerprints, end to end.
        guess: Where the first of them may be.
        count: Number of jobs.
        search: The ordinal of a fingerprint, -1 where there is none; what nothing else finds.

    Returns:
        Their ordinals, -1 for those that are not there; and where the next ones may be.
    """
    ordinals = array("q")
    guess = guess if _prints_from(index, guess, 1) == members[:FINGERPRINT_BYTES] else 0
    for at in range(0, len(members), _PRINTS_AT_ONCE):
        piece = members[at : at + _PRINTS_AT_ONCE]
        size = len(piece) // FINGERPRINT_BYTES
        # The same jobs in the same order, as nearly always, need no search at all.
        if _prints_from(index, guess, size) == piece:
            ordinals.extend(range(guess, guess + size))
            guess += size
            continue
        for start in range(0, len(piece), FINGERPRINT_BYTES):
            wanted = piece[start : start + FINGERPRINT_BYTES]
            # A job that was taken out or put in between leaves the next ones close by.
            for near in range(guess, min(guess + _LOOK_AHEAD, count)):
                if _prints_from(index, near, 1) == wanted:
                    ordinal = near
                    break
            else:
                ordinal = search(wanted)
            ordinals.append(ordinal)
            guess = ordinal + 1 if ordinal >= 0 else guess
    return ordinals, guess


def _prints_from(index: BinaryIO, ordinal: int, count: int) -> bytes:
    """The fingerprints of jobs one after the other, end to end; fewer where there are fewer."""
    index.seek(ordinal * RECORD.size)
    records = index.read(count * RECORD.size)
    return b"".join(record[-1] for record in RECORD.iter_unpack(records))


def number(directory: Path, repeats: Iterable[tuple[int, int]]) -> None:
    """Number jobs whose id repeats: (ordinal, number)."""
    with (directory / "index").open("r+b", buffering=0) as index:
        for ordinal, nth in repeats:
            *values, earlier, kind, print_ = record_at(index, ordinal)
            if not earlier:
                record = RECORD.pack(*values, nth, kind, digest(print_ + b"%d" % nth))
                os.pwrite(index.fileno(), record, ordinal * RECORD.size)


def refuse(
    directory: Path, count: int, refused: Iterable[tuple[int, str, str]]
) -> tuple[tuple[hashlib.blake2b, hashlib.blake2b], int]:
    """Have jobs make none.

    Args:
        directory: The folder of the spool.
        count: Number of its jobs.
        refused: Ordinal, new id and fault of each of them, in order.

    Returns:
        Digests of all fingerprints and of all contexts, and bytes of all contexts.
    """
    digests, end = (hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)), 0
    path = directory / "contexts"
    rest = iter(refused)
    due = next(rest, None)
    with (
        (directory / "index").open("r+b", buffering=0) as index,
        path.open("rb") as old,
        whole_file(path, synced=False) as contexts,
    ):
        for ordinal in range(count):
            record = record_at(index, ordinal)
            start, body_bytes, _, held, *numbers, kind, print_ = record
            packed = old.read(held)
            if due is not None and due[0] == ordinal:
                _, job_id, fault = due
                body_bytes, numbers = 0, [0] * len(numbers)
                packed, print_, kind = _refused(packed, job_id, fault), no_job(job_id), MADE
                due = next(rest, None)
            values = (start, body_bytes, end, len(packed), *numbers, kind, print_)
            os.pwrite(index.fileno(), RECORD.pack(*values), ordinal * RECORD.size)
            contexts.write(packed)
            end += len(packed)
            digests[0].update(print_)
            digests[1].update(packed)
    return digests, end


def no_job(job_id: str) -> bytes:
    """The fingerprint of a row that makes no job."""
    return fingerprint(job_id, b"\0\0\0", b"")


def _refused(packed: bytes, job_id: str, fault: str) -> bytes:
    rest = unpack(packed, 0).rest
    own = orjson.loads(rest).get("fault") if rest else None
    return pack({"id": job_id, "fault": own or fault})
