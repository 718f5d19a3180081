"""The table of error codes: what is sent again, what is asked again, and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchata_prefect.answers import Reply
from batchata_prefect.money.ledger import AGAIN, FAILED, NOT_AS_ASKED
from batchata_prefect.providers.failures import is_transient
from batchata_prefect.results.codes import CODES, mark, named, rule, what_to_do


@pytest.mark.parametrize(
    ("outcome", "code", "letter"),
    [
        ("succeeded", None, "a"),
        ("succeeded", "refusal", "f"),
        ("succeeded", "truncated", "x"),
        ("succeeded", "invalid_output", "x"),
        ("errored", "invalid_request_error", "f"),
        ("errored", "overloaded_error", "r"),
        ("errored", "server_error", "r"),
        ("expired", "expired", "r"),
        ("canceled", "canceled", "c"),
    ],
)
def test_mark(outcome: str, code: str | None, letter: str) -> None:
    """Only what says nothing against the request may be sent again."""
    assert mark(Reply("x-0", outcome), code) == letter  # type: ignore[arg-type]


def test_every_code_has_one_next_step() -> None:
    """Each says what to do, and one of three things follows from it."""
    for code, each in CODES.items():
        assert each.then in {AGAIN, NOT_AS_ASKED, FAILED}, code
        assert what_to_do(code).endswith("."), code


@given(st.sampled_from([*CODES, "novelty", "inference_failed"]), st.integers(0, 999))
def test_a_status_decides_over_any_word(code: str, status: int) -> None:
    """What is sent again is the same for every word, and one that agrees is kept."""
    found = named(code, status)
    assert (rule(found).then == AGAIN) == is_transient(status)
    assert named(found, status) == found
    assert named(code, None) == code
    letter = mark(Reply("x-0", "errored", status=status), code)
    assert letter == (AGAIN if is_transient(status) else FAILED)
    assert letter == mark(Reply("x-0", "errored"), found), "the code alone says the same"
