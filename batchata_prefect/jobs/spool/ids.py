"""The ids and fingerprints of a job set, for what has to be searched in them.

Nearly always nothing has to be: ids are told apart by eight bytes each, and the fingerprints of an
earlier start lie in the order of the jobs. Only where two ids may be the same, or jobs have moved,
is a database of them made.
"""

from __future__ import annotations

import errno
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from batchata_prefect.errors import ValidationError
from batchata_prefect.files import scratch_database
from batchata_prefect.jobs.spool.layout import MADE, REFUSED

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
        try:
            database = scratch_database(self._path, _TABLE)
            database.executemany(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
                (known.row() for known in self._each()),
            )
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC, f"the jobs' ids cannot be stored: {error}") from error
        self._database = database
        return database

    def close(self) -> None:
        """Close the database; the next one to ask makes it anew."""
        if self._database is not None:
            self._database.close()
            self._database = None
