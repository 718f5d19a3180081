"""What the sandbox answers: texts, instances of schemas, citations, usage."""

from __future__ import annotations

import base64
import json
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import anthropic
import jsonschema
import openai
import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from batchata_prefect.sandbox import Sandbox
from batchata_prefect.sandbox.content import pdf_pages, text_tokens
from batchata_prefect.sandbox.instances import Fact, make_instance

from .conftest import answers, chat, ended, gpt_of, lines_of, output, params

INVOICE = """ACME Ltd.
Invoice number: INV-2041
Invoice date: March 3, 2026
**Total:** USD 1,234.50
Currency: usd
Paid: yes
Tags: urgent, export
"""


class Currency(StrEnum):
    USD = "USD"
    EUR = "EUR"


class Line(BaseModel):
    description: str
    amount: float


class Invoice(BaseModel):
    invoice_number: str
    invoice_date: date
    total: float
    currency: Currency
    paid: bool
    tags: list[str]
    lines: list[Line]
    note: str | None
    kind: Literal["invoice"]


EXPECTED = {
    "invoice_number": "INV-2041",
    "invoice_date": "2026-03-03",
    "total": 1234.5,
    "currency": "USD",
    "paid": True,
    "tags": ["urgent", "export"],
    "kind": "invoice",
}


