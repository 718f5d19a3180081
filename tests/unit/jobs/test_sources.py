"""Rows of files, and the jobs they make."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import sys
import threading
import tracemalloc
import zipfile
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchata_prefect import Batch
from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.sources import fill, jobs_from_rows, read_rows, rows_of
from batchata_prefect.models import Job

ROWS = [{"id": "a", "text": "Grüße, {x}\nnext"}, {"id": "b", "text": 'say "hi"'}]
CSV = 'id,text\r\na,"Grüße, {x}\nnext"\r\nb,"say ""hi"""\r\n'
HALVES = CSV[:20].encode(), CSV[20:].encode()
JSONL = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def put(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


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
        pytest.param("a.csv.xz", lzma.compress(CSV.encode()), id="xz"),
        pytest.param("a.csv.zip", zipped(**{"__MACOSX/._a.csv": "x", "a.csv": CSV}), id="zip"),
        pytest.param("b.csv.gz", b"".join(map(gzip.compress, HALVES)) + b"\0" * 512,
                     id="gz in two members, padded"),
        pytest.param("b.csv.xz", b"".join(map(lzma.compress, HALVES)), id="xz in two streams"),
        pytest.param("c.csv", "sep=;\r\n" + CSV.replace("id,text", "id;text").replace("a,", "a;", 1)
                     .replace("b,", "b;"), id="separator named as for Excel"),
        pytest.param("d.csv", CSV.replace("\r\n", "\r"), id="lines of an old Mac"),
        pytest.param("d.jsonl", JSONL.replace("\n", "\r"), id="jsonl of an old Mac"),
        pytest.param("e.csv", CSV.replace("id,text", "id,text,,").replace('"\r\n', '",,\r\n'),
                     id="columns without a name or a value"),
        pytest.param("f::g%20#?*[1].csv", CSV, id="a name that means something elsewhere"),
    ],
)  # fmt: skip
def test_rows_of_every_text_kind(tmp_path: Path, name: str, content: str | bytes) -> None:
    """The same rows come from every kind of text file, with quotes, newlines and umlauts."""
    assert list(read_rows(put(tmp_path, name, content))) == ROWS
    assert list(read_rows(tmp_path / name)) == ROWS


