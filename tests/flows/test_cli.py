"""The `batchata` command, as a person runs it: a process of its own, keys in the environment."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.cli import main
from tests.chaos.killing import Forker, check_all_paid_once

pytestmark = pytest.mark.usefixtures("prefect_server")

JOBS = 8


def told(tmp_path: Path) -> dict[str, Any]:
    return {
        "results_dir": str(tmp_path / "out"),
        "state": str(tmp_path / "state"),
        "log": str(tmp_path / "log"),
        "jobs": JOBS,
        "prompt": f"{tmp_path}: {{n}}",
    }


def batchata(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, called as its entry point calls it; a process costs two seconds of CPU."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["batchata", *arguments])
        patch.setenv("COLUMNS", "160")
        # What the command sets for its own process must not stay in that of the tests.
        patch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def asked(*arguments: str) -> dict[str, Any]:
    """What the command prints for machines."""
    done = batchata(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return orjson.loads(done.stdout)


def killed_in_flight(forker: Forker, sandbox, job: dict[str, Any], batches: int = 2) -> None:
    """A run that was killed while its batches were at the provider."""
    known = len(list(sandbox.ledger.batches()))
    pid = forker.start(job)
    deadline = time.monotonic() + 60
    while len(list(sandbox.ledger.batches())) < known + batches:
        assert time.monotonic() < deadline, Path(job["log"]).read_text()[-3000:]
        time.sleep(0.02)
    time.sleep(0.4)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() == -9


def test_status_and_cancel_of_a_killed_run(forker: Forker, sandbox, tmp_path: Path, billed) -> None:
    """What a killed run left is shown, cancelled, and collected by the next run; paid once."""
    job = told(tmp_path)
    sandbox.limits(seconds=120)
    try:
        killed_in_flight(forker, sandbox, job)
        shown = asked("status", job["results_dir"])
        assert [line["jobs"] for line in shown["in_flight"]] == [4, 4]
        assert {line["status"] for line in shown["in_flight"]} <= {"validating", "in_progress"}
        plain = batchata("status", job["results_dir"])
        assert "2 provider batches in flight, 0 ended" in plain.stdout
        assert shown["in_flight"][0]["batch_id"] in plain.stdout
        ended = asked("cancel", job["results_dir"])
        assert {line["status"] for line in ended["canceled"]} <= {"canceling", "cancelling"}
    finally:
        sandbox.limits(seconds=0.1)
    assert forker.run(job)[0] == 0, Path(job["log"]).read_text()[-3000:]
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
    assert asked("status", job["results_dir"])["in_flight"] == []


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "gpt-6-luna"])
def test_adopt_after_a_kill_in_the_create(
    forker: Forker, sandbox, tmp_path: Path, model: str, billed
) -> None:
    """A batch whose create was never confirmed is found, recorded, and not created again."""
    known = len(list(sandbox.ledger.batches()))
    sandbox.fault(None, operation="create", mode="delay", seconds=5)
    job = {**told(tmp_path), "models": [model], "items_per_batch": JOBS}
    killed_in_flight(forker, sandbox, job, batches=1)
    sandbox.clear_faults()
    (uncertain,) = asked("status", job["results_dir"])["in_flight"]
    assert uncertain["batch_id"] is None
    assert "may or may not exist" in batchata("status", job["results_dir"]).stderr
    sandbox.settle()
    (found,) = asked("adopt", job["results_dir"])["adopted"]
    made = list(sandbox.ledger.batches())[known:]
    assert [batch.id for batch in made] == [found["batch_id"]]
    assert forker.run(job)[0] == 0
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
    assert len(list(sandbox.ledger.batches())) == known + 1


def test_adopt_lists_what_lies_unclaimed(forker: Forker, sandbox, tmp_path: Path) -> None:
    """Batches of a job set whose records are gone are shown as ours."""
    (tmp_path / "lost").mkdir()
    (tmp_path / "kept").mkdir()
    lost, kept = told(tmp_path / "lost"), told(tmp_path / "kept")
    known = len(list(sandbox.ledger.batches()))
    assert forker.run(lost)[0] == 0
    ids = {batch.id for batch in list(sandbox.ledger.batches())[known:]}
    assert forker.run(kept)[0] == 0
    unclaimed = {
        line["batch_id"]: line for line in asked("adopt", kept["results_dir"])["unclaimed"]
    }
    assert ids <= unclaimed.keys()
    assert all(unclaimed[batch_id]["token_head"] for batch_id in ids)


def test_adopt_asks_the_providers_whose_key_is_here(
    forker: Forker, sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was sent and no record names one; without any key it says what is missing."""
    job = {**told(tmp_path), "cost_limit_usd": 1e-9}
    assert forker.run(job)[0] == 0
    for name in ("AZURE_OPENAI_ENDPOINT", "GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name)
    assert not asked("adopt", job["results_dir"])["adopted"]
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert "no OpenAI key" in batchata("adopt", job["results_dir"]).stderr


def test_cancel_of_a_run_that_lives(forker: Forker, sandbox, tmp_path: Path) -> None:
    """It is refused, and says which process runs it."""
    sandbox.limits(seconds=60)
    known = len(list(sandbox.ledger.batches()))
    job = told(tmp_path)
    try:
        pid = forker.start(job)
        while len(list(sandbox.ledger.batches())) < known + 2:
            time.sleep(0.02)
        done = batchata("cancel", job["results_dir"])
    finally:
        sandbox.limits(seconds=0.1)
        sandbox.settle()
    assert done.returncode == 3
    assert f"process {pid} on" in done.stderr
    assert "Traceback" not in done.stderr
    assert forker.wait() == 0


def test_no_records(tmp_path: Path) -> None:
    """A directory without a run is an error that says what to give."""
    done = batchata("status", str(tmp_path))
    assert done.returncode == 3
    assert "there are no records of" in done.stderr
    assert done.stdout == ""
