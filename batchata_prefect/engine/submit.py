"""What the parent flow sends, and when: cut, reserve, record, and keep so many batches going."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial

from prefect import get_run_logger

from batchata_prefect.engine.limits import Limits
from batchata_prefect.engine.realtime import AT_MOST
from batchata_prefect.engine.retries import keep, own
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.engine.start import note_records
from batchata_prefect.engine.tasks import Tasks, is_crowded, is_on_its_way, is_stuck
from batchata_prefect.engine.uploads import Uploads
from batchata_prefect.errors import BatchSubmissionError, ProviderError, StateError
from batchata_prefect.files import whole_file
from batchata_prefect.jobs import chunks
from batchata_prefect.jobs.spool import IN_FLIGHT, Family
from batchata_prefect.models import Chunk
from batchata_prefect.money.budget import correction
from batchata_prefect.money.ledger import Entry, Intent
from batchata_prefect.providers import Requests, wire
from batchata_prefect.providers.bodies import with_uploads
from batchata_prefect.records.journal import Journal

_REALTIME_CHUNKS = 4
_LOOK_SECONDS = 1.0
_BOUNDS_HELD = 10_000
_CLOCK_SECONDS = 10.0


class Purchases:
    """What is bought of a run's jobs, and the tasks of what is in flight."""

    def __init__(self, run: Session, limits: Limits, uploads: Uploads) -> None:
        self._run, self._limits, self._uploads = run, limits, uploads
        self._tasks = Tasks(run)

    async def make(self) -> None:
        """Keep up to `max_parallel_batches` provider batches going until nothing can be sent."""
        run, tasks = self._run, self._tasks
        for flight in run.flights.values():
            tasks.start(flight)
        try:
            while True:
                while _has_slot(run, len(tasks)):
                    flight = await self._next()
                    if flight is None:
                        break
                    tasks.start(flight)
                wait = None if run.is_ending else _next_try(run)
                if len(tasks):
                    await self._wait(wait)
                elif not await self._goes_on(wait):
                    return
        except BaseException:
            await tasks.cancel()
            raise

    async def _wait(self, wait: float | None) -> None:
        """Wait until something can be done, for `wait` seconds at most, and take what has ended."""
        run = self._run
        waits = [wait, self._limits.seconds]
        if (seconds := run.seconds_until_realtime) is not None and seconds > 0:
            waits.append(seconds)
        if run.settings.wait == "suspend" or any(map(is_on_its_way, run.flights.values())):
            waits.append(_LOOK_SECONDS)
        ended = await self._tasks.wait(min((s for s in waits if s is not None), default=None))
        for flight, error in ended:
            del run.flights[flight.entry.chunk.sequence]
            _take_error(run, flight, error)
        if ended:
            await self._limits.settle()
        else:
            await self._limits.keep()
        if not ended and not run.suspending and _may_suspend(run):
            run.suspend()

    async def _goes_on(self, wait: float | None) -> bool:
        """Whether there is more to do although no task is going; waits for room if that is all."""
        run = self._run
        if run.suspending:
            if not run.is_ending and _open(run):
                run.turned_away.next_try = _in(wait)
                return False
            run.carry_on()
            for flight in _taken_up_again(run):
                self._tasks.start(flight)
            return True
        if wait is None:
            return False
        if run.settings.wait == "suspend" and wait > run.pace.suspend:
            run.turned_away.next_try = _in(wait)
            run.suspend()
            return False
        run.waiting_for = "room for more tokens or batches at the provider"
        await run.pause(wait)
        run.waiting_for = None
        return True

    async def _next(self) -> Flight | None:
        """Cut, reserve and record the next chunk; None where nothing can be sent now."""
        run = self._run
        if run.is_ending or run.suspending:
            return None
        if run.is_realtime:
            return await self._next_realtime()
        for family, attempts in _eligible(run):
            names = (family.provider, family.model)
            if family.provider in run.closed or run.turned_away.seconds(*names):
                continue
            if is_crowded(run, family.provider):
                continue
            factor = correction(run.ledger, *names)
            cut = await self._cut(family, attempts, factor)
            if cut is None:
                continue
            try:
                return await self._reserve(family, attempts, cut, factor)
            except BatchSubmissionError as error:
                _send_no_more(run, family.provider, error)
        return None

    async def _cut(self, family: Family, attempts: int, factor: float) -> chunks.Cut | None:
        """The next chunk of a family inside the limits; None where it is better to wait."""
        run, settings = self._run, self._run.settings
        sizes = chunks.limits(
            run.providers[family.provider],
            family.endpoint,
            settings.items_per_batch,
            settings.tokens_per_batch,
        )
        room = await self._limits.room(family)
        if room.tokens is not None:
            sizes["max_tokens"] = min(room.tokens, sizes["max_tokens"] or room.tokens)
        cut = chunks.cut(
            run.spool.waiting(family, attempts),
            **sizes,
            bound=_bounded(run, family, factor),
            room=room.usd,
        )
        if not chunks.worth_sending(cut, wanted=settings.items_per_batch, busy=bool(run.flights)):
            return None
        if room.whole is None:
            return cut
        left = run.spool.states.waiting(family.id, attempts) - len(cut.ordinals)
        flying, tokens = _is_flying(run, family), sizes["max_tokens"] or 0
        # Room that is missing although nothing of ours waits is taken by another run.
        taken = tokens < min(room.whole, settings.tokens_per_batch or room.whole)
        if (flying or taken) and not chunks.worth_its_quota(cut, tokens, room.whole, left):
            if not flying:
                run.turned_away.add(family.provider, family.model)
            return None
        return cut

    async def _next_realtime(self) -> Flight | None:
        """The next chunk of requests for the realtime API; None where the limits allow none."""
        run = self._run
        for family in run.spool.families():
            if family.provider in run.closed:
                continue
            factor = correction(run.ledger, family.provider, family.model)
            for attempts in range(run.settings.max_attempts):
                if not run.spool.states.waiting(family.id, attempts):
                    continue
                room = await self._limits.room(family, realtime=True)
                cut = chunks.cut(
                    run.spool.waiting(family, attempts),
                    **chunks.limits(run.providers[family.provider], family.endpoint, AT_MOST, None),
                    bound=_bounded(run, family, factor, realtime=True),
                    room=room.usd,
                )
                if cut.ordinals:
                    return await self._reserve(family, attempts, cut, factor, realtime=True)
        return None

    async def _reserve(
        self,
        family: Family,
        attempts: int,
        cut: chunks.Cut,
        factor: float,
        *,
        realtime: bool = False,
    ) -> Flight | None:
        """Make the intent durable: from here on its upper bound is held until its cost is known."""
        run = self._run
        if run.spool.has_prefixes:
            cut = await run.alone(_side_by_side, run, cut)
        sequence = len(run.ledger)
        # By the id of the records: what older ones left behind is never taken for theirs.
        identity = (run.settings.run_key, run.records.id, sequence, attempts, family.provider)
        digest = hashlib.sha256(
            repr((*identity, family.endpoint, family.model)).encode() + cut.members
        )
        chunk = Chunk(
            sequence=sequence,
            round=attempts,
            token=digest.hexdigest(),
            provider=family.provider,
            endpoint=family.endpoint,
            model=family.model,
            count=len(cut.ordinals),
            size_bytes=cut.size_bytes,
            input_tokens=cut.input_tokens,
            output_tokens=cut.output_tokens,
            reserved_usd=cut.bound_usd,
            correction=factor,
            realtime=realtime,
        )
        requests, digests = await self._prepare_files(family, chunk, cut)
        entry = Entry(chunk, datetime.now(UTC) if realtime else await _time_there(run, chunk))
        await own(run, entry)
        lost = "it was not sent:"
        if not run.ledger:
            await keep(run, entry, "note", lambda: note_records(run, sent=True), lost=lost)
        landed = await self._limits.claim(chunk)
        if landed is None:
            # Another run was faster.
            run.request_file(chunk.token).unlink(missing_ok=True)
            run.turned_away.add(chunk.provider, chunk.model)
            return None
        intent = Intent(chunk, entry.since, cut.members, digests)
        try:
            await keep(run, entry, "intent", lambda: run.records.write_intent(intent), lost=lost)
            run.ledger.append(entry)
        finally:
            landed()
        run.members.append(cut.ordinals)
        run.spool.states.move(cut.ordinals, IN_FLIGHT)
        flight = Flight(entry, cut.ordinals, fresh=True, requests=requests)
        if realtime:
            flight.uploads = self._uploads.of(family.provider)
        run.flights[sequence] = flight
        return flight

    async def _prepare_files(
        self, family: Family, chunk: Chunk, cut: chunks.Cut
    ) -> tuple[Requests | None, bytes]:
        """Write what the chunk needs on disk before its intent.

        Returns:
            What is sent, if that is one file, and the digests of the jobs' requests.

        Raises:
            StateError: The disk is full or not writable.
        """
        run = self._run
        try:
            if chunk.realtime:
                await asyncio.to_thread(Journal(run.journal_file(chunk.token)).begin)
                return None, await run.alone(write_requests, run, chunk, cut.ordinals, None)
            uploads = await self._uploads.ensure(family, cut.ordinals) if run.spool.files else {}
            digests = await run.alone(write_requests, run, chunk, cut.ordinals, uploads)
            return partial(run.request_file(chunk.token).open, "rb"), digests
        except OSError as error:
            raise StateError(
                f"{chunk.name}: its request file cannot be written in {str(run.results_dir)!r}: "
                f"{error.strerror or error}. It was not sent; make room and run again, nothing is "
                "paid twice"
            ) from error


