"""What Prefect costs a run: per provider batch on both databases, and while it waits.

    python tests/bench/prefect_costs.py overhead --batches 10 100 1000
    python tests/bench/prefect_costs.py waiting

Both start servers of their own with deployments/native.py, and a sandbox; neither is a test.
"""

from __future__ import annotations

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import psutil

ROOT = Path(__file__).parents[2]
STACK: Any = runpy.run_path(str(ROOT / "deployments" / "native.py"))["stack"]
MODELS = ("claude-sonnet-5-5", "gpt-6-luna")

_RUN = """
import resource, sys, time
from batchata_prefect import Batch
batches, out = int(sys.argv[1]), sys.argv[2]
batch = Batch(out, items_per_batch=1, max_parallel_batches=32)
for n in range(batches):
    batch.add_job(prompt=f"{out} {n}", model="gpt-6-luna", max_tokens=50)
import batchata_prefect.engine.flow
began = time.monotonic()
run = batch.run()
assert len(run.results()["completed"]) == batches
used = resource.getrusage(resource.RUSAGE_SELF)
print(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def overhead(told: argparse.Namespace) -> None:
    """Seconds, client CPU and database bytes of a provider batch, at several numbers of them."""
    from batchata_prefect.sandbox import Sandbox

    print("| database | batches | wall s | ms a batch | client CPU s | MB RSS | kB of database |")
    print("|---|---|---|---|---|---|---|")
    for postgres in (False, True):
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
            Sandbox(seconds=0.0) as sandbox,
            STACK(Path(home), postgres=postgres) as stack,
        ):
            environment = {**stack.environment, **sandbox.environment()}
            environment["PREFECT_LOGGING_LEVEL"] = "ERROR"
            for batches in (1, *told.batches):
                before = _database_bytes(stack)
                command = [sys.executable, "-c", _RUN, str(batches), f"{home}/out-{batches}"]
                done = subprocess.run(
                    command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    print(f"| {stack.database} | {batches} | failed: {done.stderr[-300:]!r} |")
                    continue
                wall, cpu, rss = (float(each) for each in done.stdout.split()[-3:])
                time.sleep(10)  # the server writes events and task runs a while longer
                grown = (_database_bytes(stack) - before) / 1000 / batches
                print(
                    f"| {stack.database} | {batches} | {wall:.1f} | {1000 * wall / batches:.0f} "
                    f"| {cpu:.1f} | {rss:.0f} | {grown:.1f} |",
                    flush=True,
                )


def _database_bytes(stack: Any) -> int:
    if stack.database == "sqlite":
        return sum(p.stat().st_size for p in (stack.directory / "prefect").glob("prefect.db*"))
    total = 0
    for path in (stack.directory / "postgres" / "base").rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def waiting(told: argparse.Namespace) -> None:
    """Processes and memory of a waiting run, calls, and seconds from the end to the results."""
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from batchata_prefect.sandbox import Sandbox

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        Sandbox(seconds=told.seconds) as sandbox,
        STACK(Path(home)) as stack,
        temporary_settings({PREFECT_API_URL: stack.environment["PREFECT_API_URL"]}),
    ):
        stack.environment |= sandbox.environment()
        worker = stack.start_worker()
        stack.run("work-pool", "create", "--type", "process", "batchata", "--overwrite")
        stack.run("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
        for wait in ("poll", "suspend"):
            known = len(list(sandbox.ledger.batches()))
            with get_client(sync_client=True) as client:
                deployment = client.read_deployment_by_name("jobs-from-file/default")
                runs = []
                for n in range(told.runs):
                    jobs = Path(home) / f"{wait}-{n}.jsonl"
                    row = {"prompt": f"{wait} {n}", "model": MODELS[n % 2], "max_tokens": 50}
                    jobs.write_bytes(orjson.dumps(row))
                    parameters = {"jobs": str(jobs), "results_dir": f"{home}/{wait}-{n}"}
                    run = client.create_flow_run_from_deployment(
                        deployment.id, parameters={**parameters, "wait": wait}
                    )
                    runs.append(run.id)
                while len(list(sandbox.ledger.batches())) < known + told.runs:
                    time.sleep(1)
                names = set()
                while not names <= {"Suspended", "Running", "Completed"} or not names:
                    time.sleep(1)
                    names = {client.read_flow_run(run).state_name for run in runs}
                time.sleep(45)
                held = [
                    each.memory_full_info().pss
                    for each in psutil.Process(worker.pid).children(recursive=True)
                    if "collector" not in " ".join(each.cmdline())
                ]
                mb = [round(each / 1e6) for each in held]
                print(f"{wait}: {told.runs} runs hold {len(held)} processes, MB each: {mb}")
                finished: dict[Any, float] = {}
                while len(finished) < len(runs):
                    time.sleep(0.3)
                    for run in runs:
                        state = client.read_flow_run(run).state
                        if run not in finished and state and state.is_final():
                            assert state.is_completed(), state
                            finished[run] = state.timestamp.timestamp()
            mine = list(sandbox.ledger.batches())[known:]
            ends = sorted(batch.created_at.timestamp() + told.seconds for batch in mine)
            late = [a - b for a, b in zip(sorted(finished.values()), ends, strict=True)]
            print(
                f"{wait}: from the provider's end to Completed: median "
                f"{statistics.median(late):.0f} s, longest {max(late):.0f} s"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("overhead")
    first.add_argument("--batches", type=int, nargs="+", default=[10, 100, 1000])
    first.set_defaults(do=overhead)
    second = commands.add_parser("waiting")
    second.add_argument("--runs", type=int, default=4)
    second.add_argument("--seconds", type=float, default=240.0, help="that a batch takes")
    second.set_defaults(do=waiting)
    given = parser.parse_args()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    given.do(given)
