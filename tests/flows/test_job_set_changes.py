"""The loop of edit and run, and the job file of every night: what changed is paid, all is kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, BatchRun, ValidationError
from batchata_prefect.numbers import dollars
from batchata_prefect.results import archive
from batchata_prefect.views.report.words import text

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


def make(tmp_path: Path, jobs: Iterable[tuple[str | None, str]], **options: Any) -> Batch:
    """Jobs as (id, what is asked); without ids they are made from what is asked."""
    batch = Batch(tmp_path / "out", **options).set_state(tmp_path / "rec")
    for job_id, asked in jobs:
        model = (CLAUDE, GPT)[sum(asked.encode()) % 2]
        batch.add_job(prompt=f"{tmp_path} {asked}", model=model, max_tokens=99, id=job_id)
    return batch


def rows_of(tmp_path: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    path = tmp_path / "out" / name
    return [orjson.loads(line) for line in path.open("rb")] if path.exists() else []


@pytest.mark.parametrize("named", [True, False])
def test_changed_prompts_are_sent_and_the_old_answers_kept(
    tmp_path: Path, billed, named: bool
) -> None:
    """All prompts changed, the commonest act of all: sent anew, and nothing is thrown away."""

    def jobs(word: str) -> list[tuple[str | None, str]]:
        return [(f"j{n}" if named else None, f"{word} {n}") for n in range(4)]

    make(tmp_path, jobs("first")).run()
    old = rows_of(tmp_path)
    batch = make(tmp_path, jobs("second"))
    planned = batch.run(dry_run=True).planned
    assert planned is not None
    assert planned["to_send"] == 4, "the plan says what the run does"
    run = batch.run()
    assert len(billed()) == 8
    assert [row["status"] for row in rows_of(tmp_path)] == ["completed"] * 4
    assert rows_of(tmp_path, "archive.jsonl") == old
    assert run.manifest is not None
    assert run.manifest["archived"] == 4
    again = make(tmp_path, jobs("first")).run()
    assert len(billed()) == 8, "what was answered once is there again"
    assert rows_of(tmp_path) == old
    assert len(rows_of(tmp_path, "archive.jsonl")) == 4
    assert again.manifest is not None
    assert again.manifest["resumed"] == 4


def test_a_subset_keeps_the_others(tmp_path: Path, billed) -> None:
    """Two of six jobs: two results, and four answers in the archive until they come back."""
    jobs = [(f"j{n}", f"ask {n}") for n in range(6)]
    make(tmp_path, jobs).run()
    old = rows_of(tmp_path)
    for few, told in ((jobs[:2], 4), (jobs, 0), ([*jobs[:5], ("j5", "changed")], 1)):
        planned = make(tmp_path, few).run(dry_run=True).planned
        assert planned is not None
        assert planned["archived"] == told, "the plan says what the run does"
        assert any("archive" in warning for warning in planned["warnings"]) == bool(told)
    run = make(tmp_path, jobs[:2]).run()
    assert [row["job_id"] for row in rows_of(tmp_path)] == ["j0", "j1"]
    assert rows_of(tmp_path, "archive.jsonl") == old[2:]
    assert run.manifest is not None
    assert run.manifest["cost_of_run_usd"] == 0
    assert "2 of 2 jobs answered" in repr(run)
    assert "2 of 2 jobs answered" in run._repr_html_()
    make(tmp_path, jobs).run()
    assert rows_of(tmp_path) == old
    assert rows_of(tmp_path, "archive.jsonl") == []
    assert len(billed()) == 6


def test_what_a_night_costs_is_told_beside_what_all_have_cost(tmp_path: Path, sandbox) -> None:
    """In the manifest, and in words; of one that finds all answered it is nothing."""
    nights = [[("a", "ask a"), ("b", "ask b")], [("a", "ask a"), ("c", "ask c")]]
    first, second, same = (make(tmp_path, jobs).run().manifest for jobs in (*nights, nights[1]))
    assert first is not None
    assert second is not None
    assert "in this run" not in text(first, tmp_path)
    assert second["cost_of_run_usd"] == pytest.approx(second["cost_usd"] - first["cost_usd"])
    own = dollars(second["cost_of_run_usd"])
    assert f", of which {own} in this run" in text(second, tmp_path)
    assert f", {own} in this run" in (tmp_path / "out" / "report.html").read_text()
    assert same == {**second, "resumed": 2, "cost_of_run_usd": 0}


def test_each_night_has_the_whole_time_limit(tmp_path: Path, sandbox, short_limits) -> None:
    """It counts from the first start of the job set, and not from that of the first night."""

    def night(*names: str) -> BatchRun:
        return make(tmp_path, [(name, f"ask {name}") for name in names]).add_time_limit(4).run()

    first = night("a", "b")
    time.sleep(4.1)
    again, second = night("a", "b"), night("b", "c")
    assert first.manifest is not None
    assert again.manifest is not None
    assert second.manifest is not None
    assert again.manifest["started_at"] == first.manifest["started_at"]
    assert second.manifest["started_at"] > first.manifest["finished_at"]
    assert [row["status"] for row in rows_of(tmp_path)] == ["completed"] * 2


def test_what_failed_for_good_is_there_again_after_the_directory_was_removed(
    tmp_path: Path, billed
) -> None:
    """Its reason and its cost come back with the replies, also where nothing was answered."""
    jobs = [(f"j{n}", f"ask {n} [[sandbox:refusal]]") for n in range(4)]
    make(tmp_path, jobs, max_attempts=1).run()
    old = rows_of(tmp_path)
    assert sum(row["cost_usd"] for row in old) > 0
    before = len(billed())
    shutil.rmtree(tmp_path / "out")
    make(tmp_path, jobs, max_attempts=1).run()
    assert rows_of(tmp_path) == old
    assert len(billed()) == before


def test_many_nights(tmp_path: Path, billed) -> None:
    """New rows each night, some of old nights, some changed: each paid once, all of them kept."""
    asked: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for night in range(6):
        tonight = {f"n{night}-{n}": "ask" for n in range(2)}
        if night % 3 == 1:
            tonight[f"n{night - 1}-0"] = f"changed in night {night}"
        if night % 5 == 4:
            tonight[f"n{night - 2}-1"] = asked[f"n{night - 2}-1"]
        asked |= tonight
        new = set(tonight.items()) - seen
        before = len(billed())
        jobs = [(job_id, f"{job_id} {text}") for job_id, text in tonight.items()]
        make(tmp_path, jobs).run()
        assert len(billed()) - before == len(new), f"night {night}"
        seen |= new
        assert [row["job_id"] for row in rows_of(tmp_path)] == list(tonight)
        kept = rows_of(tmp_path) + rows_of(tmp_path, "archive.jsonl")
        answers = [(row["job_id"], row["batch_id"]) for row in kept]
        assert len(answers) == len(set(answers)) == len(seen) == len(billed())
        assert {row["status"] for row in kept} == {"completed"}


def test_results_of_somebody_else_are_refused(tmp_path: Path, billed) -> None:
    """None of whose records are ours: they are neither mixed with ours nor overwritten."""
    theirs = Batch(tmp_path / "out").set_state(tmp_path / "theirs")
    theirs.add_job(prompt=f"{tmp_path}", model=CLAUDE, max_tokens=99).run()
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    with pytest.raises(ValidationError, match="Nothing was sent"):
        make(tmp_path, [("a", "ask")]).run()
    with pytest.raises(ValidationError, match="Nothing was sent"):
        make(tmp_path, [("a", "ask")]).run(dry_run=True)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    assert len(billed()) == 1


def row(job_id: str, batch_id: str | None, text: str = "x", **more: Any) -> dict[str, Any]:
    given = {"job_id": job_id, "batch_id": batch_id, "status": "completed", "cost_usd": 1.0}
    attempts = orjson.dumps([{"batch_id": batch_id}]).decode()
    return {**given, "raw_response": text, "attempts_json": attempts, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


OLD = [row("a", "b1"), row("b", "b1"), row("c", None, "r1"), row("d", "b1", status="failed")]
LATER = row("b", "b2", attempts_json='[{"batch_id": "b1"}, {"batch_id": "b2"}]')


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        (OLD, []),
        ([], OLD),
        ([row("a", "b1", "read by a newer version")], OLD[1:]),
        ([row("a", "b2")], OLD),
        ([LATER, *OLD[2:]], [OLD[0]]),
        ([row("c", None, "r2")], OLD),
        ([row("d", "b9")], OLD),
        ([row("a", "b1", attempts_json="[{")], OLD[1:]),
    ],
)
@pytest.mark.parametrize("dies", [False, True])
def test_what_goes_into_the_archive(
    tmp_path: Path, new: list[dict[str, Any]], kept: list[dict[str, Any]], dies: bool
) -> None:
    """Answers that the new results do not hold, each once, also where a run died in between."""
    results, own = tmp_path / "results.jsonl", tmp_path / ".batchata"
    own.mkdir()
    write(results, OLD)
    archive.hold(results, own)
    if dies:
        archive.hold(results, own)
    results.unlink()
    write(results, new)
    if dies:
        archive.hold(results, own)
    archive.keep_gone(results, own)
    path = tmp_path / "archive.jsonl"
    rows = [orjson.loads(line) for line in path.open("rb")] if path.exists() else []
    assert rows == kept
    archive.hold(results, own)
    results.unlink()
    write(results, OLD)
    archive.keep_gone(results, own)
    rows = [orjson.loads(line) for line in path.open("rb")] if path.exists() else []
    assert not [each for each in rows if each in OLD], "what came back is there once"
    assert list(own.iterdir()) == []


def test_what_cost_nothing_and_has_no_answer_is_not_kept(tmp_path: Path) -> None:
    results, own = tmp_path / "results.jsonl", tmp_path / ".batchata"
    own.mkdir()
    write(results, [row("a", None, status="failed", cost_usd=0.0)])
    archive.hold(results, own)
    write(tmp_path / "new", [])
    (tmp_path / "new").rename(results)
    assert archive.keep_gone(results, own) == 0
    assert not (tmp_path / "archive.jsonl").exists()
