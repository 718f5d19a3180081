"""Result rows of both providers, read into one form."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.errors import ParseError

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"


def claude_row(result: dict[str, Any]) -> bytes:
    return json.dumps({"custom_id": "c-0", "result": result}).encode()


def claude_answer(**message: Any) -> bytes:
    return claude_row({"type": "succeeded", "message": message})


def gpt_row(body: Any, status: int = 200, error: Any = None) -> bytes:
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps(
        {"id": "x", "custom_id": "c-0", "response": response, "error": error}
    ).encode()


def completion(message: dict[str, Any], finish: str | None = "stop", **rest: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return gpt_row({"object": "chat.completion", "choices": [choice], **rest})


def response(output: list[Any], **rest: Any) -> bytes:
    return gpt_row({"object": "response", "status": "completed", "output": output, **rest})


def recorded(real: Path, file: str) -> Any:
    return json.loads((real / "corpus" / file).read_bytes())


def test_every_recorded_message_is_read(real: Path, claude):
    """Each recorded message is an answer with all its text, its usage and its reason to stop."""
    seen = 0
    for path in sorted((real / "corpus" / "anthropic").glob("*.json")):
        content = json.loads(path.read_bytes())
        for call in content.get("exchanges") or [content]:
            message = call.get("response")
            if not isinstance(message, dict) or message.get("type") != "message":
                continue
            seen += 1
            reply = claude.read(claude_answer(**message), "/v1/messages")
            texts = [block["text"] for block in message["content"] if block["type"] == "text"]
            kinds = {block["type"] for block in message["content"]}
            usage = message["usage"]
            assert reply.text == "".join(texts), path.name
            assert reply.stop_reason == message["stop_reason"]
            assert reply.usage is not None
            assert reply.usage.output_tokens == usage["output_tokens"]
            assert reply.usage.input_tokens == (
                usage["input_tokens"]
                + usage.get("cache_creation_input_tokens", 0)
                + usage.get("cache_read_input_tokens", 0)
            )
            if kinds & {"thinking", "redacted_thinking"}:
                assert reply.has_thinking
    assert seen > 20


def test_every_recorded_result_row_is_read(real: Path, claude, gpt):
    """Rows of recorded and quoted batches of both providers are read as what they say."""
    rows = {"anthropic": 0, "openai": 0}
    for path in sorted((real / "corpus").glob("*/seq-*.json")):
        provider = {"anthropic": claude, "openai": gpt}[path.parent.name]
        for call in json.loads(path.read_bytes())["exchanges"]:
            lines = (call.get("response") or {}).get("jsonl") or []
            for line in lines:
                reply = provider.read(json.dumps(line).encode(), CHAT)
                assert (reply.outcome, reply.error_code) == ("succeeded", None)
                assert reply.custom_id == line["custom_id"]
                assert reply.text
                rows[path.parent.name] += 1
    assert min(rows.values()) >= 3
    for result in recorded(real, "anthropic/ended-with-results-ellmer.json")["results"]:
        assert claude.read(claude_row(result), "").text
    for result in recorded(real, "openai/completed-responses-ellmer.json")["results"]:
        reply = gpt.read(gpt_row(result["body"]), RESPONSES)
        assert reply.text
        assert reply.usage and reply.usage.input_tokens


@pytest.mark.parametrize(
    "file",
    ["chat-cache-read", "chat-parse", "chat-text", "responses-cache-read", "responses-parse"],
)
def test_every_recorded_openai_answer_is_read(real: Path, gpt, file: str):
    """Recorded bodies of both text endpoints give their text and usage, cached input within it."""
    found = recorded(real, f"openai/{file}.json")["response"]
    reply = gpt.read(gpt_row(found), CHAT)
    usage = found["usage"]
    assert reply.text
    assert reply.usage is not None
    assert reply.usage.input_tokens == usage.get("prompt_tokens", usage.get("input_tokens"))
    if "cache-read" in file:
        assert 0 < reply.usage.cache_read_tokens < reply.usage.input_tokens


def test_recorded_errors_keep_the_providers_code(real: Path, claude, gpt):
    """Error rows keep the provider's code and text, out of any nesting."""
    bad = recorded(real, "anthropic/result-line-errored-bad-model.json")["response"]
    reply = claude.read(json.dumps(bad).encode(), "")
    assert (reply.outcome, reply.error_code) == ("errored", "not_found_error")
    assert reply.error == "model: claude-does-not-exist-9"
    for file, status, code in [
        ("responses-temperature-error", 400, "invalid_request_error"),
        ("context-length-error", 400, "context_length_exceeded"),
        ("responses-error-fixture", 429, "insufficient_quota"),
    ]:
        found = recorded(real, f"openai/{file}.json")["response"]
        reply = gpt.read(gpt_row(found, status), RESPONSES)
        assert (reply.outcome, reply.error_code) == ("errored", code)
        assert reply.error == found["error"]["message"]


