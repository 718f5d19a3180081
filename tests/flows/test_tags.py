"""Prefect's own concurrency limits on the tags of the provider-batch tasks hold over all runs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from prefect import get_client, tags
from prefect.client.orchestration import PrefectClient
from prefect.concurrency import services

from batchata_prefect import Batch, BatchRun
from batchata_prefect.engine import tasks
from tests.chaos.killing import Forker, log_of, told, until

pytestmark = pytest.mark.usefixtures("prefect_server")

OPEN = {"validating", "in_progress", "finalizing"}
T = TypeVar("T")


def ask(call: Callable[[PrefectClient], Awaitable[T]]) -> T:
    async def answer() -> T:
        async with get_client() as client:
            return await call(client)

    return asyncio.run(answer())


class Limit:
    """A tag concurrency limit, as `prefect concurrency-limit create` makes it."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def set(self, limit: int) -> None:
        ask(lambda client: client.create_concurrency_limit(self.tag, limit))
        # For 5 s Prefect's client would know that the tag has none.
        services._no_limits_cache.clear()

    def hold(self, slots: int) -> Any:
        """Hold slots as another run does; gives the id of the lease."""
        answer = ask(
            lambda client: client.increment_concurrency_slots_with_lease(
                [f"tag:{self.tag}"], slots, "concurrency", lease_duration=300
            )
        )
        return answer.json()["lease_id"]

    def free(self, lease_id: Any) -> None:
        ask(lambda client: client.release_concurrency_slots_with_lease(lease_id=lease_id))

    def taken(self) -> int:
        found = ask(lambda client: client.read_concurrency_limit_by_tag(self.tag))
        return len(found.active_slots)


@pytest.fixture
def limit() -> Iterator[Limit]:
    made = Limit("provider:openai")
    yield made
    ask(lambda client: client.delete_concurrency_limit_by_tag(made.tag))


@contextmanager
def when_waiting(run: BatchRun, call: Callable[[], None]) -> Iterator[None]:
    """Call once a task of the run waits for a slot."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            flights = list(run._session.flights.values())
            if any(flight.waiting_for == tasks.WAITING for flight in flights):
                call()
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def make(tmp_path: Path, name: str = "out", count: int = 6) -> Batch:
    """One job a batch, more at once than a limit of the tests lets pass."""
    batch = Batch(tmp_path / name, items_per_batch=1, max_parallel_batches=count)
    batch.set_state(file=tmp_path / "state")
    for n in range(count):
        batch.add_job(
            prompt=f"{tmp_path} {name} {n}", model="gpt-6-luna", max_tokens=200, id=f"j{n}"
        )
    return batch


def beside(tmp_path: Path, jobs: int) -> dict[str, Any]:
    """The same for a run in a process of its own."""
    return told(tmp_path, "other", jobs=jobs, models=["gpt-6-luna"], items_per_batch=1)


class Watch:
    """Looks at the sandbox all the time: the most batches at once."""

    def __init__(self, sandbox: Any) -> None:
        self.most = 0
        self._began = datetime.now(UTC)
        self._sandbox = sandbox
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def created(self) -> list[Any]:
        rows = self._sandbox.ledger.batches()
        return [row for row in rows if row.created_at >= self._began]

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, sum(row.status in OPEN for row in self.created()))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def watch(sandbox) -> Iterator[Watch]:
    sandbox.limits(seconds=0.5)
    with Watch(sandbox) as watch:
        yield watch
    sandbox.limits(seconds=0.1)


@pytest.mark.timeout(400)
def test_a_limit_holds_over_two_runs(
    tmp_path: Path, watch: Watch, limit: Limit, forker: Forker
) -> None:
    """Two runs of four batches each, in two processes, share the two slots of their provider."""
    limit.set(2)
    other = beside(tmp_path, 4)
    forker.start(other)
    most: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            most.append(limit.taken())

    looking = threading.Thread(target=look)
    looking.start()
    run = make(tmp_path, "one", 4).run()
    assert forker.wait() == 0, log_of(other)
    over.set()
    looking.join()
    assert len(run.results()["completed"]) == 4
    assert len(watch.created()) == 8
    assert watch.most == max(most) == 2
    assert limit.taken() == 0


@pytest.mark.timeout(400)
def test_a_run_that_waits_for_a_slot_ends_in_order(
    tmp_path: Path, sandbox, limit: Limit, forker: Forker
) -> None:
    """Cancelled, it sends nothing, gives back what it reserved, and its process ends."""
    limit.set(1)
    limit.hold(1)
    billed = len(list(sandbox.ledger.batches()))
    other = beside(tmp_path, 4)
    pid = forker.start(other)
    until(lambda: Path(other["log"]).exists() and "Beginning flow run" in log_of(other))
    time.sleep(2)  # by then it waits
    os.kill(pid, signal.SIGINT)
    assert forker.wait() == 130, log_of(other)
    assert len(list(sandbox.ledger.batches())) == billed
    batch = make(tmp_path)
    run = batch._prepare(None, 1.0)
    with when_waiting(run, run.cancel):
        run.execute()
    assert len(run.results()["cancelled"]) == 6
    assert run.manifest is not None
    assert run.manifest["reserved_usd"] == run.manifest["cost_usd"] == 0
    # Few wait at a time: each holds its reservation.
    assert 1 <= len(run.manifest["batches"]) <= 4
    assert {batch["status"] for batch in run.manifest["batches"]} == {"never_created"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("most", [0, 1])
def test_a_run_that_waits_for_a_slot_goes_on(
    tmp_path: Path, sandbox, limit: Limit, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it waits for. A limit of 0 holds a fleet until it is raised."""
    monkeypatch.setattr(tasks, "_CLOSED_SECONDS", 1.0)
    limit.set(most)
    lease = limit.hold(1) if most else None
    created = len(list(sandbox.ledger.batches()))
    batch = make(tmp_path)
    run = batch._prepare(None, 1.0)
    seen: list[Any] = []

    def look() -> None:
        seen.extend(flight.waiting_for for flight in run._session.flights.values())
        seen.append(len(list(sandbox.ledger.batches())) - created)
        if lease is not None:
            limit.free(lease)
        else:
            limit.set(6)

    with when_waiting(run, look):
        run.execute()
    assert len(run.results()["completed"]) == 6
    assert set(seen) == {tasks.WAITING, 0}


