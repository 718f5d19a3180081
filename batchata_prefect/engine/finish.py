"""The end of a run: every job in exactly one place, `results.jsonl` and `manifest.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from prefect import get_run_logger

from batchata_prefect.answers import Usage
from batchata_prefect.engine.deliver import has_answers
from batchata_prefect.engine.read_chunk import answers_of
from batchata_prefect.engine.session import Session
from batchata_prefect.engine.status import batch_statuses, spent_now
from batchata_prefect.files import whole_file, write_json
from batchata_prefect.jobs.spool import CANCELED, HELD, IN_FLIGHT, WAITING, Context, Family
from batchata_prefect.models import Chunk, package
from batchata_prefect.money import budget
from batchata_prefect.money.ledger import NEVER_SENT, REALTIME, TIME_LIMIT, Entry, extent
from batchata_prefect.numbers import counted, plain_usd
from batchata_prefect.results import archive
from batchata_prefect.results.assemble import Part, assemble
from batchata_prefect.results.codes import INVALID_ROW, what_to_do
from batchata_prefect.results.ended import drop
from batchata_prefect.results.frames import write_parquet
from batchata_prefect.results.remote import bring
from batchata_prefect.results.row import blank_row
from batchata_prefect.results.tally import Tally

COST_LIMIT = "Cost limit exceeded"
MANIFEST_FORMAT = 1


def finish(run: Session) -> dict[str, Any]:
    """Write the results and the manifest; what is there already and still true is left alone.

    Returns:
        The manifest.

    Raises:
        OSError: They cannot be written.
    """
    results, manifest_path = run.results_dir / "results.jsonl", run.results_dir / "manifest.json"
    done = _still_true(run, results)
    if done is not None:
        drop(run.results_dir)
        # Nothing was sent since it was written.
        return {**done, "resumed": run.resumed, "cost_of_run_usd": plain_usd(spent_now(run))}
    any_gone = any(-1 in ordinals for ordinals in run.members) or archive.is_there(results)
    if any_gone and run.settings.results_url is not None:
        # Another machine may have put them there since.
        bring(run.settings.results_url, newer=True)
    _set_aside(run, results, manifest_path)
    if any_gone:
        archive.hold(results, run.own_dir)
    parts = [
        part
        for entry, ordinals in zip(run.ledger, run.members, strict=True)
        if (part := _part(run, entry, ordinals)) is not None
    ]
    with closing(run.spool.reader()) as jobs:
        tally = assemble(
            results,
            parts,
            jobs,
            run.spool.count,
            unsent=partial(_unsent, run),
            unanswered=_unanswered(run),
            each_to=run.results_dir if run.settings.result_format == "json" else None,
        )
    archived = archive.keep_gone(results, run.own_dir) if any_gone else 0
    if archived:
        get_run_logger().warning(
            "%s of jobs that were changed or are gone: kept in %s",
            counted(archived, "answer"),
            archive.NAME,
        )
    if run.settings.result_format == "parquet":
        with whole_file(_parquet(run)) as file:
            write_parquet(results, file)
    manifest = _manifest(run, tally, results.stat().st_size, archived)
    write_json(manifest_path, manifest)
    drop(run.results_dir)
    return manifest


def _still_true(run: Session, results: Path) -> dict[str, Any] | None:
    """The manifest on disk, where nothing has happened since it was written."""
    manifest = read_manifest(run.results_dir)
    if manifest is None or not results.exists():
        return None
    if run.settings.result_format == "parquet" and not _parquet(run).exists():
        return None
    same = (
        # A newer version may read more out of the same replies, and that costs nothing.
        manifest.get("package") == package()
        and manifest.get("job_set") == run.spool.digest
        and manifest.get("jobs_file") == _jobs_file(run)
        and _is_ours(run, manifest)
        and manifest.get("ledger") == extent(run.records.generation, run.ledger)
        and manifest.get("result_format") == run.settings.result_format
        and manifest.get("results_bytes") == results.stat().st_size
        # What was lost then may have come back: from a backup, or from the provider.
        and "answer_lost" not in manifest["failures"]
        and not run.spool.states.counts[WAITING]
        and not run.spool.states.counts[IN_FLIGHT]
        and not run.spool.states.counts[HELD]
    )
    return manifest if same else None


def _parquet(run: Session) -> Path:
    return run.results_dir / "results.parquet"


def _set_aside(run: Session, results: Path, manifest_path: Path) -> None:
    """Keep results that are not of this run: starting over never deletes what is there."""
    manifest = read_manifest(run.results_dir)
    if manifest is not None and _is_ours(run, manifest):
        return
    for path in (results, manifest_path, _parquet(run)):
        if path.exists():
            stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y%m%dT%H%M%SZ")
            aside = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
            path.rename(aside)
            get_run_logger().warning(
                "%s was not of these records; it is kept as %s", path.name, aside.name
            )


def _is_ours(run: Session, manifest: dict[str, Any]) -> bool:
    """Whether a manifest was made from these very records."""
    records = (run.settings.run_key, run.records.id, run.records.generation)
    return records == (manifest["run_key"], manifest.get("records", ""), manifest["ledger"][0])


def read_manifest(results_dir: Path) -> dict[str, Any] | None:
    """The manifest in a results directory; None where there is none that can be read."""
    try:
        manifest: dict[str, Any] = orjson.loads((results_dir / "manifest.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return manifest if manifest.get("format") == MANIFEST_FORMAT else None


def _part(run: Session, entry: Entry, ordinals: Sequence[int]) -> Part | None:
    """The answers of an ended chunk, read again from its replies where they are not at hand."""
    if not has_answers(entry) or max(ordinals) < 0:
        return None  # or all its jobs are gone
    return Part(answers_of(run, entry, ordinals), ordinals)


def _unanswered(run: Session) -> frozenset[int]:
    """Jobs whose batch was canceled for the realtime API, and which did not get there."""
    if not run.spool.states.counts[WAITING]:
        return frozenset()
    return frozenset(
        ordinal
        for entry, ordinals in zip(run.ledger, run.members, strict=True)
        if entry.ending is not None and entry.ending.reason == REALTIME
        for ordinal in ordinals
        if ordinal >= 0 and run.spool.states.state(ordinal) == WAITING
    )


def _unsent(run: Session, job: Context, family: Family) -> dict[str, Any]:
    """The row of a job that no ended batch holds."""
    row = blank_row(job, family.provider, family.model)
    left, closed = run.seconds_left, run.closed.get(family.provider)
    row["status"] = "failed" if run.stopped is None or job.fault else "cancelled"
    if job.fault is not None:
        row["error_code"], row["error"] = INVALID_ROW, job.fault
    elif job.state == IN_FLIGHT:
        row["error_code"] = "in_flight"
        row["error"] = (
            "its provider batch goes on, or its outcome is not known; run again to collect it. "
            "What it may cost stays reserved"
        )
    elif run.stopped is not None:
        row["error_code"] = "canceled"
        row["error"] = f"{run.stopped.reason}; it was not sent. Run again to send it"
    elif left is not None and left <= 0:
        row["error_code"] = "time_limit_exceeded"
        row["error"] = f"{TIME_LIMIT}: the job was not answered before the deadline"
        if (said := run.stuck.get(family.provider)) is not None:
            row["error"] += f"; {family.provider} took no batch ({said})"
    elif closed is not None:
        row["error_code"] = "provider_refused"
        row["error"] = f"it was not sent: {closed}"
    elif job.state == HELD and run.canary is not None:
        row["error_code"] = "canary_failed"
        row["error"] = f"it was not sent: {run.canary['told']}"
    elif run.settings.cost_limit_usd is not None:
        row["error_code"] = "cost_limit_exceeded"
        row["error"] = (
            f"{COST_LIMIT}: what is left of ${run.settings.cost_limit_usd} does not cover the "
            "job's upper bound; it was not sent. Raise the limit and run again to send only "
            "what is missing"
        )
    else:
        row["error_code"] = "not_sent"
        row["error"] = "the job was not sent; run again to send it"
    return row


def _manifest(run: Session, tally: Tally, results_bytes: int, archived: int) -> dict[str, Any]:
    spent, held = budget.spent(run.ledger), budget.reserved(run.ledger)
    ended = [entry for entry in run.ledger if entry.ending is not None]
    by_model = _sums(ended, lambda chunk: f"{chunk.provider} {chunk.model}")
    for sums in tally.by_tag.values():
        sums["cost_usd"] = plain_usd(sums["cost_usd"])
    return {
        "format": MANIFEST_FORMAT,
        "package": package(),
        "run_key": run.settings.run_key,
        "flow_run_id": run.flow_run_id,
        "state": run.records.location,
        "records": run.records.id,
        "started_at": run.started_at.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "status": _status(run),
        "stopped_by": run.stopped.reason if run.stopped else None,
        "counts": {"total": run.spool.count, **tally.counts},
        "resumed": run.resumed,
        "cost_usd": plain_usd(spent),
        "cost_of_run_usd": plain_usd(spent_now(run)),
        "archived": archived,
        "reserved_usd": plain_usd(held),
        "cost_limit_usd": plain_usd(run.settings.cost_limit_usd),
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "citations_dropped": tally.citations_dropped,
        "fees": dict(_usage(ended).fees),
        "canary": run.canary,
        "by_model": by_model,
        "accounts": {name: told["kind"] for name, told in run.settings.accounts.items()},
        "by_provider": _sums(ended, lambda chunk: chunk.provider),
        "by_tag": tally.by_tag,
        "failures": {
            code: {**group, "what_to_do": what_to_do(code)}
            for code, group in sorted(tally.failures.items(), key=lambda item: -item[1]["count"])
        },
        "batches": [batch.facts() for batch in batch_statuses(run)],
        "job_set": run.spool.digest,
        "jobs_file": _jobs_file(run),
        "ledger": extent(run.records.generation, run.ledger),
        "result_format": run.settings.result_format,
        "results_bytes": results_bytes,
    }


def _jobs_file(run: Session) -> dict[str, Any] | None:
    """What exports are to join; in JSON, as the manifest has it."""
    file = run.settings.jobs_file
    return None if file is None else asdict(file)


def _sums(ended: Sequence[Entry], name: Callable[[Chunk], str]) -> dict[str, dict[str, Any]]:
    """Costs and tokens of ended chunks by a name of theirs."""
    groups: dict[str, list[Entry]] = {}
    for entry in ended:
        groups.setdefault(name(entry.chunk), []).append(entry)
    found: dict[str, dict[str, Any]] = {}
    for key, entries in groups.items():
        usage, saved = _usage(entries), [e.ending.cache_saved_usd for e in entries if e.ending]
        found[key] = {
            "cost_usd": plain_usd(budget.spent(entries)),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "batches": sum(1 for e in entries if e.ending and e.ending.status not in NEVER_SENT),
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "cache_saved_usd": None if None in saved else float(sum(filter(None, saved))),
        }
    return found


def _usage(ended: Sequence[Entry]) -> Usage:
    """What ended chunks were billed for."""
    total = Usage()
    for entry in ended:
        if entry.ending is not None:
            total = total.plus(entry.ending.usage)
    return total


def _status(run: Session) -> str:
    """How the run ended; one whose jobs were all answered before it could be stopped completed."""
    states = run.spool.states.counts
    open_states = (WAITING, HELD, IN_FLIGHT, CANCELED)
    if run.stopped is None or not any(states[state] for state in open_states):
        return "completed"
    return "detached" if states[IN_FLIGHT] else "cancelled"
