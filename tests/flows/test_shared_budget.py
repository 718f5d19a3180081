"""A budget that several runs share through the Prefect server: together they never pass it."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import uuid4

import pytest

from batchata_prefect import Batch, BatchRun, ValidationError

pytestmark = pytest.mark.usefixtures("prefect_server")

JOBS = 20


def make(tmp_path: Path, name: str, budget: str | None) -> Batch:
    batch = Batch(tmp_path / name, items_per_batch=4, max_parallel_batches=3, budget=budget)
    batch.set_state(file=tmp_path / "state")
    for n in range(JOBS):
        text = f"{tmp_path} {name} {n}"
        batch.add_job(prompt=text, model="claude-sonnet-5-5", max_tokens=100, id=f"j{n}")
    return batch


def test_three_runs_never_pass_it_together(tmp_path: Path, sandbox) -> None:
    """They run at once under one limit that does not cover all; a higher one frees the rest."""
    name = f"team-{uuid4()}"
    planned = make(tmp_path, "plan", None).run(dry_run=True).planned
    assert planned is not None
    limit = planned["cost_upper_usd"] * 1.2
    before = len(list(sandbox.ledger.billed()))
    runs: dict[str, BatchRun] = {}

    def go(which: str, usd: float) -> None:
        runs[which] = make(tmp_path, which, name).add_cost_limit(usd).run()

    def together(usd: float) -> float:
        threads = [threading.Thread(target=go, args=(which, usd)) for which in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return float(sum(row.cost_usd for row in list(sandbox.ledger.billed())[before:]))

    spent = together(limit)
    assert 0 < spent <= limit
    done = sum(len(run.results()["completed"]) for run in runs.values())
    failed = [result for run in runs.values() for result in run.results()["failed"]]
    assert 0 < done < 3 * JOBS
    assert {result.error_code for result in failed} == {"cost_limit_exceeded"}
    held = sum(float(run.status()["cost_usd"]) for run in runs.values())
    assert held == pytest.approx(spent)
    spent = together(planned["cost_upper_usd"] * 4)
    assert sum(len(run.results()["completed"]) for run in runs.values()) == 3 * JOBS
    billed = list(sandbox.ledger.billed())[before:]
    assert len(billed) == len({row.body_digest for row in billed}) == 3 * JOBS


def test_what_one_run_spent_is_gone_for_the_next(tmp_path: Path, sandbox) -> None:
    """A run that comes later finds what is left, and no more."""
    name = f"team-{uuid4()}"
    first = make(tmp_path, "a", name).add_cost_limit(1.0).run()
    spent = float(first.status()["cost_usd"])
    second = make(tmp_path, "b", name).add_cost_limit(spent * 1.01).run()
    assert not second.results()["completed"]
    assert second.status()["cost_usd"] == 0


def test_a_budget_needs_a_limit(tmp_path: Path) -> None:
    """A name alone is refused before anything is sent."""
    with pytest.raises(ValidationError, match="has no limit"):
        make(tmp_path, "a", "team").run()