def test_zstandard_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.zst` works where its library is, several frames and all; else the error names the extra."""
    zstd = pytest.importorskip(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    )
    packed = zstd.compress(CSV[:20].encode()) + zstd.compress(CSV[20:].encode())
    assert list(read_rows(put(tmp_path, "a.csv.zst", packed))) == ROWS
    with pytest.raises(ValidationError, match="damaged"):
        list(read_rows(put(tmp_path, "b.csv.zst", packed[:-3])))
    monkeypatch.setitem(sys.modules, zstd.__name__, None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(ValidationError, match=r"pip install 'batchata-prefect\[zstd\]'"):
        list(read_rows(tmp_path / "a.csv.zst"))


def test_the_index_of_pandas_has_a_name(tmp_path: Path) -> None:
    """A table that pandas wrote with its index has a column without a name before the others."""
    assert list(read_rows(put(tmp_path, "a.csv", ",a\n0,x\n"))) == [{"index": "0", "a": "x"}]


def test_digits_past_those_of_a_float_are_kept(tmp_path: Path) -> None:
    row = '{"whole": 36893488147419103232, "part": 0.1234567890123456789, "half": 0.5}\n'
    (values,) = read_rows(put(tmp_path, "a.jsonl", row))
    assert (
        fill("{whole} {part} {half}", values, 1) == "36893488147419103232 0.1234567890123456789 0.5"
    )


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "pandas", "polars", "mappings"])
def test_what_is_missing_is_missing_in_every_format(tmp_path: Path, kind: str) -> None:
    """None and NaN give no text, and a job without the field."""
    cells = [0.5, float("nan"), None]
    table = {"prompt": ["a", "b", "c"], "temperature": cells}
    source: Any = [{"prompt": p, "temperature": t} for p, t in zip("abc", cells, strict=True)]
    if kind == "jsonl":
        lines = [f'{{"prompt": "{p}", "temperature": {t}}}' for p, t in
                 zip("abc", ("0.5", "NaN", "null"), strict=True)]  # fmt: skip
        source = put(tmp_path, "a.jsonl", "\n".join(lines))
    elif kind in {"parquet", "arrow"}:
        source = pytest.importorskip("pyarrow").table(table)
        if kind == "parquet":
            pytest.importorskip("pyarrow.parquet").write_table(source, tmp_path / "a.parquet")
            source = tmp_path / "a.parquet"
    elif kind != "mappings":
        source = pytest.importorskip(kind).DataFrame(table)
    rows = list(rows_of(source))
    assert [fill("<{temperature}>", row, 1) for row in rows] == ["<0.5>", "<>", "<>"]
    jobs = list(jobs_from_rows(rows, model="m"))
    assert [job.get("temperature") for job in jobs] == [0.5, None, None]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("café".encode(), "café"),
        (bytearray("é".encode()), "é"),
        ([b"a", {"n": float("nan")}], '["a", {"n": null}]'),
        (Decimal("1.10"), "1.10"),
        (True, "true"),
        (b"\xff\xfe", None),
        (b"PK\0", None),
        ({"picture": object()}, None),
        (object(), None),
        ({"b", "a"}, None),
    ],
)
def test_a_cell_is_text_or_refused(cell: object, text: str | None) -> None:
    """What Python would print of an object, or of bytes, is not what somebody wanted to send."""
    if text is not None:
        assert fill("{c}", {"c": cell}, 1) == text
        return
    with pytest.raises(ValidationError, match="row 7: the column 'c' cannot be used"):
        fill("{c}", {"c": cell}, 7)


def test_metadata_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ValidationError, match="metadata must be a mapping, not list"):
        list(jobs_from_rows([{"a": 1}], prompt="{a}", metadata=["a"]))


def test_rows_of_a_url() -> None:
    """A URL is read through fsspec, its query string is not part of the name."""
    with fsspec.open("memory://jobs/a.csv", "wb") as file:
        file.write(CSV.encode())
    assert list(read_rows("memory://jobs/a.csv")) == ROWS


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_a_server_that_knows_no_ranges(tmp_path: Path, packed: bool) -> None:
    """What it sends is a stream, which cannot go back to its beginning."""

    class Plain(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(gzip.compress(CSV.encode()) if packed else CSV.encode())

        def do_HEAD(self) -> None:
            self.send_response(405)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Plain)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        name = f"a.csv{'.gz' if packed else ''}?key=1"
        assert list(read_rows(f"http://127.0.0.1:{server.server_port}/{name}")) == ROWS
    finally:
        server.shutdown()


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
        ("a.csv", "a,b\n1,2\n\n3\n", r"line 4: 1 value, but the first line names 2 columns"),
        ("a.csv", 'a,b\n"1\n1",2\n3,4,5\n', r"line 4: 3 values"),
        ("a.csv", 'a,b\n"1\n1",2,3\n', r"line 2: 3 values"),
        ("a.csv", 'a,b\n1,"2\n3,4\n', r"line 3: unexpected end of data"),
        ("a.csv", "a,a\n1,2\n", r"line 1: the columns \['a'\] are named twice"),
        ("a.csv", "a,,c\n1,,3\n1,2,3\n", r"line 3: a value in a column that has no name"),
        ("a.csv", "a,b,,\n1,2,,\n1,2,,x\n", r"line 3: a value in a column that has no name"),
        ("a.csv", "sep=;\na;b\n1;2;3\n", r"line 3: 3 values"),
        ("a.csv", b"a,b\n1,x\ry\n3,4\n", r"line 2: new-line character"),
        ("a.csv", gzip.compress(b"a\n1\n"), r"holds \.gz and not what its name says"),
        ("a.jsonl", '{"a": 1, "b": {"c": 1, "c": 2}}\n', r"line 1: .* \['c'\] are given twice"),
        ("a.jsonl", '{"a": Infinity}\n', r"line 1: not JSON: Infinity"),
        ("a.jsonl", '{"a": ' + "[" * 100_000 + "\n", r"line 1: not JSON"),
        ("a.csv.gz", "a\n1\n", r"is no \.gz file, although its name says so"),
        ("a.csv.gz", gzip.compress(CSV.encode())[:-9], r"damaged, cut short .* Nothing was sent"),
        ("a.csv.gz", gzip.compress(CSV.encode())[:-6] + b"\1" * 6, r"damaged"),
        ("a.csv.gz", gzip.compress(CSV.encode()) + b"rest", r"damaged"),
        ("a.csv.bz2", bz2.compress(CSV.encode())[:-4], r"damaged"),
        ("a.csv.bz2", bz2.compress(CSV.encode()) + b"rest", r"damaged"),
        ("a.csv.xz", lzma.compress(CSV.encode())[:-4], r"damaged"),
        ("a.csv.xz", lzma.compress(CSV.encode()) + b"\0" * 4 + b"rest", r"damaged"),
        ("a.csv.zip", zipped(a="a\n1\n", b="a\n2\n"), r"holds 2 files, \['a', 'b'\]"),
        ("a.csv.zip", zipped(), r"is no \.zip file|holds 0 files"),
        ("a.csv.zip", zipped(a="a\n" + "1\n" * 999)[:-30], r"cannot be unpacked"),
        ("a.parquet.gz", gzip.compress(b"PAR1"), r"unpack the \.gz"),
        ("a.csv", "a;b\n1;2\n", r"line 1: separated by ';'"),
        ("a.csv", b"a,b\n1,\xe9\n", r"line 2: not UTF-8"),
        ("a.txt", "hello", r"cannot tell what kind"),
        ("a.json", "[]", r"cannot tell what kind"),
        ("jsonl", "{}", r"cannot tell what kind"),
    ],
    # Packed bytes hold the time, and two processes of pytest have to name a case alike.
    ids=lambda value: "bytes" if isinstance(value, bytes) else None,
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


def test_why_a_row_is_skipped_reads_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the path of the rows, and with all else that looks like it."""
    monkeypatch.chdir(tmp_path)
    found: list[list[str]] = []
    for folder in ("a", "deep/a"):
        (tmp_path / folder).mkdir(parents=True)
        rows = f"{folder}/rows.jsonl"
        lost = ("data/lost.pdf", "o'brien's.pdf")
        lines = (*({"prompt": "x", "file": name} for name in lost), {"data/a/": 1}, [1])
        Path(rows).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna", max_tokens=9)
        batch.add_rows(rows, on_bad_row="skip")
        assert batch._intake.spool is not None
        found.append(list(batch._intake.spool.faults()))
    assert found[0] == found[1]
    parts = ("'data/lost.pdf'", "\"o'brien's.pdf\"", "['data/a/']", "list")
    for fault, part in zip(found[0], parts, strict=True):
        assert fault.startswith("'rows.jsonl' line ")
        assert part in fault


def test_what_is_no_job_among_jobs_is_named_with_the_others(tmp_path: Path) -> None:
    batch = Batch(tmp_path / "out").set_default_params(model="gpt-6-luna", max_tokens=9)
    with pytest.raises(ValidationError, match=r"2 jobs would be refused") as caught:
        batch.add_jobs([{"prompt": "x"}, "x", {"prompt": "x", "id": " "}])  # type: ignore[list-item]
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["job 2", "job ' '"]
    assert len(batch) == 1
