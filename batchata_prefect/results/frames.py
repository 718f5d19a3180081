"""Results as Arrow tables, pandas and polars frames, and Parquet files; needs pyarrow.

All start from `results.jsonl`, which has one type in each column. Metadata and parsed answers are
JSON text there, because their fields are the user's; here each of their fields is a column besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from batchata_prefect.content.exact_json import dumps, loads_exact
from batchata_prefect.errors import ValidationError
from batchata_prefect.results.result_file import BLANK, ResultFile, row_of

OPENED = {"metadata_json": "metadata.", "parsed_response_json": "answer."}
"""Columns of JSON objects, and what the columns of their fields are called by."""

_BLANKS = [
    b'"%b":%b,' % (column.encode(), empty) for column in OPENED for empty in (b"null", b'"{}"')
]
"""How these columns stand in a line where they hold nothing."""

_MOST_FIELDS = 200
_ROW_GROUP = 50_000
_ROWS_AT_ONCE = 5_000
_BLOCK_BYTES = 8 << 20
_EXACT = 2**53
"""Whole numbers up to it are floats without a loss."""

_KINDS: dict[type[object], str] = {bool: "bool", int: "int64", float: "float64", str: "string"}
_ALIASES = {"large": "int64", "json": "string"}
"""Kinds of ours -> what Arrow calls their type; the others are called so there too."""


def require(library: str, extra: str, what: str) -> Any:
    """An optional library.

    Raises:
        ValidationError: It is not installed; the text says how to install it.
    """
    if find_spec(library) is None:
        raise ValidationError(
            f"{what} needs {library}, which is not installed; install it with: "
            f"pip install 'batchata-prefect[{extra}]'"
        )
    return import_module(library)


@dataclass(slots=True)
class _Fields:
    """The fields of the objects in a column of JSON text, with the type of each."""

    kinds: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    is_open: bool = True

    def see(self, text: str) -> None:
        values: Any = loads_exact(text)
        if not isinstance(values, dict):
            # Lists and texts have no fields.
            self.is_open = False
        if not self.is_open:
            return
        for name, value in cast("dict[str, Any]", values).items():
            if value is None:
                self.kinds.setdefault(name, None)
                continue
            kind = _KINDS.get(cast("type[object]", type(value)), "json")
            if kind == "int64" and abs(value) > _EXACT:
                kind = "large" if -(2**63) <= value < 2**63 else "json"
            self.kinds[name] = _wider(self.kinds.get(name), kind)
        self.is_open = len(self.kinds) <= _MOST_FIELDS


def _wider(one: str | None, other: str) -> str:
    """The type that holds both: numbers are floats together, all else that differs is JSON text.

    `large` are whole numbers of which a float keeps not all digits.
    """
    if one is None or one == other:
        return other
    both = {one, other}
    if both == {"int64", "large"}:
        return "large"
    return "float64" if both == {"int64", "float64"} else "json"


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a `results.jsonl` holds: its own columns, the fields opened, and its longest line."""

    base: Any
    fields: dict[str, dict[str, str]]
    longest: int


def _shape(path: Path) -> _Shape:
    found = {column: _Fields() for column in OPENED}
    longest = 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            longest = max(longest, len(line))
            if sum(blank in line for blank in _BLANKS) == len(OPENED):
                continue
            row = row_of(line)
            for column, fields in found.items():
                if row[column] is not None and row[column] != "{}":
                    fields.see(row[column])
    opened = {
        column: {name: kind or "string" for name, kind in fields.kinds.items()}
        for column, fields in found.items()
        if fields.is_open
    }
    return _Shape(_own_columns(), opened, longest)


def _own_columns() -> Any:
    """The Arrow schema of a row, from a row itself."""
    arrow = import_module("pyarrow")
    columns = {
        name: arrow.type_for_alias(_KINDS.get(cast("type[object]", type(value)), "string"))
        for name, value in BLANK.items()
    }
    columns["tags"] = arrow.list_(arrow.string())
    columns["embedding"] = arrow.list_(arrow.float64())
    return arrow.schema(list(columns.items()))


