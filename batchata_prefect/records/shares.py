"""Amounts that several runs share through the Prefect server: named budgets and quotas.

Each run keeps one Prefect Variable for each name, and no other run writes to it. In it stands all
that the run holds: of a budget what it has spent and reserved, of a quota what it has in flight.
Both are computed from the run's ledger, so that a run that was killed says the same again when it
goes on, and nothing has to be given back by a process that is gone.

A run that wants more first says so in its own record, and then looks at the records of the others:
of any two runs, at least one sees what the other wants, so that together they never hold more than
the limit, without a lock. (Prefect's concurrency limits cannot be held for the hours of a batch,
and by default a restart of its server leaks their slots for good: prefect.server.concurrency,
`lease_storage`.) What is wanted and not yet held counts for the others as well, for a minute: a run
that dies in between does not block them for longer.

What a killed run held of a quota ends by itself when no batch of it can be in flight any more. What
it held of a budget stays, because the money may have been spent: until its run goes on, or a person
deletes the Variable.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from batchata_prefect.errors import StateError
from batchata_prefect.records import variables

Amount: TypeAlias = "int | Decimal"
"""USD, or tokens."""

QUOTA_SECONDS = 25 * 3600.0
"""How long a quota is held without a word of its holder: a provider gives a batch up after 24 h
[both Batch API guides]; the rest is for clocks."""

_WANTED_SECONDS = 60.0
"""For so long the others reckon with what a run wants, by the clock of the server."""

_DECIDE_SECONDS = 15.0
"""A run that has not decided for so long says again what it wants."""

_PATIENCE_SECONDS = 90.0
"""How long a run waits for others to decide; those that died in between are out of the way then."""

_ASKING_SECONDS = 20.0
_HEAD = "batchata-shared"
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Holding:
    """What one run holds of a name.

    Attributes:
        owner: The run.
        amount: What it holds.
        wanted: What it wants besides and was not granted yet.
        updated: When it said so, by the clock of the server.
        lasts: Seconds after which it ends by itself; None for never.
    """

    owner: str
    amount: Decimal
    wanted: Decimal
    updated: datetime
    lasts: float | None = None

    def is_over(self, now: datetime) -> bool:
        """Whether it has ended by itself."""
        return self.lasts is not None and now - self.updated > timedelta(seconds=self.lasts)


class Register:
    """Holdings as Prefect Variables, where a person finds them in the UI.

    There is one writer for each pair of name and owner.
    """

    async def read(self, name: str) -> list[Holding]:
        """All holdings of a name: whatever was written before the call is in it.

        Raises:
            StateError: Prefect does not answer, or a Variable of ours holds something else.
        """
        async with _asking():
            found = await variables.headed(f"{_HEAD}-{_digest(name)}-")
        return [_parsed(variable) for variable in found]

    async def write(self, name: str, holding: Holding) -> None:
        """Put the owner's holding in place of its former one; `updated` is the server's.

        Raises:
            StateError: Prefect does not answer; whether it was written is not known.
        """
        value = {
            "name": name[:_LONGEST_TEXT],
            "owner": holding.owner,
            "amount": str(holding.amount),
            "wanted": str(holding.wanted),
            "lasts": holding.lasts,
        }
        async with _asking():
            await variables.put(_variable_name(name, holding.owner), value)

    async def delete(self, name: str, owner: str) -> None:
        """Remove the owner's Variable, if there is one."""
        async with _asking():
            await variables.drop(_variable_name(name, owner))


@asynccontextmanager
async def _asking() -> AsyncGenerator[None]:
    """Ask Prefect, for as long as that is no trouble.

    Raises:
        StateError: It does not answer, or with an error.
    """
    try:
        async with asyncio.timeout(_ASKING_SECONDS):
            yield
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise StateError(
            f"the shared budgets and quotas cannot be read or written at the Prefect server "
            f"({text}). Nothing is bought without them; what is in flight goes on and is kept. "
            "Run again when the server answers"
        ) from error


