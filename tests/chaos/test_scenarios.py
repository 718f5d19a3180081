"""Random scenarios: faults x kills x interrupts x restarts x budgets, and what holds after each.

`make chaos N=500` runs more of them; a scenario is told by its number alone and can be repeated
with `BATCHATA_CHAOS_FIRST=<number> make chaos N=1`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import EVERYWHERE, Forker, told

FIRST = int(os.environ.get("BATCHATA_CHAOS_FIRST", "0"))
SCENARIOS = int(os.environ.get("BATCHATA_CHAOS", "6"))
SECONDS = 0.25
JOBS = 18
FAULTS: list[tuple[Any, str, dict[str, Any]]] = [
    ("create", "drop_before", {}),
    ("create", "drop_after", {}),
    ("create", "status", {"status": 500}),
    ("create", "status", {"status": 529}),
    ("create", "status", {"status": 500, "commit": True}),
    ("create", "status", {"status": 429, "headers": {"retry-after": "0.2"}}),
    ("create", "garbage", {}),
    ("create", "garbage", {"commit": True}),
    ("create", "delay", {"seconds": 0.5}),
    ("upload", "drop_before", {}),
    ("upload", "drop_after", {}),
    ("retrieve", "status", {"status": 503, "times": 3}),
    ("retrieve", "status", {"status": 404, "times": 2}),
    ("retrieve", "drop_after", {}),
    ("retrieve", "unknown_status", {"times": 2}),
    ("list", "status", {"status": 500}),
    ("list", "garbage", {}),
    (None, "list_lag", {"seconds": 0.3}),
    (None, "create_404", {"seconds": 0.3}),
    (None, "truncate", {}),
    (None, "truncate", {"at": "byte"}),
    (None, "truncate", {"at": "reset"}),
    (None, "results_not_ready", {"times": 2}),
    (("results", "content"), "status", {"status": 500, "times": 2}),
    (None, "no_output", {"times": 2}),
    (None, "no_output", {"times": 9, "counts": False}),
    (None, "batch_expired", {}),
    (None, "batch_failed", {"code": "invalid_request", "line": 2, "message": "bad line"}),
    (None, "batch_failed", {}),
]
ORDERS = [
    "",
    "",
    "",
    "",
    "[[sandbox:once errored api_error]]",
    "[[sandbox:errored invalid_request_error]]",
    "[[sandbox:errored api_error]]",
    "[[sandbox:expired]]",
    "[[sandbox:refusal]]",
]


@dataclass
class Scenario:
    """What happens to one job set.

    Attributes:
        number: Tells the whole scenario.
        chance: What it is drawn with.
        root: Its folder.
        home: Prefect's folder of the processes: working copies of results at a URL.
        events: What happened, for a person.
        known: Batches of earlier scenarios.
        left: Batches that were left behind by starting over.
        overs: Times that it was started over.
        changed: Whether its jobs were changed.
    """

    number: int
    chance: random.Random
    root: Path
    home: Path
    known: frozenset[str]
    events: list[str] = field(default_factory=list)
    left: frozenset[str] = frozenset()
    overs: int = 0
    changed: bool = False

    def job(self) -> dict[str, Any]:
        """What the forker is told."""
        pick, root = self.chance, self.root
        place = root / "out"
        run = pick.choice([{}, {}, {"canary": 3, "min_valid": 0.0}])
        return {
            **told(root, run_key=str(root), jobs=JOBS),
            "results_dir": pick.choice([str(place), str(place), f"file://{place}"]),
            "fsync_seconds": pick.choice([0, 0, 0, 0.05]),
            "models": [*EVERYWHERE.values()],
            "numbers": list(range(JOBS)),
            "items_per_batch": pick.choice([3, 5, 9]),
            "max_parallel_batches": pick.choice([1, 2, 10]),
            "prompts": [self.prompt(n) for n in range(JOBS)],
            "max_tokens": {str(n): pick.choice([200, 200, 300, 900]) for n in range(2 * JOBS)},
            "cost_limit_usd": pick.choice([None, None, 0.012, 0.03]),
            "cancel": pick.choice(["collect", "detach"]),
            "run": run,
        }

    def prompt(self, n: int) -> str:
        """What a job asks, and what the sandbox does to it."""
        return f"Scenario {self.root}: {n}, {self.chance.random()} {self.chance.choice(ORDERS)}"

    def place(self, job: dict[str, Any]) -> Path:
        """Where the results lie, also those at a URL."""
        return Path(job["results_dir"].removeprefix("file://"))

    def change(self, job: dict[str, Any]) -> None:
        """Edit, remove, add or reorder jobs between two starts; all of it, some of it, or none."""
        pick, numbers = self.chance, job["numbers"]
        if pick.random() < 0.5:
            return
        self.changed = True
        for n in pick.sample(numbers, pick.choice([0, 1, 3, len(numbers)])):
            job["prompts"][n] = self.prompt(n)
        for n in pick.sample(numbers, pick.randrange(4)):
            numbers.remove(n)
        for _ in range(pick.randrange(3)):
            job["prompts"].append(self.prompt(len(job["prompts"])))
            numbers.insert(pick.choice([0, len(numbers)]), len(job["prompts"]) - 1)
        if pick.random() < 0.3:
            pick.shuffle(numbers)
        job["jobs"] = len(numbers)
        self.events.append(f"jobs {numbers}")

    def batches(self, provider: Sandbox) -> frozenset[str]:
        """The provider's batches by now."""
        return frozenset(batch.id for batch in provider.ledger.batches())

    def start_over(self, provider: Sandbox, job: dict[str, Any]) -> None:
        """Have the next start begin anew, now and then."""
        job["reuse_state"] = self.chance.random() > 0.15
        if not job["reuse_state"]:
            self.left, self.overs = self.batches(provider), self.overs + 1
            self.events.append("starting over")

    def move(self, forker: Forker, provider: Sandbox, job: dict[str, Any]) -> None:
        """Move the records, the results, or this machine: refused where all would be paid again."""
        what = self.chance.choice(["nothing", "nothing", "records", "results", "machine"])
        at_url = job["results_dir"].startswith("file:")
        note = self.place(job) / ("run.json" if at_url else ".batchata/run.json")
        told = orjson.loads(note.read_bytes()) if note.exists() else {"sent": False}
        if what == "machine" and at_url:
            # The next process finds no working copy.
            shutil.rmtree(self.home / "batchata", ignore_errors=True)
        elif what in {"records", "results"} and told["sent"]:
            moved = dict(job)
            if what == "records":
                moved["state"] = str(self.root / f"elsewhere-{len(self.events)}")
            else:
                place = self.root / f"out-{len(self.events)}"
                self.place(job).rename(place)
                moved["results_dir"] = f"file://{place}" if at_url else str(place)
                moved.pop("run_key", None)
            before = self.batches(provider)
            code = finish(forker, moved | {"reuse_state": True})
            assert code == 1, f"{what}: {self.told(job)}"
            assert self.batches(provider) == before, self.told(job)
            if what == "results":
                job["results_dir"] = moved["results_dir"]
        else:
            return
        self.events.append(f"moved: {what}")

    def billed(self, provider: Sandbox, *, left: bool = True) -> list[Any]:
        """What the provider billed, with or without what was left behind."""
        # No scenario calls directly; another test with this provider may have.
        out = {None, *(self.known if left else self.known | self.left)}
        return [row for row in provider.ledger.billed() if row.batch_id not in out]

    def told(self, job: dict[str, Any]) -> str:
        """The scenario for a person."""
        return f"scenario {self.number}: {self.events}\n{Path(job['log']).read_text()[-3000:]}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def forkers(provider: Sandbox, home: Path) -> Iterator[list[Forker]]:
    """Two machines, each with a place of its own; a stopped process outsleeps its lease."""
    environment = {"BATCHATA_LEASE_SECONDS": "2", **provider.environment()}
    homes = [home, home.with_name("other-home")]
    found = [Forker({"PREFECT_HOME": str(each), **environment}) for each in homes]
    yield found
    for forker in found:
        forker.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(FIRST, FIRST + SCENARIOS))
