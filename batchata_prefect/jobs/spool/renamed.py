"""Jobs that have another id than in the records, such as one out of a column that was none before.

Their requests are what they were, so what was bought for them is theirs. A job of the records that
is not in the job set under its id is taken for one whose request is the same, each for one. Nothing
of this is written down: each start finds the same again, and what it sends more of such a job goes
into the records under the fingerprint that they know it by.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from typing import TypeAlias

from batchata_prefect.files import scratch_database
from batchata_prefect.jobs.spool.layout import FAMILY_SHIFT, in_a_row
from batchata_prefect.jobs.spool.spool import Spool
from batchata_prefect.money.ledger import ANSWERED, FAILED, FINGERPRINT_BYTES, NOT_AS_ASKED, Ending

_TABLES = """
CREATE TABLE gone (
    print BLOB NOT NULL, request BLOB NOT NULL, rank INTEGER NOT NULL,
    sequence INTEGER NOT NULL, place INTEGER NOT NULL
);
CREATE TABLE free (ordinal INTEGER PRIMARY KEY, request BLOB NOT NULL);
"""

# Where more jobs of the records have a request than jobs of today, those with the best fate are
# taken; and in the order of the records, as the jobs of today are.
_PAIRS = """
WITH job AS (
    SELECT print, request, MIN(rank) AS rank, MIN(rowid) AS first FROM gone
    WHERE request IN (SELECT request FROM free) GROUP BY print
), best AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY request ORDER BY rank, first) AS place FROM job
), room AS (
    SELECT request, COUNT(*) AS size FROM free GROUP BY request
), old AS (
    SELECT print, request, ROW_NUMBER() OVER (PARTITION BY request ORDER BY first) AS nth
    FROM best JOIN room USING (request) WHERE place <= size
), new AS (
    SELECT ordinal, request, ROW_NUMBER() OVER (PARTITION BY request ORDER BY ordinal) AS nth
    FROM free
)
SELECT sequence, gone.place, ordinal, gone.print
FROM old JOIN new USING (request, nth) JOIN gone USING (print) ORDER BY gone.rowid
"""

_Pair: TypeAlias = tuple[int, int, int, bytes]
"""Of a job that was found: its chunk, its place there, its ordinal, its print in the records."""

_RANKS = {ANSWERED: 0, FAILED: 2, NOT_AS_ASKED: 2}
_IN_FLIGHT, _WAITS = 1, 3
"""How dear what became of a job is: an answer must not be lost for a failure beside it."""


class Renamed:
    """Finds the jobs of the records that have another id today.

    Args:
        spool: The jobs of today.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._path = spool.directory / "renamed.sqlite"
        self._database: sqlite3.Connection | None = None

    def note(
        self,
        sequence: int,
        members: bytes,
        requests: bytes,
        ordinals: Sequence[int],
        ending: Ending | None,
    ) -> None:
        """Note those jobs of a chunk that are not in the job set.

        Args:
            sequence: The chunk's place in the ledger.
            members: Fingerprints of its jobs.
            requests: Digests of their requests; empty where they are not known.
            ordinals: Place -> ordinal in the job set, -1 where the job is gone.
            ending: How the chunk ended; None while it is in flight.
        """
        if not requests or isinstance(ordinals, range) or -1 not in ordinals:
            return
        size = FINGERPRINT_BYTES
        self._open().executemany(
            "INSERT INTO gone VALUES (?, ?, ?, ?, ?)",
            (
                (
                    members[place * size : (place + 1) * size],
                    requests[place * size : (place + 1) * size],
                    _IN_FLIGHT if ending is None else _RANKS.get(ending.marks[place], _WAITS),
                    sequence,
                    place,
                )
                for place, ordinal in enumerate(ordinals)
                if ordinal < 0
            ),
        )

    def find(self, members: list[Sequence[int]]) -> None:
        """Put the jobs that were found in the places where they are gone.

        Args:
            members: For each chunk, place -> ordinal in the job set; changed in place.
        """
        if self._database is None:
            return
        free = self._free(members)
        with closing(self._database) as database, closing(self._spool.reader()) as reader:
            database.executemany(
                "INSERT INTO free VALUES (?, ?)", zip(free, reader.requests(free), strict=True)
            )
            pairs: Iterator[_Pair] = database.execute(_PAIRS)
            for sequence, found in groupby(pairs, _chunk_of):
                members[sequence] = self._with(members[sequence], found)
        self._path.unlink()
        self._database = None

    def _with(self, ordinals: Sequence[int], found: Iterable[_Pair]) -> Sequence[int]:
        """The jobs of a chunk with those that were found."""
        changed = array("q", ordinals)
        for _, place, ordinal, print_ in found:
            changed[place] = ordinal
            self._spool.recorded.put(ordinal, print_)
        return in_a_row(changed)

    def _free(self, members: Sequence[Sequence[int]]) -> array[int]:
        """Jobs that are in no chunk, and could be."""
        spool, free = self._spool, bytearray(b"\1") * self._spool.count
        if (refused := spool.states.refused) is not None:
            for ordinal, code in enumerate(spool.states.codes):
                free[ordinal] = code >> FAMILY_SHIFT != refused
        for ordinals in members:
            if isinstance(ordinals, range):
                free[ordinals.start : ordinals.stop] = bytes(len(ordinals))
            else:
                for ordinal in ordinals:
                    if ordinal >= 0:
                        free[ordinal] = 0
        return array("q", [ordinal for ordinal, is_free in enumerate(free) if is_free])

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = scratch_database(self._path, _TABLES)
        return self._database


def _chunk_of(pair: _Pair) -> int:
    return pair[0]
