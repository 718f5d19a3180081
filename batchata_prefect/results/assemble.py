"""The answers of all chunks -> `results.jsonl`: in the order of the job set, each job once."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import orjson

from batchata_prefect.content.exact_json import loads_exact, pretty
from batchata_prefect.files import copy_start, whole_file
from batchata_prefect.jobs.spool import Context, Family, SpoolReader
from batchata_prefect.results.answer_file import AnswerFile
from batchata_prefect.results.row import from_row, merge_attempts
from batchata_prefect.results.tally import Tally

_HELD_BYTES = 48 << 20
_FILES_OPEN = 64

_LONGEST = 180
"""Letters of a name; file systems take 255, and ours are longer while they are written."""

_OURS = ("manifest", "results", "report")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)
"""Names that Windows takes for a device, whatever stands behind the point."""


@dataclass(frozen=True, slots=True)
class Part:
    """The answers of one chunk, for the final results."""

    answers: AnswerFile
    ordinals: Sequence[int]


def assemble(
    target: Path,
    parts: Sequence[Part],
    jobs: SpoolReader,
    count: int,
    *,
    unsent: Callable[[Context, Family], dict[str, Any]],
    unanswered: Container[int] = (),
    each_to: Path | None,
) -> Tally:
    """Write the results of all jobs in the order of the job set, each job exactly once.

    Args:
        target: The `results.jsonl` to write.
        parts: The answers of all ended chunks, oldest first.
        jobs: Looks up jobs.
        count: Number of jobs.
        unsent: The row of a job without any answer.
        unanswered: Jobs that were canceled to be sent again, and were not: that says less of them
            than the row of a job without any answer.
        each_to: Folder for one file a job; None for none.
    """
    places = _Places(parts, count)
    places.drop(unanswered)
    whole = places.whole(one_by_one=each_to is not None)
    tally = Tally()
    for number in whole:
        tally.merge(parts[number].answers.tally)
    wanted = places.wanted()
    paths = [part.answers.path for part in parts]
    owner, start, length = places.owner, places.start, places.length
    each = None if each_to is None else EachJob(each_to)
    with closing(_Rows(paths, wanted)) as rows, whole_file(target) as file:
        ordinal = 0
        while ordinal < count:
            number = owner[ordinal]
            if number not in whole:
                line, row = _row(ordinal, places, rows, jobs, unsent)
                tally.add(row)
                file.write(line)
                if each is not None:
                    each.write(row)
                ordinal += 1
            elif number in places.blocks:
                copy_start(paths[number], parts[number].answers.row_bytes, file)
                ordinal += places.blocks[number][1]
            else:
                file.write(rows.read(number, start[ordinal], length[ordinal]))
                ordinal += 1
    return tally


def last_rows(
    parts: Sequence[Part], count: int, wanted: Callable[[int], object]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Ordinal and last row of those jobs that are wanted, in the order of the job set.

    Args:
        parts: The answers of ended chunks, oldest first.
        count: Number of jobs.
        wanted: Whether the job of an ordinal is wanted.
    """
    places = _Places(parts, count)
    ordinal = 0
    with closing(_Rows([part.answers.path for part in parts], places.wanted())) as rows:
        while ordinal < count:
            number = places.owner[ordinal]
            if number in places.blocks:
                for _, line in parts[number].answers.rows():
                    if wanted(ordinal):
                        yield ordinal, orjson.loads(line)
                    ordinal += 1
                continue
            if number >= 0 and wanted(ordinal):
                yield ordinal, _merged(ordinal, places, rows)[1]
            ordinal += 1


def _row(
    ordinal: int,
    places: _Places,
    rows: _Rows,
    jobs: SpoolReader,
    unsent: Callable[[Context, Family], dict[str, Any]],
) -> tuple[bytes, dict[str, Any]]:
    """The row of a job as a line and as values, also of one that no chunk has answered."""
    if places.owner[ordinal] >= 0:
        return _merged(ordinal, places, rows)
    row = unsent(jobs.context(ordinal), jobs.family(ordinal))
    if ordinal in places.earlier:
        return _with_earlier(row, places.earlier[ordinal], rows)
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), row


def _merged(ordinal: int, places: _Places, rows: _Rows) -> tuple[bytes, dict[str, Any]]:
    """The row of a job's last attempt with its earlier ones in it, as a line and as values."""
    line = rows.read(places.owner[ordinal], places.start[ordinal], places.length[ordinal])
    row: dict[str, Any] = orjson.loads(line)
    earlier = places.earlier.get(ordinal)
    return (line, row) if earlier is None else _with_earlier(row, earlier, rows)


def _with_earlier(
    row: dict[str, Any], earlier: Sequence[tuple[int, int, int]], rows: _Rows
) -> tuple[bytes, dict[str, Any]]:
    attempts: list[dict[str, Any]] = []
    for before in earlier:
        attempts += orjson.loads(orjson.loads(rows.read(*before))["attempts_json"])
    row = merge_attempts(row, attempts)
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), row


