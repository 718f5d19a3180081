"""What a run keeps an eye on while it waits: signals, its deadline, Prefect, and its lease."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext

from batchata_prefect.engine.session import TERMINATED, Session
from batchata_prefect.engine.status import run_status
from batchata_prefect.errors import StateError, one_line
from batchata_prefect.records.store import TakenOverError
from batchata_prefect.views import events

_TICK_SECONDS = 1.0


@asynccontextmanager
async def watching(run: Session) -> AsyncGenerator[None]:
    """Have the run told to stop when somebody wants that; around the whole run."""
    run.bind()
    task = asyncio.create_task(_watch(run, _flow_run_ids()))
    try:
        with _termination(run):
            yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(run: Session, flow_run_ids: list[Any]) -> None:
    looked = time.monotonic()
    renewed, near = looked, False
    while True:
        await asyncio.sleep(min(_TICK_SECONDS, run.pace.watch, run.pace.lease / 3))
        if run.is_ending:
            # By the clock on the wall: a machine that slept wakes after its deadline.
            run.end_now()
        if not near and run.settings.time_limit_seconds is not None:
            near = events.near_deadline(run_status(run))
        now = time.monotonic()
        if now - renewed >= run.pace.lease / 3:
            renewed = now
            await _renew(run)
        if run.stopped is None and now - looked >= run.pace.watch:
            looked = now
            await _look_at_prefect(run, flow_run_ids)


async def _renew(run: Session) -> None:
    """Renew the lease; a storage that is away ends no run, as nothing is bought meanwhile."""
    # The end of the run takes it away while a renewal is under way.
    lease = run.lease
    if lease is None:
        return
    try:
        await lease.renew()
    except TakenOverError as error:
        if run.lease is lease:
            get_run_logger().error("%s", error)
            run.fail(error)
    except StateError as error:
        get_run_logger().warning(
            "its lease cannot be renewed yet%s: %s",
            "; nothing is bought until it can" if lease.has_run_out else "",
            error,
        )


def _flow_run_ids() -> list[Any]:
    """The flow run itself and the one that it is a part of."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    ids: list[Any] = [context.flow_run.id]
    parent: Any = context.flow_run.parent_task_run_id
    return ids if parent is None else [*ids, parent]


async def _look_at_prefect(run: Session, flow_run_ids: list[Any]) -> None:
    """Nobody tells a process that runs on its own that its flow run was canceled."""
    try:
        async with get_client() as client:
            flow_run = await client.read_flow_run(flow_run_ids[0])
            states = [flow_run.state]
            if len(flow_run_ids) > 1:
                task_run = await client.read_task_run(flow_run_ids[1])
                if task_run.flow_run_id is not None:
                    states.append((await client.read_flow_run(task_run.flow_run_id)).state)
    except Exception as error:
        # Prefect may be away for a while; the run goes on without it.
        get_run_logger().debug("Prefect does not answer (%s)", one_line(error))
        return
    if any(state and (state.is_cancelling() or state.is_cancelled()) for state in states):
        run.stop("cancelled in Prefect")


async def wait_for_prefect(run: Session) -> bool:
    """Wait for a Prefect that is away, so that it hears of the run's end; False where it stays so.

    A flow run whose end is never told would be shown as running for ever.
    """
    began = time.monotonic()
    while True:
        try:
            async with get_client() as client:
                away = await client.api_healthcheck()
        except Exception as error:
            away = error
        if away is None:
            run.waiting_for = None
            return True
        if time.monotonic() - began > run.pace.prefect or run.stopped is not None:
            return False
        if run.waiting_for is None:
            get_run_logger().warning(
                "the results are written; Prefect does not answer (%s), waiting for it up to %d s",
                one_line(away),
                run.pace.prefect,
            )
        run.waiting_for = "Prefect to hear of the end"
        await run.pause(min(2.0, run.pace.prefect / 5))


@contextmanager
def _termination(run: Session) -> Generator[None]:
    """Stop in order at SIGTERM, as from a worker, an orchestrator or a shutdown.

    Prefect's own handler is in place by now and would end the flow at once, as crashed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)

    def told() -> None:
        if run.stopped is None:
            get_run_logger().warning("told to terminate")
            run.stop(TERMINATED)
        run.hurry()

    try:
        loop.add_signal_handler(signal.SIGTERM, told)
    except (NotImplementedError, RuntimeError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        with suppress(TypeError, ValueError):
            signal.signal(signal.SIGTERM, before)
