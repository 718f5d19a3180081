"""Kill -9 at any instant: nothing is paid twice and no answer is lost.

`make chaos N=100` kills at 100 random instants.
"""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import EVERYWHERE, Forker, check_all_paid_once, log_of, told, until

CHAOS = int(os.environ.get("BATCHATA_CHAOS", "0"))
KILLS = CHAOS or 8
DROPPED = CHAOS // 16 or 2
JOBS = 16
CALLS = [f"anthropic.{call}" for call in ("create", "retrieve", "results")]
CALLS += ["azure.file", "azure.create"]
CALLS += [f"openai.{call}" for call in ("upload", "create", "retrieve", "content")]


def trial(tmp_path: Path, number: int) -> dict[str, Any]:
    root = tmp_path / str(number)
    root.mkdir()
    return told(root, jobs=JOBS, models=[*EVERYWHERE.values()])


# A create that its provider does long after its sender has died can be known by nobody.
@pytest.mark.parametrize(
    ("call", "when"),
    [
        *((call, "after") for call in CALLS),
        *((f"gemini.{call}", "after") for call in ("upload", "create", "content")),
        *((call, "before") for call in CALLS if not call.endswith("create")),
    ],
)
def test_killed_while_a_call_waits_for_its_answer(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed, call: str, when: str
) -> None:
    """Before the provider has done it, or after."""
    name, operation = call.split(".")
    known = provider.ledger.calls().get(call, 0)
    provider.fault(name, operation=operation, mode="delay", when=when, seconds=20)
    job = told(tmp_path, models=[EVERYWHERE[name]])
    pid = forker.start(job)
    until(lambda: provider.ledger.calls().get(call, 0) > known, job)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() == -9
    provider.clear_faults()
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", 6)


@pytest.mark.timeout(400)
def test_killed_at_random_instants(forker: Forker, tmp_path: Path, billed) -> None:
    """Over all providers, every request is billed once."""
    chance = random.Random(20261122)
    kills = number = 0
    longest = 1.5
    while kills < KILLS:
        job = trial(tmp_path, number)
        before = len(billed())
        for _ in range(8):
            code, seconds = forker.run(job, kill_after=chance.uniform(0.05, longest))
            kills += code == -9
            if code != -9:
                longest = max(0.4, seconds)
                break
        else:
            code, _ = forker.run(job)
        assert code == 0, log_of(job)
        check_all_paid_once(billed()[before:], Path(job["results_dir"]), JOBS)
        number += 1


def test_kills_and_dropped_creates_together(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed
) -> None:
    """Every create drops its connection half of the time, and the process is killed besides."""
    chance = random.Random(7)
    for number in range(DROPPED):
        job = trial(tmp_path, number)
        before = len(billed())
        for _ in range(4):
            for name in EVERYWHERE:
                mode = chance.choice(["drop_before", "drop_after"])
                provider.fault(name, operation="create", mode=mode, after=chance.randrange(2))
            code, _ = forker.run(job, kill_after=chance.uniform(0.1, 1.5))
            if code != -9:
                break
        provider.clear_faults()
        if code == -9:
            code, _ = forker.run(job)
        assert code == 0, log_of(job)
        check_all_paid_once(billed()[before:], Path(job["results_dir"]), JOBS)


def test_two_processes_submit_once(forkers: list[Forker], tmp_path: Path, billed) -> None:
    """Two processes that run the same jobs at the same moment buy them once, and both succeed."""
    job = told(tmp_path, jobs=JOBS)
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda forker: forker.run(job)[0], forkers))
    assert codes == [0, 0], log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_full_disk_during_collection(forker: Forker, tmp_path: Path, billed) -> None:
    """It fails cleanly, says what to do, and the next run finishes without paying again."""
    job = told(tmp_path, jobs=1000, items_per_batch=1000)
    code, _ = forker.run({**job, "largest_file_bytes": 400_000})
    assert code == 1
    assert "make room and run again, nothing is paid twice" in log_of(job)
    assert not (tmp_path / "out" / "results.jsonl").exists()
    # The first batch that finds no room stops the run, sometimes before the second one is sent.
    assert len(billed()) in {500, 1000}
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", 1000)
