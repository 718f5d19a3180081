"""What an answer holds besides text is kept, tells whether there is an answer, and is a file."""

from __future__ import annotations

import base64
import json
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, JobResult, ToolCall, ValidationError
from batchata_prefect.content.schema import answer_schema
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book, providers
from batchata_prefect.results.item_files import ItemFiles
from batchata_prefect.results.row import Reading, from_row

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SCHEMA = answer_schema({"type": "object", "properties": {"a": {"type": "integer"}}})
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
BIG = "36893488147419103232"


def row_of(endpoint: str, answer: Any, **more: Any) -> bytes:
    """A row: of a message's fields, of output items or of content blocks."""
    if endpoint == MESSAGES:
        usage = {"input_tokens": 3, "output_tokens": 2}
        message = {"content": answer, "stop_reason": "end_turn", "usage": usage, **more}
        line: Any = {"custom_id": "c-0", "result": {"type": "succeeded", "message": message}}
        return json.dumps(line).encode()
    if endpoint == CHAT:
        choice = {"message": {"content": None, **answer}, "finish_reason": "stop", **more}
        usage = {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        body = {"object": "chat.completion", "choices": [choice], "usage": usage}
    else:
        usage = {"input_tokens": 3, "output_tokens": 2}
        body = {"object": "response", "status": "completed", "output": answer, "usage": usage}
    response = {"status_code": 200, "body": {**body, **more}}
    return json.dumps({"custom_id": "c-0", "response": response, "error": None}).encode()


def result_of(endpoint: str, row: bytes, schema: bool = False) -> JobResult:
    name = "anthropic" if endpoint == MESSAGES else "openai"
    chunk = Chunk(0, 0, "ab" * 32, name, endpoint, "m", 9, 0, 0, 0, Decimal(1))
    reading = Reading(chunk, "batch_1", price_book(), {SCHEMA.digest: SCHEMA})
    job = Context("j", {}, SCHEMA.digest if schema else None)
    reply = providers()[name].read(row, endpoint)
    values = reading.row(reply, job, None)
    return from_row(orjson.loads(orjson.dumps(values)), {})


FUNCTION = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"n": 1.50}'}}


@pytest.mark.parametrize(
    ("endpoint", "answer", "calls"),
    [
        (CHAT, {"tool_calls": [FUNCTION]}, [("c1", "f", '{"n": 1.50}', "function")]),
        (
            CHAT,
            {"content": "I look it up.", "tool_calls": [FUNCTION, {**FUNCTION, "id": "c2"}]},
            [("c1", "f", '{"n": 1.50}', "function"), ("c2", "f", '{"n": 1.50}', "function")],
        ),
        (
            CHAT,
            {"content": "Yes.", "function_call": {"name": "old", "arguments": '{"n": '}},
            [(None, "old", '{"n": ', "function_call")],
        ),
        (
            CHAT,
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "g", "input": "a b"}}]},  # noqa: E501
            [("c", "g", "a b", "custom")],
        ),
        (
            RESPONSES,
            [
                {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f",
                 "arguments": f'{{"n":{BIG}}}', "status": "completed"},
                {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "SELECT 1"},
            ],
            [
                ("c1", "f", f'{{"n":{BIG}}}', "function_call"),
                ("c2", "g", "SELECT 1", "custom_tool_call"),
            ],
        ),
        (
            RESPONSES,
            [{"type": "mcp_approval_request", "id": "m", "name": "f", "arguments": "{}",
              "server_label": "s"}],
            [("m", "f", "{}", "mcp_approval_request")],
        ),
    ],
)  # fmt: skip
def test_calls_are_kept_as_the_model_wrote_them(
    endpoint: str, answer: Any, calls: list[tuple[Any, ...]]
) -> None:
    """Id, name and exact arguments of every form of call, beside text and alone, with a schema."""
    for schema in (False, True):
        result = result_of(endpoint, row_of(endpoint, answer, **tool_stop(endpoint)), schema)
        assert (result.status, result.error_code) == ("completed", None)
        assert result.tool_calls == [ToolCall(*each) for each in calls]
        assert JobResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def tool_stop(endpoint: str) -> dict[str, Any]:
    return {"finish_reason": "tool_calls"} if endpoint == CHAT else {}


