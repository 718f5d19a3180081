"""Creates whose reply is lost, where what proves the batch is not as usual: clocks and metadata."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records
from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker, check_all_paid_once

pytestmark = pytest.mark.timeout(240)

MODELS = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6-luna"}
JOBS = 4


@pytest.fixture(scope="module")
def provider(prefect_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("lost"), seconds=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def forker(provider: Sandbox) -> Iterator[Forker]:
    forker = Forker({"PREFECT_API_URL": PREFECT_API_URL.value(), **provider.environment()})
    yield forker
    forker.close()


@pytest.fixture(autouse=True)
def usual(provider: Sandbox) -> Iterator[None]:
    """Nothing of another test is left in force."""
    yield
    provider.clear_faults()
    provider.limits(clock_seconds=0, keeps_metadata=True, seconds=0.2)
    provider.settle()


def told(tmp_path: Path, model: str) -> dict[str, Any]:
    return {
        "results_dir": str(tmp_path / "out"),
        "state": str(tmp_path / "state"),
        "log": str(tmp_path / "log"),
        "jobs": JOBS,
        "items_per_batch": JOBS,
        "prompt": f"{tmp_path} {{n}}",
        "models": [model],
    }


def lose_the_create(forker: Forker, provider: Sandbox, name: str, job: dict[str, Any]) -> None:
    """Kill a run while its create, which the provider has committed, has no reply yet."""
    known = len(list(provider.ledger.batches()))
    provider.fault(name, operation="create", mode="delay", seconds=20)
    pid = forker.start(job)
    deadline = time.monotonic() + 60
    while len(list(provider.ledger.batches())) == known:
        assert time.monotonic() < deadline, Path(job["log"]).read_text()
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() == -9
    provider.clear_faults()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hours", [-2, 2])
def test_clocks_that_differ(
    forker: Forker, provider: Sandbox, tmp_path: Path, name: str, hours: int
) -> None:
    """The provider's clock is hours away from ours, in either direction."""
    before = len(list(provider.ledger.billed()))
    provider.limits(clock_seconds=hours * 3600)
    provider.fault(name, operation="create", mode="drop_after")
    job = told(tmp_path, MODELS[name])
    code, _ = forker.run(job)
    assert code == 0, Path(job["log"]).read_text()[-3000:]
    check_all_paid_once(provider, before, tmp_path / "out", JOBS)


@pytest.mark.parametrize("name", MODELS)
def test_a_clock_that_is_set_right_between_two_starts(
    forker: Forker, provider: Sandbox, tmp_path: Path, name: str
) -> None:
    """The time of a create is written down by the provider's clock, from the first create on."""
    provider.limits(clock_seconds=-2 * 3600)
    job = told(tmp_path, MODELS[name])
    lose_the_create(forker, provider, name, job)

    async def since() -> datetime:
        records = Records(await storage_at(job["state"]), job["results_dir"])
        await records.start()
        intent = await records.intent(0)
        assert intent is not None
        return intent.since

    late = datetime.now(UTC) - timedelta(hours=2) - asyncio.run(since())
    assert abs(late) < timedelta(minutes=5)


@pytest.mark.parametrize("killed", [False, True])
def test_a_server_that_gives_no_metadata_back(
    forker: Forker, provider: Sandbox, tmp_path: Path, killed: bool
) -> None:
    """The batch is known by its input file, also by a process that did not upload it."""
    before = len(list(provider.ledger.billed()))
    provider.limits(keeps_metadata=False)
    job = told(tmp_path, MODELS["openai"])
    if killed:
        lose_the_create(forker, provider, "openai", job)
    else:
        provider.fault("openai", operation="create", mode="drop_after")
    code, _ = forker.run(job)
    assert code == 0, Path(job["log"]).read_text()[-3000:]
    check_all_paid_once(provider, before, tmp_path / "out", JOBS)
