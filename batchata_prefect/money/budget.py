"""What is spent, reserved and left, and what settled batches tell of the next ones.

Pure sums over the ledger, held nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache

from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import ANSWERED, NOT_AS_ASKED, Ending, Entry

_MARGIN = 1.1
_MOSTLY = 0.9
"""A batch of which less was answered says little of the size of its jobs."""


def spent(ledger: Iterable[Entry]) -> Decimal | None:
    """Settled cost in USD of all ended chunks; None where one has no known price."""
    return total(entry.ending.cost_usd for entry in ledger if entry.ending is not None)


def reserved(ledger: Iterable[Entry]) -> Decimal | None:
    """Upper bound in USD of all chunks whose outcome is not known; None where one has no price."""
    entries = list(ledger)
    factors = _corrections(entries)
    return total(_held(entry, factors) for entry in entries if entry.ending is None)


def taken(ledger: Iterable[Entry]) -> Decimal | None:
    """USD that are spent or reserved; None where a chunk has neither a cost nor a bound."""
    entries = list(ledger)
    factors = _corrections(entries)
    return total(
        _held(entry, factors)
        if entry.ending is None or entry.ending.cost_usd is None
        else entry.ending.cost_usd
        for entry in entries
    )


def room(ledger: Iterable[Entry], limit: Decimal | None) -> Decimal | None:
    """USD that may still be reserved; None without a limit.

    A chunk whose cost is not known keeps its reservation. One that has not even that leaves no
    room under a limit: unknown never counts as zero.
    """
    if limit is None:
        return None
    used = taken(ledger)
    return Decimal(0) if used is None else limit - used


def realtime_room(ledger: Iterable[Entry], limit: Decimal) -> Decimal:
    """USD that realtime requests may still reserve inside their own limit."""
    left = room((entry for entry in ledger if entry.chunk.realtime), limit)
    return Decimal(0) if left is None else left


def total(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum of some amounts; None where one is not known."""
    found = Decimal(0)
    for amount in amounts:
        if amount is None:
            return None
        found += amount
    return found


def _corrections(ledger: list[Entry]) -> dict[tuple[str, str], float]:
    """The corrections of all models that have a batch in flight: (provider, model) -> factor."""
    flying = {(e.chunk.provider, e.chunk.model) for e in ledger if e.ending is None}
    return {key: correction(ledger, *key) for key in flying}


def _held(entry: Entry, factors: dict[tuple[str, str], float]) -> Decimal | None:
    """What a chunk in flight may cost in USD by what is known now; None where it has no price."""
    chunk = entry.chunk
    factor = factors.get((chunk.provider, chunk.model), 1.0)
    if chunk.reserved_usd is None or factor <= chunk.correction:
        return chunk.reserved_usd
    return chunk.reserved_usd * Decimal(factor / chunk.correction)


def correction(ledger: Iterable[Entry], provider: str, model: str) -> float:
    """How many times the reckoned upper bound is to be reserved for a model, at least 1.

    A bound is reckoned so that no request passes it. Where a batch did cost more all the same
    (a tokenizer, an image rule or a price that is not as documented), the next ones reserve as
    much more at once, and a margin. It never goes down: nothing proves that a lower one holds.
    """
    most = 1.0
    for chunk, ending, answered in _told(ledger, provider, model):
        if ending.cost_usd is None or not chunk.reserved_usd:
            continue
        part = answered if answered >= _MOSTLY else 1.0
        bound = float(chunk.reserved_usd) / chunk.correction
        most = max(most, float(ending.cost_usd) / part / bound)
    return most * _MARGIN if most > 1 else 1.0


def input_share(ledger: Iterable[Entry], provider: str, model: str) -> float:
    """The part of a chunk's upper bound of input tokens that is really counted.

    The largest of what was seen, and a margin; 1 before anything was.
    """
    seen = 0.0
    for chunk, ending, answered in _told(ledger, provider, model):
        if answered >= _MOSTLY and chunk.input_tokens:
            seen = max(seen, ending.usage.input_tokens / answered / chunk.input_tokens)
    if not seen:
        return 1.0
    return seen * _MARGIN if seen > 1 else min(1.0, seen * _MARGIN)


def output_a_job(ledger: Iterable[Entry], provider: str, model: str) -> float | None:
    """Output tokens that a job of the model came to on average; None before any was answered."""
    tokens = jobs = 0
    for _, ending, _ in _told(ledger, provider, model):
        tokens += ending.usage.output_tokens
        jobs += _answered(ending.marks)
    return tokens / jobs if jobs else None


def input_ratio(ledger: Iterable[Entry], provider: str, model: str) -> float | None:
    """Billed input tokens for each token of the upper bound, on average; None before any was."""
    billed = bound = 0.0
    for chunk, ending, answered in _told(ledger, provider, model):
        if answered >= _MOSTLY:
            billed += ending.usage.input_tokens
            bound += chunk.input_tokens * answered
    return billed / bound if bound and billed else None


def _told(
    ledger: Iterable[Entry], provider: str, model: str
) -> Iterator[tuple[Chunk, Ending, float]]:
    """The model's ended batches, each with the part of its jobs that was answered."""
    for entry in ledger:
        ending, chunk = entry.ending, entry.chunk
        if ending is None or (chunk.provider, chunk.model) != (provider, model):
            continue
        answered = _answered(ending.marks)
        if answered:
            yield chunk, ending, answered / chunk.count


@lru_cache(maxsize=100_000)
def _answered(marks: str) -> int:
    """Counted once: the same endings are gone through before each purchase."""
    return marks.count(ANSWERED) + marks.count(NOT_AS_ASKED)
