"""The figures of a report: sums of the manifest, and what a sample of the results adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batchata_prefect.answers import Usage
from batchata_prefect.providers import price_book
from batchata_prefect.results.result_file import ResultFile, row_of

ROWS_READ = 5_000
"""Rows of a result file that are looked at; more would change no plot."""


class BatchTime(NamedTuple):
    """One provider batch in time.

    Attributes:
        name: Its name.
        status: How it ended.
        sent_seconds: Seconds from the start of the run until it was sent.
        seconds: Seconds from then to its end.
    """

    name: str
    status: str
    sent_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the plots and sums of a report are made of, beside the manifest.

    Attributes:
        batches: Provider batches that have ended, in the order in which they were sent.
        input_tokens: Input tokens of the answered jobs that were looked at.
        output_tokens: Their output tokens.
        is_sample: Whether only a part of the rows was looked at.
        realtime: Name of a model -> what its tokens would have cost through the realtime API, in
            USD; None where that price is unknown.
        realtime_usd: The same of all models.
        saved_usd: What the batch price saved in USD against that; None where unknown.
    """

    batches: tuple[BatchTime, ...]
    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    is_sample: bool
    realtime: Mapping[str, float | None]
    realtime_usd: float | None
    saved_usd: float | None


def figures(manifest: Mapping[str, Any], results: Path) -> Figures:
    """The figures of a finished run.

    Reads at most 5,000 rows, evenly spread over the file. The realtime price is reckoned row by
    row, because long requests can have another rate, against what the row's last attempt cost;
    that ratio holds for the cost of the manifest, in which every attempt is.

    Args:
        manifest: The run's manifest.
        results: Its `results.jsonl`; where there is none the figures are those of the manifest.
    """
    # What prices hold at the address of an account is not known here.
    prices = price_book(unlisted=manifest.get("accounts", ()))
    inputs: list[int] = []
    outputs: list[int] = []
    seen: dict[str, tuple[Decimal, Decimal | None]] = {}
    rows = 0
    for row in _sample(results):
        rows += 1
        if row["status"] == "completed":
            inputs.append(row["input_tokens"])
            outputs.append(row["output_tokens"])
        name = f"{row['provider']} {row['model']}"
        paid = _last_cost(row)
        if paid:
            cost, realtime = seen.get(name, (Decimal(0), Decimal(0)))
            more = prices.cost(row["provider"], row["model"], _usage(row), realtime=True)
            total = None if realtime is None or more is None else realtime + more
            seen[name] = (cost + paid, total)
    models: Mapping[str, Mapping[str, Any]] = manifest["by_model"]
    realtime_of = {name: _realtime(models[name]["cost_usd"], seen.get(name)) for name in models}
    every, costs = [*realtime_of.values()], [sums["cost_usd"] for sums in models.values()]
    realtime_usd = None if None in every else sum(filter(None, every))
    cost_usd: float | None = None if None in costs else sum(costs)
    return Figures(
        batches=tuple(_batches(manifest)),
        input_tokens=tuple(inputs),
        output_tokens=tuple(outputs),
        is_sample=rows < manifest["counts"]["total"],
        realtime=realtime_of,
        realtime_usd=realtime_usd,
        saved_usd=None if realtime_usd is None or cost_usd is None else realtime_usd - cost_usd,
    )


def _sample(results: Path) -> Iterator[dict[str, Any]]:
    """All rows of a small file, else as many as are wanted from places evenly apart."""
    if not results.exists():
        return
    with results.open("rb") as file:
        size = results.stat().st_size
        head = file.read(1 << 18)
        lines = head.count(b"\n") or 1
        if size * lines / len(head or b" ") <= ROWS_READ:
            yield from ResultFile(results)
            return
        for place in range(ROWS_READ):
            file.seek(size * place // ROWS_READ)
            file.readline()
            if line := file.readline():
                yield row_of(line)


def _usage(row: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cache_read_tokens=row["cache_read_tokens"],
        cache_write_tokens=row["cache_write_tokens"],
        fees=tuple(orjson.loads(row.get("fees_json") or "{}").items()),
    )


def _last_cost(row: Mapping[str, Any]) -> Decimal | None:
    """What the attempt cost that the row's token counts are of."""
    attempts: list[dict[str, Any]] = orjson.loads(row["attempts_json"])
    cost = attempts[-1]["cost_usd"] if attempts else None
    return None if cost is None else Decimal(str(cost))


def _realtime(cost: float | None, seen: tuple[Decimal, Decimal | None] | None) -> float | None:
    """What a model's cost would have been, by the cost and realtime price of what was seen."""
    if cost == 0:
        return 0.0
    if cost is None or seen is None or seen[1] is None:
        return None
    return cost * float(seen[1] / seen[0])


def _batches(manifest: Mapping[str, Any]) -> Iterator[BatchTime]:
    start = datetime.fromisoformat(manifest["started_at"])
    for batch in manifest["batches"]:
        if batch["ended_at"] is None or batch["batch_id"] is None:
            continue
        sent = datetime.fromisoformat(batch["sent_at"])
        ended = datetime.fromisoformat(batch["ended_at"])
        yield BatchTime(
            batch["name"],
            batch["status"],
            max(0.0, (sent - start).total_seconds()),
            # A provider's clock that is behind ours must not make it negative.
            max(0.0, (ended - sent).total_seconds()),
        )
