"""Jobs from tables of every kind: `Batch.add_rows`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, ValidationError

ROWS = [
    {"id": f"r{n}", "text": f"Grüße {n}", "lang": "de" if n % 2 else None, "n": n}
    for n in range(2_500)
]


def jsonl(folder: Path) -> Any:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def parquet(folder: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    files.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def arrow_table(_: Path) -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(ROWS)


def arrow_reader(folder: Path) -> Any:
    return arrow_table(folder).to_reader(max_chunksize=300)


def arrow_files(folder: Path) -> Any:
    from pyarrow import dataset

    return dataset.dataset(parquet(folder))


def pandas_frame(_: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def polars_frame(_: Path) -> Any:
    return pytest.importorskip("polars").DataFrame(ROWS)


def polars_lazy(folder: Path) -> Any:
    return polars_frame(folder).lazy()


def hugging_face(_: Path) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def hugging_face_stream(folder: Path) -> Any:
    return hugging_face(folder).to_iterable_dataset()


def duckdb_relation(folder: Path) -> Any:
    return pytest.importorskip("duckdb").sql(f"SELECT * FROM '{jsonl(folder)}' ORDER BY n")


def generator(_: Path) -> Any:
    return (dict(row) for row in ROWS)


SOURCES: list[Callable[[Path], Any]] = [
    jsonl, parquet, arrow_table, arrow_reader, arrow_files, pandas_frame, polars_frame,
    polars_lazy, hugging_face, hugging_face_stream, duckdb_relation, generator,
]  # fmt: skip


def jobs(batch: Batch) -> list[tuple[str, Any, str]]:
    """Id, metadata and prompt of each job in the spool."""
    spool = batch._intake.spool
    assert spool is not None
    spool.seal()
    reader = spool.reader()
    contexts = [reader.context(ordinal) for ordinal in range(len(batch))]
    bodies = [json.loads(body) for body in reader.bodies(range(len(batch)))]
    reader.close()
    return [
        (context.job_id, context.metadata, body["messages"][0]["content"])
        for context, body in zip(contexts, bodies, strict=True)
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda make: make.__name__)
def test_every_kind_of_table_makes_the_same_jobs(tmp_path: Path, source: Callable[[Path], Any]):
    """Files, frames, Arrow tables, data sets and generators give one job a row, in their order."""
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    batch.add_rows(source(tmp_path), prompt="Translate: {text}")
    assert jobs(batch) == [
        (row["id"], {"lang": row["lang"], "n": row["n"]}, f"Translate: {row['text']}")
        for row in ROWS
    ]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ("r0", {"lang": None, "n": 0})),
        ({"id_column": "n"}, ("0", {"id": "r0", "lang": None})),
        ({"metadata_columns": ["text", "n"]}, ("r0", {"text": "Grüße 0", "n": 0})),
        ({"metadata_columns": []}, ("r0", {})),
        ({"metadata": {"run": 7}}, ("r0", {"run": 7, "lang": None, "n": 0})),
    ],
)
def test_ids_and_metadata_come_from_the_columns(tmp_path: Path, told: Any, expected: Any):
    """The id is that of its column; what template and id do not use is kept, or what is named."""
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    batch.add_rows(ROWS[:1], prompt="{text}", **told)
    assert jobs(batch)[0][:2] == expected


def test_rows_without_a_template_are_jobs(tmp_path: Path):
    """Without a template the columns are the arguments of `add_job`."""
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    batch.add_rows([{"id": "a", "prompt": "Hi", "metadata": {"k": 1}}])
    assert jobs(batch) == [("a", {"k": 1}, "Hi")]


def test_values_of_every_type_are_kept_as_json(tmp_path: Path):
    """Times become ISO 8601, decimals text, what is missing null; bytes stay out unless named."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "text": ["a", "b"],
            "at": [pandas.Timestamp("2026-11-23 10:00"), pandas.NaT],
            "price": [Decimal("1.10"), None],
            "share": [0.5, float("nan")],
            "blob": [b"\x00", b"\x01"],
            "whole": pandas.array([1, None], dtype="Int64"),
            "day": [date(2026, 1, 2), None],
        }
    )
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    batch.add_rows(frame, prompt="{text}")
    first, second = (metadata for _, metadata, _ in jobs(batch))
    assert first == {
        "at": "2026-11-23T10:00:00", "price": "1.10", "share": 0.5, "whole": 1, "day": "2026-01-02",
    }  # fmt: skip
    assert second == dict.fromkeys(first)
    with pytest.raises(ValidationError, match="row 1: the column 'blob' cannot be used"):
        batch.add_rows(frame, prompt="{text}", metadata_columns=["blob"])


