"""`batchata status`, `adopt` and `cancel`: what a job set has in flight, from its records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from batchata_prefect.cli.options import Json, MaybeResultsDir, RunKey, State, WriteOff
from batchata_prefect.cli.output import print_json, show, tell
from batchata_prefect.collector.inflight import Known, adopt, cancel, open_run, status
from batchata_prefect.collector.inflight import write_off as end
from batchata_prefect.money.ledger import Entry
from batchata_prefect.numbers import told_usd
from batchata_prefect.providers import Ours
from batchata_prefect.views.printed import Rows
from batchata_prefect.views.status import BatchStatus

T = TypeVar("T")


def show_status(
    results_dir: MaybeResultsDir = None,
    *,
    run_key: RunKey = None,
    state: State = None,
    as_json: Json = False,
) -> int:
    """Show what a job set has in flight at the providers.

    For example:

    - `batchata status ./output`

    Exit code: 0 also where nothing is in flight.
    """

    async def look(known: Known) -> tuple[int, list[BatchStatus]]:
        return len(known.entries), await status(known)

    count, lines = _done(look, results_dir, run_key, state)
    ended = count - len(lines)
    if as_json:
        print_json("status", {"ended": ended, "in_flight": [_values(line) for line in lines]})
        return 0
    _show(lines, f"{len(lines)} provider batches in flight, {ended} ended")
    uncertain = sum(1 for line in lines if line.batch is None)
    if uncertain:
        tell(f"{uncertain} of them may or may not exist: `batchata adopt` looks for them.")
    if lines:
        tell("Run the same jobs again to collect them, or end them with `batchata cancel`.")
    return 0


def adopt_batches(
    results_dir: MaybeResultsDir = None,
    *,
    run_key: RunKey = None,
    state: State = None,
    write_off: WriteOff = None,
    as_json: Json = False,
) -> int:
    """Find batches whose create was never confirmed, and list what lies unclaimed.

    What is found is recorded, so that the next run collects it. Nothing is sent or cancelled.

    With `--write-off`, a batch of which answers cannot be had any more (it was deleted at the
    provider, its output file is gone) holds up no later run: the next one takes what is there,
    fails the others with `answer_lost`, and counts the batch at its upper bound.

    For example:

    - `batchata adopt ./output`
    - `batchata adopt ./output --write-off batch_68a1`
    """
    if write_off is not None:
        entry = _done(lambda known: end(known, write_off), results_dir, run_key, state)
        return _written_off(entry, as_json)
    adopted, unclaimed = _done(adopt, results_dir, run_key, state)
    if as_json:
        print_json(
            "adopt",
            {
                "adopted": [_values(line) for line in adopted],
                "unclaimed": [_unclaimed(ours) for ours in unclaimed],
            },
        )
        return 0
    found = [line for line in adopted if line.batch_id is not None]
    _show(adopted, f"{len(found)} batches found and recorded")
    table = Rows("id", "status", "created", "ours")
    for ours in unclaimed:
        values = _unclaimed(ours)
        mark = "yes" if ours.head else "not known before it ends"
        table.add(values["batch_id"], values["status"], values["created_at"] or "", mark)
    known_not = f"{len(unclaimed)} batches of this account that this job set does not know"
    _show_rows(known_not, table)
    if unclaimed:
        tell(
            "They belong to other job sets, or to one whose records are lost. The provider keeps "
            "their answers for 29 days or more."
        )
    return 0


def _written_off(entry: Entry, as_json: bool) -> int:
    if as_json:
        print_json("adopt", {"written_off": _values(BatchStatus(entry))})
        return 0
    held = entry.chunk.reserved_usd
    tell(
        f"{entry.chunk.name} is written off: run the same jobs again. What is missing of it fails "
        "with answer_lost and is not sent again, and it counts with "
        + ("an unknown cost." if held is None else f"{told_usd(held)}, its upper bound, at most.")
    )
    return 0


def cancel_batches(
    results_dir: MaybeResultsDir = None,
    *,
    run_key: RunKey = None,
    state: State = None,
    as_json: Json = False,
) -> int:
    """Cancel at the providers what a job set has in flight, when no process runs it any more.

    What was finished is paid for and stays there: run the same jobs again to collect it and to
    send the rest.

    For example:

    - `batchata cancel ./output`

    Exit code: 1 where one of them may go on, as its provider or account does not answer, or as
    nobody can tell yet whether it was created.
    """
    lines = _done(cancel, results_dir, run_key, state)
    going = sum(1 for line in lines if line.trouble is not None)
    if as_json:
        print_json("cancel", {"canceled": [_values(line) for line in lines]})
        return min(going, 1)
    ended = sum(1 for line in lines if line.batch is not None)
    _show(lines, f"{ended} provider batches cancelled")
    if going:
        tell(f"{going} may go on there: what keeps them from being cancelled is told beside them.")
    if lines:
        tell("Run the same jobs again to collect what they finished and to send the rest.")
    return min(going, 1)


def _done(
    act: Callable[[Known], Awaitable[T]], place: MaybeResultsDir, key: str | None, state: str | None
) -> T:
    """What is done with a job set, by its records."""

    async def done() -> T:
        return await act(await open_run(place, key, state))

    return asyncio.run(done())


def _values(line: BatchStatus) -> dict[str, Any]:
    """A batch in flight as JSON."""
    facts, expires = line.facts(), line.expires_at
    status = line.batch.raw_status if line.batch else "not known to be created"
    return {
        **{name: facts[name] for name in ("name", "provider", "batch_id", "jobs", "sent_at")},
        "status": f"not told: {line.trouble}" if line.trouble else status,
        "answered": line.running_answered,
        "overdue": line.is_overdue,
        "expires_at": expires.isoformat() if expires else None,
        "reserved_usd": facts["estimated_usd"],
    }


def _unclaimed(ours: Ours) -> dict[str, Any]:
    made = ours.batch.created_at
    return {
        "batch_id": ours.batch.batch_id,
        "status": ours.batch.raw_status,
        "created_at": made.isoformat() if made else None,
        "token_head": ours.head,
    }


def _show(lines: list[BatchStatus], title: str) -> None:
    table = Rows(
        *("batch", "id at the provider", "status", "answered", "expires", "reserved"),
        right={"answered", "reserved"},
    )
    for line in lines:
        values = _values(line)
        reserved = values["reserved_usd"]
        table.add(
            values["name"],
            values["batch_id"] or "",
            line.state if line.batch and not line.trouble else values["status"],
            f"{values['answered']:,}",
            (values["expires_at"] or "")[:16],
            told_usd(reserved, "unknown"),
        )
    _show_rows(title, table)


def _show_rows(title: str, table: Rows) -> None:
    show(title)
    if table:
        show("")
        show(table)
