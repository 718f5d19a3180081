"""Rendered requests of one job set, on disk: bodies end to end in one file, the rest in an index.

The index is an SQLite file so that memory does not grow with the number of jobs. Nothing here is
state: it is made anew from the jobs at each start, and told from the records what is done.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from batchata_prefect.errors import ValidationError
from batchata_prefect.ledger import FINGERPRINT_BYTES
from batchata_prefect.models import Job, Request

WAITING, IN_FLIGHT, ANSWERED, FAILED, CANCELED = range(5)
"""States of a job in the index."""

_ROWS_AT_ONCE = 2_000
_BODY_BUFFER_BYTES = 1 << 20

_SCHEMA = """
CREATE TABLE families (
    id INTEGER PRIMARY KEY, provider TEXT, endpoint TEXT, model TEXT,
    UNIQUE (provider, endpoint, model));
CREATE TABLE answer_schemas (digest TEXT PRIMARY KEY, plain BLOB);
CREATE TABLE jobs (
    ordinal INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL, named INTEGER NOT NULL, fingerprint BLOB NOT NULL,
    family INTEGER NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, input_bound INTEGER NOT NULL, output_bound INTEGER NOT NULL,
    context BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0);
"""
_INDEXES = """
CREATE UNIQUE INDEX job_ids ON jobs (job_id);
CREATE UNIQUE INDEX fingerprints ON jobs (fingerprint);
CREATE INDEX waiting ON jobs (family, attempts, ordinal) WHERE state = 0;
"""


@dataclass(frozen=True, slots=True)
class Family:
    """The jobs that may share a provider batch: one provider, endpoint and model."""

    id: int
    provider: str
    endpoint: str
    model: str


class Row(NamedTuple):
    """What planning needs to know of a waiting job.

    Attributes:
        ordinal: Place in the job set, from 0.
        fingerprint: Digest of the job's id and its rendered request.
        size: Bytes of its body.
        input_tokens: Likely input tokens.
        input_bound: Upper bound of input tokens.
        output_bound: Upper bound of output tokens.
    """

    ordinal: int
    fingerprint: bytes
    size: int
    input_tokens: int
    input_bound: int
    output_bound: int


class Context(NamedTuple):
    """What reading an answer needs to know of its job.

    Attributes:
        ordinal: Place in the job set, from 0.
        job_id: The job's own id.
        metadata: The user's own values.
        answer_schema: Digest of its answer schema; None for plain text.
        citations: Whether it asked for citations.
        sources: Titles of its documents.
        attempts: Times it was sent and not answered.
        state: What became of it so far.
    """

    ordinal: int
    job_id: str
    metadata: dict[str, Any]
    answer_schema: str | None
    citations: bool
    sources: tuple[str, ...]
    attempts: int
    state: int


class Spool:
    """One job set on disk; made by `Spool.create`, filled by `add`, ready after `seal`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self.states: Counter[int] = Counter()
        self._index = _connect(directory / "index.sqlite")
        self._bodies: BinaryIO | None = None
        self._digest = hashlib.blake2b(digest_size=16)
        self._end = 0
        self._rows: list[tuple[Any, ...]] = []
        self._families: dict[tuple[str, str, str], Family] = {}
        self._schemas: set[str] = set()
        self._lock: BinaryIO | None = None

    @classmethod
    def create(cls, parent: Path) -> Spool:
        """A new, empty spool in a folder of its own below `parent`.

        Raises:
            OSError: The folder cannot be written.
        """
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="spool-", dir=parent))
        lock = (directory / "owner").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        spool = cls(directory)
        spool._lock = lock
        # Until it is sealed nobody else looks, and a spool cut short is thrown away.
        spool._index.execute("PRAGMA journal_mode = OFF")
        spool._index.executescript(_SCHEMA)
        spool._bodies = (directory / "bodies").open("wb", buffering=_BODY_BUFFER_BYTES)
        return spool

    def add(
        self,
        job: Job,
        request: Request,
        *,
        named: bool,
        answer_schema: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """Add a job with its rendered request.

        Args:
            job: The job.
            request: Its request.
            named: Whether the user gave the id; other ids are numbered where they repeat.
            answer_schema: Digest and plain form of its answer schema.

        Raises:
            OSError: The disk is full.
        """
        if self._bodies is None:
            self._unseal()
        assert self._bodies is not None
        if answer_schema and answer_schema[0] not in self._schemas:
            self._schemas.add(answer_schema[0])
            self._index.execute(
                "INSERT INTO answer_schemas VALUES (?, ?)",
                (answer_schema[0], orjson.dumps(answer_schema[1])),
            )
        family = self._family(request)
        size = self._bodies.write(request.body)
        context: dict[str, Any] = {}
        if job.metadata:
            context["metadata"] = dict(job.metadata)
        if answer_schema:
            context["schema"] = answer_schema[0]
        if job.enable_citations:
            context["citations"] = True
        if request.sources:
            context["sources"] = request.sources
        estimate = request.estimate
        print_ = fingerprint(job.id, request.provider, request.endpoint, request.body)
        self._digest.update(print_)
        self._rows.append(
            (
                self.count,
                job.id,
                named,
                print_,
                family.id,
                self._end,
                size,
                estimate.input_tokens,
                estimate.input_bound,
                estimate.output_bound,
                orjson.dumps(context) if context else b"",
            )
        )
        self._end += size
        self.count += 1
        self.states[WAITING] += 1
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._change(
            "INSERT INTO jobs (ordinal, job_id, named, fingerprint, family, start, size,"
            " input_tokens, input_bound, output_bound, context)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            self._rows,
        )
        self._rows.clear()

    def _family(self, request: Request) -> Family:
        key = (request.provider, request.endpoint, request.model)
        family = self._families.get(key)
        if family is None:
            family = self._families[key] = Family(len(self._families), *key)
            self._index.execute("INSERT INTO families VALUES (?,?,?,?)", (family.id, *key))
        return family

    def seal(self) -> None:
        """Finish adding: number repeated ids that we made up, and make the index.

        Raises:
            ValidationError: Ids that the user gave repeat; all of them are named.
        """
        if self._bodies is None:
            return
        self._flush()
        self._bodies.close()
        self._bodies = None
        self._number_repeats()
        try:
            self._index.executescript(_INDEXES)
        except sqlite3.IntegrityError as error:
            repeated = self._index.execute(
                "SELECT job_id, COUNT(*) FROM jobs GROUP BY job_id HAVING COUNT(*) > 1 LIMIT 100"
            ).fetchall()
            faults = [f"job id {job_id!r} is given {count} times" for job_id, count in repeated]
            raise ValidationError(
                "job ids must be unique, nothing was sent: " + "; ".join(faults[:10]), faults
            ) from error
        # WAL lets the threads that read answers look up jobs while the flow marks others.
        self._index.execute("PRAGMA journal_mode = WAL")

    def _unseal(self) -> None:
        """Take more jobs after a run."""
        self._index.executescript(
            "DROP INDEX job_ids; DROP INDEX fingerprints; DROP INDEX waiting;"
        )
        self._bodies = (self.directory / "bodies").open("ab", buffering=_BODY_BUFFER_BYTES)

    def _number_repeats(self) -> None:
        self._index.create_function("nth_fingerprint", 2, _nth_fingerprint, deterministic=True)
        self._index.execute(
            "UPDATE jobs SET job_id = job_id || '-' || repeats.nth,"
            " fingerprint = nth_fingerprint(fingerprint, repeats.nth)"
            " FROM (SELECT ordinal AS at, ROW_NUMBER() OVER"
            " (PARTITION BY job_id ORDER BY ordinal) AS nth FROM jobs WHERE NOT named) AS repeats"
            " WHERE repeats.at = jobs.ordinal AND repeats.nth > 1"
        )

    def reset(self) -> None:
        """Forget what became of the jobs, before the records are read anew."""
        self.seal()
        self._change(
            "UPDATE jobs SET state = 0, attempts = 0 WHERE state > 0 OR attempts > 0", [()]
        )
        self.states = Counter({WAITING: self.count})

    @property
    def digest(self) -> str:
        """Digest of the whole job set, in its order."""
        return self._digest.hexdigest()

    def families(self) -> list[Family]:
        """The families in the order of their first job."""
        rows = self._index.execute("SELECT id, provider, endpoint, model FROM families ORDER BY id")
        return [Family(*row) for row in rows]

    def size(self, family: Family) -> int:
        """Number of jobs of a family."""
        query = "SELECT COUNT(*) FROM jobs WHERE family = ?"
        return self._index.execute(query, (family.id,)).fetchone()[0]

    def example(self, family: Family) -> str:
        """Id of one job of a family."""
        query = "SELECT job_id FROM jobs WHERE family = ? LIMIT 1"
        return self._index.execute(query, (family.id,)).fetchone()[0]

    def answer_schemas(self) -> dict[str, dict[str, Any]]:
        """Digest -> plain form of every answer schema."""
        rows = self._index.execute("SELECT digest, plain FROM answer_schemas")
        return {digest: orjson.loads(plain) for digest, plain in rows}

    def waiting(self, family: Family, attempts: int) -> Iterator[Row]:
        """The family's waiting jobs that were sent `attempts` times, in order."""
        cursor = self._index.execute(
            "SELECT ordinal, fingerprint, size, input_tokens, input_bound, output_bound"
            " FROM jobs WHERE state = 0 AND family = ? AND attempts = ? ORDER BY ordinal",
            (family.id, attempts),
        )
        yield from map(Row._make, cursor)

    def is_waiting(self, family: Family, attempts: int) -> bool:
        """Whether the family has a waiting job that was sent `attempts` times."""
        row = self._index.execute(
            "SELECT 1 FROM jobs WHERE state = 0 AND family = ? AND attempts = ? LIMIT 1",
            (family.id, attempts),
        ).fetchone()
        return row is not None

    def locate(self, members: bytes) -> array[int]:
        """Ordinals of the jobs with these fingerprints, -1 for those not in this job set."""
        ordinals = array("q")
        for at in range(0, len(members), FINGERPRINT_BYTES):
            row = self._index.execute(
                "SELECT ordinal FROM jobs WHERE fingerprint = ?",
                (members[at : at + FINGERPRINT_BYTES],),
            ).fetchone()
            ordinals.append(-1 if row is None else row[0])
        return ordinals

    def assign(self, ordinals: Iterable[int]) -> None:
        """Mark waiting jobs as in flight."""
        states = self.states

        def here() -> Iterator[tuple[int]]:
            for ordinal in ordinals:
                if ordinal >= 0:
                    states[WAITING] -= 1
                    states[IN_FLIGHT] += 1
                    yield (ordinal,)

        self._change("UPDATE jobs SET state = 1 WHERE ordinal = ?", here())

    def mark(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Give jobs in flight their new state: (state, attempts to add, ordinal)."""
        states = self.states

        def counted() -> Iterator[tuple[int, int, int]]:
            for change in changes:
                states[IN_FLIGHT] -= 1
                states[change[0]] += 1
                yield change

        self._change(
            "UPDATE jobs SET state = ?, attempts = attempts + ? WHERE ordinal = ?", counted()
        )

    def attempts(self, ordinal: int) -> int:
        """Times that a job was sent and not answered."""
        row = self._index.execute(
            "SELECT attempts FROM jobs WHERE ordinal = ?", (ordinal,)
        ).fetchone()
        return row[0]

    def _change(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        self._index.execute("BEGIN")
        self._index.executemany(statement, values)
        self._index.execute("COMMIT")

    def overlap(self, job_ids: Iterable[str]) -> bool:
        """Whether any of these ids is in the job set."""
        found = self._index.execute
        return any(
            found("SELECT 1 FROM jobs WHERE job_id = ?", (job_id,)).fetchone() for job_id in job_ids
        )

    def reader(self) -> SpoolReader:
        """A reader for another thread."""
        return SpoolReader(self.directory)

    def close(self) -> None:
        """Remove the spool from disk."""
        if self._bodies is not None:
            self._bodies.close()
            self._bodies = None
        self._index.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class SpoolReader:
    """Looks up single jobs; has its own connection, so each thread needs its own reader."""

    def __init__(self, directory: Path) -> None:
        self._index = _connect(directory / "index.sqlite")
        self._bodies = (directory / "bodies").open("rb")

    def bodies(self, ordinals: Iterable[int]) -> Iterator[bytes]:
        """The request bodies of jobs, in the order asked for.

        Raises:
            OSError: The file is gone or cut short.
        """
        for ordinal in ordinals:
            start, size = self._index.execute(
                "SELECT start, size FROM jobs WHERE ordinal = ?", (ordinal,)
            ).fetchone()
            data = os.pread(self._bodies.fileno(), size, start)
            if len(data) != size:
                raise OSError(f"the spool {self._bodies.name!r} is cut short")
            yield data

    def context(self, ordinal: int) -> Context:
        """The job at an ordinal."""
        return self.contexts([ordinal])[ordinal]

    def contexts(self, ordinals: Sequence[int]) -> dict[int, Context]:
        """The jobs at these ordinals; those that are not in the job set are left out."""
        rows = self._index.execute(
            "SELECT ordinal, job_id, context, attempts, state FROM jobs"
            " WHERE ordinal IN (SELECT value FROM json_each(?))",
            (orjson.dumps(ordinals).decode(),),
        )
        return {row[0]: _context(*row) for row in rows}

    def family(self, ordinal: int) -> Family:
        """The family of the job at an ordinal."""
        row = self._index.execute(
            "SELECT families.id, provider, endpoint, model FROM families"
            " JOIN jobs ON jobs.family = families.id WHERE ordinal = ?",
            (ordinal,),
        ).fetchone()
        return Family(*row)

    def close(self) -> None:
        """Close the connection and the file."""
        self._index.close()
        self._bodies.close()


def fingerprint(job_id: str, provider: str, endpoint: str, body: bytes) -> bytes:
    """What a job is recognised by at the next start: its id and its rendered request."""
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    digest.update(f"{job_id}\0{provider}\0{endpoint}\0".encode("utf-8", "surrogatepass"))
    digest.update(body)
    return digest.digest()


def _nth_fingerprint(first: bytes, nth: int) -> bytes:
    return hashlib.blake2b(first + b"%d" % nth, digest_size=FINGERPRINT_BYTES).digest()


def sweep(parent: Path) -> None:
    """Remove the spools below `parent` whose owner is gone."""
    for directory in parent.glob("spool-*"):
        try:
            with (directory / "owner").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue  # just being made, or just being removed
        except OSError:
            continue  # its owner lives
        shutil.rmtree(directory, ignore_errors=True)


def _context(ordinal: int, job_id: str, context: bytes, attempts: int, state: int) -> Context:
    values: dict[str, Any] = orjson.loads(context) if context else {}
    return Context(
        ordinal=ordinal,
        job_id=job_id,
        metadata=values.get("metadata", {}),
        answer_schema=values.get("schema"),
        citations=values.get("citations", False),
        sources=tuple(values.get("sources", ())),
        attempts=attempts,
        state=state,
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -8000")
    return connection
