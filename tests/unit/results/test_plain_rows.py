"""Rows that are filled into a form are the rows that are made one by one."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.jobs.spool import Context, Stored, pack
from batchata_prefect.jobs.spool.layout import unpack
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book
from batchata_prefect.providers.openai.batches import OpenAI
from batchata_prefect.results.answer_file import open_answers
from batchata_prefect.results.codes import CUTS, ENDS
from batchata_prefect.results.plain_rows import Bills, PlainRows
from batchata_prefect.results.read import collect
from batchata_prefect.results.row import Reading
from batchata_prefect.results.tally import Tally

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
COUNTS = st.integers(0, 10**9)
FEES = st.dictionaries(st.just("web_searches"), st.integers(1, 9))
USAGES = st.builds(
    Usage,
    *(COUNTS, COUNTS, COUNTS, COUNTS, st.just(0), COUNTS),
    fees=FEES.map(lambda fees: tuple(sorted(fees.items()))),
    passes=st.just(()),
    tier=st.none(),
    region=st.none(),
)

price_book().knows("openai", "gpt-6-luna")  # the price table loads once, and not inside an example


def reading(model: str = "gpt-6-luna", batch_id: str | None = "batch_50%_ü") -> Reading:
    chunk = Chunk(0, 2, "ab" * 32, "openai", "/v1/chat/completions", model, 9, 0, 0, 0, None)
    return Reading(chunk, batch_id, price_book(), {})


@given(
    text=TEXTS,
    usage=USAGES,
    stop=st.sampled_from(["end_turn", "max_tokens", None, "stop_sequence", "tool_use", "new"]),
    job_id=TEXTS,
    nth=st.sampled_from([0, 2]),
    metadata=st.dictionaries(TEXTS, TEXTS | COUNTS | st.none(), max_size=3),
    tags=st.lists(TEXTS, max_size=2),
    model=st.sampled_from(["gpt-6-luna", "of-unknown-price"]),
    accepts=st.booleans(),
)
def test_a_filled_row_is_the_row_made_one_by_one(
    text, usage, stop, job_id, nth, metadata, tags, model, accepts
):
    """Any text, id, metadata, tags and usage give the same bytes both ways, and the same cost."""
    how = reading(model)
    reply = Reply("c", "succeeded", (TextBlock(text),), usage, stop)
    context = {"id": job_id, "metadata": metadata, "tags": tags}
    stored = unpack(pack(context | ({"accept_truncated": True} if accepts else {})), nth)
    bills = Bills(how)
    bill = bills.add(reply)
    row = PlainRows(how).row(reply, stored, bill)
    name = f"{job_id}-{nth}" if nth else job_id
    job = Context(name, metadata, tags=tuple(tags), accept_truncated=accepts)
    slow = how.row(reply, job, how.cost(reply))
    completed = slow["status"] == "completed"
    assert completed == (stop in ENDS or (accepts and stop in CUTS)) or text.isspace()
    assert row == (orjson.dumps(slow) + b"\n" if completed else None)
    bills.close()
    assert bills.cost == how.cost(reply)
    assert bills.usage == usage


@pytest.mark.parametrize(
    ("reply", "job"),
    [
        (Reply("c", "succeeded", (), Usage()), {}),
        (Reply("c", "succeeded", (TextBlock("a"), TextBlock("b")), Usage()), {}),
        (Reply("c", "succeeded", (TextBlock("\n"),), Usage()), {}),
        (Reply("c", "succeeded", (TextBlock("No."),), Usage(1, 1), "refusal", "refusal"), {}),
        (Reply("c", "succeeded", (TextBlock("a"),), None, "end_turn"), {}),
        (Reply("c", "errored", (TextBlock("a"),), Usage(1), error_code="x"), {}),
        (Reply("c", "succeeded", embedding=(1.0,), usage=Usage(3)), {}),
        (Reply("c", "succeeded", (TextBlock("a"),), Usage()), {"schema": "d"}),
        (Reply("c", "succeeded", (TextBlock("a"),), Usage()), {"citations": "native"}),
    ],
)
def test_what_is_no_ordinary_answer_is_not_filled_in(reply: Reply, job: dict[str, Any]):
    """Refusals, errors, several blocks, no text, asked forms and citations take the other way."""
    how = reading()
    stored = unpack(pack({"id": "a", **job}), 0)
    assert PlainRows(how).row(reply, stored, Bills(how).add(reply)) is None


@given(st.lists(st.tuples(USAGES, st.sampled_from(["end_turn", "refusal"])), max_size=30))
def test_bills_add_up_to_the_sum_of_the_replies(asked):
    """However many answers share a usage, the sums are those of the replies one by one."""
    how = reading()
    replies = [Reply("c", "succeeded", (TextBlock("a"),), *each) for each in asked]
    bills = Bills(how)
    for reply in [*replies, *replies]:
        bills.add(reply)
    bills.close()
    assert bills.cost == 2 * sum((how.cost(reply) or 0 for reply in replies), Decimal(0))
    total = [sum(counts) for counts in zip(*(usage[:6] for usage, _ in asked), strict=True)]
    assert list(bills.usage[:6]) == [2 * count for count in total or [0] * 6]
    searches = sum(dict(usage.fees).get("web_searches", 0) for usage, _ in asked)
    assert dict(bills.usage.fees) == ({"web_searches": 2 * searches} if searches else {})


class _Jobs:
    """Jobs by their ordinal, in memory."""

    has_continued = False

    def hold(self, ordinals: Any) -> None: ...

    def stored(self, ordinal: int) -> Stored:
        return unpack(pack({"id": f"job-{ordinal}"}), 0)

    def context(self, ordinal: int) -> Context:
        return Context(f"job-{ordinal}", {})


def test_a_chunk_of_all_kinds_of_rows_is_read_in_one_pass(tmp_path: Path):
    """Ordinary, failed, foreign, repeated and missing rows each get the mark and row they had."""
    how = reading()
    chunk = how.chunk
    body = {
        "choices": [{"message": {"content": "Ja"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }

    def row(custom_id: str, **more: Any) -> bytes:
        response = {"status_code": 200, "body": body}
        line = {"custom_id": custom_id, "response": response, "error": None, **more}
        return orjson.dumps(line) + b"\n"

    failed = {"response": {"status_code": 500, "body": {"error": {"code": "server_error"}}}}
    replies = tmp_path / "replies"
    replies.write_bytes(
        row(chunk.custom_id(3))
        + row(chunk.custom_id(0), **failed)
        + row("of-another-chunk")
        + row(chunk.custom_id(3))
        + row(chunk.custom_id(5))
        + row(chunk.custom_id(1))
    )
    found = collect(
        how,
        replies,
        tmp_path / "answers",
        [10, 11, 12, 13, 14, -1, 16, 17, 18],
        _Jobs(),  # pyright: ignore[reportArgumentType]
        OpenAI().read,
        no_reply=lambda _: ("r", "missing", "no row"),
    )
    assert found.marks == "rarararrr"
    assert (found.strangers, found.unreadable) == (2, 0)
    assert found.usage == Usage(12, 6)
    answers = open_answers(tmp_path / "answers")
    assert answers is not None
    rows = {place: orjson.loads(row) for place, row in answers.rows()}
    assert list(rows) == [3, 1, 0, 2, 4, 6, 7, 8]
    assert [row["job_id"] for row in rows.values()] == [f"job-{10 + place}" for place in rows]
    told = Tally()
    for row in rows.values():
        told.add(row)
    assert answers.tally == told