def test_files_are_named_by_a_column_or_lie_in_it(tmp_path: Path):
    """A path counts from the folder of the source; bytes, also those of a data set, are taken."""
    (tmp_path / "a.txt").write_text("Hallo")
    (tmp_path / "rows.csv").write_text("doc\na.txt\n")
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    batch.add_rows(tmp_path / "rows.csv", prompt="Read.", file_column="doc")
    batch.add_rows([{"doc": {"bytes": b"Hallo", "path": "x"}}], "Read.", file_column="doc")
    texts = [parts[0]["text"].partition("\n")[2].strip() for _, _, parts in jobs(batch)]
    assert texts == ["Hallo", "Hallo"]


def test_all_faulty_rows_are_told_together(tmp_path: Path):
    """Rows that make no job are named with their place, all at once, and the good ones stay."""
    rows = [{"text": "a"}, {"txt": "b"}, 7, {"text": " "}, {"text": "c", "when": datetime.now()}]
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    with pytest.raises(ValidationError, match="3 jobs would be refused, nothing was sent") as error:
        batch.add_rows(rows, prompt="{text}")
    assert [fault.partition(":")[0] for fault in error.value.faults] == ["row 2", "row 3", "row 4"]
    assert len(batch) == 2


def test_a_fault_of_the_file_is_told_once(tmp_path: Path):
    """Whatever number of rows it stands in; one row's own fault is told beside it."""
    path = tmp_path / "rows.csv"
    path.write_text("text,n\n" + "a,1\n" * 9)
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    with pytest.raises(ValidationError) as error:
        batch.add_rows(path, prompt="{txt}")
    head, only = str(error.value).split("\n")
    assert head == "9 jobs would be refused, nothing was sent:"
    assert only.startswith(f"- {str(path)!r} line 2: the template asks for {{txt}}")
    assert only.endswith(" (also 3, 4 and 6 more)")
    assert len(error.value.faults) == 9
    with pytest.raises(ValidationError) as error:
        Batch(tmp_path / "b").add_jobs([{"id": f"j{n}", "prompt": "x"} for n in range(5)])
    only = str(error.value).split("\n")[1]
    assert only.startswith("- job 'j0': no model")
    assert only.endswith(" (also 'j1', 'j2' and 2 more)")


def test_a_file_that_breaks_off_is_told_with_its_line(tmp_path: Path):
    """What is wrong with the file itself stands behind the faults of its rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": ""}\n{"text": "b"}\n{"te')
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    with pytest.raises(ValidationError) as error:
        batch.add_rows(path, prompt="{text}")
    first, second = error.value.faults
    assert "line 1" in first
    assert "line 3: not JSON" in second


def test_a_table_without_one_good_row_is_not_read_to_its_end(tmp_path: Path):
    """After a thousand faults the rest is not read."""
    read: list[int] = []

    def rows() -> Any:
        for number in range(5_000):
            read.append(number)
            yield {}

    with pytest.raises(ValidationError, match="1001 jobs would be refused") as error:
        Batch(tmp_path / "out").set_default_params(model="gpt-6-luna").add_rows(rows(), "{text}")
    assert len(read) == 1_001
    assert error.value.faults[-1] == "no more of the rows were read"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (5, "int holds no rows"),
        ({"train": []}, "a mapping, not a table"),
        (b"text", "bytes, not a table"),
        ("rows.xlsx", "cannot tell what kind of file"),
        ("none.csv", "there is no such file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, source: Any, told: str):
    """A source that holds no rows is named, before anything else."""
    with pytest.raises(ValidationError, match=told):
        Batch(tmp_path / "out").set_default_params(model="gpt-6-luna").add_rows(source, "{text}")


def test_no_library_of_tables_is_imported_for_rows_of_a_file(tmp_path: Path):
    """Rows of JSONL need none of pandas, polars, pyarrow, duckdb and datasets."""
    code = (
        "import sys; from batchata_prefect import Batch\n"
        "b = Batch(sys.argv[1]).set_default_params(model='gpt-6-luna')\n"
        "b.add_rows(sys.argv[2], prompt='{text}')\n"
        "print(sorted({'pandas', 'polars', 'pyarrow', 'duckdb', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), str(jsonl(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_rows_of_every_file_are_added(tmp_path: Path) -> None:
    """Also those of a second one, where all jobs so far came from the first."""
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna")
    for number in range(3):
        file = tmp_path / f"{number}.csv"
        file.write_text(f"q\n{number} a\n{number} b\n")
        batch.add_rows(file, "{q}")
    assert len(batch) == 6
