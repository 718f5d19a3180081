"""What is shown while a run goes on: a live view on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import Any, Self, TextIO, cast

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchata_prefect.errors import printable
from batchata_prefect.numbers import clock, clock_time, counted, dollars, short_count
from batchata_prefect.views.printed import Printable

Stats = Mapping[str, Any]
BatchData = Mapping[str, Mapping[str, Any]]

LINE_SECONDS = 3.0
"""Least time between two plain lines."""

QUIET_SECONDS = 300.0
"""Time after which a plain line is written although nothing has changed."""

_CODES_SHOWN = 4
_AGE_COLUMNS, _BOUND_COLUMNS = 50, 76
_MOST_COLUMNS = 110
"""On a wider terminal the numbers would stand too far from the names that they belong to."""

_COLORS = {
    "running": "cyan",
    "failed": "red",
    "cancelled": "yellow",
    "pending": "dim",
    "complete": "green",
}
_ORDER = tuple(_COLORS)


class Progress:
    """Shows how a run goes on; give it to `run` as `on_progress`.

    ```python
    with Progress(results_dir="./output") as progress:
        batch.run(on_progress=progress)
    ```

    On a terminal it keeps one view up to date, in a notebook one line. Elsewhere, as in a log file,
    a pipe or CI, it writes a plain line when something has changed, at most every few seconds.

    Args:
        results_dir: Where the results will lie, shown to the person.
        file: Where to write; standard error where it is None.
        console: A rich console to use instead of one made for `file`.
    """

    def __init__(
        self,
        results_dir: str | os.PathLike[str] | None = None,
        file: TextIO | None = None,
        *,
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(file=file, stderr=file is None)
        self._results_dir = None if results_dir is None else os.fspath(results_dir)
        self._in_notebook = self._console.is_jupyter and file is None
        self._on_terminal = self._console.is_terminal and not self._console.is_jupyter
        self._live: Live | None = None
        self._moved: list[Callable[[], object]] = []
        self._terminals: set[int] = set()
        self._stats: Stats = {}
        self._batches: BatchData = {}
        self._elapsed = 0.0
        self._at = time.monotonic()
        self._line: str = ""
        self._line_at = float("-inf")
        self._shown: Any = None
        self._ended = False
        self._closed = False

    def __enter__(self) -> Self:
        """Start; nothing is shown before the first call."""
        self._closed = False
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state and leave the terminal as it was."""
        self.close()

    def __call__(self, stats: Stats, elapsed_seconds: float, batch_data: BatchData) -> None:
        """Show this state of the run.

        Args:
            stats: Counts of jobs and batches, and cost in USD, as the progress callback gets them.
            elapsed_seconds: Seconds since the run started.
            batch_data: Every provider batch by its key.
        """
        complete = bool(stats.get("is_complete"))
        # A complete run is shown once; what is not complete after it is another run.
        if self._closed or (self._ended and complete):
            return
        if self._ended:
            self._line, self._line_at, self._shown = "", float("-inf"), None
        # Who pressed Ctrl-C wants to know at once what happens now.
        stops = bool(stats.get("is_stopping")) and not self._stats.get("is_stopping")
        self._stats, self._elapsed, self._batches = stats, elapsed_seconds, batch_data
        self._at = time.monotonic()
        self._ended = complete
        if self._in_notebook:
            self._show_line()
            return
        if not self._on_terminal:
            self._write_line(now=complete or stops)
            return
        if self._live is None:
            self._start()
        # Prefect may be imported, and make its handler, while the view is shown.
        self._moved += _move_logs(sys.stderr, self._terminals, self._console)
        if complete:
            self._stop()

    def close(self) -> None:
        """Show the last state and stop; later calls show nothing."""
        self._closed = True
        if self._on_terminal:
            self._stop()
        elif self._stats and not self._in_notebook:
            self._write_line(now=True)

    def _start(self) -> None:
        self._terminals = {id(stream) for stream in (sys.stdout, sys.stderr, self._console.file)}
        self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=2)
        self._live.start(refresh=True)

    def _stop(self) -> None:
        if self._live is None:
            return
        for restore in self._moved:
            restore()
        self._moved = []
        self._live.stop()
        self._live = None

    def _view(self) -> RenderableType:
        since = 0.0 if self._stats.get("is_complete") else time.monotonic() - self._at
        return View(self._stats, self._elapsed + since, self._batches, self._results_dir)

    def _show_line(self) -> None:
        """Show the line in the place of the one before: a notebook's output is rewritten by id."""
        display: Any = import_module("IPython.display").display
        line = {"text/plain": f"[{clock(self._elapsed)}] {plain_line(self._stats, self._batches)}"}
        if self._shown is None:
            self._shown = display(line, raw=True, display_id=True)
        else:
            self._shown.update(line, raw=True)

    def _write_line(self, *, now: bool) -> None:
        line = plain_line(self._stats, self._batches)
        waited = self._elapsed - self._line_at
        if line == self._line and (now or waited < QUIET_SECONDS):
            return
        if not now and waited < LINE_SECONDS:
            return
        self._line, self._line_at = line, self._elapsed
        self._console.file.write(f"[{clock(self._elapsed)}] {line}\n")
        self._console.file.flush()


