"""What part of JSON schema each provider accepts, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from batchata_prefect.content.schema.nodes import Schema, UnfitError, pointed, schema_nodes

BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
"""Bounds of numbers."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one provider accepts.

    Attributes:
        name: Name of the provider for error texts.
        formats: String formats that may stay.
        keywords: Bounds that may stay, and `pattern` where simple ones may.
        all_required: Whether every property must be required.
        recursion: Whether a schema may refer to itself.
        constants: Whether `const` is taken, and not only an `enum` of one value.
        max_optional: Properties that need not be required; None without a limit.
        max_unions: Places with more than one type; None without a limit.
        max_depth: Levels of nested objects; None without a limit.
        max_properties: Properties in all; None without a limit.
        max_enum_values: Enum values in all; None without a limit.
    """

    name: str
    formats: frozenset[str]
    keywords: frozenset[str]
    all_required: bool
    recursion: bool
    constants: bool = True
    max_optional: int | None = None
    max_unions: int | None = None
    max_depth: int | None = None
    max_properties: int | None = None
    max_enum_values: int | None = None


COMMON_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
"""Formats of strings that more than one provider takes."""


@dataclass(slots=True)
class Slot:
    """A property that need not be given, for the limits on such properties."""

    owner: Schema
    name: str
    path: str
    null_is_absent: bool


def fit_limits(slots: Sequence[Slot], unions: Sequence[str], dialect: Dialect) -> None:
    """Spread fields that may be left out over the provider's two limits on such fields.

    Within the limits nothing changes. Beyond them, a field whose null only means that it is
    absent loses the null, and what does not fit there becomes required with a null.

    Args:
        slots: Every property that need not be given.
        unions: Path of every place with more than one type.
        dialect: What the provider accepts.
    """
    most_optional, most_unions = dialect.max_optional, dialect.max_unions
    if most_optional is None or most_unions is None:
        return
    if len(slots) <= most_optional and len(unions) <= most_unions:
        return
    flexible: list[Slot] = []
    fixed = len(unions)
    for slot in slots:
        schema = slot.owner["properties"][slot.name]
        bare = _without_null(schema) if slot.null_is_absent else schema
        if "anyOf" in bare:
            _require(slot)
            slot.owner["properties"][slot.name] = with_null(schema)
            continue
        fixed -= bare is not schema
        flexible.append(slot)
    if fixed > most_unions:
        raise UnfitError(
            unions[most_unions],
            f"is one of {fixed} fields of several types, and {dialect.name} takes "
            f"{most_unions} in a schema; give some of them one type, or ask in two jobs",
        )
    for index, slot in enumerate(flexible):
        schema = slot.owner["properties"][slot.name]
        bare = _without_null(schema) if slot.null_is_absent else schema
        if index < most_optional:
            slot.owner["properties"][slot.name] = bare
        elif fixed < most_unions:
            fixed += 1
            slot.owner["properties"][slot.name] = with_null(bare)
            _require(slot)
        else:
            raise UnfitError(
                slot.path,
                f"is one of {len(flexible)} fields that may be left out, and "
                f"{dialect.name} takes {index} in this schema; make some of them "
                "required, or ask in two jobs",
            )


def _require(slot: Slot) -> None:
    names = {*slot.owner.get("required", ()), slot.name}
    slot.owner["required"] = [name for name in slot.owner["properties"] if name in names]


def with_null(out: Schema) -> Schema:
    """The converted node, or null."""
    null: Schema = {"type": "null"}
    if "anyOf" in out:
        return out if null in out["anyOf"] else {**out, "anyOf": [*out["anyOf"], null]}
    inner = {key: value for key, value in out.items() if key != "description"}
    text = {"description": out["description"]} if "description" in out else {}
    return {"anyOf": [inner, null], **text}


def _without_null(out: Schema) -> Schema:
    rest = [one for one in out.get("anyOf", ()) if one != {"type": "null"}]
    if not rest:
        return out
    if len(rest) > 1:
        return {**out, "anyOf": rest}
    if "$ref" in rest[0]:
        return rest[0]
    return {**rest[0], **{key: value for key, value in out.items() if key != "anyOf"}}


def check_size(schema: Schema, dialect: Dialect) -> None:
    """Refuse a converted schema that is too large or too deep."""
    if dialect.max_properties is None or dialect.max_enum_values is None:
        return
    nodes = list(schema_nodes(schema))
    properties = sum(len(node["properties"]) for node in nodes if _is_object(node))
    values = sum(len(node["enum"]) for node in nodes if isinstance(node.get("enum"), list))
    for count, most, what in (
        (properties, dialect.max_properties, "fields"),
        (values, dialect.max_enum_values, "allowed values"),
    ):
        if count > most:
            raise UnfitError("", f"has {count:,} {what} in all, and {dialect.name} takes {most:,}")
    _check_depth(schema, schema, dialect, "", 0, ())


def _is_object(node: Schema) -> bool:
    return isinstance(node.get("properties"), dict) and node.get("type") == "object"


def _check_depth(
    node: Any, root: Schema, dialect: Dialect, path: str, depth: int, refs: tuple[str, ...]
) -> None:
    if not isinstance(node, dict):
        return
    found = cast("Schema", node)
    ref = found.get("$ref")
    if ref is not None:
        if ref not in refs:
            _check_depth(pointed(ref, root), root, dialect, path, depth, (*refs, ref))
        return
    if _is_object(found):
        depth += 1
        if dialect.max_depth is not None and depth > dialect.max_depth:
            raise UnfitError(
                path,
                f"lies more than {dialect.max_depth} objects deep, the most that {dialect.name} "
                "takes; flatten the model",
            )
        for name, child in cast("Schema", found["properties"]).items():
            _check_depth(child, root, dialect, f"{path}.{name}".lstrip("."), depth, refs)
    _check_depth(found.get("items"), root, dialect, f"{path}[]", depth, refs)
    for variant in cast("list[Any]", found.get("anyOf") or []):
        _check_depth(variant, root, dialect, path, depth, refs)
