"""From the options of a command to a batch that can be run, and the note by which to repeat it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import orjson

from batchata_prefect.batch import Batch, add_file, batch_of, job_defaults
from batchata_prefect.cli.local_sandbox import FOLDER, local_sandbox
from batchata_prefect.cli.options import checked
from batchata_prefect.cli.trust import is_ours, refuse, sealed
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.files import write_json
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.jobs.row_files import file_rows
from batchata_prefect.jobs.sources import RowForm
from batchata_prefect.options import JOBS, FileOptions, how
from batchata_prefect.results.remote import ORDER, read_order, working_folder


@dataclass(frozen=True, slots=True)
class Amendment:
    """What `batchata retry` changed for some jobs.

    Attributes:
        rows: Row of the jobs file, from 0 -> id of its job, which stays.
        told: What is told of them in place of what the order tells.
    """

    rows: Mapping[int, str]
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What `batchata run` was told.

    Attributes:
        jobs: Path or URL of the jobs.
        place: Results directory, or its URL.
        told: The options that were told, by name, as the command line has them.
        sandbox: Whether they are sent to a server of its own.
        amendments: What was changed for some jobs later; the last one counts.
    """

    jobs: str
    place: Path | str
    told: Mapping[str, Any]
    sandbox: bool = False
    amendments: tuple[Amendment, ...] = ()

    @property
    def out(self) -> Path:
        """The local directory of its results."""
        return working_folder(self.place) if isinstance(self.place, str) else self.place

    def batch(self) -> Batch:
        """The batch with all its jobs.

        Raises:
            BatchataError: The options or the jobs are wrong; nothing was sent.
        """
        options = self.options()
        if self.sandbox and options.state is None:
            options = options.but(state=str(self.out / FOLDER / "state"))
        batch = batch_of(options, self.place)
        if not self.amendments:
            add_file(batch, options)
        else:
            file = JobsFile.of(self.jobs)
            batch.take(file_rows(self.jobs), _amended(self, options), options.on_bad_row)
            batch.came_from(file, options.prompt)
        if not len(batch):
            raise ValidationError(f"{self.jobs!r} holds no rows, so there are no jobs to send")
        return batch

    def options(self, told: Mapping[str, Any] | None = None) -> FileOptions:
        """The options that were told, or these.

        Raises:
            ValidationError: One of them is wrong.
        """
        return FileOptions.of({**checked(self.told if told is None else told), "jobs": self.jobs})

    def with_earlier_amendments(self, *, trust: bool = False) -> Order:
        """The same with what `batchata retry` changed since this very order was given before.

        Raises:
            StateError: It was changed by somebody else, and is not trusted.
        """
        try:
            earlier, is_ours = Order._read(self.place)
        except StateError:
            return self
        is_same = _asked(earlier.told) == _asked(self.told) and earlier.jobs == whole(self.jobs)
        if not is_same or not earlier.amendments:
            return self
        if not (is_ours or trust):
            raise refuse(self.place, earlier.shown())
        labels = {name: value for name, value in self.told.items() if name in _LABELS}
        amendments = [
            replace(each, told={**_unlabelled(each.told), **labels}) for each in earlier.amendments
        ]
        return replace(self, amendments=tuple(amendments))

    def shown(self) -> dict[str, Any]:
        """What it would read and import, for the person who is to trust it."""
        told = [self.told, *(each.told for each in self.amendments)]

        def said(name: str) -> list[Any]:
            return [each[name] for each in told if each.get(name)]

        def listed(named: Iterable[str | None]) -> str:
            return ", ".join(sorted({name for name in named if name}))

        return {
            "jobs": self.jobs,
            "classes": listed(said("response_model")),
            "documents": listed(said("documents_root")),
            "files": listed(
                text[1:] for text in said("prompt") + said("system") if text.startswith("@")
            ),
            "prices": self.told.get("prices"),
            "accounts": self.told.get("accounts"),
            "records": self.told.get("state"),
        }

    def note(self) -> None:
        """Write it into the results directory, for `batchata retry`."""
        values = {
            "jobs": whole(self.jobs),
            "told": self.told,
            "sandbox": self.sandbox,
            "amendments": [
                {"rows": {str(row): job for row, job in each.rows.items()}, "told": each.told}
                for each in self.amendments
            ],
        }
        write_json(self.out / ORDER, sealed(values))

    @classmethod
    def noted(cls, place: Path | str, *, trust: bool = False) -> Self:
        """The order that a results directory was made by.

        Raises:
            StateError: It was made by a program, or by another version; or somebody else has
                written it, and it is not trusted.
        """
        order, is_ours = cls._read(place)
        if not (is_ours or trust):
            raise refuse(place, order.shown())
        return order

    @classmethod
    def _read(cls, place: Path | str) -> tuple[Self, bool]:
        """The order in a results directory, and whether this user's own command wrote it.

        At a URL another machine may have amended it since it was noted here, or the other way
        round where the results could not be put there: amendments only ever grow.

        Raises:
            StateError: It was made by a program, or by another version.
        """
        if isinstance(place, Path):
            notes = [_bytes_of(place / ORDER)]
        else:
            notes = [_bytes_of(working_folder(place) / ORDER), read_order(place)]
        try:
            found = [
                (cls._from_note(place, values), is_ours(values))
                for values in (orjson.loads(note) for note in notes if note is not None)
            ]
            return max(found, key=lambda each: len(each[0].amendments))
        except (orjson.JSONDecodeError, TypeError, KeyError, ValueError) as error:
            raise StateError(
                f"{str(place)!r} was not made by `batchata run`, so its jobs are not known "
                "here. Run its program again: it sends what was not answered for no fault of the "
                "job's own; change the jobs that failed, and only those are new"
            ) from error

    @classmethod
    def _from_note(cls, place: Path | str, values: Mapping[str, Any]) -> Self:
        known = FileOptions.model_fields.keys()
        amendments = [
            Amendment({int(row): job for row, job in each["rows"].items()}, each["told"])
            for each in values["amendments"]
        ]
        for told in (values["told"], *(each.told for each in amendments)):
            if not told.keys() <= known:
                raise ValueError(f"there are no options {sorted(told.keys() - known)}")
        return cls(values["jobs"], place, values["told"], values["sandbox"], tuple(amendments))


