"""The sandbox as Anthropic: real SDK clients over real HTTP."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from datetime import timedelta
from typing import Any

import anthropic
import pytest

from batchata_prefect.sandbox import Sandbox

from .conftest import answers, claude_of, eventually, params, requests_of

PDF_HEAD = base64.b64encode(b"%PDF-1.4 but nothing more").decode()
NOT_PDF = base64.b64encode(b"plain text").decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


def test_a_batch_lives_through_its_states(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """A batch is in progress with zero counts, then ended with counts, times and results."""
    created = claude.messages.batches.create(requests=requests_of(params("one"), params("two")))
    assert created.id.startswith("msgbatch_")
    assert created.processing_status == "in_progress"
    assert created.expires_at - created.created_at == timedelta(hours=24)
    assert (created.request_counts.processing, created.request_counts.succeeded) == (2, 0)
    assert created.results_url is None
    assert created.ended_at is None
    with pytest.raises(anthropic.NotFoundError, match="has no available results"):
        claude.get(f"/v1/messages/batches/{created.id}/results", cast_to=object)
    ended = eventually_ended(claude, created.id)
    assert (ended.request_counts.processing, ended.request_counts.succeeded) == (0, 2)
    assert ended.ended_at is not None
    rows = list(claude.messages.batches.results(created.id))
    assert sorted(row.custom_id for row in rows) == ["r-0", "r-1"]
    for row in rows:
        assert row.result.type == "succeeded"
        message = row.result.message
        assert message.stop_reason == "end_turn"
        assert message.usage.service_tier == "batch"
        assert [block.type for block in message.content] == ["thinking", "text"]


def eventually_ended(claude: anthropic.Anthropic, batch_id: str) -> Any:
    eventually(lambda: claude.messages.batches.retrieve(batch_id).processing_status, "ended")
    return claude.messages.batches.retrieve(batch_id)


PATTERN = "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
BAD_CREATES: dict[str, tuple[Any, str]] = {
    "empty": ([], "requests: List should have at least 1 item after validation, not 0"),
    "no list": ("x", "requests: Input should be a valid list"),
    "no id": ([{"params": params()}], "requests.0.custom_id: Field required"),
    "long id": (
        [{"custom_id": "a" * 65, "params": params()}],
        "requests.0.custom_id: String should have at most 64 characters",
    ),
    "odd id": (
        [{"custom_id": "a", "params": params()}, {"custom_id": "a b", "params": params()}],
        f"requests.1.custom_id: {PATTERN}",
    ),
    "empty id": ([{"custom_id": "", "params": params()}], f"requests.0.custom_id: {PATTERN}"),
    "line break in id": (
        [{"custom_id": "a\n", "params": params()}],
        f"requests.0.custom_id: {PATTERN}",
    ),
    "double id": (
        [{"custom_id": "dup", "params": params()}] * 2,
        "requests: custom_id's must be unique within a batch. Duplicate custom_id found: dup",
    ),
    "no params": ([{"custom_id": "a"}], "requests.0.params: Field required"),
    "more keys": (
        [{"custom_id": "a", "params": params(), "extra": 1}],
        "requests.0.extra: Extra inputs are not permitted",
    ),
    "not a request": ([7], "requests.0: Input should be a valid dictionary or object"),
}


@pytest.mark.parametrize("case", BAD_CREATES)
def test_a_create_is_refused_as_a_whole(
    box: Sandbox, claude: anthropic.Anthropic, case: str
) -> None:
    """One bad element of `requests` refuses the batch with the API's own text; nothing is made."""
    requests, message = BAD_CREATES[case]
    before = len(box.ledger.batches())
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.batches.create(requests=requests)
    body: Any = caught.value.body
    assert body["error"] == {"type": "invalid_request_error", "message": message}
    assert len(box.ledger.batches()) == before


