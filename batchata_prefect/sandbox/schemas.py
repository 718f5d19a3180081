"""The JSON schemas that structured outputs take, and the words in which others are refused."""

from __future__ import annotations

from typing import Any

from .wire import BadRequestError, Json, is_array, is_object

_ANTHROPIC_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
        "text",
    }
)
_ANTHROPIC_BARRED: dict[str, frozenset[str]] = {
    "integer": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
    "number": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
    "string": frozenset({"minLength", "maxLength"}),
    "array": frozenset({"maxItems", "uniqueItems", "prefixItems", "contains"}),
    "object": frozenset({"patternProperties", "minProperties", "maxProperties", "propertyNames"}),
}
_ANTHROPIC_UNKNOWN = ("oneOf", "not", "if", "then", "else", "dependentSchemas")
_MAX_OPTIONAL = 24
_MAX_UNIONS = 16


def check_anthropic_schema(schema: Any) -> None:
    """Refuse what `output_config.format` refuses.

    Source: platform.claude.com structured outputs ("JSON Schema limitations").

    Raises:
        BadRequestError: with the API's path and text where those are known.
    """
    if not is_object(schema):
        raise BadRequestError("output_config.format.schema: Input should be a valid dictionary")
    walk = _AnthropicWalk(schema)
    walk.visit(schema, ())
    if walk.optional > _MAX_OPTIONAL or walk.unions > _MAX_UNIONS:
        raise BadRequestError("output_config.format.schema: Schema is too complex for compilation.")


class _AnthropicWalk:
    def __init__(self, root: Json) -> None:
        self.root = root
        self.optional = 0
        self.unions = 0

    def visit(self, schema: Any, references: tuple[str, ...]) -> None:
        if not is_object(schema):
            raise _refuse("every schema must be an object")
        for key in _ANTHROPIC_UNKNOWN:
            if key in schema:
                raise _refuse(f"'{key}' is not supported")
        reference = schema.get("$ref")
        if isinstance(reference, str):
            self._follow(reference, references)
            return
        kind = schema.get("type")
        if is_array(kind):
            self.unions += 1
        for variant_key in ("anyOf", "allOf"):
            variants = schema.get(variant_key)
            if is_array(variants):
                self.unions += variant_key == "anyOf"
                for variant in variants:
                    self.visit(variant, references)
        for each in kind if is_array(kind) else [kind]:
            self._visit_type(each, schema, references)
        if kind is None and not schema.keys() & {
            "anyOf",
            "allOf",
            "enum",
            "const",
            "$defs",
            "properties",
        }:
            raise _refuse("a schema needs a 'type', 'anyOf', 'allOf', 'enum' or 'const'")

    def _visit_type(self, kind: Any, schema: Json, references: tuple[str, ...]) -> None:
        barred = sorted(_ANTHROPIC_BARRED.get(kind, frozenset()) & schema.keys())
        if barred:
            names = ", ".join(barred)
            verb = "property" if len(barred) == 1 else "properties"
            not_supported = "is not supported" if len(barred) == 1 else "are not supported"
            raise _refuse(f"For '{kind}' type, {verb} {names} {not_supported}")
        if kind == "object":
            if schema.get("additionalProperties") is not False:
                raise _refuse(
                    "For 'object' type, 'additionalProperties' must be explicitly set to false"
                )
            properties = schema.get("properties", {})
            required = schema.get("required", [])
            for name, child in properties.items():
                self.optional += name not in required
                self.visit(child, references)
        elif kind == "array":
            if schema.get("minItems", 0) not in (0, 1):
                raise _refuse(
                    "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
                )
            if "items" in schema:
                self.visit(schema["items"], references)
        elif kind == "string":
            form = schema.get("format")
            if form is not None and form not in _ANTHROPIC_FORMATS:
                raise _refuse(f"For 'string' type, format '{form}' is not supported")

    def _follow(self, reference: str, references: tuple[str, ...]) -> None:
        if not reference.startswith("#"):
            raise _refuse(f"external $ref '{reference}' is not supported")
        if reference in references:
            raise _refuse(f"recursive $ref '{reference}' is not supported")
        target = resolve_reference(self.root, reference)
        if target is None:
            raise _refuse(f"$ref '{reference}' does not resolve")
        self.visit(target, (*references, reference))


