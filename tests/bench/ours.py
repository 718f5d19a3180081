"""The jobs through this package, timed phase by phase."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import defaultdict
from importlib import import_module
from typing import Any

from .work import ASK, MAX_TOKENS, TEXT, Clock, Work

PHASES = {
    "plan": [("jobs.chunks", "cut")],
    "write requests": [("engine.submit", "write_requests")],
    "send": [("providers.anthropic", "Anthropic.create"), ("providers.openai", "OpenAI.create")],
    "poll": [("providers.anthropic", "Anthropic.poll"), ("providers.openai", "OpenAI.poll")],
    "download": [("engine.settle", "fetch")],
    "read answers": [("engine.settle", "read_chunk")],
    "write results": [("engine.finish", "assemble")],
}
"""What is timed of a run: the seconds add up over batches, and batches overlap."""


def ours(work: Work) -> None:
    """Answer all jobs with a fresh state."""
    _run(work, again=False)


def again(work: Work) -> None:
    """Run the same jobs again when all are answered; `ours` came before in the same folder."""
    _run(work, again=True)


def ours_file(work: Work) -> None:
    """The same as `ours`, with all jobs in one file."""
    _run(work, again=False, from_file=True)


def again_file(work: Work) -> None:
    """The same as `again` after `ours_file`."""
    _run(work, again=True, from_file=True)


def _run(work: Work, *, again: bool, from_file: bool = False) -> None:
    import_module("batchata_prefect.engine.flow")
    from batchata_prefect import Batch

    import_module(work.provider)
    took: dict[str, float] = defaultdict(float)
    for phase, places in PHASES.items():
        for module, name in places:
            _time(module, name, phase, took)
    clock = Clock()
    folder = work.folder / ("ours-file" if from_file else "ours")
    # As many at once as the other contenders send.
    batch = Batch(
        folder / "results",
        max_parallel_batches=len(work.starts()),
        items_per_batch=work.per_batch,
        raw_files=False,
    )
    batch.set_state(file=folder / "state")
    batch.set_default_params(model=work.model, max_tokens=MAX_TOKENS)
    if from_file:
        batch.add_rows(work.jobs_file)
    for n in range(0 if from_file else work.count):
        if work.kind == "text":
            batch.add_job(prompt=TEXT.format(n=n), id=str(n))
        else:
            batch.add_job(file=work.pdf(n), prompt=ASK, id=str(n))
    took["add jobs"] = clock.wall
    run = batch.run()
    took["run"] = clock.wall - took["add jobs"]
    stats = run.status()
    assert stats["completed"] == work.count, stats
    assert stats["resumed"] == (work.count if again else 0), stats
    clock.tell(**took)


def _time(module: str, name: str, phase: str, took: dict[str, float]) -> None:
    owner: Any = import_module(f"batchata_prefect.{module}")
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, last)
    lock = threading.Lock()

    def add(began: float) -> None:
        with lock:
            took[phase] += time.perf_counter() - began

    @functools.wraps(real)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            add(began)

    @functools.wraps(real)
    async def timed_async(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return await real(*args, **kwargs)
        finally:
            add(began)

    setattr(owner, last, timed_async if inspect.iscoroutinefunction(real) else timed)
