"""Creates whose reply is lost, where what proves the batch is not as usual: clocks and metadata."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records
from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import (
    EVERYWHERE,
    MODELS,
    Forker,
    check_all_paid_once,
    log_of,
    start_until_sent,
    told,
)

pytestmark = pytest.mark.timeout(240)

JOBS = 4


def jobs(tmp_path: Path, *models: str) -> dict[str, Any]:
    """A batch of each model."""
    return told(tmp_path, jobs=JOBS * len(models), items_per_batch=JOBS, models=[*models])


def lose_the_create(forker: Forker, provider: Sandbox, name: str, job: dict[str, Any]) -> None:
    """Kill a run while its create, which the provider has committed, has no reply yet."""
    provider.fault(name, operation="create", mode="delay", seconds=20)
    os.kill(start_until_sent(forker, provider, job), signal.SIGKILL)
    assert forker.wait() == -9
    provider.clear_faults()


@pytest.mark.parametrize(
    ("mode", "hours"), [("drop_before", 0), ("drop_after", -2), ("drop_after", 2)]
)
def test_a_dropped_create(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed, mode: str, hours: int
) -> None:
    """At each provider, before or after it was committed, by a clock that is right or hours off."""
    provider.limits(clock_seconds=hours * 3600)
    for name in EVERYWHERE:
        provider.fault(name, operation="create", mode=mode, times=2)
    job = jobs(tmp_path, *EVERYWHERE.values())
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS * len(EVERYWHERE))


@pytest.mark.parametrize("name", MODELS)
def test_a_clock_that_is_set_right_between_two_starts(
    forker: Forker, provider: Sandbox, tmp_path: Path, name: str
) -> None:
    """The time of a create is written down by the provider's clock, from the first create on."""
    provider.limits(clock_seconds=-2 * 3600)
    job = jobs(tmp_path, MODELS[name])
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
    forker: Forker, provider: Sandbox, tmp_path: Path, killed: bool, billed
) -> None:
    """The batch is known by its input file, also by a process that did not upload it."""
    provider.limits(keeps_metadata=False)
    job = jobs(tmp_path, MODELS["openai"])
    if killed:
        lose_the_create(forker, provider, "openai", job)
    else:
        provider.fault("openai", operation="create", mode="drop_after")
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
