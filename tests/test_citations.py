"""Citations read from real replies, verified against their sources, and kept from the JSON dump."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchata_prefect.citations import (
    drop_unverified,
    map_citations,
    read_citations,
    verify,
)
from batchata_prefect.citations.written import days, normal, numbers
from batchata_prefect.documents import Document, load_documents
from batchata_prefect.models import Citation, TextBlock
from tests.test_documents import make_pdf

# Real replies


def messages(real: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, request and reply of every recorded message with citations."""
    for path in sorted((real / "corpus/anthropic").glob("citations-*.json")):
        recorded = json.loads(path.read_text())
        for exchange in recorded.get("exchanges", [recorded]):
            yield path.name, exchange["request"], exchange["response"]


def text_blocks(reply: dict[str, Any]) -> list[TextBlock]:
    return [
        TextBlock(block["text"], tuple(block.get("citations") or ()))
        for block in reply["content"]
        if block["type"] == "text"
    ]


def request_documents(request: dict[str, Any]) -> list[Document]:
    found = []
    for message in request["messages"]:
        for block in message["content"]:
            if block["type"] == "document":
                source = block["source"]
                data = source["data"].encode()
                data = base64.b64decode(data) if source["type"] == "base64" else data
                found += [
                    replace(one, name=block["title"]) for one in load_documents(data, job_id="a")
                ]
    return found


def test_every_recorded_citation_is_read_and_stands_in_its_source(real: Path) -> None:
    """Char ranges slice the source to exactly the cited text; cited pages hold it."""
    kinds = set()
    for name, request, reply in messages(real):
        blocks = text_blocks(reply)
        documents = request_documents(request)
        citations = read_citations(blocks)
        assert len(citations) == sum(len(block.citations) for block in blocks)
        verify(citations, documents)
        for citation in citations:
            metadata = citation.metadata
            kinds.add(metadata["type"])
            assert citation.text, name
            if metadata["type"] == "search_result_location":
                assert metadata["verified"] is None
                assert (citation.source, metadata["source"]) == (
                    "Ruby Facts",
                    "https://example.com/ruby-facts",
                )
                continue
            assert metadata["verified"] is True, (name, citation)
            document = documents[metadata["document_index"]]
            assert citation.source == document.name
            if metadata["type"] == "char_location":
                start, end = metadata["start_char_index"], metadata["end_char_index"]
                assert document.text[start:end] == citation.text
            else:
                assert (citation.page, metadata["end_page"]) == (1, 1)
    assert kinds == {"char_location", "page_location", "search_result_location"}


def test_a_recorded_answer_is_mapped_to_its_fields(real: Path) -> None:
    """The sentence that Claude cited for Ruby's author supports author and year."""
    reply = next(reply for name, _, reply in messages(real) if "char" in name)
    mapped = map_citations({"creator": "Yukihiro Matsumoto", "year": 1993}, text_blocks(reply))
    assert mapped["creator"][0].confidence == "high"
    assert mapped["year"][0].text.startswith("The Ruby programming language")


# Reading

LOCATIONS = [
    (
        {
            "type": "char_location",
            "cited_text": "a",
            "document_index": 0,
            "document_title": "T",
            "file_id": None,
            "start_char_index": 0,
            "end_char_index": 1,
        },
        ("a", "T", None),
        {
            "type": "char_location",
            "document_index": 0,
            "document_title": "T",
            "start_char_index": 0,
            "end_char_index": 1,
        },
    ),
    (
        {
            "type": "page_location",
            "cited_text": "a",
            "document_index": 1,
            "document_title": None,
            "start_page_number": 3,
            "end_page_number": 6,
        },
        ("a", "second.pdf", 3),
        {
            "type": "page_location",
            "document_index": 1,
            "start_page_number": 3,
            "end_page_number": 6,
            "end_page": 5,
        },
    ),
    (
        {
            "type": "content_block_location",
            "cited_text": "ab",
            "document_index": 7,
            "document_title": None,
            "start_block_index": 0,
            "end_block_index": 2,
        },
        ("ab", "document 8", None),
        {
            "type": "content_block_location",
            "document_index": 7,
            "start_block_index": 0,
            "end_block_index": 2,
        },
    ),
    (
        {
            "type": "search_result_location",
            "cited_text": "a",
            "search_result_index": 0,
            "source": "https://a.example",
            "title": None,
            "start_block_index": 0,
            "end_block_index": 1,
        },
        ("a", "https://a.example", None),
        {
            "type": "search_result_location",
            "search_result_index": 0,
            "source": "https://a.example",
            "start_block_index": 0,
            "end_block_index": 1,
        },
    ),
    (
        {
            "type": "web_search_result_location",
            "cited_text": "a",
            "url": "https://a.example",
            "title": "A",
            "encrypted_index": "x",
        },
        ("a", "A", None),
        {"type": "web_search_result_location", "url": "https://a.example", "title": "A"},
    ),
    (
        {"type": "hologram_location", "cited_text": "a", "depth": 3},
        ("a", "unknown source", None),
        {"type": "hologram_location"},
    ),
    ({}, ("", "unknown source", None), {"type": "unknown"}),
]


