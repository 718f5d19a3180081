"""The sandbox as OpenAI: real SDK clients over real HTTP."""

from __future__ import annotations

import base64
import json
import math
import time
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from batchata_prefect.sandbox import Sandbox

from .conftest import (
    chat,
    ended,
    eventually,
    gpt_of,
    jsonl,
    lines_of,
    make_batch,
    output,
    upload,
)

RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"


def test_a_batch_lives_through_its_states(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A batch is validating, in progress, finalizing, completed, with the times of each."""
    box.limits(seconds=0.8)
    batch = make_batch(gpt, lines_of(chat("one"), chat("two")), metadata={"token": "t-1"})
    assert (batch.status, batch.request_counts.total) == ("validating", 0)
    assert batch.expires_at == batch.created_at + 86_400
    seen: list[str] = []
    while (batch := gpt.batches.retrieve(batch.id)).status != "completed":
        if batch.status not in seen:
            seen.append(batch.status)
        assert batch.output_file_id is None
        time.sleep(0.02)
    assert seen == ["validating", "in_progress", "finalizing"]
    assert (batch.request_counts.total, batch.request_counts.completed) == (2, 2)
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
    assert batch.metadata == {"token": "t-1"}
    assert batch.model == "gpt-6-luna"
    assert batch.error_file_id is None
    rows = output(gpt, batch.output_file_id)
    assert sorted(row["custom_id"] for row in rows) == ["r-0", "r-1"]
    usage = [row["response"]["body"]["usage"] for row in rows]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(each["prompt_tokens"] for each in usage)
    assert batch.usage.output_tokens == sum(each["completion_tokens"] for each in usage)


GOOD = lines_of(chat())[0]


def line(**changes: Any) -> dict[str, Any]:
    changed = {**GOOD, "custom_id": "other", **changes}
    return {key: value for key, value in changed.items() if value is not None}


BAD_FILES: dict[str, tuple[Any, str, str | None, int | None]] = {
    "no JSON": ([GOOD, b"{nope"], "invalid_json_line", None, 2),
    "BOM": (b"\xef\xbb\xbf" + jsonl([GOOD]), "invalid_json_line", None, 1),
    "no object": ([b"[1]"], "invalid_json_line", None, 1),
    "double id": ([GOOD, line(custom_id="r-0")], "duplicate_custom_id", "custom_id", 2),
    "no id": ([GOOD, line(custom_id=None)], "missing_required_parameter", "custom_id", 2),
    "no method": ([line(method=None)], "missing_required_parameter", "method", 1),
    "no body": ([line(body=None)], "missing_required_parameter", "body", 1),
    "second model": (
        [GOOD, line(body=chat(model="gpt-6-sol"))],
        "mismatched_model",
        "body.model",
        2,
    ),
    "unknown model": ([line(body=chat(model="claude-x"))], "model_not_found", "body.model", 1),
    "no model": ([line(body={"messages": []})], "invalid_request", "body.model", 1),
    "other url": ([GOOD, line(url=RESPONSES)], "invalid_url", "url", 2),
    "stream": ([GOOD, line(body=chat(stream=True))], "streaming_unsupported", "body.stream", 2),
    "empty": (b"", "empty_file", None, None),
    "only blank lines": (b"\n\n", "empty_file", None, None),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_fails_the_batch(box: Sandbox, gpt: openai.OpenAI, case: str) -> None:
    """Create answers validating; then the batch is failed with code, param and line; no files."""
    lines, code, param, number = BAD_FILES[case]
    batch = ended(box, gpt, lines)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    error = batch.errors.data[0]
    assert (error.code, error.param, error.line) == (code, param, number)
    assert error.message
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert batch.request_counts.total == 0
    assert not [row for row in box.ledger.billed() if row.batch_id == batch.id]


def test_every_bad_line_is_named(box: Sandbox, gpt: openai.OpenAI) -> None:
    """Several bad lines give several errors."""
    batch = ended(box, gpt, [b"x", GOOD, b"y"])
    assert [error.line for error in batch.errors.data] == [1, 3]


@pytest.mark.parametrize("purpose", [None, "user_data"])
def test_a_wrong_input_file_fails_the_batch(box: Sandbox, gpt: openai.OpenAI, purpose: Any) -> None:
    """A file that is unknown or has another purpose is found only while validating."""
    file_id = "file-unknown"
    if purpose:
        file_id = gpt.files.create(file=("a.jsonl", jsonl([GOOD])), purpose=purpose).id
    batch = gpt.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.status == "validating"
    box.settle()
    failed = gpt.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert failed.errors and failed.errors.data
    assert (failed.errors.data[0].code, failed.errors.data[0].param) == (
        "invalid_request",
        "file_id",
    )


def test_limits_of_a_batch_hold(box: Sandbox, gpt: openai.OpenAI) -> None:
    """Too many lines, too many bytes and too many enqueued tokens fail the batch."""
    box.limits(max_lines=2)
    too_many = ended(box, gpt, lines_of(*[chat()] * 3))
    assert too_many.errors.data[0].code == "too_many_tasks"
    box.limits(max_lines=10, max_file_bytes=10)
    too_large = ended(box, gpt, lines_of(chat()))
    assert too_large.errors.data[0].message == (
        "The batch input file is larger than the 10 maximum for the gpt-6-luna model"
    )
    box.limits(max_file_bytes=1_000_000, enqueued_tokens=150, seconds=3)
    first = make_batch(gpt, lines_of(chat("x" * 400)))
    eventually(lambda: gpt.batches.retrieve(first.id).status, "in_progress", 10)
    other_model = make_batch(gpt, lines_of(chat("x" * 400, model="gpt-6-sol")))
    second = make_batch(gpt, lines_of(chat("x" * 400)))
    eventually(lambda: gpt.batches.retrieve(second.id).status, "failed", 10)
    error = gpt.batches.retrieve(second.id).errors.data[0]  # type: ignore[union-attr, index]
    assert error.code == "token_limit_exceeded"
    assert error.line is None
    assert error.message.startswith("Enqueued token limit reached for gpt-6-luna in organization")
    assert "Limit: 150 enqueued tokens." in error.message
    box.settle()
    assert gpt.batches.retrieve(first.id).status == "completed"
    assert gpt.batches.retrieve(other_model.id).status == "completed"


def test_failed_lines_are_only_in_the_error_file(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A bad body costs its own line: status completed, a 400 in the error file, nothing billed."""
    batch = ended(box, gpt, lines_of(chat("fine"), chat("bad", max_tokens=5)))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert [row["custom_id"] for row in output(gpt, batch.output_file_id)] == ["r-0"]
    (row,) = output(gpt, batch.error_file_id)
    assert row["error"] is None
    assert row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["code"] == "unsupported_parameter"
    billed = [each.custom_id for each in box.ledger.billed() if each.batch_id == batch.id]
    assert billed == ["r-0"]


def test_no_output_file_where_no_line_succeeded(box: Sandbox, gpt: openai.OpenAI) -> None:
    """output_file_id is null in a completed batch of which every line failed."""
    batch = ended(box, gpt, lines_of(chat(max_tokens=5)))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(output(gpt, batch.error_file_id)) == 1


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**OBJECT, "additionalProperties": False}


