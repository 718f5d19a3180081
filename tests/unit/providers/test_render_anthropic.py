"""A job as the body of Anthropic's Messages API."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchata_prefect.errors import ValidationError
from batchata_prefect.models import DEFAULT_MAX_TOKENS

from .conftest import PNG, body, claude_job, pdf


class Invoice(BaseModel):
    number: str
    total: float


USER = {"role": "user", "content": "Hi"}
BOT = {"role": "assistant", "content": "Yes?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_prompt_becomes_a_user_message(claude, conforms):
    """A prompt alone is one user message, with the usual bound of output tokens."""
    request = claude.render(claude_job())
    assert body(request) == {
        "model": "claude-sonnet-5-5",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    assert request.endpoint == "/v1/messages"
    assert request.estimate.output_bound == DEFAULT_MAX_TOKENS
    conforms(request)


@pytest.mark.parametrize(
    ("leading", "system"),
    [
        ([SYSTEM], "Be brief."),
        ([SYSTEM, {"role": "developer", "content": "Be kind."}], "Be brief.\n\nBe kind."),
        (
            [SYSTEM, {"role": "system", "content": [{"type": "text", "text": "Be kind."}]}],
            [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        ),
    ],
)
def test_leading_system_messages_become_the_system_prompt(claude, conforms, leading, system):
    """System messages at the start are taken out of the conversation, which may go on as it is."""
    late = {"role": "system", "content": "Now be long."}
    request = claude.render(claude_job(messages=[*leading, USER, BOT, USER, late]))
    assert body(request)["system"] == system
    assert body(request)["messages"] == [USER, BOT, USER, late]


def test_system_of_the_defaults_gives_way_to_the_jobs_own(claude):
    """A default system prompt is replaced by the job's system message."""
    job = claude_job(
        messages=[SYSTEM, USER], params={"system": "Old."}, defaulted=frozenset({"system"})
    )
    assert body(claude.render(job))["system"] == "Be brief."


def test_documents_come_before_the_prompt_in_the_form_of_their_kind(
    claude, conforms, tmp_path: Path
):
    """PDF, text and images each take their own block, in order, before the prompt."""
    (tmp_path / "a.pdf").write_bytes(pdf(2))
    (tmp_path / "b.md").write_text("# Title\n\nText äöü")
    (tmp_path / "c.png").write_bytes(PNG)
    files = [tmp_path / "a.pdf", tmp_path / "b.md", tmp_path / "c.png"]
    request = claude.render(claude_job(file=files, prompt="What?"))
    assert body(request)["messages"][0]["content"] == [
        {
            "type": "document",
            "source": {
                "type": "base64",
                "media_type": "application/pdf",
                "data": base64.b64encode(files[0].read_bytes()).decode(),
            },
            "title": "a.pdf",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "# Title\n\nText äöü"},
            "title": "b.md",
        },
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/png",
                "data": base64.b64encode(PNG).decode(),
            },
        },
        {"type": "text", "text": "What?"},
    ]
    assert request.sources == ("a.pdf", "b.md")
    conforms(request)


def test_docx_goes_as_its_text(claude, real: Path):
    """A DOCX is sent as a text document, because the API takes no DOCX."""
    request = claude.render(claude_job(file=real / "inputs" / "docx" / "tables.docx"))
    block = body(request)["messages"][0]["content"][0]
    assert block["source"]["media_type"] == "text/plain"
    assert "<table>" in block["source"]["data"]


def test_response_model_asks_for_native_structured_output(claude, conforms):
    """A response model becomes `output_config.format`, beside the user's own effort."""
    params = {"output_config": {"effort": "low"}}
    request = claude.render(claude_job(response_model=Invoice, params=params))
    config = body(request)["output_config"]
    assert config["effort"] == "low"
    assert config["format"]["type"] == "json_schema"
    assert config["format"]["schema"]["additionalProperties"] is False
    conforms(request)


