"""Asking again what was answered, but not as asked: the changed request of the next attempt.

The change is made from the job's own request and from the stored answers alone, so a restarted
run makes the same change again. It is opt-in (`max_reasks`): the answer that could not be used
was paid for, and so is the next one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from batchata_prefect.engine.read_chunk import answers_of
from batchata_prefect.engine.session import Session
from batchata_prefect.jobs.spool import SpoolReader
from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import NOT_AS_ASKED, Entry
from batchata_prefect.providers.bodies import Again
from batchata_prefect.results.codes import FULL, MAX_TOKENS
from batchata_prefect.results.read import lines

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
    jobs = run.spool.reader()
    try:
        for place, row in _answers(run, entry, ordinals):
            if place not in wanted:
                continue
            ordinal = wanted[place]
            if row["error_code"] == "paused":
                paused[place] = ordinal, row["input_tokens"]
            elif _amend(run, chunk, jobs, ordinal, row):
                changed.add(ordinal)
        if paused:
            changed |= _continue(run, chunk, jobs, paused)
    finally:
        jobs.close()
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


def _answers(
    run: Session, entry: Entry, ordinals: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and row of each answer of a chunk, read again where they are not at hand."""
    for place, row in answers_of(run, entry, ordinals).rows():
        yield place, orjson.loads(row)
