"""Whole runs: the real SDKs against the sandbox, under a real Prefect server."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect import flow
from pydantic import BaseModel

from batchata_prefect import (
    Batch,
    BatchRun,
    BatchSubmissionError,
    MissingCredentialsError,
    ProviderNotFoundError,
    StateError,
    ValidationError,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


class Place(BaseModel):
    """What the structured jobs ask for."""

    city: str
    population: int


@pytest.fixture
def bill(sandbox):
    """What this test was billed: (request body digest -> times)."""
    before = len(list(sandbox.ledger.billed()))
    return lambda: Counter(row.body_digest for row in list(sandbox.ledger.billed())[before:])


def new_batch(tmp_path: Path, **options: Any) -> Batch:
    options.setdefault("items_per_batch", 3)
    batch = Batch(tmp_path / "out", **options)
    return batch.set_state(file=tmp_path / "state").set_default_params(max_tokens=300)


def mixed(tmp_path: Path, count: int = 6, **options: Any) -> Batch:
    batch = new_batch(tmp_path, **options)
    for n in range(count):
        batch.add_job(
            prompt=f"{tmp_path}: what is {n}?",
            model=(CLAUDE, GPT)[n % 2],
            id=f"j{n}",
            metadata={"n": n},
        )
    return batch


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (tmp_path / "out" / "results.jsonl").open("rb")]


def test_every_job_is_answered_and_paid_once(tmp_path: Path, sandbox, bill) -> None:
    """Both providers in one run: a result for each job, in order, with its own id and metadata."""
    batch = mixed(tmp_path)
    run = batch.run()
    results = run.results()
    assert len(batch) == 6
    assert [r.job_id for r in results["completed"]] == [f"j{n}" for n in range(6)]
    assert [r.metadata for r in results["completed"]] == [{"n": n} for n in range(6)]
    assert all(r.raw_response and r.input_tokens and r.cost_usd for r in results["completed"])
    assert results["failed"] == results["cancelled"] == []
    assert len(bill()) == 6
    assert set(bill().values()) == {1}
    assert run.is_complete
    assert run.flow_run_id
    status = run.status()
    assert (status["total"], status["completed"], status["pending"]) == (6, 6, 0)
    assert status["cost_usd"] == pytest.approx(sum(r.cost_usd for r in results["completed"]))


def test_large_batches_are_sent_one_after_the_other(
    tmp_path: Path, sandbox, bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that would share the line wait; together they are all sent, each once."""
    monkeypatch.setattr("batchata_prefect.engine.provider_batch._SENT_AT_ONCE_BYTES", 1)
    known = len(list(sandbox.ledger.batches()))
    sandbox.fault(None, operation="create", mode="delay", seconds=0.4, times=4)
    run = mixed(tmp_path, 12).run()
    assert len(run.results()["completed"]) == 12
    made = sorted(batch.created_at for batch in list(sandbox.ledger.batches())[known:])
    assert len(made) == 4
    assert all((b - a).total_seconds() > 0.35 for a, b in itertools.pairwise(made))
    assert set(bill().values()) == {1}


def test_the_files_of_a_run(tmp_path: Path, sandbox) -> None:
    """One flat line a job, a manifest whose counts add up, and the raw files of each batch."""
    mixed(tmp_path).run()
    rows = lines(tmp_path)
    assert len({tuple(row) for row in rows}) == 1
    assert not any(isinstance(value, dict) for row in rows for value in row.values())
    manifest = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["counts"] == {"total": 6, "completed": 6, "failed": 0, "cancelled": 0}
    assert len(manifest["batches"]) == 2
    for kind in ("requests", "responses"):
        files = list((tmp_path / "out" / "raw_files" / kind).iterdir())
        assert {path.stem for path in files} == {batch["token"] for batch in manifest["batches"]}
        assert sum(1 for path in files for line in path.open() if line.strip()) == 6
    assert not list((tmp_path / "out").rglob("*.part"))
    assert [path.name for path in (tmp_path / "out" / ".batchata").glob("answers/*")] == []


