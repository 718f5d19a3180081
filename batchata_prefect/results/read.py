"""A reply file -> the answer file of its chunk: each row read once, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import orjson

from batchata_prefect.answers import Reply, Usage
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.errors import ParseError
from batchata_prefect.files import BUFFER_BYTES
from batchata_prefect.jobs.spool import SpoolReader
from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import AGAIN, ANSWERED, FAILED
from batchata_prefect.providers.bodies import handed_back
from batchata_prefect.providers.rows import UNREADABLE, rescued, too_many_values
from batchata_prefect.providers.rows import unreadable as unreadable_reply
from batchata_prefect.results.answer_file import AnswerWriter, answer_writer
from batchata_prefect.results.codes import mark
from batchata_prefect.results.item_files import ItemFiles
from batchata_prefect.results.plain_rows import Bills, PlainRows
from batchata_prefect.results.row import Reading
from batchata_prefect.results.tally import Tally


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
        missing: Places of the requests that got no reply.
    """

    marks: str
    cost_usd: Decimal | None
    usage: Usage
    strangers: int
    unreadable: int
    cache_saved_usd: Decimal | None
    missing: Sequence[int] = ()


class _Rows:
    """The rows of a chunk's replies, one for each of its requests.

    An answer comes before what says that there is none: it was paid for, and would be paid again.

    Attributes:
        strangers: As in `Collected`, so far.
        unreadable: As in `Collected`, so far.
    """

    def __init__(self, chunk: Chunk, read: Callable[[bytes, str], Reply]) -> None:
        self.strangers = self.unreadable = 0
        self._chunk, self._read = chunk, read

    def each(self, path: Path) -> Iterator[tuple[int, Reply]]:
        """Place in the chunk and reply: the answers as they come, then what was not answered."""
        chunk, seen = self._chunk, bytearray(self._chunk.count)
        held: dict[int, Reply] = {}
        for line in lines(path):
            reply = self._reply(line)
            if reply is None:
                continue
            place = chunk.ordinal(reply.custom_id)
            if place is None and reply.custom_id.startswith(chunk.head):
                self.unreadable += 1
            elif place is None or seen[place]:
                self.strangers += 1
            elif reply.outcome == "succeeded" and reply.error_code != UNREADABLE:
                seen[place] = 1
                self.strangers += held.pop(place, None) is not None
                yield place, reply
            else:
                self.strangers += place in held
                held.setdefault(place, reply)
        yield from held.items()

    def _reply(self, line: bytes) -> Reply | None:
        try:
            return self._read(line, self._chunk.endpoint)
        except Exception as error:
            # Any row may be one that nobody has seen before, and it is one job's trouble.
            found = rescued(line, error)
            self.unreadable += found is None or isinstance(error, ParseError)
            return found


def collect(
    reading: Reading,
    replies: Path | None,
    answers: Path,
    ordinals: Sequence[int],
    jobs: SpoolReader,
    read: Callable[[bytes, str], Reply],
    *,
    no_reply: Callable[[int], tuple[str, str, str]],
    source: str = "",
) -> Collected:
    """Read every reply of a chunk once and write its answers, as `_Rows` orders them.

    Args:
        reading: How to read the chunk's replies.
        replies: The provider's rows as they came; None where there are none.
        answers: The file to write.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        jobs: Looks up jobs.
        read: The provider's reader of one row.
        no_reply: Place -> (mark, error code, error) of a request without a row.
        source: What the answers depend on besides the replies.
    """
    chunk = reading.chunk
    marks = bytearray(chunk.count)
    bills, plain_rows = Bills(reading), PlainRows(reading)
    rows = _Rows(chunk, read)
    answered = ord(ANSWERED)
    jobs.hold(ordinals)
    with answer_writer(answers, source) as file:
        for place, reply in rows.each(replies) if replies is not None else ():
            ordinal = ordinals[place]
            try:
                bill = bills.add(reply)
            except Exception as error:
                reply = unreadable_reply(reply.custom_id, f"{type(error).__name__}: {error}")
                bill = bills.add(reply)
            if jobs.has_continued and (body := jobs.continued(ordinal, chunk.round)) is not None:
                reply = _whole_turn(read, chunk.endpoint, reply, body)
            if ordinal < 0:
                marks[place] = ord(mark(reply, reply.error_code))
                continue
            stored = jobs.stored(ordinal)
            row = plain_rows.row(reply, stored, bill)
            if row is not None and bill is not None:
                marks[place] = answered
                bill.plain += 1
                if stored.tags:
                    file.tally.add_tags(
                        orjson.loads(stored.tags),
                        completed=True,
                        cost_usd=None if bill.cost is None else float(bill.cost),
                        input_tokens=bill.usage.input_tokens,
                        output_tokens=bill.usage.output_tokens,
                    )
            else:
                cost = reading.cost(reply) if bill is None else bill.cost
                row, letter = _odd(reading, reply, cost, ordinal, jobs, file.tally)
                marks[place] = ord(letter)
            file.add(place, row)
        missing = [place for place, letter in enumerate(marks) if not letter] if 0 in marks else []
        if missing:
            _write_missing(reading, file, marks, ordinals, jobs, no_reply, rows.unreadable)
        bills.close()
        file.tally.merge(bills.plain)
    # What a row that cannot be read was billed is not known.
    cost = None if rows.unreadable else bills.cost
    return Collected(
        marks.decode(),
        cost,
        bills.usage,
        rows.strangers,
        rows.unreadable,
        bills.cache_saved,
        missing,
    )


