"""Results beside the rows of the jobs that they are of: their numbers, and their own columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from batchata_prefect.content.exact_json import writable
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.jobs.tables import as_json
from batchata_prefect.results.frames import OPENED
from batchata_prefect.results.result_file import BLANK

_PREFIX = "input_"


class Joined:
    """The rows of a run that is over, each with `row`, the number of its row of the jobs from 1.

    Behind it come the columns of that row, where the jobs file is given and is what it was; one
    whose name a result has, also in other letters (to most databases `Status` is `status`), is
    called `input_` and that name. What has no JSON form, as an image, is left out.
    """

    def __init__(self, results: Iterable[dict[str, Any]], jobs: JobsFile | None = None) -> None:
        self._results, self._jobs = results, jobs

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows."""
        rows: Iterator[dict[str, Any]] = iter(()) if self._jobs is None else self._jobs.rows()
        names, none = _Names(), dict[str, Any]()
        for number, result in enumerate(self._results, 1):
            yield {"row": number, **names.of(next(rows, none)), **result}


class _Names:
    """What the columns of the jobs are called beside those of the results."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken = {"row", *BLANK}

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the jobs under these names."""
        names = self._names
        if not row.keys() <= names.keys():
            self._add([name for name in row if name not in names])
        found: dict[str, Any] = {}
        for name, value in row.items():
            if type(value) is not str or not value.isascii():
                try:
                    value = writable(as_json(value))
                except TypeError:
                    continue
            found[names[name]] = value
        return found

    def _add(self, new: list[str]) -> None:
        # Those that can keep their name come first: none is taken from it by another.
        for name in sorted(new, key=self._is_taken):
            called = name
            while self._is_taken(called):
                called = _PREFIX + called
            self._taken.add(called.casefold())
            self._names[name] = called

    def _is_taken(self, name: str) -> bool:
        folded = name.casefold()
        return folded in self._taken or folded.startswith(tuple(OPENED.values()))
