"""JSON whose numbers keep all their digits, on the way in and on the way out.

Account numbers have more than 64 bits, and amounts more digits than a float. orjson makes a float
of such a whole number without a word, and refuses to write one; every parser does it to fractions.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, cast

import msgspec
import orjson

_DIGITS = bytes.maketrans(b"123456789.E", b"0000000000e")
"""All digits alike, so that two searches for bytes tell what a pattern takes ten times as long."""

_WHOLE = bytes.maketrans(b"123456789", b"000000000")

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""One half of a pair of surrogates, or both."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


def loads(text: str) -> Any:
    """The value of a JSON text, as Python has it: fractions are floats.

    Raises:
        ValueError: It is no JSON, or holds a whole number of more than 4,300 digits.
        RecursionError: It is nested too deeply.
    """
    # 18 digits always fit into 64 bits.
    if b"0" * 19 not in text.encode("utf-8", "surrogatepass").translate(_WHOLE):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass  # orjson refuses 1e999, which a class may take as infinite
    return json.loads(text)


def loads_exact(text: str | bytes, *, as_written: bool = False) -> Any:
    """The same, with each fraction that a float does not hold as `Decimal`.

    Leniently, as rows of providers ask for it: bad bytes, bare control characters and halves of
    surrogate pairs are replaced or taken, because no file can hold them.

    Args:
        text: The JSON text.
        as_written: Whether every fraction comes as `Decimal`, with the zeros at its end.

    Raises:
        ValueError: It is no JSON, or holds a whole number of more than 4,300 digits.
        RecursionError: It is nested too deeply.
    """
    if not as_written and not _may_lose(text):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
    plain = text if isinstance(text, str) else text.decode("utf-8", "replace")
    read = _as_written if as_written else fraction
    return writable(json.loads(plain, parse_float=read, strict=False))


def _may_lose(text: str | bytes) -> bool:
    """Whether a JSON text may hold a number that a float does not; 1e400 is no JSON to orjson."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    alike = data.translate(_DIGITS)
    # 15 digits and a point always fit, and so does what is not nearly nothing.
    return b"0" * 17 in alike or b"0e-000" in alike


def _as_written(token: str) -> Decimal:
    try:
        return Decimal(token)
    except ArithmeticError as error:
        raise ValueError(f"{token[:40]} is no number that can be held") from error


def fraction(token: str) -> float | Decimal:
    """A number as a float where it holds all digits, else as `Decimal`."""
    if len(token) < 17 and "e" not in token and "E" not in token:
        return float(token)
    value, exact = float(token), _as_written(token)
    # What is infinite as a float is not equal to itself less itself.
    return value if value - value == 0 and Decimal(repr(value)) == exact else exact


def dumps(value: Any) -> str:
    """JSON of a value of `loads` or `loads_exact`, each number with all its digits.

    Raises:
        TypeError: It holds what JSON has not.
        ValueError: It holds half of a pair of surrogates.
        RecursionError: It is nested too deeply.
    """
    return _encode(value).decode()


def pretty(value: Any) -> bytes:
    """The same, indented for a person."""
    return msgspec.json.format(_encode(value), indent=2) + b"\n"


def compact(text: str) -> str:
    """A JSON text without the space between its tokens, which stay as they are.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return msgspec.json.format(text, indent=-1)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def has_halves(text: str) -> bool:
    """Whether a JSON text may hold half of a pair of surrogates."""
    return _HALF.search(text) is not None


def writable(value: Any) -> Any:
    """The value with every half of a surrogate pair replaced: no file can hold one."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {writable(key): writable(item) for key, item in items}
    if isinstance(value, list):
        return [writable(item) for item in cast("list[Any]", value)]
    return value
