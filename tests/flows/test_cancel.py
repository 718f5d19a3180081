"""Cancelling a run, in every way there is: what was finished is kept, the rest says why."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
)
from prefect.states import Cancelling

from batchata_prefect import Batch, BatchRun
from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker, check_all_paid_once, log_of, start_until_sent, told

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
JOBS = 40


@pytest.fixture
def provider(prefect_server, sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox whose batches take long enough to be cancelled in the middle."""
    sandbox.limits(seconds=4)
    yield sandbox
    sandbox.limits(seconds=0.1)


def make(tmp_path: Path) -> Batch:
    """Two batches at each provider."""
    batch = Batch(tmp_path / "out", items_per_batch=10).set_state(file=tmp_path / "state")
    for n in range(JOBS):
        batch.add_job(
            prompt=f"{tmp_path}: what is {n}?",
            model=(CLAUDE, GPT)[n % 2],
            max_tokens=200,
            id=f"job-{n}",
            metadata={"n": n},
        )
    return batch


def once_sent(then: Callable[[BatchRun], None]) -> dict[str, Any]:
    """Arguments of `run` that act once all four batches are at the provider for a while."""
    holder: dict[str, Any] = {"since": None}

    def on_progress(stats: dict[str, Any], _elapsed: float, data: dict[str, Any]) -> None:
        if sum(1 for batch in data.values() if batch["batch_id"]) == 4:
            holder["since"] = holder["since"] or time.monotonic()
            if time.monotonic() - holder["since"] > 1.5:
                then(holder["run"])

    return {"on_progress": on_progress, "progress_interval": 0.1, "holder": holder}


def run_with(batch: Batch, then: Callable[[BatchRun], None], **options: Any) -> BatchRun:
    """Run the batch, and act on the run once its batches are at the provider."""
    told = once_sent(then)
    holder = told.pop("holder")
    run = batch._prepare(told["on_progress"], told["progress_interval"])
    holder["run"] = run
    return run.execute(**options)


def in_flight(provider: Sandbox) -> list[Any]:
    """Batches that have not ended at the provider; those of earlier tests all have."""
    going_on = {"validating", "in_progress", "finalizing", "canceling", "cancelling"}
    return [batch for batch in provider.ledger.batches() if batch.status in going_on]


def state_of(flow_run_id: str | None) -> Any:
    """The state of a flow run, as the server has it."""
    assert flow_run_id is not None
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id).state  # type: ignore[arg-type]


def progress_of(flow_run_id: str) -> Any:
    """The progress that Prefect shows of a flow run."""
    asked = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
        type=ArtifactFilterType(any_=["progress"]),
    )
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=asked)
    return found


def rows_in(directory: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (directory / "results.jsonl").open("rb")]


def test_cancel_collects_what_was_finished(tmp_path: Path, provider: Sandbox, billed) -> None:
    """`run.cancel()` cancels at the provider, keeps the finished answers and says why not more."""
    run = run_with(make(tmp_path), lambda run: run.cancel("enough of it"))
    results = run.results()
    assert not in_flight(provider)
    assert results["completed"], "a batch that is half done has answers"
    assert results["cancelled"], "and requests that did not run"
    assert not results["failed"]
    assert len(results["completed"]) + len(results["cancelled"]) == JOBS
    assert {result.error_code for result in results["cancelled"]} == {"canceled"}
    assert all("enough of it" in (result.error or "") for result in results["cancelled"])
    assert run.manifest is not None
    assert run.manifest["status"] == "cancelled"
    assert state_of(run.flow_run_id).name == "Cancelled"
    assert f"{len(results['completed'])} of {JOBS} jobs answered" in str(
        state_of(run.flow_run_id).message
    )
    provider.limits(seconds=0.1)
    again = make(tmp_path).run()
    assert again.manifest is not None
    assert again.manifest["counts"]["completed"] == JOBS
    billed = billed()
    assert max(Counter(row.body_digest for row in billed).values()) == 1
    assert len(billed) == JOBS


def test_detach_leaves_the_batches_running(tmp_path: Path, provider: Sandbox, billed) -> None:
    """`run.cancel(detach=True)` leaves at once, and the next run collects the same batches."""
    known = len(list(provider.ledger.batches()))
    began = time.monotonic()
    run = run_with(make(tmp_path), lambda run: run.cancel(detach=True))
    assert time.monotonic() - began < 30
    assert in_flight(provider)
    assert run.manifest is not None
    assert run.manifest["status"] == "detached"
    codes = Counter(result.error_code for result in run.results()["cancelled"])
    assert codes == {"in_flight": JOBS}
    provider.settle()
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
    assert len(list(provider.ledger.batches())) - known == 4


def test_cancelled_in_the_prefect_ui(tmp_path: Path, provider: Sandbox) -> None:
    """A run on its own sees that it was cancelled in Prefect, and ends in order."""

    def cancel_there(run: BatchRun) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.flow_run_id, Cancelling())  # type: ignore[arg-type]

    run = run_with(make(tmp_path), cancel_there)
    assert not in_flight(provider)
    results = run.results()
    assert results["completed"]
    assert all("cancelled in Prefect" in (r.error or "") for r in results["cancelled"])
    assert state_of(run.flow_run_id).name == "Cancelled"


