"""Being the only process that works on a run: the kernel's lock here, and the lease everywhere."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import BinaryIO

from prefect import get_run_logger

from batchata_prefect.engine.session import Session
from batchata_prefect.errors import StateError, one_line
from batchata_prefect.files import make_folder, sweep_partial
from batchata_prefect.jobs.spool import sweep
from batchata_prefect.records.lease import Lease
from batchata_prefect.records.storage import storage_at
from batchata_prefect.records.store import Records

_LOCK_LOOK_SECONDS = 0.5


@asynccontextmanager
async def owning(run: Session) -> AsyncGenerator[bool]:
    """Be the only process that works on this run; False where it was told to stop before.

    Raises:
        StateError: Another process owns it and the run shall not wait.
    """
    settings = run.settings
    make_folder(run.own_dir)
    (run.own_dir / "lock").touch(0o600)
    with (run.own_dir / "lock").open("ab") as lock:
        if not await _lock(run, lock):
            yield False
            return
        sweep(run.own_dir)
        files = (run.answer_file(""), run.reply_file(""), run.request_file(""))
        for folder in (run.results_dir, run.own_dir, *(file.parent for file in files)):
            sweep_partial(folder)
        run.records = Records(await storage_at(settings.state), settings.run_key)
        lease = Lease(run.records, run.pace.lease)
        try:
            if not await _own(run, lease):
                yield False
                return
            run.lease = lease
            yield True
        finally:
            run.lease = None
            with suppress(StateError):
                await lease.release()


async def _own(run: Session, lease: Lease) -> bool:
    """Wait for the lease; False where the run was told to stop before.

    Raises:
        StateError: Another process owns it and the run shall not wait, or the storage has failed
            for `Pace.retry_longest` seconds.
    """
    clock = asyncio.get_running_loop().time
    failing_since: float | None = None
    while True:
        try:
            owner = await lease.attempt()
        except StateError as error:
            failing_since = clock() if failing_since is None else failing_since
            if clock() - failing_since > run.pace.retry_longest:
                raise
            get_run_logger().warning("the records cannot be reached yet: %s", error)
            run.waiting_for = f"its records, which cannot be reached: {one_line(error)}"
            owner = None
        else:
            if owner is None or failing_since is not None:
                failing_since = run.waiting_for = None
            if owner is None:
                return True
        if owner is not None:
            _say_who(run, owner)
        await run.pause(min(1.0, run.pace.lease / 10))
        if run.is_ending:
            return False


def _say_who(run: Session, owner: str) -> None:
    """Wait for another process, or refuse to.

    Raises:
        StateError: The run shall not wait.
    """
    key = run.settings.run_key
    if run.settings.if_running == "fail":
        raise StateError(
            f"{owner} is running the job set {key!r}. Nothing was sent. Wait for it, cancel it, or "
            "run with if_running='wait'"
        )
    if run.waiting_for is None:
        get_run_logger().warning("%s is running this job set; waiting for it", owner)
    run.waiting_for = f"{owner}, which runs this job set"


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
