"""The provider batch as a Prefect task: create, poll, download, settle.

Every step can be entered again: what was done before stands in the records. Only `create` costs
money, and only `create` is never repeated before it is proven that it made nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from batchata_prefect.calls import one_line, persist, refusal
from batchata_prefect.errors import BatchataError, StateError
from batchata_prefect.ledger import AGAIN, ANSWERED, CANCELED, FAILED, Ending, Entry, Receipt
from batchata_prefect.models import ProviderBatch, Usage
from batchata_prefect.replies import TIME_LIMIT, fault_text, fetch, read_chunk
from batchata_prefect.session import Flight, Session, session
from batchata_prefect.spool import ANSWERED as JOB_ANSWERED
from batchata_prefect.spool import CANCELED as JOB_CANCELED
from batchata_prefect.spool import FAILED as JOB_FAILED
from batchata_prefect.spool import WAITING

LONGEST_SECONDS = 26 * 3600.0
"""A provider gives up after 24 h [both Batch API guides]; the rest is for queueing and download."""


def _mendable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Errors of ours say what a person has to do; repeating the task does not do it."""
    return not isinstance(state.data, (BatchataError, asyncio.CancelledError))


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
async def provider_batch(label: str, session_name: str, sequence: int) -> str:
    """Take one chunk from its intent to its ending.

    Args:
        label: Name of the task run.
        session_name: Name of the session in this process.
        sequence: The chunk's place in the ledger.

    Returns:
        What became of it, for a person.

    Raises:
        BatchSubmissionError: The provider refuses the key or the account.
        StateError: A record or a reply could not be written.
    """
    run = session(session_name)
    flight = run.flights[sequence]
    if flight.entry.receipt is None and not await _buy(run, flight):
        return await _never_created(run, flight)
    if flight.entry.ending is not None:
        return flight.entry.ending.status
    batch = await _wait_for_end(run, flight)
    if batch is None:
        return "still running at the provider"
    return await _settle(run, flight, batch)


async def _buy(run: Session, flight: Flight) -> bool:
    """Have exactly one provider batch for the chunk; False where there is none and will be none."""
    chunk = flight.entry.chunk
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    refusals = 0
    while flight.fresh:
        if run.seconds_left is not None and run.seconds_left <= 0:
            flight.refused = TIME_LIMIT
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
            wait = refusal(run, flight, error, refusals)
            if wait is None:
                return False
            flight.waiting_for = f"{provider.name} to take a batch ({one_line(error)})"
            await _sleep(run, wait)
            flight.waiting_for = None
        else:
            await _receive(run, flight, batch, adopted=False)
            return True
    return await _look_up(run, flight)


async def _look_up(run: Session, flight: Flight) -> bool:
    """Find the batch of an uncertain create; False where it is proven that there is none."""
    entry = flight.entry
    chunk = entry.chunk
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    began = asyncio.get_running_loop().time()
    while True:
        asked = asyncio.get_running_loop().time()
        found = await persist(
            run, flight, "list", lambda: provider.find(client, chunk, entry.since, _known(run))
        )
        if found.batch is not None:
            get_run_logger().info("found at the provider and taken over")
            await _receive(run, flight, found.batch, adopted=True)
            return True
        if found.undecided:
            flight.waiting_for = f"{found.undecided[0]} to end, which may be this batch"
            await _sleep(run, run.pace.poll(asked - began, len(run.flights)))
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
    assert run.records is not None
    await run.records.write_receipt(entry.chunk.sequence, receipt)
    entry.receipt = receipt
    if not adopted:
        get_run_logger().info("sent as %s", batch.batch_id)


