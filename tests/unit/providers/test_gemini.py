"""Gemini's requests and rows: what is asked for, what is refused, and what an answer means."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import orjson
import pytest
from pydantic import BaseModel

from batchata_prefect.answers import Usage
from batchata_prefect.content.documents import load_bytes
from batchata_prefect.errors import MissingCredentialsError, ValidationError
from batchata_prefect.money.ledger import AGAIN, FAILED
from batchata_prefect.providers import price_book, provider_for, wire
from batchata_prefect.providers.bodies import held_in, reworded, roomier
from batchata_prefect.providers.failures import NotSentError
from batchata_prefect.providers.gemini import Gemini
from batchata_prefect.results.codes import mark, unfinished

from .conftest import PNG, body, gemini_job, pdf
from .orders import Order, answers, finished, run

KEY = "0123456789abcdef-0"
COUNTS = {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}


class Bill(BaseModel):
    total: float
    kind: Literal["invoice"]
    note: str | None = None


def test_a_prompt_with_documents_is_one_turn(gemini, conforms):
    """Documents and images go as inline data, texts by their title, before the prompt."""
    job = gemini_job(
        file=[b"Some text", pdf(2), PNG],
        prompt="What?",
        temperature=0.2,
        max_tokens=100,
        params={"system": "Be brief.", "top_p": 0.5, "thinking_config": {"thinkingBudget": 0}},
    )
    request = gemini.render(job)
    conforms(request)
    sent = body(request)
    assert request.endpoint == "/models/gemini-2.5-flash:generateContent"
    assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert sent["generationConfig"] == {
        "maxOutputTokens": 100,
        "temperature": 0.2,
        "topP": 0.5,
        "thinkingConfig": {"thinkingBudget": 0},
    }
    (turn,) = sent["contents"]
    text, file, image, prompt = turn["parts"]
    assert turn["role"] == "user"
    assert text["text"].endswith("Some text")
    assert file["inlineData"]["mimeType"] == "application/pdf"
    assert image["inlineData"]["mimeType"] == "image/png"
    assert prompt == {"text": "What?"}
    assert request.estimate.output_bound == 100
    assert request.estimate.input_bound > 2 * 2_240
    held = held_in(request.body, request.sources).documents
    assert [document is not None for document in held] == [True, True, False]


def test_a_conversation_of_any_provider_is_taken(gemini, conforms):
    """Roles and parts of the other providers become Gemini's."""
    data = orjson.loads(gemini.render(gemini_job(file=PNG, prompt="a")).body)
    blob = data["contents"][0]["parts"][0]["inlineData"]
    url = f"data:image/png;base64,{blob['data']}"
    parts = [
        "plain",
        {"type": "text", "text": "typed"},
        {"text": "own"},
        {"type": "image_url", "image_url": {"url": url}},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": blob["data"]},
        },
        {"inline_data": {"mime_type": "image/png", "data": blob["data"]}},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on."},
    ]
    request = gemini.render(gemini_job(messages=messages))
    conforms(request)
    sent = body(request)
    assert [turn["role"] for turn in sent["contents"]] == ["user", "model", "user"]
    assert sent["contents"][0]["parts"] == [
        {"text": "plain"}, {"text": "typed"}, {"text": "own"}, *[{"inlineData": blob}] * 3,
    ]  # fmt: skip
    again = reworded(request.body, '{"total": 1', "no JSON")
    assert again is not None
    turns = orjson.loads(again.body)["contents"]
    assert [turn["role"] for turn in turns[3:]] == ["model", "user"]
    assert turns[3]["parts"] == [{"text": '{"total": 1'}]
    more = roomier(request.body, 5_000)
    assert more is not None
    assert orjson.loads(more.body)["generationConfig"]["maxOutputTokens"] == 5_000


