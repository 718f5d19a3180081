"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

BUFFER_BYTES = 1 << 20


@contextmanager
def whole_file(path: Path, *, synced: bool = True) -> Generator[BinaryIO]:
    """A file that appears under its name only when it is complete.

    Args:
        path: Its name.
        synced: Whether it is also safe from a loss of power; else only from the process's end.

    Raises:
        OSError: It cannot be written, on a full disk for one; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb", buffering=BUFFER_BYTES) as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    with whole_file(path) as file:
        file.write(orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


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
