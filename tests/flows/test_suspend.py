"""Waiting without a process: suspend, collect, resume, under a real server and a real worker."""

from __future__ import annotations

import asyncio
import re
import runpy
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelling

from batchata_prefect.collector.collect import Round, collect
from batchata_prefect.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
JOBS = 12
MODELS = ("claude-sonnet-5-5", "gpt-6-luna")


@dataclass
class Place:
    """The repository's deployments with a worker, and a sandbox that ends batches when told to."""

    home: Path
    sandbox: Sandbox
    stack: Any

    def start_worker(self) -> None:
        self.stack.start_worker()

    def stop_worker(self, number: int) -> None:
        self.stack.stop("worker-1", number)

    def flow_processes(self) -> list[psutil.Process]:
        return psutil.Process(self.stack.processes["worker-1"].pid).children(recursive=True)

    def trigger(self, name: str, **parameters: Any) -> UUID:
        """Start the deployment over a file of jobs: the flow run's id."""
        jobs = self.home / f"{name}.jsonl"
        with jobs.open("wb") as file:
            for n in range(JOBS):
                row = {"id": f"j{n}", "prompt": f"{jobs} {n}", "model": MODELS[n % 2]}
                file.write(orjson.dumps(row) + b"\n")
        return self.create(
            "jobs-from-file/default",
            {
                "jobs": str(jobs),
                "results_dir": str(self.home / name),
                "items_per_batch": 3,
                "max_tokens": 200,
                "wait": "suspend",
                "state": str(self.home / "state"),
                **parameters,
            },
        )

    def create(self, deployment: str, parameters: dict[str, Any] | None = None) -> UUID:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def wait_for(self, flow_run_id: UUID, wanted: str, *, seconds: float = 90) -> Any:
        """The flow run in the state of that name."""
        deadline = time.monotonic() + seconds
        with get_client(sync_client=True) as client:
            while True:
                flow_run = client.read_flow_run(flow_run_id)
                if flow_run.state is not None and flow_run.state.name == wanted:
                    return flow_run
                final = flow_run.state is not None and flow_run.state.is_final()
                late = time.monotonic() > deadline
                assert not final and not late, f"{flow_run.state!r}\n{self.log()}"
                time.sleep(0.2)

    def limit(self, tag: str, slots: int) -> None:
        """Limit the tasks of a tag as `prefect concurrency-limit create` does."""
        with get_client(sync_client=True) as client:
            client._client.post(
                "/concurrency_limits/", json={"tag": tag, "concurrency_limit": slots}
            )

    def slots(self, tag: str) -> int:
        """Slots of a tag that are held."""
        with get_client(sync_client=True) as client:
            found = client._client.get(f"/concurrency_limits/tag/{tag}").json()
        return len(found["active_slots"])

    def log(self) -> str:
        return self.stack.log("worker-1")

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (self.home / name / "results.jsonl").open("rb")]

    def billed(self) -> list[str]:
        """Digests of the billed requests."""
        return [row.body_digest for row in self.sandbox.ledger.billed()]

    def collect(self) -> Round:
        return asyncio.run(collect())