def jobs(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Two batches at each provider."""
    return told(tmp_path, jobs=JOBS, items_per_batch=10, **more)


def start_for_a_while(
    forker: Forker, provider: Sandbox, job: dict[str, Any], settle: float = 1.0
) -> int:
    """Begin a run, and wait until its four batches are at the provider for a while."""
    pid = start_until_sent(forker, provider, job, 4)
    time.sleep(settle)
    return pid


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminate")],
)
def test_signals(
    forker: Forker, provider: Sandbox, tmp_path: Path, number: int, code: int, reason: str, billed
) -> None:
    """Ctrl-C and SIGTERM end the run in order, and the process as the shell expects."""
    job = jobs(tmp_path)
    pid = start_for_a_while(forker, provider, job, settle=1.5)
    os.kill(pid, number)
    assert forker.wait() == code, log_of(job)
    assert not in_flight(provider)
    rows = rows_in(tmp_path / "out")
    assert Counter(row["status"] for row in rows).keys() == {"completed", "cancelled"}
    assert all(reason in row["error"] for row in rows if row["status"] == "cancelled")
    assert "Traceback" not in log_of(job), log_of(job)
    counts = Counter(row["status"] for row in rows)
    shown = progress_of(orjson.loads((tmp_path / "out/manifest.json").read_bytes())["flow_run_id"])
    assert f"{counts['completed']} of {JOBS} jobs answered" in shown.description
    assert f"{counts['cancelled']} cancelled" in shown.description
    assert "in flight" not in shown.description
    assert shown.data == round(100 * counts["completed"] / JOBS, 1)
    provider.limits(seconds=0.1)
    assert forker.run(job)[0] == 0
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_second_interrupt_leaves_at_once(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed
) -> None:
    """The second Ctrl-C does not wait for the provider, and says how to go on."""
    provider.fault(None, mode="stuck_canceling", seconds=6)
    job = jobs(tmp_path)
    pid = start_for_a_while(forker, provider, job)
    os.kill(pid, signal.SIGINT)
    time.sleep(1)
    began = time.monotonic()
    os.kill(pid, signal.SIGINT)
    assert forker.wait() == 130
    assert time.monotonic() - began < 5
    assert not (tmp_path / "out" / "results.jsonl").exists()
    log = log_of(job)
    assert "Run the same jobs again" in log
    assert str(tmp_path / "out") in log.replace(" ", "")
    shown = progress_of(re.findall(r"flow-run/([0-9a-f-]{36})", log.replace(" ", ""))[0])
    assert f"{JOBS} in flight in 4 provider batches" in shown.description
    assert shown.data == 0
    provider.clear_faults()
    provider.limits(seconds=0.1)
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_killed_while_it_cancels(forker: Forker, provider: Sandbox, tmp_path: Path, billed) -> None:
    """What a killed process cancelled is sent again by the next one, and nothing twice."""
    job = jobs(tmp_path)
    pid = start_for_a_while(forker, provider, job, settle=1.5)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.25)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() in {-9, 130}
    provider.limits(seconds=0.1)
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_detach_at_ctrl_c(forker: Forker, provider: Sandbox, tmp_path: Path, billed) -> None:
    """`cancel="detach"` makes Ctrl-C leave the batches running."""
    known = len(list(provider.ledger.batches()))
    job = jobs(tmp_path, cancel="detach")
    pid = start_for_a_while(forker, provider, job)
    os.kill(pid, signal.SIGINT)
    assert forker.wait() == 130
    assert in_flight(provider)
    provider.settle()
    assert forker.run(job)[0] == 0
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
    assert len(list(provider.ledger.batches())) - known == 4


def test_cancelled_while_another_process_runs_it(
    forker: Forker, provider: Sandbox, tmp_path: Path
) -> None:
    """A run that waits for another process can be cancelled, and has sent nothing."""
    known = len(list(provider.ledger.batches()))
    job = jobs(tmp_path)
    start_for_a_while(forker, provider, job, settle=0)
    batch = make(tmp_path)
    run = batch._prepare(None, 0.1)
    threading.Timer(1, run.cancel).start()
    run.execute()
    assert not run.is_complete
    assert state_of(run.flow_run_id).name == "Cancelled"
    assert "sent nothing" in str(state_of(run.flow_run_id).message)
    assert forker.wait() == 0
    assert len(list(provider.ledger.batches())) - known == 4


def test_a_cancelled_batch_that_shows_its_answers_late_is_not_taken_for_empty(
    tmp_path: Path, provider: Sandbox, billed
) -> None:
    """What it has answered is in the results or paid for in no other batch, counts or none."""
    provider.fault("openai", mode="no_output", counts=False, times=None)
    timer = threading.Timer(1, provider.clear_faults)

    def cancel(run: BatchRun) -> None:
        if timer.ident is None:
            timer.start()
        run.cancel("enough of it")

    results = run_with(make(tmp_path), cancel).results()
    timer.join()
    provider.limits(seconds=0.1)
    assert {each.model for each in results["completed"]} == {CLAUDE, GPT}
    make(tmp_path).run()
    assert max(Counter(row.body_digest for row in billed()).values()) == 1
