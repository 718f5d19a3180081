"""The collector: asks the providers for all suspended runs at once, and wakes whom it concerns.

It remembers nothing. What every run waits for stands in that run's records, and whether a run
sleeps is what Prefect says; so it may be started as often as one likes, in several processes, and
may be away for hours: then runs wait longer, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, TypeAlias

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import AwaitingRetry, Cancelled, Crashed

from batchata_prefect.collector.inflight import cancel, open_run
from batchata_prefect.errors import BatchataError, ValidationError, one_line
from batchata_prefect.models import ProviderBatch
from batchata_prefect.numbers import counted
from batchata_prefect.providers import Provider, providers
from batchata_prefect.providers.failures import classify
from batchata_prefect.providers.lists import PAGE
from batchata_prefect.records.credentials import connect
from batchata_prefect.records.lease import holder
from batchata_prefect.records.sleepers import Place, Waiting, Watched, forget, places, write
from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records

logger = logging.getLogger("batchata_prefect")

Login: TypeAlias = tuple[Provider, str | None]
"""Name of a provider, and of the credentials block with its key; None for the environment's."""

MOST_REVIVALS = 3
"""Times that a run is started again whose process died."""

_RUNS_AT_ONCE = 200
_READS_AT_ONCE = 16
_POLLS_AT_ONCE = 8
_PATIENCE = 10
"""A run is not resumed for a part of its batches before it has slept so many times longer than a
new process costs; so that waiting stays cheap where batches end one by one."""


@dataclass(slots=True)
class Round:
    """What one look of the collector came to.

    Attributes:
        asleep: Suspended runs.
        batches: Provider batches that they wait for.
        ended: Those of the batches that have ended.
        calls: Calls to providers.
        resumed: Runs that were resumed.
        revived: Runs that were started again after their process had died.
        cancelled: Runs whose provider batches were cancelled, because a person cancelled the run.
        troubles: What went wrong, for a person; the next look tries again.
    """

    asleep: int = 0
    batches: int = 0
    ended: int = 0
    calls: int = 0
    resumed: list[str] = field(default_factory=list[str])
    revived: list[str] = field(default_factory=list[str])
    cancelled: list[str] = field(default_factory=list[str])
    troubles: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """One line for a person."""
        told = (
            f"{len(self.resumed):,} of {self.asleep:,} suspended runs resumed; {self.ended:,} of "
            f"{counted(self.batches, 'provider batch')} ended, asked with {self.calls:,} calls"
        )
        if self.revived:
            told += f"; {counted(len(self.revived), 'run')} started again, whose process had died"
        if self.cancelled:
            told += f"; provider batches of {len(self.cancelled):,} cancelled runs cancelled"
        if self.troubles:
            told += f"; {len(self.troubles):,} troubles, such as: {self.troubles[0]}"
        return told


async def collect(*, now: datetime | None = None, stale_seconds: float = 900.0) -> Round:
    """Look once after all runs that wait with `wait="suspend"`.

    Args:
        now: The time to go by; the clock's by default.
        stale_seconds: After so long without a sign of life a run that Prefect takes for running
            counts as dead.

    Returns:
        What was done.

    Raises:
        Exception: Prefect does not answer.
    """
    now, done = now or datetime.now(UTC), Round()
    known = await places()
    runs = await _flow_runs([place.flow_run_id for place in known])
    asleep: list[tuple[Place, Waiting]] = []
    gate = asyncio.Semaphore(_READS_AT_ONCE)

    async def look(place: Place) -> None:
        async with gate:
            try:
                flow_run = runs.get(place.flow_run_id)
                waiting = await _look_at(place, flow_run, now, stale_seconds, done)
            except Exception as error:
                _trouble(done, f"run {place.run_key!r}: {one_line(error)}")
            else:
                if waiting is not None:
                    asleep.append((place, waiting))

    await asyncio.gather(*(look(place) for place in known))
    done.asleep = len(asleep)
    ended = await _ended((waiting for _, waiting in asleep), now, done)
    for place, waiting in asleep:
        if is_due(waiting, ended, now):
            await _resume(place, done)
    return done