@pytest.mark.parametrize(
    ("file", "outcome"),
    [
        ("anthropic/result-line-canceled.json", "canceled"),
        ("anthropic/result-line-expired-documented.json", "expired"),
        ("openai/error-line-expired-documented.json", "expired"),
    ],
)
def test_requests_that_never_ran_say_so(real: Path, claude, gpt, file: str, outcome: str):
    """A canceled or expired request has one code for both providers, and a text."""
    provider = claude if file.startswith("anthropic") else gpt
    reply = provider.read(json.dumps(recorded(real, file)["response"]).encode(), CHAT)
    assert (reply.outcome, reply.error_code) == (outcome, outcome)
    assert reply.error


def test_recorded_refusal_has_its_explanation(real: Path, claude):
    """A refusal is an answer that was given, with code `refusal` and the provider's reason."""
    message = recorded(real, "anthropic/refusal.json")["response"]
    reply = claude.read(claude_answer(**message), "")
    assert (reply.outcome, reply.stop_reason, reply.error_code) == (
        "succeeded",
        "refusal",
        "refusal",
    )
    assert "Usage Policy" in (reply.error or "")


def test_recorded_citations_are_kept_as_they_came(real: Path, claude):
    """Citations stay with their piece of text, untouched."""
    message = recorded(real, "anthropic/citations-char-location.json")["response"]
    message = message if "content" in message else message["message"]
    reply = claude.read(claude_answer(**message), "")
    wanted = [
        TextBlock(block["text"], tuple(block.get("citations") or ()))
        for block in message["content"]
        if block["type"] == "text"
    ]
    assert reply.blocks == tuple(wanted)
    assert any(block.citations for block in reply.blocks)


def test_recorded_embedding_is_read(real: Path, gpt):
    """An embedding is the vector, as floats or in base64."""
    found = recorded(real, "openai/embedding.json")["response"]
    reply = gpt.read(gpt_row(found), EMBEDDINGS)
    assert list(reply.embedding or ()) == found["data"][0]["embedding"]
    packed = base64.b64encode(struct.pack("<3f", 0.5, -1.0, 2.0)).decode()
    body = {"object": "list", "data": [{"embedding": packed}], "usage": {"prompt_tokens": 3}}
    reply = gpt.read(gpt_row(body), EMBEDDINGS)
    assert reply.embedding == (0.5, -1.0, 2.0)
    assert reply.usage == Usage(input_tokens=3)


def test_usage_has_one_meaning_for_both(claude, gpt):
    """Cached input is inside of input, thinking inside of output, whatever the provider counts."""
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
    }
    wanted = Usage(140, 50, 100, 30, 20, 40)
    assert claude.read(claude_answer(content=[], usage=usage), "").usage == wanted
    wanted = Usage(140, 50, 100, 30, 0, 40)
    chat = {
        "prompt_tokens": 140,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    assert gpt.read(completion({"content": "x"}, usage=chat), CHAT).usage == wanted
    other = {
        "input_tokens": 140,
        "output_tokens": 50,
        "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
        "output_tokens_details": {"reasoning_tokens": 40},
    }
    assert gpt.read(response([], usage=other), RESPONSES).usage == wanted


_SAID = [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
_CUT = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}


@pytest.mark.parametrize(
    ("row", "stop"),
    [
        (completion({"content": "x"}, "stop"), "end_turn"),
        (completion({"content": "x"}, "length"), "max_tokens"),
        (completion({"content": None}, "tool_calls"), "tool_use"),
        (completion({"content": "x"}, "something_new"), "something_new"),
        (completion({"content": "x"}, None), None),
        (completion({"content": "x"}, ""), None),
        (completion({"content": "x"}, "STOP"), "end_turn"),
        (response(_SAID, **{**_CUT, "incomplete_details": None}), "incomplete: no reason given"),
        (
            response(_SAID, status="incomplete", incomplete_details={"reason": "max_messages"}),
            "incomplete: max_messages",
        ),
        (response(_SAID, status="in_progress"), "in_progress"),
        (response(_SAID), "end_turn"),
        (response(_SAID, **_CUT), "max_tokens"),
        (response([*_SAID, {"type": "function_call", "name": "f"}]), "tool_use"),
    ],
)
def test_reasons_to_stop_are_told_in_anthropics_words(gpt, row: bytes, stop: str | None):
    """OpenAI's finish reasons and response states have the same names as Anthropic's."""
    reply = gpt.read(row, CHAT)
    assert (reply.outcome, reply.stop_reason, reply.error_code) == ("succeeded", stop, None)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (completion({"content": None, "refusal": "I can't."}), "I can't."),
        (completion({"content": ""}, "content_filter"), "the model refused"),
        (completion({"content": "Half"}, "content_filter"), "content filter"),
        (
            response([{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]),
            "No.",
        ),
        (
            response([], status="incomplete", incomplete_details={"reason": "content_filter"}),
            "refu",
        ),
    ],
)
def test_openai_refusals_are_refusals(gpt, row: bytes, error: str):
    """Every form of a refusal has the same reason to stop and the same code."""
    reply = gpt.read(row, CHAT)
    assert (reply.outcome, reply.stop_reason, reply.error_code) == (
        "succeeded",
        "refusal",
        "refusal",
    )
    assert error in (reply.error or "")


