"""What a run would send and cost, found without sending anything or touching a result."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any

from batchata_prefect.answers import Usage
from batchata_prefect.engine.download import look_at_results
from batchata_prefect.engine.endings import take_in
from batchata_prefect.engine.pace import Pace
from batchata_prefect.engine.session import Session
from batchata_prefect.engine.start import read_ledger, refuse_other_records
from batchata_prefect.jobs import chunks
from batchata_prefect.jobs.faults import remarks
from batchata_prefect.jobs.spool import ANSWERED, FAILED, IN_FLIGHT, Family
from batchata_prefect.money import budget
from batchata_prefect.money.budget import input_ratio, output_a_job
from batchata_prefect.numbers import counted, plain_usd, told_usd
from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records
from batchata_prefect.results import archive
from batchata_prefect.views.printed import Rows, say

_LIKELY_OUTPUT = 0.25
"""Part of `max_tokens` that an answer is taken to have, where none of its model was seen."""

_LIKELY_SECONDS = 3600.0
"""How long a batch is taken to run: most end within an hour [Anthropic batch-processing]."""

_USD = ("cost_low_usd", "cost_likely_usd", "cost_upper_usd", "realtime_likely_usd")


def dry_run(run: Session) -> dict[str, Any]:
    """The plan of a run as plain values.

    Returns:
        `jobs`, `answered` (done already), `failed` (done, not sent again), `skipped` (rows that
        make no job, which are not among the failed here), `in_flight`, `to_send`,
        `spent_usd`, `reserved_usd`, `cost_limit_usd`, `batches` (one a planned provider batch),
        `by_model` (their sums), `cost_low_usd` (input only), `cost_likely_usd` (with the output
        that was seen of the model so far, or a quarter of `max_tokens`), `cost_upper_usd` (what is
        reserved), `realtime_likely_usd` (the likely cost at the standard rate), `api_calls` (if a
        batch takes an hour), `jobs_covered` (how many the cost limit lets go out at once, None
        without one), `archived` (answers in the results that would go into the archive),
        `warnings`. Costs in USD, None where a price is unknown.
    """
    _wait_for(lambda: _read_records(run))
    batches: list[dict[str, Any]] = []
    notes = list(remarks(run.spool))
    for family in run.spool.families():
        note = run.prices.note(family.provider, family.model)
        if note:
            notes.append(f"{family.model}: {note}")
        for attempts in range(run.settings.max_attempts):
            batches += _batches(run, family, attempts)
    running = min(len(batches), run.settings.max_parallel_batches)
    polls = _polls(run.pace, running)
    for batch in batches:
        batch["api_calls"] += polls
    total = _sums(batches)
    upper: Decimal | None = total["cost_upper_usd"]
    room = budget.room(run.ledger, run.settings.cost_limit_usd)
    covered = None if room is None else _covered(batches, room)
    if covered is not None and covered < total["jobs"]:
        notes.append(
            f"the upper bound of {told_usd(upper)} is more than the {told_usd(room)} that the cost "
            f"limit leaves: about {covered:,} of {counted(total['jobs'], 'job')} go out at "
            "once, the others as real costs, which are mostly lower, make room; what then does not "
            "fit is not sent"
        )
    if any(batch["output_seen"] is False for batch in batches):
        notes.append(
            "the likely cost takes a quarter of max_tokens for each answer, as none was seen yet; "
            "a canary measures it"
        )
    if archived := _archived(run):
        verb = "is" if archived == 1 else "are"
        notes.append(
            f"{counted(archived, 'answer')} {verb} of jobs that were changed or are not in the job "
            f"set any more: a run puts them into {archive.NAME}"
        )
    spent, held = budget.spent(run.ledger), budget.reserved(run.ledger)
    by_model: dict[str, list[dict[str, Any]]] = {}
    for batch in batches:
        by_model.setdefault(f"{batch['provider']} {batch['model']}", []).append(batch)
    return {
        "jobs": run.spool.count,
        "answered": run.spool.states.counts[ANSWERED],
        "failed": run.spool.states.counts[FAILED] - run.spool.refused,
        "skipped": run.spool.refused,
        "in_flight": sum(len(f) - f.count(-1) for f in _flying(run)),
        "to_send": total["jobs"],
        "spent_usd": plain_usd(spent),
        "reserved_usd": plain_usd(held),
        "cost_limit_usd": plain_usd(run.settings.cost_limit_usd),
        "batches": [{**batch, **_numbers(batch)} for batch in batches],
        "by_model": {name: {**(s := _sums(of)), **_numbers(s)} for name, of in by_model.items()},
        **_numbers(total),
        "api_calls": total["api_calls"],
        "jobs_covered": covered,
        "archived": archived,
        "warnings": notes,
    }


def _archived(run: Session) -> int:
    """Answers in the results whose jobs are not among today's."""
    if not any(-1 in ordinals for ordinals in run.members):
        return 0
    chunks_by_head = {
        entry.chunk.head: (entry.chunk, ordinals)
        for entry, ordinals in zip(run.ledger, run.members, strict=True)
    }

    def is_here(custom_id: str) -> bool:
        chunk, ordinals = chunks_by_head.get(custom_id[:16], (None, ()))
        place = None if chunk is None else chunk.ordinal(custom_id)
        # One of other records is set aside by a run, and not put into the archive.
        return place is None or ordinals[place] >= 0

    return archive.would_go(run.results_dir / "results.jsonl", is_here)


