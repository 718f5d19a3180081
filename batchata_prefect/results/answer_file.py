"""The read answers of one chunk on disk, each row as it will stand in the results.

The rows lie end to end, one line of JSON each, for anybody to read. Beside them lies an index with
the place and length of each, and what they come to, so that the results are put together without a
look into any row, and rows that came in the order of the job set are copied as one piece.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from batchata_prefect.files import BUFFER_BYTES, whole_file
from batchata_prefect.results.tally import Tally

_END = struct.Struct("<QQQ8s")
"""Bytes of all rows, number of rows, bytes of what they come to, and the mark."""

_MARK = b"answers2"


def _index_of(path: Path) -> Path:
    return path.with_suffix(".index")


class AnswerWriter:
    """Writes rows one after the other.

    Attributes:
        tally: What the rows come to; for the caller to fill.
        index: What lies beside them, once it is closed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.tally = Tally()
        self.index = b""
        self._file = file
        self._places = array("I")
        self._lengths = array("I")

    def add(self, place: int, row: bytes) -> None:
        """Write a row: one line of JSON with its line end."""
        self._lengths.append(self._file.write(row))
        self._places.append(place)

    def close(self, source: str) -> None:
        """Make the index."""
        told = orjson.dumps({"source": source, "tally": self.tally.to_dict()})
        end = _END.pack(sum(self._lengths), len(self._places), len(told), _MARK)
        self.index = self._places.tobytes() + self._lengths.tobytes() + told + end


@contextmanager
def answer_writer(path: Path, source: str) -> Generator[AnswerWriter]:
    """A writer to a file that appears when it is whole.

    Args:
        path: The file.
        source: What the rows depend on besides the replies: where that has changed, they are read
            anew.
    """
    # Rows without an index are read again, which an index of other rows would prevent.
    _index_of(path).unlink(missing_ok=True)
    with whole_file(path) as file:
        writer = AnswerWriter(file)
        yield writer
        writer.close(source)
    with whole_file(_index_of(path), synced=False) as file:
        file.write(writer.index)


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """The answers of one chunk.

    Attributes:
        path: The file.
        row_bytes: Bytes of all rows.
        count: Number of rows.
        tally: What all of them come to.
        source: What they depend on besides the replies.
    """

    path: Path
    row_bytes: int
    count: int
    tally: Tally
    source: str

    def index(self) -> tuple[array[int], array[int]]:
        """Place in the chunk and bytes of each row, as the rows lie."""
        places, lengths = array("I"), array("I")
        with _index_of(self.path).open("rb") as file:
            places.fromfile(file, self.count)
            lengths.fromfile(file, self.count)
        return places, lengths

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Place and row of each answer."""
        with self.path.open("rb", buffering=BUFFER_BYTES) as file:
            for place, length in zip(*self.index(), strict=True):
                yield place, file.read(length)


def open_answers(path: Path) -> AnswerFile | None:
    """The answers in a file; None where there is none, or one of another version."""
    index = _index_of(path)
    try:
        with index.open("rb") as file:
            size = file.seek(-_END.size, 2) + _END.size
            row_bytes, rows, told_bytes, mark = _END.unpack(file.read())
            before = 2 * rows * array("I").itemsize
            # A loss of power leaves any part of an index, or none, and whole rows.
            if mark != _MARK or size != before + told_bytes + _END.size:
                return None
            file.seek(before)
            told = orjson.loads(file.read(told_bytes))
        if path.stat().st_size != row_bytes:
            return None
    except (FileNotFoundError, orjson.JSONDecodeError, struct.error):
        return None
    except OSError:
        if index.stat().st_size >= _END.size:
            raise
        return None
    return AnswerFile(path, row_bytes, rows, Tally.from_dict(told["tally"]), told["source"])
