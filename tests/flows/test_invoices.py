"""Real invoices, end to end: PDF in, typed object out, with the page that each field came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from batchata_prefect import Batch

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


class Invoice(BaseModel):
    """What is asked of every invoice."""

    invoice_number: str | None = Field(None, description="Number of the invoice.")
    invoice_date: str | None = None
    order_id: str | None = None
    total: str | None = Field(None, description="Amount due, with its currency.")


@pytest.mark.parametrize(
    ("model", "citing"),
    [
        (CLAUDE, {"enable_citations": True}),
        (CLAUDE, {}),
        (GPT, {"citations": "quoted"}),
        (GPT, {}),
        (GPT, {"endpoint": "/v1/responses"}),
    ],
    ids=["claude cited", "claude", "gpt quoted", "gpt", "gpt responses"],
)
def test_invoices(tmp_path: Path, sandbox, real: Path, model: str, citing: dict[str, Any]) -> None:
    """Every invoice is answered, read into the model, and what it cites stands in the PDF."""
    paths = sorted((real / "inputs" / "invoices").glob("*.pdf"))
    assert paths
    batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    batch.set_default_params(model=model, max_tokens=2000, response_model=Invoice, **citing)
    for path in paths:
        batch.add_job(file=path, prompt="Read this invoice.", id=path.stem, metadata={"n": 1})
    results = list(batch.run().iter_results())
    assert [result.job_id for result in results] == [path.stem for path in paths]
    wrong = {r.job_id: (r.error_code, r.error) for r in results if r.status != "completed"}
    assert not wrong
    assert all(isinstance(result.parsed_response, Invoice) for result in results)
    found = {
        name for r in results for name, value in dict(r.parsed_response or ()).items() if value
    }
    assert len(found) >= 3, "the sandbox answers from the documents' own lines"
    if citing.get("enable_citations") or citing.get("citations"):
        citations = [c for result in results for c in result.citations or ()]
        assert citations
        assert all((c.metadata or {}).get("verified") is True for c in citations)
        assert {c.source for c in citations} <= {path.name for path in paths}
        mapped = [name for result in results for name in result.citation_mappings or ()]
        assert mapped
        assert set(mapped) <= set(Invoice.model_fields)
