"""What a person sees of a run while it goes on."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from batchata_prefect.numbers import clock, dollars
from batchata_prefect.views.printed import Rows, say
from batchata_prefect.views.terminal import LINE_SECONDS, Progress, View, plain_line

NOW = datetime(2026, 11, 22, 12, 0)


def stats(**changes: Any) -> dict[str, Any]:
    return {
        "total": 3000,
        "pending": 760,
        "active": 1000,
        "completed": 1200,
        "failed": 40,
        "cancelled": 0,
        "cost_usd": 1.24,
        "cost_limit_usd": 5.0,
        "reserved_usd": 3.0,
        "time_left_seconds": None,
        "waiting_for": None,
        "resumed": 0,
        "is_complete": False,
        **changes,
    }


def batch(number: int, status: str = "running", **changes: Any) -> dict[str, Any]:
    return {
        "start_time": None if status == "pending" else NOW - timedelta(seconds=60 * number),
        "completion_time": None if status in ("running", "pending") else NOW,
        "status": status,
        "total": 1000,
        "completed": 1000 if status == "complete" else 0,
        "failed": 0,
        "cost": 1.25 if status == "complete" else None,
        "estimated_cost": 1.5,
        "provider": "anthropic",
        "model": "claude-sonnet-5-5",
        "name": f"anthropic claude-sonnet-5-5 #{number}, 1,000 jobs",
        "batch_id": f"msgbatch_{number}",
        "error": None,
        **changes,
    }


LOST_ONE = batch(1, "failed", completed=999, failed=1, cost=1.0)


def shown(
    batches: dict[str, Any] | None = None, width: int = 80, elapsed: float = 723, **changes: Any
) -> str:
    console = Console(record=True, width=width, height=40, file=io.StringIO())
    console.print(View(stats(**changes), elapsed, batches or {}, "./output", NOW))
    return console.export_text()


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_view_says_jobs_batches_cost_and_time_at_every_width(width: int) -> None:
    """Every width has the counts, each batch's number and state, the cost, its limit and time."""
    batches = {"a": batch(1), "b": batch(2, "complete"), "c": batch(3, "pending")}
    text = shown(batches, width, time_left_seconds=3600)
    assert max(map(len, text.splitlines())) <= width
    assert "1,240/3,000 jobs 41%" in text
    words = squeezed(text)
    assert "1,200 completed, 40 failed, 1,000 at providers, 760 not sent" in words
    assert "cost $1.24, up to $3.00 more for what is under way, limit $5.00" in words
    assert "12:03, 1:00:00 left" in words
    assert "1 running, 1 pending, 1 complete" in words
    for state, number in (("running", "#1"), ("complete", "#2"), ("pending", "#3")):
        assert any(line.startswith(state) and number in line for line in text.splitlines())


def test_narrow_view_leaves_columns_out_and_keeps_numbers_and_costs() -> None:
    """At 40 columns the name is cut, not the batch number, the jobs or the cost."""
    text = shown({"a": batch(7, "complete")}, 40)
    assert " age " not in text
    row = next(line for line in text.splitlines() if line.startswith("complete"))
    assert len(row) <= 40
    assert "#7" in row
    assert "1,000/1,000" in row
    assert "$1.25" in row


def test_a_thousand_batches_show_the_active_ones_and_totals() -> None:
    """With 1,000 batches the running ones come first, the rest is counted, the view stays short."""
    batches = {str(n): batch(n, "complete") for n in range(700)}
    batches |= {str(n): batch(n, "pending") for n in range(700, 997)}
    batches |= {str(n): batch(n) for n in range(997, 1000)}
    text = shown(batches)
    lines = text.splitlines()
    assert len(lines) <= 30
    first = next(i for i, line in enumerate(lines) if line.startswith("state"))
    assert [line.split()[3] for line in lines[first + 1 : first + 4]] == ["#999", "#998", "#997"]
    assert "3 running, 297 pending, 700 complete (988 not shown)" in squeezed(text)


