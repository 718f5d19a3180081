"""`batchata results` and `batchata report`: what a run answered."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import orjson
from cyclopts import Parameter

from batchata_prefect.cli.options import Codes, Json, ResultsDir, Switch, spoken
from batchata_prefect.cli.output import print_json, show, tell, width
from batchata_prefect.content.exact_json import dumps, loads_exact
from batchata_prefect.engine.finish import read_manifest
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.numbers import counted, dollars
from batchata_prefect.results.ended import EndedRows
from batchata_prefect.results.joined import Joined
from batchata_prefect.results.remote import MANIFEST
from batchata_prefect.results.result_file import BLANK, ResultFile
from batchata_prefect.views.escapes import sheet_cell
from batchata_prefect.views.printed import Rows

_SHOWN = 50
_STYLES = {"completed": "", "failed": "red"}


def results(
    results_dir: ResultsDir,
    *,
    status: Literal["completed", "failed", "cancelled"] | None = None,
    code: Codes = (),
    failed: Switch = False,
    limit: int | None = None,
    export: Annotated[Path | None, Parameter(name=["--export", "-e"])] = None,
    raw_cells: Switch = False,
    no_input_columns: Switch = False,
    as_json: Json = False,
) -> int:
    """Show, filter or export the answers of a run; while it goes on, of the jobs that have ended.

    On a terminal it prints a table of the first 50, in a pipe one JSON object a line, which is
    the row as it stands in results.jsonl.

    For example:

    - `batchata results results/`
    - `batchata results results/ --failed`
    - `batchata results results/ --code truncated | jq .job_id`
    - `batchata results results/ --status completed --export answers.csv`

    Exit code: 0 also where jobs failed.

    Args:
        status: Only jobs of this status.
        code: Only jobs with this error code; may be given several times.
        failed: List what was not answered by error code, with the next step, and then the jobs.
        limit: Jobs at most.
        export: File to write to: .jsonl, .csv or .tsv. Of a run that is over, `row` is the number
            of the row of the jobs, from 1, that an answer is of, and the columns of that row come
            with it, as long as the jobs file is what it was; one that is called as a column of
            the answers gets `input_` before its name. In a table, what an answer holds has a
            column for each of its fields. A text there that a spreadsheet would compute, as it
            begins with =, +, -, @, tab or return and is no number, gets an apostrophe before it.
        raw_cells: Write such texts of a table as they are, for programs.
        no_input_columns: Leave the columns of the jobs out of the export.
        as_json: Print one object with all rows; for very many use a pipe or --export.
    """
    if export is not None and export.suffix.lower() not in {".jsonl", ".csv", ".tsv"}:
        raise ValidationError(f"{str(export)!r}: write to a name that ends in .jsonl, .csv or .tsv")
    source = _source(results_dir)
    select = partial(_rows, status=status, codes=code, failed=failed, limit=limit)
    rows = select(source)
    if export is not None:
        # Of a run that is over, the results stand in the order of the rows that they are of.
        numbered = source
        if isinstance(source, ResultFile):
            file = _jobs_file(source.path)
            if file is not None and export.resolve() == Path(file.path).resolve():
                raise ValidationError(f"{str(export)!r} is the file that these jobs were made from")
            numbered = Joined(source, None if no_input_columns else file)
        number = _export(partial(select, numbered), export, raw_cells)
        tell(f"{counted(number, 'row')} written to {export}")
    elif as_json:
        print_json("results", {"rows": list(rows)})
    elif failed and sys.stdout.isatty():
        _show_failed(results_dir, rows)
    elif sys.stdout.isatty():
        _show(results_dir, rows, limit)
    else:
        for row in rows:
            sys.stdout.buffer.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return 0


def report(
    results_dir: ResultsDir,
    *,
    html: Switch = False,
    as_json: Json = False,
) -> int:
    """Print what a run came to: cost, saving, failures and what to do, where things lie.

    For example:

    - `batchata report results/`

    Exit code: 0 where all jobs were answered, 1 where some were not.

    Args:
        html: Write report.html anew and print its path.
        as_json: Print the manifest.
    """
    manifest = read_manifest(results_dir)
    if manifest is None:
        with suppress(FileNotFoundError, NotADirectoryError), (results_dir / MANIFEST).open():
            pass  # it may be there and closed to us
        raise StateError(f"{str(results_dir)!r} has no manifest.json of a run that is over")
    if html:
        from batchata_prefect.views.report.page import write_page

        sys.stdout.write(f"{write_page(results_dir, manifest)}\n")
    elif as_json:
        print_json("report", manifest)
    else:
        from batchata_prefect.views.report.words import text

        show(spoken(text(manifest, results_dir, width()), is_advice=True))
    counts = manifest["counts"]
    return 0 if counts["completed"] == counts["total"] else 1


def _jobs_file(results: Path) -> JobsFile | None:
    """The file that the rows of these results are of; where it cannot be had, that is said."""
    manifest = read_manifest(results.parent)
    if manifest is None or manifest["results_bytes"] != results.stat().st_size:
        return None  # a run died when it had written them, and its manifest is yet to come
    file = JobsFile.noted(manifest.get("jobs_file"))
    try:
        if file is not None:
            file.check()
    except ValidationError as error:
        tell(f"The columns of the jobs are left out: {error}.")
        return None
    return file


def _rows(
    source: Iterable[dict[str, Any]],
    *,
    status: str | None,
    codes: tuple[str, ...],
    failed: bool,
    limit: int | None,
) -> Iterator[dict[str, Any]]:
    wanted = (
        row
        for row in source
        if (status is None or row["status"] == status)
        and (not codes or row["error_code"] in codes)
        and not (failed and row["status"] == "completed")
    )
    return islice(wanted, limit)


def _source(results_dir: Path) -> Iterable[dict[str, Any]]:
    """The rows of a run: of one that goes on, those of the jobs that have ended."""
    try:
        ended = EndedRows(results_dir)
    except (FileNotFoundError, NotADirectoryError):
        path = results_dir / "results.jsonl"
        if path.exists():
            return ResultFile(path)
        raise StateError(
            f"{str(results_dir)!r} has no results: the run has not begun, or this is not its "
            "results directory. `batchata status` shows what is in flight"
        ) from None
    tell("The run is not over: these are the jobs that have ended so far.")
    return ended


def _answer(row: dict[str, Any]) -> str:
    text = row["parsed_response_json"] or row["raw_response"] or row["error"]
    if not text and row.get("items_json"):
        items: list[dict[str, Any]] = loads_exact(row["items_json"])
        text = ", ".join(str(item.get("path") or item.get("type")) for item in items)
    if text is None and row["embedding"] is not None:
        text = f"a vector of {len(row['embedding']):,} numbers"
    return text or ""


def _show(results_dir: Path, rows: Iterator[dict[str, Any]], limit: int | None) -> None:
    table = Rows("job", "status", "cost", "answer", right={"cost"}, texts={"answer"})
    for number, row in enumerate(rows):
        if number == _SHOWN and limit is None:
            tell(f"The first {_SHOWN}; all of them: batchata results {results_dir} | less")
            break
        style = _STYLES.get(row["status"], "yellow")
        state = row["error_code"] or row["status"]
        table.add(row["job_id"], (state, style), dollars(row["cost_usd"]), _answer(row))
    show(table)


def _show_failed(results_dir: Path, rows: Iterator[dict[str, Any]]) -> None:
    manifest = read_manifest(results_dir)
    groups: dict[str, Any] = manifest["failures"] if manifest else {}
    table = Rows("job", "code", "what it said", texts={"what it said"})
    shown = 0
    for row in rows:
        shown += 1
        if shown <= _SHOWN:
            table.add(row["job_id"], row["error_code"] or row["status"], _answer(row))
    if not shown:
        show("Every job was answered.")
        return
    for name, group in groups.items():
        advice = spoken(group["what_to_do"], is_advice=True)
        show(f"{group['count']:,} x {name}\n  -> {advice}")
    show("")
    show(table)
    if shown > _SHOWN:
        tell(
            f"The first {_SHOWN} of {shown:,}. All: batchata results {results_dir} --failed | less"
        )
    show("")
    show(f"Try them again: batchata retry {results_dir} --help")


def _export(rows: Callable[[], Iterator[dict[str, Any]]], path: Path, raw_cells: bool) -> int:
    kind = path.suffix.lower()
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            if kind == ".jsonl":
                return sum(1 for row in rows() if file.write(dumps(row) + "\n"))
            table = csv.writer(file, delimiter="\t" if kind == ".tsv" else ",")
            return _export_table(rows, table, _cell if raw_cells else _shielded)
    except OSError as error:
        if error.filename is None:
            raise StateError(f"{str(path)!r} is cut short: {error.strerror}") from error
        if error.filename != str(path):
            raise
        raise ValidationError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def _export_table(
    rows: Callable[[], Iterator[dict[str, Any]]], table: Any, told: Callable[[Any], Any]
) -> int:
    """Rows with a column for each top field of the parsed answers and of the metadata."""
    plain: dict[str, None] = {}
    answer: dict[str, None] = {}
    metadata: dict[str, None] = {}
    for row in rows():
        if not row.keys() <= plain.keys():
            new = (name for name in row if name not in plain and _is_plain(name, row))
            plain |= dict.fromkeys(new)
        answer |= dict.fromkeys(_fields(row, "parsed_response_json"))
        metadata |= dict.fromkeys(_fields(row, "metadata_json"))
    head = [
        *plain,
        *(f"answer.{name}" for name in answer),
        *(f"metadata.{name}" for name in metadata),
    ]
    table.writerow([told(name) for name in head])
    number = 0
    for row in rows():
        number += 1
        parsed, own = _fields(row, "parsed_response_json"), _fields(row, "metadata_json")
        values = [
            *(row.get(name) for name in plain),
            *(parsed.get(name) for name in answer),
            *(own.get(name) for name in metadata),
        ]
        table.writerow([told(value) for value in values])
    return number


def _is_plain(name: str, row: dict[str, Any]) -> bool:
    """Whether a row has a column of its own for a field: JSON only where it holds something."""
    if not name.endswith("_json") or name not in BLANK:
        return True
    return name in {"citations_json", "tool_calls_json", "items_json"} and row[name] is not None


def _fields(row: dict[str, Any], column: str) -> dict[str, Any]:
    text = row[column]
    value: Any = {} if text in {None, "", "{}"} else loads_exact(text, as_written=True)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"value": value}


def _cell(value: Any) -> Any:
    return dumps(value) if isinstance(value, (dict, list)) else value


def _shielded(value: Any) -> Any:
    return sheet_cell(_cell(value))
