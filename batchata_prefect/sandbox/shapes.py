"""Tables of what a JSON body may hold: field, kind, range, and the text of a refusal that differs.

They tell what is wrong and where; the words in which a provider says so are the provider's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from .wire import Json, is_array, is_integer, is_number, is_object

_MOST_REMEMBERED = 1000


@dataclass(slots=True)
class Shape:
    """What a value may be. Null stands for nothing where it is not required.

    Attributes:
        kind: `any`, `string`, `boolean`, `integer`, `number`, `choice`, `list`, `string or list`,
            `object` (of the given fields), `tagged` (its type tells which fields it has).
        required: Whether it must be there.
        pattern: Regular expression that finds itself in a string.
        least: Smallest number, or length of a list.
        most: Largest number, or length of a string.
        choices: Texts that it may be.
        items: Shape of each item.
        fields: Shapes of the fields that are checked.
        also: Fields that may hold anything; None where all others may.
        shapes: Shape of each type.
        others: Types whose objects may hold anything; None for all others.
        default: Type of an object without one.
        says: The refusal of a value of the right kind, in place of the provider's usual one;
            `{path}` and `{value}` stand in it.
        code: OpenAI's code of that refusal.
    """

    kind: str = "any"
    required: bool = False
    pattern: re.Pattern[str] | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    items: Shape | None = None
    fields: Mapping[str, Shape] = field(default_factory=dict[str, "Shape"])
    also: frozenset[str] | None = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, "Shape"])
    others: frozenset[str] | None = frozenset()
    default: str | None = None
    says: str | None = None
    code: str | None = None
    needed: tuple[str, ...] = field(init=False)
    names: frozenset[str] | None = field(init=False)
    check: Callable[[Shape, Any], None] = field(init=False)

    def __post_init__(self) -> None:
        self.needed = tuple(name for name, shape in self.fields.items() if shape.required)
        self.names = None if self.also is None else self.also | self.fields.keys()
        self.check = _CHECKS[self.kind]


class Remembered:
    """What was found right before, as a batch repeats its settings in every row."""

    def __init__(self) -> None:
        self._keys: set[int] = set()

    def key(self, body: Json, apart: str, *more: object) -> int:
        """What stands for all of a body but one parameter."""
        return hash((orjson.dumps({name: body[name] for name in body if name != apart}), *more))

    def has(self, key: int) -> bool:
        """Whether it was found right."""
        return key in self._keys

    def add(self, key: int) -> None:
        """It is right."""
        if len(self._keys) > _MOST_REMEMBERED:
            self._keys.clear()
        self._keys.add(key)


class Tag(str):
    """The step of a path that tells which shape of several a value has."""

    __slots__ = ()


class MisfitError(Exception):
    """A value that does not fit its shape.

    Attributes:
        kind: `missing`, `extra`, `type`, `tag`, `choice`, `below`, `above`, `short`, `long` or
            `pattern`.
        path: Names and numbers that lead to the value, outermost first.
    """

    def __init__(self, kind: str, shape: Shape, value: Any = None, *path: str | int) -> None:
        super().__init__(kind)
        self.kind = kind
        self.shape = shape
        self.value = value
        self.path = list(path)


def fit(shape: Shape, value: Any, refusal: Callable[[MisfitError], Exception]) -> None:
    """Refuse a value that does not fit its shape, by the first thing that is wrong."""
    try:
        shape.check(shape, value)
    except MisfitError as misfit:
        raise refusal(misfit) from misfit


def _any(_: Shape, __: Any) -> None:
    return


def _string(shape: Shape, value: Any) -> None:
    if not isinstance(value, str):
        raise MisfitError("type", shape, value)
    if shape.most is not None and len(value) > shape.most:
        raise MisfitError("long", shape, value)
    pattern = shape.pattern
    # `$` alone would let a line break at the end pass.
    if pattern is not None and not (
        pattern.fullmatch(value) if pattern.pattern.endswith("$") else pattern.search(value)
    ):
        raise MisfitError("pattern", shape, value)


def _boolean(shape: Shape, value: Any) -> None:
    if not isinstance(value, bool):
        raise MisfitError("type", shape, value)


def _number(shape: Shape, value: Any) -> None:
    if not (is_integer(value) if shape.kind == "integer" else is_number(value)):
        raise MisfitError("type", shape, value)
    if shape.least is not None and value < shape.least:
        raise MisfitError("below", shape, value)
    if shape.most is not None and value > shape.most:
        raise MisfitError("above", shape, value)


def _choice(shape: Shape, value: Any) -> None:
    if value not in shape.choices:
        raise MisfitError("choice", shape, value)


def _string_or_list(shape: Shape, value: Any) -> None:
    if not isinstance(value, str):
        _list(shape, value)


def _list(shape: Shape, value: Any) -> None:
    if not is_array(value):
        raise MisfitError("type", shape, value)
    if shape.least is not None and len(value) < shape.least:
        raise MisfitError("short", shape, value)
    items = shape.items or ANYTHING
    number = -1
    try:
        for item in value:
            number += 1
            items.check(items, item)
    except MisfitError as misfit:
        misfit.path.insert(0, number)
        raise


def _object(shape: Shape, value: Any) -> None:
    if not is_object(value):
        raise MisfitError("type", shape, value)
    if (names := shape.names) is not None and not value.keys() <= names:
        raise MisfitError("extra", shape, None, next(name for name in value if name not in names))
    fields, name = shape.fields, ""
    for name in shape.needed:
        if value.get(name) is None:
            raise MisfitError("missing", fields[name], None, name)
    try:
        for name, inner in value.items():
            if inner is not None and (known := fields.get(name)) is not None:
                known.check(known, inner)
    except MisfitError as misfit:
        misfit.path.insert(0, name)
        raise


def _tagged(shape: Shape, value: Any) -> None:
    if not is_object(value):
        raise MisfitError("type", shape, value)
    kind = value.get("type", shape.default)
    if kind is None:
        raise MisfitError("missing", shape, None, "type")
    if not isinstance(kind, str) or (known := shape.shapes.get(kind)) is None:
        if shape.others is None or (isinstance(kind, str) and kind in shape.others):
            return
        raise MisfitError("tag", shape, kind)
    try:
        known.check(known, value)
    except MisfitError as misfit:
        misfit.path.insert(0, Tag(kind))
        raise


_CHECKS: dict[str, Callable[[Shape, Any], None]] = {
    "any": _any,
    "string": _string,
    "boolean": _boolean,
    "integer": _number,
    "number": _number,
    "choice": _choice,
    "list": _list,
    "string or list": _string_or_list,
    "object": _object,
    "tagged": _tagged,
}

ANYTHING = Shape()
SOMETHING = Shape(required=True)
STRING = Shape("string")
NAMED = Shape("string", required=True)


def matching(pattern: str, says: str | None = None, **more: Any) -> Shape:
    """A string in which a pattern finds itself."""
    return Shape("string", pattern=re.compile(pattern), says=says, **more)


def one_of(*choices: str, **more: Any) -> Shape:
    """One of a few texts."""
    return Shape("choice", choices=choices, **more)


def list_of(items: Shape, kind: str = "list", **more: Any) -> Shape:
    """A list of such items."""
    return Shape(kind, items=items, **more)


def loose(**fields: Shape) -> Shape:
    """An object that may have other fields too."""
    return Shape("object", fields=fields, also=None)


def closed(also: str = "", /, **fields: Shape) -> Shape:
    """An object that has these fields, those named in `also`, and no others."""
    return Shape("object", fields=fields, also=names(also))


def tagged(shapes: Mapping[str, Shape], **more: Any) -> Shape:
    """An object whose type tells which of these shapes it has."""
    return Shape("tagged", shapes=shapes, **more)


def needed(shape: Shape) -> Shape:
    """The same, of what must be there."""
    return replace(shape, required=True)


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())
