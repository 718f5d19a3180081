"""Finding a batch whose creation is uncertain, with the real SDKs and the sandbox."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchata_prefect.errors import ProviderError
from batchata_prefect.providers import lists
from batchata_prefect.providers.anthropic.batches import Anthropic
from batchata_prefect.providers.failures import classify

from .orders import NOBODY, Order, answers, billed, finished, run


@pytest.fixture(autouse=True)
def _nothing_else_is_open(sandbox):
    """Batches of other tests have ended, and are told apart by their rows."""
    sandbox.settle()


def test_a_created_batch_whose_reply_is_lost_is_found(sandbox, provider, order):
    """After a create that was committed and whose reply was lost, the search gives the batch."""
    placed = order()
    sandbox.fault(provider.name, operation="create", mode="drop_after")

    async def lose(client: Any) -> None:
        with pytest.raises(Exception) as lost:
            await placed.create(client)
        assert not classify(lost.value).made_nothing
        found = await placed.find(client)
        while found.batch is None:
            assert found.undecided
            await asyncio.sleep(0.02)
            found = await placed.find(client)
        batch = await finished(provider, client, found.batch.batch_id)
        assert set(await answers(placed, client, batch)) == {0, 1, 2}
        assert (await placed.find(client, frozenset({batch.batch_id}))).batch is None

    before = sandbox.ledger.calls().get(f"{provider.name}.create", 0)
    run(provider, lose)
    assert sandbox.ledger.calls()[f"{provider.name}.create"] == before + 1
    mine = [name for name in billed(sandbox) if placed.chunk.ordinal(name) is not None]
    assert sorted(mine) == [placed.chunk.custom_id(at) for at in range(3)]


def test_a_batch_that_looks_alike_is_not_adopted(sandbox, provider, order):
    """Someone else's batch of the same time and size is not ours, whatever it holds."""
    placed, other = order(salt="mine"), order(salt="theirs")
    sandbox.fault(provider.name, operation="create", mode="drop_before")

    async def look(client: Any) -> None:
        with pytest.raises(Exception) as lost:
            await placed.create(client)
        assert not classify(lost.value).made_nothing
        theirs = await other.create(client)
        await finished(provider, client, theirs.batch_id)
        found = await placed.find(client)
        assert (found.batch, found.undecided) == (None, ())

    run(provider, look)


def test_an_open_look_alike_keeps_an_anthropic_search_open(sandbox, tmp_path):
    """While a batch of the same size is open, nobody can tell, and the search says so."""
    claude = Anthropic()
    placed = Order(claude, tmp_path / "mine.jsonl", ["Mine"] * 5, "mine")
    other = Order(claude, tmp_path / "theirs.jsonl", ["Theirs"] * 5, "theirs")
    larger = Order(claude, tmp_path / "larger.jsonl", ["Theirs"] * 6, "larger")
    sandbox.limits(seconds=30)

    async def look(client: Any) -> None:
        theirs = await other.create(client)
        await larger.create(client)
        assert (await placed.find(client)).undecided == (theirs.batch_id,)
        assert (await placed.find(client, frozenset({theirs.batch_id}))).undecided == ()
        sandbox.settle()
        sandbox.fault("anthropic", mode="results_not_ready")
        assert (await placed.find(client)).undecided == (theirs.batch_id,)
        assert (await placed.find(client)).undecided == ()

    try:
        run(claude, look)
    finally:
        sandbox.limits(seconds=0.1)


def test_the_search_goes_through_all_pages_of_its_time(sandbox, provider, order, monkeypatch):
    """A batch that is not on the first page of the list is found as well."""
    monkeypatch.setattr(lists, "PAGE", 2)
    placed = order(salt="first")

    async def look(client: Any) -> None:
        made = await placed.create(client)
        await finished(provider, client, made.batch_id)
        for at in range(5):
            await order(["x"], salt=f"later-{at}").create(client)
        found = await placed.find(client)
        assert found.batch is not None
        assert found.batch.batch_id == made.batch_id

    run(provider, look)


def test_a_search_does_not_reach_behind_its_time(sandbox, provider, order, monkeypatch):
    """Pages older than the intent, with a margin for the clocks, are not asked for."""
    monkeypatch.setattr(lists, "PAGE", 1)
    placed = order(salt="old")

    async def look(client: Any) -> None:
        await finished(provider, client, (await placed.create(client)).batch_id)
        await finished(provider, client, (await order(["x"], salt="new").create(client)).batch_id)
        calls = sandbox.ledger.calls()[f"{provider.name}.list"]
        later = datetime.now(UTC) + 2 * lists.CLOCK_MARGIN
        found = await provider.find(client, placed.chunk, later, NOBODY)
        assert (found.batch, found.undecided) == (None, ())
        # That Gemini's newest come first is not documented.
        if provider.name != "gemini":
            assert sandbox.ledger.calls()[f"{provider.name}.list"] == calls + 1

    async def list_once(client: Any) -> None:
        await placed.find(client)

    run(provider, list_once)
    run(provider, look)


@pytest.mark.parametrize("by_the_clock_here", [True, False])
@pytest.mark.parametrize("ahead", [3600, -3600])
def test_the_time_of_a_create_may_be_by_either_clock(
    sandbox, provider, order, ahead, by_the_clock_here
):
    """An earlier start may have noted it before it had heard the provider's own clock."""
    placed = order(salt=f"{ahead} {by_the_clock_here}")
    sandbox.limits(clock_seconds=ahead)

    async def look(client: Any) -> None:
        here = datetime.now(UTC)
        made = await placed.create(client)
        await finished(provider, client, made.batch_id)
        since = here if by_the_clock_here else here + timedelta(seconds=ahead)
        found = await provider.find(client, placed.chunk, since, NOBODY)
        assert found.batch is not None
        assert found.batch.batch_id == made.batch_id

    try:
        run(provider, look)
    finally:
        sandbox.limits(clock_seconds=0)


def test_a_look_alike_whose_results_are_gone_needs_a_person(sandbox, tmp_path, monkeypatch):
    """An archived candidate cannot be told apart any more; the error says so and names it."""
    claude = Anthropic()
    placed = Order(claude, tmp_path / "r.jsonl", ["a"] * 3)
    item = {
        "id": "msgbatch_old",
        "processing_status": "ended",
        "request_counts": {"succeeded": 3},
        "created_at": "2026-10-01T00:00:00Z",
        "archived_at": "2026-10-30T00:00:00Z",
    }

    async def listed(*_: Any) -> list[dict[str, Any]]:
        return [item]

    monkeypatch.setattr(claude, "since", listed)

    async def look(client: Any) -> None:
        with pytest.raises(ProviderError, match=r"msgbatch_old.*results are gone"):
            await placed.find(client)

    run(claude, look)
