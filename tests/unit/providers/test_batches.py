"""Polling, canceling, downloading and connecting, with the real SDKs and the sandbox."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchata_prefect.errors import MissingCredentialsError, one_line
from batchata_prefect.models import ProviderBatch
from batchata_prefect.providers import wire
from batchata_prefect.providers.anthropic.batches import Anthropic, ResultsNotReadyError
from batchata_prefect.providers.failures import status_of
from batchata_prefect.providers.openai.batches import OpenAI

from .orders import BASE_URLS, KEYS, UNKNOWN, Order, answers, finished, rows, run


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
    """A batch that ran out of time ends as expired, with the rows that are kept of it."""
    placed = order(["a"] * 4)
    sandbox.fault(provider.name, mode="batch_expired", fraction=0.5)

    async def expire(client: Any) -> None:
        batch = await finished(provider, client, (await placed.create(client)).batch_id)
        assert batch.ending == "expired"
        outcomes = [reply.outcome for reply in (await answers(placed, client, batch)).values()]
        kept = ["expired", "expired", "succeeded", "succeeded"]
        # "The job will not have any results to retrieve" [Gemini, batch-api].
        assert sorted(outcomes) == ([] if provider.name == "gemini" else kept)

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
            await provider.poll(client, UNKNOWN[provider.name])

    run(provider, poll)


def test_an_error_tells_the_clock_as_well(sandbox, provider):
    """A create is dated by it also where the provider has not answered anything else yet."""
    sandbox.limits(clock_seconds=3600)
    sandbox.fault(provider.name, operation="retrieve", mode="status", status=403)

    async def ask(client: Any) -> None:
        with pytest.raises(Exception) as refused:
            await provider.poll(client, UNKNOWN[provider.name])
        assert status_of(refused.value) == 403
        there = wire.now(client)
        assert there is not None
        assert abs(there - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)

    try:
        run(provider, ask)
    finally:
        sandbox.limits(clock_seconds=0)


def test_a_reply_that_is_no_json_is_a_network_error(sandbox, provider, order):
    """A proxy's page with status 200 is an error that may be retried, not a crash."""
    import httpx2

    sandbox.fault(provider.name, operation="retrieve", mode="garbage", status=200)

    async def poll(client: Any) -> None:
        with pytest.raises(httpx2.DecodingError, match="not what was asked for"):
            await provider.poll(client, UNKNOWN[provider.name])

    run(provider, poll)


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
    # Of all that Azure can log in with this one alone asks nobody.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    for name in KEYS.values():
        monkeypatch.delenv(name) if key is None else monkeypatch.setenv(name, key)
    with pytest.raises(MissingCredentialsError, match=KEYS[provider.name]):
        provider.connect()


def test_a_key_with_a_line_break_is_refused_without_showing_it(provider, monkeypatch):
    """The HTTP stack would print such a key; the error names the variable only."""
    name = KEYS[provider.name]
    monkeypatch.setenv(name, "sandbox\n-secret")
    with pytest.raises(MissingCredentialsError, match=name) as refused:
        provider.connect()
    assert "secret" not in str(refused.value)


def test_the_account_is_the_base_url_without_secrets(provider, monkeypatch):
    """Where requests go is named without user and password."""
    monkeypatch.setenv(BASE_URLS[provider.name], "https://me:pw@proxy.example:8443/v1/")

    async def name(client: Any) -> str:
        return provider.account(client)

    path = "/v1/openai" if provider.name == "azure" else "/v1"
    assert run(provider, name) == f"https://proxy.example:8443{path}"


def test_a_key_that_a_gateway_repeats_is_in_no_error(sandbox, provider, monkeypatch):
    """Whatever it looks like."""
    secret, variable = "sandbox/Geheimes+Wort=7", KEYS[provider.name]
    monkeypatch.setenv(variable, secret)
    message = f"The key {secret} is unknown."
    sandbox.fault(provider.name, operation="retrieve", mode="status", status=418, message=message)

    async def poll(client: Any) -> None:
        with pytest.raises(Exception) as refused:
            await provider.poll(client, UNKNOWN[provider.name])
        error: Any = refused.value
        assert "[key] is unknown" in str(error)
        for text in (str(error), error.message, repr(error.body), repr(error.args)):
            assert "Geheimes" not in text

    run(provider, poll)


def test_the_password_of_a_base_url_is_in_no_error(provider, monkeypatch):
    """Nor the way in which it goes over the wire."""
    monkeypatch.setenv(BASE_URLS[provider.name], "https://me:pa55word@proxy.example")

    async def told(client: Any) -> str:
        return one_line(ValueError("pa55word, https://me:pa55word@proxy.example, bWU6cGE1NXdvcmQ="))

    assert run(provider, told) == "[key], https://[key]@proxy.example, [key]"


def test_a_base_url_that_is_none_is_told_without_its_password(provider, monkeypatch):
    """The HTTP stack would take a part of the password for the port, and show it."""
    monkeypatch.setenv(BASE_URLS[provider.name], "http://me:geh/eim@host:1")
    with pytest.raises(MissingCredentialsError, match=BASE_URLS[provider.name]) as refused:
        provider.connect()
    assert "geh" not in str(refused.value)
