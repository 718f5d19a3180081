"""Rendered requests of one job set, on disk: bodies end to end in one file, an index beside it.

Memory holds four bytes a job, its state; everything else is read where it lies. Nothing here is
state of the run: it is made anew from the jobs at each start, and told from the records what is
done.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sqlite3
import struct
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import ne
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batchata_prefect.errors import ValidationError
from batchata_prefect.ledger import FINGERPRINT_BYTES
from batchata_prefect.models import Job, Request
from batchata_prefect.spool.layout import (
    ANSWERED,
    ATTEMPT_MASK,
    BUFFER_BYTES,
    CANCELED,
    FAILED,
    FAMILY_SHIFT,
    HELD,
    IN_FLIGHT,
    INDEX_BUFFER_BYTES,
    MOST_ATTEMPTS,
    ONE_ATTEMPT,
    PRINT_AT,
    RECORD,
    STATE_BITS,
    STATE_MASK,
    TOKENS_AT,
    WAITING,
    Amendment,
    Context,
    Family,
    Row,
)
from batchata_prefect.spool.reader import Records, SpoolReader

__all__ = [
    "ANSWERED",
    "CANCELED",
    "FAILED",
    "HELD",
    "IN_FLIGHT",
    "MOST_ATTEMPTS",
    "WAITING",
    "Context",
    "Family",
    "Row",
    "Spool",
    "SpoolReader",
    "fingerprint",
    "sweep",
]

_ROWS_AT_ONCE = 2_000
_LOOK_AHEAD = 4
_PRINTS_AT_ONCE = 2_000 * FINGERPRINT_BYTES

_IDS = """
CREATE TABLE ids (ordinal INTEGER PRIMARY KEY, job_id TEXT NOT NULL, made TEXT);
CREATE TABLE prints (fingerprint BLOB PRIMARY KEY, ordinal INTEGER NOT NULL) WITHOUT ROWID;
"""
_REPEATS = """
SELECT ordinal, nth FROM
    (SELECT ordinal, ROW_NUMBER() OVER (PARTITION BY made ORDER BY ordinal) AS nth
     FROM ids WHERE made IS NOT NULL)
