"""Processes that are stopped in the middle, for longer than their lease: another one takes over.

They are really stopped (SIGSTOP) and go on later (SIGCONT), as a virtual machine that is suspended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker, check_all_paid_once

pytestmark = pytest.mark.timeout(240)

MODELS = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6-luna"}
LEASE = 3.0
JOBS = 6


@pytest.fixture(scope="module")
def provider(prefect_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("pauses"), seconds=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def forkers(provider: Sandbox) -> Iterator[list[Forker]]:
    """Two machines, as far as a results directory makes one."""
    environment = {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "BATCHATA_LEASE_SECONDS": f"{LEASE}",
        **provider.environment(),
    }
    found = [Forker(environment) for _ in range(2)]
    yield found
    for forker in found:
        forker.close()


def told(tmp_path: Path, which: str, model: str, **more: Any) -> dict[str, Any]:
    return {
        "results_dir": str(tmp_path / which),
        "state": str(tmp_path / "state"),
        "log": str(tmp_path / f"{which}.log"),
        "run_key": f"{tmp_path}",
        "jobs": JOBS,
        "items_per_batch": JOBS,
        "prompt": f"{tmp_path} {{n}}",
        "models": [model],
        **more,
    }


def log_of(tmp_path: Path, which: str) -> str:
    return " ".join((tmp_path / f"{which}.log").read_text().split())


def calls(provider: Sandbox, name: str) -> int:
    return provider.ledger.calls().get(name, 0)


def wait_until(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def overtaken(
    forkers: list[Forker],
    provider: Sandbox,
    first: dict[str, Any],
    second: dict[str, Any],
    begun: Callable[[], bool],
) -> tuple[int, int]:
    """Stop the first when it has come to a point, run the second, and let the first go on."""
    one, two = forkers
    pid = one.start(first)
    try:
        wait_until(begun)
        os.kill(pid, signal.SIGSTOP)
        provider.clear_faults()
        code, _ = two.run(second, kill_after=100)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    killer = threading.Timer(60, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        return one.wait(), code
    finally:
        killer.cancel()


@pytest.mark.parametrize("name", MODELS)
def test_stopped_while_a_create_waits(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, name: str
) -> None:
    """Turned away with a 429, it wakes after its lease: the other has bought, so it does not."""
    before, known = len(list(provider.ledger.billed())), calls(provider, f"{name}.create")
    headers = {"retry-after": "2"}
    provider.fault(name, operation="create", mode="status", status=429, headers=headers)
    first, second = (told(tmp_path, which, MODELS[name]) for which in ("a", "b"))
    codes = overtaken(
        forkers, provider, first, second, lambda: calls(provider, f"{name}.create") > known
    )
    assert codes == (1, 0), log_of(tmp_path, "a") + log_of(tmp_path, "b")
    assert "has taken over the job set" in log_of(tmp_path, "a")
    check_all_paid_once(provider, before, tmp_path / "b", JOBS)
    assert calls(provider, f"{name}.create") == known + 2


def test_stopped_while_its_file_goes_up(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path
) -> None:
    """It owned the run when it began to send; at the create itself it does not any more."""
    before, known = len(list(provider.ledger.billed())), len(list(provider.ledger.batches()))
    uploads = calls(provider, "openai.upload")
    provider.fault("openai", operation="upload", mode="delay", seconds=2)
    first, second = (told(tmp_path, which, MODELS["openai"]) for which in ("a", "b"))
    codes = overtaken(
        forkers, provider, first, second, lambda: calls(provider, "openai.upload") > uploads
    )
    assert codes == (1, 0), log_of(tmp_path, "a") + log_of(tmp_path, "b")
    assert len(list(provider.ledger.batches())) == known + 1
    check_all_paid_once(provider, before, tmp_path / "b", JOBS)


@pytest.mark.parametrize("name", MODELS)
def test_stopped_among_realtime_requests(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, name: str
) -> None:
    """What it has not sent yet stays unsent, and what it sent is not sent by the other."""
    before, known = len(list(provider.ledger.billed())), calls(provider, f"{name}.message")
    headers = {"retry-after": "2"}
    provider.fault(
        name, operation="message", mode="status", status=429, headers=headers, times=None
    )
    realtime = {
        "time_limit_seconds": 60,
        "deadline": {"on_deadline": "realtime", "realtime_usd": 1, "margin_seconds": 59.9},
    }
    first, second = (told(tmp_path, which, MODELS[name], **realtime) for which in ("a", "b"))
    codes = overtaken(
        forkers, provider, first, second, lambda: calls(provider, f"{name}.message") > known
    )
    assert codes == (1, 0), log_of(tmp_path, "a") + log_of(tmp_path, "b")
    billed = list(provider.ledger.billed())[before:]
    assert not [d for d, n in Counter(row.body_digest for row in billed).items() if n > 1]