NO_JSON = "The request body is not valid JSON: "
RAW_BODIES = {
    "cut": (b'{"requests": [{"custom_id": "a"', NO_JSON),
    "nothing": (b"", NO_JSON),
    "NaN": (b'{"requests": [{"custom_id":"a","params":{"max_tokens":NaN}}]}', NO_JSON),
    "no UTF-8": (b'{"requests": ["\xff"]}', NO_JSON),
    "no requests": (b"{}", "requests: Field required"),
    "more after": (b'{"requests": []} x', "requests: List should have at least 1 item"),
    "other member": (
        b'{"other": [1, {"a": "}"}], "requests": [{"custom_id":"a","params":{}}]}',
        "other: Extra inputs are not permitted",
    ),
}


@pytest.mark.parametrize("case", RAW_BODIES)
def test_a_body_that_is_no_create_is_refused(box: Sandbox, case: str) -> None:
    """Bytes that are not a create body get a 400 that says why."""
    body, message = RAW_BODIES[case]
    answered, error = post_raw(box, "/v1/messages/batches", body)
    assert answered == 400
    assert error["error"]["message"].startswith(message)


def post_raw(
    box: Sandbox, path: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    given = {
        "x-api-key": "sandbox-x",
        "anthropic-version": "2026-10-21",
        "content-type": "application/json",
        **(headers or {}),
    }
    given = {name: value for name, value in given.items() if value}
    request = urllib.request.Request(f"{box.url}/anthropic{path}", body, given, method="POST")
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


BAD_HEADERS = {
    "wrong key": ({"x-api-key": "sk-ant-x"}, 401, "API key is invalid."),
    "no key": ({"x-api-key": ""}, 401, "x-api-key header is required"),
    "no version": ({"anthropic-version": ""}, 400, "anthropic-version: header is required"),
    "odd version": (
        {"anthropic-version": "2020-01-01"},
        400,
        'anthropic-version: "2020-01-01" is not a valid version',
    ),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_headers_are_required(box: Sandbox, case: str) -> None:
    """A call without a sandbox key or a known version is refused in Anthropic's form."""
    headers, status, message = BAD_HEADERS[case]
    answered, body = post_raw(box, "/v1/messages", json.dumps(params()).encode(), headers)
    assert (answered, body["error"]["message"]) == (status, message)
    assert body["type"] == "error"


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**OBJECT, "additionalProperties": False}


def doc(data: str = "Some facts.", **more: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": data}
    return {"type": "document", "source": source, **more}


def pdf(data: str, media_type: str = "application/pdf") -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "document", "source": source}


def content(*blocks: Any, **more: Any) -> dict[str, Any]:
    return params(messages=[{"role": "user", "content": list(blocks)}], **more)


def form(schema: Any) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def prop(schema: Any) -> dict[str, Any]:
    return {**CLOSED, "properties": {"a": schema}}


TEXT = {"type": "text", "text": "Hello"}
CITED = {"citations": {"enabled": True}}
OPEN = "For 'object' type, 'additionalProperties' must be explicitly set to false"
UNIONS = {f"p{n}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for n in range(17)}
RECURSIVE = {"$defs": {"node": prop({"$ref": "#/$defs/node"})}, "$ref": "#/$defs/node"}
BAD_SCHEMAS: dict[str, tuple[Any, str]] = {
    "open object": (OBJECT, OPEN),
    "open object inside": (prop({"type": "array", "items": OBJECT}), OPEN),
    "minimum": (
        prop({"type": "integer", "minimum": 1, "maximum": 3}),
        "For 'integer' type, properties maximum, minimum are not supported",
    ),
    "maxLength": (
        prop({"type": "string", "maxLength": 3}),
        "For 'string' type, property maxLength is not supported",
    ),
    "minItems": (
        prop({"type": "array", "minItems": 2, "items": {"type": "string"}}),
        "For 'array' type, 'minItems' values other than 0 or 1 are not supported",
    ),
    "oneOf": (prop({"oneOf": [{"type": "string"}]}), "'oneOf' is not supported"),
    "recursion": (RECURSIVE, "recursive $ref '#/$defs/node' is not supported"),
    "too many unions": (
        {**CLOSED, "properties": UNIONS, "required": [*UNIONS]},
        "Schema is too complex for compilation.",
    ),
}
CACHE = {"type": "ephemeral"}
BAD_PARAMS: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"model": "claude-sonnet-5-5", "max_tokens": 1}, "messages: Field required"),
    "no model": ({"messages": [], "max_tokens": 1}, "model: Field required"),
    "no max_tokens": ({"model": "claude-opus-5", "messages": []}, "max_tokens: Field required"),
    "unknown key": (params(fallbacks=[]), "fallbacks: Extra inputs are not permitted"),
    "output_format": (params(output_format={}), "output_format: Extra inputs are not permitted"),
    "temperature": (params(temperature=0.5), "temperature: Extra inputs are not permitted"),
    "default temperature": (params(temperature=1), "temperature: Extra inputs are not permitted"),
    "top_p": (params(top_p=0.5), "top_p: Extra inputs are not permitted"),
    "top_k": (params(top_k=5), "top_k: Extra inputs are not permitted"),
    "stream": (
        params(stream=True),
        '"stream=True" is not supported in the Message Batches API',
    ),
    "speed": (params(speed="fast"), '"speed" is not supported in the Message Batches API'),
    "max_tokens 0": (params(max_tokens=0), "max_tokens: must be greater than or equal to 1"),
    "max_tokens text": (params(max_tokens="5"), "max_tokens: Input should be a valid integer"),
    "max_tokens high": (
        params(max_tokens=128_001),
        "max_tokens: 128001 > 128000, which is the maximum allowed number of output tokens for"
        " claude-sonnet-5-5",
    ),
    "max_tokens haiku": (
        params(max_tokens=64_001, model="claude-haiku-4-5-20251001"),
        "max_tokens: 64001 > 64000, which is the maximum allowed number of output tokens for"
        " claude-haiku-4-5-20251001",
    ),
    "no turns": (params(messages=[]), "messages: at least one message is required"),
    "assistant first": (
        params(messages=[{"role": "assistant", "content": "Hi"}]),
        'messages: first message must use the "user" role',
    ),
    "odd role": (
        params(messages=[{"role": "tool", "content": "x"}]),
        "messages.0.role: Input should be 'user' or 'assistant'",
    ),
    "message key": (
        params(messages=[{"role": "user", "content": "x", "name": "me"}]),
        "messages.0.name: Extra inputs are not permitted",
    ),
    "prefill": (
        params(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]),
        "This model does not support assistant message prefill. The conversation must end with a"
        " user message.",
    ),
    "empty content": (
        params(messages=[{"role": "user", "content": ""}]),
        "messages.0: all messages must have non-empty content except for the optional final"
        " assistant message",
    ),
    "blank block": (
        content({"type": "text", "text": " "}),
        "messages: text content blocks must be non-empty",
    ),
    "type of no kind": (content({"type": ["text"]}), "messages.0.content.0: Input tag '['text']'"),
    "odd block": (content({"type": "video"}), "messages.0.content.0: Input tag 'video' found"),
    "block key": (
        content({**TEXT, "foo": 1}),
        "messages.0.content.0.text.foo: Extra inputs are not permitted",
    ),
    "user citations": (
        content({**TEXT, "citations": [{"type": "char_location"}]}),
        "messages.0.content.0.text.citations: citations are not permitted",
    ),
    "late system": (
        params(messages=[{"role": "system", "content": "x"}]),
        'messages: first message must use the "user" role',
    ),
    "docx": (
        content(pdf(NOT_PDF, "application/msword")),
        "messages.0.content.0.document.source.base64.media_type: Input should be 'application/pdf'",
    ),
    "no pdf": (
        content(pdf(NOT_PDF)),
        "messages.0.content.0.document.source.base64.data: The PDF specified was not valid.",
    ),
    "broken pdf": (
        content(pdf(PDF_HEAD)),
        "messages.0.content.0.document.source.base64.data: The PDF specified was not valid.",
    ),
    "no base64": (
        content(pdf("%%%")),
        "messages.0.content.0.document.source.base64.data: Invalid base64 data",
    ),
    "html document": (
        content({"type": "document", "source": {**doc()["source"], "media_type": "text/html"}}),
        "messages.0.content.0.document.source.text.media_type: Input should be 'text/plain'",
    ),
    "wrong image type": (
        content(
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG},
            }
        ),
        "messages.0.content.0.image.source.base64.data: The image was specified using the"
        " image/jpeg media type, but the image appears to be a image/png image",
    ),
    "unreachable url": (
        content({"type": "document", "source": {"type": "url", "url": "https://no.invalid/a.pdf"}}),
        "Unable to download the file. Please verify the URL and try again.",
    ),
    "assistant document": (
        params(
            messages=[
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": [doc()]},
                {"role": "user", "content": "y"},
            ]
        ),
        "messages.1.content.0.document: document blocks are not permitted in assistant messages",
    ),
    "some citations": (
        content(doc(**CITED), doc(), TEXT),
        "messages: citations must be enabled on all documents or on none of them",
    ),
    "citations and format": (
        content(doc(**CITED), TEXT, **form(CLOSED)),
        "output_config.format: structured outputs cannot be used together with citations",
    ),
    **{
        case: (
            params(output_config={"format": {"type": "json_schema", "schema": schema}}),
            f"output_config.format.schema: {text}",
        )
        for case, (schema, text) in BAD_SCHEMAS.items()
    },
    "effort": (
        params(output_config={"effort": "xhigh"}, model="claude-opus-4-6"),
        "This model does not support effort level 'xhigh'. Supported levels: high, low, max,"
        " medium.",
    ),
    "no effort": (
        params(output_config={"effort": "low"}, model="claude-haiku-4-5"),
        "This model does not support the effort parameter.",
    ),
    "enabled thinking": (
        params(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000),
        '"thinking.type.enabled" is not supported for this model.',
    ),
    "small budget": (
        params(thinking={"type": "enabled", "budget_tokens": 100}, model="claude-sonnet-4-5"),
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    "budget above max_tokens": (
        params(thinking={"type": "enabled", "budget_tokens": 1024}, model="claude-sonnet-4-5"),
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    ),
    "always thinks": (
        params(thinking={"type": "disabled"}, model="claude-opus-5-5"),
        '"thinking.type.disabled" is not supported for this model.',
    ),
    "forced tool": (
        params(
            model="claude-opus-5-5",
            tools=[{"name": "t", "input_schema": {"type": "object"}}],
            tool_choice={"type": "any"},
        ),
        "tool_choice: type 'any' is not supported on this model.",
    ),
    "choice without tools": (
        params(tool_choice={"type": "any"}),
        "tool_choice may only be specified while providing tools",
    ),
    "metadata": (params(metadata={"x": "y"}), "metadata.x: Extra inputs are not permitted"),
    "service_tier": (
        params(service_tier="flex"),
        "service_tier: Input should be 'auto' or 'standard_only'",
    ),
    "five cache points": (
        content(*[{**TEXT, "cache_control": CACHE}] * 5),
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    "short before long cache": (
        content(
            {**TEXT, "cache_control": CACHE}, {**TEXT, "cache_control": {**CACHE, "ttl": "1h"}}
        ),
        "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block",
    ),
    "too long": (
        params("x" * 900_000, model="claude-haiku-4-5"),
        "prompt is too long: 225000 tokens > 200000 maximum",
    ),
}


@pytest.fixture(scope="module")
def refused_rows(one_server: Sandbox) -> dict[str, dict[str, Any]]:
    """The result of every bad body above, out of one batch."""
    found = answers(one_server, claude_of(one_server), *(body for body, _ in BAD_PARAMS.values()))
    return dict(zip(BAD_PARAMS, (found[f"r-{n}"] for n in range(len(BAD_PARAMS))), strict=True))


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_a_bad_body_becomes_an_errored_row(refused_rows: dict[str, Any], case: str) -> None:
    """What the Messages API refuses comes back as an errored row, with its error nested twice."""
    result = refused_rows[case]
    assert result["type"] == "errored"
    assert result["error"]["type"] == "error"
    assert result["error"]["error"]["type"] == "invalid_request_error"
    assert result["error"]["error"]["message"].startswith(BAD_PARAMS[case][1])
    ran = result["error"]["request_id"]
    assert (ran is None) == (case != "unreachable url")


GOOD_PARAMS: dict[str, dict[str, Any]] = {
    "system": params(system="Be brief."),
    "system blocks": params(system=[{**TEXT, "cache_control": CACHE}]),
    "mid-conversation system": params(
        messages=[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]
    ),
    "two user turns": params(messages=[{"role": "user", "content": "x"}] * 2),
    "thinking off": params(thinking={"type": "disabled"}),
    "adaptive thinking": params(thinking={"type": "adaptive", "display": "summarized"}),
    "effort": params(output_config={"effort": "xhigh"}),
    "optional fields": params(**form({**CLOSED, "required": []})),
    "formats": params(**form(prop({"type": "string", "format": "date"}))),
    "https document": content(
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}, TEXT
    ),
    "prefill on an old model": params(
        model="claude-sonnet-4-5",
        messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}],
    ),
    "enabled thinking on an old model": params(
        model="claude-sonnet-4-6",
        max_tokens=2000,
        thinking={"type": "enabled", "budget_tokens": 1024},
    ),
    "forced tool": params(
        tools=[{"name": "t", "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": "t"},
    ),
    "everything else": params(
        metadata={"user_id": "u"},
        service_tier="auto",
        stop_sequences=["STOP"],
        inference_geo="us",
        cache_control=CACHE,
    ),
}


