"""What a job set has at the providers, told from its records alone: for whoever has lost the run.

Needs no jobs and no Prefect flow: a results directory or a run key, and the API keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchata_prefect.errors import MissingCredentialsError, ProviderError, StateError
from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.ledger import Entry, Receipt, Start, claimed
from batchata_prefect.providers import Ours, Provider, provider_for, providers
from batchata_prefect.providers.failures import Failure, classify
from batchata_prefect.providers.lists import Found
from batchata_prefect.records.credentials import connect
from batchata_prefect.records.lease import Lease
from batchata_prefect.records.note import Note, read_note
from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records
from batchata_prefect.results.remote import bring_told, is_url, normal, working_folder
from batchata_prefect.views.status import BatchStatus

_LEASE_SECONDS = 60.0
"""How long another process's lease is respected."""

_LAG = timedelta(seconds=30)
"""For which a batch may be missing from its provider's list, as in `Pace.lookup`."""


@dataclass(slots=True)
class Known:
    """A job set's records.

    Attributes:
        records: Where they are.
        start: Its newest start.
        entries: Its ledger, oldest first.
        accounts: Name -> table of each account that its runs were given.
        addresses: Name of a provider -> base URL of its requests.
    """

    records: Records
    start: Start
    entries: list[Entry] = field(default_factory=list[Entry])
    accounts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    addresses: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def open(self) -> list[Entry]:
        """Chunks whose ending is not recorded; realtime ones have nothing at the provider."""
        return [e for e in self.entries if e.ending is None and not e.chunk.realtime]


async def open_run(
    results_dir: str | Path | None, run_key: str | None = None, state: str | None = None
) -> Known:
    """The records of a job set.

    Args:
        results_dir: Its results directory; where it is gone, its name still serves as the key.
        run_key: Its run key, where it has one of its own.
        state: Where its records are, as in `Batch.set_state`.

    Raises:
        StateError: There are no records, or they cannot be read.
    """
    given = state
    if results_dir is not None:
        noted = await asyncio.to_thread(_noted, results_dir)
        run_key, state = run_key or noted.run_key, state or noted.state
    if run_key is None:
        raise StateError("name a results directory or a run key")
    records = Records(await storage_at(state), run_key)
    start = await records.start()
    if start is None:
        raise StateError(
            f"there are no records of {run_key!r} at {records.location}. Give the results "
            "directory, or the run_key and state that the run was given"
        )
    known = Known(
        records,
        start,
        accounts=await records.accounts(),
        addresses=await records.addresses(start),
    )
    # A folder of somebody else could send the keys of this environment anywhere.
    if known.accounts and given is None and records.location != await _own_place(run_key):
        raise StateError(
            f"the records that the results directory names, at {records.location}, send keys of "
            f"this environment to addresses of their own (accounts {', '.join(known.accounts)}). "
            f"Nothing was sent. Give --state {state} if they are yours"
        )
    async for entry, _ in records.ledger():
        known.entries.append(entry)
    return known


async def _own_place(run_key: str) -> str:
    """Where the records of this environment are; Prefect is asked for it."""
    return Records(await storage_at(None), run_key).location


def _noted(results_dir: str | Path) -> Note:
    if is_url(results_dir):
        bring_told(normal(str(results_dir)))
        directory, key = working_folder(str(results_dir)), normal(str(results_dir))
    else:
        directory = Path(results_dir).expanduser().resolve()
        key = str(directory)
    return read_note(directory) or Note(key)


def _status(
    entry: Entry, batch: ProviderBatch | None = None, trouble: str | None = None
) -> BatchStatus:
    """Where a chunk stands that has no recorded ending."""
    answered = batch.succeeded if batch else 0
    overdue = batch is not None and batch.is_overdue(datetime.now(UTC))
    return BatchStatus(entry, batch, answered, is_overdue=overdue, trouble=trouble)


async def status(known: Known) -> list[BatchStatus]:
    """What a job set has in flight, as the providers say now.

    Raises:
        ProviderError: Of no account the key is there and taken, and the address as it was.
    """
    async with _connections(known) as connections:
        return await _each(known.open, lambda entry: _line(connections, entry))


async def _each(
    entries: list[Entry], ask: Callable[[Entry], Awaitable[BatchStatus]]
) -> list[BatchStatus]:
    """Ask for each batch; an account that does not answer is no trouble of the others'.

    Raises:
        ProviderError: No account answers.
    """
    lines: list[BatchStatus] = []
    refused: dict[str, ProviderError] = {}
    for entry in entries:
        name = entry.chunk.provider
        if name not in refused:
            try:
                lines.append(await ask(entry))
                continue
            except ProviderError as error:
                refused[name] = error
        lines.append(_status(entry, trouble=str(refused[name])))
    if refused and refused.keys() == {entry.chunk.provider for entry in entries}:
        raise next(iter(refused.values()))
    return lines


