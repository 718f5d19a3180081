"""Answers leave as batches end: into the list of what has ended, and to the user's `on_batch`.

A batch is told to `on_batch` at least once: that it was is written down after the call, so that
only a process that dies in the call, or between it and the note, has it told again by the next
start. So has a call that raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, closing

from batchata_prefect.answers import EndedBatch
from batchata_prefect.engine.download import restore
from batchata_prefect.engine.read_chunk import answers_of, kept_answers, source_of
from batchata_prefect.engine.session import OnBatch, Session
from batchata_prefect.errors import one_line
from batchata_prefect.files import append
from batchata_prefect.jobs.spool import FAILED as JOB_FAILED
from batchata_prefect.money.ledger import ANSWERED, CANCELED, FAILED, NEVER_SENT, Entry
from batchata_prefect.results.assemble import Part
from batchata_prefect.results.ended import Words, add, batch_rows, begin
from batchata_prefect.results.row import from_row

logger = logging.getLogger("batchata_prefect")

_LASTING = frozenset({ANSWERED, FAILED})
_TOLD = "told"


def has_answers(entry: Entry) -> bool:
    """Whether an ended chunk says anything of its jobs."""
    ending = entry.ending
    return ending is not None and (ending.status not in NEVER_SENT or FAILED in ending.marks)


def last_words(run: Session, entry: Entry, ordinals: Sequence[int]) -> Words | None:
    """Of which of its jobs a chunk has the last word, right after they were told of its ending."""
    ending, token = entry.ending, entry.chunk.token
    if ending is None or not has_answers(entry):
        return None
    if _LASTING.issuperset(ending.marks):
        return Words(token, ordinals, None)
    state = run.spool.states.state
    last = "".join(
        "1"
        if mark in _LASTING or (mark != CANCELED and ordinal >= 0 and state(ordinal) == JOB_FAILED)
        else "0"
        for mark, ordinal in zip(ending.marks, ordinals, strict=True)
    )
    return Words(token, ordinals, last)


class Deliveries:
    """What has ended of a run, and whom it was told to.

    Args:
        run: The session.
        callback: The user's function; None for none.
    """

    def __init__(self, run: Session, callback: OnBatch | None) -> None:
        self._run = run
        self._callback = callback
        self._words: dict[int, Words] = {}
        self._told: set[str] = set()
        self._queue: asyncio.Queue[int] = asyncio.Queue()
        self._failed: list[str] = []
        self._adding = asyncio.Lock()

    async def begin(self, ended: dict[int, Words]) -> None:
        """Take up what an earlier start has come to: sequence -> last words.

        Raises:
            OSError: The list cannot be written.
        """
        run = self._run
        head = {
            "source": source_of(run),
            "job_set": run.spool.digest,
            "jobs": run.spool.count,
        }
        await asyncio.to_thread(begin, run.results_dir, head, ended.values())
        if self._callback is None:
            return
        path = run.own_dir / _TOLD
        if path.exists():
            self._told = set(path.read_text().split())
        for sequence, words in ended.items():
            self._put(sequence, words)

    async def add(self, sequence: int, words: Words | None) -> None:
        """Take in a batch that has just ended.

        Raises:
            OSError: The list cannot be written.
        """
        if words is not None:
            async with self._adding:  # one line after the other
                await asyncio.to_thread(add, self._run.results_dir, words)
            if self._callback is not None:
                self._put(sequence, words)

    def _put(self, sequence: int, words: Words) -> None:
        self._words[sequence] = words
        if words.token not in self._told:
            self._queue.put_nowait(sequence)

    async def all_told(self) -> None:
        """Wait until the callback knows of all that has ended."""
        run = self._run
        if self._callback is None:
            return
        run.waiting_for = "on_batch to take the last answers"
        await self._queue.join()
        run.waiting_for = None
        if self._failed:
            logger.warning(
                "on_batch raised for %d batches (%s); the next start tells it of them again",
                len(self._failed),
                ", ".join(self._failed[:5]),
            )

    async def tell(self) -> None:
        """Tell the callback of one batch after the other, for ever."""
        while True:
            sequence = await self._queue.get()
            try:
                await self._tell(sequence)
            finally:
                self._queue.task_done()

    async def _tell(self, sequence: int) -> None:
        run = self._run
        entry, ordinals, words = run.ledger[sequence], run.members[sequence], self._words[sequence]
        try:
            if kept_answers(run, entry) is None:
                await restore(run, entry, ordinals)
            part = Part(await run.alone(answers_of, run, entry, ordinals), ordinals)
            # A list: others end, and are put among them, while this one looks.
            earlier = await run.alone(self._before, sequence, list(self._words.items()))
            rows = batch_rows(part, words, earlier, run.spool.count)
            if await asyncio.to_thread(self._call, _described(entry, words), rows):
                await asyncio.to_thread(self._note, words.token)
        except Exception as error:
            # Whatever it is, the answers are in the results, and the run has to come to its end.
            logger.warning(
                "on_batch could not be told of %s (%s); the next start tells it",
                entry.chunk.name,
                one_line(error),
            )

    def _before(self, sequence: int, ended: list[tuple[int, Words]]) -> list[Part]:
        """Answers of the batches that ended before, and whose jobs may be in this one again."""
        run, found = self._run, list[Part]()
        any_left = any(words.last is not None for _, words in ended)
        mine = set(run.members[sequence]) if any_left else set[int]()
        for other, words in ended:
            if other == sequence:
                break
            members = run.members[other]
            if words.last is not None and not mine.isdisjoint(members):
                found.append(Part(answers_of(run, run.ledger[other], members), members))
        return found

    def _call(self, batch: EndedBatch, rows: Iterator[dict[str, object]]) -> bool:
        """Call the callback; whether it returned."""
        assert self._callback is not None
        results = (from_row(row, self._run.schemas) for row in rows)
        try:
            with closing(results):
                self._callback(batch, results)
        except Exception:
            # The user's own code: the run goes on, and so do the other batches.
            if not self._failed:
                logger.exception("on_batch raised for %s; the run goes on", batch.name)
            self._failed.append(batch.batch_id or batch.name)
            return False
        return True

    def _note(self, token: str) -> None:
        self._told.add(token)
        append(self._run.own_dir / _TOLD, f"{token}\n".encode())


def _described(entry: Entry, words: Words) -> EndedBatch:
    chunk, ending = entry.chunk, entry.ending
    assert ending is not None
    answered = ending.marks.count(ANSWERED)
    lasting = chunk.count if words.last is None else words.last.count("1")
    return EndedBatch(
        batch_id=entry.receipt.batch_id if entry.receipt else None,
        name=chunk.name,
        provider=chunk.provider,
        model=chunk.model,
        ending=ending.status,
        jobs=chunk.count,
        answered=answered,
        failed=lasting - answered,
        cost_usd=None if ending.cost_usd is None else float(ending.cost_usd),
        ended_at=ending.ended_at,
        reason=ending.reason,
    )


@asynccontextmanager
async def delivering(run: Session) -> AsyncGenerator[Deliveries]:
    """Tell the callback of what ends, while this lasts."""
    run.deliveries = Deliveries(run, run.on_batch)
    telling = asyncio.create_task(run.deliveries.tell())
    try:
        yield run.deliveries
    finally:
        telling.cancel()
        run.deliveries = None
