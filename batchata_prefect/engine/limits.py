"""A run's parts in what several runs share through the Prefect server: its budget, its quotas.

A budget is a promise: where Prefect does not answer, nothing is bought. A quota only saves vain
tries: the provider keeps it itself, and turns away what is too much. So a quota is kept in step
while the run lives, is forgotten half an hour after its holder died, and a Prefect that is away
does not hold it up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import TypeVar

from prefect import get_run_logger

from batchata_prefect.engine.retries import patiently
from batchata_prefect.engine.session import Session
from batchata_prefect.errors import StateError
from batchata_prefect.models import Chunk
from batchata_prefect.money import budget, quota
from batchata_prefect.money.observed import input_share
from batchata_prefect.records.shares import QUOTA_SECONDS, Share, release

T = TypeVar("T")

KEEP_SECONDS = 600.0
"""How often a living run says what it holds of a quota."""

_LIVING_SECONDS = 3 * KEEP_SECONDS


async def open_shares(run: Session) -> None:
    """Take up the run's parts, with what its ledger says that it holds.

    Raises:
        StateError: Prefect does not answer, and the run has a shared budget.
    """
    limit, name = run.settings.cost_limit_usd, run.settings.shared_budget
    if name is not None and limit is not None:
        run.share = Share(name, _owner(run), limit, lambda: _known(run, limit))
        await _of_prefect(run, run.share.settle)
    for family in run.spool.families():
        most = quota.limit(run.ledger, family.provider, family.model, run.settings.quota)
        if most is not None:
            _quota_share(run, family.provider, family.model, most)
    await settle_quotas(run)


def _owner(run: Session) -> str:
    assert run.records is not None
    # By the records' own id: what records that were deleted have spent stays spent.
    return f"{run.settings.run_key} #{run.records.id or run.records.generation}"


def _known(run: Session, limit: Decimal) -> Decimal:
    """What is taken of the budget; the whole limit where a price is unknown."""
    amount = budget.taken(run.ledger)
    return limit if amount is None else amount


def _quota_share(run: Session, provider: str, model: str, most: int) -> Share:
    """The run's part in the quota of a model."""
    share = run.quota_shares.get((provider, model))
    if share is None:
        # Not by key: several keys of one organization share its limits.
        account = run.providers[provider].account(run.clients[provider])
        name = f"enqueued tokens of {model} at {account}"

        def mine() -> int:
            return quota.waiting(run.ledger, provider, model)

        share = Share(name, _owner(run), most, mine, lasts=_LIVING_SECONDS)
        run.quota_shares[provider, model] = share
    share.limit = most
    return share


async def room_usd(run: Session) -> Decimal | None:
    """USD that may still be reserved, also by the other runs of a shared budget.

    Raises:
        StateError: Prefect does not answer, and the budget is shared.
    """
    room = budget.room(run.ledger, run.settings.cost_limit_usd)
    if run.share is None or room is None:
        return room
    return min(room, await _of_prefect(run, run.share.room))


async def room_tokens(run: Session, provider: str, model: str, most: int) -> tuple[int, int]:
    """Upper bounds of input tokens that may still be sent of a model, with a quota of `most`.

    Returns:
        The room now, and the room that there is when nothing waits.
    """
    room, whole = quota.room(run.ledger, provider, model, most)
    share = _quota_share(run, provider, model, most)
    try:
        left = await share.room()
    except StateError as error:
        get_run_logger().debug("%s", error)
        return room, whole
    part = input_share(run.ledger, provider, model)
    return min(room, int(float(left) / part)), whole


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed for a chunk: parts and amounts, as they were reckoned then."""

    parts: tuple[tuple[Share, Decimal], ...]

    def landed(self) -> None:
        """The chunk stands in the ledger now, or never will."""
        for share, amount in self.parts:
            share.landed(amount)


async def claim(run: Session, chunk: Chunk) -> Claim | None:
    """Hold what a chunk may take of what is shared; None, and nothing, where it does not fit.

    Raises:
        StateError: Prefect does not answer, and the budget is shared.
    """
    parts: list[tuple[Share, Decimal]] = []
    quota_share = run.quota_shares.get((chunk.provider, chunk.model))
    if quota_share is not None and not chunk.realtime:
        part = input_share(run.ledger, chunk.provider, chunk.model)
        tokens = Decimal(ceil(chunk.input_tokens * part))
        try:
            # A job that is larger than all goes alone; the provider decides.
            if tokens <= quota_share.limit and not await quota_share.claim(tokens):
                Claim(tuple(parts)).landed()
                return None
        except StateError as error:
            get_run_logger().debug("%s", error)
        else:
            if tokens <= quota_share.limit:
                parts.append((quota_share, tokens))
    budget_share = run.share
    if budget_share is not None:
        # What has no known bound could take all of it.
        usd = Decimal(budget_share.limit) if chunk.reserved_usd is None else chunk.reserved_usd
        granted = False
        try:
            granted = await _of_prefect(run, lambda: budget_share.claim(usd))
        finally:
            if not granted:
                Claim(tuple(parts)).landed()
        if not granted:
            return None
        parts.append((budget_share, usd))
    return Claim(tuple(parts))


async def settle_shares(run: Session) -> None:
    """Give back what was reserved and is not needed any more."""
    if run.share is not None:
        try:
            await run.share.settle()
        except StateError as error:
            # What is held too much is given back by the next settlement; too little is never held.
            get_run_logger().warning("%s", error)
    await settle_quotas(run)


async def settle_quotas(run: Session, lasts: float = _LIVING_SECONDS) -> None:
    """Say what the run holds of its quotas now.

    Args:
        run: The session.
        lasts: Seconds after which that is over, if nothing more is said.
    """
    for share in run.quota_shares.values():
        share.lasts = lasts
        try:
            await share.settle()
        except StateError as error:
            get_run_logger().debug("%s", error)
    run.quotas_told = time.monotonic()


async def leave_shares(run: Session) -> None:
    """At the end of a run: what goes on at the provider is held for as long as it can go on."""
    for share in list(run.quota_shares.values()):
        if not share.mine():
            try:
                await release(share.name, share.owner)
            except StateError as error:
                get_run_logger().debug("%s", error)
            else:
                del run.quota_shares[next(k for k, v in run.quota_shares.items() if v is share)]
    await settle_quotas(run, QUOTA_SECONDS)


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
