"""What a run came to, in words: one line, a page of plain text, a page of markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchata_prefect.numbers import counted, dollars, told_usd
from batchata_prefect.views.escapes import markdown as escaped
from batchata_prefect.views.printed import Rows, wrapped
from batchata_prefect.views.report.figures import Figures

_BATCHES_SHOWN = 50
_WIDTH = 96


def summary(manifest: Mapping[str, Any]) -> str:
    """One line that says what a run came to."""
    cost = manifest["cost_usd"]
    told = f"{_answered(manifest)}, {told_usd(cost, 'cost unknown')}"
    own = own_cost(manifest)
    return told if own is None else f"{told}, of which {told_usd(own)} in this run"


def headline(manifest: Mapping[str, Any]) -> str:
    """The same for a person: without digits that do not count."""
    cost = manifest["cost_usd"]
    told = f"{_answered(manifest)}{'' if cost is None else f', for {dollars(cost)}'}"
    own = own_cost(manifest)
    return told if own is None else f"{told}, of which {dollars(own)} in this run"


def own_cost(manifest: Mapping[str, Any]) -> float | None:
    """What this run alone has cost in USD, where earlier ones have cost something too."""
    own: float | None = manifest.get("cost_of_run_usd")
    return None if own == manifest["cost_usd"] else own


def _answered(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    parts = [f"{counts['completed']:,} of {counted(counts['total'], 'job')} answered"]
    parts += [f"{counts[name]:,} {name}" for name in ("failed", "cancelled") if counts[name]]
    return ", ".join(parts)


def where_things_lie(results_dir: Path) -> list[tuple[str, str]]:
    """Pairs of a place in the results directory and what is there."""
    places = [
        ("results.jsonl", "one line a job, in the order of the jobs"),
        ("results.parquet", "the same as columns"),
        ("archive.jsonl", "answers of jobs that are gone or were changed"),
        ("report.html", "this run at a glance; opens offline"),
        ("manifest.json", "the same figures for machines"),
        ("raw_files/responses", "the providers' replies as they came; keep them"),
        ("raw_files/requests", "what was sent"),
    ]
    # The page itself is about to be written when it asks.
    return [
        (name, what)
        for name, what in places
        if name == "report.html" or (results_dir / name).exists()
    ]


def text(
    manifest: Mapping[str, Any], drawn: Figures | None, results_dir: Path, width: int = _WIDTH
) -> str:
    """The report as plain text.

    Args:
        manifest: What the run came to.
        drawn: Its figures; without them nothing is said of the realtime price.
        results_dir: Where its files lie, as the reader is told.
        width: Columns that sentences may take.
    """
    lines = [headline(manifest)]
    saved = drawn.saved_usd if drawn is not None else None
    if drawn is not None and saved is not None and saved > 0 and drawn.realtime_usd:
        about = "about " if drawn.is_sample else ""
        share = 100 * saved / drawn.realtime_usd
        lines.append(
            f"saved {about}{dollars(saved)} ({share:.0f}%) against the realtime price of "
            f"{dollars(drawn.realtime_usd)}"
        )
    if manifest["stopped_by"]:
        lines.append(f"Stopped: {manifest['stopped_by']}")
    if manifest["resumed"]:
        lines.append(f"{counted(manifest['resumed'], 'job')} answered by an earlier start")
    if gone := manifest.get("archived"):
        lines.append(f"{counted(gone, 'answer')} of jobs gone or changed kept in archive.jsonl")
    if len(manifest["by_model"]) > 1:
        table = Rows("by model", "batches", "cost", right={"batches", "cost"})
        for name, sums in manifest["by_model"].items():
            table.add(name, f"{sums['batches']:,}", dollars(sums["cost_usd"]))
        lines += ["", *(line.plain for line in table.lines(width))]
    if tags := manifest.get("by_tag"):
        table = Rows("by tag", "jobs", "cost", right={"jobs", "cost"})
        for tag, sums in tags.items():
            table.add(tag, f"{sums['jobs']:,}", dollars(sums["cost_usd"]))
        lines += ["", *(line.plain for line in table.lines(width))]
    for code, group in manifest["failures"].items():
        said = " ".join(str(group["example"] or "").split())
        lines += [
            "",
            f"{group['count']:,} x {code}",
            wrapped(f"  {group['example_job_id']}: {said[:400]}", min(width, _WIDTH)),
            wrapped(f"  -> {group.get('what_to_do', '')}", min(width, _WIDTH)),
        ]
    lines += ["", f"in {results_dir}:"]
    places = where_things_lie(results_dir)
    longest = max(len(place) for place, _ in places)
    lines += [f"  {place.ljust(longest)}  {what}" for place, what in places]
    return "\n".join(lines)


def markdown(manifest: Mapping[str, Any], results: str | None = None) -> str:
    """The report as a markdown page: totals, cost by model and tag, failures, batches.

    Args:
        manifest: What the run came to.
        results: Path or URL of its results, to be named.
    """
    counts = manifest["counts"]
    lines = [
        f"# {summary(manifest)}",
        "",
        f"Run key {escaped(manifest['run_key'])}, started {manifest['started_at'][:19]}Z, finished "
        f"{manifest['finished_at'][:19]}Z. {manifest['resumed']:,} of "
        f"{counted(counts['total'], 'job')} answered by an earlier start.",
        "",
        *([f"The answers are in {escaped(results)}.", ""] if results else []),
        "| model | batches | input tokens | output tokens | cost |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, sums in manifest["by_model"].items():
        lines.append(
            f"| {escaped(name)} | {sums['batches']:,} | {sums['input_tokens']:,} "
            f"| {sums['output_tokens']:,} | {_usd(sums['cost_usd'])} |"
        )
    for name, sums in manifest["by_model"].items():
        if sums.get("cache_read_tokens") or sums.get("cache_write_tokens"):
            lines += ["", _cache_line(name, sums)]
    if tags := manifest.get("by_tag"):
        lines += ["", "| tag | jobs | answered | input tokens | output tokens | cost |"]
        lines.append("|---|--:|--:|--:|--:|--:|")
        for tag, sums in tags.items():
            lines.append(
                f"| {_cell(tag)} | {sums['jobs']:,} | {sums['completed']:,} "
                f"| {sums['input_tokens']:,} | {sums['output_tokens']:,} "
                f"| {_usd(sums['cost_usd'])} |"
            )
    if dropped := manifest.get("citations_dropped", 0):
        lines += ["", f"{dropped:,} quotes stood in no document and were dropped."]
    if manifest["failures"]:
        lines += ["", "## Failures", ""]
        lines.append("| code | jobs | for example | what it said | what to do |")
        lines.append("|---|--:|---|---|---|")
        for code, group in manifest["failures"].items():
            said = _cell(str(group["example"] or ""))
            lines.append(
                f"| {_cell(code)} | {group['count']:,} | {_cell(group['example_job_id'])} | {said} "
                f"| {escaped(group.get('what_to_do', ''))} |"
            )
    batches: list[dict[str, Any]] = manifest["batches"]
    lines += ["", "## Provider batches", "", "| batch | id | status | estimated | cost |"]
    lines.append("|---|---|---|--:|--:|")
    for batch in batches[-_BATCHES_SHOWN:]:
        lines.append(
            f"| {_cell(batch['name'])} | {_cell(batch['batch_id'] or '')} "
            f"| {_cell(batch['status'])} | {_usd(batch['estimated_usd'])} "
            f"| {_usd(batch['cost_usd'])} |"
        )
    if len(batches) > _BATCHES_SHOWN:
        lines.append(f"\nThe last {_BATCHES_SHOWN} of {len(batches):,}; all are in manifest.json.")
    return "\n".join(lines)


def _cache_line(name: str, sums: Mapping[str, Any]) -> str:
    saved: float | None = sums["cache_saved_usd"]
    effect = told_usd(None if saved is None else abs(saved))
    verb = "cost" if saved is not None and saved < 0 else "saved"
    return (
        f"The prompt cache of {escaped(name)} {verb} {effect}: {sums['cache_read_tokens']:,} input "
        f"tokens read from it, {sums['cache_write_tokens']:,} written."
    )


def _usd(amount: float | None) -> str:
    return told_usd(amount, "cost unknown")


def _cell(text: str) -> str:
    return escaped(one_line(text))


def one_line(text: str) -> str:
    """A text of at most 200 characters without line breaks."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else f"{flat[:197]}..."
