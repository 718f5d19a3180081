"""The report as one HTML file that needs nothing else, from the template beside it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from batchata_prefect.errors import printable
from batchata_prefect.files import whole_file
from batchata_prefect.numbers import clock, counted, dollars
from batchata_prefect.views.report import plots
from batchata_prefect.views.report.figures import BatchFigures, Figures, figures
from batchata_prefect.views.report.words import headline, own_cost, where_things_lie

_BATCHES_LISTED = 200
_EXAMPLE_LETTERS = 600


def write_page(results_dir: Path, manifest: Mapping[str, Any]) -> Path:
    """Write `report.html` into a results directory.

    Returns:
        Its path.
    """
    path = results_dir / "report.html"
    drawn = figures(manifest, results_dir / "results.jsonl")
    with whole_file(path) as file:
        file.write(page(manifest, drawn, results_dir).encode())
    return path


def page(manifest: Mapping[str, Any], drawn: Figures, results_dir: Path) -> str:
    """The whole page.

    Args:
        manifest: What the run came to.
        drawn: Its figures.
        results_dir: Where its files lie, as the reader is told.
    """
    listed: Sequence[Mapping[str, Any]] = manifest["batches"][-_BATCHES_LISTED:]
    tags: Mapping[str, Mapping[str, Any]] = manifest.get("by_tag") or {}
    count = len(manifest["batches"])
    counted = {"input tokens": drawn.input_tokens, "output tokens": drawn.output_tokens}
    jobs = f"{len(drawn.input_tokens):,} answered jobs"
    return (
        _environment()
        .get_template("page.html")
        .render(
            manifest={"canary": None, **manifest},
            results_dir=results_dir,
            width=plots.WIDTH,
            headline=headline(manifest),
            when=_when(manifest),
            tiles=list(_tiles(manifest, drawn)),
            failures=[
                {**group, "code": code, "count": f"{group['count']:,}", "example": _flat(group)}
                for code, group in manifest["failures"].items()
            ],
            cost_plot=plots.cost_by_model(drawn.models),
            models=[
                [
                    each.model,
                    f"{each.batches:,}",
                    f"{each.input_tokens:,}",
                    f"{each.output_tokens:,}",
                    dollars(each.cost_usd),
                    dollars(each.realtime_usd),
                ]
                for each in drawn.models
            ],
            notes=list(_notes(manifest)),
            tags=[
                [
                    tag,
                    *(f"{sums[name]:,}" for name in ("jobs", "completed")),
                    *(f"{sums[name]:,}" for name in ("input_tokens", "output_tokens")),
                    dollars(sums["cost_usd"]),
                ]
                for tag, sums in sorted(tags.items(), key=lambda item: -(item[1]["cost_usd"] or 0))
            ],
            has_twice=sum(sums["jobs"] for sums in tags.values()) > manifest["counts"]["total"],
            batches_plot=plots.batches_in_time(drawn.batches),
            batches_took=_took(drawn.batches),
            batches_shown=(
                f"All {count:,}"
                if len(listed) == count
                else f"The last {len(listed):,} of {count:,}"
            ),
            batches=[
                [
                    *(each[name] or "" for name in ("name", "batch_id", "status")),
                    *(dollars(each[name]) for name in ("estimated_usd", "cost_usd")),
                ]
                for each in listed
            ],
            tokens_of=f"A sample of {jobs}." if drawn.is_sample else f"All {jobs}.",
            token_plots=[
                plots.tokens(numbers, what) for what, numbers in counted.items() if numbers
            ],
            places=[
                *where_things_lie(results_dir),
                (manifest["state"], "the records under which the run resumes"),
            ],
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("batchata_prefect.views.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
    )


def _shown(value: object) -> str:
    """What is put into the page; only what the template itself has made is HTML."""
    return value if isinstance(value, Markup) else printable(str(value))


def _flat(group: Mapping[str, Any]) -> str:
    return " ".join(str(group["example"] or "").split())[:_EXAMPLE_LETTERS]


def _when(manifest: Mapping[str, Any]) -> str:
    start, end = (datetime.fromisoformat(manifest[k]) for k in ("started_at", "finished_at"))
    text = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    if manifest["resumed"]:
        text += f"; {counted(manifest['resumed'], 'job')} answered by an earlier start"
    if manifest["stopped_by"]:
        text += f"; stopped: {manifest['stopped_by']}"
    return text


def _tiles(manifest: Mapping[str, Any], drawn: Figures) -> Iterator[tuple[str, ...]]:
    """Value, label and kind of each figure at the top."""
    counts = manifest["counts"]
    yield f"{counts['completed']:,}", f"of {counted(counts['total'], 'job')} answered"
    if missing := counts["failed"] + counts["cancelled"]:
        words = [name for name in ("failed", "cancelled") if counts[name]]
        yield f"{missing:,}", " or ".join(words), "bad"
    limit = manifest["cost_limit_usd"]
    told = f"limit {dollars(limit)}" if limit else "cost"
    own = own_cost(manifest)
    told += "" if own is None else f", {dollars(own)} in this run"
    yield dollars(manifest["cost_usd"]), told
    saved = drawn.saved_usd
    if saved is not None and saved > 0 and drawn.realtime_usd:
        about = "about " if drawn.is_sample else ""
        share = f"saved, {about}{100 * saved / drawn.realtime_usd:.0f}% of the realtime price"
        yield dollars(saved), share, "good"
    start, end = (datetime.fromisoformat(manifest[k]) for k in ("started_at", "finished_at"))
    yield clock((end - start).total_seconds()), "from first start to end"


def _notes(manifest: Mapping[str, Any]) -> Iterator[str]:
    for name, sums in manifest["by_model"].items():
        if sums.get("cache_read_tokens") or sums.get("cache_write_tokens"):
            saved = sums["cache_saved_usd"]
            effect = "an unknown amount" if saved is None else dollars(abs(saved))
            verb = "cost" if saved is not None and saved < 0 else "saved"
            yield f"The prompt cache of {name.partition(' ')[2]} {verb} {effect}."
    if dropped := manifest.get("citations_dropped", 0):
        yield f"{dropped:,} quotes stood in no document and were dropped."


def _took(batches: Sequence[BatchFigures]) -> str:
    times = sorted(batch.seconds for batch in batches)
    if len(times) < 2:
        return f"The batch ended after {clock(times[0])}." if times else ""
    late = times[min(len(times) - 1, int(0.95 * len(times)))]
    return (
        f"{counted(len(times), 'batch')} ended, after {clock(statistics.median(times))} in the "
        f"median and {clock(late)} in 95 of 100."
    )
