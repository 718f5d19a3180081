"""The verbs that speak to a provider, through the real SDKs, against the sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from batchata_prefect.errors import MissingCredentialsError, ProviderError
from batchata_prefect.models import Chunk, Job, ProviderBatch
from batchata_prefect.providers import Provider, wire
from batchata_prefect.providers.anthropic import Anthropic, ResultsNotReadyError
from batchata_prefect.providers.openai import OpenAI, UploadError

T = TypeVar("T")
NOBODY: frozenset[str] = frozenset()


class Order:
    """A chunk and its file, ready to be created."""

    def __init__(self, provider: Provider, path: Path, prompts: list[str], salt: str = "") -> None:
        claude = provider.name == "anthropic"
        model = "claude-sonnet-5-5" if claude else "gpt-6-luna"
        bodies = [
            provider.render(Job(id=str(at), model=model, prompt=prompt, max_tokens=50)).body
            for at, prompt in enumerate(prompts)
        ]
        self.provider = provider
        self.path = path
        self.chunk = Chunk(
            sequence=0,
            round=0,
            token=hashlib.sha256(b"\n".join([salt.encode(), *bodies])).hexdigest(),
            provider=provider.name,
            endpoint="/v1/messages" if claude else "/v1/chat/completions",
            model=model,
            count=len(bodies),
            size_bytes=0,
            input_tokens=0,
            output_tokens=0,
            reserved_usd=None,
        )
        with path.open("wb") as file:
            for at, body in enumerate(bodies):
                line = provider.line(self.chunk.custom_id(at), body, self.chunk.endpoint)
                file.write(line + b"\n")

    async def create(self, client: Any) -> ProviderBatch:
        return await self.provider.create(client, self.chunk, self.path)

    async def find(self, client: Any, known: frozenset[str] = NOBODY) -> Any:
        return await self.provider.find(client, self.chunk, datetime.now(UTC), known)


@pytest.fixture(params=["anthropic", "openai"])
def provider(request: pytest.FixtureRequest, sandbox: Any) -> Provider:
    return Anthropic() if request.param == "anthropic" else OpenAI()


@pytest.fixture
def order(provider: Provider, tmp_path: Path) -> Callable[..., Order]:
    def make(prompts: list[str] | None = None, salt: str = "") -> Order:
        path = tmp_path / f"requests-{salt}.jsonl"
        return Order(provider, path, prompts or ["One", "Two", "Three"], salt or str(tmp_path))

    return make


@asynccontextmanager
async def connected(provider: Provider) -> AsyncIterator[Any]:
    client = provider.connect()
    try:
        yield client
    finally:
        await client.close()


def run(provider: Provider, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run `work` with a connected client, and close it."""

    async def main() -> T:
        async with connected(provider) as client:
            return await work(client)

    return asyncio.run(main())


async def finished(provider: Provider, client: Any, batch_id: str) -> ProviderBatch:
    while (batch := await provider.poll(client, batch_id)).state != "ended":
        await asyncio.sleep(0.02)
    return batch


async def rows(provider: Provider, client: Any, batch: ProviderBatch) -> list[bytes]:
    data = b"".join([piece async for piece in provider.download(client, batch)])
    return [row for row in data.split(b"\n") if row]


async def answers(order: Order, client: Any, batch: ProviderBatch) -> dict[int | None, Any]:
    replies = [
        order.provider.read(row, order.chunk.endpoint)
        for row in await rows(order.provider, client, batch)
    ]
    return {order.chunk.ordinal(reply.custom_id): reply for reply in replies}


def billed(sandbox: Any) -> list[str]:
    return [row.custom_id for row in sandbox.ledger.billed()]


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
        assert batch.expires_at is not None
        found = await answers(placed, client, batch)
        assert set(found) == {0, 1, 2}
        assert found[0].outcome == "succeeded"
        assert found[0].usage.input_tokens > 0
        assert found[1].outcome == "errored"
        assert found[1].error
        assert found[2].text == "Drei"

    run(provider, live)


