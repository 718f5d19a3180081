"""What `batchata results --export` writes, so that it can be joined to the rows of the jobs."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch
from batchata_prefect.cli.answers import results
from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.results.result_file import BLANK

CSV = (
    "id,Status,note,Fiche à lire,a_json,answer.x,job_id\n"
    '1,open,"a, ""b""\nc",=1+1,,7,j\n'
    "2,closed,-5,é,,8,k\n"
)
ROWS = [
    {
        "row": row,
        "id": str(row),
        "input_Status": status,
        "note": note,
        "Fiche à lire": file,
        "a_json": "",
        "input_answer.x": x,
        "input_job_id": job,
    }
    for row, status, note, file, x, job in [
        (1, "open", 'a, "b"\nc', "=1+1", "7", "j"),
        (2, "closed", "-5", "é", "8", "k"),
    ]
]


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


def finished(folder: Path, jobs: JobsFile | None, count: int = 2) -> Path:
    """A results directory as a run of that jobs file leaves it."""
    out = folder / "out"
    out.mkdir()
    rows = [{**BLANK, "job_id": f"job-{n}", "status": "completed"} for n in range(count)]
    (out / "results.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    manifest = {
        "format": 1,
        "results_bytes": (out / "results.jsonl").stat().st_size,
        **({} if jobs is None else {"jobs_file": {"path": jobs.path, "digest": jobs.digest}}),
    }
    (out / "manifest.json").write_bytes(orjson.dumps(manifest))
    return out


def exported(out: Path, kind: str = "jsonl", **how: Any) -> list[dict[str, str]]:
    path = out / f"export.{kind}"
    assert results(out, export=path, **how) == 0
    if kind == "jsonl":
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if kind == "tsv" else ","))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_the_columns_of_the_jobs_come_with_the_answers(tmp_path: Path, kind: str) -> None:
    """Behind `row`, as they stand there, and none in the place of a column of the answers."""
    source = tmp_path / "in.csv"
    source.write_text(CSV, encoding="utf-8-sig")
    out = finished(tmp_path, JobsFile.of(source))
    rows = exported(out, kind, raw_cells=True)
    names = list(ROWS[0])
    assert list(rows[0])[: len(names) + 1] == [*names, "job_id"]
    assert [{name: row[name] for name in names} for row in rows] == [
        {**row, "row": row["row"] if kind == "jsonl" else str(row["row"])} for row in ROWS
    ]
    assert [row["job_id"] for row in rows] == ["job-0", "job-1"]
    assert "note" not in exported(out, kind, no_input_columns=True)[0]
    if kind != "jsonl":
        assert exported(out, kind)[0]["Fiche à lire"] == "'=1+1"


@pytest.mark.parametrize("kind", ["tsv", "csv.gz", "parquet", "jsonl"])
def test_each_kind_of_file_is_joined(tmp_path: Path, kind: str) -> None:
    """Values of Parquet and JSONL keep their types where the export has any."""
    source = tmp_path / f"in.{kind}"
    typed: dict[str, Any] = {"n": 5, "at": None, "list": [1, {"a": 2**70}]}
    if kind == "tsv":
        source.write_text("n\tat\n5\t\n6\t\n")
    elif kind == "csv.gz":
        source.write_bytes(gzip.compress(b"n,at\n5,\n6,\n"))
    elif kind == "jsonl":
        lines = ({**typed, "half": "\ud800"}, {"more": 1.5})
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        day = datetime(2026, 11, 29, tzinfo=UTC)
        rows = [{"n": 5, "at": day, "image": b"\x89PNG\0"}, {"n": 6, "at": day, "image": b"\0"}]
        parquet.write_table(arrow.Table.from_pylist(rows), source)
    first, second = exported(finished(tmp_path, JobsFile.of(source)))
    if kind == "jsonl":
        assert (
            '"list":[1,{"a":1180591620717411303424}]' in (tmp_path / "out/export.jsonl").read_text()
        )
        assert (first["n"], first["half"], second["more"]) == (5, "\ufffd", 1.5)
    elif kind == "parquet":
        assert (first["n"], first["at"]) == (5, "2026-11-29T00:00:00+00:00")
        assert "image" not in first
    else:
        assert (first["n"], first["at"], second["n"]) == ("5", "", "6")


CHANGED: dict[str, Callable[[Path], object]] = {
    "was changed since the run": lambda path: path.write_text(CSV + "3,a,b,c,d,e,f\n"),
    "cannot be read any more": lambda path: path.unlink(),
    "cannot be read any more.": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("why", CHANGED)
def test_a_file_that_is_not_what_it_was_is_left_out_with_a_word(
    tmp_path: Path, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.csv"
    source.write_text(CSV)
    out = finished(tmp_path, JobsFile.of(source))
    CHANGED[why](source)
    rows = exported(out)
    assert [(row["row"], row["job_id"]) for row in rows] == [(1, "job-0"), (2, "job-1")]
    assert "note" not in rows[0]
    (said, _) = capsys.readouterr().err.splitlines()
    assert said.startswith("The columns of the jobs are left out: ")
    assert why in said


def test_the_jobs_file_itself_is_not_written_over(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(CSV)
    out = finished(tmp_path, JobsFile.of(source))
    (tmp_path / "link.csv").symlink_to(source)
    for path in (source, tmp_path / "link.csv"):
        with pytest.raises(ValidationError, match="is the file that these jobs were made from"):
            results(out, export=path)
    assert source.read_text() == CSV


@pytest.mark.parametrize("noted", [None, 5, {}, {"path": 5, "digest": "x"}, "absent"])
def test_results_of_which_no_file_is_known_are_exported_as_ever(
    tmp_path: Path, noted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs of a program, an older version's manifest, a damaged one, and none at all."""
    out = finished(tmp_path, None)
    manifest = orjson.loads((out / "manifest.json").read_bytes())
    if noted != "absent":
        (out / "manifest.json").write_bytes(orjson.dumps({**manifest, "jobs_file": noted}))
    assert list(exported(out)[0]) == ["row", *BLANK]
    (out / "manifest.json").unlink()
    assert list(exported(out)[0]) == ["row", *BLANK]
    assert "left out" not in capsys.readouterr().err


