"""A process that has everything imported and forks runs: neither a start nor a kill costs much.

Whoever connects to its socket gets a fork of its own, which takes one environment and then forks
one run at a time: one JSON object a line, `{"results_dir": ..., "jobs": n, ...}` or
`{"python": [...], ...}`; it answers with the pid of the fork, and with its exit code when it is
gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import anthropic._base_client  # imported here so that no fork has to
import anyio._backends._asyncio  # noqa: F401
import httpcore2  # noqa: F401
import openai._base_client
import prefect.concurrency.services
import prefect.context
import prefect.flow_engine
import prefect.task_engine
import prefect.utilities.visualization
import rich._emoji_codes  # noqa: F401
import slow_storage  # noqa: F401 - beside this script; its blocks can be loaded now
import truststore  # noqa: F401

import batchata_prefect.engine.flow
import batchata_prefect.options
import batchata_prefect.views.report.page
from batchata_prefect import Batch
from batchata_prefect.content.bounds import bounds

AZURE_PRICES = {"fleet": {"input": 0.05, "output": 0.25, "cache_read": 0.005}}
"""Of the model of the sandbox's deployment, whose name tells none."""
PROMPT = "Say what number {n} is. Number: {n}"


def run_jobs(told: dict[str, Any]) -> None:
    """The script that is killed: jobs for some providers, run to the end."""
    batch = Batch(
        told["results_dir"],
        items_per_batch=told.get("items_per_batch", 4),
        max_parallel_batches=told.get("max_parallel_batches", 10),
        run_key=told.get("run_key"),
        upload_files=told.get("upload_files"),
        **{"prices": AZURE_PRICES, **told.get("options", {})},
    ).set_state(file=told["state"], reuse_state=told.get("reuse_state", True))
    if told.get("cost_limit_usd"):
        batch.add_cost_limit(told["cost_limit_usd"])
    if told.get("time_limit_seconds"):
        batch.add_time_limit(seconds=told["time_limit_seconds"], **told.get("deadline", {}))
    models = told.get("models", ["claude-sonnet-5-5", "gpt-6-luna"])
    for n in told["numbers"] if "numbers" in told else range(told["jobs"]):
        *provider, model = models[n % len(models)].split("/", 1)
        batch.add_job(
            prompt=told["prompts"][n]
            if "prompts" in told
            else told.get("prompt", PROMPT).format(n=n),
            file=told.get("file"),
            model=model,
            provider=provider[0] if provider else None,
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


def run_python(first: str, *arguments: str) -> None:
    """What the interpreter runs that gets these arguments."""
    if first == "-m":
        sys.argv = [*arguments]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        code, *arguments_of_code = arguments
        sys.argv = [first, *arguments_of_code]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *arguments]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


def warm_up() -> None:
    """Import what rendering and pricing need; shorten what nobody can set to be short."""
    for sdk in (anthropic._base_client, openai._base_client):
        vars(sdk)["INITIAL_RETRY_DELAY"] = 0.02
    # The tests wait for their deadlines.
    vars(batchata_prefect.options)["_SHORTEST_SECONDS"] = 0.5
    with tempfile.TemporaryDirectory() as folder:
        rendered = Batch(folder)
        for model in ("claude-sonnet-5-5", "gpt-6-luna"):
            rendered.add_job(prompt="Hi", model=model, max_tokens=9)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            rendered.run(dry_run=True)


def as_process(told: dict[str, Any]) -> int:
    """Be the process of a run: its exit code."""
    with Path(told["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if told.get("out"):
        with Path(told["out"]).open("a") as out:
            os.dup2(out.fileno(), 1)
    try:
        if told.get("cwd"):
            os.chdir(told["cwd"])
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
        if "python" in told:
            run_python(*told["python"])
        else:
            run_jobs(told)
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return int(str(error.code or 0))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def die_with_parent() -> None:
    """Leave no run behind where the tests are killed; on Linux, which can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(stream: Any) -> None:
    """Fork a run for each line, in the environment that the first line holds."""
    os.environ.clear()
    os.environ.update(json.loads(stream.readline()))
    prefect.context.GLOBAL_SETTINGS_CONTEXT = prefect.context.root_settings_context()
    bounds.cache_clear()
    for line in stream:
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            code = 1
            try:
                code = as_process(json.loads(line))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, file=stream, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=stream, flush=True)


def main() -> None:
    """Fork once for each connection, until whoever started this process is gone."""
    die_with_parent()
    # A shell that starts the tests in its background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        warm_up()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    die_with_parent()
                    listener.close()
                    with connection.makefile("rw") as stream:
                        serve(stream)
                    os._exit(0)


if __name__ == "__main__":
    main()
