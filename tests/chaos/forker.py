"""A process that has everything imported and forks one run at a time: a kill costs no start.

Reads one JSON object a line: `{"results_dir": ..., "jobs": n, ...}`; answers with the pid of the
fork, and with its exit code when it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import anthropic  # noqa: F401 - imported here so that no fork has to
import anyio._backends._asyncio  # noqa: F401
import httpcore2  # noqa: F401
import openai  # noqa: F401
import prefect.concurrency.services
import prefect.flow_engine
import prefect.task_engine
import prefect.utilities.visualization  # noqa: F401
import rich._emoji_codes  # noqa: F401
import slow_storage  # noqa: F401 - beside this script; its blocks can be loaded now
import truststore  # noqa: F401

import batchata_prefect.engine.flow
import batchata_prefect.views.report.page  # noqa: F401
from batchata_prefect import Batch

PROMPT = "Say what number {n} is. Number: {n}"


def run_jobs(told: dict[str, Any]) -> None:
    """The script that is killed: jobs for both providers, run to the end."""
    if told.get("cwd"):
        os.chdir(told["cwd"])
    batch = Batch(
        told["results_dir"],
        items_per_batch=told.get("items_per_batch", 4),
        max_parallel_batches=told.get("max_parallel_batches", 10),
        run_key=told.get("run_key"),
        upload_files=told.get("upload_files"),
        **told.get("options", {}),
    ).set_state(file=told["state"], reuse_state=told.get("reuse_state", True))
    if told.get("cost_limit_usd"):
        batch.add_cost_limit(told["cost_limit_usd"])
    if told.get("time_limit_seconds"):
        batch.add_time_limit(seconds=told["time_limit_seconds"], **told.get("deadline", {}))
    models = told.get("models", ["claude-sonnet-5-5", "gpt-6-luna"])
    for n in told["numbers"] if "numbers" in told else range(told["jobs"]):
        batch.add_job(
            prompt=told["prompts"][n]
            if "prompts" in told
            else told.get("prompt", PROMPT).format(n=n),
            file=told.get("file"),
            model=models[n % len(models)],
            max_tokens=told.get("max_tokens", {}).get(str(n), 200),
            id=f"job-{n}",
            metadata={"n": n},
        )
    batch.run(cancel=told.get("cancel", "collect"), **told.get("run", {}))


def slow_down(seconds: float) -> None:
    """Have every sync of a file take longer, as on a disk that is busy."""
    sync = os.fsync

    def slowly(file: Any) -> None:
        time.sleep(seconds)
        sync(file)

    os.fsync = slowly


def main() -> None:
    """Fork a run for each line of input."""
    with tempfile.TemporaryDirectory() as folder:
        # Imports what rendering and pricing need.
        rendered = Batch(folder)
        for model in ("claude-sonnet-5-5", "gpt-6-luna"):
            rendered.add_job(prompt="Hi", model=model, max_tokens=9)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            rendered.run(dry_run=True)
        del rendered
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                with Path(told["log"]).open("a") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                if told.get("largest_file_bytes"):
                    # The kernel refuses every write past it, as a full disk does.
                    limit = told["largest_file_bytes"]
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                if told.get("free_file_handles"):
                    used = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
                    limit = used + told["free_file_handles"]
                    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
                if told.get("fsync_seconds"):
                    slow_down(told["fsync_seconds"])
                run_jobs(told)
            except KeyboardInterrupt:
                code = 130
            except SystemExit as error:
                code = int(str(error.code))
            except BaseException:
                traceback.print_exc()
                code = 1
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
