"""From a reply to a row and back: every reason in its place, no failure called a success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field

from batchata_prefect.answers import JobResult, Reply, TextBlock, Usage
from batchata_prefect.content.schema import AnswerSchema, answer_schema
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import Chunk, Citing
from batchata_prefect.providers import price_book
from batchata_prefect.results.row import Reading, blank_row, from_row, merge_attempts

CHUNK = Chunk(0, 1, "ab" * 32, "anthropic", "/v1/messages", "m", 9, 0, 0, 0, Decimal(1))
PRICES = price_book({"m": {"input": 1, "output": 10}})
USAGE = Usage(input_tokens=100, output_tokens=20, reasoning_tokens=5)


class Bill(BaseModel):
    """An answer with everything that JSON cannot hold by itself."""

    total: Decimal = Field(alias="Total")
    on: date


def reading(schemas: Mapping[str, AnswerSchema] | None = None, **more: Any) -> Reading:
    return Reading(CHUNK, "batch_1", PRICES, schemas or {}, **more)


def job(schema: str | None = None, *, citations: Citing | None = None, **more: Any) -> Context:
    return Context("the-job", {"a": [1]}, schema, citations, ("doc.txt",), **more)


def says(text: str, **more: Any) -> Reply:
    blocks = (TextBlock(text),) if text else ()
    return Reply("x-0", "succeeded", blocks, USAGE, **{"stop_reason": "end_turn", **more})


def row(reply: Reply, context: Context | None = None, **more: Any) -> dict[str, Any]:
    source = reading(**more)
    return source.row(reply, context or job(), source.cost(reply))


OUTCOMES: dict[str, tuple[Reply, str, str | None]] = {
    "an answer": (says("hello"), "completed", None),
    "cut text": (says("hel", stop_reason="max_tokens"), "failed", "truncated"),
    "cut by the window": (
        says("hel", stop_reason="model_context_window_exceeded"),
        "failed",
        "truncated",
    ),
    "incomplete": (says("hel", stop_reason="incomplete: steered"), "failed", "truncated"),
    "a tool call cut off": (
        says("", stop_reason="max_tokens", tool_calls=({"name": "f", "input": {}},)),
        "failed",
        "truncated",
    ),
    "paused": (says("hel", stop_reason="pause_turn"), "failed", "paused"),
    "paused, no text": (says("", stop_reason="pause_turn"), "failed", "paused"),
    "compacted": (says("hel", stop_reason="compaction"), "failed", "paused"),
    "unknown": (says("hel", stop_reason="abort"), "failed", "unknown_stop"),
    "no reason told": (says("hello", stop_reason=None), "completed", None),
    "sequence": (says("hello", stop_reason="stop_sequence"), "completed", None),
    "empty": (says(""), "failed", "empty_answer"),
    "blank": (says(" \n "), "failed", "empty_answer"),
    "eaten by thinking": (
        says("", stop_reason="max_tokens", has_thinking=True),
        "failed",
        "truncated",
    ),
    "full": (says("", stop_reason="model_context_window_exceeded"), "failed", "truncated"),
    "no": (says("no", stop_reason="refusal", error_code="refusal"), "failed", "refusal"),
    "errored": (
        Reply("x-0", "errored", error_code="overloaded_error", error="busy"),
        "failed",
        "overloaded_error",
    ),
    "late": (Reply("x-0", "expired", error_code="expired"), "failed", "expired"),
    "canceled": (Reply("x-0", "canceled", error_code="canceled"), "cancelled", "canceled"),
    "embedding": (Reply("x-0", "succeeded", embedding=(0.5, 1.0)), "completed", None),
    "a tool call": (
        says("", stop_reason="tool_use", tool_calls=({"name": "f"},)),
        "completed",
        None,
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_status_and_reason(name: str) -> None:
    """Each outcome ends in one status with one code, on the result and on its attempt."""
    reply, status, code = OUTCOMES[name]
    result = from_row(row(reply), {})
    assert (result.status, result.error_code) == (status, code)
    assert (result.error is None) is (code is None)
    assert [attempt.error_code for attempt in result.attempts] == [code]
    assert result.attempts[0].round == 1
    assert (result.job_id, result.metadata, result.batch_id) == ("the-job", {"a": [1]}, "batch_1")


@pytest.mark.parametrize("stop", ["max_tokens", "model_context_window_exceeded", "incomplete: x"])
def test_what_was_cut_off_is_kept_and_taken_where_that_is_asked_for(stop: str) -> None:
    """The text stands in the result; with accept_truncated it is the answer."""
    reply = says("hel", stop_reason=stop)
    found = row(reply)
    assert (found["error_code"], found["raw_response"]) == ("truncated", "hel")
    found = row(reply, job(accept_truncated=True))
    assert (found["status"], found["error_code"], found["raw_response"]) == (
        "completed",
        None,
        "hel",
    )
    for other in ("pause_turn", "abort"):
        assert row(says("hel", stop_reason=other), job(accept_truncated=True))["error_code"]
    assert row(says("", stop_reason=stop), job(accept_truncated=True))["error_code"] == "truncated"


def test_what_we_canceled_at_the_deadline_failed_by_the_deadline() -> None:
    """The reason is ours, not the provider's."""
    found = row(Reply("x-0", "canceled", error_code="canceled"), canceled="Time limit exceeded")
    assert (found["status"], found["error_code"]) == ("failed", "time_limit_exceeded")


