"""`adopt` and `cancel` where a create has no answer: what is found, what may be there, and not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.collector.inflight import Known, adopt, cancel, open_run, write_off
from batchata_prefect.money.ledger import Intent, Start
from batchata_prefect.providers.anthropic.batches import Anthropic
from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records, TakenOverError
from batchata_prefect.views.status import BatchStatus
from tests.unit.providers.orders import Order, connected, finished


@pytest.fixture
def placed(sandbox, tmp_path: Path) -> Order:
    """A chunk whose create has no answer on record."""
    sandbox.settle()
    return Order(Anthropic(), tmp_path / "mine.jsonl", ["Mine"] * 5, str(tmp_path))


async def known(placed: Order, tmp_path: Path, ago: float = 3600.0) -> Known:
    """Its records, with an intent that is so many seconds old."""
    records = Records(await storage_at(str(tmp_path / "state")), "night")
    since = datetime.now(UTC) - timedelta(seconds=ago)
    await records.begin(Start("night", since, str(tmp_path), records="1"), afresh=False)
    await records.write_intent(Intent(placed.chunk, since, b"\0" * 40))
    return await open_run(None, "night", str(tmp_path / "state"))


def stands(lines: list[BatchStatus]) -> tuple[str | None, str]:
    (line,) = lines
    return line.batch_id, line.trouble or ""


def test_one_that_may_be_there_is_not_told_as_cancelled(sandbox, placed, tmp_path):
    """An open batch of the same size may be ours: it is told, and cancelled when it is known."""
    other = Order(placed.provider, tmp_path / "theirs.jsonl", ["Theirs"] * 5, "theirs")
    sandbox.limits(seconds=60)

    async def look() -> None:
        run = await known(placed, tmp_path)
        async with connected(placed.provider) as client:
            theirs = (await other.create(client)).batch_id
            for act in (cancel(run), adopt(run)):
                found: Any = await act
                lines = found if isinstance(found, list) else found[0]
                assert stands(lines) == (
                    None,
                    f"it may be {theirs}, which tells whose it is when it ends",
                )
            mine = (await placed.create(client)).batch_id
            sandbox.settle()
            await finished(placed.provider, client, mine)
            assert stands(await cancel(run)) == (mine, "")

    try:
        asyncio.run(look())
    finally:
        sandbox.limits(seconds=0.1)
    assert (asyncio.run(open_run(None, "night", str(tmp_path / "state")))).entries[0].receipt


@pytest.mark.parametrize(("ago", "told"), [(1.0, "may not be listed yet"), (3600.0, "")])
def test_one_that_is_nowhere(sandbox, placed, tmp_path, ago, told):
    """A create that made nothing leaves nothing to cancel, once its provider's list can tell."""

    async def look() -> None:
        batch_id, trouble = stands(await cancel(await known(placed, tmp_path, ago)))
        assert batch_id is None
        assert bool(told) == bool(trouble)
        assert told in trouble

    asyncio.run(look())


async def taken_over_meanwhile(sandbox: Any, run: Known, act: Coroutine[Any, Any, Any]) -> None:
    """What is done with a job set that another process takes over while its batch is searched."""
    calls = sandbox.ledger.calls().get("anthropic.list", 0)
    sandbox.fault("anthropic", operation="list", mode="delay", seconds=1.0)
    search = asyncio.create_task(act)
    # The claim is there before it is owned: only a call to the provider tells that it is.
    while sandbox.ledger.calls().get("anthropic.list", 0) == calls and not search.done():
        await asyncio.sleep(0.02)
    claim = await run.records.read("owners/000000")
    assert claim is not None
    await run.records.create("owners/000001", {**claim, "token": "another"})
    with pytest.raises(TakenOverError):
        await search
    assert sandbox.ledger.calls()["anthropic.list"] == calls + 1


def test_what_another_process_took_over_is_not_recorded(sandbox, placed, tmp_path):
    """A search may take longer than the lease: who runs the job set now records its batch."""

    async def look() -> None:
        run = await known(placed, tmp_path)
        async with connected(placed.provider) as client:
            mine = (await placed.create(client)).batch_id
            await finished(placed.provider, client, mine)
        await taken_over_meanwhile(sandbox, run, adopt(run))

    asyncio.run(look())
    (entry,) = asyncio.run(open_run(None, "night", str(tmp_path / "state"))).entries
    assert entry.receipt is None


def test_what_another_process_took_over_is_not_written_off(sandbox, placed, tmp_path):
    """It may be collecting the very answers that a person here has given up."""
    other = Order(placed.provider, tmp_path / "theirs.jsonl", ["Theirs"] * 5, "theirs")
    sandbox.limits(seconds=60)

    async def look() -> None:
        run = await known(placed, tmp_path)
        async with connected(placed.provider) as client:
            await other.create(client)
        await taken_over_meanwhile(sandbox, run, write_off(run, "1"))

    try:
        asyncio.run(look())
    finally:
        sandbox.limits(seconds=0.1)
    (entry,) = asyncio.run(open_run(None, "night", str(tmp_path / "state"))).entries
    assert not entry.written_off
