"""Every row of a CSV gets a label from a fixed list, and the table gets two more columns.

    python flows/classify_csv.py

Needs OPENAI_API_KEY, or a sandbox (`batchata sandbox`).
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Literal

from prefect import flow
from pydantic import BaseModel, Field

from batchata_prefect import Batch
from batchata_prefect.jobs.sources import jobs_from_rows, read_rows


class Label(BaseModel):
    """Which team takes a ticket."""

    team: Literal["billing", "shipping", "technical", "privacy", "other"]
    urgent: bool = Field(description="Whether somebody may be hurt or data may be lost")


@flow(name="classify-csv")
def classify_csv(
    table: str = str(Path(__file__).parent / "data" / "tickets.csv"),
    model: str = "gpt-6-luna",
    results_dir: str = "results/tickets",
    cost_limit_usd: float = 1.0,
) -> dict[str, int]:
    """Label every ticket and write the table with its labels.

    Args:
        table: CSV with the columns id, received and text.
        model: Model id.
        results_dir: Where the answers go, and `labelled.csv` with them.
        cost_limit_usd: USD that the run never passes.

    Returns:
        How many tickets each team has; those without an answer under their error code.
    """
    batch = Batch(results_dir=results_dir, max_reasks=1).add_cost_limit(usd=cost_limit_usd)
    batch.set_default_params(model=model, response_model=Label, system="You sort support tickets.")
    batch.add_jobs(
        jobs_from_rows(
            read_rows(table),
            prompt="Which team takes this ticket, and is it urgent?\n\n{text}",
            id_column="id",
            metadata_columns=["received", "text"],
        )
    )
    run = batch.run(print_status=True)
    teams: Counter[str] = Counter()
    with (run.results_dir / "labelled.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "received", "text", "team", "urgent"])
        for result in run.iter_results():
            label = result.parsed_response
            values = [label.team, label.urgent] if isinstance(label, Label) else ["", ""]
            rows.writerow([result.job_id, *result.metadata.values(), *values])
            teams[str(values[0] or result.error_code)] += 1
    return dict(teams)


if __name__ == "__main__":
    print(classify_csv())