def claude_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def text_document(text: str, **more: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": text}
    return {"type": "document", "source": source, **more}


def user(*blocks: Any, **more: Any) -> dict[str, Any]:
    return params(messages=[{"role": "user", "content": list(blocks)}], max_tokens=4000, **more)


QUESTION = {"type": "text", "text": "Read the invoice."}


def test_a_claude_schema_is_filled_from_the_document(box: Sandbox, claude: Any) -> None:
    """Fields named in the document's lines get their values, in the schema's own types."""
    schema = anthropic.transform_schema(Invoice)
    body = user(text_document(INVOICE), QUESTION, **claude_format(schema))
    result = answers(box, claude, body)["r-0"]
    text = result["message"]["content"][-1]["text"]
    invoice = Invoice.model_validate_json(text)
    assert json.loads(text).items() >= EXPECTED.items()
    assert invoice.lines


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_an_openai_schema_is_filled_from_the_prompt(
    box: Sandbox, gpt: openai.OpenAI, endpoint: str
) -> None:
    """The same for OpenAI's two ways of asking for a schema."""
    form = {"name": "invoice", "strict": True, "schema": to_strict_json_schema(Invoice)}
    if endpoint == "/v1/responses":
        body: dict[str, Any] = {
            "model": "gpt-6-luna",
            "input": INVOICE,
            "text": {"format": {"type": "json_schema", **form}},
        }
    else:
        body = chat(INVOICE, response_format={"type": "json_schema", "json_schema": form})
    batch = ended(box, gpt, lines_of(body, url=endpoint), endpoint=endpoint)
    (row,) = output(gpt, batch.output_file_id)
    answer = row["response"]["body"]
    if endpoint == "/v1/responses":
        text = openai.types.responses.Response.model_validate(answer).output_text
    else:
        text = answer["choices"][0]["message"]["content"]
    assert json.loads(text).items() >= EXPECTED.items()
    Invoice.model_validate_json(text)


class Node(BaseModel):
    name: str
    children: list[Node]


class Bounded(BaseModel):
    count: int = Field(ge=5, le=7)
    ratio: float = Field(gt=0, lt=1)
    step: int = Field(multiple_of=3)
    code: str = Field(pattern=r"^[A-Z]{3}-\d{4}$")
    price: Decimal
    words: list[str] = Field(min_length=2, max_length=3)
    short: str = Field(max_length=4)
    long: str = Field(min_length=200)
    either: int | str | None
    anything: dict[str, str]


SCHEMAS: dict[str, dict[str, Any]] = {
    "invoice": Invoice.model_json_schema(),
    "bounds and patterns": Bounded.model_json_schema(),
    "recursive": Node.model_json_schema(),
    "strict recursive": to_strict_json_schema(Node),
    "nullable by type": {"type": "object", "properties": {"a": {"type": ["null", "integer"]}}},
    "array at the root": {"type": "array", "items": {"enum": [3, 4]}},
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "formats": {
        "type": "object",
        "properties": {
            name: {"type": "string", "format": name}
            for name in ("date", "date-time", "email", "ipv4", "ipv6", "uuid", "uri", "hostname")
        },
    },
}


@pytest.mark.parametrize("case", SCHEMAS)
@pytest.mark.parametrize("fact", [None, "7", "soon", "12 March 2026"])
def test_an_instance_is_valid(case: str, fact: str | None) -> None:
    """Whatever facts there are, the instance satisfies the schema."""
    schema = SCHEMAS[case]
    names = ["count", "ratio", "code", "price", "short", "either", "a", "date", "email", "total"]
    facts = {name: Fact(fact) for name in names} if fact else {}
    instance = make_instance(schema, facts, "What is it about?")
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(instance)


def blocks_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    assert result["type"] == "succeeded", result
    return [block for block in result["message"]["content"] if block["type"] == "text"]


def test_a_text_document_is_cited_by_characters(box: Sandbox, claude: Any) -> None:
    """char_location citations quote exact slices; document_index counts over all messages."""
    first, second = "Alpha is first. It is short.", "Beta is second. \u00dcber alles."
    body = params(
        messages=[
            {"role": "user", "content": [text_document(first, citations={"enabled": True})]},
            {"role": "assistant", "content": "Noted."},
            {
                "role": "user",
                "content": [
                    text_document(second, title="Two", citations={"enabled": True}),
                    QUESTION,
                ],
            },
        ]
    )
    blocks = blocks_of(answers(box, claude, body)["r-0"])
    anthropic.types.Message.model_validate(answers(box, claude, body)["r-0"]["message"])
    citations = [citation for block in blocks for citation in block["citations"] or []]
    assert {citation["document_index"] for citation in citations} == {0, 1}
    assert {citation["document_title"] for citation in citations} == {None, "Two"}
    for citation in citations:
        text = (first, second)[citation["document_index"]]
        start, end = citation["start_char_index"], citation["end_char_index"]
        assert citation["cited_text"] == text[start:end] != ""
    assert any(block["citations"] is None for block in blocks)


def pdf(*pages: str) -> str:
    """A PDF with a line of text on each page, as base64."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        kids.append(f"{len(objects) + 1} 0 R")
        resources = f"<< /Font << /F1 {font} >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {resources}"
            f" /Contents {len(objects) + 2} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(pages)} >>"
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    size = len(objects) + 1
    end = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF".encode()
    return base64.b64encode(
        out + f"xref\n0 {size}\n0000000000 65535 f \n".encode() + table + end
    ).decode()


def test_a_pdf_is_cited_by_pages(box: Sandbox, claude: Any) -> None:
    """page_location citations count pages from 1, the end excluded, and quote the page's text."""
    pages = ["Total: 12 apples.", "Colour: green."]
    source = {"type": "base64", "media_type": "application/pdf", "data": pdf(*pages)}
    document = {"type": "document", "source": source, "citations": {"enabled": True}}
    result = answers(box, claude, user(document, QUESTION))["r-0"]
    citations = [each for block in blocks_of(result) for each in block["citations"] or []]
    assert [(each["start_page_number"], each["end_page_number"]) for each in citations] == [
        (1, 2),
        (2, 3),
    ]
    texts = pdf_pages(base64.b64decode(source["data"]))
    for citation in citations:
        assert citation["cited_text"] in texts[citation["start_page_number"] - 1]
    assert result["message"]["usage"]["input_tokens"] == 2 * 1500 + text_tokens(QUESTION["text"])


def test_content_documents_are_cited_by_blocks(box: Sandbox, claude: Any) -> None:
    """content_block_location citations quote whole blocks."""
    parts = [{"type": "text", "text": text} for text in ("First part. More.", "Second part.")]
    source = {"type": "content", "content": parts}
    document = {"type": "document", "source": source, "citations": {"enabled": True}}
    blocks = blocks_of(answers(box, claude, user(document, QUESTION))["r-0"])
    citations = [each for block in blocks for each in block["citations"] or []]
    for citation in citations:
        start, end = citation["start_block_index"], citation["end_block_index"]
        assert citation["cited_text"] == "".join(part["text"] for part in parts[start:end])
    assert {each["start_block_index"] for each in citations} == {0, 1}


@pytest.mark.parametrize("place", ["system", "prompt"])
def test_citations_and_a_fenced_schema_come_together(box: Sandbox, claude: Any, place: str) -> None:
    """A schema in a fence of the prompt is answered in a fence, each line with its source."""
    schema = json.dumps(anthropic.transform_schema(Invoice), indent=2)
    order = f"Answer with JSON of this schema:\n```json\n{schema}\n```"
    document = text_document(INVOICE, citations={"enabled": True})
    if place == "system":
        body = user(document, QUESTION, system=order)
    else:
        body = user(document, {"type": "text", "text": order})
    blocks = blocks_of(answers(box, claude, body)["r-0"])
    fenced = "".join(block["text"] for block in blocks).split("```json\n")[1].split("```")[0]
    assert json.loads(fenced).items() >= EXPECTED.items()
    cited = {block["text"]: block["citations"] for block in blocks if block["citations"]}
    assert cited["Invoice number: INV-2041"][0]["cited_text"] == "Invoice number: INV-2041"
    assert blocks[-1]["citations"] is None


def test_plain_answers_use_the_requests_words(box: Sandbox, claude: Any) -> None:
    """The same request gets the same answer, made of its own words or its document's."""
    documented = user(text_document("Rivers flow to the sea. They do.", title="Rivers"), QUESTION)
    found = answers(box, claude, params("Write about tigers"), documented)
    again = answers(box, claude, params("Write about tigers"), documented)
    texts = [[blocks_of(each[f"r-{n}"])[0]["text"] for n in (0, 1)] for each in (found, again)]
    assert texts[0] == texts[1]
    assert "tigers" in texts[0][0]
    assert "Rivers flow to the sea." in texts[0][1]


THINKING = [
    ("claude-sonnet-5-5", {}, ["thinking", "text"]),
    ("claude-sonnet-5-5", {"thinking": {"type": "disabled"}}, ["text"]),
    ("claude-opus-4-8", {}, ["text"]),
    ("claude-opus-4-8", {"thinking": {"type": "adaptive"}}, ["thinking", "text"]),
    ("claude-sonnet-5-5", {"max_tokens": 8}, ["thinking"]),
    ("claude-opus-4-8", {"max_tokens": 8}, ["text"]),
]


@pytest.mark.parametrize(("model", "more", "kinds"), THINKING)
def test_thinking_counts_against_max_tokens(
    claude: anthropic.Anthropic, model: str, more: dict[str, Any], kinds: list[str]
) -> None:
    """Models that think put an empty thinking block first; a tiny budget leaves nothing else."""
    body = params("Tell me much, please", model=model, **more)
    message = claude.messages.create(**body)
    assert [block.type for block in message.content] == kinds
    assert message.usage.output_tokens <= body["max_tokens"]
    if body["max_tokens"] == 8:
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 8
    thought = message.usage.output_tokens_details
    assert thought is not None
    assert (thought.thinking_tokens > 0) == (kinds[0] == "thinking")


def test_long_answers_are_cut_at_max_tokens(claude: anthropic.Anthropic) -> None:
    """Text that does not fit is cut, and the stop reason and usage say so."""
    text = "[[sandbox:reply " + "word " * 400 + "]]"
    message = claude.messages.create(**params(text, model="claude-opus-4-8", max_tokens=50))
    (block,) = message.content
    assert block.type == "text"
    assert text_tokens(block.text) == 50 == message.usage.output_tokens
    assert message.stop_reason == "max_tokens"


def test_openai_answers_are_cut_in_their_own_way(gpt: openai.OpenAI) -> None:
    """Chat says length, Responses incomplete; a budget eaten by reasoning leaves no text."""
    text = "[[sandbox:reply " + "word " * 400 + "]]"
    cut = gpt.chat.completions.create(**chat(text, max_completion_tokens=100))
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage and cut.usage.completion_tokens == 100
    eaten = gpt.chat.completions.create(**chat(text, max_completion_tokens=10))
    assert (eaten.choices[0].message.content, eaten.choices[0].finish_reason) == ("", "length")
    response = gpt.responses.create(model="gpt-6-luna", input=text, max_output_tokens=16)
    assert response.status == "incomplete"
    assert response.incomplete_details and response.incomplete_details.reason == "max_output_tokens"
    assert [item.type for item in response.output] == ["reasoning"]


def test_stop_sequences_stop(claude: anthropic.Anthropic) -> None:
    """The text ends before the stop sequence, which is named."""
    body = params("[[sandbox:reply one STOP two]]", stop_sequences=["STOP"])
    message = claude.messages.create(**body)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "STOP")
    assert message.content[-1].type == "text"
    assert message.content[-1].text == "one "