@dataclass(frozen=True, slots=True)
class View:
    """One state of a run as rich shows it, for any width from about 40 columns.

    Attributes:
        stats: Counts and cost, as the progress callback gets them.
        elapsed_seconds: Seconds since the run started.
        batches: Every provider batch by its key.
        results_dir: Where the results will lie.
        now: Time against which ages are counted; None takes the time of showing.
    """

    stats: Stats
    elapsed_seconds: float
    batches: BatchData
    results_dir: str | None = None
    now: datetime | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bar of jobs, the batches that matter now, cost and time."""
        width = min(options.max_width, _MOST_COLUMNS)
        now = self.now or datetime.now()
        ordered = _by_interest(self.batches.values())
        shown = ordered[: max(3, min(12, console.height - 10))]
        parts: list[RenderableType] = [_bar(self.stats, width)]
        parts.append(Text(_jobs_text(self.stats), style="dim"))
        if codes := _codes_text(self.stats):
            parts.append(Text(f"without an answer: {codes}", style="red"))
        if shown:
            parts.extend([Text(), _table(shown, now, width)])
            parts.extend(_faults(ordered))
        parts.append(Text())
        details = [("batches", _batches_text(self.batches, len(ordered) - len(shown)))]
        details.append(("cost", _cost_text(self.stats)))
        left = self.stats.get("time_left_seconds")
        left_text = "" if left is None else f", {clock(left)} left"
        details.append(("time", clock(self.elapsed_seconds) + left_text))
        details.append(("waiting for", _waiting_text(self.stats)))
        details.append(("results", self.results_dir or ""))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, text in details:
            if text:
                grid.add_row(label, Text(text))
        parts.append(grid)
        if not self.stats.get("is_complete"):
            # The terminal writes ^C where the cursor stands: behind a line as wide as itself that
            # would begin another, of which whoever rewrites the view knows nothing.
            parts.append(Text())
        yield Printable(Constrain(Group(*parts), width))


def plain_line(stats: Stats, batches: BatchData) -> str:
    """The state of a run in one line, the same as long as nothing has changed."""
    waiting = _waiting_text(stats)
    codes = _codes_text(stats)
    faults = [_fault(batch) for batch in batches.values() if _state(batch) == "failed"]
    parts = [
        f"{_done(stats):,} of {counted(_number(stats, 'total'), 'job')} done",
        _jobs_text(stats),
        f"without an answer: {codes}" if codes else "",
        f"batches: {_batches_text(batches)}" if batches else "",
        f"cost: {_cost_text(stats)}",
        f"waiting for {waiting}" if waiting else "",
        f"last fault: {faults[-1]}" if faults else "",
    ]
    return "; ".join(" ".join(printable(part).split()) for part in parts if part)


def _state(batch: Mapping[str, Any]) -> str:
    # The original's word for a batch with any failed job is failed; beside its counts that would
    # read as if nothing had come of it.
    if batch.get("status") == "failed" and batch.get("completed"):
        return "complete"
    return str(batch.get("status") or "pending")


def _number(values: Mapping[str, Any], *keys: str) -> int:
    # A provider that counts nothing gives None.
    return sum(int(values.get(key) or 0) for key in keys)


def _done(stats: Stats) -> int:
    return _number(stats, "completed", "failed", "cancelled")


def _by_interest(batches: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Running ones first, the oldest on top; ended ones last, the newest on top."""

    def place(batch: Mapping[str, Any]) -> tuple[int, float]:
        state = _state(batch)
        rank = _ORDER.index(state) if state in _ORDER else 0
        started, ended = (
            0.0 if (at := batch.get(name)) is None else at.timestamp()
            for name in ("start_time", "completion_time")
        )
        return rank, started if state in ("running", "pending") else -ended

    return sorted(batches, key=place)


