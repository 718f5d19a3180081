"""`batchata retry` with nothing to try again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.cli.orders import Order
from batchata_prefect.cli.runs import retry


@pytest.mark.parametrize(
    ("codes", "ends", "says"),
    [
        ([None, None], 0, "2 are answered."),
        ([None, "refusal", "refusal"], 1, "1 are answered; the others: 2 refusal."),
    ],
)
def test_a_code_that_no_job_has_is_said_and_nothing_sent(
    tmp_path: Path, codes: list[Any], ends: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing goes out; the exit code is that of the answers that are there."""
    Order("rows.csv", tmp_path, {"model": "gpt-6-luna"}).note()
    rows = [
        {
            "job_id": f"j{number}",
            "status": "failed" if code else "completed",
            "error_code": code,
        }
        for number, code in enumerate(codes)
    ]
    (tmp_path / "results.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    assert retry(tmp_path, code=("truncated",)) == ends
    said = " ".join(capsys.readouterr().err.split())
    assert "No job has the code truncated, so nothing was sent." in said
    assert says in said
