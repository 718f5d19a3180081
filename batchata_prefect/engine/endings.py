"""A chunk's ending: made durable, and told to its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect import get_run_logger

from batchata_prefect.engine.deliver import last_words
from batchata_prefect.engine.download import put_answers
from batchata_prefect.engine.reask import reask
from batchata_prefect.engine.retries import keep
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.engine.status import batch_status, run_status
from batchata_prefect.errors import one_line
from batchata_prefect.jobs.spool import ANSWERED as JOB_ANSWERED
from batchata_prefect.jobs.spool import CANCELED as JOB_CANCELED
from batchata_prefect.jobs.spool import FAILED as JOB_FAILED
from batchata_prefect.jobs.spool import WAITING
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
from batchata_prefect.views import events, spans


async def close(run: Session, flight: Flight, ending: Ending) -> None:
    """Write a chunk's ending and move its jobs on.

    Raises:
        StateError: The ending cannot be stored.
    """
    records, entry = run.records, flight.entry
    assert records is not None
    await keep(
        run,
        entry,
        "ending",
        lambda: records.write_ending(entry.chunk.sequence, ending),
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
