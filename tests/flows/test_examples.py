"""The example flows and the Python of the documentation, run as a person runs them with keys."""

from __future__ import annotations

import contextlib
import csv
import io
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from tests.unit.test_docs import PAGES, PYTHON, ROOT, blocks

FLOWS = ROOT / "flows"
EXAMPLES = ("invoices", "classify_csv", "embed_dataset", "nightly", "evaluate")
MOST_LINES = 80

pytestmark = pytest.mark.usefixtures("prefect_server")


def example(name: str) -> Flow[Any, Any]:
    return load_flow_from_entrypoint(f"{FLOWS}/{name}.py:{name}")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_their_parameters_described(name: str) -> None:
    """An example fits on one screen or two, and each of its parameters has words for the form."""
    assert len((FLOWS / f"{name}.py").read_text().splitlines()) <= MOST_LINES
    properties = example(name).parameters.properties
    assert [key for key, field in properties.items() if not field.get("description")] == []


def test_invoices(sandbox, tmp_path: Path) -> None:
    """Both invoices are read into their fields, with pages from verified quotes."""
    lines = example("invoices")(results_dir=str(tmp_path))
    assert len(lines) == 2
    assert "Northwind Paper Supply Ltd, 1,353.24 USD by" in lines[0]
    assert "on page" in lines[0]


def test_classify_csv(sandbox, tmp_path: Path) -> None:
    """Each row has a team of the list, and the table keeps its rows and order."""
    teams = example("classify_csv")(results_dir=str(tmp_path))
    assert sum(teams.values()) == 8
    assert teams.keys() <= {"billing", "shipping", "technical", "privacy", "other"}
    with (tmp_path / "labelled.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"T-100{n}" for n in range(1, 9)]
    assert rows[5]["text"] == "Can I pay by bank transfer, in three parts?"


def test_embed_dataset(sandbox, tmp_path: Path) -> None:
    """Every passage has a nearness, the nearest first; a text is nearest to itself."""
    text = "Small repairs up to 110 euros are the tenant's."
    ranked = example("embed_dataset")(text, results_dir=str(tmp_path))
    assert len(ranked) == 6
    assert ranked[0] == (pytest.approx(1.0), "lease-3")
    assert [near for near, _ in ranked] == sorted((near for near, _ in ranked), reverse=True)


def test_nightly(sandbox, tmp_path: Path) -> None:
    """A day's tickets are answered once, however often the night is run; a day without is said."""
    known = len(list(sandbox.ledger.billed()))
    flow = example("nightly")
    for _ in range(2):
        said = flow(day=date(2026, 11, 21), results_dir=str(tmp_path))
        assert said.startswith("2026-11-21: 3 of 3 for $0.00")
    assert len(list(sandbox.ledger.billed())) == known + 3
    assert flow(day=date(2026, 1, 1), results_dir=str(tmp_path)) == "no tickets on 2026-01-01"


def test_evaluate(sandbox, tmp_path: Path) -> None:
    """Every answer of the one model has a verdict of the other."""
    found = example("evaluate")(results_dir=str(tmp_path))
    assert found["judged"] == 8
    assert 1 <= found["mean"] <= 5


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with nothing but the documents that a clone has."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "documents").symlink_to(FLOWS / "documents")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if blocks(path, PYTHON)],
    ids=lambda path: path.stem,
)
def test_python_runs(path: Path, documents: Path, sandbox) -> None:
    """The Python of a page runs from its first block to its last, as printed."""
    names: dict[str, object] = {"__name__": path.stem}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for number, code in enumerate(blocks(path, PYTHON), 1):
            exec(compile(code, f"{path.name}, block {number}", "exec"), names)
    assert "failed" not in said.getvalue()
