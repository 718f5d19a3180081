"""`batchata run`, `plan` and `retry`."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from batchata_prefect.cli.options import (
    GROUPS,
    Codes,
    Flags,
    JobsFile,
    Json,
    Place,
    Quiet,
    Sandboxed,
    Switch,
    Trust,
    flags,
    given,
    named,
    spoken,
)
from batchata_prefect.cli.orders import Amendment, Order, local_sandbox
from batchata_prefect.cli.output import FULL, of_file, print_json, tell, width
from batchata_prefect.collector.inflight import open_run
from batchata_prefect.engine.finish import read_manifest
from batchata_prefect.errors import StateError
from batchata_prefect.jobs.intake import is_made_id
from batchata_prefect.money.ledger import extent
from batchata_prefect.numbers import counted
from batchata_prefect.options import PLACES
from batchata_prefect.results.codes import INVALID_ROW
from batchata_prefect.results.remote import bring
from batchata_prefect.results.result_file import DAMAGED, ResultFile

Out = Annotated[
    Path | str,
    Parameter(name=["--out", "-o"], group=GROUPS[PLACES], converter=named, show_default=True),
]

_ASKED = ("model", "prompt", "system", "response_model", "max_tokens", "params")
_BY_NAME = frozenset({INVALID_ROW, "in_flight", "answer_lost"})
"""Codes of jobs that are asked in another way only where their code is given: a row that makes no
job has to be mended, and the others are paid already."""
_SENT = ("cost_limit_usd", "time_limit_hours", "max_attempts", "max_reasks", "on_bad_row")

if TYPE_CHECKING:
    _Asked: TypeAlias = object
    _Sent: TypeAlias = object
else:
    _Asked, _Sent = flags(*_ASKED, change=True), flags(*_SENT, change=True)


def run(
    jobs: JobsFile,
    *,
    told: Flags | None = None,
    sandbox: Sandboxed = False,
    out: Out = Path("results"),
    dry_run: Switch = False,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Send every job of a file through its provider's batch API and write the answers.

    The same command again goes on where a run was stopped; nothing is paid twice.

    For example:

    - `batchata run questions.csv --prompt "Answer in one word: {question}" --model
      gpt-6-luna`
    - `batchata run invoices.csv --file-column path --prompt "Read this invoice" --model
      claude-sonnet-5-5 --response-model models:Invoice --budget 5 --time-limit 2h --out
      invoices/`
    - `batchata run jobs.jsonl --dry-run`

    Args:
        out: Directory for the answers, or a URL such as s3://bucket/answers; also the identity
            under which the run resumes.
        dry_run: Only say what would be sent and what it would cost, as `batchata plan`.
        quiet: Show no progress and no report.
    """
    order = Order(jobs, out, given(told), sandbox).with_earlier_amendments(trust=trust)
    if dry_run:
        return show_plan(order, as_json)
    return carry_out(order, as_json=as_json, quiet=quiet)


def plan(
    jobs: JobsFile,
    *,
    told: Flags | None = None,
    sandbox: Sandboxed = False,
    out: Out = Path("results"),
    trust: Trust = False,
    as_json: Json = False,
) -> int:
    """Say what a run would send and cost; nothing is sent and no result is touched.

    For example:

    - `batchata plan questions.csv --prompt "{question}" --model gpt-6-luna --budget 5`

    Args:
        out: Directory of the answers; what is answered there already is not sent again.
    """
    order = Order(jobs, out, given(told), sandbox).with_earlier_amendments(trust=trust)
    return show_plan(order, as_json)


