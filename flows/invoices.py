"""Invoices as typed objects, each field with the place in the document that it was read from.

    python flows/invoices.py                  the invoices in flows/documents
    python flows/invoices.py ./my-invoices    your own

Needs OPENAI_API_KEY or ANTHROPIC_API_KEY for its model, or a sandbox (`batchata sandbox`).
"""

from __future__ import annotations

import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

from prefect import flow
from pydantic import BaseModel, Field

from batchata_prefect import Batch, JobResult


class Invoice(BaseModel):
    """What a payment needs."""

    invoice_number: str
    vendor: str
    due_date: date
    currency: str
    total: Decimal = Field(description="Amount to pay, tax included")


@flow(name="invoices")
def invoices(
    folder: str = str(Path(__file__).parent / "documents"),
    model: str = "claude-haiku-5-5",
    results_dir: str = "results/invoices",
    cost_limit_usd: float = 1.0,
) -> list[str]:
    """Read every PDF of a folder.

    Args:
        folder: Where the PDFs are.
        model: Model id.
        results_dir: Where the answers go.
        cost_limit_usd: USD that the run never passes.

    Returns:
        One line for each invoice, with the pages that its fields were found on.
    """
    batch = Batch(results_dir=results_dir).set_default_params(model=model, response_model=Invoice)
    batch.add_cost_limit(usd=cost_limit_usd)
    for path in sorted(Path(folder).glob("*.pdf")):
        # Quotes work on every provider; one that stands in no document is dropped.
        batch.add_job(id=path.name, file=path, prompt="Read this invoice.", citations="quoted")
    run = batch.run(print_status=True)
    return [line(result) for result in run.iter_results()]


def line(result: JobResult) -> str:
    """An invoice in one line; what could not be read says why."""
    invoice = result.parsed_response
    if not isinstance(invoice, Invoice):
        return f"{result.job_id}: {result.error_code}: {result.error}"
    found = {field: cited[0].page for field, cited in (result.citation_mappings or {}).items()}
    places = ", ".join(f"{field} on page {page}" for field, page in found.items() if page)
    total = f"{invoice.total:,.2f} {invoice.currency} by {invoice.due_date}"
    return f"{result.job_id}: {invoice.vendor}, {total} ({places or 'no places'})"


if __name__ == "__main__":
    print(*invoices(*sys.argv[1:2]), sep="\n")
