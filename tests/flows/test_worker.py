"""The deployed flow under a real worker with an environment of its own: run, and cancelled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from batchata_prefect.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
JOBS = 40


def prefect(*arguments: str, environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )


def other_environment(folder: Path) -> Path:
    """The Python of another virtual environment, with the package at another path.

    All but the package is this one's, so that it is made in a moment.
    """
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(ROOT / "batchata_prefect", packages / "batchata_prefect")
    # Named so, a path is added after those of the environment, and its own .pth files are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def worker(
    prefect_server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sandbox, Path]]:
    """A work pool with the deployments of the repository, a worker, and a slow sandbox."""
    home = tmp_path_factory.mktemp("worker")
    with Sandbox(tmp_path_factory.mktemp("sandbox"), seconds=5) as sandbox:
        environment = {
            **os.environ,
            **sandbox.environment(),
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        }
        environment.pop("PYTHONPATH", None)
        prefect(
            *("work-pool", "create", "--type", "process", "batchata", "--overwrite"),
            environment=environment,
        )
        prefect(
            *("deploy", "--all", "--prefect-file", "deployments/prefect.yaml"),
            environment=environment,
        )
        log = (home / "worker.log").open("w")
        python = other_environment(home / "environment")
        process = subprocess.Popen(
            [python, "-m", "prefect", "worker", "start", "--pool", "batchata"],
            cwd=home,
            env={**environment, "PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=log,
        )
        yield sandbox, home
        process.terminate()
        process.wait(timeout=60)


def start(home: Path, name: str) -> Any:
    """Start the deployment over a file of jobs: the flow run's id."""
    jobs = home / f"{name}.jsonl"
    with jobs.open("wb") as file:
        for n in range(JOBS):
            model = ("claude-sonnet-5-5", "gpt-6-luna")[n % 2]
            file.write(orjson.dumps({"id": f"j{n}", "prompt": f"{jobs} {n}", "model": model}))
            file.write(b"\n")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("jobs-from-file/default")
        flow_run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={
                "jobs": str(jobs),
                "results_dir": str(home / name),
                "items_per_batch": 10,
                "max_tokens": 200,
                "run_key": f"{home}/{name}",
                "state": str(home / "state"),
            },
        )
    return flow_run.id


def wait_for(flow_run_id: Any, home: Path, *, seconds: float = 100) -> Any:
    """The final state of a flow run."""
    deadline = time.monotonic() + seconds
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(flow_run_id).state
            if state is not None and state.is_final():
                return state
            assert time.monotonic() < deadline, (home / "worker.log").read_text()[-4000:]
            time.sleep(0.3)


@pytest.mark.timeout(240)
def test_cancelled_in_the_ui_and_run_again(worker: tuple[Sandbox, Path]) -> None:
    """The worker's process cancels at the provider, keeps what was finished, and is Cancelled.

    A next run of the same jobs sends only the others.
    """
    sandbox, home = worker
    first = start(home, "a")
    deadline = time.monotonic() + 100
    while len(list(sandbox.ledger.batches())) < 4:
        assert time.monotonic() < deadline, (home / "worker.log").read_text()[-4000:]
        time.sleep(0.1)
    time.sleep(2)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(first, Cancelling())
    state = wait_for(first, home)
    assert state.name == "Cancelled", (home / "worker.log").read_text()[-4000:]
    ended = {"ended", "cancelled", "completed"}
    assert {batch.status for batch in sandbox.ledger.batches()} <= ended
    deadline = time.monotonic() + 20
    while not (home / "a" / "results.jsonl").exists():
        assert time.monotonic() < deadline, (home / "worker.log").read_text()[-4000:]
        time.sleep(0.1)
    rows = [orjson.loads(line) for line in (home / "a" / "results.jsonl").open("rb")]
    done = sum(1 for row in rows if row["status"] == "completed")
    assert 0 < done < JOBS
    assert {row["status"] for row in rows} == {"completed", "cancelled"}
    assert len(list(sandbox.ledger.billed())) == done
    state = wait_for(start(home, "a"), home)
    assert state.name == "Completed", state
    assert f"{JOBS} of {JOBS} jobs answered" in str(state.message)
    billed = list(sandbox.ledger.billed())
    assert len({row.body_digest for row in billed}) == len(billed) == JOBS


@pytest.mark.timeout(240)
def test_deployed_by_the_command_it_runs_where_the_package_lies_elsewhere(
    worker: tuple[Sandbox, Path],
) -> None:
    """Nothing of the place that it was deployed from is stored but what it was told."""
    sandbox, home = worker
    jobs = home / "words.csv"
    jobs.write_text("word\none\ntwo\n")
    sandbox.limits(seconds=0.1)
    told = ["deploy", str(jobs), "--prompt", "{word}", "--model", "gpt-6-luna", "--max-tokens"]
    told += ["50", "--out", str(home / "words"), "--state", str(home / "state"), "--name", "words"]
    done = subprocess.run(
        [sys.executable, "-m", "batchata_prefect.cli", *told, "--pool", "batchata"],
        cwd=home,
        env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"Workers on this machine alone have these paths: {jobs}, {home / 'words'}" in (
        done.stderr.replace("\n", " ")
    )
    with get_client(sync_client=True) as client:
        made = client.read_deployment_by_name("jobs-from-file/words")
        assert made.entrypoint == "batchata_prefect.deployed.jobs_from_file"
        assert not made.pull_steps
        assert not made.path
        flow_run = client.create_flow_run_from_deployment(made.id)
    state = wait_for(flow_run.id, home)
    assert state.name == "Completed", (state, (home / "worker.log").read_text()[-4000:])
    assert "2 of 2 jobs answered" in str(state.message)
