"""Answers of jobs that are not in the job set any more: kept in `archive.jsonl`, each once.

`results.jsonl` holds the jobs of the last run and no others. Where the job set has changed, the
rows of jobs that are gone, and those of jobs that were changed, go over into the archive, as they
were; a job that comes back leaves it. Nothing here is asked for where no recorded job is gone.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson

from batchata_prefect.files import BUFFER_BYTES, scratch_database, whole_file
from batchata_prefect.results.result_file import ResultFile

NAME = "archive.jsonl"
_BEFORE = "before.jsonl"
_ANSWERS = "answers.sqlite"
_TABLE = "CREATE TABLE seen (answer BLOB PRIMARY KEY) WITHOUT ROWID"


def is_there(results: Path) -> bool:
    """Whether there is an archive, whose jobs may have come back."""
    return results.with_name(NAME).exists()


def hold(results: Path, own_dir: Path) -> None:
    """Hold the results that are there, before others take their place."""
    before = own_dir / _BEFORE
    if before.exists():
        # A run died after it had written its results: what they have replaced is not kept yet.
        keep_gone(results, own_dir)
    if not results.exists():
        return
    try:
        before.hardlink_to(results)
    except OSError:
        with whole_file(before) as file, results.open("rb") as source:
            shutil.copyfileobj(source, file, BUFFER_BYTES)


def keep_gone(results: Path, own_dir: Path) -> int:
    """Put into the archive what was held and is not in the results any more.

    The archive is written anew and whole: a run that dies meanwhile leaves the one that was there.

    Args:
        results: The results as they are now.
        own_dir: The package's own folder beside them.

    Returns:
        How many answers went over.
    """
    before, archive = own_dir / _BEFORE, results.with_name(NAME)
    if not before.exists():
        return 0
    database = own_dir / _ANSWERS
    try:
        with closing(scratch_database(database, _TABLE)) as seen:
            for row in ResultFile(results) if results.exists() else ():
                _note(seen, _answers(row))
            with whole_file(archive) as file:
                for line, _ in _new(seen, archive):
                    file.write(line)
                gone = 0
                for line, row in _new(seen, before):
                    if _is_answer(row):
                        file.write(line)
                        gone += 1
            if not archive.stat().st_size:
                archive.unlink()
    finally:
        with suppress(OSError):
            database.unlink()
    before.unlink()
    return gone


def would_go(results: Path, is_here: Callable[[str], bool]) -> int:
    """How many answers a run of today's jobs would put into the archive.

    Args:
        results: The results as they are.
        is_here: Whether the job of an answer, which is known by its custom_id, is among today's.
    """
    rows = ResultFile(results) if results.exists() else ()
    return sum(
        1
        for row in rows
        if _is_answer(row)
        and (attempts := _attempts(row))
        and (name := attempts[-1].get("custom_id"))
        and not is_here(name)
    )


def _is_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row holds what was paid for."""
    return row["status"] == "completed" or row["cost_usd"] != 0


def _new(seen: sqlite3.Connection, path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Rows whose last answer was not seen before; from here on it was."""
    for line, row in ResultFile(path).lines() if path.exists() else ():
        *_, last = _answers(row)
        if seen.execute("SELECT 1 FROM seen WHERE answer = ?", (last,)).fetchone() is None:
            _note(seen, (last,))
            yield line, row


def _note(seen: sqlite3.Connection, answers: Iterable[bytes]) -> None:
    seen.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((answer,) for answer in answers))


def _attempts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        return orjson.loads(row["attempts_json"])
    except orjson.JSONDecodeError:
        return []  # damaged on disk: the job and its batch name it still


def _answers(row: Mapping[str, Any]) -> list[bytes]:
    """What names the answers to a job, the last one last.

    That is what it was called in its batch, for the job may have another id since; and in the rows
    of earlier versions, which do not have that, the job and the batch.
    """
    job_id, attempts = row["job_id"], _attempts(row)
    names = [attempt["custom_id"] for attempt in attempts if attempt.get("custom_id")]
    if row["batch_id"] is None:
        # Through the realtime API: nothing but the answer itself tells it from another.
        told = [[job_id, None, row["raw_response"]]]
    else:
        batches = (*(attempt["batch_id"] for attempt in attempts), row["batch_id"])
        told = [[job_id, batch_id] for batch_id in batches]
    return [orjson.dumps(each) for each in (*told, *names)]
