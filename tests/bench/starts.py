"""`python -m tests.bench.starts`: seconds from the command to its exit, and what many runs leave.

The first table: ten jobs of an instant provider, the whole process, the fastest and the middle of
some tries. The second, with --growth: open files, threads and memory of one process after more and
more runs; what grows with each of them would be a leak.
"""

from __future__ import annotations

import argparse
import os
import resource
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STACK: Any = runpy.run_path(str(ROOT / "deployments" / "native.py"))["stack"]
_RUN = """
import sys
from batchata_prefect import Batch
batch = Batch(sys.argv[1]).set_default_params(model="gpt-6-luna")
for n in range(10):
    batch.add_job(prompt=f"question {n}")
assert batch.run().manifest["counts"]["completed"] == 10
"""
_GROWTH = """
import gc, sys, threading
import psutil
from batchata_prefect import Batch
for n in range(1, int(sys.argv[2]) + 1):
    batch = Batch(f"{sys.argv[1]}/{n}").set_default_params(model="gpt-6-luna")
    for job in range(10):
        batch.add_job(prompt=f"question {n} {job}")
    assert batch.run().manifest["counts"]["completed"] == 10
    del batch
    if n in map(int, sys.argv[3:]):
        gc.collect()
        here = psutil.Process()
        print(f"| {n} | {here.num_fds()} | {threading.active_count()} | {len(gc.get_objects()):,}"
              f" | {here.memory_info().rss / 1e6:.0f} |", flush=True)
"""
_SECONDS = {
    "a server is up": 2.5,
    "no server": 6.0,
    "no server, new home": 10.0,
    "no server, done before": 4.0,
}
"""How each case begins -> seconds that it may take on two quiet cores."""


def starts(tries: int) -> None:
    """Print seconds of each case; the first try of each is not counted."""
    from batchata_prefect.sandbox import Sandbox

    print("| 10 jobs, instant provider | s fastest | s median | client CPU s | may take s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Sandbox() as sandbox:
        home = Path(folder)
        sandbox.limits(seconds=0.0)
        environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "BATCHATA_"))},
            **sandbox.environment(),
            "PREFECT_HOME": str(home / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PYTHONPATH": str(ROOT),
        }
        # Users have compiled modules.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with STACK(home / "stack", postgres=False) as stack:
            served = {**environment, "PREFECT_API_URL": stack.environment["PREFECT_API_URL"]}
            _case("a server is up", served, home, tries)
        for case in list(_SECONDS)[1:]:
            _case(case, environment, home, tries)


def _case(case: str, environment: dict[str, str], home: Path, tries: int) -> None:
    walls: list[float] = []
    cpus: list[float] = []
    for number in range(tries + 1):
        if case == "no server, new home":
            shutil.rmtree(home / "home", ignore_errors=True)
        place = case if case == "no server, done before" else f"{case} {number}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        command = [sys.executable, "-c", _RUN, str(home / place)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        wall = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if number:
            walls.append(wall)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        # The server of the last try still writes what it was told last.
        time.sleep(2)
    print(
        f"| {case} | {min(walls):.1f} | {statistics.median(walls):.1f} | {min(cpus):.1f} "
        f"| {_SECONDS[case]} |",
        flush=True,
    )


def growth(runs: int) -> None:
    """Print what one process holds after more and more runs."""
    from batchata_prefect.sandbox import Sandbox

    print(
        "| runs in one process | open files | threads | objects | MB RSS |\n|---|---|---|---|---|"
    )
    looks = sorted({10, runs // 4, runs // 2, runs})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Sandbox() as sandbox:
        sandbox.limits(seconds=0.0)
        environment = {
            **os.environ,
            **sandbox.environment(),
            "PREFECT_HOME": f"{folder}/home",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", _GROWTH, folder, str(runs), *map(str, looks)]
        subprocess.run(command, env=environment, check=True)


def main() -> None:
    """Measure the starts, and the growth where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.starts")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument(
        "--growth", type=int, metavar="RUNS", help="after so many runs, such as 200"
    )
    told = parser.parse_args()
    if told.growth:
        growth(told.growth)
    else:
        starts(told.tries)


if __name__ == "__main__":
    main()