def test_citations_with_response_model_ask_in_words(claude, conforms):
    """Citations are enabled on every document, and the form is asked for after the prompt."""
    job = claude_job(
        file=[b"One sentence.", b"Another one."],
        prompt="How much?",
        response_model=Invoice,
        enable_citations=True,
    )
    request = claude.render(job)
    assert "output_config" not in body(request)
    *documents, prompt, form = body(request)["messages"][0]["content"]
    assert [block["citations"] for block in documents] == [{"enabled": True}] * 2
    assert prompt["text"] == "How much?"
    assert "```json" in form["text"]
    conforms(request)


def test_citations_are_enabled_on_the_users_own_documents(claude, conforms):
    """Documents that the user put into messages get citations too; their titles are the sources."""
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain"}}
    blocks = [
        {**document, "source": {**document["source"], "data": "One."}, "title": "one.txt"},
        {**document, "source": {**document["source"], "data": "Two."}},
        {"type": "text", "text": "Which?"},
    ]
    job = claude_job(
        messages=[{"role": "user", "content": blocks}],
        enable_citations=True,
        response_model=Invoice,
    )
    request = claude.render(job)
    content = body(request)["messages"][0]["content"]
    assert [block.get("citations") for block in content[:2]] == [{"enabled": True}] * 2
    assert "```json" in content[-1]["text"]
    assert "citations" not in blocks[0], "the user's own blocks stay as they are"
    assert request.sources == ("one.txt", "document 2")
    conforms(request)


def test_default_citations_do_not_hurt_a_job_without_documents(claude):
    """Where citations come only from the defaults, a job without documents goes natively."""
    job = claude_job(
        enable_citations=True,
        response_model=Invoice,
        defaulted=frozenset({"enable_citations"}),
    )
    assert "format" in body(claude.render(job))["output_config"]


def test_parameters_go_as_they_are(claude, conforms):
    """Further parameters are sent as they are, keys that we do not know included."""
    params = {
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "adaptive"},
    }
    request = claude.render(claude_job(params=params))
    assert params.items() <= body(request).items()
    conforms(request)
    assert body(claude.render(claude_job(params={"brand_new": 1})))["brand_new"] == 1


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "speed"])
@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-haiku-4-5-20251001", "claude-next"])
def test_sampling_is_refused_or_left_out(claude, name: str, model: str):
    """A parameter that no Claude takes is an error of the job, and left out of the defaults."""
    values: dict[str, Any] = (
        {"temperature": 0.2} if name == "temperature" else {"params": {name: 0.2}}
    )
    with pytest.raises(ValidationError, match=rf"job 'j'.*{model}.*{name}=0\.2.*leave it out"):
        claude.render(claude_job(model=model, **values))
    request = claude.render(claude_job(model=model, **values, defaulted=frozenset({name})))
    assert request.left_out == (name,)
    assert name not in body(request)


def test_models_of_compatible_servers_take_what_they_are_given(claude):
    """A model that is no Claude gets the temperature that its job names."""
    request = claude.render(claude_job(model="glm-5", temperature=0.5, max_tokens=500_000))
    assert body(request)["temperature"] == 0.5


_ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
_TOOL = {"name": "f", "input_schema": {"type": "object"}}
_DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
_FORCED = {"tools": [_TOOL], "tool_choice": {"type": "any"}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"prompt": "  \n"}, "prompt is empty"),
        ({"messages": [{"role": "user", "content": ""}]}, "role 'user' has no content"),
        ({"messages": [{"role": "user"}]}, "role 'user' has no content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\] has role 'tool'"),
        ({"messages": ["Hello"]}, r"messages\[0\] is str"),
        ({"messages": [SYSTEM]}, "only system messages"),
        ({"messages": [BOT, USER]}, "first message has role 'assistant'"),
        ({"messages": [USER, BOT, SYSTEM, USER]}, "system message inside"),
        ({"messages": [USER, BOT]}, "does not continue a given answer"),
        ({"messages": [SYSTEM, USER], "params": {"system": "x"}}, "system message and system="),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "no block with a type: 'x'"),
        ({"params": {"stream": True}}, "stream=True"),
        ({"params": {"messages": []}}, "params may not hold 'messages'"),
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1, not 0"),
        ({"max_tokens": True}, "max_tokens must be"),
        ({"max_tokens": 128_001}, "more than 'claude-sonnet-5-5' can write"),
        ({"model": "claude-haiku-4-5", "max_tokens": 64_001}, "can write"),
        ({"endpoint": "/v1/responses"}, "only take '/v1/messages'"),
        ({"params": _ENABLED}, "thinking of type 'enabled'"),
        (
            {"params": _ENABLED, "model": "claude-opus-4-6", "max_tokens": 2048},
            "must be less than max_tokens",
        ),
        ({"params": _FORCED, "model": "claude-opus-5-5"}, "cannot be forced to use a tool"),
        ({"params": _FORCED, "model": "claude-fable-5-1"}, "cannot be forced to use a tool"),
        ({"enable_citations": True}, "needs a document to cite"),
        ({"enable_citations": True, "file": PNG}, "images cannot be cited"),
        ({"enable_citations": True, "file": pdf()}, "no text on any page"),
        (
            {"response_model": Invoice, "params": {"output_config": {"format": {}}}},
            "exclude each other",
        ),
        (
            {"params": {"metadata": {"a": [1, {"b": {1, 2}}]}}},
            r"metadata\.a\[1\]\.b cannot be sent",
        ),
        ({"params": {"tools": [{"name": "f", "x": {1}}]}}, r"tools\[0\]\.x cannot be sent"),
        (
            {"messages": [USER, {**BOT, "content": [_DOCUMENT]}, USER]},
            "only taken in user messages",
        ),
        ({"prompt": "\ud800"}, r"messages\[0\]\.content cannot be sent"),
        ({"params": {"x": float("nan")}}, "x is nan"),
        ({"file": pdf(601)}, "601 pages"),
        ({"file": [pdf(60), pdf(41)], "model": "claude-haiku-4-5"}, "101 pages .* takes 100"),
        ({"prompt": "x" * 32_000_001}, "32,000,0.. bytes and anthropic takes 32,000,000"),
    ],
)
def test_what_the_api_would_refuse_is_refused_before(claude, values: dict[str, Any], told: str):
    """Each is an error that names the job and says what is wrong, before anything is sent."""
    with pytest.raises(ValidationError, match=rf"job 'j': .*{told}"):
        claude.render(claude_job(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"params": _ENABLED, "model": "claude-sonnet-4-6"},
        {"params": _FORCED, "model": "claude-sonnet-5-5"},
        {"messages": [USER, BOT], "model": "claude-sonnet-4-5"},
        {"messages": [USER, BOT], "model": "claude-unheard-of"},
        {"model": "claude-opus-4-20250514", "max_tokens": 64_000},
        {"file": pdf(600)},
    ],
)
def test_what_the_api_takes_is_not_refused(claude, values: dict[str, Any]):
    """The rules end where the documentation says that they do."""
    claude.render(claude_job(**values))


def test_unusable_type_names_the_file_and_the_way_out(claude, tmp_path: Path):
    """A file that Claude does not take is refused by its name."""
    (tmp_path / "sheet.rtf").write_bytes(b"{\\rtf1 Hello}")
    with pytest.raises(ValidationError, match=r"file 'sheet.rtf' is application/rtf; .*convert"):
        claude.render(claude_job(file=tmp_path / "sheet.rtf"))


def test_the_users_messages_are_not_changed(claude):
    """Rendering leaves the job's messages as they were, so that rendering twice is the same."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    job = claude_job(messages=messages, response_model=Invoice)
    first = claude.render(job)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert claude.render(job) == first


def test_all_of_a_block_of_another_type_is_counted(claude):
    """A text in it is not all that it holds, and no bound is less than what goes out."""
    blocks = [{"type": "odd", "text": "a", "more": "word " * n} for n in (0, 1_000)]
    asked = [[{"role": "user", "content": [block]}] for block in blocks]
    short, long = (
        claude.render(claude_job(model="lab-1", prompt=None, messages=messages)).estimate
        for messages in asked
    )
    assert long.input_bound > short.input_bound + 1_000