def _in(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)


def _may_suspend(run: Session) -> bool:
    """Whether there is nothing to do but to wait for the providers, and that for a while."""
    if run.settings.wait != "suspend" or run.is_ending or run.is_realtime:
        return False
    began = max((flight.started for flight in run.flights.values()), default=0.0)
    return time.monotonic() - began >= run.pace.suspend and all(
        flight.parked
        # It waits for a slot, which a run that sleeps does not hold.
        or (flight.fresh and not flight.has_begun)
        # Nobody has answered for it since this process began: that may take hours.
        or (flight.batch is None and flight.waiting_for and flight.entry.receipt is not None)
        for flight in run.flights.values()
    )


def _open(run: Session) -> list[int]:
    """Sequences of the chunks that have not ended."""
    return [entry.chunk.sequence for entry in run.ledger if entry.ending is None]


def _taken_up_again(run: Session) -> list[Flight]:
    """New flights for what has not ended."""
    for sequence in _open(run):
        run.flights[sequence] = Flight(run.ledger[sequence], run.members[sequence])
    return [run.flights[sequence] for sequence in _open(run)]


def _has_slot(run: Session, running: int) -> bool:
    """Whether one more chunk may be taken up; realtime ones do not wait for canceled batches."""
    # What its provider does not take keeps no other account from its turn; once it does take it,
    # there are more in flight for a while.
    stuck = sum(1 for flight in run.flights.values() if is_stuck(run, flight))
    if running - stuck < run.settings.max_parallel_batches:
        return True
    realtime = sum(1 for flight in run.flights.values() if flight.entry.chunk.realtime)
    return run.is_realtime and realtime < _REALTIME_CHUNKS


