"""What a run came to, for a person: one line, and one page in the Prefect UI."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact

_BATCHES_SHOWN = 50
_FAILURES_TOLD = 10


def summary(manifest: dict[str, Any]) -> str:
    """One line that says what a run came to."""
    counts = manifest["counts"]
    parts = [f"{counts['completed']:,} of {counts['total']:,} jobs answered"]
    parts += [f"{counts[name]:,} {name}" for name in ("failed", "cancelled") if counts[name]]
    parts.append(_usd(manifest["cost_usd"]))
    return ", ".join(parts)


def markdown(manifest: dict[str, Any]) -> str:
    """The report as a markdown page: totals, cost by model, failures by code, batches."""
    counts = manifest["counts"]
    lines = [
        f"# {summary(manifest)}",
        "",
        f"Run key `{manifest['run_key']}`, started {manifest['started_at'][:19]}Z, finished "
        f"{manifest['finished_at'][:19]}Z. {manifest['resumed']:,} of {counts['total']:,} jobs "
        "were answered by an earlier start.",
        "",
        "| model | batches | input tokens | output tokens | cost |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, sums in manifest["by_model"].items():
        lines.append(
            f"| {name} | {sums['batches']:,} | {sums['input_tokens']:,} "
            f"| {sums['output_tokens']:,} | {_usd(sums['cost_usd'])} |"
        )
    for name, sums in manifest["by_model"].items():
        if sums.get("cache_read_tokens") or sums.get("cache_write_tokens"):
            lines += ["", _cache_line(name, sums)]
    if dropped := manifest.get("citations_dropped", 0):
        lines += ["", f"{dropped:,} quotes stood in no document and were dropped."]
    if manifest["failures"]:
        lines += ["", "## Failures", ""]
        lines.append("| code | jobs | for example | what it said | what to do |")
        lines.append("|---|--:|---|---|---|")
        for code, group in manifest["failures"].items():
            said = _cell(str(group["example"] or ""))
            lines.append(
                f"| {code} | {group['count']:,} | {_cell(group['example_job_id'])} | {said} "
                f"| {group.get('what_to_do', '')} |"
            )
    batches: list[dict[str, Any]] = manifest["batches"]
    lines += ["", "## Provider batches", "", "| batch | id | status | estimated | cost |"]
    lines.append("|---|---|---|--:|--:|")
    for batch in batches[-_BATCHES_SHOWN:]:
        lines.append(
            f"| {_cell(batch['name'])} | {batch['batch_id'] or ''} | {batch['status']} "
            f"| {_usd(batch['estimated_usd'])} | {_usd(batch['cost_usd'])} |"
        )
    if len(batches) > _BATCHES_SHOWN:
        lines.append(f"\nThe last {_BATCHES_SHOWN} of {len(batches):,}; all are in manifest.json.")
    return "\n".join(lines)


def _cache_line(name: str, sums: dict[str, Any]) -> str:
    saved: float | None = sums["cache_saved_usd"]
    effect = "an unknown amount" if saved is None else f"${abs(saved):,.4f}"
    verb = "cost" if saved is not None and saved < 0 else "saved"
    return (
        f"The prompt cache of {name} {verb} {effect}: {sums['cache_read_tokens']:,} input tokens "
        f"read from it, {sums['cache_write_tokens']:,} written."
    )


def tell_failures(manifest: dict[str, Any]) -> None:
    """Log one line for each kind of failure: how many, one of them, and what to do."""
    for code, group in list(manifest["failures"].items())[:_FAILURES_TOLD]:
        get_run_logger().warning(
            "%s: %s jobs, such as %r: %s %s",
            code,
            f"{group['count']:,}",
            group["example_job_id"],
            _cell(str(group["example"] or "")),
            group.get("what_to_do", ""),
        )


async def publish(manifest: dict[str, Any]) -> None:
    """Show the report as an artifact of the flow run; if the server refuses, the run goes on."""
    try:
        await acreate_markdown_artifact(markdown(manifest), description=summary(manifest))
    except Exception as error:
        get_run_logger().warning("the report was not stored in Prefect (%s)", error)


def _usd(amount: float | None) -> str:
    return "cost unknown" if amount is None else f"${amount:,.4f}"


def _cell(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= 200 else f"{flat[:197]}..."
