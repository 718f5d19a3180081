"""One job set on disk: filled, sealed, and then looked up and marked as the run goes on."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from batchata_prefect.files import copy_start, make_folder, private, whole_file
from batchata_prefect.jobs.spool.index import (
    Ids,
    Known,
    Recorded,
    known_jobs,
    locate,
    number,
    open_index,
    refuse,
)
from batchata_prefect.jobs.spool.layout import (
    BUFFER_BYTES,
    FAMILY_SHIFT,
    MADE,
    NAMED,
    RECORD,
    REFUSED,
    Amendment,
    Facts,
    Family,
    Row,
    digest,
    in_a_row,
    pack,
    record_at,
)
from batchata_prefect.jobs.spool.reader import SpoolReader
from batchata_prefect.jobs.spool.states import States
from batchata_prefect.jobs.spool.writer import Writer
from batchata_prefect.models import USUAL, Estimate, Job, Request, Terms

_ROWS_AT_ONCE = 2_000


class Spool:
    """One job set on disk; made by `Spool.create`, filled by `add`, ready after `seal`.

    Attributes:
        directory: Where it lies.
        states: What became of the jobs so far.
        has_prefixes: Whether some jobs are to be sent side by side.
        files: Digest of a large file in the requests -> jobs that have it, and its bytes.
        empty: Column -> rows in which it is empty and the prompt has more.
        recorded: Under which fingerprints the records know jobs that have had another id.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.states = States()
        self.has_prefixes = False
        self.files: dict[str, tuple[int, int]] = {}
        self.empty: Counter[str] = Counter()
        self._ids = Ids(directory / "ids.sqlite", self._known)
        self._writer = Writer(directory)
        self._new_families = array("I")
        self._families: dict[tuple[str, str, str, Terms], Family] = {}
        self._examples: list[str] = []
        self._behind_ids: list[bytes] = []
        self._lock: BinaryIO | None = None
        self._restored: Facts | None = None
        self._located = 0
        self._amended: dict[int, Amendment] = {}
        self.recorded = Recorded(directory / "recorded")

    @classmethod
    def create(cls, parent: Path) -> Spool:
        """A new, empty spool in a folder of its own below `parent`."""
        make_folder(parent)
        directory = Path(tempfile.mkdtemp(prefix="spool-", dir=parent))
        lock = open(directory / "owner", "wb", opener=private)  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX)
        spool = cls(directory)
        spool._lock = lock
        spool._writer.open()
        return spool

    @property
    def count(self) -> int:
        """Number of jobs."""
        return len(self.states.codes) + len(self._new_families)

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
        """
        cites = not {"citations", "enable_citations"} & set(request.left_out)
        context = {
            "id": job.id,
            "metadata": job.metadata,
            "tags": list(dict.fromkeys(job.tags)),
            "schema": answer_schema,
            "citations": job.citing if cites else None,
            "sources": request.sources,
            "files": [name for name, _ in request.files],
            "prefix": request.prefix,
            "accept_truncated": job.accept_truncated,
        }
        for name, file_bytes in dict(request.files).items():
            jobs, _ = self.files.get(name, (0, 0))
            self.files[name] = (jobs + 1, file_bytes)
        self.has_prefixes = self.has_prefixes or bool(request.prefix)
        family = self.family(request, job.id)
        self.put(job.id, pack(context), family, request.body, request.estimate, named=named)

    def put(
        self,
        job_id: str,
        packed: bytes,
        family: Family,
        body: bytes,
        estimate: Estimate,
        *,
        named: bool,
        refused: bool = False,
    ) -> None:
        """Add a job of which no more is kept than its packed context.

        Args:
            job_id: Its id.
            packed: Its context, from `pack`.
            family: Its family, from `family`.
            body: Its request.
            estimate: Tokens of its request.
            named: Whether the user gave the id.
            refused: Whether it is a row that makes no job.
        """
        if not self._writer.is_open:
            self._take_more()
        behind_id = self._behind_ids[family.id]
        kind = REFUSED if refused and named else NAMED if named else MADE
        self._writer.put(job_id, behind_id, packed, body, estimate, kind=kind)
        self._ids.add(job_id)
        self._new_families.append(family.id)
        if len(self._new_families) >= _ROWS_AT_ONCE:
            self._store_new()

    def refuse(self, job_id: str, fault: str, *, named: bool) -> None:
        """Add a row that makes no job: it has failed from the start, and is never sent.

        Args:
            job_id: The row's own id, or one that names it.
            fault: Why it makes no job.
            named: Whether the id is its own.
        """
        context, family = pack({"id": job_id, "fault": fault}), self._family_of_none(job_id)
        self.put(job_id, context, family, b"", Estimate(0, 0, 0), named=named, refused=True)

    def refuse_repeats(self, first: int, told: Callable[[int, str], tuple[str, str]]) -> None:
        """Have jobs from an ordinal on make none whose given id an earlier one has.

        Args:
            first: The ordinal.
            told: Ordinal and id -> the id to have in its place, and what is wrong.
        """
        self._store_new()
        repeats = self._ids.given_again(first)
        if (one := next(repeats, None)) is None:
            self._ids.close()  # more may be added
            return
        self._family_of_none(one[1])

        def refused() -> Iterator[tuple[int, str, str]]:
            for ordinal, job_id in chain([one], repeats):
                self.states.refuse(ordinal)
                yield ordinal, *told(ordinal, job_id)

        self._writer.close()
        digests, end = refuse(self.directory, self.count, refused())
        self._writer.digests, self._writer.ends = digests, (self._writer.ends[0], end)
        self._ids.close()
        self._writer.open()

    def faults(self) -> Iterator[str]:
        """Why rows make no job, of one after the other."""
        with closing(self.reader()) as reader:
            yield from (reader.context(each).fault or "" for each in self.states.refused_jobs())

    @property
    def refused(self) -> int:
        """Number of rows that make no job."""
        self._store_new()
        return 0 if self.states.refused is None else self.states.sizes[self.states.refused]

    def _family_of_none(self, job_id: str) -> Family:
        none = ("", "", "", USUAL)
        return self._families.get(none) or self._new_family(*none, job_id)

    def _store_new(self) -> None:
        """Write down what was only gathered so far."""
        if self._new_families:
            self._writer.flush(len(self.states.codes))
            self.states.add(self._new_families)
            del self._new_families[:]

    def family(self, request: Request, job_id: str) -> Family:
        """The family of a request; `job_id` is its job's."""
        key = (request.provider, request.endpoint, request.model, request.terms)
        return self._families.get(key) or self._new_family(*key, job_id)

    def _new_family(
        self, provider: str, endpoint: str, model: str, terms: Terms, job_id: str
    ) -> Family:
        family = Family(len(self._families), provider, endpoint, model, terms)
        self._families[provider, endpoint, model, terms] = family
        if not provider:
            self.states.refused = family.id
        self._examples.append(job_id)
        self._behind_ids.append(f"\0{provider}\0{endpoint}\0".encode())
        return family

    def seal(self) -> None:
        """Finish adding: number repeated ids that we made up, and see that ids are unique.

        Raises:
            ValidationError: Ids that the user gave repeat; all of them are named.
            OSError: The disk is full.
        """
        if not self._writer.is_open:
            return
        self._store_new()
        self._writer.close()
        if self._ids.settle():
            number(self.directory, self._ids.repeats())
            self._ids.check()
            # It knows the jobs as they were before they were numbered.
            self._ids.close()

    def reset(self) -> None:
        """Forget what became of the jobs, before the records are read anew."""
        self.seal()
        self.states.reset()
        self._amended.clear()
        self.recorded.drop()

    @property
    def digest(self) -> str:
        """Digest of the whole job set, in its order."""
        return digest(b"".join(map(bytes.fromhex, self.facts().digests))).hex()

    def facts(self) -> Facts:
        """What is to be kept of the spool beside its files."""
        if self._restored is not None:
            return self._restored
        self._store_new()
        families = [
            (each.provider, each.endpoint, each.model, tuple(each.terms))
            for each in self._families.values()
        ]
        digests = [each.hexdigest() for each in self._writer.digests]
        ends, prefixes = self._writer.ends, self.has_prefixes
        return Facts(families, self._examples, ends, digests, prefixes, self.files, self.empty)

    def restore(self, facts: Facts, codes: array[int]) -> None:
        """Be the sealed spool whose files were put in the place of this one's.

        Args:
            facts: What `facts` of that spool told.
            codes: The codes of its jobs.
        """
        self._writer.close()
        for told, example in zip(facts.families, facts.examples, strict=True):
            provider, endpoint, model, (uses, free, tier, region) = told
            asked = tuple((tuple(fees), most) for fees, most in uses)
            terms = Terms(asked, tuple(free), tier, region)
            self._new_family(provider, endpoint, model, terms, example)
        self._writer.ends = (facts.ends[0], facts.ends[1])
        self.has_prefixes = facts.has_prefixes
        self.files = {name: (jobs, size) for name, (jobs, size) in facts.files.items()}
        self.empty = Counter(facts.empty)
        self.states.add(array("I", [code >> FAMILY_SHIFT for code in codes]))
        self._restored = facts

    def _take_more(self) -> None:
        """Take more jobs after a run: the ids are checked again when it is sealed again."""
        self._ids.reopen()
        if self._restored is not None:
            bodies = self.directory / "bodies"
            # Others may have a hand on the same file, and changed requests stand behind its end.
            with whole_file(bodies, synced=False) as own:
                copy_start(bodies, self._writer.ends[0], own)
            for known in self._known():
                self._writer.digests[0].update(known.fingerprint)
            with (self.directory / "contexts").open("rb") as contexts:
                while piece := contexts.read(BUFFER_BYTES):
                    self._writer.digests[1].update(piece)
            self._restored = None
        self._writer.open()

    def _known(self) -> Iterator[Known]:
        return known_jobs(self.directory, len(self.states.codes))

    def families(self) -> list[Family]:
        """The families of what can be sent, in the order of their first job."""
        return [each for each in self._families.values() if each.provider and self.size(each)]

    def size(self, family: Family) -> int:
        """Number of jobs of a family."""
        self._store_new()
        return self.states.sizes[family.id]

    def terms(self, ordinals: Sequence[int]) -> Terms:
        """How the jobs of a chunk are billed beside their tokens, as far as one of them is here."""
        ordinal = next((ordinal for ordinal in ordinals if ordinal >= 0), None)
        if ordinal is None:
            return USUAL
        return list(self._families.values())[self.states.codes[ordinal] >> FAMILY_SHIFT].terms

    def example(self, family: Family) -> str:
        """Id of one job of a family."""
        return self._examples[family.id]

    def waiting(self, family: Family, attempts: int) -> Iterator[Row]:
        """The family's waiting jobs that were sent `attempts` times, in order."""
        with open_index(self.directory) as index:
            fd = index.fileno()
            for first, count in self.states.runs(family.id, attempts):
                records = os.pread(fd, count * RECORD.size, first * RECORD.size)
                at, recorded = first, self.recorded.prints(first, count)
                for record in RECORD.iter_unpack(records):
                    _, size, _, _, likely, most, output, _, _, print_ = record
                    if recorded is not None:
                        print_ = recorded[at - first] or print_
                    if self._amended and (changed := self._amended.get(at)) is not None:
                        _, size, likely, most, output, *_ = changed
                    yield Row(at, print_, size, likely, most, output)
                    at += 1

    def locate(self, members: bytes) -> Sequence[int]:
        """Ordinals of the jobs with these fingerprints, -1 for those not in this job set."""
        with open_index(self.directory) as index:
            # Chunks hold jobs one after the other, each those behind the jobs of the one before.
            ordinals, self._located = locate(
                index, members, self._located, self.count, self._ids.search
            )
        return in_a_row(ordinals)

    def amend(
        self,
        ordinal: int,
        body: bytes,
        tokens: tuple[int, int, int],
        *,
        after_round: int = -1,
        continues: bool = False,
    ) -> None:
        """Give a job another request for its next attempt; it stays the same job.

        Args:
            ordinal: The job.
            body: The request.
            tokens: Likely and most input tokens, and most output tokens.
            after_round: The round whose answer it was made from.
            continues: Whether it ends with what the model has said, for the model to go on.
        """
        with (self.directory / "bodies").open("ab") as bodies:
            start = bodies.tell()
            size = bodies.write(body)
        if self._restored is None:
            # More jobs may be added after a run, behind this.
            self._writer.ends = (start + size, self._writer.ends[1])
        times, before = self.amendments(ordinal) + 1, self._amended.get(ordinal)
        self._amended[ordinal] = Amendment(
            start, size, *tokens, times, after_round, continues, before
        )

    def amendments(self, ordinal: int) -> int:
        """Times that a job's request was changed."""
        changed = self._amended.get(ordinal)
        return 0 if changed is None else changed.times

    def continues(self, ordinal: int) -> bool:
        """Whether a job's request ends with what the model has said."""
        changed = self._amended.get(ordinal)
        return changed is not None and changed.continues

    def tokens(self, ordinal: int) -> tuple[int, int, int]:
        """Likely and most input tokens, and most output tokens, of a job's request."""
        if (changed := self._amended.get(ordinal)) is not None:
            return changed.input_tokens, changed.input_bound, changed.output_bound
        with open_index(self.directory) as index:
            _, _, _, _, likely, input_bound, output_bound, *_ = record_at(index, ordinal)
        return likely, input_bound, output_bound

    def reader(self) -> SpoolReader:
        """A reader for another thread."""
        behind_ids = None if self._restored is None else self._behind_ids
        return SpoolReader(
            self.directory,
            self.states.codes,
            list(self._families.values()),
            self._amended,
            behind_ids,
        )

    def close(self) -> None:
        """Remove the spool from disk."""
        # A full disk does not take what is still to be written; nobody reads it any more.
        with suppress(OSError):
            self._writer.close()
        self._ids.close()
        self.recorded.drop()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


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