def _bytes_of(path: Path) -> bytes | None:
    # One that cannot be read is not none: what `batchata retry` changed would be sent unchanged.
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


def _amended(order: Order, options: FileOptions) -> Callable[[Mapping[str, Any], int], RowForm]:
    """What a row becomes, with what was changed for its job."""
    last = {row: each for each in order.amendments for row in each.rows}
    amended = {id(each): order.options(each.told) for each in order.amendments}

    def form(row: Mapping[str, Any], number: int) -> RowForm:
        amendment = last.get(number - 1)
        asked, defaults = options, dict[str, Any]()
        if amendment is not None:
            asked = amended[id(amendment)]
            # An id that is made of its request would be another now.
            defaults = {"id": amendment.rows[number - 1], **job_defaults(asked)}
        own = "id" if asked.prompt is not None and "id" in row else None
        return RowForm(
            asked.prompt,
            asked.id_column or own,
            asked.file_column,
            asked.metadata_columns or None,
            defaults,
            documents_root=asked.documents_root,
            allow_urls=asked.allow_urls,
        )

    return form


_LABELS = frozenset({"id_column", "metadata_columns", "on_bad_row", "tags"})
"""Options of a job that change its results, and nothing of its request."""


def _unlabelled(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in _LABELS}


def _asked(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for each row, of what a command was told."""
    options, told = FileOptions.model_fields, _unlabelled(told)
    return {name: value for name, value in told.items() if how(options[name]).group == JOBS}


def whole(place: str) -> str:
    """A path that means the same from another folder; a URL stays."""
    return place if "://" in place else str(Path(place).expanduser().resolve())


def provided(order: Order, stack: ExitStack) -> None:
    """Put the sandbox in the place of the providers, where the order asks for it."""
    if order.sandbox:
        os.environ.update(stack.enter_context(local_sandbox(order.out)))
