"""The `batchata` command: what a job set has at the providers, and how to get it back or end it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from cyclopts import App, Parameter
from dotenv import load_dotenv
from rich.console import Console
from rich.table import Table

from batchata_prefect.errors import BatchataError
from batchata_prefect.inflight import Known, Line, adopt, cancel, open_run, status
from batchata_prefect.providers import Ours

T = TypeVar("T")

FORMAT = 1
"""Version of what `--json` prints."""

app = App(
    name="batchata",
    help="Very large sets of LLM jobs through the providers' batch APIs.",
    version_flags=["--version"],
)

ResultsDir = Annotated[Path | None, Parameter(help="Results directory of the job set.")]
RunKey = Annotated[
    str | None, Parameter(help="Run key of the job set, where it was given one of its own.")
]
State = Annotated[
    str | None,
    Parameter(help="Where its records are kept, as in set_state: a directory or type/name."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for machines.")]


@app.command(name="status")
def show_status(
    results_dir: ResultsDir = None,
    *,
    run_key: RunKey = None,
    state: State = None,
    as_json: Json = False,
) -> int:
    """Show what a job set has in flight at the providers.

    Example: batchata status ./output

    Exit code: 0 also where nothing is in flight, 1 on an error.
    """

    async def look() -> tuple[Known, list[Line]]:
        known = await open_run(results_dir, run_key, state)
        return known, await status(known)

    known, lines = _run(look())
    ended = len(known.entries) - len(lines)
    if as_json:
        _print_json({"ended": ended, "in_flight": [line.to_dict() for line in lines]})
        return 0
    _show(lines, f"{len(lines)} provider batches in flight, {ended} ended")
    uncertain = sum(1 for line in lines if line.batch is None)
    if uncertain:
        _say(f"{uncertain} of them may or may not exist: `batchata adopt` looks for them.")
    if lines:
        _say("Run the same jobs again to collect them, or end them with `batchata cancel`.")
    return 0


@app.command(name="adopt")
def adopt_batches(
    results_dir: ResultsDir = None,
    *,
    run_key: RunKey = None,
    state: State = None,
    as_json: Json = False,
) -> int:
    """Find batches whose create was never confirmed, and list what lies unclaimed.

    What is found is recorded, so that the next run collects it. Nothing is sent or cancelled.

    Example: batchata adopt ./output

    Exit code: 0, or 1 on an error.
    """

    async def look() -> tuple[list[Line], list[Ours]]:
        return await adopt(await open_run(results_dir, run_key, state))

    adopted, unclaimed = _run(look())
    if as_json:
        _print_json(
            {
                "adopted": [line.to_dict() for line in adopted],
                "unclaimed": [_unclaimed(ours) for ours in unclaimed],
            }
        )
        return 0
    _show(adopted, f"{len(adopted)} batches found and recorded")
    table = Table(title=f"{len(unclaimed)} batches of this account that this job set does not know")
    for column in ("id", "status", "created", "ours"):
        table.add_column(column)
    for ours in unclaimed:
        values = _unclaimed(ours)
        mark = "yes" if ours.head else "not known before it ends"
        table.add_row(values["batch_id"], values["status"], values["created_at"] or "", mark)
    _console().print(table)
    if unclaimed:
        _say(
            "They belong to other job sets, or to one whose records are lost. The provider keeps "
            "their answers for 29 days or more."
        )
    return 0


@app.command(name="cancel")
def cancel_batches(
    results_dir: ResultsDir = None,
    *,
    run_key: RunKey = None,
    state: State = None,
    as_json: Json = False,
) -> int:
    """Cancel at the providers what a job set has in flight, when no process runs it any more.

    What was finished is paid for and stays there: run the same jobs again to collect it and to
    send the rest.

    Example: batchata cancel ./output

    Exit code: 0, or 1 on an error.
    """

    async def end() -> list[Line]:
        return await cancel(await open_run(results_dir, run_key, state))

    lines = _run(end())
    if as_json:
        _print_json({"canceled": [line.to_dict() for line in lines]})
        return 0
    _show(lines, f"{len(lines)} provider batches cancelled")
    if lines:
        _say("Run the same jobs again to collect what they finished and to send the rest.")
    return 0


def _unclaimed(ours: Ours) -> dict[str, Any]:
    made = ours.batch.created_at
    return {
        "batch_id": ours.batch.batch_id,
        "status": ours.batch.raw_status,
        "created_at": made.isoformat() if made else None,
        "token_head": ours.head,
    }


def _show(lines: list[Line], title: str) -> None:
    table = Table(title=title)
    for column in ("batch", "id at the provider", "status", "answered", "expires", "reserved"):
        table.add_column(column)
    for line in lines:
        values = line.to_dict()
        reserved = values["reserved_usd"]
        table.add_row(
            values["name"],
            values["batch_id"] or "",
            values["status"],
            f"{values['answered']:,}",
            (values["expires_at"] or "")[:16],
            "unknown" if reserved is None else f"${reserved:,.4f}",
        )
    if lines:
        _console().print(table)
    else:
        _say(title)


def _console() -> Console:
    return Console()


def _say(text: str) -> None:
    _console().print(text, markup=False, highlight=False)


def _print_json(values: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps({"format": FORMAT, **values}).decode() + "\n")


def _run(work: Coroutine[Any, Any, T]) -> T:
    load_dotenv(Path.cwd() / ".env")
    return asyncio.run(work)


def main() -> None:
    """The command; what a person can mend is told without a traceback."""
    try:
        sys.exit(app())
    except BatchataError as error:
        Console(stderr=True).print(f"batchata: {error}", markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
