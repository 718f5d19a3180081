"""`BatchRun`, what the user holds of a run: status while it goes on, results when it is done."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import gc
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from batchata_prefect.answers import JobResult
from batchata_prefect.content.schema import AnswerSchema
from batchata_prefect.engine.server import own_server, start_early
from batchata_prefect.engine.session import (
    TERMINATED,
    OnBatch,
    Pace,
    Session,
    Settings,
    enter,
    leave,
)
from batchata_prefect.engine.status import FailureCodes, batch_statuses, run_status
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.numbers import number, plain_usd
from batchata_prefect.providers import provider_for
from batchata_prefect.results.diff import RunDiff
from batchata_prefect.results.ended import EndedRows
from batchata_prefect.results.result_file import ResultFile
from batchata_prefect.results.row import from_row
from batchata_prefect.views.status import BatchStatus

logger = logging.getLogger("batchata_prefect")

_PREFECT_UNREACHABLE = ("Failed to reach API", "Timed out while attempting to connect")
"""How Prefect says that its server does not answer; it has no error class for it."""


def _is_connection(error: Exception) -> bool:
    """Whether an error came from the connection to Prefect's server, which uses httpx."""
    return type(error).__module__.partition(".")[0] in {"httpx", "httpcore"}


def _refused(error: BaseException | None) -> int | None:
    """The status by which Prefect's server refuses us; None where that is not the trouble."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in {401, 403}:
            return status
        error = error.__cause__
    return None


ProgressCallback: TypeAlias = Callable[[dict[str, Any], float, dict[str, Any]], None]
"""Called with (stats, elapsed seconds, batch data), as in the original library."""


class BatchRun:
    """One run of a batch; made by `Batch.run`.

    Attributes:
        print_status: Whether the progress is shown on the terminal.
        manifest: What the run came to: counts, cost, batches; None until it is finished.
        planned: What a dry run found; None for a real one.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        prices: PriceBook,
        schemas: Mapping[str, AnswerSchema],
        pace: Pace,
    ) -> None:
        self.print_status = False
        self.planned: dict[str, Any] | None = None
        self._session = Session(settings, spool, prices, schemas, pace)
        self._callback: ProgressCallback | None = None
        self._interval = 1.0
        self._failures = FailureCodes()
        self._began: float | None = None
        self._elapsed: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flow: asyncio.Future[Any] | None = None

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the run came to; None until it is finished."""
        return self._session.manifest

    @property
    def flow_run_id(self) -> str | None:
        """Prefect's id of the flow run; None before it starts."""
        return self._session.flow_run_id

    @property
    def results_dir(self) -> Path:
        """Where the answers lie; with results at a URL, the local copy."""
        return self._session.results_dir

    @property
    def results_url(self) -> str | None:
        """The URL where the answers lie; None where it is `results_dir`."""
        return self._session.settings.results_url

    @property
    def is_complete(self) -> bool:
        """Whether every job has its result."""
        return self.manifest is not None

    def set_on_progress(self, callback: ProgressCallback | None, interval: float = 1.0) -> BatchRun:
        """Have a function called while the run goes on.

        Args:
            callback: Called with (stats, elapsed seconds, batch data); see `status` for stats.
            interval: Seconds between two calls.

        Raises:
            NumberError: The interval is no finite number.
        """
        self._callback = callback
        self._interval = max(0.05, number("interval", interval))
        return self

    def set_on_batch(self, callback: OnBatch | None) -> BatchRun:
        """Have a function told of each batch that has ended; see `Batch.run`.

        Raises:
            ValidationError: It cannot be called, or would have to be awaited.
        """
        if callback is not None and not callable(callback):
            raise ValidationError(f"on_batch is a function of (batch, results), not {callback!r}")
        if inspect.iscoroutinefunction(callback):
            raise ValidationError("on_batch is a plain function, which runs in a thread of its own")
        self._session.on_batch = callback
        return self

    def execute(self) -> BatchRun:
        """Run to the end; see `Batch.run`.

        Raises:
            RuntimeError: It was started before.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._run_here()
        else:
            self._run_in_thread()
        return self

    async def aexecute(self) -> BatchRun:
        """Run to the end in the running event loop; see `Batch.arun`."""
        if self._began is not None:
            raise RuntimeError("this run was started before; call run() on the batch again")
        self._began = time.monotonic()
        run = self._session
        run.spool.reset()
        # What is missing is said before a server starts for nothing.
        self._connect(only_unsure=True)
        settings = run.settings.model_dump(mode="json")
        label = run.settings.title
        name = enter(run)
        with ExitStack() as stack:
            stack.callback(leave, name)
            callbacks = self._callbacks(stack)
            run.waiting_for = "Prefect to start"
            self._report(callbacks)
            start_early()
            with _no_collector():
                # Prefect takes seconds to import; whoever only builds or reads does not pay for
                # it. All of this is done while the server starts.
                from batchata_prefect.engine.flow import run_batch
                from batchata_prefect.engine.suspend import deployed_run, fall_asleep, may_suspend
                from batchata_prefect.engine.suspend import leave as leave_sleepers

                self._connect()
                run_batch.serialize_parameters({"settings": settings})

            ticker = asyncio.create_task(self._tick(callbacks))
            # The collector would go through all of Prefect's objects again for every few
            # thousand replies; set aside, they cost a run a fifth less time.
            gc.freeze()
            try:
                await self._start_prefect(stack)
                run.around_id = deployed_run()
                if run.settings.wait == "suspend":
                    await may_suspend(run)
                while run.flow_run_id is None:
                    flow: Any = run_batch(label, name, settings, return_state=True)
                    await self._in_order(flow)
                    # Of a resumed flow run, Prefect does not start a subflow again that was
                    # over; what it came to stands in the records and on disk.
                    if run.stopped is not None:
                        break
                if run.suspending:
                    await fall_asleep(run)
                elif run.settings.wait == "suspend":
                    await leave_sleepers(run)
            finally:
                gc.unfreeze()
                run.waiting_for = None
                ticker.cancel()
                self._elapsed = time.monotonic() - self._began
                self._report(callbacks)
        return self

    def _connect(self, *, only_unsure: bool = False) -> None:
        """Connect to the providers whose keys lie in no block.

        Args:
            only_unsure: Whether to leave out those whose usual variable holds a key.

        Raises:
            MissingCredentialsError: There is no key, or it cannot be one.
        """
        run = self._session
        for family in run.spool.families():
            name = family.provider
            is_sure = only_unsure and os.environ.get(f"{name.upper()}_API_KEY")
            if not is_sure and name not in run.clients and name not in run.settings.credentials:
                run.providers[name] = provider_for(family.model, name)
                run.clients[name] = run.providers[name].connect()

    async def _start_prefect(self, stack: ExitStack) -> None:
        try:
            stack.enter_context(await asyncio.to_thread(own_server))
        except Exception as error:
            self._tell(error)

    async def _in_order(self, flow: Coroutine[Any, Any, Any]) -> None:
        """Await the flow; the first cancellation makes it end in order, the second at once."""
        self._loop = asyncio.get_running_loop()
        self._flow = asyncio.ensure_future(flow)
        canceled = False
        while True:
            try:
                await self._raise_trouble(await asyncio.shield(self._flow))
            except asyncio.CancelledError:
                if self._flow.done() or canceled:
                    self._flow.cancel()
                    self._say_how_to_resume()
                    raise
                canceled = True
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                self.cancel("interrupted")
            except Exception as error:
                self._tell(error)
                break
            else:
                break
        if canceled:
            raise asyncio.CancelledError

    async def _raise_trouble(self, state: Any) -> None:
        """Raise why the flow failed, where that is no matter of its jobs."""
        from prefect.exceptions import FailedRun
        from prefect.states import aget_state_exception

        run = self._session
        if run.error is not None:
            raise run.error
        if run.flow_run_id is not None and (state.is_failed() or state.is_crashed()):
            error = await aget_state_exception(state)
            if not isinstance(error, FailedRun):
                raise error

    def _tell(self, error: Exception) -> None:
        """Name what has ended the flow, and let a Prefect that is away go where that is no matter.

        Raises:
            Exception: What ended the flow.
        """
        from prefect.settings import PREFECT_API_URL

        if self._session.error is not None:
            raise self._session.error from None
        status = _refused(error)
        if status is not None and not self._session.ledger:
            raise StateError(
                f"Prefect refuses this process ({status} from {PREFECT_API_URL.value()}); this "
                "start sent nothing. Check PREFECT_API_KEY or PREFECT_API_AUTH_STRING, and run "
                "again"
            ) from None
        unreachable = str(error).startswith(_PREFECT_UNREACHABLE) or _is_connection(error)
        if unreachable and self.manifest is not None:
            logger.warning(
                "the run is over and its results are written, but Prefect could not be told: %s",
                error,
            )
            return
        if unreachable and not self._session.ledger:
            raise StateError(
                f"Prefect cannot be reached: {error} This start sent nothing. Check "
                "PREFECT_API_URL, or unset it to run with a server of its own"
            ) from error
        raise error

    def cancel(self, reason: str = "cancelled by the program", *, detach: bool = False) -> None:
        """End the run in order; from a progress callback or another thread.

        Nothing more is sent. The provider batches in flight are cancelled at the provider, what
        they finished is collected, and the other jobs end as cancelled; the next run of the same
        jobs sends only those. Returns at once; `run` returns when this is done.

        Args:
            reason: What the results and the flow run say.
            detach: Whether to leave the provider batches running for the next run to collect.
        """
        run = self._session
        if run.stopped is None:
            run.stop(reason, "detach" if detach else None)
            self._say_what_happens_now()

    def _say_what_happens_now(self) -> None:
        run = self._session
        flying = sum(1 for flight in run.flights.values() if flight.entry.receipt)
        if run.stopped is not None and run.stopped.on_cancel == "detach":
            logger.warning("%s: leaving %d provider batches running", run.stopped.reason, flying)
        elif run.stopped is not None:
            logger.warning(
                "%s: cancelling %d provider batches and collecting what they finished, which can "
                "take minutes. Once more leaves at once; they go on and the next run collects them",
                run.stopped.reason,
                flying,
            )

    def _run_here(self) -> None:
        try:
            asyncio.run(self.aexecute())
        except KeyboardInterrupt:
            if self.manifest is not None:
                written = f"the run was interrupted; its results so far are in {self.results_dir}"
                raise KeyboardInterrupt(written) from None
            self._say_how_to_resume()
            raise KeyboardInterrupt from None
        stopped = self._session.stopped
        if stopped is not None and stopped.reason == TERMINATED:
            raise SystemExit(128 + signal.SIGTERM)

    def _run_in_thread(self) -> None:
        """Run beside a running event loop, as in a notebook; Prefect's context comes along."""
        raised: list[BaseException] = []
        context = contextvars.copy_context()

        def body() -> None:
            try:
                context.run(self._run_here)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=body, name="batchata", daemon=True)
        thread.start()
        interruption: BaseException | None = None
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                # Ctrl-C, or Prefect's handler of SIGTERM: both strike in the main thread.
                if interruption is not None:
                    if self._loop is not None and self._flow is not None:
                        self._loop.call_soon_threadsafe(self._flow.cancel)
                    raise
                interruption = error
                self.cancel("interrupted")
        if raised:
            raise raised[0]
        if interruption is not None:
            raise interruption

    def _callbacks(self, stack: ExitStack) -> list[ProgressCallback]:
        callbacks: list[ProgressCallback] = []
        if self.print_status:
            from batchata_prefect.views.terminal import Progress

            callbacks.append(stack.enter_context(Progress(results_dir=str(self.results_dir))))
        if self._callback is not None:
            callbacks.append(self._callback)
        return callbacks

    async def _tick(self, callbacks: list[ProgressCallback]) -> None:
        while callbacks:
            self._report(callbacks)
            await asyncio.sleep(self._interval)

    def _report(self, callbacks: list[ProgressCallback]) -> None:
        for callback in list(callbacks):
            try:
                callback(self.status(), self.elapsed_seconds, self._batch_data())
            except Exception:
                # A view that fails must not take the run with it.
                logger.exception("the progress callback failed and is not called again")
                callbacks.remove(callback)

    def _say_how_to_resume(self) -> None:
        flying = sum(1 for flight in self._session.flights.values() if flight.entry.receipt)
        logger.warning(
            "stopped; %d provider batches go on at the provider. Run the same jobs again with "
            "results_dir=%r to collect them; nothing is paid twice",
            flying,
            str(self.results_dir),
        )

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since this run was started in this process."""
        if self._elapsed is not None:
            return self._elapsed
        return 0.0 if self._began is None else time.monotonic() - self._began

    def status(self, print_status: bool = False) -> dict[str, Any]:
        """Where the run stands.

        Args:
            print_status: Whether to log it as well.

        Returns:
            The original library's keys: total, pending, active, completed, failed, cancelled,
            cost_usd, cost_limit_usd, is_complete, batches_total, batches_completed,
            batches_pending, current_batch_index, current_batch_size, items_per_batch; and
            reserved_usd, time_left_seconds, resumed, is_stopping, waiting_for, waiting_until
            (when the first batch in flight expires), enqueued_tokens, failures (error code ->
            jobs). Costs in USD, None where a price is unknown.
        """
        run = self._session
        found = run_status(run)
        ended = sum(1 for entry in run.ledger if entry.ending is not None)
        last = run.ledger[-1].chunk if run.ledger else None
        stats = {
            "total": found.total,
            "pending": 0 if found.is_complete else found.pending,
            "active": found.active,
            "completed": found.completed,
            "failed": found.failed,
            "cancelled": found.cancelled,
            "cost_usd": plain_usd(found.spent_usd),
            "cost_of_run_usd": plain_usd(found.spent_now_usd),
            "cost_limit_usd": plain_usd(found.cost_limit_usd),
            "is_complete": found.is_complete,
            "batches_total": len(run.ledger),
            "batches_completed": ended,
            "batches_pending": len(run.ledger) - ended,
            "current_batch_index": last.sequence if last else 0,
            "current_batch_size": last.count if last else 0,
            "items_per_batch": run.settings.items_per_batch,
            "reserved_usd": plain_usd(found.reserved_usd),
            "time_left_seconds": found.seconds_left,
            "resumed": found.resumed,
            "is_stopping": found.is_stopping,
            "waiting_for": found.waiting_for,
            "waiting_until": found.waiting_until,
            "enqueued_tokens": found.enqueued_tokens,
            "failures": self._failed_by_code(),
        }
        if print_status:
            for name, value in stats.items():
                logger.info("%s: %s", name, value)
        return stats

    def _failed_by_code(self) -> dict[str, int]:
        if self.manifest is not None:
            return {code: group["count"] for code, group in self.manifest["failures"].items()}
        return self._failures.look(self._session)

    def _batch_data(self) -> dict[str, Any]:
        return {batch.key: _batch(batch) for batch in batch_statuses(self._session)}

    def results(self) -> dict[str, list[JobResult]]:
        """All results in memory, by status: completed, failed, cancelled.

        For very many jobs use `iter_results`.
        """
        found: dict[str, list[JobResult]] = {"completed": [], "failed": [], "cancelled": []}
        for result in self.iter_results():
            found[result.status].append(result)
        return found

    def iter_results(self) -> Iterator[JobResult]:
        """The results one at a time, in the order of the jobs, each job once.

        While the run goes on, in another thread or in a callback, they are those of the jobs that
        have ended when this is called: answered, or failed for good, also by an earlier start. A
        job that is sent again is not among them before it has ended. Where jobs were added since
        an earlier run was over, those that it answered come when this one is over.

        Raises:
            OSError: They cannot be read.
        """
        schemas = self._session.schemas
        if self.is_complete:
            yield from ResultFile(self.results_dir / "results.jsonl").results(schemas)
            return
        try:
            ended = EndedRows(self.results_dir)
        except FileNotFoundError:
            return
        if ended.head["job_set"] == self._session.spool.digest:
            for row in ended:
                yield from_row(row, schemas)

    def to_arrow(self) -> Any:
        """The results as a pyarrow table, one row a job, in the order of the jobs.

        It has the columns of `results.jsonl`; and for each field of the metadata and of the parsed
        answers a column `metadata.<field>` and `answer.<field>`: of booleans, whole numbers, floats
        or text where all its values are such, else of JSON text. Where there are more than 200
        fields, they stay in `metadata_json` and `parsed_response_json` alone.

        Raises:
            StateError: The run is not complete.
            ValidationError: pyarrow is not installed.
        """
        from batchata_prefect.results.frames import arrow_table

        if not self.is_complete:
            raise StateError(f"the run has no results yet in {str(self.results_dir)!r}; run it")
        return arrow_table(self.results_dir / "results.jsonl")

    def to_pandas(self, **kwargs: Any) -> Any:
        """The results as a pandas frame; see `to_arrow`.

        Args:
            **kwargs: Passed on to pyarrow's `Table.to_pandas`, such as
                `types_mapper=pandas.ArrowDtype`, which keeps whole numbers beside missing ones.

        Raises:
            StateError: The run is not complete.
            ValidationError: pandas or pyarrow is not installed.
        """
        from batchata_prefect.results.frames import require

        require("pandas", "frames", "to_pandas()")
        return self.to_arrow().to_pandas(**kwargs)

    def to_polars(self) -> Any:
        """The results as a polars frame; see `to_arrow`.

        Raises:
            StateError: The run is not complete.
            ValidationError: polars or pyarrow is not installed.
        """
        from batchata_prefect.results.frames import require

        return require("polars", "frames", "to_polars()").from_arrow(self.to_arrow())

    def get_failed_jobs(self) -> dict[str, str]:
        """Job id -> error of all failed jobs."""
        return {
            result.job_id: result.error or ""
            for result in self.iter_results()
            if result.status == "failed"
        }

    def diff(self, other: BatchRun | str | Path) -> RunDiff:
        """What changed against an earlier run of the same jobs, such as one with another prompt.

        Jobs are known by their ids: give them ids of their own, because one that is made from a
        job's content changes with it.

        Args:
            other: The earlier run, or its results directory.

        Raises:
            StateError: One of them has no results yet.
        """
        before = other.results_dir if isinstance(other, BatchRun) else other
        return RunDiff(before, self.results_dir)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON-ready values: settings, status and manifest."""
        return {
            "created_at": datetime.now(UTC).isoformat(),
            "flow_run_id": self.flow_run_id,
            "config": self._session.settings.model_dump(mode="json"),
            "status": self.status(),
            "manifest": self.manifest,
        }

    def shutdown(self) -> None:
        """Nothing to do: a run holds no threads or connections once it is over."""

    def plan(self) -> BatchRun:
        """Find out what a run would send and cost, without sending it; see `planned`."""
        from batchata_prefect.engine.dry_run import dry_run, show

        self._session.spool.reset()
        self.planned = dry_run(self._session)
        show(self.planned)
        return self


@contextmanager
def _no_collector() -> Generator[None]:
    """Load what is large without the collector, which would go through all of it again and again.

    At the end of the process it would go through it once more: what is set aside then is not
    looked at, and the process leaves half a second earlier.
    """
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)


def _batch(batch: BatchStatus) -> dict[str, Any]:
    """A provider batch as the progress callback gets it, in the original library's words."""
    chunk = batch.entry.chunk
    if batch.entry.ending is None:
        status = "running" if batch.batch_id else "pending"
    else:
        status = "cancelled" if batch.was_canceled else "failed" if batch.failed else "complete"
    return {
        "start_time": batch.entry.receipt.created_at if batch.entry.receipt else None,
        "status": status,
        "total": chunk.count,
        "completed": batch.answered,
        "failed": batch.failed,
        "cost": plain_usd(batch.cost_usd) if batch.entry.ending else 0.0,
        "estimated_cost": plain_usd(chunk.reserved_usd),
        "provider": chunk.provider,
        "model": chunk.model,
        "name": chunk.name,
        "batch_id": batch.batch_id,
        "completion_time": batch.ended_at,
        "error": batch.reason,
    }