def is_due(waiting: Waiting, ended: frozenset[str], now: datetime) -> bool:
    """Whether a suspended run is to be resumed, with these batches ended."""
    if now >= waiting.resume_at:
        return True
    over = sum(1 for each in waiting.batches if each.batch_id in ended)
    if over == len(waiting.batches):
        return over > 0
    rested = (now - waiting.since).total_seconds()
    return over > 0 and rested >= _PATIENCE * waiting.costs_seconds


async def _look_at(
    place: Place, flow_run: FlowRun | None, now: datetime, stale_seconds: float, done: Round
) -> Waiting | None:
    """What a suspended run waits for; None for any other, of which what is due is done."""
    state = flow_run.state if flow_run else None
    if flow_run is None or state is None or state.is_completed() or state.is_failed():
        # A run that failed has told a person why; its retry makes it known again.
        await forget(place.flow_run_id)
        return None
    if state.is_cancelled():
        await _cancel(place, done)
        await forget(place.flow_run_id)
        return None
    if state.is_crashed():
        await _revive(place, done)
        return None
    if state.type is StateType.PAUSED:
        if place.revived:
            await write(replace(place, revived=0, heard=None, heard_at=None))
        values = await (await _records(place)).waiting()
        # Without a note somebody else made it pause, such as a person.
        waiting = None if values is None else Waiting.from_dict(values)
        return waiting if waiting and waiting.flow_run_id == place.flow_run_id else None
    if state.is_running():
        await _listen(place, now, stale_seconds)
    return None


async def _records(place: Place) -> Records:
    records = Records(await storage_at(place.state), place.run_key)
    if await records.start() is None:
        raise BatchataError(
            f"there are no records of it at {records.location}; the collector must use the same "
            "result storage as the workers"
        )
    return records


async def _flow_runs(ids: list[str]) -> dict[str, FlowRun]:
    found: dict[str, FlowRun] = {}
    async with get_client() as client:
        for first in range(0, len(ids), _RUNS_AT_ONCE):
            asked = FlowRunFilter(
                id=FlowRunFilterId.model_validate({"any_": ids[first : first + _RUNS_AT_ONCE]})
            )
            page = await client.read_flow_runs(flow_run_filter=asked, limit=_RUNS_AT_ONCE)
            found |= {str(flow_run.id): flow_run for flow_run in page}
    return found


async def _ended(waits: Iterable[Waiting], now: datetime, done: Round) -> frozenset[str]:
    """Ids of the watched batches that have ended, as far as the providers say."""
    watched: dict[Login, dict[str, Watched]] = defaultdict(dict)
    for waiting in waits:
        try:
            known = providers(waiting.accounts)
            for each in waiting.batches:
                login = known[each.provider], waiting.credentials.get(each.provider)
                watched[login][each.batch_id] = each
        except (KeyError, ValidationError) as error:
            # Such as a kind of provider that is not installed here; it is no fault of the others.
            _trouble(done, f"run {waiting.flow_run_id}: its batches cannot be asked for ({error})")
    done.batches = sum(len(batches) for batches in watched.values())
    found = await asyncio.gather(
        *(_ask(account, batches, done) for account, batches in watched.items())
    )
    ended = frozenset(batch_id for ids in found for batch_id in ids)
    done.ended = len(ended)
    return ended


async def _ask(account: Login, watched: Mapping[str, Watched], done: Round) -> list[str]:
    """Ids of the ended ones among the batches of one account."""
    provider, credentials = account
    name = provider.name
    said: dict[str, ProviderBatch] = {}
    try:
        async with AsyncExitStack() as stack:
            client = await connect(provider, credentials)
            stack.push_async_callback(client.close)
            oldest = min(each.created_at for each in watched.values()) - timedelta(minutes=15)
            pages = provider.listed(client)
            # One page tells of a hundred; past others' batches, asking one by one is cheaper.
            for _ in range(max(1, ceil(len(watched) / PAGE) * 2)):
                batches = await anext(pages, None)
                if batches is None:
                    break
                done.calls += 1
                said |= {each.batch_id: each for each in batches if each.batch_id in watched}
                last = batches[-1].created_at if batches else None
                if len(said) == len(watched) or (last is not None and last < oldest):
                    break
            gate = asyncio.Semaphore(_POLLS_AT_ONCE)

            async def poll(batch_id: str) -> None:
                async with gate:
                    done.calls += 1
                    try:
                        said[batch_id] = await provider.poll(client, batch_id)
                    except Exception as error:
                        failure = classify(error)
                        if failure.kind == "account":
                            raise  # the others would be answered alike
                        told = f"{name}: {batch_id} cannot be asked for ({failure.text})"
                        _trouble(done, told)

            await asyncio.gather(*(poll(each) for each in watched if each not in said))
    except Exception as error:
        where = f" with {credentials}" if credentials else ""
        _trouble(
            done,
            f"{name}{where}: {counted(len(watched), 'batch')} cannot be asked for "
            f"({one_line(error)}). Their runs are resumed at their deadline, or 25 h after their "
            "last batch was sent",
        )
    return [batch_id for batch_id, batch in said.items() if batch.state == "ended"]


