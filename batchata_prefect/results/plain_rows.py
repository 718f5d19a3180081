"""Rows of ordinary answers, filled into a form of bytes; what an answer costs, looked up once.

Nearly all answers of a large run are one text to a job that asked for no form and no citations.
Their rows differ in a dozen places, and to fill those in costs a quarter of making and encoding
each row anew.
"""

from __future__ import annotations

from decimal import Decimal

import orjson

from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.jobs.spool import ACCEPTS_TRUNCATED, Context, Stored
from batchata_prefect.results.codes import CUTS, ENDS
from batchata_prefect.results.row import Reading
from batchata_prefect.results.tally import Tally

_HELD_PRICES = 20_000
"""Different usages whose price is held at once."""

_JOB_ID, _TEXT, _TAG, _NAME = (f"batchata {word} 1b3a" for word in ("id", "text", "tag", "name"))
_STOP = "end_turn"
_METADATA = {"batchata metadata 1b3a": 0}
_FEE = "batchata fee 1b3a"
_USAGE = Usage(*(90_071_992_547_4001 + 2 * n for n in range(6)), fees=((_FEE, 0),))
_COST = Decimal("7.03125e-77")


class PlainRows:
    """Fills the rows of ordinary answers to one chunk into a form.

    The form is a row as `Reading.row` makes it, with the values that differ cut out, so that both
    ways have the same columns in the same order.
    """

    def __init__(self, reading: Reading) -> None:
        reply = Reply(_NAME, "succeeded", (TextBlock(_TEXT),), _USAGE, _STOP)
        job = Context(_JOB_ID, _METADATA, tags=(_TAG,))
        form = orjson.dumps(reading.row(reply, job, _COST), option=orjson.OPT_APPEND_NEWLINE)
        usage = zip(Usage._fields[:6], _USAGE[:6], strict=True)
        holes = {
            "job_id": orjson.dumps(_JOB_ID),
            "text": orjson.dumps(_TEXT),
            "stop": orjson.dumps(_STOP),
            **{name: b"%d" % number for name, number in usage},
            "fees": _text_of({_FEE: 0}),
            "cost": orjson.dumps(float(_COST)),
            "metadata": _text_of(_METADATA),
            "tags": orjson.dumps((_TAG,)),
            "custom_id": _NAME.encode(),
        }
        places = sorted(
            (at, name)
            for name, hole in holes.items()
            for at in range(len(form))
            if form.startswith(hole, at)
        )
        if [name for _, name in places] != _ORDER:
            raise AssertionError(f"the columns of a row have changed: {places}")
        pieces: list[bytes] = []
        end = 0
        for at, name in places:
            pieces.append(form[end:at])
            end = at + len(holes[name])
        self._head, self._after_id = pieces[:2]
        self._billed = b"%b".join(piece.replace(b"%", b"%%") for piece in pieces[2:11])
        self._after_metadata, self._after_tags, self._after_cost = pieces[11:14]
        self._tail = form[end:]

    def row(self, reply: Reply, job: Stored, bill: Bill | None) -> bytes | None:
        """The row of an answer as a line of JSON; None where it is no ordinary one.

        Args:
            reply: The reply.
            job: Its job.
            bill: What the reply was billed; None where that is not of its usage alone.
        """
        if bill is None or len(reply.blocks) != 1 or reply.error_code is not None:
            return None
        if job.rest and job.rest != ACCEPTS_TRUNCATED:
            return None
        text, citations = reply.blocks[0]
        if not text or text.isspace() or citations or reply.items or reply.tool_calls:
            return None
        # What was cut off is an answer to those jobs alone that take it as one.
        key = reply.stop_reason, bool(job.rest)
        billed = bill.filled.get(key)
        if billed is None:
            if not (reply.stop_reason in ENDS or (job.rest and reply.stop_reason in CUTS)):
                return None
            billed = self._fill(bill, key)
        middle, tail = billed
        return b"".join(
            (
                self._head,
                job.job_id,
                self._after_id,
                orjson.dumps(text),
                middle,
                job.metadata or b'"{}"',
                self._after_metadata,
                job.tags or b"[]",
                tail,
                reply.custom_id.encode(),
                self._tail,
            )
        )

    def _fill(self, bill: Bill, key: tuple[str | None, bool]) -> tuple[bytes, bytes]:
        """What stands between text and metadata, and between the tags and the custom_id."""
        usage = bill.usage
        cost = orjson.dumps(None if bill.cost is None else float(bill.cost))
        middle = self._billed % (
            orjson.dumps(key[0]),
            b"%d" % usage.input_tokens,
            b"%d" % usage.output_tokens,
            b"%d" % usage.cache_read_tokens,
            b"%d" % usage.cache_write_tokens,
            b"%d" % usage.reasoning_tokens,
            _text_of(dict(usage.fees)) if usage.fees else b'"{}"',
            cost,
        )
        bill.filled[key] = (middle, self._after_tags + cost + self._after_cost)
        return bill.filled[key]


