"""`BatchRun`, what the user holds of a run: status while it goes on, results when it is done."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from batchata_prefect.content.schema import AnswerSchema
from batchata_prefect.engine.pace import Pace
from batchata_prefect.engine.server import no_collector, own_server, start_early
from batchata_prefect.engine.session import (
    TERMINATED,
    OnBatch,
    Session,
    Settings,
    entered,
)
from batchata_prefect.engine.status import (
    FailureCodes,
    planned_batches,
    progress_batches,
    progress_stats,
    say_how_to_resume,
    say_what_happens_now,
)
from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.numbers import number
from batchata_prefect.results.run_answers import RunAnswers
from batchata_prefect.views.original import MOST_LISTED, NOT_LISTED, Config, listed, pending, quiet

logger = logging.getLogger("batchata_prefect")

ProgressCallback: TypeAlias = Callable[[dict[str, Any], float, dict[str, Any]], None]
"""Called with (stats, elapsed seconds, batch data), as in the original library."""


class BatchRun(RunAnswers):
    """One run of a batch; made by `Batch.run`.

    Attributes:
        print_status: Whether the progress is shown on the terminal.
        manifest: What the run came to: counts, cost, batches; None until it is finished.
        planned: What a dry run found; None for a real one.
        config: What the batch was told, as `Batch.config`.
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
        self.config: Config | None = None
        self._session = Session(settings, spool, prices, schemas, pace)
        super().__init__(schemas, spool.digest)
        self._callback: ProgressCallback | None = None
        self._interval = 1.0
        self._faulty: set[int] = set()
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
        await self._connect(only_unsure=True)
        with ExitStack() as stack:
            stack.enter_context(entered(run))
            callbacks = self._callbacks(stack)
            run.waiting_for = "Prefect to start"
            self._report(callbacks)
            start_early()
            with no_collector():
                # Prefect takes seconds to import; whoever only builds or reads does not pay for
                # it. All of this is done while the server starts.
                from prefect import tags

                from batchata_prefect.engine.flow import run_batch
                from batchata_prefect.engine.suspend import (
                    deployed_run,
                    fall_asleep,
                    leave,
                    may_suspend,
                )
                from batchata_prefect.engine.tasks import run_tags

                await self._connect()
                run_batch.serialize_parameters(run.shown)

            ticker = asyncio.create_task(self._tick(callbacks))
            # The collector would go through all of Prefect's objects again for every few
            # thousand replies; set aside, they cost a run a fifth less time.
            gc.freeze()
            try:
                # Prefect, which is imported by now, has set up its logs.
                stack.enter_context(quiet(self.config and self.config.verbosity))
                await self._start_prefect(stack)
                run.around_id = deployed_run()
                if run.settings.wait == "suspend":
                    await may_suspend(run)
                stack.enter_context(tags(*run_tags(run)))
                while run.flow_run_id is None:
                    flow: Any = run_batch(**run.shown, return_state=True)
                    await self._in_order(flow)
                    # Of a resumed flow run, Prefect does not start a subflow again that was
                    # over; what it came to stands in the records and on disk.
                    if run.stopped is not None:
                        break
                if run.suspending:
                    await fall_asleep(run)
                elif run.settings.wait == "suspend":
                    await leave(run)
            finally:
                # Of what this run has made, clients with their certificates lie in cycles; many
                # runs in one process would pile them up until the collector sees to all objects.
                gc.collect()
                gc.unfreeze()
                run.waiting_for = None
                ticker.cancel()
                self._elapsed = time.monotonic() - self._began
                self._report(callbacks)
        return self

    async def _connect(self, *, only_unsure: bool = False) -> None:
        """Connect to the providers whose keys lie in no block.

        Args:
            only_unsure: Whether to leave out those whose usual variable holds a key.
        """
        run = self._session
        for family in run.spool.families():
            name = family.provider
            provider = run.provider(name)
            account, variable = provider.bound, f"{name.upper()}_API_KEY"
            if name in run.settings.credentials or (account and account.credentials):
                continue
            is_sure = only_unsure and account is None and os.environ.get(variable)
            if not is_sure and name not in run.clients:
                run.providers[name] = provider
                # To make a client takes a while, in which other runs of the process go on.
                run.clients[name] = await asyncio.to_thread(provider.connect, provider.login())

    async def _start_prefect(self, stack: ExitStack) -> None:
        from batchata_prefect.engine.trouble import tell

        try:
            stack.enter_context(await asyncio.to_thread(own_server))
        except Exception as error:
            tell(self._session, error)

    async def _in_order(self, flow: Coroutine[Any, Any, Any]) -> None:
        """Await the flow; the first cancellation makes it end in order, the second at once."""
        from batchata_prefect.engine.trouble import raise_trouble, tell

        self._loop = asyncio.get_running_loop()
        self._flow = asyncio.ensure_future(flow)
        canceled = False
        while True:
            try:
                await raise_trouble(self._session, await asyncio.shield(self._flow))
            except asyncio.CancelledError:
                if self._flow.done() or canceled:
                    self._flow.cancel()
                    say_how_to_resume(self._session)
                    raise
                canceled = True
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                self.cancel("interrupted")
            except Exception as error:
                tell(self._session, error)
                break
            else:
                break
        if canceled:
            raise asyncio.CancelledError

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
            say_what_happens_now(self._session)

    def _run_here(self) -> None:
        try:
            asyncio.run(self.aexecute())
        except KeyboardInterrupt:
            if self.manifest is not None:
                written = f"the run was interrupted; its results so far are in {self.results_dir}"
                raise _interruption(written) from None
            say_how_to_resume(self._session)
            raise _interruption() from None
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
        for callback in callbacks:
            try:
                batches = progress_batches(self._session)
                if callback is self._callback:
                    batches |= planned_batches(self._session)
                callback(self.status(), self.elapsed_seconds, batches)
            except Exception:
                # A view that fails must not take the run with it.
                if id(callback) not in self._faulty:
                    logger.exception("the progress callback failed; this is not said again")
                    self._faulty.add(id(callback))

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since this run was started in this process."""
        if self._elapsed is not None:
            return self._elapsed
        return 0.0 if self._began is None else time.monotonic() - self._began

    def status(self, print_status: bool = False) -> dict[str, Any]:
        """Where the run stands.

        Args:
            print_status: Whether to print it as well.

        Returns:
            The original library's keys: total, pending, active, completed, failed, cancelled,
            cost_usd, cost_limit_usd, is_complete, batches_total, batches_completed,
            batches_pending, current_batch_index, current_batch_size, items_per_batch; and
            reserved_usd, time_left_seconds, resumed, is_stopping, waiting_for, waiting_until
            (when the first batch in flight expires), enqueued_tokens, failures (error code ->
            jobs). Costs in USD, None where a price is unknown.
        """
        failures = (self.manifest or {}).get("failures")
        codes = (
            self._failures.look(self._session)
            if failures is None
            else {code: group["count"] for code, group in failures.items()}
        )
        stats = progress_stats(self._session, codes)
        if print_status:
            from batchata_prefect.views.printed import say

            say("\n".join(f"{name}: {value}" for name, value in stats.items()))
        return stats

    @property
    def pending_jobs(self) -> list[dict[str, str]]:
        """Id and model of each job without a result; looked up at each call."""
        return [] if self.is_complete else pending(self._session.spool)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON-ready values.

        Returns:
            `status`, `manifest`, `flow_run_id`, `created_at`, `config` and `total_cost_usd` (None
            where a price is unknown); and the jobs as the lists `pending_jobs`,
            `completed_results`, `failed_jobs` and `cancelled_jobs`, each None where the run has
            more than 10,000 jobs: their numbers are in `status`, the jobs in `iter_results`.
        """
        stats, jobs = self.status(), NOT_LISTED
        if stats["total"] <= MOST_LISTED:
            jobs = listed(self.pending_jobs, self.iter_results(), self.results_dir)
        config = {} if self.config is None else self.config.to_json()
        return {
            "created_at": datetime.now(UTC).isoformat(),
            "flow_run_id": self.flow_run_id,
            **jobs,
            "total_cost_usd": stats["cost_usd"],
            "config": self._session.settings.model_dump(mode="json") | config,
            "status": stats,
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


def _interruption(*said: str) -> KeyboardInterrupt:
    error = KeyboardInterrupt(*said)
    # For whoever called `run` from Python, which would have given it back; the command has none.
    error.add_note("batch.latest_run is the run that was interrupted")
    return error
