"""Programs written for the original library, with one changed import."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchata_prefect import Batch, JobResult

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE = "claude-sonnet-4-20250514"


def batch_of(tmp_path: Path, count: int = 5, **options: Any) -> Batch:
    """A batch as the original's users build one, in parts of two jobs."""
    batch = Batch(str(tmp_path / "out"), max_parallel_batches=1, items_per_batch=2, **options)
    batch.set_state(str(tmp_path / "state.json")).set_default_params(model=CLAUDE)
    for number in range(count):
        batch.add_job(messages=[{"role": "user", "content": f"{tmp_path} {number}"}])
    return batch


STATS = (
    "total pending active completed failed cancelled cost_usd cost_limit_usd is_complete "
    "batches_total batches_completed batches_pending current_batch_index current_batch_size "
    "items_per_batch"
)
BATCH_DATA = "start_time status total completed failed cost provider completion_time error"
TOLD = {"jobs": "| its `jobs` |", "estimated_cost": "| its `estimated_cost` |"}
TO_JSON = (
    "created_at pending_jobs completed_results failed_jobs cancelled_jobs total_cost_usd config"
)
CONFIG = (
    "state_file results_dir max_parallel_batches items_per_batch cost_limit_usd default_params "
    "raw_files"
)


def test_a_callback_and_the_json_have_the_keys_of_the_original(tmp_path: Path, sandbox) -> None:
    """Batches are told of from the first call on; what differs stands in moving.md."""
    page = (Path(__file__).parents[2] / ".docs" / "pages" / "moving.md").read_text()
    assert [told for told in TOLD.values() if told not in page] == []
    assert [name for name in BATCH_DATA.split() if f"`{name}`" not in page] == []
    seen: list[tuple[dict[str, Any], float, dict[str, dict[str, Any]]]] = []
    said: list[dict[str, Any]] = []
    batch = batch_of(tmp_path).add_job(prompt="[[sandbox:errored invalid_request_error]]")

    def look(*told: Any) -> None:
        seen.append(told)
        assert batch.latest_run is not None
        said.append(json.loads(json.dumps(batch.latest_run.to_json())))

    run = batch.run(look, 0.05)
    assert {each["status"] for each in seen[0][2].values()} == {"pending"}
    assert [each["total"] for each in seen[0][2].values()] == [2, 2, 2]
    assert list(seen[0][2]) == ["pending_0", "pending_1", "pending_2"]
    assert sum(each["total"] for each in seen[-1][2].values()) == 6
    for stats, _, batches in seen:
        assert set(STATS.split()) <= set(stats)
        for each in batches.values():
            assert set(BATCH_DATA.split()) | set(TOLD) <= set(each)
    for each in said:
        assert set(TO_JSON.split()) <= set(each)
        assert set(CONFIG.split()) <= set(each["config"])
    assert len(said[0]["pending_jobs"]) == 6
    told = run.to_json()
    assert told["pending_jobs"] == run.pending_jobs == []
    assert [each["job_id"] for each in told["completed_results"]] == list(run.completed_results)
    assert [each["id"] for each in told["failed_jobs"]] == list(run.failed_jobs)
    assert (len(run.completed_results), len(run.failed_jobs)) == (5, 1)
    assert told["cancelled_jobs"] == list(run.cancelled_jobs) == []
    assert told["total_cost_usd"] == run.status()["cost_usd"]
    assert run.config is not None
    assert told["config"]["items_per_batch"] == run.config.items_per_batch == 2


class Notes(BaseModel):
    """What is asked for."""

    title: str
    mood: str
    points: list[str]


