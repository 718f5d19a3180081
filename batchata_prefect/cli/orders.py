"""From the options of a command to a batch that can be run, and the note by which to repeat it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import orjson

from batchata_prefect.batch import Batch
from batchata_prefect.cli.local_sandbox import FOLDER, local_sandbox
from batchata_prefect.cli.options import Ask, Ways, seconds
from batchata_prefect.cli.trust import is_ours, refuse, sealed
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.files import write_json
from batchata_prefect.jobs.sources import jobs_from_rows, read_rows
from batchata_prefect.results.remote import ORDER, read_order, working_folder


@dataclass(frozen=True, slots=True)
class Amendment:
    """What `batchata retry` changed for some jobs.

    Attributes:
        rows: Row of the jobs file, from 0 -> id of its job, which stays.
        ask: What is asked for them in place of what the order asks.
    """

    rows: Mapping[int, str]
    ask: Ask


@dataclass(frozen=True, slots=True)
class Order:
    """What `batchata run` was told.

    Attributes:
        jobs: Path or URL of the jobs.
        place: Results directory, or its URL.
        ask: What is asked.
        ways: How it is sent.
        amendments: What was changed for some jobs later; the last one counts.
    """

    jobs: str
    place: Path | str
    ask: Ask
    ways: Ways
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
        ask, ways = self.ask, self.ways
        batch = Batch(
            results_dir=self.place,
            max_parallel_batches=ways.max_parallel_batches,
            items_per_batch=ways.items_per_batch,
            run_key=ways.run_key,
            max_attempts=ways.max_attempts,
            max_reasks=ways.max_reasks,
            prices=ways.prices,
            budget=ways.shared_budget,
        ).set_state(ways.state or (self.out / FOLDER / "state" if ways.sandbox else None))
        try:
            if ways.budget is not None:
                batch.add_cost_limit(usd=str(ways.budget))
            if ways.time_limit is not None:
                batch.add_time_limit(
                    seconds=seconds(ways.time_limit),
                    on_deadline="fail" if ways.realtime is None else "realtime",
                    realtime_usd=ways.realtime,
                )
        except ValueError as error:
            raise ValidationError(str(error)) from error
        batch.set_default_params(**_defaults(ask))
        if self.amendments:
            return batch.add_jobs(_amended(read_rows(self.jobs), ask, self.amendments))
        return batch.add_rows(
            self.jobs,
            prompt=prompt_text(ask.prompt),
            id_column=ask.id_column,
            file_column=ask.file_column,
            metadata_columns=list(ask.metadata_columns),
            documents_root=ask.documents_root,
            allow_urls=ask.allow_urls,
        )

    def how(self) -> dict[str, Any]:
        """Arguments of `Batch.run`."""
        ways = self.ways
        return {
            "cancel": "detach" if ways.detach else "collect",
            "canary": ways.canary,
            "min_valid": ways.min_valid,
        }

    def with_earlier_amendments(self, *, trust: bool = False) -> Order:
        """The same with what `batchata retry` changed since this very order was given before.

        Raises:
            StateError: It was changed by somebody else, and is not trusted.
        """
        try:
            earlier, is_ours = Order._read(self.place)
        except StateError:
            return self
        is_same = earlier.ask == self.ask and earlier.jobs == _whole(self.jobs)
        if not is_same or not earlier.amendments:
            return self
        if not (is_ours or trust):
            raise refuse(self.place, earlier.shown())
        return replace(self, amendments=earlier.amendments)

    def shown(self) -> dict[str, Any]:
        """What it would read and import, for the person who is to trust it."""
        asks = [self.ask, *(each.ask for each in self.amendments)]
        prompts = [text for ask in asks for text in (ask.prompt, ask.system) if text]

        def listed(named: Iterable[str | None]) -> str:
            return ", ".join(sorted({name for name in named if name}))

        return {
            "jobs": self.jobs,
            "classes": listed(ask.response_model for ask in asks),
            "documents": listed(ask.documents_root for ask in asks),
            "files": listed(text[1:] for text in prompts if text.startswith("@")),
            "prices": self.ways.prices,
            "records": self.ways.state,
        }

    def note(self) -> None:
        """Write it into the results directory, for `batchata retry`."""
        values = {
            "jobs": _whole(self.jobs),
            "ask": asdict(self.ask),
            "ways": {**asdict(self.ways), "prices": self.ways.prices and str(self.ways.prices)},
            "amendments": [
                {"rows": {str(row): job for row, job in each.rows.items()}, "ask": asdict(each.ask)}
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
        ways = dict(values["ways"])
        prices = ways.pop("prices")
        return cls(
            jobs=values["jobs"],
            place=place,
            ask=_ask(values["ask"]),
            ways=replace(Ways(), **ways, prices=Path(prices) if prices else None),
            amendments=tuple(
                Amendment({int(row): job for row, job in e["rows"].items()}, _ask(e["ask"]))
                for e in values["amendments"]
            ),
        )


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _amended(
    rows: Iterable[Mapping[str, Any]], ask: Ask, amendments: Sequence[Amendment]
) -> Iterator[dict[str, Any]]:
    last = {row: each for each in amendments for row in each.rows}
    for number, row in enumerate(rows):
        amendment = last.get(number)
        asked = ask if amendment is None else amendment.ask
        own = "id" if asked.prompt is not None and "id" in row else None
        (job,) = jobs_from_rows(
            [row],
            prompt=prompt_text(asked.prompt),
            id_column=asked.id_column or own,
            file_column=asked.file_column,
            metadata_columns=asked.metadata_columns or None,
            documents_root=asked.documents_root,
            allow_urls=asked.allow_urls,
        )
        if amendment is not None:
            job = {**_defaults(amendment.ask), **job, "id": amendment.rows[number]}
        yield job


def _defaults(ask: Ask) -> dict[str, Any]:
    found = {
        "model": ask.model,
        "provider": ask.provider,
        "endpoint": ask.endpoint,
        "system": prompt_text(ask.system),
        "max_tokens": ask.max_tokens,
        "response_model": schema_or_path(ask.response_model),
        "enable_citations": ask.citations == "provider",
        "citations": "quoted" if ask.citations == "quoted" else None,
        "cache_prefix": ask.cache_prefix,
        "accept_truncated": ask.accept_truncated,
        "tags": list(ask.tags),
        **request_params(ask.params),
    }
    return {name: value for name, value in found.items() if value not in (None, False, [])}


def _ask(values: Mapping[str, Any]) -> Ask:
    # JSON has lists where the options have tuples.
    told: dict[str, Any] = dict(values)
    lists = ("metadata_columns", "tags", "params", "allow_urls")
    told |= {name: tuple(told.get(name, ())) for name in lists}
    return Ask(**told)


def _whole(jobs: str) -> str:
    return jobs if "://" in jobs else str(Path(jobs).expanduser().resolve())


def prompt_text(text: str | None) -> str | None:
    """The text itself, or the content of the file that `@` names."""
    if text is None or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise ValidationError(f"{text[1:]!r} cannot be read: {error.strerror}") from error


def schema_or_path(named: str | None) -> Any:
    """A JSON schema out of its file, or an import path, which also sees the current folder."""
    if named is None:
        return None
    if named.endswith(".json"):
        try:
            return orjson.loads(Path(named).read_bytes())
        except OSError as error:
            raise ValidationError(f"{named!r} cannot be read: {error.strerror}") from error
        except orjson.JSONDecodeError as error:
            raise ValidationError(f"{named!r} is no JSON schema: {error}") from error
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return named


def request_params(given: Iterable[str]) -> dict[str, Any]:
    """Request parameters from `name=value` texts, the values as JSON or text.

    Raises:
        ValidationError: One of them is no such text.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValidationError(f"--param {item!r} must be name=value")
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[name] = value
    return found


def provided(order: Order, stack: ExitStack) -> None:
    """Put the sandbox in the place of the providers, where the order asks for it."""
    if order.ways.sandbox:
        os.environ.update(stack.enter_context(local_sandbox(order.out)))
