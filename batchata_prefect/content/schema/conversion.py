"""A JSON schema rewritten into the part of JSON schema that one provider accepts.

What a provider does not take is rewritten where the meaning can be kept, and refused by the path of
the field otherwise:

| in the schema | on the wire | read back as |
| --- | --- | --- |
| bounds, patterns, formats it does not take, defaults | words in the description | unchanged |
| `oneOf`, discriminator | `anyOf` | unchanged |
| open dictionary | list of `{"key", "value"}` objects | the dictionary |
| tuple of one type | list with its length | unchanged |
| tuple of several types | object with one named slot an item | the list, as long as it is given |
| set | list | unchanged |
| field that may be left out (OpenAI) | required, or null | left out, so that the default holds |
| `const` (Gemini) | `enum` of one value | unchanged |
| values of any type, external `$ref`, recursion (Anthropic, Gemini) | refused | |

Sources: Anthropic "Structured outputs", JSON schema limitations and schema complexity limits, and
`anthropic/lib/_parse/_transform.py`; OpenAI "Structured model outputs", supported schemas. Errors
seen on the wire: `'default' is not permitted`, `$ref cannot have keywords {'description'}`,
`schema must have a 'type' key`, `too many parameters with union types ... limit: 16`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from batchata_prefect.content.schema.dialects import (
    Dialect,
    Slot,
    check_size,
    fit_limits,
    with_null,
)
from batchata_prefect.content.schema.nodes import (
    Schema,
    UnfitError,
    allows_null,
    map_values,
    resolved,
    tuple_slots,
    variants_of,
)

_SILENT = frozenset(
    {
        "$anchor",
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "contentSchema",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that say nothing about a value that the model would need."""

_JSON_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
}


def converted(schema: Mapping[str, Any], dialect: Dialect, name: str) -> Schema:
    """The schema as `dialect` accepts it, in new dicts.

    Args:
        schema: A JSON schema of an object.
        dialect: What the provider accepts.
        name: Name of the whole schema, for a reference of the schema to itself.
    """
    conversion = _Conversion(schema, dialect, name)
    conversion.open_refs += ["#", str(schema.get("$ref", "#"))]
    root = conversion.target(dict(schema), "")
    fit_limits(conversion.slots, conversion.unions, dialect)
    if "title" in schema:
        root["title"] = schema["title"]
    if conversion.defs:
        root["$defs"] = conversion.defs
    check_size(root, dialect)
    return root


