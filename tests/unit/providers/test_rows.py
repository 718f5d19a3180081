"""Rows as servers really write them: the status decides, and an answer that is there is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.answers import Usage
from batchata_prefect.money.ledger import AGAIN, ANSWERED, FAILED
from batchata_prefect.providers.replies import why_none
from batchata_prefect.results.codes import mark, named, unfinished

CHAT = "/v1/chat/completions"


def gpt_row(**rest: Any) -> bytes:
    return json.dumps({"id": "x", "custom_id": "c-0", **rest}).encode()


def status_row(status: Any, body: Any = None, error: Any = None) -> bytes:
    return gpt_row(response={"status_code": status, "body": body}, error=error)


def claude_row(error: Any, **rest: Any) -> bytes:
    result = {"type": "errored", "error": error, **rest}
    return json.dumps({"custom_id": "c-0", "result": result}).encode()


AIBRIX = "[all_endpoints_failed] all endpoints failed status={0} ([http_error] http://h: HTTP {0})"
OGX = "Error code: {} - Rate limit reached"

GPT_ERRORS = [
    *((status_row(status, {}), AGAIN, f"http_{status}") for status in (0, 408, 409, 425, 429)),
    *((status_row(status, None), AGAIN, f"http_{status}") for status in (500, 502, 529, 599)),
    *((status_row(status, ""), FAILED, f"http_{status}") for status in (400, 401, 404, 422)),
    (status_row("503", {}), AGAIN, "http_503"),
    (status_row(503.0, []), AGAIN, "http_503"),
    (status_row(500, "<html>502 Bad Gateway</html>"), AGAIN, "http_500"),
    (status_row(429, {"error": {"code": "429", "message": "m"}}), AGAIN, "http_429"),
    (status_row(429, {"error": {"code": 429}}), AGAIN, "http_429"),
    (status_row(200, {"error": {"code": 503, "message": "m"}}), AGAIN, "http_503"),
    (status_row(200, {"error": {"code": 400, "message": "m"}}), FAILED, "http_400"),
    (status_row(400, {"error": {"code": "rate_limit_exceeded"}}), FAILED, "http_400"),
    (status_row(500, {"error": {"type": "server_error"}}), AGAIN, "server_error"),
    (status_row(500, {"error": {"type": "invalid_request_error"}}), AGAIN, "http_500"),
    (status_row(400, {"error": {"code": "context_length_exceeded"}}), FAILED, None),
    (status_row(429, {"error": {"code": "insufficient_quota"}}), AGAIN, "insufficient_quota"),
    (status_row(503, {"error": "overloaded"}), AGAIN, "http_503"),
    (status_row(429, '{"error": {"message": "m", "code": "slow_down"}}'), AGAIN, "http_429"),
    (status_row(500, {"object": "error", "message": "m", "code": 500}), AGAIN, "http_500"),
    (status_row(422, {"detail": [{"msg": "bad"}]}), FAILED, "http_422"),
    (gpt_row(response=None, error={"code": 503, "message": "m"}), AGAIN, "http_503"),
    (gpt_row(response=None, error="Too many requests, status code 429"), AGAIN, "http_429"),
    (gpt_row(error={"code": "inference_failed", "message": AIBRIX.format(429)}), AGAIN, "http_429"),
    (gpt_row(error={"code": "inference_failed", "message": AIBRIX.format(500)}), AGAIN, "http_500"),
    (gpt_row(error={"code": "inference_failed", "message": AIBRIX.format(400)}), FAILED, None),
    (gpt_row(error={"type": "request_failed", "message": OGX.format(429)}), AGAIN, "http_429"),
    (gpt_row(error={"type": "request_failed", "message": OGX.format(400)}), FAILED, None),
    (gpt_row(error={"type": "request_failed", "message": "Connection error."}), AGAIN, "http_0"),
    (gpt_row(error={"type": "request_failed", "message": "no status here"}), FAILED, None),
    (gpt_row(error={"code": "server_error", "message": "m"}), AGAIN, "server_error"),
    (gpt_row(error={"code": "invalid_request_error", "message": "HTTP 503"}), FAILED, None),
    (gpt_row(), FAILED, "unknown_result"),
    # Errors in the place of a body, of an error, or of a code; pages and texts that name a status.
    (status_row(200, {"object": "error", "message": "m", "code": 500}), AGAIN, "http_500"),
    (status_row(200, {"object": "error", "type": "Bad", "code": 400}), FAILED, "Bad"),
    (status_row(500, None, error={"error": {"message": "m", "code": 500}}), AGAIN, "http_500"),
    (gpt_row(error={"error": '{"code": "server_error", "message": "m"}'}), AGAIN, "server_error"),
    (gpt_row(error="server_error"), AGAIN, "server_error"),
    (gpt_row(error="<html><title>503 Service Unavailable</title>"), AGAIN, "http_503"),
    (gpt_row(error={"code": "request_failed", "message": "429: slow down"}), AGAIN, "http_429"),
    (gpt_row(error={"message": "litellm.RateLimitError: Error code: 429"}), AGAIN, "http_429"),
    (gpt_row(error={"message": "Client error '429 Too Many Requests' for u"}), AGAIN, "http_429"),
    (gpt_row(error={"code": "request_failed", "message": "503 tokens too many"}), FAILED, None),
]
CLAUDE_ERRORS = [
    (claude_row({"type": "api_error", "message": OGX.format(429)}), AGAIN, "api_error"),
    (claude_row({"type": "api_error", "message": OGX.format(400)}), FAILED, "http_400"),
    (claude_row({"error": {"type": "overloaded_error", "message": "m"}}), AGAIN, None),
    (claude_row({"error": {"type": "invalid_request_error", "message": "HTTP 503"}}), FAILED, None),
    (claude_row({"error": {"type": "529", "message": "m"}}), AGAIN, "http_529"),
    (claude_row('{"error": {"code": 503}}'), AGAIN, "http_503"),
    (claude_row("Bad gateway", status_code="502"), AGAIN, "http_502"),
    (claude_row(None), FAILED, "errored"),
    (claude_row(None, status=503), AGAIN, "http_503"),
    (claude_row("overloaded_error"), AGAIN, "overloaded_error"),
    (claude_row({"message": "<html>502 Bad Gateway</html>"}), AGAIN, "http_502"),
    (
        claude_row(None, type="succeeded", message={"type": "error", "error": {"type": "529"}}),
        AGAIN,
        "http_529",
    ),
]


@pytest.mark.parametrize(("row", "letter", "code"), GPT_ERRORS)
def test_the_status_decides(gpt, row: bytes, letter: str, code: str | None):
    """What says nothing against the request is sent again, whatever the word for it is."""
    reply = gpt.read(row, CHAT)
    assert reply.outcome == "errored"
    assert mark(reply, reply.error_code) == letter
    assert code is None or named(reply.error_code or "", reply.status) == code


@pytest.mark.parametrize(("row", "letter", "code"), CLAUDE_ERRORS)
def test_the_status_decides_for_claude(claude, row: bytes, letter: str, code: str | None):
    """The same in the rows of a Message Batch and of servers that write such rows."""
    reply = claude.read(row, "/v1/messages")
    assert reply.outcome == "errored"
    assert mark(reply, reply.error_code) == letter
    assert code is None or named(reply.error_code or "", reply.status) == code


def test_rows_of_the_cases(gpt, cases: Path):
    """Rows that were final failures are sent again, and a body in a text is read."""
    for line in (cases / "wire" / "rows_5xx.jsonl").read_bytes().splitlines():
        reply = gpt.read(line, CHAT)
        assert mark(reply, reply.error_code) == AGAIN, line
    reply = gpt.read((cases / "wire" / "rows_string_body.jsonl").read_bytes(), CHAT)
    assert (reply.text, reply.usage, reply.error_code) == ("hi", Usage(3, 1), None)


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1}
BODY = {"choices": [CHOICE], "usage": USAGE}


def with_message(content: Any) -> dict[str, Any]:
    return {**BODY, "choices": [{**CHOICE, "message": {"content": content}}]}


@pytest.mark.parametrize(
    ("row", "usage"),
    [
        (status_row(200, BODY), Usage(3, 1)),
        (status_row("200", BODY), Usage(3, 1)),
        (status_row(None, BODY), Usage(3, 1)),
        (status_row(201, {**BODY, "error": None}, error={}), Usage(3, 1)),
        (status_row(200, BODY, error={"code": None, "message": None}), Usage(3, 1)),
        (status_row(200, BODY, error=""), Usage(3, 1)),
        (status_row(200, json.dumps(BODY)), Usage(3, 1)),
        (status_row(200, json.dumps(json.dumps(BODY))), Usage(3, 1)),
        (gpt_row(response=json.dumps({"status_code": 200, "body": BODY})), Usage(3, 1)),
        (gpt_row(response=BODY), Usage(3, 1)),
        (status_row(200, {"choices": [CHOICE]}), None),
        (status_row(200, {**BODY, "usage": None}), None),
        (status_row(200, {**BODY, "usage": {"prompt_tokens": None}}), None),
        (status_row(200, {**BODY, "usage": {"prompt_tokens": 3}}), None),
        (status_row(200, {**BODY, "usage": {"prompt_tokens": 3, "total_tokens": 4}}), Usage(3, 1)),
        (status_row(200, {**BODY, "usage": {**USAGE, "prompt_tokens": "3"}}), Usage(3, 1)),
        (status_row(200, {**BODY, "usage": {**USAGE, "prompt_tokens": 3.0}}), Usage(3, 1)),
        (status_row(200, {**BODY, "choices": [{**CHOICE, "finish_reason": None}]}), Usage(3, 1)),
        (status_row(200, {**BODY, "choices": [{"text": "hi"}]}), Usage(3, 1)),
        (status_row(200, with_message([{"type": "text", "text": "hi"}])), Usage(3, 1)),
        (status_row(200, with_message([{"type": "text", "text": "h"}, "i"])), Usage(3, 1)),
        (status_row(200, with_message({"type": "text", "text": "hi"})), Usage(3, 1)),
        (status_row(200, with_message([{"type": "text", "text": {"value": "hi"}}])), Usage(3, 1)),
        (status_row(200, {**BODY, "choices": [{**CHOICE, "message": "hi"}]}), Usage(3, 1)),
        (
            status_row(200, {**BODY, "choices": [{**CHOICE, "message": '{"content": "hi"}'}]}),
            Usage(3, 1),
        ),
        (gpt_row(body=BODY), Usage(3, 1)),
        (gpt_row(body=json.dumps(BODY), response=None), Usage(3, 1)),
    ],
)
def test_an_answer_that_is_there_is_read(gpt, row: bytes, usage: Usage | None):
    """However loosely the fields around it are filled; without counts its cost is unknown."""
    reply = gpt.read(row, CHAT)
    assert (reply.outcome, reply.text, reply.error_code) == ("succeeded", "hi", None)
    assert reply.usage == usage
    assert mark(reply, None) == ANSWERED


@pytest.mark.parametrize(
    "row", [gpt_row(response=[BODY]), gpt_row(response="hi"), status_row(None, {"said": "hi"})]
)
def test_what_is_there_and_unknown_may_have_been_paid(gpt, row: bytes):
    """It costs an unknown amount and not nothing, and is not sent again."""
    reply = gpt.read(row, CHAT)
    assert (reply.outcome, reply.error_code) == ("succeeded", "unreadable_reply")
    assert reply.usage is None
    assert mark(reply, reply.error_code) == FAILED


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "calls", [[CALL], CALL, json.dumps([CALL]), json.dumps(CALL), [None, CALL]]
)
def test_calls_that_are_there_are_read(gpt, calls: Any):
    """Also one that stands by itself, or in a text."""
    message = {"content": None, "tool_calls": calls}
    reply = gpt.read(status_row(200, {**BODY, "choices": [{"message": message}]}), CHAT)
    assert reply.tool_calls == (CALL,)


@pytest.mark.parametrize("vector", [[], "", "!!", None, {"0": 1}])
def test_no_vector_is_no_embedding(gpt, vector: Any):
    """Also an empty one."""
    row = status_row(200, {"data": [{"embedding": vector}], "usage": {"prompt_tokens": 3}})
    reply = gpt.read(row, "/v1/embeddings")
    assert (reply.embedding, reply.error_code) == (None, "unreadable_reply")
    assert reply.usage == Usage(3, 0)


MESSAGE = {
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


@pytest.mark.parametrize(
    "result",
    [
        {"type": "succeeded", "message": MESSAGE},
        {"type": "succeeded", "message": json.dumps(MESSAGE)},
        {"message": MESSAGE},
        {"type": "completed", "message": MESSAGE, "error": None},
        {"type": "succeeded", "message": {**MESSAGE, "content": "hi"}},
        json.dumps({"type": "succeeded", "message": MESSAGE}),
        {"type": "errored", "message": MESSAGE, "error": None},
        MESSAGE,
        {"type": "message", **MESSAGE},
        {"message": {**MESSAGE, "content": {"type": "text", "text": "hi"}}},
        {"message": {**MESSAGE, "content": ["hi"]}},
        {"message": {**MESSAGE, "content": [{"text": "hi"}, None, 3]}},
        None,
    ],
)
def test_a_message_that_is_there_is_read(claude, result: Any):
    """The same in the rows of a Message Batch."""
    more = {"result": result} if result else {"message": json.dumps(MESSAGE)}
    row = json.dumps({"custom_id": "c-0", **more}).encode()
    reply = claude.read(row, "/v1/messages")
    assert (reply.outcome, reply.text, reply.usage) == ("succeeded", "hi", Usage(3, 1))


def test_a_paused_turn_of_the_cases_is_half_an_answer(claude, cases: Path):
    """It has its text and its usage, and its reason to stop is no end."""
    message = json.loads((cases / "wire" / "pause_turn.json").read_bytes())
    row = json.dumps({"custom_id": "c-0", "result": {"type": "succeeded", "message": message}})
    reply = claude.read(row.encode(), "/v1/messages")
    assert reply.usage is not None
    assert reply.usage.input_tokens == 400_000
    assert unfinished(reply, accepts_cut=True) is not None
    assert (unfinished(reply, accepts_cut=True) or ("",))[0] == "paused"
    request = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    again = claude.continued(json.dumps(request).encode(), row.encode(), goes_on=False)
    assert again is not None
    assert json.loads(again.body)["messages"][1:] == [
        {"role": "assistant", "content": message["content"]}
    ]


def test_a_paused_turn_is_handed_back_as_it_is(claude):
    """But for white space at its end, which the API refuses; further parts join the same turn."""
    request = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    tool = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"n": 2**70}}
    text = {"type": "text", "text": "so far \n", "citations": None}

    def paused(*content: Any) -> bytes:
        message = {"content": content, "stop_reason": "pause_turn", "container": {"id": "box"}}
        result = {"type": "succeeded", "message": message}
        return json.dumps({"custom_id": "c-0", "result": result}).encode()

    again = claude.continued(json.dumps(request).encode(), paused(tool, text), goes_on=False)
    body = json.loads(again.body)
    assert body["messages"][1]["content"] == [tool, {**text, "text": "so far"}]
    assert (body["container"], again.output_bound) == ("box", 9)
    longer = json.loads(
        claude.continued(again.body, paused(tool, {**text, "text": " "}), goes_on=True).body
    )
    assert len(longer["messages"]) == 2
    assert longer["messages"][1]["content"] == [tool, {**text, "text": "so far"}, tool]
    assert (
        claude.continued(json.dumps(request).encode(), paused({**text, "text": " "}), goes_on=False)
        is None
    )


def response(*output: Any, **rest: Any) -> bytes:
    return status_row(200, {"object": "response", "status": "completed", "output": output, **rest})


def said(text: str, **rest: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **rest}


@pytest.mark.parametrize(
    ("output", "text", "tail"),
    [
        ([said("a", phase="commentary"), said("b", phase="final_answer")], "b", "b"),
        ([said("a", phase="commentary"), said("b")], "b", "b"),
        ([said("a", phase="commentary")], "a", "a"),
        ([said("a"), said("b")], "ab", "ab"),
        ([said("a"), {"type": "web_search_call"}, said("b")], "ab", "b"),
        ([said("a", phase="commentary"), said("", phase="final_answer")], "", ""),
    ],
)
def test_remarks_on_the_way_are_no_answer(gpt, output: list[Any], text: str, tail: str):
    """What is labelled as a remark is left out; what no label tells is left out of a form alone."""
    reply = gpt.read(response(*output), "/v1/responses")
    assert reply.text == text
    assert "".join(block.text for block in reply.blocks[reply.final :]) == tail
    code, _ = why_none(reply.tool_calls, reply.items) or ("", "")
    assert code in {"empty_answer", "no_answer"}, "a remark takes no answer's place"


@pytest.mark.parametrize(
    "part", [said("a"), {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a'}]
)
@pytest.mark.parametrize("status", [None, "", "completed"])
def test_a_part_that_is_incomplete_is_half_an_answer(gpt, part: Any, status: str | None):
    """Also where the response around it says nothing of it."""
    reply = gpt.read(response({**part, "status": "incomplete"}, status=status), "/v1/responses")
    assert (unfinished(reply, accepts_cut=False) or ("",))[0] == "truncated"


def test_the_final_answer_of_the_cases(gpt, cases: Path):
    """The commentary is no part of it."""
    body = json.loads((cases / "wire" / "responses_phase_commentary.json").read_bytes())
    reply = gpt.read(status_row(200, body), "/v1/responses")
    assert json.loads(reply.text) == {"capital": "Paris"}


def test_the_last_work_of_claudes_tools_is_found(claude):
    """A form stands behind it, and not behind what was said before."""
    content = [
        {"type": "text", "text": "I look. "},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "{}"},
    ]
    row = {"custom_id": "c-0", "result": {"type": "succeeded", "message": {"content": content}}}
    reply = claude.read(json.dumps(row).encode(), "/v1/messages")
    assert (reply.text, reply.final) == ("I look. {}", 1)
