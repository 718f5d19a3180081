"""Who can read what a run writes: its owner, and whom the owner has let."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from batchata_prefect import Batch
from batchata_prefect.files import make_folder, whole_file
from batchata_prefect.records.journal import Journal


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    """As most machines are set: all may read what somebody makes."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(*roots: Path) -> dict[str, str]:
    """Everything in these folders, and they themselves, that others can read."""
    found = [path for root in roots for path in (root, *root.rglob("*"))]
    assert len(found) > len(roots)
    return {
        str(path): oct(mode(path))
        for path in found
        if mode(path) != (0o700 if path.is_dir() else 0o600)
    }


def test_folders_that_are_made(tmp_path: Path) -> None:
    """All of them are private; those that were there stay as they are."""
    tmp_path.chmod(0o755)
    make_folder(tmp_path / "a" / "b" / "c")
    assert open_to_others(tmp_path / "a") == {}
    (tmp_path / "a").chmod(0o750)
    make_folder(tmp_path / "a" / "d")
    make_folder(tmp_path / "a")
    assert (mode(tmp_path), mode(tmp_path / "a")) == (0o755, 0o750)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_a_file_that_is_replaced(tmp_path: Path) -> None:
    """Whom its owner has let read it reads the next one too."""
    path = tmp_path / "results.jsonl"
    for given in (None, 0o644, 0o400):
        if given is not None:
            path.chmod(given)
        with whole_file(path) as file:
            file.write(b"{}")
        assert mode(path) == (given or 0o600)


def test_a_journal(tmp_path: Path) -> None:
    """What realtime answers said is as private as what batches said."""
    journal = Journal(tmp_path / "journals" / "a")
    journal.begin()
    journal.answered(0, b"{}")
    assert open_to_others(tmp_path / "journals") == {}


def test_a_run(tmp_path: Path, sandbox, prefect_server) -> None:
    """Results, requests, replies, kept jobs, the report, a file for each job, and the records."""
    rows = tmp_path / "jobs.jsonl"
    rows.write_bytes(b"".join(orjson.dumps({"id": f"job-{n}"}) + b"\n" for n in range(3_000)))
    out, state = tmp_path / "new" / "out", tmp_path / "records" / "state"
    batch = Batch(out, raw_files=True, result_format="json").set_state(file=state)
    batch.set_default_params(model="gpt-6-luna", max_tokens=50)
    batch.add_rows(rows, prompt=f"{tmp_path} {{id}}", id_column="id")
    batch.run(on_batch=lambda batch, results: None)
    assert list((out / ".batchata").glob("jobs-*"))
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "results.jsonl", "manifest.json", "job-7.json"} <= names
    assert open_to_others(tmp_path / "new", tmp_path / "records") == {}
