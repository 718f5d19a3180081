"""What a run tells Prefect's event system, so that automations can act on it.

One event for what happens to a provider batch or a run, never one for a job. Telling never holds a
run up and never fails it: Prefect queues events in a thread of its own.

| event | when | labels | payload |
|---|---|---|---|
| `batch.submitted` | the provider has taken a batch | provider, model | jobs, estimated_usd |
| `batch.ended` | its replies are read | provider, model, status | jobs, answered, cost_usd, \
answers |
| `batch.failed` | the provider refused it | provider, model, status | jobs, reason |
| `cost.passed` | the cost has passed 1, 2, 5, 10, 20, ... USD | usd | cost_usd |
| `budget.exhausted` | the cost limit kept jobs from being sent | | jobs, limit_usd |
| `deadline.near` | a tenth of the time limit is left | | seconds_left |
| `run.finished` | the results are written | status | counts, cost_usd, results_dir |

`answers` is the path or, with results at a URL, the URL of the batch's answers, in lines as those
of `results.jsonl`. It is there until the run is over, and then all are in `results.jsonl`. A job
that failed in it may be sent again, in another batch.

All names begin with `batchata.`, those of the labels too: `batchata.batch.ended`, with the label
`batchata.provider`. The resource of the first three is `batchata.batch.<provider's id>`, that of
the others `batchata.run.<id of the flow run>`. Related are the flow run, its flow and its
deployment, as of all of Prefect's events, so that an automation can name the deployment that it is
for.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import count, takewhile
from pathlib import PurePath
from typing import Any

from prefect import get_run_logger
from prefect.events import emit_event

from batchata_prefect.money.ledger import Entry
from batchata_prefect.numbers import plain_usd
from batchata_prefect.views.status import BatchStatus, RunStatus

_PREFIX = "batchata."
_NEAR = 0.1


def submitted(entry: Entry) -> None:
    """A provider has taken a batch."""
    bound = plain_usd(entry.chunk.reserved_usd)
    _tell_of_batch("batch.submitted", BatchStatus(entry), {}, estimated_usd=bound)


def ended(run: RunStatus, batch: BatchStatus, answers: str | None = None) -> None:
    """A batch has come to its end, or was refused.

    Args:
        run: Where the run stands.
        batch: The batch.
        answers: Path or URL of its answers; None where there are none to read.
    """
    ending = batch.entry.ending
    assert ending is not None
    labels = {"status": ending.status}
    if ending.status in {"failed", "never_created"}:
        if ending.status == "failed" or ending.reason is not None:
            _tell_of_batch("batch.failed", batch, labels, reason=(ending.reason or "")[:500])
    elif ending.status != "turned_away":
        cost = plain_usd(ending.cost_usd)
        answered = batch.answered
        _tell_of_batch(
            "batch.ended", batch, labels, answered=answered, cost_usd=cost, answers=answers
        )
        _tell_of_cost(run, ending.cost_usd)


def _tell_of_cost(run: RunStatus, more: Decimal | None) -> None:
    """Tell of each of 1, 2, 5, 10, 20, 50, ... USD that the cost has passed with this."""
    spent = run.spent_usd
    if spent is None or not more:
        return
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    for step in takewhile(lambda step: step <= spent, steps):
        if step > spent - more:
            _tell_of_run(run, "cost.passed", {"usd": str(step)}, cost_usd=float(spent))


def seconds_until_near(left: float | None, limit: float | None) -> float | None:
    """Seconds until little of the time limit is left; None where it is so, or there is none.

    Args:
        left: Seconds until the deadline.
        limit: Seconds from the first start to the deadline.
    """
    if left is None or limit is None or left <= limit * _NEAR:
        return None
    return left - limit * _NEAR


def near_deadline(run: RunStatus) -> bool:
    """Tell that little of the time limit is left; whether it is so."""
    left = run.seconds_left
    if left is None or seconds_until_near(left, run.time_limit_seconds) is not None:
        return False
    if left > 0:
        _tell_of_run(run, "deadline.near", {}, seconds_left=round(left))
    return True


def finished(run: RunStatus, manifest: dict[str, Any]) -> None:
    """The results are written; and whether the cost limit kept jobs from being sent."""
    short = manifest["failures"].get("cost_limit_exceeded")
    if short is not None:
        limit = manifest["cost_limit_usd"]
        _tell_of_run(run, "budget.exhausted", {}, jobs=short["count"], limit_usd=limit)
    _tell_of_run(
        run,
        "run.finished",
        {"status": manifest["status"]},
        counts=manifest["counts"],
        cost_usd=manifest["cost_usd"],
        results_dir=run.results_dir,
    )


def _tell_of_batch(name: str, batch: BatchStatus, labels: dict[str, str], **payload: Any) -> None:
    chunk = batch.entry.chunk
    labels = {"provider": chunk.provider, "model": chunk.model, **labels}
    resource = f"{_PREFIX}batch.{batch.batch_id or chunk.token}"
    _tell(name, resource, chunk.name, labels, {"jobs": chunk.count, **payload})


def _tell_of_run(run: RunStatus, name: str, labels: dict[str, str], **payload: Any) -> None:
    resource = f"{_PREFIX}run.{run.flow_run_id}"
    payload["run_key"] = run.run_key
    _tell(name, resource, PurePath(run.results_dir).name, labels, payload)


def _tell(
    name: str, resource_id: str, label: str, labels: dict[str, str], payload: dict[str, Any]
) -> None:
    resource = {"prefect.resource.id": resource_id, "prefect.resource.name": label}
    resource |= {_PREFIX + key: value for key, value in labels.items()}
    try:
        emit_event(_PREFIX + name, resource, payload=payload)
    except Exception as error:
        get_run_logger().debug("the event %r was not sent (%s)", name, type(error).__name__)
