"""`run_batch`, the parent flow: recover, buy until nothing is left or a limit holds, finish."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Cancelled, Completed, Failed

from batchata_prefect import budget, plan, quota
from batchata_prefect.errors import BatchataError, ProviderError, StateError, ValidationError
from batchata_prefect.finish import finish, job_ids, read_manifest
from batchata_prefect.inflight import note_run
from batchata_prefect.lease import Lease
from batchata_prefect.ledger import Entry, Intent, Start
from batchata_prefect.models import Chunk
from batchata_prefect.providers import provider_for
from batchata_prefect.records import Records, storage_at
from batchata_prefect.replies import restore, write_request_file
from batchata_prefect.report import publish, summary, tell_failures
from batchata_prefect.session import Flight, Session, session
from batchata_prefect.spool import ANSWERED, Family, sweep
from batchata_prefect.tasks import provider_batch, take_in
from batchata_prefect.watch import wait_for_prefect, watching

_LOCK_LOOK_SECONDS = 0.5
_SERVER_START_SECONDS = 120


@flow(
    name="batchata",
    flow_run_name="{label}",
    # Results are files; a copy in Prefect's storage would only grow.
    persist_result=False,
    # The session is a name of something that lives in this process.
    validate_parameters=False,
)
async def run_batch(label: str, session_name: str, settings: dict[str, Any]) -> State[Any]:
    """Answer every job of a job set, each paid once, inside the limits.

    Args:
        label: Name of the flow run.
        session_name: Name of the session in this process.
        settings: The run's settings, for the reader of the flow run.

    Returns:
        Completed or Cancelled, with a message that says what was answered and what it cost; or
        Failed, with the error on the session, where a provider refuses the key or the account,
        or records or results cannot be read, written or trusted.
    """
    run = session(session_name)
    run.flow_run_id, run.waiting_for = _flow_run_id(), None
    try:
        return await _from_start_to_end(run, session_name)
    except BatchataError as error:
        # Raised, Prefect would log a traceback; what to do stands in the error's own words.
        run.error = error
        return Failed(message=str(error))


async def _from_start_to_end(run: Session, session_name: str) -> State[Any]:
    async with watching(run), _own(run) as owned:
        if not owned:
            assert run.stopped is not None
            return Cancelled(message=f"{run.stopped.reason}; this start sent nothing")
        async with _clients(run):
            await _recover(run)
            await _buy_all(run, session_name)
            for entry, ordinals in zip(run.ledger, run.members, strict=True):
                await restore(run, entry, ordinals)
            run.manifest = await asyncio.to_thread(finish, run)
            tell_failures(run.manifest)
            if await wait_for_prefect(run):
                await publish(run.manifest)
    for error in run.closed.values():
        raise error
    state = Completed if run.manifest["status"] == "completed" else Cancelled
    return state(message=summary(run.manifest))


@contextmanager
def patient_with_prefect() -> Generator[None]:
    """Give a Prefect server that has to be started the time that a busy machine needs.

    Its default of 20 seconds was seen to pass on two cores.
    """
    setting = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
    with temporary_settings({setting: max(setting.value(), _SERVER_START_SECONDS)}):
        yield


def start_own_server() -> None:
    """Start the Prefect server of a process that has none; nothing where one is set.

    Prefect would start it by itself, and Ctrl-C, which a terminal sends to all its processes, would
    end it first: a run that ends in order could not be told. Blocked here, the signal stays blocked
    in the server, whose end Prefect sees to when this process ends.

    Raises:
        RuntimeError: It does not start.
    """
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return
    from prefect.server.api.server import SubprocessASGIServer

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@asynccontextmanager
async def _own(run: Session) -> AsyncGenerator[bool]:
    """Be the only process that works on this run; False where it was told to stop before.

    Raises:
        StateError: Another process owns it and the run shall not wait.
    """
    settings = run.settings
    run.own_dir.mkdir(parents=True, exist_ok=True)
    with (run.own_dir / "lock").open("ab") as lock:
        if not await _lock(run, lock):
            yield False
            return
        sweep(run.own_dir)
        run.records = Records(await storage_at(settings.state), settings.run_key)
        lease = Lease(run.records, run.pace.lease)
        while (owner := await lease.attempt()) is not None:
            if settings.if_running == "fail":
                raise StateError(
                    f"{owner} is running the job set {settings.run_key!r}. Nothing was sent. Wait "
                    "for it, cancel it, or run with if_running='wait'"
                )
            if run.waiting_for is None:
                get_run_logger().warning("%s is running this job set; waiting for it", owner)
            run.waiting_for = f"{owner}, which runs this job set"
            await run.pause(min(1.0, run.pace.lease / 10))
            if run.is_ending:
                yield False
                return
        run.lease, run.waiting_for = lease, None
        await asyncio.to_thread(note_run, run.own_dir, settings.run_key, settings.state)
        try:
            yield True
        finally:
            run.lease = None
            with suppress(StateError):
                await lease.release()


async def _lock(run: Session, lock: BinaryIO) -> bool:
    """Hold the kernel lock of the results directory, which goes with its holder however it dies.

    Raises:
        StateError: Another process holds it and the run shall not wait.
    """
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if run.settings.if_running == "fail":
                raise StateError(
                    f"another process is running this job set in {str(run.results_dir)!r}. "
                    "Nothing was sent. Wait for it, cancel it, or run with if_running='wait'"
                ) from None
        else:
            run.waiting_for = None
            return True
        if run.waiting_for is None:
            get_run_logger().warning(
                "another process is running this job set in %s; waiting for it", run.results_dir
            )
        run.waiting_for = "the other process that runs this job set"
        await run.pause(_LOCK_LOOK_SECONDS)
        if run.is_ending:
            return False


@asynccontextmanager
async def _clients(run: Session) -> AsyncGenerator[None]:
    """Connect to the providers that the jobs need, and hang up at the end."""
    for family in run.spool.families():
        if family.provider not in run.clients:
            provider = provider_for(family.model, family.provider)
            run.providers[family.provider] = provider
            run.clients[family.provider] = await asyncio.to_thread(provider.connect)
    try:
        yield
    finally:
        for client in run.clients.values():
            await client.close()
        run.clients.clear()


async def _recover(run: Session) -> None:
    """Learn from the records what is bought already, and take up what is in flight."""
    settings = run.settings
    assert run.records is not None
    start = await run.records.start()
    accounts = {name: run.providers[name].account(run.clients[name]) for name in run.clients}
    if start is None and settings.reuse_state:
        _refuse_moved(run)
    if start is None or not settings.reuse_state:
        run.started_at = datetime.now(UTC)
        new = Start(settings.run_key, run.started_at, settings.results_dir, accounts)
        await run.records.begin(new, afresh=start is not None)
        return
    run.started_at = start.started_at
    for name, account in accounts.items():
        if start.accounts.get(name, account) != account:
            raise StateError(
                f"{settings.results_dir!r} was begun with {name} at {start.accounts[name]}, and "
                f"now {name} is at {account}: what is in flight there cannot be reached from here. "
                "Set the base URL back, use another results_dir, or start over with "
                "set_state(reuse_state=False). Nothing was sent"
            )
    strangers = 0
    async for entry, members in run.records.ledger():
        ordinals = await asyncio.to_thread(run.spool.locate, members)
        run.ledger.append(entry)
        run.members.append(ordinals)
        run.spool.assign(ordinals)
        strangers += ordinals.count(-1)
        if entry.ending is None:
            flight = Flight(entry, ordinals)
            run.flights[entry.chunk.sequence] = flight
            await _connect_for(run, entry)
        else:
            await take_in(run, entry, ordinals, resumed=True)
    _refuse_strangers(run, strangers)
    run.resumed = run.spool.states[ANSWERED]
    if run.ledger:
        get_run_logger().info(
            "resuming: %s of %s jobs are answered, %d provider batches are in flight",
            f"{run.resumed:,}",
            f"{run.spool.count:,}",
            len(run.flights),
        )


async def _connect_for(run: Session, entry: Entry) -> None:
    """Connect to the provider of a batch in flight that no job of today needs."""
    name = entry.chunk.provider
    if name not in run.clients:
        run.providers[name] = provider_for(entry.chunk.model, name)
        run.clients[name] = await asyncio.to_thread(run.providers[name].connect)


def _refuse_moved(run: Session) -> None:
    """Stop when the results lie here and their records do not: all would be paid again.

    Raises:
        ValidationError: The manifest in `results_dir` is of a run whose records are not found.
    """
    manifest = read_manifest(run.results_dir)
    if manifest is None or run.records is None:
        return
    raise ValidationError(
        f"{run.settings.results_dir!r} holds the results of a run with the key "
        f"{manifest['run_key']!r} and its records at {manifest['state']}, but there are no records "
        f"for {run.settings.run_key!r} at {run.records.location}. Nothing was sent, or all would "
        "be paid again. Give that run_key and state, use another results_dir, or start over "
        "with set_state(reuse_state=False)"
    )


def _refuse_strangers(run: Session, strangers: int) -> None:
    """Stop when the records are of another job set altogether.

    Raises:
        ValidationError: None of the recorded jobs is among today's.
    """
    recorded = sum(entry.chunk.count for entry in run.ledger)
    if recorded and strangers == recorded and not run.spool.overlap(job_ids(run.results_dir)):
        raise ValidationError(
            f"{run.settings.results_dir!r} holds the results of another job set: none of its "
            f"{recorded:,} jobs is among today's {run.spool.count:,}. Nothing was sent. Use "
            "another results_dir, or start over there with set_state(reuse_state=False)"
        )


async def _buy_all(run: Session, session_name: str) -> None:
    """Keep up to `max_parallel_batches` provider batches going until nothing can be sent."""
    running: dict[asyncio.Task[str], int] = {}

    def take_up(flight: Flight) -> None:
        chunk = flight.entry.chunk
        task = asyncio.create_task(provider_batch(chunk.name, session_name, chunk.sequence))
        running[task] = chunk.sequence

    for flight in run.flights.values():
        take_up(flight)
    try:
        while True:
            while len(running) < run.settings.max_parallel_batches:
                flight = await _next_flight(run)
                if flight is None:
                    break
                take_up(flight)
            wait = None if run.is_ending else _next_try(run)
            if not running:
                if wait is None:
                    return
                run.waiting_for = "room for more tokens at the provider"
                await run.pause(wait)
                run.waiting_for = None
                continue
            done, _ = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                flight = run.flights.pop(running.pop(task))
                _take_error(run, flight, flight.error or task.exception())
    except BaseException:
        # What is in flight goes on at the provider and stands in the records.
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise


def _take_error(run: Session, flight: Flight, error: BaseException | None) -> None:
    """Send nothing more to a provider that failed; what the others answer is collected first.

    Raises:
        BaseException: The error, where it is not the provider's.
    """
    if isinstance(error, ProviderError):
        provider = flight.entry.chunk.provider
        run.closed.setdefault(provider, error)
        get_run_logger().error("%s: sending nothing more: %s", provider, error)
    elif error is not None:
        raise error


async def _next_flight(run: Session) -> Flight | None:
    """Cut, reserve and record the next chunk; None where nothing can be sent now."""
    if run.is_ending:
        return None
    for family, attempts in _eligible(run):
        if run.seconds_until_let_in(family.provider, family.model):
            continue
        provider = run.providers[family.provider]
        settings = run.settings
        sizes = plan.limits(
            provider, family.endpoint, settings.items_per_batch, settings.tokens_per_batch
        )
        most = quota.limit(run.ledger, family.provider, family.model, settings.quota)
        whole = None
        if most is not None:
            room, whole = quota.room(run.ledger, family.provider, family.model, most)
            sizes["max_tokens"] = min(room, sizes["max_tokens"] or room)
        cut = plan.cut(
            run.spool.waiting(family, attempts),
            **sizes,
            bound=lambda i, o, f=family: run.prices.bound(f.provider, f.model, i, o),
            room=budget.room(run.ledger, settings.cost_limit_usd),
        )
        if not plan.worth_sending(cut, wanted=settings.items_per_batch, busy=bool(run.flights)):
            continue
        if whole is not None and _is_flying(run, family):
            left = run.spool.waiting_count(family, attempts) - len(cut.ordinals)
            if not plan.worth_its_quota(cut, sizes["max_tokens"], whole, left):
                continue
        return await _reserve(run, family, attempts, cut)
    return None


def _is_flying(run: Session, family: Family) -> bool:
    """Whether a batch of the family's model is at the provider."""
    return any(
        (flight.entry.chunk.provider, flight.entry.chunk.model) == (family.provider, family.model)
        for flight in run.flights.values()
    )


