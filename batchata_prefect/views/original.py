"""What the original library tells of a batch and a run in words of its own."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from batchata_prefect.answers import JobResult
from batchata_prefect.jobs.spool import ANSWERED, CANCELED, FAILED, Spool
from batchata_prefect.results.result_file import NAME

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
"""Words of `Batch.set_verbosity`, and what they stand for."""


MOST_LISTED = 10_000
"""Jobs up to which `BatchRun.to_json` lists them."""

NOT_LISTED: Mapping[str, Any] = dict.fromkeys(
    ("pending_jobs", "completed_results", "failed_jobs", "cancelled_jobs")
)
"""What `listed` would give, where there are more."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a batch was told, under the original library's names.

    Attributes:
        state_file: Where the records of the run are kept; None for Prefect's own storage.
        results_dir: Directory for the answers; with results at a URL, that.
        max_parallel_batches: Provider batches in flight at once.
        items_per_batch: Jobs in one provider batch at most.
        cost_limit_usd: What the run may cost in USD; None for no limit.
        default_params: Values for the jobs that do not give their own.
        reuse_state: Whether to resume.
        raw_files: Whether request files are kept.
        verbosity: Level of the log lines; None where none was set.
        time_limit_seconds: From the first start to the deadline; None for no limit.
    """

    state_file: str | None
    results_dir: str
    max_parallel_batches: int
    items_per_batch: int
    cost_limit_usd: float | None
    default_params: Mapping[str, Any]
    reuse_state: bool
    raw_files: bool
    verbosity: str | None
    time_limit_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; a class among the defaults becomes its name."""
        return orjson.loads(orjson.dumps(self, default=lambda it: getattr(it, "__name__", str(it))))


def pending(spool: Spool) -> list[dict[str, str]]:
    """Id and model of each job that has not ended."""
    reader, ended = spool.reader(), {ANSWERED, FAILED, CANCELED}
    try:
        return [
            {"id": reader.context(each).job_id, "model": reader.family(each).model}
            for each in range(spool.count)
            if spool.states.state(each) not in ended
        ]
    finally:
        reader.close()


def listed(
    waiting: Iterable[Mapping[str, str]], results: Iterable[JobResult], results_dir: Path
) -> Mapping[str, Any]:
    """The jobs of a run in the original's four lists.

    Args:
        waiting: The jobs without a result.
        results: The others.
        results_dir: Where their answers lie.
    """
    now = datetime.now().isoformat()
    found: dict[str, list[dict[str, Any]]] = {
        "completed_results": [],
        "failed_jobs": [],
        "cancelled_jobs": [],
    }
    for each in results:
        if each.status == "completed":
            row = {"job_id": each.job_id, "file_path": str(results_dir / NAME)}
            found["completed_results"].append(row)
        else:
            word = "error" if each.status == "failed" else "reason"
            row = {"id": each.job_id, word: each.error, "timestamp": now}
            found[f"{each.status}_jobs"].append(row)
    return {"pending_jobs": list(waiting), **found}


@contextmanager
def quiet(verbosity: str | None) -> Generator[None]:
    """Show log lines of this package and of Prefect from a level on; Prefect's UI has them all.

    Args:
        verbosity: One of `LEVELS`; None changes nothing.
    """
    if verbosity is None:
        yield
        return
    level, logger = LEVELS[verbosity], logging.getLogger("batchata_prefect")

    def is_shown(record: logging.LogRecord) -> bool:
        ours = record.name.partition(".")[0] in {"prefect", "batchata_prefect"}
        return record.levelno >= level or not ours

    before, handlers = logger.level, list(logging.root.handlers)
    logger.setLevel(level)
    for handler in handlers:
        handler.addFilter(is_shown)
    try:
        yield
    finally:
        logger.setLevel(before)
        for handler in handlers:
            handler.removeFilter(is_shown)
