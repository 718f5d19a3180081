"""What a run came to, in words: one line, a page of plain text, a page of markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from batchata_prefect.numbers import counted, dollars, told_usd
from batchata_prefect.views.escapes import markdown as escaped
from batchata_prefect.views.printed import Rows, one_line, wrapped
from batchata_prefect.views.report.figures import figures

Money: TypeAlias = Callable[[float | None], str]
"""An amount of USD as text."""

_BATCHES_SHOWN = 50
_FAILURES_TOLD = 10
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


def notes(manifest: Mapping[str, Any], money: Money) -> Iterator[str]:
    """What else there is to say of the cost and the answers, a sentence each."""
    for name, sums in manifest["by_model"].items():
        if sums.get("cache_read_tokens") or sums.get("cache_write_tokens"):
            saved: float | None = sums["cache_saved_usd"]
            effect = "an unknown amount" if saved is None else money(abs(saved))
            verb = "cost" if saved is not None and saved < 0 else "saved"
            yield (
                f"The prompt cache of {name} {verb} {effect}: {sums['cache_read_tokens']:,} input "
                f"tokens read from it, {sums['cache_write_tokens']:,} written."
            )
    if dropped := manifest.get("citations_dropped", 0):
        yield f"{dropped:,} quotes stood in no document and were dropped."


class Table(NamedTuple):
    """A table of a report.

    Attributes:
        head: Names of its columns.
        rows: Its rows.
        texts: How many of its columns are of text; those behind them are of numbers.
    """

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    texts: int = 1


_TOKENS = ("input tokens", "output tokens")


def models(manifest: Mapping[str, Any], money: Money) -> Table:
    """Cost by model, the dearest first."""
    counts = ("batches", "input_tokens", "output_tokens")
    rows = _sums(manifest["by_model"], counts, money)
    return Table(("model", "batches", *_TOKENS, "cost"), rows)


def tags(manifest: Mapping[str, Any], money: Money) -> Table:
    """Cost by tag, the dearest first."""
    counts = ("jobs", "completed", "input_tokens", "output_tokens")
    rows = _sums(manifest.get("by_tag", {}), counts, money)
    return Table(("tag", "jobs", "answered", *_TOKENS, "cost"), rows)


def _sums(
    groups: Mapping[str, Mapping[str, Any]], counts: Sequence[str], money: Money
) -> list[tuple[str, ...]]:
    return [
        (name, *(f"{sums[count]:,}" for count in counts), money(sums["cost_usd"]))
        for name, sums in dearest(groups)
    ]


def dearest(groups: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Sums by a name, those that cost most first."""
    return sorted(groups.items(), key=lambda item: -(item[1]["cost_usd"] or 0))


def batches(manifest: Mapping[str, Any], most: int, money: Money) -> Table:
    """The newest provider batches."""
    rows = [
        (
            *(each[name] or "" for name in ("name", "batch_id", "status")),
            *(money(each[name]) for name in ("estimated_usd", "cost_usd")),
        )
        for each in manifest["batches"][-most:]
    ]
    return Table(("batch", "id at the provider", "status", "at most", "cost"), rows, 3)


def text(manifest: Mapping[str, Any], results_dir: Path, width: int = _WIDTH) -> str:
    """The report as plain text.

    Args:
        manifest: What the run came to.
        results_dir: Where its files lie, as the reader is told.
        width: Columns that sentences may take.
    """
    lines = [headline(manifest)]
    drawn = figures(manifest, results_dir / "results.jsonl")
    if drawn.saved_usd and drawn.saved_usd > 0 and drawn.realtime_usd:
        about = "about " if drawn.is_sample else ""
        share = 100 * drawn.saved_usd / drawn.realtime_usd
        lines.append(
            f"saved {about}{dollars(drawn.saved_usd)} ({share:.0f}%) against the realtime price of "
            f"{dollars(drawn.realtime_usd)}"
        )
    if manifest["stopped_by"]:
        lines.append(f"Stopped: {manifest['stopped_by']}")
    if manifest["resumed"]:
        lines.append(f"{counted(manifest['resumed'], 'job')} answered by an earlier start")
    if gone := manifest.get("archived"):
        lines.append(f"{counted(gone, 'answer')} of jobs gone or changed kept in archive.jsonl")
    for table, least in ((models(manifest, dollars), 2), (tags(manifest, dollars), 1)):
        if len(table.rows) >= least:
            what, count = table.head[:2]
            listed = Rows(f"by {what}", count, "cost", right={count, "cost"})
            for row in table.rows:
                listed.add(row[0], row[1], row[-1])
            lines += ["", *(line.plain for line in listed.lines(width))]
    for code, group in manifest["failures"].items():
        said = one_line(group["example"], 400)
        lines += [
            "",
            f"{group['count']:,} x {code}",
            wrapped(f"  {group['example_job_id']}: {said}", min(width, _WIDTH)),
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
    money = partial(told_usd, unknown="cost unknown")
    lines = [
        f"# {summary(manifest)}",
        "",
        f"Run key {escaped(manifest['run_key'])}, started {manifest['started_at'][:19]}Z, finished "
        f"{manifest['finished_at'][:19]}Z. {manifest['resumed']:,} of "
        f"{counted(manifest['counts']['total'], 'job')} answered by an earlier start.",
        *(["", f"The answers are in {escaped(results)}."] if results else []),
        *_table(models(manifest, money)),
    ]
    for note in notes(manifest, money):
        lines += ["", escaped(note)]
    lines += _table(tags(manifest, money))
    if manifest["failures"]:
        head = ("code", "jobs", "for example", "what it said", "what to do")
        rows = [
            (
                code,
                f"{group['count']:,}",
                group["example_job_id"],
                group["example"],
                group.get("what_to_do", ""),
            )
            for code, group in manifest["failures"].items()
        ]
        lines += ["", "## Failures", *_table(Table(head, rows, len(head)))]
    shown, count = batches(manifest, _BATCHES_SHOWN, money), len(manifest["batches"])
    lines += ["", "## Provider batches", *_table(shown)]
    if count > _BATCHES_SHOWN:
        lines += ["", f"The last {_BATCHES_SHOWN} of {count:,}; all are in manifest.json."]
    return "\n".join(lines)


def _table(table: Table) -> Iterator[str]:
    """The lines of a table of markdown behind an empty one; none where it has no rows."""
    if table.rows:
        yield ""
        yield f"| {' | '.join(table.head)} |"
        yield f"|{'---|' * table.texts}{'--:|' * (len(table.head) - table.texts)}"
    for row in table.rows:
        yield f"| {' | '.join(escaped(one_line(cell)) for cell in row)} |"


def tell_failures(manifest: Mapping[str, Any]) -> None:
    """Log one line for each kind of failure: how many, one of them, and what to do."""
    # Who only reads a report does not wait for Prefect.
    from prefect import get_run_logger

    for code, group in islice(manifest["failures"].items(), _FAILURES_TOLD):
        get_run_logger().warning(
            "%s (%s), such as %r: %s. %s",
            code,
            f"{group['count']:,}",
            group["example_job_id"],
            one_line(group["example"]).rstrip("."),
            group.get("what_to_do", ""),
        )
