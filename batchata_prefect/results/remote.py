"""Results at a URL: a run works in a local folder, and puts what it came to there at its end.

The folder is a working copy: where it is gone, or on another machine, the replies come back from
the URL, or else from the provider. The manifest is put last, so that who sees it there sees all
that it speaks of, and a run that broke off in between puts the rest the next time.

Any file system that fsspec knows will do; keys and options are its own (environment, `~/.aws`,
`~/.config/fsspec`), and never stand in a record or a manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from batchata_prefect.errors import BatchataError, StateError, ValidationError, one_line
from batchata_prefect.files import whole_file
from batchata_prefect.records.note import NAME as NOTE
from batchata_prefect.results.archive import NAME as ARCHIVE
from batchata_prefect.results.item_files import FOLDER

MANIFEST = "manifest.json"
RAW = "raw_files"
ORDER = ".batchata/order.json"
"""What `batchata run` was told, for `batchata retry`."""

_PIECE_BYTES = 1 << 20
_NOTE_THERE = "run.json"
"""Name of the note at a URL, where the folder of our own has no place."""

_NOT_RESULTS = frozenset({MANIFEST, _NOTE_THERE})
_KEPT = frozenset({"results.jsonl", ARCHIVE, "results.parquet", "report.html", ORDER})


def is_url(place: object) -> bool:
    """Whether a results directory is a URL."""
    return "://" in str(place)


def normal(url: str) -> str:
    """A URL as it stands in records and manifests.

    Raises:
        ValidationError: It holds a password; the text does not show it.
    """
    parts = urlsplit(url)
    if parts.password:
        raise ValidationError(
            f"the URL of the results at {parts.hostname!r} holds a password, which would stand in "
            "records and logs. Nothing was sent; give it to the driver: its environment variables, "
            "or ~/.config/fsspec"
        )
    return url.rstrip("/")


def working_folder(url: str) -> Path:
    """The local folder for the results at a URL: the same at each start on this machine.

    Raises:
        ValidationError: The URL holds a password.
    """
    from prefect.settings import PREFECT_HOME

    url = normal(url)
    name = re.sub(r"[^\w.-]+", "-", url.partition("://")[2]).strip("-")[-60:]
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    return Path(PREFECT_HOME.value()) / "batchata" / f"{name}-{digest}"


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, with nothing remembered from earlier, and the path in it."""
    import fsspec  # pyright: ignore[reportMissingTypeStubs]

    try:
        system, path = cast("Any", fsspec).url_to_fs(url)
        system.invalidate_cache()
    except (ImportError, ValueError) as error:
        raise ValidationError(
            f"results_dir {url!r}: {error}. Nothing was sent; give a local directory, or install "
            "what fsspec needs for it (batchata-prefect[s3] or [gs])"
        ) from error
    return system, str(path).rstrip("/")


@contextmanager
def _at(
    url: str, what: str, then: str = "", kind: type[BatchataError] = StateError
) -> Generator[tuple[Any, str]]:
    """The file system of a URL and the path in it, as `_open`; its driver's errors become ours.

    Args:
        url: The URL.
        what: What cannot be done where the driver raises.
        then: What else there is to say of it.
        kind: What is raised.
    """
    try:
        yield _open(url)
    except (StateError, ValidationError):
        raise
    except Exception as error:  # each driver raises errors of its own
        raise kind(f"{what}: {one_line(error)}{then}") from error


def _make_folder(system: Any, path: str) -> None:
    """Make a folder where the file system has such.

    Object stores have none: there the path begins with the bucket, and some drivers would make that
    bucket.
    """
    if path.startswith("/"):
        system.makedirs(path, exist_ok=True)


def probe(url: str) -> None:
    """See that results can be put at a URL, before anything is paid.

    Raises:
        ValidationError: They cannot.
    """
    what = f"results_dir {url!r} cannot be written"
    with _at(url, what, ". Nothing was sent", ValidationError) as (system, root):
        path = f"{root}/.batchata-probe"
        _make_folder(system, root)
        system.pipe_file(path, b"can results be put here?")
        system.rm_file(path)


def publish(folder: Path, url: str) -> bool:
    """Put the results of a finished run at a URL; False where they are there already.

    Results of another run that lie there are kept under other names. Requests and replies that
    are kept in the folder are put there too.

    Args:
        folder: The working folder.
        url: The URL.

    Raises:
        StateError: They cannot be put there; they are in the working folder.
    """
    manifest = (folder / MANIFEST).read_bytes()
    what = f"the results cannot be put at {url!r}"
    then = f". They are in {str(folder)!r}; run again to put them there, nothing is paid twice"
    with _at(url, what, then) as (system, root):
        there = _read(system, f"{root}/{MANIFEST}")
        if there == manifest:
            return False
        _set_aside(system, root, there, manifest)
        files = [
            path.name
            for path in folder.iterdir()
            if path.is_file() and not path.name.startswith(".") and path.name not in _NOT_RESULTS
        ]
        if (folder / ORDER).exists():
            files.append(ORDER)
        files += [
            path.relative_to(folder).as_posix()
            for path in (*(folder / RAW).rglob("*.json*"), *(folder / FOLDER).glob("*"))
            if not path.name.startswith(".")
            and _size(system, f"{root}/{path.relative_to(folder).as_posix()}")
            != path.stat().st_size
        ]
        _make_folder(system, root)
        for name in files:
            _put(system, folder / name, f"{root}/{name}")
        system.pipe_file(f"{root}/{MANIFEST}", manifest)
    return True


