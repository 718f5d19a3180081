"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

BUFFER_BYTES = 1 << 20


@contextmanager
def whole_file(path: Path, *, synced: bool = True, private: bool = False) -> Generator[BinaryIO]:
    """A file that appears under its name only when it is complete.

    Args:
        path: Its name.
        synced: Whether it is also safe from a loss of power; else only from the process's end.
        private: Whether only its owner can read it.

    Raises:
        OSError: It cannot be written, on a full disk for one; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two threads may write the same file, and then the same into it.
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        opener = _private if private else None
        with open(partial, "wb", buffering=BUFFER_BYTES, opener=opener) as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