@pytest.mark.parametrize(
    ("raw", "expected", "metadata"), LOCATIONS, ids=lambda value: str(value)[:40]
)
def test_every_kind_of_location_is_read(
    raw: dict[str, Any], expected: tuple[str, str, int | None], metadata: dict[str, Any]
) -> None:
    """Known kinds with their ranges, others with what they share."""
    (citation,) = read_citations([TextBlock("x", (raw,))], ["first.pdf", "second.pdf"])
    assert (citation.text, citation.source, citation.page) == expected
    assert citation.metadata == metadata


# Verifying

TEXT = load_documents(b"Total due: 1,250 EUR\nby 5 March 2024, no later.", job_id="a")[0]
PDF = load_documents(
    make_pdf("Invoice 17 of the Acme Trading Company", "Total due 1,250.00 EUR within 30 days", ""),
    job_id="a",
)[0]


def char(start: int, end: int, text: str, index: int = 0) -> Citation:
    return Citation(
        text,
        "x",
        metadata={
            "type": "char_location",
            "document_index": index,
            "start_char_index": start,
            "end_char_index": end,
        },
    )


def page(first: int, text: str, last: int | None = None) -> Citation:
    return Citation(
        text,
        "x",
        page=first,
        metadata={"type": "page_location", "document_index": 1, "end_page": last or first},
    )


@pytest.mark.parametrize(
    ("citation", "verified"),
    [
        (char(0, 16, "Total due: 1,250"), True),
        (char(0, 16, "Total due: 1,251"), False),
        (char(1, 17, "Total due: 1,250"), False),
        (char(0, 16, "Total due: 1,250", index=9), None),
        (page(1, "Invoice 17 of the Acme Trading Company"), True),
        (page(1, "Invoice 17 of the\r\nAcme Trad-\r\ning Company "), True),
        (page(1, "Invoice 17 0f the Acme Trading Company"), False),
        (page(1, "Invoice 17 of the Acme Tradlng Company"), True),
        (page(1, "Invoice 18 of the Acme Trading Company"), False),
        (page(2, "Invoice 17 of the Acme Trading Company"), False),
        (page(1, "Company\nTotal due 1,250.00 EUR", last=2), True),
        (page(3, "Invoice 17"), None),
        (page(9, "Invoice 17"), None),
        (Citation("x", "x", metadata={"type": "search_result_location"}), None),
        (Citation("x", "x"), None),
        (
            Citation(
                "by 5 March 2024",
                "x",
                metadata={"type": "content_block_location", "document_index": 0},
            ),
            True,
        ),
    ],
)
def test_a_citation_is_compared_with_its_source(citation: Citation, verified: bool | None) -> None:
    """True and false only where the source is held; a changed digit is never true."""
    verify([citation], [TEXT, PDF])
    assert citation.metadata["verified"] is verified


def quote(text: str, **more: Any) -> Citation:
    raw = {"type": "quote", "cited_text": text, **more}
    return read_citations([TextBlock("", (raw,))])[0]


def test_a_quote_is_looked_for_in_all_documents_and_placed() -> None:
    """Where it is found it gets the place that an API would have given."""
    found = [
        quote("by 5 March 2024"),
        quote("Total due 1,250.00 EUR"),
        quote("Total due 1,999.00 EUR"),
    ]
    verify(found, [TEXT, PDF])
    first, second, third = found
    start = TEXT.text.index("by 5")
    assert (first.metadata["verified"], first.metadata["start_char_index"]) == (True, start)
    assert TEXT.text[start : first.metadata["end_char_index"]] == first.text
    assert (second.metadata["verified"], second.page, second.source) == (True, 2, PDF.name)
    assert second.metadata["document_index"] == 1
    assert third.metadata["verified"] is False


