"""What the sandbox remembers across a restart: one SQLite file, written by the server only.

Commits are not synced to the disk: they outlive a killed process, which is what a test needs,
and not a power cut.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson

from .ledger import BILL_COLUMNS
from .wire import Json

Bill = tuple[Any, ...]
"""One request that costs money: a value for each of `BILL_COLUMNS`.

Input tokens include those read from and written to a cache.
"""


@dataclass(slots=True)
class Batch:
    """A provider batch: what was asked for, and as much of its ending as is decided.

    Times are Unix seconds. `status` is the provider's own word where the batch is final or a
    cancel is under way; before that the clock decides what the API shows.
    """

    id: str
    provider: str
    endpoint: str
    created_at: float
    due_at: float
    status: str = "in_progress"
    model: str | None = None
    count: int = 0
    metadata: dict[str, str] | None = None
    input_file_id: str | None = None
    output_expires_after: float | None = None
    version: str = ""
    betas: str = ""
    ending: str = ""
    """Mode of the fault that decides how it ends, if one does."""
    ending_options: Json = field(default_factory=dict[str, Any])
    validated_at: float | None = None
    cancel_at: float | None = None
    ended_at: float | None = None
    counts: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[Json] | None = None
    usage: Json | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    final: bool = False
    ways: list[str] = field(default_factory=list[str])

    @property
    def takes(self) -> float:
        """Seconds from its creation to its end."""
        return self.due_at - self.created_at

    @property
    def lists_no_unrun(self) -> bool:
        """Whether its files say nothing of the requests that did not run."""
        return self.ending == "no_unrun_rows" or bool(self.ending_options.get("bare"))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded or produced file; its bytes lie in `files/<id>`."""

    id: str
    provider: str
    purpose: str
    filename: str
    bytes: int
    mime_type: str
    created_at: float
    expires_at: float | None


_FILE_COLUMNS = ", ".join(each.name for each in fields(StoredFile))
_FILE_PLACES = ", ".join(f":{each.name}" for each in fields(StoredFile))
_BILL_COLUMNS = ", ".join(BILL_COLUMNS)
_BILL_PLACES = ", ".join("?" for _ in BILL_COLUMNS)
_INSERT_FILE = f"insert into files ({_FILE_COLUMNS}) values ({_FILE_PLACES})"  # noqa: S608
_INSERT_BILL = f"insert into billed ({_BILL_COLUMNS}) values ({_BILL_PLACES})"  # noqa: S608
_BATCH_COLUMNS = "id, provider, endpoint, model, status, final, count, created_at, metadata, record"
_SAVE_BATCH = f"""
insert into batches ({_BATCH_COLUMNS}) values (:{_BATCH_COLUMNS.replace(", ", ", :")})
on conflict (id) do update set model = excluded.model, status = excluded.status,
    final = excluded.final, count = excluded.count, record = excluded.record
"""  # noqa: S608
_SEQ = "seq integer primary key autoincrement"
_SCHEMA = f"""
create table if not exists batches ({_SEQ}, {_BATCH_COLUMNS}, unique (id));
create table if not exists files ({_SEQ}, {_FILE_COLUMNS}, deleted default 0);
create table if not exists billed ({_SEQ}, {_BILL_COLUMNS});
create index if not exists billed_batch on billed (batch_id);
create table if not exists seen (body_digest text primary key);
create table if not exists calls (provider, operation, count, primary key (provider, operation));
create table if not exists settings (name text primary key, value text not null);
"""