def _parsed(variable: dict[str, Any]) -> Holding:
    try:
        value = variable["value"]
        return Holding(
            owner=str(value["owner"]),
            amount=Decimal(value["amount"]),
            wanted=Decimal(value["wanted"]),
            updated=datetime.fromisoformat(variable["updated"]),
            lasts=value["lasts"],
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        # Whatever it held, it is not nothing.
        raise StateError(
            f"the Prefect variable {variable.get('name')!r} is not what this package wrote there; "
            "nothing is bought. Delete it if what it stood for is over, and run again"
        ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _variable_name(name: str, owner: str) -> str:
    return f"{_HEAD}-{_digest(name)}-{_digest(owner)}"


@dataclass(slots=True)
class Share:
    """One run's part in one name; all that a run does with it goes through here.

    The order is: `claim`, write the intent, put the entry into the ledger, `landed`; and `settle`
    after each ending. In between `claim` and `landed` the amount counts although the ledger does
    not have it yet, so that a `settle` at that moment does not give it back.

    Attributes:
        name: The budget or quota.
        owner: The run and its generation: records of another generation are money as well.
        limit: What all runs together may hold.
        mine: What the ledger says that this run holds now.
        lasts: Seconds after which the holding ends by itself; None for never.
        register: Where the holdings stand.
    """

    name: str
    owner: str
    limit: Amount
    mine: Callable[[], Amount]
    lasts: float | None = None
    register: Register = field(default_factory=Register)
    _ahead: Amount = 0
    # One task at a time: the register has one writer for an owner.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.owner = self.owner[:_LONGEST_TEXT]

    async def room(self) -> Decimal:
        """What is left of the limit now, at least 0; others may be faster than a claim of it.

        Raises:
            StateError: Prefect does not answer.
        """
        now = datetime.now(UTC)
        taken = sum(
            (
                each.amount + each.wanted
                for each in await self.register.read(self.name)
                if each.owner != self.owner and not each.is_over(now)
            ),
            Decimal(0),
        )
        return max(Decimal(0), Decimal(self.limit) - taken - self._all())

    async def claim(self, more: Amount) -> bool:
        """Hold `more` besides what the ledger says, if all runs together stay within the limit.

        Returns:
            Whether it is held now. If not, the run holds what it held before.

        Raises:
            StateError: Prefect does not answer. The run may hold there what it asked for.
        """
        async with self._turn:
            granted = await self._claim(self._all() + Decimal(more))
            if granted:
                self._ahead += more
            return granted

    def landed(self, amount: Amount) -> None:
        """Say that an amount that was claimed stands in the ledger now, or never will."""
        self._ahead -= amount

    async def settle(self) -> None:
        """Say what this run holds now, whatever the limit is; what is so, is so.

        Raises:
            StateError: Prefect does not answer; the next settlement makes up for it.
        """
        async with self._turn:
            await self._say(self._all())

    async def leave(self) -> None:
        """Take the run out of the name: it holds nothing, and its Variable is gone.

        Raises:
            StateError: Prefect does not answer.
        """
        await self.register.delete(self.name, self.owner)

    def _all(self) -> Decimal:
        return Decimal(self.mine() + self._ahead)

    async def _say(self, amount: Decimal, wanted: Decimal = Decimal(0)) -> None:
        holding = Holding(self.owner, amount, wanted, datetime.now(UTC), self.lasts)
        await self.register.write(self.name, holding)

    async def _claim(self, wanted: Decimal) -> bool:
        """Hold an amount in all, where there is room for it."""
        every = await self.register.read(self.name)
        before = next((each.amount for each in every if each.owner == self.owner), Decimal(0))
        if wanted <= before:
            # To hold less needs nobody's leave.
            await self._say(wanted)
            return True
        clock = asyncio.get_running_loop().time
        deadline = clock() + _PATIENCE_SECONDS
        tries = 0
        while True:
            asked_at = clock()
            await self._say(before, wanted - before)
            try:
                answer = await self._decide(wanted, asked_at)
            except BaseException:
                await asyncio.shield(self._say(before))
                raise
            if answer == "granted":
                await self._say(wanted)
                return True
            await self._say(before)
            if answer == "refused" or clock() > deadline:
                return False
            tries += 1
            await asyncio.sleep(min(0.05 * 2**tries, 2.0) * random.uniform(0.5, 1.5))  # noqa: S311

    async def _decide(self, wanted: Decimal, asked_at: float) -> str:
        """`granted`, `refused`, or `crowded` where only what others want is in the way.

        Of several that want what is left, the first by name waits for the others to step back, so
        that one of them always gets on.
        """
        clock = asyncio.get_running_loop().time
        while clock() - asked_at < _DECIDE_SECONDS:
            every = await self.register.read(self.name)
            mine = next((each for each in every if each.owner == self.owner), None)
            if mine is None:
                return "crowded"  # a person deleted it; what it says is said again
            others = [e for e in every if e.owner != self.owner and not e.is_over(mine.updated)]
            taken = sum((each.amount for each in others), Decimal(0))
            if taken + wanted > self.limit:
                return "refused"
            rivals = [
                each
                for each in others
                if each.wanted > 0
                and mine.updated - each.updated < timedelta(seconds=_WANTED_SECONDS)
            ]
            if taken + wanted + sum((e.wanted for e in rivals), Decimal(0)) <= self.limit:
                # After a sleep of the machine the others might not reckon with it any more.
                slow = clock() - asked_at > _DECIDE_SECONDS + _ASKING_SECONDS
                return "crowded" if slow else "granted"
            if any(each.owner < self.owner for each in rivals):
                return "crowded"
            await asyncio.sleep(0.05)
        return "crowded"
