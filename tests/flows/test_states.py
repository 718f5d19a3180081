"""What Prefect shows of a run is what happened: states, messages and return values."""

from __future__ import annotations

import asyncio
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from prefect import flow, get_client, tags
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.events.worker import EventsWorker
from prefect.exceptions import FailedRun
from prefect.states import AwaitingRetry

from batchata_prefect import Batch, BatchSubmissionError
from batchata_prefect.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("recording")

ROOT = Path(__file__).parents[2]
CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
CUT = "[[sandbox:truncated]]"


def make(tmp_path: Path, jobs: int = 4, model: str = GPT, cut: int = 0, **told: Any) -> Batch:
    batch = Batch(tmp_path / "out", **told).set_state(file=tmp_path / "state")
    for n in range(jobs):
        text = f"{tmp_path} {n} {CUT if n < cut else ''}"
        batch.add_job(prompt=text, model=model, max_tokens=100, id=f"j{n}")
    return batch


def state_of(flow_run_id: str | None) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(flow_run_id)).state


def tasks_of(flow_run_id: str | None, number: int) -> list[Any]:
    """The states of a run's provider batches; the server learns of them a moment later."""
    asked = TaskRunFilterFlowRunId(any_=[UUID(flow_run_id)])
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=asked))
            found = [run.state for run in runs if run.name.startswith(("openai", "anthropic"))]
            if len(found) == number and all(state and state.is_final() for state in found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


def facts(state: Any) -> Any:
    """What anybody reads who has only the server and the result storage."""
    return asyncio.run(state.aresult(raise_on_failure=False))


COMPLETED, FAILED = StateType.COMPLETED, StateType.FAILED
CASES = {
    "all answered": ({}, {}, ("Completed", COMPLETED), ("Completed", COMPLETED), "4 of 4"),
    "some failed": ({"cut": 1}, {}, ("Partial", COMPLETED), ("Partial", COMPLETED), "3 of 4"),
    "all failed": ({"cut": 4}, {}, ("Failed", FAILED), ("Failed", FAILED), "0 of 4"),
    "the provider failed it": (
        {},
        {"mode": "batch_failed", "code": "invalid_request", "message": "No.", "line": None},
        ("Failed", FAILED),
        ("Failed", FAILED),
        "0 of 4",
    ),
    "refused": (
        {},
        {
            "operation": "create",
            "mode": "status",
            "status": 400,
            "code": "invalid_value",
            "error_type": "invalid_request_error",
            "message": "No.",
        },
        ("Failed", FAILED),
        ("Failed", FAILED),
        "0 of 4",
    ),
    "expired in part": (
        {"max_attempts": 1},
        {"mode": "batch_expired", "fraction": 0.5},
        ("Partial", COMPLETED),
        ("Expired", COMPLETED),
        "2 of 4",
    ),
    "expired": (
        {"max_attempts": 1},
        {"mode": "batch_expired", "fraction": 0.0},
        ("Failed", FAILED),
        ("Expired", FAILED),
        "0 of 4",
    ),
}


@pytest.mark.parametrize(
    ("told", "fault", "of_run", "of_batch", "answered"), CASES.values(), ids=CASES
)
def test_states_of_a_run_and_its_batch(
    tmp_path: Path,
    sandbox: Sandbox,
    told: dict[str, Any],
    fault: dict[str, Any],
    of_run: tuple[str, StateType],
    of_batch: tuple[str, StateType],
    answered: str,
) -> None:
    """Name and type say what was answered; the message has the id, how many, and the cost."""
    if fault:
        sandbox.fault("openai", times=None, **fault)
    run = make(tmp_path, **told).run()
    assert run.manifest is not None
    state, (batch,) = state_of(run.flow_run_id), tasks_of(run.flow_run_id, 1)
    assert (state.name, state.type) == of_run
    assert (batch.name, batch.type) == of_batch
    (known,) = run.manifest["batches"]
    for message in (state.message, batch.message):
        assert answered in message
        assert known["batch_id"] is None or known["batch_id"] in message
        assert "$" in message or "nothing paid" in message
    assert not known["cost_usd"] or not batch.message.endswith("$0.0000")
    if state.type is COMPLETED:
        found = facts(state)
    else:
        found = orjson.loads(str(facts(state)).splitlines()[-1])
        with pytest.raises(FailedRun, match=answered):
            asyncio.run(state.aresult())
    assert found["results"] == f"{run.results_dir}/results.jsonl"
    assert found["counts"] == run.manifest["counts"]
    assert found["cost_usd"] == run.manifest["cost_usd"]
    text = facts(batch)
    line = text if batch.type is COMPLETED else orjson.loads(str(text).splitlines()[-1])
    assert line == known


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_a_refused_key_is_never_green(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Neither the batch that was refused nor those that were not sent for it."""
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-wrong-1234567890")
    batch = make(tmp_path, model=model, items_per_batch=2)
    run = batch._prepare(None, 1.0)
    with pytest.raises(BatchSubmissionError):
        run.execute()
    state = state_of(run.flow_run_id)
    assert (state.name, state.type) == ("Failed", FAILED)
    assert "0 of 4 jobs answered" in state.message
    assert run.manifest is not None
    for each in tasks_of(run.flow_run_id, len(run.manifest["batches"])):
        assert each.type is FAILED, each
        assert each.name in {"Failed", "NeverSent"}
        assert "0 of 2 answered, nothing paid" in each.message


def parameters(tmp_path: Path, cut: bool = False) -> dict[str, Any]:
    """Of the deployed flow: two jobs."""
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_bytes(b"".join(orjson.dumps({"id": str(n)}) + b"\n" for n in range(2)))
    return {
        "jobs": str(jobs),
        "prompt": f"{tmp_path} {{id}} {CUT if cut else ''}",
        "model": GPT,
        "results_dir": str(tmp_path / "out"),
        "max_tokens": 100,
    }


@pytest.fixture(scope="module")
def served(recording: Any, sandbox_process: Sandbox) -> Iterator[str]:
    """The deployed flow, served by a process of its own."""
    log = (recording.directory / "served.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "flows/jobs_from_file.py"],
        cwd=ROOT,
        env={
            **os.environ,
            **recording.environment,
            **sandbox_process.environment(),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        },
        stdout=log,
        stderr=log,
    )
    with get_client(sync_client=True) as client:
        for _ in range(300):
            if any(each.name == "jobs-from-file" for each in client.read_deployments()):
                break
            time.sleep(0.2)
    yield "jobs-from-file/jobs-from-file"
    process.terminate()
    process.wait(30)


@pytest.mark.timeout(240)
def test_run_deployment_reads_the_facts(tmp_path: Path, sandbox: Sandbox, served: str) -> None:
    """Of a run that answered, and of one that did not; a retry of that one pays nothing."""
    told = {"timeout": 90, "poll_interval": 0.5}
    done = run_deployment(served, parameters=parameters(tmp_path), **told)
    found = facts(done.state)
    assert found["counts"] == {"total": 2, "completed": 2, "failed": 0, "cancelled": 0}
    assert found["cost_usd"] > 0
    assert Path(found["results"]).exists()
    (batch_id,) = found["batch_ids"]
    assert batch_id in done.state.message
    other = tmp_path / "other"
    other.mkdir()
    failed = run_deployment(served, parameters=parameters(other, cut=True), **told)
    assert (failed.state.type, failed.state.name) == (FAILED, "Failed")
    lines = str(facts(failed.state)).splitlines()
    assert lines[0] == failed.state.message
    assert orjson.loads(lines[-1])["counts"]["failed"] == 2
    billed = len(list(sandbox.ledger.billed()))
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(failed.id, AwaitingRetry(scheduled_time=datetime.now(UTC)))
        deadline = time.monotonic() + 90
        while (
            again := client.read_flow_run(failed.id)
        ).run_count < 2 or not again.state.is_final():
            assert time.monotonic() < deadline, again.state
            time.sleep(0.3)
    assert (again.state.type, again.state.name) == (FAILED, "Failed")
    assert "0 of 2 jobs answered" in again.state.message
    assert "of which $0.0000 in this run" in again.state.message
    assert len(list(sandbox.ledger.billed())) == billed


def test_a_parent_flow_reads_the_facts(tmp_path: Path, sandbox: Sandbox) -> None:
    """Of the deployed flow as a subflow, and of a batch inside it, which may fail."""
    load = runpy.run_path(str(ROOT / "flows" / "jobs_from_file.py"))["jobs_from_file"]

    @flow
    async def parent() -> dict[str, Any]:
        inner = await load(**parameters(tmp_path), run_key="parent", state=f"{tmp_path}/state")
        other = await make(tmp_path / "cut", cut=4).arun()
        return {"inner": inner, "failed": len(other.results()["failed"])}

    found = asyncio.run(parent())
    assert found["inner"]["counts"]["completed"] == 2
    assert found["failed"] == 4


STOPS = {
    "cancelled": (lambda run: run.cancel("enough"), "Cancelled", "Cancelled", "enough"),
    "detached": (lambda run: run.cancel("later", detach=True), "Detached", "Detached", "later"),
    "deadline": (None, "Failed", "LeftRunning", "in_flight: 4"),
}


@pytest.mark.parametrize(("stop", "of_run", "of_batch", "words"), STOPS.values(), ids=STOPS)
def test_states_of_a_run_that_ends_early(
    tmp_path: Path,
    sandbox: Sandbox,
    short_limits: None,
    monkeypatch: pytest.MonkeyPatch,
    stop: Any,
    of_run: str,
    of_batch: str,
    words: str,
) -> None:
    """What is cancelled, and what goes on at the provider, have names of their own."""
    batch, holder = make(tmp_path), dict[str, Any]()
    if stop is None:
        # Its provider takes the cancellation, and does not end it.
        monkeypatch.setenv("BATCHATA_SETTLE_SECONDS", "1")
        sandbox.fault("openai", mode="stuck_canceling", seconds=30)
        batch.add_time_limit(seconds=4)

    def on_progress(_stats: Any, _seconds: float, data: dict[str, Any]) -> None:
        if stop and any(each["batch_id"] for each in data.values()):
            stop(holder["run"])

    sandbox.limits(seconds=60)
    try:
        run = holder["run"] = batch._prepare(on_progress, 0.1)
        run.execute()
    finally:
        sandbox.limits(seconds=0.1)
        sandbox.clear_faults()
    state, (task,) = state_of(run.flow_run_id), tasks_of(run.flow_run_id, 1)
    assert (state.name, task.name) == (of_run, of_batch), (state, task)
    assert StateType.COMPLETED not in {state.type, task.type}
    assert "0 of 4 jobs answered" in state.message
    assert words in state.message
    assert run.manifest is not None
    assert run.manifest["batches"][0]["batch_id"] in task.message
    if of_batch != "Cancelled":
        assert "reserved" in task.message
        assert "reserved" in state.message


def test_a_run_that_may_send_nothing_is_failed(tmp_path: Path, sandbox: Sandbox) -> None:
    """The cost limit keeps all jobs back."""
    run = make(tmp_path).add_cost_limit(usd=0.000001).run()
    state = state_of(run.flow_run_id)
    assert (state.name, state.type) == ("Failed", FAILED)
    assert "cost_limit_exceeded: 4" in state.message


def test_an_automation_on_failed_runs_fires_where_no_job_was_answered(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """And not where one was. What it does here is seen in the run: it gives its state a name."""
    label = f"alarm-{tmp_path.name}"
    rule = {
        "name": label,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": ["prefect.flow-run.Failed"],
            "match_related": {"prefect.resource.id": f"prefect.tag.{label}"},
            "threshold": 1,
            "within": 0,
        },
        "actions": [{"type": "change-flow-run-state", "state": "FAILED", "name": "Alarmed"}],
    }
    with get_client(sync_client=True) as client:
        client._client.post("/automations/", json=rule).raise_for_status()
    with tags(label):
        partial = make(tmp_path / "partial", cut=1).run()
        failed = make(tmp_path / "failed", cut=4).run()
    EventsWorker.drain_all()
    deadline = time.monotonic() + 60
    while state_of(failed.flow_run_id).name != "Alarmed":
        assert time.monotonic() < deadline, state_of(failed.flow_run_id)
        time.sleep(0.2)
    assert state_of(partial.flow_run_id).name == "Partial"


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_a_flow_around_it_is_retried(
    tmp_path: Path, recording: Any, sandbox: Sandbox, cut: int
) -> None:
    """The records say what is done, not what Prefect has kept: that may even be gone."""
    tries: list[int] = []

    @flow(retries=1)
    def around() -> int:
        run = make(tmp_path, cut=cut).run()
        tries.append(len(run.results()["failed"]))
        assert run.manifest is not None
        if len(tries) == 1:
            shutil.rmtree(recording.directory / "records")
            raise RuntimeError("something of the flow's own")
        return run.manifest["counts"]["completed"]

    billed = len(list(sandbox.ledger.billed()))
    assert around() == 4 - cut
    assert tries == [cut, cut]
    assert len(list(sandbox.ledger.billed())) - billed == 4
