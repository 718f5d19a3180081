"""Endings that hang: a batch that its provider does not end, and a cancel that does not settle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from operator import gt
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import (
    MODELS,
    TWO,
    Forker,
    check_all_paid_once,
    log_of,
    manifest_of,
    told,
    until,
)

pytestmark = pytest.mark.timeout(240)

JOBS = 4
ENVIRONMENT = {
    "BATCHATA_SETTLE_SECONDS": "900",
    "BATCHATA_TERMINATE_SECONDS": "3",
    "BATCHATA_OVERDUE_SECONDS": "3600",
}


def jobs(tmp_path: Path, names: Iterable[str], **more: Any) -> dict[str, Any]:
    """A batch at each provider."""
    models = [MODELS[name] for name in names]
    return told(tmp_path, jobs=JOBS * len(models), models=models, **more)


def canceled(provider: Sandbox) -> list[int]:
    """How often each of the two was told to cancel."""
    return [provider.ledger.calls().get(f"{name}.cancel", 0) for name in TWO]


def all_canceled(provider: Sandbox, job: dict[str, Any], known: list[int]) -> None:
    """Wait until each was told again."""
    until(lambda: all(map(gt, canceled(provider), known)), job)


def test_a_batch_days_past_its_expiry_is_canceled(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed
) -> None:
    """It says in_progress two hours after it expired: said, canceled, and sent again next time."""
    provider.limits(expires_seconds=-7200, seconds=60)
    job = jobs(tmp_path, MODELS)
    assert forker.run(job, kill_after=60)[0] == 0, log_of(job)
    assert log_of(job).count("2.0 h after it expired") >= len(MODELS)
    batches = manifest_of(job)["batches"]
    assert [batch["status"] for batch in batches] == ["canceled"] * len(MODELS)
    for batch in batches:
        assert "did not end it by itself" in batch["reason"]
    provider.limits(expires_seconds=86_400, seconds=0.2)
    assert forker.run(job, kill_after=60)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS * len(MODELS))


def test_one_that_does_not_end_then_either_is_left_open(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed
) -> None:
    """After the wait for its cancellation it keeps its reservation, and a later run collects it.

    SIGTERM shortens that wait.
    """
    known = canceled(provider)
    provider.limits(expires_seconds=-7200, seconds=60)
    for name in TWO:
        provider.fault(name, mode="stuck_canceling", seconds=600)
    job = jobs(tmp_path, TWO)
    pid = forker.start(job)
    all_canceled(provider, job, known)
    os.kill(pid, signal.SIGTERM)
    assert forker.wait() == 143, log_of(job)
    held = [batch for batch in manifest_of(job)["batches"] if batch["status"] == "in_flight"]
    assert len(held) == len(TWO)
    assert manifest_of(job)["reserved_usd"] > 0
    provider.clear_faults()
    provider.limits(expires_seconds=86_400, seconds=0.2)
    provider.settle()
    assert forker.run(job, kill_after=60)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS * len(TWO))


def test_sigterm_after_the_time_limit(
    forker: Forker, provider: Sandbox, tmp_path: Path, billed
) -> None:
    """A cancel that hangs at the deadline holds no process that is told to go."""
    known = canceled(provider)
    provider.limits(seconds=60)
    for name in TWO:
        provider.fault(name, mode="stuck_canceling", seconds=600)
    job = jobs(tmp_path, TWO, time_limit_seconds=4)
    pid = forker.start(job)
    all_canceled(provider, job, known)
    time.sleep(1)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert forker.wait() == 143, log_of(job)
    assert time.monotonic() - began < 30
    assert manifest_of(job)["reserved_usd"] > 0
    provider.clear_faults()
    provider.limits(seconds=0.2)
    provider.settle()
    del job["time_limit_seconds"]
    assert forker.run(job, kill_after=60)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", JOBS * len(TWO))


@pytest.mark.parametrize("status", [401, 403])
def test_a_prefect_that_refuses_us(provider: Sandbox, tmp_path: Path, status: int) -> None:
    """One sentence with what to do, and nothing is sent."""

    class Refusing(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST = do_PATCH = _refuse  # noqa: N815 - as its base calls them

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = len(list(provider.ledger.batches()))
    url = f"http://127.0.0.1:{server.server_port}/api"
    forker = Forker({"PREFECT_API_URL": url, **provider.environment()})
    job = jobs(tmp_path, ["openai"])
    try:
        code, _ = forker.run(job, kill_after=100)
    finally:
        forker.close()
        server.shutdown()
    assert code == 1
    last = Path(job["log"]).read_text().strip().splitlines()[-1]
    assert f"Prefect refuses this process ({status} from {url}). Check PREFECT_API_KEY" in last
    assert last.endswith("; this start sent nothing")
    assert log_of(job).count("Traceback") == 1, log_of(job)
    assert len(list(provider.ledger.batches())) == known
