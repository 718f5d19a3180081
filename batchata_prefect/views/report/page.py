"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from batchata_prefect.escapes import html as escape
from batchata_prefect.files import whole_file
from batchata_prefect.views.report import plots
from batchata_prefect.views.report.figures import Figures, figures
from batchata_prefect.views.report.words import headline, where_things_lie
from batchata_prefect.views.terminal import clock, dollars

_BATCHES_LISTED = 200

_STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --card: #ffffff; --text: #1d2127;
  --quiet: #656d78; --line: #e4e2dd; --ink: #2f6f8f; --pale: #cfe0e8; --bad: #b5482f;
  --good: #2f7d54; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1b1f25; --text: #e6e8ea;
  --quiet: #98a1ad; --line: #2e343c; --ink: #63aecf; --pale: #2b4452; --bad: #e0795e;
  --good: #6fbf94; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 820px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 40px 0 10px; }
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 0 0 10px; } .quiet { color: var(--quiet); fill: var(--quiet); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 12px;
  margin: 24px 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); font-size: 13px; }
.tile.good b { color: var(--good); } .tile.bad b { color: var(--bad); }
.card { margin: 0 0 12px; } .card.bad { border-left: 3px solid var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { font-weight: 500; color: var(--quiet); font-size: 13px; }
td.n, th.n { text-align: right; white-space: nowrap; } tr:last-child td { border-bottom: 0; }
code { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
blockquote { margin: 6px 0; padding: 6px 12px; background: var(--page); border-radius: 6px;
  overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; margin: 6px 0 10px; overflow: visible; }
svg text { font-size: 13px; fill: var(--text); } svg text.quiet { fill: var(--quiet); }
.ink { fill: var(--ink); } .pale { fill: var(--pale); } rect.bad { fill: var(--bad); }
.grid { stroke: var(--line); } .mark { stroke: var(--text); stroke-dasharray: 3 3; }
summary { cursor: pointer; color: var(--quiet); } footer { margin-top: 48px; font-size: 13px; }
"""


def write_page(results_dir: Path, manifest: Mapping[str, Any]) -> Path:
    """Write `report.html` into a results directory.

    Returns:
        Its path.

    Raises:
        OSError: The results cannot be read or the page not be written.
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
    title = escape(f"{results_dir.name}: {headline(manifest)}")
    parts = [
        f"<h1>{escape(headline(manifest))}</h1>",
        f'<p class="quiet">{_when(manifest)}</p>',
        _tiles(manifest, drawn),
        _failures(manifest, results_dir),
        _canary(manifest),
        _models(manifest, drawn),
        _tags(manifest),
        _batches(manifest, drawn),
        _tokens(drawn),
        _places(manifest, results_dir),
        f'<footer class="quiet">{escape(manifest["package"])}, run key '
        f"<code>{escape(manifest['run_key'])}</code></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _when(manifest: Mapping[str, Any]) -> str:
    start, end = (datetime.fromisoformat(manifest[k]) for k in ("started_at", "finished_at"))
    text = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    if manifest["resumed"]:
        text += f"; {manifest['resumed']:,} jobs were answered by an earlier start"
    if manifest["stopped_by"]:
        text += f"; stopped: {manifest['stopped_by']}"
    return escape(text)


def _tiles(manifest: Mapping[str, Any], drawn: Figures) -> str:
    counts = manifest["counts"]
    missing = counts["failed"] + counts["cancelled"]
    tiles = [_tile("", f"{counts['completed']:,}", f"of {counts['total']:,} jobs answered")]
    if missing:
        words = [k for k in ("failed", "cancelled") if counts[k]]
        tiles.append(_tile("bad", f"{missing:,}", " or ".join(words)))
    limit = manifest["cost_limit_usd"]
    tiles.append(
        _tile("", dollars(manifest["cost_usd"]), f"limit {dollars(limit)}" if limit else "cost")
    )
    saved = drawn.saved_usd
    if saved is not None and saved > 0 and drawn.realtime_usd:
        about = "about " if drawn.is_sample else ""
        share = f"saved, {about}{100 * saved / drawn.realtime_usd:.0f}% of the realtime price"
        tiles.append(_tile("good", dollars(saved), share))
    start, end = (datetime.fromisoformat(manifest[k]) for k in ("started_at", "finished_at"))
    tiles.append(_tile("", clock((end - start).total_seconds()), "from first start to end"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(kind: str, value: str, label: str) -> str:
    return f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def _failures(manifest: Mapping[str, Any], results_dir: Path) -> str:
    if not manifest["failures"]:
        return ""
    cards: list[str] = []
    for code, group in manifest["failures"].items():
        said = escape(" ".join(str(group["example"] or "").split())[:600])
        command = f"batchata results {results_dir.name} --code {code}"
        cards.append(
            f'<div class="card bad"><h3>{group["count"]:,} &times; <code>{escape(code)}</code></h3>'
            f"<p>{escape(group.get('what_to_do', ''))}</p>"
            f'<blockquote><span class="quiet">{escape(group["example_job_id"])}:</span> {said}'
            f'</blockquote><p class="quiet">All of them: <code>{escape(command)}</code></p></div>'
        )
    return f"<h2>What was not answered, and what to do</h2>{''.join(cards)}"


def _canary(manifest: Mapping[str, Any]) -> str:
    canary = manifest.get("canary")
    if not canary:
        return ""
    return f'<h2>Canary</h2><div class="card">{escape(str(canary.get("told", "")))}</div>'


def _models(manifest: Mapping[str, Any], drawn: Figures) -> str:
    if not drawn.models:
        return ""
    head = ["model", "batches", "input tokens", "output tokens", "cost", "realtime price"]
    rows = [
        [
            model.model,
            f"{model.batches:,}",
            f"{model.input_tokens:,}",
            f"{model.output_tokens:,}",
            dollars(model.cost_usd),
            dollars(model.realtime_usd),
        ]
        for model in drawn.models
    ]
    notes: list[str] = []
    for name, sums in manifest["by_model"].items():
        if sums.get("cache_read_tokens") or sums.get("cache_write_tokens"):
            saved = sums["cache_saved_usd"]
            effect = "an unknown amount" if saved is None else dollars(abs(saved))
            verb = "cost" if saved is not None and saved < 0 else "saved"
            notes.append(f"The prompt cache of {name.partition(' ')[2]} {verb} {effect}.")
    if dropped := manifest.get("citations_dropped", 0):
        notes.append(f"{dropped:,} quotes stood in no document and were dropped.")
    said = "".join(f'<p class="quiet">{escape(note)}</p>' for note in notes)
    plot = plots.cost_by_model(drawn.models)
    legend = '<p class="quiet">Dark is what it cost, pale the realtime price.</p>' if plot else ""
    return f"<h2>Cost by model</h2>{legend}{plot}{_table(head, rows)}{said}"


def _tags(manifest: Mapping[str, Any]) -> str:
    tags: Mapping[str, Mapping[str, Any]] = manifest.get("by_tag") or {}
    if not tags:
        return ""
    rows = [
        [
            tag,
            f"{sums['jobs']:,}",
            f"{sums['completed']:,}",
            f"{sums['input_tokens']:,}",
            f"{sums['output_tokens']:,}",
            dollars(sums["cost_usd"]),
        ]
        for tag, sums in sorted(tags.items(), key=lambda item: -(item[1]["cost_usd"] or 0))
    ]
    head = ["tag", "jobs", "answered", "input tokens", "output tokens", "cost"]
    is_twice = sum(sums["jobs"] for sums in tags.values()) > manifest["counts"]["total"]
    note = '<p class="quiet">A job with two tags counts under both.</p>' if is_twice else ""
    return f"<h2>Cost by tag</h2>{_table(head, rows)}{note}"


def _batches(manifest: Mapping[str, Any], drawn: Figures) -> str:
    if not manifest["batches"]:
        return ""
    caption = ""
    if drawn.batches:
        times = sorted(batch.seconds for batch in drawn.batches)
        late = times[min(len(times) - 1, int(0.95 * len(times)))]
        caption = (
            f"{len(times):,} batches ended, after {clock(statistics.median(times))} in the median "
            f"and {clock(late)} in 95 of 100."
            if len(times) > 1
            else f"The batch ended after {clock(times[0])}."
        )
    listed: Sequence[Mapping[str, Any]] = manifest["batches"][-_BATCHES_LISTED:]
    rows = [
        [
            batch["name"],
            batch["batch_id"] or "",
            batch["status"],
            dollars(batch["estimated_usd"]),
            dollars(batch["cost_usd"]),
        ]
        for batch in listed
    ]
    head = ["batch", "id at the provider", "status", "at most", "cost"]
    count = len(manifest["batches"])
    shown = f"All {count:,}" if len(rows) == count else f"The last {len(rows):,} of {count:,}"
    return (
        f'<h2>Provider batches</h2><p class="quiet">{caption}</p>'
        f"{plots.batches_in_time(drawn.batches)}<details><summary>{shown} as a table</summary>"
        f"{_table(head, rows, numbers=3)}</details>"
    )


def _tokens(drawn: Figures) -> str:
    if not drawn.input_tokens:
        return ""
    of = f"{len(drawn.input_tokens):,} answered jobs"
    note = f"A sample of {of}." if drawn.is_sample else f"All {of}."
    return (
        f'<h2>Tokens of a job</h2><p class="quiet">{note} The scale is logarithmic.</p>'
        + plots.tokens(drawn.input_tokens, "input tokens")
        + plots.tokens(drawn.output_tokens, "output tokens")
    )


def _places(manifest: Mapping[str, Any], results_dir: Path) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(place)}</code></td><td>{escape(what)}</td></tr>"
        for place, what in where_things_lie(results_dir)
    )
    state = f"<td><code>{escape(str(manifest['state']))}</code></td>"
    rows += f"<tr>{state}<td>the records under which the run resumes</td></tr>"
    return (
        f"<h2>Where things lie</h2><p>In <code>{escape(str(results_dir))}</code></p>"
        f'<div class="scroll"><table>{rows}</table></div>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> str:
    """A table; columns from `numbers` on hold numbers."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= numbers else ''}>{escape(value)}</{tag}>"
            for place, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells(head, "th")}</tr>{body}</table></div>'
