"""The provider batch as a Prefect task: create, poll, download, settle.

Every step can be entered again: what was done before stands in the records. Only `create` costs
money, and only `create` is never repeated before it is proven that it made nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.results import get_result_store
from prefect.tasks import Task

from batchata_prefect.engine.realtime import answer_now, goes_over
from batchata_prefect.engine.retries import (
    STUCK_TIMES,
    GaveUpError,
    NotThereError,
    UnseenError,
    keep,
    no_batch,
    own,
    patiently,
    persist,
    still_owned,
    way_out,
)
from batchata_prefect.engine.session import Flight, Session, session
from batchata_prefect.engine.settle import never_created, settle, write_off
from batchata_prefect.engine.status import batch_status
from batchata_prefect.errors import BatchataError, BatchSubmissionError, one_line
from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.ledger import OVERDUE, REALTIME, TIME_LIMIT, Receipt, claimed
from batchata_prefect.providers import wire
from batchata_prefect.providers.failures import classify
from batchata_prefect.views import events, states

_SENT_AT_ONCE_BYTES = 400_000_000
"""Two of OpenAI's largest files [200 MB, Batch API guide]: one is read while the other is sent."""

_LOOK_SECONDS = 0.1


def _mendable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A returned failure says what a person has to do; repeating the task does not do it."""
    return isinstance(state.data, Exception)


@task(
    name="provider-batch",
    task_run_name="{label}",
    # The records decide what is done; a cache hit would hide an unfinished batch.
    cache_policy=NO_CACHE,
    # The facts, which are small: who reads the task run finds out what it came to.
    persist_result=True,
    result_serializer="json",
    retry_condition_fn=_mendable,
)
async def _provider_batch(label: str, sequence: int) -> State[Any]:
    """Take one chunk from its intent to its ending.

    Args:
        label: Name of the task run.
        sequence: The chunk's place in the ledger.

    Returns:
        What became of it, see `views.states`; with the error on the flight, where the provider
        refuses the key or the account, or a record or reply could not be written.
    """
    run = session()
    flight = run.flights[sequence]
    flight.begin()
    error = remark = None
    if flight.entry.ending is None:
        try:
            remark = await _bring_to_its_end(run, flight)
        except BatchataError as trouble:
            # Raised, Prefect would log a traceback; what to do stands in the error's own words.
            flight.error, error = trouble, str(trouble)
    return await _kept(
        states.of_batch(
            batch_status(run, flight.entry),
            stopped=run.stopped.on_cancel if run.stopped else None,
            asleep=run.suspending,
            error=error,
            remark=remark,
        )
    )


async def provider_batch(label: str, sequence: int, tags: Iterable[str] = ()) -> State[Any]:
    """The task with these tags, and the retries and the time that the run was told."""
    told = session().settings
    # Not given at the decorator: there is one task for the runs of a process, each told its own.
    task = _provider_batch.with_options(
        retries=told.task_retries,
        retry_delay_seconds=told.task_retry_delay_seconds,
        timeout_seconds=told.task_timeout_seconds,
        tags=tags,
    )
    return await task(label, sequence)


async def _kept(state: State[Any]) -> State[Any]:
    """The state with its facts in Prefect's result storage.

    Prefect stores the return value of a task under its cache key only, and where that fails it
    turns the task green, as rolled back.
    """
    store = get_result_store()
    record = store.create_result_record(state.data)
    try:
        await store.apersist_result_record(record)
    except Exception as error:
        get_run_logger().warning("its facts are not in Prefect's storage (%s)", one_line(error))
    state.data = record
    return state


async def _bring_to_its_end(run: Session, flight: Flight) -> str | None:
    """Take a chunk as far as it goes: why it is left to the next run, where there is a trouble.

    Its records say all that is needed to take it up.
    """
    if flight.entry.chunk.realtime:
        return await answer_now(run, flight)
    try:
        if flight.entry.written_off and flight.entry.receipt is None:
            return await write_off(run, flight)
        if flight.entry.receipt is None and not await _buy(run, flight):
            return await never_created(run, flight)
        batch = await _wait_for_end(run, flight)
        return None if batch is None else await settle(run, flight, batch)
    except NotThereError:
        if not flight.entry.written_off:
            raise
        return await write_off(run, flight)
    except UnseenError as error:
        return f"{error}. {way_out(run, flight.entry)}"
    except GaveUpError as error:
        return f"the provider does not answer ({error})"


async def _buy(run: Session, flight: Flight) -> bool:
    """Have exactly one provider batch for the chunk; False where there is none and will be none."""
    if flight.fresh:
        try:
            batch = await patiently(run, lambda: _create(run, flight), _after_create(run, flight))
        except BatchSubmissionError as error:
            flight.held_back = str(error)
            await never_created(run, flight)
            raise
        except _RefusedError:
            return False
        except _UncertainError as error:
            get_run_logger().warning(
                "whether it was created is not known (%s); looking for it before anything is sent "
                "again",
                error,
            )
            if await _look_up(run, flight):
                return True
            run.stuck[flight.entry.chunk.provider] = str(error)
            return False
        else:
            if batch is not None:
                await _receive(run, flight, batch, adopted=False)
            return batch is not None
    return await _look_up(run, flight)


class _RefusedError(Exception):
    """The provider will not create the chunk; the others may go well."""


class _UncertainError(Exception):
    """Whether a create made a batch is not known."""


async def _create(run: Session, flight: Flight) -> ProviderBatch | None:
    """Create the batch; None where it is held back."""
    chunk = flight.entry.chunk
    assert flight.requests is not None
    size = await _room_to_send(run, flight)
    if chunk.provider in run.closed:
        flight.held_back = f"{chunk.provider} takes no batch"
        return None
    if run.is_ending or run.is_realtime:
        flight.held_back = _why_end(run, flight) or REALTIME
        return None
    if run.suspending:
        flight.held_back = "the run sleeps until there may be a slot for it"
        return None
    await own(run, flight.entry)
    flight.fresh = False
    run.lines.sending_bytes += size
    try:
        with still_owned(run, fresh=True):
            return await run.providers[chunk.provider].create(
                run.clients[chunk.provider], chunk, flight.requests
            )
    finally:
        run.lines.sending_bytes -= size


def _after_create(run: Session, flight: Flight) -> Callable[[Exception, int], float | None]:
    """What to do after an error of a create: wait so many seconds, or raise."""
    chunk = flight.entry.chunk
    clock = asyncio.get_running_loop().time
    unseen_since: float | None = None

    def after(error: Exception, failures: int) -> float | None:
        nonlocal unseen_since
        if flight.fresh:
            raise error  # it was raised before anything was sent
        failure = classify(error)
        if not failure.made_nothing:
            raise _UncertainError(failure.text) from error
        flight.fresh = True
        if failure.kind == "refused":
            flight.refused = failure
            raise _RefusedError from error
        if failure.kind == "unseen":
            unseen_since = clock() if unseen_since is None else unseen_since
        if failure.kind in {"account", "absent"} or (
            unseen_since is not None and clock() - unseen_since > run.pace.unknown
        ):
            if chunk.provider in run.closed:
                # It was on its way when another was refused, which has told why.
                flight.held_back = f"{chunk.provider} takes no batch"
                raise _RefusedError from error
            # At once: those that are about to be sent must not be.
            run.closed[chunk.provider] = refusal = no_batch(run, chunk, failure)
            raise refusal from error
        if failures >= STUCK_TIMES:
            run.stuck[chunk.provider] = failure.text
        get_run_logger().warning("not taken yet (%s), trying again", failure.text)
        flight.waiting_for = f"{chunk.provider} to take a batch ({failure.text})"
        return failure.seconds

    return after


async def _room_to_send(run: Session, flight: Flight) -> int:
    """Wait while large batches are on their way: bytes of this one.

    Sent all at once they would share the line, and the first would begin to be answered when the
    last has arrived.
    """
    size = flight.entry.chunk.size_bytes
    while run.lines.sending_bytes and run.lines.sending_bytes + size > _SENT_AT_ONCE_BYTES:
        if run.is_ending or run.is_realtime:
            break
        flight.waiting_for = "larger batches to be sent first"
        await run.pause(_LOOK_SECONDS)
    flight.waiting_for = None
    return size


def _why_end(run: Session, flight: Flight) -> str | None:
    """Why a batch is to be canceled now; None where it is not."""
    if run.stopped is not None:
        return run.stopped.reason
    if run.is_ending:
        return TIME_LIMIT
    if goes_over(run, flight):
        return REALTIME
    seconds = flight.batch.seconds_overdue(_time_there(run, flight)) if flight.batch else 0.0
    return OVERDUE if seconds > run.pace.overdue else None


async def _look_up(run: Session, flight: Flight) -> bool:
    """Find the batch of an uncertain create; False where it is proven that there is none.

    Raises:
        GaveUpError: The run is ending, and it cannot be decided in time.
    """
    entry = flight.entry
    chunk = entry.chunk
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        asked = clock()
        found = await persist(
            run,
            flight,
            "list",
            lambda: provider.find(client, chunk, entry.since, claimed(run.ledger, provider.name)),
        )
        run.undecided.pop(chunk.sequence, None)
        flight.parked = False
        if found.batch is not None:
            get_run_logger().info("found at the provider and taken over")
            await _receive(run, flight, found.batch, adopted=True)
            return True
        if found.undecided:
            run.undecided[chunk.sequence] = found.undecided
            flight.parked = True
            if run.is_ending or run.suspending:
                raise GaveUpError(f"{found.undecided[0]} may be this batch, and has not ended")
            flight.waiting_for = f"{found.undecided[0]} to end, which may be this batch"
            await run.pause(run.pace.poll(asked - began, len(run.flights)))
        elif asked - began >= run.pace.lookup:
            flight.waiting_for = None
            return False
        else:
            if run.out_of_patience:
                raise GaveUpError("its list may not have caught up")
            flight.waiting_for = "the provider's list to catch up"
            await run.pause(max(0.05, run.pace.lookup - (asked - began)))


async def _receive(run: Session, flight: Flight, batch: ProviderBatch, *, adopted: bool) -> None:
    entry = flight.entry
    receipt = Receipt(batch.batch_id, batch.created_at or datetime.now(UTC), adopted)
    flight.waiting_for = None
    run.stuck.pop(entry.chunk.provider, None)
    flight.batch = batch
    await keep(
        run,
        entry,
        "receipt",
        lambda: run.records.write_receipt(entry.chunk.sequence, receipt),
        lost=f"it was sent as {batch.batch_id}, and that cannot be recorded. The next run finds it "
        "at the provider, and nothing is paid twice:",
    )
    entry.receipt = receipt
    if not run.settings.raw_files:
        run.request_file(entry.chunk.token).unlink(missing_ok=True)
    events.submitted(entry)
    if not adopted:
        get_run_logger().info("sent as %s", batch.batch_id)


def _overdue(run: Session, flight: Flight) -> str | None:
    """What a person has to know of a batch that its provider has not ended in time."""
    batch, now = flight.batch, _time_there(run, flight)
    if batch is None or batch.expires_at is None or not batch.is_overdue(now):
        return None
    told = (
        f"{batch.batch_id}, still {batch.raw_status} {batch.seconds_overdue(now) / 3600:.1f} h "
        f"after it expired ({batch.expires_at:%Y-%m-%d %H:%M} UTC)"
    )
    if not flight.is_overdue:
        flight.is_overdue = True
        get_run_logger().warning(
            "%s. It is canceled %.0f h after its expiry; if it does not end then, it is left with "
            "its reservation to the next run",
            told,
            run.pace.overdue / 3600,
        )
    return told


def _time_there(run: Session, flight: Flight) -> datetime:
    return wire.now(run.clients[flight.entry.chunk.provider]) or datetime.now(UTC)


async def _wait_for_end(run: Session, flight: Flight) -> ProviderBatch | None:
    """Poll until the batch has ended; None where it is left running."""
    entry = flight.entry
    assert entry.receipt is not None
    chunk, batch_id = entry.chunk, entry.receipt.batch_id
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    canceled_at: float | None = None
    clock = asyncio.get_running_loop().time
    began = clock()
    inherited = flight.batch is None
    while True:
        flight.parked = flight.batch is not None and canceled_at is None
        batch = await persist(run, flight, "poll", lambda: provider.poll(client, batch_id))
        if inherited and flight.batch is None:
            flight.canceled_before = batch.state == "canceling" or batch.ending == "canceled"
        flight.batch = batch
        flight.succeeded = batch.succeeded
        if batch.state == "ended":
            flight.parked = False
            return batch
        overdue = _overdue(run, flight)
        if run.suspending and not run.is_ending:
            return None
        if flight.canceled is None and (reason := _why_end(run, flight)) is not None:
            if run.stopped is not None and run.stopped.on_cancel == "detach":
                return None
            flight.canceled = reason
            get_run_logger().warning("%s: canceling it", flight.canceled)
            batch = await persist(run, flight, "cancel", lambda: provider.cancel(client, batch_id))
            canceled_at = clock()
            if batch.state == "ended":
                return batch
        waited = 0.0 if canceled_at is None else clock() - canceled_at
        if waited > run.pace.settle or (canceled_at is not None and run.out_of_patience):
            get_run_logger().error(
                "still %s %d s after its cancellation; what it may cost stays reserved and the "
                "next run collects it",
                batch.raw_status,
                waited,
            )
            return None
        flight.waiting_for = overdue if canceled_at is None else f"{batch_id} to end, as asked"
        await run.pause(run.pace.poll(clock() - (canceled_at or began), len(run.flights)))