def _whole_turn(
    read: Callable[[bytes, str], Reply], endpoint: str, reply: Reply, body: bytes
) -> Reply:
    """The reply of a request that continued a paused turn, with what was said before the pause."""
    if reply.outcome != "succeeded":
        return reply
    try:
        return _joined(read, endpoint, reply, body)
    except Exception as error:
        # What was said after the pause is half an answer.
        what = f"it goes on from a turn that cannot be read ({type(error).__name__}: {error})"
        return unreadable_reply(reply.custom_id, what, reply.usage)


def _joined(read: Callable[[bytes, str], Reply], endpoint: str, reply: Reply, body: bytes) -> Reply:
    message = {"content": handed_back(body), "stop_reason": "end_turn"}
    result = {"type": "succeeded", "message": message}
    said = read(dumps({"custom_id": reply.custom_id, "result": result}).encode(), endpoint)
    if said.error_code is not None:
        raise ParseError(said.error or said.error_code, said.error_code)
    return reply._replace(
        blocks=(*said.blocks, *reply.blocks),
        final=len(said.blocks) + reply.final if reply.final else said.final,
        has_thinking=said.has_thinking or reply.has_thinking,
        tool_calls=(*said.tool_calls, *reply.tool_calls),
        items=(*said.items, *reply.items),
    )


def _odd(
    reading: Reading,
    reply: Reply,
    cost: Decimal | None,
    ordinal: int,
    jobs: SpoolReader,
    tally: Tally,
) -> tuple[bytes, str]:
    """The row of a reply that is no ordinary one, and its mark: whatever it holds, there is one."""
    job, body = jobs.context(ordinal), None
    if job.citations is not None and reply.outcome == "succeeded":
        (body,) = jobs.bodies([ordinal])
    if reply.items and reading.results_dir is not None:
        reply = _with_files(reply, reading.results_dir)
    try:
        values = reading.row(reply, job, cost, body)
        letter = mark(reply, values["error_code"])
        row = orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
    except Exception as error:
        # What a model writes, and what a user's own class makes of it, is one job's trouble.
        values, letter = reading.unreadable(reply, job, cost, error), FAILED
        row = orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
    tally.add(values)
    return row, letter


def _with_files(reply: Reply, results_dir: Path) -> Reply:
    """The reply with its images and sounds as files."""
    try:
        return reply._replace(items=ItemFiles(results_dir, reply.custom_id).put(reply.items))
    except OSError:
        raise
    except Exception:
        return reply  # of a form that nobody knows; the item stays in the row as it came


def _write_missing(
    reading: Reading,
    file: AnswerWriter,
    marks: bytearray,
    ordinals: Sequence[int],
    jobs: SpoolReader,
    no_reply: Callable[[int], tuple[str, str, str]],
    unreadable: int,
) -> None:
    """Write the rows of the requests that got no reply, and their marks."""
    for place in range(len(marks)):
        if marks[place]:
            continue
        letter, code, text = no_reply(place)
        if unreadable and letter in {AGAIN, FAILED}:
            # A row that cannot be read may be this job's, and may have been paid.
            letter, code, text = FAILED, UNREADABLE, reading.unnamed(unreadable)
        marks[place] = ord(letter)
        if ordinals[place] >= 0:
            values = reading.missing(jobs.context(ordinals[place]), place, code, text)
            file.tally.add(values)
            file.add(place, orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))


def give_up(
    reading: Reading,
    answers: Path,
    ordinals: Sequence[int],
    jobs: SpoolReader,
    error: Exception,
    source: str,
) -> Collected:
    """Write the answers of a chunk whose reading failed as a whole: each of its jobs says why.

    Args:
        reading: How its replies were read.
        answers: The file to write.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        jobs: Looks up jobs.
        error: What reading raised.
        source: What the answers depend on besides the replies.
    """
    marks = bytearray(len(ordinals))
    told = FAILED, UNREADABLE, reading.unread(error)
    with answer_writer(answers, source) as file:
        _write_missing(reading, file, marks, ordinals, jobs, lambda _: told, 0)
    # What was billed stands in the rows that were not read.
    return Collected(marks.decode(), None, Usage(), 0, 0, None)


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that hold something."""
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        for line in file:
            if not line.isspace():
                yield line


def count_rows(path: Path) -> tuple[int, bool]:
    """Number of rows in a reply file, and whether the last one is whole JSON."""
    rows, last = 0, b"{}"
    for last in lines(path):  # noqa: B007 - the last line is looked at after the loop
        rows += 1
    if too_many_values(last) is not None:
        return rows, True  # whole or not, it is not read
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        return rows - 1, False
    return rows, True