def test_a_thousand_batches_are_shown_in_little_time() -> None:
    """Showing 1,000 batches takes well under the half second between two refreshes."""
    batches = {str(n): batch(n) for n in range(1000)}
    shown(batches)
    start = time.process_time()
    shown(batches)
    assert time.process_time() - start < 0.25


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"completed": 0}, " 1,000 ", id="no counts: jobs only, never 0 done"),
        pytest.param({"completed": 400}, " 400/1,000 ", id="counts"),
        pytest.param(
            {"completed": 400, "failed": 2}, " 402/1,000 (2 failed) ", id="counts with failures"
        ),
        pytest.param({"completed": None, "failed": None}, " 1,000 ", id="None"),
    ],
)
def test_jobs_of_a_running_batch(changes: dict[str, Any], expected: str) -> None:
    """A running batch shows what the provider counts and nothing where it counts nothing."""
    row = next(x for x in shown({"a": batch(1, **changes)}).splitlines() if "#1" in x)
    assert expected in row
    assert ("0/1,000" in row) == ("00/1,000" in expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cost_usd": None, "reserved_usd": None, "cost_limit_usd": None}, "cost unknown"),
        ({"cost_usd": 0.0, "reserved_usd": None, "cost_limit_usd": None}, "cost $0.00"),
        ({"waiting_for": "openai tokens"}, "waiting for openai tokens"),
        ({"resumed": 900}, "900 of these answered by an earlier run"),
        ({"total": 0, "completed": 0, "failed": 0, "active": 0, "pending": 0}, "no jobs yet"),
        # A batch that lost one job of a thousand is complete, with its failure counted.
        ({"batches": {"a": LOST_ONE}}, "complete anthropic claude-sonnet-5-5 #1"),
        ({"batches": {"a": LOST_ONE}}, "1,000/1,000 (1 failed)"),
        ({"batches": {"a": batch(1, "failed", error="Too many")}}, "#1: Too many"),
    ],
)
def test_view_says(changes: dict[str, Any], expected: str) -> None:
    """An unknown cost is never shown as 0; waiting, earlier answers and why one failed are said."""
    assert expected in squeezed(shown(width=120, **changes))


