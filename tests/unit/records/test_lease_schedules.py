"""The lease under every schedule: two or three owners, writes that take any time, and pauses.

Each storage call and each look at the clock is a step, and hypothesis chooses whose step is next,
when a write that is under way lands, and how time goes on. Whoever trusts its lease sends; two
that trust theirs at one moment would pay twice.
"""

from __future__ import annotations

import os
import random
from collections.abc import Coroutine, Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchata_prefect.records import lease as subject
from batchata_prefect.records.lease import Lease, Moment
from batchata_prefect.records.store import Records, TakenOverError

SECONDS = 10.0
SCHEDULES = int(os.environ.get("BATCHATA_LEASE_SCHEDULES", "200"))
"""Long schedules at random; `make chaos` tries 5,000."""


class World:
    """A storage and the clocks of its users, moved on step by step."""

    def __init__(self, *, first: bool) -> None:
        self.first = first
        self.now = 1000.0
        self.files: dict[str, dict[str, Any]] = {}


class Step:
    """Where a process waits until the schedule lets it go on."""

    def __await__(self) -> Generator[Step, None, None]:
        yield self


class SteppedRecords(Records):
    """Records in memory whose calls take two steps: to the storage, and back."""

    def __init__(self, world: World) -> None:
        self.run_key, self.generation = "key", 0
        self.creates_first = world.first
        self.world = world

    @property
    def location(self) -> str:
        return "memory"

    async def read(self, key: str) -> dict[str, Any] | None:
        await Step()
        found = self.world.files.get(key)
        await Step()
        return found

    async def write(self, key: str, values: dict[str, Any]) -> None:
        await Step()
        self.world.files[key] = values
        await Step()

    async def create(self, key: str, values: dict[str, Any]) -> bool:
        if not self.world.first:
            if await self.read(key) is None:
                await self.write(key, values)
            return await self.read(key) == values
        await Step()
        made = self.world.files.setdefault(key, values) == values
        await Step()
        return made


class Process:
    """One process that wants to own the run, owns it for a while, and gives it back."""

    def __init__(self, world: World, number: int) -> None:
        self.lease = Lease(SteppedRecords(world), SECONDS)
        self.number = number
        self.world = world
        self.owned = self.over = False
        self.wants_back = False
        self._work: Coroutine[Any, Any, None] = self._live()
        self.step()

    async def _live(self) -> None:
        try:
            while await self.lease.attempt() is not None:
                await Step()
            self.owned = True
            while not self.wants_back:
                await self.lease.renew()
                await Step()
        except TakenOverError:
            pass
        self.owned = False
        await self.lease.release()

    @property
    def sends(self) -> bool:
        """Whether it would send a create at this moment."""
        return self.owned and not self.lease.has_run_out

    def step(self) -> None:
        """Go on to the next wait."""
        if not self.over:
            try:
                self._work.send(None)
            except StopIteration:
                self.over = True

    def close(self) -> None:
        """Be killed."""
        self._work.close()


def play(world: World, processes: list[Process], moves: list[tuple[str, int]]) -> int:
    """Do the moves; the number of times that somebody owned the run."""
    owners = 0
    for kind, which in moves:
        process = processes[which % len(processes)]
        if kind == "step":
            before = process.owned
            for _ in range(1 + which // len(processes)):
                process.step()
            owners += process.owned and not before
        elif kind == "time":
            world.now += which
        elif kind == "back":
            process.wants_back = True
        senders = [each.number for each in processes if each.sends]
        assert len(senders) <= 1, f"{senders} would send at {world.now}"
    for process in processes:
        process.close()
    return owners


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Clocks of the world, and a sleep that is a step."""

    async def sleep(_seconds: float) -> None:
        await Step()

    # No process of this test is dead, and each is on a machine of its own.
    monkeypatch.setattr(subject, "_machine", lambda: None)
    monkeypatch.setattr(subject.asyncio, "sleep", sleep)
    return monkeypatch


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(0, 30)),
        st.tuples(st.just("time"), st.sampled_from([1, 3, 7, 11, 41])),
        st.tuples(st.just("back"), st.integers(0, 2)),
    ),
    max_size=120,
)


@pytest.mark.parametrize("first", [True, False], ids=["creates first", "overwrites"])
def test_never_two_that_send(stepped: pytest.MonkeyPatch, first: bool) -> None:
    """Whatever the order of steps, writes and time: at most one process trusts its lease."""

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(2, 3), MOVES)
    def check(many: int, moves: list[tuple[str, int]]) -> None:
        world = World(first=first)
        stepped.setattr(Moment, "now", classmethod(lambda cls: cls(world.now, world.now)))
        play(world, [Process(world, n) for n in range(many)], moves)

    check()


@pytest.mark.parametrize("first", [True, False], ids=["creates first", "overwrites"])
def test_never_two_that_send_at_random(stepped: pytest.MonkeyPatch, first: bool) -> None:
    """The same with many long schedules, which are full of takeovers."""
    owners = 0
    for seed in range(SCHEDULES):
        pick = random.Random(seed)
        world = World(first=first)
        stepped.setattr(
            Moment, "now", classmethod(lambda cls, world=world: cls(world.now, world.now))
        )
        processes = [Process(world, n) for n in range(pick.choice([2, 3]))]
        slow = pick.randrange(len(processes))
        moves = []
        for _ in range(200):
            which = pick.randrange(len(processes))
            if which == slow and pick.random() < 0.7:
                which = (which + 1) % len(processes)
            kind = pick.choices(["step", "time", "back"], [12, 2, 0.1])[0]
            if kind == "time":
                moves.append((kind, pick.choice([1, 2, 4, 11])))
            else:
                moves.append((kind, which + len(processes) * pick.choice([0, 0, 1, 5, 12])))
        owners += play(world, processes, moves)
    assert owners > SCHEDULES, "schedules in which nobody owns the run show nothing"
