"""Planning: what a run would send and cost, from estimates, or from what was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
PROSE = "The quick brown fox jumps over the lazy dog, and nobody knows why it does so. " * 20


def make(tmp_path: Path, jobs: int = 20, **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", items_per_batch=5, **options).set_state(file=tmp_path / "state")
    for n in range(jobs):
        model = GPT if n % 2 else CLAUDE
        batch.add_job(prompt=f"{tmp_path} {n} {PROSE}", model=model, max_tokens=400, id=f"j{n}")
    return batch


def plan(batch: Batch) -> dict[str, Any]:
    planned = batch.run(dry_run=True).planned
    assert planned is not None
    return planned


def test_the_plan_by_model(tmp_path: Path, sandbox) -> None:
    """Batches, sizes, calls and three costs add up by model and in all; nothing is called."""
    calls = sandbox.ledger.calls()
    planned = plan(make(tmp_path))
    assert sandbox.ledger.calls() == calls
    assert set(planned["by_model"]) == {f"anthropic {CLAUDE}", f"openai {GPT}"}
    for name in ("cost_low_usd", "cost_likely_usd", "cost_upper_usd", "realtime_likely_usd"):
        sums = [model[name] for model in planned["by_model"].values()]
        assert sum(sums) == pytest.approx(planned[name])
    assert 0 < planned["cost_low_usd"] < planned["cost_likely_usd"] < planned["cost_upper_usd"]
    assert planned["realtime_likely_usd"] == pytest.approx(2 * planned["cost_likely_usd"])
    assert planned["jobs_covered"] is None
    assert sum(batch["jobs"] for batch in planned["batches"]) == planned["to_send"] == 20
    assert planned["api_calls"] == sum(batch["api_calls"] for batch in planned["batches"])
    assert 4 * 40 < planned["api_calls"] < 4 * 400
    assert any("a quarter of max_tokens" in note for note in planned["warnings"])


def test_a_limit_that_covers_a_part(tmp_path: Path, sandbox) -> None:
    """The plan says how many jobs a limit lets go out at once."""
    upper = plan(make(tmp_path))["cost_upper_usd"]
    planned = plan(make(tmp_path).add_cost_limit(usd=upper / 2))
    assert 0 < planned["jobs_covered"] < 20
    assert any(f"about {planned['jobs_covered']}" in note for note in planned["warnings"])
    assert plan(make(tmp_path).add_cost_limit(usd=upper * 1.01))["jobs_covered"] == 20


def test_what_was_seen_corrects_the_plan(tmp_path: Path, sandbox) -> None:
    """After a run, the likely cost of more jobs of its models is what its jobs really cost."""
    run = make(tmp_path).run()
    assert run.manifest is not None
    planned = plan(make(tmp_path, jobs=40))
    assert (planned["answered"], planned["to_send"]) == (20, 20)
    assert planned["cost_likely_usd"] == pytest.approx(run.manifest["cost_usd"], rel=0.1)
    assert not any("a quarter of max_tokens" in note for note in planned["warnings"])
