"""What one run holds while it lives: its settings, records, spool and SDK clients."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeAlias, TypeVar

import pydantic

from batchata_prefect.answers import EndedBatch, JobResult
from batchata_prefect.content.schema import AnswerSchema
from batchata_prefect.engine.pace import Lines, Pace, TurnedAway
from batchata_prefect.errors import BatchataError, OptionError
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.ledger import Entry
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.options import OnCancel, RunOptions
from batchata_prefect.providers import Provider, Requests, provider_for, providers
from batchata_prefect.providers.failures import Failure
from batchata_prefect.results.row import reply_file

if TYPE_CHECKING:
    # At run time it would bring in Prefect, which whoever only builds a batch does not need yet.
    from batchata_prefect.engine.deliver import Deliveries
    from batchata_prefect.records.lease import Lease
    from batchata_prefect.records.store import Records

P = ParamSpec("P")
T = TypeVar("T")

OnBatch: TypeAlias = "Callable[[EndedBatch, Iterator[JobResult]], None]"
"""Called with a batch that has ended and the results of its jobs."""

_HURRIED_SECONDS = 1.0
"""Longest sleep of a run that got SIGTERM."""

TERMINATED = "the process was told to terminate"
"""Reason of a stop by SIGTERM."""


class Settings(RunOptions):
    """What a run is told: its options, and what they are for.

    Attributes:
        results_dir: Where answers go.
        results_url: Where they are put at the end; None where that is `results_dir`.
        run_key: The identity under which the run resumes.
        jobs: Number of jobs.
        title: What a person calls them.
        jobs_file: The file that each row of is one of them; None where there is none.
    """

    model_config = pydantic.ConfigDict(use_attribute_docstrings=False)

    results_dir: str
    run_key: str
    jobs: int
    results_url: str | None = None
    title: str = ""
    jobs_file: JobsFile | None = None

    @pydantic.model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.shared_budget is not None and self.cost_limit_usd is None:
            raise OptionError(
                f"the budget {self.shared_budget!r} has no limit; give it with "
                "add_cost_limit(usd=...)"
            )
        return self

    @property
    def limits(self) -> tuple[Decimal | None, Decimal | None]:
        """USD that the run may cost, and for which jobs may go through the realtime API."""
        return self.cost_limit_usd, self.realtime_limit_usd


@dataclass(slots=True)
class Flight:
    """A chunk that this process is taking care of.

    Attributes:
        entry: Its line in the ledger.
        ordinals: Place in the chunk -> ordinal in the job set, -1 where the job is gone.
        fresh: Whether the create was surely not sent yet.
        requests: Opens what is sent; None where nothing is to be.
        batch: What the provider said last.
        started: Monotonic time at which this process took it up.
        canceled: Why we asked for its cancellation; None where we did not.
        canceled_before: Whether its cancellation was asked for before this process took it up.
        waiting_for: What it waits for, for a person.
        is_overdue: Whether it was told that the provider has not ended it in time.
        refused: Why the provider would not create the batch; None where it did not refuse.
        held_back: Why we did not create the batch; None where we did, or tried to.
        error: Why this process could not bring it to its end; None where it could.
        short: Whether the provider counts more rows than it gives, and nobody waits for them.
        lost: Whether the provider keeps its results no more.
        succeeded: Requests answered so far, where the provider says.
        parked: Whether there is nothing to do but to wait for the provider.
        uploads: Digest -> id of an uploaded document that its realtime requests refer to.
        tags: Tags of its task, whose limits it waits for before it begins; none where it does not.
        has_begun: Whether its task has begun.
        on_begin: Called when its task begins.
    """

    entry: Entry
    ordinals: Sequence[int]
    fresh: bool = False
    requests: Requests | None = None
    batch: ProviderBatch | None = None
    started: float = field(default_factory=time.monotonic)
    canceled: str | None = None
    canceled_before: bool = False
    waiting_for: str | None = None
    is_overdue: bool = False
    refused: Failure | None = None
    held_back: str | None = None
    error: BatchataError | None = None
    short: bool = False
    lost: bool = False
    succeeded: int = 0
    parked: bool = False
    uploads: Mapping[str, str] = field(default_factory=dict[str, str])
    tags: frozenset[str] = frozenset()
    has_begun: bool = False
    on_begin: Callable[[], None] = field(default=lambda: None, repr=False)

    def begin(self) -> None:
        """Say that its task has begun."""
        if not self.has_begun:
            self.has_begun, self.waiting_for = True, None
            self.on_begin()


@dataclass(frozen=True, slots=True)
class Stop:
    """That the run shall end before all its jobs are answered.

    Attributes:
        reason: Who or what wants it, for a person.
        on_cancel: What becomes of the provider batches in flight.
    """

    reason: str
    on_cancel: OnCancel


@dataclass(slots=True)
class Session:
    """Everything a run needs in its process; the flow and its tasks share one.

    Attributes:
        settings: What the run was told.
        spool: Its rendered jobs.
        prices: What tokens cost.
        schemas: Digest -> answer schema.
        pace: How long to wait for what.
        records: Where its records are kept; once it runs, and not before.
        ledger: Its chunks, oldest first; the records in memory.
        members: For each chunk of the ledger, place -> ordinal in the job set, -1 for none.
        flights: Sequence -> chunk that is being taken care of.
        providers: Name -> provider.
        clients: Name of the provider -> its SDK client.
        started_at: First start of the run with this job set.
        resumed: Jobs that an earlier run had answered.
        spent_before: What earlier runs have cost in USD; None where that is unknown.
        flow_run_id: Prefect's id of the flow run.
        waiting_for: What the whole run waits for, for a person.
        manifest: What it came to, once it is finished.
        canary: What the canary came to; None where there is none, or it is not over.
        lease: That this process owns the run, once it does.
        error: Why the run failed; None where it did not.
        broken: Why it cannot go on in this process, while it ends; None where it can.
        stopped: That the run shall end now; None while it shall go on.
        closed: Provider -> why it takes no more batches of this run.
        stuck: Provider -> what it says in place of taking a batch, time and again.
        ending_since: Monotonic time at which the run was told to stop, or its deadline came.
        suspending: Whether its flow run goes to sleep, and its process ends.
        undecided: Sequence -> ids of batches one of which may be this chunk's.
        turned_away: Which models are to be tried later.
        lines: What its flights share on their way to the providers.
        around_id: The flow run of a deployment around the batch; None where there is none.
        costs_seconds: What a process takes to come to where it can collect.
        asleep_for: What the run sleeps for, for a person.
        on_batch: The user's function that is told of each batch; None for none.
        deliveries: What has ended, for whoever reads it before the run is over; once it runs.
    """

    settings: Settings
    spool: Spool
    prices: PriceBook
    schemas: Mapping[str, AnswerSchema]
    pace: Pace
    records: Records = field(init=False, repr=False)
    ledger: list[Entry] = field(default_factory=list[Entry])
    members: list[Sequence[int]] = field(default_factory=list[Sequence[int]])
    flights: dict[int, Flight] = field(default_factory=dict[int, Flight])
    providers: dict[str, Provider] = field(default_factory=dict[str, Provider])
    clients: dict[str, Any] = field(default_factory=dict[str, Any])
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    resumed: int = 0
    spent_before: Decimal | None = Decimal(0)
    flow_run_id: str | None = None
    waiting_for: str | None = None
    manifest: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    lease: Lease | None = None
    error: BatchataError | None = None
    broken: BatchataError | None = None
    stopped: Stop | None = None
    closed: dict[str, BatchataError] = field(default_factory=dict[str, BatchataError])
    stuck: dict[str, str] = field(default_factory=dict[str, str])
    ending_since: float | None = None
    suspending: bool = False
    undecided: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    turned_away: TurnedAway = field(init=False)
    lines: Lines = field(default_factory=Lines, repr=False)
    around_id: str | None = None
    costs_seconds: float = 0.0
    asleep_for: str | None = None
    on_batch: OnBatch | None = field(default=None, repr=False)
    deliveries: Deliveries | None = field(default=None, repr=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _hurried_at: float | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: ThreadPoolExecutor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Make what it holds that needs its pace."""
        self.turned_away = TurnedAway(self.pace)

    def bind(self) -> None:
        """Live in the running event loop; `stop` may be called from other threads from here on."""
        self._loop = asyncio.get_running_loop()
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        if self.stopped is not None:
            self.end_now()

    async def alone(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do heavy work in the run's own thread, one piece after the other.

        Two at once would take as long under the interpreter's lock, and the C library keeps what
        each thread has freed for that thread: spread over all threads of the event loop, that was
        50 MB for 10 batches of 100,000.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "batchata")
        call = partial(contextvars.copy_context().run, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def unbind(self) -> None:
        """Have no thread any more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def stop(self, reason: str, on_cancel: OnCancel | None = None) -> None:
        """Have the run end soon and in order; the first reason counts. From any thread."""
        if self.stopped is None:
            self.stopped = Stop(reason, on_cancel or self.settings.on_cancel)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the run is over
                self._loop.call_soon_threadsafe(self.end_now)

    def fail(self, error: BatchataError) -> None:
        """Have the run end at once with an error; what is in flight goes on at the provider."""
        self.broken = self.broken or error
        self.stop(str(error), "detach")

    def end_now(self) -> None:
        """Wake whoever waits: nothing new is begun from here on. In the event loop only."""
        if self.ending_since is None:
            self.ending_since = time.monotonic()
        self._wake.set()

    def suspend(self) -> None:
        """Wake whoever waits for a provider: the process is about to end. In the event loop only.

        What is in flight goes on there and stands in the records.
        """
        self.suspending = True
        self._wake.set()

    def carry_on(self) -> None:
        """Not go to sleep after all."""
        self.suspending = False
        if self.ending_since is None:
            self._wake.clear()

    @property
    def is_ending(self) -> bool:
        """Whether the run was told to stop, or its deadline has come."""
        left = self.seconds_left
        return self.stopped is not None or (left is not None and left <= 0)

    @property
    def seconds_until_realtime(self) -> float | None:
        """Seconds until jobs go over to the realtime API, below 0 after; None where none does."""
        left = self.seconds_left
        if left is None or self.settings.on_deadline != "realtime":
            return None
        return left - self.settings.margin

    @property
    def is_realtime(self) -> bool:
        """Whether what is not answered goes through the realtime API now."""
        seconds = self.seconds_until_realtime
        return seconds is not None and seconds <= 0 and not self.is_ending

    @property
    def out_of_patience(self) -> bool:
        """Whether the run goes to sleep, or is ending and has waited long enough for what hangs."""
        if self.suspending or self.broken is not None:
            return True
        since = self.ending_since
        if since is not None and time.monotonic() - since > self.pace.settle:
            return True
        hurried = self._hurried_at
        return hurried is not None and time.monotonic() - hurried > self.pace.terminate

    def hurry(self) -> None:
        """Be gone soon, whatever still hangs: the next run collects it. In the event loop only."""
        if self._hurried_at is None:
            self._hurried_at = time.monotonic()
        self._hurry.set()

    async def pause(self, seconds: float) -> None:
        """Sleep; a stop or the deadline ends the sleep, where the run is not ending already."""
        seconds = max(seconds, 0.02)
        if self._hurry.is_set():
            await asyncio.sleep(min(seconds, _HURRIED_SECONDS))
            return
        if self._wake.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), seconds)
            return
        for left in (self.seconds_left, self.seconds_until_realtime):
            if left is not None and left > 0:
                seconds = min(seconds, max(left, 0.02))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        if self.is_ending:
            self.end_now()

    def provider(self, name: str) -> Provider:
        """The run's provider of that name.

        Raises:
            ProviderNotFoundError: There is none.
        """
        return provider_for("", name, known=providers(self.settings.accounts))

    @property
    def shown(self) -> dict[str, Any]:
        """Parameters of the flow run: what somebody who looks at it wants to know."""
        told = self.settings.told
        named = {"title", "jobs", "jobs_file", "results_dir", "results_url", "run_key"}
        return {
            "jobs": self.settings.title,
            "models": sorted({family.model for family in self.spool.families()}),
            "results": told.get("results_url") or told["results_dir"],
            "budget_usd": told.pop("cost_limit_usd", None),
            "time_limit_hours": told.pop("time_limit_hours", None),
            "options": {name: value for name, value in told.items() if name not in named},
        }

    @property
    def results_dir(self) -> Path:
        """Where answers go."""
        return Path(self.settings.results_dir)

    @property
    def own_dir(self) -> Path:
        """Our own folder inside `results_dir`: lock, spool, parsed answers."""
        return self.results_dir / ".batchata"

    def journal_file(self, token: str) -> Path:
        """What was sent and answered of a chunk that goes through the realtime API."""
        return self.results_dir / "raw_files" / "responses" / f"{token}.journal"

    def request_file(self, token: str) -> Path:
        """The chunk file of a token."""
        return self.results_dir / "raw_files" / "requests" / f"{token}.jsonl"

    def reply_file(self, token: str) -> Path:
        """The provider's rows of a token, as they came."""
        return self.results_dir / reply_file(token)

    def answer_file(self, token: str) -> Path:
        """The read answers of a token, until they are in the results."""
        return self.own_dir / "answers" / f"{token}.jsonl"

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, below 0 after it; None without a time limit."""
        limit = self.settings.time_limit_seconds
        if limit is None:
            return None
        return limit - (datetime.now(UTC) - self.started_at).total_seconds()


_own: ContextVar[Session] = ContextVar("batchata_session")


@contextmanager
def entered(run: Session) -> Generator[None]:
    """Have the flow and its tasks find a run's session while this lasts.

    Prefect walks and stores what is passed to a flow or task, so live objects stay out of the
    parameters.
    """
    token = _own.set(run)
    try:
        yield
    finally:
        _own.reset(token)


def session() -> Session:
    """The session of the run that this is a part of."""
    return _own.get()
