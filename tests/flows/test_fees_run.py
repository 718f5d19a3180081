"""Whatever is billed, a run tells it to the cent and stays inside its limit."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch
from batchata_prefect.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDES = ["claude-haiku-4-5", "claude-sonnet-4-6", "claude-haiku-5-5", "claude-opus-5"]
GPTS = ["gpt-6-luna", "gpt-6-sol", "gpt-4.1", "gpt-4.1-mini"]


def _claude(pick: random.Random, *, passes: bool) -> tuple[dict[str, Any], str]:
    """A Claude job's parameters, and what the sandbox is to bill it for."""
    job: dict[str, Any] = {"model": pick.choice(CLAUDES)}
    bill = ""
    if pick.random() < 0.6:
        tool = {"type": "web_search_20250305", "name": "web_search"}
        job["tools"] = [tool | {"max_uses": pick.randrange(6)}]
        bill += f" web_searches {pick.randrange(9)}"
    if "4-5" not in job["model"] and pick.random() < 0.5:
        job["inference_geo"] = pick.choice(["us", "global"])
    if passes and pick.random() < 0.5:
        kind = pick.choice(["compaction", "message", f"advisor_message {pick.choice(CLAUDES)}"])
        bill += f" {kind} {pick.randrange(150_000)} {pick.randrange(500)}"
    if pick.random() < 0.3:
        job["cache_prefix"] = True
        job["system"] = f"Ours. {'All of this is shared. ' * 400}"
    return job, bill


def _gpt(pick: random.Random) -> tuple[dict[str, Any], str]:
    """An OpenAI job's parameters, and what the sandbox is to bill it for."""
    job: dict[str, Any] = {"model": pick.choice(GPTS), "endpoint": "/v1/responses"}
    bill = ""
    if pick.random() < 0.6:
        kinds = pick.sample(["web_search", "file_search"], pick.randrange(1, 3))
        job["tools"] = [{"type": kind} for kind in kinds]
        job["max_tool_calls"] = pick.randrange(6)
        bill = f" web_searches {pick.randrange(6)} file_searches {pick.randrange(6)}"
    return job, bill


def _batch(tmp_path: Path, pick: random.Random, *, passes: bool) -> Batch:
    batch = Batch(tmp_path / "out", items_per_batch=4).set_state(file=tmp_path / "state")
    for n in range(16):
        job, bill = _claude(pick, passes=passes) if pick.random() < 0.6 else _gpt(pick)
        order = f"[[sandbox:bill{bill}]]" if bill else ""
        batch.add_job(id=f"j{n}", prompt=f"{tmp_path} {n} {order}", max_tokens=300, **job)
    return batch


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("limited", [True, False])
def test_what_is_booked_is_what_was_billed(
    tmp_path: Path, sandbox: Sandbox, seed: int, limited: bool
) -> None:
    """Random mixes of fees, regions, caches and passes, of both providers."""
    pick = random.Random(seed)
    batch = _batch(tmp_path, pick, passes=not limited)
    limit = round(pick.uniform(0.5, 6.0), 4)
    if limited:
        batch.add_cost_limit(usd=limit)
    before = len(list(sandbox.ledger.billed()))
    run = batch.run()
    billed = list(sandbox.ledger.billed())[before:]
    costs = [row.cost_usd for row in billed]
    assert None not in costs
    total = sum((usd for usd in costs if usd is not None), Decimal(0))
    assert run.manifest is not None
    assert run.manifest["cost_usd"] == pytest.approx(float(total), abs=1e-12)
    fees: dict[str, int] = {}
    for row in billed:
        for name, uses in row.fees.items():
            fees[name] = fees.get(name, 0) + uses
    assert run.manifest["fees"] == {name: uses for name, uses in fees.items() if uses}
    answered = [result for result in run.iter_results() if result.cost_usd]
    assert len(answered) == len(billed) > 0
    booked = sorted(result.cost_usd or 0 for result in answered)
    assert booked == pytest.approx(sorted(map(float, costs)), abs=1e-12)
    if limited:
        assert total <= Decimal(str(limit))


def test_a_realtime_request_costs_what_its_tier_costs(tmp_path: Path, sandbox: Sandbox) -> None:
    """The reply names the tier that served it; flex is half of the standard price, fast twice."""
    tiers = {"none": 1.0, "flex": 0.5, "priority": 2.0, "default": 1.0}
    sandbox.limits(seconds=60)
    try:
        batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
        batch.add_time_limit(seconds=10, on_deadline="realtime", realtime_usd=1, margin_seconds=9)
        for tier in tiers:
            told = {} if tier == "none" else {"service_tier": tier}
            text = f"{tmp_path} {tier}"
            batch.add_job(id=tier, prompt=text, model="gpt-6-luna", max_tokens=99, **told)
        before = len(list(sandbox.ledger.billed()))
        run = batch.run()
        billed = list(sandbox.ledger.billed())[before:]
    finally:
        sandbox.limits(seconds=0.1)
    assert [row.batch_id for row in billed] == [None] * len(tiers)
    costs = [row.cost_usd for row in billed]
    assert None not in costs
    total = float(sum(usd for usd in costs if usd is not None))
    assert run.manifest is not None
    assert run.manifest["cost_usd"] == pytest.approx(total, abs=1e-12)
    for result in run.iter_results():
        tokens = result.input_tokens * 0.1 + result.output_tokens * 0.5
        own = tokens * tiers[result.job_id] / 10**6
        assert result.cost_usd == pytest.approx(own, abs=1e-12), result.job_id
