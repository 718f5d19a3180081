"""Answers without a model: made from the request's own words, the same every time."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from .content import Document, Marker, Prompt, cut_text, text_tokens
from .instances import Fact, Facts, make_instance, plain_name
from .wire import Json, is_array, is_object

_FACT = re.compile(
    r"^[ \t>*\-\u2022]*([A-Za-z][A-Za-z0-9 _/().#'&-]{0,60}?)\**[ \t]*:[ \t*]*"
    r"(\S[^\r\n]*?)[ \t*]*\r?$",
    re.M,
)
_SENTENCE = re.compile(r"[^\s.!?](?:[^.!?\n]|(?<=\d)\.(?=\d))*(?:[.!?]+(?!\d)|$)")
_FENCE = re.compile(r"```json\s*\n(.*?)```", re.S)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a quoted text stands: document, part of it (page or block), characters."""

    document: int
    part: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Said:
    """One piece of an answer, with the place it quotes if it quotes one."""

    text: str
    place: Place | None = None


def thought_tokens(prompt: Prompt, most: int | None, tiny: int) -> int:
    """Tokens of the thoughts before an answer; up to `tiny` ones leave none for an answer."""
    wanted = 16 + zlib.crc32(prompt.ask.encode()) % 48
    if most is None:
        return wanted
    return most if most <= tiny else min(wanted, most // 2)


def plain_answer(prompt: Prompt) -> str:
    """A short sentence in the request's own words; of a document, its first sentences.

    A prompt that shows a JSON schema in a fence is answered with an instance in a fence.
    """
    schema = asked_schema(prompt)
    if schema is not None:
        return _fenced(json_answer(prompt, schema))
    for document in prompt.documents:
        sentences = _sentences(document, 2)
        if sentences:
            title = document.title or "The document"
            return f"{title}: {' '.join(sentences)}"
    words = prompt.ask[:400].split(None, 14)[:14]
    return f"The sandbox was asked: {' '.join(words)}. It has no model, so it says it back."


def read_facts(prompt: Prompt) -> Facts:
    """Lines that look like `name: value`, of the documents first and then of the texts."""
    facts: Facts = {}
    for number, document in enumerate(prompt.documents):
        for part_number, part in enumerate(document.parts):
            for match in _FACT.finditer(part):
                place = Place(number, part_number, match.start(1), match.end(2))
                facts.setdefault(plain_name(match[1]), Fact(match[2], place))
    for text in prompt.texts:
        if ":" in text:
            for match in _FACT.finditer(text):
                facts.setdefault(plain_name(match[1]), Fact(match[2], None))
    return facts


def json_answer(prompt: Prompt, schema: Json) -> Any:
    """An instance of a schema, filled from the request's own lines where they name a field."""
    return make_instance(schema, read_facts(prompt), _topic(prompt))


def asked_schema(prompt: Prompt) -> Json | None:
    """The JSON schema in a fenced block of the prompt, if there is one."""
    for text in prompt.texts:
        for match in _FENCE.finditer(text) if "```json" in text else ():
            try:
                schema = orjson.loads(match[1])
            except orjson.JSONDecodeError:
                continue
            if is_object(schema) and ("properties" in schema or "$ref" in schema):
                return schema
    return None


def cited_answer(prompt: Prompt) -> list[Said]:
    """A text that quotes the citable documents, and an instance where a schema was shown."""
    schema = asked_schema(prompt)
    said: list[Said] = []
    if schema is not None:
        facts = read_facts(prompt)
        instance = make_instance(schema, facts, _topic(prompt))
        for _, name in _fields(instance, ""):
            fact = facts.get(plain_name(name))
            if fact is not None and isinstance(fact.place, Place):
                said.append(Said(f"{plain_name(name).capitalize()}: {fact.text}", fact.place))
                said.append(Said("\n"))
        if not said:
            said.extend(quotations(prompt))
        said.append(Said(f"\n{_fenced(instance)}"))
        return said
    said.append(Said("According to what was given, "))
    said.extend(quotations(prompt))
    said.append(Said(" That is what it says."))
    return said


def cited_text(document: Document, place: Place) -> str:
    """The exact text at a place of a document."""
    if document.kind == "blocks":
        return document.parts[place.part]
    return document.parts[place.part][place.start : place.end]


def _fenced(instance: Any) -> str:
    return f"```json\n{orjson.dumps(instance, option=orjson.OPT_INDENT_2).decode()}\n```"


def _topic(prompt: Prompt) -> str:
    """Words for texts that no fact fills: the document's, else the request's own."""
    for document in prompt.documents:
        sentences = _sentences(document, 1)
        if sentences:
            return sentences[0]
    # A fence repeated inside a string of a fenced answer would end that answer.
    return prompt.ask.partition("```")[0]


def quotations(prompt: Prompt) -> list[Said]:
    """The first sentences of each citable document, with their places."""
    said: list[Said] = []
    for number, document in enumerate(prompt.documents):
        if not document.citable:
            continue
        for part_number, part in enumerate(document.parts[:2]):
            for match in islice(_SENTENCE.finditer(part[:2000]), 2):
                quoted = match[0].strip()
                if not quoted:
                    continue
                end = match.start() + len(quoted)
                if said:
                    said.append(Said(" "))
                said.append(Said(quoted, Place(number, part_number, match.start(), end)))
    return said


def _sentences(document: Document, count: int) -> list[str]:
    for part in document.parts:
        matches = islice(_SENTENCE.finditer(part[:2000]), count)
        if found := [match[0].strip() for match in matches]:
            return found
    return []


def wanted_text(prompt: Prompt, marker: Marker | None, schema: Any, *, as_json: bool) -> str:
    """What a model writes: as a test ordered it, of a schema (None for none), or as JSON."""
    name = "" if marker is None else marker.name
    if marker is not None and name == "reply":
        text = marker.rest
    elif is_object(schema):
        text = orjson.dumps(formed_answer(prompt, schema, misquote=name == "misquote")).decode()
    else:
        text = plain_answer(prompt)
        text = orjson.dumps({"answer": text}).decode() if as_json else text
    return text[: len(text) // 2] + " oops" if name == "invalid_json" else text


def most_tokens(marker: Marker | None, tokens: int, most: int | None) -> int:
    """How many of an answer's tokens are written, where at most so many may be."""
    left = tokens if most is None else min(tokens, most)
    if marker is not None and marker.name in ("truncated", "stop"):
        return min(left, max(1, tokens // 2))
    return left


def fitting_text(text: str, marker: Marker | None, most: int | None) -> tuple[str, int, bool]:
    """As much of a text as may be written, its tokens, and whether it was cut off."""
    tokens = text_tokens(text)
    left = most_tokens(marker, tokens, most)
    return (text, tokens, False) if left >= tokens else (cut_text(text, left), left, True)


def formed_answer(prompt: Prompt, schema: Json, *, misquote: bool) -> Any:
    """An instance of a schema; one that asks for quotes gets them out of the documents.

    Args:
        prompt: What the request says.
        schema: The schema that it asks for.
        misquote: Whether to add a quote that stands in no document, as a model may.
    """
    answer = _answer_schema(schema)
    return json_answer(prompt, schema) if answer is None else _quoted(prompt, answer, misquote)


def _answer_schema(schema: Json) -> Json | None:
    """The schema of the answer proper, where quotes are asked for beside it."""
    parts = schema.get("properties")
    if not is_object(parts) or set(parts) != {"answer", "quotes"}:
        return None
    items = parts["quotes"].get("items")
    fields = items.get("properties") if is_object(items) else None
    if not is_object(fields) or "quote" not in fields:
        return None
    return {**parts["answer"], "$defs": schema.get("$defs", {})}


def _quoted(prompt: Prompt, schema: Json, misquote: bool) -> Json:
    documents = [replace(document, citable=True) for document in prompt.quotable]
    seen = Prompt(texts=prompt.texts, documents=documents, ask=prompt.ask)
    found: list[tuple[str, Place]] = []
    if schema.get("type") == "string":
        answer = plain_answer(seen)
        found += [("", said.place) for said in quotations(seen) if said.place is not None]
    else:
        answer = json_answer(seen, schema)
        facts = read_facts(seen)
        for path, name in _fields(answer, ""):
            fact = facts.get(plain_name(name))
            if fact is not None and isinstance(fact.place, Place):
                found.append((path, fact.place))
    quotes = [
        {
            "field": path,
            "document": place.document + 1,
            "quote": cited_text(documents[place.document], place),
        }
        for path, place in found
    ]
    if misquote:
        quotes.append(_misquote(quotes))
    return {"answer": answer, "quotes": quotes}


def _misquote(quotes: list[Json]) -> Json:
    """A true quote with other figures, as is the worst of what a model makes up."""
    for quote in quotes:
        text = str(quote["quote"])
        if any(char.isdigit() for char in text):
            other = "".join(str((int(c) + 1) % 10) if c.isdecimal() else c for c in text)
            return {**quote, "quote": other}
    return {"field": "", "document": 1, "quote": "The sandbox made this sentence up."}


def _fields(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and name of every field of an answer, those of objects in lists too."""
    if is_object(value):
        for name, inner in value.items():
            below = f"{path}.{name}" if path else name
            yield below, name
            yield from _fields(inner, below)
    elif is_array(value):
        for index, inner in enumerate(value):
            yield from _fields(inner, f"{path}[{index}]")
