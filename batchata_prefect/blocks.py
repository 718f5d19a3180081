"""Prefect blocks: credentials of the providers, and a file of jobs that a flow can trigger.

```python
@flow
async def nightly():
    jobs = await JobsFile.aload("tickets")
    run = await jobs.trigger(run_key="2026-11-23")
    await run.wait_for_completion()
    answers = await run.fetch_result()
    return answers.manifest["counts"]
```
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from decimal import Decimal
from typing import Any, cast

from prefect.blocks.abstract import JobBlock, JobRun
from pydantic import Field, PositiveInt

from batchata_prefect.batch import Batch
from batchata_prefect.errors import StateError
from batchata_prefect.records.credentials import AnthropicCredentials, OpenAICredentials
from batchata_prefect.run import BatchRun

__all__ = ["AnthropicCredentials", "JobsFile", "JobsFileRun", "OpenAICredentials"]


class JobsFileRun(JobRun[BatchRun]):
    """A run of the jobs of a file, which goes on in a thread of its own.

    It is a subflow of the flow that triggered it. Where the process ends before it does, the
    provider batches go on, and the next trigger with the same run key collects them.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._over: Future[BatchRun] = Future()
        self._begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
        # Prefect's context comes along, or it would be no subflow.
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._execute,), name="batchata-jobs-file", daemon=True
        )
        thread.start()

    def _execute(self) -> None:
        try:
            self._over.set_result(asyncio.run(self._go()))
        except BaseException as error:
            self._over.set_exception(error)

    async def _go(self) -> BatchRun:
        task = asyncio.current_task()
        assert task is not None
        self._begun.set_result((asyncio.get_running_loop(), task))
        return await self._batch.arun()

    async def wait_for_completion(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait until every job has its result; cancelled here, the run ends in order.

        Raises:
            BatchataError: What `Batch.run` raises.
        """
        over = asyncio.wrap_future(self._over)
        try:
            await asyncio.shield(over)
        except asyncio.CancelledError:
            loop, task = await asyncio.wrap_future(self._begun)
            loop.call_soon_threadsafe(task.cancel)
            await asyncio.wait([over])
            if not over.cancelled():
                over.exception()  # else asyncio complains that nobody has looked at it
            raise

    async def fetch_result(self) -> BatchRun:
        """The run with its results.

        Raises:
            StateError: It goes on.
            BatchataError: What `Batch.run` raises.
        """
        if not self._over.done():
            raise StateError(
                f"the run of {self._batch!r} goes on; await wait_for_completion() before "
                "fetch_result()"
            )
        return self._over.result()


class JobsFile(JobBlock[BatchRun]):
    """A file of jobs and how they are sent, for flows to trigger.

    Triggered again with the same run key, it sends what was not answered, and pays nothing twice.

    Example:
        ```python
        from batchata_prefect.blocks import JobsFile

        jobs = JobsFile.load("BLOCK_NAME")
        run = await jobs.trigger(run_key="2026-11-23")
        ```
    """

    _block_type_name = "Batchata Jobs File"
    _block_type_slug = "batchata-jobs-file"
    _description = "A file of jobs for the providers' batch APIs, and how they are sent."
    _documentation_url = cast("Any", "https://docs.prefect.io/v3/concepts/blocks")
    _logo_url = cast("Any", "https://avatars.githubusercontent.com/u/39270919?s=200")

    jobs: str = Field(
        description="Path or URL of the jobs: .jsonl, .csv, .tsv or .parquet, one job a row."
    )
    prompt: str | None = Field(
        default=None,
        description="Prompt template; {column} stands for the row's value. Without one each row "
        "is a job itself.",
    )
    model: str | None = Field(default=None, description="Model id of all jobs.")
    results_dir: str = Field(
        default="results/{run_key}",
        title="Results directory",
        description="Directory for the answers, or a URL such as s3://bucket/answers; {run_key} "
        "stands for the run key.",
    )
    max_tokens: PositiveInt = Field(
        default=4096, description="Output tokens of one job at most, thinking included."
    )
    cost_limit_usd: Decimal | None = Field(
        default=None,
        gt=0,
        title="Cost limit",
        description="USD that a run never passes, however often it is triggered.",
    )
    time_limit_hours: float | None = Field(
        default=None,
        gt=0,
        le=24,
        title="Time limit",
        description="Hours after which what is not answered is cancelled.",
    )
    response_model: dict[str, Any] | str | None = Field(
        default=None,
        description="What answers are parsed into: a JSON schema, or the import path of a "
        "pydantic model.",
    )
    accept_truncated: bool = Field(
        default=False,
        description="Whether an answer that was cut off is taken as it is; else it is failed with "
        "truncated.",
    )
    id_column: str | None = Field(
        default=None,
        title="ID column",
        description="Column with the id of the job; the column id by default, where there is one.",
    )
    file_column: str | None = Field(
        default=None, description="Column with the path or URL of the job's document."
    )
    documents_root: str | None = Field(
        default=None,
        description="Folder in which the documents have to lie that rows name; that of the jobs "
        "file by default.",
    )
    allow_urls: list[str] = Field(
        default_factory=list[str],
        title="Allow URLs",
        description="Hosts of URLs that rows may name, such as docs.example.com.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Further request parameters of all jobs."
    )
    items_per_batch: PositiveInt = Field(
        default=10_000, description="Jobs in one provider batch at most."
    )
    credentials: dict[str, str] | None = Field(
        default=None,
        description="Provider and the name of the credentials block with its key. Without it, the "
        "keys in the environment.",
    )
    state: str | None = Field(
        default=None,
        description="Where the records of runs are kept: a directory, or a storage block as "
        "type/name. Without one, Prefect's own result storage.",
    )

    async def trigger(self, run_key: str = "default") -> JobsFileRun:
        """Start a run of the jobs, or go on with the one that has this run key.

        Args:
            run_key: Identity under which the run resumes, such as a day.

        Raises:
            BatchataError: The jobs or the options are wrong; nothing was sent.
        """
        batch = await asyncio.to_thread(self._batch, run_key)
        self.logger.info("triggered %s jobs of %s as %r", f"{len(batch):,}", self.jobs, run_key)
        return JobsFileRun(batch)

    def _batch(self, run_key: str) -> Batch:
        batch = Batch(
            self.results_dir.replace("{run_key}", run_key),
            items_per_batch=self.items_per_batch,
            run_key=f"{self.jobs} {run_key}",
            credentials=self.credentials,
        ).set_state(self.state)
        if self.cost_limit_usd is not None:
            batch.add_cost_limit(usd=self.cost_limit_usd)
        if self.time_limit_hours is not None:
            batch.add_time_limit(hours=self.time_limit_hours)
        defaults = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "response_model": self.response_model,
            "accept_truncated": self.accept_truncated or None,
            **self.params,
        }
        batch.set_default_params(**{k: v for k, v in defaults.items() if v is not None})
        return batch.add_rows(
            self.jobs,
            self.prompt,
            id_column=self.id_column,
            file_column=self.file_column,
            documents_root=self.documents_root,
            allow_urls=self.allow_urls,
        )