def put_note(url: str, folder: Path) -> None:
    """Put the note that says where the records are at a URL.

    Raises:
        StateError: It cannot be put there.
    """
    what = f"where the records are cannot be noted at {url!r}"
    with _at(url, what, ". Nothing was sent") as (system, root):
        _put(system, folder / NOTE, f"{root}/{_NOTE_THERE}")


def put_file(url: str, folder: Path, path: Path) -> None:
    """Put one file of the working folder at its URL.

    Raises:
        StateError: It cannot be put there.
    """
    what = f"{path.name!r} cannot be put at {url!r}"
    with _at(url, what, f". It is in {str(folder)!r}") as (system, root):
        _put(system, path, f"{root}/{path.relative_to(folder).as_posix()}")


def drop_folder(url: str, name: str) -> None:
    """Remove a folder below a URL, where that can be done; nothing depends on it."""
    with suppress(Exception):  # each driver raises errors of its own
        system, root = _open(url)
        if system.exists(f"{root}/{name}"):
            system.rm(f"{root}/{name}", recursive=True)


def _put(system: Any, path: Path, target: str) -> None:
    _make_folder(system, target.rpartition("/")[0])
    system.put_file(str(path), target)


def bring(url: str, *, newer: bool = False) -> Path:
    """The working folder of a URL, with the finished results that lie there.

    Args:
        url: The URL.
        newer: Whether to bring them only where they were finished after those in the folder.

    Raises:
        StateError: They cannot be read.
        ValidationError: No file system is known for the URL.
    """
    folder = working_folder(url)
    with _at(url, f"{url!r} cannot be read") as (system, root):
        there = _read(system, f"{root}/{MANIFEST}")
        mine = folder / MANIFEST
        here = mine.read_bytes() if mine.exists() else None
        if there is not None and there != here and not (newer and _finished(there, here)):
            for name in _KEPT - {ORDER}:
                (folder / name).unlink(missing_ok=True)
                if system.exists(f"{root}/{name}"):
                    with whole_file(folder / name) as file:
                        system.get_file(f"{root}/{name}", file.name)
            with whole_file(mine) as file:
                file.write(there)
    return folder


def _finished(there: bytes, here: bytes | None) -> bool:
    """Whether the results of one manifest were finished before those of the other."""
    try:
        return here is not None and (
            orjson.loads(there)["finished_at"] <= orjson.loads(here)["finished_at"]
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False


def bring_told(url: str) -> None:
    """Have in the working folder what lies at a URL and says whose the results there are.

    Its note as it stands there, which another machine may have written; its manifest where the
    folder has none.

    Raises:
        StateError: It cannot be read.
    """
    folder = working_folder(url)
    with _at(url, f"{url!r} cannot be read", ". Nothing was sent") as (system, root):
        told = {MANIFEST: _read(system, f"{root}/{MANIFEST}")}
        told[NOTE] = _read(system, f"{root}/{_NOTE_THERE}")
    for name, there in told.items():
        if there is not None and (name == NOTE or not (folder / name).exists()):
            with whole_file(folder / name) as file:
                file.write(there)


def read_order(url: str) -> bytes | None:
    """What the run whose results lie at a URL was told; None where it was not told by a command.

    Raises:
        StateError: It cannot be read.
        ValidationError: No file system is known for the URL.
    """
    with _at(url, f"{url!r} cannot be read", ". Nothing was sent") as (system, root):
        return _read(system, f"{root}/{ORDER}")


def is_there(url: str, folder: Path, path: Path) -> bool:
    """Whether one file of the working folder is at its URL, as far as can be told."""
    try:
        system, root = _open(url)
        return bool(system.exists(f"{root}/{path.relative_to(folder).as_posix()}"))
    except Exception:  # each driver raises errors of its own; the provider still has the rows
        return False


def bring_file(url: str, folder: Path, path: Path, take: Callable[[bytes], None]) -> bool:
    """Fetch one file of the working folder from its URL; whether it is there now.

    Args:
        url: Where the results are put.
        folder: The working folder.
        path: The file in it.
        take: Is given each piece, and raises where there are more than there can be.
    """
    try:
        system, root = _open(url)
        source = f"{root}/{path.relative_to(folder).as_posix()}"
        if not system.exists(source):
            return False
        with system.open(source, "rb") as there, whole_file(path) as here:
            while piece := there.read(_PIECE_BYTES):
                take(piece)
                here.write(piece)
    except Exception:  # each driver raises errors of its own; the provider still has the rows
        return False
    return True


def _set_aside(system: Any, root: str, there: bytes | None, mine: bytes) -> None:
    """Keep the results of another run under names of their own."""
    if there is None or _run_of(there) == _run_of(mine):
        return
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for name in (MANIFEST, *sorted(_KEPT)):
        if system.exists(f"{root}/{name}"):
            stem, _, suffix = name.rpartition(".")
            system.mv(f"{root}/{name}", f"{root}/{stem}.{stamp}.{suffix}")


def _run_of(manifest: bytes) -> tuple[Any, Any]:
    """Run key and records."""
    try:
        values: dict[str, Any] = orjson.loads(manifest)
        return values["run_key"], values.get("records") or values["ledger"][0]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None, None


def _read(system: Any, path: str) -> bytes | None:
    try:
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        return None


def _size(system: Any, path: str) -> int | None:
    try:
        return int(system.size(path))
    except FileNotFoundError:
        return None