def chat_format(schema: Any, name: str = "answer") -> dict[str, Any]:
    form = {"name": name, "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def text_format(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}
    return {"text": {"format": form}}


def ask(given: Any = "Hello", /, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-6-luna", "input": given, **more}


def prop(schema: Any) -> dict[str, Any]:
    return {**CLOSED, "properties": {"a": schema}}


def part(**given: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": [given]}])


PDF_URL = "data:application/pdf;base64," + base64.b64encode(b"%PDF-broken").decode()
TEXT_URL = "data:text/plain;base64," + base64.b64encode(b"hi").decode()
CHAT = "/v1/chat/completions"
BAD_FORMAT = "Invalid schema for response_format 'answer': "
OPEN = "'additionalProperties' is required to be supplied and to be false."
KEYED = (
    "'required' is required to be supplied and to be an array including every key in properties."
)
AT_A = "In context=('properties', 'a'), "
FREE = {"type": "object", "additionalProperties": {"type": "string"}}
BAD_SCHEMAS: dict[str, tuple[Any, str]] = {
    "open object": (OBJECT, f"In context=(), {OPEN}"),
    "optional property": ({**CLOSED, "required": []}, f"In context=(), {KEYED} Missing 'a'."),
    "required of no kind": ({**CLOSED, "required": 5}, f"In context=(), {KEYED} Missing 'a'."),
    "free dictionary": (prop(FREE), f"{AT_A}{OPEN}"),
    "oneOf": (prop({"oneOf": [{"type": "string"}]}), f"{AT_A}'oneOf' is not permitted."),
    "default": (
        prop({"type": "string", "default": "x"}),
        f"{AT_A}'default' is not permitted.",
    ),
    "root union": (
        {"anyOf": [CLOSED, CLOSED]},
        "schema must be a JSON Schema of 'type: \"object\"'",
    ),
}
BAD_BODIES: dict[str, tuple[str, dict[str, Any], str, str | None, str | None]] = {
    "unknown key": (
        CHAT,
        chat(top_k=1),
        "Unrecognized request argument supplied: top_k",
        None,
        None,
    ),
    "max_tokens": (
        CHAT,
        chat(max_tokens=5),
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
        " 'max_completion_tokens' instead.",
        "max_tokens",
        "unsupported_parameter",
    ),
    "temperature": (
        CHAT,
        chat(temperature=0.2),
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default"
        " (1) value is supported.",
        "temperature",
        "unsupported_value",
    ),
    "temperature too high": (
        CHAT,
        chat(temperature=2.5, model="gpt-4o-mini"),
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5"
        " instead.",
        "temperature",
        "decimal_above_max_value",
    ),
    "no messages": (
        CHAT,
        {"model": "gpt-6-luna"},
        "Missing required parameter: 'messages'.",
        "messages",
        "missing_required_parameter",
    ),
    "empty messages": (
        CHAT,
        chat(messages=[]),
        "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty"
        " array instead.",
        "messages",
        "empty_array",
    ),
    "odd role": (
        CHAT,
        chat(messages=[{"role": "robot", "content": "x"}]),
        "Invalid value: 'robot'. Supported values are:",
        "messages[0].role",
        "invalid_value",
    ),
    "effort none on the newest": (
        CHAT,
        chat(reasoning_effort="none", model="gpt-6.2-sol"),
        "Unsupported value: 'none' is not supported with the 'gpt-6.2-sol' model.",
        "reasoning_effort",
        "unsupported_value",
    ),
    "tools on the newest": (
        CHAT,
        chat(
            model="gpt-6.1-sol",
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        ),
        "Function tools are not supported with this model",
        "tools",
        "unsupported_parameter",
    ),
    **{
        case: (CHAT, chat(**chat_format(schema)), f"{BAD_FORMAT}{text}", "response_format", None)
        for case, (schema, text) in BAD_SCHEMAS.items()
    },
    "odd name": (
        CHAT,
        chat(**chat_format(CLOSED, name="my answer")),
        "Invalid 'response_format.json_schema.name': string does not match pattern.",
        "response_format.json_schema.name",
        "invalid_value",
    ),
    "file of another type": (
        CHAT,
        part(type="file", file={"filename": "a.txt", "file_data": TEXT_URL}),
        "Invalid file data: 'messages[0].content[0].file.file_data'. Expected a base64-encoded data"
        " URL with an application/pdf MIME type",
        "messages[0].content[0].file.file_data",
        "invalid_value",
    ),
    "broken pdf": (
        CHAT,
        part(type="file", file={"filename": "a.pdf", "file_data": PDF_URL}),
        "The file you provided could not be read as a PDF.",
        "messages[0].content[0].file",
        "invalid_file",
    ),
    "unsupported image": (
        CHAT,
        part(type="image_url", image_url={"url": TEXT_URL}),
        "You uploaded an unsupported image.",
        None,
        "invalid_image_format",
    ),
    "too long": (
        CHAT,
        chat("x" * 600_000, model="gpt-4o-mini"),
        "Your input exceeds the context window of this model.",
        "messages",
        "context_length_exceeded",
    ),
    "responses: unknown key": (
        RESPONSES,
        ask(messages=[]),
        "Unknown parameter: 'messages'.",
        "messages",
        "unknown_parameter",
    ),
    "responses: temperature": (
        RESPONSES,
        ask(temperature=0.2),
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "temperature",
        None,
    ),
    "responses: tiny output": (
        RESPONSES,
        ask(max_output_tokens=15),
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got"
        " 15 instead.",
        "max_output_tokens",
        "integer_below_min_value",
    ),
    "responses: open object": (
        RESPONSES,
        ask(**text_format(OBJECT)),
        f"{BAD_FORMAT}In context=(), {OPEN}",
        "text.format.schema",
        "invalid_json_schema",
    ),
    "responses: no input": (
        RESPONSES,
        {"model": "gpt-6-luna"},
        "Missing required parameter: 'input'.",
        "input",
        "missing_required_parameter",
    ),
    "responses: unknown model": (
        RESPONSES,
        ask(model="invalid-model"),
        "The requested model 'invalid-model' does not exist.",
        "model",
        "model_not_found",
    ),
    "embeddings: empty": (
        EMBEDDINGS,
        {"model": "text-embedding-3-small", "input": ""},
        "'$.input' is invalid.",
        None,
        None,
    ),
    "metadata": (
        CHAT,
        chat(metadata={str(n): "x" for n in range(17)}),
        "Invalid 'metadata': too many properties.",
        "metadata",
        "object_above_max_properties",
    ),
}


def post(box: Sandbox, path: str, body: Any, key: str = "sandbox-x") -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{box.url}/openai{path}",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_is_refused(box: Sandbox, case: str) -> None:
    """What OpenAI refuses gets its text, param and code, the same in a call as in a batch row."""
    path, body, message, param, code = BAD_BODIES[case]
    status, answer = post(box, path, body)
    assert status == 400
    assert answer["error"]["message"].startswith(message)
    assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
    assert answer["error"]["type"] == "invalid_request_error"


GOOD_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "default temperature": (CHAT, chat(temperature=1)),
    "temperature without effort": (CHAT, chat(temperature=0.2, reasoning_effort="none")),
    "max_tokens on an older model": (CHAT, chat(max_tokens=5, temperature=0, model="gpt-4o-mini")),
    "bounds, pattern and refs": (
        CHAT,
        chat(
            **chat_format(
                {
                    "$defs": {"n": {"type": "integer", "minimum": 3, "maximum": 9}},
                    **prop({"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}),
                }
            )
        ),
    ),
    "json_object": (CHAT, chat(response_format={"type": "json_object"})),
    "developer message": (CHAT, chat(messages=[{"role": "developer", "content": "x"}])),
    "loose schema": (
        CHAT,
        chat(
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": OBJECT}}
        ),
    ),
    "responses": (RESPONSES, ask(instructions="Be brief.", max_output_tokens=16)),
    "responses items": (
        RESPONSES,
        ask([{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]),
    ),
    "responses text file": (
        RESPONSES,
        ask(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_file", "filename": "a.txt", "file_data": TEXT_URL},
                        {"type": "input_text", "text": "x"},
                    ],
                }
            ]
        ),
    ),
    "embeddings": (EMBEDDINGS, {"model": "text-embedding-3-small", "input": ["a", "b"]}),
}


@pytest.mark.parametrize("case", GOOD_BODIES)
def test_a_good_body_is_answered(box: Sandbox, case: str) -> None:
    """Bodies that OpenAI takes are answered, so strictness is not refusal of everything."""
    path, body = GOOD_BODIES[case]
    status, answer = post(box, path, body)
    assert status == 200, answer


def test_a_wrong_key_is_the_sdks_authentication_error(box: Sandbox) -> None:
    """The SDK raises AuthenticationError, with the code invalid_api_key and the key hidden."""
    with pytest.raises(openai.AuthenticationError) as caught:
        gpt_of(box, api_key="sk-proj-secret-secret").batches.list()
    assert caught.value.code == "invalid_api_key"
    assert "secret-secret" not in str(caught.value)


BAD_CREATES: dict[str, tuple[dict[str, Any], str]] = {
    "endpoint": ({"endpoint": "/v1/other"}, "endpoint"),
    "window": ({"completion_window": "1h"}, "completion_window"),
    "metadata size": ({"metadata": {"a" * 65: "x"}}, "metadata." + "a" * 65),
    "metadata value": ({"metadata": {"a": 1}}, "metadata.a"),
    "unknown": ({"name": "x"}, "name"),
    "expiry": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
        "output_expires_after",
    ),
    "no file": ({"input_file_id": None}, "input_file_id"),
}


@pytest.mark.parametrize("case", BAD_CREATES)
def test_a_create_of_the_wrong_shape_is_refused(box: Sandbox, case: str) -> None:
    """The shape of a create call is checked at once, with the parameter's name."""
    changes, param = BAD_CREATES[case]
    asked = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **changes}
    status, answer = post(box, "/v1/batches", asked)
    assert (status, answer["error"]["param"]) == (400, param)


