"""The start of a run: learn from the records what was bought, and take up what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from prefect import get_run_logger

from batchata_prefect.engine.deliver import last_words
from batchata_prefect.engine.endings import take_in
from batchata_prefect.engine.finish import job_ids, read_manifest
from batchata_prefect.engine.limits import open_shares
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.jobs.bounds import refuse_unbound
from batchata_prefect.jobs.spool import ANSWERED, IN_FLIGHT
from batchata_prefect.money.ledger import Entry, Start
from batchata_prefect.providers import provider_for
from batchata_prefect.records.credentials import load_keys
from batchata_prefect.results.ended import Words


@asynccontextmanager
async def connected(run: Session) -> AsyncGenerator[None]:
    """Connect to the providers that the jobs need, and hang up at the end."""
    run.keys |= await load_keys(run.settings.credentials)
    for family in run.spool.families():
        if family.provider not in run.clients:
            provider = provider_for(family.model, family.provider)
            run.providers[family.provider] = provider
            key = run.keys.get(family.provider)
            run.clients[family.provider] = await asyncio.to_thread(provider.connect, key)
    try:
        for name, client in run.clients.items():
            run.prices.located(name, run.providers[name].account(client))
        refuse_unbound(run.spool, run.prices, *run.settings.limits)
        yield
    finally:
        for client in run.clients.values():
            await client.close()
        run.clients.clear()


async def recover(run: Session) -> None:
    """Learn from the records what is bought already, and take up what is in flight.

    Raises:
        StateError: The records cannot be read, or are of another account.
        ValidationError: The records or the results are of another job set.
    """
    ended = await _read_records(run)
    if run.deliveries is not None:
        await run.deliveries.begin(ended)
    await open_shares(run)


async def _read_records(run: Session) -> dict[int, Words]:
    """Sequence of each ended chunk -> of which jobs it has the last word."""
    settings = run.settings
    assert run.records is not None
    start = await run.records.start()
    accounts = {name: run.providers[name].account(run.clients[name]) for name in run.clients}
    if start is None and settings.reuse_state:
        _refuse_moved(run)
    if start is None or not settings.reuse_state:
        run.started_at = datetime.now(UTC)
        new = Start(
            settings.run_key,
            run.started_at,
            settings.results_dir,
            accounts,
            dict(settings.credentials),
        )
        await run.records.begin(new, afresh=start is not None)
        return {}
    run.started_at = start.started_at
    for name, account in accounts.items():
        if start.accounts.get(name, account) != account:
            raise StateError(
                f"{settings.results_dir!r} was begun with {name} at {start.accounts[name]}, and "
                f"now {name} is at {account}: what is in flight there cannot be reached from here. "
                "Set the base URL back, use another results_dir, or start over with "
                "set_state(reuse_state=False). Nothing was sent"
            )
    ended: dict[int, Words] = {}
    strangers = 0
    async for entry, members in run.records.ledger():
        ordinals = await run.alone(run.spool.locate, members)
        run.ledger.append(entry)
        run.members.append(ordinals)
        run.spool.states.move(ordinals, IN_FLIGHT)
        strangers += ordinals.count(-1)
        if entry.ending is None:
            flight = Flight(entry, ordinals)
            run.flights[entry.chunk.sequence] = flight
            await _connect_for(run, entry)
        else:
            await take_in(run, entry, ordinals, resumed=True)
            if (words := last_words(run, entry, ordinals)) is not None:
                ended[entry.chunk.sequence] = words
    _refuse_strangers(run, strangers)
    run.resumed = run.spool.states.counts[ANSWERED]
    if run.ledger:
        get_run_logger().info(
            "resuming: %s of %s jobs are answered, %d provider batches are in flight",
            f"{run.resumed:,}",
            f"{run.spool.count:,}",
            len(run.flights),
        )
    return ended


async def _connect_for(run: Session, entry: Entry) -> None:
    """Connect to the provider of a batch in flight that no job of today needs."""
    name = entry.chunk.provider
    if name not in run.clients:
        run.providers[name] = provider_for(entry.chunk.model, name)
        key = run.keys.get(name)
        run.clients[name] = await asyncio.to_thread(run.providers[name].connect, key)


def _refuse_moved(run: Session) -> None:
    """Stop when the results lie here and their records do not: all would be paid again.

    Raises:
        ValidationError: The manifest in `results_dir` is of a run whose records are not found.
    """
    manifest = read_manifest(run.results_dir)
    if manifest is None or run.records is None:
        return
    raise ValidationError(
        f"{run.settings.results_dir!r} holds the results of a run with the key "
        f"{manifest['run_key']!r} and its records at {manifest['state']}, but there are no records "
        f"for {run.settings.run_key!r} at {run.records.location}. Nothing was sent, or all would "
        "be paid again. Give that run_key and state, use another results_dir, or start over "
        "with set_state(reuse_state=False)"
    )


def _refuse_strangers(run: Session, strangers: int) -> None:
    """Stop when the records are of another job set altogether.

    Raises:
        ValidationError: None of the recorded jobs is among today's.
    """
    recorded = sum(entry.chunk.count for entry in run.ledger)
    if recorded and strangers == recorded and not run.spool.overlap(job_ids(run.results_dir)):
        raise ValidationError(
            f"{run.settings.results_dir!r} holds the results of another job set: none of its "
            f"{recorded:,} jobs is among today's {run.spool.count:,}. Nothing was sent. Use "
            "another results_dir, or start over there with set_state(reuse_state=False)"
        )
