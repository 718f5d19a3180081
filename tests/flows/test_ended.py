"""Answers leave as batches end: each job once, whatever is sent again and whenever a run dies."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchata_prefect import Batch, EndedBatch, JobResult, ValidationError
from batchata_prefect.files import write_json
from batchata_prefect.results.answer_file import answer_writer, open_answers
from batchata_prefect.results.assemble import Part
from batchata_prefect.results.ended import ANSWERS, EndedRows, Words, add, batch_rows, begin, drop
from tests.chaos.killing import Forker, until
from tests.flows.test_cli import batchata
from tests.flows.test_showing import events, heard  # noqa: F401

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


def make(tmp_path: Path, jobs: int = 4, first: str = "", **more: Any) -> Batch:
    """Jobs in batches of two; the first of them with a marker."""
    batch = Batch(tmp_path / "out", **{"items_per_batch": 2, **more})
    batch.set_state(file=tmp_path / "state").set_default_params(max_tokens=100, model=GPT)
    for n in range(jobs):
        batch.add_job(prompt=f"{tmp_path} {n}{first if n == 0 else ''}", id=f"j{n}")
    return batch


class Taken:
    """A callback that keeps what it was told."""

    def __init__(self) -> None:
        self.batches: list[EndedBatch] = []
        self.results: list[list[JobResult]] = []

    def __call__(self, batch: EndedBatch, results: Iterator[JobResult]) -> None:
        self.batches.append(batch)
        self.results.append(list(results))

    @property
    def ids(self) -> list[str]:
        return sorted(result.job_id for results in self.results for result in results)


@pytest.mark.usefixtures("prefect_server", "sandbox")
def test_each_batch_is_told_with_the_last_words_of_its_jobs(tmp_path: Path) -> None:
    """A job that is sent again comes once, with the batch that answers it and both attempts."""
    taken = Taken()
    batch = make(tmp_path, first=" [[sandbox:once errored server_error]]")
    run = batch.run(on_batch=taken)
    assert taken.ids == ["j0", "j1", "j2", "j3"]
    assert sorted(each.jobs for each in taken.batches) == [1, 2, 2]
    (again,) = [result for results in taken.results for result in results if result.job_id == "j0"]
    assert [attempt.error_code for attempt in again.attempts] == ["server_error", None]
    by_id = {result.job_id: result for result in run.iter_results()}
    assert all(by_id[r.job_id] == r for results in taken.results for r in results)
    for each in taken.batches:
        assert (each.provider, each.model, each.ending) == ("openai", GPT, "ended")
        assert each.batch_id is not None
        assert each.failed == 0
    assert sum(each.answered for each in taken.batches) == 4
    assert sum(each.cost_usd or 0 for each in taken.batches) == pytest.approx(
        run.status()["cost_usd"]
    )
    again = Taken()
    make(tmp_path, first=" [[sandbox:once errored server_error]]").run(on_batch=again)
    assert again.batches == [], "the next start knows that all was told"
    assert list((tmp_path / "out" / ".batchata").glob("answers/*")) == []


@pytest.mark.usefixtures("prefect_server", "sandbox")
def test_a_run_in_progress_gives_what_has_ended(tmp_path: Path) -> None:
    """`iter_results` and the command give the jobs of the batches that have ended, no others."""
    batch = make(tmp_path, first=" [[sandbox:once errored server_error]]", max_parallel_batches=1)
    seen: list[list[str]] = []
    command: list[Any] = []

    def look(ended: EndedBatch, results: Iterator[JobResult]) -> None:
        assert batch.latest_run is not None
        assert not batch.latest_run.is_complete
        seen.append([result.job_id for result in batch.latest_run.iter_results()])
        command.append(batchata("results", str(tmp_path / "out"), "--json"))
        table = tmp_path / "table.csv"
        command.append(batchata("results", str(tmp_path / "out"), "--export", str(table)))

    batch.run(on_batch=look)
    assert all(len(set(ids)) == len(ids) and ids == sorted(ids) for ids in seen)
    assert seen[0] != []
    assert seen[-1] == ["j0", "j1", "j2", "j3"]
    assert {answer.returncode for answer in command} == {0}
    assert "not over" in command[0].stderr
    last = json.loads(command[-2].stdout)["rows"]
    assert [row["job_id"] for row in last] == seen[-1]


@pytest.mark.usefixtures("prefect_server", "sandbox")
def test_what_the_callback_raises_is_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once and stops nothing; the next start tells of those batches again."""
    calls: list[str | None] = []

    def fails(batch: EndedBatch, results: Iterator[JobResult]) -> None:
        calls.append(batch.batch_id)
        next(results)
        raise LookupError("no table of that name")

    run = make(tmp_path).run(on_batch=fails)
    assert len(run.results()["completed"]) == 4
    assert len(calls) == 2
    raised = [record for record in caplog.records if record.exc_info]
    assert [type(record.exc_info[1]) for record in raised if record.exc_info] == [LookupError]
    taken = Taken()
    make(tmp_path).run(on_batch=taken)
    assert taken.ids == ["j0", "j1", "j2", "j3"]
    assert {batch.batch_id for batch in taken.batches} == set(calls)

    async def awaited(batch: EndedBatch, results: Iterator[JobResult]) -> None: ...

    with pytest.raises(ValidationError, match="plain function"):
        make(tmp_path).run(on_batch=awaited)  # pyright: ignore[reportArgumentType]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from batchata_prefect import Batch

