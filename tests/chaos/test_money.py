"""Limits under kills: random prices, sizes and parallel runs, and requests sent one by one.

`BATCHATA_CHAOS=N` runs N scenarios of each kind, `BATCHATA_CHAOS_FIRST=K` begins with number K.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import MODELS, Forker, log_of, manifest_of, rows_of, told

FIRST = int(os.environ.get("BATCHATA_CHAOS_FIRST", "0"))
SCENARIOS = int(os.environ.get("BATCHATA_CHAOS", "1"))
SECONDS = 0.3


def once_each(billed: list[Any], told: str) -> None:
    twice = {k: n for k, n in Counter(row.body_digest for row in billed).items() if n > 1}
    assert not twice, f"billed twice: {twice}\n{told}"


def cost_of(billed: list[Any], prices: dict[str, dict[str, float]]) -> Decimal:
    return sum(
        (
            row.input_tokens * Decimal(str(prices[row.model]["input"]))
            + row.output_tokens * Decimal(str(prices[row.model]["output"]))
            for row in billed
        ),
        Decimal(0),
    ) / Decimal(10**6)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", range(FIRST, FIRST + SCENARIOS))
def test_parallel_runs_under_one_budget(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, billed, number: int
) -> None:
    """Two runs share a budget, are killed and go on: never over it, and the sums are right."""
    pick = random.Random(number)
    # No cache prices of their own: then cached tokens cost as the others.
    prices = {
        model: {"input": round(pick.uniform(0.1, 50), 3), "output": round(pick.uniform(1, 90), 3)}
        for model in MODELS.values()
    }
    jobs = pick.randrange(8, 25)
    upper = sum(400 * p["input"] + 60 * p["output"] for p in prices.values())
    upper *= 2 * jobs / len(MODELS) / 1e6
    limit = round(upper * pick.uniform(0.1, 1.2), 6)

    def job(which: int) -> dict[str, Any]:
        root = tmp_path / str(which)
        root.mkdir()
        texts = [
            f"{tmp_path} {which} {n} [[sandbox:tokens {pick.randrange(1, 40)} "
            f"{pick.randrange(1, 60)}]] {pick.choice(['', 'errored api_error'])}"
            for n in range(jobs)
        ]
        prompts = [
            text.replace("]] errored api_error", "]]") + " [[sandbox:once errored api_error]]"
            if text.endswith("api_error")
            else text
            for text in texts
        ]
        return told(
            root,
            jobs=jobs,
            items_per_batch=pick.choice([2, 5, 9]),
            max_parallel_batches=pick.choice([1, 3, 10]),
            models=[*MODELS.values()],
            prompts=prompts,
            cost_limit_usd=limit,
            options={"prices": prices, "budget": f"{tmp_path}"},
        )

    started = [job(0), job(1)]
    for _ in range(2):
        kills = [pick.uniform(0.2, 2.5) for _ in started]
        threads = [
            threading.Thread(target=forker.run, args=(each, kill))
            for forker, each, kill in zip(forkers, started, kills, strict=True)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert cost_of(billed(), prices) <= Decimal(str(limit))
            time.sleep(0.2)
    for forker, each in zip(forkers, started, strict=True):
        code, _ = forker.run(each)
        assert code == 0, log_of(each)
    bill = billed()
    spent = cost_of(bill, prices)
    assert spent <= Decimal(str(limit))
    once_each(bill, log_of(started[0]))
    manifests = [manifest_of(each) for each in started]
    assert sum(m["cost_usd"] for m in manifests) == pytest.approx(float(spent), abs=1e-9)
    assert [m["reserved_usd"] for m in manifests] == [0, 0]
    rows = rows_of(started[0]) + rows_of(started[1])
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(float(spent), abs=1e-9)
    assert {row["error_code"] for row in rows} <= {None, "cost_limit_exceeded", "api_error"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(FIRST, FIRST + SCENARIOS))
def test_killed_among_realtime_requests(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed, number: int
) -> None:
    """What was sent one by one is never sent again: answered, or lost and reckoned with."""
    pick = random.Random(number)
    jobs = 40
    provider.limits(seconds=60)
    for name in MODELS:
        slow = {"seconds": pick.choice([0.1, 0.6]), "when": pick.choice(["before", "after"])}
        provider.fault(name, operation="message", mode="delay", times=100_000, **slow)
        provider.fault(name, operation="message", mode="drop_after", after=pick.randrange(jobs))
    job = told(
        tmp_path,
        models=[*MODELS.values()],
        jobs=jobs,
        items_per_batch=pick.choice([4, 10]),
        time_limit_seconds=40,
        deadline={"on_deadline": "realtime", "realtime_usd": 1, "margin_seconds": 39.5},
    )
    for _ in range(3):
        pid = forker.start(job)
        # From the first realtime request on, the kill strikes among them.
        begun = time.monotonic()
        known = len(list(provider.ledger.billed()))
        while time.monotonic() - begun < 6 and len(list(provider.ledger.billed())) == known:
            time.sleep(0.02)
        time.sleep(pick.uniform(0, 0.8))
        if pick.random() < 0.7:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        forker.wait()
    assert forker.run(job)[0] == 0, log_of(job)
    bill = billed()
    once_each(bill, log_of(job))
    rows = rows_of(job)
    codes = Counter(row["error_code"] for row in rows)
    assert set(codes) <= {None, "answer_lost"}, f"{codes}\n{log_of(job)}"
    assert codes[None] + codes["answer_lost"] == jobs
    assert codes[None] <= len(bill) <= jobs
    cost = float(sum(row.cost_usd for row in bill))
    manifest = manifest_of(job)
    assert manifest["reserved_usd"] == 0
    assert manifest["cost_usd"] >= cost - 1e-9
    if not codes["answer_lost"]:
        assert manifest["cost_usd"] == pytest.approx(cost, abs=1e-9)
