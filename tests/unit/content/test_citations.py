"""Citations read from real replies, verified against their sources, and kept from the JSON dump."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pypdf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchata_prefect.answers import Citation, TextBlock
from batchata_prefect.content.citations import (
    drop_unverified,
    map_citations,
    read_citations,
    verify,
)
from batchata_prefect.content.citations.dates import days
from batchata_prefect.content.citations.originals import (
    Held,
    Part,
    blocks_original,
    pdf_original,
    text_original,
)
from batchata_prefect.content.citations.written import normal, numbers
from batchata_prefect.content.shelf import Shelf
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book
from batchata_prefect.providers.anthropic.batches import Anthropic
from batchata_prefect.providers.bodies import held_in
from batchata_prefect.results.row import Reading
from tests.unit.content.test_documents import make_pdf

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


def test_every_recorded_citation_is_read_and_stands_in_its_source(real: Path) -> None:
    """Char ranges slice the source to exactly the cited text; cited pages and blocks hold it."""
    kinds = set()
    for name, request, reply in messages(real):
        blocks = text_blocks(reply)
        held = held_in(json.dumps(request).encode(), ())
        citations = read_citations(blocks)
        assert len(citations) == sum(len(block.citations) for block in blocks)
        verify(citations, held)
        for citation in citations:
            metadata = citation.metadata
            kinds.add(metadata["type"])
            assert citation.text, name
            assert metadata["verified"] is True, (name, citation)
            if metadata["type"] == "search_result_location":
                assert (citation.source, metadata["source"]) == (
                    "Ruby Facts",
                    "https://example.com/ruby-facts",
                )
                continue
            document = held.documents[metadata["document_index"]]
            assert citation.source == document.name
            if metadata["type"] == "char_location":
                start, end = metadata["start_char_index"], metadata["end_char_index"]
                assert document.parts[0].text[start:end] == citation.text
            else:
                assert (citation.page, metadata["end_page"]) == (1, 1)
    assert kinds == {"char_location", "page_location", "search_result_location"}


def test_the_whole_corpus_becomes_rows(real: Path) -> None:
    """Each recorded message becomes a row with its citations compared, whatever blocks it holds."""
    chunk = Chunk(0, 0, "ab" * 32, "anthropic", "/v1/messages", "m", 1, 0, 0, 0, None)
    reading = Reading(chunk, "batch_1", price_book(), {})
    job = Context("the-job", {}, citations="native")
    rows, cited = [], 0
    for path in sorted((real / "corpus/anthropic").glob("*.json")):
        recorded = json.loads(path.read_text())
        for exchange in recorded.get("exchanges", [recorded]):
            message = exchange.get("response")
            if not isinstance(message, dict) or message.get("type") != "message":
                continue
            line = {"custom_id": "x-0", "result": {"type": "succeeded", "message": message}}
            reply = Anthropic().read(json.dumps(line).encode(), "/v1/messages")
            body = json.dumps(exchange["request"]).encode() if "request" in exchange else b"{}"
            rows.append(reading.row(reply, job, None, body))
            citations = json.loads(rows[-1]["citations_json"] or "[]")
            assert all(one["metadata"]["verified"] for one in citations), path.name
            cited += len(citations)
    codes = {row["error_code"] for row in rows}
    assert (len(rows) > 20, cited, codes) == (True, 5, {None, "refusal", "truncated"})


def test_a_recorded_answer_is_mapped_to_its_fields(real: Path) -> None:
    """The sentence that Claude cited for Ruby's author supports author and year."""
    reply = next(reply for name, _, reply in messages(real) if "char" in name)
    mapped = map_citations({"creator": "Yukihiro Matsumoto", "year": 1993}, text_blocks(reply))
    assert mapped["creator"][0].confidence == "high"
    assert mapped["year"][0].text.startswith("The Ruby programming language")


# Reading

