"""Results as tables: Arrow, pandas, polars, Parquet, and `results.jsonl` itself."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, StateError
from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book
from batchata_prefect.results.frames import arrow_table, write_parquet
from batchata_prefect.results.row import Reading

pyarrow = pytest.importorskip("pyarrow")

CHUNK = Chunk(0, 0, "ab" * 32, "openai", "/v1/chat/completions", "gpt-6-luna", 9, 0, 0, 0, None)


def rows(metadata: list[dict[str, Any]], answers: list[Any] | None = None) -> list[dict[str, Any]]:
    """Rows as a run writes them, the last one failed and with an embedding."""
    how = Reading(CHUNK, "batch_1", price_book(), {})
    found: list[dict[str, Any]] = []
    for number, values in enumerate(metadata):
        last = number == len(metadata) - 1
        job = Context(f"job {number} ü", values, tags=("a", "b"))
        reply = Reply("c", "succeeded", (TextBlock("x\0\n'\""),), Usage(3, 4), "end_turn")
        if last:
            reply = Reply("c", "errored", error_code="bad", error="Nein.")
        row = how.row(reply, job, Decimal("0.1"))
        if answers is not None:
            row["parsed_response_json"] = orjson.dumps(answers[number]).decode()
        row["embedding"] = [0.5, 1.0] if last else None
        found.append(row)
    return found


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "results.jsonl"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("values", "kind", "cells"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, None], "int64", [1, None]),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([True, False], "bool", [True, False]),
        (["a", None], "string", ["a", None]),
        ([None, None], "string", [None, None]),
        ([1, True], "string", ["1", "true"]),
        (["a", 1], "string", ['"a"', "1"]),
        ([[1], {"b": None}], "string", ["[1]", '{"b":null}']),
        ([2**63, 1], "string", [str(2**63), "1"]),
        # A float would lose a digit.
        ([1, 2**53 + 1], "int64", [1, 2**53 + 1]),
        ([0.5, 2**53 + 1], "string", ["0.5", str(2**53 + 1)]),
    ],
)
def test_a_field_of_the_metadata_is_a_column_of_one_type(tmp_path, values, kind, cells):
    """Fields become columns: of the type that all values have, else of JSON text."""
    path = written(tmp_path, rows([{"f": value} for value in values]))
    column = arrow_table(path).column("metadata.f")
    assert str(column.type) == kind
    assert column.to_pylist() == cells


def test_a_table_has_the_columns_and_values_of_the_results(tmp_path: Path):
    """Every column of the file is there with its values, whatever the first rows leave empty."""
    lines = rows([{} for _ in range(3_000)])
    table = arrow_table(written(tmp_path, lines))
    assert table.to_pylist() == [
        {"row": number, **line, "tags": list(line["tags"])} for number, line in enumerate(lines, 1)
    ]
    assert table.column_names == ["row", *lines[0]]


def test_the_columns_have_one_type_whatever_they_hold(tmp_path: Path):
    """An empty file, one with nulls alone and one with values have the same column types."""
    (tmp_path / "some").mkdir()
    empty = arrow_table(written(tmp_path, [])).schema
    assert arrow_table(written(tmp_path / "some", rows([{}, {}]))).schema == empty
    assert not [field for field in empty if str(field.type) == "null"]


def test_fields_of_answers_are_columns_where_all_answers_are_objects(tmp_path: Path):
    """`answer.<field>` holds a field of the parsed answers; a list among them has no fields."""
    path = written(tmp_path, rows([{}, {}], [{"total": 1.5, "who": "x"}, {"total": 2}]))
    assert arrow_table(path).column("answer.total").to_pylist() == [1.5, 2.0]
    assert arrow_table(path).column("answer.who").to_pylist() == ["x", None]
    path = written(tmp_path, rows([{}, {}], [{"total": 1.5}, [1]]))
    assert "answer.total" not in arrow_table(path).column_names


def test_metadata_of_too_many_fields_stays_json(tmp_path: Path):
    """Metadata with a field of its own for each job makes no column for each."""
    path = written(tmp_path, rows([{f"k{n}": n} for n in range(300)]))
    assert arrow_table(path).column_names == ["row", *rows([{}])[0]]


def test_a_line_longer_than_a_block_is_read(tmp_path: Path):
    """One answer of 20 MB does not keep the others from being read."""
    lines = rows([{"n": n} for n in range(4)])
    lines[1]["raw_response"] = "y" * 20_000_000
    table = arrow_table(written(tmp_path, lines))
    assert [len(text or "") for text in table.column("raw_response").to_pylist()][1] == 20_000_000
    assert table.column("metadata.n").to_pylist() == [0, 1, 2, 3]


def test_parquet_holds_the_same_table(tmp_path: Path):
    """What is written as Parquet is read back as the table, in row groups."""
    from pyarrow import parquet

    lines = rows([{"n": n} for n in range(75_000)])
    path = written(tmp_path, lines)
    with (tmp_path / "results.parquet").open("wb") as file:
        write_parquet(path, file)
    found = parquet.ParquetFile(tmp_path / "results.parquet")
    assert found.read().equals(arrow_table(path))
    assert found.num_row_groups > 1


def with_pandas(path: Path) -> list[Any]:
    return pytest.importorskip("pandas").read_json(path, lines=True)["job_id"].tolist()


def with_polars(path: Path) -> list[Any]:
    polars = pytest.importorskip("polars")
    return polars.read_ndjson(path, infer_schema_length=None)["job_id"].to_list()


def with_duckdb(path: Path) -> list[Any]:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"SELECT job_id FROM read_json('{path}', sample_size=-1)").fetchall()
    return [job_id for (job_id,) in found]


def with_datasets(path: Path) -> list[Any]:
    # Its JSON reader takes each column's type from the first block; Parquet brings the types along.
    datasets = pytest.importorskip("datasets")
    with (path.parent / "results.parquet").open("wb") as file:
        write_parquet(path, file)
    found = datasets.load_dataset(
        "parquet", data_files=file.name, cache_dir=str(path.parent / "cache")
    )
    return list(found["train"]["job_id"])


@pytest.mark.parametrize("read", [with_pandas, with_polars, with_duckdb, with_datasets])
def test_results_are_read_whole_by(tmp_path: Path, read: Any):
    """Others read the results, though the first thousands of rows leave columns empty."""
    lines = rows([{"n": n, "s": None if n < 29_000 else "x"} for n in range(30_000)])
    assert read(written(tmp_path, lines)) == [line["job_id"] for line in lines]


def test_a_run_without_results_says_so(tmp_path: Path):
    """A run that is not complete has no table."""
    batch = Batch(tmp_path).set_default_params(model="gpt-6-luna").add_job(prompt="p")
    with pytest.raises(StateError, match="no results yet"):
        batch.run(dry_run=True).to_arrow()


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path: Path):
    """What needs a library that is not installed is refused before anything runs."""
    code = (
        "import sys; sys.modules['pyarrow'] = None; import importlib.util as u\n"
        "find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'pyarrow' else find(n, *a)\n"
        "from batchata_prefect import Batch\n"
        "try: Batch(sys.argv[1], result_format='parquet')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ValidationError result_format='parquet' needs pyarrow")
    assert "pip install 'batchata-prefect[parquet]'" in done.stdout
