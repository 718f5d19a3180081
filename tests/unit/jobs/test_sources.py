"""Rows of files, and the jobs they make."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.sources import fill, jobs_from_rows, read_rows
from batchata_prefect.models import Job

ROWS = [{"id": "a", "text": "Grüße, {x}\nnext"}, {"id": "b", "text": 'say "hi"'}]
CSV = 'id,text\r\na,"Grüße, {x}\nnext"\r\nb,"say ""hi"""\r\n'
JSONL = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def put(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.jsonl", JSONL, id="jsonl, blank lines, no newline at the end"),
        pytest.param("a.ndjson", JSONL.replace("\n", "\r\n"), id="ndjson, Windows lines"),
        pytest.param("a.JSONL", b"\xef\xbb\xbf" + JSONL.encode(), id="byte order mark"),
        pytest.param("a.csv", CSV, id="csv"),
        pytest.param("b.csv", b"\xef\xbb\xbf" + CSV.encode(), id="csv of Excel"),
        pytest.param("a.tsv", CSV.replace("id,text", "id\ttext").replace("a,", "a\t", 1)
                     .replace("b,", "b\t"), id="tsv"),
        pytest.param("a.jsonl.gz", gzip.compress(JSONL.encode()), id="gz"),
        pytest.param("a.csv.bz2", bz2.compress(CSV.encode()), id="bz2"),
    ],
)  # fmt: skip
def test_rows_of_every_text_kind(tmp_path: Path, name: str, content: str | bytes) -> None:
    """The same rows come from every kind of text file, with quotes, newlines and umlauts."""
    assert list(read_rows(put(tmp_path, name, content))) == ROWS
    assert list(read_rows(tmp_path / name)) == ROWS


def test_rows_of_a_url() -> None:
    """A URL is read through fsspec, its query string is not part of the name."""
    with fsspec.open("memory://jobs/a.csv", "wb") as file:
        file.write(CSV.encode())
    assert list(read_rows("memory://jobs/a.csv")) == ROWS


def test_rows_of_parquet(tmp_path: Path) -> None:
    """Parquet rows keep their types."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"id": n, "tags": ["x"], "score": None if n else 0.5} for n in range(2500)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == rows


def test_broken_parquet(tmp_path: Path) -> None:
    """A file that is no Parquet is said to be none."""
    pytest.importorskip("pyarrow")
    with pytest.raises(ValidationError, match="not a readable Parquet file"):
        list(read_rows(put(tmp_path, "a.parquet", "hello")))


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyarrow the error says how to get it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValidationError, match="pip install pyarrow"):
        list(read_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": ', r"a\.jsonl' line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', r"line 3: each line must be one JSON object.*list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"line 2: not UTF-8 \(byte 8 of the line\)"),
        ("a.csv", "a,b\n1,2\n\n3\n", r"line 4: 1 values, but the first line names 2 columns"),
        ("a.csv", 'a,b\n"1\n1",2\n3,4,5\n', r"line 4: 3 values"),
        ("a.csv", 'a,b\n"1\n1",2,3\n', r"line 2: 3 values"),
        ("a.csv", 'a,b\n1,"2\n3,4\n', r"line 3: unexpected end of data"),
        ("a.csv", "a,a\n1,2\n", r"line 1: the columns \['a'\] are named twice"),
        ("a.csv", "a,,c\n1,2,3\n", r"line 1: a column has no name"),
        ("a.csv", "a;b\n1;2\n", r"line 1: separated by ';'"),
        ("a.csv", b"a,b\n1,\xe9\n", r"line 2: not UTF-8"),
        ("a.txt", "hello", r"cannot tell what kind"),
        ("a.json", "[]", r"cannot tell what kind"),
        ("jsonl", "{}", r"cannot tell what kind"),
    ],
)
def test_faulty_file(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    """A fault is told with the file and the line."""
    path = put(tmp_path, name, content)
    with pytest.raises(ValidationError, match=says) as caught:
        list(read_rows(path))
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none.jsonl", "there is no such file"),
        ("folder.jsonl", "is a folder"),
        ("nothing://x/a.jsonl", "cannot be opened"),
        ("s3://bucket/a.jsonl", r"s3fs|cannot be opened"),
    ],
)
def test_file_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str
) -> None:
    """A file that is not there, or whose driver is not, is a clear error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    Path("folder.jsonl").mkdir()
    with pytest.raises(ValidationError, match=says) as caught:
        list(read_rows(path))
    assert path in str(caught.value)


