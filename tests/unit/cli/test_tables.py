"""What each command shows, at 80 and 200 columns and piped: ids and models are there whole."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest
from rich.cells import cell_len
from rich.console import Console

from batchata_prefect.cli import app, main
from batchata_prefect.cli.provider_side import _show as show_batches
from batchata_prefect.engine.dry_run import show as show_plan
from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.ledger import Chunk, Entry, Receipt
from batchata_prefect.results.result_file import BLANK
from batchata_prefect.views.printed import Rows, wrapped
from batchata_prefect.views.status import BatchStatus
from batchata_prefect.views.terminal import View

MODEL = "ft:gpt-4o-mini-2024-07-18:my-org:tickets-of-the-north:AbCd1234"
BATCH = "msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d"
JOB = "invoices/2026-11/customer-0000123456/page-0001-of-0002.pdf"
SHORT_JOB = "ticket-17"
LONG = "An answer of many words, as they are. " * 20
WIDE = "回答は日本語です。" * 20
AT = datetime(2026, 11, 29, 5, tzinfo=UTC)


def answered(job: str, answer: str, **changes: Any) -> dict[str, Any]:
    row = {**BLANK, "job_id": job, "status": "completed", "raw_response": answer, "cost_usd": 1e-5}
    return {**row, "model": MODEL, "input_tokens": 5, "output_tokens": 5, **changes}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of two runs, and a file of jobs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, answers in {"old": (LONG, WIDE), "new": (LONG[5:], WIDE[2:])}.items():
        out = folder / name
        out.mkdir()
        failed = {"status": "failed", "error_code": "cost_limit_exceeded", "error": LONG}
        rows = [*map(answered, (JOB, SHORT_JOB), answers), answered("j3", "", **failed)]
        (out / "results.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        group = {"count": 1, "example_job_id": JOB, "example": LONG, "what_to_do": LONG}
        sums = {"batches": 2, "cost_usd": 0.5, "input_tokens": 9, "output_tokens": 9}
        manifest: dict[str, Any] = {
            "format": 1,
            "counts": {"total": 3, "completed": 2, "failed": 1, "cancelled": 0},
            "cost_usd": 0.5,
            "cost_of_run_usd": 0.5,
            "started_at": AT.isoformat(),
            "stopped_by": None,
            "resumed": 0,
            "by_model": {f"openai {MODEL}": sums, "openai gpt-6-luna": {**sums, "cost_usd": 1e-8}},
            "by_tag": {"a-tag-of-a-team-with-a-long-name": {**sums, "jobs": 3, "completed": 2}},
            "failures": {"cost_limit_exceeded": group},
            "batches": [],
        }
        (out / "manifest.json").write_bytes(orjson.dumps(manifest))
    return folder


def batches() -> None:
    """What `batchata status`, `cancel` and `adopt` show."""
    token, bound = "0" * 64, 1_000
    chunk = Chunk(0, 0, token, "openai", "/v1/chat/completions", MODEL, 1_000, 1, 9, bound, None)
    lines: list[BatchStatus] = []
    for sequence, trouble in enumerate((None, f"no key of {BATCH} is known")):
        entry = Entry(replace(chunk, sequence=sequence), AT)
        entry.receipt = Receipt(BATCH, AT)
        batch = ProviderBatch(BATCH, "in_progress", "in_progress", expires_at=AT)
        lines.append(BatchStatus(entry, batch, trouble=trouble))
    show_batches(lines, "2 provider batches in flight, 0 ended")


def plan() -> None:
    """What `batchata plan` and `run --dry-run` show."""
    sums = {"batches": 3, "jobs": 123_456, "bytes": 9.9e8, "input_tokens": 123_456_789}
    costs = dict.fromkeys(("cost_low_usd", "cost_likely_usd", "cost_upper_usd"), 0.00123)
    names = ("jobs", "answered", "failed", "skipped", "in_flight", "to_send", "api_calls")
    counts = dict.fromkeys(names, 1)
    planned: dict[str, Any] = {**counts, **costs, "realtime_likely_usd": 5, "warnings": [LONG]}
    show_plan({**planned, "by_model": {f"openai {MODEL}": {**sums, **costs}}})


def live() -> None:
    """What is shown while a run goes on."""
    batch = {"status": "failed", "total": 9, "failed": 9, "name": f"openai {MODEL} #12, 9 jobs"}
    batch |= {"provider": "openai", "error": f"batch {BATCH}: {LONG}", "estimated_cost": 0.5}
    Console().print(View({"total": 9}, 5.0, {"a": batch}, "out", AT.replace(tzinfo=None)))


SHOWN: dict[str, tuple[tuple[str, ...] | Callable[[], None], tuple[str, ...]]] = {
    "results": (("results", "old"), (JOB, SHORT_JOB)),
    "results --failed": (("results", "old", "--failed"), ("j3", "cost_limit_exceeded")),
    "diff": (("diff", "old", "new"), (JOB, SHORT_JOB)),
    "models": (("models", "--all"), ("gpt-6-luna", "claude-sonnet-5-5")),
    "report": (("report", "old"), (MODEL, JOB)),
    "status, cancel, adopt": (batches, (BATCH, MODEL)),
    "plan": (plan, (MODEL,)),
    "run": (live, ()),
}


class Terminal(io.StringIO):
    """A terminal to whoever asks."""

    def isatty(self) -> bool:
        return True


def shown(
    folder: Path, what: tuple[str, ...] | Callable[[], None], width: int, *, piped: bool = False
) -> str:
    """What a command, or a part of one, prints on both of its ways out."""
    out = io.StringIO() if piped else Terminal()
    terminal = {"COLUMNS": str(width), "LINES": "50", "TERM": "dumb", "NO_COLOR": "1"}
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, terminal):
        patch.chdir(folder)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", out)
        if callable(what):
            what()
            return out.getvalue()
        patch.setattr(sys, "argv", ["batchata", *what])
        with pytest.raises(SystemExit):
            main()
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", SHOWN)
def test_a_table_fits_the_terminal_and_cuts_no_id(runs: Path, name: str, width: int) -> None:
    """No line is longer than the terminal is wide, unless a word of it is an id as long as that."""
    what, whole = SHOWN[name]
    text = shown(runs, what, width)
    assert "…" not in text
    assert "Traceback" not in text
    for word in whole:
        assert word in text
    for line in text.splitlines():
        *_, last = line.split() or [""]
        assert cell_len(line) <= width or len(last) > width - 20


@pytest.mark.parametrize("width", [80, 200])
def test_the_help_of_each_command_fits_the_terminal(tmp_path: Path, width: int) -> None:
    commands = [name for name in app if not name.startswith("-")]
    assert len(commands) > 11
    for name in commands:
        text = shown(tmp_path, (name, "--help"), width)
        assert text.startswith("Usage: batchata")
        assert "…" not in text
        assert all(cell_len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("name", ["models", "report", "status, cancel, adopt", "plan"])
def test_a_table_in_a_pipe_is_one_line_a_row(runs: Path, name: str) -> None:
    """Whatever the width of a terminal that is not there; for `grep` and `awk`."""
    what, whole = SHOWN[name]
    text = shown(runs, what, 40, piped=True)
    assert "…" not in text
    for word in whole:
        assert word in text
    if name != "report":
        head = next(line for line in text.splitlines() if line.startswith(("model", "batch ")))
        assert len(head.split()) > 5


def test_a_row_that_is_too_wide_stands_in_lines_of_its_own() -> None:
    """Each value behind the name of its column; one of text is cut there as well."""
    rows = Rows("id", "n", "text", right={"n"}, texts={"text"})
    rows.add("x" * 30, "1", "word " * 20)
    rows.add("y", "12,345", "short\nlines")
    assert [line.plain for line in rows.lines(None)][1:] == [
        f"{'x' * 30}       1  {'word ' * 19}word",
        f"y{' ' * 29}  12,345  short lines",
    ]
    assert [line.plain for line in rows.lines(64)] == [
        f"id{' ' * 28}       n  text",
        f"{'x' * 30}       1  word word word word w...",
        f"y{' ' * 29}  12,345  short lines",
    ]
    assert [line.plain for line in rows.lines(40)] == [
        f"id    {'x' * 30}",
        "n     1",
        "text  word word word word word word w...",
        "",
        "id    y",
        "n     12,345",
        "text  short lines",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("one two three four", ["one two three", "four"]),
        ("  -> one two three four", ["  -> one two", "  three four"]),
        ("at /a/path/longer/than-that now", ["at", "/a/path/longer/than-that", "now"]),
        ("\none\n\n  two\n", ["", "one", "", "  two", ""]),
    ],
)
def test_a_sentence_is_broken_between_words(text: str, lines: list[str]) -> None:
    assert wrapped(text, 14).split("\n") == lines
