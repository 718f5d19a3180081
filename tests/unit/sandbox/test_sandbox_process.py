"""The server as a process: starting, dying, coming back, and what it remembers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import anthropic
import openai
import psutil
import pytest

from batchata_prefect.sandbox import Sandbox, body_digest

from .conftest import (
    chat,
    claude_of,
    eventually,
    gpt_of,
    lines_of,
    make_batch,
    output,
    params,
    requests_of,
)


def test_it_starts_quickly(tmp_path: Path) -> None:
    """A test suite can afford a server of its own."""
    begun = time.monotonic()
    with Sandbox(tmp_path):
        # The promise is 1.5 s on an idle machine; this one may be busy.
        assert time.monotonic() - begun < 4


def test_everything_survives_kill_9(tmp_path: Path) -> None:
    """Batches, files, faults and limits outlive a kill; a running batch ends and is billed once."""
    with Sandbox(tmp_path, seconds=30) as server:
        claude, gpt = claude_of(server), gpt_of(server)
        first = claude.messages.batches.create(requests=requests_of(params("a"), params("b")))
        second = make_batch(gpt, lines_of(chat("c")))
        server.fault("anthropic", operation="list", mode="status", status=500)
        server.limits(max_requests=7)
        port = server.port
        server.kill()
        assert not server.running
        assert len(server.ledger.batches()) == 2
        with pytest.raises(anthropic.APIConnectionError):
            claude.messages.batches.list()
        server.start()
        assert server.port == port
        with pytest.raises(anthropic.InternalServerError):
            claude.messages.batches.list()
        with pytest.raises(anthropic.BadRequestError, match="at most 7"):
            claude.messages.batches.create(requests=requests_of(*[params()] * 8))
        assert claude.messages.batches.retrieve(first.id).created_at == first.created_at
        server.settle()
        server.kill()
        server.start()
        server.settle()
        ids = sorted(str(row.custom_id) for row in server.ledger.billed())
        assert ids == ["r-0", "r-0", "r-1"]
        assert len(list(claude.messages.batches.results(first.id))) == 2
        assert output(gpt, gpt.batches.retrieve(second.id).output_file_id)


def test_a_batch_that_was_due_while_it_was_down_has_ended(tmp_path: Path) -> None:
    """The clock runs on while the server is down."""
    with Sandbox(tmp_path, seconds=0.3) as server:
        batch = claude_of(server).messages.batches.create(requests=requests_of(params()))
        server.kill()
        time.sleep(0.4)
        server.start()
        assert [row.batch_id for row in server.ledger.billed()] == [batch.id]


@pytest.mark.parametrize("at_end", [False, True])
def test_kills_around_the_end_bill_once(tmp_path: Path, at_end: bool) -> None:
    """Killed again and again while a batch is about to end, it is billed exactly once a row."""
    count = 3000
    with Sandbox(tmp_path, seconds=0.05) as server:
        claude = claude_of(server)
        batch = claude.messages.batches.create(requests=requests_of(*[params()] * count))
        for pause in (0.0, 0.05, 0.1, 0.15) if at_end else (0.02, 0.2):
            time.sleep(pause)
            server.kill()
            server.start()
        rows = [row.custom_id for row in server.ledger.billed()]
        assert len(rows) == len(set(rows)) == count
        assert claude.messages.batches.retrieve(batch.id).request_counts.succeeded == count
        assert len(list(claude.messages.batches.results(batch.id))) == count


def test_the_ledger_names_requests_by_their_bodies(box: Sandbox) -> None:
    """body_digest does not depend on key order, and finds a request in the ledger."""
    body = params("a text of this test only")
    batch = claude_of(box).messages.batches.create(requests=requests_of(body))
    box.settle()
    (row,) = [row for row in box.ledger.billed() if row.batch_id == batch.id]
    assert row.body_digest == body_digest(dict(reversed(body.items())))
    assert (row.provider, row.custom_id, row.endpoint) == ("anthropic", "r-0", "/v1/messages")


def test_realtime_calls_are_billed_too(box: Sandbox) -> None:
    """A direct message is in the ledger without batch and custom_id, at twice the price."""
    before = list(box.ledger.billed())
    claude_of(box).messages.create(**params("[[sandbox:tokens 1000 50]]"))
    (row,) = list(box.ledger.billed())[len(before) :]
    assert (row.batch_id, row.custom_id) == (None, None)
    assert str(row.cost_usd) == "0.0025"


def test_calls_are_counted(box: Sandbox) -> None:
    """The ledger counts HTTP calls by provider and operation, refused ones included."""
    before = box.ledger.calls()
    claude = claude_of(box)
    claude.messages.batches.list()
    claude.messages.batches.list()
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.batches.create(requests=[])
    after = box.ledger.calls()
    assert after["anthropic.list"] - before.get("anthropic.list", 0) == 2
    assert after["anthropic.create"] - before.get("anthropic.create", 0) == 1


def test_the_ledger_knows_batches(box: Sandbox) -> None:
    """batches() tells provider, model, endpoint, count, status and metadata."""
    batch = make_batch(gpt_of(box), lines_of(chat(), chat()), metadata={"token": "x"})
    box.settle()
    row = box.ledger.batches()[-1]
    assert (row.id, row.provider, row.status, row.count) == (batch.id, "openai", "completed", 2)
    assert (row.model, row.endpoint) == ("gpt-6-luna", "/v1/chat/completions")
    assert row.metadata == {"token": "x"}


OWNER = """
import os, sys, time
from batchata_prefect.sandbox import Sandbox
sandbox = Sandbox().start()
print(sandbox.pid, flush=True)
time.sleep(60)
"""


def test_it_dies_with_its_owner() -> None:
    """A kill -9 of the process that started it ends the server as well."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    server = int(owner.stdout.readline())
    assert psutil.pid_exists(server)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    def gone() -> bool:
        try:
            return psutil.Process(server).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    eventually(gone, True)


