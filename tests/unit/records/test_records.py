"""The records: written once, read again, and never guessed."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from batchata_prefect.answers import Usage
from batchata_prefect.errors import StateError
from batchata_prefect.models import Chunk
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import Ending, Entry, Intent, Receipt, Start
from batchata_prefect.records.storage import DurableFileSystem, is_missing, storage_at
from batchata_prefect.records.store import Records, TakenOverError

NOW = datetime(2026, 11, 22, 3, 0, 0, 123456, tzinfo=UTC)


def chunk(sequence: int, reserved: str | None = "1.25") -> Chunk:
    usd = None if reserved is None else Decimal(reserved)
    return Chunk(sequence, 0, "ab" * 32, "openai", "/v1/responses", "gpt-6-luna", 2, 9, 3, 4, usd)


def ending(cost: str | None) -> Ending:
    usd = None if cost is None else Decimal(cost)
    return Ending("ended", "ar", usd, Usage(1, 2, 3), NOW, "because")


STORAGES = [
    pytest.param(lambda path: DurableFileSystem(basepath=str(path)), id="durable"),
    pytest.param(lambda path: LocalFileSystem(basepath=str(path)), id="local"),
    pytest.param(lambda path: RemoteFileSystem(basepath=f"memory://records{path}"), id="fsspec"),
]


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_written_is_read(tmp_path: Path, storage) -> None:
    """A ledger comes back field by field, from every kind of storage, in its order."""

    async def check() -> None:
        records = Records(storage(tmp_path), "key")
        assert await records.start() is None
        start = Start("key", NOW, "/out", {"openai": "https://x"})
        await records.begin(start, afresh=False)
        intents = [Intent(chunk(0), NOW, b"a" * 24, b"c" * 24)]
        intents.append(Intent(chunk(1, None), NOW, b"b" * 24))
        await records.write_intent(intents[0])
        await records.write_receipt(0, Receipt("batch_1", NOW, True))
        await records.write_ending(0, ending("0.123456789"))
        await records.write_intent(intents[1])
        again = Records(storage(tmp_path), "key")
        assert await again.start() == start
        found = [item async for item in again.ledger()]
        assert found == [
            (
                Entry(chunk(0), NOW, Receipt("batch_1", NOW, True), ending("0.123456789")),
                intents[0],
            ),
            (Entry(chunk(1, None), NOW), intents[1]),
        ]
        assert [item async for item in Records(storage(tmp_path), "other").ledger()] == []

    asyncio.run(check())


def test_starting_afresh_leaves_the_older_generation_be(tmp_path: Path) -> None:
    """The newest generation is read; the older one's records stay."""

    async def check() -> None:
        records = Records(DurableFileSystem(basepath=str(tmp_path)), "key")
        await records.begin(Start("key", NOW, "/out"), afresh=False)
        await records.write_intent(Intent(chunk(0), NOW, b"a" * 24))
        await records.begin(Start("key", NOW, "/new"), afresh=True)
        again = Records(DurableFileSystem(basepath=str(tmp_path)), "key")
        start = await again.start()
        assert start is not None
        assert start.results_dir == "/new"
        assert [item async for item in again.ledger()] == []

    asyncio.run(check())
    assert len(list(tmp_path.rglob("*.intent"))) == 1


@pytest.mark.parametrize("content", [b"", b'{"metadata"', b'{"format": 1', b"\xff\xfe"])
def test_a_torn_record_is_unknown_and_never_absent(tmp_path: Path, content: bytes) -> None:
    """Half a record stops the run: absent would buy everything again."""

    async def check() -> None:
        records = Records(LocalFileSystem(basepath=str(tmp_path)), "key")
        await records.begin(Start("key", NOW, "/out"), afresh=False)
        await records.write_intent(Intent(chunk(0), NOW, b"a" * 24))
        (path,) = tmp_path.rglob("*.intent")
        path.write_bytes(content)
        with pytest.raises(StateError, match="cannot be read"):
            await records.intent(0)

    asyncio.run(check())


def test_a_storage_that_refuses_is_not_a_missing_record(tmp_path: Path) -> None:
    """A directory in the record's place raises; nothing is guessed."""

    async def check() -> None:
        records = Records(DurableFileSystem(basepath=str(tmp_path)), "key")
        await records.begin(Start("key", NOW, "/out"), afresh=False)
        (start,) = tmp_path.rglob("start")
        (start.parent / "000000.intent").mkdir()
        with pytest.raises(StateError, match="cannot be read"):
            await records.intent(0)
        with pytest.raises(StateError, match="cannot be read"):
            await records.write_intent(Intent(chunk(0), NOW, b"a" * 24))

    asyncio.run(check())


