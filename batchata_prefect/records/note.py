"""The note in a results directory that says where the records of its run are.

Records and results may lie apart, and either may be moved, copied or lost. Before anything is
sent, the note names the records by their random id; so a later start that does not find these very
records stops, where it would else take the jobs for new and pay for them again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from batchata_prefect.errors import StateError
from batchata_prefect.files import fields_in, write_json

NAME = ".batchata/run.json"
"""Where it lies in the results directory."""


@dataclass(frozen=True, slots=True)
class Note:
    """What it says.

    Attributes:
        run_key: The run key.
        state: What reaches the records, as in `Batch.set_state`; None for Prefect's result
            storage, where that is no directory.
        records: Id of the records; empty where an earlier version wrote it.
        location: Where the records are, for a person.
        sent: Whether anything may have been sent.
    """

    run_key: str
    state: str | None = None
    records: str = ""
    location: str = ""
    sent: bool = False


def read_note(results_dir: Path) -> Note | None:
    """The note in a results directory; None where there is none.

    Raises:
        StateError: It is there and cannot be read: what it says is not known then.
    """
    path = results_dir / NAME
    try:
        return Note(**fields_in(orjson.loads(path.read_bytes()), Note))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StateError(
            f"{str(path)!r} cannot be read: {error}. It says where the records of these results "
            "are, so whether these jobs were sent is not known, and nothing was sent. Mend the "
            "disk, or delete the file if you know that the records are in their place"
        ) from error


def write_note(results_dir: Path, note: Note) -> None:
    """Write it, synced, in the place of the one that was read before."""
    write_json(results_dir / NAME, asdict(note))


def directory_of(location: str) -> Path | None:
    """The directory that a location of records names; None where it names a block, `type/name`."""
    path = Path(location).expanduser()
    _, _, name = location.partition("/")
    if path.is_absolute() or location.startswith(".") or not name or "/" in name:
        return path.absolute()
    return None
