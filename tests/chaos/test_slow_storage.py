"""Records in a storage that is slow or away: one run buys, and nothing ends but what has to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from prefect.settings import PREFECT_API_URL

from batchata_prefect.sandbox import Sandbox
from tests.chaos import slow_storage
from tests.chaos.killing import Forker, check_all_paid_once

pytestmark = pytest.mark.timeout(240)

JOBS = 6


@pytest.fixture(scope="module")
def provider(prefect_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("slow"), seconds=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def forkers(provider: Sandbox) -> Iterator[list[Forker]]:
    environment = {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "BATCHATA_LEASE_SECONDS": "4",
        "BATCHATA_RETRY_LONGEST_SECONDS": "60",
        **provider.environment(),
    }
    found = [Forker(environment) for _ in range(2)]
    yield found
    for forker in found:
        forker.close()


def told(tmp_path: Path, which: str, state: str) -> dict[str, Any]:
    return {
        "results_dir": str(tmp_path / which),
        "state": state,
        "log": str(tmp_path / f"{which}.log"),
        "run_key": f"{tmp_path}",
        "jobs": JOBS,
        "prompt": f"{tmp_path} {{n}}",
    }


def log_of(tmp_path: Path, which: str) -> str:
    return " ".join((tmp_path / f"{which}.log").read_text().split())


def test_two_starts_at_one_moment(forkers: list[Forker], provider: Sandbox, tmp_path: Path) -> None:
    """Each write of a record takes a second; one start buys, and the other finds it done."""
    before, known = len(list(provider.ledger.billed())), len(list(provider.ledger.batches()))
    state = slow_storage.block(f"slow-{uuid4().hex[:8]}", tmp_path / "records", 1.0)
    codes: dict[str, int] = {}

    def start(forker: Forker, which: str) -> None:
        codes[which], _ = forker.run(told(tmp_path, which, state), kill_after=110)

    threads = [
        threading.Thread(target=start, args=(forker, which))
        for forker, which in zip(forkers, ("a", "b"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {"a": 0, "b": 0}, log_of(tmp_path, "a") + log_of(tmp_path, "b")
    for which in ("a", "b"):
        check_all_paid_once(provider, before, tmp_path / which, JOBS)
    assert len(list(provider.ledger.batches())) == known + 2


def test_an_outage_longer_than_the_lease(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path
) -> None:
    """Nothing is bought meanwhile, and the run ends as if it had not been."""
    before, known = len(list(provider.ledger.billed())), len(list(provider.ledger.batches()))
    root = tmp_path / "records"
    state = slow_storage.block(f"slow-{uuid4().hex[:8]}", root, 0.0)
    provider.limits(seconds=8)
    try:
        forkers[0].start(told(tmp_path, "a", state))
        deadline = time.monotonic() + 60
        while len(list(provider.ledger.batches())) < known + 2 or not list(root.rglob("*.receipt")):
            assert time.monotonic() < deadline, log_of(tmp_path, "a")
            time.sleep(0.05)
        (root / "away").touch()
        time.sleep(10)
        (root / "away").unlink()
        assert forkers[0].wait() == 0, log_of(tmp_path, "a")
    finally:
        provider.limits(seconds=0.2)
    manifest = orjson.loads((tmp_path / "a" / "manifest.json").read_bytes())
    assert manifest["status"] == "completed"
    assert "its lease cannot be renewed yet; nothing is bought until it can" in log_of(
        tmp_path, "a"
    )
    check_all_paid_once(provider, before, tmp_path / "a", JOBS)


def test_a_slow_disk_under_a_short_lease(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path
) -> None:
    """A sync that takes half of the lease: the lease lasts longer, and the end meets no renewal."""
    before = len(list(provider.ledger.billed()))
    job = {**told(tmp_path, "a", str(tmp_path / "state")), "fsync_seconds": 2.0}
    code, _ = forkers[0].run(job, kill_after=150)
    assert code == 0, log_of(tmp_path, "a")
    assert "Traceback" not in log_of(tmp_path, "a")
    check_all_paid_once(provider, before, tmp_path / "a", JOBS)
