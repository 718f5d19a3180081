"""Reading a plain JSON schema: references, unions, dictionaries and tuples in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

Schema: TypeAlias = "dict[str, Any]"


_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keywords under which schemas stand by name."""

_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
"""Keywords that hold values."""


class UnfitError(Exception):
    """A field that cannot be expressed, named by its path such as `items[].price`.

    Attributes:
        reason: What is wrong with it and what to do, as the end of a sentence about the field, or
            about the whole schema where the path is empty.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"field {path!r} {reason}" if path else reason)
        self.reason = reason


def resolved(node: Any, root: Mapping[str, Any]) -> Schema:
    """The node behind references, with `allOf` merged; `{}` for a node that is no schema."""
    if not isinstance(node, dict):
        return {}
    found = cast("Schema", node)
    hops = 0
    while "$ref" in found or "allOf" in found:
        hops += 1
        if hops > 100:
            raise UnfitError("", "refers to itself without end")
        siblings = {key: found[key] for key in found if key not in ("$ref", "allOf")}
        parts: list[Schema] = []
        if "$ref" in found:
            parts.append(pointed(str(found["$ref"]), root))
        parts += [resolved(part, root) for part in cast("list[Any]", found.get("allOf") or [])]
        found = _merged([*parts, siblings])
    return found


def allows_null(node: Any, root: Mapping[str, Any]) -> bool:
    """Whether null is a value of the schema node."""
    plain = resolved(node, root)
    variants = variants_of(plain)
    if variants is not None:
        return any(allows_null(variant, root) for variant in variants)
    if "enum" in plain:
        return None in plain["enum"]
    if "const" in plain:
        return plain["const"] is None
    kind = plain.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)


def variants_of(plain: Mapping[str, Any]) -> list[Any] | None:
    """The alternatives of a union node; None where it is none."""
    return plain.get("anyOf") or plain.get("oneOf")


def map_values(plain: Mapping[str, Any]) -> Schema | None:
    """Schema of the values of an open dictionary; None where the node is none."""
    if plain.get("properties") or plain.get("type", "object") != "object":
        return None
    patterns = cast("dict[str, Any]", plain.get("patternProperties") or {})
    if len(patterns) == 1:
        return cast("Schema", next(iter(patterns.values())))
    extra = plain.get("additionalProperties")
    return cast("Schema", extra) if isinstance(extra, dict) and extra else None


def tuple_slots(plain: Mapping[str, Any]) -> dict[str, Any] | None:
    """Slot name -> schema of a tuple of several types; None where the node is no such tuple."""
    items = cast("list[Any]", plain.get("prefixItems") or [])
    if not items or all(_bare(item) == _bare(items[0]) for item in items):
        return None
    slots: dict[str, Any] = {}
    for index, item in enumerate(items):
        title = cast("Schema", item).get("title") if isinstance(item, dict) else None
        name = "_".join(str(title).lower().split()) if title else f"item_{index + 1}"
        slots[name if name not in slots else f"item_{index + 1}"] = item
    return slots


def schema_nodes(schema: Any) -> Iterator[Schema]:
    """Every schema inside of a schema, itself first; a field may be called like a keyword."""
    if isinstance(schema, list):
        for value in cast("list[Any]", schema):
            yield from schema_nodes(value)
    if not isinstance(schema, dict):
        return
    node = cast("Schema", schema)
    yield node
    for key, value in node.items():
        if key in _NAMED and isinstance(value, dict):
            yield from schema_nodes(list(cast("Schema", value).values()))
        elif key not in _VALUES:
            yield from schema_nodes(value)


def _bare(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return {key: value for key, value in cast("Schema", item).items() if key != "title"}


def pointed(ref: str, root: Mapping[str, Any]) -> Schema:
    """The node that a local reference, such as `#/$defs/Item`, names."""
    if not ref.startswith("#"):
        raise UnfitError("", f"refers to {ref!r}, outside of the schema; put it into '$defs'")
    found: Any = root
    for part in ref[1:].strip("/").split("/") if ref not in ("#", "#/") else ():
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            raise UnfitError("", f"refers to {ref!r}, which is not in the schema")
        found = cast("Schema", found)[key]
    return cast("Schema", found) if isinstance(found, dict) else {}


def _merged(parts: list[Schema]) -> Schema:
    """One node that holds what all parts ask for; later parts win where they disagree."""
    merged: Schema = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties" and key in merged:
                merged[key] = {**merged[key], **value}
            elif key == "required" and key in merged:
                merged[key] = list(dict.fromkeys([*merged[key], *value]))
            elif key == "description" and merged.get(key, value) != value:
                merged[key] = f"{value}\n\n{merged[key]}"
            else:
                merged[key] = value
    return merged
