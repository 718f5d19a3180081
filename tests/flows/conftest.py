"""What the sandbox was asked for in a test, and servers: of Prefect, and with keys of their own."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from batchata_prefect.sandbox import Sandbox
from tests.flows.endpoints import KINDS, key_of, variable_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory, prefect_tables: Path) -> Iterator[Any]:
    """A Prefect server that records task runs and acts on events."""
    home = tmp_path_factory.mktemp("server")
    (home / "prefect").mkdir()
    shutil.copyfile(prefect_tables, home / "prefect" / "prefect.db")
    native = runpy.run_path(str(ROOT / "deployments" / "native.py"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TASK_RUN_RECORDER", "TRIGGERS"):
            patch.setenv(f"PREFECT_SERVER_SERVICES_{name}_ENABLED", "true")
        with native["stack"](home, postgres=False) as stack:
            yield stack


@pytest.fixture(scope="module")
def recording(recorder: Any) -> Iterator[Any]:
    """That server, as the one of all runs of a module."""
    told = {
        PREFECT_API_URL: recorder.environment["PREFECT_API_URL"],
        PREFECT_LOCAL_STORAGE_PATH: recorder.directory / "records",
    }
    with temporary_settings(told):
        # That of earlier tests would go on telling their server.
        EventsWorker.drain_all()
        yield recorder
        # What is not told before the server ends is tried for ever when the process ends.
        EventsWorker.drain_all()


@pytest.fixture
def bodies(billed: Callable[[], list[Any]]) -> Callable[[], list[str]]:
    """Digests of the requests that this test was billed for."""
    return lambda: [row.body_digest for row in billed()]


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sandbox]]:
    """A server for each account, which takes the key of no other."""
    found = {name: Sandbox(tmp_path_factory.mktemp(f"box-{name}"), seconds=0.1) for name in KINDS}
    with ExitStack() as stack, ThreadPoolExecutor(len(found)) as pool:
        # At once: each takes a second.
        list(pool.map(Sandbox.start, found.values()))
        for name, box in found.items():
            stack.callback(box.stop)
            box.limits(keys=[key_of(name)])
        yield found


@pytest.fixture
def servers(
    boxes: dict[str, Sandbox], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Sandbox]]:
    """The servers, with each key in a variable of its own, and none of the kinds."""
    for name, kind in KINDS.items():
        for what in ("API_KEY", "BASE_URL"):
            monkeypatch.delenv(f"{kind.upper()}_{what}", raising=False)
        monkeypatch.setenv(variable_of(name), key_of(name))
    yield boxes
    for box in boxes.values():
        box.clear_faults()
        # What goes on there would be billed while the next test counts.
        box.settle()