def test_a_form_is_asked_for_by_its_json_schema(gemini, conforms):
    """A constant is a choice of one, and what is not documented is told in words."""
    request = gemini.render(gemini_job(response_model=Bill))
    conforms(request)
    config = body(request)["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["properties"]["kind"]["enum"] == ["invoice"]
    assert config["responseJsonSchema"]["required"] == ["total", "kind"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": "models/gemini-2.5-flash"}, "without 'models/'"),
        ({"model": "gemini-embedding-2"}, "embeddings"),
        ({"endpoint": "/v1/messages"}, "only take"),
        ({"max_tokens": 70_000}, "65,536"),
        ({"params": {"n": 2}}, "one answer"),
        ({"params": {"candidate_count": 2}}, "one answer"),
        ({"params": {"frequency_penaltee": 1}}, "frequency_penaltee"),
        ({"params": {"generation_config": 7}}, "object"),
        ({"params": {"tools": [{"google_search": {}}]}}, "google_search"),
        ({"params": {"tools": [{"type": "function"}]}}, "function_declarations"),
        ({"params": {"timeout": 3}}, "SDK"),
        ({"params": {"response_schema": {}}, "response_model": Bill}, "response_model"),
        ({"enable_citations": True, "file": b"a", "prompt": "b"}, "citations='quoted'"),
        ({"cache_prefix": True}, "caches by itself"),
        ({"messages": [{"role": "user", "content": ""}]}, "no content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "role"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            "only taken at the start",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "search_result"}]}]},
            "search_result",
        ),
    ],
)
def test_what_gemini_does_not_take_is_refused_before_payment(gemini, values, told):
    """The error names the job and the way out."""
    with pytest.raises(ValidationError, match=told) as refused:
        gemini.render(gemini_job(**values))
    assert "job 'j'" in str(refused.value)


def test_defaults_that_gemini_does_not_take_are_left_out(gemini):
    """Where they are the batch's and not the job's own."""
    defaulted = frozenset({"cache_prefix", "enable_citations"})
    request = gemini.render(
        gemini_job(cache_prefix=True, enable_citations=True, defaulted=defaulted)
    )
    assert set(request.left_out) == defaulted


def row(**rest: Any) -> bytes:
    return orjson.dumps({"key": KEY, **rest})


def said(reason: str | None = "STOP", *parts: Any, usage: Any = COUNTS, **more: Any) -> bytes:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "finishReason": reason}
    return row(response={"candidates": [{**candidate, **more}], "usageMetadata": usage})


@pytest.mark.parametrize(
    ("reason", "stop", "code", "then"),
    [
        ("STOP", "end_turn", None, None),
        ("MAX_TOKENS", "max_tokens", None, "truncated"),
        ("SAFETY", "safety", "refusal", None),
        ("RECITATION", "recitation", "refusal", None),
        ("PROHIBITED_CONTENT", "prohibited_content", "refusal", None),
        ("SPII", "spii", "refusal", None),
        ("BLOCKLIST", "blocklist", "refusal", None),
        ("MALFORMED_FUNCTION_CALL", "malformed_function_call", None, "unknown_stop"),
        ("OTHER", "other", None, "unknown_stop"),
        ("NEW_ONE", "new_one", None, "unknown_stop"),
    ],
)
def test_reasons_to_stop(gemini, reason, stop, code, then):
    """Ends, cuts and refusals are told apart, and a new reason is no end."""
    reply = gemini.read(said(reason, {"text": "Hi"}), "")
    assert (reply.stop_reason, reply.error_code, reply.text) == (stop, code, "Hi")
    assert reply.usage == Usage(9, 5)
    if code is None:
        assert (unfinished(reply, accepts_cut=False) or (None,))[0] == then
    else:
        assert mark(reply, code) == FAILED


