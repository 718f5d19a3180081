"""Which jobs `batchata retry` tries again, and changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.cli.orders import Order
from batchata_prefect.cli.runs import _failed, retry
from batchata_prefect.results.result_file import ResultFile


def results(folder: Path, *codes: str | None) -> ResultFile:
    """The results of a run whose jobs have these error codes."""
    rows = [
        {"job_id": f"j{number}", "status": "failed" if code else "completed", "error_code": code}
        for number, code in enumerate(codes)
    ]
    path = folder / "results.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return ResultFile(path)


@pytest.mark.parametrize("code", ["in_flight", "answer_lost", "invalid_row"])
def test_what_may_be_paid_already_is_changed_only_where_it_is_named(
    tmp_path: Path, code: str
) -> None:
    """The batch of a job that is in flight is collected; changed, the job would be paid twice."""
    rows = results(tmp_path, code, None, "truncated", "not_sent")
    assert list(_failed(rows, ())) == [(2, "j2"), (3, "j3")]
    assert list(_failed(rows, (code,))) == [(0, "j0")]


def test_a_damaged_row_is_not_changed_also_where_it_is_named(tmp_path: Path) -> None:
    """Its job may be answered: asked in another way, it would be paid again."""
    rows = results(tmp_path, "truncated", None, "truncated")
    lines = rows.path.read_bytes().split(b"\n")
    rows.path.write_bytes(b"\n".join([lines[0][:-9], *lines[1:]]))
    assert [row["error_code"] for row in rows] == ["damaged_row", None, "truncated"]
    for codes in ((), ("damaged_row", "truncated")):
        assert list(_failed(rows, codes)) == [(2, "j2")]


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
    results(tmp_path, *codes)
    assert retry(tmp_path, code=("truncated",)) == ends
    said = " ".join(capsys.readouterr().err.split())
    assert "No job has the code truncated, so nothing was sent." in said
    assert says in said