def test_a_forced_tool_gets_its_input(claude: anthropic.Anthropic) -> None:
    """tool_choice `tool` is answered by a tool_use block with an instance of its schema."""
    tool = {"name": "save", "input_schema": Line.model_json_schema()}
    message = claude.messages.create(
        **params("Amount: 12.50", tools=[tool], tool_choice={"type": "tool", "name": "save"})
    )
    (block,) = message.content
    assert block.type == "tool_use"
    assert block.input["amount"] == 12.5
    assert message.stop_reason == "tool_use"


MARKED_CLAUDE = [
    ("[[sandbox:errored api_error]]", "errored", "api_error"),
    ("[[sandbox:errored invalid_request_error]]", "errored", "invalid_request_error"),
    ("[[sandbox:errored overloaded_error]]", "errored", "overloaded_error"),
    ("[[sandbox:expired]]", "expired", None),
    ("[[sandbox:canceled]]", "canceled", None),
    ("[[sandbox:refusal]]", "succeeded", "refusal"),
    ("[[sandbox:truncated]]", "succeeded", "max_tokens"),
    ("[[sandbox:reply 42 [x]]]", "succeeded", "end_turn"),
    ("[[sandbox:tokens 1000 50]]", "succeeded", "end_turn"),
]


def test_markers_steer_single_claude_rows(box: Sandbox, claude: Any) -> None:
    """Each marker has its wire form, and only rows that cost money are billed."""
    texts = [f"Please {marker}" for marker, _, _ in MARKED_CLAUDE]
    batch = claude.messages.batches.create(
        requests=[
            *(
                {"custom_id": f"r-{number}", "params": params(text)}
                for number, text in enumerate(texts)
            ),
            {"custom_id": "gone", "params": params("[[sandbox:missing]]")},
        ]
    )
    box.settle()
    rows = {row.custom_id: row.result for row in claude.messages.batches.results(batch.id)}
    assert set(rows) == {f"r-{number}" for number in range(len(texts))}
    for number, (_, kind, detail) in enumerate(MARKED_CLAUDE):
        result = rows[f"r-{number}"]
        assert result.type == kind
        if kind == "errored":
            assert result.error.error.type == detail
        if kind == "succeeded":
            assert result.message.stop_reason == detail
    assert rows["r-7"].message.content[-1].text.startswith("42 [x")
    usage = rows["r-8"].message.usage
    assert (usage.input_tokens, usage.output_tokens) == (1000, 50)
    counts = claude.messages.batches.retrieve(batch.id).request_counts
    assert (counts.succeeded, counts.errored, counts.expired, counts.canceled) == (5, 3, 1, 1)
    billed = {row.custom_id for row in box.ledger.billed() if row.batch_id == batch.id}
    assert billed == {"r-6", "r-7", "r-8"}