def test_wire_bytes_are_those_that_are_sent(provider, order):
    """The size of a chunk on the wire is reckoned to the byte."""
    placed = order()
    lines = placed.path.read_bytes().splitlines()
    reckoned = provider.wire_bytes(sum(map(len, lines)), len(lines))
    if provider.name == "openai":
        assert reckoned == placed.path.stat().st_size
        return
    from batchata_prefect.providers.anthropic import _body, _body_bytes

    async def sent() -> bytes:
        return b"".join([piece async for piece in _body(placed.path)])

    assert len(asyncio.run(sent())) == reckoned == _body_bytes(placed.path)


def test_a_created_batch_whose_reply_is_lost_is_found(sandbox, provider, order):
    """After a create that was committed and whose reply was lost, the search gives the batch."""
    placed = order()
    sandbox.fault(provider.name, operation="create", mode="drop_after")

    async def lose(client: Any) -> None:
        with pytest.raises(Exception) as lost:
            await placed.create(client)
        assert not provider.created_nothing(lost.value)
        found = await placed.find(client)
        while found.batch is None:
            assert found.undecided
            await asyncio.sleep(0.02)
            found = await placed.find(client)
        batch = await finished(provider, client, found.batch.batch_id)
        assert set(await answers(placed, client, batch)) == {0, 1, 2}
        assert (await placed.find(client, frozenset({batch.batch_id}))).batch is None

    before = sandbox.ledger.calls().get(f"{provider.name}.create", 0)
    run(provider, lose)
    assert sandbox.ledger.calls()[f"{provider.name}.create"] == before + 1
    mine = [name for name in billed(sandbox) if placed.chunk.ordinal(name) is not None]
    assert sorted(mine) == [placed.chunk.custom_id(at) for at in range(3)]


def test_a_batch_that_looks_alike_is_not_adopted(sandbox, provider, order):
    """Someone else's batch of the same time and size is not ours, whatever it holds."""
    placed, other = order(salt="mine"), order(salt="theirs")
    sandbox.fault(provider.name, operation="create", mode="drop_before")

    async def look(client: Any) -> None:
        with pytest.raises(Exception) as lost:
            await placed.create(client)
        assert not provider.created_nothing(lost.value)
        theirs = await other.create(client)
        await finished(provider, client, theirs.batch_id)
        found = await placed.find(client)
        assert (found.batch, found.undecided) == (None, ())

    run(provider, look)


def test_an_open_look_alike_keeps_an_anthropic_search_open(sandbox, tmp_path):
    """While a batch of the same size is open, nobody can tell, and the search says so."""
    claude = Anthropic()
    placed = Order(claude, tmp_path / "mine.jsonl", ["Mine"] * 5, "mine")
    other = Order(claude, tmp_path / "theirs.jsonl", ["Theirs"] * 5, "theirs")
    larger = Order(claude, tmp_path / "larger.jsonl", ["Theirs"] * 6, "larger")
    sandbox.limits(seconds=30)

    async def look(client: Any) -> None:
        theirs = await other.create(client)
        await larger.create(client)
        assert (await placed.find(client)).undecided == (theirs.batch_id,)
        assert (await placed.find(client, frozenset({theirs.batch_id}))).undecided == ()
        sandbox.settle()
        sandbox.fault("anthropic", mode="results_not_ready")
        assert (await placed.find(client)).undecided == (theirs.batch_id,)
        assert (await placed.find(client)).undecided == ()

    try:
        run(claude, look)
    finally:
        sandbox.limits(seconds=0.1)


def test_the_search_goes_through_all_pages_of_its_time(sandbox, provider, order, monkeypatch):
    """A batch that is not on the first page of the list is found as well."""
    monkeypatch.setattr(wire, "PAGE", 2)
    placed = order(salt="first")

    async def look(client: Any) -> None:
        made = await placed.create(client)
        await finished(provider, client, made.batch_id)
        for at in range(5):
            await order(["x"], salt=f"later-{at}").create(client)
        found = await placed.find(client)
        assert found.batch is not None
        assert found.batch.batch_id == made.batch_id

    run(provider, look)


