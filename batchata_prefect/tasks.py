"""The provider batch as a Prefect task: create, poll, download, settle.

Every step can be entered again: what was done before stands in the records. Only `create` costs
money, and only `create` is never repeated before it is proven that it made nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed
from prefect.tasks import Task

from batchata_prefect.calls import GaveUpError, NotThereError, backoff, one_line, persist, refusal
from batchata_prefect.errors import BatchataError, BatchSubmissionError, StateError
from batchata_prefect.ledger import (
    AGAIN,
    ANSWERED,
    CANCELED,
    FAILED,
    LOST,
    NEVER_SENT,
    NOT_AS_ASKED,
    TIME_LIMIT,
    Ending,
    Entry,
    Receipt,
)
from batchata_prefect.models import Chunk, ProviderBatch, Usage
from batchata_prefect.quota import is_turned_away, share, told
from batchata_prefect.reask import reask
from batchata_prefect.replies import fault_text, fetch, read_chunk
from batchata_prefect.results import Collected
from batchata_prefect.session import Flight, Session, session
from batchata_prefect.spool import ANSWERED as JOB_ANSWERED
from batchata_prefect.spool import CANCELED as JOB_CANCELED
from batchata_prefect.spool import FAILED as JOB_FAILED
from batchata_prefect.spool import WAITING

LONGEST_SECONDS = 26 * 3600.0
"""A provider gives up after 24 h [both Batch API guides]; the rest is for queueing and download."""

_UNREADABLE_TIMES = 3
"""Downloads after which a row that cannot be read is the provider's and not the transfer's."""


def _mendable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A returned failure says what a person has to do; repeating the task does not do it."""
    return state.data is not None and not isinstance(state.data, asyncio.CancelledError)


@task(
    name="provider-batch",
    task_run_name="{label}",
    # The records decide what is done; a cache hit would hide an unfinished batch.
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[2, 30],
    retry_condition_fn=_mendable,
    timeout_seconds=LONGEST_SECONDS,
)
async def provider_batch(label: str, session_name: str, sequence: int) -> Any:
    """Take one chunk from its intent to its ending.

    Args:
        label: Name of the task run.
        session_name: Name of the session in this process.
        sequence: The chunk's place in the ledger.

    Returns:
        What became of it, for a person; or a failed state, with the error on the flight, where
        the provider refuses the key or the account, or a record or reply could not be written.
    """
    run = session(session_name)
    flight = run.flights[sequence]
    if flight.entry.ending is not None:
        return flight.entry.ending.status
    try:
        return await _bring_to_its_end(run, flight)
    except BatchataError as error:
        # Raised, Prefect would log a traceback; what to do stands in the error's own words.
        flight.error = error
        return Failed(message=str(error))


async def _bring_to_its_end(run: Session, flight: Flight) -> str:
    try:
        if flight.entry.receipt is None and not await _buy(run, flight):
            return await _never_created(run, flight)
        batch = await _wait_for_end(run, flight)
        if batch is None:
            return _still_running(run, flight)
        return await _settle(run, flight, batch)
    except GaveUpError as error:
        get_run_logger().error("the provider does not answer (%s)", error)
        return _still_running(run, flight)


def _still_running(run: Session, flight: Flight) -> str:
    """Leave a chunk to the next run: its records say all that is needed to take it up."""
    receipt = flight.entry.receipt
    name = receipt.batch_id if receipt else "whether it was created is not known"
    summary = f"left to the next run ({name}); what it may cost stays reserved"
    get_run_logger().warning("%s", summary)
    return summary


