"""Under which fingerprints the records know jobs that have had another id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from batchata_prefect.money.ledger import FINGERPRINT_BYTES

_NONE = b"\0" * FINGERPRINT_BYTES


class Recorded:
    """The fingerprints on disk, at the places of their jobs; made anew at each start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def put(self, ordinal: int, print_: bytes) -> None:
        """Have the records know a job by this fingerprint."""
        if self._file is None:
            self._file = self._path.open("w+b", buffering=0)
        os.pwrite(self._file.fileno(), print_, ordinal * FINGERPRINT_BYTES)

    def prints(self, first: int, count: int) -> list[bytes] | None:
        """Those of jobs that follow each other, empty where it is a job's own; None for all."""
        if self._file is None:
            return None
        size = FINGERPRINT_BYTES
        held = os.pread(self._file.fileno(), count * size, first * size).ljust(count * size, b"\0")
        found = (held[at : at + size] for at in range(0, len(held), size))
        return [b"" if print_ == _NONE else print_ for print_ in found]

    def drop(self) -> None:
        """Know of none any more."""
        if self._file is not None:
            self._file.close()
            self._file = None
