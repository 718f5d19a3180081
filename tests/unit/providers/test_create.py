"""Creating a batch once, and what an error of it proves, with the real SDKs and the sandbox."""

from __future__ import annotations

import asyncio
import logging
import socket
import tracemalloc
from typing import Any

import pytest

from batchata_prefect.providers import wire
from batchata_prefect.providers.anthropic import batches as anthropic_batches
from batchata_prefect.providers.anthropic.batches import Anthropic
from batchata_prefect.providers.failures import NotSentError, classify, status_of
from batchata_prefect.providers.openai.batches import OpenAI

from .orders import BASE_URLS, Order, answers, finished, run


def test_a_batch_lives_from_create_to_its_answers(sandbox, provider, order):
    """Created, polled to its end, downloaded and read: each request has its answer."""
    placed = order(["One", "[[sandbox:errored invalid_request_error]]", "[[sandbox:reply Drei]]"])

    async def live(client: Any) -> None:
        made = await placed.create(client)
        assert made.state == "in_progress"
        assert made.ending is None
        assert made.created_at is not None
        batch = await finished(provider, client, made.batch_id)
        assert (batch.ending, batch.total, batch.succeeded, batch.failed) == ("ended", 3, 2, 1)
        assert batch.ended_at is not None
        # Azure's jobs go on after the 24 hours.
        assert (batch.expires_at is None) == (provider.name == "azure")
        found = await answers(placed, client, batch)
        assert set(found) == {0, 1, 2}
        assert found[0].outcome == "succeeded"
        assert found[0].usage.input_tokens > 0
        assert found[1].outcome == "errored"
        assert found[1].error
        assert found[2].text == "Drei"

    run(provider, live)


@pytest.mark.parametrize("piece", [1, 2, 5, 64, 127, 128, 1 << 18])
def test_the_create_body_is_the_same_in_pieces_of_any_size(tmp_path, monkeypatch, piece: int):
    """The streamed body is the requests between commas, of just the size that was reckoned."""
    monkeypatch.setattr(anthropic_batches, "_PIECE_BYTES", piece)
    placed = Order(Anthropic(), tmp_path / "r.jsonl", ["One", "Two, {}", "Three"])
    lines = placed.path.read_bytes().splitlines()

    async def sent() -> bytes:
        return b"".join([part async for part in anthropic_batches._body(placed.requests)])

    body = asyncio.run(sent())
    assert body == b'{"requests":[' + b",".join(lines) + b"]}"
    reckoned = Anthropic().wire_bytes(sum(map(len, lines)), len(lines))
    assert len(body) == reckoned == anthropic_batches._body_bytes(placed.requests)


def test_an_openai_file_has_the_size_that_was_reckoned(tmp_path):
    """The size of a chunk on the wire is its file's."""
    placed = Order(OpenAI(), tmp_path / "r.jsonl", ["One", "Two"])
    lines = placed.path.read_bytes().splitlines()
    assert OpenAI().wire_bytes(sum(map(len, lines)), 2) == placed.path.stat().st_size


def test_a_missing_chunk_file_is_not_taken_for_the_networks_fault(sandbox, provider, order):
    """Where the file is gone, the error is the disk's, and nothing was sent."""
    placed = order()
    placed.path.unlink()
    calls = sandbox.ledger.calls()

    async def create(client: Any) -> None:
        with pytest.raises(FileNotFoundError):
            await placed.create(client)

    run(provider, create)
    assert sandbox.ledger.calls() == calls


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
def test_a_refusal_proves_that_nothing_was_created(sandbox, provider, order, status: int):
    """A 4xx with the provider's own error means that there is no batch."""
    sandbox.fault(provider.name, operation="create", mode="status", status=status)

    async def refuse(client: Any) -> None:
        with pytest.raises(Exception) as refused:
            await order().create(client)
        assert status_of(refused.value) == status
        assert classify(refused.value).made_nothing

    run(provider, refuse)


@pytest.mark.parametrize(
    "fault",
    [
        {"mode": "status", "status": 408},
        {"mode": "status", "status": 409},
        {"mode": "status", "status": 500, "commit": True},
        {"mode": "status", "status": 529},
        {"mode": "drop_before"},
        {"mode": "drop_after"},
        {"mode": "garbage", "status": 200},
        {"mode": "garbage", "status": 403},
        {"mode": "garbage", "status": 200, "commit": True, "text": '{"id": null, "name": null}'},
        {"mode": "garbage", "status": 200, "commit": True, "text": '{"id": "", "name": ""}'},
    ],
)
def test_other_errors_of_create_leave_it_open_and_are_not_repeated(
    sandbox, provider, order, fault: dict[str, Any]
):
    """Anything but a proven refusal may have created the batch, and create is sent once."""
    sandbox.fault(provider.name, operation="create", times=None, **fault)

    async def fail(client: Any) -> None:
        calls = sandbox.ledger.calls().get(f"{provider.name}.create", 0)
        with pytest.raises(Exception) as failed:
            await order().create(client)
        assert not classify(failed.value).made_nothing
        assert sandbox.ledger.calls()[f"{provider.name}.create"] == calls + 1

    run(provider, fail)


