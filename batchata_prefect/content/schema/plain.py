"""The plain JSON schema of a response model, as pydantic gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from batchata_prefect.content.schema.nodes import Schema

Answer: TypeAlias = Any
"""An object of the class that was asked for, or the values of its JSON."""


_NAIVE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$"
_KEYS = {
    "int": "^-?[0-9]+$",
    "float": "^-?[0-9]+([.][0-9]+)?$",
    "bool": "^(true|false)$",
    "date": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
}
"""What the keys of a dictionary look like in JSON, which only has texts for them."""


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """What an answer shall look like.

    Attributes:
        name: Its name, of `[a-zA-Z0-9_-]` and at most 64 characters, as OpenAI asks.
        schema: Plain JSON schema, shared: never change it.
        digest: Hex digest of the schema, the same in every process.
        model: The class; None where only the JSON schema is known.
    """

    name: str
    schema: dict[str, Any] = field(hash=False)
    digest: str
    model: type[Any] | None = field(default=None, compare=False, repr=False)


class PlainSchema(GenerateJsonSchema):
    """Pydantic's JSON schema, with decimals told apart from `float | str`."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """A number of the format `decimal`; its precision in keywords that validators skip."""
        bounds = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
        bounds |= {"lt": "exclusiveMaximum", "multiple_of": "multipleOf"}
        bounds |= {"decimal_places": "decimalPlaces", "max_digits": "maxDigits"}
        given = cast("Mapping[str, Any]", schema)
        plain: Schema = {"type": "number", "format": "decimal"}
        for key, keyword in bounds.items():
            if given.get(key) is not None:
                value = given[key]
                plain[keyword] = value if isinstance(value, int) else float(value)
        return plain

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        """Pydantic's, but for times without a zone: the format `date-time` always has one."""
        if schema.get("tz_constraint") == "naive":
            return {"type": "string", "pattern": _NAIVE}
        return super().datetime_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Pydantic's, with what the keys look like where they are no texts."""
        plain = super().dict_schema(schema)
        kind = cast("Mapping[str, Any]", schema.get("keys_schema") or {}).get("type")
        if kind in _KEYS and isinstance(plain.get("additionalProperties"), dict):
            plain.setdefault("propertyNames", {"pattern": _KEYS[kind]})
        return plain

    def model_fields_schema(self, schema: core_schema.ModelFieldsSchema) -> JsonSchemaValue:
        """Pydantic's, with fields where their `AliasPath` says that they are looked for."""
        return _along_paths(super().model_fields_schema(schema), schema["fields"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """The same."""
        return _along_paths(super().typed_dict_schema(schema), schema["fields"])

    def dataclass_args_schema(self, schema: core_schema.DataclassArgsSchema) -> JsonSchemaValue:
        """The same."""
        fields = {field["name"]: field for field in schema["fields"]}
        return _along_paths(super().dataclass_args_schema(schema), fields)


class AsGiven(PlainSchema):
    """With decimals left numbers where the user's own code sees them before pydantic does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seen = 0

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """A number of the format `decimal`, but for one that a validator takes as it came."""
        return {"type": "number"} if self._seen else super().decimal_schema(schema)

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        """Pydantic's."""
        return self._inside(super().function_before_schema, schema)

    def function_wrap_schema(
        self, schema: core_schema.WrapValidatorFunctionSchema
    ) -> JsonSchemaValue:
        """Pydantic's."""
        return self._inside(super().function_wrap_schema, schema)

    def _inside(self, write: Callable[[Any], JsonSchemaValue], schema: Any) -> JsonSchemaValue:
        self._seen += 1
        try:
            return write(schema)
        finally:
            self._seen -= 1


def _along_paths(schema: JsonSchemaValue, fields: Mapping[str, Any]) -> JsonSchemaValue:
    """An object whose fields stand where their `AliasPath` leads, not under their names."""
    properties = cast("dict[str, Schema]", schema.get("properties") or {})
    required = cast("list[str]", schema.get("required") or [])
    for name, field_ in fields.items():
        path = _path(field_.get("validation_alias"))
        if path is None or name not in properties:
            continue
        leaf: Schema = properties.pop(name)
        head = str(path[0])
        for step in reversed(path[1:]):
            if isinstance(step, str):
                leaf = {"type": "object", "properties": {step: leaf}, "required": [step]}
            else:
                items = step + 1 if step >= 0 else -step
                leaf = {"type": "array", "items": leaf, "minItems": items}
        properties[head] = _both(properties[head], leaf) if head in properties else leaf
        if name in required:
            required.remove(name)
            required += [] if head in required else [head]
    return schema


def _path(alias: Any) -> list[str | int] | None:
    """The first path of an alias that has no plain name."""
    if not isinstance(alias, list) or not alias:
        return None
    paths = cast("list[Any]", alias)
    paths = paths if isinstance(paths[0], list) else [paths]
    return None if any(len(path) == 1 for path in paths) else paths[0]


def _both(one: Schema, other: Schema) -> Schema:
    """A value in which two paths end; the first one's schema where there is none."""
    if one.get("type") == other.get("type") == "array":
        items: list[Any] = [one["items"], other["items"]]
        least = max(one.get("minItems", 0), other.get("minItems", 0))
        inner = items[0] if items[0] == items[1] else {"anyOf": items}
        return {**one, "items": inner, "minItems": least}
    if one.get("type") == other.get("type") == "object" and "properties" in one:
        properties = dict(one["properties"])
        for name, inner in other["properties"].items():
            properties[name] = _both(properties[name], inner) if name in properties else inner
        required = list(dict.fromkeys([*one.get("required", []), *other["required"]]))
        return {**one, "properties": properties, "required": required}
    return one


def json_schema(model: type[Any], generator: type[PlainSchema] = PlainSchema) -> Schema:
    """The plain schema of a pydantic class, a dataclass or a TypedDict.

    By `AsGiven` it is the one by which an answer is restored before the class takes it.
    """
    if issubclass(model, BaseModel):
        return model.model_json_schema(schema_generator=generator)
    return _adapter(model).json_schema(schema_generator=generator)


def validated(model: type[Any], text: str) -> Any:
    """The object that a JSON text makes, by one validation."""
    if issubclass(model, BaseModel):
        return model.model_validate_json(text)
    return _adapter(model).validate_json(text)


@lru_cache(maxsize=64)
def _adapter(model: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(model)
