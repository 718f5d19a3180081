"""What is written down of a run: the plain records, and what is computed from them.

`records` keeps them in Prefect result storage; nothing here knows how. Money is never held
anywhere else: what is spent, reserved and left is always a sum over these entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from batchata_prefect.answers import Usage
from batchata_prefect.models import Chunk

TIME_LIMIT = "Time limit exceeded"
"""Reason of an ending that the run's deadline brought about."""

REALTIME = "Going over to the realtime API"
"""Reason of an ending that the time limit brought about ahead of it, for the realtime API."""

OVERDUE = "The provider did not end it by itself, long after it expired"
"""Reason of an ending that this package brought about where the provider did not."""

LOST = "the provider keeps its results no more"
"""Reason of an ending whose results were there, and are gone."""

FINGERPRINT_BYTES = 12
"""96 bits: among a million jobs two share one with a chance of about 1 in 10^17."""

WRITTEN_OFF = "a person has written off what cannot be had of it"
"""Reason of an ending that `batchata adopt --write-off` has brought about."""

EndingStatus: TypeAlias = Literal[
    "ended", "expired", "canceled", "failed", "turned_away", "never_created"
]
"""The provider's own endings; `turned_away` where it let the batch in and ran none of it because
too many tokens wait; `never_created` where it has none."""

NEVER_SENT = frozenset({"turned_away", "never_created"})
"""Endings that are no attempt at the jobs."""


@dataclass(frozen=True, slots=True)
class Start:
    """That a run began.

    Attributes:
        run_key: The identity under which the run resumes.
        started_at: Time of the first start; the time limit counts from here.
        results_dir: Where the answers go.
        accounts: Provider name -> base URL that its requests go to.
        credentials: Provider name -> credentials block with its key, where it is in one.
        records: Random id of the records that begin with it; empty where an earlier version
            began them.
    """

    run_key: str
    started_at: datetime
    results_dir: str
    accounts: Mapping[str, str] = field(default_factory=dict[str, str])
    credentials: Mapping[str, str] = field(default_factory=dict[str, str])
    records: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """The jobs of the canary, and whether the others may follow.

    Attributes:
        job_set: Digest of the job set that it was drawn from.
        first: Sequence of the first chunk sent for it.
        ordinals: Its jobs.
        passed: Whether the others may follow; None while that is not known.
    """

    job_set: str
    first: int
    ordinals: tuple[int, ...]
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """That a provider batch is about to be created.

    Attributes:
        chunk: What is to be sent.
        since: Time just before the create.
        members: Fingerprints of its jobs, in the order of their places, end to end.
        requests: Digests of their requests, by which a job is known that has another id since;
            empty where an earlier version wrote it.
    """

    chunk: Chunk
    since: datetime
    members: bytes
    requests: bytes = b""


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a provider batch exists.

    Attributes:
        batch_id: The provider's id.
        created_at: Time of creation as the provider says, or as we saw it.
        adopted: Whether it was found at the provider after an uncertain create.
    """

    batch_id: str
    created_at: datetime
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a chunk ended and what it cost.

    Attributes:
        status: How the provider batch ended, or that it was never created.
        marks: One letter for each ordinal, see `ANSWERED`.
        cost_usd: What was billed; None where the price is unknown.
        usage: Tokens that were billed.
        ended_at: Time of the end.
        reason: Why it was never created or failed as a whole.
        cache_saved_usd: What the provider's cache saved, below 0 what it cost; None where the
            price is unknown.
    """

    status: EndingStatus
    marks: str
    cost_usd: Decimal | None
    usage: Usage
    ended_at: datetime
    reason: str | None = None
    cache_saved_usd: Decimal | None = Decimal(0)


ANSWERED, FAILED, AGAIN, CANCELED, NOT_AS_ASKED = "a", "f", "r", "c", "x"
"""What an ordinal's letter in `Ending.marks` says: answered; failed for good; failed, may be tried
again; canceled before it was answered; answered, but may be asked again in other words."""


@dataclass(slots=True)
class Entry:
    """One line of the ledger: a chunk and what is known of it.

    Attributes:
        chunk: What was to be sent.
        since: Time just before the create.
        receipt: That its provider batch exists.
        ending: How it ended.
        written_off: Whether a person has said that what cannot be had of it is not waited for.
    """

    chunk: Chunk
    since: datetime
    receipt: Receipt | None = None
    ending: Ending | None = None
    written_off: bool = False


def extent(generation: int, ledger: Sequence[Entry]) -> list[int]:
    """Generation, entries and ended entries: what changes whenever anything is bought or ends."""
    return [generation, len(ledger), sum(1 for entry in ledger if entry.ending is not None)]


def claimed(ledger: Iterable[Entry], provider: str) -> frozenset[str]:
    """Ids of the batches of a provider that are a chunk's; another one may use the same ids."""
    return frozenset(
        entry.receipt.batch_id
        for entry in ledger
        if entry.receipt is not None and entry.chunk.provider == provider
    )
