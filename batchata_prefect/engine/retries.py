"""Trying again: one loop, and for each kind of call what it waits for and when it gives up."""

from __future__ import annotations

import asyncio
import logging
import random
import shlex
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from prefect import get_run_logger

from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import BatchSubmissionError, ProviderError, StateError
from batchata_prefect.models import Chunk
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import Entry
from batchata_prefect.numbers import counted, told_usd
from batchata_prefect.providers import wire
from batchata_prefect.providers.failures import Failure, HeldBackError, classify
from batchata_prefect.records.store import TakenOverError

T = TypeVar("T")


STUCK_TIMES = 3
"""Failures in a row after which a batch that is not taken holds no place of another provider's."""


class GaveUpError(Exception):
    """A run that is ending has waited long enough for a provider; nothing of it is lost."""


class NotThereError(ProviderError):
    """The provider does not know one of its own batches, or has no results of it."""


class UnseenError(GaveUpError):
    """A batch has ended, and the provider does not give what it may have billed of it."""


def way_out(run: Session, entry: Entry) -> str:
    """What a person can do about a batch of which something cannot be had, ever."""
    which = entry.receipt.batch_id if entry.receipt else f"{entry.chunk.sequence + 1}"
    where = run.settings.results_url or run.settings.results_dir
    return (
        f"Where it cannot be had any more, `batchata adopt {shlex.quote(where)} --write-off "
        f"{which}` lets the next run go on without it: what is missing then fails, and counts at "
        "its upper bound"
    )


async def patiently(
    run: Session, call: Callable[[], Awaitable[T]], after: Callable[[Exception, int], float | None]
) -> T:
    """Make a call until it succeeds.

    Args:
        run: The session; its stop and its deadline end a wait.
        call: The call.
        after: Given an error and how many there were in a row, the seconds to wait, None for the
            run's own pace; it raises where trying again is of no use.
    """
    failures = 0
    while True:
        try:
            return await call()
        except Exception as error:
            failures += 1
            seconds = after(error, failures)
        # A provider that asks for no time at all is not called in a loop without a breath.
        least = backoff(run, 0 if seconds is not None else failures)
        await run.pause(max(seconds or 0.0, least))


async def persist(run: Session, flight: Flight, what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Make a free call until it succeeds; hours of trouble at the provider cost only time.

    Raises:
        ProviderError: The provider refuses the key or the account.
        NotThereError: The provider does not know what was asked for, for `Pace.unknown` seconds.
        GaveUpError: The run is ending, and `Pace.settle` seconds of it have passed.
    """
    name = flight.entry.chunk.name
    unknown_since: float | None = None
    clock = asyncio.get_running_loop().time

    def after(error: Exception, failures: int) -> float | None:
        nonlocal unknown_since
        failure = classify(error)
        if failure.kind == "ours":
            raise error
        if failure.kind == "account":
            raise ProviderError(
                f"{name}: the provider refused to {what} ({failure.text}). The batch goes on there "
                f"and nothing is lost. {failure.what_to_do}, then run again"
            ) from error
        if failure.kind == "wait":
            unknown_since = None
        else:
            # What was just made may be unknown for a while, and results may come after the end.
            unknown_since = clock() if unknown_since is None else unknown_since
            patience = 0 if flight.entry.written_off else run.pace.unknown
            if clock() - unknown_since >= patience:
                raise NotThereError(
                    f"{name}: the provider has had nothing to {what} for {run.pace.unknown:.0f} s "
                    f"({failure.text}). Its cost stays reserved; check that the key is of the "
                    "account and workspace that the batch was sent from. "
                    + way_out(run, flight.entry)
                ) from error
        if run.out_of_patience:
            raise GaveUpError(failure.text) from error
        if flight.entry.receipt is None and failures >= STUCK_TIMES:
            run.stuck[flight.entry.chunk.provider] = failure.text
        loud = failures in {3, 10} or failures % 50 == 0
        get_run_logger().log(
            logging.WARNING if loud else logging.INFO,
            "%s failed %d times (%s); nothing is lost, trying again%s",
            what,
            failures,
            failure.text,
            "" if failure.seconds is None else f" in {failure.seconds:.0f} s, as asked",
        )
        flight.waiting_for = f"the provider ({what}: {failure.text})"
        return failure.seconds

    result = await patiently(run, call, after)
    flight.waiting_for = None
    return result


async def keep(
    run: Session, entry: Entry, what: str, write: Callable[[], Awaitable[None]], *, lost: str
) -> None:
    """Make a record durable; a storage that refuses it for a while has time to recover.

    Each time only while the run is owned: a storage that was away for long, or a process that was
    stopped, may have let another one take over.

    Args:
        run: The session.
        entry: The chunk.
        what: Kind of record, for a person.
        write: Writes it.
        lost: What is so at the provider where it stays unwritten.

    Raises:
        TakenOverError: Another process has taken over.
        StateError: It is refused for `Pace.retry_longest` seconds.
    """
    clock = asyncio.get_running_loop().time
    began = clock()

    async def owned() -> None:
        if run.lease is not None:
            await run.lease.hold()
        await write()

    def after(error: Exception, _: int) -> None:
        if isinstance(error, TakenOverError) or not isinstance(error, StateError):
            raise error
        if clock() - began > run.pace.retry_longest or run.out_of_patience:
            raise StateError(f"{entry.chunk.name}: {lost} {error}") from error
        get_run_logger().warning("its %s cannot be stored yet: %s", what, error)

    await patiently(run, owned, after)


async def own(run: Session, entry: Entry) -> None:
    """Make sure that no other process has taken the run over; right before anything is bought.

    A machine may sleep between any two steps, and its clock for timeouts stands still meanwhile.

    Raises:
        TakenOverError: Another process has taken over.
        StateError: The lease cannot be renewed for `Pace.retry_longest` seconds.
    """

    async def nothing() -> None:
        """There is nothing to write besides."""

    await keep(run, entry, "lease", nothing, lost="nothing more of it is sent:")


def still_owned(run: Session, *, fresh: bool) -> AbstractContextManager[None]:
    """Have what costs money inside leave only while the run is owned; see `wire.guarded`.

    Args:
        run: The session.
        fresh: Whether the records are asked in any case, and not only where the lease is not new.
    """

    async def guard() -> None:
        try:
            if run.lease is not None:
                await run.lease.hold(fresh=fresh)
        except StateError as error:
            raise HeldBackError(str(error)) from error

    return wire.guarded(guard)


def no_batch(run: Session, chunk: Chunk, failure: Failure) -> BatchSubmissionError:
    """The error of a create after which no batch of its provider will be taken."""
    return BatchSubmissionError(
        f"{chunk.name}: {chunk.provider} refused it ({failure.text}). Nothing was created or paid "
        f"for its {counted(chunk.count, 'job')}, and nothing more is sent to "
        f"{chunk.provider} in this run, which has spent "
        f"{told_usd(budget.spent(run.ledger))} so far. {failure.what_to_do}, then "
        "run again: what was answered is kept, and only the rest is sent"
    )


def backoff(run: Session, failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded, with jitter."""
    base = min(run.pace.poll_shortest * 2.0 ** min(failures, 20), run.pace.retry_longest)
    return base * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
