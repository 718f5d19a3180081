"""The one reader of `results.jsonl`: rows in the order of the jobs, one at a time.

A line that is damaged ends no reading: it is the row of a failed job that says so, in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from batchata_prefect.answers import JobResult
from batchata_prefect.content.schema import AnswerSchema
from batchata_prefect.files import BUFFER_BYTES
from batchata_prefect.jobs.spool import Context
from batchata_prefect.results.row import blank_row, from_row

NAME = "results.jsonl"

DAMAGED = "damaged_row"
"""Code of a job whose row cannot be read: whether it was answered is not known from it."""

BLANK = blank_row(Context("", {}), "", "")
"""A row of no job, with every column that a row has."""

_NEEDED = {"job_id", "status"}

_JOB_ID = re.compile(rb'\{"job_id":("(?:[^"\\]|\\.)*")')


class ResultFile:
    """A `results.jsonl`, read from its start each time that it is gone through."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Its rows."""
        return (row for _, row in self.lines())

    def lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Its lines as they stand there, and the row of each."""
        with self.path.open("rb", buffering=BUFFER_BYTES) as file:
            for number, line in enumerate(file, 1):
                yield line, row_of(line, number)

    def results(self, schemas: Mapping[str, AnswerSchema]) -> Iterator[JobResult]:
        """Its rows as results.

        Args:
            schemas: Digest -> answer schema, of those whose class is known.
        """
        for number, (line, row) in enumerate(self.lines(), 1):
            try:
                result = from_row(row, schemas)
            except Exception as error:
                # JSON in a column that is none is one job's trouble, and others come behind it.
                result = from_row(_damaged(line, f"line {number:,}", error), schemas)
            yield result


def row_of(line: bytes, number: int | None = None) -> dict[str, Any]:
    """The row in a line, with every column that a row has.

    Args:
        line: The line.
        number: Its number from 1, where that is known.
    """
    try:
        row: Any = orjson.loads(line)
        if len(row) >= len(BLANK) and isinstance(row, dict) and row.keys() >= _NEEDED:
            return cast("dict[str, Any]", row)
        # One that an earlier version wrote lacks the columns that are new.
        return {**BLANK, **row, "job_id": row["job_id"], "status": row["status"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return _damaged(line, "a line" if number is None else f"line {number:,}", error)


def row_at(file: BinaryIO, place: int) -> dict[str, Any]:
    """The row that begins at a byte of an open file."""
    file.seek(place)
    return row_of(file.readline())


def _damaged(line: bytes, where: str, error: Exception) -> dict[str, Any]:
    found = _JOB_ID.match(line)
    try:
        job_id = cast("str", orjson.loads(found[1])) if found else f"({where})"
    except orjson.JSONDecodeError:
        job_id = f"({where})"
    return {
        **BLANK,
        "job_id": job_id,
        "status": "failed",
        "raw_response": line.decode(errors="replace").rstrip("\n"),
        "error_code": DAMAGED,
        "error": f"{where} of {NAME} is damaged ({type(error).__name__}: {error})",
        "cost_usd": None,
    }
