"""What the Prefect UI shows of a run: its progress, its provider batches, its results.

Two artifacts while it goes on, made once and updated in place when something has changed, every few
seconds at most. They stand on the flow run that a person opens: the deployed one around the batch,
if any. At its end the report, and the results as an asset, so that Prefect's lineage shows them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import UUID

import orjson
from prefect import get_client, get_run_logger
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
)
from prefect.client.schemas.objects import State
from prefect.states import Completed

from batchata_prefect.errors import one_line
from batchata_prefect.numbers import counted, told_usd
from batchata_prefect.views.escapes import markdown
from batchata_prefect.views.report.words import summary
from batchata_prefect.views.status import BatchStatus, RunStatus

_MOST_ROWS = 200
_CALL_SECONDS = 10.0
_LONGEST_KEY = 480
_NOT_IN_KEYS = re.compile(r"[^\w./:@~+,=()-]", re.ASCII)
"""Wider than what Prefect refuses in the key of an asset [`prefect.types.names`]."""
_KEYS = {"progress": "batchata-progress", "table": "batchata-batches"}
"""By these Prefect's UI names the artifacts; without one it shows a UUID."""


class Seen(NamedTuple):
    """A run and its batches at one moment.

    Attributes:
        run: The run.
        batches: Its provider batches, oldest first.
        pages: Name of a connected provider -> page of its console.
    """

    run: RunStatus
    batches: Sequence[BatchStatus]
    pages: Mapping[str, str]


@asynccontextmanager
async def showing(
    look: Callable[[], Seen], flow_run_id: str | None, seconds: float
) -> AsyncGenerator[None]:
    """Keep Prefect's picture of a run up to date; around the whole run.

    Args:
        look: Says where the run stands.
        flow_run_id: The flow run that shows it.
        seconds: Between two updates.
    """
    picture = _Picture(look, _uuid(flow_run_id), seconds)
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
    def __init__(self, look: Callable[[], Seen], on: Any, seconds: float) -> None:
        self._look = look
        self._on = on
        self._seconds = seconds
        self._ids: dict[str, Any] | None = None
        self._shown: bytes | None = None
        # By this a run that goes on finds what an earlier process of it has made.
        self._mark = {"batchata": look().run.run_key}
        self._pages: dict[str, str] = {}

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self.update()

    async def update(self) -> None:
        """Bring the artifacts up to date; a Prefect that is away is tried again next time."""
        seen = self._look()
        if not seen.batches:
            return
        self._pages |= seen.pages
        percent, told = seen.run.percent, headline(seen.run, seen.batches)
        rows = orjson.dumps(table(seen.batches, self._pages))
        fingerprint = orjson.dumps([percent, told]) + rows
        if fingerprint == self._shown:
            return
        try:
            async with asyncio.timeout(_CALL_SECONDS), get_client() as client:
                if self._ids is None:
                    self._ids = await self._earlier(client)
                await self._put(client, self._ids, "progress", percent, told)
                await self._put(client, self._ids, "table", rows.decode(), "Provider batches")
        except Exception as error:
            get_run_logger().debug("the progress is not shown in Prefect (%s)", one_line(error))
        else:
            self._shown = fingerprint

    async def _earlier(self, client: Any) -> dict[str, Any]:
        """What an earlier process of this run has made: kind -> id."""
        asked = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[self._on]),
            type=ArtifactFilterType(any_=[*_KEYS]),
        )
        artifacts = await client.read_artifacts(artifact_filter=asked)
        return {each.type: each.id for each in artifacts if each.metadata_ == self._mark}

    async def _put(
        self, client: Any, ids: dict[str, Any], kind: str, data: Any, description: str
    ) -> None:
        values: dict[str, Any] = {"data": data, "description": description, "metadata_": self._mark}
        if kind in ids:
            await client.update_artifact(ids[kind], ArtifactUpdate(**values))
        else:
            own: dict[str, Any] = {"key": _KEYS[kind], "type": kind, "flow_run_id": self._on}
            ids[kind] = (await client.create_artifact(ArtifactCreate(**own, **values))).id