tmp, log = Path(sys.argv[1]), Path(sys.argv[2])

def note(batch, results):
    with log.open("a") as file:
        file.write(f"{batch.batch_id} {' '.join(result.job_id for result in results)}\\n")
    if sys.argv[3] == "die" and len(log.read_text().splitlines()) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

batch = Batch(tmp / "out", items_per_batch=2, max_parallel_batches=1).set_state(tmp / "state")
for n in range(8):
    once = "[[sandbox:once errored server_error]]" if n == 0 else ""
    batch.add_job(prompt=f"{tmp} {n} {once}", model="gpt-6-luna", max_tokens=99, id=f"j{n}")
run = batch.run(on_batch=note)
assert len(run.results()["completed"]) == 8
"""


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_dies_in_the_callback_tells_that_batch_again(
    tmp_path: Path, forker: Forker, billed
) -> None:
    """What was told before is not told again, nothing is left out, and all is paid once."""
    log = tmp_path / "log"
    assert forker.python("-c", SCRIPT, tmp_path, log, "die").returncode == -signal.SIGKILL
    ended = [row["job_id"] for row in EndedRows(tmp_path / "out")]
    assert len(ended) == len(set(ended)) >= 2, "what the dead run has answered can be read"
    assert forker.python("-c", SCRIPT, tmp_path, log, "live").returncode == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    batches = [batch for batch, *_ in lines]
    assert batches[0] not in batches[1:]
    assert lines[1] in lines[2:], "the batch of the call that was cut off"
    told_once = lines[:1] + lines[2:]
    assert sorted(job for _, *jobs in told_once for job in jobs) == [f"j{n}" for n in range(8)]
    assert len(set(batches)) == len(batches) - 1
    assert len(billed()) == 8


def answers_told(batch: EndedBatch) -> str:
    """What the event of a batch says of where its answers are."""

    def told() -> list[str]:
        return [
            event.payload["answers"]
            for event in heard("batchata.batch.ended")
            if event.resource["prefect.resource.id"] == f"batchata.batch.{batch.batch_id}"
        ]

    until(told)
    (place,) = told()
    return place


@pytest.mark.usefixtures("prefect_server", "sandbox")
def test_the_event_of_a_batch_leads_to_its_answers(tmp_path: Path, events: Any) -> None:  # noqa: F811
    """It carries the path of lines of JSON, which are there while the run goes on."""
    read: list[str] = []

    def look(batch: EndedBatch, results: Iterator[JobResult]) -> None:
        lines = Path(answers_told(batch)).read_text().splitlines()
        read.extend(json.loads(line)["job_id"] for line in lines)

    make(tmp_path).run(on_batch=look)
    assert sorted(read) == ["j0", "j1", "j2", "j3"]


@pytest.mark.usefixtures("prefect_server", "sandbox")
def test_answers_of_a_batch_are_at_the_url_until_the_run_is_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: Any,  # noqa: F811
) -> None:
    """With results at a URL, the event names the answers there."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    found: list[bool] = []

    def look(batch: EndedBatch, results: Iterator[JobResult]) -> None:
        url = answers_told(batch)
        assert url.startswith(f"file://{tmp_path}/there/answers/")
        found.append(Path(url.removeprefix("file://")).read_bytes().count(b"\n") == 2)

    batch = Batch(f"file://{tmp_path}/there", items_per_batch=2).set_state(file=tmp_path / "state")
    for n in range(4):
        batch.add_job(prompt=f"{tmp_path} {n}", id=f"j{n}", model=GPT, max_tokens=100)
    batch.run(on_batch=look)
    assert found == [True, True]
    assert not (tmp_path / "there" / "answers").exists()
    assert (tmp_path / "there" / "results.jsonl").exists()