def test_lines_without_a_terminal_come_on_change_and_not_too_often() -> None:
    """A log gets a line on change, at most one every few seconds, and always the last state."""
    out = io.StringIO()
    with Progress("./output", out) as progress:
        for tenth in range(100):  # ten seconds, a change every tenth
            progress(stats(completed=tenth), tenth / 10, {"a": batch(1)})
        count_while_running = len(out.getvalue().splitlines())
        progress(stats(completed=3000, failed=0, is_complete=True), 10.0, {"a": batch(1)})
    lines = out.getvalue().splitlines()
    assert count_while_running == 1 + int(9.9 // LINE_SECONDS)
    assert len(lines) == count_while_running + 1
    assert lines[-1].startswith("[0:10] 3,000 of 3,000 jobs done; 3,000 completed, ")
    assert "\x1b" not in out.getvalue()


class Notebook(ModuleType):
    """`IPython.display` as far as a line needs it: what stands in the notebook, by its place."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.lines: list[str] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        self.lines.append(data["text/plain"])
        place = len(self.lines) - 1

        def update(data: dict[str, str], *, raw: bool) -> None:
            assert raw
            self.lines[place] = data["text/plain"]

        return SimpleNamespace(update=update)


def test_a_notebook_has_one_line_for_each_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is rewritten in its place, nothing goes to standard error, and a log file stays one."""
    notebook, log = Notebook(), io.StringIO()
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with Progress("out") as progress, Progress("out", log) as logged:
        for run in range(2):
            for second in range(9):
                progress(stats(completed=second), float(second), {})
            logged(stats(completed=8), 8.0, {})
            assert len(notebook.lines) == run + 1
            progress(stats(completed=3000, failed=0, is_complete=True), 9.5, {})
            progress(stats(completed=3000, failed=0, is_complete=True), 9.9, {})
    assert [line.partition(";")[0] for line in notebook.lines] == [
        "[0:09] 3,000 of 3,000 jobs done"
    ] * 2
    assert len(log.getvalue().splitlines()) == 1
    assert capsys.readouterr() == ("", "")


def on_screen(written: str, columns: int) -> list[str]:
    """What stands on a terminal to which this was written, from its first line on."""
    lines: dict[int, dict[int, str]] = {0: {}}
    row = column = 0
    for up, erase, steered, letter in re.findall(
        r"\x1b\[(\d*)A|(\x1b\[2K)|(\x1b\[[?\d;]*[a-zA-Z])|([\s\S])", written
    ):
        if letter == "\n":
            row += 1
        elif letter == "\r":
            column = 0
        elif erase:
            lines[row] = {}
        elif letter:
            # Behind a full line a letter begins the next.
            row, column = (row + 1, 0) if column == columns else (row, column)
            lines.setdefault(row, {})[column] = letter
            column += 1
        elif not steered:
            row -= int(up or 1)
    width = range(columns)
    return [
        "".join(lines.get(n, {}).get(at, " ") for at in width).rstrip()
        for n in range(max(lines) + 1)
    ]


def gather(master: int, written: bytearray) -> None:
    """Take what is written to a terminal, until it is closed."""
    # Linux says of a terminal that is closed that it cannot be read.
    with suppress(OSError):
        while piece := os.read(master, 1 << 16):
            written.extend(piece)


@pytest.mark.parametrize("presses", [1, 2])
def test_what_the_terminal_writes_at_an_interrupt_leaves_nothing_behind(presses: int) -> None:
    """It writes ^C where the cursor stands, also behind a view whose last line is full."""
    master, slave = pty.openpty()
    modes = termios.tcgetattr(slave)
    # Else the kernel throws away what the reader has not taken yet.
    modes[3] |= termios.NOFLSH
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    written = bytearray()
    with ThreadPoolExecutor(1) as reader, os.fdopen(slave, "w") as terminal:
        read = reader.submit(gather, master, written)
        console = Console(file=terminal, force_terminal=True, width=80, height=24)
        with Progress("o" * 200, console=console) as progress:
            progress(stats(), 1.0, {"a": batch(1)})
            for press in range(presses):
                os.write(master, b"\x03")
                # It echoes when it comes to it, else perhaps in the middle of the next view.
                while written.count(b"^C") == press:
                    time.sleep(0.001)
                progress(stats(active=press, is_stopping=True), 2.0, {"a": batch(1)})
                assert progress._live is not None
                progress._live.refresh()
            progress(stats(completed=3000, failed=0, is_complete=True), 3.0, {"a": batch(1)})
        terminal.close()
        read.result()
    os.close(master)
    assert written.count(b"^C") == presses
    bars = [line for line in on_screen(written.decode(), 80) if "━" in line]
    assert [line.partition("━ ")[2] for line in bars] == ["3,000/3,000 jobs 100%"]


def test_lines_stop_while_nothing_changes_but_show_life() -> None:
    """An hour without any change writes a line every five minutes, not 3,600."""
    out = io.StringIO()
    progress = Progress(file=out)
    for second in range(3600):
        progress(stats(), float(second), {})
    assert len(out.getvalue().splitlines()) == 12


def test_interrupted_run_leaves_its_last_state_in_the_log() -> None:
    """A run that an exception ends has its last state written all the same."""
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(file=out) as progress:
        progress(stats(completed=1), 0.0, {})
        progress(stats(completed=2), 0.1, {})
        raise KeyboardInterrupt
    assert [line.split(";")[1].split(",")[0] for line in out.getvalue().splitlines()] == [
        " 1 completed",
        " 2 completed",
    ]


def test_what_happens_at_an_interrupt_is_said_at_once() -> None:
    """A plain line tells it without the pause that other changes wait for, and only once."""
    file = io.StringIO()
    with Progress(file=file) as progress:
        progress(stats(), 0.0, {})
        for second in (0.2, 0.4, 0.6):
            now = stats(is_stopping=True, waiting_for="2 batches to be cancelled", active=second)
            progress(now, second, {})
        assert file.getvalue().count("waiting for 2 batches to be cancelled") == 1


def test_failures_by_code_and_the_end_of_the_wait_are_said() -> None:
    """The most frequent codes stand below the counts, and what is waited for has its end."""
    codes = {"refusal": 9, "truncated": 4, "a": 3, "b": 2, "c": 1, "d": 1}
    until = datetime.now(UTC) + timedelta(days=3)
    told = {"failures": codes, "waiting_until": until, "enqueued_tokens": 1_250_000}
    told["waiting_for"] = "answers of openai (2 batches)"
    for text in (squeezed(shown(**told)), plain_line(stats(**told), {})):
        assert "without an answer: 9 refusal, 4 truncated, 3 a, 2 b, 2 others" in text
        assert "answers of openai (2 batches), 1.2M input tokens, until" in text
        assert f"{until.astimezone():%a %H:%M} at the latest" in text


def test_plain_line_is_one_line() -> None:
    """A provider's error of several lines does not break the line."""
    line = plain_line(stats(waiting_for="a\nb"), {"a": batch(1, "failed", error="x\n  y")})
    assert "\n" not in line
    assert line.endswith("waiting for a b; last fault: anthropic claude-sonnet-5-5 #1: x y")


def test_live_view_on_a_terminal_ends_with_the_last_state_and_gives_logs_back() -> None:
    """On a terminal, logs appear whole above the view, and handlers get their stream back."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=40, color_system=None)
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("test-progress")
    logger.addHandler(handler)
    stderr = sys.stderr
    try:
        with Progress(console=console) as progress:
            progress(stats(), 1.0, {"a": batch(1)})
            assert handler.stream is not out
            logger.warning("a line of log")
            progress(stats(completed=3000, failed=0, is_complete=True), 2.0, {"a": batch(1)})
    finally:
        logger.removeHandler(handler)
    assert handler.stream is out
    assert sys.stderr is stderr
    assert "a line of log\n" in out.getvalue()
    assert "3,000/3,000 jobs 100%" in out.getvalue().rpartition("a line of log")[2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.9, "0:59"), (723, "12:03"), (3723, "1:02:03"), (183845, "2d 03:04:05")],
)
def test_clock(seconds: float, text: str) -> None:
    """Durations read like a clock."""
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (0.000123, "$0.000123"),
        (0.0099, "$0.0099"),
        (0.01, "$0.01"),
        (1234.5, "$1,234.50"),
    ],
)
def test_dollars(usd: float | None, text: str) -> None:
    """A small amount is not rounded away and an unknown one is not 0."""
    assert dollars(usd) == text


def test_a_table_in_a_pipe_is_as_wide_as_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """Ids and models are there to be copied."""
    table = Rows("id at the provider", "model")
    names = "msgbatch_" + "0123456789" * 9, "claude-" + "long-" * 20 + "name"
    table.add(*names)
    say(table)
    said = capsys.readouterr().out
    assert all(name in said for name in names)