class Store:
    """The SQLite file and the directories beside it. Safe to use from any thread."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.files_dir = data_dir / "files"
        self.batches_dir = data_dir / "batches"
        self.incoming_dir = data_dir / "incoming"
        for directory in (self.files_dir, self.batches_dir, self.incoming_dir):
            directory.mkdir(parents=True, exist_ok=True)
        self._threads = threading.local()
        self._calls: dict[tuple[str, str], int] = {}
        self._calls_lock = threading.Lock()
        self.connection().executescript(_SCHEMA)

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode."""
        found: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self.data_dir / "ledger.sqlite3", timeout=60, isolation_level=None
            )
            found.execute("pragma journal_mode = wal")
            found.execute("pragma synchronous = off")
            self._threads.connection = found
        return found

    def load_batches(self) -> list[Batch]:
        """Every batch, oldest first."""
        rows = self.connection().execute("select record from batches order by seq")
        known = {each.name for each in fields(Batch)}
        # A folder of an earlier version has batches with other fields.
        return [
            Batch(**{name: value for name, value in orjson.loads(record).items() if name in known})
            for (record,) in rows
        ]

    def save_batch(self, batch: Batch) -> None:
        """Make a new batch, or a change of it, durable."""
        _save(self.connection(), batch)

    def end_batch(
        self, batch: Batch, bills: Iterable[Bill], files: Iterable[StoredFile], seen: Iterable[str]
    ) -> None:
        """End a batch, bill its rows and list its files, all or nothing and once only."""
        connection = self.connection()
        connection.execute("begin immediate")
        try:
            (final,) = connection.execute(
                "select final from batches where id = ?", (batch.id,)
            ).fetchone()
            if not final:
                # Charged when the batch ends, whenever its rows were computed.
                at = (batch.ended_at,)
                connection.executemany(_INSERT_BILL, (bill[:-1] + at for bill in bills))
                connection.executemany(_INSERT_FILE, [asdict(file) for file in files])
                connection.executemany(
                    "insert or ignore into seen values (?)", ((digest,) for digest in seen)
                )
                _save(connection, batch)
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise

    def bill(self, bill: Bill) -> None:
        """Record one realtime call that costs money."""
        self.connection().execute(_INSERT_BILL, bill)

    def has_seen(self, digest: str) -> bool:
        """Whether a row marked `once` was already in a batch that ended."""
        row = self.connection().execute("select 1 from seen where body_digest = ?", (digest,))
        return row.fetchone() is not None

    def load_files(self) -> list[StoredFile]:
        """Every file that was not deleted, oldest first."""
        rows = self.connection().execute(
            f"select {_FILE_COLUMNS} from files where not deleted order by seq"  # noqa: S608
        )
        return [StoredFile(*row) for row in rows]

    def add_file(self, file: StoredFile) -> None:
        """Make an uploaded file durable."""
        self.connection().execute(_INSERT_FILE, asdict(file))

    def delete_file(self, file_id: str, *, in_use: bool) -> None:
        """Forget a file, and its bytes unless a running batch still reads them."""
        self.connection().execute("update files set deleted = 1 where id = ?", (file_id,))
        if not in_use:
            (self.files_dir / file_id).unlink(missing_ok=True)

    def count_call(self, provider: str, operation: str) -> None:
        """Count an HTTP call; `flush_calls` makes the counts durable."""
        with self._calls_lock:
            key = (provider, operation)
            self._calls[key] = self._calls.get(key, 0) + 1

    def flush_calls(self) -> None:
        """Make the counts of HTTP calls durable."""
        with self._calls_lock:
            fresh, self._calls = self._calls, {}
        self.connection().executemany(
            "insert into calls values (?, ?, ?)"
            " on conflict do update set count = count + excluded.count",
            [(*key, count) for key, count in fresh.items()],
        )

    def setting(self, name: str) -> Any:
        """A stored setting, or None."""
        row = (
            self.connection()
            .execute("select value from settings where name = ?", (name,))
            .fetchone()
        )
        return orjson.loads(row[0]) if row else None

    def set_setting(self, name: str, value: Any) -> None:
        """Store a setting."""
        self.connection().execute(
            "insert into settings values (?, ?) on conflict do update set value = excluded.value",
            (name, orjson.dumps(value).decode()),
        )


def save_index(path: Path, places: array[int]) -> None:
    """Keep the places (start, end, start, end, ...) of a batch's requests in its file."""
    with path.open("wb") as file:
        places.tofile(file)


def load_index(path: Path) -> array[int]:
    """The places that `save_index` kept."""
    places: array[int] = array("Q")
    places.frombytes(path.read_bytes())
    return places


def _save(connection: sqlite3.Connection, batch: Batch) -> None:
    record = orjson.dumps(batch).decode()
    metadata = orjson.dumps(batch.metadata or {}).decode()
    connection.execute(_SAVE_BATCH, {**asdict(batch), "metadata": metadata, "record": record})
