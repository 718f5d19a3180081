"""Where a run stands: the one description that callback, terminal, artifacts and manifest read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from batchata_prefect.engine.read_chunk import kept_answers
from batchata_prefect.engine.session import Session
from batchata_prefect.jobs.spool import ANSWERED as JOB_ANSWERED
from batchata_prefect.jobs.spool import CANCELED as JOB_CANCELED
from batchata_prefect.jobs.spool import FAILED as JOB_FAILED
from batchata_prefect.jobs.spool import IN_FLIGHT
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import AGAIN, FAILED, NEVER_SENT, NOT_AS_ASKED, Entry
from batchata_prefect.numbers import counted, plain_usd
from batchata_prefect.results.codes import INVALID_ROW
from batchata_prefect.views.status import BatchStatus, RunStatus

logger = logging.getLogger("batchata_prefect")

_PLANNED_TOLD = 100
"""Batches at most that a callback is told of before they are cut."""

_NO_BATCH: dict[str, Any] = {
    "start_time": None,
    "status": "pending",
    "completed": 0,
    "failed": 0,
    "cost": 0.0,
    "estimated_cost": None,
    "batch_id": None,
    "completion_time": None,
    "error": None,
}

_FAILED_ROW = b'"status":"failed"'


class FailureCodes:
    """Counts the error codes of failed jobs, each answer file read once.

    The codes stand in the answers and nowhere else, so a batch of which nothing failed is not
    read, and what an earlier start has put into its results has no codes before the end.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._later: set[int] = set()
        self._codes: Counter[str] = Counter()

    def look(self, run: Session) -> dict[str, int]:
        """Error code -> failed jobs so far, the most frequent first."""
        fresh = {*range(self._seen, len(run.ledger)), *self._later}
        self._seen = len(run.ledger)
        self._later.clear()
        for number in sorted(fresh):
            entry = run.ledger[number]
            if entry.ending is None:
                self._later.add(number)
            elif _has_failures(entry):
                self._count(run, entry, number)
        codes = self._codes.copy()
        if refused := run.spool.refused:
            codes[INVALID_ROW] = refused
        return dict(codes.most_common())

    def _count(self, run: Session, entry: Entry, number: int) -> None:
        answers = kept_answers(run, entry)
        if answers is None:
            return
        ordinals = run.members[number]
        for place, row in answers.rows():
            # A failed answer may have been sent again, and then it is no failure yet.
            if _FAILED_ROW in row and run.spool.states.state(ordinals[place]) == JOB_FAILED:
                self._codes[orjson.loads(row)["error_code"]] += 1


def _has_failures(entry: Entry) -> bool:
    marks = entry.ending.marks if entry.ending else ""
    return any(mark in marks for mark in (FAILED, NOT_AS_ASKED, AGAIN))


def run_status(run: Session) -> RunStatus:
    """Where a run stands, without its batches."""
    settings, states = run.settings, run.spool.states.counts
    # Once it is finished, its results have the last word.
    told: dict[str, int] = run.manifest["counts"] if run.manifest else {}
    return RunStatus(
        run_key=settings.run_key,
        results_dir=str(run.results_dir),
        flow_run_id=run.flow_run_id,
        total=run.spool.count,
        completed=told.get("completed", states[JOB_ANSWERED]),
        failed=told.get("failed", states[JOB_FAILED]),
        cancelled=told.get("cancelled", states[JOB_CANCELED]),
        active=0 if told else states[IN_FLIGHT],
        spent_usd=budget.spent(run.ledger),
        reserved_usd=budget.reserved(run.ledger),
        seconds_left=run.seconds_left,
        time_limit_seconds=settings.time_limit_seconds,
        asleep_for=run.asleep_for,
    )


def spent_now(run: Session) -> Decimal | None:
    """What a run has cost since this start of it, in USD; None where that is unknown."""
    spent, before = budget.spent(run.ledger), run.spent_before
    return None if spent is None or before is None else spent - before


def batch_statuses(run: Session) -> list[BatchStatus]:
    """Where each provider batch of a run stands, oldest first."""
    return [batch_status(run, entry) for entry in list(run.ledger)]


def batch_status(run: Session, entry: Entry) -> BatchStatus:
    """Where a provider batch stands."""
    flight, ending = run.flights.get(entry.chunk.sequence), entry.ending
    unsent = ending is not None and ending.status in NEVER_SENT and run.stopped is not None
    return BatchStatus(
        entry,
        flight.batch if flight else None,
        flight.succeeded if flight else 0,
        unsent or (ending is not None and ending.status == "canceled"),
        flight is not None and flight.is_overdue,
    )


def _waiting_for(run: Session, flying: int) -> str | None:
    if run.stopped is not None and run.manifest is None:
        if run.stopped.on_cancel == "detach":
            left = counted(flying, "batch")
            return f"nothing: {run.stopped.reason}, {left} left at work at the provider"
        return (
            f"{counted(flying, 'batch')} to be cancelled and collected "
            f"({run.stopped.reason}). Ctrl-C once more leaves at once; the next run collects them"
        )
    if run.waiting_for is not None:
        return run.waiting_for
    trouble = next((f.waiting_for for f in list(run.flights.values()) if f.waiting_for), None)
    if trouble is not None:
        return trouble
    asked = Counter(f.entry.chunk.provider for f in list(run.flights.values()) if f.entry.receipt)
    if not asked:
        return None
    return "answers of " + " and ".join(
        f"{name} ({counted(number, 'batch')})" for name, number in sorted(asked.items())
    )


