"""Files that may not be read or written, and disks that are full: a sentence of each command."""

from __future__ import annotations

import ctypes
import io
import os
import resource
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from batchata_prefect.cli import main
from batchata_prefect.cli.orders import Order
from batchata_prefect.records.note import NAME, Note, write_note
from batchata_prefect.results.result_file import BLANK

JOBS = ("-p", "{q}", "-m", "gpt-6-luna")
OVERRIDES = 0b110
"""Capabilities of root by which modes of files do not count for it [capabilities(7)]."""


@contextmanager
def modes_count() -> Generator[None]:
    """Have the modes of files hold for this thread, also where it is root's."""
    if os.geteuid():
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may do anything here")
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~OVERRIDES
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@contextmanager
def disk_full() -> Generator[None]:
    """Have files of this process take no byte more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def batchata(*arguments: str) -> tuple[int, str, str]:
    """Exit code of a command, and what it says on its two ways out."""
    out, err = io.StringIO(), io.StringIO()
    nowhere: Any = nullcontext()
    if arguments[0] == "deploy":  # which asks for a server first
        nowhere = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ), nowhere:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "argv", ["batchata", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code, out.getvalue(), " ".join(err.getvalue().split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Jobs, what is read beside them, and the results of a run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, content in {"q.csv": "q,file\na,a.txt\n", "a.txt": "A", "prices.toml": ""}.items():
        (tmp_path / name).write_text(content)
    out = tmp_path / "out"
    rows = [{**BLANK, "job_id": f"j{n}", "status": "completed"} for n in range(2)]
    (out / ".batchata").mkdir(parents=True)
    (out / "results.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    manifest = {
        "format": 1,
        "counts": {"total": 2, "completed": 2, "failed": 0, "cancelled": 0},
        "results_bytes": (out / "results.jsonl").stat().st_size,
        "cost_usd": 0.0,
        "cost_limit_usd": None,
        "started_at": "2026-11-29T00:00:00+00:00",
        "finished_at": "2026-11-29T00:00:01+00:00",
        "by_model": {},
        "batches": [],
        "failures": {},
        "stopped_by": None,
        "resumed": 0,
        "fees": {},
        "run_key": "out",
        "state": "there",
        "package": "x 1",
    }
    (out / "manifest.json").write_bytes(orjson.dumps(manifest))
    write_note(out, Note("out", str(out / "state"), "ab", "there"))
    Order("q.csv", Path("out"), {"prompt": "{q}", "model": "gpt-6-luna"}).note()
    yield tmp_path
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o700)


CLOSED = [
    (("plan", "q.csv", *JOBS), "q.csv", 0, 2, "'q.csv' cannot be opened"),
    (("run", "q.csv", *JOBS), "q.csv", 0, 2, "'q.csv' cannot be opened"),
    (("run", "q.csv", *JOBS, "--prices", "prices.toml"), "prices.toml", 0, 2, "price file"),
    (("run", "q.csv", *JOBS, "--system", "@a.txt"), "a.txt", 0, 2, "'a.txt' cannot be read"),
    (
        ("run", "q.csv", *JOBS, "--file-column", "file"),
        "a.txt",
        0,
        2,
        "file 'a.txt' cannot be read",
    ),
    (("run", "q.csv", *JOBS, "--response-model", "s.json"), "s.json", 0, 2, "'s.json' cannot be"),
    (("run", "q.csv", *JOBS, "--accounts", "a.toml"), "a.toml", 0, 2, "'a.toml' cannot be read"),
    (("plan", "q.csv", *JOBS, "-o", "to/out"), "to", 0o500, 2, "/to/out' cannot be written"),
    (("run", "q.csv", *JOBS, "-o", "to/out"), "to", 0o500, 2, "/to/out' cannot be written"),
    (("run", "q.csv", *JOBS, "--sandbox", "-o", "to/out"), "to", 0o500, 2, "'to/out'"),
    (("run", "q.csv", *JOBS, "-o", "out"), "out/.batchata/order.json", 0, 2, "order.json'"),
    (("retry", "out"), "out/.batchata/order.json", 0, 2, "order.json'"),
    (("retry", "out"), "out/results.jsonl", 0, 2, "'out/results.jsonl'"),
    (("results", "out"), "out/results.jsonl", 0, 2, "'out/results.jsonl'"),
    (("results", "out", "-e", "x.csv"), "out/results.jsonl", 0, 2, "'out/results.jsonl'"),
    (("results", "out"), "out/.batchata", 0, 2, "'out/.batchata/ended.jsonl'"),
    (("results", "out", "-e", "x.csv"), "x.csv", 0o400, 2, "'x.csv' cannot be written"),
    (("results", "out", "-e", "to/x.csv"), "to", 0o500, 2, "'to/x.csv' cannot be written"),
    (("report", "out"), "out/manifest.json", 0, 2, "'out/manifest.json'"),
    (("report", "out"), "out/results.jsonl", 0, 2, "'out/results.jsonl'"),
    (("report", "out", "--html"), "out", 0o500, 2, "'out/.report.html."),
    (("diff", "out", "out"), "out/results.jsonl", 0, 2, "'out/results.jsonl'"),
    (("status", "out"), f"out/{NAME}", 0, 3, "run.json' cannot be read"),
    (("cancel", "out"), f"out/{NAME}", 0, 3, "run.json' cannot be read"),
    (("adopt", "out"), f"out/{NAME}", 0, 3, "run.json' cannot be read"),
    (("sandbox", "--data-dir", "to/box", "--port", "0"), "to", 0o500, 2, "'to/box'"),
    (("deploy", "q.csv", *JOBS, "--prices", "prices.toml"), "prices.toml", 0, 2, "price file"),
    (("models",), ".env", 0, 2, ".env'"),
]


@pytest.mark.parametrize(("arguments", "closed", "mode", "code", "says"), CLOSED)
def test_a_file_that_is_closed_to_us_is_named(
    folder: Path, arguments: tuple[str, ...], closed: str, mode: int, code: int, says: str
) -> None:
    """2 where the command named it, 3 where it is a record; nothing on standard output."""
    path = folder / closed
    if not path.exists():
        path.write_text("x") if "." in path.name else path.mkdir()
    path.chmod(mode)
    with modes_count():
        ended, out, err = batchata(*arguments)
    assert says in err
    assert "Permission denied" in err
    assert "Traceback" not in err
    assert (ended, out) == (code, "")


FULL = [
    (("plan", "q.csv", *JOBS, "-o", "new"), 3, "jobs cannot be put into 'new': File too large"),
    (("run", "q.csv", *JOBS, "-o", "new"), 3, "'new/.batchata/order.json': File too large"),
    (("retry", "out"), 3, "'out/.batchata/order.json': File too large"),
    (("results", "out", "-e", "x.csv"), 3, "'x.csv' is cut short: File too large"),
    (("results", "out", "-e", "x.jsonl"), 3, "'x.jsonl' is cut short: File too large"),
    (("report", "out", "--html"), 3, "'out/report.html': File too large"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), FULL)
def test_a_disk_that_is_full_is_told_with_what_it_was_to_hold(
    folder: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """In place of a disk, the process may write no more; the errors come at the same places."""
    with disk_full():
        ended, out, err = batchata(*arguments)
    assert says in err
    assert "Traceback" not in err
    assert (ended, out) == (code, "")


def test_many_jobs_for_a_full_disk(folder: Path) -> None:
    """More than are gathered before they are written: it fails while they are read."""
    with Path("q.csv").open("a") as file:
        file.writelines(f"{'question ' * 40}{n},a.txt\n" for n in range(6_000))
    with disk_full():
        ended, _, err = batchata("run", "q.csv", *JOBS, "-o", "new")
    assert "the jobs cannot be put into 'new': File too large. Nothing was sent" in err
    assert ended == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
def test_a_device_that_is_full(folder: Path) -> None:
    """An export through a link to it, and standard output."""
    Path("x.csv").symlink_to("/dev/full")
    ended, _, err = batchata("results", "out", "--export", "x.csv")
    assert (ended, err) == (3, "batchata: 'x.csv' is cut short: No space left on device")
    command = [sys.executable, "-m", "batchata_prefect.cli", "results", "out"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "batchata: the output cannot be written: No space left on device\n"


def test_a_sandbox_on_a_full_disk(folder: Path) -> None:
    """Its server ends with a sentence; so does a run that wants one of its own."""
    with disk_full():
        command = [sys.executable, "-m", "batchata_prefect.sandbox", "--data-dir=box", "--port=0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ended, _, err = batchata("run", "q.csv", *JOBS, "--sandbox", "-o", "new")
    assert done.returncode == 2
    assert done.stderr.startswith("sandbox: 'box' cannot be used: ")
    assert done.stderr.count("\n") == 1
    assert "the sandbox does not start" in err
    assert "Traceback" not in err
    assert ended == 3
