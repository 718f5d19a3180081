"""Every number that a run is told is refused where it makes no sense, before anything is sent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, ValidationError
from batchata_prefect.numbers import counted, number, told_usd, usd, whole

NAN, INF = float("nan"), float("inf")
NO_NUMBERS: list[Any] = [NAN, INF, -INF, -1, True, False, "many", 10**400, [5], None]
NO_COUNTS = [*NO_NUMBERS, 1.5, 2.0, Decimal(3), "3", 0, 2**53]


def _told(name: str, value: Any) -> Any:
    """The call that gives a batch one number."""
    calls: dict[str, Any] = {
        "quota": lambda batch: Batch("out", quota={"gpt-x": value}),
        "cost limit": lambda batch: batch.add_cost_limit(usd=value),
        "seconds": lambda batch: batch.add_time_limit(seconds=value),
        "minutes": lambda batch: batch.add_time_limit(hours=1, minutes=value),
        "hours": lambda batch: batch.add_time_limit(hours=value),
        "realtime": lambda batch: batch.add_time_limit(
            hours=1, on_deadline="realtime", realtime_usd=value
        ),
        "realtime unused": lambda batch: batch.add_time_limit(hours=1, realtime_usd=value),
        "margin": lambda batch: batch.add_time_limit(
            hours=1, on_deadline="realtime", realtime_usd=1, margin_seconds=value
        ),
        "price": lambda batch: Batch("out", prices={"m": {"input": value, "output": 1}}),
        "canary": lambda batch: batch.run(canary=value),
        "min_valid": lambda batch: batch.run(min_valid=value),
        "progress_interval": lambda batch: batch.run(progress_interval=value),
        "max_tokens": lambda batch: batch.add_job(prompt="x", model="my-gpt", max_tokens=value),
    }
    return calls.get(name, lambda batch: Batch("out", **{name: value}))


OPTIONAL = {"tokens_per_batch", "canary", "seconds", "minutes", "hours", "realtime unused"}
OPTIONAL |= {"margin", "max_tokens"}
CASES = [
    (name, value)
    for names, values in (
        (("items_per_batch", "max_parallel_batches", "max_attempts", "quota"), NO_COUNTS),
        (("tokens_per_batch", "max_tokens"), NO_COUNTS),
        (("max_reasks",), [each for each in NO_COUNTS if each != 0 or isinstance(each, bool)]),
        (("cost limit", "realtime", "realtime unused", "price"), [*NO_NUMBERS, "1e300", 10**13]),
        (("seconds", "minutes", "hours", "margin"), NO_NUMBERS),
        (("canary", "min_valid"), [*NO_NUMBERS, 1.5]),
        (("progress_interval",), NO_NUMBERS),
    )
    for name in names
    for value in values
    if not (value is None and name in OPTIONAL)
]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v!r:.20}" for n, v in CASES])
def test_a_number_that_makes_no_sense_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    batch = Batch(tmp_path / "out").set_default_params(provider="openai")
    batch.add_job(prompt="Hello", model="gpt-6-luna")
    with pytest.raises((ValidationError, ValueError)) as refused:
        _told(name, value)(batch)
    assert type(refused.value) is not TypeError


@pytest.mark.parametrize(
    ("check", "given", "kept"),
    [
        (lambda: whole("n", 7), 7, int),
        (lambda: number("s", 1), 1.0, float),
        (lambda: usd("limit", "2.50"), Decimal("2.50"), Decimal),
        (lambda: usd("limit", 0.1), Decimal("0.1"), Decimal),
    ],
)
def test_what_makes_sense_is_kept(check: Any, given: Any, kept: type) -> None:
    assert check() == given
    assert type(check()) is kept


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "an unknown amount"),
        (0, "$0.0000"),
        (1234.5, "$1,234.5000"),
        (0.0123456, "$0.0123"),
        (0.0099, "$0.0099"),
        (0.00123456, "$0.001235"),
        (Decimal("0.00004"), "$0.00004"),
        (Decimal("0.00000024"), "$0.00000024"),
        (-0.0002, "$-0.0002"),
    ],
)
def test_an_amount_above_nothing_is_never_shown_as_nothing(amount: Any, text: str) -> None:
    """Four decimals, and as many as it needs where it is small."""
    assert told_usd(amount) == text


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [(1, "job", "1 job"), (0, "job", "0 jobs"), (2_000, "batch", "2,000 batches")],
)
def test_how_many_there_are(number, what, said):
    """One of a thing has the word of one."""
    assert counted(number, what) == said