@pytest.mark.parametrize("model", [CLAUDE, "gpt-4.1-2025-04-14", "gpt-4o-mini"])
def test_the_documented_ways_to_use_it_work(
    tmp_path: Path, sandbox, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files with a prompt, messages with a model, limits, a plan, results by status, a saved one.

    These are the calls of the original's README and of its four examples.
    """
    batch = (
        Batch(results_dir=str(tmp_path / "out"), max_parallel_batches=1, items_per_batch=3)
        .set_state(file=str(tmp_path / "state.json"), reuse_state=False)
        .set_default_params(model=model, temperature=0.7)
        .add_cost_limit(usd=5.0)
        .add_time_limit(minutes=10)
        .set_verbosity("warn")
    )
    note = tmp_path / "note.txt"
    note.write_text("Notes of the garden club\nMood: calm\nPoints: seeds, tools")
    cites = model == CLAUDE
    batch.add_job(
        file=note if cites else None,
        prompt="What are title, mood and points?",
        response_model=Notes,
        enable_citations=cites,
    )
    batch.add_job(messages=[{"role": "user", "content": "Say hello"}], max_tokens=100)
    assert "5.0" in repr(batch)
    assert batch.run(dry_run=True).results() == {"completed": [], "failed": [], "cancelled": []}
    run = batch.run(print_status=True)
    stats = run.status(print_status=True)
    assert f"{round(stats['cost_usd'], 3)}/{stats['cost_limit_usd']}".endswith("/5.0")
    results = run.results()
    assert results["failed"] == results["cancelled"] == []
    parsed, plain = results["completed"]
    assert isinstance(parsed.parsed_response, Notes)
    assert ", ".join(parsed.parsed_response.points)
    assert f"{plain.cost_usd:.6f} {plain.input_tokens} {plain.output_tokens}"
    assert [each for each in results["failed"] if "Time limit" in (each.error or "")] == []
    for citation in parsed.citations or ():
        assert citation.text[:50]
    parsed.save_to_json(str(tmp_path / f"{parsed.job_id}.json"))
    saved = json.loads((tmp_path / f"{parsed.job_id}.json").read_text())
    assert JobResult.from_dict(saved).is_success
    assert not run.get_failed_jobs()
    run.shutdown()


def test_times_of_batches_are_local_ones_without_a_zone(tmp_path: Path, sandbox) -> None:
    """`datetime.now() - start_time` is how the original's users tell how long a batch runs."""
    ages: list[timedelta] = []

    def look(stats: dict[str, Any], elapsed: float, batches: dict[str, dict[str, Any]]) -> None:
        began = [each["start_time"] for each in batches.values() if each["start_time"]]
        ages.extend(datetime.now() - each for each in began)
        assert all(each["start_time"] is None for each in batches.values() if not each["batch_id"])
        ended = [each for each in batches.values() if each["completion_time"]]
        ages.extend(each["completion_time"] - each["start_time"] for each in ended)

    run = batch_of(tmp_path).run(on_progress=look, progress_interval=0.05)
    assert run.is_complete
    assert ages
    assert all(timedelta(seconds=-2) < age < timedelta(minutes=2) for age in ages)


@pytest.mark.parametrize(("level", "least"), [("error", "ERROR"), ("warn", "WARNING")])
def test_verbosity_holds_for_prefect_during_the_run(
    tmp_path: Path, sandbox, level: str, least: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is below the level is not shown during the run, and what was before holds after it."""
    logger, flow_runs = (logging.getLogger(n) for n in ("batchata_prefect", "prefect.flow_runs"))
    before = logger.level
    shown = logging.StreamHandler()
    said: list[logging.LogRecord] = []
    shown.emit = said.append  # type: ignore[method-assign]
    logging.root.addHandler(shown)
    try:
        batch_of(tmp_path).set_verbosity(level).run()
        assert [r.getMessage() for r in said if r.levelno < getattr(logging, least)] == []
        flow_runs.info("afterwards")
        assert [r.getMessage() for r in said][-1:] == ["afterwards"]
    finally:
        logging.root.removeHandler(shown)
    assert logger.level == before


def test_the_status_is_printed_whatever_the_verbosity(
    tmp_path: Path, sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was asked for."""
    run = batch_of(tmp_path, 1).set_verbosity("error").run()
    capsys.readouterr()
    run.status(print_status=True)
    assert "completed: 1\n" in capsys.readouterr().out


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As at a terminal; what a shell starts in the background, such as a suite, ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_after_an_interrupt_the_batch_has_the_run(tmp_path: Path, sandbox, interruptible) -> None:
    """`run` gave nothing back; what it came to is not lost."""
    # Many batches, one after the other: the progress sees some of them before the end.
    batch = batch_of(tmp_path, 20)

    pressed: list[None] = []

    def interrupt(stats: dict[str, Any], *_: object) -> None:
        if stats["completed"] and not pressed:
            pressed.append(None)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised:
        batch.run(on_progress=interrupt, progress_interval=0.05)
    assert any("batch.latest_run" in note for note in raised.value.__notes__)
    assert batch.latest_run is not None
    results = batch.latest_run.results()
    assert sum(map(len, results.values())) == 20
