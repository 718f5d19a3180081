"""Lists of an account: its batches, page by page, back to a time, and files by their names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast

from batchata_prefect.providers import wire
from batchata_prefect.providers.rows import objects_at

Item: TypeAlias = Mapping[str, Any]

PAGE = 100
"""Batches in a page of a list; the most that OpenAI takes [openai/resources/batches.py]."""

CLOCK_MARGIN = timedelta(minutes=15)
"""How far the time of a create, as it was written down, may be after the provider's own."""


async def pages(client: Any, path: str, cursor: str) -> AsyncGenerator[list[Item]]:
    """Batches of the account, newest first, a page for each call."""
    params: dict[str, Any] = {"limit": PAGE}
    seen: set[Any] = {None}
    while True:
        page = await wire.get(client, path, "data", params)
        items = [item for item in objects_at(page, "data") if item.get("id") not in seen]
        yield items
        last = page.get("last_id") or (items[-1].get("id") if items else None)
        # Who does not say whether there are more may have a page of his own, or give one twice.
        if not items or last in {None, params.get(cursor)} or page.get("has_more") is False:
            return
        seen.update(item.get("id") for item in items)
        params = {"limit": PAGE, cursor: last}


async def since_time(
    client: Any,
    found: AsyncGenerator[list[Item]],
    made_at: Callable[[Item], datetime | None],
    since: datetime,
    *,
    is_sorted: bool = True,
) -> list[Item]:
    """Batches of the account that may have been created since a time.

    Args:
        client: The SDK client.
        found: The pages of the list.
        made_at: When a batch was made; None where it does not say.
        since: The time, by the provider's clock or by ours.
        is_sorted: Whether a page whose newest come first tells that all of the list is so.
    """
    kept: list[Item] = []
    async for items in found:
        oldest = _oldest(client, since)
        moments = [made_at(item) for item in items]
        kept += [
            item for item, made in zip(items, moments, strict=True) if made is None or made > oldest
        ]
        times = [made for made in moments if made is not None]
        # A list whose oldest come first, or whose order nobody tells, is read to its end.
        is_told = is_sorted and len(times) == len(moments) and times == sorted(times, reverse=True)
        if times and is_told and times[-1] <= oldest:
            break
    return kept


def _oldest(client: Any, since: datetime) -> datetime:
    """When, by the provider's clock, a batch was made at the earliest that was made since a time.

    Args:
        client: The SDK client, with which something was just called.
        since: The time, by the provider's clock or by ours.
    """
    ahead = datetime.now(UTC) - (wire.now(client) or datetime.now(UTC))
    # Whose clock it was is not known: an earlier start may have had another one.
    return min(since, since - ahead) - CLOCK_MARGIN


def named(items: Any, key: str, prefix: str) -> dict[str, str]:
    """Name -> id of those items of a list whose name begins with `prefix`."""
    return {
        str(item[key]): str(item["id"])
        for item in cast("list[dict[str, Any]]", items or [])
        if str(item.get(key) or "").startswith(prefix)
    }
