"""What is wrong with jobs, told together before anything is sent; or of those that are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from batchata_prefect.errors import ProviderError, ValidationError
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.numbers import counted

_FAULTS_SHOWN = 20
_PLACES_SHOWN = 3


class Faults:
    """What was wrong with jobs, told together: a fault of the file or of an option once."""

    def __init__(self) -> None:
        self._all: list[str] = []
        self._places: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, place: str, error: Exception | str, job_id: object = None) -> None:
        """Note a fault; what it says is the same for all jobs once place and id are left out."""
        short = fault_of(error, job_id)
        text = str(error) if short in str(error) else short
        self._all.append(f"{place}: {text}" if place else text)
        self._places.setdefault(short, []).append(place)

    def raise_together(self) -> None:
        """Tell all that were noted.

        Raises:
            ValidationError: Some were.
        """
        if not self._all:
            return
        if set(map(tuple, self._places.values())) == {("",)}:
            raise ValidationError("; ".join(self._all), self._all)
        told = [_told(places, text) for text, places in self._places.items()]
        shown = "\n".join(f"- {each}" for each in told[:_FAULTS_SHOWN])
        more = len(told) - _FAULTS_SHOWN
        raise ValidationError(
            f"{len(self._all)} jobs would be refused, nothing was sent:\n{shown}"
            + (f"\n- and {more} more" if more > 0 else ""),
            self._all,
        )


def _told(places: list[str], text: str) -> str:
    """A fault with the first places where it stands."""
    first, *others = places
    told = f"{first}: {text}" if first else text
    if not others:
        return told
    head, _, _ = first.rpartition(" ")
    also = ", ".join(place.removeprefix(f"{head} ") for place in others[: _PLACES_SHOWN - 1])
    more = len(places) - _PLACES_SHOWN
    return f"{told} (also {also}{f' and {more:,} more' if more > 0 else ''})"


def fault_of(error: Exception | str, job_id: object) -> str:
    """What is wrong with a job, without its id."""
    if isinstance(error, Exception) and not isinstance(error, (ValidationError, ProviderError)):
        return f"no job can be made of it ({type(error).__name__}: {error})"
    own = "(no id)" if job_id is None else job_id
    return str(error).removeprefix(f"job {own!r}: ")


def remarks(spool: Spool) -> Iterator[str]:
    """What a person should know of the rows that jobs were made from."""
    if count := spool.refused:
        told = "; ".join(islice(spool.faults(), _PLACES_SHOWN))
        more = f"; and {count - _PLACES_SHOWN:,} more" if count > _PLACES_SHOWN else ""
        yield f"{counted(count, 'row')} skipped, of which no job can be made: {told}{more}"
    if spool.empty:
        (column, count), *others = spool.empty.most_common()
        has = "has" if count == 1 else "have"
        also = "".join(f", {number:,} `{name}`" for name, number in others)
        yield f"{counted(count, 'row')} {has} an empty cell `{column}`{also}: asked without it"
