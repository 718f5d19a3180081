"""Numbers keep all their digits on every way out, and a job's own file has a name everywhere."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import orjson
import pytest

from batchata_prefect.cli.answers import results
from batchata_prefect.cli.diffs import diff
from batchata_prefect.content.schema import answer_schema
from batchata_prefect.errors import StateError
from batchata_prefect.results.assemble import EachJob
from batchata_prefect.results.frames import arrow_table, write_parquet
from tests.unit.results.test_parsed_response import stored

SCHEMA = {
    "type": "object",
    "properties": {"account": {"type": "integer"}, "share": {"type": "number"}, "list": {}},
    "required": ["account"],
}
ACCOUNT, SHARE = "36893488147419103232", "0.12345678901234567890"
ANSWER = f'{{"account": {ACCOUNT}, "share": {SHARE}, "list": [{SHARE}, {ACCOUNT}]}}'


def write(folder: Path, *answers: str) -> Path:
    """A results directory with these answers."""
    folder.mkdir()
    rows = [stored(text, answer_schema(SCHEMA)) for text in answers]
    for number, row in enumerate(rows):
        assert row["error"] is None
        row["job_id"] = f"job-{number}"
    path = folder / "results.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_exports(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "out", ANSWER, '{"account": 1, "share": 12.30}')
    results(folder, export=tmp_path / f"answers.{kind}")
    text = (tmp_path / f"answers.{kind}").read_text()
    assert ACCOUNT in text
    assert SHARE in text
    assert "12.30" in text
    if kind == "csv":
        first, second = csv.DictReader(io.StringIO(text))
        assert (first["answer.account"], first["answer.share"]) == (ACCOUNT, SHARE)
        assert first["answer.list"] == f"[{SHARE},{ACCOUNT}]"
        assert (second["answer.account"], second["answer.share"]) == ("1", "12.30")


def test_json_and_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "out", ANSWER)
    for as_json in (True, False):
        results(folder, as_json=as_json)
        printed = capsys.readouterr().out
        assert ACCOUNT in printed
        assert SHARE in printed


def test_a_difference_in_the_last_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one, and it is shown with it."""
    before = write(tmp_path / "before", ANSWER, '{"account": 1, "share": 2.50}')
    other = ANSWER.replace(ACCOUNT, ACCOUNT[:-1] + "3", 1)
    after = write(tmp_path / "after", other, '{"account": 1, "share": 2.5}')
    diff(before, after, as_json=True)
    printed = capsys.readouterr().out
    (changed,) = json.loads(printed)["changed_jobs"]
    assert list(changed["fields"]) == ["account"]
    assert ACCOUNT in printed
    assert ACCOUNT[:-1] + "3" in printed
    diff(before, after)
    assert ACCOUNT in capsys.readouterr().out


def test_frames_and_parquet(tmp_path: Path) -> None:
    """What no column of numbers holds is text with all its digits, and the others are numbers."""
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = write(tmp_path / "out", ANSWER, '{"account": 1, "share": 12.30}')
    with (tmp_path / "results.parquet").open("wb") as file:
        write_parquet(folder / "results.jsonl", file)
    for table in (
        arrow_table(folder / "results.jsonl"),
        parquet.read_table(tmp_path / "results.parquet"),
    ):
        assert table["answer.account"].to_pylist() == [ACCOUNT, "1"]
        assert table["answer.share"].to_pylist() == [SHARE.rstrip("0") + "0", "12.3"]
        assert table["answer.list"].to_pylist() == [f"[{SHARE},{ACCOUNT}]", None]


def test_a_file_for_each_job(tmp_path: Path) -> None:
    row = stored(ANSWER, answer_schema(SCHEMA))
    EachJob(tmp_path).write(row)
    text = (tmp_path / "the-job.json").read_text()
    assert text.count(ACCOUNT) == 2 + row["raw_response"].count(ACCOUNT)
    assert json.loads(text)["job_id"] == "the-job"
    assert f'"share": {SHARE}' in text


IDS = [
    "manifest", "MANIFEST", "manifest.20260101T000000Z", "results", "report", "x" * 300,
    "x" * 299 + "y", "ü" * 200, "a/b", "a\\b", "../up", ".", "..", "", " ", "A", "a", "Å", "å",
    "nul", "NUL.txt", "com1", "a:b*c?", "line\nbreak", "\x00", "%41", "a.json", "ordinary-1",
]  # fmt: skip


def test_any_id_has_a_file_of_its_own(tmp_path: Path) -> None:
    """On a system that tells no case apart too, and none of them is one of ours."""
    ours = {"manifest.json": "{}", "results.jsonl": "", "report.html": ""}
    for name, text in ours.items():
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    row = stored(ANSWER, answer_schema(SCHEMA))
    for _ in range(2):
        each = EachJob(tmp_path / "out")
        for job_id in IDS:
            each.write({**row, "job_id": job_id})
    found = [path for path in (tmp_path / "out").iterdir() if path.name not in ours]
    assert len({path.name.casefold() for path in found}) == len(found) == len(IDS)
    assert all(len(path.name) < 230 for path in found)
    assert (tmp_path / "out" / "ordinary-1.json").exists()
    for name, text in ours.items():
        assert (tmp_path / "out" / name).read_text() == text


@pytest.mark.parametrize("name", ["", "results.jsonl", "nowhere"])
def test_results_of_what_is_no_results_directory(tmp_path: Path, name: str) -> None:
    """One sentence, also where the file in it is given."""
    (tmp_path / "results.jsonl").write_bytes(b"")
    if not name:
        (tmp_path / "results.jsonl").unlink()
    with pytest.raises(StateError, match="has no results: "):
        results(tmp_path / name)
