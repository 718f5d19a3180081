"""A real fsspec file system that is slow, or away for a while; for records in a Prefect block."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from fsspec import AbstractFileSystem
from prefect.filesystems import RemoteFileSystem


class SlowFileSystem(AbstractFileSystem):  # pyright: ignore[reportMissingTypeArgument]
    """Files below a folder; each write takes its time, and a file `away` makes all of it fail.

    It cannot create a file only where there is none, as most storages cannot.
    """

    protocol = "slow"
    cachable = False

    def __init__(self, root: str, write_seconds: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._root = Path(root)
        self._write_seconds = write_seconds

    def _at(self, path: str) -> Path:
        if (self._root / "away").exists():
            raise OSError("the storage is away")
        return self._root / path.removeprefix("slow://")

    def cat_file(self, path: str, *_args: Any, **_options: Any) -> bytes:
        """The content of a file."""
        return self._at(path).read_bytes()

    def pipe_file(self, path: str, value: bytes, *_args: Any, **_options: Any) -> None:
        """Write a file, whole, after its time."""
        target = self._at(path)
        time.sleep(self._write_seconds)
        partial = target.with_name(f"{target.name}.{uuid4().hex}.part")
        partial.write_bytes(value)
        partial.replace(target)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder."""
        self._at(path).mkdir(parents=True, exist_ok=exist_ok)


fsspec.register_implementation("slow", SlowFileSystem, clobber=True)


def block(name: str, root: Path, write_seconds: float) -> str:
    """Save a block of such a storage; its name for `set_state`."""
    root.mkdir()
    told = {"root": str(root), "write_seconds": write_seconds}
    RemoteFileSystem(basepath="slow://records", settings=told).save(name, overwrite=True)
    return f"remote-file-system/{name}"
