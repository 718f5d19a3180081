"""Reading what the sandbox billed, made and was asked, from another process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class BilledRow:
    """One request that the sandbox charged for.

    `batch_id` and `custom_id` are None for realtime calls. Input tokens include cached and
    cache-written ones, of the answer alone. `fees` is what it did beside tokens, and how often.
    `cost_usd` is of all that was charged, and None where genai-prices knows no price of the model.
    """

    provider: str
    batch_id: str | None
    custom_id: str | None
    body_digest: str
    endpoint: str
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    fees: dict[str, int]
    cost_usd: Decimal | None
    at: datetime


BILL_COLUMNS = [*[each.name for each in fields(BilledRow)][:-3], "extras", "at"]
"""Columns of a bill; `extras` is what `Counted.extras` gives."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch that the sandbox holds; `count` is its number of requests."""

    id: str
    provider: str
    endpoint: str
    model: str | None
    status: str
    count: int
    created_at: datetime
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file that the sandbox holds or held."""

    id: str
    provider: str
    purpose: str
    filename: str
    bytes: int
    created_at: datetime
    deleted: bool


class Ledger:
    """What the sandbox did so far.

    `refresh` is called before each reading, so that a running server first ends what is due;
    it is expected to do nothing where the server is down.
    """

    def __init__(self, data_dir: Path, refresh: Callable[[], None] | None = None) -> None:
        self._path = data_dir / "ledger.sqlite3"
        self._refresh = refresh

    def billed(self) -> Iterator[BilledRow]:
        """Every request that was charged, in the order of charging."""
        for row in self._rows(BILL_COLUMNS, "billed"):
            provider, batch_id, _, _, _, model, *tokens, extras, at = row
            cost = _cost(provider, model, batch_id is not None, extras, *tokens)
            fees: dict[str, int] = json.loads(extras)[0] if extras else {}
            yield BilledRow(*row[:-2], fees=fees, cost_usd=cost, at=_time(at))

    def cost_usd(self) -> Decimal:
        """The sum of all known costs, in USD."""
        return sum((row.cost_usd or Decimal(0) for row in self.billed()), Decimal(0))

    def batches(self) -> list[BatchRow]:
        """Every batch that was ever created, oldest first."""
        rows = self._rows([each.name for each in fields(BatchRow)], "batches")
        return [
            BatchRow(*row[:6], created_at=_time(row[6]), metadata=json.loads(row[7]))
            for row in rows
        ]

    def files(self) -> list[FileRow]:
        """Every file that was ever uploaded or produced, oldest first."""
        rows = self._rows([each.name for each in fields(FileRow)], "files")
        return [FileRow(*row[:5], created_at=_time(row[5]), deleted=bool(row[6])) for row in rows]

    def calls(self) -> dict[str, int]:
        """How often each operation was called, by `provider.operation`; absent means never.

        `provider.refused_key` counts those of them that brought a wrong key, or none.
        Calls of the last half second before a kill may be uncounted.
        """
        rows = self._rows(["provider", "operation", "count"], "calls", order="1, 2")
        return {f"{provider}.{operation}": count for provider, operation, count in rows}

    def _rows(
        self, columns: Sequence[str], table: str, order: str = "seq"
    ) -> list[tuple[Any, ...]]:
        if self._refresh is not None:
            self._refresh()
        if not self._path.exists():
            return []
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            query = f"select {', '.join(columns)} from {table} order by {order}"  # noqa: S608
            return connection.execute(query).fetchall()


def _time(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)


_FEES = {"web_searches": "web_searches", "file_searches": "storage_searches"}
"""What genai-prices calls a fee."""

_SMALL = ("gpt-4o-mini", "gpt-4.1-mini")
"""What a search of theirs finds is billed as 8,000 tokens of input."""

_LISTED_AS = {"azure": "openai", "gemini": "google"}

_REGIONS = {"us": Decimal("1.1")}
"""What `inference_geo` makes of the price of tokens; searches cost the same everywhere."""


@lru_cache(maxsize=65536)
def _cost(provider: str, model: str, batch: bool, extras: str, *tokens: int) -> Decimal | None:
    """The cost in USD; `tokens` are those of a `BilledRow`."""
    given, written, cache_read, cache_write_5m, cache_write_1h = tokens
    told: Any = json.loads(extras) if extras else ({}, (), None, None)
    fees: dict[str, int] = told[0]
    passes: list[tuple[str, str | None, int, int]] = told[1]
    tier: str | None = told[2]
    context = {"processing": "batch"} if batch else {}
    if tier is not None:
        context = {"service_tier": tier}
    counts = {
        "input_tokens": given,
        "output_tokens": written,
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write_5m + cache_write_1h,
        "cache_write_1h_tokens": cache_write_1h,
    }
    costs = [_price(provider, model, counts, context)]
    for _, named, passed_in, passed_out in passes:
        more = {"input_tokens": passed_in, "output_tokens": passed_out}
        costs.append(_price(provider, named or model, more, context))
    if provider == "openai" and model.startswith(_SMALL) and (uses := fees.get("web_searches")):
        costs.append(_price(provider, model, {"input_tokens": 8_000 * uses}, context))
    used = {_FEES[name]: uses for name, uses in fees.items()}
    beside = _price(provider, model, used, context)
    total = Decimal(0)
    for usd in costs:
        if usd is None or beside is None:
            return None
        total += usd
    return total * _REGIONS.get(told[3], Decimal(1)) + (beside or 0)


def _price(
    provider: str, model: str, counts: dict[str, int], context: dict[str, str]
) -> Decimal | None:
    # A sandbox that never prices anything should not pay for loading the price table.
    from genai_prices import Usage, calc_price

    # genai-prices warns of keys that a model has no price for, even where they are zero.
    usage = Usage(**{name: count for name, count in counts.items() if count})
    try:
        listed = _LISTED_AS.get(provider, provider)
        price = calc_price(usage, model, provider_id=listed, price_context=context or None)
    except LookupError:
        return None
    return price.total_price
