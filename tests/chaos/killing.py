"""Runs that are really killed, and what must be true of them afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson


class Forker:
    """Starts runs in forks of a process that has everything imported."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "ready"

    def start(self, told: dict[str, Any]) -> int:
        """Begin a run: its process id."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def wait(self) -> int:
        """Wait for the run that was begun: its exit code."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def run(self, told: dict[str, Any], kill_after: float | None = None) -> tuple[int, float]:
        """Run once, killed after that many seconds if still there: (exit code, seconds)."""
        pid = self.start(told)
        began = time.monotonic()
        timer = None
        if kill_after is not None:
            timer = threading.Timer(kill_after, os.kill, (pid, signal.SIGKILL))
            timer.start()
        code = self.wait()
        if timer is not None:
            timer.cancel()
        return code, time.monotonic() - began

    def close(self) -> None:
        """End the forker."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def check_all_paid_once(
    sandbox: Any, before: int, results_dir: Path, jobs: int, *, completed: int | None = None
) -> None:
    """Each request billed once, a result for every job, and sums that add up."""
    billed = list(sandbox.ledger.billed())[before:]
    twice = {digest: n for digest, n in Counter(row.body_digest for row in billed).items() if n > 1}
    assert not twice, f"billed twice: {twice}"
    rows = [orjson.loads(line) for line in (results_dir / "results.jsonl").open("rb")]
    assert sorted(row["job_id"] for row in rows) == sorted(f"job-{n}" for n in range(jobs))
    done = [row for row in rows if row["status"] == "completed"]
    assert len(done) == (jobs if completed is None else completed), rows
    assert len(billed) == len(done)
    for row in done:
        assert orjson.loads(row["metadata_json"]) == {"n": int(row["job_id"][4:])}
    manifest = orjson.loads((results_dir / "manifest.json").read_bytes())
    counts = manifest["counts"]
    assert counts["total"] == jobs == sum(n for name, n in counts.items() if name != "total")
    cost = float(sum(row.cost_usd for row in billed))
    assert abs(manifest["cost_usd"] - cost) < 1e-9
    assert abs(sum(row["cost_usd"] for row in rows) - cost) < 1e-9
