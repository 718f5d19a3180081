"""Asking again what was answered, but not as asked: the changed request of the next attempt.

The change is made from the job's own request and from the stored answers alone, so a restarted
run makes the same change again. It is opt-in (`max_reasks`): the answer that could not be used
was paid for, and so is the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from batchata_prefect.engine.read_chunk import answers_of
from batchata_prefect.engine.session import Session
from batchata_prefect.money.ledger import NOT_AS_ASKED, Entry
from batchata_prefect.providers.again import Again
from batchata_prefect.providers.tokens import estimate_text
from batchata_prefect.results.stops import FULL, MAX_TOKENS

_TURNS = 30
"""Tokens around two more messages, as an upper bound."""


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
    provider = run.providers[chunk.provider]
    changed: set[int] = set()
    jobs = run.spool.reader()
    try:
        for place, row in _answers(run, entry, ordinals):
            if place not in wanted:
                continue
            ordinal = wanted[place]
            (body,) = jobs.bodies([ordinal])
            if row["error_code"] is None or row["stop_reason"] == FULL:
                # Taken as it is since then; or no room is left to ask for more.
                again = None
            elif row["error_code"] == "truncated" and row["stop_reason"] == MAX_TOKENS:
                again = provider.roomier(body, chunk.model)
            else:
                again = provider.reworded(body, row["raw_response"] or "", row["error"])
            if again is not None:
                run.spool.amend(ordinal, again.body, _bounds(run, chunk.provider, again, ordinal))
                changed.add(ordinal)
    finally:
        jobs.close()
    return frozenset(changed)


def _may(run: Session, ordinal: int) -> bool:
    settings = run.settings
    return (
        run.spool.amendments(ordinal) < settings.max_reasks
        and run.spool.states.attempts(ordinal) + 1 < settings.max_attempts
    )


def _bounds(run: Session, provider: str, again: Again, ordinal: int) -> tuple[int, int, int]:
    """Likely and most input tokens, and most output tokens, of a changed request."""
    likely, bound, _ = run.spool.tokens(ordinal)
    more_likely, more = estimate_text(again.added, provider) if again.added else (0, 0)
    return likely + more_likely + _TURNS, bound + more + _TURNS, again.output_bound


def _answers(
    run: Session, entry: Entry, ordinals: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and row of each answer of a chunk, read again where they are not at hand."""
    for place, row in answers_of(run, entry, ordinals).rows():
        yield place, orjson.loads(row)
