"""Kill -9 at any instant: nothing is paid twice and no answer is lost."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.chaos.killing import Forker, check_all_paid_once

KILLS = 100
JOBS = 16


@pytest.fixture(scope="module")
def forker(prefect_server, sandbox_process) -> Iterator[Forker]:
    """One forker that talks to the session's Prefect server and sandbox."""
    forker = Forker({"PREFECT_API_URL": PREFECT_API_URL.value(), **sandbox_process.environment()})
    yield forker
    forker.close()


def told(tmp_path: Path, number: int) -> dict[str, object]:
    root = tmp_path / str(number)
    root.mkdir()
    return {
        "results_dir": str(root / "out"),
        "state": str(root / "state"),
        "log": str(root / "log"),
        "jobs": JOBS,
        # Every trial asks something of its own, so that the ledger tells them apart.
        "prompt": f"Trial {number} of {os.getpid()}. Say what {{n}} is.",
    }


@pytest.mark.timeout(400)
def test_a_hundred_kills(forker: Forker, sandbox, tmp_path: Path) -> None:
    """Killed at 100 random instants over both providers, every request is billed once."""
    chance = random.Random(20261122)
    kills = trial = 0
    longest = 1.5
    while kills < KILLS:
        job = told(tmp_path, trial)
        before = len(list(sandbox.ledger.billed()))
        for _ in range(8):
            code, seconds = forker.run(job, kill_after=chance.uniform(0.05, longest))
            kills += code == -9
            if code != -9:
                longest = max(0.4, seconds)
                break
        else:
            code, _ = forker.run(job)
        assert code == 0, (tmp_path / str(trial) / "log").read_text()[-4000:]
        check_all_paid_once(sandbox, before, Path(str(job["results_dir"])), JOBS)
        trial += 1


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("mode", ["drop_before", "drop_after"])
def test_a_dropped_create(
    forker: Forker, sandbox, tmp_path: Path, provider: str, mode: str
) -> None:
    """A create whose connection drops, before or after it was committed, is billed once."""
    job = told(tmp_path, random.randrange(10**9))
    before = len(list(sandbox.ledger.billed()))
    sandbox.fault(provider, operation="create", mode=mode, times=2)
    code, _ = forker.run(job)
    assert code == 0, Path(str(job["log"])).read_text()[-4000:]
    check_all_paid_once(sandbox, before, Path(str(job["results_dir"])), JOBS)


def test_kills_and_dropped_creates_together(forker: Forker, sandbox, tmp_path: Path) -> None:
    """Every create drops its connection half of the time, and the process is killed besides."""
    chance = random.Random(7)
    for trial in range(6):
        job = told(tmp_path, trial)
        before = len(list(sandbox.ledger.billed()))
        for _ in range(4):
            for provider in ("anthropic", "openai"):
                mode = chance.choice(["drop_before", "drop_after"])
                sandbox.fault(provider, operation="create", mode=mode, after=chance.randrange(2))
            code, _ = forker.run(job, kill_after=chance.uniform(0.1, 1.5))
            if code != -9:
                break
        sandbox.clear_faults()
        if code == -9:
            code, _ = forker.run(job)
        assert code == 0, (tmp_path / str(trial) / "log").read_text()[-4000:]
        check_all_paid_once(sandbox, before, Path(str(job["results_dir"])), JOBS)


def test_two_processes_submit_once(
    forker: Forker, prefect_server, sandbox_process, sandbox, tmp_path: Path
) -> None:
    """Two processes that run the same jobs at the same moment buy them once, and both succeed."""
    from concurrent.futures import ThreadPoolExecutor

    other = Forker({"PREFECT_API_URL": PREFECT_API_URL.value(), **sandbox_process.environment()})
    job = told(tmp_path, 0)
    before = len(list(sandbox.ledger.billed()))
    try:
        with ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(lambda process: process.run(job)[0], [forker, other]))
    finally:
        other.close()
    assert codes == [0, 0], Path(str(job["log"])).read_text()[-4000:]
    check_all_paid_once(sandbox, before, Path(str(job["results_dir"])), JOBS)


def test_a_full_disk_during_collection(forker: Forker, sandbox, tmp_path: Path) -> None:
    """It fails cleanly, says what to do, and the next run finishes without paying again."""
    job = {**told(tmp_path, 0), "jobs": 1000, "items_per_batch": 1000}
    before = len(list(sandbox.ledger.billed()))
    code, _ = forker.run({**job, "largest_file_bytes": 400_000})
    log = Path(str(job["log"])).read_text()
    assert code == 1
    assert "make room and run again, nothing is paid twice" in log.replace("\n", " ")
    assert not (Path(str(job["results_dir"])) / "results.jsonl").exists()
    paid = len(list(sandbox.ledger.billed())) - before
    assert paid == 1000
    code, _ = forker.run(job)
    assert code == 0, Path(str(job["log"])).read_text()[-4000:]
    check_all_paid_once(sandbox, before, Path(str(job["results_dir"])), 1000)
