"""How a spool lies on disk and in memory: the index of jobs, and their states."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

import orjson

from batchata_prefect.models import USUAL, Citing, Terms
from batchata_prefect.money.ledger import FINGERPRINT_BYTES

WAITING, IN_FLIGHT, ANSWERED, FAILED, CANCELED, HELD = range(6)
"""States of a job; `HELD` is one that waits for the canary."""

STATE_BITS, ATTEMPT_BITS = 3, 5
STATE_MASK, ATTEMPT_MASK = (1 << STATE_BITS) - 1, (1 << ATTEMPT_BITS) - 1
MOST_ATTEMPTS = ATTEMPT_MASK
"""Attempts of one job that its state has room to count."""
ONE_ATTEMPT = 1 << STATE_BITS
FAMILY_SHIFT = STATE_BITS + ATTEMPT_BITS

MADE, NAMED, REFUSED = range(3)
"""Where a job's id is from: made by us, given, or given in a row that makes no job."""

BUFFER_BYTES = 1 << 20
INDEX_BUFFER_BYTES = 1 << 16

RECORD = Struct(f"<QIQIIIIIB{FINGERPRINT_BYTES}s")
"""A job in the index: start and bytes of its body; start and bytes of its context; likely input
tokens and the bounds of input and output; which of the jobs with this id it is, where it is not
the first; where the id is from; fingerprint."""


def record_at(index: BinaryIO, ordinal: int) -> tuple[Any, ...]:
    """The record of a job in an open index."""
    return RECORD.unpack(os.pread(index.fileno(), RECORD.size, ordinal * RECORD.size))


@dataclass(frozen=True, slots=True)
class Family:
    """The jobs that may share a provider batch: one provider, endpoint, model, and terms.

    Rows that make no job have none of these, and are of a family of their own.
    """

    id: int
    provider: str
    endpoint: str
    model: str
    terms: Terms = USUAL


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


class Amendment(NamedTuple):
    """The changed request of a job, in place of the one in the index.

    Attributes:
        start: Where its body begins.
        size: Bytes of its body.
        input_tokens: Likely input tokens.
        input_bound: Upper bound of input tokens.
        output_bound: Upper bound of output tokens.
        times: Changes of this job's request so far.
        after_round: The round whose answer it was made from.
        continues: Whether it ends with what the model has said, for the model to go on.
        before: The change before it.
    """

    start: int
    size: int
    input_tokens: int
    input_bound: int
    output_bound: int
    times: int
    after_round: int = -1
    continues: bool = False
    before: Amendment | None = None


class Facts(NamedTuple):
    """What a spool knows of its jobs beside what lies in its files.

    Attributes:
        families: Provider, endpoint, model and terms of each family, in order.
        examples: Id of one job of each.
        ends: Bytes of all bodies, and of all contexts.
        digests: Of all fingerprints, and of all contexts.
        has_prefixes: As the spool's own.
        files: As the spool's own.
        empty: As the spool's own.
    """

    families: Sequence[Sequence[Any]]
    examples: Sequence[str]
    ends: Sequence[int]
    digests: Sequence[str]
    has_prefixes: bool
    files: Mapping[str, Sequence[int]]
    empty: Mapping[str, int]


class Context(NamedTuple):
    """What reading an answer needs to know of its job.

    Attributes:
        job_id: The job's own id.
        metadata: The user's own values.
        answer_schema: Digest of its answer schema; None for plain text.
        citations: How it asked for citations; None where it did not.
        sources: Titles of its documents.
        state: What became of it so far.
        prefix: Digest of what it shares with others, where it is to be held in the cache.
        files: Digests of the large files in its request.
        tags: Words under which its cost is added up.
        accept_truncated: Whether an answer that was cut off is taken as it is.
        fault: Why its row makes no job; None where it does.
    """

    job_id: str
    metadata: dict[str, Any]
    answer_schema: str | None = None
    citations: Citing | None = None
    sources: tuple[str, ...] = ()
    state: int = WAITING
    prefix: str | None = None
    files: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    accept_truncated: bool = False
    fault: str | None = None


class Stored(NamedTuple):
    """What is kept of a job beside its request, as JSON and in the form in which it is given back.

    Attributes:
        job_id: The job's id: a text.
        metadata: A text that is JSON itself, as it stands in the results; empty where there is
            none.
        tags: A list of texts; empty where there are none.
        rest: An object of what only some jobs have; empty where there is nothing.
    """

    job_id: bytes
    metadata: bytes = b""
    tags: bytes = b""
    rest: bytes = b""


def fingerprint(job_id: str, behind_id: bytes, body: bytes, nth: int = 0) -> bytes:
    """What a job is recognised by at the next start: its id and its rendered request.

    Args:
        job_id: Its id as it was given.
        behind_id: Provider and endpoint, as they stand between the two.
        body: Its request.
        nth: Which of the jobs with this id it is; 0 where it is the first.
    """
    hashed = hashlib.blake2b(job_id.encode() + behind_id, digest_size=FINGERPRINT_BYTES)
    hashed.update(body)
    first = hashed.digest()
    return digest(first + b"%d" % nth) if nth else first


def request_hash(family: Family) -> hashlib.blake2b:
    """What a job is recognised by whose id is another since, once its request is put into it."""
    about = f"{family.provider}\0{family.endpoint}\0{family.model}\0"
    return hashlib.blake2b(about.encode(), digest_size=FINGERPRINT_BYTES)


def digest(data: bytes) -> bytes:
    """A digest of some bytes, as long as a fingerprint."""
    return hashlib.blake2b(data, digest_size=FINGERPRINT_BYTES).digest()


_BETWEEN = b"\t"
"""No JSON without spaces holds it."""

_REST = ("schema", "citations", "sources", "files", "prefix", "accept_truncated", "fault")

ACCEPTS_TRUNCATED = orjson.dumps({"accept_truncated": True})
"""`Stored.rest` of a job that has nothing in it but this."""


def in_a_row(ordinals: array[int]) -> Sequence[int]:
    """The same ordinals, in no memory where they follow each other, as they nearly always do."""
    if not ordinals or ordinals[0] < 0:
        return ordinals  # -1 stands for a job that is gone, and is the ordinal of none
    whole = range(ordinals[0], ordinals[0] + len(ordinals))
    return whole if ordinals == array(ordinals.typecode, whole) else ordinals


def pack(context: Mapping[str, Any]) -> bytes:
    """A job's context for the spool; `unpack` gives it back.

    Args:
        context: The job's `id`, and where it has them its `metadata`, `tags`, `schema`,
            `citations`, `sources`, `files`, `prefix`, `accept_truncated` and `fault`; what is
            empty is not kept.

    Raises:
        TypeError: A value is not JSON.
    """
    job_id = orjson.dumps(context["id"])
    if len(context) == 1:
        return job_id + b"\t\t\t"
    metadata, tags = context.get("metadata"), context.get("tags")
    rest = {name: value for name in _REST if (value := context.get(name))}
    return _BETWEEN.join(
        (
            job_id,
            orjson.dumps(orjson.dumps(metadata).decode()) if metadata else b"",
            orjson.dumps(tags) if tags else b"",
            orjson.dumps(rest) if rest else b"",
        )
    )


def unpack(packed: bytes, nth: int) -> Stored:
    """What `pack` made.

    Args:
        packed: Its bytes.
        nth: Which of the jobs with this id it is; 0 where it is the first.
    """
    job_id, metadata, tags, rest = packed.split(_BETWEEN)
    if nth:
        job_id = b'%b-%d"' % (job_id[:-1], nth)
    return Stored(job_id, metadata, tags, rest)
