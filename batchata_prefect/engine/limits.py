"""What limits the next chunk: budgets and quotas, of the run alone and shared with others.

All are asked in the same way: `room` says what may still be sent, `claim` holds what a chunk may
take before its intent is written, and `settle` says anew what is held when a chunk has ended.
What the run holds itself is always a sum over its ledger, which the intent of a chunk is part of.

A budget is a promise: where Prefect does not answer for a shared one, nothing is bought. A quota
only saves vain tries: the provider keeps it itself, and turns away what is too much. So a quota is
kept in step while the run lives, is forgotten half an hour after its holder died, and a Prefect
that is away does not hold it up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Protocol, TypeAlias, TypeVar

from prefect import get_run_logger

from batchata_prefect.engine.retries import patiently
from batchata_prefect.engine.session import Session
from batchata_prefect.errors import StateError
from batchata_prefect.jobs.spool import Family
from batchata_prefect.models import Chunk
from batchata_prefect.money import budget, quota
from batchata_prefect.money.budget import input_share
from batchata_prefect.records.shares import QUOTA_SECONDS, Share

T = TypeVar("T")

Landed: TypeAlias = Callable[[], None]
"""To call when a chunk that was claimed for stands in the ledger, or never will."""

KEEP_SECONDS = 600.0
"""How often a living run says what it holds of a quota."""

_LIVING_SECONDS = 3 * KEEP_SECONDS


@dataclass(frozen=True, slots=True)
class Room:
    """What may still be sent; None for no bound.

    Attributes:
        usd: Upper bounds of cost in USD.
        tokens: Upper bounds of input tokens.
        whole: The tokens where nothing waits at the provider.
    """

    usd: Decimal | None = None
    tokens: int | None = None
    whole: int | None = None


class Limit(Protocol):
    """One limit of what a run sends."""

    async def room(self, family: Family, *, realtime: bool) -> Room:
        """What it leaves for the next chunk of a family.

        Raises:
            StateError: Prefect does not answer, and the limit is a promise.
        """
        ...

    async def claim(self, chunk: Chunk) -> Landed | None:
        """Hold what a chunk may take; None, and nothing, where it does not fit.

        Raises:
            StateError: Prefect does not answer, and the limit is a promise; nothing is held.
        """
        ...

    async def settle(self) -> None:
        """Say what the run holds now, and give back the rest."""
        ...


class Limits:
    """All limits of a run."""

    def __init__(self, run: Session) -> None:
        name, usd = run.settings.shared_budget, run.settings.cost_limit_usd
        shared = [SharedBudget(run, name, usd)] if name is not None and usd is not None else []
        self._quotas, self._shared = Quotas(run), shared
        # The quotas first: a promise that is claimed last is never claimed in vain.
        self._all: list[Limit] = [self._quotas, Budget(run), *shared]

    async def open(self) -> None:
        """Take up the run's parts in what is shared, with what its ledger says that it holds.

        Raises:
            StateError: Prefect does not answer, and a budget is shared.
        """
        for limit in self._shared:
            await limit.begin()
        await self._quotas.begin()

    async def room(self, family: Family, *, realtime: bool = False) -> Room:
        """The least that any limit leaves for the next chunk of a family.

        Raises:
            StateError: Prefect does not answer, and a budget is shared.
        """
        rooms = [await limit.room(family, realtime=realtime) for limit in self._all]
        return Room(
            usd=min((room.usd for room in rooms if room.usd is not None), default=None),
            tokens=min((room.tokens for room in rooms if room.tokens is not None), default=None),
            whole=min((room.whole for room in rooms if room.whole is not None), default=None),
        )

    async def claim(self, chunk: Chunk) -> Landed | None:
        """Hold what a chunk may take of every limit; None, and nothing, where one has no room.

        Raises:
            StateError: Prefect does not answer, and a budget is shared; nothing is held.
        """
        held: list[Landed] = []

        def landed() -> None:
            for each in held:
                each()

        complete = False
        try:
            for limit in self._all:
                claimed = await limit.claim(chunk)
                if claimed is None:
                    return None
                held.append(claimed)
            complete = True
        finally:
            if not complete:
                landed()
        return landed

    async def settle(self) -> None:
        """Say what the run holds now, of every limit."""
        for limit in self._all:
            await limit.settle()

    @property
    def seconds(self) -> float | None:
        """Seconds after which `keep` has something to say; None where it never has."""
        return self._quotas.seconds

    async def keep(self) -> None:
        """Tell the others that this run lives, where it is time to."""
        if self.seconds == 0:
            await self._quotas.settle()

    async def leave(self) -> None:
        """At the end of a run: what goes on at the provider is held for as long as it can."""
        await self._quotas.leave()


class Budget:
    """The run's own cost limit, and the one of its realtime requests inside it."""

    def __init__(self, run: Session) -> None:
        self._run = run

    async def room(self, family: Family, *, realtime: bool) -> Room:
        """What is neither spent nor reserved of it."""
        run = self._run
        usd = budget.room(run.ledger, run.settings.cost_limit_usd)
        if realtime:
            most = run.settings.realtime_limit_usd or Decimal(0)
            own = budget.realtime_room(run.ledger, most)
            usd = own if usd is None else min(own, usd)
        return Room(usd=usd)

    async def claim(self, chunk: Chunk) -> Landed | None:
        """Nothing: the entry in the ledger holds it, and nobody else takes of it."""
        return _nothing

    async def settle(self) -> None:
        """Nothing: the ending in the ledger gives it back."""


