"""`batchata retry`: what was not answered goes out again, changed where that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from batchata_prefect.cli.options import QUIET, Json, Place, Trust, flags, given
from batchata_prefect.cli.orders import Amendment, Order
from batchata_prefect.cli.output import tell
from batchata_prefect.cli.runs import carry_out
from batchata_prefect.errors import StateError
from batchata_prefect.numbers import counted
from batchata_prefect.results.codes import INVALID_ROW
from batchata_prefect.results.remote import bring
from batchata_prefect.results.result_file import DAMAGED, ResultFile

_ASKED = ("model", "prompt", "system", "response_model", "max_tokens", "params")
_SENT = ("cost_limit_usd", "time_limit_hours", "max_attempts", "max_reasks", "on_bad_row")

if TYPE_CHECKING:
    _Asked: TypeAlias = object
    _Sent: TypeAlias = object
else:
    _Asked, _Sent = flags(*_ASKED, change=True), flags(*_SENT, change=True)


def retry(
    results_dir: Place,
    *,
    code: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    asked: _Asked | None = None,
    sent: _Sent | None = None,
    trust: Trust = False,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Json = False,
) -> int:
    """Try the jobs again that a `batchata run` did not get answered, and only those.

    What was not sent, expired or was cancelled goes out as it was. A job that was answered in vain
    (cut off, refused, not as asked) needs a change: say which. The answers join those that are
    there; what is answered already is neither sent nor paid again.

    What is asked is changed for those jobs alone; limits and ways of sending for the whole run.

    For example:

    - `batchata retry results/`
    - `batchata retry results/ --code truncated --max-tokens 8000`
    - `batchata retry results/ --code refusal --model claude-opus-5-5`

    Exit code: as of `batchata run`; with a code that no job has, nothing is sent.

    Args:
        code: Only jobs with this error code; may be given several times.
        quiet: Show no progress and no report.
    """
    order = Order.noted(results_dir, trust=trust)
    folder = bring(results_dir) if isinstance(results_dir, str) else results_dir
    changes, ways = given(asked), given(sent)
    order = replace(order, told={**order.told, **ways})
    rows = ResultFile(folder / "results.jsonl")
    if not rows.path.exists():
        raise StateError(f"{str(folder)!r} has no results yet; run its command again first")
    failed = dict(_failed(rows, code))
    if code and not failed:
        return _none_of(rows, code)
    if changes and failed:
        order = replace(order, amendments=(*order.amendments, *_amend(order, failed, changes)))
        tell(f"Sent again, changed by {', '.join(sorted(changes))}: {counted(len(failed), 'job')}.")
    elif failed and not ways:
        found = Counter(row["error_code"] for row in rows if row["error_code"])
        codes = ", ".join(f"{n:,} {name}" for name, n in found.most_common())
        tell(
            f"without an answer: {counted(len(failed), 'job')} ({codes}). What was not answered "
            "goes out again as it is. What was answered in vain (refused, cut off, not as asked) "
            "needs a change, see `batchata retry --help`."
        )
    return carry_out(order, as_json=as_json, quiet=quiet)


def _none_of(rows: ResultFile, codes: tuple[str, ...]) -> int:
    """Say that no job has one of these codes, and which there are: exit code."""
    found = Counter(row["error_code"] or row["status"] for row in rows)
    answered = found.pop("completed", 0)
    others = ", ".join(f"{count:,} {name}" for name, count in found.most_common())
    tell(
        f"No job has the code {' or '.join(codes)}, so nothing was sent. {answered:,} are answered"
        + (f"; the others: {others}." if others else ".")
    )
    return 1 if found else 0


def _amend(order: Order, failed: dict[int, str], changes: dict[str, Any]) -> list[Amendment]:
    """One amendment for each way in which the jobs were asked last."""
    last = {row: each for each in order.amendments for row in each.rows}
    groups: dict[int, dict[int, str]] = {}
    tolds = {id(order.told): order.told, **{id(each.told): each.told for each in last.values()}}
    for row, job_id in failed.items():
        told = last[row].told if row in last else order.told
        groups.setdefault(id(told), {})[row] = job_id
    return [Amendment(rows, {**tolds[key], **changes}) for key, rows in groups.items()]


def _failed(rows: ResultFile, codes: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Row and id of the jobs without an answer; the results stand in the order of the rows.

    One whose row is damaged may have its answer: it is not asked for in another way. A row that
    makes no job has to be mended, not to be asked for.
    """
    for number, row in enumerate(rows):
        if row["status"] == "completed" or row["error_code"] == DAMAGED:
            continue
        if row["error_code"] in codes or not (codes or row["error_code"] == INVALID_ROW):
            yield number, row["job_id"]