def test_without_raw_files_the_requests_go_and_the_replies_stay(tmp_path: Path, sandbox) -> None:
    """Replies are what was paid for."""
    mixed(tmp_path, raw_files=False).run()
    assert not list((tmp_path / "out" / "raw_files" / "requests").iterdir())
    assert len(list((tmp_path / "out" / "raw_files" / "responses").iterdir())) == 2


def test_one_file_a_job(tmp_path: Path, sandbox) -> None:
    """`result_format="json"` writes the original library's files besides."""
    mixed(tmp_path, result_format="json").run()
    data = orjson.loads((tmp_path / "out" / "j1.json").read_bytes())
    assert data["job_id"] == "j1"
    assert data["metadata"] == {"n": 1}
    assert data["raw_response"]


def test_a_second_run_sends_nothing(tmp_path: Path, sandbox, bill) -> None:
    """The same script again gives the same results for no call that costs."""
    first = mixed(tmp_path).run()
    calls = sandbox.ledger.calls()
    content = (tmp_path / "out" / "results.jsonl").read_bytes()
    second = mixed(tmp_path).run()
    assert sandbox.ledger.calls() == calls
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == content
    assert second.status()["resumed"] == 6
    assert second.results() == first.results()
    assert set(bill().values()) == {1}


def test_without_its_first_jobs_a_set_is_read_again(tmp_path: Path, sandbox, bill) -> None:
    """Jobs taken away from the front of a batch leave the others their answers."""
    for first in (0, 1, 2):
        batch = new_batch(tmp_path, items_per_batch=6)
        for n in range(first, 6):
            batch.add_job(prompt=f"{tmp_path} {n}", model=GPT, id=f"j{n}")
        results = batch.run().results()
        assert [r.job_id for r in results["completed"]] == [f"j{n}" for n in range(first, 6)]
    assert sum(bill().values()) == 6


def test_only_added_and_changed_jobs_are_bought(tmp_path: Path, sandbox, bill) -> None:
    """One changed and one new job among many cost two requests; the removed one is dropped."""
    mixed(tmp_path).run()
    batch = new_batch(tmp_path)
    for n in range(1, 7):
        text = f"{tmp_path}: what is {n}?" if n != 3 else f"{tmp_path}: and what is 3 now?"
        batch.add_job(prompt=text, model=(CLAUDE, GPT)[n % 2], id=f"j{n}")
    run = batch.run()
    assert [r.job_id for r in run.results()["completed"]] == [f"j{n}" for n in range(1, 7)]
    assert sum(bill().values()) == 8
    assert set(bill().values()) == {1}
    assert [row["job_id"] for row in lines(tmp_path)] == [f"j{n}" for n in range(1, 7)]


def test_starting_over_pays_again_and_deletes_nothing(tmp_path: Path, sandbox, bill) -> None:
    """`reuse_state=False` sends everything again and keeps the results that were there."""
    mixed(tmp_path).run()
    old = (tmp_path / "out" / "results.jsonl").read_bytes()
    batch = mixed(tmp_path).set_state(file=tmp_path / "state", reuse_state=False)
    assert batch.run().status()["completed"] == 6
    assert set(bill().values()) == {2}
    kept = list((tmp_path / "out").glob("results.*.jsonl"))
    assert [path.read_bytes() for path in kept] == [old]
    mixed(tmp_path).run()
    assert set(bill().values()) == {2}


def test_in_a_running_event_loop(tmp_path: Path, sandbox) -> None:
    """As in a notebook: `run` is called while a loop is running."""

    async def cell() -> BatchRun:
        return mixed(tmp_path).run()

    assert len(asyncio.run(cell()).results()["completed"]) == 6


def test_in_a_thread(tmp_path: Path, sandbox) -> None:
    """No signal handler, no main-thread assumption."""
    runs: list[BatchRun] = []
    thread = threading.Thread(target=lambda: runs.append(mixed(tmp_path).run()))
    thread.start()
    thread.join()
    assert len(runs[0].results()["completed"]) == 6


