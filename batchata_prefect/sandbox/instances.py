"""Valid instances of JSON schemas, filled with facts where a field's name is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime

# The parser of `re` has no public name; this is the one place that knows it.
from re import _parser  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
from typing import Any

from .schemas import resolve_reference
from .wire import Json, is_array, is_number, is_object


@dataclass(frozen=True, slots=True)
class Fact:
    """A value that a request's own text gives for a name, and where it stands."""

    text: str
    place: object = None


Facts = dict[str, Fact]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d %B %Y",
    "%d %b %Y",
    "%B %d, %Y",
    "%b %d, %Y",
    "%d.%m.%Y",
    "%m/%d/%Y",
)
_FORMAT_DEFAULTS = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "12345678-1234-4234-8234-123456789abc",
}
_MAX_DEPTH = 12


def plain_name(name: str) -> str:
    """A name as facts are looked up: lower case, with single spaces for underscores."""
    return " ".join(name.replace("_", " ").replace("*", " ").lower().split())


def make_instance(schema: Json, facts: Facts, topic: str) -> Any:
    """An instance that the schema accepts.

    Args:
        schema: a JSON schema of the subset that the providers take.
        facts: values by plain name; used for a field that bears the name.
        topic: what the request asks, for texts that no fact fills.
    """
    return _Maker(schema, facts, topic).made(schema, "", 0)


