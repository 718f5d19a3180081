"""Quotes in place of the provider's citations: asked for in the schema, read back.

The passages that the model copies become location objects of the type `quote` for
`citations.read_citations`, `citations.verify` and `citations.drop_unverified`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from batchata_prefect.content.schema import AnswerSchema, Parsed, asked_for, parse_value
from batchata_prefect.content.schema.dialects import Dialect, check_size
from batchata_prefect.content.schema.json_text import json_text, json_value
from batchata_prefect.content.schema.nodes import UnfitError
from batchata_prefect.errors import ParseError, ValidationError

_QUOTE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "field": {
            # Never null: Anthropic takes 16 fields of several types, and they may all be used.
            "type": "string",
            "description": "Path of the field of the answer that the quote supports, such as "
            "total or items[2].price; empty where it supports the answer as a whole.",
        },
        "document": {
            "type": "integer",
            "description": "Number of the document in the request, from 1, in their order.",
        },
        "quote": {
            "type": "string",
            "description": "The shortest passage that proves it, copied from the document letter "
            "by letter, without an ellipsis and without words of your own.",
        },
    },
    "required": ["field", "document", "quote"],
    "additionalProperties": False,
}


def quoted_schema(s: AnswerSchema | None, dialect: Dialect, *, job_id: str) -> dict[str, Any]:
    """The schema of an answer together with the quotes that support it; shared, never change it.

    Args:
        s: What the answer itself looks like; None for plain text.
        dialect: What the provider accepts.
        job_id: Id of the job, for error texts.
    """
    _answer(s, dialect, job_id)
    try:
        return _with_quotes(s, dialect)
    except UnfitError as unfit:
        raise ValidationError(
            f"job {job_id!r}: with citations='quoted' the answer is a field beside its quotes: "
            f"{unfit}"
        ) from None


def _answer(s: AnswerSchema | None, dialect: Dialect, job_id: str) -> dict[str, Any]:
    return {"type": "string"} if s is None else asked_for(s, dialect, job_id=job_id)


@lru_cache(maxsize=256)
def _with_quotes(s: AnswerSchema | None, dialect: Dialect) -> dict[str, Any]:
    answer = dict(_answer(s, dialect, ""))
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
    if defs is not None:
        schema["$defs"] = defs
    check_size(schema, dialect)
    return schema


def read_quoted(
    text: str, s: AnswerSchema | None
) -> tuple[Parsed | str, tuple[Mapping[str, Any], ...]]:
    """The answer, and its quotes as location objects for `models.TextBlock.citations`.

    Args:
        text: The text of the whole answer.
        s: What the answer itself looks like; None for plain text.
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
        if not isinstance(given["answer"], str):
            raise ParseError("the field 'answer' is no text", "invalid_output")
        return given["answer"], locations
    return parse_value(given["answer"], s), locations


def _location(quote: dict[str, Any]) -> Mapping[str, Any]:
    number = quote.get("document")
    return {
        "type": "quote",
        "cited_text": str(quote.get("quote") or ""),
        "document_index": number - 1 if isinstance(number, int) and number >= 1 else None,
        "field": quote.get("field"),
    }