LOCATIONS = [
    (
        {"type": "char_location", "start_char_index": 0, "end_char_index": 1}
        | {"document_index": 0, "document_title": "T", "file_id": None},
        ("T", None),
        {},
    ),
    (
        {"type": "page_location", "start_page_number": 3, "end_page_number": 6}
        | {"document_index": 1, "document_title": None},
        ("second.pdf", 3),
        {"end_page": 5},
    ),
    (
        {"type": "content_block_location", "start_block_index": 0, "end_block_index": 2}
        | {"document_index": 7, "document_title": None},
        ("document 8", None),
        {},
    ),
    (
        {"type": "search_result_location", "start_block_index": 0, "end_block_index": 1}
        | {"search_result_index": 0, "source": "https://a.example", "title": None},
        ("https://a.example", None),
        {},
    ),
    (
        {"type": "web_search_result_location", "url": "https://a.example", "title": "A"},
        ("A", None),
        {},
    ),
    ({"type": "hologram_location"}, ("unknown source", None), {}),
    ({}, ("unknown source", None), {"type": "unknown"}),
]


@pytest.mark.parametrize(("raw", "expected", "more"), LOCATIONS, ids=lambda value: str(value)[:40])
def test_every_kind_of_location_is_read(
    raw: dict[str, Any], expected: tuple[str, int | None], more: dict[str, Any]
) -> None:
    """Known kinds with their ranges, others with what they share."""
    unknown = {"cited_text": "a", "encrypted_index": "x", "depth": 3}
    blocks = [TextBlock("x", (raw | unknown,))]
    (citation,) = read_citations(blocks, ["first.pdf", "second.pdf"])
    assert (citation.text, citation.source, citation.page) == ("a", *expected)
    told = {key: value for key, value in raw.items() if value is not None}
    assert citation.metadata == told | more
    assert read_citations([TextBlock("x", ({},))])[0].text == ""


# Verifying

TEXT = "Total due: 1,250 EUR\nby 5 March 2024, no later."
PAGES = (
    "Invoice 17 of the Acme Trading Company, the tenant may not sublet",
    "Total due 1,250.00 EUR within 30 days, and interest runs",
    "",
    "from the first day of the month in which the payment was due",
)


def encoded(*pages: str) -> str:
    return base64.b64encode(make_pdf(*pages)).decode()


HELD = Held(
    documents=(
        text_original("notes.txt", TEXT),
        pdf_original("bill.pdf", encoded(*PAGES)),
        blocks_original("lines", ["Rent 900 EUR", "Heating 75 EUR", ""]),
        None,
    ),
    results=(blocks_original("Facts", ["Ruby was made in 1993.", "It is fun."]),),
)


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


def page(first: int, text: str, last: int | None = None, index: int = 1) -> Citation:
    return Citation(
        text,
        "x",
        page=first,
        metadata={"type": "page_location", "document_index": index, "end_page": last or first},
    )


def block(first: int, text: str, behind: int | None = None, index: int = 2) -> Citation:
    place = {"document_index": index, "start_block_index": first}
    place["end_block_index"] = first + 1 if behind is None else behind
    return Citation(text, "x", metadata={"type": "content_block_location", **place})


def result(first: int, text: str, index: int = 0) -> Citation:
    place = {"search_result_index": index, "start_block_index": first, "end_block_index": first + 1}
    return Citation(text, "x", metadata={"type": "search_result_location", **place})