def test_a_batch_canceled_while_running_keeps_what_ran(box: Sandbox, gpt: openai.OpenAI) -> None:
    """Finished lines are in the output file and billed, the rest in the error file."""
    box.limits(seconds=3)
    batch = make_batch(gpt, lines_of(*[chat()] * 60))
    eventually(lambda: gpt.batches.retrieve(batch.id).status, "in_progress")
    time.sleep(0.5)
    assert gpt.batches.cancel(batch.id).status == "cancelling"
    eventually(lambda: gpt.batches.retrieve(batch.id).status, "cancelled")
    done = gpt.batches.retrieve(batch.id)
    ran, left = output(gpt, done.output_file_id), output(gpt, done.error_file_id)
    assert len(ran) + len(left) == 60
    assert 5 <= len(ran) <= 55
    assert {row["error"]["code"] for row in left} == {"batch_cancelled"}
    assert {row["response"] for row in left} == {None}
    assert len([row for row in box.ledger.billed() if row.batch_id == batch.id]) == len(ran)
    assert (done.request_counts.total, done.request_counts.completed) == (60, 0)
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'"):
        gpt.batches.cancel(batch.id)


def test_a_batch_canceled_while_validating_has_no_files(box: Sandbox, gpt: openai.OpenAI) -> None:
    """As in the recorded batch, a cancel before in_progress leaves zero counts and no files."""
    box.limits(seconds=2)
    batch = make_batch(gpt, lines_of(chat()))
    gpt.batches.cancel(batch.id)
    eventually(lambda: gpt.batches.retrieve(batch.id).status, "cancelled")
    done = gpt.batches.retrieve(batch.id)
    assert done.in_progress_at is None
    assert (done.output_file_id, done.error_file_id) == (None, None)
    assert done.request_counts.total == 0


