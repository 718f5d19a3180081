"""One measurement: a contender in a process of its own, against a sandbox of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from batchata_prefect.sandbox import Sandbox

from .work import MOST, MOST_PDFS, Work, write_jobs, write_pdfs


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: so many jobs of a kind in so many provider batches, by some contenders."""

    kind: str
    provider: str
    count: int
    who: Sequence[str]
    per_batch: int | None = None

    @property
    def name(self) -> str:
        batches = -(-self.count // self.size)
        plural = "es" if batches > 1 else ""
        return f"{self.provider}, {self.count:,} {self.kind} jobs in {batches} batch{plural}"

    @property
    def size(self) -> int:
        return self.per_batch or (MOST_PDFS if self.kind == "pdf" else MOST[self.provider])


@dataclass(slots=True)
class Found:
    """What a contender took: seconds, megabytes, calls."""

    case: Case
    who: str
    wall: float
    cpu: float
    peak_mb: float
    disk_mb: float
    calls: int
    sandbox_cpu: float
    phases: dict[str, float] = field(default_factory=dict)


def measure(case: Case, prefect_url: str, seconds: float) -> list[Found]:
    """Measure the contenders of a case, one after the other."""
    found: list[Found] = []
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    work = Work(case.kind, case.provider, case.count, case.size, folder)
    try:
        if case.kind == "pdf":
            write_pdfs(work)
        if "ours, file" in case.who:
            write_jobs(work)
        for contenders in _at_one_sandbox(case.who):
            data = folder / "sandbox"
            shutil.rmtree(data, ignore_errors=True)
            with Sandbox(data, seconds=seconds) as sandbox:
                environment = {"PREFECT_API_URL": prefect_url, **sandbox.environment()}
                found += [_measured(case, who, work, sandbox, environment) for who in contenders]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _at_one_sandbox(who: Sequence[str]) -> list[list[str]]:
    """The contenders, a run again together with the run before it: it finds its batches there."""
    groups: list[list[str]] = []
    for name in who:
        if name.startswith("again"):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _measured(
    case: Case, who: str, work: Work, sandbox: Sandbox, environment: dict[str, str]
) -> Found:
    server = _sandbox_process()
    calls_before = sum(sandbox.ledger.calls().values())
    times = server.cpu_times()
    cpu_before = times.user + times.system
    told, disk = _contend(who, work, environment)
    times = server.cpu_times()
    return Found(
        case,
        who,
        told["wall"],
        told["cpu"],
        told["peak_mb"],
        disk / 1e6,
        sum(sandbox.ledger.calls().values()) - calls_before,
        times.user + times.system - cpu_before,
        told["phases"],
    )


def _sandbox_process() -> psutil.Process:
    for child in psutil.Process().children(recursive=True):
        if "batchata_prefect.sandbox" in child.cmdline():
            return child
    raise RuntimeError("the sandbox has no process of its own")


def _contend(who: str, work: Work, environment: dict[str, str]) -> tuple[dict[str, Any], int]:
    """What a contender told, and the most bytes that it had on disk."""
    told = [who, work.kind, work.provider, str(work.count), str(work.per_batch), str(work.folder)]
    command = [sys.executable, "-m", "tests.bench", "--one", *told]
    own = {"sandbox", "pdfs"}
    before = _bytes_in(work.folder, own)
    most = before
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(2.0):
            most = max(most, _bytes_in(work.folder, own))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    done = subprocess.run(
        command,
        env={**os.environ, "PREFECT_LOGGING_LEVEL": "ERROR", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    over.set()
    watcher.join()
    most = max(most, _bytes_in(work.folder, own))
    for line in done.stdout.splitlines():
        if line.startswith("BENCH "):
            return json.loads(line[6:]), most - before
    raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def _bytes_in(folder: Path, but: set[str]) -> int:
    total = 0
    for path, folders, files in os.walk(folder):
        if Path(path) == folder:
            folders[:] = [name for name in folders if name not in but]
        for name in files:
            try:
                total += (Path(path) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total
