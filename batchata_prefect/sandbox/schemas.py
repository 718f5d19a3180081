"""The JSON schemas that structured outputs take, and the words in which others are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .shapes import names
from .wire import Json, is_array, is_object, object_at

_NUMBERS = names("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf")
_ANTHROPIC_BARRED = {
    "integer": _NUMBERS,
    "number": _NUMBERS,
    "string": names("minLength maxLength"),
    "array": names("maxItems uniqueItems prefixItems contains"),
    "object": names("patternProperties minProperties maxProperties propertyNames"),
}
_ANTHROPIC_UNKNOWN = ("oneOf", "not", "if", "then", "else", "dependentSchemas")
_ANTHROPIC_FORMATS = names("date-time time date duration email hostname uri ipv4 ipv6 uuid text")
_UNTYPED = names("anyOf allOf enum const $defs properties")
_MAX_OPTIONAL = 24
_MAX_UNIONS = 16

_OPENAI_BARRED = names(
    """allOf oneOf not if then else dependentRequired dependentSchemas uniqueItems patternProperties
    prefixItems propertyNames contains default"""
)
_DEFINITIONS = names("$ref $defs definitions")
_STRICT_UNTYPED = names("anyOf $ref enum const properties")
_GOOGLE_KEYWORDS = names(
    """$id $defs $ref $anchor type format title description enum items prefixItems minItems maxItems
    minimum maximum anyOf oneOf properties additionalProperties required propertyOrdering"""
)
_MAX_NESTING = 10
_MAX_PROPERTIES = 5000


def anthropic_schema_problem(schema: Any) -> str | None:
    """What `output_config.format` refuses of a schema, in the API's words where they are known.

    Source: platform.claude.com structured outputs ("JSON Schema limitations").
    """
    if not is_object(schema):
        return "Input should be a valid dictionary"
    seen: Counter[str] = Counter()
    problem = next(_loose_problems(schema, schema, (), seen), None)
    if problem is None and (seen["optional"] > _MAX_OPTIONAL or seen["unions"] > _MAX_UNIONS):
        return "Schema is too complex for compilation."
    return problem


def _loose_problems(
    schema: Any, root: Json, references: tuple[str, ...], seen: Counter[str]
) -> Iterator[str]:
    if not is_object(schema):
        yield "every schema must be an object"
        return
    yield from (f"'{key}' is not supported" for key in _ANTHROPIC_UNKNOWN if key in schema)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = resolve_reference(root, reference)
        if not reference.startswith("#"):
            yield f"external $ref '{reference}' is not supported"
        if reference in references:
            yield f"recursive $ref '{reference}' is not supported"
        if target is None:
            yield f"$ref '{reference}' does not resolve"
        yield from _loose_problems(target, root, (*references, reference), seen)
        return
    kind = schema.get("type")
    kinds: list[Any] = kind if is_array(kind) else [kind]
    seen["unions"] += is_array(kind) + is_array(schema.get("anyOf"))
    for each in kinds:
        yield from _type_problems(each, schema)
    if kind is None and not schema.keys() & _UNTYPED:
        yield "a schema needs a 'type', 'anyOf', 'allOf', 'enum' or 'const'"
    if "object" in kinds:
        required = _required(schema)
        seen["optional"] += sum(name not in required for name in object_at(schema, "properties"))
    for place, child in _children(schema, "anyOf", "allOf"):
        if place[0] not in ("properties", "items") or {"object", "array"} & set(kinds):
            yield from _loose_problems(child, root, references, seen)


def _required(schema: Json) -> list[Any]:
    required = schema.get("required")
    return required if is_array(required) else []


def _type_problems(kind: Any, schema: Json) -> Iterator[str]:
    barred = sorted(_ANTHROPIC_BARRED.get(kind, frozenset()) & schema.keys())
    if barred:
        noun, verb = ("property", "is") if len(barred) == 1 else ("properties", "are")
        yield f"For '{kind}' type, {noun} {', '.join(barred)} {verb} not supported"
    if kind == "object" and schema.get("additionalProperties") is not False:
        yield "For 'object' type, 'additionalProperties' must be explicitly set to false"
    if kind == "array" and schema.get("minItems", 0) not in (0, 1):
        yield "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    form = schema.get("format")
    if kind == "string" and form is not None and form not in _ANTHROPIC_FORMATS:
        yield f"For 'string' type, format '{form}' is not supported"


def _children(schema: Json, *lists: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas in a schema's properties, items and lists, with where they stand."""
    for name, child in object_at(schema, "properties").items():
        yield ("properties", name), child
    if "items" in schema:
        yield ("items",), schema["items"]
    for key in lists:
        variants = schema.get(key)
        for number, variant in enumerate(variants if is_array(variants) else ()):
            yield (key, str(number)), variant


