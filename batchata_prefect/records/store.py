"""The records of a run and where they are kept: Prefect result storage, under stable keys.

What was bought, what is in flight and what is spent is always computed from these records;
nothing else remembers. Each is written once and never changed, as JSON of plain fields, so the
fields here are an on-disk format: `FORMAT` goes up when their meaning changes. Only the beats,
the canary's sample and what a sleeping run waits for are written again.

```
batchata/<digest of the run key>/owner                         number of the newest claim
                                /owners/000000                 one a start: a claim, see `lease`
                                /owners/000000.beat            that it lives, again and again
                                /g<generation>/start           one a generation
                                              /canary          its sample, and what it came to
                                              /waiting         what it slept for last
                                              /000000.intent   before the paid create
                                              /000000.receipt  before the first poll
                                              /000000.ending   after the replies are on disk
                                              /000000.written_off  by a person, see `inflight`
```

Intents are written in sequence, one after the other, so the first missing one ends the ledger.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer

from batchata_prefect.answers import Usage
from batchata_prefect.errors import StateError
from batchata_prefect.files import fields_in
from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import Ending, Entry, Intent, Receipt, Sample, Start
from batchata_prefect.records.storage import CannotCreateError, is_missing

FORMAT = 1


class TakenOverError(StateError):
    """Another process works on the run key, as after a sleep of this process's machine."""