def test_an_expired_batch_keeps_what_ran(box: Sandbox, gpt: openai.OpenAI) -> None:
    """Status expired; finished lines in the output file, the rest as batch_expired."""
    box.fault("openai", mode="batch_expired", fraction=0.5)
    batch = ended(box, gpt, lines_of(*[chat()] * 10))
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert len(output(gpt, batch.output_file_id)) == 5
    left = output(gpt, batch.error_file_id)
    assert [row["error"]["code"] for row in left] == ["batch_expired"] * 5


def test_lists_page_by_after(box: Sandbox, gpt: openai.OpenAI) -> None:
    """The list is newest first and pages on `after`."""
    file_id = upload(gpt, lines_of(chat()))
    made = [
        gpt.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        ).id
        for _ in range(3)
    ]
    first = gpt.batches.list(limit=2)
    assert [batch.id for batch in first.data] == [made[2], made[1]]
    assert first.has_more
    second = gpt.batches.list(limit=1, after=made[1])
    assert [batch.id for batch in second.data] == [made[0]]
    with pytest.raises(openai.BadRequestError):
        gpt.batches.list(limit=101)
    with pytest.raises(openai.NotFoundError, match="No batch found with id 'batch_no'"):
        gpt.batches.retrieve("batch_no")


def test_files_are_kept_listed_and_deleted(box: Sandbox, gpt: openai.OpenAI) -> None:
    """Upload, look up, content, list by purpose and delete; batch files expire after 30 days."""
    data = jsonl(lines_of(chat("\u00fc")))
    file = gpt.files.create(file=("mine.jsonl", data), purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == ("mine.jsonl", len(data), "batch")
    assert file.expires_at == file.created_at + 30 * 86_400
    assert gpt.files.retrieve(file.id).id == file.id
    assert gpt.files.content(file.id).content == data
    short = gpt.files.create(
        file=("b.jsonl", data),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert short.expires_at == short.created_at + 3600
    listed = gpt.files.list(purpose="batch", limit=1)
    assert listed.data[0].id == short.id
    assert gpt.files.list(purpose="batch", limit=1, after=short.id).data[0].id == file.id
    assert gpt.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
        gpt.files.retrieve(file.id)


BAD_UPLOADS: dict[str, tuple[dict[str, Any], str]] = {
    "not jsonl": (
        {"file": ("a.txt", b"x"), "purpose": "batch"},
        "Invalid file format for Batch API. Must be .jsonl",
    ),
    "purpose": ({"file": ("a.jsonl", b"x"), "purpose": "other"}, "'other' is not one of"),
    "expiry": (
        {
            "file": ("a.jsonl", b"x"),
            "purpose": "batch",
            "expires_after": {"anchor": "created_at", "seconds": 60},
        },
        "Invalid 'expires_after\\[seconds\\]'",
    ),
    "too large": ({"file": ("a.jsonl", b"x" * 20_000), "purpose": "batch"}, "File is too large."),
}


@pytest.mark.parametrize("case", BAD_UPLOADS)
def test_a_bad_upload_is_refused(box: Sandbox, gpt: openai.OpenAI, case: str) -> None:
    """Uploads of the wrong kind or size are a 400 with the recorded text."""
    box.limits(max_upload_bytes=10_000)
    given, message = BAD_UPLOADS[case]
    with pytest.raises(openai.BadRequestError, match=message):
        gpt.files.create(**given)


def test_binary_files_survive_the_form(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A file with line breaks and dashes like those of a form comes back byte for byte."""
    data = b"\r\n--x\r\n\r\n" + bytes(range(256)) * 3 + b"\r\n--"
    file = gpt.files.create(file=("odd name.bin", data), purpose="assistants")
    assert gpt.files.content(file.id).content == data


def test_a_file_may_be_deleted_while_its_batch_runs(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A batch that was let in goes on when its input file is deleted."""
    box.limits(seconds=2)
    batch = make_batch(gpt, lines_of(chat()))
    eventually(lambda: gpt.batches.retrieve(batch.id).status, "in_progress")
    gpt.files.delete(batch.input_file_id)
    box.settle()
    assert gpt.batches.retrieve(batch.id).status == "completed"


@pytest.mark.parametrize("model", ["text-embedding-3-small", "text-embedding-3-large"])
def test_embeddings_are_unit_vectors(box: Sandbox, gpt: openai.OpenAI, model: str) -> None:
    """Embeddings have the model's size, length one, and are the same in a batch and a call."""
    body = {"model": model, "input": ["one", "two"]}
    direct = gpt.embeddings.create(**body)
    assert len(direct.data) == 2
    vector = direct.data[0].embedding
    assert len(vector) == (1536 if model.endswith("small") else 3072)
    assert math.isclose(sum(value * value for value in vector), 1, rel_tol=1e-3)
    assert vector != direct.data[1].embedding
    batch = ended(box, gpt, lines_of(body, url=EMBEDDINGS), endpoint=EMBEDDINGS)
    (row,) = output(gpt, batch.output_file_id)
    given = row["response"]["body"]["data"][0]["embedding"]
    assert given == pytest.approx(vector, abs=1e-6)


def test_responses_batches_are_answered(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A Responses batch gives response bodies that the SDK reads, with a reasoning item first."""
    batch = ended(box, gpt, lines_of(ask("Hi there"), url=RESPONSES), endpoint=RESPONSES)
    (row,) = output(gpt, batch.output_file_id)
    response = openai.types.responses.Response.model_validate(row["response"]["body"])
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert "Hi there" in response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