def record_batches(path: Path) -> tuple[Any, Iterator[Any]]:
    """The results as an Arrow schema and record batches in it, in the order of the jobs.

    `row` is the number of the row of the jobs that each is of, from 1.

    Reads the file twice, the first time for the fields of metadata and answers and their types.

    Args:
        path: A `results.jsonl`.

    Raises:
        ValidationError: pyarrow is not installed.
    """
    arrow = require("pyarrow", "parquet", "a table of results")
    shape = _shape(path)
    opened = [
        (OPENED[column] + name, arrow.type_for_alias(_ALIASES.get(kind, kind)))
        for column, fields in shape.fields.items()
        for name, kind in fields.items()
    ]
    row = arrow.field("row", arrow.int64())
    schema = arrow.schema([row, *shape.base, *(arrow.field(name, kind) for name, kind in opened)])
    return schema, _batches(path, shape, schema)


def _batches(path: Path, shape: _Shape, schema: Any) -> Iterator[Any]:
    if not shape.longest:
        return
    arrow = import_module("pyarrow")
    done = 0
    for batch in _own_batches(path, shape):
        numbers = range(done + 1, done + 1 + batch.num_rows)
        columns = [arrow.array(numbers, type=arrow.int64()), *batch.columns]
        done += batch.num_rows
        for column, fields in shape.fields.items():
            if fields:
                columns += _opened(batch.column(column).to_pylist(), fields, schema, column)
        yield arrow.RecordBatch.from_arrays(columns, schema=schema)


def _own_batches(path: Path, shape: _Shape) -> Iterator[Any]:
    """The columns that a row has itself."""
    arrow, json = import_module("pyarrow"), import_module("pyarrow.json")
    done = 0
    try:
        reader = json.open_json(
            str(path),
            read_options=json.ReadOptions(block_size=max(_BLOCK_BYTES, 2 * shape.longest)),
            parse_options=json.ParseOptions(
                explicit_schema=shape.base, unexpected_field_behavior="ignore"
            ),
        )
        for batch in reader:
            done += batch.num_rows
            yield batch
    except arrow.ArrowInvalid:
        # A damaged line ends that reader, and is one row of ours.
        rows = islice(ResultFile(path), done, None)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            yield arrow.RecordBatch.from_pylist(some, schema=shape.base)


def _opened(
    texts: Sequence[str | None], fields: dict[str, str], schema: Any, column: str
) -> list[Any]:
    arrow = import_module("pyarrow")
    values: dict[str, list[Any]] = {name: [] for name in fields}
    for text in texts:
        row: dict[str, Any] = {} if text is None else loads_exact(text) or {}
        for name, cells in values.items():
            cells.append(row.get(name))
    return [
        arrow.array(
            [None if cell is None else dumps(cell) for cell in values[name]]
            if kind == "json"
            else values[name],
            type=schema.field(OPENED[column] + name).type,
        )
        for name, kind in fields.items()
    ]


def arrow_table(path: Path) -> Any:
    """The results as a pyarrow table.

    Raises:
        ValidationError: pyarrow is not installed.
    """
    schema, batches = record_batches(path)
    return import_module("pyarrow").Table.from_batches(batches, schema=schema)


def write_parquet(path: Path, file: BinaryIO) -> None:
    """Write the results as Parquet, a group of rows at a time.

    Args:
        path: A `results.jsonl`.
        file: The file to write.

    Raises:
        ValidationError: pyarrow is not installed.
        OSError: The file cannot be written.
    """
    schema, batches = record_batches(path)
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        held: list[Any] = []
        for batch in batches:
            held.append(batch)
            if sum(each.num_rows for each in held) >= _ROW_GROUP:
                writer.write_table(arrow.Table.from_batches(held, schema=schema))
                held = []
        if held:
            writer.write_table(arrow.Table.from_batches(held, schema=schema))
