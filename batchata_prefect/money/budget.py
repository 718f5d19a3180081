"""What is spent, what is reserved and what is left: computed from the ledger, held nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from batchata_prefect.money.ledger import Entry
from batchata_prefect.money.observed import corrections, held


def spent(ledger: Iterable[Entry]) -> Decimal | None:
    """Settled cost in USD of all ended chunks; None where one has no known price."""
    total = Decimal(0)
    for entry in ledger:
        if entry.ending is not None:
            if entry.ending.cost_usd is None:
                return None
            total += entry.ending.cost_usd
    return total


def reserved(ledger: Iterable[Entry]) -> Decimal | None:
    """Upper bound in USD of all chunks whose outcome is not known; None where one has no price."""
    entries = list(ledger)
    factors = corrections(entries)
    total = Decimal(0)
    for entry in entries:
        if entry.ending is None:
            may_cost = held(entry, factors)
            if may_cost is None:
                return None
            total += may_cost
    return total


def room(ledger: list[Entry], limit: Decimal | None) -> Decimal | None:
    """USD that may still be reserved; None without a limit.

    A chunk whose cost is not known keeps its reservation. One that has not even that leaves no
    room under a limit: unknown never counts as zero.
    """
    if limit is None:
        return None
    total = taken(ledger)
    return Decimal(0) if total is None else limit - total


def realtime_room(ledger: Iterable[Entry], limit: Decimal) -> Decimal:
    """USD that realtime requests may still reserve inside their own limit."""
    total = taken(entry for entry in ledger if entry.chunk.realtime)
    return Decimal(0) if total is None else limit - total


def taken(ledger: Iterable[Entry]) -> Decimal | None:
    """USD that are spent or reserved; None where a chunk has neither a cost nor a bound."""
    entries = list(ledger)
    factors = corrections(entries)
    total = Decimal(0)
    for entry in entries:
        amount = held(entry, factors)
        if entry.ending is not None and entry.ending.cost_usd is not None:
            amount = entry.ending.cost_usd
        if amount is None:
            return None
        total += amount
    return total