def _take_error(run: Session, flight: Flight, error: BaseException | None) -> None:
    """Send nothing more to a provider that failed; what the others answer is collected first.

    A batch whose task ran out of time is left to the next run, and the others go on.

    Raises:
        BaseException: The error, where it is neither the provider's nor that.
    """
    if isinstance(error, ProviderError):
        _send_no_more(run, flight.entry.chunk.provider, error)
    elif isinstance(error, TimeoutError):
        get_run_logger().error(
            "%s: none of the attempts of its task came to an end in %g s (task_timeout_seconds). "
            "What may be at the provider goes on there, what it may cost stays reserved, and the "
            "next run takes it up",
            flight.entry.chunk.name,
            run.settings.task_timeout_seconds,
        )
    elif error is not None:
        raise error


def _send_no_more(run: Session, provider: str, error: ProviderError) -> None:
    run.closed.setdefault(provider, error)
    get_run_logger().error("%s: sending nothing more: %s", provider, error)


def _is_flying(run: Session, family: Family) -> bool:
    """Whether a batch of the family's model is at the provider."""
    return any(
        (flight.entry.chunk.provider, flight.entry.chunk.model) == (family.provider, family.model)
        for flight in run.flights.values()
    )


def _next_try(run: Session) -> float | None:
    """Seconds until a family that was turned away is worth a try; None where none waits for it."""
    waits = [
        seconds
        for family, _ in _eligible(run)
        if (seconds := run.turned_away.seconds(family.provider, family.model))
    ]
    return min(waits, default=None)


