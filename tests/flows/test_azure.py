"""Whole runs over Azure OpenAI: the SDK's own client against the sandbox, under Prefect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, BatchataError, BatchRun
from tests.flows.places import Place
from tests.unit.content.test_documents import PNG, make_pdf

pytestmark = pytest.mark.usefixtures("prefect_server")

FACTS = "\nCity: Oslo\nPopulation: 717710"
RATES = {"input": 0.05, "output": 0.25, "cache_read": 0.005}
TWICE = {name: 2 * rate for name, rate in RATES.items()}
PRICES = {"fleet": {**RATES, "realtime": TWICE}}


def new_batch(tmp_path: Path, **options: Any) -> Batch:
    options = {"prices": PRICES, **options}
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    return batch.set_default_params(model="fleet", provider="azure", max_tokens=400)


def by_id(run: BatchRun) -> dict[str, Any]:
    return {result.job_id: result for result in run.iter_results()}


def of_every_kind(tmp_path: Path) -> Batch:
    batch = new_batch(tmp_path, items_per_batch=4, max_reasks=1, upload_files=True)
    batch.add_cost_limit(0.2)
    orders = {
        "plain": "",
        "late": "[[sandbox:once errored api_error]]",
        "wrong": "[[sandbox:errored invalid_request_error]]",
        "filtered": "[[sandbox:errored content_filter]]",
        "refused": "[[sandbox:refusal]]",
    }
    for name, order in orders.items():
        batch.add_job(prompt=f"{tmp_path} {name} {order}", id=name)
    for name, order in {"form": "", "mended": "[[sandbox:first invalid_json]]"}.items():
        batch.add_job(prompt=f"{tmp_path} {order}{FACTS}", response_model=Place, id=name)
    there = {"endpoint": "/v1/responses", "file": PNG}
    batch.add_job(prompt=f"{tmp_path}{FACTS}", response_model=Place, id="there", **there)
    batch.add_job(prompt=f"{tmp_path} ?", id="seen", **there)
    page = make_pdf("City: Oslo")
    return batch.add_job(
        prompt="Which?", file=page, response_model=Place, citations="quoted", id="quoted"
    )


def test_jobs_of_every_kind(tmp_path: Path, sandbox, billed) -> None:
    """Each answer is paid once and read once, by the price that was given; nothing is left there.

    What the content filter refuses is that job's alone. Documents go in the requests.
    """
    before = {file.id for file in sandbox.ledger.files()}
    run = of_every_kind(tmp_path).run()
    found = by_id(run)
    codes = {name: result.error_code for name, result in found.items() if result.error_code}
    assert set(codes) == {"wrong", "filtered", "refused"}
    assert (codes["filtered"], codes["refused"]) == ("content_filter", "refusal")
    for name in ("form", "mended", "there"):
        assert found[name].parsed_response == Place(city="Oslo", population=717710)
    assert [each.page for each in found["quoted"].citations] == [1]
    assert run.manifest is not None
    paid = billed()
    assert max(Counter(row.body_digest for row in paid).values()) == 1
    assert run.manifest["cost_usd"] == pytest.approx(float(sum(row.cost_usd for row in paid)))
    assert run.manifest["reserved_usd"] == 0
    kept = [file for file in sandbox.ledger.files() if file.id not in before]
    assert {file.purpose for file in kept if not file.deleted} == {"batch_output"}
    again = by_id(of_every_kind(tmp_path).run())
    assert {name: result.raw_response for name, result in again.items()} == {
        name: result.raw_response for name, result in found.items()
    }
    assert len(billed()) == len(paid)


def test_a_limit_needs_a_price(tmp_path: Path, billed) -> None:
    """Also of a deployment that bears the name of a model; nothing is sent without one."""
    batch = new_batch(tmp_path, prices=None).add_cost_limit(1)
    batch.add_job(prompt=f"{tmp_path}", model="gpt-4o-mini")
    with pytest.raises(BatchataError, match=r"price of 'gpt-4o-mini' .* nothing was sent"):
        batch.run()
    assert not billed()


def test_what_the_deadline_leaves_goes_to_the_other_deployment(
    tmp_path: Path, sandbox, billed, monkeypatch
) -> None:
    """Its batches are canceled, and a deployment that is there for it answers the requests."""
    monkeypatch.setenv("AZURE_OPENAI_REALTIME_DEPLOYMENT", "fleet-live")
    sandbox.limits(seconds=600)
    try:
        batch = new_batch(tmp_path, items_per_batch=6)
        limit = {"seconds": 40, "margin_seconds": 39.5}
        batch.add_time_limit(on_deadline="realtime", realtime_usd=1, **limit)
        for n, order in enumerate([*[""] * 6, "[[sandbox:errored content_filter]]"]):
            batch.add_job(prompt=f"{tmp_path} {n} {order}", id=f"j{n}")
        run = batch.run()
    finally:
        sandbox.limits(seconds=0.1)
    codes = Counter(result.error_code for result in run.iter_results())
    assert codes == {None: 6, "content_filter": 1}
    paid = billed()
    assert [row.batch_id for row in paid] == [None] * 6
    assert run.manifest is not None
    assert run.manifest["cost_usd"] == pytest.approx(float(sum(row.cost_usd for row in paid)))
    sent = [batch["status"] for batch in run.manifest["batches"] if batch["batch_id"]]
    assert set(sent) <= {"canceled"}