@pytest.mark.parametrize("kind", ["sync", "async", "async calling sync"])
def test_inside_a_flow_it_is_a_subflow(tmp_path: Path, sandbox, kind: str) -> None:
    """The run hangs below the user's own flow run."""
    from prefect import get_client
    from prefect.context import FlowRunContext

    def parent_id() -> Any:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return context.flow_run.id

    if kind == "sync":

        @flow
        def outer() -> tuple[Any, BatchRun]:
            return parent_id(), mixed(tmp_path).run()

        parent, run = outer()
    elif kind == "async":

        @flow
        async def aouter() -> tuple[Any, BatchRun]:
            return parent_id(), await mixed(tmp_path).arun()

        parent, run = asyncio.run(aouter())
    else:

        @flow
        async def bouter() -> tuple[Any, BatchRun]:
            return parent_id(), mixed(tmp_path).run()

        parent, run = asyncio.run(bouter())
    assert len(run.results()["completed"]) == 6

    async def parent_of_run() -> Any:
        async with get_client() as client:
            flow_run = await client.read_flow_run(run.flow_run_id)  # type: ignore[arg-type]
            assert flow_run.parent_task_run_id is not None
            task_run = await client.read_task_run(flow_run.parent_task_run_id)
            return task_run.flow_run_id

    assert asyncio.run(parent_of_run()) == parent


def test_progress_is_reported_with_the_original_keys(tmp_path: Path, sandbox) -> None:
    """The callback sees the run begin and end."""
    seen: list[tuple[dict[str, Any], float, dict[str, Any]]] = []
    mixed(tmp_path).run(on_progress=lambda *args: seen.append(args), progress_interval=0.05)
    assert {"total", "pending", "active", "completed", "failed", "cancelled"} <= set(seen[0][0])
    assert seen[0][0]["completed"] == 0
    stats, elapsed, batches = seen[-1]
    assert stats["is_complete"]
    assert stats["completed"] == 6
    assert elapsed > 0
    assert {batch["status"] for batch in batches.values()} == {"complete"}
    assert {batch["completed"] for batch in batches.values()} == {3}


