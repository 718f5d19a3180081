"""Ahead of the deadline: what the batches leave unanswered goes through the realtime API, once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_HOME, temporary_settings

from batchata_prefect import (
    Batch,
    BatchRun,
    BatchSubmissionError,
    StateError,
    ValidationError,
)
from batchata_prefect.records.journal import Journal
from batchata_prefect.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


@pytest.fixture
def slow(sandbox: Sandbox, short_limits: None) -> Iterator[Sandbox]:
    """A sandbox whose batches take a minute, and deadlines that are near."""
    sandbox.limits(seconds=60)
    yield sandbox
    sandbox.limits(seconds=0.1)


@pytest.fixture
def billed(sandbox: Sandbox):
    """What the sandbox has billed since the test began: (realtime, batch) rows."""
    before = len(list(sandbox.ledger.billed()))

    def rows() -> tuple[list[Any], list[Any]]:
        new = list(sandbox.ledger.billed())[before:]
        return [r for r in new if r.batch_id is None], [r for r in new if r.batch_id is not None]

    return rows


def make(tmp_path: Path, jobs: int = 24, text: str = "", usd: float = 5, **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", items_per_batch=6, **options).set_state(file=tmp_path / "state")
    batch.add_time_limit(seconds=8, on_deadline="realtime", realtime_usd=usd, margin_seconds=7)
    for n in range(jobs):
        model = GPT if n % 2 else CLAUDE
        batch.add_job(prompt=f"{tmp_path} {n} {text}", model=model, max_tokens=100, id=f"j{n}")
    return batch


def once_each(rows: list[Any]) -> bool:
    return len({row.body_digest for row in rows}) == len(rows)


def both(billed: Any) -> list[Any]:
    direct, batched = billed()
    return direct + batched


def codes(run: BatchRun) -> Counter[str | None]:
    return Counter(result.error_code for result in run.iter_results())


def test_stragglers_go_through_the_realtime_api(tmp_path: Path, slow, billed) -> None:
    """Batches that will not be done are cancelled, and all their jobs are answered in time."""
    began = time.monotonic()
    run = make(tmp_path).run()
    assert time.monotonic() - began < 20
    assert codes(run) == {None: 24}
    direct, batched = billed()
    assert once_each(direct + batched)
    assert len(direct + batched) == 24
    assert len(direct) >= 20
    assert run.manifest is not None
    cost = float(sum(row.cost_usd for row in direct + batched))
    assert run.manifest["cost_usd"] == pytest.approx(cost)
    assert run.manifest["reserved_usd"] == 0
    assert sum(result.cost_usd or 0 for result in run.iter_results()) == pytest.approx(cost)
    assert not list((tmp_path / "out").rglob("*.journal"))
    again = make(tmp_path).run()
    assert codes(again) == {None: 24}
    assert len(both(billed)) == 24


def test_its_cost_limit_holds(tmp_path: Path, slow, billed) -> None:
    """What the realtime limit does not cover stays in its batch until the deadline."""
    prices = {
        model: {"input": 1.0, "output": 10.0, "realtime": {"input": 2.0, "output": 20.0}}
        for model in (CLAUDE, GPT)
    }
    run = make(tmp_path, text="[[sandbox:tokens 50 100]]", usd=0.02, prices=prices).run()
    direct, _ = billed()
    assert 0 < len(direct) * (50 * 2 + 100 * 20) / 1e6 <= 0.02
    assert codes(run) == {None: len(both(billed)), "time_limit_exceeded": 24 - len(both(billed))}
    cancelled = [b for b in run.manifest["batches"] if b["status"] == "canceled"]  # pyright: ignore[reportOptionalSubscript]
    assert Counter(b["reason"] for b in cancelled) == {
        "Going over to the realtime API": 1,
        "Time limit exceeded": 3,
    }


def test_busy_and_failing_providers(tmp_path: Path, slow, billed) -> None:
    """429s and server errors are tried again; what may have been answered is not sent again."""
    slow.fault("anthropic", operation="message", mode="status", times=3, status=529)
    slow.fault("openai", operation="message", mode="status", times=3, status=429, retry_after=1)
    slow.fault("anthropic", operation="message", mode="drop_after", times=1, after=5)
    run = make(tmp_path).run()
    assert codes(run) == {None: 23, "answer_lost": 1}
    direct, batched = billed()
    assert once_each(direct + batched)
    lost = next(result for result in run.iter_results() if result.error_code == "answer_lost")
    assert lost.cost_usd is None
    assert "not sent again" in (lost.error or "")
    assert run.manifest is not None
    assert run.manifest["cost_usd"] >= float(sum(row.cost_usd for row in direct + batched))
    again = make(tmp_path).run()
    assert codes(again) == {None: 23, "answer_lost": 1}
    assert len(both(billed)) == 24


def test_a_page_that_refuses_the_key_ends_the_sending(tmp_path: Path, slow, billed) -> None:
    """What reached the provider behind it is not known, so that each request more would be lost."""
    before = slow.ledger.calls().get("anthropic.message", 0)
    slow.fault("anthropic", operation="message", mode="garbage", times=None, status=403)
    with pytest.raises(BatchSubmissionError, match="it counts at its upper bound"):
        make(tmp_path).run()
    tried = slow.ledger.calls()["anthropic.message"] - before
    assert 1 <= tried < 12
    slow.clear_faults()
    slow.limits(seconds=0.1)
    assert codes(make(tmp_path).run()) == {None: 24 - tried, "answer_lost": tried}
    assert once_each(both(billed))


def test_a_stop_in_the_middle(tmp_path: Path, slow, billed) -> None:
    """What is under way is waited for and kept; what was not sent goes out in the next run."""
    slow.fault("anthropic", operation="message", mode="delay", times=1000, seconds=2)
    slow.fault("openai", operation="message", mode="delay", times=1000, seconds=2)
    batch = make(tmp_path, jobs=80)
    run = batch._prepare(None, 1.0)  # pyright: ignore[reportPrivateUsage]

    def stop() -> None:
        while not billed()[0]:
            time.sleep(0.05)
        run.cancel("enough")

    person = threading.Thread(target=stop)
    person.start()
    run.execute()
    person.join()
    direct, batched = billed()
    found = codes(run)
    assert found[None] == len(direct + batched)
    assert found["canceled"] == 80 - found[None] > 0
    slow.clear_faults()
    slow.limits(seconds=0.1)
    rest = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    for n in range(80):
        model = GPT if n % 2 else CLAUDE
        rest.add_job(prompt=f"{tmp_path} {n} ", model=model, max_tokens=100, id=f"j{n}")
    assert codes(rest.run()) == {None: 80}
    assert once_each(both(billed))


def test_unknown_realtime_prices_are_refused(tmp_path: Path, sandbox, short_limits, billed) -> None:
    """A limit on realtime requests needs their price, before anything is sent."""
    batch = make(tmp_path, jobs=2, prices={"ft:gpt-6-luna:me": {"input": 1, "output": 1}})
    batch.add_job(prompt="x", model="ft:gpt-6-luna:me", max_tokens=10)
    with pytest.raises(ValidationError, match="realtime price of 'ft:gpt-6-luna:me'"):
        batch.run()
    for told in ({}, {"realtime_usd": 0}, {"realtime_usd": 1, "margin_seconds": 12}):
        with pytest.raises(ValueError, match=r"limit|positive"):
            batch.add_time_limit(seconds=12, on_deadline="realtime", **told)
    assert not both(billed)


def test_a_journal_that_was_cut_off(tmp_path: Path) -> None:
    """A reply that was written in part counts as lost, and so does everything without a journal."""
    journal = Journal(tmp_path / "x.journal")
    assert journal.read().lost
    journal.begin()
    for place in range(4):
        journal.sent(place)
    journal.answered(1, b'{"a":1}')
    journal.not_billed(2)
    journal.answered(3, b'{"a":3}')
    whole = (tmp_path / "x.journal").read_bytes()
    told = journal.read()
    assert (told.open, told.rows) == ({0}, [b'{"a":1}', b'{"a":3}'])
    (tmp_path / "x.journal").write_bytes(whole[:-3])
    told = journal.read()
    assert (told.open, told.rows) == ({0, 3}, [b'{"a":1}'])


def test_its_replies_outlive_the_machine(
    tmp_path: Path, slow, billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With results at a URL they are there before the run is over: no provider keeps them."""
    url = f"file://{tmp_path / 'far'}"

    def start(home: str) -> BatchRun:
        with temporary_settings({PREFECT_HOME: tmp_path / home}):
            batch = Batch(url, items_per_batch=6).set_state(file=tmp_path / "state")
            batch.add_time_limit(
                seconds=8, on_deadline="realtime", realtime_usd=5, margin_seconds=7
            )
            for n in range(6):
                batch.add_job(prompt=f"{tmp_path} {n}", model=GPT, max_tokens=100, id=f"j{n}")
            return batch.run()

    def breaks(*_: Any) -> bool:
        raise StateError("the machine is gone")

    with monkeypatch.context() as patch, pytest.raises(StateError, match="is gone"):
        patch.setattr("batchata_prefect.engine.download.publish", breaks)
        start("one")
    assert len(billed()[0]) == 6
    assert codes(start("two")) == {None: 6}
    assert len(both(billed)) == 6
