"""Whole runs over Gemini: Google's own SDK against the sandbox, under a real Prefect server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, BatchRun
from tests.flows.places import Place
from tests.unit.content.test_documents import PNG, make_pdf

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest.importorskip("google.genai", reason="an extra")

MODEL = "gemini-2.5-flash"
FACTS = "\nCity: Oslo\nPopulation: 717710"


def new_batch(tmp_path: Path, **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    return batch.set_default_params(model=MODEL, max_tokens=400)


def by_id(run: BatchRun) -> dict[str, Any]:
    return {result.job_id: result for result in run.iter_results()}


def of_every_kind(tmp_path: Path) -> Batch:
    batch = new_batch(tmp_path, items_per_batch=4, max_reasks=1).add_cost_limit(1)
    orders = {
        "plain": "",
        "late": "[[sandbox:once errored api_error]]",
        "wrong": "[[sandbox:errored invalid_request_error]]",
        "stopped": "[[sandbox:refusal RECITATION]]",
        "blocked": "[[sandbox:blocked]]",
        "new": "[[sandbox:first stop TOMORROW]]",
    }
    for name, order in orders.items():
        batch.add_job(prompt=f"{tmp_path} {name} {order}", id=name)
    for name, order in {"form": "", "mended": "[[sandbox:first invalid_json]]"}.items():
        batch.add_job(prompt=f"{tmp_path} {order}{FACTS}", response_model=Place, id=name)
    page = make_pdf("City: Oslo")
    batch.add_job(prompt="Which?", file=page, response_model=Place, citations="quoted", id="quoted")
    return batch.add_job(prompt=f"{tmp_path}?", file=PNG, id="seen")


def test_jobs_of_every_kind(tmp_path: Path, sandbox, billed) -> None:
    """A model that names no provider goes to Gemini; each answer is paid once, and read once."""
    known = {file.id for file in sandbox.ledger.files()}
    run = of_every_kind(tmp_path).run()
    found = by_id(run)
    codes = {name: result.error_code for name, result in found.items() if result.error_code}
    assert codes == {"wrong": "invalid_argument", "stopped": "refusal", "blocked": "refusal"}
    assert "RECITATION" in found["stopped"].error
    for name in ("form", "mended"):
        assert found[name].parsed_response == Place(city="Oslo", population=717710)
    assert [each.page for each in found["quoted"].citations] == [1]
    assert found["plain"].reasoning_tokens
    assert run.manifest is not None
    paid = billed()
    assert max(Counter(row.body_digest for row in paid).values()) == 1
    assert run.manifest["cost_usd"] == pytest.approx(float(sum(row.cost_usd for row in paid)))
    assert run.manifest["reserved_usd"] == 0
    new = [file for file in sandbox.ledger.files() if file.id not in known]
    assert {file.purpose: file.deleted for file in new} == {"batch": True, "batch_output": False}
    again = by_id(of_every_kind(tmp_path).run())
    assert {name: result.raw_response for name, result in again.items()} == {
        name: result.raw_response for name, result in found.items()
    }
    assert len(billed()) == len(paid)


def test_what_the_deadline_leaves_goes_through_the_realtime_api(
    tmp_path: Path, sandbox, billed
) -> None:
    """Its batches are canceled, and a refusal of a single request is a row like any other."""
    sandbox.limits(seconds=600)
    try:
        batch = new_batch(tmp_path, items_per_batch=6)
        batch.add_time_limit(seconds=10, on_deadline="realtime", realtime_usd=1, margin_seconds=9.5)
        orders = [*[""] * 6, "[[sandbox:errored invalid_request_error]]", "[[sandbox:blocked]]"]
        for n, order in enumerate(orders):
            batch.add_job(prompt=f"{tmp_path} {n} {order}", id=f"j{n}")
        run = batch.run()
    finally:
        sandbox.limits(seconds=0.1)
    codes = Counter(result.error_code for result in run.iter_results())
    assert codes == {None: 6, "invalid_argument": 1, "refusal": 1}
    assert len(billed()) == 7
    assert {row.batch_id for row in billed()} == {None}
    assert run.manifest is not None
    sent = [batch["status"] for batch in run.manifest["batches"] if batch["batch_id"]]
    assert set(sent) <= {"canceled"}
