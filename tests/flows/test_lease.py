"""One owner at a time: over processes, results directories and machines that share the records."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, StateError
from batchata_prefect.records.lease import Lease
from batchata_prefect.records.storage import DurableFileSystem
from batchata_prefect.records.store import Records
from tests.chaos.killing import Forker, start_until_sent, told

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE = "claude-sonnet-5-5"


def make(tmp_path: Path, out: str = "out") -> Batch:
    batch = Batch(tmp_path / out, run_key=f"{tmp_path}").set_state(file=tmp_path / "state")
    for n in range(3):
        batch.add_job(prompt=f"{tmp_path}: {n}", model=CLAUDE, max_tokens=200, id=f"job-{n}")
    return batch


def jobs(tmp_path: Path) -> dict[str, Any]:
    """The same for the forker."""
    prompt = f"{tmp_path}: {{n}}"
    return told(tmp_path, run_key=f"{tmp_path}", jobs=3, prompt=prompt, models=[CLAUDE])


def test_a_second_owner_may_fail(forker: Forker, sandbox, tmp_path: Path) -> None:
    """With `if_running="fail"` the second run says who owns the job set, and sends nothing."""
    sandbox.limits(seconds=600)
    known = len(list(sandbox.ledger.batches()))
    try:
        start_until_sent(forker, sandbox, jobs(tmp_path))
        for out in ("out", "elsewhere"):
            told = r"is running (this|the) job set.*Nothing was sent"
            with pytest.raises(StateError, match=told):
                make(tmp_path, out).run(if_running="fail")
    finally:
        sandbox.limits(seconds=0.1)
        sandbox.settle()
    assert forker.wait() == 0
    assert len(list(sandbox.ledger.batches())) == known + 1


def test_a_second_owner_waits(forker: Forker, sandbox, tmp_path: Path) -> None:
    """By default it waits, also with another results directory, and then pays nothing."""
    sandbox.limits(seconds=2)
    known = len(list(sandbox.ledger.batches()))
    try:
        start_until_sent(forker, sandbox, jobs(tmp_path))
        run = make(tmp_path, "elsewhere").run()
    finally:
        sandbox.limits(seconds=0.1)
    assert forker.wait() == 0
    assert len(run.results()["completed"]) == 3
    assert len(list(sandbox.ledger.batches())) == known + 1


def test_a_killed_owner_is_replaced_at_once(forker: Forker, sandbox, tmp_path: Path) -> None:
    """A process of this machine that is gone holds nothing."""
    sandbox.limits(seconds=2)
    known = len(list(sandbox.ledger.batches()))
    try:
        os.kill(start_until_sent(forker, sandbox, jobs(tmp_path)), signal.SIGKILL)
        assert forker.wait() == -9
        began = time.monotonic()
        run = make(tmp_path, "elsewhere").run()
    finally:
        sandbox.limits(seconds=0.1)
    assert time.monotonic() - began < 15, "far less than the lease of a minute"
    assert len(run.results()["completed"]) == 3
    assert len(list(sandbox.ledger.batches())) == known + 1


def test_an_owner_on_another_machine_is_replaced_when_its_lease_ends(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be asked, so its lease has to stay without renewal first; no clock is compared."""
    monkeypatch.setenv("BATCHATA_LEASE_SECONDS", "2")
    records = Records(DurableFileSystem(basepath=str(tmp_path / "state")), f"{tmp_path}")
    stranger = {
        "token": "t",
        "seconds": 2,
        "host": "other",
        "machine": "another boot",
        "pid": 1,
        "born": "1",
    }
    (tmp_path / "state").mkdir()
    assert asyncio.run(records.create("owners/000000", stranger))
    stop = threading.Event()

    def beat() -> None:
        for n in range(2, 6):
            if stop.wait(0.5):
                return
            beat = {**stranger, "beat": n, "released": False}
            asyncio.run(records.write("owners/000000.beat", beat))

    thread = threading.Thread(target=beat)
    began = time.monotonic()
    thread.start()
    try:
        run = make(tmp_path).run()
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - began > 4 * 0.5 + 2 - 0.5, (
        "four renewals, and the lease after the last"
    )
    assert len(run.results()["completed"]) == 3


def test_an_owner_that_was_replaced_sends_nothing_more(tmp_path: Path, sandbox) -> None:
    """A process that slept through its lease finds another owner, and stops before it buys."""
    records = Records(DurableFileSystem(basepath=str(tmp_path / "state")), f"{tmp_path}")
    (tmp_path / "state").mkdir()

    async def lose() -> None:
        lease = Lease(records, seconds=60)
        assert await lease.attempt() is None
        await lease.hold()
        assert not lease.has_run_out
        claim = await records.read("owners/000000")
        assert claim is not None
        other = {**claim, "token": "another", "host": "other", "pid": 7}
        assert not await records.create("owners/000000", other)
        assert await records.create("owners/000001", other)
        await lease.hold()  # it was renewed a moment ago, and nobody may buy so soon
        with pytest.raises(StateError, match="process 7 on 'other' has taken over"):
            await lease.hold(fresh=True)
        assert lease.has_run_out

    asyncio.run(lose())


def test_a_task_retry_does_not_race_its_first_attempt(sandbox, tmp_path: Path) -> None:
    """A run that is started again while its crashed first process still dies buys once."""
    sandbox.limits(seconds=2)
    known = len(list(sandbox.ledger.batches()))
    forkers = [Forker({}) for _ in range(3)]
    try:
        for forker in forkers:
            forker.start(jobs(tmp_path))
        assert [forker.wait() for forker in forkers] == [0, 0, 0]
    finally:
        sandbox.limits(seconds=0.1)
        for forker in forkers:
            forker.close()
    assert len(list(sandbox.ledger.batches())) == known + 1