def _eligible(run: Session) -> list[tuple[Family, int]]:
    """Families with waiting jobs, those with the fewest batches in flight first.

    A later round of a family starts when its earlier rounds are over, so that what failed here
    and there goes out again together.
    """
    found: list[tuple[tuple[int, bool], Family, int]] = []
    stuck = {f.entry.chunk.provider for f in run.flights.values() if is_stuck(run, f)}
    for family in run.spool.families():
        if family.provider in run.closed or family.provider in stuck:
            continue
        flying = [
            flight.entry.chunk.round
            for flight in run.flights.values()
            if (flight.entry.chunk.provider, flight.entry.chunk.endpoint, flight.entry.chunk.model)
            == (family.provider, family.endpoint, family.model)
        ]
        earliest = min(flying, default=None)
        for attempts in range(run.settings.max_attempts):
            if earliest is not None and attempts > earliest:
                break
            if run.spool.states.waiting(family.id, attempts):
                found.append(((len(flying), family.provider in run.stuck), family, attempts))
                break
    return [(family, attempts) for _, family, attempts in sorted(found, key=lambda item: item[0])]


def _bounded(
    run: Session, family: Family, factor: float, *, realtime: bool = False
) -> Callable[[int, int], Decimal | None]:
    """Upper bound in USD of (input tokens, output tokens), corrected by what was seen."""
    prices, provider, model = run.prices, family.provider, family.model
    times = Decimal(factor)

    @lru_cache(_BOUNDS_HELD)
    def corrected(input_tokens: int, output_tokens: int) -> Decimal | None:
        bound = prices.bound(
            provider, model, input_tokens, output_tokens, realtime=realtime, terms=family.terms
        )
        return bound if bound is None or factor == 1 else bound * times

    return corrected


async def _time_there(run: Session, chunk: Chunk) -> datetime:
    """The time by the provider's clock: a batch whose create is not answered is looked for by it.

    Where it has not answered anything yet, it is asked once for its batches, which is free.
    """
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    if wire.now(client) is None:
        with suppress(Exception):  # a server that lists nothing, or is away, is no matter yet
            async with asyncio.timeout(_CLOCK_SECONDS):
                async for _ in provider.listed(client):
                    break
    return wire.now(client) or datetime.now(UTC)


def write_requests(
    run: Session, chunk: Chunk, ordinals: Sequence[int], uploads: Mapping[str, str] | None
) -> bytes:
    """Write the chunk file: one line a request, in the order of their places.

    Args:
        run: The session.
        chunk: The chunk.
        ordinals: Its jobs.
        uploads: Digest of a document -> id of its upload, which stands in for it; None where each
            request is sent by itself, and there is no such file.

    Returns:
        Digests of the requests, end to end.
    """
    provider, path = run.providers[chunk.provider], run.request_file(chunk.token)
    with closing(run.spool.reader()) as jobs:
        if uploads is not None:
            # Not synced: after a loss of power it is made anew from the jobs, or not needed at all.
            with whole_file(path, synced=False) as file:
                for place, body in enumerate(jobs.bodies(ordinals)):
                    sent = with_uploads(body, uploads) if uploads else body
                    file.write(provider.line(chunk.custom_id(place), sent, chunk.endpoint))
                    file.write(b"\n")
        return b"".join(jobs.requests(ordinals))


def _side_by_side(run: Session, cut: chunks.Cut) -> chunks.Cut:
    """The same jobs with those that share a prefix together, while the cache still holds it."""
    with closing(run.spool.reader()) as jobs:
        prefixes = [jobs.context(ordinal).prefix or str(ordinal) for ordinal in cut.ordinals]
    return chunks.side_by_side(cut, prefixes)