async def _buy(run: Session, flight: Flight) -> bool:
    """Have exactly one provider batch for the chunk; False where there is none and will be none."""
    chunk = flight.entry.chunk
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    refusals = 0
    while flight.fresh:
        if chunk.provider in run.closed:
            flight.held_back = f"{chunk.provider} takes no batch"
            return False
        if run.is_ending:
            flight.held_back = run.stopped.reason if run.stopped else TIME_LIMIT
            return False
        flight.fresh = False
        try:
            batch = await provider.create(client, chunk, run.request_file(chunk.token))
        except Exception as error:
            if not provider.created_nothing(error):
                get_run_logger().warning(
                    "whether it was created is not known (%s); looking for it before anything "
                    "is sent again",
                    error,
                )
                break
            flight.fresh = True
            refusals += 1
            try:
                wait = refusal(run, flight, error, refusals)
            except BatchSubmissionError:
                flight.held_back = one_line(error)
                await _never_created(run, flight)
                raise
            if wait is None:
                return False
            flight.waiting_for = f"{provider.name} to take a batch ({one_line(error)})"
            await run.pause(wait)
            flight.waiting_for = None
        else:
            await _receive(run, flight, batch, adopted=False)
            return True
    return await _look_up(run, flight)


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
            run, flight, "list", lambda: provider.find(client, chunk, entry.since, _known(run))
        )
        if found.batch is not None:
            get_run_logger().info("found at the provider and taken over")
            await _receive(run, flight, found.batch, adopted=True)
            return True
        if found.undecided:
            if run.is_ending:
                raise GaveUpError(f"{found.undecided[0]} may be this batch, and has not ended")
            flight.waiting_for = f"{found.undecided[0]} to end, which may be this batch"
            await run.pause(run.pace.poll(asked - began, len(run.flights)))
        elif asked - began >= run.pace.lookup:
            flight.waiting_for = None
            return False
        else:
            flight.waiting_for = "the provider's list to catch up"
            await asyncio.sleep(max(0.05, run.pace.lookup - (asked - began)))


def _known(run: Session) -> frozenset[str]:
    """Ids of the provider batches that are a chunk's already."""
    return frozenset(e.receipt.batch_id for e in run.ledger if e.receipt is not None)


async def _receive(run: Session, flight: Flight, batch: ProviderBatch, *, adopted: bool) -> None:
    entry = flight.entry
    receipt = Receipt(batch.batch_id, batch.created_at or datetime.now(UTC), adopted)
    flight.waiting_for = None
    flight.batch = batch
    await _write_receipt(run, entry, receipt)
    entry.receipt = receipt
    if not adopted:
        get_run_logger().info("sent as %s", batch.batch_id)


async def _write_receipt(run: Session, entry: Entry, receipt: Receipt) -> None:
    """Make a receipt durable; a storage that refuses it for a while has time to recover.

    Raises:
        StateError: It refuses for `Pace.retry_longest` seconds.
    """
    assert run.records is not None
    clock = asyncio.get_running_loop().time
    began, failures = clock(), 0
    while True:
        try:
            await run.records.write_receipt(entry.chunk.sequence, receipt)
        except StateError as error:
            failures += 1
            if clock() - began > run.pace.retry_longest or run.out_of_patience:
                raise StateError(
                    f"{entry.chunk.name}: it was sent as {receipt.batch_id}, and that cannot be "
                    f"recorded: {error} The next run finds it at the provider, and nothing is "
                    "paid twice"
                ) from error
            get_run_logger().warning("its receipt cannot be stored yet: %s", error)
            await asyncio.sleep(backoff(run, failures))
        else:
            return


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
        batch = await persist(run, flight, "poll", lambda: provider.poll(client, batch_id))
        if inherited and flight.batch is None:
            flight.canceled_before = batch.state == "canceling" or batch.ending == "canceled"
        flight.batch = batch
        flight.succeeded, flight.failed = batch.succeeded, batch.failed
        if batch.state == "ended":
            return batch
        if run.is_ending and flight.canceled is None:
            if run.stopped is not None and run.stopped.on_cancel == "detach":
                return None
            flight.canceled = run.stopped.reason if run.stopped else TIME_LIMIT
            get_run_logger().warning("%s: canceling it", flight.canceled)
            batch = await persist(run, flight, "cancel", lambda: provider.cancel(client, batch_id))
            canceled_at = clock()
            if batch.state == "ended":
                return batch
        if canceled_at is not None and clock() - canceled_at > run.pace.settle:
            get_run_logger().error(
                "still %s %d s after its cancellation; what it may cost stays reserved and the "
                "next run collects it",
                batch.raw_status,
                run.pace.settle,
            )
            return None
        flight.waiting_for = None if canceled_at is None else f"{batch_id} to end, as asked"
        await run.pause(run.pace.poll(clock() - (canceled_at or began), len(run.flights)))