def retry(
    results_dir: Place,
    *,
    code: Codes = (),
    asked: _Asked | None = None,
    sent: _Sent | None = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Try the jobs again that a `batchata run` did not get answered, and only those.

    What was not sent, expired or was cancelled goes out as it was. A job that was answered in vain
    (cut off, refused, not as asked) needs a change: say which. The answers join those that are
    there; what is answered already is neither sent nor paid again.

    What is asked is changed for those jobs alone; limits and ways of sending for the whole run.
    Jobs whose answer is on its way (`in_flight`) or was lost (`answer_lost`) are paid already: they
    are changed, and paid again, only where --code names theirs.

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
        _refuse_older(folder, order)
        order = replace(order, amendments=(*order.amendments, *_amend(order, failed, changes)))
        tell(f"Sent again, changed by {', '.join(sorted(changes))}: {counted(len(failed), 'job')}.")
    elif changes:
        tell("No job is changed: all are answered, on their way, lost or made of no row.")
    elif failed and not ways:
        found = Counter(row["error_code"] for row in rows if row["error_code"])
        codes = ", ".join(f"{n:,} {name}" for name, n in found.most_common())
        tell(
            f"without an answer: {counted(len(failed), 'job')} ({codes}). What was not answered "
            "goes out again as it is. What was answered in vain (refused, cut off, not as asked) "
            "needs a change, see `batchata retry --help`."
        )
    return carry_out(order, as_json=as_json, quiet=quiet)


def _refuse_older(folder: Path, order: Order) -> None:
    """Refuse to change jobs by results that say less than the records do.

    Of a run that was cut off they tell nothing: a job that failed in them may be at its provider
    by now, or answered, and would be paid again.
    """
    known = asyncio.run(open_run(order.place, None, order.options().state))
    manifest = read_manifest(folder) or {}
    if manifest.get("ledger") != extent(known.records.generation, known.entries):
        raise StateError(
            f"the results in {str(order.place)!r} are older than what is on record: a run of them "
            "goes on, or was cut off before it wrote any. Without a change, `batchata retry "
            f"{order.place}` collects what is at the providers, sends the rest as it is and writes "
            "the results; then say the change. Nothing was sent"
        )


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
    last = order.last_changes()
    groups: dict[int, tuple[Mapping[str, Any], dict[int, str]]] = {}
    for row, job_id in failed.items():
        told = last[row].told if row in last else order.told
        groups.setdefault(id(told), (told, {}))[1][row] = job_id
    return [Amendment(rows, {**told, **changes}) for told, rows in groups.values()]


def _failed(rows: ResultFile, codes: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Row and id of the jobs without an answer; the results stand in the order of the rows.

    One whose row is damaged may have its answer: it is not asked for in another way.
    """
    for number, row in enumerate(rows):
        if row["status"] == "completed" or row["error_code"] == DAMAGED:
            continue
        if row["error_code"] in codes or not (codes or row["error_code"] in _BY_NAME):
            yield number, row["job_id"]


def show_plan(order: Order, as_json: bool) -> int:
    """Print the plan of an order: exit code."""
    with _room_in(order.out):
        planned = order.batch().run(dry_run=True).planned
    assert planned is not None
    if as_json:
        print_json("plan", planned)
    return 0


def carry_out(order: Order, *, as_json: bool, quiet: bool) -> int:
    """Run an order and say what came of it: exit code."""
    with ExitStack() as stack:
        if order.sandbox:
            os.environ.update(stack.enter_context(local_sandbox(order.out)))
        with _room_in(order.out):
            batch = order.batch()
        order.note()
        for remark in () if quiet else batch.remarks:
            tell(f"Note: {remark}")
        try:
            done = batch.run(print_status=not quiet, progress_interval=0.5)
        except KeyboardInterrupt as error:
            if error.args:
                raise
            raise KeyboardInterrupt(
                "interrupted: what was sent goes on at the provider, and the same command again "
                "collects it; nothing is paid twice"
            ) from None
        except (RuntimeError, OSError) as error:
            why = of_file(error) if isinstance(error, OSError) else error
            raise StateError(
                f"the run could not be brought to its end: {why}. What it has sent is on record: "
                "the same command again goes on from there"
            ) from error
    manifest = done.manifest
    if manifest is None:
        tell("The run was cancelled before anything was sent.")
        return 1
    if as_json:
        print_json("run", _told(manifest, order.place))
    elif not quiet:
        try:
            _say(manifest, order)
        except BrokenPipeError:
            raise
        except OSError as error:
            # Without this it would end as a wrong place named, with which nothing was sent.
            raise StateError(
                f"the run has ended, and its report cannot be drawn: {of_file(error)}. What it was "
                "answered is on record: the same command again writes the results anew"
            ) from error
    counts = manifest["counts"]
    return 0 if counts["completed"] == counts["total"] else 1


@contextmanager
def _room_in(out: Path) -> Generator[None]:
    """Say of a full disk what it was to hold; the errors of its writes name no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        raise StateError(
            f"the jobs cannot be put into {str(out)!r}: {error.strerror}. Nothing was sent"
        ) from error


def _told(manifest: dict[str, Any], place: Path | str) -> dict[str, Any]:
    names = (
        "run_key",
        "flow_run_id",
        "status",
        "stopped_by",
        "counts",
        "cost_usd",
        "reserved_usd",
        "cost_limit_usd",
        "by_model",
        "by_tag",
        "failures",
    )
    return {
        "results": f"{place}/results.jsonl",
        "report": f"{place}/report.html",
        **{name: manifest[name] for name in names},
    }


def _say(manifest: dict[str, Any], order: Order) -> None:
    from batchata_prefect.views.report.words import text

    tell()
    tell(spoken(text(manifest, order.out, width()), is_advice=True))
    if order.sandbox:
        tell("\nThe sandbox made these answers up; nothing was paid.")
    first = next(iter(ResultFile(order.out / "results.jsonl")), None)
    if first is not None and is_made_id(first["job_id"]) and not order.amendments:
        tell(
            "\nThe jobs have no ids of their own: an export joins its answers to their rows by "
            "`row`. --id-column NAME gives them those of a column, also later and at no cost."
        )
    if manifest["failures"]:
        tell(f"\nWhat failed:      batchata results {order.place} --failed")
        failures = {
            code: group for code, group in manifest["failures"].items() if code != INVALID_ROW
        }
        if failures:
            tell(f"Try those again:  batchata retry {order.place}{_change_for(failures)}")


def _change_for(failures: Mapping[str, Any]) -> str:
    """The change that most often helps against the most frequent failure."""
    code = next(iter(failures))
    if code == "cost_limit_exceeded":
        return " --budget USD"
    if code == "refusal" or code.endswith("not_found") or code.startswith("not_found"):
        return f" --code {code} --model MODEL"
    if code in {"truncated", "empty_answer"}:
        return f" --code {code} --max-tokens 8000"
    if code in {"invalid_output", "invalid_json"}:
        return " --max-reasks 1"
    if code in {"invalid_request", "invalid_request_error"}:
        return f" --code {code} --prompt TEMPLATE"
    return ""
