"""What reading a result row has in common for all providers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar, cast

import msgspec
import orjson

from batchata_prefect.answers import Reply, Usage
from batchata_prefect.content.bounds import bounds
from batchata_prefect.content.exact_json import loads_exact
from batchata_prefect.errors import ParseError

T = TypeVar("T")

EMPTY: Mapping[str, Any] = {}

UNREADABLE = "unreadable_reply"
"""Error code of a reply that was paid for and cannot be read; its raw row is kept."""

MOST_TOKENS = 1_000_000_000
"""What no answer takes: a larger count is a server's mistake, and what it cost is not known."""

_CUSTOM_ID = re.compile(
    rb'"custom_id"\s*:\s*"([\w-]{1,64})"|"key"\s*:\s*"([0-9a-f]{16}-\d{1,12})"', re.ASCII
)


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
"""A count of tokens in a row that is read the fast way."""


def decoded(decoder: msgspec.json.Decoder[T], row: bytes) -> T | None:
    """A row of the form that a decoder knows; None for any other, or what JSON forbids."""
    try:
        return decoder.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class UnreadableRowError(ParseError):
    """A row that names its request, and of which nothing else is read.

    Attributes:
        reply: What is known of it: it may have been paid for, and must not be sent again.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the row of {reply.custom_id} cannot be read", "bad_row")
        self.reply = reply


def parse(
    row: bytes, *, is_exact: bool = True, name: str = "custom_id"
) -> tuple[str, dict[str, Any]]:
    """The custom_id of a row, and the row.

    Args:
        row: The row.
        name: The field that holds the custom_id.
        is_exact: Whether fractions that a float does not hold come as `Decimal`. Costly for
            vectors.
    """
    if (why := too_many_values(row)) is not None:
        raise _unread(row, ParseError(f"a result row has {why}", "bad_row"))
    try:
        data: Any = loads_exact(row) if is_exact else _floats(row)
        custom_id = data[name]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        told = ParseError(f"a result row is cut off or no result: {row[:60]!r}", "bad_row")
        raise _unread(row, told) from error
    if not isinstance(custom_id, str):
        raise ParseError(f"a result row has {name} {str(custom_id)[:60]!r}", "bad_row")
    return custom_id, data


def _floats(row: bytes) -> Any:
    try:
        return orjson.loads(row)
    except orjson.JSONDecodeError:
        return loads_exact(row)


def _unread(row: bytes, told: ParseError) -> ParseError:
    reply = rescued(row, told)
    return told if reply is None else UnreadableRowError(reply)


def too_many_values(data: bytes) -> str | None:
    """What is too many, where parsing some JSON would hold up the lease's renewals for long."""
    most = bounds().row_values
    # Each value of a list or an object has a mark of one byte before it; texts hold such as well.
    if len(data) <= most or sum(map(data.count, (b",", b"[", b"{"))) <= most:
        return None
    return f"more than {most:,} values; raise BATCHATA_MOST_ROW_VALUES and run again to read it"


def rescued(row: bytes, error: Exception) -> Reply | None:
    """What is known of a row that its reader choked on; None where it names no request.

    It may have been paid for, and must not be sent again.

    Args:
        row: The row.
        error: What its reader raised.
    """
    if isinstance(error, UnreadableRowError):
        return error.reply
    named = _CUSTOM_ID.search(row)
    if named is None or not row.rstrip().endswith(b"}"):
        return None
    what = str(error) if isinstance(error, ParseError) else f"{type(error).__name__}: {error}"
    return unreadable((named[1] or named[2]).decode(), what[:300])


def opened(value: Any) -> Any:
    """The value, or what stands in it where it is JSON in a text, as OGX writes bodies."""
    for _ in range(2):
        if not isinstance(value, str) or not value.lstrip().startswith(("{", "[", '"')):
            break
        try:
            value = loads_exact(value.encode())
        except ValueError:
            break
    return value


def opened_object(value: Any) -> Mapping[str, Any]:
    """The object that a value is or holds as JSON; an empty one where there is none."""
    value = opened(value)
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else EMPTY


def object_at(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at a key; an empty one where there is none."""
    value = data.get(key)
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else EMPTY


def list_at(data: Mapping[str, Any], key: str) -> list[Any]:
    """The list at a key; an empty one where there is none."""
    value = data.get(key)
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else []


def objects_at(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects in the list at a key; what else is in it is left out."""
    return [
        cast("Mapping[str, Any]", item) for item in list_at(data, key) if isinstance(item, dict)
    ]


def whole_number(value: Any) -> int | None:
    """A number that may be written as a text or with a point; None where it is none."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def limit_at(params: Mapping[str, Any], key: str) -> int | None:
    """The limit that a request sets at a key; None where it sets none that a provider keeps."""
    value = params.get(key)
    return value if type(value) is int and value >= 0 else None


def count_at(data: Mapping[str, Any], key: str) -> int:
    """The count at a key; 0 where there is none."""
    return max(whole_number(data.get(key)) or 0, 0)


def tokens_at(data: Mapping[str, Any], key: str) -> int:
    """The number of tokens at a key; 0 where there is none."""
    value = data.get(key)
    if value is None:
        return 0
    number = whole_number(value) if isinstance(value, str) else value
    if isinstance(number, (int, float)) and 0 <= number <= MOST_TOKENS:
        return int(number)
    raise ValueError(f"{key} is {str(value)[:40]}")


def text_at(data: Mapping[str, Any], key: str) -> str | None:
    """The text at a key; None where there is none."""
    value = data.get(key)
    return value if isinstance(value, str) else None


def id_at(data: Mapping[str, Any], key: str) -> str | None:
    """The id at a key, which some servers write as a number; None where there is none."""
    value = data.get(key)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else text_at(data, key) or None


def unreadable(custom_id: str, what: str, usage: Usage | None = None) -> Reply:
    """An answer that was paid for and whose form we do not know; the raw row keeps it."""
    return Reply(
        custom_id,
        "succeeded",
        usage=usage,
        error_code=UNREADABLE,
        error=f"the provider answered in a form that cannot be read: {what}",
    )