def test_a_search_does_not_reach_behind_its_time(sandbox, provider, order, monkeypatch):
    """Pages older than the intent, with a margin for the clocks, are not asked for."""
    monkeypatch.setattr(wire, "PAGE", 1)
    placed = order(salt="old")

    async def look(client: Any) -> None:
        await finished(provider, client, (await placed.create(client)).batch_id)
        await finished(provider, client, (await order(["x"], salt="new").create(client)).batch_id)
        calls = sandbox.ledger.calls()[f"{provider.name}.list"]
        later = datetime.now(UTC) + 2 * wire.CLOCK_MARGIN
        found = await provider.find(client, placed.chunk, later, NOBODY)
        assert (found.batch, found.undecided) == (None, ())
        assert sandbox.ledger.calls()[f"{provider.name}.list"] == calls + 1

    async def list_once(client: Any) -> None:
        await placed.find(client)

    run(provider, list_once)
    run(provider, look)


def test_a_canceled_batch_gives_what_it_has(sandbox, provider, order):
    """Cancel goes on to an end whose rows can be read, and an ended batch stays as it is."""
    placed = order(["a"] * 20)
    sandbox.limits(seconds=2)

    async def cancel(client: Any) -> None:
        made = await placed.create(client)
        while (await provider.poll(client, made.batch_id)).raw_status == "validating":
            await asyncio.sleep(0.02)
        canceled = await provider.cancel(client, made.batch_id)
        assert canceled.state in {"canceling", "ended"}
        sandbox.settle()
        batch = await provider.poll(client, made.batch_id)
        assert (batch.state, batch.ending) == ("ended", "canceled")
        outcomes = {reply.outcome for reply in (await answers(placed, client, batch)).values()}
        assert "canceled" in outcomes
        assert outcomes <= {"canceled", "succeeded"}
        assert await provider.cancel(client, made.batch_id) == batch

    try:
        run(provider, cancel)
    finally:
        sandbox.limits(seconds=0.1)


def test_an_expired_batch_says_so(sandbox, provider, order):
    """A batch that ran out of time ends as expired, with the rows that it finished."""
    placed = order(["a"] * 4)
    sandbox.fault(provider.name, mode="batch_expired", fraction=0.5)

    async def expire(client: Any) -> None:
        batch = await finished(provider, client, (await placed.create(client)).batch_id)
        assert batch.ending == "expired"
        outcomes = [reply.outcome for reply in (await answers(placed, client, batch)).values()]
        assert sorted(outcomes) == ["expired", "expired", "succeeded", "succeeded"]

    run(provider, expire)


def test_an_unknown_status_counts_as_running(sandbox, provider, order):
    """A status of tomorrow is kept as it came, and waited out."""
    placed = order()

    async def poll(client: Any) -> None:
        made = await placed.create(client)
        await finished(provider, client, made.batch_id)
        sandbox.fault(provider.name, mode="unknown_status", word="pondering")
        batch = await provider.poll(client, made.batch_id)
        assert (batch.state, batch.raw_status, batch.ending) == ("in_progress", "pondering", None)

    run(provider, poll)


def test_a_batch_refused_as_a_whole_names_its_faults(sandbox, tmp_path):
    """OpenAI's validation errors come with code, text and line."""
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a"], str(tmp_path))
    line = placed.path.read_bytes()
    placed.path.write_bytes(line + line)

    async def refuse(client: Any) -> None:
        batch = await finished(gpt, client, (await placed.create(client)).batch_id)
        assert batch.ending == "failed"
        assert [(fault.code, fault.line) for fault in batch.faults] == [("duplicate_custom_id", 2)]
        assert batch.faults[0].message
        assert await rows(gpt, client, batch) == []

    run(gpt, refuse)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
def test_a_refusal_proves_that_nothing_was_created(sandbox, provider, order, status: int):
    """A 4xx with the provider's own error means that there is no batch."""
    sandbox.fault(provider.name, operation="create", mode="status", status=status)

    async def refuse(client: Any) -> None:
        with pytest.raises(Exception) as refused:
            await order().create(client)
        assert wire.status_of(refused.value) == status
        assert provider.created_nothing(refused.value)

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
        assert not provider.created_nothing(failed.value)
        assert sandbox.ledger.calls()[f"{provider.name}.create"] == calls + 1

    run(provider, fail)


