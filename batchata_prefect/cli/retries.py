"""`batchata retry`: what was not answered goes out again, changed where that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import orjson
from cyclopts import Parameter

from batchata_prefect.cli.options import JOBS, LIMITS, QUIET, SENDING, Json, Place, Trust
from batchata_prefect.cli.orders import Amendment, Order
from batchata_prefect.cli.output import tell
from batchata_prefect.cli.runs import carry_out
from batchata_prefect.errors import StateError
from batchata_prefect.results.remote import bring

_Text = Annotated[str | None, Parameter(group=JOBS)]


def retry(
    results_dir: Place,
    *,
    code: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    model: _Text = None,
    prompt: _Text = None,
    system: _Text = None,
    response_model: _Text = None,
    max_tokens: Annotated[int | None, Parameter(group=JOBS)] = None,
    param: Annotated[tuple[str, ...], Parameter(group=JOBS, negative="", show_default=False)] = (),
    budget: Annotated[float | None, Parameter(group=LIMITS)] = None,
    time_limit: Annotated[str | None, Parameter(group=LIMITS)] = None,
    max_attempts: Annotated[int | None, Parameter(group=SENDING)] = None,
    max_reasks: Annotated[int | None, Parameter(group=SENDING)] = None,
    trust: Trust = False,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Json = False,
) -> int:
    """Try the jobs again that a `batchata run` did not get answered, and only those.

    What was not sent, expired or was cancelled goes out as it was. A job that was answered in vain
    (cut off, refused, not as asked) needs a change: say which. The answers join those that are
    there; what is answered already is neither sent nor paid again.

    For example:

    - `batchata retry results/`
    - `batchata retry results/ --code truncated --max-tokens 8000`
    - `batchata retry results/ --code refusal --model claude-opus-5-5`

    Args:
        code: Only jobs with this error code; may be given several times.
        model: Another model for them.
        prompt: Another prompt template for them.
        system: Another system prompt for them.
        response_model: Another response model for them.
        max_tokens: Another upper bound of output tokens for them.
        param: Another request parameter for them, as name=value.
        budget: Another cost limit of the whole run in USD.
        time_limit: Another time limit of the whole run; it counts from the first start.
        max_attempts: Times that one job is sent at most.
        max_reasks: Times that a job is asked again because its answer was not as asked.
        quiet: Show no progress and no report.
    """
    order = Order.noted(results_dir, trust=trust)
    folder = bring(results_dir) if isinstance(results_dir, str) else results_dir
    asked = {
        "model": model,
        "prompt": prompt,
        "system": system,
        "response_model": response_model,
        "max_tokens": max_tokens,
        "params": param or None,
    }
    told = {
        "budget": budget,
        "time_limit": time_limit,
        "max_attempts": max_attempts,
        "max_reasks": max_reasks,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    ways = {name: value for name, value in told.items() if value is not None}
    order = replace(order, ways=replace(order.ways, **ways))
    failed = dict(_failed(folder, code))
    if changes and failed:
        order = replace(order, amendments=(*order.amendments, *_amend(order, failed, changes)))
        tell(f"{len(failed):,} jobs go out again, changed: {', '.join(sorted(changes))}.")
    elif failed and not ways:
        codes = ", ".join(f"{n:,} {name}" for name, n in Counter(_codes(folder)).most_common())
        tell(
            f"{len(failed):,} jobs have no answer ({codes}). What was not answered goes out again "
            "as it is. What was answered in vain (refused, cut off, not as asked) needs a change, "
            "see `batchata retry --help`."
        )
    return carry_out(order, as_json=as_json, quiet=quiet)


def _amend(order: Order, failed: dict[int, str], changes: dict[str, Any]) -> list[Amendment]:
    """One amendment for each way in which the jobs were asked last."""
    last = {row: each for each in order.amendments for row in each.rows}
    groups: dict[int, dict[int, str]] = {}
    asks = {id(order.ask): order.ask, **{id(each.ask): each.ask for each in last.values()}}
    for row, job_id in failed.items():
        ask = last[row].ask if row in last else order.ask
        groups.setdefault(id(ask), {})[row] = job_id
    return [Amendment(rows, replace(asks[key], **changes)) for key, rows in groups.items()]


def _failed(results_dir: Path, codes: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Row and id of the jobs without an answer; the results stand in the order of the rows."""
    for number, row in enumerate(_rows(results_dir)):
        if row["status"] != "completed" and (not codes or row["error_code"] in codes):
            yield number, row["job_id"]


def _codes(results_dir: Path) -> Iterator[str]:
    return (row["error_code"] for row in _rows(results_dir) if row["error_code"])


def _rows(results_dir: Path) -> Iterator[dict[str, Any]]:
    try:
        with (results_dir / "results.jsonl").open("rb") as file:
            for line in file:
                yield orjson.loads(line)
    except FileNotFoundError:
        raise StateError(
            f"{str(results_dir)!r} has no results yet; run its command again first"
        ) from None