def test_a_failed_write_leaves_the_good_record(tmp_path: Path) -> None:
    """An atomic write is whole or absent, and leaves no half file behind."""
    storage = DurableFileSystem(basepath=str(tmp_path))
    storage.write_path("a/b", b"good")
    with pytest.raises(TypeError):
        storage.write_path("a/b", "not bytes")  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").read_bytes() == b"good"


def test_records_of_another_version_are_refused(tmp_path: Path) -> None:
    """A format that we do not know is not read as if we did."""

    async def check() -> None:
        records = Records(DurableFileSystem(basepath=str(tmp_path)), "key")
        await records.begin(Start("key", NOW, "/out"), afresh=False)
        (path,) = tmp_path.rglob("start")
        path.write_bytes(re.sub(rb"format(\W+)1", rb"format\g<1>99", path.read_bytes()))
        with pytest.raises(StateError, match="another version"):
            await records.start()

    asyncio.run(check())


class _ClientError(Exception):
    """As botocore raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (FileNotFoundError("x"), True),
        (ValueError("Path /x does not exist."), True),
        (ValueError("Path /x is not a file."), False),
        (_ClientError("404"), True),
        (_ClientError("NoSuchKey"), True),
        (_ClientError("403"), False),
        (PermissionError("x"), False),
        (ConnectionError("x"), False),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "does not exist."), False),
    ],
)
def test_only_a_recognised_missing_means_absent(error: Exception, missing: bool) -> None:
    """Each storage says missing in its own way; everything else is trouble."""
    assert is_missing(error) is missing


def test_a_file_is_no_place_for_records(tmp_path: Path) -> None:
    """The original library's state file is refused with the way out."""
    path = tmp_path / "state.json"
    path.write_text("{}")
    with pytest.raises(StateError, match="state-state"):
        asyncio.run(storage_at(str(path)))


def test_the_budget_is_the_ledger() -> None:
    """Ended chunks count what they cost, all others their upper bound."""
    done = Entry(chunk(0), NOW, None, ending("0.40"))
    flying = Entry(chunk(1), NOW)
    assert budget.spent([done, flying]) == Decimal("0.40")
    assert budget.reserved([done, flying]) == Decimal("1.25")
    assert budget.room([done, flying], Decimal(2)) == Decimal("0.35")
    assert budget.room([done, flying], None) is None
    unknown = Entry(chunk(2), NOW, None, ending(None))
    assert budget.room([unknown], Decimal(2)) == Decimal("0.75")


@pytest.mark.parametrize(
    "entry", [Entry(chunk(0, None), NOW, None, ending(None)), Entry(chunk(0, None), NOW)]
)
def test_an_unknown_cost_leaves_no_room_under_a_limit(entry: Entry) -> None:
    """Unknown never counts as zero."""
    assert budget.room([entry], Decimal(100)) == 0


@pytest.mark.parametrize("storage", STORAGES)
def test_what_another_process_wrote_is_never_overwritten(tmp_path: Path, storage) -> None:
    """The second of two intents of one sequence is refused; one's own is written again for free."""

    async def check() -> None:
        records, other = (Records(storage(tmp_path), "key") for _ in range(2))
        await records.begin(Start("key", NOW, "/out"), afresh=False)
        mine = Intent(chunk(0), NOW, b"a" * 24)
        await records.write_intent(mine)
        await records.write_intent(mine)
        theirs = Intent(chunk(0), NOW + timedelta(seconds=1), b"b" * 24)
        with pytest.raises(TakenOverError, match=r"000000\.intent.*another process"):
            await other.write_intent(theirs)
        found = await other.intent(0)
        assert found == mine
        await records.write_receipt(0, Receipt("batch_1", NOW))
        await other.write_receipt(0, Receipt("batch_1", NOW, adopted=True))
        with pytest.raises(TakenOverError):
            await other.write_receipt(0, Receipt("batch_2", NOW))
        await records.write_ending(0, ending("0.1"))
        with pytest.raises(TakenOverError):
            await other.write_ending(0, ending("0.2"))

    asyncio.run(check())


def test_two_that_create_one_record_at_once_are_told_apart(tmp_path: Path) -> None:
    """On a disk the first of many threads has it, and no other believes that it does."""
    storage = DurableFileSystem(basepath=str(tmp_path))

    async def check() -> list[bool]:
        each = [Records(storage, "key") for _ in range(16)]
        return await asyncio.gather(*(r.create("x", {"n": n}) for n, r in enumerate(each)))

    assert sum(asyncio.run(check())) == 1
    assert len(list(tmp_path.rglob("*.part"))) == 0
