"""The states in which Prefect shows what became of a run and of each provider batch.

A state says what happened, never more. What answered nothing is Failed, so that Prefect's rules for
failed runs act on it, and only what was answered completely is Completed under that name.

| state | type | of a run | of a provider batch |
|---|---|---|---|
| `Completed` | COMPLETED | every job is answered | every job is answered |
| `Partial` | COMPLETED | some jobs are answered, others failed or were not sent | some jobs are \
answered, others failed |
| `Failed` | FAILED | no job is answered; or the provider refuses the key or the account; or \
records or answers cannot be read or written | no job is answered; or the provider refuses it; or \
its answers are lost or cannot be written |
| `LeftRunning` | COMPLETED or FAILED | some jobs are answered, and a provider batch goes on after \
the deadline | it goes on after the deadline, or its provider does not say what became of it |
| `Expired` | COMPLETED or FAILED | | the provider gave it up, with some or no jobs answered |
| `TurnedAway` | FAILED | | the provider ran none of it, as too many tokens wait there; its jobs \
go out again |
| `NeverSent` | FAILED or CANCELLED | | it was not created, and nothing was paid; CANCELLED where \
the run was told to stop |
| `Uncertain` | FAILED | | whether it was created is not known; the next start finds out |
| `Cancelled` | CANCELLED | the run was told to stop | it was cancelled at the provider, with what \
it had answered |
| `Detached` | CANCELLED | told to stop and to leave its batches running | left running |
| `Asleep` | COMPLETED | | it goes on while the run is suspended |

An automation on `Failed` fires for every run that answered nothing: its event is
`prefect.flow-run.Failed`. Those for the others are named alike, such as
`prefect.flow-run.Partial`. Where Prefect tells of an end by its type alone, `LeftRunning`,
`Expired`, `TurnedAway`, `NeverSent` and `Uncertain` of a batch are failures as well.

The message says how many jobs are answered and what they cost. The return value is the same as
facts, in JSON: of a run `results`, `run_key`, `status`, `counts`, `cost_usd`, `reserved_usd`,
`failures` and `batch_ids`; of a provider batch its line in `manifest.json`. A state of the types
FAILED and CANCELLED has its message as its result, and the facts as JSON in the last line of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Failed

from batchata_prefect.money.ledger import CANCELED, FAILED, NEVER_SENT
from batchata_prefect.numbers import told_usd
from batchata_prefect.views.report.words import summary
from batchata_prefect.views.status import BatchStatus

_CODES_TOLD = 5
_FACTS = ("run_key", "status", "counts", "cost_usd", "reserved_usd", "failures")


def of_run(
    manifest: Mapping[str, Any] | None, results: str, error: str | None = None
) -> State[Any]:
    """The state of a run that is over.

    Args:
        manifest: What it came to; None where it did not come so far.
        results: Path or URL of its results.
        error: Why it failed; None where its jobs say all.
    """
    if manifest is None and error is None:
        return Cancelled(message="cancelled before anything was sent")
    if manifest is None:
        return Failed(message=error)
    ids = [batch["batch_id"] for batch in manifest["batches"] if batch["batch_id"]]
    facts = {"results": results, **{name: manifest[name] for name in _FACTS}, "batch_ids": ids}
    name, kind = _ending_of_run(manifest)
    told = summary(manifest)
    if manifest["reserved_usd"]:
        told += f", up to {told_usd(manifest['reserved_usd'])} reserved"
    if ids:
        told += f", in {ids[0] if len(ids) == 1 else f'{len(ids):,} provider batches'}"
    if codes := [f"{code}: {group['count']:,}" for code, group in manifest["failures"].items()]:
        told += f" ({', '.join(codes[:_CODES_TOLD])})"
    if manifest["status"] != "completed" and manifest["stopped_by"]:
        told += f"; {manifest['stopped_by']}"
    told += f"; see {results}"
    if error is not None:
        name, kind, told = "Failed", StateType.FAILED, f"{error} ({told})"
    return state(kind, name, told, facts)


def _ending_of_run(manifest: Mapping[str, Any]) -> tuple[str, StateType]:
    counts = manifest["counts"]
    if manifest["status"] != "completed":
        return manifest["status"].capitalize(), StateType.CANCELLED
    if counts["completed"] == counts["total"]:
        return "Completed", StateType.COMPLETED
    if not counts["completed"]:
        return "Failed", StateType.FAILED
    return ("LeftRunning" if "in_flight" in manifest["failures"] else "Partial"), (
        StateType.COMPLETED
    )


def of_batch(
    batch: BatchStatus,
    *,
    stopped: str | None,
    asleep: bool = False,
    error: str | None = None,
    remark: str | None = None,
) -> State[Any]:
    """The state of a provider batch that this process has done with.

    Args:
        batch: Where it stands.
        stopped: What becomes of batches as the run was told to stop; None where it was not.
        asleep: Whether the run goes to sleep meanwhile.
        error: Why this process could not go on with it; None where it could.
        remark: What a person has to know besides.
    """
    if error is not None:
        name, kind = "Failed", StateType.FAILED
    elif batch.entry.ending is not None:
        name, kind = _ending_of_batch(batch, is_stopped=stopped is not None)
    elif asleep:
        name, kind = "Asleep", StateType.COMPLETED
    elif batch.batch_id is None:
        name, kind = "Uncertain", StateType.FAILED
    elif stopped == "detach":
        name, kind = "Detached", StateType.CANCELLED
    else:
        name, kind = "LeftRunning", StateType.FAILED
    return state(kind, name, told(batch, error or remark), batch.facts())


def _ending_of_batch(batch: BatchStatus, *, is_stopped: bool) -> tuple[str, StateType]:
    ending, chunk = batch.entry.ending, batch.entry.chunk
    assert ending is not None
    kind = StateType.COMPLETED if batch.answered else StateType.FAILED
    if batch.answered == chunk.count:
        return "Completed", kind
    if ending.status == "turned_away":
        return "TurnedAway", kind
    if ending.status in NEVER_SENT and FAILED not in ending.marks:
        return "NeverSent", StateType.CANCELLED if is_stopped else kind
    if ending.status == "canceled" or (is_stopped and chunk.realtime and CANCELED in ending.marks):
        return "Cancelled", StateType.CANCELLED
    if ending.status == "expired":
        return "Expired", kind
    return ("Partial" if batch.answered else "Failed"), kind


def told(batch: BatchStatus, remark: str | None = None) -> str:
    """What became of a provider batch, in one line: its id, how many are answered, what it cost."""
    chunk, ending = batch.entry.chunk, batch.entry.ending
    if ending is None:
        cost = f"up to {told_usd(chunk.reserved_usd)} stays reserved"
    elif ending.status in NEVER_SENT:
        cost = "nothing paid" if batch.reason else "nothing paid; there is no trace of it there"
    else:
        cost = told_usd(ending.cost_usd, "cost unknown")
    parts = [f"{batch.batch_id or 'no provider batch'}: {batch.state}"]
    parts += [f"{batch.answered:,} of {chunk.count:,} answered", cost]
    line = ", ".join(parts)
    reasons = dict.fromkeys(text for text in (batch.reason, remark) if text)
    return "; ".join([line, *reasons])


def state(kind: StateType, name: str, message: str, facts: Mapping[str, Any]) -> State[Any]:
    """A state with its facts, as Prefect can raise it: a mapping is no reason of a failure."""
    if kind is StateType.COMPLETED:
        return State(type=kind, name=name, message=message, data=dict(facts))
    return State(
        type=kind, name=name, message=message, data=f"{message}\n{orjson.dumps(facts).decode()}"
    )
