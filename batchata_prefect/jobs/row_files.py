"""Rows of a JSONL, CSV or Parquet file, packed or not: all, as they are written, or an error.

What a reader of the standard library would skip, cut or make of a file without a word (the second
file of an archive, what follows a damaged place, a key given twice, digits past a float's) is read
whole here or refused by name.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import zipfile
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast
from urllib.parse import unquote, urlsplit

from batchata_prefect.content.exact_json import fraction
from batchata_prefect.errors import ValidationError
from batchata_prefect.numbers import counted

_PARQUET_ROWS = 1000
_CSV_FIELD_CHARACTERS = 2**31 - 1
_PIECE_BYTES = 1 << 18
_HEAD_BYTES = 1 << 16
_PACKED_BYTES = 1 << 13
_KINDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".pq")

_MAGIC = {
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".zip": b"PK\x03\x04",
}
"""How a packed file begins [RFC 1952, 8878; the formats' own documents]."""


class Row(dict[str, Any]):
    """One row, which knows where it stands.

    Attributes:
        source: Path or URL of the file.
        line: Line in the file, from 1; in a Parquet file the number of the row, from 1.
    """

    __slots__ = ("line", "source")

    def __init__(self, values: Mapping[str, Any], source: str, line: int) -> None:
        super().__init__(values)
        self.source = source
        self.line = line


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that is no row, where the next one is known to begin.

    Attributes:
        source: Path or URL of the file.
        line: Line in the file, from 1.
        why: What is wrong with it.
    """

    source: str
    line: int
    why: str


def read_rows(path_or_url: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, one after the other; see `file_rows`.

    Raises:
        ValidationError: As of `file_rows`; or a line is not a row, told at the moment it is
            reached.
    """
    for row in file_rows(path_or_url):
        if isinstance(row, Damaged):
            raise ValidationError(f"{row.source!r} line {row.line}: {row.why}")
        yield row


def file_rows(path_or_url: str | os.PathLike[str]) -> Iterator[Row | Damaged]:
    """The rows of a file, one after the other, without holding the file in memory.

    The kind is told by the name: `.jsonl` or `.ndjson` (one object a line), `.csv` or `.tsv`
    (the first line names the columns, every value is text; a line `sep=;` before it names another
    separator), `.parquet` (needs pyarrow). Text is UTF-8, its lines end as on any system. `.gz`,
    `.bz2`, `.xz`, `.zst` and `.zip` with one file in it, behind the name, are unpacked. A URL is
    opened by fsspec.

    Raises:
        ValidationError: The file cannot be opened, is of no known kind, or cannot be read on, as
            where it is cut short or a quote is never closed; the text names the file and the line.
    """
    source = os.fspath(path_or_url)
    kind, packed = kind_of(source)
    if kind in (".jsonl", ".ndjson"):
        return _json_rows(source, packed)
    if kind in (".csv", ".tsv"):
        return _csv_rows(source, packed, tabs=kind == ".tsv")
    if kind in (".parquet", ".pq"):
        return _parquet_rows(source, packed)
    raise ValidationError(
        f"{source!r}: cannot tell what kind of file this is; "
        "give a name that ends in .jsonl, .csv, .tsv or .parquet"
    )


def kind_of(source: str) -> tuple[str, str | None]:
    """The suffix that names the kind, and that of the packing behind it."""
    # A query string is part of a URL and not of the name, a # or ? in a local path is.
    name = urlsplit(source).path if "://" in source else source
    path = PurePosixPath(name.replace("\\", "/").lower())
    if path.suffix in _MAGIC:
        return PurePosixPath(path.stem).suffix, path.suffix
    return path.suffix, None


def _open(source: str, packed: str | None) -> IO[bytes]:
    """The unpacked bytes of a file."""
    try:
        # A server that knows no ranges gives a stream that cannot go back.
        file = io.BufferedReader(_opened(source), buffer_size=_PIECE_BYTES)
        head = file.peek(8)[:8]
    except FileNotFoundError:
        raise ValidationError(f"{source!r}: there is no such file") from None
    except IsADirectoryError:
        raise ValidationError(f"{source!r} is a folder; name one file") from None
    except Exception as error:  # every storage driver raises errors of its own
        raise ValidationError(f"{source!r} cannot be opened: {error}") from error
    for suffix, magic in _MAGIC.items():
        if suffix != packed and head.startswith(magic) and kind_of(source)[0] in _KINDS[:4]:
            raise ValidationError(
                f"{source!r} holds {suffix} and not what its name says; "
                f"give it a name that ends in {suffix}, or unpack it"
            )
    if packed is None:
        return cast("IO[bytes]", file)
    if head and not head.startswith(_MAGIC[packed]):
        raise ValidationError(
            f"{source!r} is no {packed} file, although its name says so; mend its name, or the file"
        )
    if packed == ".zip":
        return _only_member(cast("IO[bytes]", file), source)
    unpacked = _Unpacked(cast("IO[bytes]", file), _decompressor(source, packed))
    return cast("IO[bytes]", io.BufferedReader(unpacked, buffer_size=_PIECE_BYTES))


def _opened(source: str) -> Any:
    if "://" not in source:
        # Not by fsspec, to which `::` in a name is a chain of file systems.
        return Path(os.path.expanduser(source)).open("rb", buffering=0)  # noqa: PTH111
    if source.startswith("file://"):
        path = Path(urlsplit(source.replace("#", "%23").replace("?", "%3F")).path)
        return (path if path.exists() else Path(unquote(str(path)))).open("rb", buffering=0)
    import fsspec  # pyright: ignore[reportMissingTypeStubs]

    return cast("Any", fsspec).open(source, "rb", compression=None).open()


class _Decompressor(Protocol):
    """What the decompressors of the standard library have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressor(source: str, packed: str) -> Callable[[], _Decompressor]:
    if packed == ".gz":
        return lambda: zlib.decompressobj(wbits=31)
    if packed == ".bz2":
        return BZ2Decompressor
    if packed == ".xz":
        return lzma.LZMADecompressor
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(module).ZstdDecompressor
        except ImportError:
            continue
    raise ValidationError(
        f"{source!r}: unpacking .zst needs a library; install it with: "
        "pip install 'batchata-prefect[zstd]'"
    )


class _Unpacked(io.RawIOBase):
    """The bytes of a packed file, to its very end: a stream behind a stream is read as well.

    The readers of the standard library end without a word where what follows a stream is damaged.
    """

    def __init__(self, file: IO[bytes], make: Callable[[], _Decompressor]) -> None:
        self._file, self._make = file, make
        self._stream: _Decompressor | None = None
        self._left = b""
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._out:
            data = self._left or self._file.read(_PACKED_BYTES)
            self._left = b""
            if self._stream is None:
                if not data:
                    return 0
                # What is padded to whole blocks ends in zeros.
                data = data.lstrip(b"\0")
                if not data:
                    continue
                self._stream = self._make()
            elif not data:
                raise EOFError("it ends in the middle")
            self._out = memoryview(self._stream.decompress(data))
            if self._stream.eof:
                self._left, self._stream = self._stream.unused_data, None
        size = min(len(buffer), len(self._out))
        buffer[:size] = self._out[:size]
        self._out = self._out[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _only_member(file: IO[bytes], source: str) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(file)
        found = [each for each in archive.infolist() if not each.is_dir()]
        names = [e.filename for e in found if not e.filename.startswith("__MACOSX/")]
        if len(names) == 1:
            return archive.open(names[0])
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        raise ValidationError(f"{source!r} cannot be unpacked: {error}") from error
    raise ValidationError(
        f"{source!r} holds {len(names)} files, {names[:5]}; rows are read of an archive of one: "
        "unpack it and name one file"
    )


def _lines(file: IO[bytes], source: str, damaged: dict[int, str]) -> Iterator[str]:
    """Decoded lines.

    Args:
        file: The file.
        source: Its path or URL.
        damaged: Takes the lines that are not UTF-8, and why. They are given as they can be had:
            what parts the cells of a row is.
    """
    line = 0
    pieces = _pieces(file)
    while True:
        line += 1
        try:
            data = next(pieces, None)
        except Exception as error:  # each library and storage driver has errors of its own
            raise ValidationError(
                f"{source!r} line {line}: the file is damaged, cut short or cannot be read on: "
                f"{error or type(error).__name__}. Nothing was sent; get it whole and try again"
            ) from error
        if data is None:
            return
        try:
            yield data.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            at = error.start + 1
            damaged[line] = f"not UTF-8 (byte {at} of the line); save the file as UTF-8"
            yield data.decode("utf-8", "replace")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends, which are those of any system: old Macs wrote CR alone."""
    first = file.readline(_HEAD_BYTES)
    at = first.find(b"\r")
    within = at < 0 or first[:at].count(b'"') % 2  # in a cell between quotes, it is the cell's
    if within or first[at:].lstrip(b"\r")[:1] == b"\n":
        if first and not first.endswith(b"\n"):
            first += file.readline()
        if first:
            yield first
        yield from file
        return
    rest = first
    while rest:
        *whole, rest = rest.split(b"\r")
        for piece in whole:
            yield piece + b"\r"
        more = file.read(_HEAD_BYTES)
        if not more:
            break
        rest += more
    if rest:
        yield rest


def _json_rows(source: str, packed: str | None) -> Iterator[Row | Damaged]:
    damaged: dict[int, str] = {}
    with _open(source, packed) as file:
        for line, text in enumerate(_lines(file, source, damaged), 1):
            if not text.strip():
                continue
            if damaged:
                yield Damaged(source, *damaged.popitem())
                continue
            try:
                values = _loads(text)
            except (ValueError, RecursionError) as error:
                yield Damaged(source, line, f"not JSON: {error}")
                continue
            if isinstance(values, dict):
                yield Row(cast("dict[str, Any]", values), source, line)
            else:
                kind = type(values).__name__
                yield Damaged(source, line, f"each line must be one JSON object, this is {kind}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the keys {twice} are given twice")
    return values


def _constant(name: str) -> None:
    """`NaN`, with which pandas and others write a value that is missing."""
    if name != "NaN":
        raise ValueError(f"{name} is no number of JSON")


_loads = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=fraction, parse_constant=_constant
).decode


