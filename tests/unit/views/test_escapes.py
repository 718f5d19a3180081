"""What data may not say to a terminal, a spreadsheet or a page that shows it."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from batchata_prefect.cli import app
from batchata_prefect.errors import StateError, one_line, printable
from batchata_prefect.views.escapes import markdown, printable_json, sheet_cell
from batchata_prefect.views.printed import say
from batchata_prefect.views.terminal import Progress, View

OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
EVIL = (
    "\x1b]0;owned\x07 \x1b[2J \x1b]8;;http://x.test\x1b\\click\x1b]8;;\x1b\\ \x9b31m \x08\x08 "
    "\u202egpj.exe\u2066 [link=http://x.test]a[/link] [red]b[/red]"
)


@given(st.text(st.characters(exclude_categories=())))
def test_a_text_for_a_terminal(text: str) -> None:
    """Nothing that it obeys is left, all else stays as it was, and JSON says the same."""
    shown = printable(text)
    assert not OBEYED.search(shown)
    assert shown == "".join(letter for letter in text if not OBEYED.fullmatch(letter))
    written = json.dumps(text, ensure_ascii=False)
    assert not OBEYED.search(printable_json(written))
    assert json.loads(printable_json(written)) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def of_data(written: str) -> str:
    """What was written, without what rich itself steers the terminal with: styles and moves."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Zmhl]|\r", "", written)


def test_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the cells of a table, where a text would be markup to rich."""
    monkeypatch.setattr("sys.stdout", out := Terminal())
    table = Table("job")
    table.add_row(EVIL)
    say(EVIL)
    say(table)
    assert not OBEYED.search(of_data(out.getvalue()))
    assert "\x1b]8" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "[link=http://x.test]" in out.getvalue()


STATS = {"total": 2, "failed": 2, "failures": {EVIL: 2}, "waiting_for": EVIL}
BATCHES = {"a": {"name": EVIL, "status": "failed", "error": EVIL, "provider": EVIL}}


def test_progress() -> None:
    """The live view, and the plain lines of a log file."""
    view = Console(file=(shown := Terminal()), force_terminal=True, width=100)
    view.print(View(STATS, 1.0, BATCHES))
    lines = io.StringIO()
    with Progress(file=lines) as progress:
        progress(STATS, 1.0, BATCHES)
    for written in (shown.getvalue(), lines.getvalue()):
        assert not OBEYED.search(of_data(written))
        assert "\x1b]8" not in written
    assert lines.getvalue().count("\n") == 1


def test_errors_and_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Ours hold nothing that a terminal obeys; those of others are left to them."""
    assert not OBEYED.search(str(StateError(EVIL)))
    assert not OBEYED.search(one_line(ValueError(EVIL)))
    for name in ("batchata_prefect", "prefect.flow_runs"):
        logger = logging.getLogger(name)
        for path, is_clean in ((one_line.__code__.co_filename, True), ("/other.py", False)):
            record = logger.makeRecord(name, 30, path, 1, "%s failed", (EVIL,), None)
            logger.filter(record)
            assert bool(OBEYED.search(record.getMessage())) is not is_clean


def row(**changes: Any) -> dict[str, Any]:
    values = dict.fromkeys(
        ["raw_response", "parsed_response_json", "error", "error_code", "embedding", "cost_usd"]
    )
    return {"job_id": "a", "status": "completed", "metadata_json": None, **values, **changes}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    parsed = {"formula": "=1+1", "number": -5, "written": "-5.5e3", "tab": "\tx", "at": "@SUM(A1)"}
    rows = [
        row(raw_response=EVIL, parsed_response_json=json.dumps({**parsed, "text": "a-b"})),
        row(job_id=f"b {EVIL}", status="failed", error=EVIL, error_code="x[red]y"),
    ]
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in rows))
    return tmp_path


def told(*words: str) -> int:
    return app(words, result_action="return_value")


@pytest.mark.parametrize("more", [[], ["--failed"], ["--json"]])
def test_results_on_a_terminal(
    results: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Answers, errors, ids and codes are shown, never obeyed."""
    monkeypatch.setattr("sys.stdout", out := Terminal())
    assert told("results", str(results), *more) == 0
    assert not OBEYED.search(of_data(out.getvalue()))
    assert "\x1b]8" not in out.getvalue()
    assert "x[red]y" in out.getvalue()


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_sheet_computes_nothing(results: Path, kind: str) -> None:
    """A cell that a spreadsheet would compute has an apostrophe; --raw-cells keeps it."""
    target = results / f"a.{kind}"

    def exported(*more: str) -> dict[str, str]:
        assert told("results", str(results), "--export", str(target), *more) == 0
        with target.open(newline="") as file:
            return next(csv.DictReader(file, delimiter="," if kind == "csv" else "\t"))

    cells = {key.removeprefix("answer."): value for key, value in exported().items()}
    assert cells["formula"] == "'=1+1"
    assert cells["at"] == "'@SUM(A1)"
    assert cells["tab"] == "'\tx"
    assert (cells["number"], cells["written"], cells["text"]) == ("-5", "-5.5e3", "a-b")
    assert exported("--raw-cells")["answer.formula"] == "=1+1"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=A1", "'=A1"), ("+A1", "'+A1"), ("-A1", "'-A1"), ("-5+A1", "'-5+A1"), ("@x", "'@x"),
        ("\rx", "'\rx"), ("\t", "'\t"), ("-", "'-"), ("-5", "-5"), ("+4.5", "+4.5"), ("-.5", "-.5"),
        ("-٣", "'-٣"), ("", ""), ("a=1", "a=1"), (-5, -5), (-0.5, -0.5), (None, None), (True, True),
    ],
)  # fmt: skip
def test_cells(value: Any, cell: Any) -> None:
    """Numbers stay numbers."""
    assert sheet_cell(value) == cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x onerror=a>", "&lt;img src=x onerror=a&gt;"),
        ("[a](javascript:b)", r"\[a\]\(javascript&#58;b\)"),
        ("![a](http://x.test)", r"\!\[a\]\(http&#58;//x.test\)"),
        ("a | `b`\n\n# c", r"a \| \`b\` # c"),
        ("invalid_output _a_ **b**", r"invalid_output \_a\_ \*\*b\*\*"),
        ("see www.x.test: 3", "see www&#46;x.test: 3"),
        ("&lt;b\x1b[1m", r"&amp;lt;b\[1m"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    """A text in a page or a table of Prefect's shows as it stands."""
    assert markdown(text) == shown
