"""Requests that ask for quotes: the same on all providers and on all endpoints of text."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from batchata_prefect.errors import ValidationError
from batchata_prefect.models import Job, Request
from batchata_prefect.providers.bodies import held_in
from tests.unit.content.test_documents import PNG, make_pdf
from tests.unit.providers.conftest import claude_job, gemini_job, gpt_job, pdf

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
TEXT = b"Total: 500 EUR"
PAGE = make_pdf("Total: 500 EUR")


class Bill(BaseModel):
    """What the structured jobs ask for."""

    total: int


def schema_of(request: Request) -> dict[str, Any]:
    body = orjson.loads(request.body)
    if request.provider == "anthropic":
        return body["output_config"]["format"]["schema"]
    if request.provider == "gemini":
        return body["generationConfig"]["responseJsonSchema"]
    if request.endpoint == CHAT:
        assert body["response_format"]["json_schema"]["strict"] is True
        return body["response_format"]["json_schema"]["schema"]
    assert body["text"]["format"]["strict"] is True
    return body["text"]["format"]["schema"]


@pytest.fixture(params=["anthropic", "gemini", CHAT, RESPONSES])
def ask(request: pytest.FixtureRequest, claude: Any, gemini: Any, gpt: Any) -> Any:
    """Renders a job of some values for each endpoint."""

    def render(**values: Any) -> Request:
        if request.param == "anthropic":
            return claude.render(claude_job(**values))
        if request.param == "gemini":
            return gemini.render(gemini_job(**values))
        return gpt.render(gpt_job(endpoint=request.param, **values))

    return render


@pytest.mark.parametrize("model", [None, Bill])
def test_the_answer_is_asked_for_with_its_quotes(ask: Any, conforms: Any, model: Any) -> None:
    """Native structured output holds the answer and its quotes, and no citations are enabled."""
    request = ask(file=[TEXT, PAGE], citations="quoted", response_model=model)
    conforms(request)
    schema = schema_of(request)
    assert schema["required"] == ["answer", "quotes"]
    answer = schema["properties"]["answer"]
    assert answer["type"] == ("string" if model is None else "object")
    assert set(schema["properties"]["quotes"]["items"]["required"]) == {
        "field",
        "document",
        "quote",
    }
    assert b'"citations"' not in request.body


def test_quotes_win_over_the_providers_citations(ask: Any) -> None:
    """`citations` says how, `enable_citations` only that."""
    request = ask(file=TEXT, citations="quoted", enable_citations=True)
    assert "quotes" in schema_of(request)["properties"]
    assert request.left_out == ()


def test_the_larger_schema_is_counted(ask: Any) -> None:
    """The estimate holds the schema around the response model."""
    plain = ask(file=TEXT, response_model=Bill).estimate
    quoted = ask(file=TEXT, response_model=Bill, citations="quoted").estimate
    assert quoted.input_bound > plain.input_bound + 100
    assert quoted.input_tokens > plain.input_tokens + 50
    assert quoted.output_bound == plain.output_bound


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "needs a document whose text"),
        ({"file": PNG}, "images, URLs and uploaded files cannot be"),
        ({"file": [TEXT, pdf()]}, "no text on any page"),
        ({"prompt": None, "messages": [{"role": "user", "content": "x"}]}, "needs a document"),
    ],
)
def test_what_cannot_be_compared_is_refused(ask: Any, values: dict[str, Any], told: str) -> None:
    """Quotes are only worth what they are compared with."""
    with pytest.raises(ValidationError, match=rf"job 'j'.*{told}"):
        ask(citations="quoted", **values)
    request = ask(
        citations="quoted", defaulted=frozenset({"citations"}), **{**values, "file": None}
    )
    assert request.left_out == ("citations",)
    assert b"quotes" not in request.body


def test_embeddings_take_no_quotes(gpt: Any) -> None:
    """Refused where the job asks, left out where the defaults do."""
    job = {"model": "text-embedding-3-small", "prompt": "x", "citations": "quoted"}
    with pytest.raises(ValidationError, match="has no such parameter"):
        gpt.render(Job(id="j", **job))
    request = gpt.render(Job(id="j", **job, defaulted=frozenset({"citations"})))
    assert request.left_out == ("citations",)


@pytest.mark.parametrize("given", ["response_format", "text"])
def test_another_form_is_refused_beside_quotes(gpt: Any, given: str) -> None:
    """One answer has one form."""
    endpoint = CHAT if given == "response_format" else RESPONSES
    value = {"type": "json_object"}
    params = {given: value if given == "response_format" else {"format": value}}
    with pytest.raises(ValidationError, match="it has citations='quoted' and"):
        gpt.render(gpt_job(file=TEXT, citations="quoted", endpoint=endpoint, params=params))


def test_a_schema_at_the_limit_of_depth_names_its_field(gpt: Any) -> None:
    """With its quotes the answer lies one object deeper."""
    schema: dict[str, Any] = {"type": "object", "properties": {"end": {"type": "string"}}}
    for _ in range(9):
        schema = {"type": "object", "properties": {"a": schema}}
    gpt.render(gpt_job(file=TEXT, response_model=schema))
    with pytest.raises(ValidationError, match=r"job 'j': with citations='quoted'.*'answer\.a"):
        gpt.render(gpt_job(file=TEXT, response_model=schema, citations="quoted"))


# What a request holds


def held_texts(request: Request) -> list[Any]:
    held = held_in(request.body, request.sources)
    return [
        None if one is None else (one.name, one.kind, [part.text.strip() for part in one.parts])
        for one in held.documents
    ]


def test_documents_are_found_again_in_the_request(ask: Any) -> None:
    """Texts as they are, pages one by one; images are documents to OpenAI's models alone."""
    request = ask(file=[TEXT, PNG, PAGE], prompt="Document x:\n\nno document")
    images = [] if request.provider == "anthropic" else [None]
    assert held_texts(request) == [
        ("document-1.txt", "text", ["Total: 500 EUR"]),
        *images,
        ("document-3.pdf", "pages", ["Total: 500 EUR"]),
    ]


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_a_system_prompt_is_no_document(ask: Any, system: Any) -> None:
    """The documents of the job's file stand before its prompt and nowhere else."""
    request = ask(file=TEXT, params={"system": system})
    assert held_texts(request) == [("document.txt", "text", ["Total: 500 EUR"])]


