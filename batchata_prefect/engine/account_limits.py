"""What all runs and workers together may do at one provider account.

The limits stand at the Prefect server as global concurrency limits, where a person sees and changes
them (*Concurrency* in the UI, `prefect gcl`), and a change counts from the next batch on:

- `batchata-<provider>-batches@<account>`: provider batches in flight. Who holds how many is told as
  shared quotas are (`shared`), and not by Prefect's slots: a batch runs for hours, of which its run
  may sleep through most, and slots cannot be held so long.
- `batchata-<provider>-creates@<account>`: batches created, with a slot decay. What was used comes
  back by the clock, so nobody has to be alive to give it back.

A run of a deployment makes those that are missing; any other run keeps to those that are there.
They save vain calls and keep a fleet in order, and never hold up a run whose Prefect is away: money
is kept by the budget alone.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists

from batchata_prefect.engine.session import AccountLimits, Flight, Session
from batchata_prefect.errors import one_line

_CALL_SECONDS = 20.0
_LONGEST_SECONDS = 30.0
_LOCKED = 423
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Defaults:
    """The limits that are made for an account.

    Attributes:
        batches: Provider batches in flight.
        creates: Batches that may be created at once after a pause.
        per_second: Batches that may be created a second in the long run.
    """

    batches: int
    creates: int
    per_second: float


DEFAULTS = {
    # 1,000 calls a minute at least [Claude docs, rate limits], and polls want some of them.
    "anthropic": Defaults(batches=100, creates=100, per_second=8.0),
    # 2,000 creations an hour [OpenAI Batch API guide]: 60 and then 0.53 a second stay below.
    "openai": Defaults(batches=100, creates=60, per_second=0.53),
}


def account_of(run: Session, provider: str) -> str:
    """What names an account: its credentials block, or the host that is called."""
    block = run.settings.credentials.get(provider)
    if block is not None:
        return block.replace("/", ".")
    return urlsplit(run.providers[provider].account(run.clients[provider])).netloc


async def find_limits(run: Session) -> None:
    """Learn which limits there are for the accounts of this run, and make those of a deployment.

    Where Prefect does not answer there are none.
    """
    try:
        async with asyncio.timeout(_CALL_SECONDS), get_client() as client:
            there = await _names(client)
            for provider in run.providers:
                account = account_of(run, provider)
                batches = f"batchata-{provider}-batches@{account}"
                creates = f"batchata-{provider}-creates@{account}"
                if run.around_id is not None and provider in DEFAULTS:
                    told = DEFAULTS[provider]
                    if batches not in there:
                        await _make(client, batches, told.batches)
                    if creates not in there:
                        await _make(client, creates, told.creates, told.per_second)
                    there |= {batches, creates}
                run.account_limits[provider] = AccountLimits(
                    batches if batches in there else None, creates if creates in there else None
                )
    except Exception as error:
        get_run_logger().debug("the account's limits are not known (%s)", one_line(error))


async def _names(client: PrefectClient) -> set[str]:
    """Names of all global concurrency limits; one call for nearly everybody."""
    names: set[str] = set()
    while True:
        page = await client.read_global_concurrency_limits(limit=_PAGE, offset=len(names))
        names |= {limit.name for limit in page}
        if len(page) < _PAGE:
            return names


async def _make(client: PrefectClient, name: str, limit: int, decay: float | None = None) -> None:
    values: dict[str, Any] = {"name": name, "limit": limit}
    if decay is not None:
        values["slot_decay_per_second"] = decay
    with suppress(ObjectAlreadyExists):
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(**values))
        get_run_logger().info("made the global concurrency limit %r of %d", name, limit)


async def batches_limit(run: Session, provider: str) -> int | None:
    """How many batches of the provider all runs may have in flight now; None for no limit.

    It is read anew each time: a person may have changed it, or switched it off.
    """
    limits = run.account_limits.get(provider)
    if limits is None or limits.batches is None:
        return None
    try:
        async with asyncio.timeout(_CALL_SECONDS), get_client() as client:
            found = await client.read_global_concurrency_limit_by_name(limits.batches)
    except Exception as error:
        get_run_logger().debug("%s cannot be read (%s)", limits.batches, one_line(error))
        return None
    return found.limit if found.active else None


async def take_turn(run: Session, flight: Flight) -> None:
    """Wait until the account may create one more batch, or the run is ending."""
    limits = run.account_limits.get(flight.entry.chunk.provider)
    if limits is None or limits.creates is None:
        return
    told = False
    while not (run.is_ending or run.is_realtime):
        try:
            async with asyncio.timeout(_CALL_SECONDS), get_client() as client:
                await client.increment_concurrency_slots([limits.creates], 1, "rate_limit")
        except Exception as error:
            response = getattr(error, "response", None)
            if getattr(response, "status_code", None) != _LOCKED:
                get_run_logger().debug("%s cannot be kept (%s)", limits.creates, one_line(error))
                break
            if not told:
                get_run_logger().info("waiting for its turn: %s", limits.creates)
                told = True
            flight.waiting_for = f"its turn by {limits.creates!r}"
            await run.pause(_seconds(response))
        else:
            break
    flight.waiting_for = None


def _seconds(response: Any) -> float:
    """Seconds after which the server says that a slot is free."""
    try:
        return min(max(float(response.headers["Retry-After"]), 0.1), _LONGEST_SECONDS)
    except (KeyError, ValueError):
        return 1.0
