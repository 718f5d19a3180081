"""What Prefect is told of a run: names, parameters, and the user's retries, time and tags."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import TaskRun
from prefect.flows import load_flow_from_entrypoint

from batchata_prefect import Batch
from batchata_prefect.models import ProviderBatch
from batchata_prefect.providers import (
    Provider,
    _kinds,  # pyright: ignore[reportPrivateUsage]
)
from batchata_prefect.providers.openai import OpenAI
from tests.flows.test_states import GPT, ROOT, make

pytestmark = pytest.mark.usefixtures("recording")


class Shaky(OpenAI):
    """A provider of somebody else, whose code breaks a few times."""

    def __init__(self, *faults: str) -> None:
        super().__init__()
        self.faults = list(faults)

    def _break(self, where: str) -> None:
        if self.faults[:1] == [where]:
            self.faults.pop(0)
            raise RuntimeError(f"a fault of the program in {where}")

    async def create(self, client: Any, chunk: Any, requests: Any) -> ProviderBatch:
        made = await super().create(client, chunk, requests)
        self._break("create")
        return made

    async def poll(self, client: Any, batch_id: str) -> ProviderBatch:
        self._break("poll")
        return await super().poll(client, batch_id)


@pytest.fixture
def shaky(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(*faults: str) -> Provider:
        made = Shaky(*faults)
        monkeypatch.setitem(_kinds(), "openai", made)
        return made

    return put


def tasks_of(flow_run_id: str | None) -> list[TaskRun]:
    """The provider batches of a run, when the server has learnt how they ended."""
    asked = TaskRunFilterFlowRunId(any_=[UUID(flow_run_id)])
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=asked))
            found = [run for run in runs if run.name.startswith("openai")]
            if found and all(run.state and run.state.is_final() for run in found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


@pytest.mark.parametrize("faults", [["poll"], ["poll", "poll"], ["create"], ["create", "poll"]])
def test_an_attempt_that_crashes_is_repeated_and_nothing_is_paid_twice(
    tmp_path: Path, sandbox, shaky, faults: list[str]
) -> None:
    """As often as the user said; what the attempt before has bought is taken up."""
    provider = shaky(*faults)
    known, billed = len(list(sandbox.ledger.batches())), len(list(sandbox.ledger.billed()))
    batch = make(tmp_path, task_retries=len(faults), task_retry_delay_seconds=0.1)
    run = batch.run()
    assert run.status()["completed"] == 4
    assert provider.faults == []
    assert len(list(sandbox.ledger.batches())) == known + 1
    assert len(list(sandbox.ledger.billed())) == billed + 4
    (task,) = tasks_of(run.flow_run_id)
    # A create that breaks is looked for by the same attempt.
    assert task.run_count == faults.count("poll") + 1


def test_a_crash_too_many_ends_the_run_and_the_next_one_collects(
    tmp_path: Path, sandbox, shaky
) -> None:
    """Without retries the first crash is told; the batch is not bought again by the next run."""
    shaky("poll")
    known = len(list(sandbox.ledger.batches()))
    with pytest.raises(RuntimeError, match="a fault of the program"):
        make(tmp_path, task_retries=0).run()
    assert make(tmp_path).run().status()["completed"] == 4
    assert len(list(sandbox.ledger.batches())) == known + 1


def test_an_attempt_has_its_time_and_the_next_takes_the_batch_up(tmp_path: Path, sandbox) -> None:
    """The batch takes longer than an attempt may: the second attempt has it, bought once."""
    known = len(list(sandbox.ledger.batches()))
    sandbox.limits(seconds=3)
    try:
        batch = make(tmp_path, task_timeout_seconds=2, task_retries=5, task_retry_delay_seconds=0.1)
        run = batch.run()
    finally:
        sandbox.limits(seconds=0.1)
    assert run.status()["completed"] == 4
    assert len(list(sandbox.ledger.batches())) == known + 1
    (task,) = tasks_of(run.flow_run_id)
    assert task.run_count >= 2


def test_a_create_that_hangs_is_ended_and_looked_for(tmp_path: Path, sandbox) -> None:
    """The provider makes the batch after the attempt was ended; it is found, not made again."""
    known, billed = len(list(sandbox.ledger.batches())), len(list(sandbox.ledger.billed()))
    sandbox.fault(None, operation="create", mode="delay", seconds=3)
    batch = make(tmp_path, task_timeout_seconds=2, task_retries=9, task_retry_delay_seconds=1)
    run = batch.run()
    assert run.status()["completed"] == 4
    assert len(list(sandbox.ledger.batches())) == known + 1
    assert len(list(sandbox.ledger.billed())) == billed + 4


def test_out_of_time_for_good_a_batch_is_left_to_the_next_run(tmp_path: Path, sandbox) -> None:
    """The run ends, says that the task timed out, and the next one collects what was bought."""
    known = len(list(sandbox.ledger.batches()))
    sandbox.limits(seconds=3600)
    try:
        run = make(tmp_path, task_timeout_seconds=1, task_retries=0).run()
    finally:
        sandbox.limits(seconds=0.1)
    assert run.status()["failures"] == {"in_flight": 4}
    (task,) = tasks_of(run.flow_run_id)
    assert task.state is not None
    assert task.state.name == "TimedOut"
    sandbox.settle()
    assert make(tmp_path).run().status()["completed"] == 4
    assert len(list(sandbox.ledger.batches())) == known + 1


def test_tags_show_on_the_task_run(tmp_path: Path, sandbox) -> None:
    """So that people filter by them, and Prefect's concurrency limits on them hold."""
    run = make(tmp_path, task_tags=["team-a", "nightly"]).run()
    (task,) = tasks_of(run.flow_run_id)
    assert {"team-a", "nightly"} <= set(task.tags)


