"""A chunk's ending: made durable, and told to its jobs; the changed request of those asked again.

Asking again changes the request of the next attempt, from the job's own request and from the stored
answers alone, so a restarted run makes the same change again. It is opt-in (`max_reasks`): the
answer that could not be used was paid for, and so is the next one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import orjson
from prefect import get_run_logger

from batchata_prefect.engine.deliver import last_words
from batchata_prefect.engine.download import put_answers
from batchata_prefect.engine.read_chunk import answers_of
from batchata_prefect.engine.retries import keep
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.engine.status import batch_status, run_status
from batchata_prefect.errors import one_line
from batchata_prefect.jobs.spool import ANSWERED as JOB_ANSWERED
from batchata_prefect.jobs.spool import CANCELED as JOB_CANCELED
from batchata_prefect.jobs.spool import FAILED as JOB_FAILED
from batchata_prefect.jobs.spool import WAITING, SpoolReader
from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import (
    ANSWERED,
    CANCELED,
    FAILED,
    NEVER_SENT,
    NOT_AS_ASKED,
    REALTIME,
    Ending,
    Entry,
)
from batchata_prefect.providers.bodies import Again
from batchata_prefect.results.codes import FULL, MAX_TOKENS
from batchata_prefect.results.read import lines
from batchata_prefect.views import events, spans


async def close(run: Session, flight: Flight, ending: Ending) -> None:
    """Write a chunk's ending and move its jobs on.

    Raises:
        StateError: The ending cannot be stored.
    """
    entry = flight.entry
    await keep(
        run,
        entry,
        "ending",
        lambda: run.records.write_ending(entry.chunk.sequence, ending),
        lost="it has ended, and that cannot be recorded. What was answered is on disk, the next "
        "run takes it up, and nothing is paid twice:",
    )
    entry.ending = ending
    await take_in(run, entry, flight.ordinals, resumed=flight.canceled_before)
    await _let_out(run, entry, flight.ordinals)


async def _let_out(run: Session, entry: Entry, ordinals: Sequence[int]) -> None:
    """Have the answers of an ended chunk read by whoever waits for them."""
    assert entry.ending is not None
    words, place = last_words(run, entry, ordinals), None
    if words is not None and run.deliveries is not None:
        try:
            await run.deliveries.add(entry.chunk.sequence, words)
            place = await put_answers(run, entry.chunk)
        except OSError as error:
            # The results have them at the end.
            get_run_logger().warning("its answers cannot be read yet (%s)", one_line(error))
    batch = batch_status(run, entry)
    events.ended(run_status(run), batch, place)
    spans.ended(batch, run.flow_run_id)


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
        changed = await run.alone(reask, run, entry, ordinals)
    if entry.ending.marks.count(ANSWERED) == len(ordinals):
        run.spool.states.move(ordinals, JOB_ANSWERED)
    else:
        run.spool.states.mark(moves(run, ordinals, entry.ending, resumed=resumed, changed=changed))


def moves(
    run: Session,
    ordinals: Sequence[int],
    ending: Ending,
    *,
    resumed: bool = False,
    changed: frozenset[int] = frozenset(),
) -> Iterator[tuple[int, int, int]]:
    """What an ending does to its jobs: (new state, attempts to add, ordinal).

    A run does not send again what was canceled in it, but for the realtime API; the next run does
    (`resumed`). `changed`
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
            later = resumed or ending.reason == REALTIME
            yield (WAITING if later else JOB_CANCELED), 0, ordinal
        elif letter == NOT_AS_ASKED:
            yield (WAITING if ordinal in changed else JOB_FAILED), 1, ordinal
        elif not counted:
            yield WAITING, 0, ordinal
        elif run.spool.states.attempts(ordinal) + 1 < run.settings.max_attempts:
            yield WAITING, 1, ordinal
        else:
            yield JOB_FAILED, 1, ordinal


logger = logging.getLogger("batchata_prefect")

_TURNS = 30
"""Tokens around two more messages, as an upper bound."""

_LINE_BYTES = 256
"""Bytes around a body in a batch, as an upper bound."""

_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([0-9a-f]{16}-\d{1,9})"')


