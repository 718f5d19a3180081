"""What reading a result row has in common for all providers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from batchata_prefect.errors import ParseError
from batchata_prefect.models import Reply, Usage

EMPTY: Mapping[str, Any] = {}

_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([\w-]{1,64})"', re.ASCII)


class UnreadableRowError(ParseError):
    """A row that names its request and says nothing else that can be read.

    Attributes:
        reply: What is known of it: it may have been paid for, and must not be sent again.
    """

    def __init__(self, custom_id: str, row: bytes) -> None:
        super().__init__(f"the row of {custom_id} is no JSON", "bad_row")
        self.reply = unreadable(custom_id, f"{row[:60]!r}")


def parse(row: bytes) -> tuple[str, dict[str, Any]]:
    """The custom_id of a row, and the row.

    Raises:
        UnreadableRowError: The row is not JSON, and names its request.
        ParseError: The row is not a JSON object, or carries no custom_id.
    """
    try:
        data: Any = _load(row)
        custom_id = data["custom_id"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        named = _CUSTOM_ID.search(row)
        if named is not None and row.rstrip().endswith(b"}"):
            raise UnreadableRowError(named[1].decode(), row) from error
        raise ParseError(
            f"a result row is cut off or no result: {row[:60]!r}", "bad_row"
        ) from error
    if not isinstance(custom_id, str):
        raise ParseError(f"a result row has custom_id {custom_id!r}", "bad_row")
    return custom_id, data


def _load(row: bytes) -> Any:
    """The JSON of a row, also where it holds what JSON forbids: a bad byte, a bare NUL."""
    try:
        return orjson.loads(row)
    except orjson.JSONDecodeError:
        return _writable(json.loads(row.decode("utf-8", "replace"), strict=False))


def _writable(value: Any) -> Any:
    """The value with every half of a surrogate pair replaced: no file can hold one."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {_writable(key): _writable(item) for key, item in items}
    if isinstance(value, list):
        return [_writable(item) for item in cast("list[Any]", value)]
    return value


def object_at(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at a key; an empty one where there is none."""
    value = data.get(key)
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else EMPTY


def list_at(data: Mapping[str, Any], key: str) -> list[Any]:
    """The list at a key; an empty one where there is none."""
    value = data.get(key)
    return cast("list[Any]", value) if isinstance(value, list) else []


def count_at(data: Mapping[str, Any], key: str) -> int:
    """The count at a key; 0 where there is none."""
    value = data.get(key)
    return value if isinstance(value, int) else 0


def text_at(data: Mapping[str, Any], key: str) -> str | None:
    """The text at a key; None where there is none."""
    value = data.get(key)
    return value if isinstance(value, str) else None


def unreadable(custom_id: str, what: str, usage: Usage | None = None) -> Reply:
    """An answer that was paid for and whose form we do not know; the raw row keeps it."""
    return Reply(
        custom_id,
        "succeeded",
        usage=usage,
        error_code="unreadable_reply",
        error=f"the provider answered in a form that cannot be read: {what}",
    )