class _Maker:
    """Makes an instance of a root schema, part by part."""

    def __init__(self, root: Json, facts: Facts, topic: str) -> None:
        self.root = root
        self.facts = facts
        self.topic = topic

    def made(self, schema: Json, name: str, depth: int) -> Any:
        """An instance of a part, the value of a field of this name."""
        schema = self._resolved(schema)
        fact = self.facts.get(plain_name(name)) if name else None
        if "const" in schema:
            return schema["const"]
        if is_array(choices := schema.get("enum")) and choices:
            return _chosen(choices, fact)
        for key in ("anyOf", "oneOf"):
            if is_array(variants := schema.get(key)) and variants:
                return self.made(self._variant(variants, fact, depth), name, depth)
        if is_array(parts := schema.get("allOf")) and parts:
            return self.made(self._merged(schema, parts), name, depth)
        kind = schema.get("type")
        if is_array(kind):
            kind = next((each for each in kind if each != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, fact, depth)
        if kind == "boolean":
            return fact is not None and fact.text.strip().lower() in ("yes", "true", "1", "y", "on")
        if kind in ("integer", "number"):
            return _number(schema, fact, whole=kind == "integer")
        return None if kind == "null" else _string(schema, name, fact, self.topic)

    def _resolved(self, schema: Json) -> Json:
        seen = 0
        while isinstance(reference := schema.get("$ref"), str) and seen < _MAX_DEPTH:
            seen += 1
            schema = resolve_reference(self.root, reference) or {}
        return schema

    def _variant(self, variants: list[Any], fact: Fact | None, depth: int) -> Json:
        objects = [self._resolved(variant) for variant in variants if is_object(variant)]
        nullable = any(variant.get("type") == "null" for variant in objects)
        others = [variant for variant in objects if variant.get("type") != "null"]
        if not others or (nullable and depth > 4):
            return {"type": "null"}
        if fact is not None and not _NUMBER.search(fact.text):
            # A union of number and text gets the one that the fact can fill.
            return next((each for each in others if each.get("type") == "string"), others[0])
        return others[0]

    def _merged(self, schema: Json, parts: list[Any]) -> Json:
        merged: Json = {key: value for key, value in schema.items() if key != "allOf"}
        for part in (self._resolved(each) for each in parts if is_object(each)):
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", []), *part.get("required", [])]
            merged = {**merged, **part}
            if properties:
                merged.update(properties=properties, required=required)
        return merged

    def _object(self, schema: Json, depth: int) -> Json:
        properties = schema.get("properties")
        if not is_object(properties) or depth > _MAX_DEPTH:
            return {}
        required = schema.get("required")
        needed = set[Any](required) if is_array(required) else set[Any]()
        instance: Json = {}
        # Anthropic writes required properties first; see the notes on structured outputs.
        for name in sorted(properties, key=lambda each: each not in needed):
            # Optional parts end the descent, or a recursive schema would have no instance.
            if name in needed or (depth < 3 and is_object(properties[name])):
                instance[name] = self.made(properties[name], name, depth + 1)
        return instance

    def _array(self, schema: Json, name: str, fact: Fact | None, depth: int) -> list[Any]:
        items, least, most = (schema.get(key) for key in ("items", "minItems", "maxItems"))
        count = least if isinstance(least, int) else 1
        if depth > 5 and not least:
            count = 0
        items = self._resolved(items) if is_object(items) else {"type": "string"}
        if fact is not None and items.get("type") in ("string", "number", "integer"):
            values = [each.strip() for each in re.split(r"[;,]", fact.text) if each.strip()]
            values = values[: most if isinstance(most, int) else 50]
            if len(values) >= count:
                facts = [{plain_name(name): Fact(value)} for value in values]
                makers = (_Maker(self.root, each, self.topic) for each in facts)
                return [maker.made(items, name, depth + 1) for maker in makers]
        if isinstance(most, int):
            count = min(max(count, 1), most)
        return [self.made(items, name, depth + 1) for _ in range(count)]


def _chosen(choices: list[Any], fact: Fact | None) -> Any:
    if fact is not None:
        said = plain_name(fact.text)
        for choice in choices:
            if isinstance(choice, str) and plain_name(choice) == said:
                return choice
        for choice in choices:
            if isinstance(choice, str) and plain_name(choice) in said:
                return choice
    return next((choice for choice in choices if choice is not None), None)


def _number(schema: Json, fact: Fact | None, *, whole: bool) -> int | float:
    value: float = 1.0 if whole else 1.5
    if fact is not None and (match := _NUMBER.search(fact.text)):
        value = float(match[0].replace(",", ""))
    if whole:
        value = round(value)
    step = 1 if whole else 0.5
    for key, sign, strict in (
        ("minimum", 1, False),
        ("exclusiveMinimum", 1, True),
        ("maximum", -1, False),
        ("exclusiveMaximum", -1, True),
    ):
        bound = schema.get(key)
        if is_number(bound) and (value * sign < bound * sign or (strict and value == bound)):
            value = bound + sign * step if strict else bound
    multiple = schema.get("multipleOf")
    if is_number(multiple) and multiple > 0:
        value = round(value / multiple) * multiple
    return int(value) if whole or value == int(value) else value


def _string(schema: Json, name: str, fact: Fact | None, topic: str) -> str:
    wanted = schema.get("format")
    text = fact.text if fact is not None else None
    if isinstance(wanted, str) and wanted in _FORMAT_DEFAULTS:
        return _formatted(wanted, text)
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        number = _NUMBER.search(text) if text else None
        for candidate in (text, number[0].replace(",", "") if number else None):
            if candidate is not None and re.search(pattern, candidate):
                return candidate
        return matching_text(pattern)
    if text is None:
        words = " ".join(topic[:200].split(None, 8)[:8])
        text = f"{plain_name(name).capitalize() or 'Text'}: {words}" if words else plain_name(name)
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) and len(text) < least:
        text = text.ljust(least, ".")
    if isinstance(most, int):
        text = text[:most]
    return text


def _formatted(wanted: str, text: str | None) -> str:
    default = _FORMAT_DEFAULTS[wanted]
    if text is None:
        return default
    if wanted in ("date", "date-time"):
        day = read_date(text)
        if day is None:
            return default
        return day.isoformat() if wanted == "date" else f"{day.isoformat()}T00:00:00Z"
    if wanted == "email":
        found = re.search(r"[\w.+-]+@[\w-]+\.[\w.-]+", text)
        return found[0] if found else default
    if wanted == "uri":
        found = re.search(r"https?://\S+", text)
        return found[0] if found else default
    return default


def read_date(text: str) -> date | None:
    """The date that a text shows in one of the usual ways of writing, if any."""
    text = text.strip().rstrip(".")
    for form in _DATE_FORMATS:
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    found = re.search(r"\d{4}-\d{2}-\d{2}", text)
    try:
        return date.fromisoformat(found[0]) if found else None
    except ValueError:
        return None


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
