"""`batchata diff`: what another prompt or another model changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from batchata_prefect.cli.options import Json
from batchata_prefect.cli.output import print_json, show, tell
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.numbers import counted, dollars
from batchata_prefect.results.diff import DiffSums, JobDiff, RunDiff
from batchata_prefect.views.printed import Rows, one_line

_FIELDS_SHOWN = 15


def diff(
    before: Annotated[Path, Parameter(help="Results directory of the first run.")],
    after: Annotated[Path, Parameter(help="Results directory of the second run.")],
    *,
    limit: int = 20,
    as_json: Json = False,
) -> int:
    """Compare two runs over the same jobs: changed answers, cost and tokens.

    Jobs are known by their ids, so give them ids of their own (--id-column).

    In a pipe it prints each changed job as one JSON object a line.

    For example:

    - `batchata diff results-old-prompt/ results-new-prompt/`

    Exit code: 0 also where answers differ.

    Args:
        limit: Changed jobs that are shown on a terminal.
        as_json: Print one object with the sums and all changed jobs.
    """
    found = RunDiff(before, after)
    if as_json:
        changed = [job.to_dict() for job in found]
        print_json("diff", {**found.sums.to_dict(), "changed_jobs": changed})
        return 0
    if not sys.stdout.isatty():
        for job in found:
            sys.stdout.write(dumps(job.to_dict()) + "\n")
        return 0
    shown: list[JobDiff] = []
    for job in found:
        if len(shown) < limit:
            shown.append(job)
    _show(found.sums, shown)
    return 0


def _show(sums: DiffSums, shown: list[JobDiff]) -> None:
    if not sums.jobs:
        show("The two runs have no job in common.")
        tell(
            "Jobs are known by their ids; one made from a job's content changes with it. Give ids "
            "of their own with --id-column."
        )
        return
    show(
        f"{counted(sums.jobs, 'job')} in both, {sums.changed:,} changed: "
        f"{sums.mended:,} only the second answered, {sums.broken:,} only the first"
    )
    for count, which in ((sums.only_before, "first"), (sums.only_after, "second")):
        if count:
            show(f"{counted(count, 'job')} only in the {which}, left out below")
    show("")
    show(_sums(sums))
    if sums.fields:
        show("")
        numbers = "changed in", "of the jobs"
        table = Rows("field", *numbers, right=numbers)
        for path, count in sorted(sums.fields.items(), key=lambda item: -item[1])[:_FIELDS_SHOWN]:
            share = f"{100 * count / sums.jobs:.1f}%"
            table.add(path or "(the answer)", f"{count:,}", share)
        show(table)
    if shown:
        show("")
        table = Rows("job", "field", "before", "after", texts={"before", "after"})
        for job in shown:
            if job.before != job.after:
                table.add(job.job_id, "(status)", job.before, job.after)
            for path, (old, new) in list(job.fields.items())[:5]:
                if (old is not None and new is not None) or job.before == job.after:
                    table.add(job.job_id, path or "(the answer)", _short(old), _short(new))
        show(table)


def _sums(sums: DiffSums) -> Rows:
    numbers = "before", "after", "change"
    table = Rows("", *numbers, right=numbers)
    costs = [dollars(cost) for cost in sums.cost_usd]
    old, new = sums.cost_usd
    delta = "unknown" if old is None or new is None else _percent(old, new)
    table.add("answered", *(f"{n:,}" for n in sums.completed), _percent(*sums.completed))
    table.add("cost", *costs, delta)
    for name, pair in (("input", sums.input_tokens), ("output", sums.output_tokens)):
        table.add(f"{name} tokens", *(f"{n:,}" for n in pair), _percent(*pair))
    return table


def _percent(old: float, new: float) -> str:
    if old == new:
        return "same"
    return f"{100 * (new - old) / old:+.1f}%" if old else "new"


def _short(value: Any) -> str:
    return one_line(value if isinstance(value, str) else dumps(value), 120)
