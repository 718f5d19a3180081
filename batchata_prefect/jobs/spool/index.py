"""The index of a spool as a whole: looked through, and changed where ids repeat."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from batchata_prefect.files import whole_file
from batchata_prefect.jobs.spool.ids import Known
from batchata_prefect.jobs.spool.layout import (
    INDEX_BUFFER_BYTES,
    MADE,
    RECORD,
    digest,
    fingerprint,
    pack,
    unpack,
)
from batchata_prefect.money.ledger import FINGERPRINT_BYTES

_LOOK_AHEAD = 4
_PRINTS_AT_ONCE = 2_000 * FINGERPRINT_BYTES


def open_index(directory: Path) -> BinaryIO:
    """The index of the spool in a folder, to be read."""
    return (directory / "index").open("rb", buffering=INDEX_BUFFER_BYTES)


def known_jobs(directory: Path, count: int) -> Iterator[Known]:
    """What is looked for of every job."""
    with open_index(directory) as index, (directory / "contexts").open("rb") as contexts:
        for ordinal in range(count):
            _, _, _, size, *_, nth, kind, print_ = RECORD.unpack(index.read(RECORD.size))
            job_id = orjson.loads(unpack(contexts.read(size), 0).job_id)
            yield Known(ordinal, job_id, nth, kind, print_)


def locate(
    index: BinaryIO, members: bytes, guess: int, count: int, search: Callable[[bytes], int]
) -> tuple[array[int], int]:
    """Find the jobs with these fingerprints.

    Args:
        index: The index, open.
        members: The fingerprints, end to end.
        guess: Where the first of them may be.
        count: Number of jobs.
        search: The ordinal of a fingerprint, -1 where there is none; what nothing else finds.

    Returns:
        Their ordinals, -1 for those that are not there; and where the next ones may be.
    """
    ordinals = array("q")
    guess = guess if _prints_from(index, guess, 1) == members[:FINGERPRINT_BYTES] else 0
    for at in range(0, len(members), _PRINTS_AT_ONCE):
        piece = members[at : at + _PRINTS_AT_ONCE]
        size = len(piece) // FINGERPRINT_BYTES
        # The same jobs in the same order, as nearly always, need no search at all.
        if _prints_from(index, guess, size) == piece:
            ordinals.extend(range(guess, guess + size))
            guess += size
            continue
        for start in range(0, len(piece), FINGERPRINT_BYTES):
            wanted = piece[start : start + FINGERPRINT_BYTES]
            # A job that was taken out or put in between leaves the next ones close by.
            for near in range(guess, min(guess + _LOOK_AHEAD, count)):
                if _prints_from(index, near, 1) == wanted:
                    ordinal = near
                    break
            else:
                ordinal = search(wanted)
            ordinals.append(ordinal)
            guess = ordinal + 1 if ordinal >= 0 else guess
    return ordinals, guess


def _prints_from(index: BinaryIO, ordinal: int, count: int) -> bytes:
    """The fingerprints of jobs one after the other, end to end; fewer where there are fewer."""
    index.seek(ordinal * RECORD.size)
    records = index.read(count * RECORD.size)
    return b"".join(record[-1] for record in RECORD.iter_unpack(records))


def number(directory: Path, repeats: Iterable[tuple[int, int]]) -> None:
    """Number jobs whose id repeats: (ordinal, number)."""
    with (directory / "index").open("r+b") as index:
        for ordinal, nth in repeats:
            index.seek(ordinal * RECORD.size)
            *values, earlier, kind, print_ = RECORD.unpack(index.read(RECORD.size))
            if not earlier:
                index.seek(ordinal * RECORD.size)
                index.write(RECORD.pack(*values, nth, kind, digest(print_ + b"%d" % nth)))


def refuse(
    directory: Path, count: int, refused: Iterable[tuple[int, str, str]]
) -> tuple[tuple[hashlib.blake2b, hashlib.blake2b], int]:
    """Have jobs make none.

    Args:
        directory: The folder of the spool.
        count: Number of its jobs.
        refused: Ordinal, new id and fault of each of them, in order.

    Returns:
        Digests of all fingerprints and of all contexts, and bytes of all contexts.
    """
    digests, end = (hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)), 0
    path, size = directory / "contexts", RECORD.size
    rest = iter(refused)
    due = next(rest, None)
    with (
        (directory / "index").open("r+b", buffering=0) as index,
        path.open("rb") as old,
        whole_file(path, synced=False) as contexts,
    ):
        for ordinal in range(count):
            record = RECORD.unpack(os.pread(index.fileno(), size, ordinal * size))
            start, body_bytes, _, held, *numbers, kind, print_ = record
            packed = old.read(held)
            if due is not None and due[0] == ordinal:
                _, job_id, fault = due
                body_bytes, numbers = 0, [0] * len(numbers)
                packed, print_, kind = _refused(packed, job_id, fault), no_job(job_id), MADE
                due = next(rest, None)
            values = (start, body_bytes, end, len(packed), *numbers, kind, print_)
            os.pwrite(index.fileno(), RECORD.pack(*values), ordinal * size)
            contexts.write(packed)
            end += len(packed)
            digests[0].update(print_)
            digests[1].update(packed)
    return digests, end


def no_job(job_id: str) -> bytes:
    """The fingerprint of a row that makes no job."""
    return fingerprint(job_id, b"\0\0\0", b"")


def _refused(packed: bytes, job_id: str, fault: str) -> bytes:
    rest = unpack(packed, 0).rest
    own = orjson.loads(rest).get("fault") if rest else None
    return pack({"id": job_id, "fault": own or fault})