def progress_stats(run: Session, failures: Mapping[str, int]) -> dict[str, Any]:
    """A run as the progress callback gets it, in the original library's words."""
    found, is_complete = run_status(run), run.manifest is not None
    ended = sum(1 for entry in run.ledger if entry.ending is not None)
    last = run.ledger[-1].chunk if run.ledger else None
    flying = [flight for flight in list(run.flights.values()) if flight.entry.receipt]
    expiries = [f.batch.expires_at for f in flying if f.batch and f.batch.expires_at]
    over = found.completed + found.failed + found.cancelled
    return {
        "total": found.total,
        "pending": 0 if is_complete else found.total - found.active - over,
        "active": found.active,
        "completed": found.completed,
        "failed": found.failed,
        "cancelled": found.cancelled,
        "cost_usd": plain_usd(found.spent_usd),
        "cost_of_run_usd": plain_usd(spent_now(run)),
        "cost_limit_usd": plain_usd(run.settings.cost_limit_usd),
        "is_complete": is_complete,
        "batches_total": len(run.ledger),
        "batches_completed": ended,
        "batches_pending": len(run.ledger) - ended,
        "current_batch_index": last.sequence if last else 0,
        "current_batch_size": last.count if last else 0,
        "items_per_batch": run.settings.items_per_batch,
        "reserved_usd": plain_usd(found.reserved_usd),
        "time_left_seconds": found.seconds_left,
        "resumed": run.resumed,
        "is_stopping": run.stopped is not None and not is_complete,
        "waiting_for": _waiting_for(run, len(flying)),
        "waiting_until": min(expiries) if expiries else None,
        "enqueued_tokens": sum(flight.entry.chunk.input_tokens for flight in flying),
        "failures": failures,
    }


def progress_batches(run: Session) -> dict[str, dict[str, Any]]:
    """The provider batches as the progress callback gets them, in the original library's words."""
    return {batch.key: _batch(batch) for batch in batch_statuses(run)}


def planned_batches(run: Session) -> dict[str, dict[str, Any]]:
    """The next batches that a run will make of the jobs that wait, told by their number alone.

    How many jobs really fit into one, and what it may cost, is known when it is cut.
    """
    found: dict[str, dict[str, Any]] = {}
    if run.manifest is not None or run.stopped is not None:
        return found
    for family in run.spool.families():
        provider = run.provider(family.provider)
        most = min(run.settings.items_per_batch, provider.limits.max_requests)
        attempts = range(run.settings.max_attempts)
        left = sum(run.spool.states.waiting(family.id, each) for each in attempts)
        while left > 0 and len(found) < _PLANNED_TOLD:
            count = min(most, left)
            left -= count
            found[f"pending_{len(run.ledger) + len(found)}"] = {
                **_NO_BATCH,
                "total": count,
                "jobs": count,
                "provider": family.provider,
                "model": family.model,
                "name": f"{family.provider} {family.model}",
            }
    return found


def _batch(batch: BatchStatus) -> dict[str, Any]:
    chunk = batch.entry.chunk
    if batch.entry.ending is None:
        status = "running" if batch.batch_id else "pending"
    else:
        status = "cancelled" if batch.was_canceled else "failed" if batch.failed else "complete"
    return {
        "start_time": _local(batch.entry.receipt.created_at) if batch.entry.receipt else None,
        "status": status,
        "total": chunk.count,
        "jobs": chunk.count,
        "completed": batch.answered,
        "failed": batch.failed,
        "cost": plain_usd(batch.cost_usd) if batch.entry.ending else 0.0,
        "estimated_cost": plain_usd(chunk.reserved_usd),
        "provider": chunk.provider,
        "model": chunk.model,
        "name": chunk.name,
        "batch_id": batch.batch_id,
        "completion_time": _local(batch.ended_at) if batch.ended_at else None,
        "error": batch.reason,
    }


def _local(at: datetime) -> datetime:
    """A time as `datetime.now()` gives it."""
    return at.astimezone().replace(tzinfo=None)


def say_what_happens_now(run: Session) -> None:
    """Log what becomes of the batches in flight as the run is told to stop."""
    flying = sum(1 for flight in list(run.flights.values()) if flight.entry.receipt)
    if run.stopped is not None and run.stopped.on_cancel == "detach":
        logger.warning("%s: leaving %d provider batches running", run.stopped.reason, flying)
    elif run.stopped is not None:
        logger.warning(
            "%s: cancelling %d provider batches and collecting what they finished, which can "
            "take minutes. Once more leaves at once; they go on and the next run collects them",
            run.stopped.reason,
            flying,
        )


def say_how_to_resume(run: Session) -> None:
    """Log that the process leaves its batches to the next run."""
    flying = sum(1 for flight in list(run.flights.values()) if flight.entry.receipt)
    logger.warning(
        "stopped; %d provider batches go on at the provider. Run the same jobs again with "
        "results_dir=%r to collect them; nothing is paid twice",
        flying,
        str(run.results_dir),
    )