MARKED_GPT = [
    ("[[sandbox:errored api_error]]", "error", 500),
    ("[[sandbox:errored invalid_request_error]]", "error", 400),
    ("[[sandbox:expired]]", "error", "batch_expired"),
    ("[[sandbox:canceled]]", "error", "batch_cancelled"),
    ("[[sandbox:refusal]]", "output", "stop"),
    ("[[sandbox:truncated]]", "output", "length"),
    ("[[sandbox:tokens 1000 50]]", "output", "stop"),
]


def test_markers_steer_single_openai_rows(box: Sandbox, gpt: openai.OpenAI) -> None:
    """The same for OpenAI's output and error files."""
    bodies = [chat(f"Please {marker}") for marker, _, _ in MARKED_GPT]
    batch = ended(box, gpt, lines_of(*bodies, chat("[[sandbox:missing]]")))
    rows = {
        (kind, row["custom_id"]): row
        for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id))
        for row in output(gpt, file_id)
    }
    assert len(rows) == len(MARKED_GPT)
    for number, (_, kind, detail) in enumerate(MARKED_GPT):
        row = rows[kind, f"r-{number}"]
        if isinstance(detail, int):
            assert row["response"]["status_code"] == detail
        elif kind == "error":
            assert (row["response"], row["error"]["code"]) == (None, detail)
        else:
            assert row["response"]["body"]["choices"][0]["finish_reason"] == detail
    refusal = rows["output", "r-4"]["response"]["body"]["choices"][0]["message"]
    assert refusal["content"] is None
    assert refusal["refusal"]