def test_answers_that_thinking_ate_up_say_so(claude, gpt):
    """An empty answer that was cut off is known to hold thinking."""
    usage = {"input_tokens": 1, "output_tokens": 5}
    blocks = [{"type": "thinking", "thinking": "", "signature": "s"}]
    reply = claude.read(claude_answer(content=blocks, stop_reason="max_tokens", usage=usage), "")
    assert (reply.text, reply.stop_reason, reply.has_thinking) == ("", "max_tokens", True)
    spent = {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 5}}
    reply = gpt.read(completion({"content": ""}, "length", usage=spent), CHAT)
    assert (reply.text, reply.stop_reason, reply.has_thinking) == ("", "max_tokens", True)
    reply = gpt.read(response([{"type": "reasoning", "summary": []}], **_CUT), RESPONSES)
    assert (reply.text, reply.stop_reason, reply.has_thinking) == ("", "max_tokens", True)


@pytest.mark.parametrize(
    ("row", "outcome", "code"),
    [
        (gpt_row(None, error={"code": "batch_cancelled", "message": "m"}), "canceled", "canceled"),
        (gpt_row({"error": {"type": "server_error"}}, 500), "errored", "server_error"),
        (gpt_row("<html>", 502), "errored", "http_502"),
        (gpt_row({}, 503), "errored", "http_503"),
        (b'{"custom_id":"c-0"}', "errored", "unknown_result"),
        (b'{"custom_id":"c-0","response":null,"error":null}', "errored", "unknown_result"),
        (
            response([], status="failed", error={"code": "server_error", "message": "m"}),
            "errored",
            "server_error",
        ),
        (gpt_row({"object": "novelty"}), "succeeded", "unreadable_reply"),
        (gpt_row({"choices": []}), "succeeded", "unreadable_reply"),
        (gpt_row({"data": [{"embedding": None}]}), "succeeded", "unreadable_reply"),
        (gpt_row({"data": ["x"]}), "succeeded", "unreadable_reply"),
    ],
)
def test_odd_openai_rows_are_no_crash(gpt, row: bytes, outcome: str, code: str):
    """A row of an unknown form is a reply with a code, not an exception."""
    reply = gpt.read(row, CHAT)
    assert (reply.custom_id, reply.outcome, reply.error_code) == ("c-0", outcome, code)


@pytest.mark.parametrize(
    ("row", "outcome", "code"),
    [
        (claude_row({"type": "novelty"}), "errored", "novelty"),
        (b'{"custom_id":"c-0"}', "errored", "unknown_result"),
        (claude_row({"type": "errored"}), "errored", "errored"),
        (claude_row({"type": "errored", "error": {"type": "api_error"}}), "errored", "api_error"),
        (claude_answer(content=None), "succeeded", "unreadable_reply"),
        (claude_answer(content="Text"), "succeeded", None),
        (claude_answer(content=[None, {"type": "novelty", "text": "x"}]), "succeeded", None),
        (claude_answer(content=[{"type": "text", "text": None}], usage="x"), "succeeded", None),
    ],
)
def test_odd_claude_rows_are_no_crash(claude, row: bytes, outcome: str, code: str | None):
    """A row of an unknown form is a reply with a code, not an exception."""
    reply: Reply = claude.read(row, "")
    assert (reply.custom_id, reply.outcome, reply.error_code) == ("c-0", outcome, code)


@pytest.mark.parametrize(
    "row", [b"", b'{"custom_id":"c', b"[]", b"7", b'{"id":1}', b'{"custom_id":1}']
)
def test_what_is_no_row_is_told(claude, gpt, row: bytes):
    """Something that is not JSON, or names no request, is a parse error."""
    for provider in (claude, gpt):
        with pytest.raises(ParseError):
            provider.read(row, CHAT)