def _polls(pace: Pace, running: int) -> int:
    """Polls of one batch that takes an hour beside others."""
    age, polls = 0.0, 0
    while age < _LIKELY_SECONDS:
        age += pace.poll(age, running)
        polls += 1
    return polls


def _covered(batches: list[dict[str, Any]], room: Decimal) -> int:
    """Jobs whose upper bound fits into what a limit leaves; the last batch is cut."""
    covered = 0
    for batch in batches:
        upper: Decimal | None = batch["cost_upper_usd"]
        if upper is None:
            continue
        fits = 1.0 if upper <= room else float(max(room, Decimal(0)) / upper)
        covered += int(batch["jobs"] * fits)
        room -= upper
        if room <= 0:
            break
    return covered


def _sums(batches: list[dict[str, Any]]) -> dict[str, Any]:
    counts = ("jobs", "bytes", "input_tokens", "output_tokens_upper", "api_calls")
    return {
        "batches": len(batches),
        **{name: sum(batch[name] for batch in batches) for name in counts},
        **{name: budget.total(batch[name] for batch in batches) for name in _USD},
    }


async def _read_records(run: Session) -> None:
    run.records = records = Records(await storage_at(run.settings.state), run.settings.run_key)
    run.ledger.clear()
    run.members.clear()
    start = await records.start()
    await look_at_results(run)
    await asyncio.to_thread(refuse_other_records, run)
    if start is None or not run.settings.reuse_state:
        return
    await read_ledger(run)
    for entry, ordinals in zip(run.ledger, run.members, strict=True):
        run.spool.states.move(ordinals, IN_FLIGHT)
        if entry.ending is not None:
            name = entry.chunk.provider
            run.providers.setdefault(name, run.provider(name))
            await take_in(run, entry, ordinals, resumed=True)


def _flying(run: Session) -> list[Sequence[int]]:
    pairs = zip(run.ledger, run.members, strict=True)
    return [ordinals for entry, ordinals in pairs if entry.ending is None]


def _batches(run: Session, family: Family, attempts: int) -> list[dict[str, Any]]:
    provider = run.provider(family.provider)
    found: list[dict[str, Any]] = []
    while run.spool.states.waiting(family.id, attempts):
        cut = chunks.cut(
            run.spool.waiting(family, attempts),
            **chunks.limits(
                provider,
                family.endpoint,
                run.settings.items_per_batch,
                run.settings.tokens_per_batch,
            ),
            bound=lambda i, o: run.prices.bound(
                family.provider, family.model, i, o, terms=family.terms
            ),
            room=None,
        )
        run.spool.states.move(cut.ordinals, IN_FLIGHT)
        found.append(_planned(run, family, cut, provider.limits.calls))
    return found


def _planned(run: Session, family: Family, cut: chunks.Cut, calls: int) -> dict[str, Any]:
    """One batch of the plan."""
    name, model, prices = family.provider, family.model, run.prices
    ratio, seen = input_ratio(run.ledger, name, model), output_a_job(run.ledger, name, model)
    input_tokens = cut.likely_tokens if ratio is None else int(cut.input_tokens * ratio)
    output = cut.output_tokens * _LIKELY_OUTPUT if seen is None else seen * len(cut.ordinals)
    likely = Usage(input_tokens, min(int(output), cut.output_tokens))
    return {
        "provider": name,
        "endpoint": family.endpoint,
        "model": model,
        "jobs": len(cut.ordinals),
        "bytes": cut.size_bytes,
        "input_tokens": input_tokens,
        "output_tokens_likely": likely.output_tokens,
        "output_tokens_upper": cut.output_tokens,
        "output_seen": seen is not None,
        "cost_low_usd": prices.cost(name, model, Usage(input_tokens=input_tokens)),
        "cost_likely_usd": prices.cost(name, model, likely),
        "cost_upper_usd": cut.bound_usd,
        "realtime_likely_usd": prices.cost(name, model, likely, realtime=True),
        "api_calls": calls,
    }


def show(planned: dict[str, Any]) -> None:
    """Print a plan as a table."""
    say("Dry run: nothing was sent\n", stderr=True)
    numbers = "batches", "jobs", "MB", "input tokens", "low", "likely", "at most, USD"
    table = Rows("model", *numbers, right=numbers)
    for name, sums in planned["by_model"].items():
        table.add(
            name,
            f"{sums['batches']:,}",
            f"{sums['jobs']:,}",
            f"{sums['bytes'] / 1e6:,.2f}",
            f"{sums['input_tokens']:,}",
            *(_shown(sums[key]) for key in _USD[:3]),
        )
    if table:
        say(table, stderr=True)
        say(stderr=True)
    say(
        f"{counted(planned['jobs'], 'job')}: {planned['answered']:,} answered already, "
        f"{planned['failed']:,} failed for good, "
        + (f"{planned['skipped']:,} skipped, " if planned["skipped"] else "")
        + f"{planned['in_flight']:,} in flight, "
        f"{planned['to_send']:,} to send with about {planned['api_calls']:,} API calls",
        stderr=True,
    )
    if planned["cost_likely_usd"] is not None and planned["realtime_likely_usd"]:
        say(
            f"Likely {told_usd(planned['cost_likely_usd'])}; the same at realtime prices "
            f"{told_usd(planned['realtime_likely_usd'])}",
            stderr=True,
        )
    for warning in planned["warnings"]:
        say(f"Note: {warning}", stderr=True)


def _shown(amount: float | None) -> str:
    return told_usd(amount, "unknown").removeprefix("$")


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


def _numbers(amounts: dict[str, Any]) -> dict[str, float | None]:
    return {name: plain_usd(amounts[name]) for name in _USD}