def test_documents_of_a_repeated_request_are_the_same(gpt: Any, claude: Any) -> None:
    """What was answered and asked again changes nothing."""
    for provider, job in ((gpt, gpt_job(file=TEXT)), (claude, claude_job(file=TEXT))):
        request = provider.render(job)
        again = provider.reworded(request.body, "an answer", "a fault")
        assert held_texts(request._replace(body=again.body)) == held_texts(request)


def test_documents_in_the_users_messages_are_found(gpt: Any, claude: Any) -> None:
    """Over all messages and tool results; what is elsewhere keeps its number."""
    data = base64.b64encode(PAGE).decode()

    def block(source: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"type": "document", "source": source, **more}

    messages = [
        {
            "role": "user",
            "content": [
                block({"type": "url", "url": "https://example.com/a.pdf"}),
                block({"type": "base64", "media_type": "application/pdf", "data": data}),
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [
                        {
                            "type": "search_result",
                            "title": "T",
                            "source": "s",
                            "content": [{"type": "text", "text": "found"}],
                        }
                    ],
                },
                block(
                    {"type": "content", "content": [{"type": "text", "text": "a block"}]}, title="B"
                ),
                block({"type": "file", "file_id": "file_1"}),
            ],
        },
    ]
    request = claude.render(claude_job(messages=messages))
    assert held_texts(request) == [
        None,
        ("document 2", "pages", ["Total: 500 EUR"]),
        ("B", "blocks", ["a block"]),
        None,
    ]
    results = held_in(request.body, ()).results
    assert [[part.text for part in one.parts] for one in results] == [["found"]]
    url = f"data:application/pdf;base64,{data}"
    parts = [
        {"type": "text", "text": "Read them."},
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "file", "file": {"filename": "bill.pdf", "file_data": url}},
    ]
    request = gpt.render(gpt_job(messages=[{"role": "user", "content": parts}], citations="quoted"))
    assert held_texts(request) == [None, ("bill.pdf", "pages", ["Total: 500 EUR"])]
