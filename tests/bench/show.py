"""Measurements as Markdown tables and a plot."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from .measure import Found

_COLORS = {"ours": "#1f77b4", "plain": "#d95f02", "floor": "#7f7f7f"}
_NAMES = {"ours": "this package", "plain": "plain SDK script", "floor": "transfers alone"}


def machine() -> str:
    """The machine in a few words."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() + ", " if names else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, "
        f"Python {platform.python_version()}"
    )


HEAD = ("jobs", "who", "wall s", "CPU s", "peak MB", "disk MB", "API calls", "sandbox CPU s")


def row(found: Found, others: Sequence[Found]) -> list[str]:
    """One line of the table, with ratios to the plain script and to the floor."""
    by = {each.who: each for each in others}
    ratios = ["", ""]
    if found.who.startswith("ours"):
        if "plain" in by:
            ratios[0] = f"{found.wall / by['plain'].wall:.2f}"
        if "floor" in by:
            ratios[1] = f"{found.wall / by['floor'].wall:.2f} / {found.cpu / by['floor'].cpu:.2f}"
    elif found.who.startswith("again"):
        first = by[found.who.replace("again", "ours")]
        ratios[0] = f"{found.wall / first.wall:.1%} of the first run"
    return [
        found.case.name,
        found.who,
        f"{found.wall:.1f}",
        f"{found.cpu:.1f}",
        f"{found.peak_mb:.0f}",
        f"{found.disk_mb:.0f}",
        f"{found.calls}",
        f"{found.sandbox_cpu:.1f}",
        *ratios,
    ]


def table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    """A Markdown table."""
    lines = [head, ["---", *["--:" for _ in head[1:]]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def exponent(found: Sequence[Found]) -> float:
    """The power of the number of jobs that the wall time grows with, by least squares."""
    points = [(math.log(each.case.count), math.log(each.wall)) for each in found]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
        (x - mean_x) ** 2 for x, _ in points
    )


def growth(found: Sequence[Found]) -> list[Found]:
    """Of a provider's measurements those of this package over text jobs, fewest first."""
    ours = [
        each
        for each in found
        if each.who == "ours" and each.case.kind == "text" and each.case.per_batch is None
    ]
    return sorted(ours, key=lambda each: each.case.count)


def report(found: Sequence[Found], seconds: float) -> str:
    """All measurements as Markdown."""
    parts = [
        f"{machine()}. The sandbox answers a batch {seconds:g} s after it was sent. Imports and "
        "the Prefect server's start are left out, the flow run is not. Ratios: wall time to that "
        "of the plain script; wall and CPU time to those of the floor.\n"
    ]
    groups: dict[str, list[Found]] = {}
    for each in found:
        groups.setdefault(each.case.name, []).append(each)
    rows = [row(each, group) for group in groups.values() for each in group]
    parts.append(table(rows, (*HEAD, "to plain", "to floor, wall / CPU")))
    phased = [each for each in found if each.phases]
    names = list(dict.fromkeys(name for each in phased for name in each.phases))
    cells = [
        [each.case.name, each.who, *(f"{each.phases.get(name, 0):.2f}" for name in names)]
        for each in phased
    ]
    parts.append("\nSeconds by phase, added up over batches that overlap:\n")
    parts.append(table(cells, ("jobs", "who", *names)))
    parts.append("")
    for provider in dict.fromkeys(each.case.provider for each in found):
        line = growth([each for each in found if each.case.provider == provider])
        if len(line) < 2:
            continue
        before, last = line[-2:]
        each_now, each_before = last.wall / last.case.count, before.wall / before.case.count
        parts.append(
            f"- {provider}: wall time grows with jobs^{exponent(line):.2f} from "
            f"{line[0].case.count:,} to {last.case.count:,}; a job of {last.case.count:,} takes "
            f"{each_now / each_before:.2f} times one of {before.case.count:,}, peak memory is "
            f"{last.peak_mb / before.peak_mb:.2f} times that."
        )
    return "\n".join(parts) + "\n"


def plot(found: Sequence[Found]) -> str:
    """Wall time over the number of text jobs, one panel a provider, as SVG."""
    found = [f for f in found if f.case.kind == "text" and f.case.per_batch is None]
    found = [f for f in found if f.who in _COLORS]
    providers = list(dict.fromkeys(each.case.provider for each in found))
    counts = [each.case.count for each in found]
    walls = [each.wall for each in found]
    low_x, high_x = math.log10(min(counts)), math.log10(max(counts))
    low_y, high_y = math.floor(math.log10(min(walls))), math.ceil(math.log10(max(walls)))
    width, height, left, top = 320, 240, 60, 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{(width + left + 20) * len(providers)}" '
        f'height="{height + top + 60}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for panel, provider in enumerate(providers):
        x0 = left + panel * (width + left + 20)

        def at(count: float, wall: float, x0: int = x0) -> tuple[float, float]:
            x = (math.log10(count) - low_x) / max(high_x - low_x, 1e-9)
            y = (math.log10(wall) - low_y) / max(high_y - low_y, 1)
            return x0 + x * width, top + height - y * height

        out.append(f'<text x="{x0}" y="{top - 16}" font-size="14">{provider}, wall seconds</text>')
        for power in range(low_y, high_y + 1):
            _, y = at(10**low_x, 10**power)
            out.append(
                f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>'
                f'<text x="{x0 - 8}" y="{y + 4:.0f}" text-anchor="end">{10**power:g}</text>'
            )
        for count in sorted(set(counts)):
            x, _ = at(count, 10**low_y)
            out.append(
                f'<text x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{count:,}</text>'
            )
        for place, (who, color) in enumerate(_COLORS.items()):
            line = sorted(
                (f for f in found if f.who == who and f.case.provider == provider),
                key=lambda each: each.case.count,
            )
            points = [at(each.case.count, each.wall) for each in line]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
            y = top + height + 38
            x = x0 + place * 125
            out.append(
                f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{color}"/>'
                f'<text x="{x + 8}" y="{y}">{_NAMES[who]}</text>'
            )
    return "\n".join([*out, "</svg>"]) + "\n"
