"""A text that a regular expression accepts, for schema strings with a `pattern`."""

from __future__ import annotations

import re

# The parser of `re` has no public name; this is the one place that knows it.
from re import _parser  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
from typing import Any

_CANDIDATES = (
    "0",
    "1.50",
    "A",
    "a",
    "A1",
    "ABC-123",
    "2026-01-15",
    "word",
    "Some text",
    "+15550100",
    "someone@example.com",
)


def matching_text(pattern: str) -> str:
    """A text that `pattern` finds itself in; a plain word where none can be made."""
    for candidate in _CANDIDATES:
        if re.search(pattern, candidate):
            return candidate
    try:
        text = _built(_parser.parse(pattern))  # pyright: ignore[reportUnknownMemberType]
    except (re.error, RecursionError):
        return "text"
    return text if re.search(pattern, text) else "text"


_CATEGORY = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}


def _built(tokens: Any) -> str:
    text = ""
    for operator, argument in tokens:
        name = str(operator)
        if name == "LITERAL":
            text += chr(argument)
        elif name == "ANY":
            text += "a"
        elif name == "IN":
            text += _one_of(argument)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, repeated = argument
            text += _built(repeated) * max(least, min(1, most))
        elif name == "SUBPATTERN":
            text += _built(argument[-1])
        elif name == "BRANCH":
            text += _built(argument[1][0])
        elif name == "NOT_LITERAL":
            text += "b" if argument == ord("a") else "a"
    return text


def _one_of(choices: Any) -> str:
    operator, argument = choices[0]
    name = str(operator)
    if name == "LITERAL":
        return chr(argument)
    if name == "RANGE":
        return chr(argument[0])
    if name == "CATEGORY":
        return _CATEGORY.get(str(argument), "-")
    return "a"
