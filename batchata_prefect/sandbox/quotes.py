"""Answers of a form that asks for quotes beside the answer: copied from the request's documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .answers import Place, cited_text, json_answer, plain_answer, quotations, read_facts
from .content import Prompt
from .instances import plain_name
from .wire import Json, is_array, is_object


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
