"""A job as a body of OpenAI's chat completions, responses or embeddings."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchata_prefect.errors import ValidationError
from batchata_prefect.models import DEFAULT_MAX_TOKENS

from .conftest import PNG, body, gpt_job, pdf

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}


class Invoice(BaseModel):
    number: str
    total: float | None = None


def test_prompt_goes_to_chat_completions(gpt, conforms):
    """A prompt alone is one user message, with the usual bound of output tokens."""
    request = gpt.render(gpt_job())
    assert request.endpoint == CHAT
    assert body(request) == {
        "model": "gpt-6-luna",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_completion_tokens": DEFAULT_MAX_TOKENS,
    }
    conforms(request)


def test_prompt_goes_to_responses_where_the_job_says(gpt, conforms):
    """On the responses endpoint the names are its own."""
    request = gpt.render(gpt_job(endpoint=RESPONSES, max_tokens=64))
    assert body(request) == {
        "model": "gpt-6-luna",
        "input": [{"role": "user", "content": "Hello"}],
        "max_output_tokens": 64,
    }
    conforms(request)


def test_embedding_models_embed_the_prompt(gpt, conforms):
    """An embedding model goes to its endpoint, with the text as input and without any output."""
    request = gpt.render(gpt_job(model="text-embedding-3-small", params={"dimensions": 8}))
    assert request.endpoint == EMBEDDINGS
    assert body(request) == {"model": "text-embedding-3-small", "input": "Hello", "dimensions": 8}
    assert request.estimate.output_bound == 0
    conforms(request)


def test_embeddings_leave_out_what_the_defaults_bring(gpt):
    """Defaults that make no sense for embeddings are left out and named."""
    job = gpt_job(
        model="own-embedder",
        endpoint=EMBEDDINGS,
        messages=[USER],
        max_tokens=5,
        temperature=0.1,
        defaulted=frozenset({"max_tokens", "temperature"}),
    )
    request = gpt.render(job)
    assert body(request) == {"model": "own-embedder", "input": "Hi"}
    assert set(request.left_out) == {"max_tokens", "temperature"}


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
def test_documents_come_before_the_prompt_in_the_form_of_their_kind(
    gpt, conforms, tmp_path: Path, endpoint: str
):
    """PDFs and images go as data URLs, text under a line with its title."""
    (tmp_path / "a.pdf").write_bytes(pdf())
    (tmp_path / "b.txt").write_text("Some text")
    (tmp_path / "c.png").write_bytes(PNG)
    files = [tmp_path / "a.pdf", tmp_path / "b.txt", tmp_path / "c.png"]
    request = gpt.render(gpt_job(file=files, prompt="What?", endpoint=endpoint))
    data = f"data:application/pdf;base64,{base64.b64encode(files[0].read_bytes()).decode()}"
    image = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    text = "Document b.txt:\n\nSome text"
    if endpoint == CHAT:
        wanted = [
            {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": "What?"},
        ]
    else:
        wanted = [
            {"type": "input_file", "filename": "a.pdf", "file_data": data},
            {"type": "input_text", "text": text},
            {"type": "input_image", "image_url": image, "detail": "auto"},
            {"type": "input_text", "text": "What?"},
        ]
    messages = body(request)["messages" if endpoint == CHAT else "input"]
    assert messages == [{"role": "user", "content": wanted}]
    assert request.sources == ("a.pdf", "b.txt", "c.png")
    conforms(request)


def test_office_files_only_go_to_responses(gpt, conforms, tmp_path: Path):
    """A type that only the responses endpoint takes is refused elsewhere, naming the way out."""
    (tmp_path / "a.rtf").write_bytes(b"{\\rtf1 Hello}")
    with pytest.raises(ValidationError, match=r"'a.rtf' is application/rtf.*endpoint='/v1/resp"):
        gpt.render(gpt_job(file=tmp_path / "a.rtf"))
    request = gpt.render(gpt_job(file=tmp_path / "a.rtf", endpoint=RESPONSES))
    part = body(request)["input"][0]["content"][0]
    assert part["file_data"].startswith("data:application/rtf;base64,")
    conforms(request)


def test_response_model_asks_for_a_strict_schema(gpt, conforms):
    """A response model becomes a strict JSON schema, in the form of each endpoint."""
    chat = gpt.render(gpt_job(response_model=Invoice))
    form = body(chat)["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "Invoice"
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["required"] == ["number", "total"]
    conforms(chat)
    params = {"text": {"verbosity": "low"}}
    response = gpt.render(gpt_job(response_model=Invoice, endpoint=RESPONSES, params=params))
    text = body(response)["text"]
    assert text["verbosity"] == "low"
    assert text["format"]["name"] == "Invoice"
    assert text["format"]["schema"] == form["json_schema"]["schema"]
    conforms(response)


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
def test_system_of_mixed_defaults_works_here_too(gpt, conforms, endpoint: str):
    """A `system` parameter, which Anthropic has, becomes a message; the job's own goes before."""
    key = "messages" if endpoint == CHAT else "input"
    params = {"system": "Be brief."}
    request = gpt.render(gpt_job(messages=[USER], params=params, endpoint=endpoint))
    assert body(request)[key] == [SYSTEM, USER]
    conforms(request)
    own = gpt_job(
        messages=[{"role": "developer", "content": "x"}, USER],
        params=params,
        endpoint=endpoint,
        defaulted=frozenset({"system"}),
    )
    assert [message["role"] for message in body(gpt.render(own))[key]] == ["developer", "user"]