def _text_of(value: object) -> bytes:
    """A value as JSON inside of a text."""
    return orjson.dumps(orjson.dumps(value).decode())


_ORDER = [
    "job_id",
    "text",
    "stop",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "fees",
    "cost",
    "metadata",
    "tags",
    "cost",
    "custom_id",
]


class Bill:
    """What answers of one usage cost, and how many there are.

    Attributes:
        usage: The tokens.
        cost: What one answer cost in USD; None where the price is unknown.
        cache_saved: What the cache saved on one of them.
        times: How many answers had this usage.
        plain: How many of them became ordinary rows.
        filled: Stop reason, and whether the job takes an answer that was cut off -> the pieces of
            an ordinary row that this usage decides.
    """

    __slots__ = ("cache_saved", "cost", "filled", "plain", "times", "usage")

    def __init__(self, reading: Reading, reply: Reply, usage: Usage) -> None:
        self.usage = usage
        self.cost = reading.cost(reply)
        self.cache_saved = reading.cache_saved(reply, self.cost)
        self.times = self.plain = 0
        self.filled: dict[tuple[str | None, bool], tuple[bytes, bytes]] = {}


class Bills:
    """Adds up what the replies of a chunk were billed.

    Attributes:
        cost: The sum so far in USD; None where a price is unknown.
        cache_saved: What the cache saved so far; None where a price is unknown.
        usage: Tokens of the answers so far.
        plain: What the ordinary rows among them come to, their tags left out.
    """

    def __init__(self, reading: Reading) -> None:
        self.cost: Decimal | None = Decimal(0)
        self.cache_saved: Decimal | None = Decimal(0)
        self.usage = Usage()
        self.plain = Tally()
        self._reading = reading
        self._known: dict[Usage, Bill] = {}

    def add(self, reply: Reply) -> Bill | None:
        """Count a reply; its bill where that is of its usage alone, as of any whole answer."""
        usage = reply.usage
        if usage is None or reply.outcome != "succeeded" or reply.stop_reason == "refusal":
            cost = self._reading.cost(reply)
            self._add(cost, self._reading.cache_saved(reply, cost), 1)
            if usage is not None and reply.outcome == "succeeded":
                self._add_usage(usage, 1)
            return None
        bill = self._known.get(usage)
        if bill is None:
            if len(self._known) == _HELD_PRICES:
                self.close()
            bill = self._known[usage] = Bill(self._reading, reply, usage)
        bill.times += 1
        return bill

    def close(self) -> None:
        """Have all that was counted in the sums."""
        for usage, bill in self._known.items():
            self._add(bill.cost, bill.cache_saved, bill.times)
            self._add_usage(usage, bill.times)
            self.plain.counts["completed"] += bill.plain
            self.plain.input_tokens += bill.plain * usage.input_tokens
            self.plain.output_tokens += bill.plain * usage.output_tokens
        self._known.clear()

    def _add(self, cost: Decimal | None, saved: Decimal | None, times: int) -> None:
        self.cost = None if self.cost is None or cost is None else self.cost + cost * times
        so_far = self.cache_saved
        self.cache_saved = None if so_far is None or saved is None else so_far + saved * times

    def _add_usage(self, usage: Usage, times: int) -> None:
        self.usage = self.usage.plus(usage, times)