def flow_run(flow_run_id: str | None) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(flow_run_id))


def test_a_flow_run_has_a_name_and_parameters_that_a_person_knows(tmp_path: Path, sandbox) -> None:
    """The file and the number of its jobs; jobs, models, results, budget and time limit."""
    rows = tmp_path / "questions.csv"
    rows.write_text("city\nOslo\nLima\nBonn\n")
    batch = Batch(tmp_path / "out", max_attempts=5).set_state(tmp_path / "state")
    batch.add_cost_limit(usd=2).add_time_limit(hours=2)
    batch.add_rows(rows, "Where is {city}?", model=GPT)
    shown = flow_run(batch.run(min_valid=0.9).flow_run_id)
    assert shown.name == "questions.csv, 3 jobs"
    assert shown.parameters == {
        "jobs": "questions.csv, 3 jobs",
        "models": [GPT],
        "results": str(tmp_path / "out"),
        "budget_usd": 2.0,
        "time_limit_hours": 2.0,
        "options": {"max_attempts": 5, "min_valid": 0.9, "state": str(tmp_path / "state")},
    }


@pytest.mark.parametrize(
    ("results_dir", "rows", "jobs", "title"),
    [
        ("answers", [], 1, "answers, 1 job"),
        ("answers", [], 1234, "answers, 1,234 jobs"),
        ("a/01a22418-1f8d-724f-940e-895427f281c0", [], 2, "2 jobs"),
        ("a/01a22418-1f8d-724f-940e-895427f281c0", ["/deep/er/questions.csv"], 0, "questions.csv"),
        ("answers", ["one.csv", "two.csv", "three.csv"], 0, "one.csv and 2 more, 9 jobs"),
        ("answers", ["one.csv"], 1, "answers, 4 jobs"),
        ("memory://bucket/answers", [], 2, "answers, 2 jobs"),
    ],
)
def test_the_title_of_a_job_set(
    tmp_path: Path, results_dir: str, rows: list[str], jobs: int, title: str
) -> None:
    """Its file or its results directory; never a UUID or a path."""
    place = results_dir if "://" in results_dir else str(tmp_path / results_dir)
    batch = Batch(place).set_default_params(model=GPT)
    for name in rows:
        file = tmp_path / name.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"q\n{name} 1\n{name} 2\n{name} 3\n")
        batch.add_rows(file, "{q}")
    for n in range(jobs):
        batch.add_job(prompt=f"{n}", id=f"j{n}")
    assert batch.title.startswith(title)
    assert "/" not in batch.title


def test_a_deployed_flow_run_is_named_by_its_file(tmp_path: Path, sandbox) -> None:
    """Also where the path is absolute and the results directory is named by the flow run."""
    rows = tmp_path / "questions.csv"
    rows.write_text(f"city\n{tmp_path} Oslo\n")
    flow = load_flow_from_entrypoint(f"{ROOT}/flows/jobs_from_file.py:jobs_from_file")
    told = {"jobs": str(rows), "prompt": "Where is {city}?", "model": GPT}
    told |= {"results_dir": str(tmp_path / "{run_key}"), "state": str(tmp_path / "state")}
    with get_client(sync_client=True) as client:
        before = {each.id for each in client.read_flow_runs()}
        asyncio.run(flow(**told))
        found = {each.name for each in client.read_flow_runs() if each.id not in before}
    assert found == {"questions.csv, 1 job"}