def reask(run: Session, entry: Entry, ordinals: Sequence[int]) -> frozenset[int]:
    """Change the requests of the jobs of an ended chunk that were not answered as asked.

    Runs in a thread of its own, before the jobs are marked.

    Returns:
        Ordinals of the jobs that are to be asked again; the others have had all their attempts,
        or cannot be asked in another way.

    Raises:
        OSError: The spool cannot be written.
    """
    ending, chunk = entry.ending, entry.chunk
    assert ending is not None
    wanted = {
        place: ordinal
        for place, ordinal in enumerate(ordinals)
        if ending.marks[place] == NOT_AS_ASKED and ordinal >= 0 and _may(run, ordinal)
    }
    if not wanted:
        return frozenset()
    changed: set[int] = set()
    paused: dict[int, tuple[int, int]] = {}
    with closing(run.spool.reader()) as jobs:
        for place, answer in answers_of(run, entry, ordinals).rows():
            if place not in wanted:
                continue
            ordinal, row = wanted[place], orjson.loads(answer)
            if row["error_code"] == "paused":
                paused[place] = ordinal, row["input_tokens"]
            elif _amend(run, chunk, jobs, ordinal, row):
                changed.add(ordinal)
        if paused:
            changed |= _continue(run, chunk, jobs, paused)
    return frozenset(changed)


def _amend(
    run: Session, chunk: Chunk, jobs: SpoolReader, ordinal: int, row: Mapping[str, Any]
) -> bool:
    """Change the request of a job whose answer is not as asked; False where there is no way."""
    if row["error_code"] is None or row["stop_reason"] == FULL:
        # Taken as it is since then; or no room is left to ask for more.
        return False
    provider = run.providers[chunk.provider]
    (body,) = jobs.bodies([ordinal])
    continues = False
    if row["error_code"] == "truncated" and row["stop_reason"] == MAX_TOKENS:
        again = provider.roomier(body, chunk.model)
        continues = run.spool.continues(ordinal)
    else:
        again = provider.reworded(body, row["raw_response"] or "", row["error"])
    if again is None:
        return False
    bounds = _bounds(run, chunk.provider, again, ordinal)
    run.spool.amend(ordinal, again.body, bounds, after_round=chunk.round, continues=continues)
    return True


def _continue(
    run: Session, chunk: Chunk, jobs: SpoolReader, paused: Mapping[int, tuple[int, int]]
) -> frozenset[int]:
    """Hand paused turns back: what each was is in its reply alone.

    Args:
        run: The session.
        chunk: The chunk that they are of.
        jobs: Looks up jobs.
        paused: Place -> its ordinal, and the input tokens that its turn took so far.
    """
    provider, changed = run.providers[chunk.provider], set[int]()
    replies = run.reply_file(chunk.token)
    for line in lines(replies) if replies.exists() else ():
        named = _CUSTOM_ID.search(line)
        place = chunk.ordinal(named[1].decode()) if named is not None else None
        if place is None or place not in paused or paused[place][0] in changed:
            continue
        ordinal, used = paused[place]
        (body,) = jobs.bodies([ordinal])
        try:
            again = provider.continued(body, line, goes_on=run.spool.continues(ordinal))
        except Exception as error:
            # What a model says may have any form; this one turn ends paused, the others go on.
            logger.warning("%s: a paused turn cannot be handed back: %s", chunk.name, error)
            continue
        limit = min(provider.limits.max_request_bytes, provider.limits.max_bytes - _LINE_BYTES)
        if again is None or len(again.body) > limit:
            continue
        # A turn with the provider's own tools reads all that it has again and again: as much as it
        # took so far, and what it has found besides.
        bounds = _bounds(run, chunk.provider, again, ordinal, at_least=used)
        run.spool.amend(ordinal, again.body, bounds, after_round=chunk.round, continues=True)
        changed.add(ordinal)
    return frozenset(changed)


def _may(run: Session, ordinal: int) -> bool:
    settings = run.settings
    return (
        run.spool.amendments(ordinal) < settings.max_reasks
        and run.spool.states.attempts(ordinal) + 1 < settings.max_attempts
    )


def _bounds(
    run: Session, provider: str, again: Again, ordinal: int, at_least: int = 0
) -> tuple[int, int, int]:
    """Likely and most input tokens, and most output tokens, of a changed request.

    Args:
        run: The session.
        provider: Its provider.
        again: The request.
        ordinal: Its job.
        at_least: Input tokens that the request before it took.
    """
    likely, bound, _ = run.spool.tokens(ordinal)
    counting = run.providers[provider].counting
    more_likely, more = counting.text(again.added) if again.added else (0, 0)
    return (
        max(likely, at_least) + more_likely + _TURNS,
        max(bound, at_least) + more + _TURNS,
        again.output_bound,
    )
