"""The records of a run and where they are kept: Prefect result storage, under stable keys.

What was bought, what is in flight and what is spent is always computed from these records;
nothing else remembers. Each is written once and never changed, as JSON of plain fields, so the
fields here are an on-disk format: `FORMAT` goes up when their meaning changes. Only the owner,
the canary's sample and what a sleeping run waits for are written again.

```
batchata/<digest of the run key>/owner                         who runs it now, see `lease`
                                /g<generation>/start           one a generation
                                              /canary          its sample, and what it came to
                                              /waiting         what it slept for last
                                              /000000.intent   before the paid create
                                              /000000.receipt  before the first poll
                                              /000000.ending   after the replies are on disk
```

Intents are written in sequence, one after the other, so the first missing one ends the ledger.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.results import (
    ResultStore,
    aget_default_result_storage,
    aresolve_result_storage,
)
from prefect.serializers import JSONSerializer

from batchata_prefect.errors import StateError
from batchata_prefect.models import Chunk, Usage
from batchata_prefect.money.ledger import Ending, Entry, Intent, Receipt, Sample, Start

FORMAT = 1


class DurableFileSystem(LocalFileSystem):
    """Prefect's local storage with writes that are whole or absent, also after a power cut.

    Prefect's own writes in place and does not sync, so that a kill at the wrong instant leaves
    half a record.
    """

    _block_type_name = "Durable Local File System"

    async def awrite_path(self, path: str, content: bytes) -> str:
        """Write the file, synced, or raise and leave what was there."""
        return await asyncio.to_thread(self._write, path, content)

    def write_path(self, path: str, content: bytes) -> str:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Write the file, synced, or raise and leave what was there."""
        return self._write(path, content)

    def _write(self, path: str, content: bytes) -> str:
        target = Path(self._resolve_path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return str(target)


class Records:
    """The records of one run key in one storage."""

    def __init__(self, storage: WritableFileSystem, run_key: str) -> None:
        self._store = ResultStore(
            result_storage=storage, serializer=JSONSerializer(), cache_result_in_memory=False
        )
        self._root = f"batchata/{hashlib.sha256(run_key.encode()).hexdigest()[:24]}"
        self.run_key = run_key
        self.generation = 0

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
        while (data := await self._read(f"g{generation}/start")) is not None:
            found = Start(
                run_key=data["run_key"],
                started_at=datetime.fromisoformat(data["started_at"]),
                results_dir=data["results_dir"],
                accounts=data["accounts"],
                credentials=data.get("credentials", {}),
            )
            self.generation = generation
            generation += 1
        return found

    async def begin(self, start: Start, *, afresh: bool) -> None:
        """Write a start; `afresh` opens the next generation and leaves the older ones be."""
        if afresh:
            self.generation += 1
        values = {**asdict(start), "started_at": start.started_at.isoformat()}
        await self._write(f"g{self.generation}/start", values)

    async def owner(self) -> dict[str, Any] | None:
        """Who holds the run key, as `lease` wrote it; None where nobody ever did."""
        return await self._read("owner")

    async def write_owner(self, values: dict[str, Any]) -> None:
        """Say who holds the run key."""
        await self._write("owner", values)

    async def sample(self) -> Sample | None:
        """The canary's sample; None where none was drawn."""
        data = await self._read(f"g{self.generation}/canary")
        if data is None:
            return None
        passed: bool | None = data["passed"]
        return Sample(data["job_set"], data["first"], tuple(data["ordinals"]), passed)

    async def write_sample(self, sample: Sample) -> None:
        """Make the canary's sample durable, or what it came to."""
        await self._write(f"g{self.generation}/canary", asdict(sample))

    async def waiting(self) -> dict[str, Any] | None:
        """What the run waits for while it sleeps, see `waiting`; None where it never slept."""
        return await self._read(f"g{self.generation}/waiting")

    async def write_waiting(self, values: dict[str, Any]) -> None:
        """Say what the run waits for while it sleeps."""
        await self._write(f"g{self.generation}/waiting", values)

    async def ledger(self) -> AsyncIterator[tuple[Entry, bytes]]:
        """All entries of this generation with their members, oldest first."""
        sequence = 0
        while (intent := await self.intent(sequence)) is not None:
            entry = Entry(intent.chunk, intent.since)
            if (data := await self._read(self._key(sequence, "receipt"))) is not None:
                created_at = datetime.fromisoformat(data["created_at"])
                entry.receipt = Receipt(data["batch_id"], created_at, data["adopted"])
            if (data := await self._read(self._key(sequence, "ending"))) is not None:
                entry.ending = Ending(
                    status=data["status"],
                    marks=data["marks"],
                    cost_usd=_money(data["cost_usd"]),
                    usage=Usage(**data["usage"]),
                    ended_at=datetime.fromisoformat(data["ended_at"]),
                    reason=data["reason"],
                    cache_saved_usd=_money(data.get("cache_saved_usd", "0")),
                )
            yield entry, intent.members
            sequence += 1

    async def intent(self, sequence: int) -> Intent | None:
        """The intent of one chunk, with its members."""
        data = await self._read(self._key(sequence, "intent"))
        if data is None:
            return None
        values: dict[str, Any] = dict(data["chunk"])
        values["reserved_usd"] = _money(values["reserved_usd"])
        chunk = Chunk(**values)
        since = datetime.fromisoformat(data["since"])
        return Intent(chunk, since, base64.b64decode(data["members"]))

    async def write_intent(self, intent: Intent) -> None:
        """Make an intent durable; only after this may the chunk be created."""
        chunk = asdict(intent.chunk)
        chunk["reserved_usd"] = _text(intent.chunk.reserved_usd)
        values = {
            "chunk": chunk,
            "since": intent.since.isoformat(),
            "members": base64.b64encode(intent.members).decode(),
        }
        await self._write(self._key(intent.chunk.sequence, "intent"), values)

    async def write_receipt(self, sequence: int, receipt: Receipt) -> None:
        """Make a receipt durable."""
        values = {**asdict(receipt), "created_at": receipt.created_at.isoformat()}
        await self._write(self._key(sequence, "receipt"), values)

    async def write_ending(self, sequence: int, ending: Ending) -> None:
        """Make an ending durable; after this the chunk is never looked at again."""
        values = {
            **asdict(ending),
            "cost_usd": _text(ending.cost_usd),
            "cache_saved_usd": _text(ending.cache_saved_usd),
            "usage": ending.usage._asdict(),
            "ended_at": ending.ended_at.isoformat(),
        }
        await self._write(self._key(sequence, "ending"), values)

    def _key(self, sequence: int, kind: str) -> str:
        return f"g{self.generation}/{sequence:06d}.{kind}"

    async def _write(self, key: str, values: dict[str, Any]) -> None:
        path = f"{self._root}/{key}"
        try:
            await self._store.awrite({"format": FORMAT, **values}, key=path)
        except Exception as error:
            raise StateError(
                f"the record {path!r} could not be written to {self.location}: {error}. "
                "Nothing is bought without its record; mend the storage and run again."
            ) from error

    async def _read(self, key: str) -> dict[str, Any] | None:
        path = f"{self._root}/{key}"
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


def is_missing(error: BaseException) -> bool:
    """Whether a storage's error says that the record was never written.

    Each storage says it in its own way: LocalFileSystem by a ValueError, fsspec by
    FileNotFoundError, S3 by a ClientError with a code.
    """
    if isinstance(error, FileNotFoundError):
        return True
    if type(error) is ValueError:
        return str(error).endswith("does not exist.")
    try:
        code: Any = cast("Any", error).response["Error"]["Code"]
    except (AttributeError, KeyError, TypeError):
        return False
    return str(code) in {"404", "NoSuchKey", "NotFound"}


async def storage_at(location: str | None) -> WritableFileSystem:
    """The storage that a location names.

    Args:
        location: A Prefect storage block as `type/name`, a local directory, or None for the
            result storage that Prefect is set to.

    Raises:
        StateError: The block cannot be loaded, or the path is a file.
    """
    if location is None:
        storage = await aget_default_result_storage()
    else:
        path = await asyncio.to_thread(Path(location).expanduser)
        if path.is_file():
            raise StateError(
                f"{location!r} is a file; records need a directory, such as "
                f"{path.with_suffix('').name + '-state'!r}, or a storage block as 'type/name'"
            )
        kind, _, name = location.partition("/")
        if path.is_absolute() or location.startswith(".") or not name or "/" in name:
            storage = LocalFileSystem(basepath=str(path.resolve()))
        else:
            try:
                storage = await aresolve_result_storage(location)
            except ValueError as error:
                raise StateError(
                    f"no storage block {name!r} of type {kind!r}: {error}. "
                    f"For a directory write './{location}'"
                ) from error
    if type(storage) is LocalFileSystem:
        return DurableFileSystem(basepath=storage.basepath)
    return storage


def _money(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)
