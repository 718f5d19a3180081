"""What the tests share: a real Prefect server, the sandbox, and clean settings."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import settings


def _one_authority() -> str:
    """A file with the first certificate of those that a client would read."""
    end = "-----END CERTIFICATE-----\n"
    path = Path(tempfile.gettempdir(), f"batchata-authority-{os.getuid()}.pem")
    whole = Path(tempfile.mkdtemp(), path.name)
    whole.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    whole.replace(path)
    whole.parent.rmdir()
    return str(path)


_AUTHORITY = _one_authority()


# How long one example takes says nothing on a busy machine.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
# Else each process that a test starts compiles the package anew: 0.3 s of CPU.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Measured: with the task-run recorder on, each flow test waits seconds for SQLite's write lock;
# no test reads task runs back but those that start a server of their own.
os.environ.update(
    {
        f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
        for name in ("EVENT_PERSISTER", "TRIGGERS", "TASK_RUN_RECORDER")
    },
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    # Each client, of an SDK or of Prefect, reads a file of authorities: 20 ms where it holds them
    # all. Here nobody asks a server whose certificate would be looked at.
    SSL_CERT_FILE=_AUTHORITY,
    PREFECT_API_SSL_CERT_FILE=_AUTHORITY,
    # A run of milliseconds must not wait for the paces of a run of hours.
    BATCHATA_POLL_SHORTEST_SECONDS="0.02",
    BATCHATA_LOOKUP_SECONDS="0.6",
    BATCHATA_RETRY_LONGEST_SECONDS="0.25",
    BATCHATA_WATCH_SECONDS="0.3",
    BATCHATA_SETTLE_SECONDS="20",
)


@pytest.fixture(scope="session")
def prefect_tables() -> Path:
    """A database with Prefect's tables and nothing in them, made once for each Prefect.

    To make the tables takes a server eight seconds of CPU, to copy them nothing.
    """
    folder = Path(tempfile.gettempdir(), f"batchata-tables-{version('prefect')}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    tables = folder / "prefect.db"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tables.exists():
            fresh = folder / "fresh.db"
            fresh.unlink(missing_ok=True)
            database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{fresh}"}
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
                env={**os.environ, **database},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            fresh.rename(tables)
    return tables


@pytest.fixture(scope="session")
def prefect_server(prefect_tables: Path) -> Iterator[None]:
    """One Prefect server for the session, with a database of its own."""
    from prefect.testing import utilities

    def folder() -> str:
        made = tempfile.mkdtemp()
        shutil.copyfile(prefect_tables, Path(made, "prefect-test.db"))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", folder)
        with utilities.prefect_test_harness(server_startup_timeout=120):
            yield


def hurry() -> None:
    """Have the SDKs repeat a call at once, which by themselves wait for half a second and more."""
    import anthropic._base_client
    import openai._base_client

    for sdk in (anthropic._base_client, openai._base_client):
        vars(sdk)["INITIAL_RETRY_DELAY"] = 0.02


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory):
    """One sandbox server for the session."""
    from batchata_prefect.sandbox import Sandbox

    hurry()
    with Sandbox(tmp_path_factory.mktemp("sandbox"), seconds=0.1) as server:
        yield server


@pytest.fixture
def sandbox(sandbox_process, monkeypatch: pytest.MonkeyPatch):
    """The sandbox without faults, with its addresses and keys in the environment."""
    sandbox_process.clear_faults()
    for name, value in sandbox_process.environment().items():
        monkeypatch.setenv(name, value)
    yield sandbox_process
    sandbox_process.clear_faults()
    # What goes on there would be billed while the next test counts.
    sandbox_process.settle()


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit may be so short that nobody has to wait for it, as in the forker's runs."""
    monkeypatch.setattr("batchata_prefect.options._SHORTEST_SECONDS", 0.5)


@pytest.fixture
def billed(sandbox) -> Callable[[], list[Any]]:
    """What this test was billed so far, a row for each request."""
    before = len(list(sandbox.ledger.billed()))
    return lambda: list(sandbox.ledger.billed())[before:]


@pytest.fixture
def forker(prefect_server, sandbox) -> Iterator[Any]:
    """Starts runs in processes of their own, against the session's server and sandbox."""
    from tests.chaos.killing import Forker

    forker = Forker(sandbox.environment())
    yield forker
    forker.close()


@pytest.fixture
def cases(real: Path) -> Path:
    """Small inputs that failed once, where they lie beside the project."""
    path = real.parent / "cases"
    if not path.is_dir():
        pytest.skip("the cases are not here")
    return path


@pytest.fixture
def real() -> Path:
    """The recorded replies and real inputs, where they lie beside the project."""
    path = Path(os.environ.get("BATCHATA_REAL", Path(__file__).parents[2] / "shared" / "real"))
    if not path.is_dir():
        pytest.skip("the real inputs are not here")
    return path