def test_what_is_paid_does_not_wait_for_a_slot(
    tmp_path: Path, sandbox, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that an earlier run left at the provider are collected although no slot is free."""
    sandbox.limits(seconds=2)
    monkeypatch.setattr(tasks, "_PATIENCE_SECONDS", 1.0)
    try:
        batch = make(tmp_path, count=2)
        created = len(list(sandbox.ledger.batches()))
        first = batch._prepare(None, 1.0)

        def leave() -> None:
            while len(list(sandbox.ledger.batches())) < created + 2:
                time.sleep(0.1)
            first._session.stop("left", "detach")

        thread = threading.Thread(target=leave)
        thread.start()
        first.execute()
        thread.join()
        limit.set(1)
        limit.hold(1)
        run = make(tmp_path, count=2).run()
    finally:
        sandbox.limits(seconds=0.1)
    assert len(run.results()["completed"]) == 2
    assert len(list(sandbox.ledger.batches())) == created + 2


def test_tasks_have_tags(tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names its own provider and model, and what the user has put around the run."""
    seen: list[set[str]] = []
    real = tasks.provider_batch

    async def spy(*arguments: Any) -> Any:
        seen.append(set(arguments[-1]))
        return await real(*arguments)

    monkeypatch.setattr(tasks, "provider_batch", spy)
    batch = make(tmp_path, count=1)
    batch.add_job(prompt=f"{tmp_path}", model="claude-sonnet-5-5", max_tokens=200, id="c")
    with tags("team-a"):
        run = batch.run()
    assert len(run.results()["completed"]) == 2
    assert sorted(map(sorted, seen)) == [
        ["batchata", "model:claude-sonnet-5-5", "provider:anthropic", "team-a"],
        ["batchata", "model:gpt-6-luna", "provider:openai", "team-a"],
    ]
    flow_run = ask(lambda client: client.read_flow_run(UUID(run._session.flow_run_id)))
    assert set(flow_run.tags) == {"batchata", "provider:anthropic", "provider:openai", "team-a"}


def test_without_limits_prefect_is_asked_for_no_slot(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask is to write, which SQLite may refuse: Prefect's client then waits for 2 s."""
    asked: list[list[str]] = []
    real = PrefectClient.increment_concurrency_slots_with_lease

    async def spy(self: PrefectClient, names: list[str], *rest: Any, **named: Any) -> Any:
        asked.append(names)
        return await real(self, names, *rest, **named)

    monkeypatch.setattr(PrefectClient, "increment_concurrency_slots_with_lease", spy)
    batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    batch.add_job(prompt=f"{tmp_path}", model="claude-sonnet-5-5", max_tokens=200, id="c")
    # No other test knows this tag, so that Prefect's client cannot know of it.
    with tags(tmp_path.name):
        assert len(batch.run().results()["completed"]) == 1
    # Those that earlier runs of this process gave up are still asked for.
    assert not [names for names in asked if f"tag:{tmp_path.name}" in names]
