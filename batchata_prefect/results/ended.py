"""What has ended of a run that goes on, for whoever reads its answers before it is over.

A list grows by one line a batch. Each says which jobs were in it, and of which it has the last
word: a job that failed and is sent again has none yet. Any process can read it, also of a run that
was killed. It goes when the results are written.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from batchata_prefect.files import append, whole_file
from batchata_prefect.results.answer_file import open_answers
from batchata_prefect.results.assemble import Part, last_rows
from batchata_prefect.results.result_file import ResultFile

LIST = ".batchata/ended.jsonl"
ANSWERS = ".batchata/answers"

_NO_WORD, _HERE, _BEFORE = 0, 1, 2
"""Of a job: nothing that would last, a row of a batch of this list, or one of earlier results."""


@dataclass(frozen=True, slots=True)
class Words:
    """Which jobs a batch holds, and of which it has the last word.

    Attributes:
        token: The chunk's token, which names its answers.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        last: For each place `1` where it has the last word; None where it has all.
    """

    token: str
    ordinals: Sequence[int]
    last: str | None

    def line(self) -> bytes:
        """It as a line of the list."""
        ordinals = self.ordinals
        values: dict[str, Any] = {"token": self.token, "last": self.last}
        if isinstance(ordinals, range) and ordinals.step == 1:
            values |= {"first": ordinals.start, "count": len(ordinals)}
        else:
            values["ordinals"] = list(ordinals)
        return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def of_line(cls, line: bytes) -> Words:
        """What `line` gave."""
        values: dict[str, Any] = orjson.loads(line)
        if "ordinals" in values:
            ordinals: Sequence[int] = array("q", values["ordinals"])
        else:
            ordinals = range(values["first"], values["first"] + values["count"])
        return cls(values["token"], ordinals, values["last"])

    def lasting(self) -> Iterator[tuple[int, bool]]:
        """Ordinal of each job, and whether this is the last word of it."""
        for place, ordinal in enumerate(self.ordinals):
            if ordinal >= 0:
                yield ordinal, self.last is None or self.last[place] == "1"


def begin(results_dir: Path, head: Mapping[str, Any], ended: Iterable[Words]) -> None:
    """Write the list anew.

    Args:
        results_dir: Where the run's answers go.
        head: `source` of its answers, `job_set` and number of `jobs`.
        ended: What has ended so far.
    """
    with whole_file(results_dir / LIST, synced=False) as file:
        file.write(orjson.dumps(dict(head), option=orjson.OPT_APPEND_NEWLINE))
        for words in ended:
            file.write(words.line())


def add(results_dir: Path, words: Words) -> None:
    """Have one more batch in the list."""
    append(results_dir / LIST, words.line(), synced=False)


def batch_rows(
    part: Part, words: Words, earlier: Sequence[Part], count: int
) -> Iterator[dict[str, Any]]:
    """The rows of those jobs of a batch of which it has the last word, with all their attempts.

    Args:
        part: Its answers.
        words: Of which jobs it has the last word.
        earlier: Answers of batches that ended before and in which the jobs may have been.
        count: Number of jobs of the run.
    """
    if not earlier:
        for place, line in part.answers.rows():
            if part.ordinals[place] >= 0 and (words.last is None or words.last[place] == "1"):
                yield orjson.loads(line)
        return
    mine = bytearray(count)
    for ordinal, is_last in words.lasting():
        mine[ordinal] = is_last
    for _, row in last_rows([*earlier, part], count, mine.__getitem__):
        yield row


def drop(results_dir: Path) -> None:
    """Have no list any more, and none of the answers that it leads to: they are in the results."""
    (results_dir / LIST).unlink(missing_ok=True)
    for path in (results_dir / ANSWERS).glob("*"):
        path.unlink(missing_ok=True)


class EndedRows:
    """The rows of all jobs that have ended at one moment, each once.

    Args:
        results_dir: Where the run's answers go.

    Raises:
        FileNotFoundError: No run is in progress there.
        OSError: The list cannot be read.
    """

    def __init__(self, results_dir: Path) -> None:
        self._results_dir = results_dir
        with (results_dir / LIST).open("rb") as file:
            self.head: dict[str, Any] = orjson.loads(file.readline())
            # The last line may be in the making.
            self._ended = [Words.of_line(line) for line in file if line.endswith(b"\n")]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows in the order of the job set, with all attempts of each job."""
        count: int = self.head["jobs"]
        words = bytearray(count)
        parts: list[Part] = []
        for each in self._ended:
            answers = open_answers(self._results_dir / ANSWERS / f"{each.token}.jsonl")
            is_here = answers is not None and answers.source == self.head["source"]
            if answers is not None and is_here:
                parts.append(Part(answers, each.ordinals))
            for ordinal, is_last in each.lasting():
                words[ordinal] = (_HERE if is_here else _BEFORE) if is_last else _NO_WORD
        before = self._earlier(words)
        at = 0
        try:
            for ordinal, row in last_rows(parts, count, lambda each: words[each] == _HERE):
                yield from before.up_to(ordinal)
                at = ordinal + 1
                yield row
        except FileNotFoundError:
            # The run is over by now: what it came to is in its results.
            words[:at] = bytes(at)
            for ordinal in range(at, count):
                words[ordinal] = _BEFORE if words[ordinal] else _NO_WORD
            before = self._earlier(words)
        yield from before.up_to(count)

    def _earlier(self, words: bytearray) -> _Earlier:
        return _Earlier(self._results_dir, words, self.head["job_set"])


class _Earlier:
    """Rows of a finished `results.jsonl` of the same jobs, read in order."""

    def __init__(self, results_dir: Path, words: bytearray, job_set: str) -> None:
        self._words = words
        self._at = 0
        self._rows: Iterator[dict[str, Any]] = iter(())
        if _BEFORE in words and _job_set(results_dir) == job_set:
            self._rows = iter(ResultFile(results_dir / "results.jsonl"))

    def up_to(self, ordinal: int) -> Iterator[dict[str, Any]]:
        """The next rows whose jobs lie before an ordinal and have their last word there."""
        while self._at < ordinal and (row := next(self._rows, None)) is not None:
            if self._words[self._at] == _BEFORE:
                yield row
            self._at += 1


def _job_set(results_dir: Path) -> str | None:
    try:
        return orjson.loads((results_dir / "manifest.json").read_bytes()).get("job_set")
    except (OSError, orjson.JSONDecodeError):
        return None
