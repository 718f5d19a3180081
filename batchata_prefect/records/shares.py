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
from typing import Any, Protocol, TypeAlias

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


class Register(Protocol):
    """Where the holdings stand. One writer for each pair of name and owner."""

    async def read(self, name: str) -> list[Holding]:
        """All holdings of a name: whatever was written before the call is in it."""
        ...

    async def write(self, name: str, holding: Holding) -> None:
        """Put the owner's holding in place of its former one; `updated` is the server's."""
        ...

    async def delete(self, name: str, owner: str) -> None:
        """Remove the owner's holding, if there is one."""
        ...


class PrefectRegister:
    """Holdings as Prefect Variables, where a person finds them in the UI."""

    async def read(self, name: str) -> list[Holding]:
        """All holdings of a name.

        Raises:
            StateError: Prefect does not answer, or a Variable of ours holds something else.
        """
        async with _asking():
            found = await variables.headed(f"{_HEAD}-{_digest(name)}-")
        return [_parsed(variable) for variable in found]

    async def write(self, name: str, holding: Holding) -> None:
        """Put the owner's holding in place of its former one.

        Raises:
            StateError: Prefect does not answer; whether it was written is not known.
        """
        value = {
            "name": name[:_LONGEST_TEXT],
            "owner": holding.owner[:_LONGEST_TEXT],
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
    return f"{_HEAD}-{_digest(name)}-{_digest(owner[:_LONGEST_TEXT])}"


async def held(name: str, *, register: Register | None = None) -> list[Holding]:
    """What all runs hold of a name, without what has ended by itself.

    Raises:
        StateError: Prefect does not answer.
    """
    now = datetime.now(UTC)
    return [each for each in await _register(register).read(name) if not each.is_over(now)]


async def claim(
    name: str,
    owner: str,
    amount: Amount,
    limit: Amount,
    *,
    lasts: float | None = None,
    register: Register | None = None,
) -> bool:
    """Hold `amount` in all of a name, if with what the others hold it stays within the limit.

    Only one task in one process may claim or settle for an owner at a time; see `Share`.

    Args:
        name: The budget or quota.
        owner: The run that claims; the same after a restart.
        amount: All that the run will hold, not only what is added.
        limit: What all runs together may hold.
        lasts: Seconds after which the holding ends by itself; None for never.
        register: Where the holdings stand; Prefect's Variables by default.

    Returns:
        Whether it is held now. If not, the run holds what it held before.

    Raises:
        StateError: Prefect does not answer. The run may hold what it asked for.
    """
    owner = owner[:_LONGEST_TEXT]
    room = _register(register)
    wanted, most = Decimal(amount), Decimal(limit)
    before = next((e.amount for e in await room.read(name) if e.owner == owner), Decimal(0))
    if wanted <= before:
        # To hold less needs nobody's leave.
        await room.write(name, _holding(owner, wanted, lasts=lasts))
        return True
    clock = asyncio.get_running_loop().time
    deadline = clock() + _PATIENCE_SECONDS
    tries = 0
    while True:
        asked_at = clock()
        await room.write(name, _holding(owner, before, wanted - before, lasts=lasts))
        try:
            answer = await _decide(room, name, owner, wanted, most, asked_at)
        except BaseException:
            await asyncio.shield(room.write(name, _holding(owner, before, lasts=lasts)))
            raise
        if answer == "granted":
            await room.write(name, _holding(owner, wanted, lasts=lasts))
            return True
        await room.write(name, _holding(owner, before, lasts=lasts))
        if answer == "refused" or clock() > deadline:
            return False
        tries += 1
        await asyncio.sleep(min(0.05 * 2**tries, 2.0) * random.uniform(0.5, 1.5))  # noqa: S311


async def _decide(
    room: Register, name: str, owner: str, wanted: Decimal, limit: Decimal, asked_at: float
) -> str:
    """`granted`, `refused`, or `crowded` where only what others want is in the way.

    Of several that want what is left, the first by name waits for the others to step back, so
    that one of them always gets on.
    """
    clock = asyncio.get_running_loop().time
    while clock() - asked_at < _DECIDE_SECONDS:
        every = await room.read(name)
        mine = next((each for each in every if each.owner == owner), None)
        if mine is None:
            return "crowded"  # a person deleted it; what it says is said again
        others = [e for e in every if e.owner != owner and not e.is_over(mine.updated)]
        taken = sum((each.amount for each in others), Decimal(0))
        if taken + wanted > limit:
            return "refused"
        rivals = [
            each
            for each in others
            if each.wanted > 0 and mine.updated - each.updated < timedelta(seconds=_WANTED_SECONDS)
        ]
        if taken + wanted + sum((each.wanted for each in rivals), Decimal(0)) <= limit:
            # After a sleep of the machine the others might not reckon with it any more.
            slow = clock() - asked_at > _DECIDE_SECONDS + _ASKING_SECONDS
            return "crowded" if slow else "granted"
        if any(each.owner < owner for each in rivals):
            return "crowded"
        await asyncio.sleep(0.05)
    return "crowded"


async def settle(
    name: str,
    owner: str,
    amount: Amount,
    *,
    lasts: float | None = None,
    register: Register | None = None,
) -> None:
    """Say that a run holds `amount` in all now, whatever the limit is; what is so, is so.

    Raises:
        StateError: Prefect does not answer. The run holds there what it held before.
    """
    holding = _holding(owner[:_LONGEST_TEXT], Decimal(amount), lasts=lasts)
    await _register(register).write(name, holding)


async def release(name: str, owner: str, *, register: Register | None = None) -> None:
    """Take a run out of a name: it holds nothing, and its Variable is gone.

    Raises:
        StateError: Prefect does not answer.
    """
    await _register(register).delete(name, owner)


def _holding(
    owner: str, amount: Decimal, wanted: Decimal = Decimal(0), *, lasts: float | None
) -> Holding:
    return Holding(owner, amount, wanted, datetime.now(UTC), lasts)


def _register(register: Register | None) -> Register:
    return register or PrefectRegister()


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
        register: Where the holdings stand; Prefect's Variables by default.
    """

    name: str
    owner: str
    limit: Amount
    mine: Callable[[], Amount]
    lasts: float | None = None
    register: Register | None = None
    _ahead: Amount = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def room(self) -> Decimal:
        """What is left of the limit now, at least 0; others may be faster than a claim of it.

        Raises:
            StateError: Prefect does not answer.
        """
        others = [e for e in await held(self.name, register=self.register) if e.owner != self._key]
        taken = sum((each.amount + each.wanted for each in others), Decimal(0))
        return max(Decimal(0), Decimal(self.limit) - taken - Decimal(self.mine() + self._ahead))

    async def claim(self, more: Amount) -> bool:
        """Hold `more` besides what the ledger says; False, and nothing, where it does not fit.

        Raises:
            StateError: Prefect does not answer.
        """
        async with self._turn:
            total = self.mine() + self._ahead + more
            granted = await claim(
                self.name,
                self.owner,
                total,
                self.limit,
                lasts=self.lasts,
                register=self.register,
            )
            if granted:
                self._ahead += more
            return granted

    def landed(self, amount: Amount) -> None:
        """Say that an amount that was claimed stands in the ledger now, or never will."""
        self._ahead -= amount

    async def settle(self) -> None:
        """Say what this run holds now.

        Raises:
            StateError: Prefect does not answer; the next settlement makes up for it.
        """
        async with self._turn:
            total = self.mine() + self._ahead
            await settle(self.name, self.owner, total, lasts=self.lasts, register=self.register)

    @property
    def _key(self) -> str:
        return self.owner[:_LONGEST_TEXT]
