"""What a run is doing right now, for whoever watches it: what it waits for, what has failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from batchata_prefect.engine.read_chunk import kept_answers
from batchata_prefect.engine.session import Session
from batchata_prefect.jobs.spool import FAILED as JOB_FAILED
from batchata_prefect.money.ledger import AGAIN, FAILED, NOT_AS_ASKED, Entry

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


def waits(run: Session) -> dict[str, Any]:
    """What a run waits for and until when, as the keys of `BatchRun.status`."""
    flying = [flight for flight in run.flights.values() if flight.entry.receipt]
    expiries = [f.batch.expires_at for f in flying if f.batch and f.batch.expires_at]
    return {
        "is_stopping": run.stopped is not None and run.manifest is None,
        "waiting_for": _waiting_for(run, len(flying)),
        "waiting_until": min(expiries) if expiries else None,
        "enqueued_tokens": sum(flight.entry.chunk.input_tokens for flight in flying),
    }


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
