"""What `batchata results --export` writes, so that it can be joined to the rows of the jobs."""

from __future__ import annotations

import csv
from pathlib import Path

import orjson
import pytest

from batchata_prefect.cli.answers import results


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_export_has_the_number_of_the_row(tmp_path: Path, kind: str) -> None:
    """Also of a part of the answers, and with no ids of one's own."""
    rows = [
        {"job_id": f"job-{n:012x}", "status": "failed" if n % 2 else "completed", "error": "x"}
        for n in range(5)
    ]
    (tmp_path / "results.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    path = tmp_path / f"out.{kind}"
    assert results(tmp_path, failed=True, export=path) == 0
    text = path.read_text().splitlines()
    found = list(csv.DictReader(text)) if kind == "csv" else [orjson.loads(line) for line in text]
    assert [(int(row["row"]), row["job_id"]) for row in found] == [
        (2, rows[1]["job_id"]),
        (4, rows[3]["job_id"]),
    ]
