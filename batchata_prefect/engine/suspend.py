"""Waiting without a process: a deployed flow run suspends, and the collector resumes it.

A resumed flow run starts from its top in a new process, and the records say what it has bought; it
goes on as after a kill. Prefect suspends the flow run of a deployment only, and the batch is a
subflow of it: the subflow pauses first, with its records closed, and then the deployed run ends
its process.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from uuid import uuid4

from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import Pause
from prefect.states import Paused, Suspended

from batchata_prefect.engine.retries import backoff, patiently
from batchata_prefect.engine.session import Session
from batchata_prefect.errors import StateError, ValidationError, one_line
from batchata_prefect.records.sleepers import Place, Waiting, Watched, forget, register
from batchata_prefect.views.events import seconds_until_near

_LONGEST = timedelta(hours=25)
"""A provider gives a batch up after 24 h [both Batch API guides]; the rest is for clocks."""

_SOONEST = timedelta(hours=1)

_ASLEEP = re.compile(r"Finished in state (?:Paused|Suspended)\(")

_COLD_START_SECONDS = 10.0
"""From a resumption to user code in a new process [measured: 6 to 8 s with Prefect's worker]."""


def deployed_run() -> str | None:
    """Id of the flow run around this code, if it is one of a deployment."""
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None or flow_run.deployment_id is None:
        return None
    return str(flow_run.id)


async def may_suspend(run: Session) -> None:
    """Make sure that the flow run around the batch can suspend, and tell the collector of it.

    Raises:
        ValidationError: It is no flow run of a deployment, or not the outermost one.
        StateError: Prefect does not answer.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    why = None
    if flow_run is None:
        why = "there is no flow run around it"
    elif run.around_id is None or flow_run.parent_task_run_id is not None:
        why = f"the flow run {flow_run.name!r} around it is not one of a deployment"
    elif TaskRunContext.get() is not None:
        why = "it runs inside a task"
    if why is not None or run.around_id is None or context is None:
        raise ValidationError(
            f"wait='suspend' ends the process and needs a deployed flow run to resume, and {why}. "
            "Nothing was sent. Run it in a flow of a deployment, see deployments/prefect.yaml, or "
            "with wait='poll'"
        )
    run.costs_seconds = (
        _COLD_START_SECONDS + (datetime.now(UTC) - context.start_time).total_seconds()
    )
    settings = run.settings
    place = Place(run.around_id, settings.run_key, settings.state, settings.on_cancel)
    try:
        await register(place)
    except Exception as error:
        raise StateError(
            f"the run cannot be made known to the collector, because Prefect does not answer "
            f"({one_line(error)}). Nothing was sent; run again"
        ) from error


async def sleepy(run: Session) -> State[Any]:
    """Write down what the run waits for, and give the state in which its own flow run pauses.

    Raises:
        StateError: It cannot be written.
    """
    assert run.around_id is not None
    now = datetime.now(UTC)
    entries = [entry for entry in run.ledger if entry.ending is None]
    batches = [
        Watched(e.chunk.provider, e.receipt.batch_id, e.receipt.created_at)
        for e in entries
        if e.receipt is not None
    ]
    batches += [
        Watched(e.chunk.provider, batch_id, e.since)
        for e in entries
        if e.receipt is None
        for batch_id in run.undecided.get(e.chunk.sequence, ())
    ]
    # One that its provider does not end in time is looked at again, and not all the time.
    latest = max((each.created_at for each in batches), default=now) + _LONGEST
    times = [max(latest, now + _SOONEST)]
    times += [now + timedelta(seconds=left) for left in _limits(run) if left is not None]
    if run.turned_away.next_try is not None:
        times.append(run.turned_away.next_try)
    if any(e.receipt is None and e.chunk.sequence not in run.undecided for e in entries):
        times.append(now + timedelta(seconds=run.pace.lookup))
    waiting = Waiting(
        flow_run_id=run.around_id,
        batch_run_id=run.flow_run_id,
        since=now,
        resume_at=min(times),
        costs_seconds=run.costs_seconds,
        batches=tuple(batches),
        credentials=run.settings.credentials,
        accounts=run.settings.accounts,
    )
    await run.records.write_waiting(waiting.to_dict())
    counted = Counter(each.provider for each in batches)
    told = " and ".join(f"{number:,} of {name}" for name, number in sorted(counted.items()))
    run.asleep_for = (
        f"{len(batches):,} provider batches are at work ({told}); asleep until they have ended, at "
        f"the latest until {waiting.resume_at:%Y-%m-%d %H:%M} UTC"
        if batches
        else f"asleep until {waiting.resume_at:%Y-%m-%d %H:%M} UTC, when there may be room for "
        "more tokens at the provider"
    )
    logging.getLogger("prefect.flow_runs").addFilter(_as_intended)
    get_run_logger().info("%s; the collector wakes it", run.asleep_for)
    return Paused(message=run.asleep_for, pause_key=uuid4().hex)


def _limits(run: Session) -> tuple[float | None, ...]:
    # Nobody else could tell those who watch that the deadline is near.
    left = run.seconds_left
    return (
        left,
        run.seconds_until_realtime,
        seconds_until_near(left, run.settings.time_limit_seconds),
    )


async def fall_asleep(run: Session) -> NoReturn:
    """Suspend the deployed flow run, and leave its process as Prefect does.

    Raises:
        Pause: It is suspended; Prefect's engine ends the process.
        StateError: Prefect does not let it, as where it is cancelled at this moment.
    """
    assert run.around_id is not None
    around_id = run.around_id
    # A key of its own for each time: Prefect takes one that it knows for the same sleep.
    state = Suspended(message=run.asleep_for, pause_key=uuid4().hex)
    began = time.monotonic()

    async def ask() -> Any:
        async with get_client() as client:
            return await client.set_flow_run_state(around_id, state)

    def after(error: Exception, failures: int) -> float:
        if time.monotonic() - began > run.pace.prefect:
            raise StateError(
                f"Prefect does not answer ({one_line(error)}), so that the run cannot be "
                "suspended. What is in flight goes on and is kept; retry the run"
            ) from error
        return min(backoff(run, failures), 10.0)

    answer = await patiently(run, ask, after)
    if answer.state is None or not answer.state.is_paused():
        reason = getattr(answer.details, "reason", None) or answer.status
        raise StateError(
            f"Prefect did not suspend the run ({reason}). What is in flight goes on and is kept; "
            "retry the run"
        )
    raise Pause(state=answer.state)


def _as_intended(record: logging.LogRecord) -> bool:
    """Prefect logs every end that is not Completed as an error, falling asleep included."""
    if record.levelno == logging.ERROR and _ASLEEP.match(record.getMessage()):
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


async def leave(run: Session) -> None:
    """Tell the collector that a run is over; it finds out by itself where Prefect is away."""
    try:
        if run.around_id is not None:
            await forget(run.around_id)
    except Exception as error:
        get_run_logger().debug("the run stays known to the collector (%s)", one_line(error))
