"""Where records are kept: Prefect's storages, with writes that are whole and can be the first.

Who may buy is decided by records that are created only where none is: local files by a hard link,
S3 and Google Cloud Storage by a conditional put. Other storages have no such thing, and `lease`
does without.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from prefect.filesystems import LocalFileSystem, RemoteFileSystem, WritableFileSystem
from prefect.results import aget_default_result_storage, aresolve_result_storage

from batchata_prefect.errors import StateError
from batchata_prefect.files import whole_file
from batchata_prefect.records.note import directory_of

_CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs"})
"""fsspec's protocols whose `mode="create"` is one conditional request [s3fs: If-None-Match, gcsfs:
ifGenerationMatch]; fsspec's own default looks first and writes then."""

_UNSUPPORTED = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV})
"""What a file system without hard links answers [link(2)], and an S3 server without conditional
puts (501)."""


class CannotCreateError(Exception):
    """The storage cannot create a record only where there is none."""


class DurableFileSystem(LocalFileSystem):
    """Prefect's local storage with writes that are whole or absent, also after a power cut.

    Prefect's own writes in place and does not sync, so that a kill at the wrong instant leaves
    half a record.
    """

    _block_type_name = "Durable Local File System"

    async def awrite_path(self, path: str, content: bytes) -> str:
        """Write the file, synced, or raise and leave what was there."""
        return await asyncio.to_thread(self._write, path, content)

    def write_path(self, path: str, content: bytes) -> str:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Write the file, synced, or raise and leave what was there."""
        return self._write(path, content)

    async def create_path(self, path: str, content: bytes) -> None:
        """Write the file, synced, where there is none.

        Raises:
            FileExistsError: There is one.
            CannotCreateError: The file system has no hard links.
        """
        with _creating():
            await asyncio.to_thread(self._write, path, content, first=True)

    def _write(self, path: str, content: bytes, *, first: bool = False) -> str:
        target = Path(self._resolve_path(path))
        with whole_file(target, first=first) as file:
            file.write(content)
        return str(target)


@contextmanager
def _creating() -> Generator[None]:
    """Create a record where there is none."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise CannotCreateError(str(error)) from error
        raise


class ObjectStorage(RemoteFileSystem):
    """Prefect's fsspec storage without a wait in the event loop, and with conditional puts.

    Prefect opens and closes the files of it in the event loop, where a slow storage would hold up
    the renewal of the lease.
    """

    _block_type_name = "Object Storage of Records"

    async def aread_path(self, path: str) -> bytes:
        """The content of a file."""
        return await asyncio.to_thread(self._read, path)

    async def awrite_path(self, path: str, content: bytes) -> str:
        """Write the file."""
        return await asyncio.to_thread(self._write, path, content)

    async def create_path(self, path: str, content: bytes) -> None:
        """Write the file where there is none.

        Raises:
            FileExistsError: There is one.
            CannotCreateError: The storage has no conditional puts.
        """
        await asyncio.to_thread(self._create, path, content)

    def _read(self, path: str) -> bytes:
        return self._system().cat_file(self._resolve_path(path))

    def _write(self, path: str, content: bytes) -> str:
        system, target = self._system(), self._resolve_path(path)
        system.makedirs(target[: target.rindex("/")], exist_ok=True)
        system.pipe_file(target, content)
        return target

    def _create(self, path: str, content: bytes) -> None:
        system = self._system()
        put: Any = getattr(system, "_pipe_file", None)
        known = put is not None and "mode" in inspect.signature(put).parameters
        if not known or self.basepath.partition("://")[0] not in _CONDITIONAL:
            raise CannotCreateError(f"{type(system).__name__} has no conditional puts")
        target = self._resolve_path(path)
        with _creating():
            system.makedirs(target[: target.rindex("/")], exist_ok=True)
            system.pipe_file(target, content, mode="create")

    def _system(self) -> Any:
        return cast("Any", self.filesystem)


def is_missing(error: BaseException) -> bool:
    """Whether a storage's error says that the record was never written.

    Each storage says it in its own way: LocalFileSystem by a ValueError, fsspec by
    FileNotFoundError, S3 by a ClientError with a code.
    """
    if isinstance(error, FileNotFoundError):
        return True
    if type(error) is ValueError:
        return str(error).endswith("does not exist.")
    try:
        code: Any = cast("Any", error).response["Error"]["Code"]
    except (AttributeError, KeyError, TypeError):
        return False
    return str(code) in {"404", "NoSuchKey", "NotFound"}


async def storage_at(location: str | None) -> WritableFileSystem:
    """The storage that a location names.

    Args:
        location: A Prefect storage block as `type/name`, a local directory, or None for the
            result storage that Prefect is set to.

    Raises:
        StateError: The block cannot be loaded, or the path is a file.
    """
    if location is None:
        storage = await aget_default_result_storage()
    else:
        path = directory_of(location)
        if await asyncio.to_thread((path or Path(location)).is_file):
            raise StateError(
                f"{location!r} is a file; records need a directory, such as "
                f"{Path(location).with_suffix('').name + '-state'!r}, or a storage block as "
                "'type/name'"
            )
        if path is not None:
            storage = LocalFileSystem(basepath=str(path.resolve()))
        else:
            kind, _, name = location.partition("/")
            try:
                storage = await aresolve_result_storage(location)
            except ValueError as error:
                raise StateError(
                    f"no storage block {name!r} of type {kind!r}: {error}. "
                    f"For a directory write './{location}'"
                ) from error
    return firm(storage)


def firm(storage: WritableFileSystem) -> WritableFileSystem:
    """The same storage with firmer writes, where this package knows how."""
    if type(storage) is LocalFileSystem:
        return DurableFileSystem(basepath=storage.basepath)
    if type(storage) is RemoteFileSystem and not storage.basepath.startswith("smb://"):
        return ObjectStorage(basepath=storage.basepath, settings=storage.settings)
    return storage
