"""One description of a run and of its provider batches, from which all that people see is made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.ledger import ANSWERED, Entry
from batchata_prefect.numbers import plain_usd


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One provider batch of a run: what the ledger knows of it, and what the provider says.

    Attributes:
        entry: Its line in the ledger.
        batch: What the provider said last; None where it has not been asked.
        running_answered: Requests answered so far, where the provider says.
        was_canceled: Whether it was canceled, or never sent because the run was told to stop.
        is_overdue: Whether its provider has not ended it long after its expiry.
        trouble: Why the provider said nothing of it, or did not do what was asked.
    """

    entry: Entry
    batch: ProviderBatch | None = None
    running_answered: int = 0
    was_canceled: bool = False
    is_overdue: bool = False
    trouble: str | None = None

    @property
    def batch_id(self) -> str | None:
        """The provider's id; None before it is known."""
        return self.entry.receipt.batch_id if self.entry.receipt else None

    @property
    def key(self) -> str:
        """What names it in the progress callback: the provider's id, or its place in the run."""
        return self.batch_id or f"pending_{self.entry.chunk.sequence}"

    @property
    def state(self) -> str:
        """Where it stands, in a word or two: its ending, or what the provider says."""
        if self.entry.ending is not None:
            return self.entry.ending.status.replace("_", " ")
        if self.entry.chunk.realtime:
            return "realtime"
        if self.entry.receipt is None:
            return "being sent"
        if self.batch is not None and self.batch.state == "ended":
            # "Ended" is what has been collected as well.
            kind = (self.batch.ending or "ended").replace("canceled", "cancelled")
            return "to be collected" if kind == "ended" else f"{kind}, to be collected"
        told = self.batch.raw_status.replace("_", " ") if self.batch else "in progress"
        return f"{told}, overdue" if self.is_overdue else told

    @property
    def answered(self) -> int:
        """Jobs answered; before its end so far, where the provider says."""
        ending = self.entry.ending
        return self.running_answered if ending is None else ending.marks.count(ANSWERED)

    @property
    def failed(self) -> int:
        """Jobs without an answer; before its end so far, where the provider says."""
        chunk, ending = self.entry.chunk, self.entry.ending
        if ending is not None:
            return chunk.count - self.answered
        return self.batch.failed if self.batch else 0

    @property
    def cost_usd(self) -> Decimal | None:
        """What it cost in USD; None before its end, and where a price is unknown."""
        return self.entry.ending.cost_usd if self.entry.ending else None

    @property
    def sent_at(self) -> datetime:
        """Time of its creation, or just before it where that is not known."""
        return self.entry.receipt.created_at if self.entry.receipt else self.entry.since

    @property
    def expires_at(self) -> datetime | None:
        """Time after which the provider gives up; None after its end, or where it does not say."""
        return self.batch.expires_at if self.batch and self.entry.ending is None else None

    @property
    def ended_at(self) -> datetime | None:
        """Time of its end; None before it."""
        return self.entry.ending.ended_at if self.entry.ending else None

    @property
    def reason(self) -> str | None:
        """Why it failed, was canceled or never sent; None where there is nothing to say."""
        return self.entry.ending.reason if self.entry.ending else None

    def facts(self) -> dict[str, Any]:
        """What became of it as JSON has it: its line in the manifest, and what its task returns."""
        chunk, receipt, ending = self.entry.chunk, self.entry.receipt, self.entry.ending
        return {
            "name": chunk.name,
            "batch_id": self.batch_id,
            "token": chunk.token,
            "provider": chunk.provider,
            "model": chunk.model,
            "round": chunk.round,
            "jobs": chunk.count,
            "answered": self.answered,
            "realtime": chunk.realtime,
            "status": ending.status if ending else "in_flight",
            "reason": self.reason,
            "estimated_usd": plain_usd(chunk.reserved_usd),
            "cost_usd": plain_usd(self.cost_usd),
            "input_tokens": ending.usage.input_tokens if ending else None,
            "output_tokens": ending.usage.output_tokens if ending else None,
            "adopted": receipt.adopted if receipt else False,
            "sent_at": self.entry.since.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
        }


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        run_key: The identity under which it resumes.
        results_dir: Where its answers go.
        flow_run_id: Prefect's id of its flow run.
        total: Its jobs.
        completed: Jobs answered.
        failed: Jobs failed for good.
        cancelled: Jobs cancelled.
        active: Jobs in flight.
        spent_usd: What it has cost; None where a price is unknown.
        reserved_usd: What it may cost beyond that.
        seconds_left: Until its deadline; None without one.
        time_limit_seconds: From its first start to its deadline.
        asleep_for: What it sleeps for; None while it is awake.
    """

    run_key: str
    results_dir: str
    flow_run_id: str | None
    total: int
    completed: int
    failed: int
    cancelled: int
    active: int
    spent_usd: Decimal | None
    reserved_usd: Decimal | None
    seconds_left: float | None
    time_limit_seconds: float | None
    asleep_for: str | None

    @property
    def percent(self) -> float:
        """Percent of the jobs that are over; those that are cancelled go out in the next run."""
        done = self.completed + self.failed
        return round(100 * done / self.total, 1) if self.total else 0.0
