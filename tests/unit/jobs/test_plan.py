"""Cutting chunks: nothing lost, no limit passed, the budget respected."""

from __future__ import annotations

from array import array
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchata_prefect.jobs import chunks
from batchata_prefect.jobs.spool import Row


def rows(*sizes: int, tokens: int = 10) -> list[Row]:
    return [Row(n, b"%12d" % n, size, tokens, tokens, 5) for n, size in enumerate(sizes)]


def cut(items: list[Row], **changes: object) -> chunks.Cut:
    options: dict[str, object] = {
        "max_requests": 100,
        "max_bytes": 10_000,
        "max_tokens": None,
        "line_bytes": 10,
        "wire_bytes": lambda lines, count: lines + count,
        "bound": lambda i, o: Decimal(i + o),
        "room": None,
    }
    return chunks.cut(items, **{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        pytest.param({}, 5, id="no limit reached"),
        pytest.param({"max_requests": 3}, 3, id="by requests"),
        pytest.param({"max_bytes": 3 * 111}, 3, id="by bytes, exactly full"),
        pytest.param({"max_bytes": 3 * 111 - 1}, 2, id="by bytes, one too few"),
        pytest.param({"max_tokens": 20}, 2, id="by tokens, exactly full"),
        pytest.param({"max_tokens": 19}, 1, id="by tokens, one too few"),
        pytest.param({"max_tokens": 1}, 1, id="a job over the token bound goes alone"),
        pytest.param({"room": Decimal(30)}, 2, id="by budget, exactly spent"),
        pytest.param({"room": Decimal("29.99")}, 1, id="by budget, a cent too few"),
        pytest.param({"room": Decimal(0)}, 0, id="no budget"),
        pytest.param({"room": Decimal(-1)}, 0, id="overdrawn by a lowered limit"),
        pytest.param({"bound": lambda i, o: None}, 5, id="unknown price without a limit"),
        pytest.param(
            {"bound": lambda i, o: None, "room": Decimal(9)}, 0, id="unknown price under a limit"
        ),
    ],
)
def test_cut(changes: dict[str, object], taken: int) -> None:
    """A chunk ends at the first limit that is reached."""
    result = cut(rows(100, 100, 100, 100, 100), **changes)
    assert list(result.ordinals) == list(range(taken))
    assert result.members == b"".join(b"%12d" % n for n in range(taken))


def test_a_dear_job_does_not_hold_up_the_cheap_ones_behind_it() -> None:
    """A job that does not fit the room is passed over while nothing is taken."""
    items = [*rows(100, tokens=1000), *rows(100, 100)]
    result = cut(items, room=Decimal(40))
    assert list(result.ordinals) == [0, 1]
    assert result.short_of_room


def test_sums_of_a_cut() -> None:
    """Bytes, tokens and the bound are the sums over the rows."""
    result = cut(rows(100, 50))
    assert (result.size_bytes, result.input_tokens, result.output_tokens) == (172, 20, 10)
    assert result.bound_usd == Decimal(30)


@given(
    st.lists(st.integers(1, 400), max_size=60),
    st.integers(1, 9),
    st.integers(450, 2000),
    st.integers(10, 60),
)
def test_repeated_cuts_lose_nothing_and_pass_no_limit(
    sizes: list[int], max_requests: int, max_bytes: int, max_tokens: int
) -> None:
    """All rows come out once, in order, in chunks within every limit."""
    left = rows(*sizes)
    seen: list[int] = []
    while left:
        part = cut(left, max_requests=max_requests, max_bytes=max_bytes, max_tokens=max_tokens)
        assert 1 <= len(part.ordinals) <= max_requests
        assert part.size_bytes == sum(sizes[n] + 11 for n in part.ordinals) <= max_bytes
        assert part.input_tokens <= max_tokens
        seen += part.ordinals
        left = left[len(part.ordinals) :]
    assert seen == list(range(len(sizes)))


@pytest.mark.parametrize(
    ("taken", "short", "busy", "sends"),
    [
        (10, False, True, True),
        (4, False, True, True),
        (4, True, True, False),
        (5, True, True, True),
        (4, True, False, True),
        (0, True, False, False),
        (0, False, False, False),
    ],
)
def test_small_cuts_wait_for_room_while_batches_run(
    taken: int, short: bool, busy: bool, sends: bool
) -> None:
    """A cut that the budget made short goes out only half full or when nothing is running."""
    part = chunks.Cut(array("q", range(taken)), b"", 0, 0, 0, 0, Decimal(0), short)
    assert chunks.worth_sending(part, wanted=10, busy=busy) is sends