def test_parts_of_an_answer(gemini):
    """Thoughts are no answer, calls and pictures are kept."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    call = {"functionCall": {"id": "c", "name": "f", "args": {"n": 10}}}
    usage = {
        **COUNTS,
        "thoughtsTokenCount": 7,
        "cachedContentTokenCount": 4,
        "toolUsePromptTokenCount": 2,
    }
    parts = ({"text": "Hm", "thought": True}, {"text": "A"}, {"text": "B"}, picture, call)
    reply = gemini.read(said("STOP", *parts, usage=usage), "")
    assert (reply.text, reply.stop_reason, reply.has_thinking) == ("AB", "tool_use", True)
    assert reply.usage == Usage(11, 12, 4, reasoning_tokens=7)
    assert [item["type"] for item in reply.items] == ["thinking", "inlineData"]
    assert reply.tool_calls[0]["name"] == "f"


@pytest.mark.parametrize(
    ("raw", "outcome", "code", "letter"),
    [
        (row(error={"code": 3, "message": "m"}), "errored", "invalid_argument", FAILED),
        (row(error={"code": 8, "message": "m"}), "errored", "resource_exhausted", AGAIN),
        (row(error={"code": 13, "message": "m"}), "errored", "internal", AGAIN),
        (row(error={"code": 14, "message": "m"}), "errored", "unavailable", AGAIN),
        (row(error={"code": 503, "status": "UNAVAILABLE"}), "errored", "unavailable", AGAIN),
        (row(error={"code": 400, "status": "ABORTED"}), "errored", "aborted", FAILED),
        (row(error="no"), "errored", "unknown_result", FAILED),
        (row(), "errored", "unknown_result", FAILED),
        (row(response={"usageMetadata": COUNTS}), "succeeded", "unreadable_reply", FAILED),
        (row(response={"candidates": [7]}), "succeeded", "unreadable_reply", FAILED),
        (row(response={"promptFeedback": {"blockReason": "OTHER"}}), "succeeded", "refusal", FAILED),  # noqa: E501
    ],
)  # fmt: skip
def test_rows_without_an_answer(gemini, raw, outcome, code, letter):
    """A row's code is one of google.rpc, and says whether the job goes again."""
    reply = gemini.read(raw, "")
    assert (reply.outcome, reply.error_code, reply.custom_id) == (outcome, code, KEY)
    assert mark(reply, reply.error_code) == letter


def test_a_request_that_was_canceled_says_so(gemini):
    assert gemini.read(row(error={"code": 1, "message": "m"}), "").outcome == "canceled"


@pytest.mark.parametrize(
    "usage", [{}, {"promptTokenCount": -1}, {"promptTokenCount": 1}, {"promptTokenCount": "x"}]
)
def test_counts_that_are_not_told_are_not_zero(gemini, usage):
    """What the answer cost is then unknown."""
    assert gemini.read(said("STOP", {"text": "a"}, usage=usage), "").usage is None


def test_an_answer_of_thoughts_alone_is_billed(gemini):
    """Where nothing was written its count is left out."""
    usage = {"promptTokenCount": 9, "thoughtsTokenCount": 50, "totalTokenCount": 59}
    reply = gemini.read(said("MAX_TOKENS", usage=usage), "")
    assert (reply.usage, reply.stop_reason) == (Usage(9, 50, reasoning_tokens=50), "max_tokens")


@pytest.mark.parametrize(
    ("state", "more", "shown", "ending"),
    [
        ("BATCH_STATE_PENDING", {}, "in_progress", None),
        ("JOB_STATE_QUEUED", {}, "in_progress", None),
        ("BATCH_STATE_RUNNING", {}, "in_progress", None),
        ("JOB_STATE_CANCELLING", {}, "canceling", None),
        ("BATCH_STATE_SUCCEEDED", {"done": True}, "ended", "ended"),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", {}, "ended", "ended"),
        ("BATCH_STATE_CANCELLED", {"error": {"code": 1}}, "ended", "canceled"),
        ("BATCH_STATE_EXPIRED", {}, "ended", "expired"),
        ("BATCH_STATE_FAILED", {"error": {"code": 3, "message": "m"}}, "ended", "failed"),
        ("BATCH_STATE_FAILED", {"response": {"responsesFile": "files/r"}}, "ended", "ended"),
        ("BATCH_STATE_TOMORROW", {}, "in_progress", None),
        ("BATCH_STATE_TOMORROW", {"done": True}, "ended", "ended"),
        ("BATCH_STATE_TOMORROW", {"done": True, "error": {"code": 13}}, "ended", "failed"),
    ],
)
def test_states_of_a_batch(gemini, state, more, shown, ending):
    """On the wire they are BATCH_STATE_..., in the SDK JOB_STATE_..."""
    about = {
        "state": state,
        "displayName": f"batchata-{'a' * 64}",
        "createTime": "2026-11-29T00:00:00.123456789Z",
        "batchStats": {"requestCount": "3"},
    }
    batch = gemini.batch({"name": "batches/b", "metadata": about, **more})
    assert (batch.state, batch.ending, batch.total) == (shown, ending, 3)
    assert batch.input_file_id == f"files/batchata-{'a' * 31}"
    assert batch.created_at is not None
    if ending == "failed":
        assert batch.faults[0].code in {"invalid_argument", "http_500"}


