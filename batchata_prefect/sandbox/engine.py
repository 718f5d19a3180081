"""The life of batches: each runs by the clock, is computed in a thread and ends exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .faults import Faults, Limits
from .lines import Check, Validation
from .rows import AbandonedError, Encoder, Outcome, run_batch
from .store import Batch, Store, StoredFile, load_index

_T = TypeVar("_T")

VALIDATING_SHARE = 0.15
"""Part of a batch's time in which its file is checked."""

FINALIZING_SHARE = 0.9
"""Part of a batch's time after which OpenAI shows it as finalizing."""

_CANCEL_SHARE = 0.25
_CANCEL_MOST = 2.0
_TICK = 0.05


@dataclass(slots=True)
class _Run:
    """What only a running batch needs: its task, and the bell that wakes it."""

    batch: Batch
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    abandon: bool = False
    settle: bool = False
    validation: Validation | None = None


Kinds = Mapping[str, tuple[type[Check] | None, type[Encoder]]]


class Engine:
    """All batches and files that the server knows, and the tasks that bring batches to an end.

    `kinds` are what checks a provider's file of lines (None where the create has checked all), and
    what answers them.
    """

    def __init__(self, store: Store, limits: Limits, faults: Faults, kinds: Kinds) -> None:
        self.store = store
        self.limits = limits
        self.faults = faults
        self.kinds = kinds
        self.batches: dict[str, Batch] = {}
        self.files: dict[str, StoredFile] = {}
        self._runs: dict[str, _Run] = {}
        self._validating = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="batch")
        self._light_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store")

    def load(self) -> None:
        """Take up what an earlier process left; batches that were running go on."""
        self.files = {file.id: file for file in self.store.load_files()}
        for batch in self.store.load_batches():
            self.batches[batch.id] = batch
            if not batch.final:
                self.add(batch)

    def add(self, batch: Batch) -> None:
        """Run a batch that is already durable."""
        self.batches[batch.id] = batch
        run = self._runs[batch.id] = _Run(batch)
        run.task = asyncio.get_running_loop().create_task(self._live(run))

    def wake(self, batch: Batch) -> None:
        """Tell a running batch that it was canceled."""
        run = self._runs.get(batch.id)
        if run is not None:
            run.abandon = True
            run.bell.set()

    def running(self, provider: str) -> list[Batch]:
        """The provider's batches that have not ended."""
        return [run.batch for run in self._runs.values() if run.batch.provider == provider]

    async def settle(self) -> None:
        """End every running batch now, without waiting for its time."""
        now = time.time()
        for run in self._runs.values():
            run.batch.due_at = min(run.batch.due_at, now)
            run.settle = True
            run.bell.set()
        await self._joined(list(self._runs.values()))

    async def catch_up(self) -> None:
        """Wait for those batches whose time has passed."""
        now = time.time()
        late = [
            run
            for run in self._runs.values()
            if run.batch.due_at <= now and self._held(run) is None
        ]
        await self._joined(late)

    def file_path(self, file_id: str) -> Path:
        """Where the bytes of a file lie."""
        return self.store.files_dir / file_id

    def read_file(self, file_id: str) -> tuple[str, bytes] | None:
        """Media type and bytes of an uploaded file, or None."""
        file = self.files.get(file_id)
        if file is None:
            return None
        return file.mime_type, self.file_path(file_id).read_bytes()

    async def delete_file(self, file_id: str) -> None:
        """Forget a file; a batch that runs on it still reads its bytes."""
        in_use = any(run.batch.input_file_id == file_id for run in self._runs.values())
        self.files.pop(file_id, None)
        await self._light(partial(self.store.delete_file, file_id, in_use=in_use))

    async def close(self) -> None:
        """Stop without ending anything; a later process goes on from the store."""
        for run in self._runs.values():
            run.abandon = True
            if run.task is not None:
                run.task.cancel()
        await self._joined(list(self._runs.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._light_threads.shutdown(wait=True)

    async def _joined(self, runs: list[_Run]) -> None:
        tasks = [run.task for run in runs if run.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self, run: _Run) -> None:
        batch = run.batch
        try:
            outcome = await self._outcome(run)
            await self._light(self._commit, batch, outcome)
        except Exception:
            # The batch stays open: a test that waits for it must see why it never ends.
            traceback.print_exc()
            raise
        finally:
            if batch.final:
                self._runs.pop(batch.id, None)

    async def _outcome(self, run: _Run) -> Outcome:
        batch, (check, rows) = run.batch, self.kinds[run.batch.provider]
        if check is None:
            folder = self.store.batches_dir
            source, endpoint = folder / f"{batch.id}.json", batch.endpoint
            places = await self._light(load_index, folder / f"{batch.id}.index")
        else:
            found = await self._light(self._validate, run)
            await self._until(run, batch.created_at + batch.takes * VALIDATING_SHARE)
            if batch.cancel_at is not None and not batch.validated_at and check.drops_canceled:
                await self._until_canceled(run)
                batch.status = rows.words["canceled"]
                return Outcome()
            if found.errors:
                batch.status = rows.words["errored"]
                return Outcome(errors=found.errors)
            if batch.validated_at is None:
                batch.validated_at = time.time()
                batch.model, batch.count = batch.model or found.model, found.count
                await self._light(self.store.save_batch, batch)
            source, places = self.file_path(batch.input_file_id or ""), found.places
            endpoint = found.endpoint or batch.endpoint
        encoder = partial(rows, endpoint, self.read_file, batch)
        outcome = await self._computed(run, encoder, source, places)
        ran = "succeeded" if _expires(batch) is None else "expired"
        batch.status = rows.words[ran if batch.cancel_at is None else "canceled"]
        return outcome

    async def _computed(
        self, run: _Run, encoder: Callable[[], Encoder], source: Path, places: array[int]
    ) -> Outcome:
        """The rows of a batch, ready when its time has come or it was canceled."""
        batch = run.batch

        def compute(finished: int | None, rest: str) -> Outcome:
            return run_batch(
                self.store,
                encoder(),
                source,
                places,
                finished=finished,
                rest=rest,
                stop=lambda: run.abandon,
            )

        if batch.cancel_at is None:
            share = _expires(batch)
            finished = None if share is None else int(batch.count * share)
            try:
                outcome = await self._thread(compute, finished, "expired")
            except AbandonedError:
                outcome = None
            await self._until(run, batch.due_at)
            if batch.cancel_at is None and outcome is not None:
                return outcome
            if outcome is not None:
                outcome.discard()
        await self._until_canceled(run)
        run.abandon = False
        return await self._thread(compute, self.finished_share(batch), "canceled")

    def finished_share(self, batch: Batch) -> int:
        """How many requests of a canceled batch had already run."""
        if batch.cancel_at is None:
            return batch.count
        begun = batch.validated_at or batch.created_at
        whole = max(batch.due_at - begun, 0.001)
        share = min(max((batch.cancel_at - begun) / whole, 0.0), 1.0)
        return int(batch.count * share)

    async def _until(self, run: _Run, when: float) -> None:
        """Wait for a time, a cancel or a call to settle."""
        while run.batch.cancel_at is None and not run.settle:
            left = when - time.time()
            if left <= 0:
                return
            await self._rung(run, left)

    async def _until_canceled(self, run: _Run) -> None:
        batch = run.batch
        begun = batch.cancel_at or time.time()
        takes = min(max(batch.takes * _CANCEL_SHARE, _TICK), _CANCEL_MOST)
        while not run.settle:
            left = begun + takes - time.time()
            held = self._held(run)
            if held is not None:
                left = max(left, begun + held - time.time(), _TICK)
            if left <= 0:
                return
            await self._rung(run, min(left, 1.0) if held is None else _TICK)

    def _held(self, run: _Run) -> float | None:
        """Seconds for which a fault keeps a canceled batch from ending, if one does."""
        if run.batch.cancel_at is None:
            return None
        fault = self.faults.standing(run.batch.provider, "stuck_canceling")
        if fault is None:
            return None
        return float(fault.options.get("seconds", 1e9))

    async def _rung(self, run: _Run, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await run.bell.wait()
        except TimeoutError:
            return
        run.bell.clear()

    def _validate(self, run: _Run) -> Validation:
        check, _ = self.kinds[run.batch.provider]
        assert check is not None
        file_id = run.batch.input_file_id or ""
        # One at a time: two batches that each fit the enqueued limit may not fit together.
        with self._validating:
            found = check(run.batch, self.limits).run(
                self.files.get(file_id), self.file_path(file_id), self._enqueued
            )
            run.validation = found
        return found

    async def checked(self, batch: Batch) -> Validation:
        """What the check of a file would find, of which a batch is to be made."""
        return await self._light(self._validate, _Run(batch))

    def _enqueued(self, model: str) -> int:
        """Tokens of the model's batches that were let in and have not ended."""
        return sum(
            run.validation.tokens
            for run in list(self._runs.values())
            if run.validation is not None
            and not run.validation.errors
            and run.validation.model == model
        )

    def _commit(self, batch: Batch, outcome: Outcome) -> None:
        told = ("counts", "errors", "usage", "output_file_id", "error_file_id")
        changes: dict[str, Any] = {
            **{name: getattr(outcome, name) for name in told},
            "ended_at": time.time(),
            # Last, because whoever sees an ended batch asks for its files at once.
            "final": True,
        }
        for temporary, final in outcome.moves:
            temporary.replace(final)
        ended = replace(batch, **changes)
        self.store.end_batch(ended, outcome.bills, outcome.files, outcome.seen)
        for file in outcome.files:
            self.files[file.id] = file
        for name, value in changes.items():
            setattr(batch, name, value)

    async def _thread(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _light(self, function: Callable[..., _T], *args: object) -> _T:
        # Ending one batch must not wait until all others are computed.
        return await asyncio.get_running_loop().run_in_executor(
            self._light_threads, function, *args
        )


def _expires(batch: Batch) -> float | None:
    if batch.ending != "batch_expired":
        return None
    return float(batch.ending_options.get("fraction", 0.5))