def test_tool_conversations_pass_through(gpt, conforms):
    """Messages and items without text, such as tool calls, go as they are."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    request = gpt.render(gpt_job(messages=chat))
    assert body(request)["messages"] == chat
    conforms(request)
    items = [
        USER,
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    request = gpt.render(gpt_job(messages=items, endpoint=RESPONSES))
    assert body(request)["input"] == items
    conforms(request)


_NONE = {"reasoning_effort": "none"}


@pytest.mark.parametrize(
    ("model", "endpoint", "params", "taken"),
    [
        ("gpt-6-luna", CHAT, {"temperature": 0.2}, False),
        ("gpt-5-mini", CHAT, {"top_p": 0.2}, False),
        ("gpt-5.6-sol", CHAT, {"logprobs": True}, False),
        ("o3", CHAT, {"presence_penalty": 0.5}, False),
        ("o4-mini-2026-01-01", RESPONSES, {"temperature": 0.2}, False),
        ("gpt-10.5-x", CHAT, {"temperature": 0.2}, False),
        ("gpt-6-luna", RESPONSES, {"temperature": 1}, False),
        ("gpt-6-luna", CHAT, {"temperature": 1}, True),
        ("gpt-6-luna", CHAT, {"temperature": 0.2, **_NONE}, True),
        ("gpt-6-luna", RESPONSES, {"temperature": 0.2, "reasoning": {"effort": "none"}}, True),
        ("gpt-6-luna", CHAT, {"temperature": 0.2, "reasoning_effort": "low"}, False),
        ("gpt-5-chat-latest", CHAT, {"temperature": 0.2}, True),
        ("gpt-4o-mini", CHAT, {"temperature": 0.2}, True),
        ("gpt-4.1", RESPONSES, {"temperature": 0.2}, True),
        ("ft:gpt-5-mini:acme::1", CHAT, {"temperature": 0.2}, True),
        ("gpt-oss-120b", CHAT, {"temperature": 0.2}, True),
        ("gpt-35-turbo", CHAT, {"temperature": 0.2}, True),
        ("my-model", CHAT, {"temperature": 0.2}, True),
    ],
)
def test_reasoning_models_take_no_sampling_parameters(
    gpt, model: str, endpoint: str, params: dict[str, Any], taken: bool
):
    """Told by the name's pattern: an error of the job, left out of the defaults, else passed."""
    name = next(iter(params))
    job = gpt_job(model=model, endpoint=endpoint, params=params)
    if taken:
        assert body(gpt.render(job))[name] == params[name]
        return
    with pytest.raises(ValidationError, match=f"job 'j': '{model}' does not take {name}=.*effort"):
        gpt.render(job)
    default = gpt_job(
        model=model, endpoint=endpoint, params=params, defaulted=frozenset({name, "x"})
    )
    request = gpt.render(default)
    assert request.left_out == (name,)
    assert name not in body(request)


