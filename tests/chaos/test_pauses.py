"""Processes that are stopped in the middle, for longer than their lease: another one takes over.

They are really stopped (SIGSTOP) and go on later (SIGCONT), as a virtual machine that is suspended.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import MODELS, TWO, Forker, check_all_paid_once, log_of, told, until

pytestmark = pytest.mark.timeout(240)

JOBS = 6
ENVIRONMENT = {"BATCHATA_LEASE_SECONDS": "2"}


def both(tmp_path: Path, model: str, **more: Any) -> list[dict[str, Any]]:
    """One job set, on two machines as far as a results directory makes one."""
    more |= {"run_key": f"{tmp_path}", "items_per_batch": JOBS, "models": [model]}
    return [told(tmp_path, which, **more) for which in ("a", "b")]


def calls(provider: Sandbox, name: str) -> int:
    return provider.ledger.calls().get(name, 0)


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
        until(begun, first)
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
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, name: str, billed
) -> None:
    """Turned away with a 429, it wakes after its lease: the other has bought, so it does not."""
    known = calls(provider, f"{name}.create")
    headers = {"retry-after": "2"}
    provider.fault(name, operation="create", mode="status", status=429, headers=headers)
    first, second = both(tmp_path, MODELS[name])
    codes = overtaken(
        forkers, provider, first, second, lambda: calls(provider, f"{name}.create") > known
    )
    assert codes == (1, 0), log_of(first) + log_of(second)
    assert "has taken over the job set" in log_of(first)
    check_all_paid_once(billed(), tmp_path / "b", JOBS)
    assert calls(provider, f"{name}.create") == known + 2


def test_stopped_while_its_file_goes_up(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, billed
) -> None:
    """It owned the run when it began to send; at the create itself it does not any more."""
    known = len(list(provider.ledger.batches()))
    uploads = calls(provider, "openai.upload")
    provider.fault("openai", operation="upload", mode="delay", seconds=2)
    first, second = both(tmp_path, MODELS["openai"])
    codes = overtaken(
        forkers, provider, first, second, lambda: calls(provider, "openai.upload") > uploads
    )
    assert codes == (1, 0), log_of(first) + log_of(second)
    assert len(list(provider.ledger.batches())) == known + 1
    check_all_paid_once(billed(), tmp_path / "b", JOBS)


@pytest.mark.parametrize("name", TWO)
def test_stopped_among_realtime_requests(
    forkers: list[Forker], provider: Sandbox, tmp_path: Path, name: str, billed
) -> None:
    """What it has not sent yet stays unsent, and what it sent is not sent by the other."""
    known = calls(provider, f"{name}.message")
    headers = {"retry-after": "2"}
    provider.fault(
        name, operation="message", mode="status", status=429, headers=headers, times=None
    )
    realtime = {
        "time_limit_seconds": 60,
        "deadline": {"on_deadline": "realtime", "realtime_usd": 1, "margin_seconds": 59.9},
    }
    first, second = both(tmp_path, MODELS[name], **realtime)
    codes = overtaken(
        forkers, provider, first, second, lambda: calls(provider, f"{name}.message") > known
    )
    assert codes == (1, 0), log_of(first) + log_of(second)
    billed = billed()
    assert not [d for d, n in Counter(row.body_digest for row in billed).items() if n > 1]