async def _wait_for_end(run: Session, flight: Flight) -> ProviderBatch | None:
    """Poll until the batch has ended; None where it did not settle after its cancellation."""
    entry = flight.entry
    assert entry.receipt is not None
    chunk, batch_id = entry.chunk, entry.receipt.batch_id
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    cancel_at: float | None = None
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        batch = await persist(run, flight, "poll", lambda: provider.poll(client, batch_id))
        flight.batch = batch
        flight.succeeded, flight.failed = batch.succeeded, batch.failed
        if batch.state == "ended":
            return batch
        left = run.seconds_left
        if left is not None and left <= 0 and flight.canceled is None:
            flight.canceled = TIME_LIMIT
            get_run_logger().warning("time limit reached, canceling it")
            batch = await persist(run, flight, "cancel", lambda: provider.cancel(client, batch_id))
            cancel_at = clock()
            if batch.state == "ended":
                return batch
        if cancel_at is not None and clock() - cancel_at > run.pace.settle:
            get_run_logger().error(
                "still %s %d s after its cancellation; what it cost stays reserved and the "
                "next run collects it",
                batch.raw_status,
                run.pace.settle,
            )
            return None
        age = clock() - (cancel_at or began)
        await _sleep(run, run.pace.poll(age, len(run.flights)), through=cancel_at is not None)


async def _sleep(run: Session, seconds: float, *, through: bool = False) -> None:
    """Sleep, but not past the deadline unless `through` it."""
    left = run.seconds_left
    if left is not None and not through:
        seconds = min(seconds, max(left, 0.0))
    await asyncio.sleep(max(seconds, 0.02))


async def _settle(run: Session, flight: Flight, batch: ProviderBatch) -> str:
    """Download and read the replies, write the ending, and tell the jobs what became of them."""
    entry = flight.entry
    chunk = entry.chunk
    replies = None
    if batch.ending != "failed":
        try:
            replies = await fetch(run, flight, batch)
        except OSError as error:
            raise _local_trouble(run, entry, error) from error
    try:
        async with run.reading:
            collected = await asyncio.to_thread(
                read_chunk,
                run,
                entry,
                flight.ordinals,
                replies,
                batch,
                flight.canceled,
                short=flight.short,
            )
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
        reason=flight.canceled or fault_text(batch),
    )
    await close(run, flight, ending)
    await _tidy(run, flight, batch)
    answered = ending.marks.count(ANSWERED)
    cost = "unknown cost" if ending.cost_usd is None else f"${ending.cost_usd:.4f}"
    told = f"{ending.status}, {answered:,} of {chunk.count:,} answered, {cost}"
    get_run_logger().info("%s", told)
    return told


async def _never_created(run: Session, flight: Flight) -> str:
    chunk = flight.entry.chunk
    letter = AGAIN if flight.refused in {None, TIME_LIMIT} else FAILED
    if letter == FAILED:
        await asyncio.to_thread(
            read_chunk, run, flight.entry, flight.ordinals, None, None, flight.refused
        )
    ending = Ending(
        status="never_created",
        marks=letter * chunk.count,
        cost_usd=Decimal(0),
        usage=Usage(),
        ended_at=datetime.now(UTC),
        reason=flight.refused,
    )
    await close(run, flight, ending)
    run.request_file(chunk.token).unlink(missing_ok=True)
    get_run_logger().info("not created, nothing paid (%s)", flight.refused)
    return "never created"


async def close(run: Session, flight: Flight, ending: Ending) -> None:
    """Write a chunk's ending and move its jobs on."""
    assert run.records is not None
    await run.records.write_ending(flight.entry.chunk.sequence, ending)
    flight.entry.ending = ending
    run.spool.mark(moves(run, flight.ordinals, ending))


def moves(
    run: Session, ordinals: Sequence[int], ending: Ending, *, resumed: bool = False
) -> Iterator[tuple[int, int, int]]:
    """What an ending does to its jobs: (new state, attempts to add, ordinal).

    A run does not send again what was canceled in it; the next run does (`resumed`).
    """
    counted = ending.status != "never_created"
    for letter, ordinal in zip(ending.marks, ordinals, strict=True):
        if ordinal < 0:
            continue
        if letter == ANSWERED:
            yield JOB_ANSWERED, 0, ordinal
        elif letter == FAILED:
            yield JOB_FAILED, 0, ordinal
        elif letter == CANCELED:
            yield (WAITING if resumed else JOB_CANCELED), 0, ordinal
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