def test_a_quote_is_not_looked_for_in_other_documents_than_it_names() -> None:
    """A quote of the wrong document is no quote."""
    named = quote("by 5 March 2024", document_index=1)
    verify([named], [TEXT, PDF])
    assert named.metadata["verified"] is False


def test_unverified_quotes_are_dropped_and_counted() -> None:
    """The API's own citations stay whatever the comparison says."""
    citations = [quote("by 5 March 2024"), quote("never written"), char(0, 3, "Sum")]
    verify(citations, [TEXT])
    kept, dropped = drop_unverified(citations)
    assert [citation.text for citation in kept] == ["by 5 March 2024", "Sum"]
    assert dropped == 1


# Mapping: blocks, sentences and the JSON dump


def cited(text: str, *texts: str) -> TextBlock:
    return TextBlock(text, tuple({"type": "char_location", "cited_text": one} for one in texts))


DUMP = '```json\n{"vendor": "Acme Trading Ltd", "total": 1250, "paid": true}\n```'
ANSWER = {"vendor": "Acme Trading Ltd", "total": 1250, "paid": True}


@pytest.mark.parametrize(
    "blocks",
    [
        [cited(DUMP, "General terms apply.")],
        [cited("Terms apply.\n" + DUMP, "General terms apply.")],
        [cited(DUMP[:40], "General terms apply."), cited(DUMP[40:], "General terms apply.")],
        [cited(DUMP.strip("`json\n"), "General terms apply.")],
        [cited('```json\n{"vendor": "Acme Trading Ltd", "total": 1250, "pa', "General terms.")],
        [TextBlock("Here it is:\n"), cited(DUMP.removesuffix("```"), "General terms apply.")],
    ],
)  # fmt: skip
def test_no_field_inherits_from_the_json_dump(blocks: list[TextBlock]) -> None:
    """A citation beside the dump of all fields supports none of them."""
    assert map_citations(ANSWER, blocks) == {}


def test_citations_before_the_dump_support_their_fields() -> None:
    """The form that the prompt asks for: cited sentences first, then the JSON."""
    blocks = [
        TextBlock("The vendor is "),
        cited("Acme Trading Ltd", "ACME TRADING LTD, Berlin"),
        TextBlock(". The total is "),
        cited("1250", "amount payable EUR 1.250,00"),
        TextBlock(".\n\n" + DUMP),
    ]
    mapped = map_citations(ANSWER, blocks)
    assert {path: [one.text for one in found] for path, found in mapped.items()} == {
        "vendor": ["ACME TRADING LTD, Berlin"],
        "total": ["amount payable EUR 1.250,00"],
    }
    assert mapped["total"][0].confidence == "high"
    assert "beside 'total'" in mapped["total"][0].match_reason


def test_the_sentence_before_a_citation_ends_at_its_own_start() -> None:
    """The name in a finished sentence is not beside the next citation."""
    blocks = [TextBlock("The total is unknown. It weighs "), cited("12 kg", "weight 12 kg")]
    mapped = map_citations({"total": 12, "weight": 12}, blocks)
    assert {path: found[0].confidence for path, found in mapped.items()} == {
        "total": "low",
        "weight": "high",
    }


def test_a_finished_sentence_is_not_about_the_next_citation() -> None:
    """What it denies is not denied by the text cited after it."""
    blocks = [TextBlock("It is signed. It is "), cited("not paid", "payment is open")]
    mapped = map_citations({"signed": False, "paid": False}, blocks)
    assert {path: found[0].confidence for path, found in mapped.items()} == {"paid": "medium"}


def test_mapped_citations_are_copies_of_those_given() -> None:
    """What was verified stays verified, and the list of all citations stays as it was."""
    blocks = [cited("", "Total: 1250")]
    citations = read_citations(blocks)
    citations[0].metadata["verified"] = True
    (mapped,) = map_citations({"total": 1250}, blocks, citations)["total"]
    assert mapped.metadata["verified"] is True
    assert (mapped.confidence, citations[0].confidence) == ("high", None)


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("total", "Sum 1250", {"total": "high"}),
        ("total", "nothing of it", {"total": "low"}),
        ("lines.0.price", "price 10", {"lines[0].price": "high"}),
        ("lines[1]", "for 10", {"lines[1].price": "high"}),
        ("no_such_field", "Total 1250", {"total": "high"}),
        (None, "Total 1250", {"total": "high"}),
    ],
)
def test_a_quote_supports_the_field_that_the_model_named(
    field: str | None, text: str, expected: dict[str, str]
) -> None:
    """By its path in any spelling, less surely where the value is not in it."""
    value = {"total": 1250, "lines": [{"price": 10}, {"price": 10}], "vendor": None}
    mapped = map_citations(value, (), [quote(text, field=field)])
    assert {path: found[0].confidence for path, found in mapped.items()} == expected


