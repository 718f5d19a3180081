"""Rows of tables that are in memory already, or come in pieces: frames, Arrow tables, data sets.

Nothing is imported here that the caller has not: a table brings its own library along, and is told
by where its class comes from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any, cast

from batchata_prefect.errors import ValidationError

_ROWS_AT_ONCE = 1_000
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f"))
"""Bytes that no text has."""


def table_rows(source: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a table, a thousand at a time, with plain Python values.

    Takes a pandas or polars frame, a pyarrow table, batch, reader or data set, anything else that
    gives an Arrow stream (a duckdb relation; needs pyarrow), a Hugging Face data set, or any
    iterable of mappings. An index of a pandas frame is no column; `frame.reset_index()` makes it
    one.

    Raises:
        ValidationError: It is none of these, told before the first row.
    """
    library = type(source).__module__.partition(".")[0]
    if isinstance(source, (bytes, Mapping)):
        what = "a mapping" if isinstance(source, Mapping) else "bytes"
        splits = f", one of {list(cast('Any', source))}" if library == "datasets" else ""
        raise ValidationError(f"the rows are {what}, not a table; name one table{splits}")
    if library == "pandas" and hasattr(source, "iloc"):
        return _pandas_rows(source)
    if library == "polars":
        return _polars_rows(source)
    if library == "pyarrow":
        return _arrow_rows(_arrow_batches(source))
    if library != "datasets" and hasattr(source, "__arrow_c_stream__"):
        try:
            arrow: Any = import_module("pyarrow")
        except ImportError:
            raise ValidationError(
                f"rows of {type(source).__name__} come through pyarrow; install it with: "
                "pip install pyarrow"
            ) from None
        return _arrow_rows(arrow.RecordBatchReader.from_stream(source))
    if not isinstance(source, Iterable):
        raise ValidationError(
            f"{type(source).__name__} holds no rows; give a path or URL, a frame, an Arrow table, "
            "a data set, or an iterable of mappings"
        )
    return iter(cast("Iterable[Mapping[str, Any]]", source))


def _pandas_rows(frame: Any) -> Iterator[Mapping[str, Any]]:
    names = [str(name) for name in frame.columns]
    for start in range(0, len(frame), _ROWS_AT_ONCE):
        piece = frame.iloc[start : start + _ROWS_AT_ONCE]
        for values in piece.itertuples(index=False, name=None):
            yield {name: _unboxed(value) for name, value in zip(names, values, strict=True)}


def _unboxed(value: Any) -> Any:
    """A value of pandas as plain Python; what it takes for missing (NaN, NaT, NA) is None."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    library = type(value).__module__.partition(".")[0]
    if library == "pandas" and type(value).__name__ in {"NAType", "NaTType"}:
        return None
    if library == "numpy":
        return value.tolist()
    if library == "pandas" and hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    return value


def _polars_rows(frame: Any) -> Iterator[Mapping[str, Any]]:
    if hasattr(frame, "collect"):
        frame = frame.collect()
    for piece in frame.iter_slices(_ROWS_AT_ONCE):
        yield from piece.to_dicts()


def _arrow_batches(source: Any) -> Iterable[Any]:
    if hasattr(source, "to_pylist"):  # a table, or one batch
        return (
            source.slice(start, _ROWS_AT_ONCE) for start in range(0, source.num_rows, _ROWS_AT_ONCE)
        )
    if hasattr(source, "to_batches"):  # a data set of files
        return cast("Iterable[Any]", source.to_batches(batch_size=_ROWS_AT_ONCE))
    return cast("Iterable[Any]", source)  # a reader


def _arrow_rows(batches: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, or NaN, which is how many tables write it."""
    return value is None or (isinstance(value, float) and value != value)


def as_text(value: Any) -> str:
    """A cell as the text of a prompt: nothing for one that is missing, JSON for lists and objects.

    Raises:
        TypeError: It has no text of its own: bytes that are not UTF-8, an image, a set.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(bytes(cast("bytes", value)))
    if type(value).__module__.partition(".")[0] == "numpy":
        return as_text(value.tolist())
    if isinstance(value, (bool, Mapping, list, tuple)):
        return json.dumps(_plain(value), ensure_ascii=False)
    if type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__:
        raise TypeError(f"{type(value).__name__} has no text")
    if isinstance(value, (set, frozenset)):
        raise TypeError("a set has no order; give a list")
    return str(value)


def _plain(value: Any) -> Any:
    """A value inside a list or an object, as JSON has it."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(key): _plain(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("Iterable[Any]", value)]
    return None if is_missing(value) else as_text(value)


def _decoded(value: bytes) -> str:
    try:
        if value.translate(None, _CONTROLS) == value:
            return value.decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise TypeError(f"it holds {len(value):,} bytes that are not UTF-8 text")


def as_json(value: Any) -> Any:
    """A cell as a JSON value: times in ISO 8601, decimals as text with all their digits.

    Raises:
        TypeError: It has no JSON form, such as bytes or an image.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if is_missing(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(bytes(cast("bytes", value)))
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(key): as_json(item) for key, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in cast("Iterable[Any]", value)]
    if type(value).__module__.partition(".")[0] == "numpy":
        return as_json(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")
