"""The start of a run: own it, learn from the records what was bought, take up what is in flight.

One process alone works on a run: the kernel's lock says so here, and the lease everywhere.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO
from uuid import uuid4

from prefect import get_run_logger
from prefect.settings import get_current_settings

from batchata_prefect.engine.deliver import last_words
from batchata_prefect.engine.download import reach
from batchata_prefect.engine.endings import take_in
from batchata_prefect.engine.finish import read_manifest
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import MissingCredentialsError, StateError, ValidationError, one_line
from batchata_prefect.files import make_folder, sweep_partial
from batchata_prefect.jobs.bounds import refuse_unbound
from batchata_prefect.jobs.spool import ANSWERED, IN_FLIGHT, sweep
from batchata_prefect.jobs.spool.renamed import Renamed
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import NEVER_SENT, Start
from batchata_prefect.providers import price_book, providers
from batchata_prefect.providers.accounts import IDENTITY
from batchata_prefect.records.lease import Lease
from batchata_prefect.records.note import Note, read_note, write_note
from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records
from batchata_prefect.results.ended import Words
from batchata_prefect.results.remote import put_note

_LOCK_LOOK_SECONDS = 0.5


@asynccontextmanager
async def owning(run: Session) -> AsyncGenerator[bool]:
    """Be the only process that works on this run; False where it was told to stop before.

    Raises:
        StateError: Another process owns it and the run shall not wait.
    """
    settings = run.settings
    make_folder(run.own_dir)
    (run.own_dir / "lock").touch(0o600)
    with (run.own_dir / "lock").open("ab") as lock:
        if not await _lock(run, lock):
            yield False
            return
        sweep(run.own_dir)
        files = (run.answer_file(""), run.reply_file(""), run.request_file(""))
        for folder in (run.results_dir, run.own_dir, *(file.parent for file in files)):
            sweep_partial(folder)
        run.records = Records(await storage_at(settings.state), settings.run_key)
        lease = Lease(run.records, run.pace.lease)
        try:
            if not await _own(run, lease):
                yield False
                return
            run.lease = lease
            yield True
        finally:
            run.lease = None
            with suppress(StateError):
                await lease.release()


async def _own(run: Session, lease: Lease) -> bool:
    """Wait for the lease; False where the run was told to stop before.

    Raises:
        StateError: Another process owns it and the run shall not wait, or the storage has failed
            for `Pace.retry_longest` seconds.
    """
    clock = asyncio.get_running_loop().time
    failing_since: float | None = None
    while True:
        try:
            owner = await lease.attempt()
        except StateError as error:
            failing_since = clock() if failing_since is None else failing_since
            if clock() - failing_since > run.pace.retry_longest:
                raise
            get_run_logger().warning("the records cannot be reached yet: %s", error)
            run.waiting_for = f"its records, which cannot be reached: {one_line(error)}"
            owner = None
        else:
            if owner is None or failing_since is not None:
                failing_since = run.waiting_for = None
            if owner is None:
                return True
        if owner is not None:
            _wait_for(run, owner)
        await run.pause(min(1.0, run.pace.lease / 10))
        if run.is_ending:
            return False


def _wait_for(run: Session, owner: str) -> None:
    """Wait for another process, or refuse to.

    Raises:
        StateError: The run shall not wait.
    """
    what = f"the job set {run.settings.run_key!r} in {str(run.results_dir)!r}"
    if run.settings.if_running == "fail":
        raise StateError(
            f"{owner} is running {what}. Nothing was sent. Wait for it, cancel it, or run with "
            "if_running='wait'"
        ) from None
    if run.waiting_for is None:
        get_run_logger().warning("%s is running %s; waiting for it", owner, what)
    run.waiting_for = f"{owner}, which runs this job set"


async def _lock(run: Session, lock: BinaryIO) -> bool:
    """Hold the kernel lock of the results directory, which goes with its holder however it dies.

    Raises:
        StateError: Another process holds it and the run shall not wait.
    """
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for(run, "another process")
        else:
            run.waiting_for = None
            return True
        await run.pause(_LOCK_LOOK_SECONDS)
        if run.is_ending:
            return False


@asynccontextmanager
async def connected(run: Session) -> AsyncGenerator[None]:
    """Connect to the providers that the jobs need, and hang up at the end."""
    try:
        for family in run.spool.families():
            await reach(run, family.provider)
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
    await note_records(run, sent=bool(run.ledger))
    if run.deliveries is not None:
        await run.deliveries.begin(ended)


async def _read_records(run: Session) -> dict[int, Words]:
    """Sequence of each ended chunk -> of which jobs it has the last word."""
    settings = run.settings
    start = await run.records.start()
    await asyncio.to_thread(refuse_other_records, run)
    if start is None or not settings.reuse_state:
        run.started_at = datetime.now(UTC)
        new = Start(
            settings.run_key,
            run.started_at,
            settings.results_dir,
            _addresses(run),
            dict(settings.credentials),
            uuid4().hex,
        )
        await run.records.begin(new, afresh=start is not None)
        await run.records.write_accounts(settings.accounts)
        return {}
    run.started_at = start.started_at
    renamed = await _take_over_accounts(run)
    await read_ledger(run)
    ended: dict[int, Words] = {}
    strangers = 0
    for entry, ordinals in zip(run.ledger, run.members, strict=True):
        run.spool.states.move(ordinals, IN_FLIGHT)
        strangers += ordinals.count(-1)
        if entry.ending is None:
            flight = Flight(entry, ordinals)
            run.flights[entry.chunk.sequence] = flight
            # No job of today may need its provider.
            await _reconnect(run, entry.chunk.provider)
        else:
            await take_in(run, entry, ordinals, resumed=True)
            if (words := last_words(run, entry, ordinals)) is not None:
                ended[entry.chunk.sequence] = words
    await _stay(run, start)
    _refuse_renamed(run, renamed)
    await run.records.write_accounts(run.settings.accounts)
    run.started_at = await asyncio.to_thread(_begun, run)
    run.spent_before = budget.spent(run.ledger)
    run.resumed = run.spool.states.counts[ANSWERED]
    if run.ledger:
        get_run_logger().info(
            "resuming: %s of %s jobs are answered, %d provider batches are in flight%s",
            f"{run.resumed:,}",
            f"{run.spool.count:,}",
            len(run.flights),
            f"; {strangers:,} requests were of jobs that were changed or are gone"
            if strangers
            else "",
        )
    return ended


async def read_ledger(run: Session) -> None:
    """Have the ledger in memory, and know which jobs of today are in its chunks."""
    renamed = Renamed(run.spool)
    async for entry, intent in run.records.ledger():
        ordinals = await run.alone(run.spool.locate, intent.members)
        sequence = len(run.ledger)
        run.ledger.append(entry)
        run.members.append(ordinals)
        await run.alone(
            renamed.note, sequence, intent.members, intent.requests, ordinals, entry.ending
        )
    await run.alone(renamed.find, run.members)


def _addresses(run: Session) -> dict[str, str]:
    """Base URL of each provider that is connected."""
    return {name: run.providers[name].account(client) for name, client in run.clients.items()}


async def _stay(run: Session, start: Start) -> None:
    """Go on only where each provider is at the address that its batches were sent to.

    Raises:
        StateError: One is at another today.
    """
    known, today = await run.records.addresses(start), _addresses(run)
    for name, address in today.items():
        if known.get(name, address) != address:
            raise StateError(
                f"{run.settings.results_dir!r} was begun with {name} at {known[name]}, and "
                f"now {name} is at {address}: what is in flight there cannot be reached from here. "
                "Set the base URL back, use another results_dir, or start over with "
                "set_state(reuse_state=False). Nothing was sent"
            )
        run.prices.located(name, address)
    if not today.keys() <= known.keys():
        await run.records.write_addresses({**known, **today})


async def _reconnect(run: Session, name: str) -> None:
    """Connect to where a batch of an earlier start is in flight.

    Raises:
        MissingCredentialsError: Its key is gone.
        StateError: Its account is gone, and the environment's own provider has the name, too.
    """
    try:
        await reach(run, name)
    except MissingCredentialsError as error:
        raise MissingCredentialsError(
            f"{error}. A batch of an earlier start is in flight at {name}, which only the key of "
            "that account can collect"
        ) from error
    if run.providers[name].bound != run.provider(name).bound:
        raise StateError(
            f"{run.settings.results_dir!r} has a batch in flight at the account {name!r}, which is "
            f"not given any more; {name} of the environment may not reach it. Give the account "
            "again, or start over with set_state(reuse_state=False). Nothing was sent"
        )


def _refuse_renamed(run: Session, renamed: Mapping[str, str]) -> None:
    """Stop where jobs that were bought have another account's name only, and would be paid again.

    Raises:
        StateError: It is so.
    """
    for entry in run.ledger:
        before = entry.chunk.provider
        if (today := renamed.get(before)) is None or (
            entry.ending is not None and entry.ending.status in NEVER_SENT
        ):
            continue
        raise StateError(
            f"{run.settings.results_dir!r} has bought answers of the account {before!r}, which is "
            f"called {today!r} today: its jobs are other ones then, and all would be paid again. "
            f"Call it {before!r} again, or give both names where both are meant, or start over "
            "with set_state(reuse_state=False). Nothing was sent"
        )


async def _take_over_accounts(run: Session) -> dict[str, str]:
    """Know the accounts of earlier runs too, whose batches may be in flight.

    Returns:
        Names that are gone -> the new name of the same endpoint, with the same login.

    Raises:
        StateError: One of them is another endpoint today.
    """
    records, today = run.records, run.settings.accounts
    known = await records.accounts()
    for name, table in today.items():
        before = known.get(name, table)
        changed = [each for each in ("kind", "base_url") if before.get(each) != table.get(each)]
        if changed:
            raise StateError(
                f"{run.settings.results_dir!r} was begun with another {' and '.join(changed)} of "
                f"the account {name!r}: what is in flight there cannot be reached from here. Set "
                "it back, give the new endpoint another name, or start over with "
                "set_state(reuse_state=False). Nothing was sent"
            )
    if (merged := {**known, **today}) != today:
        run.settings = run.settings.but(accounts=merged)
        # What is in flight there is paid by the list, where its account is.
        run.prices = price_book(run.settings.prices, known=providers(merged))
    return {
        old: new
        for old in known.keys() - today.keys()
        for new in today.keys() - known.keys()
        if all(known[old].get(each) == today[new].get(each) for each in IDENTITY)
    }


def _begun(run: Session) -> datetime:
    """When today's job set was begun, from which its time limit counts.

    A job file that comes every night has the same records, and a limit of its own each night: what
    was begun after the last job set was finished is another one.
    """
    manifest = read_manifest(run.results_dir)
    if manifest is None or manifest.get("records") != run.records.id:
        return run.started_at
    begun = datetime.fromisoformat(manifest["started_at"])
    if manifest["status"] != "completed" or manifest["job_set"] == run.spool.digest:
        return begun
    # By their place: the clock of a provider is not that of the manifest.
    later = run.ledger[manifest["ledger"][1] :]
    return min((entry.since for entry in later), default=datetime.now(UTC))


def refuse_other_records(run: Session) -> None:
    """Stop when what lies in the results directory is of other records: all would be paid again.

    Raises:
        ValidationError: The note or the manifest there names records that are not these.
        StateError: The note cannot be read.
    """
    records, settings = run.records, run.settings
    note = read_note(run.results_dir)
    if note is None or not note.records:
        note = _note_of(read_manifest(run.results_dir))
    if note is None or not note.sent or not settings.reuse_state:
        return
    if records.ids if not note.records else note.records in records.ids:
        return
    keys = note.run_key, settings.run_key
    give = [f"run_key={note.run_key!r}"] if keys[0] != keys[1] else []
    if note.state is not None:
        give.append(f"set_state({note.state!r})")
    raise ValidationError(
        f"{settings.results_dir!r} holds what a run with the key {note.run_key!r} has sent, whose "
        f"records are at {note.location}; the records for {keys[1]!r} at {records.location} are "
        + ("of another run" if records.ids else "not there")
        + ". Nothing was sent, or all would be paid again. Give "
        + (" and ".join(give) or "the storage of those records")
        + ", or bring the records back to where they were, or use another results_dir; or start "
        "over with set_state(reuse_state=False), which pays for all again"
    )


def _note_of(manifest: dict[str, Any] | None) -> Note | None:
    """What a manifest says of the records that it was made from."""
    if manifest is None:
        return None
    sent = manifest["ledger"][1] > 0
    key, location = manifest["run_key"], manifest["state"]
    return Note(key, None, manifest.get("records", ""), location, sent)


async def note_records(run: Session, *, sent: bool) -> None:
    """Say in the results directory where the records are; before anything is sent.

    Raises:
        StateError: It cannot be written, there or at the URL of the results.
    """
    records, settings = run.records, run.settings
    default = get_current_settings().results.default_storage_block
    state = settings.state or records.state or default
    note = Note(settings.run_key, state, records.id, records.location, sent)
    try:
        if await asyncio.to_thread(read_note, run.results_dir) != note:
            await asyncio.to_thread(write_note, run.results_dir, note)
    except OSError as error:
        raise StateError(
            f"where the records are cannot be noted in {settings.results_dir!r}: {error.strerror}. "
            "Nothing was sent; make room and run again"
        ) from error
    if sent and settings.results_url is not None:
        await asyncio.to_thread(put_note, settings.results_url, run.results_dir)