def test_a_model_goes_to_gemini_at_its_batch_price():
    """Half the price, thoughts as output, and the tier of long requests in the bound."""
    assert provider_for("gemini-2.5-flash").name == "gemini"
    prices = price_book()
    usage = Usage(1_000_000, 100_000)
    assert prices.cost("gemini", "gemini-2.5-flash", usage) == Decimal("0.275")
    assert prices.cost("gemini", "gemini-2.5-flash", usage, realtime=True) == Decimal("0.55")
    short = prices.bound("gemini", "gemini-2.5-pro", 200_000, 1_000)
    long = prices.bound("gemini", "gemini-2.5-pro", 200_001, 1_000)
    assert short is not None
    assert long is not None
    assert long > Decimal("1.9") * short
    assert prices.cost("gemini", "gemini-0-unknown", usage) is None


def test_an_elongated_image_is_within_its_bound(gemini):
    """Images are cut into tiles, of which a long one has many."""
    image = replace(load_bytes(PNG, "i.png", job_id="j"), width=256, height=8_000)
    _, bound = gemini.counting.document(image)
    assert bound >= 32 * 258


def test_googles_sdk_is_imported_only_when_it_is_used():
    """Neither importing the package nor a job for another provider loads it."""
    code = (
        "import sys, batchata_prefect\n"
        "from batchata_prefect.providers import provider_for\n"
        "from batchata_prefect.models import Job\n"
        "for model in ('gpt-6-luna', 'gemini-2.5-flash'):\n"
        "    provider_for(model).render(Job(id='a', model=model, prompt='a'))\n"
        "assert not any(name.startswith('google.genai') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_first_use_says_what_to_install(monkeypatch):
    """And nothing of it is a crash."""
    monkeypatch.setitem(sys.modules, "google.genai", None)
    monkeypatch.setitem(sys.modules, "google", None)
    with pytest.raises(MissingCredentialsError, match=r"pip install 'batchata-prefect\[gemini\]'"):
        Gemini().connect()


def test_the_file_of_a_refused_create_is_used_again(sandbox, gemini, tmp_path):
    """Also by a process that knows nothing of it; what is left of it can be withdrawn."""
    pytest.importorskip("google.genai", reason="an extra")
    placed = Order(gemini, tmp_path / "r.jsonl", ["a", "b"], str(tmp_path))
    sandbox.fault("gemini", operation="create", mode="status", status=429)

    async def twice(client: Any) -> None:
        with pytest.raises(Exception, match="RESOURCE_EXHAUSTED"):
            await placed.create(client)
        uploads = sandbox.ledger.calls()["gemini.upload"]
        placed.provider = Gemini()
        batch = await placed.create(client)
        assert sandbox.ledger.calls()["gemini.upload"] == uploads
        ours = await gemini.ours(client, datetime.now(UTC))
        heads = [each.head for each in ours if each.batch.batch_id == batch.batch_id]
        assert heads == [placed.chunk.head]
        assert batch.batch_id in [
            each.batch_id async for page in gemini.listed(client) for each in page
        ]
        done = await finished(gemini, client, batch.batch_id)
        await gemini.discard(client, done)
        await gemini.discard(client, done)
        await gemini.withdraw(client, placed.chunk)
        with pytest.raises(Exception, match="may not exist"):
            await wire.get(client, f"/{batch.input_file_id}", "name")
        assert len(await answers(placed, client, done)) == 2

    run(gemini, twice)


@pytest.mark.parametrize("status", [409, 400])
def test_a_name_that_is_taken_does_not_stop_an_upload(sandbox, gemini, tmp_path, status):
    """It goes up under another; any other refusal is one, and nothing was created."""
    pytest.importorskip("google.genai", reason="an extra")
    placed = Order(gemini, tmp_path / "r.jsonl", ["a"], str(tmp_path))
    sandbox.fault("gemini", operation="file", path="/upload/", mode="status", status=status)

    async def create(client: Any) -> None:
        if status == 400:
            with pytest.raises(NotSentError, match="nothing was created"):
                await placed.create(client)
            return
        batch = await finished(gemini, client, (await placed.create(client)).batch_id)
        assert len(await answers(placed, client, batch)) == 1

    run(gemini, create)
