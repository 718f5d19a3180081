"""What runs share through the Prefect server is never held twice; a killed run leaks nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.context import AsyncClientContext
from prefect.settings import PREFECT_API_URL

from batchata_prefect.errors import StateError
from batchata_prefect.records import shares
from batchata_prefect.records.shares import Holding, Register, Share
from tests.chaos.killing import Forker

ROOT = Path(__file__).parents[2]


# ---- in simulated time, with every order of the steps


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when there is nothing to do."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()


def simulated(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


class Memory:
    """A register in memory whose calls take a random time, and may be the last of their run."""

    def __init__(self, seed: int, deadly: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.deadly = deadly
        self.rows: dict[tuple[str, str], Holding] = {}
        self.dead: set[asyncio.Task[Any] | None] = set()
        self.calls = 0

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=asyncio.get_running_loop().time())

    async def _pass(self) -> None:
        self.calls += 1
        if self.random.random() < self.deadly:
            self.dead.add(asyncio.current_task())
            await asyncio.Future()
        await asyncio.sleep(self.random.choice([0, 0, 0.01, 0.2]))

    async def read(self, name: str) -> list[Holding]:
        await self._pass()
        found = [row for (each, _), row in self.rows.items() if each == name]
        await self._pass()
        return found

    async def write(self, name: str, holding: Holding) -> None:
        await self._pass()
        self.rows[name, holding.owner] = Holding(
            holding.owner, holding.amount, holding.wanted, self._now(), holding.lasts
        )
        await self._pass()

    async def delete(self, name: str, owner: str) -> None:
        await self._pass()
        self.rows.pop((name, owner), None)


async def claim(name: str, owner: str, amount: Decimal | int, limit: Decimal | int, **how) -> bool:
    """Hold an amount in all."""
    return await Share(name, owner, limit, lambda: 0, **how).claim(amount)


async def settle(name: str, owner: str, amount: Decimal | int, **how) -> None:
    await Share(name, owner, 0, lambda: amount, **how).settle()


async def held(name: str) -> list[Holding]:
    return await Register().read(name)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    wishes=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=5),
        min_size=2,
        max_size=5,
    ),
    limit=st.integers(1, 30),
    deadly=st.sampled_from([0.0, 0.02, 0.1]),
)
def test_runs_together_never_pass_the_limit(seed, wishes, limit, deadly):
    """In any order of steps, kills and settlements, what is held and spent stays in the limit.

    And in the end each run, killed or not, holds what its ledger says.
    """

    async def all_runs() -> None:
        memory = Memory(seed, deadly)
        ledgers: dict[str, list[Decimal]] = {f"run-{n}": [] for n in range(len(wishes))}

        def total() -> Decimal:
            return sum((sum(each, Decimal(0)) for each in ledgers.values()), Decimal(0))

        async def run(owner: str, asked: list[tuple[int, int]]) -> None:
            ledger = ledgers[owner]
            share = Share("b", owner, limit, lambda: sum(ledger, Decimal(0)), register=memory)
            for bound, cost in asked:
                if not await share.claim(Decimal(bound)):
                    continue
                ledger.append(Decimal(bound))
                share.landed(Decimal(bound))
                assert total() <= limit
                await asyncio.sleep(memory.random.choice([0, 0.1, 1]))
                ledger[-1] = Decimal(min(bound, cost))
                await share.settle()

        tasks = [
            asyncio.create_task(run(owner, asked))
            for owner, asked in zip(ledgers, wishes, strict=True)
        ]
        while not all(task.done() or task in memory.dead for task in tasks):
            await asyncio.sleep(0.5)
        for task in tasks:
            if task.done():
                task.result()
        memory.deadly = 0.0
        # The killed runs go on: each says what its ledger says.
        for owner, ledger in ledgers.items():
            await settle("b", owner, sum(ledger, Decimal(0)), register=memory)
        assert sum(each.amount + each.wanted for each in memory.rows.values()) == total()
        assert total() <= limit
        left = limit - total()
        assert await claim("b", "late", left, limit, register=memory)
        assert not await claim("b", "later", 1, limit, register=memory)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    simulated(all_runs())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), runs=st.integers(2, 6))
def test_of_several_that_want_the_last_one_gets_it(seed, runs):
    """Runs that all want all that is left do not block each other: exactly one has it."""

    async def race() -> list[bool]:
        memory = Memory(seed)
        return await asyncio.gather(
            *[claim("b", f"run-{n}", 10, 10, register=memory) for n in range(runs)]
        )

    assert simulated(race()).count(True) == 1


def test_a_run_that_died_while_it_asked_blocks_nobody_for_long():
    """What a dead run only wanted is nobody's after a minute, and the next claim waits for it."""

    async def go() -> tuple[bool, float]:
        memory = Memory(1)
        wanted = Holding("dead", Decimal(0), Decimal(10), datetime.now(UTC))
        await memory.write("b", wanted)
        granted = await claim("b", "a-run", 10, 10, register=memory)
        return granted, asyncio.get_running_loop().time()

    granted, seconds = simulated(go())
    assert granted
    assert 30 <= seconds <= 90