@pytest.mark.parametrize(
    ("citation", "verified"),
    [
        (char(0, 16, "Total due: 1,250"), True),
        (char(0, 16, "Total due: 1,251"), False),
        (char(0, 16, "total due: 1,250"), False),
        (char(1, 17, "Total due: 1,250"), False),
        (char(0, 16, "Total due: 1,250", index=3), None),
        (char(0, 16, "Total due: 1,250", index=9), None),
        (page(1, "Invoice 17 of the Acme Trading Company"), True),
        (page(1, "Invoice 17 of the\r\nAcme Trad-\r\ning Company "), True),
        (page(1, "Invoice 17 0f the Acme Trading Company"), False),
        (page(1, "Invoice 17 of the Acme Tradlng Company"), True),
        (page(1, "Invoice 18 of the Acme Trading Company"), False),
        (page(1, "Invoice 17 of the Acme Company"), False),
        (page(1, "Acme Trading Company, the tenant may sublet"), False),
        (page(2, "Invoice 17 of the Acme Trading Company"), False),
        (page(1, "may not sublet\nTotal due 1,250.00 EUR", last=2), True),
        (page(3, "Invoice 17"), None),
        (page(9, "Invoice 17"), None),
        (block(0, "Rent 900 EUR"), True),
        (block(0, "Rent 900 EURHeating 75 EUR", 2), True),
        (block(1, "Rent 900 EUR"), False),
        (block(2, "Rent 900 EUR"), None),
        (block(7, "Rent 900 EUR"), None),
        (result(0, "Ruby was made in 1993."), True),
        (result(1, "Ruby was made in 1993."), False),
        (result(0, "Ruby was made in 1993.", index=4), None),
        (Citation("x", "x", metadata={"type": "web_search_result_location"}), None),
        (Citation("x", "x"), None),
    ],
)
def test_a_citation_is_compared_with_its_source(citation: Citation, verified: bool | None) -> None:
    """True and false only where the source is held, else no key; a changed digit is never true."""
    verify([citation], HELD)
    assert citation.metadata.get("verified") is verified
    assert ("verified" in citation.metadata) is (verified is not None)


@pytest.mark.parametrize(
    ("wanted", "text", "found"),
    [
        ("the o\ufb03ce", "The office is closed", True),
        ("“due” now", 'It is "due" now', True),
        ("long-term lease", "a long-\nterm lease", True),
        ("Total 12.5", "Total 12.5 EUR", True),
        ("Total 125", "Total 12.5 EUR", False),
        ("Total 12,5", "Total 12.5 EUR", False),
        ("Total 12", "Total 12.5 EUR", False),
        ("5 EUR", "Total 12.5 EUR", False),
        ("Total 12.", "Total 12. Due now", True),
        ("-500", "balance 500", False),
        ("balance -500", "balance \u2212500", True),
        ("12", "in 2012", False),
        ("12", "in 2012, 12 of them", True),
        ("art", "the party", False),
        ("art", "the art, and", True),
        ("Qty 5", "Qty5", True),
        ("of the month in which the payment was du", "first day of the month in which the payment"
         " was due", True),
        ("", "text", False),
        (" ... ", "text ... text", False),
    ],
)  # fmt: skip
def test_a_text_is_found_but_for_its_setting(wanted: str, text: str, found: bool) -> None:
    """White space, hyphens, quotes and case may differ; numbers and whole words may not."""
    assert Part(text).find(wanted) is found


CLAUSE = (
    "The tenant may not sublet the flat or any part of it without the written permission of the "
    "landlord, who shall answer within 30 days after the request was received by registered mail. "
    "Where the landlord has good cause in the person of the other tenant, or the space would be "
    "overcrowded, the permission can be denied, and the tenant has a right to end the lease early."
)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("sublet", "sub1et", False),
        ("sublet", "subiet", True),
        ("may not sublet", "may sublet", False),
        ("may not", "may now", True),
        ("part of it", "part of", False),
        ("shall answer", "shall never answer", False),
        ("30 days", "80 days", False),
        ("30 days", "days", False),
        ("The tenant", "tenant", True),
    ],
)
def test_a_misread_letter_of_a_page_is_no_other_text(old: str, new: str, found: bool) -> None:
    """What two readers of one PDF see differently is a letter, and never a word or a digit."""
    assert Part(f"1. {CLAUSE}. 2.").find(CLAUSE.replace(old, new, 1), misread=True) is found


