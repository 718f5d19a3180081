"""What was sent and answered of a chunk whose requests go through the realtime API one by one.

A provider cannot be asked later whether it has answered such a request. So each is written down
before it is sent, and its reply as it comes, synced both: what was sent and has no reply may have
been paid, and is never sent again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from batchata_prefect.files import append, whole_file

_SENT, _FREE, _ANSWERED = b">", b"x", b"="


@dataclass(slots=True)
class Told:
    """What a journal says.

    Attributes:
        lost: Whether there is no journal: then anything may have been sent.
        open: Places that were sent and neither answered nor known not to be billed.
        rows: Result rows, in the order in which they came.
    """

    lost: bool = False
    open: set[int] = field(default_factory=set[int])
    rows: list[bytes] = field(default_factory=list[bytes])


class Journal:
    """The journal of one chunk; its verbs may be called from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Make it, empty and synced; before the chunk's intent is written."""
        with whole_file(self._path):
            pass

    def sent(self, place: int) -> None:
        """A request is about to be sent."""
        self._write(_SENT, b"%d" % place)

    def not_billed(self, place: int) -> None:
        """The request of a place came to nothing and may be sent again."""
        self._write(_FREE, b"%d" % place)

    def answered(self, place: int, row: bytes) -> None:
        """The reply to a place."""
        self._write(_ANSWERED, b"%d %b" % (place, row))

    def _write(self, kind: bytes, text: bytes) -> None:
        with self._lock:
            append(self._path, kind + b" " + text + b"\n")

    def read(self) -> Told:
        """What it says; a last line that was cut off says nothing."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return Told(lost=True)
        told = Told()
        for line in lines[:-1]:
            kind, _, text = line.partition(b" ")
            place, _, row = text.partition(b" ")
            if kind == _SENT:
                told.open.add(int(place))
            else:
                told.open.discard(int(place))
            if kind == _ANSWERED:
                told.rows.append(row)
        return told

    def remove(self) -> None:
        """Remove it, once its rows are in the reply file and the chunk has its ending."""
        self._path.unlink(missing_ok=True)
