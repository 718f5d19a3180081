"""Answers that a provider counts and does not give: reserved, open, or written off by a person."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, ProviderError
from tests.flows.test_cli import batchata

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
JOBS = 4
LIMIT = 0.01


def make(tmp_path: Path, model: str, jobs: int = JOBS, **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", items_per_batch=JOBS, **options)
    batch.set_state(tmp_path / "rec").add_cost_limit(LIMIT)
    for n in range(jobs):
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, max_tokens=100, id=f"job-{n}")
    return batch


def rows_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (tmp_path / "out" / "results.jsonl").open("rb")]


@pytest.mark.parametrize("counts", [True, False])
def test_completed_without_an_output_file_stays_open(
    tmp_path: Path, sandbox, billed, counts: bool
) -> None:
    """What may be billed and is not seen stays reserved; it is taken up when it is there."""
    sandbox.fault("openai", mode="no_output", counts=counts, times=None)
    run = make(tmp_path, GPT).run()
    assert Counter(row["error_code"] for row in rows_of(tmp_path)) == {"in_flight": JOBS}
    assert run.manifest is not None
    assert run.manifest["reserved_usd"] >= float(sum(row.cost_usd for row in billed())) > 0
    assert run.manifest["cost_usd"] == 0
    sandbox.clear_faults()
    again = make(tmp_path, GPT).run()
    assert [row["status"] for row in rows_of(tmp_path)] == ["completed"] * JOBS
    assert again.manifest is not None
    assert again.manifest["reserved_usd"] == 0
    assert len(billed()) == JOBS, "nothing was sent again"


GONE = {
    "no output": (GPT, {"mode": "no_output"}),
    "file": (GPT, {"mode": "file_vanished"}),
    "batch, openai": (GPT, {"mode": "status", "operation": "retrieve", "status": 404}),
    "results": (CLAUDE, {"mode": "status", "operation": "results", "status": 404}),
    "batch, anthropic": (CLAUDE, {"mode": "status", "operation": "retrieve", "status": 404}),
}


@pytest.mark.parametrize("gone", GONE)
def test_what_is_gone_is_written_off_at_its_bound(
    tmp_path: Path,
    sandbox,
    billed,
    monkeypatch: pytest.MonkeyPatch,
    gone: str,
) -> None:
    """It holds up each run until a person writes it off; then it counts, and the run goes on."""
    monkeypatch.setenv("BATCHATA_UNKNOWN_SECONDS", "0.3")
    model, fault = GONE[gone]
    out = str(tmp_path / "out")
    make(tmp_path, model, 2).run()
    assert batchata("adopt", out, "--write-off", "batch_of_nobody").returncode == 3
    sandbox.fault("openai" if model == GPT else "anthropic", times=None, **fault)
    for _ in range(2):
        if gone == "no output":
            told = make(tmp_path, model).run().manifest
        else:
            with pytest.raises(ProviderError, match="--write-off") as raised:
                make(tmp_path, model).run()
            assert out in str(raised.value)
            told = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
        assert told is not None
        (held,) = (b for b in told["batches"] if b["status"] == "in_flight")
    before = told["cost_usd"]
    done = batchata("adopt", out, "--write-off", held["batch_id"])
    assert done.returncode == 0, done.stderr
    run = make(tmp_path, model, JOBS).run()
    rows = rows_of(tmp_path)
    lost = [None, None, "answer_lost", "answer_lost"]
    assert [row["error_code"] for row in rows] == lost
    assert run.manifest is not None
    assert run.manifest["reserved_usd"] == 0
    assert run.manifest["cost_usd"] == pytest.approx(before + held["estimated_usd"])
    assert run.manifest["cost_usd"] >= float(sum(row.cost_usd for row in billed()))
    sandbox.clear_faults()
    more = make(tmp_path, model, JOBS + 1).run()
    assert more.manifest is not None
    assert [row["error_code"] for row in rows_of(tmp_path)] == [*lost, None]
    assert len(billed()) == JOBS + 1


def test_what_can_be_had_is_not_written_off(tmp_path: Path, sandbox) -> None:
    """A batch whose answers are there is collected, whatever is asked for."""
    sandbox.fault("openai", mode="no_output", times=None)
    told = make(tmp_path, GPT).run().manifest
    sandbox.clear_faults()
    assert told is not None
    (held,) = told["batches"]
    done = batchata("adopt", str(tmp_path / "out"), "--write-off", held["batch_id"])
    assert done.returncode == 3
    assert "all its answers are there" in " ".join(done.stderr.split())
    make(tmp_path, GPT).run()
    assert [row["status"] for row in rows_of(tmp_path)] == ["completed"] * JOBS


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_rows_that_are_counted_and_do_not_come_count_at_their_bound(
    tmp_path: Path, sandbox, billed, model: str
) -> None:
    """The others are taken; what is missing is not sent again, and its cost is not forgotten."""

    def batch(order: str) -> Batch:
        batch = Batch(tmp_path / "out").set_state(tmp_path / "rec").add_cost_limit(LIMIT)
        for n in range(JOBS):
            prompt = f"{tmp_path} {n} {order if n == 1 else ''}"
            batch.add_job(prompt=prompt, model=model, max_tokens=100, id=f"job-{n}")
        return batch

    run = batch("[[sandbox:missing]]").run()
    rows = rows_of(tmp_path)
    assert [row["error_code"] for row in rows] == [None, "missing", None, None]
    assert run.manifest is not None
    assert run.manifest["reserved_usd"] == 0
    (sent,) = run.manifest["batches"]
    spent = sum(row["cost_usd"] for row in rows)
    assert spent < run.manifest["cost_usd"] < spent + sent["estimated_usd"] / 2
    assert run.manifest["cost_usd"] >= float(sum(row.cost_usd for row in billed()))
    batch("[[sandbox:missing]]").run()
    assert len(billed()) <= JOBS


def test_what_an_expired_batch_counts_and_does_not_give_is_not_sent_again(
    tmp_path: Path, sandbox
) -> None:
    """It ran before the batch expired, and may be paid."""
    sandbox.fault("openai", mode="batch_expired", fraction=1.0)
    batch = Batch(tmp_path / "out").set_state(tmp_path / "rec").add_cost_limit(LIMIT)
    for n in range(JOBS):
        prompt = f"{tmp_path} {n} {'' if n else '[[sandbox:missing]]'}"
        batch.add_job(prompt=prompt, model=GPT, max_tokens=100, id=f"job-{n}")
    batch.run()
    attempts = [orjson.loads(row["attempts_json"]) for row in rows_of(tmp_path)]
    codes = [[attempt["error_code"] for attempt in each] for each in attempts]
    assert codes == [["missing"], [None], [None], [None]]


def test_replies_that_are_gone_are_looked_for_at_every_start(
    tmp_path: Path, sandbox, billed
) -> None:
    """What is gone here, and not to be had there for a while, is lost for that while only."""
    make(tmp_path, GPT).run()
    shutil.rmtree(tmp_path / "out")
    sandbox.fault("openai", mode="no_output", times=None)
    make(tmp_path, GPT).run()
    assert Counter(row["error_code"] for row in rows_of(tmp_path)) == {"answer_lost": JOBS}
    sandbox.clear_faults()
    make(tmp_path, GPT).run()
    assert [row["status"] for row in rows_of(tmp_path)] == ["completed"] * JOBS
    assert len(billed()) == JOBS


def test_a_lost_create_at_a_server_without_a_list(
    tmp_path: Path, sandbox, billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell whether it was made: it is not sent again, and a person decides."""
    monkeypatch.setenv("BATCHATA_UNKNOWN_SECONDS", "0.3")
    sandbox.limits(ways=["no_list"])
    sandbox.fault("openai", operation="create", mode="drop_after")
    try:
        for _ in range(2):
            with pytest.raises(ProviderError, match=r"nothing to list.*--write-off 1`"):
                make(tmp_path, GPT).run()
            told = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
            assert told["reserved_usd"] > 0
        assert batchata("adopt", str(tmp_path / "out"), "--write-off", "1").returncode == 0
        told = make(tmp_path, GPT).run().manifest
        sandbox.settle()
    finally:
        sandbox.limits(ways=[])
    assert told is not None
    assert (told["reserved_usd"], len(billed())) == (0, JOBS), "nothing was sent again"
    assert told["cost_usd"] >= float(sum(row.cost_usd for row in billed()))
    assert Counter(row["error_code"] for row in rows_of(tmp_path)) == {"answer_lost": JOBS}
