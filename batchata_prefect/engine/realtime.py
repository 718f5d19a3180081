"""The way out ahead of a deadline: what the batches leave unanswered goes through the realtime API.

At full price, inside a cost limit of its own, each request once: see `journal`. A chunk of such
requests has an intent and an ending like any other, and no receipt.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal

from prefect import get_run_logger

from batchata_prefect.engine.download import put_replies
from batchata_prefect.engine.pace import Throttle
from batchata_prefect.engine.read_chunk import read_chunk, unanswered
from batchata_prefect.engine.retries import backoff, keep, own, patiently, still_owned
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.engine.settle import end, unseen_usd
from batchata_prefect.errors import BatchSubmissionError, StateError
from batchata_prefect.files import whole_file
from batchata_prefect.models import Chunk
from batchata_prefect.money import budget
from batchata_prefect.money.budget import correction
from batchata_prefect.money.ledger import CANCELED, FAILED, REALTIME, TIME_LIMIT
from batchata_prefect.providers.bodies import with_uploads
from batchata_prefect.providers.failures import Failure, classify
from batchata_prefect.records.journal import Journal, Told
from batchata_prefect.results.read import Collected

AT_MOST = 100
"""Requests in one chunk: what a lost journal could leave in doubt."""

_PER_SECOND = 16.0
"""Requests begun in a second, of one provider; 429s make it fewer."""


def goes_over(run: Session, flight: Flight) -> bool:
    """Whether a batch is to be canceled now and its jobs go through the realtime API.

    Where the limit does not cover all, the smallest batches go first and the others keep their
    chance until the deadline.
    """
    if not run.is_realtime or flight.entry.chunk.realtime:
        return False
    ours = [
        f for f in run.flights.values() if not f.entry.chunk.realtime and f.entry.ending is None
    ]
    gone = [
        entry.chunk
        for entry in run.ledger
        if entry.ending is not None and entry.ending.reason == REALTIME and not entry.chunk.realtime
    ]
    gone += [each.entry.chunk for each in ours if each.canceled == REALTIME]
    left = run.settings.realtime_limit_usd or Decimal(0)
    for chunk in gone:
        taken = bound(run, chunk)
        if taken is None:
            # Such as of a model whose price an earlier start was given, and this one was not.
            return False
        left -= taken
    total = budget.room(run.ledger, run.settings.cost_limit_usd)
    waiting = [each.entry.chunk for each in ours if each.canceled is None]
    for chunk in sorted(waiting, key=lambda chunk: (chunk.count, chunk.sequence)):
        need, held = bound(run, chunk), chunk.reserved_usd
        if need is None or held is None:
            continue
        left -= need
        # Its own reservation is given back when it has ended.
        if left < 0 or (total is not None and total + held < need):
            return False
        if chunk is flight.entry.chunk:
            return True
    return False


def bound(run: Session, chunk: Chunk) -> Decimal | None:
    """What a chunk's requests cannot pass in the realtime API, in USD; None where unknown."""
    usd = run.prices.bound(
        chunk.provider,
        chunk.model,
        chunk.input_tokens,
        chunk.output_tokens,
        realtime=True,
        terms=run.spool.terms(run.members[chunk.sequence]),
        requests=chunk.count,
    )
    factor = correction(run.ledger, chunk.provider, chunk.model)
    return None if usd is None else usd * Decimal(factor)


async def answer_now(run: Session, flight: Flight) -> None:
    """Send the requests of a chunk, each once, and close it with what was answered.

    A chunk that an earlier start has begun is only closed: what it sent is not sent again, and the
    rest goes out as another chunk.

    Raises:
        BatchSubmissionError: The provider refuses the key or the account; what it answered before
            is kept.
        StateError: A record or an answer cannot be written.
    """
    try:
        await _answer_now(run, flight)
    except OSError as error:
        raise StateError(
            f"{flight.entry.chunk.name}: its answers cannot be stored in {str(run.results_dir)!r}: "
            f"{error.strerror}. No more of it is sent, and what was sent is not sent again; make "
            "room and run again"
        ) from error


async def _answer_now(run: Session, flight: Flight) -> None:
    chunk = flight.entry.chunk
    sending = _Sending(run, flight, Journal(run.journal_file(chunk.token)))
    if flight.fresh:
        flight.fresh = False
        await sending.all()
    told = await asyncio.to_thread(sending.journal.read)
    # What an earlier start has left unsent goes out as another chunk.
    reason = run.stopped.reason if run.stopped else TIME_LIMIT if run.is_ending else REALTIME
    if sending.refused is not None:
        reason = sending.refused.text
    elif chunk.provider in run.closed:
        reason = f"{chunk.provider} takes no request"
    collected = await run.alone(_collect, run, flight, told, reason)
    await keep(
        run,
        flight.entry,
        "replies",
        lambda: put_replies(run, chunk),
        lost="what was answered is on disk, the next run takes it up, and nothing is paid twice:",
    )
    await end(run, flight, collected, reason)
    await asyncio.to_thread(sending.journal.remove)
    if sending.refused is not None:
        raise sending.refusal