def test_rows_before_a_fault_are_given(tmp_path: Path) -> None:
    """Rows are streamed: what stands before a faulty line is given before the error."""
    rows = read_rows(put(tmp_path, "a.jsonl", '{"a": 1}\nnonsense\n'))
    assert next(rows) == {"a": 1}
    with pytest.raises(ValidationError, match="line 2"):
        next(rows)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_reading_does_not_hold_the_file(tmp_path: Path, name: str) -> None:
    """Reading a file of 8 MB takes less than 2 MB of memory."""
    text = "x" * 800
    head = ["id,text\n"] if name.endswith("csv") else []
    line = (f"{{n}},{text}\n") if head else f'{{{{"id": "{{n}}", "text": "{text}"}}}}\n'
    path = put(tmp_path, name, "".join([*head, *(line.format(n=n) for n in range(10_000))]))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 2_000_000


def test_long_column(tmp_path: Path) -> None:
    """A document of a megabyte in a CSV column is read whole."""
    path = put(tmp_path, "a.csv", f"a,b\n1,{'x' * 1_000_000}\n")
    assert [len(row["b"]) for row in read_rows(path)] == [1_000_000]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{a}", "1"),
        ("{ a }{b}", "1two"),
        ("<{First name}>", "<Ann>"),
        ('{{"n": {a}}}', '{"n": 1}'),
        ("{{{a}}}", "{1}"),
        ("{{a}}", "{a}"),
        ("{none}|{list}|{flag}|{0}", '|["ü", {"x": 1}]|true|zero'),
        ("{b}", "two"),
        ("{brace}", "{a} }}"),
        ("{a:>5}", None),
        ("{c}", None),
        ("{}", None),
        ("{a", None),
        ("a}", None),
        ('{"n": 1}', None),
    ],
)
def test_fill(template: str, text: str | None) -> None:
    """Columns are put in as they are; a missing column or a single brace is an error."""
    row = {
        "a": 1, "b": "two", "First name": "Ann", "none": None, "list": ["ü", {"x": 1}],
        "flag": True, "0": "zero", "brace": "{a} }}",
    }  # fmt: skip
    if text is None:
        with pytest.raises(ValidationError):
            fill(template, row, 3)
    else:
        assert fill(template, row, 3) == text


def test_missing_column_says_row_column_and_braces() -> None:
    """The error for a missing column names the row, the column and those that exist."""
    with pytest.raises(ValidationError, match=r"row 3: .*\{c\}.*\['a'\].*\{\{ and \}\}"):
        fill("{c}", {"a": 1}, 3)


def test_template_makes_jobs(tmp_path: Path) -> None:
    """Prompt, id, file and metadata come from the columns, the rest from the defaults."""
    path = put(tmp_path, "a.csv", "key,lang,doc,team\n7,English,docs/x.pdf,\n")
    jobs = jobs_from_rows(
        read_rows(path),
        prompt="Summarize in {lang}",
        id_column="key",
        file_column="doc",
        metadata_columns=["team", "lang"],
        model="claude-sonnet-5-5",
        max_tokens=100,
    )
    assert list(jobs) == [
        {
            "model": "claude-sonnet-5-5",
            "max_tokens": 100,
            "prompt": "Summarize in English",
            "id": "7",
            "file": str(tmp_path / "docs/x.pdf"),
            "metadata": {"team": "", "lang": "English"},
        }
    ]


