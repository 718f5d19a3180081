"""The answers of a run, as results, frames, and against those of another run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from batchata_prefect.answers import JobResult
from batchata_prefect.content.schema import AnswerSchema
from batchata_prefect.errors import StateError
from batchata_prefect.numbers import counted, dollars
from batchata_prefect.results.diff import RunDiff
from batchata_prefect.results.ended import EndedRows
from batchata_prefect.results.result_file import ResultFile
from batchata_prefect.results.row import from_row


class RunAnswers(ABC):
    """The answers of a run, from its results directory."""

    def __init__(self, schemas: Mapping[str, AnswerSchema], job_set: str) -> None:
        self._schemas = schemas
        self._job_set = job_set

    @property
    @abstractmethod
    def results_dir(self) -> Path:
        """Where the answers lie; with results at a URL, the local copy."""

    @property
    @abstractmethod
    def manifest(self) -> dict[str, Any] | None:
        """What the run came to; None until it is finished."""

    def __repr__(self) -> str:
        """Where its results are, and how many of its jobs are answered."""
        where, manifest = str(self.results_dir), self.manifest
        if manifest is None:
            return f"BatchRun(results_dir={where!r}, not finished)"
        counts = manifest["counts"]
        answered = f"{counts['completed']:,} of {counted(counts['total'], 'job')} answered"
        return f"BatchRun(results_dir={where!r}, {answered}, {dollars(manifest['cost_usd'])})"

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<code>{escape(repr(self))}</code>"

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether every job has its result."""

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
        schemas = self._schemas
        if self.is_complete:
            yield from ResultFile(self.results_dir / "results.jsonl").results(schemas)
            return
        try:
            ended = EndedRows(self.results_dir)
        except FileNotFoundError:
            return
        if ended.head["job_set"] == self._job_set:
            for row in ended:
                yield from_row(row, schemas)

    def to_arrow(self) -> Any:
        """The results as a pyarrow table, one row a job, in the order of the jobs.

        It has `row`, the number of the row of the jobs that a result is of, from 1; the columns of
        `results.jsonl`; and for each field of the metadata and of the parsed answers a column
        `metadata.<field>` and `answer.<field>`: of booleans, whole numbers, floats or text where
        all its values are such, else of JSON text. Where there are more than 200 fields, they stay
        in `metadata_json` and `parsed_response_json` alone.

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

    @property
    def completed_results(self) -> dict[str, JobResult]:
        """Job id -> result of all completed jobs; read, and held in memory, at each call."""
        return {each.job_id: each for each in self.iter_results() if each.status == "completed"}

    @property
    def failed_jobs(self) -> dict[str, str]:
        """Job id -> error of all failed jobs, as `get_failed_jobs`."""
        return self.get_failed_jobs()

    @property
    def cancelled_jobs(self) -> dict[str, str]:
        """Job id -> reason of all cancelled jobs; read at each call."""
        return {
            each.job_id: each.error or ""
            for each in self.iter_results()
            if each.status == "cancelled"
        }

    def diff(self, other: RunAnswers | str | Path) -> RunDiff:
        """What changed against an earlier run of the same jobs, such as one with another prompt.

        Jobs are known by their ids: give them ids of their own, because one that is made from a
        job's content changes with it.

        Args:
            other: The earlier run, or its results directory.

        Raises:
            StateError: One of them has no results yet.
        """
        before = other.results_dir if isinstance(other, RunAnswers) else other
        return RunDiff(before, self.results_dir)
