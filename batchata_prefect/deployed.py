"""The flows that workers and `serve` load, by their names in this package.

So a worker needs the package, wherever it is installed there, and no copy of this place: `batchata
deploy` and `deployments/prefect.yaml` deploy them without a step that fetches code. The jobs go by
reference: Prefect keeps a run's parameters in its database, and half a megabyte of them at most.
"""

from __future__ import annotations

import asyncio
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import ImportString

from batchata_prefect.batch import add_file, batch_of
from batchata_prefect.collector.collect import collect
from batchata_prefect.options import FileOptions, takes
from batchata_prefect.views.states import of_run


def name() -> str:
    """The name of a flow run, until its jobs are counted."""
    jobs = str(flow_run.parameters["jobs"])
    return PurePath(urlsplit(jobs).path or jobs).name or "jobs"


@flow(
    name="jobs-from-file",
    flow_run_name=name,
    # What it came to, for a parent flow and `run_deployment`; the answers are files.
    persist_result=True,
    result_serializer="json",
)
@takes("flow", response_model=ImportString[Any] | dict[str, Any] | None)
async def jobs_from_file(**options: Any) -> State[dict[str, Any]]:
    """Send every job of a file through the provider's batch API and write the answers.

    A file without rows is a finished run of no jobs: what earlier runs sent is collected, and
    their answers are kept in `archive.jsonl`. Else the run fails only if no job at all was
    answered; failed jobs are counted in its message and explained in its results.

    Args:
        **options: Those of `batchata_prefect.options.FileOptions`, each a field of the form.

    Returns:
        Where the results are, counts, cost in USD, failures by code and the provider batches.
    """
    told = FileOptions.of(options)
    batch = batch_of(told, run_key=str(flow_run.id))
    batch.may_be_empty = True
    # Reading and rendering a million jobs takes a while, in which Prefect must go on.
    await asyncio.to_thread(add_file, batch, told)
    async with get_client() as client:
        await client.update_flow_run(flow_run.id, name=batch.title)
    run = await batch.arun()
    return of_run(run.manifest, f"{run.results_url or run.results_dir}/results.jsonl")


@flow(name="batchata-collector", flow_run_name="collector", persist_result=False)
async def collector() -> State[None]:
    """Look once after all suspended runs, and resume those that have something to do.

    It asks the providers for the batches of all of them at once, and resumes a run when there is
    something to collect, or when its deadline has come. Between two looks nothing is running.

    Returns:
        Completed, with what was done; Failed where a provider or a run's records could not be
        asked. The next look tries again, and nothing is lost in between.
    """
    done = await collect()
    return Failed(message=str(done)) if done.troubles else Completed(message=str(done))