def test_claudes_input_keeps_every_letter() -> None:
    """An object of the row is the text of the arguments, digits and spaces included."""
    given = f'{{"account": {BIG}, "sum": 12.50, "e": 1E+3, "long": 0.12345678901234567890123}}'
    block = {
        "type": "tool_use",
        "id": "t",
        "name": "f",
        "input": "HERE",
        "caller": {"type": "direct"},
    }
    row = row_of(MESSAGES, [{"type": "text", "text": "So:"}, block], stop_reason="tool_use")
    result = result_of(MESSAGES, row.replace(b'"HERE"', given.encode()))
    assert result.tool_calls == [ToolCall("t", "f", given, "tool_use")]
    assert (result.raw_response, result.items) == ("So:", [])


IMAGE = {"type": "image_generation_call", "id": "ig", "status": "completed", "result": PNG}
SHELL = {"type": "local_shell_call", "id": "s", "call_id": "c", "status": "completed",
         "action": {"type": "exec", "command": ["ls"], "env": {}}}  # fmt: skip
PATCH = {"type": "apply_patch_call", "id": "p", "call_id": "c", "status": "in_progress",
         "operation": {"type": "delete_file", "path": "a"}}  # fmt: skip
CLICK = {"type": "computer_call", "id": "k", "call_id": "c", "status": "completed",
         "actions": [{"type": "screenshot"}], "pending_safety_checks": []}  # fmt: skip
NEW = {"type": "hologram_call", "id": "h", "shape": [1, 2.5, {"n": int(BIG)}]}
SEARCH = {"type": "web_search_call", "id": "w", "status": "completed"}
MCP = {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "server_label": "s",
       "status": "completed", "output": "42"}  # fmt: skip
BLOCKED = {"type": "image_generation_call", "id": "ig", "status": "failed", "result": None,
           "error": {"type": "image_generation_user_error", "code": "moderation_blocked",
                     "message": "not this"}}  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "answer", "code"),
    [
        (RESPONSES, [IMAGE], None),
        (RESPONSES, [SHELL], None),
        (RESPONSES, [PATCH], None),
        (RESPONSES, [CLICK], None),
        (RESPONSES, [NEW], None),
        (RESPONSES, [MCP], None),
        (RESPONSES, [SEARCH, IMAGE], None),
        (RESPONSES, [BLOCKED, IMAGE], None),
        (RESPONSES, [BLOCKED], "refusal"),
        (RESPONSES, [{**IMAGE, "status": "failed"}], "no_answer"),
        (RESPONSES, [{**IMAGE, "status": "generating", "result": None}], "no_answer"),
        (RESPONSES, [{**SHELL, "status": "incomplete"}], "no_answer"),
        (RESPONSES, [{**MCP, "error": "no server", "status": "failed"}], "no_answer"),
        (RESPONSES, [SEARCH], "no_answer"),
        (MESSAGES, [{"type": "novelty", "x": 1}], None),
        (MESSAGES, [{"type": "container_upload", "file_id": "f"}], None),
        (MESSAGES, [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}],
         "no_answer"),
        (CHAT, {"audio": {"id": "a", "data": "AAAA", "transcript": "Hi.", "expires_at": 1}}, None),
        (CHAT, {"images": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}, None),
    ],
)  # fmt: skip
def test_items_make_the_job_what_they_mean(endpoint: str, answer: Any, code: str | None) -> None:
    """An answer of other than text is complete or failed, kept in full, and not asked again."""
    for schema in (False, True):
        result = result_of(endpoint, row_of(endpoint, answer), schema)
        if not schema or endpoint != CHAT:
            assert result.error_code == code
            assert (result.status == "completed") is (code is None)
        if isinstance(answer, list):
            assert result.items == answer


@pytest.mark.parametrize(
    ("endpoint", "answer", "kept"),
    [
        (RESPONSES, [{"type": "reasoning", "summary": [], "encrypted_content": "x"}], []),
        (
            RESPONSES,
            [{"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm"}],
              "encrypted_content": "x"}],
            [{"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm"}]}],
        ),
        (MESSAGES, [{"type": "thinking", "thinking": "", "signature": "s"}], []),
        (
            MESSAGES,
            [{"type": "thinking", "thinking": "Hm", "signature": "s"}],
            [{"type": "thinking", "thinking": "Hm"}],
        ),
        (CHAT, {"content": "", "reasoning_content": "Hm"},
         [{"type": "reasoning", "reasoning_content": "Hm"}]),
    ],
)  # fmt: skip
def test_thoughts_are_kept_and_are_no_answer(endpoint: str, answer: Any, kept: list[Any]) -> None:
    """Summaries of the thinking are there, without what only the provider can read."""
    result = result_of(endpoint, row_of(endpoint, answer))
    assert (result.error_code, result.items) == ("empty_answer", kept)


