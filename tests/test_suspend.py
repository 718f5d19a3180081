"""Waiting without a process: suspend, collect, resume, under a real server and a real worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry, Cancelling

from batchata_prefect.collecting import Round, collect
from batchata_prefect.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
JOBS = 12
MODELS = ("claude-sonnet-5-5", "gpt-6-luna")


@dataclass
class Place:
    """The repository's deployments with a worker, and a sandbox that ends batches when told to."""

    home: Path
    sandbox: Sandbox
    environment: dict[str, str]
    worker: subprocess.Popen[bytes] | None = None
    started: list[str] = field(default_factory=list)

    def start_worker(self) -> None:
        log = (self.home / "worker.log").open("ab")
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "batchata"],
            cwd=ROOT,
            env=self.environment,
            stdout=log,
            stderr=log,
        )

    def stop_worker(self, number: int = signal.SIGTERM) -> None:
        if self.worker is not None:
            self.worker.send_signal(number)
            self.worker.wait(timeout=60)
            self.worker = None

    def flow_processes(self) -> list[psutil.Process]:
        assert self.worker is not None
        return psutil.Process(self.worker.pid).children(recursive=True)

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

    def log(self) -> str:
        return (self.home / "worker.log").read_text()[-6000:]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (self.home / name / "results.jsonl").open("rb")]

    def billed(self, name: str) -> list[str]:
        """Digests of the billed requests of one job set, which its prompts name."""
        return [row.body_digest for row in self.sandbox.ledger.billed()]

    def collect(self) -> Round:
        return asyncio.run(collect())


def until(true: Callable[[], bool], place: Place, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, place.log()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def place(prefect_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("sleepers")
    with Sandbox(tmp_path_factory.mktemp("sandbox"), seconds=3600) as sandbox:
        environment = {
            **os.environ,
            **sandbox.environment(),
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
            "PREFECT_WORKER_QUERY_SECONDS": "0.5",
            "PYTHONPATH": str(ROOT),
            "BATCHATA_SUSPEND_SECONDS": "0.5",
        }
        for arguments in (
            ("work-pool", "create", "--type", "process", "batchata", "--overwrite"),
            ("deploy", "--all", "--prefect-file", "deployments/prefect.yaml"),
        ):
            subprocess.run(
                [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
                cwd=ROOT,
                env=environment,
                check=True,
                capture_output=True,
                timeout=120,
            )
        found = Place(home, sandbox, environment)
        found.start_worker()
        yield found
        found.stop_worker()


@pytest.fixture
def keys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collector in this process needs."""
    for name, value in place.sandbox.environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.timeout(240)
def test_asleep_over_the_death_of_its_worker(place: Place, keys: None) -> None:
    """A run holds no process while the providers work, and is resumed when they are done.

    The worker is killed in between; every job is answered and billed once.
    """
    flow_run_id = place.trigger("a")
    asleep = place.wait_for(flow_run_id, "Suspended")
    told = "4 provider batches are at work (2 of anthropic and 2 of openai); asleep"
    assert told in asleep.state.message
    until(lambda: not place.flow_processes(), place)
    assert len(list(place.sandbox.ledger.batches())) == 4
    place.stop_worker(signal.SIGKILL)
    place.start_worker()
    done = place.collect()
    assert (done.asleep, done.batches, done.ended, done.resumed) == (1, 4, 0, [])
    assert done.calls == 2
    place.sandbox.settle()
    look = place.wait_for(place.create("batchata-collector/collector"), "Completed")
    assert "1 of 1 suspended runs resumed" in look.state.message
    ended = place.wait_for(flow_run_id, "Completed")
    assert f"{JOBS} of {JOBS} jobs answered" in ended.state.message
    assert {row["status"] for row in place.rows("a")} == {"completed"}
    billed = place.billed("a")
    assert len(set(billed)) == len(billed) == JOBS
    assert place.collect().asleep == 0


@pytest.mark.timeout(240)
def test_cancelled_in_its_sleep_and_retried_in_the_ui(place: Place, keys: None) -> None:
    """A cancellation reaches the providers although no process is left that could pass it on.

    Retry collects what was answered and sends the rest again; nothing is billed twice.
    """
    before = set(place.billed("b"))
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
    billed = [each for each in place.billed("b") if each not in before]
    assert len(set(billed)) == len(billed) == JOBS