@dataclass(slots=True)
class _Sending:
    """The requests of one chunk on their way."""

    run: Session
    flight: Flight
    journal: Journal
    refused: Failure | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])

    async def all(self) -> None:
        """Send every request that the time allows, and wait for their replies."""
        run, lines = self.run, self.run.lines
        try:
            with closing(run.spool.reader()) as jobs:
                for place, ordinal in enumerate(self.flight.ordinals):
                    await lines.slots.acquire()
                    if self._is_over:
                        lines.slots.release()
                        break
                    (body,) = await asyncio.to_thread(list, jobs.bodies([ordinal]))
                    if self.flight.uploads:
                        body = with_uploads(body, self.flight.uploads)
                    task = asyncio.create_task(self._one(place, body))
                    self._tasks.add(task)
                    task.add_done_callback(lambda _: lines.slots.release())
            await self._wait()
        except BaseException:
            for task in self._tasks:
                task.cancel()
            raise

    async def _wait(self) -> None:
        """Wait for what is under way: it is paid, also where the run is ending."""
        while self._tasks:
            done, self._tasks = await asyncio.wait(
                self._tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            if self.run.out_of_patience:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                return

    async def _one(self, place: int, body: bytes) -> None:
        run, chunk = self.run, self.flight.entry.chunk
        throttle = run.lines.throttles.setdefault(chunk.provider, Throttle(1 / _PER_SECOND))

        def after(error: Exception, failures: int) -> float | None:
            failure = classify(error)
            if failure.kind == "ours":
                raise error
            if failure.kind == "account":
                return 0.0
            wait = failure.seconds or backoff(run, failures)
            if failure.status == 429:
                throttle.slow_down(wait)
            return wait

        await patiently(run, lambda: self._send(place, body, throttle), after)

    async def _send(self, place: int, body: bytes, throttle: Throttle) -> None:
        """Send a request, unless the run or its provider takes no more; its reply is journaled."""
        run, chunk = self.run, self.flight.entry.chunk
        if self._is_over:
            return
        await throttle.turn()
        if self._is_over:
            return
        await own(run, self.flight.entry)
        await asyncio.to_thread(self.journal.sent, place)
        try:
            with still_owned(run, fresh=False):
                row = await run.providers[chunk.provider].answer(
                    run.clients[chunk.provider], chunk.custom_id(place), body, chunk.endpoint
                )
        except Exception as error:
            failure = classify(error)
            if failure.kind == "account":
                # Also where only a page says it: every further request would be answered like it.
                self.refused = self.refused or failure
                run.closed.setdefault(chunk.provider, self.refusal)
            if failure.billed_nothing:
                await asyncio.to_thread(self.journal.not_billed, place)
                raise
            # Whatever it was, it may have been answered: it is not sent again.
            get_run_logger().warning(
                "job %d of %s: the reply was lost (%s)", place, chunk.name, failure.text
            )
        else:
            await asyncio.shield(asyncio.to_thread(self.journal.answered, place, row))
            self.flight.succeeded += 1

    @property
    def _is_over(self) -> bool:
        """Whether no more of it is sent; another chunk may have been refused as well."""
        return self.run.is_ending or self.flight.entry.chunk.provider in self.run.closed

    @property
    def refusal(self) -> BatchSubmissionError:
        """The error of a chunk that was refused on the way."""
        assert self.refused is not None
        billed = (
            "it was not billed" if self.refused.billed_nothing else "it counts at its upper bound"
        )
        return BatchSubmissionError(
            f"{self.flight.entry.chunk.name}: the provider refused a realtime request "
            f"({self.refused.text}); {billed}. {self.refused.what_to_do}, then run again: "
            "what was answered is kept, and only the rest is sent"
        )


def _collect(run: Session, flight: Flight, told: Told, reason: str | None) -> Collected:
    """Read what was answered; what may have been billed besides counts at its upper bound."""
    chunk = flight.entry.chunk
    replies = run.reply_file(chunk.token)
    with whole_file(replies) as file:
        for row in told.rows:
            file.write(row + b"\n")
    open_places = set(range(chunk.count)) if told.lost else told.open
    collected = read_chunk(
        run,
        flight.entry,
        flight.ordinals,
        replies,
        None,
        lambda place: unanswered(FAILED if place in open_places else CANCELED, reason),
    )
    if not open_places or collected.cost_usd is None:
        return collected
    doubt = unseen_usd(run, chunk, [flight.ordinals[place] for place in open_places])
    return replace(collected, cost_usd=None if doubt is None else collected.cost_usd + doubt)
