"""Files that are there whole or not at all, and that only their owner reads."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import threading
import time
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from batchata_prefect.errors import ValidationError

BUFFER_BYTES = 1 << 20

_PARTIAL = ".part"
_LEFT_SECONDS = 3600.0


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, for their owner only; one that is there stays.

    Raises:
        OSError: It cannot be made.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        if not path.is_dir():
            raise


def private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes is read by its owner only."""
    return os.open(path, flags, 0o600)


@contextmanager
def whole_file(path: Path, *, synced: bool = True, first: bool = False) -> Generator[BinaryIO]:
    """A file that appears under its name only when it is complete.

    Only its owner reads it; who has let others read the one that it replaces, lets them read on.

    Args:
        path: Its name.
        synced: Whether it is also safe from a loss of power; else only from the process's end.
        first: Whether it only appears where there is none yet, of several that are written at the
            same moment the first.

    Raises:
        FileExistsError: There is one, and it was to be the first.
        OSError: It cannot be written, on a full disk for one; nothing is left behind.
    """
    make_folder(path.parent)
    # Two threads may write the same file, and then the same into it.
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{_PARTIAL}")
    try:
        with open(partial, "wb", buffering=BUFFER_BYTES, opener=private) as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        if first:
            path.hardlink_to(partial)
        else:
            partial.replace(path)
    except OSError as error:
        # A full disk is told of what is written, and not of its file.
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    if synced:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep_partial(folder: Path) -> None:
    """Remove what processes that were killed have left of files that they wrote in a folder."""
    for left in folder.glob(f".*{_PARTIAL}"):
        # Whoever still writes one has done so within the hour: no request takes as long.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                left.unlink()


def append(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write at the end of a file that only its owner reads; it is made where there is none.

    Raises:
        OSError: It cannot be written.
    """
    with open(path, "ab", opener=private) as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    with whole_file(path) as file:
        file.write(orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def fields_in(values: Mapping[str, Any], kind: Any, **read: Any) -> dict[str, Any]:
    """What a record says for the fields of a dataclass; another version may say more, or less.

    Args:
        values: The record.
        kind: The dataclass.
        **read: Fields that are not as they stand there.
    """
    return {name: values[name] for name in kind.__dataclass_fields__ if name in values} | read


def copy_start(source: Path, size: int, target: BinaryIO) -> None:
    """Copy the first `size` bytes of a file to the end of an open one.

    Raises:
        OSError: It cannot be read or written, or is shorter.
    """
    with source.open("rb", buffering=0) as file:
        while size:
            piece = file.read(min(size, BUFFER_BYTES))
            if not piece:
                raise OSError(f"{str(source)!r} is cut short")
            target.write(piece)
            size -= len(piece)


class _Scratch(sqlite3.Connection):
    """A database whose file cannot be written raises what every other such file does."""

    def execute(self, *told: Any) -> sqlite3.Cursor:
        with _stored():
            return super().execute(*told)

    def executemany(self, *told: Any) -> sqlite3.Cursor:
        with _stored():
            return super().executemany(*told)


@contextmanager
def _stored() -> Generator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        # SQLite has no class for a full disk, and these tables and statements are right.
        raise OSError(
            errno.ENOSPC, f"what is noted of the jobs cannot be stored ({error})"
        ) from error


def scratch_database(path: Path, tables: str, *, cache_kib: int = 8_000) -> sqlite3.Connection:
    """A new database in the middle of its first transaction, in the place of one that is there.

    It is thrown away in any case, so nothing of it survives a crash.

    Raises:
        OSError: It cannot be made; so does every statement where the disk is full.
    """
    path.unlink(missing_ok=True)
    path.touch(0o600)
    database = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, factory=_Scratch
    )
    for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{cache_kib}"):
        database.execute(f"PRAGMA {pragma}")
    with _stored():
        database.executescript(tables)
    database.execute("BEGIN")
    return database


def read_table(what: str, path: str | os.PathLike[str], of: str) -> dict[str, Any]:
    """A table out of a JSON or TOML file that a person wrote; no digit of a number is rounded.

    Args:
        what: What the file is, for an error.
        path: Where it lies.
        of: What it maps to what, for an error.

    Raises:
        ValidationError: The file cannot be read, has a name twice, or is no table.
    """
    where = f"{what} {os.fspath(path)!r}"
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
        content: Any = (
            tomllib.loads(text, parse_float=Decimal)
            if file.suffix.lower() == ".toml"
            else json.loads(text, parse_float=Decimal, object_pairs_hook=_no_name_twice)
        )
    except OSError as error:
        raise ValidationError(
            f"{where} cannot be read: {error.strerror or error}; nothing was sent"
        ) from error
    except ValueError as error:
        raise ValidationError(f"{where} cannot be read: {error}; nothing was sent") from error
    if not isinstance(content, dict):
        raise ValidationError(f"{where} must map {of}, and holds {type(content).__name__}")
    return cast("dict[str, Any]", content)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself would let the last of two win without a word."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found
