"""What the settled batches of a model tell of the next ones: pure sums over the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache

from batchata_prefect.money.ledger import ANSWERED, NOT_AS_ASKED, Entry

_MARGIN = 1.1
_MOSTLY = 0.9
"""A batch of which less was answered says little of the size of its jobs."""


def correction(ledger: Iterable[Entry], provider: str, model: str) -> float:
    """How many times the reckoned upper bound is to be reserved for a model, at least 1.

    A bound is reckoned so that no request passes it. Where a batch did cost more all the same
    (a tokenizer, an image rule or a price that is not as documented), the next ones reserve as
    much more at once, and a margin. It never goes down: nothing proves that a lower one holds.
    """
    most = 1.0
    for entry, answered in _told(ledger, provider, model):
        cost = entry.ending.cost_usd if entry.ending else None
        held = entry.chunk.reserved_usd
        if cost is None or not held:
            continue
        part = answered if answered >= _MOSTLY else 1.0
        most = max(most, float(cost) / part / (float(held) / entry.chunk.correction))
    return most * _MARGIN if most > 1 else 1.0


def corrections(ledger: list[Entry]) -> dict[tuple[str, str], float]:
    """The corrections of all models that have a batch in flight: (provider, model) -> factor."""
    flying = {(e.chunk.provider, e.chunk.model) for e in ledger if e.ending is None}
    return {key: correction(ledger, *key) for key in flying}


def input_share(ledger: Iterable[Entry], provider: str, model: str) -> float:
    """The part of a chunk's upper bound of input tokens that is really counted.

    The largest of what was seen, and a margin; 1 before anything was.
    """
    seen = 0.0
    for entry, answered in _told(ledger, provider, model):
        if answered >= _MOSTLY and entry.chunk.input_tokens and entry.ending:
            seen = max(seen, entry.ending.usage.input_tokens / answered / entry.chunk.input_tokens)
    if not seen:
        return 1.0
    return seen * _MARGIN if seen > 1 else min(1.0, seen * _MARGIN)


def output_a_job(ledger: Iterable[Entry], provider: str, model: str) -> float | None:
    """Output tokens that a job of the model came to on average; None before any was answered."""
    tokens = jobs = 0
    for entry, _ in _told(ledger, provider, model):
        if entry.ending is not None:
            tokens += entry.ending.usage.output_tokens
            jobs += _answered(entry.ending.marks)
    return tokens / jobs if jobs else None


def input_ratio(ledger: Iterable[Entry], provider: str, model: str) -> float | None:
    """Billed input tokens for each token of the upper bound, on average; None before any was."""
    billed = bound = 0.0
    for entry, answered in _told(ledger, provider, model):
        if entry.ending is not None and answered >= _MOSTLY:
            billed += entry.ending.usage.input_tokens
            bound += entry.chunk.input_tokens * answered
    return billed / bound if bound and billed else None


def _told(ledger: Iterable[Entry], provider: str, model: str) -> Iterator[tuple[Entry, float]]:
    """The model's ended batches, each with the part of its jobs that was answered."""
    for entry in ledger:
        ending, chunk = entry.ending, entry.chunk
        if ending is None or (chunk.provider, chunk.model) != (provider, model):
            continue
        answered = _answered(ending.marks)
        if answered:
            yield entry, answered / chunk.count


@lru_cache(maxsize=100_000)
def _answered(marks: str) -> int:
    """Counted once: the same endings are gone through before each purchase."""
    return marks.count(ANSWERED) + marks.count(NOT_AS_ASKED)


def held(entry: Entry, factors: dict[tuple[str, str], float]) -> Decimal | None:
    """What a chunk in flight may cost in USD by what is known now; None where it has no price."""
    chunk = entry.chunk
    if chunk.reserved_usd is None:
        return None
    factor = factors.get((chunk.provider, chunk.model), 1.0)
    if factor <= chunk.correction:
        return chunk.reserved_usd
    return chunk.reserved_usd * Decimal(factor / chunk.correction)