async def publish(key: str, text: str, description: str, flow_run_id: str | None) -> None:
    """Show a page of markdown on a flow run; if the server refuses it, the run goes on."""
    try:
        async with get_client() as client:
            await client.create_artifact(
                ArtifactCreate(
                    key=key,
                    type="markdown",
                    data=text,
                    description=description,
                    flow_run_id=_uuid(flow_run_id),
                )
            )
    except Exception as error:
        get_run_logger().warning("%s was not stored in Prefect (%s)", key, one_line(error))


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def headline(run: RunStatus, batches: Sequence[BatchStatus]) -> str:
    """Where the run stands, in one line."""
    flying = sum(1 for batch in batches if batch.entry.ending is None)
    parts = [f"**{run.completed:,} of {counted(run.total, 'job')} answered**"]
    if run.failed:
        parts.append(f"{run.failed:,} failed")
    if run.cancelled:
        parts.append(f"{run.cancelled:,} cancelled")
    if flying:
        parts.append(f"{run.active:,} in flight in {counted(flying, 'provider batch')}")
    spent, held = run.spent_usd, run.reserved_usd
    parts.append("cost unknown" if spent is None else f"{told_usd(spent)} spent")
    if held:
        parts.append(f"up to {told_usd(held)} reserved")
    if run.asleep_for:
        parts.append(markdown(run.asleep_for))
    return " · ".join(parts)


def table(batches: Sequence[BatchStatus], pages: Mapping[str, str]) -> list[dict[str, Any]]:
    """The provider batches, newest first; of very many only those in flight and the newest.

    Args:
        batches: All of the run's.
        pages: Name of a provider -> page of its console, for links.
    """
    ordered = sorted(batches, key=lambda b: (b.entry.ending is not None, -b.entry.chunk.sequence))
    rows = [_row(batch, pages.get(batch.entry.chunk.provider)) for batch in ordered[:_MOST_ROWS]]
    left = ordered[_MOST_ROWS:]
    if left:
        counted = Counter(batch.state for batch in left)
        told = ", ".join(f"{number:,} {state}" for state, number in counted.most_common())
        rows.append({**dict.fromkeys(rows[0], ""), "batch": f"and {len(left):,} more: {told}"})
    return rows


def _row(batch: BatchStatus, page: str | None) -> dict[str, Any]:
    chunk = batch.entry.chunk
    return {
        "batch": _link(batch, page),
        "model": markdown(chunk.model),
        "state": markdown(batch.state),
        "jobs": chunk.count,
        "answered": batch.answered,
        "cost USD": _usd(batch.cost_usd) if batch.entry.ending else "",
        "estimated USD": _usd(chunk.reserved_usd),
        "sent": _time(batch.sent_at),
        "expires": _time(batch.expires_at) if batch.expires_at else "",
        "ended": _time(batch.ended_at) if batch.ended_at else "",
        "remark": markdown((batch.reason or "")[:200]),
    }


def _link(batch: BatchStatus, page: str | None) -> str:
    if batch.batch_id is None:
        return markdown(batch.entry.chunk.name)
    told = markdown(batch.batch_id)
    return f"[{told}]({page.format(id=quote(batch.batch_id, safe=''))})" if page else told


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%m-%d %H:%M:%S}"


def _usd(amount: Decimal | None) -> str:
    return told_usd(amount, "unknown").removeprefix("$")


def asset_key(place: str) -> str:
    """The key of the results at a path or a URL, such as `s3://bucket/out/results.jsonl`.

    Prefect takes neither a space nor a percent sign in it, and 512 characters: what is replaced or
    left out is told apart by a digest. A password in a URL is left out.
    """
    if "://" in place:
        parts = urlsplit(place)
        netloc = parts.netloc.rpartition("@")[2]
        plain = f"{parts.scheme.lower()}://{netloc}{parts.path}"
    else:
        plain = f"file://{Path(place).absolute().as_posix()}"
    scheme, _, rest = plain.partition("://")
    key = f"{re.sub('[^a-z0-9]', '', scheme)}://{_NOT_IN_KEYS.sub('_', rest)}"
    if key == plain and len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{key[:_LONGEST_KEY]}~{digest}"


async def materialized(manifest: Mapping[str, Any], results: str) -> None:
    """Tell Prefect that the results were made, in a task of their own; a failure is a warning.

    Without an answer they are no new version of the results, and nothing is told.

    Args:
        manifest: What the run came to.
        results: Path or URL of its results.
    """
    counts = manifest["counts"]
    if not counts["completed"]:
        return
    try:
        name = f"{PurePath(results).parent.name} results"
        asset = Asset(key=asset_key(results), properties=AssetProperties(name=name))
        metadata = {
            "rows": counts["total"],
            "answered": counts["completed"],
            "failed": counts["failed"],
            "cancelled": counts["cancelled"],
            "cost_usd": manifest["cost_usd"],
            "run_key": manifest["run_key"],
        }

        @materialize(
            asset,
            by="batchata",
            name="results",
            task_run_name="results",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,
        )
        async def tell() -> State[Any]:
            asset.add_metadata(metadata)
            return Completed(message=f"{summary(manifest)}; see {results}", data=results)

        await tell()
    except Exception as error:
        get_run_logger().warning("the results are no asset in Prefect (%s)", one_line(error))