async def _line(connections: _Connections, entry: Entry) -> BatchStatus:
    if entry.receipt is None:
        return _status(entry)
    provider, client = await connections(entry.chunk.provider, entry.chunk.model)
    return await _of(entry, provider.poll(client, entry.receipt.batch_id))


async def _of(entry: Entry, asked: Awaitable[ProviderBatch | None]) -> BatchStatus:
    """What a provider says of one batch; it may fail alone, and not for the key or the account."""
    try:
        return _status(entry, await asked)
    except Exception as error:
        failure = classify(error)
        if failure.kind == "ours":
            raise
        if failure.kind == "account":
            raise _refused(entry.chunk.provider, failure) from error
        return _status(entry, trouble=failure.text)


def _refused(name: str, failure: Failure) -> ProviderError:
    return ProviderError(
        f"{name} does not answer for these batches ({failure.text}). They go on there as they are. "
        f"{failure.what_to_do}, and try again"
    )


async def adopt(known: Known) -> tuple[list[BatchStatus], list[Ours]]:
    """Find the batches of uncertain creates and record them; and what else is unclaimed.

    Returns:
        The chunks whose batch was found, or may be there (`trouble`); and the batches with our
        token that no record of this job set names: of another job set, or of one whose records
        are lost.

    Raises:
        ProviderError: A key is missing or refused, or an address is another one; what the other
            accounts have is recorded.
        StateError: A process is running the job set.
    """
    unclaimed: list[Ours] = []
    async with _connections(known) as connections, _owning(known) as lease:
        uncertain = [entry for entry in known.open if entry.receipt is None]
        found = await _each(uncertain, lambda entry: _looked_up(connections, known, lease, entry))
        names = {entry.chunk.provider for entry in known.entries}
        refused: list[ProviderError] = []
        for name in sorted(names or connections.known):
            try:
                unclaimed += await _unclaimed(connections, known, name)
            except ProviderError as error:
                # Where no record names a provider, those whose key is here are asked.
                if names or not isinstance(error, MissingCredentialsError):
                    raise
                refused.append(error)
        if len(refused) == len(connections.known):
            raise refused[-1]
    return [line for line in found if line.batch is not None or line.trouble is not None], unclaimed


async def _unclaimed(connections: _Connections, known: Known, name: str) -> list[Ours]:
    """Batches of a provider with our token that no record of the job set names."""
    provider, client = await connections(name, None)
    since = known.start.started_at - timedelta(days=1)
    try:
        found_there = await provider.ours(client, since)
    except Exception as error:
        failure = classify(error)
        if failure.kind == "ours":
            raise
        raise _refused(name, failure) from error
    ids = claimed(known.entries, name)
    return [ours for ours in found_there if ours.batch.batch_id not in ids]


async def cancel(known: Known) -> list[BatchStatus]:
    """Cancel at the providers what a job set has in flight; the next run collects and goes on.

    Returns:
        All that it had in flight; `trouble` says why one is not cancelled, or may be at work: one
        without either was never created.

    Raises:
        ProviderError: Of no account the key is there and taken, and the address as it was.
        StateError: A process is running the job set: that one is to be cancelled.
    """
    async with _connections(known) as connections, _owning(known) as lease:

        async def end(entry: Entry) -> BatchStatus:
            provider, client = await connections(entry.chunk.provider, entry.chunk.model)
            if entry.receipt is None:
                line = await _looked_up(connections, known, lease, entry)
                if entry.receipt is None:
                    return line
            return await _of(entry, provider.cancel(client, entry.receipt.batch_id))

        return await _each(known.open, end)


async def write_off(known: Known, which: str) -> Entry:
    """Have the next run end a batch of which something cannot be had, at its upper bound.

    Args:
        known: The job set.
        which: Id of the batch at the provider; or the chunk's number, where it has none.

    Raises:
        StateError: There is no such batch in flight, or it can be had: it runs, or its answers
            are there; or a process is running the job set.
        ProviderError: A key is missing or refused.
    """
    async with _connections(known) as connections, _owning(known) as lease:
        for entry in known.open:
            names = {str(entry.chunk.sequence + 1), f"#{entry.chunk.sequence + 1}"}
            if which in (names if entry.receipt is None else {entry.receipt.batch_id}):
                break
        else:
            raise StateError(
                f"no batch {which!r} of {known.records.run_key!r} is in flight. `batchata status` "
                "shows those that are; of one without an id, give the number behind its name"
            )
        if (told := await _can_be_had(connections, known, entry)) is not None:
            raise StateError(f"{entry.chunk.name} is not written off: {told}")
        # Its answers may have been looked through for longer than a lease lasts.
        await lease.hold(fresh=True)
        await known.records.write_off(entry.chunk.sequence)
        return entry


