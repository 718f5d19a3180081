"""Two runs over the same jobs side by side: what another prompt or another model changed."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from batchata_prefect.content.exact_json import loads_exact
from batchata_prefect.errors import StateError
from batchata_prefect.files import scratch_database
from batchata_prefect.results.remote import bring, is_url
from batchata_prefect.results.result_file import ResultFile, row_at

_TABLE = "CREATE TABLE job (id TEXT PRIMARY KEY, place INT) WITHOUT ROWID"
_POP = "DELETE FROM job WHERE id = ? RETURNING place"
_CACHE_KIB = 32_768

Row: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class JobDiff:
    """One job that is not the same in both runs.

    Attributes:
        job_id: The job.
        before: Its status in the first run, with the error code if it has one.
        after: The same in the second run.
        fields: Field path of the answer -> its values in the first and the second run; `""` is
            an answer that is no object. Empty where both answers are the same.
        cost_usd: What the second run cost more for it, in USD; None where a cost is unknown.
        tokens: Input and output tokens that the second run took more.
    """

    job_id: str
    before: str
    after: str
    fields: Mapping[str, tuple[Any, Any]]
    cost_usd: float | None
    tokens: int

    @property
    def is_changed(self) -> bool:
        """Whether the status or the answer is another."""
        return bool(self.fields) or self.before != self.after

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        fields = {path: list(values) for path, values in self.fields.items()}
        return {**asdict(self), "fields": fields}


@dataclass(slots=True)
class DiffSums:
    """What a diff comes to; complete once all of it was read.

    Attributes:
        jobs: Jobs that are in both runs.
        only_before: Jobs that only the first run has.
        only_after: Jobs that only the second run has.
        changed: Jobs with another status or answer.
        fields: Field path -> jobs in which its value is another.
        mended: Jobs that only the second run answered.
        broken: Jobs that only the first run answered.
        completed: Answered jobs of the first and of the second run.
        cost_usd: Cost in USD of each run over the jobs of both; None where one is unknown.
        input_tokens: Input tokens of each run over the jobs of both.
        output_tokens: Output tokens of each run over the jobs of both.
    """

    jobs: int = 0
    only_before: int = 0
    only_after: int = 0
    changed: int = 0
    fields: dict[str, int] = field(default_factory=dict[str, int])
    mended: int = 0
    broken: int = 0
    completed: list[int] = field(default_factory=lambda: [0, 0])
    cost_usd: list[float | None] = field(default_factory=lambda: [0.0, 0.0])
    input_tokens: list[int] = field(default_factory=lambda: [0, 0])
    output_tokens: list[int] = field(default_factory=lambda: [0, 0])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def add(self, before: Row, after: Row, found: JobDiff) -> None:
        """Count one job of both runs."""
        self.jobs += 1
        done = [row["status"] == "completed" for row in (before, after)]
        self.mended += done == [False, True]
        self.broken += done == [True, False]
        self.changed += found.is_changed
        for path in found.fields:
            self.fields[path] = self.fields.get(path, 0) + 1
        for place, row in enumerate((before, after)):
            cost, so_far = row["cost_usd"], self.cost_usd[place]
            self.completed[place] += done[place]
            self.cost_usd[place] = None if cost is None or so_far is None else so_far + cost
            self.input_tokens[place] += row["input_tokens"]
            self.output_tokens[place] += row["output_tokens"]


class RunDiff:
    """The difference of two runs, read from their result files as it is looked at.

    Example:
        ```python
        diff = run.diff("./output-with-the-old-prompt")
        print(diff.sums.mended, diff.sums.broken)
        for job in diff:
            print(job.job_id, job.fields)
        ```

    Args:
        before: Results directory of the first run.
        after: Results directory of the second run.

    Raises:
        StateError: One of them has no results.
    """

    def __init__(self, before: str | os.PathLike[str], after: str | os.PathLike[str]) -> None:
        self._before, self._after = _results_of(before), _results_of(after)
        self._sums: DiffSums | None = None

    def __iter__(self) -> Iterator[JobDiff]:
        """The jobs with another status or answer, in the order of the second run.

        Memory does not grow with the number of jobs: where they lie in the first run is held in
        a temporary database.
        """
        sums = DiffSums()
        with _places(self._before) as places, self._before.open("rb") as old:
            for after in ResultFile(self._after):
                # A job is given out once.
                place = places.execute(_POP, (after["job_id"],)).fetchone()
                if place is None:
                    sums.only_after += 1
                    continue
                before = row_at(old, place[0])
                found = compare(before, after)
                sums.add(before, after, found)
                if found.is_changed:
                    yield found
            (sums.only_before,) = places.execute("SELECT COUNT(*) FROM job").fetchone()
        self._sums = sums

    @property
    def sums(self) -> DiffSums:
        """What the difference comes to; reads both runs where that was not done yet."""
        if self._sums is None:
            for _ in self:
                pass
        assert self._sums is not None
        return self._sums


def compare(before: Row, after: Row) -> JobDiff:
    """The difference of one job between two rows of `results.jsonl`."""
    costs = before["cost_usd"], after["cost_usd"]
    return JobDiff(
        job_id=after["job_id"],
        before=_state(before),
        after=_state(after),
        fields=_changed("", _answer(before), _answer(after)),
        cost_usd=None if None in costs else costs[1] - costs[0],
        tokens=sum(after[name] - before[name] for name in ("input_tokens", "output_tokens")),
    )


def _state(row: Row) -> str:
    return f"{row['status']} ({row['error_code']})" if row["error_code"] else row["status"]


def _answer(row: Row) -> Any:
    """What is compared: the parsed answer, else the text; vectors are only the same or not."""
    if row["status"] != "completed":
        return None
    if row["parsed_response_json"] is not None:
        return loads_exact(row["parsed_response_json"])
    return row["raw_response"] if row["embedding"] is None else row["embedding"]


def _changed(path: str, before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Field path -> both values, down to the smallest part that differs."""
    if before == after:
        return {}
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        found: dict[str, tuple[Any, Any]] = {}
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{path}.{name}" if path else name
            found |= _changed(inner, old.get(name), new.get(name))
        # {"a": None} and {} differ by no value of a field.
        return found
    return {path: (before, after)}


def _results_of(results_dir: str | os.PathLike[str]) -> Path:
    place = os.fspath(results_dir)
    path = (bring(place) if is_url(place) else Path(place).expanduser()) / "results.jsonl"
    if not path.exists():
        raise StateError(
            f"{os.fspath(results_dir)!r} has no results.jsonl; name the results directory of a "
            "run that is over"
        )
    return path


@contextmanager
def _places(path: Path) -> Generator[sqlite3.Connection]:
    """Where each job stands in a result file."""
    with (
        tempfile.TemporaryDirectory(prefix="batchata-diff-") as folder,
        closing(
            scratch_database(Path(folder) / "places.db", _TABLE, cache_kib=_CACHE_KIB)
        ) as database,
    ):
        # Of two rows of one id, the first.
        database.executemany("INSERT OR IGNORE INTO job VALUES (?, ?)", _starts(path))
        yield database


def _starts(path: Path) -> Iterator[tuple[str, int]]:
    """The id of each job, and where its row begins."""
    at = 0
    for line, row in ResultFile(path).lines():
        yield row["job_id"], at
        at += len(line)
