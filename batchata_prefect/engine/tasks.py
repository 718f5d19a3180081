"""The provider-batch tasks of a run, and the tags by which Prefect limits how many run at once.

Prefect holds a task back until all concurrency limits on its tags have a slot, for as long as that
takes, before the first line of the task. So a run has few waiting tasks at a time, as each holds
its reservation, and does not leave to Prefect what may not wait: a batch that is at the provider is
paid, and what a deadline or a stop ends must be ended.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

import prefect.concurrency.services as slots
from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext

from batchata_prefect.engine.provider_batch import provider_batch
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import one_line

_AT_ONCE = 2
"""Tasks of a provider that may wait to begin: one more than one keeps purchases in a flow."""

_PATIENCE_SECONDS = 10.0
"""For which a batch that is at the provider already waits for a slot."""

_TOLD_SECONDS = 1.0
_LOOK_SECONDS = 1.0
"""What a look at Prefect's limits may take."""

_MOST_LIMITS = 200
"""That Prefect lists at once."""

_AWAY_SECONDS = 60.0
"""For which nobody asks for slots after Prefect did not answer."""

_NEVER = 422
"""Prefect's answer to who wants a slot of a limit of 0."""

_CLOSED_SECONDS = 15.0
"""After which a limit of 0 is asked again: a person may have raised it."""

WAITING = "a slot of the Prefect concurrency limits on its tags"


def run_tags(run: Session) -> set[str]:
    """Tags of the flow run: of the package, and of all its providers."""
    return {"batchata", *(f"provider:{family.provider}" for family in run.spool.families())}


