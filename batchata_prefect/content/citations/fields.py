"""The fields of a parsed answer: each value with its path and the words that a text may call it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, TypeAlias, cast

from pydantic import BaseModel

from batchata_prefect.content.citations.written import normal

Label: TypeAlias = tuple[str, ...]
"""Words of a name in their `stem` form, in order."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of an answer that a document may support.

    Attributes:
        path: Where it is, such as `items[2].price`.
        parent: Path of the object that holds it.
        labels: What a text may call it, the field's own names first.
        texts: Its forms as text, each `normal`; empty where it is no text.
        number: Its value as a number; so `day`, `clock` as a time of day, `truth` as yes or no.
        exact_case: Raw text that must stand in the source letter by letter, as `US` must.
    """

    path: str
    parent: str
    labels: tuple[Label, ...]
    texts: tuple[str, ...] = ()
    number: Decimal | None = None
    day: date | None = None
    clock: time | None = None
    truth: bool | None = None
    exact_case: str | None = None

    @property
    def key(self) -> object:
        """Equal for fields that a text cannot tell apart by value."""
        return self.number if self.number is not None else self.day or self.texts or self.clock

    @property
    def distinctive(self) -> bool:
        """Whether the value is unlikely to stand in a text by chance."""
        if self.number is not None:
            digits = str(abs(self.number).normalize()).replace(".", "").strip("0E+")
            whole = len(str(abs(int(self.number))))
            return whole >= 4 or (len(digits) >= 3 and self.number != int(self.number))
        if self.texts:
            letters = [char for char in self.texts[0] if char.isalnum()]
            return len(letters) >= (4 if any(char.isdigit() for char in letters) else 6)
        return self.day is not None

    @property
    def is_text(self) -> bool:
        """Whether it is neither a number nor a date."""
        return bool(self.texts) and self.number is None and self.day is None

    @property
    def plural(self) -> frozenset[str]:
        """Stems of what it counts, by its own name: `page` of `pages` or `page_count`."""
        name = _STEP.findall(self.path)[-1] if self.path else ""
        words = _WORDS.findall(normal(_CAMEL.sub(" ", name)))
        counts = "count" in words or words[:1] in (["num"], ["number"])
        return frozenset(
            stem(word) for word in words if counts or (word.endswith("s") and stem(word) != word)
        )

    def is_within(self, path: str) -> bool:
        """Whether it is the field, or in the object or list, of a path."""
        return self.path == path or self.path.startswith((f"{path}.", f"{path}["))

    def called(self, *words: str) -> bool:
        """Whether one of the words is in the field's own names."""
        return any(word in label for label in self.labels for word in words)


def leaves(value: Any) -> list[Leaf]:
    """All values of an answer that hold something, in order; None and empty ones are left out."""
    return list(_walk(value, "", "", ()))


def _walk(value: Any, path: str, parent: str, labels: tuple[Label, ...]) -> Iterator[Leaf]:
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            names = [name, info.alias, info.title]
            yield from _child(getattr(value, name, None), name, names, path, labels)
        for name, item in (value.model_extra or {}).items():
            yield from _child(item, name, [name], path, labels)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for info in dataclasses.fields(value):
            yield from _child(getattr(value, info.name), info.name, [info.name], path, labels)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            name = str(key.value if isinstance(key, Enum) else key)
            yield from _child(item, name, [name], path, labels)
    elif isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, (str, bytes)):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            yield from _walk(item, f"{path}[{index}]", parent, labels)
    else:
        leaf = _leaf(value, path, parent, labels)
        if leaf is not None:
            yield leaf


def _child(
    value: Any, name: str, names: list[str | None], path: str, outer: tuple[Label, ...]
) -> Iterator[Leaf]:
    step = name if name.isidentifier() else f"[{name!r}]"
    inner = f"{path}.{step}" if path and step == name else f"{path}{step}"
    own = dict.fromkeys(label for label in map(_label, names) if label)
    # What holds the field names it too, where its own name is not written: `billing_address.city`.
    yield from _walk(value, inner, path, (*own, *outer[:1]))