def test_citations_are_refused_or_left_out(gpt):
    """Citations are an error of the job, and left out where they come from the defaults."""
    with pytest.raises(ValidationError, match=r"job 'j'.*enable_citations.*anthropic"):
        gpt.render(gpt_job(enable_citations=True))
    job = gpt_job(enable_citations=True, defaulted=frozenset({"enable_citations"}))
    assert gpt.render(job).left_out == ("enable_citations",)


def test_the_providers_own_name_of_max_tokens_counts(gpt):
    """`max_completion_tokens` and `max_output_tokens` set the bound, also over a default."""
    params = {"max_completion_tokens": 7}
    job = gpt_job(max_tokens=100, params=params, defaulted=frozenset({"max_tokens"}))
    request = gpt.render(job)
    assert body(request)["max_completion_tokens"] == request.estimate.output_bound == 7
    request = gpt.render(gpt_job(params={"max_output_tokens": 17}, endpoint=RESPONSES))
    assert body(request)["max_output_tokens"] == request.estimate.output_bound == 17


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"messages": [{"role": "user", "content": []}]}, "user message has no content"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"messages\[0\] has role 'bot'"),
        (
            {"messages": [{"role": "tool", "content": "x"}], "endpoint": RESPONSES},
            r"messages\[0\] has role 'tool'",
        ),
        ({"messages": [None]}, r"messages\[0\] is NoneType"),
        ({"messages": [SYSTEM, USER], "params": {"system": "x"}}, "system message and system="),
        ({"endpoint": "/v1/completions"}, "endpoint '/v1/completions' is not one of"),
        ({"params": {"n": 2}}, "n=2: a job has one answer"),
        ({"params": {"stream": True}}, "stream=True"),
        ({"max_tokens": 5, "params": {"max_completion_tokens": 6}}, "say the same"),
        ({"max_tokens": 15, "endpoint": RESPONSES}, "whole number from 16"),
        ({"max_tokens": 128_001}, "more than 'gpt-6-luna' can write"),
        ({"params": {"max_completion_tokens": 9}, "endpoint": RESPONSES}, "is not of"),
        ({"response_model": Invoice, "params": {"response_format": {}}}, "give one of them"),
        (
            {
                "response_model": Invoice,
                "params": {"text": {"format": {}}},
                "endpoint": RESPONSES,
            },
            "give one of them",
        ),
        ({"endpoint": EMBEDDINGS, "response_model": Invoice}, "takes no response_model"),
        ({"endpoint": EMBEDDINGS, "file": b"x"}, "takes no file"),
        ({"endpoint": EMBEDDINGS, "max_tokens": 5}, "has no such parameter"),
        ({"endpoint": EMBEDDINGS, "prompt": " "}, "embeds one text"),
        ({"endpoint": EMBEDDINGS, "messages": [USER, USER]}, "embeds one text"),
        ({"endpoint": EMBEDDINGS, "params": {"input": ["a", "b"]}}, "prompt and input="),
        ({"file": b"{\\rtf1 " + b" " * 56_000_000, "endpoint": RESPONSES}, "split it"),
        ({"params": {"logit_bias": {1: 2}}}, "logit_bias cannot be sent"),
    ],
)
def test_what_the_api_would_refuse_is_refused_before(gpt, values: dict[str, Any], told: str):
    """Each is an error that names the job and says what is wrong, before anything is sent."""
    with pytest.raises(ValidationError, match=rf"job 'j': .*{told}"):
        gpt.render(gpt_job(**values))