def until(true: Callable[[], bool], place: Place, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, place.log()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_tables: Path) -> Iterator[Place]:
    """The production shape, as far as it is installed here: PostgreSQL, Redis, a split server."""
    home = tmp_path_factory.mktemp("sleepers")
    (home / "stack" / "prefect").mkdir(parents=True)
    shutil.copyfile(prefect_tables, home / "stack" / "prefect" / "prefect.db")
    native = runpy.run_path(str(ROOT / "deployments" / "native.py"))
    with (
        Sandbox(tmp_path_factory.mktemp("sandbox"), seconds=3600) as sandbox,
        native["stack"](home / "stack") as stack,
        temporary_settings({PREFECT_API_URL: stack.environment["PREFECT_API_URL"]}),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in sandbox.environment().items():
            patch.setenv(name, value)
        stack.environment |= sandbox.environment()
        stack.environment |= {
            "PREFECT_WORKER_QUERY_SECONDS": "0.5",
            "BATCHATA_SUSPEND_SECONDS": "0.5",
        }
        stack.start_worker()
        stack.run("work-pool", "create", "--type", "process", "batchata", "--overwrite")
        stack.run("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
        with get_client(sync_client=True) as client:
            # Each test says itself when it wants to have it run.
            collector = client.read_deployment_by_name("batchata-collector/collector")
            client.pause_deployment(collector.id)
        yield Place(home, sandbox, stack)


@pytest.mark.timeout(240)
def test_asleep_over_the_death_of_its_worker(place: Place) -> None:
    """A run holds no process while the providers work, and is resumed when they are done.

    The worker is killed in between, and the schedule of the collector wakes the run. Every job is
    answered and billed once.
    """
    place.limit("provider:openai", 2)
    flow_run_id = place.trigger("a", time_limit_hours=10)
    asleep = place.wait_for(flow_run_id, "Suspended")
    told = "4 provider batches are at work (2 of anthropic and 2 of openai); asleep"
    assert told in asleep.state.message
    # An hour before its time limit it wakes, to tell that the limit is near.
    latest = re.search(r"at the latest until (.{16}) UTC", asleep.state.message)
    assert latest is not None
    left = datetime.fromisoformat(f"{latest[1]}+00:00") - datetime.now(UTC)
    assert timedelta(hours=8, minutes=55) < left < timedelta(hours=9)
    assert place.slots("provider:openai") == 0
    until(lambda: not place.flow_processes(), place)
    assert len(list(place.sandbox.ledger.batches())) == 4
    place.stop_worker(signal.SIGKILL)
    place.start_worker()
    done = place.collect()
    assert (done.asleep, done.batches, done.ended, done.resumed) == (1, 4, 0, [])
    assert done.calls == 2
    place.sandbox.settle()
    with get_client(sync_client=True) as client:
        collector = client.read_deployment_by_name("batchata-collector/collector")
        assert [schedule.active for schedule in collector.schedules] == [True]
        # Once: each run of the collector costs a process.
        at = datetime.now(UTC) + timedelta(seconds=8)
        soon = IntervalSchedule(interval=timedelta(hours=1), anchor_date=at)
        client.create_deployment_schedules(collector.id, [(soon, True)])
        client.resume_deployment(collector.id)
        until(lambda: client.read_flow_run(flow_run_id).state_name != "Suspended", place)
        client.pause_deployment(collector.id)
    ended = place.wait_for(flow_run_id, "Completed")
    assert f"{JOBS} of {JOBS} jobs answered" in ended.state.message
    assert {row["status"] for row in place.rows("a")} == {"completed"}
    billed = place.billed()
    assert len(set(billed)) == len(billed) == JOBS
    assert place.collect().asleep == 0


@pytest.mark.timeout(240)
def test_cancelled_in_its_sleep_and_retried_in_the_ui(place: Place) -> None:
    """A cancellation reaches the providers although no process is left that could pass it on.

    Retry collects what was answered and sends the rest again; nothing is billed twice.
    """
    before = set(place.billed())
    known = len(list(place.sandbox.ledger.batches()))
    flow_run_id = place.trigger("b")
    place.wait_for(flow_run_id, "Suspended")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Cancelling())
    place.wait_for(flow_run_id, "Cancelled")
    assert place.collect().cancelled == [str(flow_run_id)]
    place.sandbox.settle()
    mine = list(place.sandbox.ledger.batches())[known:]
    assert {batch.status for batch in mine} <= {"ended", "cancelled"}
    assert not place.collect().asleep
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, AwaitingRetry())
    place.wait_for(flow_run_id, "Suspended")
    place.sandbox.settle()
    assert place.collect().resumed == [str(flow_run_id)]
    place.wait_for(flow_run_id, "Completed")
    assert {row["status"] for row in place.rows("b")} == {"completed"}
    billed = [each for each in place.billed() if each not in before]
    assert len(set(billed)) == len(billed) == JOBS
