"""Programs written for the original library, with one changed import."""

from __future__ import annotations

import logging
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE = "claude-sonnet-4-20250514"


def batch_of(tmp_path: Path, count: int = 5, **options: Any) -> Batch:
    """A batch as the original's users build one, in parts of two jobs."""
    batch = Batch(str(tmp_path / "out"), max_parallel_batches=1, items_per_batch=2, **options)
    batch.set_state(str(tmp_path / "state.json")).set_default_params(model=CLAUDE)
    for number in range(count):
        batch.add_job(messages=[{"role": "user", "content": f"{tmp_path} {number}"}])
    return batch


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


def test_after_an_interrupt_the_batch_has_the_run(tmp_path: Path, sandbox) -> None:
    """`run` gave nothing back; what it came to is not lost."""
    batch = batch_of(tmp_path)

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
    assert sum(map(len, results.values())) == 5