def test_results_without_their_manifest_are_joined_to_no_file(tmp_path: Path) -> None:
    """A run died between the two: the manifest that is there is that of other jobs."""
    source = tmp_path / "in.csv"
    source.write_text(CSV)
    out = finished(tmp_path, JobsFile.of(source))
    with (out / "results.jsonl").open("ab") as file:
        file.write(orjson.dumps({**BLANK, "job_id": "x", "status": "failed"}) + b"\n")
    assert "note" not in exported(out)[0]


@pytest.mark.parametrize(
    ("named", "noted"),
    [
        ("https://me:pass@host:8/a/in.csv?sig=1#x", "https://host:8/a/in.csv"),
        ("s3://bucket/in.csv", "s3://bucket/in.csv"),
    ],
)
def test_of_a_url_no_secret_is_noted(
    tmp_path: Path, named: str, noted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its login nor a signature; it is not read again, and that is said."""
    assert JobsFile.of(named) == JobsFile(noted)
    exported(finished(tmp_path, JobsFile.of(named)))
    assert f"{noted!r} is no local file" in capsys.readouterr().err


def test_a_batch_names_the_file_whose_rows_its_jobs_are(tmp_path: Path) -> None:
    """And none where other jobs stand beside them, or its rows are whole requests."""
    table, lines = tmp_path / "in.csv", tmp_path / "in.jsonl"
    table.write_text("q\na\nb\n")
    lines.write_text('{"prompt":"x"}\n')

    def made() -> Batch:
        return Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")

    for source, prompt, wanted in [
        (table, "{q}", table),
        (lines, "{prompt}", lines),
        (lines, None, None),
    ]:
        batch = made().add_rows(source, prompt)
        assert batch.jobs_file == (wanted and JobsFile.of(wanted))
        assert batch.add_job(prompt="y").jobs_file is None
    assert made().add_rows(table, "{q}").add_rows(lines).jobs_file is None
    assert made().add_job(prompt="y").add_rows(table, "{q}").jobs_file is None
    assert made().jobs_file is None
