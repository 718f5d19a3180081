"""From the options of a command to a batch that can be run, and the note by which to repeat it.

A note names files that are read and classes that are imported. One that came with somebody else's
directory or bucket would do that in our name, so each note is sealed with a key that lies in the
user's Prefect home, and one without the seal is shown and has to be confirmed.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from batchata_prefect.batch import Batch, add_file, batch_of, job_defaults
from batchata_prefect.cli.options import checked
from batchata_prefect.errors import StateError, ValidationError, one_line
from batchata_prefect.files import make_folder, whole_file, write_json
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.jobs.row_files import file_rows
from batchata_prefect.jobs.sources import RowForm
from batchata_prefect.options import JOBS, FileOptions, how
from batchata_prefect.results.remote import ORDER, read_order, working_folder

_SANDBOX = Path(".batchata", "sandbox")
"""What the sandbox of a run leaves in its results directory; without it the run starts over."""
_SANDBOX_SECONDS = 2.0
_KEY_BYTES = 32


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
        """The batch with all its jobs."""
        options = self.options()
        if self.sandbox and options.state is None:
            options = options.but(state=str(self.out / _SANDBOX / "state"))
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
        """The options that were told, or these."""
        return FileOptions.of({**checked(self.told if told is None else told), "jobs": self.jobs})

    def with_earlier_amendments(self, *, trust: bool = False) -> Order:
        """The same with what `batchata retry` changed since this very order was given before."""
        found = Order._read(self.place)
        if found is None or not found[0].amendments:
            return self
        earlier, is_ours = found
        earlier.refuse_unknown()
        is_same = _asked(earlier.told) == _asked(self.told) and earlier.jobs == whole(self.jobs)
        if not is_same:
            return self
        if not (is_ours or trust):
            raise refuse(self.place, earlier.shown())
        labels = {name: value for name, value in self.told.items() if name in _LABELS}
        amendments = [
            replace(each, told={**_unlabelled(each.told), **labels}) for each in earlier.amendments
        ]
        return replace(self, amendments=tuple(amendments))

    def last_changes(self) -> dict[int, Amendment]:
        """Row of the jobs file, from 0 -> what was changed last for its job."""
        return {row: each for each in self.amendments for row in each.rows}

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
        meant = replace(self, jobs=whole(self.jobs))
        values = _NOTE.dump_python(meant, mode="json", exclude={"place"})
        write_json(self.out / ORDER, sealed(values))

    @classmethod
    def noted(cls, place: Path | str, *, trust: bool = False) -> Order:
        """The order that a results directory was made by."""
        found = cls._read(place)
        if found is None:
            raise StateError(
                f"{str(place)!r} was not made by `batchata run`, so its jobs are not known "
                "here. Run its program again: it sends what was not answered for no fault of the "
                "job's own; change the jobs that failed, and only those are new"
            )
        order, is_ours = found
        order.refuse_unknown()
        if not (is_ours or trust):
            raise refuse(place, order.shown())
        return order

    def refuse_unknown(self) -> None:
        """Refuse what another version has noted, and this one would not do."""
        told = [self.told, *(each.told for each in self.amendments)]
        if unknown := sorted({*chain(*told)} - FileOptions.model_fields.keys()):
            raise StateError(
                f"{str(self.place)!r} was made with options that there are not: {unknown}. Run "
                "its command with the version that made it"
            )

    @classmethod
    def _read(cls, place: Path | str) -> tuple[Order, bool] | None:
        """The order in a results directory, and whether this user's own command wrote it, if any.

        At a URL another machine may have amended it since it was noted here, or the other way
        round where the results could not be put there: amendments only ever grow.
        """
        if isinstance(place, Path):
            notes = [_bytes_of(place / ORDER)]
        else:
            notes = [_bytes_of(working_folder(place) / ORDER), read_order(place)]
        try:
            found = [
                (_NOTE.validate_python({**values, "place": place}), is_ours(values))
                for values in (orjson.loads(note) for note in notes if note is not None)
            ]
        except (TypeError, ValueError) as error:
            # Without it, what `batchata retry` changed would be sent unchanged, and paid again.
            raise StateError(
                f"{ORDER} in {str(place)!r} cannot be read: {one_line(error)}. What `batchata "
                "retry` changed there is not known, and nothing was sent. Mend it, or delete it "
                "where nothing was changed"
            ) from error
        return max(found, key=lambda each: len(each[0].amendments), default=None)


_NOTE = TypeAdapter(Order)


def _bytes_of(path: Path) -> bytes | None:
    # One that cannot be read is not none: what `batchata retry` changed would be sent unchanged.
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


def _amended(order: Order, options: FileOptions) -> Callable[[int], RowForm]:
    """What a row becomes, with what was changed for its job."""
    last = order.last_changes()
    amended = {id(each): order.options(each.told) for each in order.amendments}

    def form(number: int) -> RowForm:
        amendment = last.get(number - 1)
        asked, defaults = options, dict[str, Any]()
        if amendment is not None:
            asked = amended[id(amendment)]
            # An id that is made of its request would be another now.
            defaults = {"id": amendment.rows[number - 1], **job_defaults(asked)}
        return RowForm(
            asked.prompt,
            asked.id_column,
            asked.file_column,
            asked.metadata_columns,
            defaults,
            others=True,
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


@contextmanager
def local_sandbox(results_dir: Path) -> Generator[dict[str, str]]:
    """A sandbox for one run: the variables that point at it.

    Its state and address stay in the results directory, so that the next run finds its batches.
    """
    from batchata_prefect.sandbox import Sandbox, SandboxError

    folder = results_dir / _SANDBOX
    make_folder(folder)
    kept = folder / "port"
    # It is empty where the disk was full.
    port = (kept.read_text() if kept.exists() else "") or "0"
    server = Sandbox(folder, seconds=_SANDBOX_SECONDS, port=int(port))
    try:
        server.start()
    except SandboxError as error:
        raise StateError(f"the sandbox does not start: {error}") from error
    try:
        kept.write_text(str(server.port))
        # A proxy of the machine must not be asked for an address of the machine itself.
        own = {
            name: ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
            for name in ("NO_PROXY", "no_proxy")
        }
        yield {**server.environment(), **own}
    finally:
        server.stop()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A note with its seal; without one where no key can be kept."""
    seal = _seal(values)
    return dict(values) if seal is None else {**values, "seal": seal}


def is_ours(values: Mapping[str, Any]) -> bool:
    """Whether this user's own command wrote a note, and nobody has changed it."""
    seal = values.get("seal")
    own = _seal({name: value for name, value in values.items() if name != "seal"})
    return own is not None and isinstance(seal, str) and hmac.compare_digest(own, seal)


def refuse(place: object, told: Mapping[str, Any]) -> StateError:
    """That a note is to be confirmed: what it says, and how."""
    lines = "".join(f"\n  {name}: {value}" for name, value in told.items() if value)
    return StateError(
        f"what {str(place)!r} notes was not written by your own `batchata run` on this machine, or "
        f"was changed since. It would read files and import classes that it names:{lines}\n"
        "Nothing was read or sent. If that is what you want, give --trust"
    )


def _seal(values: Mapping[str, Any]) -> str | None:
    key = _key()
    if key is None:
        return None
    text = orjson.dumps(values, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str)
    return hmac.new(key, text, sha256).hexdigest()


def _key() -> bytes | None:
    """The user's own key, made at its first use; None where it can neither be read nor written."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = home / "batchata.key"
    try:
        if not path.exists():
            # Another command may make it at this moment.
            with suppress(FileExistsError), whole_file(path, first=True) as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None
