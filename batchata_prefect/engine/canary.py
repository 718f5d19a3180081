"""The canary: a sample of the jobs is answered first, and the others follow only if it went well.

Its jobs are jobs of the run like the others, sent once. What it came to is written among the
records, so that a run that was killed does not send another one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from math import ceil
from typing import Any

from prefect import get_run_logger
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import Field

from batchata_prefect.engine.session import Session
from batchata_prefect.engine.submit import Purchases
from batchata_prefect.errors import StateError, one_line
from batchata_prefect.jobs.spool import ANSWERED, FAILED, WAITING
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import Sample
from batchata_prefect.numbers import told_usd
from batchata_prefect.views.artifacts import publish
from batchata_prefect.views.escapes import markdown

_LONGEST_PAUSE_SECONDS = 7 * 24 * 3600
_LOOK_SECONDS = 2


class Approval(RunInput):
    """What a person says of a canary, as a form in the Prefect UI."""

    go_on: bool = Field(
        default=True, title="Send the other jobs", description="Off: they end as not sent."
    )


async def canary_holds(run: Session, purchases: Purchases) -> bool:
    """Answer the canary's jobs first, where there is one; whether the others may follow.

    Raises:
        StateError: A record cannot be read or written.
    """
    if run.settings.canary is None:
        return True
    sample = await run.records.sample()
    if sample is None or sample.job_set != run.spool.digest:
        canary, waiting = run.settings.canary, run.spool.states.counts[WAITING]
        share = canary if canary < 1 else canary / max(waiting, 1)
        ordinals = await asyncio.to_thread(run.spool.states.sample, lambda size: ceil(size * share))
        sample = Sample(run.spool.digest, len(run.ledger), tuple(ordinals))
        if not ordinals:
            return True
        await run.records.write_sample(sample)
    if sample.passed:
        return True
    await asyncio.to_thread(run.spool.states.hold_back, sample.ordinals)
    get_run_logger().info(
        "canary: %s jobs first, of %s", f"{len(sample.ordinals):,}", f"{run.spool.count:,}"
    )
    await purchases.make()
    if run.is_ending or run.suspending:
        return False
    run.canary = verdict(run, sample)
    get_run_logger().info("%s", run.canary["told"])
    if run.settings.approve:
        await _ask(run)
        if run.is_ending:
            return False
    if not run.canary["passed"]:
        get_run_logger().warning("the other jobs are not sent")
        return False
    await run.records.write_sample(replace(sample, passed=True))
    await asyncio.to_thread(run.spool.states.let_go)
    return True


def verdict(run: Session, sample: Sample) -> dict[str, Any]:
    """What a canary came to, against what was asked of it.

    Returns:
        `jobs`, `valid`, `valid_share`, `cost_usd`, `projected_usd` (the whole run, as far as the
        sample tells), `passed`, `approved` (None where nobody is asked) and `told`. Costs in USD,
        None where unknown.
    """
    settings, jobs = run.settings, len(sample.ordinals)
    states = Counter(run.spool.states.state(ordinal) for ordinal in sample.ordinals)
    valid, decided = states[ANSWERED], states[ANSWERED] + states[FAILED]
    share = valid / jobs
    cost, projected = _projection(run, sample)
    limit = settings.cost_limit_usd
    faults: list[str] = []
    if decided < jobs:
        faults.append(f"{jobs - decided:,} of its jobs could not be sent")
    if share < settings.min_valid:
        faults.append(f"at least {settings.min_valid:.1%} valid answers are asked for")
    if limit is not None and (projected is None or projected > limit):
        faults.append(f"the cost limit is ${limit}")
    told = (
        f"canary: {valid:,} of {jobs:,} answers are valid ({share:.1%}), {told_usd(cost)} in all; "
        f"the whole run is projected to cost {told_usd(projected)}"
    )
    if faults:
        told += f"; but {', and '.join(faults)}"
    return {
        "jobs": jobs,
        "valid": valid,
        "valid_share": share,
        "cost_usd": None if cost is None else float(cost),
        "projected_usd": None if projected is None else float(projected),
        "passed": not faults,
        "approved": None,
        "told": told,
    }


def _projection(run: Session, sample: Sample) -> tuple[Decimal | None, Decimal | None]:
    """Cost of the canary, and of the whole run if the other jobs cost as its jobs of their model.

    Reasks and repeats are in it, as they are in the canary.
    """
    costs: dict[tuple[str, str, str], Decimal | None] = {}
    for entry in run.ledger[sample.first :]:
        chunk = entry.chunk
        key = (chunk.provider, chunk.endpoint, chunk.model)
        cost = entry.ending.cost_usd if entry.ending else None
        so_far = costs.get(key, Decimal(0))
        costs[key] = None if cost is None or so_far is None else so_far + cost
    numbers = Counter(run.spool.states.family_id(ordinal) for ordinal in sample.ordinals)
    total = budget.taken(run.ledger)
    for family in run.spool.families():
        held = run.spool.states.held(family.id)
        if not held or total is None:
            continue
        cost = costs.get((family.provider, family.endpoint, family.model))
        number = numbers[family.id]
        total = None if cost is None or not number else total + cost / number * held
    known = [cost for cost in costs.values() if cost is not None]
    return (sum(known, Decimal(0)) if len(known) == len(costs) else None), total


async def _ask(run: Session) -> None:
    """Pause the flow run until a person says in the Prefect UI whether the others may follow."""
    assert run.canary is not None
    told: str = run.canary["told"]
    said = markdown(told)
    await publish("batchata-canary", f"# {said}", said, run.flow_run_id)
    left = run.seconds_left
    seconds = _LONGEST_PAUSE_SECONDS if left is None else max(1, ceil(left))
    run.waiting_for = "a person to let the other jobs follow, in the Prefect UI"
    form = Approval.with_initial_data(
        description=f"{said}\n\nShall the other jobs be sent?",
        go_on=bool(run.canary["passed"]),
    )
    asked = asyncio.create_task(
        # Prefect's own end of a pause would fail the flow run and lose the report.
        apause_flow_run(form, timeout=seconds + 3600, poll_interval=_LOOK_SECONDS)
    )
    try:
        while not asked.done() and not run.is_ending:
            pause = asyncio.create_task(run.pause(60.0))
            await asyncio.wait({asked, pause}, return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()
            with suppress(asyncio.CancelledError):
                await pause
        if not asked.done():
            return
        try:
            run.canary["approved"] = run.canary["passed"] = asked.result().go_on
        except Exception as error:
            raise StateError(
                f"nobody could be asked whether the other jobs may follow ({one_line(error)}). "
                f"What the canary answered is kept; run again. {told}"
            ) from error
    finally:
        run.waiting_for = None
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