async def _settle(run: Session, flight: Flight, batch: ProviderBatch) -> str:
    """Download and read the replies, write the ending, and tell the jobs what became of them."""
    entry = flight.entry
    chunk = entry.chunk
    if is_turned_away(batch) and not _is_too_large(run, chunk, batch):
        return await _turned_away(run, flight, batch)
    try:
        collected = await _collect(run, flight, batch)
    except OSError as error:
        raise _local_trouble(run, entry, error) from error
    if collected.strangers:
        get_run_logger().warning(
            "%d rows are not of this batch or came twice; they were left out",
            collected.strangers,
        )
    ending = Ending(
        status=batch.ending or "ended",
        marks=collected.marks,
        cost_usd=collected.cost_usd,
        usage=collected.usage,
        ended_at=batch.ended_at or datetime.now(UTC),
        reason=LOST if flight.lost else flight.canceled or fault_text(batch),
    )
    await close(run, flight, ending)
    run.let_in(chunk.provider, chunk.model)
    await _tidy(run, flight, batch)
    answered = ending.marks.count(ANSWERED)
    cost = "unknown cost" if ending.cost_usd is None else f"${ending.cost_usd:.4f}"
    summary = f"{ending.status}, {answered:,} of {chunk.count:,} answered, {cost}"
    get_run_logger().info("%s", summary)
    return summary


def _is_too_large(run: Session, chunk: Chunk, batch: ProviderBatch) -> bool:
    """Whether a job that was alone in its batch would be turned away for ever."""
    most = told(fault_text(batch))
    part = share(run.ledger, chunk.provider, chunk.model)
    return chunk.count == 1 and most is not None and chunk.input_tokens * part > most


async def _turned_away(run: Session, flight: Flight, batch: ProviderBatch) -> str:
    """Let the jobs wait for others to end: nothing was run or billed, and it is no attempt."""
    chunk = flight.entry.chunk
    ending = Ending(
        status="turned_away",
        marks=AGAIN * chunk.count,
        cost_usd=Decimal(0),
        usage=Usage(),
        ended_at=batch.ended_at or datetime.now(UTC),
        reason=fault_text(batch),
    )
    await close(run, flight, ending)
    await _tidy(run, flight, batch)
    run.turn_away(chunk.provider, chunk.model)
    get_run_logger().warning(
        "too many tokens wait at %s: sending it again as others end (%s)",
        chunk.provider,
        ending.reason,
    )
    return "turned away"


async def _collect(run: Session, flight: Flight, batch: ProviderBatch) -> Collected:
    """Download the replies and read them; again, where rows of them cannot be read.

    Raises:
        OSError: They cannot be stored.
    """
    times = 0
    while True:
        try:
            replies = await fetch(run, flight, batch) if batch.ending != "failed" else None
        except NotThereError:
            if not _is_past_retention(run, batch):
                raise
            return await asyncio.to_thread(_lose, run, flight, batch)
        async with run.reading:
            collected = await asyncio.to_thread(
                read_chunk,
                run,
                flight.entry,
                flight.ordinals,
                replies,
                batch,
                flight.canceled,
                short=flight.short,
            )
        times += 1
        if replies is None or not collected.unreadable or times == _UNREADABLE_TIMES:
            return collected
        get_run_logger().warning(
            "%d rows cannot be read, fetching them again", collected.unreadable
        )
        replies.unlink()
        await run.pause(backoff(run, times))


def _is_past_retention(run: Session, batch: ProviderBatch) -> bool:
    ended = batch.ended_at
    return ended is not None and datetime.now(UTC) - ended > timedelta(seconds=run.pace.retention)


def _lose(run: Session, flight: Flight, batch: ProviderBatch) -> Collected:
    """What a batch came to whose results are gone: paid, at an unknown cost, not sent again."""
    get_run_logger().error("%s: %s", batch.batch_id, LOST)
    flight.lost = True
    collected = read_chunk(run, flight.entry, flight.ordinals, None, batch, None, lost=True)
    return replace(collected, cost_usd=None)


