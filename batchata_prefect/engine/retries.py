"""Calls to a provider that may fail: how long to be patient, and when a person is needed."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from prefect import get_run_logger

from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import BatchSubmissionError, ProviderError, StateError, one_line
from batchata_prefect.money.ledger import Entry
from batchata_prefect.providers import wire
from batchata_prefect.records.store import TakenOverError

T = TypeVar("T")

_STOP_STATUSES = {401, 402, 403}
"""The key or the account is refused: every further call would be too."""
_UNKNOWN_STATUSES = {400, 404, 410, 422}
"""What was just made may be unknown for a while, and results may come after the end."""
_PLACE = re.compile(r"\brequests[.\[](\d+)\b")
"""The request that a refusal of a whole create names, counted from 0: `requests.3.custom_id: ...`
[recorded replies of Anthropic's create]."""


class GaveUpError(Exception):
    """A run that is ending has waited long enough for a provider; nothing of it is lost."""


class NotThereError(ProviderError):
    """The provider does not know one of its own batches, or has no results of it."""


async def persist(run: Session, flight: Flight, what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Make a free call until it succeeds; hours of trouble at the provider cost only time.

    Raises:
        ProviderError: The provider refuses the key.
        NotThereError: The provider does not know what was asked for, for `Pace.unknown` seconds.
        GaveUpError: The run is ending, and `Pace.settle` seconds of it have passed.
    """
    failures = 0
    unknown_since: float | None = None
    clock = asyncio.get_running_loop().time
    while True:
        try:
            result = await call()
        except Exception as error:
            failures += 1
            status = _status(error)
            if isinstance(error, OSError) and not _is_network(error):
                raise
            if status in _STOP_STATUSES:
                raise ProviderError(
                    f"{flight.entry.chunk.name}: the provider refused to {what} "
                    f"({one_line(error)}). The batch goes on there and nothing is lost: mend the "
                    "key and run again"
                ) from error
            if status in _UNKNOWN_STATUSES:
                unknown_since = clock() if unknown_since is None else unknown_since
                if clock() - unknown_since > run.pace.unknown:
                    raise NotThereError(
                        f"{flight.entry.chunk.name}: the provider has had nothing to {what} for "
                        f"{run.pace.unknown:.0f} s ({one_line(error)}). Its cost stays reserved; "
                        "check that the key is of the account and workspace that the batch was "
                        "sent from"
                    ) from error
            elif status is None and not _is_network(error):
                raise
            else:
                unknown_since = None
            if run.out_of_patience:
                raise GaveUpError(one_line(error)) from error
            wait = retry_after(error) or backoff(run, failures)
            loud = failures in {3, 10} or failures % 50 == 0
            get_run_logger().log(
                logging.WARNING if loud else logging.INFO,
                "%s failed %d times (%s); nothing is lost, next try in %.0f s",
                what,
                failures,
                one_line(error),
                wait,
            )
            flight.waiting_for = f"the provider ({what}: {one_line(error)})"
            await run.pause(wait)
        else:
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
    began, failures = clock(), 0
    while True:
        try:
            if run.lease is not None:
                await run.lease.hold()
            await write()
        except TakenOverError:
            raise
        except StateError as error:
            failures += 1
            if clock() - began > run.pace.retry_longest or run.out_of_patience:
                raise StateError(f"{entry.chunk.name}: {lost} {error}") from error
            get_run_logger().warning("its %s cannot be stored yet: %s", what, error)
            await asyncio.sleep(backoff(run, failures))
        else:
            return


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
            raise wire.HeldBackError(str(error)) from error

    return wire.guarded(guard)


def refusal(run: Session, flight: Flight, error: Exception, refusals: int) -> float | None:
    """Seconds to wait after a create that made nothing; None where the chunk is refused.

    Raises:
        BatchSubmissionError: No batch of this provider will be taken.
    """
    status = _status(error)
    name = flight.entry.chunk.name
    seconds = retry_after(error)
    quota = getattr(error, "code", None) == "insufficient_quota"
    # A 429 without retry-after is a monthly spend cap: waiting hours does not lift it
    # [Anthropic api/errors, rate-limits; OpenAI error codes].
    capped = status == 402 or quota or (status == 429 and seconds is None)
    if status in _STOP_STATUSES or capped:
        why = (
            "The account's credit or monthly spend limit is used up, and waiting does not lift it: "
            "raise it in the provider's console"
            if capped
            else "Check the API key and what it may do"
        )
        raise BatchSubmissionError(
            f"{name}: the provider refused it ({one_line(error)}). Nothing was created or paid for "
            f"this batch. {why}, then run again: what was answered is kept"
        ) from error
    if status is None or status == 429 or status >= 500:
        get_run_logger().warning("not taken yet (%s), trying again", one_line(error))
        return seconds or backoff(run, refusals)
    flight.refused = one_line(error)
    for line in str(error).splitlines():
        for place in _PLACE.findall(line):
            flight.refused_places[int(place)] = flight.refused
    return None


def backoff(run: Session, failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded, with jitter."""
    base = min(run.pace.poll_shortest * 2.0 ** min(failures, 20), run.pace.retry_longest)
    return base * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def retry_after(error: BaseException) -> float | None:
    """Seconds that a provider asks to wait; None where it does not say."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    try:
        seconds = float(headers.get("retry-after"))
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), 3600.0)


def _is_network(error: BaseException) -> bool:
    """Whether an error without a status came from the connection."""
    module = type(error).__module__.partition(".")[0]
    return module in {"anthropic", "openai", "httpx2", "httpcore2", "ssl"} or isinstance(
        error, (ConnectionError, TimeoutError)
    )