def _name(batch: Mapping[str, Any]) -> str:
    name = str(batch.get("name") or f"{batch.get('provider', '')} {batch.get('model', '')}")
    # "anthropic claude-sonnet-5-5 #3, 1,000 jobs": the jobs have a column of their own.
    return name.partition(", ")[0].strip() or "batch"


def _bar(stats: Stats, width: int) -> Table:
    total, done = _number(stats, "total"), _done(stats)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    share = f" {100 * done // total}%" if total and width >= 60 else ""
    grid.add_row(
        ProgressBar(total=total or 1, completed=done, pulse=not total),
        Text(f"{done:,}/{total:,} jobs{share}", style="bold"),
    )
    return grid


def _jobs_text(stats: Stats) -> str:
    words = {"active": "at providers", "pending": "not sent"}
    counts = [
        f"{_number(stats, key):,} {words.get(key, key)}"
        for key in ("completed", "failed", "cancelled", "active", "pending")
        if _number(stats, key)
    ]
    if resumed := _number(stats, "resumed"):
        counts.append(f"{resumed:,} of these answered by an earlier run")
    return ", ".join(counts) or "no jobs yet"


def _codes_text(stats: Stats) -> str:
    """The most frequent error codes; a code alone often says what to do."""
    codes: Mapping[str, int] = stats.get("failures") or {}
    shown = [f"{count:,} {code}" for code, count in list(codes.items())[:_CODES_SHOWN]]
    more = sum(list(codes.values())[_CODES_SHOWN:])
    return ", ".join([*shown, f"{more:,} others"] if more else shown)


def _waiting_text(stats: Stats) -> str:
    """What is waited for, how much of it, and until when at the latest."""
    text = str(stats.get("waiting_for") or "")
    if text.startswith("answers of"):
        if tokens := _number(stats, "enqueued_tokens"):
            text += f", {short_count(tokens)} input tokens"
        if until := stats.get("waiting_until"):
            text += f", until {clock_time(until)} at the latest"
    return text


