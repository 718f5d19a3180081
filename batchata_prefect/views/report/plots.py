"""The plots of the HTML report: where each bar, line and label of them stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from batchata_prefect.numbers import clock, counted, dollars
from batchata_prefect.views.report.figures import BatchTime
from batchata_prefect.views.report.words import dearest

WIDTH = 720
_BINS = 36
_MOST_BARS = 12


class Bar(NamedTuple):
    """A bar, of a kind that the page has a colour for, and what is said of it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


class Line(NamedTuple):
    """A line, straight or upright."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


class Label(NamedTuple):
    """A text that begins at a place, or ends there."""

    x: float
    y: float
    text: str
    quiet: bool = False
    end: bool = False


Shape: TypeAlias = Bar | Line | Label


class Plot(NamedTuple):
    """A plot.

    Attributes:
        height: Its height; its width is `WIDTH`.
        title: What it shows, for whoever cannot see it.
        shapes: What it is drawn of, one over the other.
    """

    height: int
    title: str
    shapes: Sequence[Shape]


def cost_by_model(
    by_model: Mapping[str, Mapping[str, Any]], realtime: Mapping[str, float | None]
) -> Plot | None:
    """A bar for each model's cost, the dearest first, before a pale one for its realtime price."""
    shown = [
        (name.partition(" ")[2], float(sums["cost_usd"]), realtime[name])
        for name, sums in dearest(by_model)
        if sums["cost_usd"] is not None
    ][:_MOST_BARS]
    most = max((max(cost, usual or 0) for _, cost, usual in shown), default=0)
    if not most:
        return None
    parts: list[Shape] = []
    told = [
        dollars(cost) if usual is None else f"{dollars(cost)} of {dollars(usual)}"
        for _, cost, usual in shown
    ]
    # Small costs have many digits, of about 8 units each.
    row, left, right = 34, 190, max(120, 16 + 8 * max(map(len, told)))
    scale = (WIDTH - left - right) / most
    for number, ((model, cost, usual), said) in enumerate(zip(shown, told, strict=True)):
        y = number * row + 4
        parts.append(Label(left - 10, y + 15, _cut(model, 26), end=True))
        if usual is not None:
            title = f"realtime {dollars(usual)}"
            parts.append(_bar(left, y, usual * scale, 22, "pale", title))
        parts.append(_bar(left, y, cost * scale, 22, "ink", f"{model}: {dollars(cost)}"))
        edge = max(cost, usual or 0) * scale
        parts.append(Label(left + edge + 8, y + 15, said, quiet=True))
    return Plot(len(shown) * row, "Cost by model, before its realtime price", parts)


def batches_in_time(batches: Sequence[BatchTime]) -> Plot | None:
    """A bar for each provider batch, from when it was sent to its end."""
    if not batches:
        return None
    span = max(batch.sent_seconds + batch.seconds for batch in batches) or 1.0
    start = min(batch.sent_seconds for batch in batches)
    span = max(span - start, 1e-3)
    left, right, axis = 8, 8, 26
    row = max(1.0, min(16.0, 280 / len(batches)))
    scale = (WIDTH - left - right) / span
    parts: list[Shape] = []
    bottom = row * len(batches)
    for tick in _ticks(span):
        x = left + tick * scale
        parts.append(Line(x, 0, x, bottom, "grid"))
        anchor = x + 4 if tick < span * 0.95 else x - 4
        parts.append(Label(anchor, bottom + 18, clock(tick), quiet=True, end=tick >= span * 0.95))
    for number, batch in enumerate(batches):
        x = left + (batch.sent_seconds - start) * scale
        kind = "ink" if batch.status == "ended" else "bad"
        title = f"{batch.name}: {batch.status} after {clock(batch.seconds)}"
        height = row - (2 if row > 4 else 0)
        parts.append(_bar(x, number * row, max(batch.seconds * scale, 1.5), height, kind, title))
    return Plot(int(bottom + axis), "Provider batches from sending to end", parts)


def tokens(counts: Sequence[int], label: str) -> Plot | str:
    """How many jobs have how many tokens, over a scale of powers; words where all have as many."""
    low, high = max(1, min(counts)), max(1, *counts)
    foot, top = 130, 14
    if low == high:
        return f"Every answer has {high:,} {label}."
    step = (math.log(high) - math.log(low)) / _BINS
    bins = [0] * _BINS
    for count in counts:
        at = int((math.log(max(1, count)) - math.log(low)) / step)
        bins[min(at, _BINS - 1)] += 1
    most, width = max(bins), (WIDTH - 16) / _BINS
    parts: list[Shape] = []
    for number, found in enumerate(bins):
        if found:
            begin = math.exp(math.log(low) + number * step)
            title = (
                f"{begin:,.0f} to {begin * math.exp(step):,.0f} {label}: {counted(found, 'job')}"
            )
            height = max(1.5, (foot - top) * found / most)
            x = 8 + number * width
            parts.append(_bar(x + 1, foot - height, width - 2, height, "ink", title))
    parts.append(Line(8, foot, WIDTH - 8, foot, "grid"))
    middle = sorted(counts)[len(counts) // 2]
    at = 8 + (math.log(max(1, middle)) - math.log(low)) / step * width
    parts.append(Line(at, 2, at, foot, "mark"))
    is_right = at > WIDTH * 0.7
    parts.append(
        Label(at + (-6 if is_right else 6), 12, f"median {middle:,}", quiet=True, end=is_right)
    )
    parts.append(Label(8, foot + 18, f"{low:,}", quiet=True))
    parts.append(Label(WIDTH - 8, foot + 18, f"{high:,} {label}", quiet=True, end=True))
    return Plot(foot + 26, f"Distribution of {label}", parts)


def _ticks(span: float) -> list[float]:
    """Six round times at most, which `clock` tells apart."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    for step in (*steps, 7200, 14400, 21600, 43200, 86400):
        if span / step <= 6:
            return [step * number for number in range(int(span / step) + 1)]
    return [0.0, span]


def _bar(x: float, y: float, width: float, height: float, kind: str, title: str) -> Shape:
    return Bar(x, y, max(width, 0.5), max(height, 0.5), kind, title)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