def test_a_tool_call_is_kept_as_json() -> None:
    """An answer without text that calls a tool is not an empty success."""
    found = row(says("", stop_reason="tool_use", tool_calls=({"name": "f", "input": {"a": 1}},)))
    assert orjson.loads(found["raw_response"]) == [{"name": "f", "input": {"a": 1}}]


@pytest.mark.parametrize(
    ("reply", "cost"),
    [
        (says("hello"), Decimal("0.0003")),
        (Reply("x-0", "errored"), Decimal(0)),
        (Reply("x-0", "errored", usage=USAGE), Decimal("0.0003")),
        (Reply("x-0", "succeeded"), None),
        (Reply("x-0", "succeeded", (), Usage(100, 0), "refusal"), Decimal(0)),
        (Reply("x-0", "succeeded", (), Usage(100, 20), "refusal"), Decimal("0.0003")),
    ],
)
def test_cost(reply: Reply, cost: Decimal | None) -> None:
    """Usage is billed, failures without usage are free, and a silent answer has no known cost."""
    assert reading().cost(reply) == cost


@pytest.mark.parametrize("known", ["class", "restored without the class"])
def test_a_parsed_answer_comes_back(known: str) -> None:
    """Aliases, decimals and dates survive the file; without the class it is a dict."""
    schema = answer_schema(Bill)
    text = '{"Total": 12.30, "on": "2026-11-22"}'
    stored = row(says(text), job(schema.digest), schemas={schema.digest: schema})
    stored = orjson.loads(orjson.dumps(stored))
    if known == "class":
        result = from_row(stored, {schema.digest: schema})
        assert result.parsed_response == Bill(Total=Decimal("12.30"), on=date(2026, 11, 22))
        assert str(result.parsed_response.total) == "12.30"
    else:
        plain = replace(schema, model=None)
        result = from_row(stored, {schema.digest: plain})
        assert isinstance(result.parsed_response, dict)
        assert result.parsed_response["on"] == "2026-11-22"


@pytest.mark.parametrize(
    ("text", "stop", "code"),
    [
        ("no json", "end_turn", "invalid_json"),
        ('{"Total": "x", "on": "2026-11-22"}', "end_turn", "invalid_output"),
        ('{"Total": 1, "on": "20', "max_tokens", "truncated"),
    ],
)
def test_an_answer_that_does_not_fit_is_a_failure_with_its_text(
    text: str, stop: str, code: str
) -> None:
    """Never a success with None."""
    schema = answer_schema(Bill)
    reply = says(text, stop_reason=stop)
    found = row(reply, job(schema.digest), schemas={schema.digest: schema})
    assert (found["status"], found["error_code"], found["raw_response"]) == ("failed", code, text)
    assert found["cost_usd"] == 0.0003


def test_every_row_has_the_same_flat_columns() -> None:
    """Answered, failed, missing and unsent rows have one set of columns, none of them nested."""
    rows = [
        row(says("x")),
        row(Reply("x-0", "errored")),
        reading().missing(job(), 0, "missing", "no row"),
        blank_row(job(), "p", "m"),
    ]
    assert len({tuple(found) for found in rows}) == 1
    assert not any(isinstance(value, dict) for found in rows for value in found.values())


def test_attempts_are_merged_oldest_first_with_their_cost() -> None:
    """Every attempt counts towards what the job cost."""
    first = orjson.loads(row(says("", stop_reason="max_tokens"))["attempts_json"])
    result = from_row(merge_attempts(row(says("done")), first), {})
    assert [attempt.error_code for attempt in result.attempts] == ["truncated", None]
    assert result.cost_usd == pytest.approx(0.0006)


def test_a_result_survives_its_own_dict() -> None:
    """`from_dict(to_dict())` gives the same result, and the original's files are read too."""
    result = from_row(row(says("hello")), {})
    assert JobResult.from_dict(result.to_dict()) == result
    old = JobResult.from_dict({"job_id": "x", "raw_response": None, "error": "boom"})
    assert (old.status, old.is_success) == ("failed", False)


@pytest.mark.parametrize(
    ("texts", "final"),
    [
        (["I look. ", '{"Total": 1, "on": "2026-01-02"}'], 1),
        (["Here it is:", '{"Total": 1, "on": "2026-01-02"}'], 0),
        (['{"Total": 1, ', '"on": "2026-01-02"}'], 0),
        (['{"Total": 1, "on": "2026-01-02"}'], 1),
    ],
)
def test_a_form_may_stand_behind_remarks(texts: list[str], final: int) -> None:
    """Behind the last work of a tool, as the last of several texts, or as all of them."""
    schema = answer_schema(
        {"type": "object", "properties": {"Total": {"type": "integer"}, "on": {"type": "string"}}}
    )
    source = Reading(CHUNK, "batch_1", PRICES, {schema.digest: schema})
    blocks = tuple(TextBlock(text) for text in texts)
    reply = Reply("x-0", "succeeded", blocks, USAGE, "end_turn", final=final)
    found = source.row(reply, job(schema.digest), Decimal(0))
    assert orjson.loads(found["parsed_response_json"]) == {"Total": 1, "on": "2026-01-02"}
