"""The replies of one chunk, and the answers read from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from batchata_prefect.engine.session import Session
from batchata_prefect.models import Chunk, ProviderBatch, package
from batchata_prefect.money.ledger import (
    AGAIN,
    ANSWERED,
    CANCELED,
    FAILED,
    LOST,
    NEVER_SENT,
    TIME_LIMIT,
    WRITTEN_OFF,
    Ending,
    Entry,
)
from batchata_prefect.providers.failures import Failure
from batchata_prefect.results.answer_file import AnswerFile, open_answers
from batchata_prefect.results.codes import rule
from batchata_prefect.results.read import Collected, collect, give_up
from batchata_prefect.results.row import Reading, canceled

NoReply: TypeAlias = Callable[[int], tuple[str, str, str]]
"""Place of a request in the chunk -> its mark, error code and error."""

logger = logging.getLogger("batchata_prefect")


def read_chunk(
    run: Session,
    entry: Entry,
    ordinals: Sequence[int],
    replies: Path | None,
    reason: str | None,
    no_reply: NoReply,
) -> Collected:
    """Read a chunk's replies into its answer file; runs in a thread of its own.

    Args:
        run: The session.
        entry: The chunk's line in the ledger.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        replies: The provider's rows; None where there are none.
        reason: Why the batch was canceled or refused.
        no_reply: What is said of a request that got no row.

    Raises:
        OSError: The answers cannot be written.
    """
    chunk = entry.chunk
    reading = Reading(
        chunk=chunk,
        batch_id=entry.receipt.batch_id if entry.receipt else None,
        prices=run.prices,
        schemas=run.schemas,
        canceled=reason,
        results_dir=run.results_dir,
        terms=run.spool.terms(ordinals),
    )
    answers, source = run.answer_file(chunk.token), source_of(run)
    if replies is None and entry.ending is not None:
        # The provider may only be away now, so the next start looks for them again.
        source += " without replies"
    read = run.providers[chunk.provider].read
    with closing(run.spool.reader()) as jobs:
        try:
            return collect(
                reading, replies, answers, ordinals, jobs, read, no_reply=no_reply, source=source
            )
        except OSError:
            raise
        except Exception as error:
            # A fault of ours. It must not take the other batches along, nor the next start.
            logger.exception("%s: its replies could not be read; they are kept", chunk.name)
            return give_up(reading, answers, ordinals, jobs, error, source)


def answers_of(run: Session, entry: Entry, ordinals: Sequence[int]) -> AnswerFile:
    """The answers of an ended chunk, read again from its replies where they are not at hand.

    Raises:
        OSError: They cannot be read or written.
    """
    path = run.answer_file(entry.chunk.token)
    if (answers := kept_answers(run, entry)) is not None:
        return answers
    ending, replies = entry.ending, run.reply_file(entry.chunk.token)
    assert ending is not None
    found = replies if replies.exists() else None
    no_reply = _restored(entry.chunk, ending, no_file=found is None)
    read_chunk(run, entry, ordinals, found, ending.reason, no_reply)
    answers = open_answers(path)
    if answers is None:
        raise OSError(f"the answers {str(path)!r} are cut short")
    return answers


def kept_answers(run: Session, entry: Entry) -> AnswerFile | None:
    """The answers of a chunk, where they were read by this version and for these very jobs."""
    answers = open_answers(run.answer_file(entry.chunk.token))
    return answers if answers is not None and answers.source == source_of(run) else None


def source_of(run: Session) -> str:
    """What answers depend on besides the replies: jobs and their metadata, and how we read."""
    return f"{package()} {run.spool.digest}"


def rowless(batch: ProviderBatch, reason: str | None, *, short: bool) -> NoReply:
    """What is said of the requests of a batch that has ended without a row for them.

    Args:
        batch: The batch.
        reason: Why it was canceled.
        short: Whether the provider counts more rows than it gives.
    """
    if not short and (batch.ending == "canceled" or batch.ending == "expired"):
        unrun = _unrun(batch.ending, batch.batch_id, reason)
        return lambda _: unrun
    if batch.ending != "failed":
        text = f"{batch.batch_id} ended without a row for this job"
        if short:
            text += ", yet counts it as done: it may be paid and was not sent again"
        return lambda _: (FAILED if short else AGAIN, "missing", text)
    by_place = {fault.line - 1: fault for fault in batch.faults if fault.line is not None}
    whole = next((fault for fault in batch.faults if fault.line is None), None)

    def failed(place: int) -> tuple[str, str, str]:
        if (fault := by_place.get(place)) is not None:
            return FAILED, fault.code, f"{fault.message} ({fault.param or 'line'} {place + 1})"
        if whole is not None:
            letter = AGAIN if rule(whole.code).then == AGAIN else FAILED
            return letter, whole.code, whole.message
        text = f"{batch.batch_id} was refused for other jobs in it; nothing was billed"
        return AGAIN, "batch_failed", text

    return failed


def _unrun(ending: str, batch_id: str, reason: str | None) -> tuple[str, str, str]:
    """What is said of a request that a canceled or expired batch has no row of: it did not run.

    OpenAI has none of a batch that was canceled while it was validated, and after a cancel rows
    that it counted may be in no file.
    """
    if ending == "expired":
        return AGAIN, "expired", f"{batch_id} expired before it ran this job; it was not billed"
    return CANCELED, *canceled(reason or f"{batch_id} was canceled at the provider")


def no_batch_for(failure: Failure, place: int) -> tuple[str, str, str]:
    """Mark, error code and error of a request of a chunk that the provider would not create."""
    if not failure.places:
        return FAILED, "batch_refused", f"the provider refused the batch: {failure.text}"
    if (told := failure.places.get(place)) is not None:
        return FAILED, "invalid_request", f"the provider refused it: {told}"
    return AGAIN, "batch_failed", "its batch was refused for other jobs in it; nothing was billed"


def unanswered(mark: str, reason: str | None) -> tuple[str, str, str]:
    """Mark, error code and error of a realtime request without an answer.

    Args:
        mark: `ANSWERED` where its reply file is gone, `FAILED` where its reply was lost,
            `CANCELED` where it was not sent.
        reason: Why no more was sent.
    """
    if mark == ANSWERED:
        return mark, "answer_lost", "its answer was paid for, but the reply file is gone"
    if mark == FAILED:
        lost = "it was sent through the realtime API and its reply was lost: it may be paid, so it"
        return mark, "answer_lost", f"{lost} is not sent again"
    if reason in {TIME_LIMIT, None}:
        return mark, "time_limit_exceeded", f"{TIME_LIMIT}: the job was not answered before it"
    return mark, "canceled", f"{reason}; it was not sent. Run again to send it"


def _restored(chunk: Chunk, ending: Ending, *, no_file: bool) -> NoReply:
    """The same for a chunk that ended before, whose replies are read once more.

    Args:
        chunk: The chunk.
        ending: How it ended.
        no_file: Whether the file of its replies is not there, and cannot be had now.
    """
    lost = "its answer was stored and paid for, but the reply file is gone, here and there"
    said = "what the provider said of it was stored and may be paid, but the reply file is gone"

    def told(place: int) -> tuple[str, str, str]:
        letter = ending.marks[place]
        if chunk.realtime:
            return unanswered(letter, ending.reason)
        if letter == ANSWERED:
            return letter, "answer_lost", lost
        if ending.reason == LOST:
            return letter, "answer_lost", f"it was paid for, and {LOST}"
        if ending.reason == WRITTEN_OFF:
            return letter, "answer_lost", f"it may have been paid for, and {WRITTEN_OFF}"
        if letter == (AGAIN if ending.status == "expired" else CANCELED) and (
            ending.status == "canceled" or ending.status == "expired"
        ):
            return letter, *_unrun(ending.status, "the batch", ending.reason)[1:]
        if no_file and ending.status not in {*NEVER_SENT, "failed"}:
            return letter, "answer_lost", said
        return letter, "batch_failed", ending.reason or "the batch gave no row for this job"

    return told


def fault_text(batch: ProviderBatch) -> str | None:
    """Why the provider refused the whole batch, on one line; None where it did not."""
    if not batch.faults:
        return None
    return "; ".join(f"{fault.code}: {fault.message}" for fault in batch.faults[:3])