def test_scenario(
    forkers: list[Forker], provider: Sandbox, home: Path, tmp_path: Path, number: int
) -> None:
    """Nothing is paid twice or over the limit, no paid answer is lost, and the counts add up."""
    forker, other = forkers
    pick = random.Random(number)
    known = frozenset(batch.id for batch in provider.ledger.batches())
    scenario = Scenario(number, pick, tmp_path, home, known)
    job = scenario.job()
    clock, metadata = pick.choice([0, 0, -7200, 7200]), pick.random() < 0.8
    provider.limits(clock_seconds=clock, keeps_metadata=metadata)
    scenario.events.append(f"its clock is {clock} s ahead, metadata {metadata}")
    for start in range(pick.randrange(1, 4)):
        if start:
            scenario.change(job)
            scenario.move(forker, provider, job)
            scenario.start_over(provider, job)
        for _ in range(pick.randrange(3)):
            operation, mode, options = pick.choice(FAULTS)
            name = pick.choice([*EVERYWHERE])
            wrong = "results_not_ready" if name in {"azure", "openai"} else "batch_failed"
            if mode == wrong:
                continue
            if operation == "upload" or mode == "no_output":
                name = pick.choice(["azure", "gemini", "openai"])
            scenario.events.append(f"{name} {operation} {mode} {options}")
            provider.fault(
                name,
                **{"operation": operation, "mode": mode, "after": pick.randrange(2), **options},
            )
        play(forker, other, provider, job, pick, scenario.events)
        check_budget(provider, job, scenario)
    provider.clear_faults()
    job["reuse_state"] = True
    code = finish(forker, job)
    assert code == 0, scenario.told(job)
    check_budget(provider, job, scenario)
    if job["cost_limit_usd"] is not None:
        job["cost_limit_usd"] = None
        assert finish(forker, job) == 0, scenario.told(job)
    check(provider, job, scenario)


