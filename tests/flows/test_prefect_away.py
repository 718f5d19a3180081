"""Prefect's server goes away in the middle of a run, for a while or for good."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.chaos.killing import Forker, check_all_paid_once, log_of, start_until_sent, told, until

JOBS = 8
AWAY = "the results are written; Prefect does not answer"


class Server:
    """A real Prefect server with a database of its own, that can be killed and started again."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._environment = {**os.environ, "PREFECT_HOME": str(home)}
        self._environment.pop("PREFECT_API_URL", None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--log-level", "error", "--factory"),
                *("prefect.server.api.server:create_app", "--host", "127.0.0.1"),
                *("--port", str(self.port)),
            ],
            env=self._environment,
        )
        deadline = time.monotonic() + 100
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, "the Prefect server does not start"
                time.sleep(0.2)

    def kill(self) -> None:
        """End it without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_tables: Path) -> Iterator[Server]:
    """One server for the module."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copyfile(prefect_tables, home / "prefect.db")
    server = Server(home)
    server.start()
    yield server
    server.kill()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("comes_back", [True, False])
def test_prefect_goes_away(
    server: Server, sandbox, tmp_path: Path, comes_back: bool, billed
) -> None:
    """The run goes on without it, writes its results, and ends without an error."""
    forker = Forker(
        {
            "PREFECT_API_URL": server.url,
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
            "PREFECT_CLIENT_MAX_RETRIES": "0",
            "BATCHATA_PREFECT_SECONDS": "60" if comes_back else "2",
        }
    )
    job = told(tmp_path, jobs=JOBS)
    sandbox.limits(seconds=3)
    try:
        start_until_sent(forker, sandbox, job, 2)
        server.kill()
        if comes_back:
            until(lambda: AWAY in log_of(job), job)
            server.start()
        assert forker.wait() == 0, log_of(job)
    finally:
        sandbox.limits(seconds=0.1)
        forker.close()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)
    log = log_of(job)
    assert AWAY in log
    assert ("Prefect could not be told" in log) is not comes_back
    if comes_back:
        assert "Completed" in states(server)


def states(server: Server) -> set[str]:
    """Names of the states of all flow runs of a server."""
    request = urllib.request.Request(
        f"{server.url}/flow_runs/filter",
        data=b"{}",
        headers={"content-type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request) as reply:
        return {flow_run["state_name"] for flow_run in orjson.loads(reply.read())}
