"""Citations of an answer: read, verified against the documents, mapped to the answer's fields."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import BaseModel

from batchata_prefect.answers import Citation, TextBlock
from batchata_prefect.content.bounds import Work, bounds
from batchata_prefect.content.citations.evidence import Source, supports
from batchata_prefect.content.citations.fields import Leaf, leaves
from batchata_prefect.content.citations.matching import Passage
from batchata_prefect.content.citations.originals import Held, Original, Part
from batchata_prefect.content.schema.json_text import json_spans

_RANGE_KEYS = (
    "start_char_index end_char_index start_page_number end_page_number start_block_index "
    "end_block_index search_result_index source url title file_id field start_index end_index "
    "index filename container_id"
)
_RANGES = tuple(_RANGE_KEYS.split())
"""Keys of location objects that are kept by their own names [anthropic/types/citation_*.py;
openai/types/responses/response_output_text.py]."""


def read_citations(blocks: Sequence[TextBlock], sources: Sequence[str] = ()) -> list[Citation]:
    """One citation for every location object of the blocks, in their order.

    Reads Anthropic's locations, OpenAI's `url_citation`, `file_citation` and
    `container_file_citation` (which tell no cited text), our own `quote`, and what may come. The
    metadata keep the API's names: ranges exclude their end, characters and blocks count from 0,
    pages from 1; `end_page` is the last page itself.

    Args:
        blocks: The answer's text pieces.
        sources: Titles of the request's documents by document index, for locations without one.
    """
    return [_citation(raw, sources) for block in blocks for raw in block.citations]


def _citation(raw: Mapping[str, Any], sources: Sequence[str]) -> Citation:
    kind = str(raw.get("type") or "unknown")
    metadata: dict[str, Any] = {"type": kind}
    index = raw.get("document_index")
    if isinstance(index, int):
        metadata["document_index"] = index
    named = raw.get("document_title")
    if named is not None:
        metadata["document_title"] = named
    metadata |= {key: raw[key] for key in _RANGES if raw.get(key) is not None}
    first, end = raw.get("start_page_number"), raw.get("end_page_number")
    page = first if isinstance(first, int) else None
    if isinstance(end, int):
        # The API's end is one page behind the last; a range that is empty all the same is one page.
        metadata["end_page"] = max(end - 1, page or 1)
    names = ("title", "source", "filename", "url", "file_id")
    title = named or next((raw[name] for name in names if raw.get(name)), None)
    if not title and isinstance(index, int):
        title = sources[index] if 0 <= index < len(sources) else None
        title = title or f"document {index + 1}"
    return Citation(
        text=str(raw.get("cited_text") or ""),
        source=str(title or "unknown source"),
        page=page,
        metadata=metadata,
    )


def verify(citations: Sequence[Citation], held: Held) -> None:
    """Compare citations with the documents and note the outcome as `metadata["verified"]`.

    True: the text stands where the citation says. False: it does not. No key: we do not hold the
    document (a URL, an uploaded file), or the page has no text (a scan).

    The rule for each kind of place:

    - characters: the slice of the document is the cited text, character for character;
    - pages and blocks: the text stands there as `Part.find` has it, in a PDF also with one letter
      in fifty misread;
    - quotes, which say no place: the same, anywhere in the document that they name, or in any
      where they name none. The place where one was found is noted as the API would.

    Args:
        citations: What `read_citations` made; changed in place.
        held: What the request holds to cite from.
    """
    for citation in citations:
        metadata = citation.metadata = citation.metadata or {}
        if metadata.get("type") == "quote":
            verified = _verified_quote(citation, held)
        else:
            original = _original(metadata, held)
            verified = None if original is None else _verified(citation, original)
        if verified is not None:
            metadata["verified"] = verified


def _original(metadata: Mapping[str, Any], held: Held) -> Original | None:
    index = metadata.get("document_index")
    if isinstance(index, int):
        return held.documents[index] if 0 <= index < len(held.documents) else None
    index = metadata.get("search_result_index")
    if isinstance(index, int):
        return held.results[index] if 0 <= index < len(held.results) else None
    return None


def _verified(citation: Citation, original: Original) -> bool | None:
    metadata = citation.metadata or {}
    start, end = metadata.get("start_char_index"), metadata.get("end_char_index")
    if original.kind == "text" and isinstance(start, int) and isinstance(end, int):
        return original.parts[0].text[start:end] == citation.text
    parts, misread = original.parts, original.kind == "pages"
    if misread and citation.page is not None:
        parts = parts[max(citation.page - 1, 0) : metadata.get("end_page", citation.page)]
    first, behind = metadata.get("start_block_index"), metadata.get("end_block_index")
    if original.kind == "blocks" and isinstance(first, int) and isinstance(behind, int):
        parts = parts[max(first, 0) : behind]
    if not any(part.text.strip() for part in parts):
        return None
    return _together(parts).find(citation.text, misread=misread)


def _together(parts: Sequence[Part]) -> Part:
    """What is looked into for a text: one over several pages is in none of them alone."""
    return parts[0] if len(parts) == 1 else Part("\n".join(part.text for part in parts))


def _verified_quote(citation: Citation, held: Held) -> bool | None:
    metadata = cast("dict[str, Any]", citation.metadata)
    named = metadata.get("document_index")
    indexes = range(len(held.documents))
    if isinstance(named, int) and named in indexes:
        indexes = [named]
    readable = False
    for index in indexes:
        original = held.documents[index]
        if original is None:
            continue
        readable = readable or any(part.text.strip() for part in original.parts)
        found = _range_of(citation.text, original)
        if found is not None:
            _note_place(citation, original, index, *found)
            return True
    return False if readable else None


def _range_of(text: str, original: Original) -> tuple[int, int] | None:
    """First and last part that a text stands in, where it is in one or over two pages."""
    misread = original.kind == "pages"
    for count in (1, 2) if misread else (1,):
        for place in range(len(original.parts) - count + 1):
            parts = original.parts[place : place + count]
            if _together(parts).find(text, misread=misread):
                return place, place + count - 1
    return None


def _note_place(citation: Citation, original: Original, index: int, place: int, last: int) -> None:
    metadata = cast("dict[str, Any]", citation.metadata)
    metadata["document_index"] = index
    citation.source = original.name or citation.source
    if original.kind == "pages":
        citation.page = place + 1
        metadata |= {"start_page_number": place + 1, "end_page_number": last + 2}
        metadata["end_page"] = last + 1
    elif original.kind == "blocks":
        metadata |= {"start_block_index": place, "end_block_index": place + 1}
    elif citation.text in (text := original.parts[place].text):
        start = text.index(citation.text)
        metadata |= {"start_char_index": start, "end_char_index": start + len(citation.text)}


def drop_unverified(citations: Sequence[Citation]) -> tuple[list[Citation], int]:
    """The citations without quotes that stand in no document, and how many these were."""
    kept = [
        citation
        for citation in citations
        if (citation.metadata or {}).get("type") != "quote"
        or (citation.metadata or {}).get("verified") is True
    ]
    return kept, len(citations) - len(kept)


def map_citations(
    value: BaseModel | Mapping[str, Any] | Sequence[Any],
    blocks: Sequence[TextBlock],
    citations: Sequence[Citation] | None = None,
) -> dict[str, list[Citation]]:
    """Path of each field that a citation supports -> copies of its citations, surest first.

    A copy carries `confidence` (high, medium, low) and `match_reason`. A field is supported by its
    value in the cited text, in any usual written form, and by its name beside it, there or in the
    sentence of the answer that carries the citation; never by the JSON at the answer's end.

    Args:
        value: The parsed answer.
        blocks: The answer's text pieces.
        citations: What `read_citations` made of these blocks, in full; None reads them again. Also
            taken: citations that belong to no block, such as verified quotes.
    """
    if citations is None:
        citations = read_citations(blocks)
    sentences = _sentences(blocks)
    if len(sentences) != len(citations):
        sentences = [""] * len(citations)
    texts = {citation.text for citation in citations} | set(sentences)
    work = Work(bounds().mapping_steps)
    passages = {text: Passage(text, work) for text in texts}
    fields = leaves(value)
    sources = [
        Source(
            cited=passages[citation.text],
            sentence=passages[sentence],
            path=_path((citation.metadata or {}).get("field"), fields),
        )
        for citation, sentence in zip(citations, sentences, strict=True)
    ]
    return {
        path: [
            replace(
                citations[support.source],
                confidence=support.confidence,
                match_reason=support.reason,
            )
            for support in found
        ]
        for path, found in supports(fields, sources).items()
    }


def _path(named: object, fields: Sequence[Leaf]) -> str | None:
    """The path that a model named, in our form; None where the answer has no such field."""
    path = re.sub(r"\.(\d+)(?=\.|\[|$)", r"[\1]", str(named or "")).removeprefix("$.")
    return path if path and any(leaf.is_within(path) for leaf in fields) else None


def _sentences(blocks: Sequence[TextBlock]) -> list[str]:
    """For every citation the words of the answer that it is attached to, without any JSON.

    Anthropic cuts the answer where citations begin and end, often within a sentence: the end of
    the piece before, such as `The total is `, belongs to it.
    """
    text = "".join(block.text for block in blocks)
    spans = json_spans(text)
    found: list[str] = []
    start, lead = 0, ""
    for block in blocks:
        end = start + len(block.text)
        own = _outside(text, start, end, spans)
        found += [lead + own] * len(block.citations)
        tail = re.split(r"\n|(?<=[.!?])\s", own)[-1]
        lead = tail if not block.citations else ""
        start = end
    return found


def _outside(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> str:
    kept = ""
    for at in range(max(0, bisect_right(spans, (start, start)) - 1), len(spans)):
        first, last = spans[at]
        if first >= end:
            break
        if last > start:
            kept += text[start : max(first, start)]
            start = min(last, end)
    return kept + text[start:end]