def test_it_runs_in_the_foreground(tmp_path: Path) -> None:
    """The command prints one line with its address and the variables to set, and serves."""
    command = [sys.executable, "-m", "batchata_prefect.sandbox", "--port", "0"]
    command += ["--data-dir", str(tmp_path), "--seconds", "0.1", "--max-requests", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        variables = dict(word.split("=", 1) for word in line.split() if "=" in word)
        assert variables["OPENAI_BASE_URL"].endswith("/v1")
        client = anthropic.Anthropic(
            base_url=variables["ANTHROPIC_BASE_URL"], api_key=variables["ANTHROPIC_API_KEY"]
        )
        assert client.messages.batches.list().data == []
        with pytest.raises(anthropic.BadRequestError, match="at most 1 items"):
            client.messages.batches.create(requests=requests_of(params(), params()))
    finally:
        server.terminate()
        server.wait(10)
        assert server.stdout is not None
        server.stdout.close()


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    """Neither the client side nor the server imports prefect, an SDK or the rest of the package."""
    code = textwrap.dedent("""
        import sys
        import batchata_prefect.sandbox, batchata_prefect.sandbox.server
        ours = [m for m in sys.modules if m.startswith("batchata_prefect")]
        heavy = {"prefect", "anthropic", "openai", "pydantic", "genai_prices", "pypdf"}
        print([m for m in ours if not m.startswith("batchata_prefect.sandbox")])
        print(sorted(heavy & set(sys.modules)))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['batchata_prefect']", "[]"]


def test_large_batches_do_not_block_small_calls(box: Sandbox) -> None:
    """While 20,000 requests are taken and answered, other calls are served in a moment."""
    claude = claude_of(box)
    slowest = 0.0
    done = threading.Event()

    def ask() -> None:
        nonlocal slowest
        while not done.is_set():
            begun = time.monotonic()
            with urllib.request.urlopen(f"{box.url}/_sandbox/health") as response:
                response.read()
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    begun = time.monotonic()
    batch = claude.messages.batches.create(requests=requests_of(*[params()] * 20_000))
    box.settle()
    took = time.monotonic() - begun
    done.set()
    asking.join()
    assert claude.messages.batches.retrieve(batch.id).request_counts.succeeded == 20_000
    # Measured on two idle cores: 1 s, of which the SDK takes half, and 0.1 s. A busy machine makes
    # both longer.
    assert slowest < took / 2


def test_a_temporary_directory_goes_away() -> None:
    """Without a data directory nothing is left behind."""
    with Sandbox() as server:
        place = server.data_dir
        assert (place / "ledger.sqlite3").exists()
    assert not place.exists()
    assert server.pid is None


def test_stop_ends_the_process(tmp_path: Path) -> None:
    """No process stays behind, and a second stop is harmless."""
    server = Sandbox(tmp_path).start()
    pid: Any = server.pid
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_calls_on_one_connection_do_not_wait(box: Sandbox) -> None:
    """A small call takes a millisecond or two; with Nagle's algorithm on it would take 40."""
    claude = claude_of(box)
    claude.messages.batches.list(limit=1)
    took: list[float] = []
    for _ in range(50):
        begun = time.monotonic()
        claude.messages.batches.list(limit=1)
        took.append(time.monotonic() - begun)
    # The quicker ones: what else the machine does delays some, and Nagle's algorithm all.
    assert sorted(took)[10] < 0.03


def test_keys_of_its_own(box: Sandbox) -> None:
    """Where it is told its keys, any other is refused in the provider's words, and counted."""
    known = box.ledger.calls()
    box.limits(keys=["ours", "also-ours"])
    for key in ("ours", "also-ours"):
        claude_of(box, api_key=key).messages.batches.list()
        gpt_of(box, api_key=key).batches.list()
    for key in ("sandbox", "our", "ours-not"):
        with pytest.raises(anthropic.AuthenticationError, match="API key is invalid"):
            claude_of(box, api_key=key).messages.batches.list()
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
            gpt_of(box, api_key=key).batches.list()
    counts = box.ledger.calls()
    for name in ("anthropic", "openai"):
        refused = f"{name}.refused_key"
        assert counts[refused] == known.get(refused, 0) + 3
