"""A process without a Prefect server: what is said before one starts, and that none is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.killing import Forker

RUN = """
import sys
from batchata_prefect import Batch
def run(place):
    batch = Batch(place).set_default_params(model="gpt-6-luna")
    for n in range(3):
        batch.add_job(prompt=f"{place} {n}")
    return batch.run()
"""
AGAIN = """
import psutil
from prefect import flow
@flow
def own():
    return 1
first = run(sys.argv[1])
own()
second = run(sys.argv[1] + "-2")
assert len(psutil.Process().children()) == 1, psutil.Process().children()
print(first.manifest["counts"]["completed"] + second.manifest["counts"]["completed"])
"""


@pytest.fixture
def alone(tmp_path: Path, prefect_tables: Path) -> dict[str, str]:
    """The environment of a process that has no server; with a database, which saves seconds."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(prefect_tables, home / "prefect.db")
    named = {name for name in os.environ if name.startswith("PREFECT_")}
    services = {name for name in named if name.startswith("PREFECT_SERVER_")}
    kept = {name: value for name, value in os.environ.items() if name not in named - services}
    return {**kept, "PREFECT_HOME": str(home)}


def servers() -> set[int]:
    """Ids of all processes that are a server of ours."""
    found: set[int] = set()
    for process in psutil.process_iter(["cmdline"]):
        if any(part.endswith("engine/server.py") for part in process.info["cmdline"] or []):
            found.add(process.pid)
    return found


def served_by(parent: int) -> list[psutil.Process]:
    return [each for each in psutil.Process(parent).children() if each.pid in servers()]


def test_the_demo_names_no_server_that_is_gone(tmp_path: Path, alone: dict[str, str]) -> None:
    """The first thing that a new user sees ends with where to look."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "flows" / "demo.py"],
        cwd=tmp_path,
        env=alone,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "server start" in done.stdout
    assert set(re.findall(r"http://\S+?:\d+", done.stdout)) == {"http://127.0.0.1:4200"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "gpt-6-luna"), "no OpenAI key"),
        (("--model", "claude-haiku-4-5"), "no Anthropic key"),
        (("--model", "nobodys-model"), "nobodys-model"),
        (("--model", "gpt-6-luna", "--budget", "0"), "must be positive"),
    ],
)
def test_what_is_wrong_is_said_before_any_server_starts(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    """Prefect has no database yet, which a server makes first."""
    jobs, home = tmp_path / "jobs.csv", tmp_path / "home"
    jobs.write_text("text\nhello\n")
    keys = ("OPENAI", "ANTHROPIC", "PREFECT")
    without = dict.fromkeys([name for name in os.environ if name.startswith(keys)])
    without["PREFECT_API_URL"] = None
    forker = Forker({**without, "PREFECT_HOME": str(home), "HOME": str(tmp_path)})
    rest = ("--prompt", "{text}", "--out", tmp_path / "out", *arguments)
    done = forker.python("-m", "batchata_prefect.cli", "run", jobs, *rest, cwd=tmp_path)
    forker.close()
    assert done.returncode in (2, 3), done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "prefect.db").exists()


def test_an_empty_job_set_is_said_before_any_server_starts(tmp_path: Path) -> None:
    """The same for a batch without jobs, in a program."""
    code = "import sys\nfrom batchata_prefect import Batch\nBatch(sys.argv[1]).run()"
    home = tmp_path / "home"
    forker = Forker({"PREFECT_API_URL": None, "PREFECT_HOME": str(home)})
    done = forker.python("-c", code, tmp_path / "out")
    forker.close()
    assert "the batch has no jobs" in done.stderr
    assert not (home / "prefect.db").exists()


@pytest.mark.timeout(240)
def test_one_server_serves_all_of_a_process(
    tmp_path: Path, sandbox_process, sandbox, alone: dict[str, str]
) -> None:
    """A second run and a flow of the user's own use the same server, which ends after them."""
    before = servers()
    done = subprocess.run(
        [sys.executable, "-c", RUN + AGAIN, str(tmp_path / "out")],
        env={**alone, **sandbox_process.environment()},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["6"], done.stderr
    wait_until_gone(servers() - before)


@pytest.mark.timeout(240)
def test_a_killed_process_leaves_no_server_behind(
    tmp_path: Path, sandbox_process, sandbox, alone: dict[str, str]
) -> None:
    """However a process dies, its server goes too, and only its own."""
    sandbox.limits(seconds=120)
    before = len(list(sandbox.ledger.batches()))
    processes: dict[signal.Signals, subprocess.Popen[bytes]] = {}
    try:
        for number in (signal.SIGKILL, signal.SIGTERM):
            home = tmp_path / number.name
            shutil.copytree(alone["PREFECT_HOME"], home)
            command = [sys.executable, "-c", RUN + "run(sys.argv[1])", str(home / "out")]
            environment = {**alone, **sandbox_process.environment(), "PREFECT_HOME": str(home)}
            processes[number] = subprocess.Popen(command, env=environment, start_new_session=True)
        deadline = time.monotonic() + 150
        while len(list(sandbox.ledger.batches())) < before + len(processes):
            assert time.monotonic() < deadline
            assert [process.poll() for process in processes.values()] == [None, None]
            time.sleep(0.1)
        own = {number: served_by(process.pid) for number, process in processes.items()}
        for number, process in processes.items():
            (server,) = own.pop(number)
            os.killpg(process.pid, number)
            process.wait(60)
            wait_until_gone({server.pid})
            assert all(other.is_running() for (other,) in own.values())
    finally:
        for process in processes.values():
            process.kill()
        sandbox.limits(seconds=0.1)


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 60
    while pids & servers():
        assert time.monotonic() < deadline, "a server is left behind"
        time.sleep(0.2)


@pytest.mark.timeout(240)
def test_a_server_that_a_profile_names_is_used(
    tmp_path: Path, sandbox_process, sandbox, alone: dict[str, str], prefect_server
) -> None:
    """Prefect's settings name it, which is known only when Prefect is imported."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    profiles = f'active = "there"\n[profiles.there]\nPREFECT_API_URL = "{url}"\n'
    Path(alone["PREFECT_HOME"], "profiles.toml").write_text(profiles)
    told = """
run(sys.argv[1])
import psutil
from prefect.settings import PREFECT_API_URL
print(PREFECT_API_URL.value(), len(psutil.Process().children()))
"""
    done = subprocess.run(
        [sys.executable, "-c", RUN + told, str(tmp_path / "out")],
        env={**alone, **sandbox_process.environment()},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == [f"{url} 0"], done.stderr
