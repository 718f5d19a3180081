"""The flows that come with the package, run as a person runs them."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.exceptions import FailedRun, ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL

from batchata_prefect.jobs.sources import read_rows
from tests.chaos.killing import Forker

ROOT = Path(__file__).parents[2]
DOCUMENTS = ROOT / "flows" / "documents"

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def jobs_from_file() -> Flow[Any, Any]:
    """The flow, loaded as a worker loads it."""
    return load_flow_from_entrypoint(f"{ROOT}/flows/jobs_from_file.py:jobs_from_file")


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(jobs_from_file: Flow[Any, Any], questions: Path, tmp_path: Path, sandbox) -> Run:
    """Runs the flow over the questions, but where told otherwise."""
    usual = {"jobs": str(questions), "prompt": "Read this invoice.", "model": "claude-haiku-5-5"}
    usual |= {"results_dir": str(tmp_path / "out"), "state": str(tmp_path / "state")}
    usual |= {"run_key": str(tmp_path)}
    return lambda **told: asyncio.run(jobs_from_file(**usual | told))


def rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return list(read_rows(summary["results"]))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "city", "team"])
        table.writerows([["a", "Oslo", "x"], ["b", "Lima", "y"], ["c", "Bonn", "x"]])
    return path


def test_every_parameter_is_described_and_the_plain_ones_come_first(
    jobs_from_file: Flow[Any, Any],
) -> None:
    """The run form in the UI shows a description for each field, what everybody needs on top."""
    properties = jobs_from_file.parameters.properties
    assert list(properties)[:4] == ["jobs", "prompt", "model", "results_dir"]
    assert [name for name, field in properties.items() if not field.get("description")] == []
    assert jobs_from_file.parameters.required == ["jobs"]


def test_every_choice_can_be_made_in_the_form(jobs_from_file: Flow[Any, Any]) -> None:
    """The UI shows a single possible value as a constant, which nobody can choose."""
    properties = jobs_from_file.parameters.properties
    assert '"const"' not in json.dumps(properties)
    assert properties["citations"]["enum"] == ["none", "provider", "quoted"]
    assert properties["wait"]["enum"] == ["poll", "suspend"]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"jobs": "a.csv", "max_tokens": 0},
        {"jobs": "a.csv", "time_limit_hours": 25},
        {"jobs": "a.csv", "cost_limit_usd": -1},
        {"jobs": "a.csv", "response_model": "no.such:Model"},
    ],
)
def test_bad_parameters_are_refused(
    jobs_from_file: Flow[Any, Any], parameters: dict[str, Any]
) -> None:
    """What cannot be run is refused before a run does anything."""
    with pytest.raises((ParameterTypeError, TypeError)):
        jobs_from_file.validate_parameters(parameters)


def test_template_ids_and_metadata(run: Run, tmp_path: Path) -> None:
    """Each row of a CSV is a job with its own prompt, id and metadata, on the asked model."""
    summary = run(
        prompt="Where is {city}?",
        model="gpt-6-luna",
        results_dir=str(tmp_path / "{run_key}"),
        system="Answer in one word.",
        id_column="key",
        metadata_columns=["team"],
        cost_limit_usd=1,
        run_key="cities",
    )
    rows = rows_of(summary)
    assert summary["results"] == str(tmp_path / "cities" / "results.jsonl")
    assert summary["counts"] == {"total": 3, "completed": 3, "failed": 0, "cancelled": 0}
    assert summary["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert [row["job_id"] for row in rows] == ["a", "b", "c"]
    assert [json.loads(row["metadata_json"]) for row in rows] == [
        {"team": "x"},
        {"team": "y"},
        {"team": "x"},
    ]
    requests = b"".join(
        path.read_bytes() for path in (tmp_path / "cities/raw_files/requests").iterdir()
    )
    assert requests.count(b"Answer in one word.") == 3
    assert b"Where is Lima?" in requests


def test_documents_and_a_response_model(run: Run, tmp_path: Path) -> None:
    """A column of document paths and a JSON schema give typed answers from each document."""
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(
        "".join(
            json.dumps({"file": str(DOCUMENTS / name)}) + "\n"
            for name in ("invoice-1042.pdf", "invoice-2297.pdf")
        )
    )
    schema = {
        "type": "object",
        "properties": {"invoice_number": {"type": "string"}, "total": {"type": "number"}},
        "required": ["invoice_number", "total"],
        "additionalProperties": False,
    }
    summary = run(
        jobs=str(jobs),
        response_model=schema,
        file_column="file",
        documents_root=str(DOCUMENTS),
    )
    assert [json.loads(row["parsed_response_json"]) for row in rows_of(summary)] == [
        {"invoice_number": "NW-1042", "total": 1353.24},
        {"invoice_number": "2297/B", "total": 1204.2},
    ]


@pytest.mark.parametrize("asked", ["provider", "quoted"])
def test_answers_cite_their_documents(run: Run, tmp_path: Path, asked: str) -> None:
    """Whichever way is chosen in the form."""
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"file": str(DOCUMENTS / "invoice-1042.pdf")}) + "\n")
    summary = run(
        jobs=str(jobs),
        citations=asked,
        file_column="file",
        documents_root=str(DOCUMENTS),
    )
    (row,) = rows_of(summary)
    assert json.loads(row["citations_json"])
    (request,) = (tmp_path / "out/raw_files/requests").iterdir()
    native = b'"citations":{"enabled":true}' in request.read_bytes()
    assert native == (asked == "provider")


def test_same_run_key_buys_nothing_again(run: Run, tmp_path: Path, sandbox) -> None:
    """A second run under the same key gives the same summary without a new batch."""
    first = run(prompt=f"{tmp_path} {{city}}")
    bought = len(list(sandbox.ledger.batches()))
    assert run(prompt=f"{tmp_path} {{city}}") == first
    assert len(list(sandbox.ledger.batches())) == bought


def test_a_night_without_rows_is_a_finished_run_of_no_jobs(run: Run, questions: Path) -> None:
    """Its results are those of no jobs, what older nights were answered is kept, and it goes on."""
    first = run(id_column="key")
    table = questions.read_text()
    questions.write_text(table.partition("\n")[0] + "\n")
    for _ in range(2):  # the second finds its job set on disk
        empty = run(id_column="key")
        assert empty["status"] == "completed"
        assert empty["counts"] == {"total": 0, "completed": 0, "failed": 0, "cancelled": 0}
        assert empty["cost_usd"] == first["cost_usd"]
        assert rows_of(empty) == []
        kept = Path(empty["results"]).with_name("archive.jsonl")
        assert {row["job_id"] for row in read_rows(kept)} == {"a", "b", "c"}
    questions.write_text(table)
    again = run(id_column="key")
    assert (again["cost_usd"], len(rows_of(again))) == (first["cost_usd"], 3)


def test_run_key_is_the_flow_run(run: Run, tmp_path: Path) -> None:
    """Without a run key each flow run has its own results, so that a Retry finds them again."""
    summary = run(prompt="{city}?", results_dir=str(tmp_path / "{run_key}"), run_key=None)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", summary["run_key"])
    assert Path(summary["results"]).parent.name == summary["run_key"]


def test_run_without_any_answer_fails_with_its_reasons(run: Run) -> None:
    """When no job was answered the flow run is failed, and says how many failed of what."""
    with pytest.raises(FailedRun, match=r"0 of 3 jobs answered, 3 failed.*\(refusal: 3\)"):
        run(prompt="[[sandbox:refusal]] {city}")


DEMO = ROOT / "flows" / "demo.py"


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no address of a provider, as after a clone."""
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("ANTHROPIC", "OPENAI"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)
        monkeypatch.delenv(f"{name}_BASE_URL", raising=False)