JOBS = 9
LETTERS = st.sampled_from("af" * 3 + "rc")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[int], str]]:
    """Batches of jobs, each with what became of them; only what is open is in a later one."""
    waiting, batches = list(range(JOBS)), []
    for _ in range(draw(st.integers(1, 5))):
        if not waiting:
            break
        jobs = draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        jobs = sorted(jobs) if draw(st.booleans()) else jobs
        marks = "".join(draw(LETTERS) for _ in jobs)
        batches.append((jobs, marks))
        waiting = [job for job in waiting if job not in jobs]
        waiting += [job for job, mark in zip(jobs, marks, strict=True) if mark in "rc"]
    return batches


def row_of(job: int, number: int, mark: str) -> dict[str, Any]:
    attempts = [{"round": number, "error_code": mark, "cost_usd": 1.0}]
    return {
        "job_id": job,
        "status": "completed",
        "by": number,
        "attempts_json": json.dumps(attempts),
        "cost_usd": 1.0,
    }


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    history=histories(),
    gone=st.sets(st.integers(0, 4)),
    over=st.sampled_from(["", "results", "in between"]),
)
def test_each_job_comes_once_with_its_last_word(
    tmp_path: Path, history: list[tuple[list[int], str]], gone: set[int], over: str
) -> None:
    """Whatever is sent again, whichever answers are gone, whether the run ends meanwhile."""
    drop(tmp_path)
    for name in ("results.jsonl", "manifest.json"):
        (tmp_path / name).unlink(missing_ok=True)
    begin(tmp_path, {"source": "s", "job_set": "d", "jobs": JOBS}, ())
    wanted: dict[int, list[int]] = {}
    tries: dict[int, list[int]] = {}
    parts: list[Part] = []
    for number, (jobs, marks) in enumerate(history):
        path = tmp_path / ANSWERS / f"{number}.jsonl"
        with answer_writer(path, "s") as file:
            for place, (job, mark) in enumerate(zip(jobs, marks, strict=True)):
                file.add(place, orjson.dumps(row_of(job, number, mark)) + b"\n")
                tries.setdefault(job, []).append(number)
                if mark in "af":
                    wanted[job] = list(tries[job])
        ordinals: Any = range(jobs[0], jobs[-1] + 1) if jobs == sorted(jobs) else jobs
        ordinals = ordinals if len(ordinals) == len(jobs) else jobs
        last = None if set(marks) <= set("af") else "".join("10"[mark in "rc"] for mark in marks)
        words = Words(str(number), ordinals, last)
        assert Words.of_line(words.line()) == Words(
            str(number),
            words.ordinals if isinstance(ordinals, range) else words.of_line(words.line()).ordinals,
            last,
        )
        answers = open_answers(path)
        assert answers is not None
        rows = list(batch_rows(Part(answers, ordinals), words, parts, JOBS))
        assert sorted(row["job_id"] for row in rows) == sorted(
            job for job, mark in zip(jobs, marks, strict=True) if mark in "af"
        )
        for row in rows:
            assert rounds(row) == tries[row["job_id"]]
        parts.append(Part(answers, ordinals))
        add(tmp_path, words)
    ended = EndedRows(tmp_path)
    if over or gone:
        lines = [orjson.dumps(row_of(job, 99, "z")) + b"\n" for job in range(JOBS)]
        (tmp_path / "results.jsonl").write_bytes(b"".join(lines))
        write_json(tmp_path / "manifest.json", {"job_set": "d"})
    for number in gone:
        (tmp_path / ANSWERS / f"{number}.index").unlink(missing_ok=True)
    found: list[int] = []
    for row in ended:
        found.append(row["job_id"])
        if over == "in between" and len(found) == 2:
            drop(tmp_path)
        elif not gone and not over:
            assert rounds(row) == wanted[row["job_id"]]
    assert found == sorted(wanted)


def rounds(row: dict[str, Any]) -> list[int]:
    return [attempt["round"] for attempt in json.loads(row["attempts_json"])]