@pytest.mark.parametrize(
    ("source", "file", "expected"),
    [
        ("data/jobs.jsonl", "x.pdf", "data/x.pdf"),
        ("jobs.jsonl", "x.pdf", "x.pdf"),
        ("data/jobs.jsonl", "/abs/x.pdf", "/abs/x.pdf"),
        ("data/jobs.jsonl", "s3://b/x.pdf", "s3://b/x.pdf"),
        ("data/jobs.jsonl", ["x.pdf", "/y.pdf"], ["data/x.pdf", "/y.pdf"]),
        ("memory://data/jobs.jsonl", "x.pdf", "memory://data/x.pdf"),
        ("memory://data/jobs.jsonl", "/abs/x.pdf", "/abs/x.pdf"),
    ],
)
def test_documents_lie_beside_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, file: Any, expected: Any
) -> None:
    """A relative document path counts from the folder of the file of jobs."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with fsspec.open(source, "wt") as out:
        out.write(json.dumps({"file": file}))
    (job,) = jobs_from_rows(read_rows(source), prompt="Summarize", file_column="file")
    assert job["file"] == expected


def test_rows_that_are_jobs_pass_through() -> None:
    """Without a template a row is a job: its fields win over defaults, params become keywords."""
    messages = [{"role": "user", "content": "hi"}]
    rows = [
        {"messages": messages, "model": "gpt-6-luna", "max_tokens": None},
        {"id": 5, "prompt": "{not a column}", "params": {"effort": "low"}, "metadata": {"k": 1}},
    ]  # fmt: skip
    jobs = list(jobs_from_rows(rows, model="claude-sonnet-5-5", max_tokens=9))
    assert jobs == [
        {"model": "gpt-6-luna", "max_tokens": 9, "messages": messages},
        {
            "model": "claude-sonnet-5-5",
            "max_tokens": 9,
            "id": "5",
            "prompt": "{not a column}",
            "effort": "low",
            "metadata": {"k": 1},
        },
    ]


def test_written_jobs_are_read_back() -> None:
    """What `Job.to_dict` wrote is a row that makes the same job."""
    job = Job(id="a", model="m", prompt="p", metadata={"k": 1})
    (fields,) = jobs_from_rows([json.loads(json.dumps(job.to_dict()))])
    assert Job(**fields) == job


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        ({"text": "x"}, {}, r"line 1: give a prompt template, or rows with messages or prompt"),
        ({"prompt": ""}, {}, r"give a prompt template"),
        ({"prompt": "x", "custom_id": "1"}, {}, r"\['custom_id'\] are not fields of a job"),
        ({"prompt": "x", "params": 1}, {}, r"params must be an object"),
        ({"t": "x"}, {"prompt": "{t}", "id_column": "key"}, r"no column 'key'; there are \['t'\]"),
        ({"k": ""}, {"prompt": "x", "id_column": "k"}, r"the column 'k' is empty"),
        ({"d": None}, {"prompt": "x", "file_column": "d"}, r"the column 'd' is empty"),
        ({"d": 1}, {"prompt": "x", "metadata_columns": ["e"]}, r"no column 'e'"),
        ({"d": 1}, {"prompt": "{e}"}, r"line 1: the template asks for \{e\}"),
    ],
)
def test_row_that_makes_no_job(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    """A row without what was asked for is an error that names its file and line."""
    path = put(tmp_path, "jobs.jsonl", json.dumps(row))
    with pytest.raises(ValidationError, match=says) as caught:
        list(jobs_from_rows(read_rows(path), **options))
    assert f"{path!r} line 1" in str(caught.value)


def test_jobs_are_made_one_at_a_time() -> None:
    """An endless source gives its first jobs at once."""
    endless = ({"n": n} for n in itertools.count())
    assert [job["prompt"] for job in itertools.islice(jobs_from_rows(endless, prompt="{n}"), 3)] \
        == ["0", "1", "2"]  # fmt: skip
