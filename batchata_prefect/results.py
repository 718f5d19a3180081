"""Reply files in, `results.jsonl` and `manifest.json` out; all streamed, all written atomically."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import orjson

from batchata_prefect.answers import Reading, from_row, merge_attempts
from batchata_prefect.errors import ParseError
from batchata_prefect.ledger import AGAIN, ANSWERED, FAILED
from batchata_prefect.models import JobResult, Reply, Usage
from batchata_prefect.plain_rows import Bills, PlainRows
from batchata_prefect.plan import mark
from batchata_prefect.providers.rows import UnreadableRowError
from batchata_prefect.schema import AnswerSchema
from batchata_prefect.spool import Context, Family, SpoolReader

_BUFFER_BYTES = 1 << 20
_HELD_BYTES = 48 << 20
_FILES_OPEN = 64


@contextmanager
def whole_file(path: Path, *, synced: bool = True) -> Generator[BinaryIO]:
    """A file that appears under its name only when it is complete.

    Args:
        path: Its name.
        synced: Whether it is also safe from a loss of power; else only from the process's end.

    Raises:
        OSError: It cannot be written, on a full disk for one; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb", buffering=_BUFFER_BYTES) as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Collected:
    """What the replies of one chunk came to.

    Attributes:
        marks: One letter for each ordinal.
        cost_usd: What was billed; None where the price is unknown.
        usage: Tokens that were billed.
        strangers: Rows that are not of this chunk, or came twice.
        unreadable: Rows that cannot be read, such as one that was cut off in a transfer.
        cache_saved_usd: What the provider's cache saved; None where the price is unknown.
    """

    marks: str
    cost_usd: Decimal | None
    usage: Usage
    strangers: int
    unreadable: int
    cache_saved_usd: Decimal | None


def collect(
    reading: Reading,
    replies: Path | None,
    answers: Path,
    ordinals: Sequence[int],
    jobs: SpoolReader,
    read: Callable[[bytes, str], Reply],
    *,
    no_reply: Callable[[int], tuple[str, str, str]],
) -> Collected:
    """Read every reply of a chunk once and write its answers, one line each, in chunk order.

    A line of the answer file is the place in the chunk, a tab, and the row as it will stand in
    `results.jsonl`.

    Args:
        reading: How to read the chunk's replies.
        replies: The provider's rows as they came; None where there are none.
        answers: The file to write.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        jobs: Looks up jobs.
        read: The provider's reader of one row.
        no_reply: Place -> (mark, error code, error) of a request without a row.

    Raises:
        OSError: The answers cannot be written.
    """
    chunk = reading.chunk
    marks = bytearray(chunk.count)
    bills, plain_rows = Bills(reading), PlainRows(reading)
    strangers = unreadable = 0
    answered = ord(ANSWERED)
    jobs.hold(ordinals)
    with whole_file(answers) as file:
        for line in _lines(replies) if replies is not None else ():
            try:
                reply = read(line, chunk.endpoint)
            except UnreadableRowError as error:
                unreadable += 1
                reply = error.reply
            except ParseError:
                unreadable += 1
                continue
            place = chunk.ordinal(reply.custom_id)
            if place is None or marks[place]:
                strangers += 1
                continue
            bill = bills.add(reply)
            ordinal = ordinals[place]
            if ordinal < 0:
                marks[place] = ord(mark(reply, reply.error_code))
                continue
            row = plain_rows.row(reply, *jobs.line(ordinal), bill)
            if row is not None:
                marks[place] = answered
            else:
                job, body = jobs.context(ordinal), None
                if job.citations is not None and reply.outcome == "succeeded":
                    (body,) = jobs.bodies([ordinal])
                cost = reading.cost(reply) if bill is None else bill.cost
                values = reading.row(reply, job, cost, body)
                marks[place] = ord(mark(reply, values["error_code"]))
                row = orjson.dumps(values)
            file.write(b"%d\t%b\n" % (place, row))
        for place in range(chunk.count) if 0 in marks else ():
            if not marks[place]:
                letter, code, text = no_reply(place)
                if unreadable and letter == AGAIN:
                    # The row that cannot be read may be this job's, and may have been paid.
                    letter, text = FAILED, f"{text}; {unreadable} rows cannot be read"
                marks[place] = ord(letter)
                if ordinals[place] >= 0:
                    job = jobs.context(ordinals[place])
                    row = orjson.dumps(reading.missing(job, code, text))
                    file.write(b"%d\t%b\n" % (place, row))
    bills.close()
    # What a row that cannot be read was billed is not known.
    cost = None if unreadable else bills.cost
    return Collected(marks.decode(), cost, bills.usage, strangers, unreadable, bills.cache_saved)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        for line in file:
            if not line.isspace():
                yield line