def _csv_rows(source: str, packed: str | None, *, tabs: bool) -> Iterator[Row | Damaged]:
    # The module's limit of 131,072 characters is shorter than many a document in a column.
    csv.field_size_limit(_CSV_FIELD_CHARACTERS)
    damaged: dict[int, str] = {}
    with _open(source, packed) as file:
        lines = _lines(file, source, damaged)
        first = next(lines, "")
        separator, skipped = "\t" if tabs else ",", 0
        if first[:4].lower() == "sep=" and len(first.rstrip("\r\n")) == 5:
            # How Excel is told the separator.
            separator, skipped, first = first[4], 1, next(lines, "")
        # strict: a quote that is never closed would otherwise swallow the rows after it.
        reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
        header: list[str] | None = None
        unnamed: list[int] = []
        try:
            start = 1 + skipped
            for cells in reader:
                line, start = start, reader.line_num + 1 + skipped
                if damaged:
                    at, why = damaged.popitem()
                    damaged.clear()
                    if header is None:
                        raise ValidationError(f"{source!r} line {at}: {why}")
                    yield Damaged(source, at, why)
                    continue
                if not cells:
                    continue
                if header is None:
                    header = _header(cells, source, line)
                    unnamed = [at for at, name in enumerate(header) if not name]
                    continue
                if len(cells) != len(header):
                    named = f"the first line names {len(header)} columns"
                    yield Damaged(source, line, f"{counted(len(cells), 'value')}, but {named}")
                    continue
                values = dict(zip(header, cells, strict=True))
                if unnamed and any(cells[at] for at in unnamed):
                    why = "a value in a column that has no name"
                    yield Damaged(source, line, f"{why}; the first line must name the columns")
                    continue
                values.pop("", None)
                yield Row(values, source, line)
        except csv.Error as error:
            line = reader.line_num + skipped
            raise ValidationError(f"{source!r} line {line}: {error}") from None


def _header(cells: list[str], source: str, line: int) -> list[str]:
    """The names of the columns; empty where a column has none, and may hold nothing."""
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and ";" in names[0]:
        raise ValidationError(
            f"{source!r} line {line}: separated by ';'; save the file with commas, or put a line "
            "sep=; before it"
        )
    if not names[0] and "index" not in names:
        # How pandas writes an index.
        names[0] = "index"
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValidationError(
            f"{source!r} line {line}: the columns {twice} are named twice; the first line must "
            "name the columns"
        )
    return names


def _parquet_rows(source: str, packed: str | None) -> Iterator[Row | Damaged]:
    try:
        # By name, because the package is optional and has no types to check against.
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise ValidationError(
            f"{source!r}: reading Parquet needs pyarrow; install it with: pip install pyarrow"
        ) from None
    if packed is not None:
        raise ValidationError(f"{source!r}: Parquet is packed inside already; unpack the {packed}")
    with _open(source, packed) as file:
        try:
            table = parquet.ParquetFile(file)
            number = 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, source, number)
        except (ValueError, OSError) as error:  # pyarrow's own errors are of these
            raise ValidationError(f"{source!r}: not a readable Parquet file: {error}") from None