def play(
    forker: Forker,
    other: Forker,
    provider: Sandbox,
    job: dict[str, Any],
    pick: random.Random,
    events: list[str],
) -> None:
    """One run with one blow: a kill, a pause, a restart of the provider, or none."""
    blow = pick.choice(
        ["kill", "kill", "interrupt", "terminate", "provider", "none", "pause", "overtake"]
    )
    after = pick.uniform(0.1, 2.0)
    events.append(f"{blow} after {after:.2f} s")
    if blow == "none":
        forker.run(job, kill_after=20)
        return
    pid = forker.start(job)
    time.sleep(after)
    if blow == "provider":
        provider.kill()
        provider.start()
        forker_end(forker, pid, 20)
        return
    if blow in {"pause", "overtake"}:
        pause(forker, other, job, pid, overtake=blow == "overtake", seconds=pick.uniform(0.5, 4))
        return
    number = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
    try:
        os.kill(pid, number[blow])
    except ProcessLookupError:
        events.append("which was over")
    forker_end(forker, pid, 20)


def pause(
    forker: Forker,
    other: Forker,
    job: dict[str, Any],
    pid: int,
    *,
    overtake: bool,
    seconds: float,
) -> None:
    """Stop a run for a while, in which another machine may take it over, and let it go on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    if overtake:
        beside = {**job, "results_dir": f"{job['results_dir']}-beside", "reuse_state": True}
        forker_end(other, other.start(beside), 20)
    else:
        time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    forker_end(forker, pid, 20)


def forker_end(forker: Forker, pid: int, seconds: float) -> int:
    """Wait for a run, and kill it when it takes too long."""
    import threading

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        return forker.wait()
    finally:
        timer.cancel()


def finish(forker: Forker, job: dict[str, Any]) -> int:
    """Run to the end without any blow."""
    return forker_end(forker, forker.start(job), 60)


def check_budget(provider: Sandbox, job: dict[str, Any], scenario: Scenario) -> None:
    """What was billed never passes the limit, at no moment."""
    if job["cost_limit_usd"] is not None:
        billed = sum(row.cost_usd for row in scenario.billed(provider, left=False))
        assert float(billed) <= job["cost_limit_usd"], scenario.told(job)


def check(provider: Sandbox, job: dict[str, Any], scenario: Scenario) -> None:
    """The invariants, against the provider's own ledger."""
    told, place = scenario.told(job), scenario.place(job)
    billed = scenario.billed(provider)
    most = 1 + scenario.overs
    twice = {k: n for k, n in Counter(row.body_digest for row in billed).items() if n > most}
    assert not twice, f"billed twice: {twice}\n{told}"
    rows = [orjson.loads(line) for line in (place / "results.jsonl").open("rb")]
    assert [row["job_id"] for row in rows] == [f"job-{n}" for n in job["numbers"]], told
    assert {row["status"] for row in rows} <= {"completed", "failed"}, told
    for row, n in zip(rows, job["numbers"], strict=True):
        prompt = job["prompts"][n]
        why = f"{row['job_id']} {prompt!r}: {row['error_code']} {row['error']}\n{told}"
        if "[[" not in prompt or "[[sandbox:once" in prompt:
            # Three unpaid attempts may all go to faults of the provider or of a neighbour.
            unpaid = {"invalid_request", "batch_failed"}
            assert row["status"] == "completed" or row["error_code"] in unpaid, why
        else:
            assert row["status"] == "failed", why
            assert row["error_code"], why
    manifest = orjson.loads((place / "manifest.json").read_bytes())
    ours = {batch["batch_id"] for batch in manifest["batches"]}
    mine = [row for row in billed if row.batch_id in ours]
    assert scenario.overs or mine == billed, told
    cost = float(sum(row.cost_usd for row in mine))
    assert manifest["cost_usd"] == pytest.approx(cost, abs=1e-9), told
    assert manifest["reserved_usd"] == 0, told
    counts = Counter(row["status"] for row in rows)
    assert manifest["counts"] == {"total": job["jobs"], "cancelled": 0, **counts}, told
    check_nothing_lost(mine, rows, place, scenario, told)