def test_logprobs_are_kept() -> None:
    """They were asked for; both endpoints give them in one form."""
    tokens = [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}]
    kept = [{"type": "logprobs", "content": tokens}]
    chat = row_of(CHAT, {"content": "Hi"}, logprobs={"content": tokens, "refusal": None})
    assert result_of(CHAT, chat).items == kept
    part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": tokens}
    other = row_of(RESPONSES, [{"type": "message", "content": [part]}])
    assert result_of(RESPONSES, other).items == kept


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "gpt-6-luna"])
def test_several_answers_to_one_job_are_refused_before_payment(tmp_path: Path, model: str) -> None:
    """They would be paid, and only the first has a place."""
    with pytest.raises(ValidationError, match="a job has one answer"):
        Batch(tmp_path / "out").add_job(prompt="x", model=model, id="a", n=2)


URL = {"title": "A page", "url": "https://a.example/p", "start_index": 0, "end_index": 4}
FILE = {"type": "file_citation", "file_id": "file-1", "filename": "a.pdf", "index": 4}
FOUND = {"type": "web_search_result_location", "url": "https://b.example", "title": "B",
         "encrypted_index": "x", "cited_text": "It rains."}  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "answer", "source", "text"),
    [
        (CHAT, {"content": "Rain", "annotations": [{"type": "url_citation", "url_citation": URL}]},
         "A page", ""),
        (RESPONSES, [{"type": "message", "content": [{"type": "output_text", "text": "Rain",
                      "annotations": [{"type": "url_citation", **URL}]}]}], "A page", ""),
        (RESPONSES, [{"type": "message", "content": [{"type": "output_text", "text": "Rain",
                      "annotations": [FILE]}]}], "a.pdf", ""),
        (MESSAGES, [{"type": "text", "text": "Rain", "citations": [FOUND]}], "B", "It rains."),
        (MESSAGES, [{"type": "text", "text": "Rain", "citations": [
            {"type": "search_result_location", "source": "doc-7", "title": None,
             "cited_text": "It rains.", "search_result_index": 0, "start_block_index": 0,
             "end_block_index": 1}]}], "doc-7", "It rains."),
    ],
)  # fmt: skip
def test_what_a_search_brings_is_cited_unasked(
    endpoint: str, answer: Any, source: str, text: str
) -> None:
    """Sources of the web and of files stand in the citations of a job that asked for none."""
    (citation,) = result_of(endpoint, row_of(endpoint, answer)).citations or ()
    assert (citation.source, citation.text) == (source, text)
    assert citation.metadata is not None
    if endpoint != MESSAGES and source == "A page":
        assert (citation.metadata["start_index"], citation.metadata["url"]) == (0, URL["url"])


def test_bytes_are_files_of_their_owner(tmp_path: Path) -> None:
    """Images and sounds of every form become files; what is no base64 stays where it is."""
    url = f"data:image/png;base64,{PNG}"
    items = [
        IMAGE,
        {"type": "code_interpreter_call", "outputs": [{"type": "image", "url": url}]},
        {**IMAGE, "result": "no base64!"},
        {"type": "audio", "id": "a", "data": base64.b64encode(b"RIFF____WAVEfmt ").decode()},
    ]
    image, code, broken, sound = ItemFiles(tmp_path, "../../ab-0").put(items)
    assert image == {key: value for key, value in IMAGE.items() if key != "result"} | {
        "path": "files/______ab-0-0.png"
    }
    assert code["outputs"][0]["url"] == "files/______ab-0-1.png"
    assert broken == items[2]
    assert sound["path"] == "files/______ab-0-2.wav"
    path = tmp_path / str(image["path"])
    assert path.read_bytes() == base64.b64decode(PNG)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(tmp_path.rglob("*.*"))) == 3
