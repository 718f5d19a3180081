"""What a run says of itself while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_failures_and_waits_are_told_while_the_run_goes_on(sandbox, tmp_path: Path) -> None:
    """A job that failed in the first batch shows its code while the next ones are waited for."""
    seen: list[dict[str, Any]] = []
    batch = Batch(tmp_path / "out", items_per_batch=1, max_parallel_batches=1)
    batch.set_state(tmp_path / "state").set_default_params(model="gpt-6-luna")
    batch.add_job(id="no", prompt=f"[[sandbox:refusal]] {tmp_path}")
    batch.add_job(id="yes", prompt=f"Say yes {tmp_path}").add_job(id="two", prompt=f"2 {tmp_path}")
    sandbox.limits(seconds=1)
    try:
        run = batch.run(lambda stats, *_: seen.append(dict(stats)), 0.05)
    finally:
        sandbox.limits(seconds=0.1)
    before = [stats for stats in seen if not stats["is_complete"]]
    assert any(stats["failures"] == {"refusal": 1} for stats in before)
    assert before[0]["failures"] == {}
    waiting = next(s for s in before if s["waiting_for"] == "answers of openai (1 batch)")
    assert waiting["enqueued_tokens"] > 0
    assert any(stats["waiting_until"] is not None for stats in before)
    assert run.status()["failures"] == {"refusal": 1}
    assert run.status()["waiting_for"] is None