def check_nothing_lost(
    mine: list[Any], rows: list[dict[str, Any]], place: Path, scenario: Scenario, told: str
) -> None:
    """Every billed reply is on disk, and every answer is in the results or in the archive once.

    Replies also where another machine has put them that took the run over.
    """
    replies = {
        row.get("custom_id") or row["key"]
        for path in scenario.root.glob("*/raw_files/responses/*.jsonl")
        for line in path.open("rb")
        if not line.isspace()
        for row in [orjson.loads(line)]
    }
    lost = [row.custom_id for row in mine if row.custom_id not in replies]
    assert not lost, f"paid replies are not there: {lost}\n{told}"
    archive = place / "archive.jsonl"
    kept = [orjson.loads(line) for line in archive.open("rb")] if archive.exists() else []
    answers = [(row["job_id"], row["batch_id"]) for row in (*rows, *kept) if row["batch_id"]]
    assert len(answers) == len(set(answers)), told
    if not scenario.changed:
        assert not kept, told
        cost = float(sum(row.cost_usd for row in mine))
        assert sum(row["cost_usd"] for row in rows) == pytest.approx(cost, abs=1e-9), told
        paid_rows = sum(1 for row in rows if row["cost_usd"])
        assert paid_rows == len(mine), f"{paid_rows} rows cost, {len(mine)} were billed\n{told}"