def _table(batches: Sequence[Mapping[str, Any]], now: datetime, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("state", no_wrap=True)
    table.add_column("batch", ratio=1, overflow="fold")
    table.add_column("", no_wrap=True)
    for name, least_width in (
        ("jobs", 0),
        ("age", _AGE_COLUMNS),
        ("at most", _BOUND_COLUMNS),
        ("cost", 0),
    ):
        if width >= least_width:
            table.add_column(name, justify="right", no_wrap=True)
    for batch in batches:
        state = _state(batch)
        name, _, number = _name(batch).rpartition(" #")
        if width < _BOUND_COLUMNS:
            name = name.removeprefix(f"{batch.get('provider')} ")
        cost = "" if state in ("running", "pending") else dollars(batch.get("cost"))
        bound = dollars(batch.get("estimated_cost"))
        cells = [
            Text(state, style=_COLORS.get(state, "")),
            Text(name or number),
            # Apart from the name, so that a narrow terminal folds the name and not the number.
            Text(f"#{number}" if name else ""),
            Text(_batch_jobs(batch)),
            *([Text(_age(batch, now))] if width >= _AGE_COLUMNS else []),
            *([Text(bound)] if width >= _BOUND_COLUMNS else []),
            Text(cost if width >= _BOUND_COLUMNS else cost or f"<{bound}"),
        ]
        table.add_row(*cells)
    return table


def _batch_jobs(batch: Mapping[str, Any]) -> str:
    total, failed, state = _number(batch, "total"), _number(batch, "failed"), _state(batch)
    done = _number(batch, "completed", "failed")
    # Zero may mean that the provider tells nothing before the end, so it is not shown.
    if state == "pending" or (state == "running" and not done):
        return f"{total:,}"
    return f"{done:,}/{total:,}" + (f" ({failed:,} failed)" if failed else "")


def _age(batch: Mapping[str, Any], now: datetime) -> str:
    start = batch.get("start_time")
    if start is None:
        return ""
    return clock(((batch.get("completion_time") or now) - start).total_seconds())


def _fault(batch: Mapping[str, Any]) -> str:
    return f"{_name(batch)}: {batch.get('error') or 'failed'}"


def _faults(ordered: Sequence[Mapping[str, Any]]) -> list[Text]:
    """The two newest failures in words; a state alone does not say what to do."""
    failed = [batch for batch in ordered if _state(batch) == "failed" and batch.get("error")]
    return [Text(_fault(batch), style="red") for batch in failed[:2]]


def _batches_text(batches: BatchData, hidden: int = 0) -> str:
    counts = Counter(_state(batch) for batch in batches.values())
    if not counts:
        return ""
    states = [*_ORDER, *sorted(counts.keys() - set(_ORDER))]
    words = ", ".join(f"{counts[state]:,} {state}" for state in states if counts[state])
    return words + (f" ({hidden:,} not shown)" if hidden else "")


def _cost_text(stats: Stats) -> str:
    limit, reserved = stats.get("cost_limit_usd"), stats.get("reserved_usd")
    cost, own = stats.get("cost_usd"), stats.get("cost_of_run_usd", stats.get("cost_usd"))
    text = dollars(cost)
    if own is not None and own != cost:
        text += f", {dollars(own)} of it in this run"
    if reserved:
        text += f", up to {dollars(reserved)} more for what is under way"
    if limit is not None:
        text += f", limit {dollars(limit)}"
    return text


def _move_logs(stream: TextIO, terminals: set[int], console: Console) -> list[Callable[[], object]]:
    """Let log handlers that write straight to the terminal write above the live view instead.

    `Live` replaces `sys.stdout` and `sys.stderr`, but a handler made earlier holds the old stream,
    and one with a rich console of its own, such as Prefect's, finds it behind any other: both
    would write into the middle of the view.

    Returns:
        What undoes each move.
    """
    undo: list[Callable[[], object]] = []
    for logger in (logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        for handler in logger.handlers:
            if not isinstance(handler, logging.StreamHandler):
                continue
            writer = cast("logging.StreamHandler[Any]", handler)
            own: Any = getattr(writer, "console", None)
            if isinstance(own, Console):
                if own is not console and id(own.file) in terminals:
                    undo.append(partial(setattr, writer, "console", own))
                    setattr(writer, "console", console)  # noqa: B010 - it is Prefect's attribute
            elif id(writer.stream) in terminals:
                undo.append(partial(writer.setStream, writer.stream))
                writer.setStream(stream)
    return undo