def test_a_create_that_waits_too_long_is_left_open(sandbox, provider, order, monkeypatch):
    """A read timeout says nothing of what the provider did."""
    monkeypatch.setattr(wire, "CREATE_SECONDS", 0.2)
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 0.2)
    sandbox.fault(provider.name, operation="create", mode="delay", seconds=1.0)

    async def wait(client: Any) -> None:
        with pytest.raises(Exception) as waited:
            await order().create(client)
        assert not classify(waited.value).made_nothing

    run(provider, wait)


def test_a_refused_connection_proves_that_nothing_was_created(provider, order, monkeypatch):
    """Where nobody listens, nothing was created."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(BASE_URLS[provider.name], address)
    monkeypatch.setattr(wire, "RETRIES", 0)

    async def fail(client: Any) -> None:
        with pytest.raises(Exception) as failed:
            await order().create(client)
        assert classify(failed.value).made_nothing

    run(provider, fail)


def test_a_host_that_does_not_exist_proves_that_nothing_was_created(order, tmp_path, monkeypatch):
    """Where there is no such name, nothing was created."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://no-such-host.invalid")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    claude = Anthropic()
    placed = Order(claude, tmp_path / "r.jsonl", ["a"])

    async def fail(client: Any) -> None:
        with pytest.raises(Exception) as failed:
            await placed.create(client)
        assert classify(failed.value).made_nothing

    run(claude, fail)


@pytest.mark.parametrize(("status", "kind"), [(401, "account"), (400, "refused"), (500, "wait")])
def test_a_failed_upload_created_nothing(sandbox, tmp_path, status: int, kind: str):
    """An OpenAI file that did not arrive is no batch; the error means what the upload's means."""
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a"], str(tmp_path))
    sandbox.fault("openai", operation="upload", mode="status", status=status, times=None)

    async def fail(client: Any) -> None:
        with pytest.raises(NotSentError) as failed:
            await placed.create(client)
        assert classify(failed.value).made_nothing
        assert classify(failed.value).kind == kind
        assert "nothing was created" in str(failed.value)

    run(gpt, fail)


def test_an_upload_is_not_repeated_for_a_second_create(sandbox, tmp_path):
    """The file of a create that was refused is there already when it is created again."""
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a", "b"], str(tmp_path))
    sandbox.fault("openai", operation="create", mode="status", status=429)

    async def twice(client: Any) -> None:
        listed = sandbox.ledger.calls().get("openai.file", 0)
        with pytest.raises(Exception):  # noqa: B017 - any refusal
            await placed.create(client)
        assert sandbox.ledger.calls().get("openai.file", 0) == listed, "nothing can be there yet"
        uploads = sandbox.ledger.calls()["openai.upload"]
        batch = await placed.create(client)
        assert sandbox.ledger.calls()["openai.upload"] == uploads
        done = await finished(gpt, client, batch.batch_id)
        await gpt.discard(client, done)
        await gpt.discard(client, done)
        with pytest.raises(Exception, match="No such File"):
            await wire.get(client, f"/files/{batch.input_file_id}", "id")

    run(gpt, twice)


def test_a_file_list_that_is_refused_does_not_stop_an_upload(sandbox, tmp_path):
    """A key that may not list files, and a server that has no list, can create batches again."""
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a"], str(tmp_path))
    sandbox.fault("openai", operation="upload", mode="drop_after")
    sandbox.fault("openai", operation="file", mode="status", status=403)

    async def create(client: Any) -> None:
        with pytest.raises(Exception):  # noqa: B017 - any refusal
            await placed.create(client)
        listed = sandbox.ledger.calls().get("openai.file", 0)
        assert (await placed.create(client)).batch_id
        assert sandbox.ledger.calls()["openai.file"] > listed

    run(gpt, create)


def test_memory_does_not_grow_with_the_chunk(sandbox, provider, tmp_path):
    """A chunk of 30 MB is sent in a few megabytes of memory."""
    placed = Order(provider, tmp_path / "large.jsonl", ["x" * 1_000_000] * 30)
    assert placed.path.stat().st_size > 30_000_000

    async def create(client: Any) -> None:
        await order_small.create(client)
        tracemalloc.start()
        try:
            assert (await placed.create(client)).batch_id
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 6_000_000

    # What is imported and set up at the first call is not counted.
    order_small = Order(provider, tmp_path / "small.jsonl", ["x"])
    run(provider, create)


def test_create_works_while_the_sdks_log_their_requests(sandbox, provider, order, caplog):
    """Debug logging of the SDK, which prints its options, does not eat the body."""
    caplog.set_level(logging.DEBUG, logger=provider.name)

    async def create(client: Any) -> None:
        batch = await finished(provider, client, (await order().create(client)).batch_id)
        assert batch.total == 3

    run(provider, create)
