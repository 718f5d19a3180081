"""Runs that are really killed, and what must be true of them afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from prefect.settings import PREFECT_API_URL

MODELS = {
    "anthropic": "claude-sonnet-5-5",
    "gemini": "gemini-2.5-flash",
    "openai": "gpt-6-luna",
}
EVERYWHERE = {**MODELS, "azure": "azure/fleet"}
"""Azure, whose deployment tells no price, as well: at the forker's own price."""
TWO = ("anthropic", "openai")
"""Where what is tried is long and not of the wire, two of them show it."""

NOBODY = "http://127.0.0.1:9/api"


class _Warm:
    """The one process of this test session that has everything imported."""

    def __init__(self) -> None:
        self.address = str(Path(tempfile.mkdtemp(prefix="forker-"), "socket"))
        # It ends with its standard input, and that ends with this process.
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forker.py")), self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # What it imports for a run that is only planned needs no server.
            env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or NOBODY},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready"


@cache
def _warm() -> _Warm:
    return _Warm()


class Forker:
    """Starts runs in forks of a process that has everything imported, one at a time.

    They talk to the Prefect server of the tests, but where the environment says another; what is
    None in it, they do not have.
    """

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(_warm().address)
        self._stream = connection.makefile("rw")
        connection.close()
        if api := PREFECT_API_URL.value():
            environment = {"PREFECT_API_URL": api, **environment}
        everything = {**os.environ, **environment}
        self._say({name: value for name, value in everything.items() if value is not None})

    def _say(self, told: dict[str, Any]) -> None:
        print(json.dumps(told), file=self._stream, flush=True)

    def start(self, told: dict[str, Any]) -> int:
        """Begin a run: its process id."""
        self._say(told)
        return int(self._stream.readline())

    def wait(self) -> int:
        """Wait for the run that was begun: its exit code."""
        return int(self._stream.readline())

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

    def start_python(self, *arguments: object, cwd: Path | None = None) -> int:
        """Begin what `python` runs that gets these arguments: its process id."""
        self._files = tempfile.TemporaryDirectory(prefix="forked-")
        files = {name: str(Path(self._files.name, name)) for name in ("log", "out")}
        self._python = [str(each) for each in arguments]
        return self.start({"python": self._python, "cwd": cwd and str(cwd), **files})

    def wait_python(self) -> subprocess.CompletedProcess[str]:
        """Wait for what was begun: its exit code and output."""
        code = self.wait()
        err, out = (Path(self._files.name, name) for name in ("log", "out"))
        told = out.read_text() if out.exists() else "", err.read_text()
        return subprocess.CompletedProcess(self._python, code, *told)

    def python(self, *arguments: object, cwd: Path | None = None) -> Any:
        """Run what `python` runs that gets these arguments: its exit code and output."""
        self.start_python(*arguments, cwd=cwd)
        return self.wait_python()

    def close(self) -> None:
        """Let the process of this forker go."""
        self._stream.close()


def check_all_paid_once(
    billed: list[Any], results_dir: Path, jobs: int, *, completed: int | None = None
) -> None:
    """Each request billed once, a result for every job, and sums that add up."""
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


def told(root: Path, which: str = "out", **more: Any) -> dict[str, Any]:
    """What the forker is told: jobs of this test alone, so that the ledger tells them apart."""
    return {
        "results_dir": str(root / which),
        "state": str(root / "state"),
        "log": str(root / f"{which}.log"),
        "jobs": 6,
        "prompt": f"{root}. Say what {{n}} is.",
        **more,
    }


def log_of(job: dict[str, Any]) -> str:
    """What its processes said, in one line."""
    return " ".join(Path(job["log"]).read_text().split())


def rows_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Its results."""
    return [orjson.loads(line) for line in (Path(job["results_dir"]) / "results.jsonl").open("rb")]


def manifest_of(job: dict[str, Any]) -> dict[str, Any]:
    """Its manifest."""
    return orjson.loads((Path(job["results_dir"]) / "manifest.json").read_bytes())


def until(what: Callable[[], Any], job: dict[str, Any] | None = None) -> None:
    """Wait for something that has to come, or tell what the run said meanwhile."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, log_of(job) if job else "it did not come to that"
        time.sleep(0.02)


def start_until_sent(forker: Forker, sandbox: Any, job: dict[str, Any], batches: int = 1) -> int:
    """Begin a run, and wait until that many of its batches are at their providers: its pid."""
    known = len(list(sandbox.ledger.batches()))
    pid = forker.start(job)
    until(lambda: len(list(sandbox.ledger.batches())) >= known + batches, job)
    return pid
