"""What the Prefect UI shows of a run while it goes on: its progress, and its provider batches.

Two artifacts, made once and updated in place when something has changed, every few seconds at
most. They stand on the flow run that a person opens: the deployed one around the batch, if any.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from prefect import get_client, get_run_logger
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
)
from prefect.context import FlowRunContext

from batchata_prefect.engine.session import Session
from batchata_prefect.errors import one_line
from batchata_prefect.jobs.spool import ANSWERED, CANCELED, FAILED, IN_FLIGHT
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import Entry

_MOST_ROWS = 200
_CALL_SECONDS = 10.0
_KEYS = {"progress": "batchata-progress", "table": "batchata-batches"}
"""By these Prefect's UI names the artifacts; without one it shows a UUID."""

_CONSOLES = {
    "https://api.openai.com/v1": "https://platform.openai.com/batches/{id}",
    "https://api.anthropic.com": "https://platform.claude.com/settings/workspaces/default/batches",
}
"""Pages of the providers' consoles, by base URL [batch-processing; platform.openai.com]."""


@asynccontextmanager
async def showing(run: Session) -> AsyncGenerator[None]:
    """Keep Prefect's picture of a run up to date; around the whole run."""
    context = FlowRunContext.get()
    picture = _Picture(run, context.flow_run.id if context and context.flow_run else None)
    task = asyncio.create_task(picture.keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        with suppress(asyncio.CancelledError):
            await picture.update()


class _Picture:
    def __init__(self, run: Session, own_id: Any) -> None:
        self._run = run
        self._on = UUID(run.around_id) if run.around_id else own_id
        self._ids: dict[str, Any] = {}
        self._shown: bytes | None = None
        self._looked = False
        # By this a run that goes on finds what an earlier process of it has made.
        self._mark = {"batchata": run.settings.run_key}
        self._pages: dict[str, str] = {}

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(self._run.pace.show)
            await self.update()

    async def update(self) -> None:
        """Bring the artifacts up to date; a Prefect that is away is tried again next time."""
        run = self._run
        if self._on is None or not run.ledger:
            return
        for name, client in run.clients.items():
            if (page := _CONSOLES.get(run.providers[name].account(client))) is not None:
                self._pages[name] = page
        percent, told, rows = progress(run), headline(run), table(run, self._pages)
        fingerprint = orjson.dumps([percent, told, rows])
        if fingerprint == self._shown:
            return
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await self._put("progress", percent, told)
                await self._put("table", orjson.dumps(rows).decode(), "Provider batches")
        except Exception as error:
            get_run_logger().debug("the progress is not shown in Prefect (%s)", one_line(error))
        else:
            self._shown = fingerprint

    async def _put(self, kind: str, data: Any, description: str) -> None:
        async with get_client() as client:
            if not self._looked:
                self._ids, self._looked = await self._earlier(client), True
            if kind in self._ids:
                changed = ArtifactUpdate(data=data, description=description, metadata_=self._mark)
                await client.update_artifact(self._ids[kind], changed)
                return
            made = await client.create_artifact(
                ArtifactCreate(
                    key=_KEYS[kind],
                    type=kind,
                    data=data,
                    description=description,
                    metadata_=self._mark,
                    flow_run_id=self._on,
                )
            )
            self._ids[kind] = made.id

    async def _earlier(self, client: Any) -> dict[str, Any]:
        """What an earlier process of this run has made."""
        asked = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[self._on]),
            type=ArtifactFilterType(any_=["progress", "table"]),
        )
        artifacts = await client.read_artifacts(artifact_filter=asked)
        return {each.type: each.id for each in artifacts if each.metadata_ == self._mark}


def progress(run: Session) -> float:
    """Percent of the jobs that have their result."""
    states = run.spool.states.counts
    done = states[ANSWERED] + states[FAILED] + states[CANCELED]
    return round(100 * done / run.spool.count, 1) if run.spool.count else 0.0


def headline(run: Session) -> str:
    """Where the run stands, in one line."""
    states, total = run.spool.states.counts, run.spool.count
    spent, held = budget.spent(run.ledger), budget.reserved(run.ledger)
    flying = sum(1 for entry in run.ledger if entry.ending is None)
    parts = [f"**{states[ANSWERED]:,} of {total:,} jobs answered**"]
    if states[FAILED]:
        parts.append(f"{states[FAILED]:,} failed")
    if states[CANCELED]:
        parts.append(f"{states[CANCELED]:,} cancelled")
    if flying:
        parts.append(f"{states[IN_FLIGHT]:,} in flight in {flying:,} provider batches")
    parts.append("cost unknown" if spent is None else f"${spent:,.4f} spent")
    if held:
        parts.append(f"up to ${held:,.4f} reserved")
    if run.asleep_for:
        parts.append(run.asleep_for)
    return " · ".join(parts)


def table(run: Session, pages: Mapping[str, str]) -> list[dict[str, Any]]:
    """The provider batches, newest first; of very many only those in flight and the newest.

    Args:
        run: The session.
        pages: Name of a provider -> page of its console, for links.
    """
    entries = sorted(run.ledger, key=lambda each: (each.ending is not None, -each.chunk.sequence))
    rows = [_row(run, entry, pages.get(entry.chunk.provider)) for entry in entries[:_MOST_ROWS]]
    left = entries[_MOST_ROWS:]
    if left:
        counted = Counter(_state(run, entry) for entry in left)
        told = ", ".join(f"{number:,} {state}" for state, number in counted.most_common())
        rows.append({**dict.fromkeys(rows[0], ""), "batch": f"and {len(left):,} more: {told}"})
    return rows


def _row(run: Session, entry: Entry, page: str | None) -> dict[str, Any]:
    chunk, receipt, ending = entry.chunk, entry.receipt, entry.ending
    flight = run.flights.get(chunk.sequence)
    batch = flight.batch if flight else None
    answered = ending.marks.count("a") if ending else (flight.succeeded if flight else 0)
    expires = batch.expires_at if batch and ending is None else None
    return {
        "batch": _link(entry, page),
        "model": chunk.model,
        "state": _state(run, entry),
        "jobs": chunk.count,
        "answered": answered,
        "cost USD": _usd(ending.cost_usd) if ending else "",
        "estimated USD": _usd(chunk.reserved_usd),
        "sent": _time(receipt.created_at if receipt else entry.since),
        "expires": _time(expires) if expires else "",
        "ended": _time(ending.ended_at) if ending else "",
        "remark": (ending.reason or "")[:200] if ending else "",
    }


def _state(run: Session, entry: Entry) -> str:
    if entry.ending is not None:
        return entry.ending.status.replace("_", " ")
    if entry.chunk.realtime:
        return "realtime"
    if entry.receipt is None:
        return "being sent"
    flight = run.flights.get(entry.chunk.sequence)
    return flight.batch.raw_status.replace("_", " ") if flight and flight.batch else "in progress"


def _link(entry: Entry, page: str | None) -> str:
    if entry.receipt is None:
        return entry.chunk.name
    batch_id = entry.receipt.batch_id
    return f"[{batch_id}]({page.format(id=batch_id)})" if page else batch_id


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%m-%d %H:%M:%S}"


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount:.4f}"
