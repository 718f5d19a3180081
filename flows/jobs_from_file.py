"""Answers a file of jobs: the flow to deploy when others should start runs from the Prefect UI.

Start it from a terminal with `python flows/jobs_from_file.py`, which serves it to the UI, or
deploy it to a work pool with `deployments/prefect.yaml`. The jobs go by reference: Prefect keeps
a run's parameters in its database, and half a megabyte of them at most.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field, ImportString, NonNegativeInt, PositiveFloat, PositiveInt

from batchata_prefect import Batch
from batchata_prefect.views.states import of_run


@flow(
    name="jobs-from-file",
    flow_run_name="jobs from {jobs}",
    # What it came to, for a parent flow and `run_deployment`; the answers are files.
    persist_result=True,
    result_serializer="json",
)
async def jobs_from_file(
    jobs: str,
    prompt: str | None = None,
    model: str | None = None,
    results_dir: str = "results/{run_key}",
    provider: str | None = None,
    system: str | None = None,
    max_tokens: PositiveInt = 4096,
    cost_limit_usd: PositiveFloat | None = None,
    shared_budget: str | None = None,
    time_limit_hours: Annotated[float, Field(gt=0, le=24)] | None = None,
    realtime_limit_usd: PositiveFloat | None = None,
    canary: PositiveFloat | None = None,
    min_valid: Annotated[float, Field(ge=0, le=1)] = 0.95,
    approve: bool = False,
    items_per_batch: PositiveInt = 10_000,
    max_parallel_batches: PositiveInt = 10,
    response_model: ImportString[Any] | dict[str, Any] | None = None,
    citations: Literal["none", "provider", "quoted"] = "none",
    cache_prefix: bool = False,
    accept_truncated: bool = False,
    max_reasks: NonNegativeInt = 0,
    tags: list[str] | None = None,
    endpoint: str | None = None,
    params: dict[str, Any] | None = None,
    prices: dict[str, dict[str, Any]] | None = None,
    quota: dict[str, PositiveInt] | None = None,
    id_column: str | None = None,
    file_column: str | None = None,
    documents_root: str | None = None,
    allow_urls: list[str] | None = None,
    metadata_columns: list[str] | None = None,
    run_key: str | None = None,
    state: str | None = None,
    wait: Literal["poll", "suspend"] = "poll",
    credentials: dict[str, str] | None = None,
) -> State[dict[str, Any]]:
    """Send every job of a file through the provider's batch API and write the answers.

    The run fails only if no job at all was answered; failed jobs are counted in its message and
    explained in its results.

    Args:
        jobs: Path or URL of the jobs: .jsonl, .csv, .tsv or .parquet, one job a row.
        prompt: Prompt template; {column} stands for the row's value, {{ and }} for braces.
            Without one each row must be a job itself, with messages or prompt.
        model: Model id of all jobs, such as claude-sonnet-5-5 or gpt-6-luna.
        results_dir: Directory for the answers, or a URL such as s3://bucket/answers; {run_key}
            stands for the run key, so that every run has its own.
        provider: Provider of a model id that does not tell it: anthropic or openai.
        system: System prompt of the jobs that bring none of their own.
        max_tokens: Output tokens of one job at most, thinking included.
        cost_limit_usd: USD that the run never passes, over all its retries.
        shared_budget: Name of a budget that runs share through this Prefect server; the cost limit
            is then that of all together.
        time_limit_hours: Hours after which what is not answered is cancelled; up to 24.
        realtime_limit_usd: USD for which, a margin before the time limit, what is not answered yet
            goes through the realtime API at full price.
        canary: Part of the jobs (0.01), or number of them (50), that are answered first; the
            others follow only if those answers are good enough and the cost limit covers all.
        min_valid: Part of the canary's answers that must be as asked.
        approve: Whether the run pauses after the canary until a person resumes it here.
        items_per_batch: Jobs in one provider batch at most.
        max_parallel_batches: Provider batches in flight at once.
        response_model: What answers are parsed into: a JSON schema, or the import path of a
            pydantic model, such as my_package.models:Invoice.
        citations: Whether answers cite the job's document: provider with the provider's own
            citations, where it has them; quoted with quotes, on every provider, of which those
            that stand in no document are dropped and counted.
        cache_prefix: Whether the jobs begin with the same system prompt or documents, which are
            then held in the provider's cache.
        accept_truncated: Whether an answer that was cut off is taken as it is; else it is failed
            with truncated.
        max_reasks: Times that a job is asked again, and paid again, because its answer was cut off
            or did not fit the response model.
        tags: Words under which the cost is added up.
        endpoint: OpenAI's endpoint, such as /v1/responses or /v1/embeddings.
        params: Further request parameters of all jobs.
        prices: USD per million tokens in a batch by model id, for models whose price is unknown:
            input and output, and the same under realtime.
        quota: Input tokens of a model that may wait at the provider at once, by model id.
        id_column: Column with the id of the job; the column id by default, where there is one.
        file_column: Column with the path or URL of the job's document. A relative path counts
            from the folder of the jobs file.
        documents_root: Folder in which the documents have to lie that rows name; that of the jobs
            file by default.
        allow_urls: Hosts of URLs that rows may name, such as docs.example.com; none by default.
        metadata_columns: Columns that are given back with the result; never sent.
        run_key: Identity under which the run resumes. Without one it is the id of the flow run,
            so that Retry goes on where it stopped.
        state: Where the records of the run are kept: a directory, or a storage block as type/name
            that all workers reach. Without one, Prefect's own result storage.
        wait: What the run does while the providers work. poll waits in the worker's process;
            suspend ends the process until the collector deployment resumes the run.
        credentials: Provider and the name of the credentials block with its key. Without it, the
            keys in the worker's environment.

    Returns:
        Where the results are, counts, cost in USD, failures by code and the provider batches.
    """
    key = run_key or str(flow_run.id)
    batch = Batch(
        results_dir=results_dir.replace("{run_key}", key),
        max_parallel_batches=max_parallel_batches,
        items_per_batch=items_per_batch,
        run_key=key,
        max_reasks=max_reasks,
        credentials=credentials,
        budget=shared_budget,
        prices=prices,
        quota=quota,
    ).set_state(state)
    if cost_limit_usd is not None:
        batch.add_cost_limit(usd=cost_limit_usd)
    if time_limit_hours is not None:
        batch.add_time_limit(
            hours=time_limit_hours,
            on_deadline="fail" if realtime_limit_usd is None else "realtime",
            realtime_usd=realtime_limit_usd,
        )
    defaults = {
        "model": model,
        "provider": provider,
        "system": system,
        "max_tokens": max_tokens,
        "response_model": response_model,
        "enable_citations": citations == "provider",
        "citations": "quoted" if citations == "quoted" else None,
        "cache_prefix": cache_prefix,
        "accept_truncated": accept_truncated,
        "tags": tags,
        "endpoint": endpoint,
        **(params or {}),
    }
    batch.set_default_params(**{name: value for name, value in defaults.items() if value})
    # Reading and rendering a million jobs takes a while, in which Prefect must go on.
    await asyncio.to_thread(
        batch.add_rows,
        jobs,
        prompt=prompt,
        id_column=id_column,
        file_column=file_column,
        documents_root=documents_root,
        allow_urls=allow_urls or [],
        metadata_columns=metadata_columns or [],
    )
    run = await batch.arun(wait=wait, canary=canary, min_valid=min_valid, approve=approve)
    return of_run(run.manifest, f"{run.results_url or run.results_dir}/results.jsonl")


if __name__ == "__main__":
    # By its source: a served flow runs in processes of its own, which load it from there.
    here = Path(__file__)
    served: Any = jobs_from_file.from_source(str(here.parent), f"{here.name}:jobs_from_file")
    served.serve(name="jobs-from-file")