async def _can_be_had(connections: _Connections, known: Known, entry: Entry) -> str | None:
    """How to have what a batch answered; None where it cannot be had."""
    provider, client = await connections(entry.chunk.provider, entry.chunk.model)
    again = "run the same jobs again to collect it"
    if entry.receipt is None:
        try:
            found = await _search(provider, client, known, entry)
        except ProviderError:
            return None
        except Exception as error:
            if classify(error).kind != "absent":
                raise
            return None  # a server that lists no batches tells nobody more
        if found.batch is not None:
            return f"it was found as {found.batch.batch_id}; {again}"
        # One that may be it has not ended: waiting for it is all that can be done.
        return None if found.undecided else f"there is no trace of it at the provider; {again}"
    rows = 0
    try:
        batch = await provider.poll(client, entry.receipt.batch_id)
        if batch.state != "ended":
            return f"{batch.batch_id} is {batch.raw_status}; end it with `batchata cancel` first"
        if batch.ending == "failed":
            return f"{batch.batch_id} was refused and costs nothing; {again}"
        async for piece in provider.download(client, batch):
            rows += piece.count(b"\n")
    except Exception as error:
        if classify(error).kind not in {"absent", "unseen", "refused"}:
            raise
        return None
    return None if rows < entry.chunk.count else f"all its answers are there; {again}"


def _search(provider: Provider, client: Any, known: Known, entry: Entry) -> Awaitable[Found]:
    """Look for the batch of an uncertain create."""
    return provider.find(client, entry.chunk, entry.since, claimed(known.entries, provider.name))


async def _looked_up(
    connections: _Connections, known: Known, lease: Lease, entry: Entry
) -> BatchStatus:
    """Where an uncertain create stands; its batch is recorded from here on, where it is found."""
    provider, client = await connections(entry.chunk.provider, entry.chunk.model)
    found = Found()

    async def ask() -> ProviderBatch | None:
        nonlocal found
        found = await _search(provider, client, known, entry)
        return found.batch

    line = await _of(entry, ask())
    if (batch := found.batch) is not None:
        receipt = Receipt(batch.batch_id, batch.created_at or datetime.now(UTC), adopted=True)
        await lease.hold(fresh=True)
        await known.records.write_receipt(entry.chunk.sequence, receipt)
        entry.receipt = receipt
    elif found.undecided:
        may_be = " or ".join(found.undecided[:3])
        line = replace(line, trouble=f"it may be {may_be}, which tells whose it is when it ends")
    elif line.trouble is None and datetime.now(UTC) - entry.since < _LAG:
        line = replace(line, trouble="it was sent just now, and may not be listed yet")
    return line


@asynccontextmanager
async def _owning(known: Known) -> AsyncGenerator[Lease]:
    lease = Lease(known.records, _LEASE_SECONDS)
    try:
        owner = await lease.attempt()
        if owner is not None:
            raise StateError(
                f"{owner} is running {known.records.run_key!r}. Cancel that run instead: Ctrl-C "
                "there, or cancel its flow run in Prefect. If the process is gone with its "
                f"machine, try again in {_LEASE_SECONDS:.0f} s"
            )
        yield lease
    finally:
        await lease.release()


class _Connections:
    """Clients of providers, each connected when it is first needed."""

    def __init__(self, stack: AsyncExitStack, run: Known) -> None:
        self.known = providers(run.accounts)
        self._stack = stack
        self._run = run
        self._clients: dict[str, Any] = {}

    async def __call__(self, name: str, model: str | None) -> tuple[Provider, Any]:
        provider = provider_for(model or "", name, known=self.known)
        if name not in self._clients:
            client = await connect(provider, self._run.start.credentials.get(name))
            self._stack.push_async_callback(client.close)
            address = provider.account(client)
            if (before := self._run.addresses.get(name, address)) != address:
                raise ProviderError(
                    f"its batches of {name} were sent to {before}, and now {name} is at {address}. "
                    "Set the base URL back"
                )
            self._clients[name] = client
        return provider, self._clients[name]


@asynccontextmanager
async def _connections(known: Known) -> AsyncGenerator[_Connections]:
    async with AsyncExitStack() as stack:
        yield _Connections(stack, known)