def _leaf(value: Any, path: str, parent: str, labels: tuple[Label, ...]) -> Leaf | None:
    if isinstance(value, Enum):
        plain = _leaf(value.value, path, parent, labels)
        name = _spelled(value.name)
        if plain is None or plain.truth is not None or not plain.texts:
            return plain
        return dataclasses.replace(plain, texts=tuple(dict.fromkeys((*plain.texts, name))))
    if isinstance(value, bool):
        return Leaf(path, parent, labels, truth=value)
    if isinstance(value, (int, float, Decimal)):
        number = _number(value)
        return None if number is None else Leaf(path, parent, labels, number=number)
    if isinstance(value, datetime):
        clock = value.time().replace(tzinfo=None)
        return Leaf(path, parent, labels, day=value.date(), clock=clock or None)
    if isinstance(value, date):
        return Leaf(path, parent, labels, day=value)
    if isinstance(value, time):
        return Leaf(path, parent, labels, clock=value.replace(tzinfo=None))
    if value is None or isinstance(value, bytes):
        return None
    return _text(str(value), path, parent, labels)


def _number(value: float | Decimal) -> Decimal | None:
    try:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        return None
    if not number.is_finite():
        return None
    # 0.30000000000000004 was computed, and is written 0.3.
    return round(number, 9).normalize() if isinstance(value, float) else number


_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d(?:[ t][\d:.,z+-]+)?")
_PLAIN_NUMBER = re.compile(r"-?\d{1,15}(\.\d+)?|-?\d{1,3}(,\d{3})+(\.\d+)?")


def _text(value: str, path: str, parent: str, labels: tuple[Label, ...]) -> Leaf | None:
    plain = " ".join(normal(value).split()).strip("\"'")
    if not any(char.isalnum() for char in plain):
        return None
    spelled = _spelled(plain) if "_" in plain else plain
    day = number = None
    if _ISO_DAY.fullmatch(plain):
        with contextlib.suppress(ValueError):
            day = date.fromisoformat(plain[:10])
    elif _PLAIN_NUMBER.fullmatch(plain) and plain[0] != "0":
        number = Decimal(plain.replace(",", ""))
    short = value.strip() if len(plain) <= 3 and plain.isalpha() else None
    texts = tuple(dict.fromkeys((plain, spelled)))
    return Leaf(path, parent, labels, texts, number=number, day=day, exact_case=short)


def _spelled(name: str) -> str:
    return " ".join(normal(name).replace("_", " ").replace("-", " ").split())


_STEP = re.compile(r"[^.\[\]']+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORDS = re.compile(r"[^\W_]+")
_FILLER_WORDS = "the a an of in is has at by for to and or"
_FILLERS = frozenset(_FILLER_WORDS.split())
_SAME = {
    "no": "number", "nr": "number", "num": "number", "qty": "quantity", "amt": "amount",
    "tel": "phone", "telephone": "phone", "addr": "address", "pct": "percent", "ref": "reference",
    "percentage": "percent", "mail": "email", "desc": "description", "acct": "account",
    "identifier": "id", "zip": "postcode", "postal": "postcode", "fullname": "name",
}  # fmt: skip


def _label(name: str | None) -> Label:
    if not name:
        return ()
    words = (stem(word) for word in _WORDS.findall(normal(_CAMEL.sub(" ", name))))
    return tuple(word for word in words if word not in _FILLERS)


def stem(word: str) -> str:
    """A word without its plural and with its usual abbreviations spelled out."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        if word.endswith("ies"):
            word = f"{word[:-3]}y"
        else:
            word = word[:-2] if word.endswith(("xes", "ses", "shes", "ches")) else word[:-1]
    return _SAME.get(word, word)
