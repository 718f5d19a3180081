"""The file that all jobs were made from: what it was, and its rows once more."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.row_files import Damaged, file_rows, kind_of


@dataclass(frozen=True, slots=True)
class JobsFile:
    """What a manifest notes of the file.

    Attributes:
        path: Its whole path; a URL without its login and query, as either may be a secret.
        digest: Digest of its bytes; None for what is no local file, which is not read again.
    """

    path: str
    digest: str | None = None

    @classmethod
    def of(cls, path_or_url: str | os.PathLike[str]) -> Self:
        """The file as it is now."""
        named = os.fspath(path_or_url)
        if "://" in named:
            parts = urlsplit(named)
            return cls(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
        path = os.path.abspath(os.path.expanduser(named))  # noqa: PTH100, PTH111 - as it is read
        return cls(path, _digest(path))

    @classmethod
    def noted(cls, values: Any) -> Self | None:
        """What a manifest says; None where it says nothing that can be understood."""
        try:
            path, digest = values["path"], values["digest"]
        except (TypeError, LookupError):
            return None
        return cls(path, digest) if isinstance(path, str) else None

    @property
    def is_table(self) -> bool:
        """Whether its rows have columns; each line of the others may be a whole request."""
        return kind_of(self.path)[0] not in {".jsonl", ".ndjson"}

    def check(self) -> None:
        """See that its rows can be had as they were; this reads the whole file.

        Raises:
            ValidationError: They cannot; the text says so in a few words.
        """
        if self.digest is None:
            raise ValidationError(f"{self.path!r} is no local file, which could be read again")
        if (now := _digest(self.path)) != self.digest:
            why = "cannot be read any more" if now is None else "was changed since the run"
            raise ValidationError(f"{self.path!r} {why}")
        next(self.rows(), None)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rows as they are now; a line that is none is one without columns.

        Raises:
            ValidationError: It cannot be read.
        """
        rows = file_rows(self.path)
        return (dict[str, Any]() if isinstance(row, Damaged) else row for row in rows)


def _digest(path: str) -> str | None:
    # A pipe or a device would give its bytes once, or block.
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises where a folder is closed
        return None
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None