def _refuse(problem: str) -> BadRequestError:
    return BadRequestError(f"output_config.format.schema: {problem}")


def resolve_reference(root: Json, reference: str) -> Json | None:
    """The schema that a local `$ref` points to, or None."""
    target: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            if not is_object(target) or step not in target:
                return None
            target = target[step]
    return target if is_object(target) else None


_OPENAI_BARRED = (
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "uniqueItems",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "contains",
)
_MAX_NESTING = 10
_MAX_PROPERTIES = 5000


def openai_schema_problem(schema: Any) -> str | None:
    """What is wrong with a strict schema, in the API's words without their opening, or None.

    Source: developers.openai.com structured outputs ("Supported schemas").
    """
    if not is_object(schema):
        return "schema must be a JSON Schema of 'type: \"object\"', got 'type: \"None\"'."
    root = resolve_reference(schema, schema["$ref"]) if "$ref" in schema else schema
    if root is None or root.get("type") != "object":
        found = (root or {}).get("type")
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{found}\"'."
    counted = [0]
    problem = _strict_problem(schema, (), 0, counted)
    if problem is None and counted[0] > _MAX_PROPERTIES:
        return f"Expected at most {_MAX_PROPERTIES} object properties in total, got {counted[0]}."
    return problem


def _strict_problem(
    schema: Any, context: tuple[str, ...], depth: int, counted: list[int]
) -> str | None:
    if not is_object(schema):
        return f"In context={context!r}, schema must be an object."
    if depth > _MAX_NESTING:
        return f"{depth} levels of nesting exceeds limit of {_MAX_NESTING}."
    for key in _OPENAI_BARRED:
        if key in schema:
            return f"In context={context!r}, '{key}' is not permitted."
    if "default" in schema:
        return f"In context={context!r}, 'default' is not permitted."
    if "$ref" in schema and len(schema.keys() - {"$ref", "$defs", "definitions"}) > 0:
        others = sorted(schema.keys() - {"$ref", "$defs", "definitions"})
        return f"context={context!r}, $ref cannot have keywords {set(others)!r}."
    kind = schema.get("type")
    if kind == "object" or (is_array(kind) and "object" in kind) or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            return (
                f"In context={context!r}, 'additionalProperties' is required to be supplied and"
                " to be false."
            )
        properties = schema.get("properties")
        properties = properties if is_object(properties) else {}
        counted[0] += len(properties)
        required = schema.get("required")
        required = required if is_array(required) else []
        missing = [name for name in properties if name not in required]
        if missing:
            return (
                f"In context={context!r}, 'required' is required to be supplied and to be an array"
                f" including every key in properties. Missing '{missing[0]}'."
            )
        extra = [name for name in required if name not in properties]
        if extra:
            return (
                f"In context={context!r}, 'required' is required to be supplied and to be an array"
                f" including every key in properties. Extra required key '{extra[0]}' supplied."
            )
        for name, child in properties.items():
            problem = _strict_problem(child, (*context, "properties", name), depth + 1, counted)
            if problem:
                return problem
    if kind == "array" and "items" not in schema:
        return f"In context={context!r}, array schema missing items."
    if kind is None and not schema.keys() & {"anyOf", "$ref", "enum", "const", "properties"}:
        return f"In context={context!r}, schema must have a 'type' key."
    if "items" in schema:
        problem = _strict_problem(schema["items"], (*context, "items"), depth + 1, counted)
        if problem:
            return problem
    variants = schema.get("anyOf")
    for number, variant in enumerate(variants if is_array(variants) else []):
        problem = _strict_problem(variant, (*context, "anyOf", str(number)), depth, counted)
        if problem:
            return problem
    for key in ("$defs", "definitions"):
        definitions = schema.get(key)
        for name, child in definitions.items() if is_object(definitions) else ():
            problem = _strict_problem(child, (*context, key, name), depth + 1, counted)
            if problem:
                return problem
    return None