def test_a_create_that_waits_too_long_is_left_open(sandbox, provider, order, monkeypatch):
    """A read timeout says nothing of what the provider did."""
    monkeypatch.setattr(wire, "TRANSFER_SECONDS", 0.2)
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 0.2)
    sandbox.fault(provider.name, operation="create", mode="delay", seconds=1.0)

    async def wait(client: Any) -> None:
        with pytest.raises(Exception) as waited:
            await order().create(client)
        assert not provider.created_nothing(waited.value)

    run(provider, wait)


def test_a_refused_connection_proves_that_nothing_was_created(provider, order, monkeypatch):
    """Where nobody listens, nothing was created."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(f"{provider.name.upper()}_BASE_URL", address)
    monkeypatch.setattr(wire, "RETRIES", 0)

    async def fail(client: Any) -> None:
        with pytest.raises(Exception) as failed:
            await order().create(client)
        assert provider.created_nothing(failed.value)

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
        assert claude.created_nothing(failed.value)

    run(claude, fail)


@pytest.mark.parametrize(("status", "told"), [(401, 401), (500, None)])
def test_a_failed_upload_created_nothing(sandbox, tmp_path, monkeypatch, status: int, told: Any):
    """An OpenAI file that did not arrive is no batch; only a refusal keeps its status."""
    monkeypatch.setattr(wire, "RETRIES", 0)
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a"], str(tmp_path))
    sandbox.fault("openai", operation="upload", mode="status", status=status, times=None)

    async def fail(client: Any) -> None:
        with pytest.raises(UploadError) as failed:
            await placed.create(client)
        assert gpt.created_nothing(failed.value)
        assert failed.value.status_code == told
        assert "nothing was created" in str(failed.value)

    run(gpt, fail)


def test_an_upload_is_not_repeated_for_a_second_create(sandbox, tmp_path):
    """The file of a create that was refused is there already when it is created again."""
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a", "b"], str(tmp_path))
    sandbox.fault("openai", operation="create", mode="status", status=429)

    async def twice(client: Any) -> None:
        with pytest.raises(Exception):  # noqa: B017 - any refusal
            await placed.create(client)
        uploads = sandbox.ledger.calls()["openai.upload"]
        batch = await placed.create(client)
        assert sandbox.ledger.calls()["openai.upload"] == uploads
        done = await finished(gpt, client, batch.batch_id)
        await gpt.discard(client, done)
        await gpt.discard(client, done)
        with pytest.raises(Exception, match="No such File"):
            await wire.get(client, f"/files/{batch.input_file_id}", "id")

    run(gpt, twice)


def test_results_that_are_not_ready_are_told_apart(sandbox, tmp_path):
    """An ended Anthropic batch without results raises an error of its own."""
    claude = Anthropic()
    placed = Order(claude, tmp_path / "r.jsonl", ["a"], str(tmp_path))

    async def read(client: Any) -> None:
        batch = await finished(claude, client, (await placed.create(client)).batch_id)
        sandbox.fault("anthropic", mode="results_not_ready")
        with pytest.raises(ResultsNotReadyError, match=batch.batch_id):
            await rows(claude, client, batch)
        assert len(await rows(claude, client, batch)) == 1

    run(claude, read)


def test_output_and_error_rows_are_kept_apart(sandbox, tmp_path, monkeypatch):
    """A file without a last line break does not run into the next one."""
    gpt = OpenAI()

    async def cut(client: Any, path: str) -> AsyncIterator[bytes]:
        yield b'{"file":"%b"}' % path.encode()

    monkeypatch.setattr(wire, "stream", cut)
    batch = ProviderBatch("b", "ended", "completed", output_file_id="o", error_file_id="e")

    async def read(client: Any) -> list[bytes]:
        return await rows(gpt, client, batch)

    assert run(gpt, read) == [b'{"file":"/files/o/content"}', b'{"file":"/files/e/content"}']


@pytest.mark.parametrize("operation", ["retrieve", "list"])
def test_free_calls_are_repeated_by_the_sdk(sandbox, provider, order, operation: str):
    """One dropped connection of a free call goes unnoticed."""
    placed = order()

    async def poll(client: Any) -> None:
        made = await placed.create(client)
        sandbox.fault(provider.name, operation=operation, mode="drop_after")
        if operation == "retrieve":
            assert (await provider.poll(client, made.batch_id)).batch_id == made.batch_id
        else:
            await placed.find(client)

    run(provider, poll)


def test_a_long_retry_after_does_not_block_a_call(sandbox, provider, order, monkeypatch):
    """The SDKs would sleep for as long as they are told; the call ends before."""
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 0.3)
    sandbox.fault(
        provider.name,
        operation="retrieve",
        mode="status",
        status=529,
        headers={"retry-after": "60"},
    )

    async def poll(client: Any) -> None:
        with pytest.raises(TimeoutError, match="no answer within"):
            await provider.poll(client, "msgbatch_x")

    run(provider, poll)


def test_a_reply_that_is_no_json_is_a_network_error(sandbox, provider, order):
    """A proxy's page with status 200 is an error that may be retried, not a crash."""
    import httpx2

    sandbox.fault(provider.name, operation="retrieve", mode="garbage", status=200)

    async def poll(client: Any) -> None:
        with pytest.raises(httpx2.DecodingError, match="not what was asked for"):
            await provider.poll(client, "msgbatch_x")

    run(provider, poll)


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


