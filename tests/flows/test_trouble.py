"""Trouble at the provider and on this machine: each ends in a defined way, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, BatchRun, ProviderError, StateError
from batchata_prefect.answers import Reply, Usage
from batchata_prefect.providers import providers
from batchata_prefect.records.lease import Lease
from batchata_prefect.records.store import Records
from tests.chaos.killing import Forker, check_all_paid_once, log_of, start_until_sent, told

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
BOTH = pytest.mark.parametrize("provider", ["anthropic", "openai"])
JOBS = 6


def make(tmp_path: Path, jobs: int = JOBS, **options: Any) -> Batch:
    options.setdefault("items_per_batch", 3)
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    for n in range(jobs):
        batch.add_job(
            prompt=f"{tmp_path}: what is {n}?",
            model=(CLAUDE, GPT)[n % 2],
            max_tokens=200,
            id=f"job-{n}",
            metadata={"n": n},
        )
    return batch


@pytest.mark.parametrize(
    "faults",
    [
        [
            ("retrieve", "status", {"status": 500, "times": 6}),
            ("retrieve", "status", {"status": 529, "times": 3}),
            ("retrieve", "status", {"status": 404, "times": 2}),
            ("retrieve", "status", {"status": 429, "headers": {"retry-after": "0"}, "times": 2}),
            ("retrieve", "drop_before", {"times": 3}),
            ("retrieve", "garbage", {"times": 3}),
            ("retrieve", "unknown_status", {"times": 2}),
        ],
        [("list", "status", {"status": 503, "times": 5})],
        [(None, "create_404", {"seconds": 1})],
        [(None, "results_not_ready", {"times": 4})],
        [
            (("results", "content"), "status", {"status": 500, "times": 6}),
            (("results", "content"), "status", {"status": 404, "times": 4}),
        ],
    ],
    ids=["polling", "listing", "unseen at first", "late results", "download"],
)
def test_trouble_that_passes(
    tmp_path: Path, sandbox, billed, faults: list[tuple[Any, str, dict[str, Any]]]
) -> None:
    """Errors, limits, dropped connections, pages of proxies and unknown words cost only time."""
    for provider in ("anthropic", "openai"):
        for operation, mode, options in faults:
            sandbox.fault(provider, operation=operation, mode=mode, **options)
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_list_that_lags(tmp_path: Path, sandbox, billed) -> None:
    """A create whose reply was lost is found although the list shows it late."""
    for provider in ("anthropic", "openai"):
        sandbox.fault(provider, mode="list_lag", seconds=0.3)
        sandbox.fault(provider, operation="create", mode="drop_after")
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


@BOTH
def test_results_that_are_gone(
    tmp_path: Path, sandbox, billed, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, says so, keeps what it may have cost reserved, and the next run finds them."""
    monkeypatch.setenv("BATCHATA_UNKNOWN_SECONDS", "1")
    operation = ("results", "content")
    sandbox.fault(provider, operation=operation, mode="status", status=404, times=None)
    batch = make(tmp_path, 4)
    with pytest.raises(ProviderError, match="Its cost stays reserved"):
        batch.run()
    rows = [row for row in _rows(tmp_path) if row["error_code"]]
    assert Counter(row["error_code"] for row in rows) == {"in_flight": 2}
    assert all("reserved" in row["error"] for row in rows)
    assert len(_rows(tmp_path)) == 4, "the other provider's answers are written"
    sandbox.clear_faults()
    make(tmp_path, 4).run()
    check_all_paid_once(billed(), tmp_path / "out", 4)


