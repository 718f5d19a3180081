"""Accounts that take nothing: the others go on, and the results say what was answered."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch
from batchata_prefect.sandbox import Sandbox
from tests.flows.endpoints import KINDS, MODELS, PRICES, billed_of, tables

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.parametrize(
    ("dead", "operation"),
    [("lab", "upload"), ("team", "create")],
)
def test_a_dead_account_keeps_nobody_waiting(
    servers: dict[str, Sandbox], tmp_path: Path, dead: str, operation: str
) -> None:
    """It takes nothing until the deadline; the other one's batches have their turn before."""
    good, before = "anthropic", billed_of(servers)
    servers[dead].fault(operation=operation, mode="status", status=500, times=None)
    batch = Batch(
        tmp_path / "out",
        accounts=tables(servers),
        prices=PRICES,
        items_per_batch=1,
        max_parallel_batches=1,
    )
    batch.set_state(tmp_path / "state").add_cost_limit(usd=5).add_time_limit(hours=1)
    for name in (dead, good):
        for n in range(3):
            model = MODELS[KINDS[name]]
            text = f"{tmp_path} {n}"
            batch.add_job(prompt=text, model=model, provider=name, max_tokens=90, id=f"{name}{n}")

    def look(stats: dict[str, Any], *_: Any) -> None:
        run = batch.latest_run
        assert run is not None
        if stats["completed"] == 3 and dead in run._session.stuck and stats["time_left_seconds"]:
            run._session.started_at -= timedelta(hours=2)

    run = batch.run(look, 0.05)
    results = list(run.iter_results())
    assert Counter(result.provider for result in results if result.error is None) == {good: 3}
    errors = {result.error for result in results if result.provider == dead}
    codes = {result.error_code for result in results if result.provider == dead}
    assert codes <= {"time_limit_exceeded", "in_flight"}
    for error in errors:
        assert f"{dead} took no batch" in str(error) or "its outcome is not known" in str(error)
    assert billed_of(servers)[dead] == before[dead]
    assert run.manifest is not None
    assert run.manifest["counts"]["completed"] == 3