@dataclass(slots=True)
class _Conversion:
    root: Mapping[str, Any]
    dialect: Dialect
    name: str
    defs: dict[str, Schema] = field(default_factory=dict[str, Schema])
    names: dict[str, str] = field(default_factory=dict[str, str])
    slots: list[Slot] = field(default_factory=list[Slot])
    unions: list[str] = field(default_factory=list[str])
    open_refs: list[str] = field(default_factory=list[str])

    def node(self, node: Any, path: str) -> Schema:
        """One schema node, converted."""
        if not isinstance(node, dict) or not node:
            raise UnfitError(path, "can hold a value of any type; give it a type")
        plain = cast("Schema", node)
        if "$ref" in plain:
            return self._reference(plain, path)
        return self.target(plain, path)

    def target(self, node: Schema, path: str) -> Schema:
        """A node that is written out here, references behind it resolved."""
        try:
            plain = resolved(node, self.root)
        except UnfitError as unfit:
            raise UnfitError(path, unfit.reason) from None
        variants = variants_of(plain)
        if variants is not None:
            return self._union(plain, variants, path)
        if "enum" in plain or "const" in plain:
            return self._literal(plain, path)
        kind = _kind_of(plain)
        if isinstance(kind, list):
            return self._of_types(plain, cast("list[str]", kind), path)
        if kind == "object":
            return self._object(plain, path)
        if kind == "array":
            return self._array(plain, path)
        if kind in ("string", "number", "integer", "boolean", "null"):
            return self._scalar(plain, str(kind))
        if kind is None:
            raise UnfitError(path, "can hold a value of any type; give it a type")
        raise UnfitError(path, f"has the type {kind!r}, which is no JSON type")

    def _of_types(self, plain: Schema, kinds: list[str], path: str) -> Schema:
        """A node of several types, as a union of nodes of one."""
        said = {key: plain[key] for key in ("description", "default", "examples") if key in plain}
        rest = {key: value for key, value in plain.items() if key not in said}
        return self._union(said, [{**rest, "type": one} for one in kinds], path)

    def _reference(self, plain: Schema, path: str) -> Schema:
        ref = str(plain["$ref"])
        name = self._def_name(ref)
        siblings = {key for key in plain if key != "$ref"} - (_SILENT - {"description"})
        is_loop = ref in self.open_refs
        if is_loop and not self.dialect.recursion:
            raise UnfitError(
                path,
                f"holds {name!r} inside of itself, and {self.dialect.name} takes no schema "
                "that refers to itself; spell out the levels that you need",
            )
        # A loop through inlined siblings would never end; the description gives way.
        if siblings and not is_loop:
            return self._inside(ref, plain, path)
        if name not in self.defs:
            # The place is taken before the walk goes in, so that a reference back ends it.
            self.defs[name] = {}
            self.defs[name] = self._inside(ref, {"$ref": ref}, path)
        return {"$ref": f"#/$defs/{name}"}

    def _inside(self, ref: str, node: Schema, path: str) -> Schema:
        """A node behind a reference, written out."""
        self.open_refs.append(ref)
        inlined = self.target(node, path)
        self.open_refs.pop()
        return inlined

    def _def_name(self, ref: str) -> str:
        if ref not in self.names:
            name = ref.rsplit("/", 1)[-1].strip("#") or self.name
            taken = set(self.names.values())
            self.names[ref] = name if name not in taken else f"{name}_{len(taken)}"
        return self.names[ref]

    def _union(self, plain: Schema, variants: list[Any], path: str) -> Schema:
        extra = set(plain) - _SILENT - {"anyOf", "oneOf", "type", "default", "examples"}
        if extra:
            raise UnfitError(
                path, f"mixes a union with {sorted(extra)}; write these into the variants"
            )
        options: list[Schema] = []
        for variant in variants:
            option = self.node(variant, path)
            flat = option["anyOf"] if set(option) == {"anyOf"} else [option]
            options += [one for one in flat if one not in options]
        if len(options) == 1:
            return self._described(options[0], plain)
        self.unions.append(path)
        return self._described({"anyOf": options}, plain)

    def _literal(self, plain: Schema, path: str) -> Schema:
        values = cast("list[Any]", plain["enum"] if "enum" in plain else [plain["const"]])
        kinds: list[str] = []
        for value in values:
            kind = _JSON_TYPES.get(cast("type[object]", type(value)))
            if kind is None:
                raise UnfitError(
                    path, f"has the allowed value {value!r}; only plain values are taken"
                )
            if kind not in kinds:
                kinds.append(kind)
        out: Schema = {"type": kinds[0]} if len(kinds) == 1 else {}
        if len(kinds) > 1 and self.dialect.all_required:
            out["type"] = kinds
        is_enum = "enum" in plain or not self.dialect.constants
        out |= {"enum": values} if is_enum else {"const": plain["const"]}
        return self._described(out, plain, used={"type", "enum", "const"})

    def _object(self, plain: Schema, path: str) -> Schema:
        values = map_values(plain)
        if values is not None:
            return self._pairs(plain, values, path)
        properties = cast("dict[str, Any]", plain.get("properties") or {})
        extra = plain.get("additionalProperties")
        if "properties" not in plain and extra is not False:
            raise UnfitError(path, "is a dictionary of values of any type; give the values a type")
        if properties and isinstance(extra, dict):
            raise UnfitError(
                path,
                "has named fields and further ones of any name; put the further ones into a field "
                "of their own, such as `extra: dict[str, ...]`",
            )
        needed = set(cast("list[str]", plain.get("required") or []))
        out: Schema = {"type": "object"}
        out = self._described(
            out, plain, used={"type", "properties", "required", "additionalProperties"}
        )
        out["properties"] = {}
        out["additionalProperties"] = False
        required: list[str] = []
        for name, child in properties.items():
            child_path = f"{path}.{name}" if path else name
            out["properties"][name] = self._property(name, child, name in needed, child_path)
            # A tag with one value is needed to tell variants apart, whatever its default.
            tag = "const" in resolved(child, self.root)
            if name in needed or tag or self.dialect.all_required:
                required.append(name)
            else:
                null_is_absent = cast("Schema", child).get("default", 0) is None
                self.slots.append(Slot(out, name, child_path, null_is_absent))
        if required or self.dialect.all_required:
            out["required"] = required
        return out

    def _property(self, name: str, child: Any, needed: bool, path: str) -> Schema:
        out = self.node(child, path)
        title = str(child.get("title", ""))
        # A title that only repeats the name would cost input tokens in every request.
        if "$ref" not in out and _letters(title) not in ("", _letters(name)):
            out["title"] = title
        tag = "const" in resolved(child, self.root)
        if needed or tag or not self.dialect.all_required or allows_null(child, self.root):
            return out
        return with_null(out)

    def _pairs(self, plain: Schema, values: Schema, path: str) -> Schema:
        patterns = cast("dict[str, Any]", plain.get("patternProperties") or {})
        key: Schema = {"type": "string", "pattern": next(iter(patterns))} if patterns else {}
        key = cast("Schema", plain.get("propertyNames") or key)
        if not {"type", "$ref", "enum", "const"} & key.keys():
            key = {"type": "string", **key}
        item: Schema = {
            "type": "object",
            "properties": {
                "key": self.node(key, f"{path}[key]"),
                "value": self.node(values, f"{path}[value]"),
            },
            "additionalProperties": False,
            "required": ["key", "value"],
        }
        used = {"type", "additionalProperties", "patternProperties", "propertyNames", "properties"}
        text = "A dictionary, as a list of its keys and values; each key once."
        described = {**plain, "description": _joined(plain.get("description"), text)}
        return self._described({"type": "array", "items": item}, described, used=used)

    def _array(self, plain: Schema, path: str) -> Schema:
        if plain.get("prefixItems"):
            return self._tuple(plain, path)
        items = plain.get("items")
        out: Schema = {"type": "array", "items": self.node(items, f"{path}[]")}
        used = {"type", "items"}
        for bound in ("minItems", "maxItems"):
            if bound in plain and self._keeps(bound, plain[bound]):
                out[bound] = plain[bound]
                used.add(bound)
        if plain.get("uniqueItems"):
            text = _joined(plain.get("description"), "No item twice.")
            plain = {**plain, "description": text}
        return self._described(out, plain, used=used | {"uniqueItems"})

    def _tuple(self, plain: Schema, path: str) -> Schema:
        items = cast("list[Any]", plain["prefixItems"])
        least = plain.get("minItems", 0)
        if plain.get("items") or plain.get("maxItems", least) != len(items):
            raise UnfitError(
                path, "is a tuple of changing length; use a list, or a model with fields"
            )
        slots = tuple_slots(plain)
        if slots is None:
            listed = {key: value for key, value in plain.items() if key != "prefixItems"}
            return self._array(
                {**listed, "items": items[0], "minItems": least, "maxItems": len(items)}, path
            )
        out: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
        out["required"] = list(slots) if self.dialect.all_required else list(slots)[:least]
        for index, (name, item) in enumerate(slots.items()):
            child_path = f"{path}[{index}]"
            child = self.node(item, child_path)
            if index >= least and self.dialect.all_required:
                child = with_null(child)
            elif index >= least:
                self.slots.append(Slot(out, name, child_path, null_is_absent=False))
            out["properties"][name] = child
        return self._described(
            out, plain, used={"type", "prefixItems", "items", "minItems", "maxItems"}
        )

    def _scalar(self, plain: Schema, kind: str) -> Schema:
        out: Schema = {"type": kind}
        used = {"type"}
        textual = kind == "string"
        for key in plain:
            if (key in ("format", "pattern")) == textual and self._keeps(key, plain[key]):
                out[key] = plain[key]
                used.add(key)
        if kind == "number" and plain.get("format") == "decimal":
            used.add("format")
        return self._described(out, plain, used=used)

    def _keeps(self, key: str, value: Any) -> bool:
        if key == "format":
            return value in self.dialect.formats
        # Lookaround, back references and named groups are refused by constrained decoding.
        if key == "pattern" and any(mark in value for mark in ("(?", "\\b", "\\B", "\\1", "\\p")):
            return False
        return key in self.dialect.keywords or (key == "minItems" and value in (0, 1))

    def _described(
        self, out: Schema, plain: Mapping[str, Any], used: set[str] | None = None
    ) -> Schema:
        """`out` with the description and, in words, the keywords that the provider does not take.

        The form `{minimum: 1}` is the one that Anthropic's own helper writes.
        """
        skip = (used or set[str]()) | _SILENT | {"anyOf", "oneOf", "type"}
        left = {key: value for key, value in plain.items() if key not in skip}
        if left.get("default", 0) is None:
            del left["default"]
        words = ", ".join(f"{key}: {_shown(value)}" for key, value in left.items())
        text = _joined(plain.get("description"), f"{{{words}}}" if words else None)
        if text:
            if "$ref" in out:
                # No keyword may stand beside $ref, and a union with one variant is a detour.
                return out
            text = _joined(text, out.get("description"))
            out["description"] = text
        return out


def _kind_of(plain: Schema) -> Any:
    """The type of a node; what it must be where it is not said, and None where nothing tells."""
    kind = plain.get("type")
    if kind is None and ("items" in plain or "prefixItems" in plain):
        return "array"
    if kind is None and ("properties" in plain or map_values(plain)):
        return "object"
    return kind


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _joined(*texts: str | None) -> str | None:
    return "\n\n".join(text for text in texts if text) or None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