@BOTH
def test_results_that_expired(
    tmp_path: Path, sandbox, billed, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the provider's retention its jobs fail, at an unknown cost, and are not sent again."""
    monkeypatch.setenv("BATCHATA_UNKNOWN_SECONDS", "0.3")
    monkeypatch.setenv("BATCHATA_RETENTION_SECONDS", "0.1")
    operation = ("results", "content")
    sandbox.fault(provider, operation=operation, mode="status", status=404, times=None)
    run = make(tmp_path, 4).run()
    lost = [row for row in _rows(tmp_path) if row["error_code"]]
    assert Counter(row["error_code"] for row in lost) == {"answer_lost": 2}
    assert {row["provider"] for row in lost} == {provider}
    assert run.manifest is not None
    assert run.manifest["cost_usd"] is None, "what they cost is not known, and not 0"
    sandbox.clear_faults()
    make(tmp_path, 4).run()
    assert len(billed()) == 4


@BOTH
def test_a_batch_that_stays_canceling(
    tmp_path: Path, sandbox, billed, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settling is waited for within a bound, and the next run collects it."""
    monkeypatch.setenv("BATCHATA_SETTLE_SECONDS", "4")
    sandbox.fault(provider, mode="stuck_canceling")
    sandbox.limits(seconds=30)
    try:
        batch = make(tmp_path)
        run = batch._prepare(None, 0.1)
        _when(
            run, lambda: sum(1 for f in run._session.flights.values() if f.batch) == 2, run.cancel
        )
        began = time.monotonic()
        run.execute()
    finally:
        sandbox.limits(seconds=0.1)
    assert time.monotonic() - began < 15
    held = [row for row in _rows(tmp_path) if row["error_code"] == "in_flight"]
    assert {row["provider"] for row in held} == {provider}
    assert run.manifest is not None
    assert run.manifest["reserved_usd"] > 0
    sandbox.clear_faults()
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_provider_that_is_away_at_the_deadline(
    tmp_path: Path, sandbox, short_limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of errors do not keep a run past its deadline and the settling time."""
    monkeypatch.setenv("BATCHATA_SETTLE_SECONDS", "1")
    sandbox.fault("anthropic", operation="retrieve", mode="status", status=500, times=None)
    run = make(tmp_path).add_time_limit(seconds=5).run()
    assert run.elapsed_seconds < 20
    rows = _rows(tmp_path)
    assert Counter(row["status"] for row in rows) == {"completed": 3, "failed": 3}
    assert {row["error_code"] for row in rows if row["status"] == "failed"} == {"in_flight"}


def test_one_provider_refuses_and_the_other_is_collected(
    tmp_path: Path, sandbox, billed, caplog: pytest.LogCaptureFixture
) -> None:
    """A spend cap at one provider does not throw away what the other one answers."""
    sandbox.fault(
        "openai",
        operation="create",
        mode="status",
        status=429,
        times=None,
        error_type="insufficient_quota",
        code="insufficient_quota",
        message="You exceeded your current quota",
    )
    with pytest.raises(ProviderError, match="exceeded your current quota"):
        make(tmp_path).run()
    assert not [record for record in caplog.records if record.exc_info], "no tracebacks"
    rows = _rows(tmp_path)
    assert Counter((row["provider"], row["status"]) for row in rows) == {
        ("anthropic", "completed"): 3,
        ("openai", "failed"): 3,
    }
    assert {row["error_code"] for row in rows if row["status"] == "failed"} == {"provider_refused"}
    sandbox.clear_faults()
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_the_results_directory_is_removed_under_the_run(tmp_path: Path, sandbox, billed) -> None:
    """It fails with words, and the next run collects the same batches."""
    sandbox.limits(seconds=1)
    try:
        batch = make(tmp_path)
        run = batch._prepare(None, 0.1)
        _when(
            run,
            lambda: sum(1 for f in run._session.flights.values() if f.batch) == 2,
            lambda: shutil.rmtree(tmp_path / "out"),
        )
        with pytest.raises(StateError, match="nothing is paid twice"):
            run.execute()
    finally:
        sandbox.limits(seconds=0.1)
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_receipt_that_cannot_be_stored(
    tmp_path: Path, sandbox, billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage of records fails just after the create: the next run adopts the batch."""
    calls = ("openai.create", "anthropic.create")
    for call in calls:
        provider, operation = call.split(".")
        sandbox.fault(provider, operation=operation, mode="delay", seconds=2, times=None)
    known = sandbox.ledger.calls()
    batch = make(tmp_path)
    run = batch._prepare(None, 0.1)
    state, away = tmp_path / "state", tmp_path / "away"

    def both_are_made() -> bool:
        made = sandbox.ledger.calls()
        return all(made.get(call, 0) > known.get(call, 0) for call in calls)

    _when(run, both_are_made, lambda: _take_away(state, away))
    with pytest.raises(StateError, match="finds it at the provider, and nothing is paid twice"):
        run.execute()
    state.unlink()
    away.rename(state)
    sandbox.clear_faults()
    again = make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
    assert again.manifest is not None
    assert any(batch["adopted"] for batch in again.manifest["batches"])


@pytest.mark.parametrize("kind", ["intent", "receipt", "ending"])
def test_a_record_that_can_be_stored_a_little_later(
    tmp_path: Path, sandbox, billed, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A storage that fails for a moment does not end the run."""
    monkeypatch.setenv("BATCHATA_RETRY_LONGEST_SECONDS", "20")
    state, away = tmp_path / "state", tmp_path / "away"
    write: Any = getattr(Records, f"write_{kind}")
    refused: list[StateError] = []

    def bring_back() -> None:
        state.unlink()
        away.rename(state)

    async def trip(*arguments: Any) -> None:
        if not refused:
            _take_away(state, away)
            threading.Timer(0.3, bring_back).start()
        try:
            await write(*arguments)
        except StateError as error:
            refused.append(error)
            raise

    monkeypatch.setattr(Records, f"write_{kind}", trip)
    make(tmp_path).run()
    assert refused
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_a_lease_that_can_be_renewed_a_little_later(
    tmp_path: Path, sandbox, billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else can have taken it as long as it has not run out."""
    monkeypatch.setenv("BATCHATA_LEASE_SECONDS", "1.5")
    sandbox.limits(seconds=2)
    renew, tries = Lease.renew, [0]

    async def trip(lease: Lease) -> None:
        tries[0] += 1
        if tries[0] == 1:
            raise StateError("the storage is away")
        await renew(lease)

    monkeypatch.setattr(Lease, "renew", trip)
    try:
        run = make(tmp_path).run()
    finally:
        sandbox.limits(seconds=0.1)
    assert tries[0] > 1
    assert run.is_complete
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_out_of_file_handles(tmp_path: Path, forker: Forker, billed) -> None:
    """It fails with words or goes on, and the next run finishes without paying again."""
    job = told(tmp_path, jobs=12)
    code, _ = forker.run({**job, "free_file_handles": 6})
    assert code == 1, "with so few handles it cannot work"
    assert forker.run(job)[0] == 0, log_of(job)
    check_all_paid_once(billed(), tmp_path / "out", 12)


def test_asleep_over_the_deadline(tmp_path: Path, sandbox, forker: Forker, billed) -> None:
    """A machine that wakes after the deadline ends the run then, and keeps what was finished."""
    job = told(tmp_path, jobs=40, items_per_batch=20, time_limit_seconds=5)
    sandbox.limits(seconds=20)
    try:
        pid = start_until_sent(forker, sandbox, job, 2)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(6)
        os.kill(pid, signal.SIGCONT)
        woken = time.monotonic()
        assert forker.wait() == 0, log_of(job)
        assert time.monotonic() - woken < 12
    finally:
        sandbox.limits(seconds=0.1)
    rows = _rows(tmp_path)
    done = [row for row in rows if row["status"] == "completed"]
    assert 0 < len(done) < 40
    assert len(done) == len(billed())
    assert {r["error_code"] for r in rows if r["status"] == "failed"} == {"time_limit_exceeded"}


ROWS = {
    "anthropic": b'{"custom_id":"%b","result":{"type":"succeeded","message":{"content":[{"type":'
    b'"text","text":"%b"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":2}}}}',
    "openai": b'{"custom_id":"%b","response":{"status_code":200,"body":{"choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}},"error":null}',
}


@BOTH
@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"bad byte \xff here", "bad byte \ufffd here"),
        (b"a bare NUL \x00 here", "a bare NUL \x00 here"),
        (b"an escaped NUL \\u0000 here", "an escaped NUL \x00 here"),
        (b"half a pair \\ud83d here", "half a pair \ufffd here"),
        (b"x" * 30_000_000, "x" * 30_000_000),
    ],
    ids=["invalid UTF-8", "NUL", "escaped NUL", "lone surrogate", "30 MB"],
)
def test_odd_rows(provider: str, written: bytes, read: str) -> None:
    """What a reply holds is never a reason to lose it."""
    endpoint = "/v1/messages" if provider == "anthropic" else "/v1/chat/completions"
    reply = providers()[provider].read(ROWS[provider] % (b"h-1", written), endpoint)
    assert reply.text == read
    assert reply.usage == Usage(input_tokens=1, output_tokens=2)


@BOTH
def test_a_row_that_is_no_json_is_not_sent_again(tmp_path: Path, provider: str) -> None:
    """It names its job, may have been paid for, and its cost is unknown."""
    from batchata_prefect.providers.rows import UnreadableRowError

    with pytest.raises(UnreadableRowError) as caught:
        providers()[provider].read(b'{"custom_id":"h-1","result":{"type":}}', "/v1/messages")
    assert caught.value.reply == Reply(
        "h-1", "succeeded", error_code="unreadable_reply", error=caught.value.reply.error
    )


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    import orjson

    return [orjson.loads(line) for line in (tmp_path / "out" / "results.jsonl").open("rb")]


def _take_away(state: Path, away: Path) -> None:
    """Have a file where the records were, though another thread may be writing one there."""
    state.rename(away)
    while not state.is_file():
        shutil.rmtree(state, ignore_errors=True)
        with suppress(IsADirectoryError):
            state.write_text("no directory")


def _when(run: BatchRun, true: Callable[[], bool], then: Callable[[], Any]) -> None:
    """Do something in another thread as soon as something is true of a run."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not true() and time.monotonic() < deadline:
            time.sleep(0.01)
        then()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("at", ["byte", "line", "reset"])
def test_a_download_that_is_cut_off(tmp_path: Path, sandbox, billed, at: str) -> None:
    """Answers and errors in one batch, and a transfer that ends early: fetched again, not sent."""
    kinds = {CLAUDE: "api_error", GPT: "server_error"}
    for provider in ("anthropic", "openai"):
        sandbox.fault(provider, mode="truncate", at=at, rows=2)
    for attempts in (1, 2):
        batch = Batch(tmp_path / "out", max_attempts=attempts).set_state(file=tmp_path / "state")
        batch.set_default_params(max_tokens=200)
        for model, kind in kinds.items():
            for n in range(6):
                order = f"[[sandbox:errored {kind}]]" if n % 2 else ""
                batch.add_job(prompt=f"{tmp_path} {n} {order}", model=model, id=f"{model} {n}")
        batch.run()
    rows = _rows(tmp_path)
    assert [row["error_code"] for row in rows] == [
        code for kind in kinds.values() for code in [None, kind] * 3
    ]
    assert len(billed()) == 6
