"""One run over five accounts of four kinds: faults x kills x limits, and what holds after each.

Two servers stand for five accounts, each with a key of its own; one server speaks OpenAI's API and
gives no metadata back. `make chaos N=500` runs more of them, and a number tells a scenario.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker, log_of, manifest_of, rows_of, start_until_sent, told
from tests.chaos.test_scenarios import FAULTS, ORDERS, finish, play

FIRST = int(os.environ.get("BATCHATA_CHAOS_FIRST", "0"))
CHAOS = int(os.environ.get("BATCHATA_CHAOS", "0"))
SECONDS = 0.25
JOBS = 20
KINDS = {
    "claude": "anthropic",
    "gpt": "openai",
    "fleet": "azure",
    "google": "gemini",
    "lab": "openai",
}
MODELS = {
    "claude": "claude-sonnet-5-5",
    "gpt": "gpt-6-luna",
    "fleet": "fleet",
    "google": "gemini-2.5-flash",
    "lab": "gpt-6-luna",
}
ADDRESSES = {
    "anthropic": "ANTHROPIC_BASE_URL",
    "azure": "AZURE_OPENAI_ENDPOINT",
    "gemini": "GOOGLE_GEMINI_BASE_URL",
    "openai": "OPENAI_BASE_URL",
}


def key_of(name: str) -> str:
    return f"only-{name}-has-this-key"


@dataclass(frozen=True)
class Bill:
    """One billed request: the account, and what its server says."""

    account: str
    row: Any

    def cost(self, prices: dict[str, dict[str, float]]) -> Decimal:
        rates = prices[f"{self.account}/{MODELS[self.account]}"]
        tokens = (self.row.input_tokens, rates["input"]), (self.row.output_tokens, rates["output"])
        return sum((n * Decimal(str(rate)) for n, rate in tokens), Decimal(0)) / 10**6


class Servers:
    """Where the accounts are: a server for `lab`, and one for the others."""

    def __init__(self, home: Path) -> None:
        self.many = Sandbox(home / "many", seconds=SECONDS)
        self.lab = Sandbox(home / "lab", seconds=SECONDS)
        self.both = (self.many, self.lab)

    def of(self, account: str) -> Sandbox:
        return self.lab if account == "lab" else self.many

    def accounts(self, names: list[str]) -> dict[str, dict[str, str]]:
        return {
            name: {
                "kind": KINDS[name],
                "base_url": self.of(name).environment()[ADDRESSES[KINDS[name]]],
                "api_key_env": f"KEY_OF_{name.upper()}",
            }
            for name in names
        }

    def calm(self) -> None:
        """As they are at first; what goes on there ends."""
        for box in self.both:
            box.clear_faults()
            box.limits(
                seconds=SECONDS,
                keeps_metadata=box is self.many,
                keys=[key_of(name) for name in KINDS if self.of(name) is box],
            )
            box.settle()

    def billed(self) -> list[Bill]:
        own = {kind: name for name, kind in KINDS.items() if name != "lab"}
        bills = [Bill("lab", row) for row in self.lab.ledger.billed()]
        return bills + [Bill(own[row.provider], row) for row in self.many.ledger.billed()]

    def strangers(self) -> list[str]:
        calls = [call for box in self.both for call in box.ledger.calls()]
        return [call for call in calls if call.endswith(".refused_key")]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    found = Servers(tmp_path_factory.mktemp("two"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Sandbox.start, found.both))
    yield found
    for box in found.both:
        box.stop()


@pytest.fixture
def servers(two: Servers) -> Iterator[Servers]:
    two.calm()
    yield two
    two.calm()


@pytest.fixture
def forkers(prefect_server, servers: Servers) -> Iterator[list[Forker]]:
    """Two machines, which have the keys; a stopped process outsleeps its lease."""
    keys = {f"KEY_OF_{name.upper()}": key_of(name) for name in KINDS}
    found = [Forker({"BATCHATA_LEASE_SECONDS": "2", **keys}) for _ in range(2)]
    yield found
    for forker in found:
        forker.close()


class Scenario:
    """What happens to one job set, and the bills of it alone."""

    def __init__(self, number: int, root: Path, servers: Servers) -> None:
        self.number, self.root, self.servers = number, root, servers
        self.chance = random.Random(f"mixed {number}")
        self.events: list[str] = []
        self.known = {id_of(bill) for bill in servers.billed()}
        self.prices = {
            f"{name}/{model}": {
                "input": round(self.chance.uniform(0.1, 30), 3),
                "output": round(self.chance.uniform(1, 60), 3),
            }
            for name, model in MODELS.items()
        }

    def job(self, which: str, names: list[str], **more: Any) -> dict[str, Any]:
        """What the forker is told."""
        pick = self.chance
        quota = {f"{name}/{MODELS[name]}": pick.choice([400, 2_000]) for name in names}
        options = {"accounts": self.servers.accounts(names), "prices": self.prices}
        options |= {"quota": quota if pick.random() < 0.3 else {}, **more}
        root = self.root / which
        root.mkdir()
        return told(
            root,
            run_key=str(root),
            jobs=JOBS,
            models=[f"{name}/{MODELS[name]}" for name in names],
            prompts=[f"{root} {n} {pick.random()} {pick.choice(ORDERS)}" for n in range(JOBS)],
            items_per_batch=pick.choice([1, 2, 5]),
            max_parallel_batches=pick.choice([1, 3, 10]),
            cancel=pick.choice(["collect", "detach"]),
            options=options,
        )

    def most(self) -> float:
        """About what all jobs can cost."""
        mean = sum(200 * p["input"] + 200 * p["output"] for p in self.prices.values())
        return JOBS * mean / len(self.prices) / 1e6

    def trouble(self) -> None:
        """Some faults of some accounts."""
        for _ in range(self.chance.randrange(5)):
            operation, mode, options = self.chance.choice(FAULTS)
            name = self.chance.choice([*KINDS])
            kind = KINDS[name]
            wrong = "results_not_ready" if kind in {"azure", "openai"} else "batch_failed"
            if mode == wrong or (kind == "anthropic" and mode == "no_output"):
                continue
            if kind == "anthropic" and operation == "upload":
                continue
            self.events.append(f"{name} {operation} {mode} {options}")
            rule = {"operation": operation, "mode": mode, **options}
            self.servers.of(name).fault(kind, **{"after": self.chance.randrange(2), **rule})

    def billed(self) -> list[Bill]:
        return [bill for bill in self.servers.billed() if id_of(bill) not in self.known]

    def spent(self) -> Decimal:
        return sum((bill.cost(self.prices) for bill in self.billed()), Decimal(0))

    def told(self, *jobs: dict[str, Any]) -> str:
        logs = "\n".join(Path(job["log"]).read_text()[-3000:] for job in jobs)
        return f"scenario {self.number}: {self.events}\n{logs}"


def id_of(bill: Bill) -> tuple[Any, ...]:
    row = bill.row
    return bill.account, row.batch_id, row.custom_id, row.body_digest, row.at


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(FIRST, FIRST + (CHAOS or 1)))
def test_five_accounts(
    forkers: list[Forker], servers: Servers, tmp_path: Path, number: int
) -> None:
    """Nothing is paid twice or over the limit, and every job is in one place with its cost."""
    forker, other = forkers
    scenario = Scenario(number, tmp_path, servers)
    pick = scenario.chance
    job = scenario.job("a", [*KINDS])
    limit = job["cost_limit_usd"] = pick.choice([None, scenario.most() * pick.uniform(0.1, 1.5)])
    for _ in range(pick.randrange(1, 4)):
        scenario.trouble()
        if pick.random() < 0.2:
            # Its batches will not have ended.
            job["time_limit_seconds"] = pick.uniform(1, 3)
            for box in servers.both:
                box.limits(seconds=pick.choice([SECONDS, 60]))
            scenario.events.append("a time limit")
        play(forker, other, pick.choice(servers.both), job, pick, scenario.events)
        job.pop("time_limit_seconds", None)
        for box in servers.both:
            box.limits(seconds=SECONDS)
        assert limit is None or scenario.spent() <= Decimal(limit), scenario.told(job)
    servers.calm()
    assert finish(forker, job) == 0, scenario.told(job)
    assert limit is None or scenario.spent() <= Decimal(limit), scenario.told(job)
    job["cost_limit_usd"] = None
    assert finish(forker, job) == 0, scenario.told(job)
    check(scenario, job)


def test_a_lost_create_where_no_metadata_comes_back(
    forker: Forker, servers: Servers, tmp_path: Path
) -> None:
    """Its batch is known by the name of its file, among those of the other accounts."""
    scenario = Scenario(0, tmp_path, servers)
    job = scenario.job("a", ["gpt", "lab"])
    servers.lab.fault("openai", operation="create", mode="delay", seconds=20)
    os.kill(start_until_sent(forker, servers.lab, job), signal.SIGKILL)
    forker.wait()
    servers.calm()
    assert forker.run(job)[0] == 0, scenario.told(job)
    assert "found at the provider" in log_of(job)
    check(scenario, job)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(FIRST, FIRST + CHAOS))
def test_two_runs_over_other_accounts(
    forkers: list[Forker], servers: Servers, tmp_path: Path, number: int
) -> None:
    """Of one budget, with kills: never over it, and what each account has billed is told."""
    scenario = Scenario(number, tmp_path, servers)
    pick, name = scenario.chance, str(tmp_path)
    sets = [pick.sample([*KINDS], pick.choice([1, 3])), pick.sample([*KINDS], 3)]
    jobs = [scenario.job(f"{n}", names, budget=name) for n, names in enumerate(sets)]
    limit = scenario.most() * pick.uniform(0.1, 2)
    for job in jobs:
        job["cost_limit_usd"] = limit
        # What a run that was killed held of one is forgotten after half an hour.
        job["options"]["quota"] = {}
    for _ in range(2):
        scenario.trouble()
        kills = [pick.uniform(0.2, 2.5) for _ in jobs]
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(*each) for each in zip(RUN, forkers, jobs, kills, strict=True)]
            while not all(run.done() for run in runs):
                assert scenario.spent() <= Decimal(limit), scenario.told(*jobs)
                time.sleep(0.2)
    servers.calm()
    for forker, job in zip(forkers, jobs, strict=True):
        assert finish(forker, job) == 0, scenario.told(*jobs)
    assert scenario.spent() <= Decimal(limit), scenario.told(*jobs)
    check(scenario, *jobs, limited=True)


RUN = (Forker.run, Forker.run)


def test_two_accounts_and_the_last_cents(
    forkers: list[Forker], servers: Servers, tmp_path: Path
) -> None:
    """Two runs want what one of them can have: one buys, and the other says why it does not."""
    scenario = Scenario(0, tmp_path, servers)
    for rates in scenario.prices.values():
        rates |= {"input": 0.001, "output": 10}
    jobs = [scenario.job(name, [name], budget=f"{tmp_path}") for name in ("gpt", "lab")]
    for job, box in zip(jobs, (servers.many, servers.lab), strict=True):
        # Its answer costs all that it may, so that nothing is left when it is known.
        text = f"{job['results_dir']} [[sandbox:tokens 30 1000]]"
        job |= {"jobs": 1, "prompts": [text], "max_tokens": {"0": 1000}}
        job["options"]["quota"] = {}
        job["cost_limit_usd"] = 0.015
        # Both have claimed before either is known to have bought.
        box.fault("openai", operation="create", mode="delay", when="before", seconds=1)
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda forker, job: forker.run(job)[0], forkers, jobs))
    assert codes == [0, 0], scenario.told(*jobs)
    said = sorted(str(rows_of(job)[0]["error_code"]) for job in jobs)
    assert said == ["None", "cost_limit_exceeded"], scenario.told(*jobs)
    assert len(scenario.billed()) == 1


def check(scenario: Scenario, *jobs: dict[str, Any], limited: bool = False) -> None:
    """The invariants, against the servers' own ledgers."""
    why, bills = scenario.told(*jobs), scenario.billed()
    twice = {
        k: n for k, n in Counter((b.account, b.row.body_digest) for b in bills).items() if n > 1
    }
    assert not twice, f"billed twice: {twice}\n{why}"
    assert scenario.servers.strangers() == [], why
    spent, found = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
    for bill in bills:
        spent[bill.account] += float(bill.cost(scenario.prices))
    for job in jobs:
        manifest, rows = manifest_of(job), rows_of(job)
        assert manifest["reserved_usd"] == 0, why
        assert [row["job_id"] for row in rows] == [f"job-{n}" for n in range(JOBS)], why
        for n, row in enumerate(rows):
            # Under a limit there may be nothing left for a second attempt.
            once = "[[sandbox:once" in job["prompts"][n] and not limited
            ordered = "[[" in job["prompts"][n] and not once
            said = f"{row['job_id']} {job['prompts'][n]}: {row['error_code']} {row['error']}\n{why}"
            # Three unpaid attempts may all go to faults of the provider or of a neighbour.
            unpaid = {None, "invalid_request", "batch_failed"}
            unpaid |= {"cost_limit_exceeded"} if limited else set()
            assert ordered or row["error_code"] in unpaid, said
            assert row["status"] == ("failed" if row["error_code"] else "completed"), said
            found[row["provider"]] += row["cost_usd"]
        replies = sum(manifest["counts"][each] for each in ("completed", "failed", "cancelled"))
        assert replies == manifest["counts"]["total"] == JOBS, why
    assert found == pytest.approx(spent, abs=1e-9), why
    told = sum(manifest_of(job)["cost_usd"] for job in jobs)
    assert told == pytest.approx(sum(spent.values()), abs=1e-9), why
