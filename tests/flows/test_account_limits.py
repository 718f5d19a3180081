"""Runs under one account keep to the limits that stand at the Prefect server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect import get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)

from batchata_prefect import Batch
from batchata_prefect.records import shares

OPEN = {"validating", "in_progress", "finalizing"}
pytestmark = pytest.mark.usefixtures("prefect_server")


class Limit:
    """A global concurrency limit, and the way to change it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, limit: int, decay: float | None = None) -> None:
        values: dict[str, Any] = {"name": self.name, "limit": limit}
        if decay is not None:
            values["slot_decay_per_second"] = decay

        async def call() -> None:
            async with get_client() as client:
                await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(**values))

        asyncio.run(call())

    def change(self, limit: int) -> None:
        async def call() -> None:
            async with get_client() as client:
                change = GlobalConcurrencyLimitUpdate(limit=limit)
                await client.update_global_concurrency_limit(self.name, change)

        asyncio.run(call())

    def delete(self) -> None:
        async def call() -> None:
            async with get_client() as client:
                await client.delete_global_concurrency_limit_by_name(self.name)

        asyncio.run(call())


@pytest.fixture
def account(sandbox) -> str:
    return urlsplit(sandbox.environment()["OPENAI_BASE_URL"]).netloc


@pytest.fixture
def batches(account: str) -> Generator[Limit]:
    limit = Limit(f"batchata-openai-batches@{account}")
    yield limit
    limit.delete()


@pytest.fixture
def creates(account: str) -> Generator[Limit]:
    limit = Limit(f"batchata-openai-creates@{account}")
    yield limit
    limit.delete()


def make(tmp_path: Path, name: str = "out", count: int = 6) -> Batch:
    """One job a batch, more at once than a limit of the tests lets pass."""
    batch = Batch(tmp_path / name, items_per_batch=1, max_parallel_batches=count)
    batch.set_state(file=tmp_path / "state")
    for n in range(count):
        batch.add_job(
            prompt=f"{tmp_path} {name} {n}", model="gpt-6-luna", max_tokens=200, id=f"j{n}"
        )
    return batch


class Watch:
    """Looks at the sandbox all the time: the most batches at once, and when the first came."""

    def __init__(self, sandbox: Any) -> None:
        self.most = 0
        self._began = datetime.now(UTC)
        self._sandbox = sandbox
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, sum(row.status in OPEN for row in self.created()))

    def created(self) -> list[Any]:
        rows = self._sandbox.ledger.batches()
        return [row for row in rows if row.created_at >= self._began]

    def first_after(self) -> float:
        """Seconds until the first batch was created."""
        first = min(row.created_at for row in self.created())
        return (first - self._began).total_seconds()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def watch(sandbox) -> Generator[Watch]:
    sandbox.limits(seconds=0.5)
    with Watch(sandbox) as watch:
        yield watch
    sandbox.limits(seconds=0.1)


def test_two_runs_have_no_more_batches_in_flight_than_the_limit(
    tmp_path: Path, watch: Watch, batches: Limit
) -> None:
    """Two runs of six batches each, which would send all at once, share three places."""
    batches.make(3)
    answered: list[int] = []

    def go(name: str) -> None:
        answered.append(len(make(tmp_path, name).run().results()["completed"]))

    threads = [threading.Thread(target=go, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answered == [6, 6]
    assert watch.most == 3


def test_a_limit_that_is_changed_counts_from_the_next_batch_on(
    tmp_path: Path, watch: Watch, batches: Limit
) -> None:
    """A limit of 0 stops a fleet without a fault, and raising it lets the waiting run go on."""
    batches.make(0)
    timer = threading.Timer(2.0, batches.change, (6,))
    timer.start()
    run = make(tmp_path).run()
    timer.join()
    assert len(run.results()["completed"]) == 6
    assert watch.first_after() >= 1.9


def test_the_place_of_a_dead_run_comes_back(
    tmp_path: Path, watch: Watch, account: str, batches: Limit
) -> None:
    """What a killed run holds is waited for and ends by itself; at the end nobody holds a place."""
    batches.make(1)
    name = f"batches in flight of openai at {account}"
    asyncio.run(shares.settle(name, "a run that was killed", 1, lasts=2))
    assert len(make(tmp_path, count=2).run().results()["completed"]) == 2
    assert watch.first_after() >= 1.5
    assert watch.most == 1
    assert not any(holding.amount for holding in asyncio.run(shares.held(name)))


def test_batches_are_created_no_faster_than_the_limit(
    tmp_path: Path, watch: Watch, creates: Limit
) -> None:
    """With two at once and two a second, six batches take two seconds."""
    creates.make(2, decay=2.0)
    run = make(tmp_path).run()
    assert len(run.results()["completed"]) == 6
    created = sorted(row.created_at for row in watch.created())
    assert (created[-1] - created[0]).total_seconds() >= 1.5


def test_a_run_ends_in_order_while_it_waits_for_its_turn(
    tmp_path: Path, sandbox, creates: Limit
) -> None:
    """Cancelling does not wait for a slot that comes in hours, and nothing is sent or lost."""
    creates.make(1, decay=0.0005)
    batch = make(tmp_path, count=3)
    run = batch._prepare(None, 1.0)
    threading.Timer(3.0, run.cancel).start()
    began = time.monotonic()
    run.execute()
    # A slot comes back after half an hour; under load the flow run alone takes a while to start.
    assert time.monotonic() - began < 120
    results = run.results()
    assert len(results["completed"]) + len(results["cancelled"]) == 3
    assert len(results["completed"]) <= 1
