"""Records in a storage that is slow or away: one run buys, and nothing ends but what has to."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos import slow_storage
from tests.chaos.killing import (
    Forker,
    check_all_paid_once,
    log_of,
    manifest_of,
    start_until_sent,
    told,
    until,
)

pytestmark = pytest.mark.timeout(240)

JOBS = 6
ENVIRONMENT = {"BATCHATA_LEASE_SECONDS": "2", "BATCHATA_RETRY_LONGEST_SECONDS": "60"}


def both(tmp_path: Path, state: str) -> list[dict[str, Any]]:
    """One job set, on two machines."""
    return [told(tmp_path, which, state=state, run_key=f"{tmp_path}") for which in ("a", "b")]


def test_two_starts_at_one_moment(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, billed
) -> None:
    """Each write of a record takes a quarter of the lease; one start buys, the other sees it."""
    known = len(list(provider.ledger.batches()))
    state = slow_storage.block(f"slow-{uuid4().hex[:8]}", tmp_path / "records", 0.5)
    started = both(tmp_path, state)
    with ThreadPoolExecutor(2) as pool:
        codes = [code for code, _ in pool.map(Forker.run, forkers, started, [110, 110])]
    assert codes == [0, 0], "".join(map(log_of, started))
    for job in started:
        check_all_paid_once(billed(), Path(job["results_dir"]), JOBS)
    assert len(list(provider.ledger.batches())) == known + 2


def test_an_outage_longer_than_the_lease(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed
) -> None:
    """Nothing is bought meanwhile, and the run ends as if it had not been."""
    root = tmp_path / "records"
    job = told(tmp_path, state=slow_storage.block(f"slow-{uuid4().hex[:8]}", root, 0.0))
    provider.limits(seconds=4)
    start_until_sent(forker, provider, job, 2)
    until(lambda: list(root.rglob("*.receipt")), job)
    (root / "away").touch()
    time.sleep(4.5)
    (root / "away").unlink()
    assert forker.wait() == 0, log_of(job)
    assert manifest_of(job)["status"] == "completed"
    assert "its lease cannot be renewed yet; nothing is bought until it can" in log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_slow_disk_under_a_short_lease(
    provider: Sandbox, tmp_path: Path, billed, request: pytest.FixtureRequest
) -> None:
    """A sync that takes half of the lease: the lease lasts longer, and the end meets no renewal."""
    forker = Forker({"BATCHATA_LEASE_SECONDS": "1", **provider.environment()})
    request.addfinalizer(forker.close)
    job = told(tmp_path, fsync_seconds=0.5)
    assert forker.run(job, kill_after=150)[0] == 0, log_of(job)
    assert "Traceback" not in log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
