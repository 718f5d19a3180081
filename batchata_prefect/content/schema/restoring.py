"""The way back of conversion: an answer on the wire, into the form of the plain schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from batchata_prefect.content.schema.nodes import (
    Schema,
    UnfitError,
    allows_null,
    map_values,
    resolved,
    schema_nodes,
    tuple_slots,
    variants_of,
)


def needs_restoring(schema: Mapping[str, Any]) -> bool:
    """Whether valid answers on the wire can differ from valid values of the schema."""
    return any(
        node.get("format") == "decimal" or map_values(node) is not None or tuple_slots(node)
        for node in schema_nodes(schema)
    )


def restored(value: Any, schema: Schema, *, leniently: bool = True) -> Any:
    """The value in the form that the plain schema describes.

    Lists of keys and values become dictionaries, named slots become tuples, decimals become their
    exact digits, a null for a field with a default is left out, and an allowed value in another
    case becomes the allowed one. A value that already has its plain form stays as it is.

    Args:
        value: Parsed JSON, with its fractions as `Decimal`.
        schema: The plain schema.
        leniently: Whether a null is left out and an allowed value in another case becomes the
            allowed one; else they stay, and only what the wire writes otherwise is restored.
    """
    return _Restoring(schema, leniently).value(value, schema)


@dataclass(frozen=True, slots=True)
class _Restoring:
    root: Schema
    leniently: bool

    def value(self, value: Any, node: Any) -> Any:
        """A value in the form that a node describes."""
        try:
            plain = resolved(node, self.root)
        except UnfitError:
            return value
        variants = variants_of(plain)
        if variants is not None:
            options = list(self._flat(variants))
            if isinstance(value, Decimal) and any(map(_is_text_or_float, options)):
                # Between a decimal and a text or a float, the class has its own choice of a number.
                return value
            chosen = self._variant(value, options)
            return value if chosen is None else self.value(value, chosen)
        if isinstance(value, dict):
            return self._object(cast("dict[str, Any]", value), plain)
        if isinstance(value, list):
            return self._array(cast("list[Any]", value), plain)
        if isinstance(value, Decimal) and plain.get("format") == "decimal":
            return str(value)
        return _allowed(value, plain) if self.leniently and isinstance(value, str) else value

    def _object(self, value: dict[str, Any], plain: Schema) -> Any:
        slots = tuple_slots(plain)
        if slots is not None and value.keys() <= slots.keys():
            listed = self._listed(value, slots, plain.get("minItems", len(slots)))
            if listed is not None:
                return list(map(self.value, listed, slots.values()))
        values = map_values(plain)
        if values is not None:
            return {key: self.value(item, values) for key, item in value.items()}
        properties = cast("dict[str, Any]", plain.get("properties") or {})
        required = cast("list[str]", plain.get("required") or [])
        out: dict[str, Any] = {}
        for key, item in value.items():
            child = properties.get(key)
            may_go = self.leniently and item is None and key not in required
            if child is None:
                out[key] = item
            elif not may_go or allows_null(child, self.root):
                out[key] = self.value(item, child)
        return out

    def _listed(self, value: dict[str, Any], slots: dict[str, Any], least: int) -> list[Any] | None:
        """The slots as a list, up to the last that is given; None where one before it misses."""
        names = list(slots)
        given = [
            name
            for index, name in enumerate(names)
            if name in value
            and (index < least or value[name] is not None or allows_null(slots[name], self.root))
        ]
        length = max([least, *(names.index(name) + 1 for name in given)])
        listed: list[Any] = []
        for name in names[:length]:
            if name not in given and "default" not in slots[name]:
                return None
            listed.append(value[name] if name in given else slots[name]["default"])
        return listed

    def _array(self, value: list[Any], plain: Schema) -> Any:
        values = map_values(plain)
        if values is not None and all(map(_is_pair, value)):
            pairs = cast("list[dict[str, Any]]", value)
            names = cast("Schema", plain.get("propertyNames") or {})
            keys = [self.value(pair["key"], names) for pair in pairs]
            twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
            if twice is not None:
                raise ValueError(f"the key {twice!r} is given twice")
            items = [self.value(pair["value"], values) for pair in pairs]
            return dict(zip(keys, items, strict=True))
        slots = cast("list[Any]", plain.get("prefixItems") or [])
        if slots:
            return [*map(self.value, value, slots), *value[len(slots) :]]
        items = plain.get("items")
        return value if items is None else [self.value(item, items) for item in value]

    def _variant(self, value: Any, options: list[Schema]) -> Schema | None:
        """The variant of a union that fits the value best; None where none does."""
        scores = [(self._misfit(value, variant), variant) for variant in options]
        fitting = [(score, variant) for score, variant in scores if score is not None]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None

    def _flat(self, variants: list[Any]) -> Iterator[Schema]:
        for variant in variants:
            try:
                plain = resolved(variant, self.root)
            except UnfitError:
                continue
            inner = variants_of(plain)
            if inner is None:
                yield plain
            else:
                yield from self._flat(inner)

    def _misfit(self, value: Any, plain: Schema) -> tuple[int, ...] | None:
        """How badly a value fits a variant, less is better; None where it cannot."""
        kind = plain.get("type")
        if isinstance(value, dict):
            return self._object_misfit(cast("dict[str, Any]", value), plain)
        if isinstance(value, list):
            if kind == "array":
                return (1,)
            is_map = map_values(plain) is not None
            return (0,) if is_map and all(map(_is_pair, cast("list[Any]", value))) else None
        if values := _values(plain):
            if value in values:
                return (0,)
            return (2,) if isinstance(value, str) and _allowed(value, plain) in values else None
        wanted = {str: "string", Decimal: "number"}.get(cast("type[Any]", type(value)))
        return (1,) if wanted is not None and kind == wanted else None

    def _object_misfit(self, value: dict[str, Any], plain: Schema) -> tuple[int, ...] | None:
        slots = tuple_slots(plain)
        if slots is not None:
            return (0, 0) if value.keys() == slots.keys() else None
        if map_values(plain) is not None:
            return (1, 0)
        if plain.get("type") != "object" and "properties" not in plain:
            return None
        properties = cast("dict[str, Any]", plain.get("properties") or {})
        wrong_tags = 0
        for name, child in properties.items():
            tag = resolved(child, self.root)
            if _values(tag) and name in value and self._misfit(value[name], tag) is None:
                wrong_tags += 1
        missing = sum(name not in value for name in cast("list[str]", plain.get("required") or []))
        unknown = sum(name not in properties for name in value)
        return (wrong_tags, missing, unknown)


def _is_pair(item: Any) -> bool:
    return isinstance(item, dict) and cast("dict[str, Any]", item).keys() == {"key", "value"}


def _values(plain: Schema) -> list[Any]:
    """The values that a node allows; empty where it names none."""
    return [plain["const"]] if "const" in plain else cast("list[Any]", plain.get("enum") or [])


def _allowed(value: str, plain: Schema) -> str:
    values = _values(plain)
    if not values or value in values:
        return value
    alike = [one for one in values if isinstance(one, str) and _fold(one) == _fold(value)]
    return alike[0] if len(alike) == 1 else value


def _fold(text: str) -> str:
    return text.strip().casefold()


def _is_text_or_float(plain: Schema) -> bool:
    if plain.get("type") == "number":
        return plain.get("format") != "decimal"
    return plain.get("type") == "string" and "enum" not in plain and "const" not in plain