def test_mapping_takes_milliseconds_for_a_large_answer() -> None:
    """20 fields and 30 citations stay far below what reading the answer's documents costs."""
    import time

    value = {f"field_{n}": 1000 + n for n in range(10)} | {
        f"name_{n}": f"Person {n}x" for n in range(10)
    }
    blocks = [
        cited(
            f"Sentence {n} says so.",
            f"Field {n} is {1000 + n}, paid by Person {n}x on 5 March 2024.",
        )
        for n in range(30)
    ]
    started = time.process_time()
    for _ in range(5):
        mapped = map_citations(value, blocks)
    assert len(mapped) == 20
    assert (time.process_time() - started) / 5 < 0.25


# Numbers and dates, any of them

AMOUNTS = st.decimals(min_value=0, max_value=10**9, places=2, allow_nan=False)


def grouped(value: Decimal, group: str, point: str) -> str:
    return f"{value:,.2f}".replace(",", "\0").replace(".", point).replace("\0", group)


STYLES = {
    "plain": lambda value: f"{value:.2f}",
    "US": lambda value: grouped(value, ",", "."),
    "German": lambda value: grouped(value, ".", ",") + " €",
    "French": lambda value: grouped(value, "\u202f", ",") + " €",
    "French, plain spaces": lambda value: grouped(value, " ", ",") + " €",
    "Swiss": lambda value: "CHF " + grouped(value, "'", "."),
    "dollars": lambda value: "$" + grouped(value, ",", "."),
    "euros": lambda value: "EUR" + grouped(value, ",", "."),
}


@pytest.mark.parametrize("style", STYLES)
@given(value=AMOUNTS)
@settings(max_examples=60, deadline=None)
def test_an_amount_is_found_in_every_usual_form(style: str, value: Decimal) -> None:
    """Whatever the amount, its usual written forms are read as it."""
    text = normal(f"Total: {STYLES[style](value)}.")
    assert value in {number.value for number in numbers(text, days(text))}


@pytest.mark.parametrize("style", ["plain", "US", "German", "Swiss"])
@given(value=AMOUNTS, cut=st.integers(1, 12), drop=st.sampled_from(["head", "tail"]))
@settings(max_examples=60, deadline=None)
def test_a_part_of_an_amount_is_not_found(style: str, value: Decimal, cut: int, drop: str) -> None:
    """A number that is only a piece of the digits in the text supports nothing."""
    text = STYLES[style](value)
    digits = f"{value:.2f}".replace(".", "")
    piece = digits[cut:] if drop == "head" else digits[:-cut]
    if not piece or Decimal(piece) in (value, value * 100, Decimal(int(value))):
        return
    found = normal(f"Total: {text}.")
    assert Decimal(piece) not in {number.value for number in numbers(found, days(found))}


DAY_STYLES = {
    "ISO": lambda day: day.isoformat(),
    "compact": lambda day: f"{day:%Y%m%d}",
    "day first": lambda day: f"{day:%d/%m/%Y}",
    "month first": lambda day: f"{day:%m/%d/%Y}",
    "dots": lambda day: f"{day.day}.{day.month}.{day.year}",
    "English": lambda day: f"{day:%B} {day.day}, {day.year}",
    "British": lambda day: f"{day.day} {day:%b} {day.year}",
    "Chinese": lambda day: f"{day.year}年{day.month}月{day.day}日",
}


@pytest.mark.parametrize("style", DAY_STYLES)
@given(day=st.dates(date(1950, 1, 1), date(2060, 1, 1)))
@settings(max_examples=60, deadline=None)
def test_a_date_is_found_in_every_usual_form(style: str, day: date) -> None:
    """Whatever the day, its usual written forms are read as it, and as no number."""
    text = normal(f"Due: {DAY_STYLES[style](day)}.")
    found = days(text)
    assert any(one.fits(day) and one.whole for one in found)
    assert all(number.in_date for number in numbers(text, found))


@given(text=st.text(max_size=200))
@example("1'" * 50)
@example("-" * 50 + "1")
@example("1 000 " * 30)
@example("." * 20)
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_read(text: str) -> None:
    """No text makes the readers fail."""
    plain = normal(text)
    numbers(plain, days(plain))
    map_citations({"a": 1, "b": text, "c": [True]}, [cited(text, text)])
