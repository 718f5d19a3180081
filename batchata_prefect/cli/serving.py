"""`batchata sandbox` and `batchata deploy`: what stays up and serves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
from cyclopts import Parameter

from batchata_prefect.cli.options import Flags, JobsFile, Sandboxed, Switch, checked, given
from batchata_prefect.cli.orders import whole
from batchata_prefect.cli.output import tell
from batchata_prefect.errors import StateError, ValidationError, one_line
from batchata_prefect.money.own import read_prices
from batchata_prefect.options import FileOptions
from batchata_prefect.records.note import directory_of


def sandbox(
    *,
    port: int = 8765,
    data_dir: Path = Path("sandbox"),
    batch_seconds: float = 2.0,
) -> int:
    """Run a local server in place of the providers' batch APIs, until Ctrl-C.

    It refuses what they refuse, makes answers up that fit what was asked for, and costs nothing.
    It prints the variables that point programs at it.

    For example:

    - `batchata sandbox --port 8765`

    Args:
        port: Port on this machine; 0 for any free one.
        data_dir: Where it keeps batches and files, over restarts.
        batch_seconds: How long a batch takes.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "batchata_prefect.sandbox", f"--port={port}"]
    command += [f"--data-dir={data_dir}", f"--seconds={batch_seconds}"]
    # A process of its own: the server has settings of the interpreter that are not ours.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    assert process.stdout is not None
    try:
        where, _, variables = process.stdout.readline().strip().partition(" | ")
        if variables:
            tell(f"{where}; Ctrl-C ends it. In the terminal that your runs are started from:\n")
            sys.stdout.write(f"{variables}\n")
            sys.stdout.flush()
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        return 130


_OURS = "batchata-deploy"
"""Tag of the deployments that this command makes, and may replace."""


def deploy(
    jobs: JobsFile,
    *,
    told: Flags | None = None,
    sandbox: Sandboxed = False,
    out: Annotated[str, Parameter(name=["--out", "-o"])] = "results/{run_key}",
    name: Annotated[str, Parameter(name=["--name", "-n"])] = "jobs-from-file",
    cron: str | None = None,
    timezone: str | None = None,
    pool: str | None = None,
    replace: Switch = False,
) -> int:
    """Have Prefect run a file of jobs: on a schedule, or when somebody asks for it in its UI.

    Without --pool this process serves the deployment until Ctrl-C. With it, the deployment is
    written to the Prefect server, and the workers of that work pool run it; they need this package,
    wherever it is installed there, and the providers' keys. Give URLs where they run elsewhere: the
    path of a file here is not theirs.

    Start a Prefect server first (prefect server start --background) and set PREFECT_API_URL to its
    address.

    For example:

    - `batchata deploy tickets.csv --prompt "Which team? {text}" --model gpt-6-luna --budget
      5 --name nightly --cron "0 2 * * *"`
    - `batchata deploy tickets.csv --prompt "{text}" --model gpt-6-luna --pool batchata`

    Args:
        out: Directory for the answers, or a URL; {run_key} stands for the run, so that each has its
            own.
        name: Name of the deployment.
        cron: When it runs by itself, as a cron line.
        timezone: Time zone of the cron line, such as Europe/Berlin.
        pool: Work pool whose workers run it.
        replace: Whether to replace a deployment of this name that another command made.
    """
    from prefect.schedules import Cron
    from prefect.settings import PREFECT_API_URL
    from prefect.types.entrypoint import EntrypointType

    from batchata_prefect.deployed import jobs_from_file

    if not PREFECT_API_URL.value():
        raise StateError(
            "there is no Prefect server to deploy to. Start one with `prefect server start` and "
            "set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    parameters = _parameters(jobs, given(told), out, sandbox)
    schedule = None
    if cron is not None:
        try:
            schedule = Cron(cron, timezone=timezone)
        except ValueError as error:
            raise ValidationError(f"--cron {cron!r}: {error}") from error
    flow: Any = jobs_from_file
    full = f"{flow.name}/{name}"
    if not replace:
        _refuse_anothers(full)
    how: dict[str, Any] = {
        "parameters": parameters,
        "schedule": schedule,
        "tags": ["batchata", _OURS],
        # By its name in the package, which each process that runs it has at a place of its own.
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }
    if pool is None:
        tell(f"Serving {full}; Ctrl-C ends it.")
        tell(f"Run it now from another terminal: prefect deployment run {full}")
        flow.serve(name=name, **how)
        return 0
    try:
        flow.deploy(name=name, work_pool_name=pool, build=False, print_next_steps=False, **how)
    except ValueError as error:
        raise StateError(
            f"{one_line(error)} A pool of processes is made by: prefect work-pool create --type "
            f"process {pool}"
        ) from error
    tell(f"Deployed {full} to the work pool {pool!r}.")
    for line in _only_here(parameters):
        tell(line)
    tell(f"Start a worker where there is none: prefect worker start --pool {pool}")
    tell(f"Run it now: prefect deployment run {full}")
    return 0


def _refuse_anothers(full: str) -> None:
    """Keep what another command deployed, with its schedule and parameters."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            there = client.read_deployment_by_name(full)
        except ObjectNotFound:
            return
    if _OURS not in there.tags:
        raise ValidationError(
            f"the deployment {full} is there already, and `batchata deploy` did not make it. Give "
            "--name another name, or --replace to lose its schedule, parameters and work pool"
        )


def _only_here(parameters: Mapping[str, Any]) -> Iterator[str]:
    """What a worker on another machine would look for in vain."""
    names = ("jobs", "results_dir", "documents_root", "state")
    paths = [value for name in names if Path(value := str(parameters.get(name, ""))).is_absolute()]
    if paths:
        yield (
            f"Workers on this machine alone have these paths: {', '.join(paths)}. For others, give "
            "URLs, such as s3://bucket/jobs.csv, or paths that all of them share."
        )
    jobs = parameters["jobs"]
    if Path(jobs).is_absolute() and not Path(jobs).exists():
        yield f"{jobs} is not here: a run fails until it is."
    if isinstance(model := parameters.get("response_model"), str):
        yield f"The workers must be able to import {model}."


def _parameters(
    jobs: str, told: Mapping[str, Any], out: str, sandbox: bool = False
) -> dict[str, Any]:
    """The options as parameters of the flow."""
    if sandbox:
        raise ValidationError(
            "--sandbox: the deployed flow has no such parameter; deploy a flow of your own that "
            "uses Batch"
        )
    values = {**checked(told), "jobs": whole(jobs), "results_dir": whole(out)}
    options = FileOptions.of(values)
    # Workers have another current folder, and not the files.
    if options.documents_root is not None:
        values["documents_root"] = whole(options.documents_root)
    if options.state is not None:
        values["state"] = str(directory_of(options.state) or options.state)
    if "accounts" in values:
        values["accounts"] = options.accounts
    if "prices" in values:
        # Through text, in which no digit of a price is rounded.
        prices = orjson.dumps(read_prices(values["prices"]), default=str)
        values["prices"] = orjson.loads(prices)
    return values
