"""Rows and results directories are data: what they name is not read or imported unasked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect.cli.options import Ask, Ways
from batchata_prefect.cli.orders import Amendment, Order
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.jobs.sources import jobs_from_rows
from batchata_prefect.results.remote import ORDER


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Prefect home of its own, in which the user's key lies."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def order(folder: Path, **changes: Any) -> Order:
    made = Order("jobs.csv", folder / "out", Ask(prompt="{q}", response_model="m:Invoice"), Ways())
    made.out.joinpath(".batchata").mkdir(parents=True, exist_ok=True)
    return replace(made, **changes)


def changed(made: Order, **values: Any) -> None:
    path = made.out / ORDER
    note = json.loads(path.read_text())
    note["ask"].update(values)
    path.write_text(json.dumps(note))


@pytest.mark.usefixtures("home")
def test_a_note_of_ones_own_is_taken(tmp_path: Path) -> None:
    """`batchata retry` after one's own `batchata run` asks nothing."""
    made = order(tmp_path)
    made.note()
    assert Order.noted(made.place).ask == made.ask


@pytest.mark.usefixtures("home")
def test_a_note_that_somebody_changed_is_shown_and_refused(tmp_path: Path) -> None:
    """The class and the file that it would import and read stand in the error."""
    made = order(tmp_path)
    made.note()
    changed(made, response_model="evil:Class", prompt="@/etc/passwd")
    with pytest.raises(StateError, match=r"(?s)evil:Class.*/etc/passwd.*--trust"):
        Order.noted(made.place)
    assert Order.noted(made.place, trust=True).ask.response_model == "evil:Class"


def test_a_note_of_another_user_is_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seal was made with another key, which only its owner can read."""
    made = order(tmp_path)
    made.note()
    assert (home / "batchata.key").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    with pytest.raises(StateError, match="--trust"):
        Order.noted(made.place)


@pytest.mark.usefixtures("home")
def test_a_run_takes_no_amendments_of_somebody_else(tmp_path: Path) -> None:
    """The same command over a directory that came with changed jobs would ask what they say."""
    amended = order(tmp_path, amendments=(Amendment({0: "a"}, Ask(response_model="evil:Class")),))
    amended.note()
    plain = order(tmp_path, jobs=amended.jobs)
    assert plain.with_earlier_amendments().amendments == amended.amendments
    path = amended.out / ORDER
    path.write_text(json.dumps({**json.loads(path.read_text()), "seal": "0" * 64}))
    with pytest.raises(StateError, match="evil:Class"):
        plain.with_earlier_amendments()
    assert plain.with_earlier_amendments(trust=True).amendments == amended.amendments


def test_the_command_imports_nothing_from_a_folder_that_came_from_elsewhere(
    tmp_path: Path, home: Path
) -> None:
    """The module beside it, which would leave a trace, is not run; with --trust it is."""
    made = order(tmp_path)
    made.note()
    (made.out / "results.jsonl").write_text("")
    (tmp_path / "evil.py").write_text(
        "from pathlib import Path\nPath('trace').touch()\nClass = dict\n"
    )
    changed(made, response_model="evil:Class")
    command = [sys.executable, "-m", "batchata_prefect.cli", "retry", str(made.place)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "trace").exists()) == (3, False), done.stderr
    assert "evil:Class" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run([*command, "--trust"], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("named", ["os:environ", "evil:Class"])
def test_a_row_names_no_class(named: str) -> None:
    """A row may hold a JSON schema; a class comes from the code or the command line."""
    row = {"prompt": "hi", "response_model": named}
    with pytest.raises(ValidationError, match="rows are data"):
        list(jobs_from_rows([row]))
    schema = {"type": "object", "properties": {}}
    (job,) = jobs_from_rows([{**row, "response_model": schema}], model="gpt-6-luna")
    assert job["response_model"] == schema
    (job,) = jobs_from_rows([{"prompt": "hi"}], response_model=named)
    assert job["response_model"] == named