def _next_try(run: Session) -> float | None:
    """Seconds until a family that was turned away is worth a try; None where none waits for it."""
    waits = [
        seconds
        for family, _ in _eligible(run)
        if (seconds := run.seconds_until_let_in(family.provider, family.model))
    ]
    return min(waits, default=None)


def _eligible(run: Session) -> list[tuple[Family, int]]:
    """Families with waiting jobs, those with the fewest batches in flight first.

    A later round of a family starts when its earlier rounds are over, so that what failed here
    and there goes out again together.
    """
    found: list[tuple[int, Family, int]] = []
    for family in run.spool.families():
        if family.provider in run.closed:
            continue
        flying = [
            flight.entry.chunk.round
            for flight in run.flights.values()
            if (flight.entry.chunk.provider, flight.entry.chunk.endpoint, flight.entry.chunk.model)
            == (family.provider, family.endpoint, family.model)
        ]
        earliest = min(flying, default=None)
        for attempts in range(run.settings.max_attempts):
            if earliest is not None and attempts > earliest:
                break
            if run.spool.is_waiting(family, attempts):
                found.append((len(flying), family, attempts))
                break
    return [(family, attempts) for _, family, attempts in sorted(found, key=lambda item: item[0])]


async def _reserve(run: Session, family: Family, attempts: int, cut: plan.Cut) -> Flight:
    """Make the intent durable: from here on its upper bound is held until its cost is known."""
    assert run.records is not None
    sequence = len(run.ledger)
    generation = run.records.generation
    identity = (run.settings.run_key, generation, sequence, attempts, family.provider)
    digest = hashlib.sha256(repr((*identity, family.endpoint, family.model)).encode() + cut.members)
    chunk = Chunk(
        sequence=sequence,
        round=attempts,
        token=digest.hexdigest(),
        provider=family.provider,
        endpoint=family.endpoint,
        model=family.model,
        count=len(cut.ordinals),
        size_bytes=cut.size_bytes,
        input_tokens=cut.input_tokens,
        output_tokens=cut.output_tokens,
        reserved_usd=cut.bound_usd,
    )
    try:
        await asyncio.to_thread(write_request_file, run, chunk, cut.ordinals)
    except OSError as error:
        raise StateError(
            f"{chunk.name}: its request file cannot be written in {str(run.results_dir)!r}: "
            f"{error.strerror}. It was not sent; make room and run again, nothing is paid twice"
        ) from error
    if run.lease is not None:
        await run.lease.hold()
    intent = Intent(chunk, datetime.now(UTC), cut.members)
    await run.records.write_intent(intent)
    entry = Entry(chunk, intent.since)
    run.ledger.append(entry)
    run.members.append(cut.ordinals)
    run.spool.assign(cut.ordinals)
    flight = Flight(entry, cut.ordinals, fresh=True)
    run.flights[sequence] = flight
    return flight


def _flow_run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None
