"""Every provider and every profile in one run each: lost creates, storms, kills and limits.

The server behind the accounts of OpenAI's API is one that only speaks it: see `WAYS`.
`make chaos N=30` kills at 30 instants.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchata_prefect import Batch
from batchata_prefect.providers.openai.facts import PROFILES
from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import EVERYWHERE, Forker, check_all_paid_once, log_of, told

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("prefect_server")]

KILLS = int(os.environ.get("BATCHATA_CHAOS", "0")) or 2
MODEL = "gpt-6-luna"
OWN = {"input": 0.05, "output": 0.25, "cache_read": 0.005}
PRICES = {MODEL: OWN, "fleet": OWN}
"""At foreign addresses and of deployments no price is known; these are the sandbox's."""
EACH = [*EVERYWHERE.values(), *(f"{name}/{MODEL}" for name in PROFILES if name != "openai")]
WAYS = ["any_order", "failed", "no_content", "no_counts", "no_file", "no_metadata", "no_times"]
WAYS += ["numbers", "one_file", "text_body", "words"]


class Capital(BaseModel):
    """What the structured jobs ask for."""

    capital: str


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("profiles"), seconds=0.3) as server:
        server.limits(ways=WAYS)
        yield server


@pytest.fixture
def provider(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    for name, value in box.environment().items():
        monkeypatch.setenv(name, value)
    yield box
    box.clear_faults()
    box.limits(seconds=0.3)
    box.settle()


@pytest.fixture
def accounts(provider: Sandbox) -> dict[str, Any]:
    url = provider.environment()["OPENAI_BASE_URL"]
    table = {"kind": "openai", "base_url": url, "api_key_env": "OPENAI_API_KEY"}
    return {name: {**table, "profile": name} for name in PROFILES if name != "openai"}


def make(out: Path, accounts: Any, jobs: int, prompt: str = "{n}", **limit: Any) -> Batch:
    batch = Batch(out, accounts=accounts, prices=PRICES, items_per_batch=jobs)
    batch.set_state(file=out / "state")
    if limit:
        batch.add_cost_limit(**limit)
    for n in range(jobs):
        for name in EACH:
            provider, _, model = name.rpartition("/")
            batch.add_job(
                prompt=f"{out} {name} {prompt.format(n=n)}",
                model=model,
                provider=provider or None,
                max_tokens=200,
                id=f"{name}-{n}",
                response_model=Capital if n else None,
            )
    return batch


def once_each(billed: list[Any]) -> dict[str, int]:
    """Kind of API -> rows that it billed, none twice."""
    twice = [key for key, n in Counter(row.body_digest for row in billed).items() if n > 1]
    assert not twice
    return Counter(row.provider for row in billed)


def test_every_create_is_lost_in_a_storm(
    provider: Sandbox, tmp_path: Path, accounts: Any, billed: Callable[[], list[Any]]
) -> None:
    """Each is found, every second row fails at first, and the limit holds until it is raised."""
    jobs, prompt = 2, "{n} [[sandbox:once errored api_error]]"
    for name in EVERYWHERE:
        provider.fault(name, "create", "status", status=429, times=4)
        provider.fault(name, operation="create", mode="drop_after", times=None)
    # Some fit under it, and not all: together they cost 0.0012, and at most 0.005.
    limit = 0.0008
    run = make(tmp_path / "out", accounts, jobs, prompt, usd=limit).run()
    assert float(sum(row.cost_usd for row in billed())) <= limit
    assert run.results()["failed"], "nothing was held back by the limit"
    run = make(tmp_path / "out", accounts, jobs, prompt, usd=1).run()
    done = {each.job_id: each for each in run.results()["completed"]}
    assert done.keys() == {f"{name}-{n}" for name in EACH for n in range(jobs)}
    for id_, result in done.items():
        assert isinstance(result.parsed_response, Capital) == id_.endswith("-1"), result
    assert sum(once_each(billed()).values()) == jobs * len(EACH)
    cost = sum(float(row.cost_usd) for row in billed())
    assert run.status()["cost_usd"] == pytest.approx(cost, abs=1e-9)


def test_killed_with_a_batch_at_each(
    forker: Forker, provider: Sandbox, tmp_path: Path, accounts: Any, billed
) -> None:
    """The next process finds what it knows nothing of, by its rows where nothing else tells."""
    chance = random.Random(20261129)
    kills = number = 0
    while kills < KILLS:
        root = tmp_path / str(number)
        root.mkdir()
        known = len(billed())
        options = {"accounts": accounts, "prices": PRICES}
        job = told(root, jobs=len(EACH), models=EACH, items_per_batch=1, options=options)
        for name in EVERYWHERE:
            provider.fault(name, operation="create", mode="drop_after")
        code = -9
        for _ in range(4):
            code, _ = forker.run(job, kill_after=chance.uniform(0.3, 1.8))
            kills += code == -9
            if code != -9 or kills >= KILLS:
                break
        if code == -9:
            code, _ = forker.run(job)
        assert code == 0, log_of(job)
        check_all_paid_once(billed()[known:], root / "out", len(EACH))
        number += 1


def test_canceled_at_the_time_limit(
    provider: Sandbox,
    tmp_path: Path,
    accounts: Any,
    billed: Callable[[], list[Any]],
    short_limits: None,
) -> None:
    """What ran by then is collected, the rest is sent by the next run, nothing is paid twice."""
    jobs = 4
    provider.limits(seconds=15)
    run = make(tmp_path / "out", accounts, jobs).add_time_limit(seconds=5).run()
    counts = run.status()
    assert counts["completed"] == len(billed())
    assert counts["completed"] < jobs * len(EACH), counts
    codes = {each.error_code for each in run.results()["failed"]}
    assert codes == {"time_limit_exceeded"}, codes
    provider.limits(seconds=0.3)
    again = make(tmp_path / "out", accounts, jobs).run()
    assert len(again.results()["completed"]) == jobs * len(EACH) == len(billed())
    once_each(billed())
