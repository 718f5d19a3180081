"""An id column, or columns of metadata, that come or go: what is paid is paid once."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, BatchRun
from batchata_prefect.cli.orders import Amendment, Order
from tests.chaos.killing import Forker, log_of, start_until_sent

pytestmark = pytest.mark.usefixtures("prefect_server")

TEXTS = ["one", "two", "same", "same", "three [[sandbox:refusal]]", "same"]


def write(tmp_path: Path, texts: Sequence[str], prefix: str = "t") -> Path:
    """A file of rows; each has an id, a text and something more."""
    path = tmp_path / "jobs.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ticket", "text", "more"])
        rows.writerows((f"{prefix}{n}", text, f"m{n}") for n, text in enumerate(texts))
    return path


def make(tmp_path: Path, **columns: Any) -> Batch:
    batch = Batch(tmp_path / "out", items_per_batch=4).set_state(tmp_path / "rec")
    batch.set_default_params(model="claude-sonnet-5-5", max_tokens=99)
    prompt = f"{tmp_path} {{text}}"
    return batch.add_rows(tmp_path / "jobs.csv", prompt, **{"metadata_columns": [], **columns})


def run(tmp_path: Path, to_send: int, **columns: Any) -> BatchRun:
    """A run, of which the plan had said the same."""
    batch = make(tmp_path, **columns)
    planned = batch.run(dry_run=True).planned
    assert planned is not None
    assert planned["to_send"] == to_send
    return batch.run()


def rows_of(tmp_path: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    path = tmp_path / "out" / name
    return [orjson.loads(line) for line in path.open("rb")] if path.exists() else []


def test_they_cost_nothing(tmp_path: Path, billed) -> None:
    """No id, an id, another id and metadata, and none again; then fewer rows, and more."""
    write(tmp_path, TEXTS)
    run(tmp_path, 6)
    before, paid = rows_of(tmp_path), len(billed())
    assert sum(row["cost_usd"] for row in before) > 0

    def same(ids: list[str] | None, **columns: Any) -> None:
        done = run(tmp_path, 0, **columns)
        assert len(billed()) == paid
        assert rows_of(tmp_path, "archive.jsonl") == []
        assert done.manifest is not None
        assert done.manifest["cost_of_run_usd"] == 0
        found = rows_of(tmp_path)
        assert [row["job_id"] for row in found] == ids or [row["job_id"] for row in before]
        about = "raw_response", "status", "error_code", "cost_usd", "attempts_json"
        for one, other in zip(before, found, strict=True):
            assert [one[name] for name in about] == [other[name] for name in about]

    same([f"t{n}" for n in range(6)], id_column="ticket", metadata_columns=["more"])
    assert rows_of(tmp_path)[3]["metadata_json"] == '{"more":"m3"}'
    same([f"m{n}" for n in range(6)], id_column="more")
    same(None)
    same(None, metadata_columns=["more", "ticket"])
    # Fewer rows, with ids: answers of jobs that are gone go into the archive, each once.
    write(tmp_path, ["two", "same", "four"], "u")
    run(tmp_path, 1, id_column="ticket")
    assert len(billed()) == paid + 1
    assert [row["job_id"] for row in rows_of(tmp_path)] == ["u0", "u1", "u2"]
    kept = rows_of(tmp_path, "archive.jsonl")
    assert [row["job_id"] for row in kept] == [before[n]["job_id"] for n in (0, 3, 5)]
    # And they leave it under an id that they never had.
    write(tmp_path, [*TEXTS, "four", "same"], "v")
    run(tmp_path, 1, id_column="ticket")
    assert len(billed()) == paid + 2
    assert [row["job_id"] for row in rows_of(tmp_path)] == [f"v{n}" for n in range(8)]
    assert rows_of(tmp_path, "archive.jsonl") == []


def test_what_a_retry_has_changed_stays_so(tmp_path: Path, billed) -> None:
    """A job that was asked in another way is not asked in the first way for its new id."""
    path, out = write(tmp_path, ["one", "two"]), tmp_path / "out"
    told = {"prompt": f"{tmp_path} {{text}}", "model": "claude-sonnet-5-5", "max_tokens": 99}
    told["state"] = str(tmp_path / "rec")
    first = Order(str(path), out, told)
    first.batch().run()
    ids = [row["job_id"] for row in rows_of(tmp_path)]
    changed = replace(first, amendments=(Amendment({1: ids[1]}, {**told, "max_tokens": 50}),))
    changed.batch().run()
    changed.note()
    assert [row["job_id"] for row in rows_of(tmp_path)] == ids
    paid, before = len(billed()), [row["attempts_json"] for row in rows_of(tmp_path)]
    assert paid == 3
    labels = {"id_column": "ticket", "tags": ["x"]}
    again = Order(str(path), out, {**told, **labels}).with_earlier_amendments()
    again.batch().run()
    rows = rows_of(tmp_path)
    assert len(billed()) == paid
    assert [row["attempts_json"] for row in rows] == before
    assert [(row["job_id"], row["tags"]) for row in rows] == [("t0", ["x"]), ("t1", ["x"])]


def command(tmp_path: Path, *more: str) -> dict[str, Any]:
    """What the forker is told for a run of the file by the command."""
    arguments = ["-m", "batchata_prefect.cli", "run", str(tmp_path / "jobs.csv"), "--quiet"]
    arguments += ["--prompt", f"{tmp_path} {{text}}", "--model", "claude-sonnet-5-5"]
    arguments += ["--max-tokens", "99", "--items-per-batch", "2", "--out", str(tmp_path / "out")]
    arguments += ["--state", str(tmp_path / "rec")]
    return {"python": [*arguments, *more], "log": str(tmp_path / "log")}


def test_killed_in_between(tmp_path: Path, sandbox, forker: Forker, billed) -> None:
    """What is in flight without ids is collected with ids, whoever is killed at what."""
    write(tmp_path, ["one", "same", "same", "two"])
    sandbox.fault("anthropic", operation="retrieve", mode="status", status=503, times=None)
    pid = start_until_sent(forker, sandbox, command(tmp_path), 2)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() == -9
    write(tmp_path, ["two", "same", "one", "new", "same"])
    later = command(tmp_path, "--id-column", "ticket", "--metadata", "more")
    pid = start_until_sent(forker, sandbox, later)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() == -9
    sandbox.clear_faults()
    assert forker.run({**later, "python": [*later["python"], "--metadata", "text"]})[0] == 0, (
        log_of(later)
    )
    assert len(billed()) == 5
    rows = rows_of(tmp_path)
    assert [row["job_id"] for row in rows] == [f"t{n}" for n in range(5)]
    assert {row["status"] for row in rows} == {"completed"}
    assert len({row["attempts_json"] for row in rows}) == 5
    assert rows_of(tmp_path, "archive.jsonl") == []
