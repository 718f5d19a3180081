"""`batchata run` and what reads its answers, each as a person runs it: a process of its own."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from batchata_prefect import Batch, BatchRun
from batchata_prefect.cli import main
from tests.chaos.killing import Forker, until

pytestmark = pytest.mark.usefixtures("prefect_server")

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


MODULE = ("-m", "batchata_prefect.cli")


@pytest.fixture
def forker(prefect_server, sandbox) -> Iterator[Forker]:
    forker = Forker({"COLUMNS": "100"})
    yield forker
    forker.close()


def asked(forker: Forker, cwd: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What the command prints for machines, which must be all that it prints."""
    done = forker.python(*MODULE, *arguments, "--json", cwd=cwd)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """The command in this process, which saves what does not start a run its imports."""

    def call(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["batchata", *map(str, arguments)])
        capfd.readouterr()
        # What the command sets for its own process must not reach those of other tests.
        with mock.patch.dict(os.environ), pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, said.out, said.err)

    return call


@pytest.fixture
def cities(tmp_path: Path, sandbox) -> Path:
    """Six questions, of which one is refused by OpenAI's models, in a folder of their own."""
    with (tmp_path / "cities.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "city", "land"])
        for number in range(6):
            refuse = "[[sandbox:refusal]] " if number == 4 else ""
            table.writerow([f"c{number}", f"{refuse}{tmp_path} {number}", "abc"[number % 3]])
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    return tmp_path


RUN = ("run", "cities.csv", "-p", "Where is {city}?", "-m", "gpt-6-luna", "--id-column", "key")
RUN += ("--metadata", "land", "--budget", "1", "-o", "out", "--state", "state")


def test_run_fails_in_part_is_understood_retried_and_exported(
    cities: Path, here: Here, forker: Forker, sandbox
) -> None:
    """One failed job is listed with its reason, asked anew, and nothing is paid twice.

    Not either where the retry is killed with its batch in flight, and another change is told.
    """
    known = len(list(sandbox.ledger.billed()))
    first = asked(forker, cities, *RUN, "--response-model", "schema.json", "--tag", "geo", code=1)
    assert first["schema"] == "batchata/run/1"
    assert first["counts"] == {"total": 6, "completed": 5, "failed": 1, "cancelled": 0}
    assert first["by_tag"]["geo"]["jobs"] == 6

    failed = json.loads(here(cities, "results", "out", "--failed", "--json").stdout)
    assert failed["schema"] == "batchata/results/1"
    assert [row["job_id"] for row in failed["rows"]] == ["c4"]
    assert failed["rows"][0]["error_code"] == "refusal"
    words = here(cities, "report", "out")
    assert words.returncode == 1
    assert "1 x refusal" in words.stdout
    assert "Change the prompt or the model" in words.stdout

    change = ("--code", "refusal", "--prompt", "Name {land}")
    sandbox.limits(seconds=60)
    sent = len(list(sandbox.ledger.batches()))
    pid = forker.start_python(*MODULE, "retry", "out", *change, cwd=cities)
    until(lambda: len(list(sandbox.ledger.batches())) > sent)
    os.kill(pid, signal.SIGKILL)
    assert "Sent again, changed by prompt: 1 job." in forker.wait_python().stderr
    sandbox.limits(seconds=0.1)
    sandbox.settle()
    other = here(cities, "retry", "out", "--code", "refusal", "--prompt", "Say {land}")
    assert other.returncode == 3
    assert "results in 'out' are older than what is on record" in other.stderr
    assert "Nothing was sent" in other.stderr

    retried = forker.python(*MODULE, "retry", "out", cwd=cities)
    assert retried.returncode == 0, retried.stderr
    assert retried.stdout == ""
    assert "6 of 6 jobs answered" in retried.stderr
    assert "no ids of their own" not in retried.stderr
    # The refused answer was billed as well, and stays paid.
    assert len(list(sandbox.ledger.billed())) == known + 7

    again = asked(forker, cities, *RUN, "--response-model", "schema.json", "--tag", "geo")
    assert again["counts"]["completed"] == 6
    assert len(list(sandbox.ledger.billed())) == known + 7

    assert here(cities, "results", "out", "-e", "out.csv").returncode == 0
    with (cities / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["metadata.land"] for row in rows] == list("abcabc")
    assert [(row["row"], row["key"], row["land"]) for row in rows] == [
        (str(number + 1), f"c{number}", "abcabc"[number]) for number in range(6)
    ]
    assert all(row["answer.city"] for row in rows)
    piped = here(cities, "results", "out", "--limit", "2").stdout.splitlines()
    assert [json.loads(line)["job_id"] for line in piped] == ["c0", "c1"]


def test_plan_sends_nothing(cities: Path, here: Here, sandbox) -> None:
    """A plan names batches and cost and makes no batch; `run --dry-run` gives the same."""
    known = len(list(sandbox.ledger.batches()))
    planned = json.loads(here(cities, "plan", *RUN[1:], "--json").stdout)
    assert planned["schema"] == "batchata/plan/1"
    assert (planned["to_send"], len(planned["batches"])) == (6, 1)
    assert 0 < planned["cost_low_usd"] < planned["cost_upper_usd"]
    assert json.loads(here(cities, *RUN, "--dry-run", "--json").stdout) == planned
    assert len(list(sandbox.ledger.batches())) == known


def test_run_without_a_key_against_its_own_sandbox(cities: Path, forker: Forker) -> None:
    """`--sandbox` needs no key and keeps its batches; how to have ids is said, once."""
    told = [each for each in RUN[:-2] if each not in {"--id-column", "key"}]
    done = forker.python(*MODULE, *told, "--sandbox", cwd=cities)
    assert (done.returncode, done.stdout) == (1, "")
    assert "5 of 6 jobs answered" in done.stderr
    assert done.stderr.count("The jobs have no ids of their own") == 1
    assert "--id-column NAME" in done.stderr
    again = forker.python(*MODULE, *told, "--sandbox", "--json", cwd=cities)
    assert json.loads(again.stdout)["counts"]["completed"] == 5
    assert "no ids" not in again.stderr
    assert (cities / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "nothing.csv", "-m", "gpt-6-luna", "-p", "x"], 2, "there is no such file"),
        (["run", "cities.csv", "-m", "gpt-6-luna", "-p", "{town}"], 2, "cities.csv' line 2"),
        (["run", "cities.csv", "-m", "foo", "-p", "x"], 2, "no provider is known"),
        (["run", "cities.csv", "-m", "gpt-6-luna", "-p", "x", "--time-limit", "2d"], 2, "2d"),
        (["run", "cities.csv", "-m", "gpt-6-luna", "-p", "x", "--time-limit", "1s"], 2, "10 sec"),
        (["run", "cities.csv", "-m", "gpt-6-luna", "-p", "x", "--param", "seed"], 2, "name=value"),
        (["run", "cities.csv", "--colour", "red"], 2, "Unknown option"),
        (["results", "nowhere"], 3, "has no results: the run has not begun"),
        (["retry", "nowhere"], 3, "was not made by `batchata run`"),
        (["diff", "nowhere", "there"], 3, "no results.jsonl"),
        (["results", ".", "--export", "a.xlsx"], 2, "ends in .jsonl, .csv or .tsv"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    cities: Path, here: Here, arguments: list[str], code: int, says: str
) -> None:
    """A wrong command is 2, a missing record 3; in one sentence, nothing on standard output."""
    done = here(cities, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "{rows}", "--sandbox", "-o", "file"], 2, "Not a directory"),
        (["run", "{rows}", "-o", "file"], 2, "--out"),
        (["plan", "{rows}", "-o", "file/below"], 2, "cannot be written"),
        (["plan", "cut.csv.gz", "-o", "out"], 2, "cut.csv.gz' line 1: the file is damaged"),
        (["plan", "named.csv.gz", "-o", "out"], 2, "is no .gz file, although its name says so"),
        (["plan", "named.csv.zst", "-o", "out"], 2, "is no .zst file, although its name says so"),
        (["plan", "odd.csv", "-o", "out"], 2, "odd.csv' holds .gz and not what its name says"),
        (["plan", "folder.csv", "-o", "out"], 2, "is a folder; name one file"),
        (["plan", "empty.csv", "-o", "out"], 2, "empty.csv' holds no rows"),
        (["plan", "{rows}", "--system", "@latin.txt", "-o", "out"], 2, "is not UTF-8 text"),
        (["plan", "{rows}", "--system", "@folder.csv", "-o", "out"], 2, "Is a directory"),
        (["sandbox", "--data-dir", "file"], 2, "'file': File exists"),
        (["sandbox", "--data-dir", "box", "--port", "{taken}"], 2, "Address already in use"),
        (["results", "file"], 3, "has no results"),
        (["status", "file"], 3, "Not a directory"),
        (["retry", "file"], 3, "was not made by `batchata run`"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_sentence(
    cities: Path, here: Here, arguments: list[str], code: int, says: str
) -> None:
    """No traceback, whatever lies where a file or folder should be."""
    packed = gzip.compress(b"city\nRome\n")
    for name, content in {
        "file": b"x",
        "cut.csv.gz": packed[:15],
        "named.csv.gz": b"city\nRome\n",
        "named.csv.zst": b"city\nRome\n",
        "odd.csv": packed,
        "empty.csv": b"",
        "latin.txt": b"\xff\xfe",
    }.items():
        (cities / name).write_bytes(content)
    (cities / "folder.csv").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = [each.format(rows="cities.csv", taken=port) for each in arguments]
        if arguments[0] in {"run", "plan"}:
            told += ["-p", "Where is {city}?", "-m", "gpt-6-luna"]
        done = here(cities, *told)
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (code, "")
    assert says in " ".join(done.stderr.split())


def test_what_is_missing_after_a_run_is_no_wrong_command(
    cities: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that cannot be read when the report is drawn: 2 would say that nothing was sent."""
    whole, answers = Batch.run, cities / "out" / "results.jsonl"

    def taken_away(batch: Batch, *arguments: Any, **told: Any) -> BatchRun:
        done = whole(batch, *arguments, **told)
        answers.unlink()
        answers.mkdir()
        return done

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "run", taken_away)
        lost = here(cities, *RUN)
    assert lost.returncode == 3
    assert "the run has ended, and its report cannot be drawn" in lost.stderr
    assert "results.jsonl" in lost.stderr
    answers.rmdir()
    # One of the six is refused.
    assert here(cities, *RUN, "--quiet").returncode == 1
    assert len(answers.read_text().splitlines()) == 6


def test_missing_key_is_3(cities: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not set is told before anything is sent."""
    monkeypatch.delenv("OPENAI_API_KEY")
    done = here(cities, *RUN, "-q")
    assert done.returncode == 3
    assert "OPENAI_API_KEY" in done.stderr


def test_interrupt_is_130_and_the_same_command_goes_on(
    cities: Path, forker: Forker, sandbox, billed
) -> None:
    """Ctrl-C ends the run in order, says where its results are, and the next one has them all."""
    sandbox.limits(seconds=10)
    known = len(list(sandbox.ledger.batches()))
    try:
        pid = forker.start_python(*MODULE, *RUN, cwd=cities)
        until(lambda: len(list(sandbox.ledger.batches())) > known)
        time.sleep(0.5)
        os.kill(pid, signal.SIGINT)
        done = forker.wait_python()
    finally:
        sandbox.limits(seconds=0.1)
    assert done.returncode == 130, done.stderr
    assert "its results so far are in" in done.stderr
    assert asked(forker, cities, *RUN, code=1)["counts"]["completed"] == 5
    assert len(billed()) <= 7


def test_deploy_writes_a_deployment_with_its_options_and_schedule(cities: Path, here: Here) -> None:
    """The options become the flow's parameters, in the types of its form, and the cron its line."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="walk", type="process"))
        (cities / "prices.toml").write_text("[my-model]\ninput = 0.123456789\noutput = 2")
        told = ["deploy", "cities.csv", "-p", "Where is {city}?", "-m", "gpt-6-luna", "-b", "2"]
        told += ["--tag", "a", "--tag", "b", "--param", "seed=1", "--prices", "prices.toml"]
        told += ["--realtime", "1.5", "--canary", "0.1"]
        told += ["--response-model", "schema.json", "--time-limit", "90m", "--metadata", "land"]
        told += ["--citations", "quoted", "--max-attempts", "5", "--detach", "--wait", "suspend"]
        done = here(cities, *told, "--name", "n", "--cron", "0 2 * * *", "--pool", "walk")
        assert done.returncode == 0, done.stderr
        assert "prefect deployment run jobs-from-file/n" in done.stderr
        made = client.read_deployment_by_name("jobs-from-file/n")
    assert made.work_pool_name == "walk"
    assert [line.schedule.cron for line in made.schedules] == ["0 2 * * *"]
    wanted = {
        "jobs": str(cities / "cities.csv"),
        "prompt": "Where is {city}?",
        "model": "gpt-6-luna",
        "cost_limit_usd": 2.0,
        "time_limit_hours": 1.5,
        "response_model": SCHEMA,
        "tags": ["a", "b"],
        "params": {"seed": 1},
        "prices": {"my-model": {"input": "0.123456789", "output": 2}},
        "realtime_limit_usd": 1.5,
        "canary": 0.1,
        "citations": "quoted",
        "max_attempts": 5,
        "on_cancel": "detach",
        "wait": "suspend",
        "metadata_columns": ["land"],
        "results_dir": str(cities / "results" / "{run_key}"),
    }
    assert wanted.items() <= made.parameters.items()
    assert {"batchata", "batchata-deploy"} <= set(made.tags)
    refused = here(cities, *told, "--sandbox")
    assert refused.returncode == 2
    assert "--sandbox: the deployed flow has no such parameter" in refused.stderr


def test_deploy_replaces_what_it_made_and_nothing_of_others(cities: Path, here: Here) -> None:
    """What `prefect deploy` made keeps its schedule and parameters until --replace is given."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    told = ["deploy", "cities.csv", "-p", "{city}", "-m", "gpt-6-luna", "--pool", "run"]
    nowhere = here(cities, *told, "--name", "theirs")
    assert nowhere.returncode == 3
    assert "prefect work-pool create --type process run" in nowhere.stderr
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="run", type="process"))
        flow_id = client.create_flow_from_name("jobs-from-file")
        client.create_deployment(flow_id=flow_id, name="theirs", parameters={"model": "x"})
        refused = here(cities, *told, "--name", "theirs")
        assert refused.returncode == 2
        assert "`batchata deploy` did not make it" in refused.stderr
        there = client.read_deployment_by_name("jobs-from-file/theirs")
        assert there.parameters == {"model": "x"}
        for more in ["--replace"], []:
            assert here(cities, *told, "--name", "theirs", *more).returncode == 0
        there = client.read_deployment_by_name("jobs-from-file/theirs")
        assert there.parameters["model"] == "gpt-6-luna"
    with (Path(__file__).parents[2] / "deployments" / "prefect.yaml").open() as file:
        names = {each["name"] for each in yaml.safe_load(file)["deployments"]}
    assert names.isdisjoint({"nightly", "jobs-from-file"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy", "cities.csv", "-p", "{city}", "-m", "gpt-6-luna", "--pool", "p"),
        ("run", "cities.csv", "-p", "{city}", "-m", "gpt-6-luna"),
        ("status", "--run-key", "k", "--state", "s3-bucket/records"),
    ],
)
def test_a_prefect_server_that_is_not_there_is_one_sentence(
    cities: Path, sandbox, arguments: tuple[str, ...]
) -> None:
    """And an exit code, whichever command asks it."""
    forker = Forker({"PREFECT_API_URL": "http://127.0.0.1:9/api", "COLUMNS": "100"})
    done = forker.python(*MODULE, *arguments, cwd=cities)
    forker.close()
    said = " ".join(done.stderr.split())
    assert "Prefect cannot be reached at http://127.0.0.1:9/api" in said
    assert "Traceback" not in said
    assert done.returncode == 3


def test_models_have_batch_prices(tmp_path: Path, here: Here) -> None:
    """Known models come with their batch price, which is below the realtime one."""
    found = json.loads(here(tmp_path, "models", "--json").stdout)
    by_id = {each["model"]: each for each in found["models"]}
    claude = by_id["claude-sonnet-5-5"]
    assert 0 < claude["input_usd"] < claude["realtime_input_usd"]
    assert claude["cites"]
    assert not claude["takes_temperature"]
    assert found["batch_limits"]["anthropic"]["requests"] == 100_000
    assert {each["provider"] for each in found["models"]} == {"anthropic", "gemini", "openai"}
    assert by_id["gemini-2.5-flash"]["output_usd"] == 1.25


def test_help_needs_no_prefect(tmp_path: Path) -> None:
    """The list of commands comes without importing Prefect, which takes a second."""
    code = (
        "import sys; sys.argv = ['batchata', '--help']\n"
        "from batchata_prefect.cli import app\n"
        "app(exit_on_error=False, result_action='return_value')\n"
        "assert 'prefect' not in sys.modules, 'prefect was imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Exit codes" in done.stdout
