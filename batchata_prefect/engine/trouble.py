"""Why Prefect has ended the flow of a run, in words that say what was sent and what to do."""

from __future__ import annotations

import logging
from typing import Any

from prefect.exceptions import FailedRun
from prefect.settings import PREFECT_API_URL
from prefect.states import aget_state_exception

from batchata_prefect.engine.session import Session
from batchata_prefect.errors import StateError, one_line

logger = logging.getLogger("batchata_prefect")

_PREFECT_UNREACHABLE = ("Failed to reach API", "Timed out while attempting to connect")
"""How Prefect says that its server does not answer; it has no error class for it."""


def refused(error: BaseException | None) -> str | None:
    """Words for a Prefect server that refuses us; None where that is not the trouble."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in {401, 403}:
            return (
                f"Prefect refuses this process ({status} from {PREFECT_API_URL.value()}). Check "
                "PREFECT_API_KEY or PREFECT_API_AUTH_STRING"
            )
        error = error.__cause__
    return None


def unreachable(error: Exception) -> str | None:
    """Words for a Prefect server that does not answer; None where that is not the trouble."""
    # The connection uses httpx.
    is_connection = type(error).__module__.partition(".")[0] in {"httpx", "httpcore"}
    if not is_connection and not str(error).startswith(_PREFECT_UNREACHABLE):
        return None
    return (
        f"Prefect cannot be reached at {PREFECT_API_URL.value()} ({one_line(error)}). Start its "
        "server (prefect server start), or check PREFECT_API_URL"
    )


async def raise_trouble(run: Session, state: Any) -> None:
    """Raise why the flow failed, where that is no matter of its jobs."""
    if run.error is not None:
        raise run.error
    if run.flow_run_id is not None and (state.is_failed() or state.is_crashed()):
        error = await aget_state_exception(state)
        if not isinstance(error, FailedRun):
            raise error


def tell(run: Session, error: Exception) -> None:
    """Name what has ended the flow, and let a Prefect that is away go where that is no matter.

    Raises:
        Exception: What ended the flow.
    """
    if run.error is not None:
        raise run.error from None
    told = refused(error)
    if told is not None and not run.ledger:
        raise StateError(f"{told}; this start sent nothing") from None
    told = unreachable(error)
    if told is not None and run.manifest is not None:
        logger.warning(
            "the run is over and its results are written, but Prefect could not be told: %s",
            error,
        )
        return
    if told is not None and not run.ledger:
        raise StateError(
            f"{told}, or unset it to run with a server of its own. This start sent nothing"
        ) from error
    raise error