def resolve_reference(root: Json, reference: str) -> Json | None:
    """The schema that a local `$ref` points to, or None."""
    target: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            name = step.replace("~1", "/").replace("~0", "~")
            if not is_object(target) or name not in target:
                return None
            target = target[name]
    return target if is_object(target) else None


def openai_schema_problem(schema: Any) -> str | None:
    """What is wrong with a strict schema, in the API's words without their opening, or None.

    Source: developers.openai.com structured outputs ("Supported schemas").
    """
    root = schema if is_object(schema) else None
    if root is not None and "$ref" in root:
        root = resolve_reference(root, root["$ref"])
    found = (root or {}).get("type")
    if found != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{found}\"'."
    seen: Counter[str] = Counter()
    problem = next(_strict_problems(schema, (), 0, seen), None)
    if problem is None and (count := seen["properties"]) > _MAX_PROPERTIES:
        return f"Expected at most {_MAX_PROPERTIES} object properties in total, got {count}."
    return problem


def _strict_problems(
    schema: Any, context: tuple[str, ...], depth: int, seen: Counter[str]
) -> Iterator[str]:
    where = f"In context={context!r}"
    if not is_object(schema):
        yield f"{where}, schema must be an object."
        return
    if depth > _MAX_NESTING:
        yield f"{depth} levels of nesting exceeds limit of {_MAX_NESTING}."
    yield from (f"{where}, '{key}' is not permitted." for key in schema if key in _OPENAI_BARRED)
    others = sorted(schema.keys() - _DEFINITIONS)
    if "$ref" in schema and others:
        yield f"context={context!r}, $ref cannot have keywords {set(others)!r}."
    kind = schema.get("type")
    if "object" in (kind if is_array(kind) else [kind]) or "properties" in schema:
        yield from _object_problems(schema, where, seen)
    if kind == "array" and "items" not in schema:
        yield f"{where}, array schema missing items."
    if kind is None and not schema.keys() & _STRICT_UNTYPED:
        yield f"{where}, schema must have a 'type' key."
    for place, child in _children(schema, "anyOf"):
        deeper = depth + (place[0] != "anyOf")
        yield from _strict_problems(child, (*context, *place), deeper, seen)
    for key in ("$defs", "definitions"):
        for name, child in object_at(schema, key).items():
            yield from _strict_problems(child, (*context, key, name), depth + 1, seen)


def _object_problems(schema: Json, where: str, seen: Counter[str]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"{where}, 'additionalProperties' is required to be supplied and to be false."
    properties, required = [*object_at(schema, "properties")], _required(schema)
    seen["properties"] += len(properties)
    missing = [f"Missing '{name}'." for name in properties if name not in required]
    extra = [
        f"Extra required key '{name}' supplied." for name in required if name not in properties
    ]
    for problem in (*missing, *extra):
        yield (
            f"{where}, 'required' is required to be supplied and to be an array including every key"
            f" in properties. {problem}"
        )


def google_schema_problem(schema: Any) -> str | None:
    """What `responseJsonSchema` does not take (types.GenerateContentConfig), or None."""
    if not is_object(schema):
        return None if isinstance(schema, bool) else "a schema must be an object"
    for name in schema.keys() - _GOOGLE_KEYWORDS:
        return f"'{name}' is not supported"
    if "$ref" in schema and any(not name.startswith("$") for name in schema):
        return "no other properties may be set beside '$ref'"
    children = [child for _, child in _children(schema, "anyOf", "oneOf", "prefixItems")]
    children += object_at(schema, "$defs").values()
    if "additionalProperties" in schema:
        children.append(schema["additionalProperties"])
    return next(filter(None, map(google_schema_problem, children)), None)
