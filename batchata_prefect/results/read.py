"""A reply file -> the answer file of its chunk: each row read once, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import orjson

from batchata_prefect.content.schema import AnswerSchema
from batchata_prefect.errors import ParseError
from batchata_prefect.files import BUFFER_BYTES
from batchata_prefect.jobs.chunks import mark
from batchata_prefect.jobs.spool import SpoolReader
from batchata_prefect.models import JobResult, Reply, Usage
from batchata_prefect.money.ledger import AGAIN, ANSWERED, FAILED
from batchata_prefect.providers.rows import UnreadableRowError
from batchata_prefect.results.answer_file import answer_writer
from batchata_prefect.results.plain_rows import Bills, PlainRows
from batchata_prefect.results.row import Reading, from_row


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
    source: str = "",
) -> Collected:
    """Read every reply of a chunk once and write its answers, in the order of the replies.

    Args:
        reading: How to read the chunk's replies.
        replies: The provider's rows as they came; None where there are none.
        answers: The file to write.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        jobs: Looks up jobs.
        read: The provider's reader of one row.
        no_reply: Place -> (mark, error code, error) of a request without a row.
        source: What the answers depend on besides the replies.

    Raises:
        OSError: The answers cannot be written.
    """
    chunk = reading.chunk
    marks = bytearray(chunk.count)
    bills, plain_rows = Bills(reading), PlainRows(reading)
    strangers = unreadable = 0
    answered = ord(ANSWERED)
    jobs.hold(ordinals)
    with answer_writer(answers, source) as file:
        tally, add = file.tally, file.add
        for line in lines(replies) if replies is not None else ():
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
            stored = jobs.stored(ordinal)
            row = plain_rows.row(reply, stored, bill)
            if row is not None and bill is not None:
                marks[place] = answered
                bill.plain += 1
                if stored.tags:
                    tally.add_tags(
                        orjson.loads(stored.tags),
                        completed=True,
                        cost_usd=None if bill.cost is None else float(bill.cost),
                        input_tokens=bill.usage.input_tokens,
                        output_tokens=bill.usage.output_tokens,
                    )
            else:
                job, body = jobs.context(ordinal), None
                if job.citations is not None and reply.outcome == "succeeded":
                    (body,) = jobs.bodies([ordinal])
                cost = reading.cost(reply) if bill is None else bill.cost
                values = reading.row(reply, job, cost, body)
                marks[place] = ord(mark(reply, values["error_code"]))
                tally.add(values)
                row = orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
            add(place, row)
        for place in range(chunk.count) if 0 in marks else ():
            if not marks[place]:
                letter, code, text = no_reply(place)
                if unreadable and letter == AGAIN:
                    # The row that cannot be read may be this job's, and may have been paid.
                    letter, text = FAILED, f"{text}; {unreadable} rows cannot be read"
                marks[place] = ord(letter)
                if ordinals[place] >= 0:
                    values = reading.missing(jobs.context(ordinals[place]), code, text)
                    tally.add(values)
                    add(place, orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))
        bills.close()
        tally.merge(bills.plain)
    # What a row that cannot be read was billed is not known.
    cost = None if unreadable else bills.cost
    return Collected(marks.decode(), cost, bills.usage, strangers, unreadable, bills.cache_saved)


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
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        return rows - 1, False
    return rows, True


def read_results(path: Path, schemas: Mapping[str, AnswerSchema]) -> Iterator[JobResult]:
    """The results of a `results.jsonl`, one at a time."""
    for line in lines(path):
        yield from_row(orjson.loads(line), schemas)
