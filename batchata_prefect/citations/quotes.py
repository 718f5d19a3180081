"""Quotes in place of citations, for a provider that has none: asked for in the schema, read back.

The model gives its answer together with sentences copied from the documents. They become location
objects of the type `quote`, which `citations.read_citations` reads, `citations.verify` looks for in
the documents and `citations.drop_unverified` drops where they are in none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from batchata_prefect.errors import ParseError
from batchata_prefect.schema import Answer, AnswerSchema, for_openai, read_value
from batchata_prefect.schema.json_text import json_text, json_value

_QUOTE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "field": {
            "type": ["string", "null"],
            "description": "Path of the field of the answer that the quote supports, such as "
            "total or items[2].price; null where it supports the answer as a whole.",
        },
        "document": {
            "type": "integer",
            "description": "Number of the document in the request, from 1.",
        },
        "quote": {
            "type": "string",
            "description": "The shortest passage that proves it, copied from the document letter "
            "by letter.",
        },
    },
    "required": ["field", "document", "quote"],
    "additionalProperties": False,
}


def quoted_schema(s: AnswerSchema | None, *, job_id: str) -> dict[str, Any]:
    """The strict OpenAI schema of an answer together with the quotes that support it.

    Args:
        s: What the answer itself looks like; None for plain text.
        job_id: Id of the job, for error texts.

    Raises:
        ValidationError: A field cannot be expressed; the text names its path and the job.
    """
    answer = {"type": "string"} if s is None else dict(for_openai(s, job_id=job_id))
    defs = answer.pop("$defs", None)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "answer": answer,
            "quotes": {
                "type": "array",
                "items": _QUOTE,
                "description": "For every field of the answer a quote from the documents.",
            },
        },
        "required": ["answer", "quotes"],
        "additionalProperties": False,
    }
    return schema if defs is None else {**schema, "$defs": defs}


def read_quoted(
    text: str, s: AnswerSchema | None
) -> tuple[Answer | str, tuple[Mapping[str, Any], ...]]:
    """The answer, and its quotes as location objects for `models.TextBlock.citations`.

    Args:
        text: The text of the whole answer.
        s: What the answer itself looks like; None for plain text.

    Raises:
        ParseError: `invalid_json` or `invalid_output`, with the field and what was wrong with it.
    """
    value = json_value(json_text(text), exact=True)
    if not isinstance(value, dict) or "answer" not in value:
        raise ParseError("the answer has no field 'answer' beside its quotes", "invalid_output")
    given = cast("dict[str, Any]", value)
    quotes = cast("list[Any]", given.get("quotes") or [])
    locations = tuple(
        _location(cast("dict[str, Any]", one)) for one in quotes if isinstance(one, dict)
    )
    if s is None:
        return str(given["answer"]), locations
    return read_value(given["answer"], s), locations


def _location(quote: dict[str, Any]) -> Mapping[str, Any]:
    number = quote.get("document")
    return {
        "type": "quote",
        "cited_text": str(quote.get("quote") or ""),
        "document_index": number - 1 if isinstance(number, int) and number >= 1 else None,
        "field": quote.get("field"),
    }