def test_a_progress_callback_that_fails_does_not_stop_the_run(
    tmp_path: Path, sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is told once, and it is called again: the fault may be over."""
    calls: list[float] = []

    def broken(stats: dict[str, Any], elapsed: float, batches: dict[str, Any]) -> None:
        calls.append(elapsed)
        raise RuntimeError("no terminal")

    run = mixed(tmp_path).run(on_progress=broken, progress_interval=0.05)
    assert len(run.results()["completed"]) == 6
    assert len(calls) > 2
    assert [str(r.exc_info[1]) for r in caplog.records if r.exc_info] == ["no terminal"]


def test_what_fails_for_a_time_is_sent_again_and_what_fails_for_good_is_not(
    tmp_path: Path, sandbox
) -> None:
    """Each job ends in one place with its reason; attempts are kept on the result."""
    batch = new_batch(tmp_path, items_per_batch=10)
    for model in (CLAUDE, GPT):
        for name, marker in {
            "good": "",
            "later": "[[sandbox:once errored api_error]]",
            "never": "[[sandbox:errored api_error]]",
            "bad": "[[sandbox:errored invalid_request_error]]",
            "expired": "[[sandbox:expired]]",
            "missing": "[[sandbox:missing]]",
            "refused": "[[sandbox:refusal]]",
        }.items():
            batch.add_job(prompt=f"{tmp_path} hello {marker}", model=model, id=f"{model} {name}")
    run = batch.run()
    found = {result.job_id: result for result in run.iter_results()}
    assert len(found) == 14
    for model in (CLAUDE, GPT):
        tries = {name: len(found[f"{model} {name}"].attempts) for name in ("good", "later", "bad")}
        assert tries == {"good": 1, "later": 2, "bad": 1}
        assert found[f"{model} good"].is_success
        assert found[f"{model} later"].is_success
        for name in ("never", "expired"):
            assert found[f"{model} {name}"].status == "failed"
            assert len(found[f"{model} {name}"].attempts) == 3
        assert found[f"{model} bad"].status == found[f"{model} refused"].status == "failed"
        assert found[f"{model} refused"].error_code == "refusal"
        # The provider counts it as done, so it may be paid: it is not sent again.
        assert found[f"{model} missing"].error_code == "missing"
        assert len(found[f"{model} missing"].attempts) == 1
        assert found[f"{model} expired"].error_code == "expired"
    assert run.get_failed_jobs().keys() == {i for i, r in found.items() if not r.is_success}
    assert run.manifest is not None
    assert run.manifest["failures"]["missing"]["count"] == 2


def test_an_answer_eaten_by_thinking_is_truncated(tmp_path: Path, sandbox) -> None:
    """Thinking counts against max_tokens; an empty answer is no success."""
    batch = new_batch(tmp_path)
    batch.add_job(prompt=f"{tmp_path} think", model=CLAUDE, max_tokens=5)
    (result,) = batch.run().results()["failed"]
    assert result.error_code == "truncated"
    assert "thinking used up max_tokens" in (result.error or "")
    assert result.cost_usd


def test_the_cost_limit_holds_and_the_rest_goes_out_under_a_higher_one(
    tmp_path: Path, sandbox, bill
) -> None:
    """Jobs that do not fit fail with the reason; a higher limit sends only them."""

    def jobs() -> Batch:
        batch = new_batch(tmp_path, items_per_batch=2)
        for n in range(8):
            text = f"{tmp_path} {n} [[sandbox:tokens 10 2000]]"
            batch.add_job(prompt=text, model=CLAUDE, max_tokens=2000, id=str(n))
        return batch

    limit = Decimal("0.025")
    run = jobs().add_cost_limit(limit).run()
    results = run.results()
    assert results["completed"]
    assert results["failed"]
    assert {result.error_code for result in results["failed"]} == {"cost_limit_exceeded"}
    assert "Cost limit exceeded" in (results["failed"][0].error or "")
    assert sum(bill().values()) == len(results["completed"])
    assert run.manifest is not None
    assert run.manifest["cost_usd"] <= limit
    again = jobs().add_cost_limit(1).run()
    assert len(again.results()["completed"]) == 8
    assert set(bill().values()) == {1}
    assert sum(bill().values()) == 8


def test_a_job_dearer_than_the_limit_is_never_sent(tmp_path: Path, sandbox, bill) -> None:
    """Not even one request goes out that could pass the limit."""
    batch = new_batch(tmp_path).add_cost_limit(0.0001)
    batch.add_job(prompt=f"{tmp_path} hello", model=CLAUDE, max_tokens=100_000)
    (result,) = batch.run().results()["failed"]
    assert result.error_code == "cost_limit_exceeded"
    assert not bill()


def test_a_wrong_bound_does_not_break_the_budget(tmp_path: Path, sandbox, bill) -> None:
    """A provider that counts twenty times the tokens is met with larger reservations at once."""
    prices = {CLAUDE: {"input": 1000.0, "output": 1000.0}}
    batch = new_batch(tmp_path, max_parallel_batches=1, items_per_batch=5, prices=prices)
    batch.add_cost_limit(usd=60)
    for n in range(30):
        text = f"[[sandbox:tokens 4900 100]] {tmp_path.name} {n}"
        batch.add_job(prompt=text, model=CLAUDE, max_tokens=100)
    run = batch.run()
    billed = sum(bill().values())
    assert run.manifest is not None
    assert run.manifest["cost_usd"] == pytest.approx(5 * billed)
    assert 5 * billed <= 60
    assert billed >= 10


def test_an_unknown_price_under_a_limit_stops_before_anything_is_sent(
    tmp_path: Path, sandbox, bill
) -> None:
    """The error names the model, the jobs and the way out; given a price, it runs."""

    def jobs(**options: Any) -> Batch:
        batch = new_batch(tmp_path, **options).add_cost_limit(5)
        return batch.add_job(prompt=f"{tmp_path}", model="gpt-99-secret", id="the-job")

    with pytest.raises(ValidationError, match=r"gpt-99-secret.*the-job.*prices="):
        jobs().run()
    assert not bill()
    run = jobs(prices={"gpt-99-secret": {"input": 1, "output": 2}}).run()
    assert run.results()["completed"][0].cost_usd


def test_an_unknown_price_without_a_limit_is_unknown_and_not_zero(tmp_path: Path, sandbox) -> None:
    """None says unknown."""
    batch = new_batch(tmp_path).add_job(prompt=f"{tmp_path}", model="gpt-99-secret")
    run = batch.run()
    assert run.results()["completed"][0].cost_usd is None
    assert run.status()["cost_usd"] is None


def test_the_time_limit_collects_what_was_finished(
    tmp_path: Path, sandbox, short_limits, bill
) -> None:
    """At the deadline the batch is cancelled, what was answered comes back, the rest is marked."""
    sandbox.limits(seconds=30)
    try:
        batch = mixed(tmp_path, 40, items_per_batch=20).add_time_limit(seconds=5)
        run = batch.run()
    finally:
        sandbox.limits(seconds=0.1)
    results = run.results()
    assert run.manifest is not None
    times = [datetime.fromisoformat(run.manifest[name]) for name in ("started_at", "finished_at")]
    # The limit, two seconds that the sandbox takes to settle a cancel, and time to write.
    assert (times[1] - times[0]).total_seconds() < 5 + 2 + 4
    assert {batch["reason"] for batch in run.manifest["batches"]} == {"Time limit exceeded"}
    assert len(results["completed"]) + len(results["failed"]) == 40
    assert len(results["completed"]) == sum(bill().values())
    assert {result.error_code for result in results["failed"]} == {"time_limit_exceeded"}
    assert {batch.status for batch in list(sandbox.ledger.batches())[-2:]} <= {
        "ended",
        "cancelled",
    }


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_a_wrong_key_stops_before_anything_is_paid(
    tmp_path: Path, sandbox, bill, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The error says so without the key; with the right key the same run goes on."""
    batch = new_batch(tmp_path).add_job(prompt=f"{tmp_path}", model=model)
    with monkeypatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", "sk-ant-wrong-1234567890")
        patch.setenv("OPENAI_API_KEY", "sk-wrong-1234567890")
        with pytest.raises(BatchSubmissionError, match="Nothing was created or paid") as raised:
            batch.run()
    assert "1234567890" not in str(raised.value)
    assert not bill()
    assert len(batch.run().results()["completed"]) == 1


def test_a_missing_key_and_an_unknown_model_are_different_errors(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each names what is missing."""
    with pytest.raises(ProviderNotFoundError, match="llama-9"):
        new_batch(tmp_path).add_job(prompt="x", model="llama-9")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MissingCredentialsError, match="OPENAI_API_KEY"):
        new_batch(tmp_path).add_job(prompt="x", model=GPT).run()


def test_a_compatible_model_by_provider_name(tmp_path: Path, sandbox) -> None:
    """`provider=` serves ids that no pattern matches; the server has the last word."""
    batch = new_batch(tmp_path).add_job(prompt="x", model="llama-9", provider="openai")
    (result,) = batch.run().results()["failed"]
    assert result.error_code == "model_not_found"


def test_bad_jobs_are_reported_together(tmp_path: Path, sandbox) -> None:
    """All faults of a job set stand in one error, before anything is sent."""
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bad.pdf").write_bytes(b"not a pdf")
    good = {"prompt": "x", "model": CLAUDE}
    with pytest.raises(ValidationError) as raised:
        new_batch(tmp_path).add_jobs(
            [
                good,
                {"model": CLAUDE, "id": "nothing"},
                {**good, "file": tmp_path / "gone.pdf", "id": "gone"},
                {**good, "file": tmp_path / "empty.txt", "id": "empty"},
                {**good, "file": tmp_path, "id": "directory"},
                {**good, "file": tmp_path / "bad.pdf", "id": "broken"},
                {**good, "messages": [{"role": "user", "content": "y"}], "id": "both"},
                {**good, "temperature": 0.2, "id": "warm"},
                {"prompt": "x", "id": "no-model"},
            ]
        )
    assert len(raised.value.faults) == 8
    for name in ("nothing", "gone", "empty", "directory", "broken", "both", "warm", "no-model"):
        assert sum(repr(name) in fault for fault in raised.value.faults) == 1


def test_a_default_that_a_model_no_longer_takes_is_left_out_with_one_warning(
    tmp_path: Path, sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a value that the job itself names is an error."""
    batch = new_batch(tmp_path).set_default_params(temperature=0.7)
    for n in range(3):
        batch.add_job(prompt=f"{tmp_path} {n}", model=CLAUDE)
    assert len(batch.run().results()["completed"]) == 3
    warnings = [record for record in caplog.records if "temperature" in record.getMessage()]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (lambda path: new_batch(path).run(), "no jobs"),
        (lambda path: Batch(path, items_per_batch=0), "items_per_batch"),
        (lambda path: Batch(""), "empty"),
        (lambda path: new_batch(path).set_default_params(prompt="x"), "default"),
        (lambda path: new_batch(path).add_job(prompt="x", model=CLAUDE, id=""), "id"),
        (
            lambda path: new_batch(path).add_job(
                prompt="x", model=CLAUDE, metadata={"a": object()}
            ),
            "metadata",
        ),
        (
            lambda path: (
                new_batch(path)
                .add_job(prompt="x", model=CLAUDE, id="twice")
                .add_job(prompt="y", model=GPT, id="twice")
                .run()
            ),
            "'twice' is given 2 times",
        ),
        (lambda path: new_batch(path).add_job(prompt="x" * 300_000_000, model=GPT), "bytes"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, sandbox, bill, mistake: Any, text: str) -> None:
    """Each with its reason, nothing sent."""
    with pytest.raises(ValidationError, match=text):
        mistake(tmp_path)
    assert not bill()


def test_limits_are_checked_when_they_are_set(tmp_path: Path) -> None:
    """10 seconds to 24 hours, units add up; a limit is a positive amount."""
    batch = Batch(tmp_path)
    for wrong in ({}, {"seconds": 9}, {"hours": 24, "seconds": 1}, {"minutes": -5, "seconds": 1}):
        with pytest.raises(ValueError, match=r"time limit|at least"):
            batch.add_time_limit(**wrong)
    batch.add_time_limit(hours=1, minutes=30, seconds=15)
    assert batch._options.time_limit_seconds == 5415
    for amount in (0, -1, "much", float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cost limit"):
            batch.add_cost_limit(amount)
    with pytest.raises(ValueError, match="verbosity"):
        batch.set_verbosity("loud")


def test_a_results_dir_that_cannot_be_written(tmp_path: Path, sandbox) -> None:
    """A file in its place is found before anything is paid."""
    (tmp_path / "out").write_text("I am a file")
    with pytest.raises(ValidationError, match="cannot be written"):
        mixed(tmp_path)


def test_another_base_url_is_refused(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in flight at one address is not looked for at another."""
    mixed(tmp_path).run()
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.invalid/v1")
    with pytest.raises(StateError, match=r"example\.invalid"):
        mixed(tmp_path).run()


def test_lost_replies_are_fetched_again_for_nothing(tmp_path: Path, sandbox, bill) -> None:
    """The results directory is gone, the records are not: the answers come from the provider."""
    import shutil

    first = mixed(tmp_path).run().results()
    shutil.rmtree(tmp_path / "out")
    assert mixed(tmp_path).run().results() == first
    assert set(bill().values()) == {1}


def test_a_dry_run_sends_nothing(tmp_path: Path, sandbox, bill) -> None:
    """It says what would be sent and what it may cost, also for a half-done job set."""
    run = mixed(tmp_path).run(dry_run=True)
    assert run.planned is not None
    assert (run.planned["jobs"], run.planned["to_send"], len(run.planned["batches"])) == (6, 6, 2)
    assert 0 < run.planned["cost_low_usd"] < run.planned["cost_upper_usd"]
    assert not bill()
    assert not (tmp_path / "out" / "results.jsonl").exists()
    mixed(tmp_path).run()
    batch = mixed(tmp_path, 8)
    planned = batch.run(dry_run=True).planned
    assert planned is not None
    assert (planned["answered"], planned["to_send"]) == (6, 2)
    assert len(batch.run().results()["completed"]) == 8
    assert set(bill().values()) == {1}


def test_a_prefect_server_that_does_not_answer_is_said(
    tmp_path: Path, sandbox, bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to check, and nothing is sent."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    batch = mixed(tmp_path)
    nobody = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody), pytest.raises(StateError, match="PREFECT_API_URL"):
        batch.run()
    assert not bill()
    assert len(batch.run().results()["completed"]) == 6
