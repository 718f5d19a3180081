"""The canary: a sample is answered first; the others follow if a gate or a person says so."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from pydantic import BaseModel

from batchata_prefect import Batch, BatchRun, ValidationError

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


class Mood(BaseModel):
    """What the jobs ask for."""

    mood: str


def make(tmp_path: Path, jobs: int = 60, text: str = "", **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    batch.set_default_params(response_model=Mood, max_tokens=100)
    for n in range(jobs):
        model = GPT if n % 3 == 0 else CLAUDE
        batch.add_job(prompt=f"{tmp_path} {n} {text}", model=model, id=f"j{n}")
    return batch


def canary(run: BatchRun) -> dict[str, Any]:
    assert run.manifest is not None
    return run.manifest["canary"]


def test_the_sample_goes_first_and_is_spread(tmp_path: Path, billed) -> None:
    """A tenth of each model's jobs is answered before the others, and nothing is sent twice."""
    run = make(tmp_path).run(canary=0.1)
    assert {result.status for result in run.iter_results()} == {"completed"}
    assert len(billed()) == 60
    batches = run.manifest["batches"]  # pyright: ignore[reportOptionalSubscript]
    assert sorted(batch["jobs"] for batch in batches[:2]) == [2, 4]
    last_of_canary = max(datetime.fromisoformat(batch["ended_at"]) for batch in batches[:2])
    # A provider's clock, by which a create is dated, tells whole seconds.
    sent = [datetime.fromisoformat(batch["sent_at"]) for batch in batches[2:]]
    assert all(at + timedelta(seconds=1) > last_of_canary for at in sent)
    told = canary(run)
    assert (told["jobs"], told["valid"], told["passed"]) == (6, 6, True)
    assert told["projected_usd"] == pytest.approx(run.manifest["cost_usd"], rel=0.5)  # pyright: ignore[reportOptionalSubscript]


def test_a_number_of_jobs(tmp_path: Path, billed) -> None:
    """A number is that many jobs over all models, rounded up for each."""
    run = make(tmp_path).run(canary=10)
    assert canary(run)["jobs"] == 11
    assert len(billed()) == 60


def test_invalid_answers_stop_the_others(tmp_path: Path, billed) -> None:
    """Below `min_valid` nothing more is sent; a lower one lets the others follow, none twice."""
    bad = make(tmp_path, text="[[sandbox:invalid_json]]").run(canary=6)
    codes = [result.error_code for result in bad.iter_results()]
    assert codes.count("invalid_json") == len(billed()) == canary(bad)["jobs"]
    assert codes.count("canary_failed") == 60 - len(billed())
    held = next(r for r in bad.iter_results() if r.error_code == "canary_failed")
    assert "0 of 6 answers are valid" in (held.error or "")
    assert "95.0% valid answers are asked for" in (held.error or "")

    again = make(tmp_path, text="[[sandbox:invalid_json]]").run(canary=6)
    assert len(billed()) == 6
    assert canary(again) == canary(bad)

    rest = make(tmp_path, text="[[sandbox:invalid_json]]").run(canary=6, min_valid=0.0)
    assert {result.error_code for result in rest.iter_results()} == {"invalid_json"}
    assert len(billed()) == 60


def test_changed_jobs_get_a_canary_of_their_own(tmp_path: Path, billed) -> None:
    """After the prompt was mended, a new sample is drawn and lets the others follow."""
    make(tmp_path, text="[[sandbox:invalid_json]]").run(canary=6)
    run = make(tmp_path, text="mended").run(canary=6)
    assert canary(run)["passed"]
    assert len(billed()) == 6 + 60


def test_a_projection_above_the_limit_stops_the_others(tmp_path: Path, billed) -> None:
    """What the sample really cost, times all jobs, must stay inside the cost limit."""
    prices = {model: {"input": 1.0, "output": 10.0} for model in (CLAUDE, GPT)}
    batch = make(tmp_path, text="[[sandbox:tokens 10 100]]", prices=prices).add_cost_limit(usd=0.05)
    run = batch.run(canary=6)
    told = canary(run)
    assert told["projected_usd"] == pytest.approx(60 * (10 + 1000) / 1e6)
    assert not told["passed"]
    assert "the cost limit is $0.05" in told["told"]
    assert len(billed()) == 6


def answer(run: BatchRun, *, go_on: bool) -> None:
    """Wait until the run is paused, and answer it as a person in the UI would."""

    async def find() -> None:
        deadline = time.monotonic() + 60
        async with get_client() as client:
            while time.monotonic() < deadline:
                if run.flow_run_id is not None:
                    flow_run = await client.read_flow_run(UUID(run.flow_run_id))
                    if flow_run.state is not None and flow_run.state.is_paused():
                        # The form is there a moment after the state.
                        result = await client.resume_flow_run(
                            flow_run.id, run_input={"go_on": go_on}
                        )
                        if str(getattr(result.status, "value", result.status)) == "ACCEPT":
                            return
                await asyncio.sleep(0.2)

    asyncio.run(find())


@pytest.mark.parametrize("go_on", [True, False])
def test_a_person_decides(tmp_path: Path, billed, go_on: bool) -> None:
    """With `approve` the flow run pauses, and what the person says counts over the gate."""
    text = "[[sandbox:invalid_json]]" if go_on else ""
    batch = make(tmp_path, text=text)
    run = batch._prepare(told={"canary": 6, "approve": True})  # pyright: ignore[reportPrivateUsage]
    person = threading.Thread(target=answer, args=(run,), kwargs={"go_on": go_on})
    person.start()
    run.execute()
    person.join()
    told = canary(run)
    assert told["approved"] is told["passed"] is go_on
    assert len(billed()) == (60 if go_on else 6)


def test_numbers_that_make_no_sense(tmp_path: Path, billed) -> None:
    """They are refused before anything is sent."""
    for told in (
        {"canary": 0},
        {"canary": 1.5},
        {"canary": 5, "min_valid": 2.0},
        {"approve": True},
    ):
        with pytest.raises(ValidationError):
            make(tmp_path, jobs=2).run(**told)
    assert len(billed()) == 0


def test_cancelled_while_a_person_is_asked(tmp_path: Path, billed) -> None:
    """The run ends in order: the sample's answers are there, the others are cancelled."""
    runs: list[BatchRun] = []

    def look(stats: dict[str, Any], _elapsed: float, _batches: dict[str, Any]) -> None:
        if "a person" in (stats["waiting_for"] or ""):
            runs[0].cancel()

    batch = make(tmp_path)
    prepare = batch._prepare  # pyright: ignore[reportPrivateUsage]

    def keep(*given: Any, **told: Any) -> BatchRun:
        runs.append(prepare(*given, **told))
        return runs[0]

    batch._prepare = keep  # pyright: ignore[reportPrivateUsage]
    run = batch.run(look, 0.1, canary=6, approve=True)
    assert run.manifest is not None
    assert run.manifest["status"] == "cancelled"
    assert run.manifest["counts"] == {"total": 60, "completed": 6, "failed": 0, "cancelled": 54}
    assert len(billed()) == 6
