"""The one reader of results.jsonl: a damaged line is one job's trouble."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.cli.runs import _failed
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book
from batchata_prefect.results.archive import hold, keep_gone
from batchata_prefect.results.diff import RunDiff
from batchata_prefect.results.result_file import BLANK, DAMAGED, ResultFile
from batchata_prefect.results.row import Reading
from batchata_prefect.views.report.figures import figures

CHUNK = Chunk(0, 0, "ab" * 32, "openai", "/v1/chat/completions", "gpt-6-luna", 9, 0, 0, 0, None)


def line(number: int) -> bytes:
    """One answered job."""
    job = Context(f'job {number} "ü"', {"n": number})
    reply = Reply(
        CHUNK.custom_id(number),
        "succeeded",
        (TextBlock(f"answer {number}"),),
        Usage(30, 4),
        "end_turn",
    )
    row = Reading(CHUNK, "batch_1", price_book(), {}).row(reply, job, Decimal("0.1"))
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


DAMAGES = {
    "cut off": lambda whole: whole[: len(whole) // 2] + b"\n",
    "nothing of it": lambda _: b"\n",
    "zeros of a lost block": lambda whole: b"\0" * (len(whole) - 1) + b"\n",
    "no object": lambda _: b"[1, 2]\n",
    "no object, of many values": lambda _: b"[" + b"1, " * 99 + b"2]\n",
    "a text as long as a row": lambda whole: b'"' + b"a" * len(whole) + b'"\n',
    "a long object that is no row": lambda _: orjson.dumps({str(n): n for n in range(99)}) + b"\n",
    "no row": lambda _: b'{"a": 1}\n',
    "no text": lambda whole: whole.replace(b"answer", b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_one_job_that_failed(tmp_path: Path, damage: str) -> None:
    """It keeps its place, its id where that can be read, and what is left of it."""
    whole = [line(number) for number in range(5)]
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join([*whole[:2], DAMAGES[damage](whole[2]), *whole[3:]]))
    rows = list(ResultFile(path))
    assert [row["error_code"] for row in rows] == [None, None, DAMAGED, None, None]
    assert [list(row) for row in rows] == [list(BLANK)] * 5
    assert rows[2]["job_id"] == ('job 2 "ü"' if damage in {"cut off", "no text"} else "(line 3)")
    assert "line 3 of results.jsonl is damaged" in rows[2]["error"]
    assert rows[2]["cost_usd"] is None
    results = list(ResultFile(path).results({}))
    assert [result.status for result in results] == [*["completed"] * 2, "failed"] + [
        "completed"
    ] * 2
    # It may have been answered and paid: it is not sent in another way.
    assert list(_failed(ResultFile(path), ())) == []


def test_broken_json_in_a_column_is_one_job_that_failed(tmp_path: Path) -> None:
    row = orjson.loads(line(1))
    path = tmp_path / "results.jsonl"
    path.write_bytes(line(0) + orjson.dumps({**row, "attempts_json": "[{"}) + b"\n" + line(2))
    statuses = [(each.job_id, each.status) for each in ResultFile(path).results({})]
    assert [status for _, status in statuses] == ["completed", "failed", "completed"]
    assert statuses[1][0] == row["job_id"]


def test_a_row_of_an_earlier_version_has_the_new_columns(tmp_path: Path) -> None:
    row = orjson.loads(line(0))
    del row["citations_dropped"], row["tags"]
    path = tmp_path / "results.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    (found,) = ResultFile(path)
    assert (found["citations_dropped"], found["error_code"]) == (0, None)
    assert found["job_id"] == row["job_id"]


def test_tables_have_a_row_for_a_damaged_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from batchata_prefect.results.frames import arrow_table

    whole = [line(number) for number in range(5)]
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join([*whole[:2], whole[2][:70] + b"\n", *whole[3:]]))
    table = arrow_table(path)
    assert table["error_code"].to_pylist() == [None, None, DAMAGED, None, None]
    assert table["metadata.n"].to_pylist() == [0, 1, None, 3, 4]


def test_diff_archive_and_report_go_on(tmp_path: Path) -> None:
    whole = [line(number) for number in range(5)]
    for name, lines in {
        "one": whole,
        "two": [*whole[:2], whole[2][:70] + b"\n", *whole[3:]],
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_bytes(b"".join(lines))
    diff = RunDiff(tmp_path / "one", tmp_path / "two")
    (changed,) = list(diff)
    assert (changed.job_id, changed.after) == ('job 2 "ü"', f"failed ({DAMAGED})")
    assert diff.sums.to_dict()["cost_usd"][1] is None
    results = tmp_path / "two" / "results.jsonl"
    manifest = {
        "by_model": {"openai gpt-6-luna": {"cost_usd": 0.5, "batches": 1}},
        "batches": [],
        "counts": {"total": 5},
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    for sums in manifest["by_model"].values():
        sums |= {"input_tokens": 1, "output_tokens": 1}
    assert figures(manifest, results).input_tokens == (30,) * 4
    (tmp_path / "own").mkdir()
    hold(results, tmp_path / "own")
    results.unlink()
    results.write_bytes(whole[0])
    assert keep_gone(results, tmp_path / "own") == 4
    # What is left of it is kept.
    assert whole[2][:70] in results.with_name("archive.jsonl").read_bytes().split(b"\n")
    assert keep_gone(results, tmp_path / "own") == 0
