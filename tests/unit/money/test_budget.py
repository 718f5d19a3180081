"""What settled batches tell of the next ones: bounds that did not hold are raised at once."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchata_prefect.answers import Usage
from batchata_prefect.models import Chunk
from batchata_prefect.money import budget
from batchata_prefect.money.budget import (
    correction,
    input_ratio,
    input_share,
    output_a_job,
)
from batchata_prefect.money.ledger import Ending, Entry

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CLAUDE = "claude-sonnet-5-5"


def entry(
    held: str | None = "1",
    cost: str | None = None,
    marks: str = "aaaaaaaaaa",
    *,
    tokens: tuple[int, int] = (500, 200),
    factor: float = 1.0,
    model: str = "m",
    open_: bool = False,
) -> Entry:
    """An entry whose upper bound is 1,000 input tokens."""
    reserved = None if held is None else Decimal(held)
    chunk = Chunk(
        0, 0, "0" * 64, "p", "/e", model, len(marks), 1, 1000, 1000, reserved, correction=factor
    )
    found = Entry(chunk, NOW)
    if not open_:
        usage = Usage(input_tokens=tokens[0], output_tokens=tokens[1])
        paid = None if cost is None else Decimal(cost)
        found.ending = Ending("ended", marks, paid, usage, NOW)
    return found


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], 1.0),
        ([entry(cost="0.4")], 1.0),
        ([entry(cost="2")], 2.2),
        ([entry(cost="2"), entry(cost="0.1")], 2.2),
        ([entry(cost="0.9", marks="aaaaaaaaaf")], 1.0),
        ([entry(cost="0.95", marks="aaaaaaaaar")], 0.95 / 0.9 * 1.1),
        ([entry(cost="0.5", marks="arrrrrrrrr")], 1.0),
        ([entry(cost="1.5", marks="arrrrrrrrr")], 1.65),
        ([entry(cost="2", model="other")], 1.0),
        ([entry(cost=None)], 1.0),
        ([entry(held="3", cost="4", factor=2.0)], 4 / 1.5 * 1.1),
        ([entry(held="3", cost="1.4", factor=2.0)], 1.0),
    ],
)
def test_correction(entries: list[Entry], expected: float) -> None:
    """The dearest batch against its bound counts, with a margin, and a bound is never lowered."""
    assert correction(entries, "p", "m") == pytest.approx(expected)


def test_what_is_in_flight_counts_with_the_correction() -> None:
    """Once a bound is known not to hold, those in flight under it count for more."""
    ledger = [entry(cost="2"), entry(open_=True), entry(open_=True, model="other")]
    assert budget.reserved(ledger) == pytest.approx(Decimal("3.2"))
    ledger.append(entry(held="2.2", factor=2.2, open_=True))
    assert budget.taken(ledger) == pytest.approx(Decimal("7.4"))


def test_a_correction_that_is_reserved_already_is_not_reserved_again() -> None:
    """A chunk in flight counts with what was learned since, and not with all of it once more."""
    ledger = [entry(held="2", cost="4", factor=2.0), entry(held="2", factor=2.0, open_=True)]
    assert budget.reserved(ledger) == pytest.approx(Decimal("4.4"))


def test_an_unknown_cost_keeps_its_reservation() -> None:
    """It counts at its upper bound, and the rest of the limit may be spent."""
    ledger = [entry(held="3", cost=None), entry(cost="0.5"), entry(held="1", open_=True)]
    assert budget.taken(ledger) == Decimal("4.5")
    assert budget.room(ledger, Decimal(10)) == Decimal("5.5")
    assert budget.spent(ledger) is None


def test_shares() -> None:
    """Input tokens: the largest share of a bound and the mean one; output tokens: the mean."""
    ledger = [entry(cost="1", tokens=(500, 200)), entry(cost="1", tokens=(100, 100))]
    assert input_share(ledger, "p", "m") == pytest.approx(0.55)
    assert input_ratio(ledger, "p", "m") == pytest.approx(0.3)
    assert output_a_job(ledger, "p", "m") == 15
    assert input_share([entry(cost="1", tokens=(2000, 1))], "p", "m") == pytest.approx(2.2)
    assert output_a_job([], "p", "m") is input_ratio([], "p", "m") is None


@given(st.lists(st.tuples(st.floats(0.01, 5), st.booleans()), max_size=20))
def test_taken_covers_what_was_seen(costs: list[tuple[float, bool]]) -> None:
    """Whatever was seen so far, what is taken covers it again for each batch in flight."""
    ledger = [entry(cost=str(round(cost, 4)), open_=flying) for cost, flying in costs]
    seen = [e.ending.cost_usd for e in ledger if e.ending and e.ending.cost_usd is not None]
    flying = sum(1 for e in ledger if e.ending is None)
    worst = max([Decimal(1), *seen])
    taken = budget.taken(ledger)
    assert taken is not None
    assert taken >= sum(seen, Decimal(0)) + worst * flying - Decimal("1e-6")
