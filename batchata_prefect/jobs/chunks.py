"""What to send next and what may be sent again: pure functions, tested as tables."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypedDict

from batchata_prefect.jobs.spool import Row, in_a_row
from batchata_prefect.money.ledger import FINGERPRINT_BYTES
from batchata_prefect.providers import Provider

_LONGEST_CUSTOM_ID = 24
"""Sixteen letters of the token, a hyphen and up to seven digits; see `Chunk.custom_id`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Jobs that make one chunk.

    Attributes:
        ordinals: The jobs, in order.
        members: Their fingerprints, end to end.
        likely_tokens: Sum of their likely input tokens.
        size_bytes: Bytes on the wire.
        input_tokens: Sum of the upper bounds of input tokens.
        output_tokens: Sum of the upper bounds of output tokens.
        bound_usd: Upper bound of the cost; None where the price is unknown.
        short_of_room: Whether the budget, and not the provider's limits, ended it.
    """

    ordinals: Sequence[int]
    members: bytes
    likely_tokens: int
    size_bytes: int
    input_tokens: int
    output_tokens: int
    bound_usd: Decimal | None
    short_of_room: bool


def cut(
    rows: Iterable[Row],
    *,
    max_requests: int,
    max_bytes: int,
    max_tokens: int | None,
    line_bytes: int,
    wire_bytes: Callable[[int, int], int],
    bound: Callable[[int, int], Decimal | None],
    room: Decimal | None,
) -> Cut:
    """Take rows from the front until a limit is reached.

    A row that does not fit into the room that is left ends the cut; while nothing was taken yet,
    it is passed over, so that one dear job does not hold up the cheap ones behind it.

    Args:
        rows: Waiting rows of one family, in order.
        max_requests: Requests that one chunk may hold.
        max_bytes: Bytes on the wire that one chunk may hold.
        max_tokens: Input tokens that one chunk may hold; a single larger job goes alone.
        line_bytes: Bytes that a line adds to its body.
        wire_bytes: Bytes on the wire of (bytes of all lines, number of lines).
        bound: Upper bound in USD of (input tokens, output tokens); None where unknown.
        room: USD that may still be reserved; None for no limit.
    """
    taken = array("q")
    members = bytearray()
    lines = size = likely = input_tokens = output_tokens = 0
    total: Decimal | None = Decimal(0)
    short = False
    for row in rows:
        if len(taken) == max_requests:
            break
        grown = wire_bytes(lines + row.size + line_bytes, len(taken) + 1)
        if taken and grown > max_bytes:
            break
        if taken and max_tokens is not None and input_tokens + row.input_bound > max_tokens:
            break
        cost = bound(row.input_bound, row.output_bound)
        if room is not None and (cost is None or total is None or total + cost > room):
            short = True
            if taken:
                break
            continue
        taken.append(row.ordinal)
        members += row.fingerprint
        lines += row.size + line_bytes
        size = grown
        likely += row.input_tokens
        input_tokens += row.input_bound
        output_tokens += row.output_bound
        total = None if total is None or cost is None else total + cost
    return Cut(
        in_a_row(taken), bytes(members), likely, size, input_tokens, output_tokens, total, short
    )


class Sizes(TypedDict):
    """The size limits of `cut`."""

    max_requests: int
    max_bytes: int
    max_tokens: int | None
    line_bytes: int
    wire_bytes: Callable[[int, int], int]


def limits(
    provider: Provider, endpoint: str, items_per_batch: int, tokens_per_batch: int | None
) -> Sizes:
    """The size limits of one provider batch: the user's and the provider's, whichever is less."""
    return Sizes(
        max_requests=min(items_per_batch, provider.limits.max_requests),
        max_bytes=provider.limits.max_bytes,
        max_tokens=tokens_per_batch,
        line_bytes=len(provider.line("0" * _LONGEST_CUSTOM_ID, b"", endpoint)),
        wire_bytes=provider.wire_bytes,
    )


def worth_sending(cut_: Cut, *, wanted: int, busy: bool) -> bool:
    """Whether to send a cut now, or to wait until running batches free their reservations.

    Many tiny batches would cost more calls and more time than they win, so while something is
    running a cut that the budget made short goes out only when it holds half of what was wanted.
    """
    if not cut_.ordinals:
        return False
    return not (busy and cut_.short_of_room and len(cut_.ordinals) * 2 < wanted)


def worth_its_quota(cut_: Cut, room: int | None, whole: int, left: int) -> bool:
    """Whether to send a cut into the room that a quota leaves while others of its model wait.

    Args:
        cut_: The cut.
        room: Tokens that it was cut to, as a sum of upper bounds.
        whole: The same when nothing waits.
        left: Jobs that it leaves for later.
    """
    if room is not None and cut_.input_tokens > room:
        return False
    return left == 0 or 4 * cut_.input_tokens >= whole


def side_by_side(cut: Cut, prefixes: Sequence[str]) -> Cut:
    """The same jobs with those of one prefix together, each group where its first job was."""
    first: dict[str, int] = {}
    for place, prefix in enumerate(prefixes):
        first.setdefault(prefix, place)
    order = sorted(range(len(prefixes)), key=lambda place: first[prefixes[place]])
    size = FINGERPRINT_BYTES
    return replace(
        cut,
        ordinals=array("q", (cut.ordinals[place] for place in order)),
        members=b"".join(cut.members[place * size : (place + 1) * size] for place in order),
    )