async def _never_created(run: Session, flight: Flight) -> str:
    """Close a chunk that the provider does not have: its jobs fail, or go out again."""
    chunk = flight.entry.chunk
    marks = AGAIN * chunk.count
    if flight.refused is not None:
        collected = await asyncio.to_thread(
            read_chunk,
            run,
            flight.entry,
            flight.ordinals,
            None,
            None,
            flight.refused,
            refused_places=flight.refused_places,
        )
        marks = collected.marks
    reason = flight.refused or flight.held_back
    ending = Ending(
        status="never_created",
        marks=marks,
        cost_usd=Decimal(0),
        usage=Usage(),
        ended_at=datetime.now(UTC),
        reason=reason,
    )
    await close(run, flight, ending)
    run.request_file(chunk.token).unlink(missing_ok=True)
    get_run_logger().info("not created, nothing paid (%s)", reason or "no trace of it there")
    return "never created"


async def close(run: Session, flight: Flight, ending: Ending) -> None:
    """Write a chunk's ending and move its jobs on."""
    assert run.records is not None
    entry = flight.entry
    await run.records.write_ending(entry.chunk.sequence, ending)
    entry.ending = ending
    await take_in(run, entry, flight.ordinals, resumed=flight.canceled_before)


async def take_in(run: Session, entry: Entry, ordinals: Sequence[int], *, resumed: bool) -> None:
    """Let the jobs of an ended chunk know what became of them.

    Args:
        run: The session.
        entry: The chunk.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        resumed: Whether what was canceled was canceled by an earlier run: it goes out again.
    """
    assert entry.ending is not None
    changed: frozenset[int] = frozenset()
    if NOT_AS_ASKED in entry.ending.marks and run.settings.max_reasks:
        changed = await asyncio.to_thread(reask, run, entry, ordinals)
    run.spool.mark(moves(run, ordinals, entry.ending, resumed=resumed, changed=changed))


def moves(
    run: Session,
    ordinals: Sequence[int],
    ending: Ending,
    *,
    resumed: bool = False,
    changed: frozenset[int] = frozenset(),
) -> Iterator[tuple[int, int, int]]:
    """What an ending does to its jobs: (new state, attempts to add, ordinal).

    A run does not send again what was canceled in it; the next run does (`resumed`). `changed`
    are the jobs that have a changed request for their next attempt.
    """
    counted = ending.status not in NEVER_SENT
    for letter, ordinal in zip(ending.marks, ordinals, strict=True):
        if ordinal < 0:
            continue
        if letter == ANSWERED:
            yield JOB_ANSWERED, 0, ordinal
        elif letter == FAILED:
            yield JOB_FAILED, 0, ordinal
        elif letter == CANCELED:
            yield (WAITING if resumed else JOB_CANCELED), 0, ordinal
        elif letter == NOT_AS_ASKED:
            yield (WAITING if ordinal in changed else JOB_FAILED), 1, ordinal
        elif not counted:
            yield WAITING, 0, ordinal
        elif run.spool.attempts(ordinal) + 1 < run.settings.max_attempts:
            yield WAITING, 1, ordinal
        else:
            yield JOB_FAILED, 1, ordinal


async def _tidy(run: Session, flight: Flight, batch: ProviderBatch) -> None:
    """Delete the upload and, where raw files are off, the chunk file; no harm if it fails."""
    chunk = flight.entry.chunk
    try:
        await run.providers[chunk.provider].discard(run.clients[chunk.provider], batch)
    except Exception as error:
        get_run_logger().info("its upload was not deleted (%s)", one_line(error))
    if not run.settings.raw_files:
        run.request_file(chunk.token).unlink(missing_ok=True)


def _local_trouble(run: Session, entry: Entry, error: OSError) -> StateError:
    where = run.results_dir
    batch = entry.receipt.batch_id if entry.receipt else "the batch"
    return StateError(
        f"{entry.chunk.name}: its answers cannot be stored in {str(where)!r}: {error.strerror}. "
        f"They stay with the provider as {batch} (29 days at Anthropic, 30 at OpenAI); make room "
        "and run again, nothing is paid twice"
    )
