"""What a run came to, for a person: in the log, in the Prefect UI, as text and as a page."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from batchata_prefect.views.report.words import markdown as markdown
from batchata_prefect.views.report.words import one_line
from batchata_prefect.views.report.words import summary as summary
from batchata_prefect.views.report.words import text as text

if TYPE_CHECKING:
    from pathlib import Path

_FAILURES_TOLD = 10

# Prefect is imported inside: who only reads a report does not wait for it.


def tell_failures(manifest: dict[str, Any]) -> None:
    """Log one line for each kind of failure: how many, one of them, and what to do."""
    from prefect import get_run_logger

    for code, group in list(manifest["failures"].items())[:_FAILURES_TOLD]:
        get_run_logger().warning(
            "%s (%s), such as %r: %s. %s",
            code,
            f"{group['count']:,}",
            group["example_job_id"],
            one_line(str(group["example"] or "")).rstrip("."),
            group.get("what_to_do", ""),
        )


async def keep_page(manifest: dict[str, Any], results_dir: Path) -> None:
    """Write the HTML report beside the results; if that fails, the run goes on."""
    from prefect import get_run_logger

    from batchata_prefect.views.report.page import write_page

    try:
        if not _is_newer(results_dir / "report.html", results_dir / "manifest.json"):
            await asyncio.to_thread(write_page, results_dir, manifest)
    except Exception as error:
        get_run_logger().warning("report.html was not written (%s)", error)


def _is_newer(path: Path, than: Path) -> bool:
    """Whether a file was written after another, which it was made from."""
    return path.exists() and path.stat().st_mtime > than.stat().st_mtime