class Records:
    """The records of one run key in one storage.

    Attributes:
        run_key: The run key.
        generation: How often it was started over.
        id: Random id of the newest generation; empty before its start is read or written, and
            where an earlier version began it.
        ids: Those of all generations.
    """

    def __init__(self, storage: WritableFileSystem, run_key: str) -> None:
        self._store = ResultStore(
            result_storage=storage, serializer=JSONSerializer(), cache_result_in_memory=False
        )
        self._root = f"batchata/{hashlib.sha256(run_key.encode()).hexdigest()[:24]}"
        self.run_key = run_key
        self.generation = 0
        self.creates_first = True
        """Whether the storage can create a record only where there is none, as far as is known."""
        self.id = ""
        self.ids: frozenset[str] = frozenset()

    @property
    def state(self) -> str | None:
        """Their local directory, as in `Batch.set_state`; None where they lie in a block."""
        storage = self._store.result_storage
        if not isinstance(storage, LocalFileSystem) or storage.basepath is None:
            return None
        return str(Path(storage.basepath).expanduser().absolute())

    @property
    def location(self) -> str:
        """Where the records lie, for a person."""
        storage = self._store.result_storage
        base = getattr(storage, "basepath", None) or type(storage).__name__
        return f"{base}/{self._root}"

    async def start(self) -> Start | None:
        """The newest generation's start, and turn to that generation; None where there is none."""
        found: Start | None = None
        generation = 0
        while (data := await self.read(f"g{generation}/start")) is not None:
            started_at = datetime.fromisoformat(data["started_at"])
            found = Start(**fields_in(data, Start, started_at=started_at))
            self.generation, self.id = generation, found.records
            self.ids |= {found.records}
            generation += 1
        return found

    async def begin(self, start: Start, *, afresh: bool) -> None:
        """Write a start; `afresh` opens the next generation and leaves the older ones be."""
        if afresh:
            self.generation += 1
        values = {**asdict(start), "started_at": start.started_at.isoformat()}
        await self._write_once(f"g{self.generation}/start", values)
        self.id = start.records
        self.ids |= {start.records}

    async def accounts(self) -> dict[str, Any]:
        """Name -> table of each account that the runs were given; none holds a secret."""
        data = await self.read(f"g{self.generation}/accounts")
        return {} if data is None else data["accounts"]

    async def write_accounts(self, accounts: Mapping[str, Any]) -> None:
        """Write the accounts, where there are any that are not there yet."""
        if accounts and dict(accounts) != await self.accounts():
            await self.write(f"g{self.generation}/accounts", {"accounts": dict(accounts)})

    async def addresses(self, start: Start) -> dict[str, str]:
        """Provider name -> base URL of its requests, at the start or since it joined later."""
        data = await self.read(f"g{self.generation}/addresses")
        return {**start.accounts, **({} if data is None else data["addresses"])}

    async def write_addresses(self, addresses: Mapping[str, str]) -> None:
        """Say where the requests of each provider go, before any is sent."""
        await self.write(f"g{self.generation}/addresses", {"addresses": dict(addresses)})

    async def sample(self) -> Sample | None:
        """The canary's sample; None where none was drawn."""
        data = await self.read(f"g{self.generation}/canary")
        if data is None:
            return None
        return Sample(**fields_in(data, Sample, ordinals=tuple(data["ordinals"])))

    async def write_sample(self, sample: Sample) -> None:
        """Make the canary's sample durable, or what it came to."""
        await self.write(f"g{self.generation}/canary", asdict(sample))

    async def waiting(self) -> dict[str, Any] | None:
        """What the run waits for while it sleeps, see `waiting`; None where it never slept."""
        return await self.read(f"g{self.generation}/waiting")

    async def write_waiting(self, values: dict[str, Any]) -> None:
        """Say what the run waits for while it sleeps."""
        await self.write(f"g{self.generation}/waiting", values)

    async def ledger(self) -> AsyncIterator[tuple[Entry, Intent]]:
        """All entries of this generation with their intents, oldest first."""
        sequence = 0
        while (intent := await self.intent(sequence)) is not None:
            entry = Entry(intent.chunk, intent.since)
            if (data := await self.read(self._key(sequence, "receipt"))) is not None:
                created_at = datetime.fromisoformat(data["created_at"])
                entry.receipt = Receipt(**fields_in(data, Receipt, created_at=created_at))
            if (data := await self.read(self._key(sequence, "ending"))) is not None:
                told = fields_in(
                    data,
                    Ending,
                    cost_usd=_money(data["cost_usd"]),
                    usage=_usage(data["usage"]),
                    ended_at=datetime.fromisoformat(data["ended_at"]),
                    cache_saved_usd=_money(data.get("cache_saved_usd", "0")),
                )
                entry.ending = Ending(**told)
            else:
                written_off = await self.read(self._key(sequence, "written_off"))
                entry.written_off = written_off is not None
            yield entry, intent
            sequence += 1

    async def intent(self, sequence: int) -> Intent | None:
        """The intent of one chunk, with its members."""
        data = await self.read(self._key(sequence, "intent"))
        if data is None:
            return None
        values: dict[str, Any] = dict(data["chunk"])
        values["reserved_usd"] = _money(values["reserved_usd"])
        chunk = Chunk(**values)
        since = datetime.fromisoformat(data["since"])
        members, requests = data["members"], data.get("requests", "")
        return Intent(chunk, since, base64.b64decode(members), base64.b64decode(requests))

    async def write_intent(self, intent: Intent) -> None:
        """Make an intent durable; only after this may the chunk be created.

        Raises:
            TakenOverError: Another process has written one of this sequence.
            StateError: The storage fails.
        """
        chunk = asdict(intent.chunk)
        chunk["reserved_usd"] = _text(intent.chunk.reserved_usd)
        values = {
            "chunk": chunk,
            "since": intent.since.isoformat(),
            "members": base64.b64encode(intent.members).decode(),
            "requests": base64.b64encode(intent.requests).decode(),
        }
        await self._write_once(self._key(intent.chunk.sequence, "intent"), values)

    async def write_receipt(self, sequence: int, receipt: Receipt) -> None:
        """Make a receipt durable; one of the same batch may be there already.

        Raises:
            TakenOverError: Another process has written one of another batch.
            StateError: The storage fails.
        """
        values = {**asdict(receipt), "created_at": receipt.created_at.isoformat()}
        key = self._key(sequence, "receipt")
        if not await self.create(key, values):
            there = await self.read(key)
            if there is None or there["batch_id"] != receipt.batch_id:
                raise self._taken_over(key)

    async def write_off(self, sequence: int) -> None:
        """Say that a person waits no more for what cannot be had of a chunk.

        Raises:
            StateError: The storage fails.
        """
        values = {"written_off_at": datetime.now(UTC).isoformat()}
        await self.write(self._key(sequence, "written_off"), values)

    async def write_ending(self, sequence: int, ending: Ending) -> None:
        """Make an ending durable; after this the chunk is never looked at again.

        Raises:
            TakenOverError: Another process has written one.
            StateError: The storage fails.
        """
        values = {
            **asdict(ending),
            "cost_usd": _text(ending.cost_usd),
            "cache_saved_usd": _text(ending.cache_saved_usd),
            "usage": {**ending.usage._asdict(), "fees": dict(ending.usage.fees)},
            "ended_at": ending.ended_at.isoformat(),
        }
        await self._write_once(self._key(sequence, "ending"), values)

    def _key(self, sequence: int, kind: str) -> str:
        return f"g{self.generation}/{sequence:06d}.{kind}"

    async def create(self, key: str, values: dict[str, Any]) -> bool:
        """Write a record where there is none; one that is there is never overwritten knowingly.

        Where the storage cannot do both in one step, two processes that write at the same moment
        may both believe that theirs is there; see `creates_first`.

        Returns:
            Whether the record is there with these values, from now on or from an earlier try.

        Raises:
            StateError: The storage fails.
        """
        record = self._store.create_result_record({"format": FORMAT, **values}, key=self._path(key))
        create: Any = getattr(self._store.result_storage, "create_path", None)
        self.creates_first = self.creates_first and create is not None
        if create is not None and self.creates_first:
            try:
                await create(record.metadata.storage_key, record.serialize())
            except FileExistsError:
                pass
            except CannotCreateError:
                self.creates_first = False
            except Exception as error:
                raise self._unwritten(key, error) from error
            else:
                return True
        there = await self.read(key)
        if there is None and not self.creates_first:
            await self.write(key, values)
            there = await self.read(key)
        wanted = json.loads(json.dumps({"format": FORMAT, **values}))
        return there == wanted

    async def _write_once(self, key: str, values: dict[str, Any]) -> None:
        if not await self.create(key, values):
            raise self._taken_over(key)

    def _taken_over(self, key: str) -> TakenOverError:
        return TakenOverError(
            f"the record {self._path(key)!r} in {self.location} was written by another process, "
            f"which works on the job set {self.run_key!r} too. This one sends nothing more; run "
            "again when the other has ended, nothing is paid twice"
        )

    def _unwritten(self, key: str, error: Exception) -> StateError:
        return StateError(
            f"the record {self._path(key)!r} could not be written to {self.location}: {error}. "
            "Nothing is bought without its record; mend the storage and run again."
        )

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    async def write(self, key: str, values: dict[str, Any]) -> None:
        """Write a record, also over one that is there.

        Raises:
            StateError: The storage fails.
        """
        try:
            await self._store.awrite({"format": FORMAT, **values}, key=self._path(key))
        except Exception as error:
            raise self._unwritten(key, error) from error

    async def read(self, key: str) -> dict[str, Any] | None:
        """A record's values; None where there is none.

        Raises:
            StateError: The storage fails, or the record is not whole or of another version.
        """
        path = self._path(key)
        try:
            record = await self._store.aread(path)
        except Exception as error:
            # A storage that cannot be read is not a record that does not exist: to take the one
            # for the other would buy everything again.
            if is_missing(error):
                return None
            raise StateError(
                f"the record {path!r} in {self.location} cannot be read: {error}. "
                "Whether its batch was bought is unknown, so nothing is sent; "
                "mend the storage and run again."
            ) from error
        values = cast("dict[str, Any]", record.result)
        if values.get("format") != FORMAT:
            raise StateError(
                f"the record {path!r} in {self.location} is of another version of this package; "
                "finish the run with that version, or start over with set_state(reuse_state=False)"
            )
        return values


def _money(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _usage(values: dict[str, Any]) -> Usage:
    """Usage of an ending: sums of tokens and fees; of single replies it keeps nothing."""
    sums = {name: values[name] for name in Usage._fields[:6]}
    return Usage(**sums, fees=tuple(sorted(values.get("fees", {}).items())))