def test_a_settlement_between_claim_and_ledger_gives_nothing_back():
    """While a claimed amount is on its way into the ledger, a settlement keeps it."""

    async def go() -> None:
        memory = Memory(1)
        ledger = [Decimal(4)]
        share = Share("b", "run", 10, lambda: sum(ledger, Decimal(0)), register=memory)
        assert await share.claim(6)
        ledger[0] = Decimal(1)
        await share.settle()
        assert not await claim("b", "other", 4, 10, register=memory)
        ledger.append(Decimal(6))
        share.landed(6)
        await share.settle()
        assert await share.room() == 3
        assert await claim("b", "other", 3, 10, register=memory)

    simulated(go())


def test_a_quota_ends_by_itself_and_a_budget_does_not():
    """What a killed run held of a quota is free after its 25 hours; of a budget it stays."""

    async def go(lasts: float | None) -> list[bool]:
        memory = Memory(1)
        await claim("q", "killed", 10, 10, lasts=lasts, register=memory)
        key = ("q", "killed")
        granted: list[bool] = []
        for hours in (24.5, 25.5):
            row = memory.rows[key]
            then = datetime.now(UTC) - timedelta(hours=hours)
            memory.rows[key] = Holding(row.owner, row.amount, row.wanted, then, row.lasts)
            granted.append(await claim("q", f"next-{hours}", 1, 10, lasts=lasts, register=memory))
        return granted

    assert simulated(go(shares.QUOTA_SECONDS)) == [False, True]
    assert simulated(go(None)) == [False, False]


def test_holding_less_needs_no_leave():
    """A run may always hold less, also where the limit is below what is held by now."""

    async def go() -> None:
        memory = Memory(1)
        assert await claim("b", "one", 8, 10, register=memory)
        assert await claim("b", "one", 5, 3, register=memory)
        assert not await claim("b", "one", 6, 3, register=memory)
        assert [each.amount for each in await memory.read("b")] == [5]

    simulated(go())


def test_a_claim_that_is_cut_short_wants_nothing_any_more():
    """A run that is canceled while it asks keeps nobody waiting for what it wanted."""

    async def go() -> None:
        memory = Memory(1)
        assert await claim("b", "one", 3, 10, register=memory)
        await memory.write("b", Holding("two", Decimal(0), Decimal(5), datetime.now(UTC)))
        asking = asyncio.create_task(claim("b", "one", 8, 10, register=memory))
        await asyncio.sleep(5)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        held = memory.rows["b", "one"]
        assert (asking.cancelled(), held.amount, held.wanted) == (True, 3, 0)

    simulated(go())


# ---- with a real Prefect server


@pytest.fixture
def name(prefect_server, tmp_path: Path) -> str:
    return f"team {tmp_path}"


def test_prefect_keeps_the_holdings(name):
    """Claims, settlements and releases are read back from the Prefect server, to the digit."""

    async def go() -> None:
        cents = Decimal("0.000000001")
        assert await claim(name, "one", cents, "10" and Decimal(10))
        assert await claim(name, "two", Decimal(10) - cents, Decimal(10))
        assert not await claim(name, "three", cents, Decimal(10))
        assert not await claim(name, "one", 2 * cents, Decimal(10))
        await settle(name, "two", Decimal("3.5"), lasts=60)
        found = {each.owner: (each.amount, each.wanted, each.lasts) for each in await held(name)}
        assert found["one"] == (cents, 0, None)
        assert found["two"] == (Decimal("3.5"), 0, 60)
        assert found["three"][:2] == (0, 0)
        for _ in range(2):
            await Share(name, "two", 10, lambda: 0).leave()
        assert {each.owner for each in await held(name)} == {"one", "three"}
        assert await held(f"{name} other") == []

    asyncio.run(go())


