"""A job set kept for the next start, so that what it was made from is not read and rendered again.

What is kept is worth no more than the time it saves: it is taken only where it is whole, under a
name that says all that it was made from, and deleted when it is another's turn.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from contextlib import suppress
from pathlib import Path

import orjson

from batchata_prefect.files import make_folder, whole_file, write_json
from batchata_prefect.jobs.spool.layout import Facts
from batchata_prefect.jobs.spool.spool import Spool

_FILES = ("index", "contexts", "bodies")
_FACTS = "facts.json"
_FORMAT = 4


def keep(spool: Spool, parent: Path, name: str) -> None:
    """Keep a sealed spool under a name; all others below `parent` are deleted.

    Where that fails, on a full disk for one, nothing is kept: that is no reason to stop.

    Args:
        spool: The spool.
        parent: Where to keep it, on the spool's own disk.
        name: Digest of all that it was made from.
    """
    target = parent / f"jobs-{name}"
    if (target / _FACTS).exists():
        return
    try:
        for old in parent.glob("jobs-*"):
            shutil.rmtree(old, ignore_errors=True)
        make_folder(target)
        for file in _FILES:
            # Requests are only ever added behind those that are there; the others may change.
            (_link if file == "bodies" else _copy)(spool.directory / file, target / file)
        with whole_file(target / "codes", synced=False) as codes:
            codes.write(spool.states.codes.tobytes())
        told = {
            "format": _FORMAT,
            "sizes": {file: (target / file).stat().st_size for file in _FILES},
            "digests": {file: _digest(target / file) for file in ("index", "contexts", "codes")},
            "facts": spool.facts()._asdict(),
        }
        # The last of them: what has no facts is not whole.
        write_json(target / _FACTS, told)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)


def reopen(parent: Path, name: str) -> Spool | None:
    """The job set kept under a name as a new spool; None where there is none, or it is damaged.

    Args:
        parent: Where it was kept, and where the new spool is made.
        name: Digest of all that it was made from.
    """
    kept = parent / f"jobs-{name}"
    if not kept.exists():
        return None
    spool = _reopened(parent, kept)
    if spool is None:
        shutil.rmtree(kept, ignore_errors=True)
    return spool


def _reopened(parent: Path, kept: Path) -> Spool | None:
    try:
        told = orjson.loads((kept / _FACTS).read_bytes())
        sizes = {file: (kept / file).stat().st_size for file in _FILES}
        if told["format"] != _FORMAT or any(sizes[file] < told["sizes"][file] for file in _FILES):
            return None
        spool = Spool.create(parent)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    try:
        for file in _FILES:
            (spool.directory / file).unlink(missing_ok=True)
            (_link if file == "bodies" else _copy)(kept / file, spool.directory / file)
        found = {file: _digest(spool.directory / file) for file in ("index", "contexts")}
        codes = array("I", (kept / "codes").read_bytes())
        found["codes"] = hashlib.blake2b(codes.tobytes()).hexdigest()
        if found == told["digests"]:
            spool.restore(Facts(**told["facts"]), codes)
            return spool
    except (OSError, ValueError, TypeError):
        pass
    spool.close()
    return None


def _link(source: Path, target: Path) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    target.touch(0o600)
    shutil.copyfile(source, target)


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
