"""Where a run stands: the one description that callback, terminal, artifacts and manifest read."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import orjson

from batchata_prefect.engine.read_chunk import kept_answers
from batchata_prefect.engine.session import Session
from batchata_prefect.jobs.spool import ANSWERED as JOB_ANSWERED
from batchata_prefect.jobs.spool import CANCELED as JOB_CANCELED
from batchata_prefect.jobs.spool import FAILED as JOB_FAILED
from batchata_prefect.jobs.spool import IN_FLIGHT
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import AGAIN, FAILED, NEVER_SENT, NOT_AS_ASKED, Entry
from batchata_prefect.views.status import BatchStatus, RunStatus

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
        return dict(self._codes.most_common())

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
    flying = [flight for flight in run.flights.values() if flight.entry.receipt]
    expiries = [f.batch.expires_at for f in flying if f.batch and f.batch.expires_at]
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
        resumed=run.resumed,
        spent_usd=budget.spent(run.ledger),
        spent_now_usd=spent_now(run),
        reserved_usd=budget.reserved(run.ledger),
        cost_limit_usd=settings.cost_limit_usd,
        seconds_left=run.seconds_left,
        time_limit_seconds=settings.time_limit_seconds,
        waiting_for=_waiting_for(run, len(flying)),
        waiting_until=min(expiries) if expiries else None,
        enqueued_tokens=sum(flight.entry.chunk.input_tokens for flight in flying),
        is_stopping=run.stopped is not None and run.manifest is None,
        is_complete=run.manifest is not None,
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
        flight.failed if flight else 0,
        unsent or (ending is not None and ending.status == "canceled"),
        flight is not None and flight.is_overdue,
    )


def _waiting_for(run: Session, flying: int) -> str | None:
    if run.stopped is not None and run.manifest is None:
        if run.stopped.on_cancel == "detach":
            return f"nothing: {run.stopped.reason}, {flying:,} batches go on at the provider"
        return (
            f"{flying:,} batches to be cancelled and collected ({run.stopped.reason}). Ctrl-C "
            "once more leaves at once; the next run collects them"
        )
    if run.waiting_for is not None:
        return run.waiting_for
    trouble = next((f.waiting_for for f in run.flights.values() if f.waiting_for), None)
    if trouble is not None:
        return trouble
    counted = Counter(f.entry.chunk.provider for f in run.flights.values() if f.entry.receipt)
    if not counted:
        return None
    return "answers of " + " and ".join(
        f"{name} ({number:,} {'batch' if number == 1 else 'batches'})"
        for name, number in sorted(counted.items())
    )
