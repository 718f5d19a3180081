"""`Batch`, the builder: takes jobs, refuses what no provider would take, and starts the run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, TypedDict, Unpack

from dotenv import load_dotenv

from batchata_prefect.engine.pace import Pace
from batchata_prefect.engine.session import OnBatch, Settings
from batchata_prefect.errors import ProviderNotFoundError, ValidationError
from batchata_prefect.jobs.bounds import refuse_unbound, refuse_uploads
from batchata_prefect.jobs.builder import JobsBuilder
from batchata_prefect.money.own import Prices
from batchata_prefect.numbers import number
from batchata_prefect.numbers import usd as amount
from batchata_prefect.options import (
    FileOptions,
    IfRunning,
    OnCancel,
    ResultFormat,
    RunOptions,
    Wait,
    arguments,
    described,
)
from batchata_prefect.providers import price_book, providers
from batchata_prefect.records.note import directory_of
from batchata_prefect.results.frames import require
from batchata_prefect.results.remote import is_url, normal, probe, working_folder
from batchata_prefect.run import BatchRun, ProgressCallback
from batchata_prefect.views.original import LEVELS, Config

_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


class BatchTold(TypedDict, total=False):
    """Those options that a batch is told by their names when it is built."""

    tokens_per_batch: int | None
    max_attempts: int
    max_reasks: int
    quota: Mapping[str, int] | None
    upload_files: bool | None
    result_format: ResultFormat
    prices: Prices | None
    credentials: Mapping[str, str] | None
    accounts: Mapping[str, Mapping[str, Any]] | str | Path | None
    task_retries: int
    task_retry_delay_seconds: float
    task_timeout_seconds: float
    task_tags: Sequence[str]


class RunTold(TypedDict, total=False):
    """Those options that a batch is told by their names when it is run."""

    if_running: IfRunning
    wait: Wait
    canary: float | None
    min_valid: float
    approve: bool


class Batch(JobsBuilder):
    """Builder of a run over many jobs; all methods but `run` and `arun` give back the batch.

    Jobs are rendered and written to disk as they are added, so memory does not grow with their
    number. Set defaults before the jobs that they are for.

    Example:
        ```python
        batch = Batch(results_dir="./output").set_default_params(model="claude-sonnet-5-5")
        batch.add_job(file="lease.pdf", prompt="Summarize this document")
        for result in batch.run().iter_results():
            print(result.job_id, result.raw_response)
        ```

    Args:
        results_dir: Directory for the answers, or a URL that fsspec knows (`s3://`, `gs://`): then
            the run works in a local folder and puts its results there at the end. Also the
            identity under which a run resumes.
        run_key: Identity under which the run resumes, in place of the results directory.
        budget: Name of a budget that runs share; see `shared_budget`.
        **options: Those of `batchata_prefect.batch.BatchTold`.

    Raises:
        ValidationError: An option makes no sense.
        ProviderNotFoundError: The credentials name a provider that there is not.
    """

    def __init__(
        self,
        results_dir: str | Path,
        max_parallel_batches: int = 10,
        items_per_batch: int = 10_000,
        raw_files: bool | None = None,
        *,
        run_key: str | None = None,
        budget: str | None = None,
        **options: Unpack[BatchTold],
    ) -> None:
        load_dotenv(Path.cwd() / ".env")
        if not str(results_dir).strip():
            raise ValidationError("results_dir is empty; name the directory for the answers")
        told: dict[str, Any] = {
            "max_parallel_batches": max_parallel_batches,
            "items_per_batch": items_per_batch,
            **({} if raw_files is None else {"raw_files": raw_files}),
            **({} if budget is None else {"shared_budget": budget}),
        }
        self._options = RunOptions.of(told | dict(options))
        if self._options.result_format == "parquet":
            require("pyarrow", "parquet", "result_format='parquet'")
        known = providers(self._options.accounts)
        for provider in self._options.credentials:
            if provider not in known:
                raise ProviderNotFoundError(
                    f"credentials name the provider {provider!r}; there are {sorted(known)}"
                )
        if self._options.state is not None:
            self.set_state(self._options.state, self._options.reuse_state)
        self._results_url = normal(str(results_dir)) if is_url(results_dir) else None
        if self._results_url is not None:
            self._results_dir = working_folder(self._results_url)
        else:
            self._results_dir = Path(results_dir).expanduser().resolve()
        self._run_key = run_key
        self._prices = price_book(self._options.prices, known=known)
        super().__init__(self._results_dir)
        self._intake.providers = known
        self._verbosity: str | None = None
        self._latest_run: BatchRun | None = None
        # A night without rows is no mistake of whoever has set up the deployment.
        self.may_be_empty = False

    def set_state(self, file: str | Path | None = None, reuse_state: bool = True) -> Self:
        """Say where the records of the run are kept, and whether to resume from them.

        Args:
            file: A directory, or a Prefect storage block as `type/name`; None for Prefect's own
                result storage.
            reuse_state: False starts over: everything is sent and paid again. Nothing that is
                there is deleted.
        """
        # From another working directory `./state` would be another place, and all paid again.
        place = None if file is None else directory_of(str(file))
        state = str(place or file) if file is not None else None
        self._options = self._options.but(state=state, reuse_state=reuse_state)
        return self

    def add_cost_limit(self, usd: float | Decimal | str) -> Self:
        """Never let the run cost more than this, over all its restarts.

        The upper bound of each provider batch is reserved before it is sent. Jobs that do not fit
        end as failed with `Cost limit exceeded` and go out in the next run with a higher limit.

        Args:
            usd: Limit in USD.

        Raises:
            ValueError: It is not a positive number.
        """
        self._options = self._options.but(cost_limit_usd=amount("the cost limit", usd))
        return self

    def add_time_limit(
        self,
        seconds: float | None = None,
        minutes: float | None = None,
        hours: float | None = None,
        *,
        on_deadline: Literal["fail", "realtime"] = "fail",
        realtime_usd: float | Decimal | str | None = None,
        margin_seconds: float | None = None,
    ) -> Self:
        """End the run this long after its first start; the units add up.

        At the limit the batches in flight are cancelled, what was finished is collected, and the
        rest ends as failed with `Time limit exceeded`. No exception is raised.

        With `on_deadline="realtime"`, a margin before the limit the batches that are not done are
        cancelled, and the jobs without an answer go through the realtime API at full price, each
        once. Where `realtime_usd` does not cover all, the smallest batches go over and the others
        keep their chance until the limit.

        Args:
            seconds: Seconds, added to the other units.
            minutes: Minutes.
            hours: Hours.
            on_deadline: `fail`, or `realtime`.
            realtime_usd: Upper bound in USD of what realtime requests may cost, within the cost
                limit; required for `realtime`.
            margin_seconds: Seconds before the limit at which jobs go over; a tenth of the limit by
                default, at least 60 and at most half of it.

        Raises:
            ValueError: No unit is given, the sum is not between 10 seconds and 24 hours, or
                `realtime` has no cost limit of its own or a margin outside of the time limit.
        """
        if seconds is None and minutes is None and hours is None:
            raise ValueError("give at least one of seconds, minutes or hours")
        total = sum(
            length * number(name, given)
            for name, given, length in (
                ("seconds", seconds, 1),
                ("minutes", minutes, 60),
                ("hours", hours, 3600),
            )
            if given is not None
        )
        if on_deadline not in {"fail", "realtime"}:
            raise ValueError(f"on_deadline must be 'fail' or 'realtime', not {on_deadline!r}")
        if on_deadline == "realtime" and realtime_usd is None:
            raise ValueError("on_deadline='realtime' needs a cost limit: realtime_usd=...")
        told = self._options.but(
            time_limit_hours=total / 3600,
            realtime_limit_usd=realtime_usd,
            margin_seconds=margin_seconds,
        )
        if on_deadline == "fail":
            told = told.but(realtime_limit_usd=None, margin_seconds=None)
        self._options = told
        return self

    def raw_files(self, enabled: bool = True) -> Self:
        """Say whether request files are kept; the provider's replies are kept in any case."""
        self._options = self._options.but(raw_files=enabled)
        return self

    def set_verbosity(self, level: str) -> Self:
        """Set from which level on log lines are shown during the run, Prefect's too.

        Prefect's UI has all of them in any case.

        Args:
            level: `debug`, `info`, `warn` or `error`.

        Raises:
            ValueError: Another word.
        """
        if level.lower() not in LEVELS:
            raise ValueError(f"verbosity must be one of {sorted(LEVELS)}, not {level!r}")
        self._verbosity = level.lower()
        return self

    @property
    def config(self) -> Config:
        """What the batch was told so far, under the original library's names; to be read only."""
        options, limit = self._options, self._options.cost_limit_usd
        return Config(
            state_file=options.state,
            results_dir=self._results_url or str(self._results_dir),
            max_parallel_batches=options.max_parallel_batches,
            items_per_batch=options.items_per_batch,
            cost_limit_usd=None if limit is None else float(limit),
            default_params=dict(self._intake.defaults),
            reuse_state=options.reuse_state,
            raw_files=options.raw_files,
            verbosity=self._verbosity,
            time_limit_seconds=options.time_limit_seconds,
        )

    @property
    def title(self) -> str:
        """What a person calls the jobs: their file, or the results directory."""
        name = PurePosixPath(self._results_url or self._results_dir).name
        if self._files.total() == len(self):
            name, *others = self._files
            name += f" and {len(others)} more" if others else ""
        count = f"{len(self):,} job{'' if len(self) == 1 else 's'}"
        return count if _UUID.fullmatch(name) else f"{name}, {count}"

    @property
    def latest_run(self) -> BatchRun | None:
        """The run that goes on, for its callbacks and other threads, or was the last; else None."""
        return self._latest_run

    def run(
        self,
        on_progress: ProgressCallback | None = None,
        progress_interval: float = 1.0,
        print_status: bool = False,
        dry_run: bool = False,
        *,
        on_batch: OnBatch | None = None,
        cancel: OnCancel | None = None,
        **options: Unpack[RunTold],
    ) -> BatchRun:
        """Run all jobs and wait for their answers.

        Works from a script, a notebook, any thread, and inside a Prefect flow, where it becomes
        a subflow. A killed run goes on when the same jobs are run again.

        Args:
            on_progress: Called with (stats, elapsed seconds, batch data).
            progress_interval: Seconds between two calls.
            print_status: Whether to show the progress on the terminal.
            dry_run: Whether to only plan: nothing is sent and no result is touched.
            on_batch: Called with each provider batch that has ended, an `EndedBatch`, and an
                iterator of the results of those of its jobs that are answered or failed for good,
                which is good until it returns. Calls come one after the other, in a thread of
                their own; the run goes on meanwhile, and ends after the last of them. Each batch
                is told at least once over all starts: once more only where the process died, or
                the function raised, before it had returned. What it raises is logged once and
                stops nothing. Jobs that no batch has answered are in the results alone.
            cancel: What Ctrl-C, SIGTERM, `BatchRun.cancel` and a cancellation in the Prefect UI
                do with the provider batches in flight: `collect`, the default, cancels them and
                collects what they finished, `detach` leaves them running for the next run.
            **options: Those of `batchata_prefect.batch.RunTold`. A flow that waits with
                `suspend` starts from its top again: keep what stands before this call cheap and
                repeatable. The canary's answers are part of the results and not paid again; where
                they are not good enough, the other jobs end as failed with `canary_failed`.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the results so far are written.
            SystemExit: The process was told to terminate (143); the results so far are written.
            ValidationError: There are no jobs, ids repeat, or a price is unknown under a cost
                limit; nothing was sent.
            MissingCredentialsError: A provider's API key is not set.
            BatchSubmissionError: A provider refuses the key or the account.
            StateError: Records or answers cannot be read or written.
        """
        run = self._prepare(on_progress, progress_interval, print_status, on_batch, cancel, options)
        return run.plan() if dry_run else run.execute()

    async def arun(
        self,
        on_progress: ProgressCallback | None = None,
        progress_interval: float = 1.0,
        print_status: bool = False,
        *,
        on_batch: OnBatch | None = None,
        cancel: OnCancel | None = None,
        **options: Unpack[RunTold],
    ) -> BatchRun:
        """`run` for async code, which goes on while the provider works.

        A cancelled task ends the run in order, as Ctrl-C does; cancelled twice, it ends at once.
        """
        run = self._prepare(on_progress, progress_interval, print_status, on_batch, cancel, options)
        return await run.aexecute()

    def _prepare(
        self,
        on_progress: ProgressCallback | None = None,
        progress_interval: float = 1.0,
        print_status: bool = False,
        on_batch: OnBatch | None = None,
        cancel: OnCancel | None = None,
        told: RunTold | None = None,
    ) -> BatchRun:
        if not (len(self) or self.may_be_empty):
            raise ValidationError("the batch has no jobs; add some with add_job")
        settings = Settings.of(
            {
                **dict(self._options),
                **({} if cancel is None else {"on_cancel": cancel}),
                **(told or {}),
                "results_dir": str(self._results_dir),
                "results_url": self._results_url,
                "run_key": self._run_key or self._results_url or str(self._results_dir),
                "jobs": len(self),
                "jobs_file": self.jobs_file,
                "title": self.title,
            }
        )
        if self._results_url is not None:
            probe(self._results_url)
        spool = self._intake.open_spool()
        spool.seal()
        self._intake.keep()
        refuse_unbound(spool, self._prices, *settings.limits)
        if settings.upload_files:
            refuse_uploads(spool, self._intake.providers)
        run = BatchRun(
            settings,
            spool,
            self._prices,
            dict(self._intake.schemas),
            Pace.from_environment(),
        )
        run.set_on_progress(on_progress, progress_interval).set_on_batch(on_batch)
        self._latest_run = run
        run.print_status, run.config = print_status, self.config
        return run

    def __repr__(self) -> str:
        usd = self._options.cost_limit_usd
        limit = "" if usd is None else f", cost_limit_usd={usd}"
        where = self._results_url or str(self._results_dir)
        return f"Batch(results_dir={where!r}, jobs={len(self)}{limit})"


