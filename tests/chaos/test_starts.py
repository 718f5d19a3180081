"""Starts after a kill, with moved records, another directory or other jobs: what is paid stays."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker, log_of, manifest_of, rows_of, start_until_sent, told

JOBS = 6
SECONDS = 1.5
"""Long enough for a run to be killed in between."""


@pytest.fixture
def times(billed) -> Callable[[], Counter[str]]:
    """How often each request of this test was billed."""
    return lambda: Counter(row.body_digest for row in billed())


def stopped_in_flight(
    forker: Forker, provider: Sandbox, job: dict[str, Any], number: signal.Signals
) -> None:
    """Start the run, and stop it once both providers have its batches."""
    known = len(list(provider.ledger.batches()))
    os.kill(start_until_sent(forker, provider, job, 2), number)
    forker.wait()
    assert len(list(provider.ledger.batches())) == known + 2, log_of(job)


@pytest.mark.parametrize(("order", "place"), [("", "state"), (" [[sandbox:refusal]]", "elsewhere")])
def test_start_over_gives_new_answers(
    forker: Forker, times, tmp_path: Path, order: str, place: str
) -> None:
    """Where the records are gone, starting over buys anew and gives what it has bought."""
    job = told(tmp_path, prompt=f"{tmp_path}. Say what {{n}} is.{order}")
    assert forker.run(job)[0] == 0, log_of(job)
    old, paid = rows_of(job), sum(times().values())
    shutil.rmtree(tmp_path / "state")
    job["state"] = str(tmp_path / place)
    assert forker.run(job)[0] == 1
    assert "start over with set_state(reuse_state=False)" in log_of(job)
    assert sum(times().values()) == paid, "the refused start has sent nothing"
    assert forker.run({**job, "reuse_state": False})[0] == 0, log_of(job)
    assert sum(times().values()) == 2 * paid
    new = rows_of(job)
    assert {row["batch_id"] for row in new}.isdisjoint({row["batch_id"] for row in old})
    manifest = manifest_of(job)
    tokens = {batch["token"] for batch in manifest["batches"]}
    replies = {path.stem for path in (tmp_path / "out/raw_files/responses").glob("*.jsonl")}
    assert tokens < replies, "the new replies were fetched, and the old ones are there"
    assert len(replies) == 2 * len(tokens)
    assert manifest["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in new))
    (kept,) = (tmp_path / "out").glob("results.*.jsonl")
    assert [orjson.loads(line) for line in kept.open("rb")] == old
    assert forker.run(job)[0] == 0, log_of(job)
    assert sum(times().values()) == 2 * paid, "what was started over is resumed"
    assert rows_of(job) == new


def another_home(root: Path, job: dict[str, Any]) -> dict[str, Any]:
    return job


def renamed(root: Path, job: dict[str, Any]) -> dict[str, Any]:
    Path(job["results_dir"]).rename(root / "renamed")
    return {**job, "results_dir": str(root / "renamed")}


def copied(root: Path, job: dict[str, Any]) -> dict[str, Any]:
    shutil.copytree(job["results_dir"], root / "copied")
    return {**job, "results_dir": str(root / "copied")}


def another_cwd(root: Path, job: dict[str, Any]) -> dict[str, Any]:
    (root / "other").mkdir()
    return {**job, "cwd": str(root / "other")}


@pytest.mark.parametrize(
    ("move", "finished"),
    [
        (another_home, False),
        (renamed, False),
        (copied, False),
        (another_cwd, False),
        (another_home, True),
        (renamed, True),
    ],
)
def test_records_that_are_not_where_they_were(
    forker: Forker, provider: Sandbox, times, tmp_path: Path, move: Any, *, finished: bool
) -> None:
    """Killed before its first manifest, or finished: another place is refused, and told."""
    job = told(tmp_path, cwd=str(tmp_path), state="./state")
    first = second = forker
    others: list[Forker] = []
    if move is another_home:
        job["state"] = None
        environment = provider.environment()
        others = [
            Forker({**environment, "PREFECT_HOME": str(tmp_path / name)}) for name in ("1", "2")
        ]
        first, second = others
    try:
        if finished:
            provider.limits(seconds=0.2)
            assert first.run(job)[0] == 0, log_of(job)
        else:
            stopped_in_flight(first, provider, job, signal.SIGKILL)
            assert not (tmp_path / "out" / "manifest.json").exists()
        moved = move(tmp_path, job)
        assert second.run(moved)[0] == 1, log_of(job)
        assert "Nothing was sent, or all would be paid again" in log_of(job)
        batches = len(list(provider.ledger.batches()))
        # What the error says to give, given: the run goes on.
        note = orjson.loads(Path(moved["results_dir"], ".batchata", "run.json").read_bytes())
        assert f"set_state({note['state']!r})" in log_of(job)
        moved = {**moved, "state": note["state"], "run_key": note["run_key"]}
        assert second.run(moved)[0] == 0, log_of(job)
        assert len(list(provider.ledger.batches())) == batches
        assert set(times().values()) == {1}
        assert sum(times().values()) == JOBS
        rows = rows_of(moved)
        assert [row["status"] for row in rows] == ["completed"] * JOBS
    finally:
        for each in others:
            each.close()


def test_a_note_that_cannot_be_read_is_not_overwritten(
    forker: Forker, provider: Sandbox, times, tmp_path: Path
) -> None:
    """Damaged, it may have said that all is paid."""
    job = told(tmp_path)
    stopped_in_flight(forker, provider, job, signal.SIGKILL)
    note = tmp_path / "out" / ".batchata" / "run.json"
    good = note.read_bytes()
    note.write_bytes(good[:40])
    shutil.rmtree(tmp_path / "state" / "batchata", ignore_errors=True)
    assert forker.run(job)[0] == 1
    assert "nothing was sent" in log_of(job)
    assert note.read_bytes() == good[:40]


def test_a_run_that_sent_nothing_may_move_its_records(
    forker: Forker, times, tmp_path: Path
) -> None:
    """Nothing can be paid twice where nothing was paid."""
    job = told(tmp_path, cost_limit_usd=0.0000001)
    assert forker.run(job)[0] == 0, log_of(job)
    assert not times()
    moved = told(tmp_path, state=str(tmp_path / "elsewhere"))
    assert forker.run(moved)[0] == 0, log_of(job)
    assert sum(times().values()) == JOBS


@pytest.mark.parametrize("change", ["edited", "in front", "none"])
def test_other_jobs_after_an_interrupt(
    forker: Forker, provider: Sandbox, times, tmp_path: Path, change: str
) -> None:
    """Ctrl-C, then an edited first prompt, or a job in front, or jobs that are too dear."""
    prompts = [f"In {tmp_path}. What is {n}?" for n in range(JOBS)]
    job = told(tmp_path, prompts=prompts)
    if change == "none":
        # The first does not fit into the limit.
        job |= {"max_tokens": {"0": 8000}, "cost_limit_usd": 0.02}
    stopped_in_flight(forker, provider, job, signal.SIGINT)
    if change == "edited":
        prompts[0] = f"In {tmp_path}. What is 0 really?"
    elif change == "in front":
        prompts.insert(0, f"In {tmp_path}. What is in front?")
        job |= {"numbers": [len(prompts) - 1, *range(JOBS)], "jobs": len(prompts)}
        prompts.append(prompts.pop(0))
    for _ in range(2):
        assert forker.run(job)[0] == 0, log_of(job)
    assert set(times().values()) == {1}, log_of(job)
    dear = 1 if change == "none" else 0
    rows = rows_of(job)
    assert Counter(row["status"] for row in rows)["completed"] == len(prompts) - dear, log_of(job)
    assert [row["error_code"] for row in rows[:dear]] == ["cost_limit_exceeded"] * dear
    if change == "none":
        check = told(tmp_path, prompts=prompts, max_tokens=job["max_tokens"])
        assert forker.run(check)[0] == 0, log_of(job)
        assert sum(times().values()) == JOBS
        assert Counter(times().values()) == {1: JOBS}
