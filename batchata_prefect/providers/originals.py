"""The documents in a rendered request, told apart as its citations count them.

Both wire forms are read by their shape, as in `again`: what holds `messages` is Anthropic's or a
chat completion, what holds `input` a response. The numbers of documents and search results count
over all messages [Claude docs: citations, search results].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import orjson

from batchata_prefect.content.citations.originals import (
    Held,
    Original,
    blocks_original,
    pdf_original,
    text_original,
)
from batchata_prefect.models import Message

_PDF_URL = re.compile(r"data:application/pdf(?:;[\w=-]+)*;base64,")


def titled(name: str, text: str) -> str:
    """A document that is sent as a part of the prompt, for OpenAI, which has none of plain text."""
    return f"Document {name}:\n\n{text}"


def held_in(body: bytes, sources: Sequence[str]) -> Held:
    """What a request holds to cite from.

    Args:
        body: The request.
        sources: Titles of the documents of the job's `file`, as in `models.Request`.
    """
    return held(orjson.loads(body), sources)


def held(data: Mapping[str, Any], sources: Sequence[str] = ()) -> Held:
    """The same of a request that is not yet written down."""
    blocks = list(_blocks(data.get("messages") or data.get("input")))
    documents: list[Original | None] = []
    results: list[Original | None] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "document":
            documents.append(_document(block, _name(sources, len(documents))))
        elif kind == "search_result":
            texts = _texts(block.get("content"))
            results.append(blocks_original(str(block.get("title") or ""), texts))
    if documents or results:
        return Held(documents, results)
    return Held(list(_parts(blocks, sources)))


def _blocks(messages: Any) -> Iterator[Message]:
    """The content blocks of all messages, those in tool results too."""
    for message in cast("list[Any]", messages) if isinstance(messages, list) else ():
        content: Any = cast("Message", message).get("content") if isinstance(message, dict) else ()
        for item in cast("list[Any]", content) if isinstance(content, list) else ():
            if not isinstance(item, dict):
                continue
            block = cast("Message", item)
            yield block
            if block.get("type") == "tool_result":
                yield from _blocks([block])


def _name(sources: Sequence[str], index: int) -> str:
    return sources[index] if index < len(sources) else f"document {index + 1}"


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    return [str(cast("Message", one).get("text") or "") for one in blocks if isinstance(one, dict)]


def _document(block: Message, name: str) -> Original | None:
    given: Any = block.get("source")
    source = cast("Message", given) if isinstance(given, dict) else {}
    name = str(block.get("title") or name)
    kind, data = source.get("type"), source.get("data")
    if kind == "text" and isinstance(data, str):
        return text_original(name, data)
    if kind == "base64" and isinstance(data, str):
        return pdf_original(name, data)
    if kind == "content":
        return blocks_original(name, _texts(source.get("content")))
    return None


def _parts(blocks: Sequence[Message], sources: Sequence[str]) -> Iterator[Original | None]:
    """OpenAI's documents: what stands before the prompt, or the files in the user's messages."""
    texts = {"text", "input_text"}
    found = [block for block in blocks if not sources or block.get("type") not in texts]
    if sources:
        # A system prompt, the documents, the prompt; what came back and was asked again behind it.
        first = next(
            (at for at, block in enumerate(blocks) if _is_first(block, sources[0])), len(blocks)
        )
        found = blocks[first : first + len(sources)]
    for index, block in enumerate(found):
        name = _name(sources, index)
        kind, text = block.get("type"), block.get("text")
        if kind in texts:
            if sources and isinstance(text, str):
                yield text_original(name, text.removeprefix(titled(name, "")))
        else:
            file: Any = block.get("file") if kind == "file" else block
            given = cast("Message", file) if isinstance(file, dict) else {}
            data = given.get("file_data")
            match = _PDF_URL.match(data) if isinstance(data, str) else None
            name = name if sources else str(given.get("filename") or name)
            yield None if match is None else pdf_original(name, str(data)[match.end() :])


def _is_first(block: Message, name: str) -> bool:
    return block.get("type") not in {"text", "input_text"} or str(block.get("text")).startswith(
        titled(name, "")
    )