class Tasks:
    """The provider-batch tasks that are going."""

    def __init__(self, run: Session) -> None:
        self._run = run
        self._running: dict[asyncio.Task[Any], Flight] = {}
        self._changed = asyncio.Event()
        context = FlowRunContext.get()
        around = set(context.flow_run.tags if context and context.flow_run else ())
        self._given = (around - run_tags(run)) | set(run.settings.task_tags)
        self._away_until = 0.0
        self._looking, self._has_limits = asyncio.Lock(), False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, flight: Flight, *, limited: bool = True, after: float = 0.0) -> None:
        """Have a task take care of a chunk.

        Args:
            flight: The chunk.
            limited: Whether it waits for the concurrency limits; a task that does not has no tags.
            after: Seconds to wait before it starts.
        """
        chunk = flight.entry.chunk
        tags: set[str] = set()
        if limited and time.monotonic() >= self._away_until:
            tags = {"batchata", f"provider:{chunk.provider}", f"model:{chunk.model}"} | self._given
        flight.tags, flight.on_begin = frozenset(tags), partial(self._begun, chunk.provider)
        task = asyncio.create_task(self._task(flight, after))
        task.add_done_callback(lambda _: self._changed.set())
        self._running[task] = flight

    async def _task(self, flight: Flight, after: float) -> Any:
        chunk = flight.entry.chunk
        await asyncio.sleep(after)
        if flight.tags:
            await self._look_for_limits(flight.tags)
        return await provider_batch(chunk.name, chunk.sequence, flight.tags)

    async def _look_for_limits(self, tags: frozenset[str]) -> None:
        """Have Prefect ask for no slot where no limit is: to ask is to write.

        SQLite refuses that at once where another write falls between Prefect's read and its own,
        as at the begin of a run, and Prefect's client waits for 2 s before it asks again.
        """
        names = _names(tags)
        async with self._looking:
            if self._has_limits or _is_free(names):
                return
            # Prefect itself asks then, and tells why it cannot.
            with suppress(Exception):
                async with asyncio.timeout(_LOOK_SECONDS), get_client() as client:
                    limits = await client.read_global_concurrency_limits(_MOST_LIMITS)
                self._has_limits = len(limits) == _MOST_LIMITS or any(
                    limit.name in names for limit in limits
                )
                if not self._has_limits:
                    _is_free(names, found=True)

    def _begun(self, provider: str) -> None:
        if len(_waiting(self._run, provider)) == _AT_ONCE - 1:
            self._changed.set()  # the next one may be bought

    async def wait(self, seconds: float | None) -> list[tuple[Flight, BaseException | None]]:
        """Wait until a task begins or ends, or so many seconds.

        Returns:
            Those that have ended, with their errors.
        """
        if any(not flight.has_begun for flight in self._running.values()):
            seconds = min(_TOLD_SECONDS, _TOLD_SECONDS if seconds is None else seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()
        ended: list[tuple[Flight, BaseException | None]] = []
        for task in [task for task in self._running if task.done()]:
            flight = self._running.pop(task)
            error = flight.error or task.exception()
            if error is not None and not flight.has_begun and flight.tags:
                self._start_again(flight, error)
            else:
                ended.append((flight, error))
        await self._hasten()
        return ended

    def _start_again(self, flight: Flight, error: BaseException) -> None:
        """Start a task that Prefect gave no slot, and did not let wait for one."""
        response = getattr(error.__cause__, "response", None)
        if getattr(response, "status_code", None) == _NEVER:
            self.start(flight, after=_CLOSED_SECONDS)
            return
        # A limit saves vain tries; it does not hold up a run whose Prefect is away.
        get_run_logger().debug("its limits are not known (%s)", one_line(error))
        self._away_until = time.monotonic() + _AWAY_SECONDS
        self.start(flight, limited=False)

    async def _hasten(self) -> None:
        """Let those begin without a slot that may not wait any longer."""
        for task, flight in list(self._running.items()):
            if flight.has_begun or not flight.tags:
                continue
            waited = time.monotonic() - flight.started
            if waited > _TOLD_SECONDS:
                flight.waiting_for = WAITING
            if not _is_urgent(self._run, flight, waited):
                continue
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del self._running[task]
            if not flight.has_begun:
                get_run_logger().info("%s goes on without a slot", flight.entry.chunk.name)
            _wait_no_more(flight.tags)
            if self._run.suspending and flight.fresh:
                chunk, seconds = flight.entry.chunk, self._run.pace.retry_longest
                self._run.turned_away.add(chunk.provider, chunk.model, seconds)
            self.start(flight, limited=False)

    async def cancel(self) -> None:
        """Leave all; what is in flight goes on at the provider and stands in the records."""
        for task, flight in self._running.items():
            task.cancel()
            if not flight.has_begun:
                _wait_no_more(flight.tags)
        await asyncio.gather(*self._running, return_exceptions=True)


def is_crowded(run: Session, provider: str) -> bool:
    """Whether enough tasks of a provider wait to begin; each holds its reservation."""
    waiting = _waiting(run, provider)
    return len(waiting) >= _AT_ONCE or any(flight.waiting_for == WAITING for flight in waiting)


def is_stuck(run: Session, flight: Flight) -> bool:
    """Whether a provider goes on not to take a batch."""
    return is_on_its_way(flight) and flight.entry.chunk.provider in run.stuck


def is_on_its_way(flight: Flight) -> bool:
    """Whether a batch is not taken yet; nobody is told when it gets stuck."""
    entry = flight.entry
    return flight.has_begun and entry.receipt is None and not entry.chunk.realtime


def _waiting(run: Session, provider: str) -> list[Flight]:
    return [
        flight
        for flight in run.flights.values()
        if not flight.has_begun and flight.entry.chunk.provider == provider
    ]


def _is_urgent(run: Session, flight: Flight, waited: float) -> bool:
    """Whether a task that waits for a slot is to begin without one: to collect, or to end."""
    if run.is_ending or run.suspending:
        return True
    if flight.fresh and not flight.entry.chunk.realtime:
        return run.is_realtime
    return waited > _PATIENCE_SECONDS


def _names(tags: frozenset[str]) -> frozenset[str]:
    return frozenset(f"tag:{tag}" for tag in tags)


def _is_free(names: frozenset[str], *, found: bool = False) -> bool:
    """Whether Prefect's client knows for its 5 s that there are no such limits, or does from now.

    A client that keeps no such knowledge asks, as ever.
    """
    known, lock = getattr(slots, "_no_limits_cache", None), getattr(slots, "_cache_lock", None)
    if known is None or lock is None:
        return True
    with lock:
        if found:
            known[names] = True
        return names in known


def _wait_no_more(tags: frozenset[str]) -> None:
    """Let the process end: Prefect tries on for a slot that nobody wants, and waits for that.

    `prefect.concurrency.services` drains its queue when the interpreter exits, and a try for a slot
    has no end but the slot. Others in this process may wait in the same queue until then.
    """
    service = slots.ConcurrencySlotAcquisitionWithLeaseService.instance(_names(tags))
    loop, waiting = getattr(service, "_loop", None), getattr(service, "_task", None)

    def drop() -> None:
        if loop is not None and waiting is not None and not loop.is_closed():
            loop.call_soon_threadsafe(waiting.cancel)

    # Only these run before Prefect's own, which are registered there as well.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(drop)