def test_more_runs_than_a_page_are_all_counted(name):
    """230 runs that hold one each leave nothing of a budget of 230."""

    async def go() -> None:
        register = Register()
        now = datetime.now(UTC)
        async with AsyncClientContext.get_or_create():  # one connection for all of them
            for n in range(230):
                await register.write(name, Holding(f"run {n}", Decimal(1), Decimal(0), now))
        assert len(await held(name)) == 230
        assert not await claim(name, "late", 1, 230)
        assert await claim(name, "late", 1, 231)

    asyncio.run(go())


def test_a_strange_variable_is_never_taken_for_nothing(name):
    """A record that cannot be read stops the claim: unknown is not zero."""

    async def go() -> None:
        assert await claim(name, "one", 1, 10)
        variable = shares._variable_name(name, "one")
        async with httpx.AsyncClient(base_url=PREFECT_API_URL.value()) as client:
            path = f"/variables/name/{variable}"
            (await client.patch(path, json={"value": "mine"})).raise_for_status()
        with pytest.raises(StateError, match=variable):
            await claim(name, "two", 1, 10)

    asyncio.run(go())


def test_a_prefect_that_is_away_is_an_error(name, monkeypatch):
    """Without the server nothing is granted, and the error says what that means."""
    from prefect.settings import temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(StateError, match="Nothing is bought without them"),
    ):
        asyncio.run(claim(name, "one", 1, 10))


CLAIMANT = """
import asyncio, fcntl, json, os, random, sys, time
from decimal import Decimal
from batchata_prefect.records.shares import Share

name, owner, path, limit, seconds = sys.argv[1:6]
ledger_path = f"{path}.{owner}"

def tell(event, amount):
    with open(path, "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.write(json.dumps([time.time(), owner, event, str(amount)]) + "\\n")

def write(ledger):
    with open(ledger_path + ".part", "w") as file:
        json.dump([str(each) for each in ledger], file)
    os.replace(ledger_path + ".part", ledger_path)

async def main():
    try:
        ledger = [Decimal(each) for each in json.load(open(ledger_path))]
    except FileNotFoundError:
        ledger = []
    share = Share(name, owner, Decimal(limit), lambda: sum(ledger, Decimal(0)))
    await share.settle()
    until = time.monotonic() + float(seconds)
    # Started late and killed often it has not had its turn yet; there is room when others end.
    while time.monotonic() < until or (not ledger and time.monotonic() < until + 30):
        bound = Decimal(random.randint(1, 40)) / 10
        if await share.claim(bound):
            ledger.append(bound)
            write(ledger)
            tell("holds", sum(ledger))
            share.landed(bound)
            await asyncio.sleep(random.random() * 0.02)
            # What was reserved becomes a cost that is mostly nothing, so that the room lasts.
            ledger[-1] = bound / 100 if random.random() < 0.2 else Decimal(0)
            tell("holds", sum(ledger))
            write(ledger)
            await share.settle()
        await asyncio.sleep(random.random() * 0.02)

asyncio.run(main())
"""


def test_processes_and_kills(name, tmp_path: Path):
    """Four processes, killed and begun again at random, never hold more than the limit together.

    When all are gone, what the server says is what their ledgers say.
    """
    limit, path = Decimal(6), tmp_path / "log"
    rng = random.Random(7)
    forkers = [Forker({}) for _ in range(4)]

    def start(n: int, seconds: float) -> int:
        return forkers[n].start_python("-c", CLAIMANT, name, f"run-{n}", path, limit, seconds)

    processes = [start(n, 5) for n in range(4)]
    until = time.monotonic() + 5
    kills = 0
    while time.monotonic() < until or kills < 4:
        time.sleep(rng.uniform(0.3, 1.0))
        if not path.exists():
            continue
        n = rng.randrange(4)
        # On a busy machine it may have come to its own end.
        with suppress(ProcessLookupError):
            os.kill(processes[n], signal.SIGKILL)
            kills += 1
        forkers[n].wait()
        processes[n] = start(n, 2)
    for forker in forkers:
        assert forker.wait_python().returncode == 0
        forker.close()

    holds: dict[str, Decimal] = {}
    most = Decimal(0)
    for line in path.read_text().splitlines():
        _, owner, _, amount = json.loads(line)
        holds[owner] = Decimal(amount)
        most = max(most, sum(holds.values()))
    assert most <= limit
    assert most > limit / 2
    said = {each.owner: each.amount for each in asyncio.run(held(name))}
    for n in range(4):
        ledger = json.loads((tmp_path / f"log.run-{n}").read_text())
        assert said[f"run-{n}"] == sum(map(Decimal, ledger), Decimal(0))
