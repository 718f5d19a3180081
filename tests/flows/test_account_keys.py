"""Every call of every kind goes with the key of its own account, and no key is written anywhere.

Two accounts of each of two kinds have a server each, which takes the key of no other.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_HOME, PREFECT_SERVER_DATABASE_CONNECTION_URL
from pypdf import PdfWriter
from starlette.testclient import TestClient

from batchata_prefect import Batch, BatchSubmissionError
from batchata_prefect.blocks import AnthropicCredentials, OpenAICredentials
from batchata_prefect.collector.inflight import adopt, cancel, open_run, status
from batchata_prefect.deployed import jobs_from_file
from batchata_prefect.sandbox import Sandbox
from batchata_prefect.webhook import application
from tests.flows.endpoints import (
    KINDS,
    MODELS,
    PRICES,
    address_of,
    billed_of,
    key_of,
    strangers,
    tables,
    variable_of,
)
from tests.flows.test_collecting import SECRET, signed

pytestmark = pytest.mark.usefixtures("prefect_server")

CALLS = {
    "anthropic": ["upload", "create", "list", "retrieve", "results", "cancel", "message", "delete"],
    "openai": ["upload", "create", "list", "retrieve", "content", "cancel", "message", "delete"],
}


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """A PDF that is large enough for an upload."""
    writer = PdfWriter(Path(__file__).parents[2] / "flows" / "documents" / "invoice-1042.pdf")
    writer.add_attachment("noise.bin", os.urandom(150_000))
    path = tmp_path / "large.pdf"
    writer.write(path)
    return path


@pytest.fixture
def unhurried(servers: dict[str, Sandbox]) -> Iterator[Callable[[float], None]]:
    """Sets how long the batches of all servers take."""

    def set_all(seconds: float) -> None:
        for box in servers.values():
            box.limits(seconds=seconds)

    yield set_all
    set_all(0.1)
    for box in servers.values():
        box.settle()


def taking_all(servers: dict[str, Sandbox]) -> dict[str, dict[str, str]]:
    """The accounts, where servers of OpenAI's kind take documents too."""
    found = tables(servers)
    for name, kind in KINDS.items():
        if kind == "openai":
            found[name]["profile"] = "openai"
    return found


def make(out: Path, servers: dict[str, Sandbox], pdf: Path, count: int) -> Batch:
    batch = Batch(out, accounts=taking_all(servers), prices=PRICES, upload_files=True)
    batch.set_state(out / "state").add_cost_limit(usd=5)
    for name, kind in KINDS.items():
        for n in range(count):
            batch.add_job(
                prompt=f"{out} {n}",
                file=pdf,
                model=MODELS[kind],
                provider=name,
                max_tokens=300,
                id=f"{name}-{n}",
            )
    return batch


def check_written(keys: list[str], *folders: Path) -> None:
    """No key stands in a file below the folders, nor in the database of Prefect's server."""
    database = Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().partition(":///")[2])
    with closing(sqlite3.connect(database)) as connection:
        told = "\n".join(connection.iterdump()).encode()
    assert b"batchata" in told
    for folder in (*folders, PREFECT_HOME.value() / "storage"):
        told += b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not [key for key in keys if key.encode() in told]


