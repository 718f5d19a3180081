"""What a run would send and cost, found without sending anything or touching a result."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from array import array
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from batchata_prefect import budget, plan
from batchata_prefect.endings import take_in
from batchata_prefect.models import Usage
from batchata_prefect.providers import provider_for
from batchata_prefect.records import Records, storage_at
from batchata_prefect.session import Session
from batchata_prefect.spool import ANSWERED, FAILED, Family


def dry_run(run: Session) -> dict[str, Any]:
    """The plan of a run as plain values.

    Returns:
        `jobs`, `answered` (done already), `failed` (done, not sent again), `in_flight`, `to_send`,
        `spent_usd`, `reserved_usd`, `cost_limit_usd`, `batches` (one a planned provider batch),
        `cost_low_usd` (input only, as estimated), `cost_upper_usd` (what would be reserved),
        `warnings`. Costs in USD, None where a price is unknown.
    """
    _wait_for(lambda: _recover(run))
    batches: list[dict[str, Any]] = []
    notes: list[str] = []
    for family in run.spool.families():
        note = run.prices.note(family.provider, family.model)
        if note:
            notes.append(f"{family.model}: {note}")
        for attempts in range(run.settings.max_attempts):
            batches += _batches(run, family, attempts)
    upper = _sum([batch["cost_upper_usd"] for batch in batches])
    room = budget.room(run.ledger, run.settings.cost_limit_usd)
    if room is not None and upper is not None and upper > room:
        notes.append(
            f"the upper bound of ${upper:.4f} is more than the ${room:.4f} that the cost limit "
            "leaves: not all may be sent at once, and perhaps not all"
        )
    spent, held = budget.spent(run.ledger), budget.reserved(run.ledger)
    return {
        "jobs": run.spool.count,
        "answered": run.spool.states[ANSWERED],
        "failed": run.spool.states[FAILED],
        "in_flight": sum(len(f) - f.count(-1) for f in _flying(run)),
        "to_send": sum(batch["jobs"] for batch in batches),
        "spent_usd": _number(spent),
        "reserved_usd": _number(held),
        "cost_limit_usd": _number(run.settings.cost_limit_usd),
        "batches": [{**batch, **_numbers(batch)} for batch in batches],
        "cost_low_usd": _number(_sum([batch["cost_low_usd"] for batch in batches])),
        "cost_upper_usd": _number(upper),
        "warnings": notes,
    }


async def _recover(run: Session) -> None:
    records = Records(await storage_at(run.settings.state), run.settings.run_key)
    run.ledger.clear()
    run.members.clear()
    if await records.start() is None or not run.settings.reuse_state:
        return
    async for entry, members in records.ledger():
        ordinals = run.spool.locate(members)
        run.ledger.append(entry)
        run.members.append(ordinals)
        run.spool.assign(ordinals)
        if entry.ending is not None:
            name = entry.chunk.provider
            run.providers.setdefault(name, provider_for(entry.chunk.model, name))
            await take_in(run, entry, ordinals, resumed=True)


def _flying(run: Session) -> list[array[int]]:
    pairs = zip(run.ledger, run.members, strict=True)
    return [ordinals for entry, ordinals in pairs if entry.ending is None]


def _batches(run: Session, family: Family, attempts: int) -> list[dict[str, Any]]:
    provider = provider_for(family.model, family.provider)
    found: list[dict[str, Any]] = []
    while run.spool.is_waiting(family, attempts):
        cut = plan.cut(
            run.spool.waiting(family, attempts),
            **plan.limits(
                provider,
                family.endpoint,
                run.settings.items_per_batch,
                run.settings.tokens_per_batch,
            ),
            bound=lambda i, o: run.prices.bound(family.provider, family.model, i, o),
            room=None,
        )
        run.spool.assign(cut.ordinals)
        likely = cut.likely_tokens
        found.append(
            {
                "provider": family.provider,
                "endpoint": family.endpoint,
                "model": family.model,
                "jobs": len(cut.ordinals),
                "bytes": cut.size_bytes,
                "input_tokens": likely,
                "output_tokens_upper": cut.output_tokens,
                "cost_low_usd": run.prices.cost(
                    family.provider, family.model, Usage(input_tokens=likely)
                ),
                "cost_upper_usd": cut.bound_usd,
            }
        )
    return found


def show(planned: dict[str, Any]) -> None:
    """Print a plan as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("model", "batches", "jobs", "MB", "input tokens", "cost, USD"):
        table.add_column(column, justify="left" if column == "model" else "right")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for batch in planned["batches"]:
        groups.setdefault((batch["provider"], batch["model"]), []).append(batch)
    for (provider, model), batches in groups.items():
        table.add_row(
            f"{provider} {model}",
            f"{len(batches):,}",
            f"{sum(batch['jobs'] for batch in batches):,}",
            f"{sum(batch['bytes'] for batch in batches) / 10**6:,.1f}",
            f"{sum(batch['input_tokens'] for batch in batches):,}",
            _range(batches),
        )
    console = Console(stderr=True)
    console.print("Dry run: nothing was sent\n")
    console.print(table)
    console.print()
    console.print(
        f"{planned['jobs']:,} jobs: {planned['answered']:,} answered already, "
        f"{planned['in_flight']:,} in flight, {planned['to_send']:,} to send"
    )
    for warning in planned["warnings"]:
        console.print(f"Note: {warning}", markup=False)


def _range(batches: list[dict[str, Any]]) -> str:
    lows = [batch["cost_low_usd"] for batch in batches]
    uppers = [batch["cost_upper_usd"] for batch in batches]
    if None in lows or None in uppers:
        return "unknown"
    return f"{sum(lows):.4f} to {sum(uppers):.4f}"


def _wait_for(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run async work to its end, also where an event loop is running already."""
    raised: list[BaseException] = []
    context = contextvars.copy_context()

    def body() -> None:
        try:
            context.run(asyncio.run, work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body, name="batchata-dry-run")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _sum(amounts: list[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _numbers(batch: dict[str, Any]) -> dict[str, float | None]:
    return {name: _number(batch[name]) for name in ("cost_low_usd", "cost_upper_usd")}


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
