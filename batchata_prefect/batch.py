"""`Batch`, the builder: takes jobs, refuses what no provider would take, and starts the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self, Unpack, cast

from dotenv import load_dotenv

from batchata_prefect.engine.session import (
    IfRunning,
    OnBatch,
    OnCancel,
    OnDeadline,
    Pace,
    ResultFormat,
    Settings,
    Told,
    Wait,
)
from batchata_prefect.errors import ProviderError, ProviderNotFoundError, ValidationError
from batchata_prefect.jobs.bounds import refuse_unbound
from batchata_prefect.jobs.intake import JOB_FIELDS, Intake
from batchata_prefect.jobs.spool import MOST_ATTEMPTS
from batchata_prefect.models import FileInput, Job, Message, ResponseModel
from batchata_prefect.money.own import Prices
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.numbers import number, whole
from batchata_prefect.numbers import usd as amount
from batchata_prefect.providers import provider_for, providers
from batchata_prefect.records.note import directory_of
from batchata_prefect.results.frames import require
from batchata_prefect.results.remote import is_url, normal, probe, working_folder
from batchata_prefect.run import BatchRun, ProgressCallback

logger = logging.getLogger("batchata_prefect")

_VERBOSITY = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_SHORTEST_SECONDS, _LONGEST_SECONDS = 10.0, 24 * 3600.0
_FAULTS_SHOWN = 20
_FAULTS_KEPT = 1_000


class Batch:
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
        max_parallel_batches: Provider batches in flight at once.
        items_per_batch: Jobs in one provider batch, at most; the provider's own limits hold too.
        raw_files: Whether the request files are kept in `results_dir/raw_files/requests`. The
            provider's replies are what was paid for and are always kept.
        run_key: Identity under which the run resumes, in place of the results directory.
        result_format: `jsonl` for `results.jsonl`; besides, `json` writes one file a job, and
            `parquet` a `results.parquet` as from `BatchRun.to_arrow`.
        tokens_per_batch: Upper bound of input tokens in one provider batch.
        max_attempts: Times that one job is sent at most, when the provider fails it.
        max_reasks: Times that one job is asked again because its answer was cut off, was no JSON or
            did not fit its response model: with more output tokens, or with the answer and what
            was wrong with it. Each is paid again, counts as an attempt, and stays in the budget.
        prices: USD per million tokens, as charged in a batch, for models whose price is unknown
            or other: `{"my-model": {"input": 0.5, "output": 2.0}}`, or the path of a JSON or TOML
            file of the same keys.
        quota: Input tokens of a model that may wait at the provider at once, where the account has
            such a limit: `{"gpt-6-luna": 2_000_000}`. One that is not given is learnt when the
            provider turns a batch away.
        upload_files: Whether a PDF or image from 100 kB that several jobs share is uploaded to the
            provider once and deleted after the run; None does it where it saves 20 MB or more.
        budget: Name of a budget, such as `team-a-2026-11`, that runs of any process share through
            the Prefect server: the cost limit of each is then that of all together.
        credentials: Provider -> Prefect block with its key, in place of the environment's:
            `{"anthropic": "team-a"}`, see `batchata_prefect.blocks`.

    Raises:
        ValidationError: A number is not positive, or the results directory is a URL.
    """

    def __init__(
        self,
        results_dir: str | Path,
        max_parallel_batches: int = 10,
        items_per_batch: int = 10_000,
        raw_files: bool | None = None,
        *,
        run_key: str | None = None,
        result_format: ResultFormat = "jsonl",
        tokens_per_batch: int | None = None,
        max_attempts: int = 3,
        max_reasks: int = 0,
        prices: Prices | None = None,
        quota: Mapping[str, int] | None = None,
        upload_files: bool | None = None,
        budget: str | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        load_dotenv(Path.cwd() / ".env")
        if not str(results_dir).strip():
            raise ValidationError("results_dir is empty; name the directory for the answers")
        max_parallel_batches = whole("max_parallel_batches", max_parallel_batches, least=1)
        items_per_batch = whole("items_per_batch", items_per_batch, least=1)
        if tokens_per_batch is not None:
            tokens_per_batch = whole("tokens_per_batch", tokens_per_batch, least=1)
        max_attempts = whole("max_attempts", max_attempts, least=1, most=MOST_ATTEMPTS)
        max_reasks = whole("max_reasks", max_reasks)
        if result_format not in {"jsonl", "json", "parquet"}:
            raise ValidationError(
                f"result_format must be 'jsonl', 'json' or 'parquet', not {result_format!r}"
            )
        if result_format == "parquet":
            require("pyarrow", "parquet", "result_format='parquet'")
        self._results_url = normal(str(results_dir)) if is_url(results_dir) else None
        if self._results_url is not None:
            self._results_dir = working_folder(self._results_url)
        else:
            self._results_dir = Path(results_dir).expanduser().resolve()
        self._run_key = run_key
        self._max_parallel_batches = max_parallel_batches
        self._items_per_batch = items_per_batch
        self._raw_files = True if raw_files is None else raw_files
        self._result_format: ResultFormat = result_format
        self._tokens_per_batch = tokens_per_batch
        self._max_attempts = max_attempts
        self._max_reasks = max_reasks
        self._latest_run: BatchRun | None = None
        self._upload_files = upload_files
        self._budget = budget
        self._credentials = dict(credentials or {})
        for provider, block in self._credentials.items():
            if provider not in providers():
                raise ProviderNotFoundError(
                    f"credentials name the provider {provider!r}; there are {sorted(providers())}"
                )
            if not isinstance(cast("object", block), str) or not block:
                raise ValidationError(
                    f"the credentials for {provider!r} must be the name of a saved block, so that "
                    "the run finds its key again; save the block and give its name"
                )
        self._quota = {
            model: whole(f"the quota of {model!r}", tokens, least=1)
            for model, tokens in (quota or {}).items()
        }
        self._prices = PriceBook(prices)
        self._intake = Intake(self._results_dir)
        self._state: str | None = None
        self._reuse_state = True
        self._cost_limit_usd: Decimal | None = None
        self._time_limit_seconds: float | None = None
        self._on_deadline: OnDeadline = "fail"
        self._realtime_limit_usd: Decimal | None = None
        self._margin_seconds = 0.0

    def set_default_params(self, **kwargs: Any) -> Self:
        """Set parameters for the jobs added from here on; a job's own values go first.

        Takes what `add_job` takes besides the job's content and id: model, temperature,
        max_tokens, response_model, provider, endpoint, and any request parameter.

        Raises:
            ProviderNotFoundError: No provider is known for the model.
            ValidationError: A name that is no default, such as `messages`.
        """
        for name in ("messages", "file", "prompt", "id"):
            if name in kwargs:
                raise ValidationError(f"{name!r} belongs to a job and cannot be a default")
        if "model" in kwargs:
            provider_for(
                kwargs["model"], kwargs.get("provider", self._intake.defaults.get("provider"))
            )
        self._intake.set_defaults(kwargs)
        return self

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
        self._state = str(place or file) if file is not None else None
        self._reuse_state = reuse_state
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
        self._cost_limit_usd = amount("the cost limit", usd)
        return self

    def add_time_limit(
        self,
        seconds: float | None = None,
        minutes: float | None = None,
        hours: float | None = None,
        *,
        on_deadline: OnDeadline = "fail",
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
        if not _SHORTEST_SECONDS <= total <= _LONGEST_SECONDS:
            raise ValueError(
                f"the time limit must be between 10 seconds and 24 hours, not {total:g} seconds"
            )
        realtime = None if realtime_usd is None else amount("realtime_usd", realtime_usd)
        margin = min(max(60.0, total / 10), total / 2)
        if margin_seconds is not None:
            margin = number("margin_seconds", margin_seconds)
        if on_deadline == "realtime":
            if realtime is None:
                raise ValueError("on_deadline='realtime' needs a cost limit: realtime_usd=...")
            if not 0 < margin < total:
                raise ValueError(
                    f"the margin must lie inside the time limit, and {margin_seconds!r} s does not"
                )
            self._realtime_limit_usd, self._margin_seconds = realtime, margin
        self._time_limit_seconds, self._on_deadline = total, on_deadline
        return self

    def raw_files(self, enabled: bool = True) -> Self:
        """Say whether request files are kept; the provider's replies are kept in any case."""
        self._raw_files = enabled
        return self

    def set_verbosity(self, level: str) -> Self:
        """Set the level of this package's log lines: debug, info, warn or error.

        Raises:
            ValueError: Another word.
        """
        if level.lower() not in _VERBOSITY:
            raise ValueError(f"verbosity must be one of {sorted(_VERBOSITY)}, not {level!r}")
        logger.setLevel(_VERBOSITY[level.lower()])
        return self

    def add_job(
        self,
        messages: Sequence[Message] | None = None,
        file: FileInput | None = None,
        prompt: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        response_model: ResponseModel | None = None,
        enable_citations: bool | None = None,
        *,
        citations: Literal["quoted"] | None = None,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        cache_prefix: bool | None = None,
        accept_truncated: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Add one job: `messages`, or `prompt` with or without `file`.

        Args:
            messages: Chat messages.
            file: Path, URL or bytes of a document, or several.
            prompt: What to do, with the document if there is one.
            model: Model id.
            temperature: Sampling temperature; an error where the model takes none.
            max_tokens: Upper bound of output tokens, thinking included.
            response_model: Pydantic class, dataclass, TypedDict, JSON schema or import path to
                parse the answer into.
            enable_citations: Whether the answer shall cite its documents, with the provider's own
                citations (Anthropic).
            citations: `quoted` asks for quotes in the answer's form instead, on both providers,
                with or without `response_model`. Each is looked for in the documents; those that
                stand in none are dropped and counted in the result's `citations_dropped`. Costs
                the output tokens of the quotes.
            id: The job's own id; made from its content where none is given.
            metadata: Your own values, given back on the result, never sent.
            tags: Words under which the cost is added up in the report and the manifest; never
                sent. A job with two tags counts under both.
            cache_prefix: Whether other jobs begin with the same system prompt and documents: they
                are held in the provider's cache for an hour and the jobs are sent side by side.
                Writing costs twice the input price at Anthropic, reading a tenth.
            accept_truncated: Whether an answer that was cut off at `max_tokens`, or where the
                context window was full, is taken as completed; by default it is failed with
                `truncated`. One that has to be parsed must be whole all the same.
            **kwargs: `provider`, `endpoint`, and any request parameter.

        Raises:
            ValidationError: The job would be refused; the text says why. Nothing was sent.
            ProviderNotFoundError: No provider is known for the model.
        """
        if not (kwargs or metadata or tags) and (
            messages is file is model is temperature is max_tokens is response_model is None
            and enable_citations is citations is cache_prefix is accept_truncated is None
            and prompt is not None
            and id is not None
        ):
            # Most jobs of a large run, and looking through all that they leave out takes a while.
            self._intake.add({"prompt": prompt, "id": id})
            return self
        given = {
            "messages": messages,
            "file": file,
            "prompt": prompt,
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "response_model": response_model,
            "enable_citations": enable_citations,
            "citations": citations,
            "id": id,
            "metadata": metadata,
            "tags": tags,
            "cache_prefix": cache_prefix,
            "accept_truncated": accept_truncated,
            **kwargs,
        }
        self._intake.add({key: value for key, value in given.items() if value is not None})
        return self

    def add_jobs(self, jobs: Iterable[Mapping[str, Any] | Job]) -> Self:
        """Add many jobs: `Job` objects, or mappings of `add_job`'s arguments; read as they come.

        Raises:
            ValidationError: Some jobs would be refused: all of them are named together. The
                batch then holds only the good ones; make a new one from mended jobs.
        """
        faults: list[str] = []
        for nth, item in enumerate(jobs, start=1):
            values = _job_values(item) if isinstance(item, Job) else item
            try:
                self._intake.add({key: value for key, value in values.items() if value is not None})
            except (ValidationError, ProviderError) as error:
                faults.append(f"job {values.get('id') or nth!r}: {error}")
        _raise_together(faults)
        return self

    def add_rows(
        self,
        source: str | Path | Iterable[Mapping[str, Any]] | Any,
        prompt: str | None = None,
        *,
        id_column: str | None = None,
        file_column: str | None = None,
        metadata_columns: Sequence[str] | None = None,
        documents_root: str | Path | None = None,
        allow_urls: Sequence[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Add one job for each row of a table; read in pieces, never held as a whole.

        Args:
            source: Path or URL of a `.jsonl`, `.csv`, `.tsv` or `.parquet` file (packed ones too),
                a pandas or polars frame, an Arrow table or reader, a Hugging Face data set, a
                duckdb relation, or any iterable of mappings.
            prompt: Prompt template over the columns, such as `Summarize: {text}`. Without one,
                each row is a job itself: its columns are arguments of `add_job`.
            id_column: Column with the job's id; the column `id` by default, where there is one.
            file_column: Column with a path or URL, from the folder of the source where it is
                relative, or with the bytes of the document.
            metadata_columns: Columns that are given back with the result; by default all that the
                template, the id and the file do not use, `[]` for none.
            documents_root: Folder in which the documents have to lie that rows name, links
                followed: rows are data. That of the source by default, and the current one for a
                table that is no file; `/` for any.
            allow_urls: Hosts of the URLs that rows may name, such as `docs.example.com` or
                `*.example.com`, and `s3://bucket` of what is not HTTP; none by default. What a URL
                leads on to is held to the same, and an address of a private network is read only
                from a host that is named in full.
            **kwargs: Further arguments of `add_job` for every row.

        Raises:
            ValidationError: The source cannot be read, or some rows make no job: all of them are
                named together. The batch then holds only the good ones; make a new one.
        """
        # fsspec takes a while to import, and jobs that are added one by one never need it.
        from batchata_prefect.jobs.sources import RowForm, place_of, rows_of

        origin: str | None = None
        if isinstance(source, (str, os.PathLike)):
            allowed = (documents_root and str(documents_root), *allow_urls)
            columns = (id_column, file_column, metadata_columns, allowed)
            told = {**kwargs, "prompt": prompt, "columns": columns}
            origin = self._intake.take_over(Path(cast("str", source)), told)
            if self._intake.origin is not None:
                return self
        faults: list[str] = []
        form: RowForm | None = None
        rows = rows_of(source)
        try:
            for number, row in enumerate(rows, start=1):
                if form is None:
                    own = "id" if prompt is not None and "id" in row else None
                    form = RowForm(
                        prompt,
                        id_column or own,
                        file_column,
                        metadata_columns,
                        kwargs,
                        others=True,
                        documents_root=documents_root,
                        allow_urls=allow_urls,
                    )
                if len(faults) == _FAULTS_KEPT:
                    faults.append("no more of the rows were read")
                    break
                try:
                    values = form.job(row, number)
                except ValidationError as error:
                    faults.append(str(error))
                    continue
                try:
                    self._intake.add(
                        {key: value for key, value in values.items() if value is not None}
                    )
                except (ValidationError, ProviderError) as error:
                    faults.append(f"{place_of(row, number)}: {error}")
        except ValidationError as error:
            # The source itself broke off, and what stands behind this is not known.
            faults.append(str(error))
        _raise_together(faults)
        self._intake.came_from(origin)
        return self

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
        cancel: OnCancel = "collect",
        if_running: IfRunning = "wait",
        wait: Wait = "poll",
        canary: float | None = None,
        min_valid: float = 0.95,
        approve: bool = False,
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
                do with the provider batches in flight: `collect` cancels them and collects what
                they finished, `detach` leaves them running for the next run.
            if_running: Whether to `wait` or to `fail` while another process runs the same job set.
            wait: `poll` waits in this process. `suspend` is for the flow of a deployment: while the
                providers work, the flow run suspends and its process ends, and the `collector`
                deployment resumes it when there is something to collect. The flow then starts from
                its top again: keep what stands before this call cheap and repeatable.
            canary: Part of the jobs (0.01), or number of jobs (50), that are answered first, spread
                over all of them. The others follow only if its answers are good enough and the
                whole is projected to stay inside the cost limit; else they end as failed with
                `canary_failed`. Its answers are part of the results and not paid again.
            min_valid: Part of the canary's answers that must be as asked, from 0 to 1.
            approve: Whether, after the canary, the flow run pauses until a person says in the
                Prefect UI whether the others may follow.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the results so far are written.
            SystemExit: The process was told to terminate (143); the results so far are written.
            ValidationError: There are no jobs, ids repeat, or a price is unknown under a cost
                limit; nothing was sent.
            MissingCredentialsError: A provider's API key is not set.
            BatchSubmissionError: A provider refuses the key or the account.
            StateError: Records or answers cannot be read or written.
        """
        run = self._prepare(
            on_progress,
            progress_interval,
            print_status,
            on_batch,
            on_cancel=cancel,
            if_running=if_running,
            wait=wait,
            canary=canary,
            min_valid=min_valid,
            approve=approve,
        )
        if dry_run:
            return run.plan()
        return run.execute()

    async def arun(
        self,
        on_progress: ProgressCallback | None = None,
        progress_interval: float = 1.0,
        print_status: bool = False,
        *,
        on_batch: OnBatch | None = None,
        cancel: OnCancel = "collect",
        if_running: IfRunning = "wait",
        wait: Wait = "poll",
        canary: float | None = None,
        min_valid: float = 0.95,
        approve: bool = False,
    ) -> BatchRun:
        """`run` for async code, which goes on while the provider works.

        A cancelled task ends the run in order, as Ctrl-C does; cancelled twice, it ends at once.
        """
        run = self._prepare(
            on_progress,
            progress_interval,
            print_status,
            on_batch,
            on_cancel=cancel,
            if_running=if_running,
            wait=wait,
            canary=canary,
            min_valid=min_valid,
            approve=approve,
        )
        return await run.aexecute()

    def _prepare(
        self,
        on_progress: ProgressCallback | None,
        progress_interval: float,
        print_status: bool = False,
        on_batch: OnBatch | None = None,
        **told: Unpack[Told],
    ) -> BatchRun:
        if self._intake.spool is None or not len(self):
            raise ValidationError("the batch has no jobs; add some with add_job")
        if self._budget is not None and self._cost_limit_usd is None:
            raise ValidationError(
                f"the budget {self._budget!r} has no limit; give it with add_cost_limit(usd=...)"
            )
        if self._results_url is not None:
            probe(self._results_url)
        self._intake.spool.seal()
        self._intake.keep()
        settings = Settings(
            results_dir=str(self._results_dir),
            results_url=self._results_url,
            run_key=self._run_key or self._results_url or str(self._results_dir),
            jobs=len(self),
            max_parallel_batches=self._max_parallel_batches,
            items_per_batch=self._items_per_batch,
            tokens_per_batch=self._tokens_per_batch,
            cost_limit_usd=self._cost_limit_usd,
            budget=self._budget,
            credentials=self._credentials,
            time_limit_seconds=self._time_limit_seconds,
            on_deadline=self._on_deadline,
            realtime_limit_usd=self._realtime_limit_usd,
            margin_seconds=self._margin_seconds,
            max_attempts=self._max_attempts,
            raw_files=self._raw_files,
            result_format=self._result_format,
            quota=self._quota,
            upload_files=self._upload_files,
            max_reasks=self._max_reasks,
            state=self._state,
            reuse_state=self._reuse_state,
            **told,
        )
        refuse_unbound(self._intake.spool, self._prices, *settings.limits)
        run = BatchRun(
            settings,
            self._intake.spool,
            self._prices,
            dict(self._intake.schemas),
            Pace.from_environment(),
        )
        run.set_on_progress(on_progress, progress_interval).set_on_batch(on_batch)
        self._latest_run = run
        run.print_status = print_status
        return run

    def __len__(self) -> int:
        """Number of jobs."""
        return self._intake.spool.count if self._intake.spool is not None else 0

    def __repr__(self) -> str:
        limit = f", cost_limit_usd={self._cost_limit_usd}" if self._cost_limit_usd else ""
        where = self._results_url or str(self._results_dir)
        return f"Batch(results_dir={where!r}, jobs={len(self)}{limit})"


def _raise_together(faults: list[str]) -> None:
    if not faults:
        return
    shown = "\n".join(f"- {fault}" for fault in faults[:_FAULTS_SHOWN])
    more = len(faults) - _FAULTS_SHOWN
    raise ValidationError(
        f"{len(faults)} jobs would be refused, nothing was sent:\n{shown}"
        + (f"\n- and {more} more" if more > 0 else ""),
        faults,
    )


def _job_values(job: Job) -> dict[str, Any]:
    values = {name: getattr(job, name) for name in JOB_FIELDS}
    values |= job.params
    for name in ("enable_citations", "accept_truncated"):
        if not values[name]:
            del values[name]
    for name in ("metadata", "tags"):
        if not values[name]:
            del values[name]
    return values