def test_each_call_has_the_key_of_its_account(
    servers: dict[str, Sandbox],
    unhurried: Callable[[float], None],
    pdf: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Uploads, a canary, lost creates, a run that is left and canceled, realtime requests."""
    out = tmp_path / "out"
    known, before = strangers(servers), billed_of(servers)
    batches = {name: len(box.ledger.batches()) for name, box in servers.items()}
    others = {each.id for box in servers.values() for each in box.ledger.batches()}
    called = {name: box.ledger.calls() for name, box in servers.items()}
    for box in servers.values():
        box.fault(operation="create", mode="drop_after")
    run = make(out, servers, pdf, 2).run(canary=2)
    assert {result.error for result in run.iter_results()} == {None}

    unhurried(60)

    def leave(*_: Any) -> None:
        assert batch.latest_run is not None
        made = (len(box.ledger.batches()) - batches[name] for name, box in servers.items())
        if set(made) == {3}:
            batch.latest_run.cancel(detach=True)

    batch = make(out, servers, pdf, 3)
    left = batch.run(leave, 0.05)
    assert left.manifest is not None
    assert left.manifest["status"] == "detached"

    async def without_the_run() -> tuple[Any, Any, Any]:
        known = await open_run(out, state=str(out / "state"))
        seen, (adopted, unclaimed) = await status(known), await adopt(known)
        return seen, (adopted, unclaimed), await cancel(known)

    seen, (adopted, unclaimed), canceled = asyncio.run(without_the_run())
    assert Counter(line.entry.chunk.provider for line in seen) == dict.fromkeys(KINDS, 1)
    assert (adopted, len(canceled)) == ([], len(KINDS))
    assert {ours.batch.batch_id for ours in unclaimed} <= others

    batch = make(out, servers, pdf, 4)
    batch.add_time_limit(seconds=60, on_deadline="realtime", realtime_usd=1, margin_seconds=59)
    run = batch.run()
    assert {result.error for result in run.iter_results()} == {None}

    for name, box in servers.items():
        kind, calls = KINDS[name], box.ledger.calls()
        missing = [
            call
            for call in (f"{kind}.{each}" for each in CALLS[kind])
            if calls.get(call, 0) == called[name].get(call, 0)
        ]
        assert not missing, calls
        digests = [row.body_digest for row in box.ledger.billed()][before[name] :]
        assert len(set(digests)) == len(digests) == 4
    assert strangers(servers) == known

    # A key that is refused is in no text either; the other accounts' jobs are answered.
    unhurried(0.1)
    dead = ["lab", "team"]
    for name in dead:
        servers[name].limits(keys=["another"])
    batch = make(tmp_path / "refused", servers, pdf, 1)
    try:
        with pytest.raises(BatchSubmissionError, match="lab refused a document") as refused:
            batch.run()
    finally:
        for name in dead:
            servers[name].limits(keys=[key_of(name)])
    refused_run = batch.latest_run
    assert refused_run is not None
    codes = {result.job_id: result.error_code for result in refused_run.iter_results()}
    assert codes == {f"{name}-0": "provider_refused" if name in dead else None for name in KINDS}
    keys = [key_of(name) for name in KINDS]
    check_written(keys, tmp_path)
    said = "".join(capfd.readouterr()) + str(refused.value)
    for each in (run, refused_run):
        said += orjson.dumps(each.to_json(), default=str).decode()
    assert "Incorrect API key" in said
    assert "Refused as well, as the log says: team" in said
    assert not [key for key in keys if key in said]


def save_blocks(servers: dict[str, Sandbox]) -> None:
    for name, kind in KINDS.items():
        block = {"openai": OpenAICredentials, "anthropic": AnthropicCredentials}[kind]
        told = {"api_key": key_of(name), "base_url": address_of(name, servers)}
        block(**told).save(f"keys-{name}", overwrite=True)


def of_blocks(servers: dict[str, Sandbox]) -> dict[str, dict[str, str]]:
    """The accounts, each with its key in a block."""
    return {
        name: {
            "kind": kind,
            "base_url": address_of(name, servers),
            "credentials": f"keys-{name}",
        }
        for name, kind in KINDS.items()
    }


def test_asleep_and_woken_with_keys_in_blocks(
    servers: dict[str, Sandbox],
    unhurried: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A deployed run suspends, a webhook has the collector ask all servers, and it is collected."""
    for name in KINDS:
        monkeypatch.delenv(variable_of(name))
    monkeypatch.setenv("BATCHATA_SUSPEND_SECONDS", "0.3")
    save_blocks(servers)
    unhurried(3600)
    before = billed_of(servers)
    known = strangers(servers)
    jobs = tmp_path / "jobs.jsonl"
    rows = [
        {"id": name, "prompt": f"{tmp_path}", "model": MODELS[kind], "provider": name}
        for name, kind in KINDS.items()
    ]
    jobs.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    parameters = {
        "jobs": str(jobs),
        "results_dir": str(tmp_path / "out"),
        "state": str(tmp_path / "state"),
        "accounts": of_blocks(servers),
        "prices": PRICES,
        "cost_limit_usd": 1,
        "max_tokens": 300,
        "wait": "suspend",
    }
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(jobs_from_file)
        made = client.create_deployment(flow_id, "with accounts")
        started = client.create_flow_run_from_deployment(made, parameters=parameters)

        def go_on() -> str:
            """What a worker does: the name of the state that it ends in."""
            flow_run = client.read_flow_run(started.id)
            with suppress(Pause):
                run: Any = run_flow(jobs_from_file, flow_run, flow_run.parameters)
                asyncio.run(run)
            return str(client.read_flow_run(started.id).state_name)

        assert go_on() == "Suspended"
        for box in servers.values():
            box.settle()
        body = orjson.dumps({"type": "batch.completed", "data": {"id": "batch_of_lab"}})
        with TestClient(application(SECRET)) as receiver:
            assert receiver.post("/openai", content=body, headers=signed(body)).status_code == 204
            until(lambda: client.read_flow_run(started.id).state_name == "Resuming")
        assert go_on() == "Completed"
    assert strangers(servers) == known
    assert billed_of(servers) == {name: count + 1 for name, count in before.items()}
    check_written([key_of(name) for name in KINDS], tmp_path)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
