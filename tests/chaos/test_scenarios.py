"""Random scenarios: faults x kills x interrupts x restarts x budgets, and what holds after each.

`make chaos N=500` runs more of them; a scenario is told by its number alone and can be repeated
with `BATCHATA_CHAOS_FIRST=<number> make chaos N=1`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect.settings import PREFECT_API_URL

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker

FIRST = int(os.environ.get("BATCHATA_CHAOS_FIRST", "0"))
SCENARIOS = int(os.environ.get("BATCHATA_CHAOS", "50"))
JOBS = 18
FAULTS: list[tuple[Any, str, dict[str, Any]]] = [
    ("create", "drop_before", {}),
    ("create", "drop_after", {}),
    ("create", "status", {"status": 500}),
    ("create", "status", {"status": 529}),
    ("create", "status", {"status": 500, "commit": True}),
    ("create", "status", {"status": 429, "headers": {"retry-after": "0.2"}}),
    ("create", "garbage", {}),
    ("create", "garbage", {"commit": True}),
    ("create", "delay", {"seconds": 0.5}),
    ("upload", "drop_before", {}),
    ("upload", "drop_after", {}),
    ("retrieve", "status", {"status": 503, "times": 3}),
    ("retrieve", "status", {"status": 404, "times": 2}),
    ("retrieve", "drop_after", {}),
    ("retrieve", "unknown_status", {"times": 2}),
    ("list", "status", {"status": 500}),
    ("list", "garbage", {}),
    (None, "list_lag", {"seconds": 0.3}),
    (None, "create_404", {"seconds": 0.3}),
    (None, "truncate", {}),
    (None, "truncate", {"at": "byte"}),
    (None, "truncate", {"at": "reset"}),
    (None, "results_not_ready", {"times": 2}),
    (("results", "content"), "status", {"status": 500, "times": 2}),
    (None, "batch_expired", {}),
    (None, "batch_failed", {"code": "invalid_request", "line": 2, "message": "bad line"}),
    (None, "batch_failed", {}),
]
ORDERS = [
    "",
    "",
    "",
    "",
    "[[sandbox:once errored api_error]]",
    "[[sandbox:errored invalid_request_error]]",
    "[[sandbox:errored api_error]]",
    "[[sandbox:expired]]",
    "[[sandbox:refusal]]",
]


@dataclass
class Scenario:
    """What happens to one job set."""

    number: int
    chance: random.Random
    events: list[str] = field(default_factory=list)

    def job(self, root: Path) -> dict[str, Any]:
        """What the forker is told."""
        pick = self.chance
        orders = [pick.choice(ORDERS) for _ in range(JOBS)]
        return {
            "results_dir": str(root / "out"),
            "run_key": str(root),
            "fsync_seconds": pick.choice([0, 0, 0, 0.05]),
            "state": str(root / "state"),
            "log": str(root / "log"),
            "jobs": JOBS,
            "items_per_batch": pick.choice([3, 5, 9]),
            "max_parallel_batches": pick.choice([1, 2, 10]),
            "prompts": [f"Scenario {root}: {n} {order}" for n, order in enumerate(orders)],
            "cost_limit_usd": pick.choice([None, None, 0.012, 0.03]),
        }


@pytest.fixture(scope="module")
def provider(prefect_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox of its own, as it is killed too."""
    with Sandbox(tmp_path_factory.mktemp("chaos"), seconds=0.25) as server:
        yield server


@pytest.fixture(scope="module")
def forker(provider: Sandbox) -> Iterator[Forker]:
    forker = Forker(environment(provider))
    yield forker
    forker.close()


@pytest.fixture(scope="module")
def other(provider: Sandbox) -> Iterator[Forker]:
    """Takes runs over while their process is stopped."""
    forker = Forker(environment(provider))
    yield forker
    forker.close()


def environment(provider: Sandbox) -> dict[str, str]:
    """What runs are told: a lease that a stopped process outsleeps."""
    return {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "BATCHATA_LEASE_SECONDS": "2",
        **provider.environment(),
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(FIRST, FIRST + SCENARIOS))
def test_scenario(
    forker: Forker, other: Forker, provider: Sandbox, tmp_path: Path, number: int
) -> None:
    """Nothing is paid twice or over the limit, no paid answer is lost, and the counts add up."""
    scenario = Scenario(number, random.Random(number))
    pick = scenario.chance
    job = scenario.job(tmp_path)
    before = len(list(provider.ledger.billed()))
    clock, metadata = pick.choice([0, 0, -7200, 7200]), pick.random() < 0.8
    provider.limits(clock_seconds=clock, keeps_metadata=metadata)
    scenario.events.append(f"its clock is {clock} s ahead, metadata {metadata}")
    for _ in range(pick.randrange(1, 3)):
        for _ in range(pick.randrange(3)):
            operation, mode, options = pick.choice(FAULTS)
            name = pick.choice(["anthropic", "openai"])
            if (name, mode) in {("anthropic", "batch_failed"), ("openai", "results_not_ready")}:
                continue
            if operation == "upload":
                name = "openai"
            scenario.events.append(f"{name} {operation} {mode} {options}")
            provider.fault(
                name,
                **{"operation": operation, "mode": mode, "after": pick.randrange(2), **options},
            )
        play(forker, other, provider, job, scenario)
        check_budget(provider, before, job)
    provider.clear_faults()
    code = finish(forker, job)
    told = f"scenario {number}: {scenario.events}\n{Path(job['log']).read_text()[-3000:]}"
    assert code == 0, told
    check_budget(provider, before, job)
    if job["cost_limit_usd"] is not None:
        job["cost_limit_usd"] = None
        assert finish(forker, job) == 0, told
    check(provider, before, job, told)


