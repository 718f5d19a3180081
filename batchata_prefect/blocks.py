"""Prefect blocks: credentials of the providers, and a file of jobs that a flow can trigger.

```python
@flow
async def nightly():
    jobs = await JobsFile.aload("tickets")
    run = await jobs.atrigger(run_key="2026-11-23")
    await run.await_for_completion()
    answers = await run.afetch_result()
    return answers.manifest["counts"]
```

In a flow that is not async it is `load`, `trigger`, `wait_for_completion` and `fetch_result`, which
in an async flow can be awaited as well.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pydantic
from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.blocks.abstract import JobBlock, JobRun

from batchata_prefect.batch import Batch, add_file, batch_of
from batchata_prefect.errors import OptionError, StateError
from batchata_prefect.options import FileOptions, how, options
from batchata_prefect.records.credentials import BLOCKS, Credentials
from batchata_prefect.run import BatchRun

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "JobsFile",
    "JobsFileRun",
    *(block.__name__ for block in BLOCKS.values()),
]
globals().update({block.__name__: block for block in BLOCKS.values()})
if TYPE_CHECKING:
    AnthropicCredentials: TypeAlias = Credentials
    AzureCredentials: TypeAlias = Credentials
    GeminiCredentials: TypeAlias = Credentials
    OpenAICredentials: TypeAlias = Credentials

    def __getattr__(name: str) -> type[Credentials]:
        """Those of a provider that another package brings."""
        ...


_LOOK_SECONDS = 0.2


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

    async def await_for_completion(self) -> None:
        """Wait until every job has its result; cancelled here, the run ends in order.

        Raises:
            BatchataError: What `Batch.run` raises.
        """
        over = asyncio.wrap_future(self._over)
        try:
            await asyncio.shield(over)
        except asyncio.CancelledError:
            self._end()
            await asyncio.wait([over])
            if not over.cancelled():
                over.exception()  # else asyncio complains that nobody has looked at it
            raise

    @async_dispatch(await_for_completion)
    def wait_for_completion(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait until every job has its result; interrupted here, the run ends in order.

        Raises:
            BatchataError: What `Batch.run` raises.
        """
        try:
            # In steps: an interruption strikes between two of them.
            while not wait_for([self._over], _LOOK_SECONDS).done:
                pass
        except BaseException:
            self._end()
            wait_for([self._over])
            raise
        self._over.result()

    def _end(self) -> None:
        loop, task = self._begun.result()
        # It may be over, and its loop closed, by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)

    async def afetch_result(self) -> BatchRun:
        """The run with its results; see `fetch_result`."""
        return self._result()

    @async_dispatch(afetch_result)
    def fetch_result(self) -> BatchRun:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The run with its results.

        Raises:
            StateError: It goes on.
            BatchataError: What `Batch.run` raises.
        """
        return self._result()

    def _result(self) -> BatchRun:
        if not self._over.done():
            raise StateError(
                f"the run of {self._batch!r} goes on; wait_for_completion() before fetch_result()"
            )
        return self._over.result()


if TYPE_CHECKING:
    _Options, _JobBlock = FileOptions, JobBlock[BatchRun]
else:
    # As JobBlock[BatchRun] it would be a block type of its own, with no name.
    _JobBlock = JobBlock
    # Made of them and not by inheriting: a block can be changed, and has not all of them.
    _Options = pydantic.create_model(
        "JobsFileOptions",
        **{name: (field.annotation, field) for name, field in options("block").items()},
    )


class JobsFile(_Options, _JobBlock):
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

    @pydantic.model_validator(mode="before")
    @classmethod
    def _only_what_it_takes(cls, values: Any) -> Any:
        for name in values:
            option = FileOptions.model_fields.get(name)
            if option is not None and (why := how(option).refused.get("block")):
                raise OptionError(f"{name} cannot be given in the block: {why}")
        return values

    async def atrigger(self, run_key: str = "default") -> JobsFileRun:
        """Start a run of the jobs; see `trigger`."""
        return self._begin(await asyncio.to_thread(self._batch, run_key), run_key)

    @async_dispatch(atrigger)
    def trigger(self, run_key: str = "default") -> JobsFileRun:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start a run of the jobs, or go on with the one that has this run key.

        In an async flow it is awaited.

        Args:
            run_key: Identity under which the run resumes, such as a day.

        Raises:
            BatchataError: The jobs or the options are wrong; nothing was sent.
        """
        return self._begin(self._batch(run_key), run_key)

    def _begin(self, batch: Batch, run_key: str) -> JobsFileRun:
        self.logger.info("triggered %s jobs of %s as %r", f"{len(batch):,}", self.jobs, run_key)
        return JobsFileRun(batch)

    def _batch(self, run_key: str) -> Batch:
        told = FileOptions.of({name: getattr(self, name) for name in options("block")})
        results_dir = told.results_dir.replace("{run_key}", run_key)
        return add_file(batch_of(told, results_dir, f"{self.jobs} {run_key}"), told)
