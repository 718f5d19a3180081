"""A scheduled job: every night the tickets of the day before are summarized, inside a budget.

    python flows/nightly.py          serves it to Prefect: it runs at 02:00, and on demand

Needs a Prefect server (PREFECT_API_URL) and OPENAI_API_KEY, or a sandbox (`batchata sandbox`).
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from batchata_prefect import Batch
from batchata_prefect.jobs.sources import read_rows
from batchata_prefect.numbers import told_usd


@flow(name="nightly-tickets", retries=2, retry_delay_seconds=600)
def nightly(
    day: date | None = None,
    table: str = str(Path(__file__).parent / "data" / "tickets.csv"),
    model: str = "gpt-6-luna",
    results_dir: str = "results/nightly",
    cost_limit_usd: float = 2.0,
    time_limit_hours: float = 5.0,
) -> str:
    """Summarize what came in on one day.

    A night that was cut off goes on where it stopped: its results directory is its day. A retry
    of the flow, or a second run of the same day, pays for nothing twice.

    Args:
        day: Day of the tickets; yesterday where none is given.
        table: CSV with the columns id, received and text.
        model: Model id.
        results_dir: Under it, each day has a directory of its own.
        cost_limit_usd: USD that one night never passes.
        time_limit_hours: Hours after which what is not answered is cancelled, so that the
            morning finds results.

    Returns:
        What the night came to, in one line.
    """
    day = day or date.today() - timedelta(days=1)
    batch = Batch(results_dir=Path(results_dir) / day.isoformat())
    batch.set_default_params(model=model, tags=["nightly"])
    batch.add_cost_limit(usd=cost_limit_usd).add_time_limit(hours=time_limit_hours)
    for row in read_rows(table):
        if row["received"] == day.isoformat():
            batch.add_job(id=row["id"], prompt=f"Summarize in one sentence: {row['text']}")
    if not len(batch):
        return f"no tickets on {day}"
    manifest = batch.run().manifest
    assert manifest is not None
    for code, group in manifest["failures"].items():
        get_run_logger().warning("%d x %s: %s", group["count"], code, group["what_to_do"])
    counts = manifest["counts"]
    return f"{day}: {counts['completed']} of {counts['total']} for {told_usd(manifest['cost_usd'])}"


if __name__ == "__main__":
    # By its source: a served flow runs in processes of its own, which load it from there.
    here = Path(__file__)
    served: Any = nightly.from_source(str(here.parent), f"{here.name}:nightly")
    served.serve(name="nightly", cron="0 2 * * *")
