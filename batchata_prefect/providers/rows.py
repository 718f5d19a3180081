"""What reading a result row has in common for all providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from batchata_prefect.errors import ParseError
from batchata_prefect.models import Reply, Usage

EMPTY: Mapping[str, Any] = {}


def parse(row: bytes) -> tuple[str, dict[str, Any]]:
    """The custom_id of a row, and the row.

    Raises:
        ParseError: The row is not a JSON object, or carries no custom_id.
    """
    try:
        data: Any = orjson.loads(row)
        custom_id = data["custom_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ParseError(
            f"a result row is cut off or no result: {row[:60]!r}", "bad_row"
        ) from error
    if not isinstance(custom_id, str):
        raise ParseError(f"a result row has custom_id {custom_id!r}", "bad_row")
    return custom_id, data


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
