"""From an ended provider batch to the ending of its chunk: download, read, settle the cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

from prefect import get_run_logger

from batchata_prefect.answers import Usage
from batchata_prefect.engine.download import fetch
from batchata_prefect.engine.endings import close
from batchata_prefect.engine.read_chunk import fault_text, no_batch_for, read_chunk, rowless
from batchata_prefect.engine.retries import NotThereError, backoff, no_batch
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import StateError, blanked, one_line
from batchata_prefect.models import Chunk, ProviderBatch
from batchata_prefect.money.budget import input_share
from batchata_prefect.money.ledger import (
    AGAIN,
    FAILED,
    LOST,
    WRITTEN_OFF,
    Ending,
    EndingStatus,
    Entry,
)
from batchata_prefect.money.quota import TURNED_AWAY_CODE, is_turned_away, told
from batchata_prefect.numbers import told_usd
from batchata_prefect.providers.failures import Failure, Kind, classify_code
from batchata_prefect.results.read import Collected

_TIDY_SECONDS = 10.0
"""For which a run waits to see its uploads deleted: they end by themselves."""

_SENT_BACK_TIMES = 6
"""Batches in a row whose file the provider does not see, after which it is sent no more."""

_UNREADABLE_TIMES = 3
"""Downloads after which a row that cannot be read is the provider's and not the transfer's."""


async def settle(run: Session, flight: Flight, batch: ProviderBatch) -> None:
    """Download and read the replies, write the ending, and tell the jobs what became of them."""
    entry = flight.entry
    chunk = entry.chunk
    if is_turned_away(batch) and not _is_too_large(run, chunk, fault_text(batch)):
        await _turned_away(run, flight, fault_text(batch), batch)
        return
    if batch.ending == "failed" and (kind := _not_for_its_jobs(batch)) is not None:
        await _sent_back(run, flight, batch, kind)
        return
    try:
        collected = await _collect(run, flight, batch)
    except OSError as error:
        raise _local_trouble(run, entry, error) from error
    if collected.strangers:
        get_run_logger().warning(
            "%d rows are not of this batch or came twice; they were left out",
            collected.strangers,
        )
    reason = flight.canceled or fault_text(batch)
    if flight.lost:
        reason = LOST
    elif flight.short and entry.written_off:
        reason = WRITTEN_OFF
    await end(run, flight, collected, reason, batch.ending, batch.ended_at)
    await _tidy(run, chunk, batch)


async def write_off(run: Session, flight: Flight) -> None:
    """End a chunk of whose batch nothing can be had, as a person has said."""
    path = run.reply_file(flight.entry.chunk.token)
    try:
        replies = path if path.exists() else None
        collected = await run.alone(_written_off, run, flight, replies)
    except OSError as error:
        raise _local_trouble(run, flight.entry, error) from error
    await end(run, flight, collected, WRITTEN_OFF)


async def end(
    run: Session,
    flight: Flight,
    collected: Collected,
    reason: str | None,
    status: EndingStatus | None = None,
    ended_at: datetime | None = None,
) -> None:
    """Write the ending of a chunk that was read."""
    chunk = flight.entry.chunk
    ending = Ending(
        status=status or "ended",
        marks=collected.marks,
        cost_usd=collected.cost_usd,
        usage=collected.usage,
        ended_at=ended_at or datetime.now(UTC),
        reason=reason,
        cache_saved_usd=collected.cache_saved_usd,
    )
    await close(run, flight, ending)
    run.turned_away.let_in(chunk.provider, chunk.model)
    _tell_overshoot(chunk, ending)


def _tell_overshoot(chunk: Chunk, ending: Ending) -> None:
    held, cost = chunk.reserved_usd, ending.cost_usd
    if held is not None and cost is not None and cost > held:
        get_run_logger().warning(
            "it cost %s, more than its upper bound of %s; the next batches of %s reserve as "
            "much more. If its price is not right, give yours with prices=",
            told_usd(cost),
            told_usd(held),
            chunk.model,
        )


def _is_too_large(run: Session, chunk: Chunk, reason: str | None) -> bool:
    """Whether a job that was alone in its batch would be turned away for ever."""
    most = told(reason)
    part = input_share(run.ledger, chunk.provider, chunk.model)
    return chunk.count == 1 and most is not None and chunk.input_tokens * part > most


async def _turned_away(
    run: Session, flight: Flight, reason: str | None, batch: ProviderBatch | None
) -> None:
    """Let the jobs wait for others to end: nothing was run or billed, and it is no attempt."""
    chunk = flight.entry.chunk
    await _end_unpaid(run, flight, "turned_away", reason, batch)
    run.turned_away.add(chunk.provider, chunk.model)
    get_run_logger().warning(
        "too many tokens wait at %s: sending it again as others end (%s)", chunk.provider, reason
    )


def _not_for_its_jobs(batch: ProviderBatch) -> Kind | None:
    """Why a provider failed a whole batch before anything ran, where that says nothing of its jobs.

    OpenAI takes a batch and looks at its file and at the account afterwards [Batch API guide].
    """
    kinds = {classify_code(fault.code, fault.message) for fault in batch.faults if not fault.line}
    return next((kind for kind in ("account", "unseen") if kind in kinds), None)


async def _sent_back(run: Session, flight: Flight, batch: ProviderBatch, kind: Kind) -> None:
    """Let the jobs wait: it is no attempt at them, and they go out again, now or in the next run.

    Raises:
        BatchSubmissionError: The account is refused, or goes on not to see what was uploaded.
    """
    chunk, reason = flight.entry.chunk, fault_text(batch)
    await _end_unpaid(run, flight, "never_created", reason, batch)
    times = run.turned_away.add(chunk.provider, chunk.model)
    if kind == "account" or times >= _SENT_BACK_TIMES:
        failure = Failure(kind, blanked(reason or ""), of_money=kind == "account")
        run.closed.setdefault(chunk.provider, error := no_batch(run, chunk, failure))
        raise error
    get_run_logger().warning("it was not begun (%s): sending it again later", reason)


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
            return await run.alone(_lose, run, flight, batch)
        if flight.short and flight.entry.written_off:
            return await run.alone(_written_off, run, flight, replies)
        no_reply = rowless(batch, flight.canceled, short=flight.short)
        entry, ordinals = flight.entry, flight.ordinals
        collected = await run.alone(
            read_chunk, run, entry, ordinals, replies, flight.canceled, no_reply
        )
        if flight.short:
            return await run.alone(_at_bound, run, flight, collected)
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
    told = FAILED, "answer_lost", f"{batch.batch_id} was paid for, and {LOST}"
    collected = read_chunk(run, flight.entry, flight.ordinals, None, None, lambda _: told)
    return replace(collected, cost_usd=None)


def _written_off(run: Session, flight: Flight, replies: Path | None) -> Collected:
    """What can be had of a batch that a person has written off; what cannot counts at its bound."""
    entry = flight.entry
    name = entry.receipt.batch_id if entry.receipt else entry.chunk.name
    told = FAILED, "answer_lost", f"{name} may have been paid for, and {WRITTEN_OFF}"
    collected = read_chunk(run, entry, flight.ordinals, replies, flight.canceled, lambda _: told)
    return _at_bound(run, flight, collected)


def _at_bound(run: Session, flight: Flight, collected: Collected) -> Collected:
    """The same with what is not seen and may be billed, which counts at its upper bound."""
    chunk = flight.entry.chunk
    held, cost = chunk.reserved_usd, collected.cost_usd
    if not collected.missing:
        return collected
    if held is None or cost is None:
        return replace(collected, cost_usd=None)
    unseen = unseen_usd(run, chunk, [flight.ordinals[place] for place in collected.missing])
    return replace(collected, cost_usd=None if unseen is None else cost + unseen)


def unseen_usd(run: Session, chunk: Chunk, ordinals: Sequence[int]) -> Decimal | None:
    """What requests of a chunk may have cost whose replies nobody sees, in USD.

    Their upper bounds, and never more than is held for the chunk, which it is where a job is gone
    or a price is not known any more; None where nothing is held.
    """
    terms, total = run.spool.terms(ordinals), Decimal(0)
    for ordinal in ordinals:
        if ordinal < 0:
            return chunk.reserved_usd
        _, input_bound, output_bound = run.spool.tokens(ordinal)
        usd = run.prices.bound(
            chunk.provider,
            chunk.model,
            input_bound,
            output_bound,
            realtime=chunk.realtime,
            terms=terms,
        )
        if usd is None:
            return chunk.reserved_usd
        total += usd * Decimal(chunk.correction)
    return total if chunk.reserved_usd is None else min(total, chunk.reserved_usd)


async def never_created(run: Session, flight: Flight) -> None:
    """Close a chunk that the provider does not have: its jobs fail, or go out again."""
    marks, refused = None, flight.refused
    # Azure says so of the create, in place of a batch that fails ["fail fast" in how-to/batch].
    if (
        refused is not None
        and refused.code == TURNED_AWAY_CODE
        and not _is_too_large(run, flight.entry.chunk, refused.text)
    ):
        await _turned_away(run, flight, refused.text, None)
        return
    if refused is not None:
        no_reply = partial(no_batch_for, refused)
        collected = await run.alone(
            read_chunk, run, flight.entry, flight.ordinals, None, refused.text, no_reply
        )
        marks = collected.marks
    reason = refused.text if refused is not None else flight.held_back
    await _end_unpaid(run, flight, "never_created", reason, None, marks)


async def _end_unpaid(
    run: Session,
    flight: Flight,
    status: EndingStatus,
    reason: str | None,
    batch: ProviderBatch | None,
    marks: str | None = None,
) -> None:
    """Write the ending of a chunk that cost nothing; its jobs go out again, or as marked."""
    chunk = flight.entry.chunk
    ending = Ending(
        status=status,
        marks=marks or AGAIN * chunk.count,
        cost_usd=Decimal(0),
        usage=Usage(),
        ended_at=(batch.ended_at if batch else None) or datetime.now(UTC),
        reason=reason,
    )
    await close(run, flight, ending)
    await _tidy(run, chunk, batch)


async def _tidy(run: Session, chunk: Chunk, batch: ProviderBatch | None) -> None:
    """Delete what was uploaded and, where raw files are off, the chunk file; no harm if it fails.

    Args:
        run: The session.
        chunk: The chunk.
        batch: Its batch; None where none was made.
    """
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    try:
        async with asyncio.timeout(_TIDY_SECONDS):
            if batch is None:
                await provider.withdraw(client, chunk)
            else:
                await provider.discard(client, batch)
    except Exception as error:
        get_run_logger().info("its upload was not deleted (%s)", one_line(error))
    if batch is None or not run.settings.raw_files:
        run.request_file(chunk.token).unlink(missing_ok=True)


def _local_trouble(run: Session, entry: Entry, error: OSError) -> StateError:
    where = run.results_dir
    batch = entry.receipt.batch_id if entry.receipt else "the batch"
    days = run.providers[entry.chunk.provider].keeps_days
    return StateError(
        f"{entry.chunk.name}: its answers cannot be stored in {str(where)!r}: {error.strerror}. "
        f"They stay with {entry.chunk.provider} as {batch}{f' for {days} days' if days else ''}; "
        "make room and run again, nothing is paid twice"
    )