def test_pages_are_read_only_as_far_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page costs tens of milliseconds: those not cited are not read, and others only once."""
    read = []
    take = pypdf.PageObject.extract_text
    monkeypatch.setattr(
        pypdf.PageObject,
        "extract_text",
        lambda page, **how: read.append(page.page_number) or take(page, **how),
    )
    data = encoded("first page", "second page", "third page of this test alone")
    for _ in range(3):
        held = Held((pdf_original("a", data), pdf_original("b", data)))
        citations = [page(2, "second page", index=index) for index in (0, 1)]
        verify(citations, held)
        assert all(citation.metadata["verified"] for citation in citations)
    assert read == [1]


def test_documents_that_are_kept_are_bounded() -> None:
    """The least recently used one goes, and one too large for all is not kept at all."""
    shelf = Shelf[str](limit_bytes=100)
    shelf.put("one", "1", 50)
    shelf.put("two", "2", 50)
    assert shelf.get("one") == "1"
    shelf.put("three", "3", 50)
    assert [shelf.get(key) for key in ("one", "two", "three")] == ["1", None, "3"]
    shelf.put("large", "4", 101)
    assert (shelf.get("large"), shelf.size_bytes) == (None, 100)
    shelf.put("one", "again", 50)
    assert (shelf.get("one"), shelf.size_bytes) == ("1", 100)


def test_documents_are_made_once_of_the_same_bytes() -> None:
    """A long text and a PDF that many jobs share; what is no PDF has no pages."""
    for make, data in ((pdf_original, encoded("shared")), (text_original, "shared " * 5_000)):
        first, second = (make(name, data).parts for name in ("a", "b"))
        assert first[0] is second[0]
    assert len(pdf_original("x", "no base64").parts) == 0


def quote(text: str, **more: Any) -> Citation:
    raw = {"type": "quote", "cited_text": text, **more}
    return read_citations([TextBlock("", (raw,))])[0]


def test_a_quote_is_looked_for_in_all_documents_and_placed() -> None:
    """Where it is found it gets the place that an API would have given."""
    found = [
        quote("by 5 March 2024"),
        quote("Total due 1,250.00 EUR"),
        quote("Total due 1,999.00 EUR"),
        quote("Heating 75 EUR"),
    ]
    verify(found, HELD)
    first, second, third, fourth = (one.metadata for one in found)
    start = TEXT.index("by 5")
    assert (first["verified"], first["start_char_index"]) == (True, start)
    assert TEXT[start : first["end_char_index"]] == found[0].text
    assert (second["verified"], found[1].page, found[1].source) == (True, 2, "bill.pdf")
    assert (second["document_index"], second["end_page_number"]) == (1, 3)
    assert third["verified"] is False
    assert (fourth["document_index"], fourth["start_block_index"]) == (2, 1)


def test_a_quote_over_two_pages_is_found() -> None:
    """A sentence does not end with its page."""
    pages = ("The first page ends and interest runs", "from the first day of the month.")
    found = quote("and interest runs from the first day")
    verify([found], Held((pdf_original("x", encoded(*pages)),)))
    assert found.metadata["verified"] is True
    assert (found.page, found.metadata["end_page"]) == (1, 2)


def test_a_quote_is_not_looked_for_in_other_documents_than_it_names() -> None:
    """A quote of the wrong document is no quote; one of a document that we do not hold is open."""
    named, open_ = quote("by 5 March 2024", document_index=1), quote("x", document_index=3)
    verify([named, open_], HELD)
    assert named.metadata["verified"] is False
    assert "verified" not in open_.metadata


def test_unverified_quotes_are_dropped_and_counted() -> None:
    """The API's own citations stay whatever the comparison says."""
    citations = [
        quote("by 5 March 2024"),
        quote("never written"),
        quote("x", document_index=3),
        char(0, 3, "Sum"),
    ]
    verify(citations, HELD)
    kept, dropped = drop_unverified(citations)
    assert [citation.text for citation in kept] == ["by 5 March 2024", "Sum"]
    assert dropped == 2


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
