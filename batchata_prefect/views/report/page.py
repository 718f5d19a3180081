"""The report as one HTML file that needs nothing else, from the template beside it."""

from __future__ import annotations

import asyncio
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
from batchata_prefect.views.printed import one_line
from batchata_prefect.views.report import plots, words
from batchata_prefect.views.report.figures import BatchTime, Figures, figures

_BATCHES_LISTED = 200


def write_page(results_dir: Path, manifest: Mapping[str, Any]) -> Path:
    """Write `report.html` into a results directory.

    Returns:
        Its path.
    """
    path = results_dir / "report.html"
    with whole_file(path) as file:
        file.write(page(manifest, results_dir).encode())
    return path


async def keep_page(manifest: Mapping[str, Any], results_dir: Path) -> None:
    """Write the report where there is none of this manifest yet; if that fails, the run goes on."""
    # Who only reads a report does not wait for Prefect.
    from prefect import get_run_logger

    made, told = results_dir / "report.html", results_dir / "manifest.json"
    try:
        if not made.exists() or made.stat().st_mtime <= told.stat().st_mtime:
            await asyncio.to_thread(write_page, results_dir, manifest)
    except Exception as error:
        get_run_logger().warning("report.html was not written (%s)", error)


def page(manifest: Mapping[str, Any], results_dir: Path) -> str:
    """The whole page.

    Args:
        manifest: What the run came to.
        results_dir: Where its files lie, as the reader is told.
    """
    drawn = figures(manifest, results_dir / "results.jsonl")
    models = words.models(manifest, dollars)
    tokens = {"input tokens": drawn.input_tokens, "output tokens": drawn.output_tokens}
    return (
        _environment()
        .get_template("page.html")
        .render(
            manifest={"canary": None, "by_tag": {}, **manifest},
            results_dir=results_dir,
            width=plots.WIDTH,
            headline=words.headline(manifest),
            when=_when(manifest),
            tiles=list(_tiles(manifest, drawn)),
            cost_plot=plots.cost_by_model(manifest["by_model"], drawn.realtime),
            models=models._replace(
                head=(*models.head, "realtime price"),
                rows=[(*row, dollars(drawn.realtime[row[0]])) for row in models.rows],
            ),
            notes=list(words.notes(manifest, dollars)),
            tags=words.tags(manifest, dollars),
            batches_plot=plots.batches_in_time(drawn.batches),
            batches_took=_took(drawn.batches),
            batches=words.batches(manifest, _BATCHES_LISTED, dollars),
            one_line=one_line,
            answered=len(drawn.input_tokens),
            is_sample=drawn.is_sample,
            token_plots=[plots.tokens(each, what) for what, each in tokens.items() if each],
            places=[
                *words.where_things_lie(results_dir),
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
        states = [name for name in ("failed", "cancelled") if counts[name]]
        yield f"{missing:,}", " or ".join(states), "bad"
    limit = manifest["cost_limit_usd"]
    told = f"limit {dollars(limit)}" if limit else "cost"
    own = words.own_cost(manifest)
    told += "" if own is None else f", {dollars(own)} in this run"
    yield dollars(manifest["cost_usd"]), told
    saved = drawn.saved_usd
    if saved is not None and saved > 0 and drawn.realtime_usd:
        about = "about " if drawn.is_sample else ""
        share = f"saved, {about}{100 * saved / drawn.realtime_usd:.0f}% of the realtime price"
        yield dollars(saved), share, "good"
    start, end = (datetime.fromisoformat(manifest[k]) for k in ("started_at", "finished_at"))
    yield clock((end - start).total_seconds()), "from first start to end"


def _took(batches: Sequence[BatchTime]) -> str:
    times = sorted(batch.seconds for batch in batches)
    if len(times) < 2:
        return f"The batch ended after {clock(times[0])}." if times else ""
    late = times[min(len(times) - 1, int(0.95 * len(times)))]
    return (
        f"{counted(len(times), 'batch')} ended, after {clock(statistics.median(times))} in the "
        f"median and {clock(late)} in 95 of 100."
    )