def demo(folder: Path) -> str:
    """What the demo says."""
    forker = Forker({})
    done = forker.python(DEMO, cwd=folder)
    forker.close()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_runs_and_a_second_time_submits_nothing(tmp_path: Path, nothing_set) -> None:
    """The demo answers all its jobs on both providers; the second run sends nothing and says so."""
    from batchata_prefect.sandbox import Ledger

    first = demo(tmp_path)
    for text in (
        "14 of 14 jobs answered in 4 batches for $0.00",
        "This run submitted 4 batches",
        "NW-1042, 1,353.24 USD, Northwind Paper Supply Ltd",
        "total from 'Total: $1,353.24' (invoice-1042.pdf, page 2)",
        "demo-output/sandbox/results.jsonl",
        "/runs/flow-run/",
    ):
        assert text in first
    ledger = Ledger(tmp_path / "demo-output" / "sandbox" / "sandbox-server")
    billed = [row.custom_id for row in ledger.billed()]
    assert len(billed) == len(set(billed)) == 14

    second = demo(tmp_path)
    assert "This run submitted nothing" in second
    assert [row.custom_id for row in ledger.billed()] == billed
    assert len(list(read_rows(tmp_path / "demo-output/sandbox/results.jsonl"))) == 14


@pytest.mark.parametrize(
    ("provider", "key", "says"),
    [
        ("openai", None, "OPENAI_API_KEY"),
        ("anthropic", "wrong", "API key"),
    ],
)
def test_demo_says_what_is_wrong_with_the_key(
    tmp_path: Path, sandbox, nothing_set, provider: str, key: str | None, says: str
) -> None:
    """A missing or wrong key is one sentence after the price, not a traceback; nothing is paid."""
    name = provider.upper()
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    environment[f"{name}_BASE_URL"] = sandbox.environment()[f"{name}_BASE_URL"]
    if key:
        environment[f"{name}_API_KEY"] = key
    # A process of its own, as the demo says before Prefect is imported what is logged.
    done = subprocess.run(
        [sys.executable, DEMO, "--provider", provider],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    ended = done.stdout
    assert done.returncode == 1, ended
    assert f"This run buys answers from {provider} for at most $0.00" in ended
    assert "The demo stopped: " in ended
    assert says in ended.rpartition("The demo stopped: ")[2]
    assert "Traceback" not in ended