class SharedBudget:
    """The run's part in a cost limit that other runs share."""

    def __init__(self, run: Session, name: str, limit: Decimal) -> None:
        self._run = run
        self._share = Share(name, _owner(run), limit, self._taken)

    def _taken(self) -> Decimal:
        # The whole limit where a price is unknown.
        amount = budget.taken(self._run.ledger)
        return Decimal(self._share.limit) if amount is None else amount

    async def begin(self) -> None:
        """Say what the ledger holds.

        Raises:
            StateError: Prefect does not answer.
        """
        await _of_prefect(self._run, self._share.settle)

    async def room(self, family: Family, *, realtime: bool) -> Room:
        """What all runs together leave of it."""
        return Room(usd=await _of_prefect(self._run, self._share.room))

    async def claim(self, chunk: Chunk) -> Landed | None:
        """Hold the upper bound of a chunk."""
        # What has no known bound could take all of it.
        usd = Decimal(self._share.limit) if chunk.reserved_usd is None else chunk.reserved_usd
        if not await _of_prefect(self._run, lambda: self._share.claim(usd)):
            return None
        return lambda: self._share.landed(usd)

    async def settle(self) -> None:
        """Give back what was reserved and is not needed any more."""
        try:
            await self._share.settle()
        except StateError as error:
            # What is held too much is given back by the next settlement; too little is never held.
            get_run_logger().warning("%s", error)


class Quotas:
    """The tokens of each model that may wait at its provider, declared or learnt."""

    def __init__(self, run: Session) -> None:
        self._run = run
        self._shares: dict[tuple[str, str], Share] = {}
        self._told_at = 0.0

    async def begin(self) -> None:
        """Take up the parts of the models whose quota is known."""
        for family in self._run.spool.families():
            self._share(family.provider, family.model)
        await self.settle()

    def _share(self, provider: str, model: str) -> Share | None:
        """The run's part in the quota of a model; None where nothing is known of one."""
        run = self._run
        most = quota.limit(run.ledger, provider, model, run.settings.quota)
        if most is None:
            return None
        share = self._shares.get((provider, model))
        if share is None:
            # Not by key: several keys of one organization share its limits. Whoever names accounts
            # tells apart what has limits of its own.
            known = run.providers[provider]
            account = known.account(run.clients[provider])
            own = f" of {provider}" if known.bound is not None else ""
            name = f"enqueued tokens of {model} at {account}{own}"

            def mine() -> int:
                return quota.waiting(run.ledger, provider, model)

            share = Share(name, _owner(run), most, mine, lasts=_LIVING_SECONDS)
            self._shares[provider, model] = share
        share.limit = most
        return share

    async def room(self, family: Family, *, realtime: bool) -> Room:
        """What this run may send of a model, and all runs together."""
        share = None if realtime else self._share(family.provider, family.model)
        if share is None:
            return Room()
        ledger, names = self._run.ledger, (family.provider, family.model)
        tokens, whole = quota.room(ledger, *names, int(share.limit))
        try:
            left = await share.room()
        except StateError as error:
            get_run_logger().debug("%s", error)
        else:
            tokens = min(tokens, int(float(left) / input_share(ledger, *names)))
        return Room(tokens=tokens, whole=whole)

    async def claim(self, chunk: Chunk) -> Landed | None:
        """Hold the tokens that a chunk is likely to have."""
        share = self._shares.get((chunk.provider, chunk.model))
        if share is None or chunk.realtime:
            return _nothing
        part = input_share(self._run.ledger, chunk.provider, chunk.model)
        tokens = Decimal(ceil(chunk.input_tokens * part))
        if tokens > share.limit:
            return _nothing  # a job that is larger than all goes alone; the provider decides
        try:
            if not await share.claim(tokens):
                return None
        except StateError as error:
            get_run_logger().debug("%s", error)
            return _nothing
        return lambda: share.landed(tokens)

    async def settle(self, lasts: float = _LIVING_SECONDS) -> None:
        """Say what the run holds now, for so many seconds if nothing more is said."""
        for share in self._shares.values():
            share.lasts = lasts
            try:
                await share.settle()
            except StateError as error:
                get_run_logger().debug("%s", error)
        self._told_at = time.monotonic()

    @property
    def seconds(self) -> float | None:
        """Seconds after which a living run says again what it holds; None for never."""
        if not self._shares:
            return None
        return max(0.0, self._told_at + KEEP_SECONDS - time.monotonic())

    async def leave(self) -> None:
        """Be out of those of which nothing is held, and hold the others as long as batches last."""
        for key, share in list(self._shares.items()):
            if not share.mine():
                try:
                    await share.leave()
                except StateError as error:
                    get_run_logger().debug("%s", error)
                else:
                    del self._shares[key]
        await self.settle(QUOTA_SECONDS)


def _nothing() -> None:
    """What a limit has to do that holds nothing of its own."""


def _owner(run: Session) -> str:
    # By the records' own id: what records that were deleted have spent stays spent.
    return f"{run.settings.run_key} #{run.records.id or run.records.generation}"


async def _of_prefect(run: Session, call: Callable[[], Awaitable[T]]) -> T:
    """Have Prefect's answer; it may be away for `Pace.prefect` seconds.

    Raises:
        StateError: It is away for longer, or the run is ending.
    """
    clock = asyncio.get_running_loop().time
    began = clock()

    def after(error: Exception, failures: int) -> None:
        if not isinstance(error, StateError) or run.is_ending or clock() - began > run.pace.prefect:
            raise error
        if failures == 1:
            get_run_logger().warning("buying nothing until Prefect answers: %s", error)
        run.waiting_for = "Prefect, which keeps the shared budget"

    try:
        return await patiently(run, call, after)
    finally:
        run.waiting_for = None