def test_good_bodies_succeed(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """Bodies that the API takes are answered, so strictness is not refusal of everything."""
    found = answers(box, claude, *GOOD_PARAMS.values())
    kinds = dict(
        zip(GOOD_PARAMS, (found[f"r-{n}"]["type"] for n in range(len(found))), strict=True)
    )
    assert kinds == dict.fromkeys(GOOD_PARAMS, "succeeded")


def test_a_model_that_does_not_exist_is_not_found(
    box: Sandbox, claude: anthropic.Anthropic
) -> None:
    """An unknown model is an errored row of type not_found_error and an HTTP 404."""
    found = answers(box, claude, params(model="gpt-6-luna"))
    assert found["r-0"]["error"]["error"]["type"] == "not_found_error"
    assert found["r-0"]["error"]["error"]["message"] == "model: gpt-6-luna"
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(**params(model="claude-does-not-exist-9"))


OLD_VERSION = [
    ("claude-sonnet-4-6", {"temperature": 0.2}, "succeeded"),
    ("claude-sonnet-4-6", {"temperature": 0.2, "top_p": 0.5}, "errored"),
    ("claude-opus-4-8", {"temperature": 1.0}, "succeeded"),
    ("claude-opus-4-8", {"temperature": 0.2}, "errored"),
    ("claude-haiku-4-5", {"top_k": 5}, "succeeded"),
]


def test_the_older_version_takes_temperature_on_older_models(box: Sandbox) -> None:
    """With anthropic-version 2023-06-01 models up to 4.6 take temperature or top_p."""
    client = claude_of(box, default_headers={"anthropic-version": "2023-06-01"})
    found = answers(box, client, *(params(model=model, **more) for model, more, _ in OLD_VERSION))
    assert [found[f"r-{n}"]["type"] for n in range(len(found))] == [
        wanted for _, _, wanted in OLD_VERSION
    ]


def test_the_beta_header_allows_longer_output(box: Sandbox) -> None:
    """`output-300k-2026-03-24` raises the cap of max_tokens in a batch."""
    client = claude_of(box, default_headers={"anthropic-beta": "output-300k-2026-03-24"})
    assert answers(box, client, params(max_tokens=300_000))["r-0"]["type"] == "succeeded"


def test_a_direct_message_is_refused_with_the_same_words(claude: anthropic.Anthropic) -> None:
    """What a batch reports in a row, a direct call gets as HTTP 400."""
    with pytest.raises(anthropic.BadRequestError, match="temperature: Extra inputs"):
        claude.messages.create(**params(), extra_body={"temperature": 1})


def test_limits_of_a_batch_hold(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """Too many requests are a 400, too many bytes a 413, a full queue a 429."""
    with pytest.raises(anthropic.RequestTooLargeError):
        claude.messages.create(**params("x" * 32_000_000))
    box.limits(max_requests=2)
    with pytest.raises(anthropic.BadRequestError, match="at most 2 items after validation, not 3"):
        claude.messages.batches.create(requests=requests_of(*[params()] * 3))
    box.limits(max_bytes=1000)
    with pytest.raises(anthropic.RequestTooLargeError):
        claude.messages.batches.create(requests=requests_of(params("x" * 2000)))
    box.limits(max_bytes=10_000_000, queued_requests=1)
    with pytest.raises(anthropic.RateLimitError):
        claude.messages.batches.create(requests=requests_of(params(), params()))


def test_lists_are_paged(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """The list is newest first and pages by after_id."""
    made = [claude.messages.batches.create(requests=requests_of(params())).id for _ in range(3)]
    newest = made[::-1]
    first = claude.messages.batches.list(limit=2)
    assert [batch.id for batch in first.data] == newest[:2]
    assert (first.has_more, first.first_id, first.last_id) == (True, newest[0], newest[1])
    after = claude.messages.batches.list(limit=1, after_id=newest[1])
    assert [batch.id for batch in after.data] == [newest[2]]
    for _, batch in zip(newest, claude.messages.batches.list(limit=1), strict=False):
        assert batch.id in newest
    with pytest.raises(anthropic.BadRequestError, match="less than or equal to 1000"):
        claude.messages.batches.list(limit=1001)


def test_a_canceled_batch_keeps_what_ran(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """After a cancel a part is succeeded and billed, the rest canceled, and the counts add up."""
    box.limits(seconds=2.5)
    batch = claude.messages.batches.create(requests=requests_of(*[params()] * 100))
    time.sleep(0.5)
    canceling = claude.messages.batches.cancel(batch.id)
    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    ended = eventually_ended(claude, batch.id)
    counts = ended.request_counts
    assert 10 <= counts.succeeded <= 90
    assert counts.succeeded + counts.canceled == 100
    kinds = [row.result.type for row in claude.messages.batches.results(batch.id)]
    assert kinds.count("succeeded") == counts.succeeded
    billed = [row for row in box.ledger.billed() if row.batch_id == batch.id]
    assert len(billed) == counts.succeeded
    with pytest.raises(anthropic.BadRequestError, match="already ended"):
        claude.messages.batches.cancel(batch.id)


def test_results_are_the_same_at_each_read(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """Rows come shuffled, but in the same order and with the same bytes each time."""
    batch = claude.messages.batches.create(requests=requests_of(*[params()] * 50))
    box.settle()

    def read() -> list[str]:
        response = claude.messages.batches.with_raw_response.results(batch.id)
        return list(response.http_response.iter_lines())

    rows = read()
    assert rows == read()
    ids = [json.loads(row)["custom_id"] for row in rows]
    assert ids != sorted(ids, key=lambda each: int(each[2:]))
    assert len(set(ids)) == 50


def test_a_batch_that_expires_is_ended(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """An expired batch is `ended` with expired rows, as Anthropic knows no other ending."""
    box.fault("anthropic", mode="batch_expired", fraction=0.25)
    found = answers(box, claude, *[params()] * 8)
    kinds = [result["type"] for result in found.values()]
    assert (kinds.count("succeeded"), kinds.count("expired")) == (2, 6)


def test_files_can_be_uploaded_and_used(box: Sandbox, claude: anthropic.Anthropic) -> None:
    """The Files API gives metadata, lists, deletes, and its files serve as documents."""
    file = claude.files.upload(
        file=("facts.txt", b"Colour: green\n", "text/plain"), expires_in_seconds=3600
    )
    assert (file.filename, file.mime_type, file.size_bytes) == ("facts.txt", "text/plain", 14)
    assert claude.files.retrieve_metadata(file.id).id == file.id
    assert file.id in [each.id for each in claude.files.list()]
    block = {"type": "document", "source": {"type": "file", "file_id": file.id}}
    message = claude.messages.create(**content(block, TEXT, **form(prop({"type": "string"}))))
    assert message.usage.input_tokens > 0
    with pytest.raises(anthropic.BadRequestError, match="not downloadable"):
        claude.files.download(file.id)
    assert claude.files.delete(file.id).type == "file_deleted"
    with pytest.raises(anthropic.NotFoundError):
        claude.files.retrieve_metadata(file.id)