def test_no_key_gets_into_errors(sandbox, tmp_path, monkeypatch):
    """The part of a key that OpenAI's 401 quotes is taken out of the error, its cause and body."""
    secret = "sk-proj-abcdef1234567890"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    gpt = OpenAI()
    placed = Order(gpt, tmp_path / "r.jsonl", ["a"])

    async def refuse(client: Any) -> None:
        for call in (gpt.poll(client, "batch_x"), placed.create(client), placed.find(client)):
            with pytest.raises(Exception) as refused:
                await call
            shown = "".join(traceback.format_exception(refused.value))
            body = repr(getattr(refused.value, "body", None))
            assert "401" in shown
            assert "sk-" not in shown + body
            assert "7890" not in shown + body

    run(gpt, refuse)


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_names_its_variable(provider, monkeypatch, key: str | None, tmp_path):
    """Without a key, the error says which variable to set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name) if key is None else monkeypatch.setenv(name, key)
    with pytest.raises(MissingCredentialsError, match=f"{provider.name.upper()}_API_KEY"):
        provider.connect()


def test_a_key_with_a_line_break_is_refused_without_showing_it(provider, monkeypatch):
    """The HTTP stack would print such a key; the error names the variable only."""
    name = f"{provider.name.upper()}_API_KEY"
    monkeypatch.setenv(name, "sandbox-secret\n")
    with pytest.raises(MissingCredentialsError, match=name) as refused:
        provider.connect()
    assert "secret" not in str(refused.value)


def test_the_account_is_the_base_url_without_secrets(provider, monkeypatch):
    """Where requests go is named without user and password."""
    monkeypatch.setenv(f"{provider.name.upper()}_BASE_URL", "https://me:pw@proxy.example:8443/v1/")

    async def name(client: Any) -> str:
        return provider.account(client)

    assert run(provider, name) == "https://proxy.example:8443/v1"


def test_a_look_alike_whose_results_are_gone_needs_a_person(sandbox, tmp_path, monkeypatch):
    """An archived candidate cannot be told apart any more; the error says so and names it."""
    claude = Anthropic()
    placed = Order(claude, tmp_path / "r.jsonl", ["a"] * 3)
    item = {
        "id": "msgbatch_old",
        "processing_status": "ended",
        "request_counts": {"succeeded": 3},
        "created_at": "2026-10-01T00:00:00Z",
        "archived_at": "2026-10-30T00:00:00Z",
    }

    async def listed(*_: Any) -> list[dict[str, Any]]:
        return [item]

    monkeypatch.setattr(wire, "batches_since", listed)

    async def look(client: Any) -> None:
        with pytest.raises(ProviderError, match=r"msgbatch_old.*results are gone"):
            await placed.find(client)

    run(claude, look)
