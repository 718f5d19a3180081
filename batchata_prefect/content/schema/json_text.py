"""JSON in the text of an answer: cut out of it, and parsed strictly."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

from batchata_prefect.content.exact_json import has_halves, writable
from batchata_prefect.errors import ParseError

_OPEN = re.compile(r"```(json|JSON)?[ \t]*\r?\n")
_CLOSE = re.compile(r"\n[ \t]*```|```[ \t]*\Z")


class _Fence(NamedTuple):
    """A fenced block: where it starts and ends, what stands in it, and whether it says `json`."""

    start: int
    end: int
    text: str
    named: bool


def _fences(text: str) -> Iterator[_Fence]:
    """The closed fenced blocks of a text, each place of which is looked at once."""
    at = 0
    while (opened := _OPEN.search(text, at)) is not None:
        closed = _CLOSE.search(text, opened.end())
        if closed is None:
            return  # nor is there an end for those that open further on
        block = text[opened.end() : closed.start()]
        yield _Fence(opened.start(), closed.end(), block, opened[1] is not None)
        at = closed.end()


def json_text(text: str) -> str:
    """The JSON in an answer's text: all of it, or its fenced block, the last one marked `json`."""
    body = text.strip().removeprefix("\ufeff")
    if not body:
        raise ParseError("the answer is empty; JSON was asked for", "invalid_json")
    # Inside of JSON a line never starts with a fence: strings hold no line breaks as they are.
    fences = list(_fences(body)) if "```" in body else []
    named = [fence for fence in fences if fence.named]
    last_open = max(body.rfind("```json\n"), body.rfind("```json\r"))
    if last_open > (named[-1].start if named else -1):
        raise ParseError(
            "the JSON block at the end of the answer is not closed; the answer was cut off",
            "invalid_json",
        )
    if named:
        return named[-1].text.strip()
    if body.startswith(("{", "[")):
        return body
    if len(fences) == 1:
        return fences[0].text.strip()
    raise ParseError(f"the answer is not JSON; it starts with {body[:60]!r}", "invalid_json")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _json_fault(body: str, error: Exception) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"the answer is not valid JSON: {error}"
    # Only white space is left where the parser stopped: it wanted more.
    if not body[error.pos :].strip() or error.msg.startswith("Unterminated"):
        return f"the answer's JSON stops in the middle, at character {error.pos:,}"
    near = body[max(0, error.pos - 20) : error.pos + 20]
    return (
        f"the answer is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}, "
        f"near {near!r}"
    )


def json_value(body: str, *, exact: bool = False) -> Any:
    """The value of a JSON text, as it stands: nothing is guessed or repaired.

    Args:
        body: The JSON text.
        exact: Whether fractions come as `Decimal`, with all their digits.
    """
    try:
        value = json.loads(
            body, parse_float=Decimal if exact else None, parse_constant=_no_constant
        )
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise ParseError(_json_fault(body, error), "invalid_json") from None
    if body.count("{") + body.count("[") > MOST_LEVELS and _levels(body) > MOST_LEVELS:
        raise ParseError(
            f"the answer is nested more than {MOST_LEVELS} levels deep", "invalid_output"
        )
    return writable(value) if has_halves(body) else value


MOST_LEVELS = 200
"""Levels of an answer: about what pydantic's own parser takes, and less than any writer does."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[{]|[\]}]")


def _levels(body: str) -> int:
    """How deep a JSON text is nested."""
    level = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", body)):
        level += 1 if bracket in "[{" else -1
        deepest = max(deepest, level)
    return deepest


_MOST_FAILURES = 50
_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n.*?(?:\n[ \t]*```|\Z)", re.DOTALL)
_BARE = re.compile(r"^[ \t]*(?=\{|\[\s*\{)", re.MULTILINE)


def json_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every JSON dump in an answer: fenced blocks, and bare objects of a line."""
    spans = [match.span() for match in _FENCED.finditer(text)]
    fences = [(last, first) for first, last in spans]
    decoder = json.JSONDecoder()
    covered = failed = 0
    for match in _BARE.finditer(text):
        at = match.end()
        fence = bisect_right(fences, (at, len(text)))
        if at < covered or (fence < len(fences) and fences[fence][1] <= at):
            continue
        try:
            _, covered = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            # Each of these may have read all that follows.
            failed += 1
            if failed == _MOST_FAILURES:
                break
            continue
        spans.append((at, covered))
    return sorted(spans)