def test_once_fails_only_the_first_time(box: Sandbox, claude: Any) -> None:
    """`once` fails in the first batch that holds the body, and never again, whatever its id."""
    body = params("[[sandbox:once errored api_error]] unique words of this test")
    assert answers(box, claude, body)["r-0"]["type"] == "errored"
    box.restart()
    assert answers(box, claude, params("other"), body)["r-1"]["type"] == "succeeded"


def test_invalid_json_breaks_a_structured_answer(box: Sandbox, gpt: openai.OpenAI) -> None:
    """The text of a structured answer does not parse."""
    form = {"name": "line", "strict": True, "schema": to_strict_json_schema(Line)}
    body = chat(
        "[[sandbox:invalid_json]]",
        response_format={"type": "json_schema", "json_schema": form},
    )
    text = gpt.chat.completions.create(**body).choices[0].message.content
    assert text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_cached_prefixes_are_written_then_read(box: Sandbox, claude: Any) -> None:
    """With cache_control one row of a batch writes the prefix and the others read it."""
    block = {
        "type": "text",
        "text": "Rules. " * 1000,
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    bodies = [user({"type": "text", "text": f"Question {n}"}, system=[block]) for n in range(4)]
    found = answers(box, claude, *bodies)
    usages = [result["message"]["usage"] for result in found.values()]
    written = [usage["cache_creation"]["ephemeral_1h_input_tokens"] for usage in usages]
    read = [usage["cache_read_input_tokens"] for usage in usages]
    assert sorted(written) == [0, 0, 0, 1750]
    assert sorted(read) == [0, 1750, 1750, 1750]
    for usage in usages:
        assert usage["input_tokens"] == text_tokens("Question 0")


def test_openai_counts_cached_tokens_inside_the_prompt(box: Sandbox, gpt: openai.OpenAI) -> None:
    """cached_tokens is a part of prompt_tokens, not beside it."""
    bodies = [chat("Rules. " * 1000 + str(n)) for n in range(3)]
    batch = ended(box, gpt, lines_of(*bodies))
    usages = [row["response"]["body"]["usage"] for row in output(gpt, batch.output_file_id)]
    cached = sorted(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert cached == [0, 1024, 1024]
    assert {usage["prompt_tokens"] for usage in usages} == {1751}
    assert batch.usage.input_tokens_details.cached_tokens == 2048


def test_costs_are_those_of_the_price_table(box: Sandbox, claude: Any) -> None:
    """A row of 1,000 and 50 tokens on Sonnet 5.5 costs half of $2 and $10 a million."""
    before = box.ledger.cost_usd()
    answers(box, claude, params("[[sandbox:tokens 1000 50]]"))
    assert box.ledger.cost_usd() - before == Decimal("0.00125")
    gpt = gpt_of(box)
    batch = ended(box, gpt, lines_of(chat("[[sandbox:tokens 1000 50]]", model="gpt-6-sol")))
    (row,) = [each for each in box.ledger.billed() if each.batch_id == batch.id]
    assert row.cost_usd == Decimal("0.00125")
    assert (row.model, row.input_tokens, row.output_tokens) == ("gpt-6-sol", 1000, 50)
