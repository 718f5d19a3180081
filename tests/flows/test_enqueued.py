"""OpenAI's limit of enqueued tokens: batches wait for room, and no job fails for want of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, BatchRun
from batchata_prefect.records.shares import Register, Share

pytestmark = pytest.mark.usefixtures("prefect_server")

GPT = "gpt-6-luna"
AZURE = {"model": "fleet", "provider": "azure"}
GEMINI = {"model": "gemini-2.5-flash"}
PRICES = {"fleet": {"input": 0.05, "output": 0.25}}
BATCHES, JOBS_EACH = 12, 5
TEXT = "word " * 80


@pytest.fixture
def tight(sandbox):
    """A sandbox that lets about three of the test's batches wait at once."""
    sandbox.limits(enqueued_tokens=1_800, seconds=0.3)
    yield sandbox
    sandbox.limits(enqueued_tokens=None, seconds=0.1)


def make(
    tmp_path: Path,
    name: str = "out",
    job: dict[str, Any] | None = None,
    batches: int = BATCHES,
    **options: Any,
) -> Batch:
    batch = Batch(tmp_path / name, items_per_batch=JOBS_EACH, **options)
    batch.set_state(file=tmp_path / "state")
    for n in range(batches * JOBS_EACH):
        text = f"{tmp_path} {name} {n}: {TEXT}"
        batch.add_job(
            prompt=text, **(job or {"model": GPT}), max_tokens=50, accept_truncated=True, id=f"j{n}"
        )
    return batch


def check(run: BatchRun, batches: int = BATCHES) -> Counter[str]:
    """All answered at the first attempt; what became of the batches."""
    results = run.results()
    assert len(results["completed"]) == batches * JOBS_EACH
    assert {len(result.attempts) for result in results["completed"]} == {1}
    assert run.manifest is not None
    assert run.manifest["reserved_usd"] == 0
    return Counter(batch["status"] for batch in run.manifest["batches"])


@pytest.mark.parametrize("where", ["openai", "azure", "gemini"])
def test_batches_wait_for_room(tmp_path: Path, tight, where: str) -> None:
    """The limit is learnt from the first refusals, and after them few are turned away.

    OpenAI refuses a batch that was made, Azure and Gemini its create.
    """
    before = len(list(tight.ledger.billed()))
    job = {"openai": None, "azure": AZURE, "gemini": GEMINI}[where]
    batch = make(tmp_path, job=job, prices=PRICES)
    statuses = check(batch.run())
    assert statuses["turned_away"] >= 1
    assert statuses["turned_away"] <= 10
    billed = list(tight.ledger.billed())[before:]
    assert len(billed) == len({row.body_digest for row in billed}) == BATCHES * JOBS_EACH


def test_a_declared_quota_is_never_passed(tmp_path: Path, tight) -> None:
    """With the quota given, no batch is turned away at all."""
    statuses = check(make(tmp_path, quota={GPT: 1_800}).run())
    assert statuses["turned_away"] == 0


def at_once(tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    """Two runs at one moment: what both came to."""
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda name: make(tmp_path, name, **options).run(), ("one", "two"))
        return [check(run) for run in runs]


def test_two_runs_at_once(tmp_path: Path, tight) -> None:
    """Two runs that know nothing of each other share the account's limit, and both finish."""
    at_once(tmp_path)


def test_a_job_larger_than_the_limit(tmp_path: Path, tight) -> None:
    """It fails alone, and says why; the others do not wait for it."""
    batch = make(tmp_path, batches=3, max_attempts=1)
    batch.add_job(prompt=f"{tmp_path} {TEXT * 40}", model=GPT, max_tokens=50, id="large")
    results = batch.run().results()
    assert len(results["completed"]) == 3 * JOBS_EACH
    (failed,) = results["failed"]
    assert failed.job_id == "large"
    assert failed.error_code == "token_limit_exceeded"


def test_two_runs_share_a_declared_quota(tmp_path: Path, tight) -> None:
    """Each knows through the Prefect server what the other has in flight: none is turned away."""
    assert [one["turned_away"] for one in at_once(tmp_path, quota={GPT: 1_800})] == [0, 0]


def test_a_dead_holder_is_forgotten(tmp_path: Path, tight) -> None:
    """What a killed run holds of a quota ends by itself, and what this one held is given back."""
    name = f"enqueued tokens of {GPT} at {tight.environment()['OPENAI_BASE_URL']}"

    async def hold() -> None:
        await Share(name, "a run that was killed", 0, lambda: 1_800, lasts=2).settle()

    asyncio.run(hold())
    began = time.monotonic()
    check(make(tmp_path, batches=3, quota={GPT: 1_800}).run(), batches=3)
    assert time.monotonic() - began > 1
    now = datetime.now(UTC)
    assert all(each.is_over(now) or not each.amount for each in asyncio.run(Register().read(name)))
