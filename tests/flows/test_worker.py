"""Deployed flows under a real server and worker: run, cancelled, asleep, resumed."""

from __future__ import annotations

import asyncio
import re
import runpy
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from collections import Counter
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
from batchata_prefect.deployed import jobs_from_file
from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker

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
        """A worker at another place, whose environment has a package of its own."""
        environment = {**self.stack.environment}
        del environment["PYTHONPATH"]
        self.stack.processes["worker-1"] = subprocess.Popen(
            [
                *(self.home / "environment" / "bin" / "python", "-m", "prefect"),
                *("worker", "start", "--pool", "batchata", "--type", "process"),
            ],
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=(self.home / "stack" / "worker-1.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop_worker(self, number: int) -> None:
        self.stack.stop("worker-1", number)

    def flow_processes(self) -> list[psutil.Process]:
        return psutil.Process(self.stack.processes["worker-1"].pid).children(recursive=True)

    def parameters(self, name: str, **more: Any) -> dict[str, Any]:
        """Of the deployment, over a file of jobs in four batches."""
        jobs = self.home / f"{name}.jsonl"
        with jobs.open("wb") as file:
            for n in range(JOBS):
                row = {"id": f"j{n}", "prompt": f"{jobs} {n}", "model": MODELS[n % 2]}
                file.write(orjson.dumps(row) + b"\n")
        return {
            "jobs": str(jobs),
            "results_dir": str(self.home / name),
            "items_per_batch": 3,
            "max_tokens": 200,
            "state": str(self.home / "state"),
            **more,
        }

    def start(self, deployment: str, parameters: dict[str, Any] | None = None) -> UUID:
        """Start a deployment: the flow run's id."""
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

    def batches(self) -> list[Any]:
        """The batches at the providers, oldest first."""
        return list(self.sandbox.ledger.batches())

    def collect(self) -> Round:
        return asyncio.run(collect())


def until(true: Callable[[], bool], place: Place, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, place.log()
        time.sleep(0.1)


def other_environment(folder: Path) -> None:
    """Another virtual environment, with the package at another path.

    All but the package is this one's, so that it is made in a moment.
    """
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(ROOT / "batchata_prefect", packages / "batchata_prefect")
    # Named so, a path is added after those of the environment, and its own .pth files are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, prefect_tables: Path, sandbox_process: Sandbox
) -> Iterator[Place]:
    """The production shape, as far as it is installed here: PostgreSQL, Redis, a split server."""
    home, sandbox = tmp_path_factory.mktemp("deployed"), sandbox_process
    (home / "stack" / "prefect").mkdir(parents=True)
    shutil.copyfile(prefect_tables, home / "stack" / "prefect" / "prefect.db")
    other_environment(home / "environment")
    native = runpy.run_path(str(ROOT / "deployments" / "native.py"))
    with (
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
        found = Place(home, sandbox, stack)
        prefect("work-pool", "create", "--type", "process", "batchata", "--overwrite")
        found.start_worker()
        prefect("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
        with get_client(sync_client=True) as client:
            # Each test says itself when it wants to have it run.
            collector = client.read_deployment_by_name("batchata-collector/collector")
            client.pause_deployment(collector.id)
        yield found


def prefect(*arguments: str) -> None:
    """Run a command of Prefect to its end, in a process that has it imported."""
    forker = Forker({})
    done = forker.python("-m", "prefect", "--no-prompt", *arguments, cwd=ROOT)
    forker.close()
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def slow(place: Place) -> Iterator[None]:
    """Batches end when they are told to."""
    place.sandbox.limits(seconds=3600)
    yield
    place.sandbox.limits(seconds=0.1)
    place.sandbox.settle()


@pytest.mark.timeout(240)
def test_asleep_over_the_death_of_its_worker(place: Place) -> None:
    """A run holds no process while the providers work, and is resumed when they are done.

    The worker is killed in between, and the schedule of the collector wakes the run. Every job is
    answered and billed once.
    """
    place.limit("provider:openai", 2)
    known, before = len(place.batches()), set(place.billed())
    told = place.parameters("a", wait="suspend", time_limit_hours=10)
    flow_run_id = place.start("jobs-from-file/default", told)
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
    assert len(place.batches()) == known + 4
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
    billed = [each for each in place.billed() if each not in before]
    assert len(set(billed)) == len(billed) == JOBS
    assert place.collect().asleep == 0


@pytest.mark.timeout(240)
def test_cancelled_in_its_sleep_and_retried_in_the_ui(place: Place) -> None:
    """A cancellation reaches the providers although no process is left that could pass it on.

    Retry collects what was answered and sends the rest again; nothing is billed twice.
    """
    known, before = len(place.batches()), set(place.billed())
    told = place.parameters("b", wait="suspend")
    flow_run_id = place.start("jobs-from-file/default", told)
    place.wait_for(flow_run_id, "Suspended")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Cancelling())
    place.wait_for(flow_run_id, "Cancelled")
    assert place.collect().cancelled == [str(flow_run_id)]
    place.sandbox.settle()
    mine = place.batches()[known:]
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


@pytest.mark.timeout(240)
def test_cancelled_in_the_ui_and_run_again(place: Place) -> None:
    """The worker's process cancels at the provider, keeps what was finished, and is Cancelled.

    A next run of the same jobs sends only the others.
    """
    known, before = len(place.batches()), set(place.billed())
    place.sandbox.limits(seconds=10)
    told = place.parameters("c", run_key=f"{place.home}/c")
    flow_run_id = place.start("jobs-from-file/default", told)
    until(lambda: len(place.batches()) == known + 4, place)
    time.sleep(4)  # in which each of them gets something done
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Cancelling())
    place.wait_for(flow_run_id, "Cancelled")
    ended = {"ended", "cancelled", "completed"}
    assert {batch.status for batch in place.batches()[known:]} <= ended
    until((place.home / "c" / "results.jsonl").exists, place)
    found = Counter(row["status"] for row in place.rows("c"))
    assert found.keys() == {"completed", "cancelled"}
    assert sum(each not in before for each in place.billed()) == found["completed"]
    place.sandbox.limits(seconds=0.1)
    state: Any = asyncio.run(jobs_from_file(**told, return_state=True))
    assert f"{JOBS} of {JOBS} jobs answered" in str(state.message)
    billed = [each for each in place.billed() if each not in before]
    assert len(set(billed)) == len(billed) == JOBS


@pytest.mark.timeout(240)
def test_deployed_by_the_command_it_runs_where_the_package_lies_elsewhere(place: Place) -> None:
    """Nothing of the place that it was deployed from is stored but what it was told."""
    place.sandbox.limits(seconds=0.1)
    jobs, out = place.home / "words.csv", place.home / "words"
    jobs.write_text("word\none\ntwo\n")
    told = ["deploy", jobs, "--prompt", "{word}", "--model", "gpt-6-luna", "--max-tokens", "50"]
    told += ["--out", out, "--state", place.home / "state", "--name", "words", "--pool", "batchata"]
    forker = Forker({})
    done = forker.python("-m", "batchata_prefect.cli", *told, cwd=place.home)
    forker.close()
    assert done.returncode == 0, done.stderr
    assert f"Workers on this machine alone have these paths: {jobs}, {out}" in (
        done.stderr.replace("\n", " ")
    )
    with get_client(sync_client=True) as client:
        made = client.read_deployment_by_name("jobs-from-file/words")
    assert made.entrypoint == "batchata_prefect.deployed.jobs_from_file"
    assert not made.pull_steps
    assert not made.path
    ended = place.wait_for(place.start("jobs-from-file/words"), "Completed")
    assert "2 of 2 jobs answered" in ended.state.message
