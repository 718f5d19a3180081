"""Prefect's server, where a process has to start its own, and where it goes away."""

from __future__ import annotations

import signal
import time

from prefect import get_client, get_run_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
)

from batchata_prefect.engine.session import Session
from batchata_prefect.errors import one_line

_SERVER_START_SECONDS = 120
"""What it may take to start: Prefect's own 20 seconds were seen to pass on two busy cores."""


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
        patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        SubprocessASGIServer().start(timeout=max(patience, _SERVER_START_SECONDS))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def wait_for_prefect(run: Session) -> bool:
    """Wait for a Prefect that is away, so that it hears of the run's end; False where it stays so.

    A flow run whose end is never told would be shown as running for ever.
    """
    began = time.monotonic()
    while True:
        try:
            async with get_client() as client:
                away = await client.api_healthcheck()
        except Exception as error:
            away = error
        if away is None:
            run.waiting_for = None
            return True
        if time.monotonic() - began > run.pace.prefect or run.stopped is not None:
            return False
        if run.waiting_for is None:
            get_run_logger().warning(
                "the results are written; Prefect does not answer (%s), waiting for it up to %d s",
                one_line(away),
                run.pace.prefect,
            )
        run.waiting_for = "Prefect to hear of the end"
        await run.pause(min(2.0, run.pace.prefect / 5))
