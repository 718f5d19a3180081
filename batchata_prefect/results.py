"""Reading results back: the rows of a `results.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from batchata_prefect.answers import from_row
from batchata_prefect.models import JobResult
from batchata_prefect.reading import lines
from batchata_prefect.schema import AnswerSchema


def read_results(path: Path, schemas: Mapping[str, AnswerSchema]) -> Iterator[JobResult]:
    """The results of a `results.jsonl`, one at a time."""
    for line in lines(path):
        yield from_row(orjson.loads(line), schemas)