def play(
    forker: Forker, other: Forker, provider: Sandbox, job: dict[str, Any], scenario: Scenario
) -> None:
    """One run with one blow: a kill, a pause, a restart of the provider, or none."""
    pick = scenario.chance
    blow = pick.choice(
        ["kill", "kill", "interrupt", "terminate", "provider", "none", "pause", "overtake"]
    )
    after = pick.uniform(0.1, 2.0)
    scenario.events.append(f"{blow} after {after:.2f} s")
    if blow == "none":
        forker.run(job, kill_after=20)
        return
    pid = forker.start(job)
    time.sleep(after)
    if blow == "provider":
        provider.kill()
        provider.start()
        forker_end(forker, pid, 20)
        return
    if blow in {"pause", "overtake"}:
        pause(forker, other, job, pid, overtake=blow == "overtake", seconds=pick.uniform(0.5, 4))
        return
    number = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
    try:
        os.kill(pid, number[blow])
    except ProcessLookupError:
        scenario.events.append("which was over")
    forker_end(forker, pid, 20)


def pause(
    forker: Forker,
    other: Forker,
    job: dict[str, Any],
    pid: int,
    *,
    overtake: bool,
    seconds: float,
) -> None:
    """Stop a run for a while, in which another machine may take it over, and let it go on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    if overtake:
        beside = {**job, "results_dir": f"{job['results_dir']}-beside"}
        forker_end(other, other.start(beside), 20)
    else:
        time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    forker_end(forker, pid, 20)


def forker_end(forker: Forker, pid: int, seconds: float) -> int:
    """Wait for a run, and kill it when it takes too long."""
    import threading

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        return forker.wait()
    finally:
        timer.cancel()


def finish(forker: Forker, job: dict[str, Any]) -> int:
    """Run to the end without any blow."""
    return forker_end(forker, forker.start(job), 60)


def check_budget(provider: Sandbox, before: int, job: dict[str, Any]) -> None:
    """What was billed never passes the limit, at no moment."""
    if job["cost_limit_usd"] is not None:
        billed = sum(row.cost_usd for row in list(provider.ledger.billed())[before:])
        assert float(billed) <= job["cost_limit_usd"]


def check(provider: Sandbox, before: int, job: dict[str, Any], told: str) -> None:
    """The invariants, against the provider's own ledger."""
    billed = list(provider.ledger.billed())[before:]
    twice = {k: n for k, n in Counter(row.body_digest for row in billed).items() if n > 1}
    assert not twice, f"billed twice: {twice}\n{told}"
    rows = [orjson.loads(line) for line in (Path(job["results_dir"]) / "results.jsonl").open("rb")]
    assert [row["job_id"] for row in rows] == [f"job-{n}" for n in range(JOBS)], told
    assert {row["status"] for row in rows} <= {"completed", "failed"}, told
    paid_rows = sum(1 for row in rows if row["cost_usd"])
    assert paid_rows == len(billed), f"{paid_rows} rows cost, {len(billed)} were billed\n{told}"
    for row, prompt in zip(rows, job["prompts"], strict=True):
        why = f"{row['job_id']} {prompt!r}: {row['error_code']} {row['error']}\n{told}"
        if "[[" not in prompt or "once" in prompt:
            assert row["status"] == "completed" or row["error_code"] == "invalid_request", why
        else:
            assert row["status"] == "failed", why
            assert row["error_code"], why
    cost = float(sum(row.cost_usd for row in billed))
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(cost, abs=1e-9), told
    manifest = orjson.loads((Path(job["results_dir"]) / "manifest.json").read_bytes())
    assert manifest["cost_usd"] == pytest.approx(cost, abs=1e-9), told
    assert manifest["reserved_usd"] == 0, told
    counts = Counter(row["status"] for row in rows)
    assert manifest["counts"] == {"total": JOBS, "cancelled": 0, **counts}, told
