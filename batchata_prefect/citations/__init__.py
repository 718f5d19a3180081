"""Citations of an answer: read, verified against the documents, mapped to the answer's fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from batchata_prefect.citations.evidence import Source, supports
from batchata_prefect.citations.fields import Leaf, leaves
from batchata_prefect.citations.matching import Passage
from batchata_prefect.citations.written import normal
from batchata_prefect.models import Citation, TextBlock
from batchata_prefect.schema.json_text import json_spans

if TYPE_CHECKING:
    from batchata_prefect.documents import Document

_RANGES = (
    "start_char_index",
    "end_char_index",
    "start_page_number",
    "end_page_number",
    "start_block_index",
    "end_block_index",
    "search_result_index",
    "source",
    "url",
    "title",
    "file_id",
    "field",
)
"""Keys of location objects that are kept by their own names [anthropic/types/citation_*.py]."""


def read_citations(blocks: Sequence[TextBlock], sources: Sequence[str] = ()) -> list[Citation]:
    """One citation for every location object of the blocks, in their order.

    Reads `char_location`, `page_location`, `content_block_location`, `search_result_location`,
    `web_search_result_location`, our own `quote`, and what may come, leniently. The metadata keep
    the API's names: ranges exclude their end, characters and blocks count from 0, pages from 1;
    `end_page` is the last page itself.

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
    title = named or raw.get("title") or raw.get("source") or raw.get("url")
    if not title and isinstance(index, int):
        title = sources[index] if 0 <= index < len(sources) else None
        title = title or f"document {index + 1}"
    return Citation(
        text=str(raw.get("cited_text") or ""),
        source=str(title or "unknown source"),
        page=page,
        metadata=metadata,
    )


def verify(citations: Sequence[Citation], documents: Sequence[Document]) -> None:
    """Compare citations with the documents and note the outcome as `metadata["verified"]`.

    True: the text stands where the citation says. False: it does not. None: we do not hold the
    source, or the page has no text. A quote, which says no place, is looked for in the whole
    document, and the place where it was found is noted as the API would.

    Args:
        citations: What `read_citations` made; changed in place.
        documents: The request's documents by document index.
    """
    for citation in citations:
        metadata = citation.metadata = citation.metadata or {}
        index = metadata.get("document_index")
        held = isinstance(index, int) and 0 <= index < len(documents)
        document = documents[cast("int", index)] if held else None
        if metadata.get("type") == "quote":
            _verify_quote(citation, [document] if document is not None else documents)
        else:
            metadata["verified"] = None if document is None else _verified(citation, document)


def _verified(citation: Citation, document: Document) -> bool | None:
    metadata = citation.metadata or {}
    start, end = metadata.get("start_char_index"), metadata.get("end_char_index")
    if document.text is not None and isinstance(start, int) and isinstance(end, int):
        return document.text[start:end] == citation.text
    if citation.page is not None and document.kind == "pdf":
        pages = _pages(document)[citation.page - 1 : metadata.get("end_page", citation.page)]
        if not any(page.strip() for page in pages):
            return None
        return _holds("\n".join(pages), citation.text)
    if document.text is not None:
        return _holds(document.text, citation.text)
    return None


def _verify_quote(citation: Citation, documents: Sequence[Document]) -> None:
    metadata = cast("dict[str, Any]", citation.metadata)
    metadata["verified"] = False if citation.text.strip() else None
    readable = False
    for index, document in enumerate(documents):
        pages = [document.text] if document.text is not None else _pages(document)
        readable = readable or any(page.strip() for page in pages)
        for number, page in enumerate(pages, 1):
            if not _holds(page, citation.text):
                continue
            metadata["verified"] = True
            metadata.setdefault("document_index", index)
            citation.source = document.name or citation.source
            if document.text is None:
                citation.page = number
                metadata |= {"start_page_number": number, "end_page_number": number + 1}
                metadata["end_page"] = number
            elif citation.text in page:
                start = page.index(citation.text)
                metadata |= {
                    "start_char_index": start,
                    "end_char_index": start + len(citation.text),
                }
            return
    if not readable:
        metadata["verified"] = None


def _pages(document: Document) -> list[str]:
    if document.kind != "pdf":
        return []
    from batchata_prefect.documents import pdf_page_texts

    return pdf_page_texts(document)


def _holds(text: str, cited: str) -> bool:
    """Whether the text holds the cited one, but for spaces, hyphens at line ends and ligatures."""
    wanted = _bare(cited)
    if not wanted:
        return False
    if wanted in _bare(text):
        return True
    if len(wanted) < 20:
        return False
    # Two readers of one PDF disagree on a few characters; numbers must be the same all the same.
    from rapidfuzz import fuzz

    found = fuzz.partial_ratio_alignment(wanted, _bare(text), score_cutoff=95)
    if found is None:
        return False
    there = _bare(text)[found.dest_start : found.dest_end]
    return re.findall(r"\d", there) == re.findall(r"\d", wanted)


@lru_cache(maxsize=64)
def _bare(text: str) -> str:
    return "".join(char for char in normal(text) if char.isalnum())


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
    passages = {text: Passage(text) for text in texts}
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
    below = (f"{path}.", f"{path}[")
    known = any(leaf.path == path or leaf.path.startswith(below) for leaf in fields)
    return path if path and known else None


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
    for first, last in spans:
        if first >= end or last <= start:
            continue
        kept += text[start : max(first, start)]
        start = min(last, end)
    return kept + text[start:end]