def batch_of(
    options: FileOptions, results_dir: Path | str | None = None, run_key: str | None = None
) -> Batch:
    """The batch of a file's jobs, before they are added.

    Args:
        options: What it is told.
        results_dir: Directory for the answers, in place of what the options say.
        run_key: Identity under which it resumes, where the options have none.

    Raises:
        BatchataError: The options are wrong; nothing was sent.
    """
    of_run: Any = {name: getattr(options, name) for name in RunOptions.model_fields}
    key = options.run_key or run_key
    if results_dir is None:
        results_dir = options.results_dir.replace("{run_key}", key or "default")
    return Batch(results_dir, run_key=key, **of_run).set_default_params(**job_defaults(options))


def job_defaults(options: FileOptions) -> dict[str, Any]:
    """What is asked of every job of a file, as arguments of `Batch.add_job`."""
    asked = {
        **arguments(options, "set_default_params"),
        "tags": list(options.tags),
        "enable_citations": options.citations == "provider",
        "citations": "quoted" if options.citations == "quoted" else None,
        **options.params,
    }
    return {name: value for name, value in asked.items() if value not in (None, False, [])}


def add_file(batch: Batch, options: FileOptions) -> Batch:
    """Add the jobs of a file.

    Raises:
        ValidationError: Some rows make no job.
    """
    return batch.add_rows(options.jobs, **arguments(options, "add_rows"))


for _place, _names in ((Batch, BatchTold), (Batch.run, RunTold)):
    _place.__doc__ = described(_place.__doc__, _names.__annotations__)