async def _resume(place: Place, done: Round) -> None:
    try:
        async with get_client() as client:
            answer = await client.resume_flow_run(_id(place))
    except Exception as error:
        _trouble(done, f"run {place.run_key!r} cannot be resumed: {one_line(error)}")
        return
    if answer.state is not None and answer.state.is_scheduled():
        done.resumed.append(place.flow_run_id)
        logger.info("resumed %s", place.run_key)


async def _revive(place: Place, done: Round) -> None:
    """Start a run again whose process died; what it has sent stands in its records."""
    if place.revived >= MOST_REVIVALS:
        logger.warning(
            "%r died %d times and is not started again; retry it in the Prefect UI",
            place.run_key,
            place.revived + 1,
        )
        await forget(place.flow_run_id)
        return
    await write(replace(place, revived=place.revived + 1, heard=None, heard_at=None))
    state = AwaitingRetry(message="its process died; started again by the collector")
    async with get_client() as client:
        answer = await client.set_flow_run_state(_id(place), state)
    if answer.state is not None and answer.state.is_scheduled():
        done.revived.append(place.flow_run_id)


async def _listen(place: Place, now: datetime, stale_seconds: float) -> None:
    """Find out whether the process of a run lives, by the lease that it renews.

    A process that went with its machine tells nobody: its flow run would be running for ever.
    """
    owner = await holder(Records(await storage_at(place.state), place.run_key))
    # Before it has the lease it reads its jobs, which takes as long as it takes.
    if owner is None or owner["released"]:
        return
    heard = f"{owner['token']} {owner['beat']}"
    if heard != place.heard or place.heard_at is None:
        await write(replace(place, heard=heard, heard_at=now.isoformat()))
    elif (now - datetime.fromisoformat(place.heard_at)).total_seconds() > stale_seconds:
        state = Crashed(message=f"nothing was heard of its process for {stale_seconds:.0f} s")
        async with get_client() as client:
            await client.set_flow_run_state(_id(place), state, force=True)


async def _cancel(place: Place, done: Round) -> None:
    """Cancel at the providers what a run has in flight that was cancelled while it slept.

    Its process was gone, so nobody else does.
    """
    if place.on_cancel == "detach":
        return
    known = await open_run(None, place.run_key, place.state)
    troubles: list[str] = []
    if known.open:
        lines = await cancel(known)
        troubles = [line.trouble for line in lines if line.trouble is not None]
        done.cancelled.append(place.flow_run_id)
        logger.warning(
            "%r was cancelled: %d provider batches are cancelled. Retry it to collect what they "
            "answered; nothing is paid twice",
            place.run_key,
            sum(1 for line in lines if line.batch is not None),
        )
    waiting = await known.records.waiting()
    if waiting is not None and waiting["batch_run_id"] is not None:
        async with get_client() as client:
            state = Cancelled(message="cancelled with the flow run around it")
            await client.set_flow_run_state(waiting["batch_run_id"], state, force=True)
    if troubles:
        raise BatchataError(
            f"{len(troubles):,} batches go on although it was cancelled ({troubles[0]}); the next "
            "look tries again"
        )


def _id(place: Place) -> Any:
    from uuid import UUID

    return UUID(place.flow_run_id)


def _trouble(done: Round, told: str) -> None:
    logger.error("%s", told)
    done.troubles.append(told)