WHERE nth > 1
"""


class Spool:
    """One job set on disk; made by `Spool.create`, filled by `add`, ready after `seal`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.states: Counter[int] = Counter()
        self.has_prefixes = False
        self.files: dict[str, tuple[int, int]] = {}
        self._codes = array("I")
        self._waiting: Counter[int] = Counter()
        self._first: dict[int, int] = {}
        self._ids = _connect(directory / "ids.sqlite")
        self._index: BinaryIO | None = None
        self._bodies: BinaryIO | None = None
        self._contexts: BinaryIO | None = None
        self._digest = hashlib.blake2b(digest_size=16)
        self._ends = (0, 0)
        self._new_ids: list[tuple[int, str, str | None]] = []
        self._families: dict[tuple[str, str, str], Family] = {}
        self._examples: list[str] = []
        self._sizes: Counter[int] = Counter()
        self._lock: BinaryIO | None = None
        self._amended: dict[int, Amendment] = {}

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
        spool._ids.executescript(_IDS)
        spool._open_for_jobs()
        return spool

    @property
    def count(self) -> int:
        """Number of jobs."""
        return len(self._codes)

    def _open_for_jobs(self) -> None:
        self._index = (self.directory / "index").open("ab", buffering=BUFFER_BYTES)
        self._bodies = (self.directory / "bodies").open("ab", buffering=BUFFER_BYTES)
        self._contexts = (self.directory / "contexts").open("ab", buffering=BUFFER_BYTES)

    def add(
        self,
        job: Job,
        request: Request,
        *,
        named: bool,
        answer_schema: str | None = None,
    ) -> None:
        """Add a job with its rendered request.

        Args:
            job: The job.
            request: Its request.
            named: Whether the user gave the id; other ids are numbered where they repeat.
            answer_schema: Digest of its answer schema.

        Raises:
            OSError: The disk is full.
        """
        context: dict[str, Any] = {"id": job.id}
        if job.metadata:
            context["metadata"] = job.metadata
        if job.tags:
            context["tags"] = list(dict.fromkeys(job.tags))
        if answer_schema:
            context["schema"] = answer_schema
        if job.citing and not {"citations", "enable_citations"} & set(request.left_out):
            context["citations"] = job.citing
        if request.sources:
            context["sources"] = request.sources
        if request.files:
            context["files"] = [digest for digest, _ in request.files]
            for digest, file_bytes in dict(request.files).items():
                jobs, _ = self.files.get(digest, (0, 0))
                self.files[digest] = (jobs + 1, file_bytes)
        if request.prefix:
            context["prefix"] = request.prefix
            self.has_prefixes = True
        self.put(context, request, named=named)

    def put(self, context: dict[str, Any], request: Request, *, named: bool) -> None:
        """Add a job of which no more is kept than `context`, in the order of `add`'s fields.

        Args:
            context: Its id, and where it has them its metadata, its tags without repeats, and the
                digest of its answer schema.
            request: Its request.
            named: Whether the user gave the id.

        Raises:
            TypeError: The context is not JSON; nothing was added.
            OSError: The disk is full.
        """
        packed = orjson.dumps(context)
        if self._index is None:
            # More jobs after a run: the ids are checked again when it is sealed again.
            self._ids.execute("DROP INDEX job_ids")
            self._ids.execute("DELETE FROM prints")
            self._open_for_jobs()
        assert self._index and self._bodies and self._contexts
        job_id: str = context["id"]
        family = self._family(request, job_id)
        print_ = fingerprint(job_id, request.provider, request.endpoint, request.body)
        self._digest.update(print_)
        estimate = request.estimate
        size = self._bodies.write(request.body)
        # Other metadata or tags change no request, but they do change the results.
        self._digest.update(packed)
        context_size = self._contexts.write(packed)
        start, context_start = self._ends
        self._index.write(
            RECORD.pack(
                start,
                size,
                context_start,
                context_size,
                estimate.input_tokens,
                estimate.input_bound,
                estimate.output_bound,
                0,
                print_,
            )
        )
        self._ends = (start + size, context_start + context_size)
        self._new_ids.append((len(self._codes), job_id, None if named else job_id))
        code = family.id << FAMILY_SHIFT
        self._codes.append(code)
        self._waiting[code] += 1
        self._sizes[family.id] += 1
        self.states[WAITING] += 1
        if len(self._new_ids) >= _ROWS_AT_ONCE:
            self._store_ids()

    def _store_ids(self) -> None:
        self._ids.execute("BEGIN")
        self._ids.executemany("INSERT INTO ids VALUES (?, ?, ?)", self._new_ids)
        self._ids.execute("COMMIT")
        self._new_ids.clear()

    def _family(self, request: Request, job_id: str) -> Family:
        key = (request.provider, request.endpoint, request.model)
        family = self._families.get(key)
        if family is None:
            family = self._families[key] = Family(len(self._families), *key)
            self._examples.append(job_id)
        return family

    def seal(self) -> None:
        """Finish adding: number repeated ids that we made up, and see that ids are unique.

        Raises:
            ValidationError: Ids that the user gave repeat; all of them are named.
            OSError: The disk is full.
        """
        if self._index is None:
            return
        self._store_ids()
        self._close_files()
        self._number_repeats()
        try:
            self._ids.execute("CREATE UNIQUE INDEX job_ids ON ids (job_id)")
        except sqlite3.IntegrityError as error:
            repeated = self._ids.execute(
                "SELECT job_id, COUNT(*) FROM ids GROUP BY job_id HAVING COUNT(*) > 1 LIMIT 100"
            ).fetchall()
            faults = [f"job id {job_id!r} is given {count} times" for job_id, count in repeated]
            raise ValidationError(
                "job ids must be unique, nothing was sent: " + "; ".join(faults[:10]), faults
            ) from error

    def _close_files(self) -> None:
        for file in (self._index, self._bodies, self._contexts):
            if file is not None:
                file.close()
        self._index = self._bodies = self._contexts = None

    def _number_repeats(self) -> None:
        repeats = self._ids.execute(_REPEATS).fetchall()
        self._ids.executemany(
            "UPDATE ids SET job_id = made || '-' || ?2 WHERE ordinal = ?1", repeats
        )
        with (self.directory / "index").open("r+b") as index:
            for ordinal, nth in repeats:
                index.seek(ordinal * RECORD.size)
                *values, earlier, print_ = RECORD.unpack(index.read(RECORD.size))
                if not earlier:
                    index.seek(ordinal * RECORD.size)
                    index.write(RECORD.pack(*values, nth, _nth_fingerprint(print_, nth)))

    def reset(self) -> None:
        """Forget what became of the jobs, before the records are read anew."""
        self.seal()
        fresh = {family << FAMILY_SHIFT for family in self._sizes}
        if {code for code, count in self._waiting.items() if count} <= fresh and (
            self.states[WAITING] == self.count and not self._amended
        ):
            return
        for ordinal, code in enumerate(self._codes):
            self._codes[ordinal] = code >> FAMILY_SHIFT << FAMILY_SHIFT
        self._first.clear()
        self._amended.clear()
        self._waiting = Counter(
            {family << FAMILY_SHIFT: count for family, count in self._sizes.items()}
        )
        self.states = Counter({WAITING: self.count})

    @property
    def digest(self) -> str:
        """Digest of the whole job set, in its order."""
        return self._digest.hexdigest()

    def families(self) -> list[Family]:
        """The families in the order of their first job."""
        return list(self._families.values())

    def size(self, family: Family) -> int:
        """Number of jobs of a family."""
        return self._sizes[family.id]

    def example(self, family: Family) -> str:
        """Id of one job of a family."""
        return self._examples[family.id]

    def waiting(self, family: Family, attempts: int) -> Iterator[Row]:
        """The family's waiting jobs that were sent `attempts` times, in order."""
        code = family.id << FAMILY_SHIFT | attempts << STATE_BITS
        at = self._first.get(code, 0)
        with self._open_index() as index:
            records = Records(index)
            for nth in range(self._waiting[code]):
                at = self._codes.index(code, at)
                if nth == 0:
                    self._first[code] = at
                _, size, _, _, likely, input_bound, output_bound, _, print_ = records.at(at)
                if (changed := self._amended.get(at)) is not None:
                    _, size, likely, input_bound, output_bound, _ = changed
                yield Row(at, print_, size, likely, input_bound, output_bound)
                at += 1

    def waiting_count(self, family: Family, attempts: int) -> int:
        """How many of the family's jobs that were sent `attempts` times wait."""
        return self._waiting[family.id << FAMILY_SHIFT | attempts << STATE_BITS]

    def is_waiting(self, family: Family, attempts: int) -> bool:
        """Whether the family has a waiting job that was sent `attempts` times."""
        return self._waiting[family.id << FAMILY_SHIFT | attempts << STATE_BITS] > 0

    def locate(self, members: bytes) -> array[int]:
        """Ordinals of the jobs with these fingerprints, -1 for those not in this job set."""
        ordinals = array("q")
        guess = 0
        with self._open_index() as index:
            for at in range(0, len(members), _PRINTS_AT_ONCE):
                piece = members[at : at + _PRINTS_AT_ONCE]
                count = len(piece) // FINGERPRINT_BYTES
                # The same jobs in the same order, as nearly always, need no search at all.
                if _prints_from(index, guess, count) == piece:
                    ordinals.extend(range(guess, guess + count))
                    guess += count
                else:
                    guess = self._locate_each(index, piece, guess, ordinals)
        return ordinals

    def _locate_each(
        self, index: BinaryIO, members: bytes, guess: int, ordinals: array[int]
    ) -> int:
        for at in range(0, len(members), FINGERPRINT_BYTES):
            wanted = members[at : at + FINGERPRINT_BYTES]
            # A job that was taken out or put in between leaves the next ones close by.
            for near in range(guess, min(guess + _LOOK_AHEAD, self.count)):
                if _prints_from(index, near, 1) == wanted:
                    ordinal = near
                    break
            else:
                ordinal = self._search(wanted)
            ordinals.append(ordinal)
            guess = ordinal + 1 if ordinal >= 0 else guess
        return guess

    def _search(self, print_: bytes) -> int:
        if self._ids.execute("SELECT 1 FROM prints LIMIT 1").fetchone() is None:
            self._ids.execute("BEGIN")
            self._ids.executemany("INSERT INTO prints VALUES (?, ?)", self._prints())
            self._ids.execute("COMMIT")
        row = self._ids.execute(
            "SELECT ordinal FROM prints WHERE fingerprint = ?", (print_,)
        ).fetchone()
        return -1 if row is None else row[0]

    def _prints(self) -> Iterator[tuple[bytes, int]]:
        with self._open_index() as index:
            for ordinal in range(self.count):
                yield index.read(RECORD.size)[PRINT_AT:], ordinal

    def assign(self, ordinals: Sequence[int]) -> None:
        """Mark jobs as in flight; an ordinal of -1 is of a job that is gone."""
        self.move(ordinals, IN_FLIGHT)

    def move(self, ordinals: Sequence[int], state: int) -> None:
        """Give jobs the same new state; an ordinal of -1 is of a job that is gone.

        A chunk of a large run holds jobs that follow each other and are in the same state, and
        those are moved as one.
        """
        count = len(ordinals)
        first = ordinals[0] if count else -1
        codes = self._codes[first : first + count] if first >= 0 else self._codes[:0]
        alike = len(codes) == count > 0 and codes.count(codes[0]) == count
        if not alike or state == WAITING or any(map(ne, ordinals, range(first, first + count))):
            self.mark((state, 0, ordinal) for ordinal in ordinals if ordinal >= 0)
            return
        before = codes[0]
        after = (before & ~STATE_MASK) + state
        self._codes[first : first + count] = array("I", [after]) * count
        self._count({(before, after): count})

    def mark(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Give jobs their new state: (state, attempts to add, ordinal)."""
        codes, first = self._codes, self._first
        moved: Counter[tuple[int, int]] = Counter()
        for state, more, ordinal in changes:
            before = codes[ordinal]
            after = (before & ~STATE_MASK) + state + more * ONE_ATTEMPT
            codes[ordinal] = after
            moved[before, after] += 1
            if state == WAITING:
                first[after] = min(first.get(after, ordinal), ordinal)
        self._count(moved)

    def _count(self, moved: Mapping[tuple[int, int], int]) -> None:
        """Count moves, (code before, code after) -> jobs: each by itself would cost too much."""
        for (before, after), count in moved.items():
            self.states[before & STATE_MASK] -= count
            self.states[after & STATE_MASK] += count
            if before & STATE_MASK == WAITING:
                self._waiting[before] -= count
            if after & STATE_MASK == WAITING:
                self._waiting[after] += count

    def sample(self, wanted: Callable[[int], int]) -> array[int]:
        """Jobs that stand for the others: spread evenly over the waiting jobs of each family.

        Args:
            wanted: Waiting jobs of a family -> how many of them; at least one is taken.
        """
        sizes: Counter[int] = Counter()
        for code, count in self._waiting.items():
            sizes[code >> FAMILY_SHIFT] += count
        numbers = {family: min(size, max(1, wanted(size))) for family, size in sizes.items()}
        seen: Counter[int] = Counter()
        found = array("q")
        for ordinal, code in enumerate(self._codes):
            if code & STATE_MASK != WAITING:
                continue
            family = code >> FAMILY_SHIFT
            nth, number, size = seen[family], numbers[family], sizes[family]
            seen[family] += 1
            # Evenly as pixels on a line: the rounded share grows by one at `number` places.
            if (2 * (nth + 1) * number + size) // (2 * size) > (2 * nth * number + size) // (
                2 * size
            ):
                found.append(ordinal)
        return found

    def hold_back(self, but: Iterable[int]) -> None:
        """Have all waiting jobs but these wait until `let_go`."""
        kept = set(but)
        self.mark(
            (HELD, 0, ordinal)
            for ordinal, code in enumerate(self._codes)
            if code & STATE_MASK == WAITING and ordinal not in kept
        )

    def let_go(self) -> None:
        """Have the jobs that were held back wait to be sent."""
        self.mark(
            (WAITING, 0, ordinal)
            for ordinal, code in enumerate(self._codes)
            if code & STATE_MASK == HELD
        )

    def state(self, ordinal: int) -> int:
        """What became of a job so far."""
        return self._codes[ordinal] & STATE_MASK

    def family_id(self, ordinal: int) -> int:
        """Id of the family of a job."""
        return self._codes[ordinal] >> FAMILY_SHIFT

    def held(self, family: Family) -> int:
        """How many jobs of a family are held back."""
        code = family.id << FAMILY_SHIFT | HELD
        return sum(
            self._codes.count(code | attempts << STATE_BITS) for attempts in range(MOST_ATTEMPTS)
        )

    def attempts(self, ordinal: int) -> int:
        """Times that a job was sent and not answered."""
        return self._codes[ordinal] >> STATE_BITS & ATTEMPT_MASK

    def amend(self, ordinal: int, body: bytes, tokens: tuple[int, int, int]) -> None:
        """Give a job another request for its next attempt; it stays the same job.

        Args:
            ordinal: The job.
            body: The request.
            tokens: Likely and most input tokens, and most output tokens.

        Raises:
            OSError: The disk is full.
        """
        with (self.directory / "bodies").open("ab") as bodies:
            start = bodies.tell()
            size = bodies.write(body)
        # More jobs may be added after a run, behind this.
        self._ends = (start + size, self._ends[1])
        times = self.amendments(ordinal) + 1
        self._amended[ordinal] = Amendment(start, size, *tokens, times)

    def amendments(self, ordinal: int) -> int:
        """Times that a job's request was changed."""
        changed = self._amended.get(ordinal)
        return 0 if changed is None else changed.times

    def recount(self, ordinal: int, input_tokens: int, input_bound: int) -> None:
        """Put exact counts of input tokens in place of a job's estimates."""
        with (self.directory / "index").open("r+b", buffering=0) as index:
            index.seek(ordinal * RECORD.size + TOKENS_AT)
            index.write(struct.pack("<II", input_tokens, input_bound))

    def tokens(self, ordinal: int) -> tuple[int, int, int]:
        """Likely and most input tokens, and most output tokens, of a job's request."""
        if (changed := self._amended.get(ordinal)) is not None:
            return changed.input_tokens, changed.input_bound, changed.output_bound
        with self._open_index() as index:
            index.seek(ordinal * RECORD.size)
            _, _, _, _, likely, input_bound, output_bound, *_ = RECORD.unpack(
                index.read(RECORD.size)
            )
        return likely, input_bound, output_bound

    def overlap(self, job_ids: Iterable[str]) -> bool:
        """Whether any of these ids is in the job set."""
        found = self._ids.execute
        return any(
            found("SELECT 1 FROM ids WHERE job_id = ?", (job_id,)).fetchone() for job_id in job_ids
        )

    def _open_index(self) -> BinaryIO:
        return (self.directory / "index").open("rb", buffering=INDEX_BUFFER_BYTES)

    def reader(self) -> SpoolReader:
        """A reader for another thread."""
        return SpoolReader(self.directory, self._codes, self.families(), self._amended)

    def close(self) -> None:
        """Remove the spool from disk."""
        self._close_files()
        self._ids.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def fingerprint(job_id: str, provider: str, endpoint: str, body: bytes) -> bytes:
    """What a job is recognised by at the next start: its id and its rendered request."""
    digest = hashlib.blake2b(
        f"{job_id}\0{provider}\0{endpoint}\0".encode("utf-8", "surrogatepass"),
        digest_size=FINGERPRINT_BYTES,
    )
    digest.update(body)
    return digest.digest()


def _prints_from(index: BinaryIO, ordinal: int, count: int) -> bytes:
    """The fingerprints of jobs one after the other, end to end; fewer where there are fewer."""
    index.seek(ordinal * RECORD.size)
    records = index.read(count * RECORD.size)
    return b"".join(record[-1] for record in RECORD.iter_unpack(records))


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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # A spool cut short is thrown away, so nothing of it has to survive a crash.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -8000")
    return connection
