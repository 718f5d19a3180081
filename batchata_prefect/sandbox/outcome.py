"""How a batch came out, before it is committed, and the order in which its rows ran."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .store import Bill, StoredFile
from .wire import Json

Stop = Callable[[], bool]
"""Asked now and then by a computation; true when its result is no longer wanted."""


@dataclass(slots=True)
class Outcome:
    """Everything that ending a batch changes. Files lie under a temporary name until then."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[Json] | None = None
    model: str | None = None
    usage: Json | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    bills: list[Bill] = field(default_factory=list[Bill])
    files: list[StoredFile] = field(default_factory=list[StoredFile])
    seen: list[str] = field(default_factory=list[str])
    moves: list[tuple[Path, Path]] = field(default_factory=list[tuple[Path, Path]])

    def discard(self) -> None:
        """Remove the temporary files of an outcome that is not committed."""
        for temporary, _ in self.moves:
            temporary.unlink(missing_ok=True)


class AbandonedError(Exception):
    """A computation was told to stop."""


def give_up_if(stop: Stop) -> None:
    """End a computation that is no longer wanted.

    Raises:
        AbandonedError: when `stop` says so.
    """
    if stop():
        raise AbandonedError


def running_order(batch_id: str, count: int) -> list[int]:
    """The order in which a batch's requests run and its results are listed.

    It is shuffled, as both providers promise no order, and the same each time for a batch.
    """
    order = list(range(count))
    random.Random(batch_id).shuffle(order)  # noqa: S311
    return order


def save_index(path: Path, places: array[int]) -> None:
    """Keep the places (start, end, start, end, ...) of a batch's requests in its file."""
    with path.open("wb") as file:
        places.tofile(file)


def load_index(path: Path) -> array[int]:
    """The places that `save_index` kept."""
    places: array[Any] = array("Q")
    places.frombytes(path.read_bytes())
    return places