class _Places:
    """Where the last row of each job lies: 4 bytes a job, and 12 more where they are not in order.

    Attributes:
        owner: The part that has it; -1 where none has.
        start: Where it begins in the part's file, where that is no block.
        length: Its bytes, where its part is no block.
        earlier: Job -> (part, start, length) of each row before the last.
        blocks: Part -> first job and number of its rows, where they are in the order of jobs that
            follow each other, and each is the only one of its job.
    """

    def __init__(self, parts: Sequence[Part], count: int) -> None:
        self.owner = array("i", [-1]) * count
        self.start = array("q")
        self.length = array("i")
        self.earlier: dict[int, list[tuple[int, int, int]]] = {}
        self.blocks: dict[int, tuple[int, int]] = {}
        self._parts = parts
        self._mixed: set[int] = set()
        for number in range(len(parts)):
            self._take(number)

    def _take(self, number: int) -> None:
        """Put the rows of a part in their places."""
        part = self._parts[number]
        places, lengths = part.answers.index()
        ordinals = array("q", map(part.ordinals.__getitem__, places))
        count = len(ordinals)
        if not count:
            return
        first = ordinals[0]
        if (
            first >= 0
            and ordinals == array("q", range(first, first + count))
            and self.owner[first : first + count].count(-1) == count
        ):
            self.owner[first : first + count] = array("i", [number]) * count
            self.blocks[number] = (first, count)
            return
        self._make_room()
        owner, start_of, length_of = self.owner, self.start, self.length
        start = 0
        for ordinal, length in zip(ordinals, lengths, strict=True):
            if ordinal < 0:
                self._mixed.add(number)
            else:
                if owner[ordinal] >= 0:
                    self._put_behind(ordinal)
                    self._mixed.add(number)
                owner[ordinal], start_of[ordinal], length_of[ordinal] = number, start, length
            start += length

    def _make_room(self) -> None:
        if not self.start:
            self.start.extend(array("q", [0]) * len(self.owner))
            self.length.extend(array("i", [0]) * len(self.owner))

    def _put_behind(self, ordinal: int) -> None:
        number = self.owner[ordinal]
        if number in self.blocks:
            self._break_up(number)
        before = (number, self.start[ordinal], self.length[ordinal])
        self.earlier.setdefault(ordinal, []).append(before)
        self._mixed.add(number)

    def _break_up(self, number: int) -> None:
        """Have a block no more: each of its rows is read by itself."""
        self._make_room()
        first, count = self.blocks.pop(number)
        _, lengths = self._parts[number].answers.index()
        starts = accumulate(lengths, initial=0)
        self.start[first : first + count] = array("q", islice(starts, count))
        self.length[first : first + count] = array("i", lengths)

    def drop(self, ordinals: Container[int]) -> None:
        """Have the last rows of these jobs count as earlier ones."""
        if not ordinals:
            return
        for ordinal, number in enumerate(self.owner):
            if number >= 0 and ordinal in ordinals:
                self._put_behind(ordinal)
                self.owner[ordinal] = -1

    def whole(self, *, one_by_one: bool) -> frozenset[int]:
        """Those parts of which every row is the only one of its job.

        Args:
            one_by_one: Whether each row is looked at anyhow; then there are none.
        """
        if one_by_one:
            for number in list(self.blocks):
                self._break_up(number)
            return frozenset()
        return frozenset(range(len(self._parts))) - self._mixed

    def wanted(self) -> list[int]:
        """For each part, how many rows of it are read."""
        rows = Counter(self.owner)
        for before in self.earlier.values():
            rows.update(number for number, _, _ in before)
        return [rows[number] for number in range(len(self._parts))]


class _Rows:
    """Reads every wanted row of some answer files once, in an order that is not theirs.

    Small files are held in memory while rows of them are wanted; of the others, a few are open at
    a time. Not mapped into memory: pages of a map count as the process's own.
    """

    def __init__(self, paths: Sequence[Path], wanted: Sequence[int]) -> None:
        self._paths = paths
        self._wanted = list(wanted)
        self._held: dict[int, bytes] = {}
        self._room = _HELD_BYTES
        self._open: dict[int, BinaryIO] = {}

    def read(self, number: int, start: int, length: int) -> bytes:
        """The bytes of one row of a file."""
        held = self._held.get(number)
        if held is None:
            size = 0 if number in self._open else self._paths[number].stat().st_size
            if number in self._open or size > self._room:
                return os.pread(self._file(number).fileno(), length, start)
            held = self._held[number] = self._paths[number].read_bytes()
            self._room -= size
        self._wanted[number] -= 1
        if not self._wanted[number]:
            self._room += len(self._held.pop(number))
        return held[start : start + length]

    def _file(self, number: int) -> BinaryIO:
        file = self._open.pop(number, None) or self._paths[number].open("rb", buffering=0)
        self._open[number] = file  # the one used last stands last
        if len(self._open) > _FILES_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return file

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()


class EachJob:
    """Writes one file for each job, `result_format="json"`.

    A job's file is named after its id. Where that is no name, or another job has it on a system
    that does not tell `A` from `a`, a digest of the id is added to it.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Some bytes a job, as each of them has a file: who asks for this has not very many.
        self._taken: set[str] = set()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row of the results to a file of its own."""
        values = from_row(row, {}).to_dict()
        if row["parsed_response_json"] is not None:
            values["parsed_response"] = loads_exact(row["parsed_response_json"], as_written=True)
        with whole_file(self._folder / self._name(row["job_id"]), synced=False) as file:
            file.write(pretty(values))

    def _name(self, job_id: str) -> str:
        name = quote(job_id, safe="")
        first = name.casefold().partition(".")[0]
        if (
            len(name) > _LONGEST
            or first in _DEVICES
            or first in _OURS
            or name.casefold() in self._taken
        ):
            digest = sha256(job_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            name = f"{name[:_LONGEST]}-{digest}"
        self._taken.add(name.casefold())
        return f"{name}.json"