def count_rows(path: Path) -> tuple[int, bool]:
    """Number of rows in a reply file, and whether the last one is whole JSON."""
    rows, last = 0, b"{}"
    for last in _lines(path):  # noqa: B007 - the last line is looked at after the loop
        rows += 1
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        return rows - 1, False
    return rows, True


@dataclass(frozen=True, slots=True)
class Part:
    """The answers of one chunk, for the final results."""

    answers: Path
    ordinals: Sequence[int]


@dataclass(slots=True)
class Tally:
    """Sums over the final results."""

    counts: dict[str, int] = field(
        default_factory=lambda: {"completed": 0, "failed": 0, "cancelled": 0}
    )
    failures: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    input_tokens: int = 0
    output_tokens: int = 0
    citations_dropped: int = 0
    by_tag: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.counts[row["status"]] += 1
        self.input_tokens += row["input_tokens"]
        self.output_tokens += row["output_tokens"]
        # Answers that an earlier version left behind do not have it.
        self.citations_dropped += row.get("citations_dropped", 0)
        if row["error_code"] is not None:
            group = self.failures.setdefault(
                row["error_code"],
                {"count": 0, "example_job_id": row["job_id"], "example": row["error"]},
            )
            group["count"] += 1
        for tag in row.get("tags", ()):
            self._add_to_tag(tag, row)

    def _add_to_tag(self, tag: str, row: Mapping[str, Any]) -> None:
        sums = self.by_tag.setdefault(
            tag,
            {"jobs": 0, "completed": 0, "cost_usd": Decimal(0)}
            | {"input_tokens": 0, "output_tokens": 0},
        )
        cost, so_far = row["cost_usd"], sums["cost_usd"]
        sums["jobs"] += 1
        sums["completed"] += row["status"] == "completed"
        sums["cost_usd"] = None if so_far is None or cost is None else so_far + Decimal(str(cost))
        sums["input_tokens"] += row["input_tokens"]
        sums["output_tokens"] += row["output_tokens"]


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

    Raises:
        OSError: The results cannot be written.
    """
    tally = Tally()
    where = array("q", [-1]) * count
    size = array("i", [0]) * count
    owner = array("i", [-1]) * count
    earlier: dict[int, list[tuple[int, int, int]]] = {}
    wanted = [0] * len(parts)
    for number, part in enumerate(parts):
        for place, start, length in _answers_in(part.answers):
            ordinal = part.ordinals[place]
            if ordinal < 0:
                continue
            if where[ordinal] >= 0:
                before = (owner[ordinal], where[ordinal], size[ordinal])
                earlier.setdefault(ordinal, []).append(before)
            where[ordinal], size[ordinal], owner[ordinal] = start, length, number
            wanted[number] += 1
    paths = [part.answers for part in parts]
    with closing(_Rows(paths, wanted)) as rows, whole_file(target) as file:
        for ordinal in range(count):
            if ordinal in unanswered and where[ordinal] >= 0:
                before = (owner[ordinal], where[ordinal], size[ordinal])
                earlier.setdefault(ordinal, []).append(before)
                where[ordinal] = -1
            if where[ordinal] < 0:
                context = jobs.context(ordinal)
                line = orjson.dumps(unsent(context, jobs.family(ordinal)))
            else:
                line = rows.read(owner[ordinal], where[ordinal], size[ordinal])
            row: dict[str, Any] = orjson.loads(line)
            if ordinal in earlier:
                attempts: list[dict[str, Any]] = []
                for before in earlier[ordinal]:
                    attempts += orjson.loads(orjson.loads(rows.read(*before))["attempts_json"])
                row = merge_attempts(row, attempts)
                line = orjson.dumps(row)
            tally.add(row)
            file.write(line)
            file.write(b"\n")
            if each_to is not None:
                from_row(row, {}).save_to_json(each_to / f"{quote(row['job_id'], safe='')}.json")
    return tally


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


def _answers_in(path: Path) -> Iterator[tuple[int, int, int]]:
    """Place, start and length of every row in an answer file."""
    at = 0
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        for line in file:
            tab = line.index(b"\t")
            yield int(line[:tab]), at + tab + 1, len(line) - tab - 2
            at += len(line)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    with whole_file(path) as file:
        file.write(orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_results(path: Path, schemas: Mapping[str, AnswerSchema]) -> Iterator[JobResult]:
    """The results of a `results.jsonl`, one at a time."""
    for line in _lines(path):
        yield from_row(orjson.loads(line), schemas)
