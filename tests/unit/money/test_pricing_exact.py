"""Input tokens counted by the provider are those that it bills, whatever gets in the way."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from batchata_prefect.errors import ProviderError, ValidationError
from batchata_prefect.models import Job
from batchata_prefect.providers import provider_for
from batchata_prefect.providers.exact import can_count, counted_bound, exact_input_tokens

pytestmark = pytest.mark.anyio

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Invoice(BaseModel):
    number: str
    total: float


def pdf() -> bytes:
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(200, 200)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)

ASKED: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "How many tokens are in this?"},
    "all parameters": {
        "prompt": "Say it",
        "max_tokens": 4_000,
        "params": {"system": "You are brief.", "metadata": {"user_id": "u1"}},
    },
    "answer form": {"prompt": "Read it", "response_model": Invoice},
    "pdf": {"prompt": "Read it", "file": pdf()},
    "image": {"prompt": "See it", "file": PNG},
    "dialogue": {
        "messages": [
            {"role": "user", "content": "One and one?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "And one more?"},
        ]
    },
}


def rendered(model: str, asked: dict[str, Any], endpoint: str | None = None) -> Any:
    job = Job(id="j", model=model, endpoint=endpoint, **asked)
    if "openai" in type(provider_for(model)).__module__ and "metadata" in asked.get("params", {}):
        job = Job(id="j", model=model, endpoint=endpoint, prompt="Say it", params={"store": True})
    return provider_for(model).render(job)


async def counted(model: str, bodies: list[bytes], endpoint: str, **options: Any) -> list[int]:
    provider = provider_for(model)
    async with provider.connect() as client:
        found = exact_input_tokens(provider.name, client, bodies, endpoint, **options)
        return [tokens async for tokens in found]


async def billed(model: str, body: bytes, endpoint: str) -> int:
    import httpx2

    provider = provider_for(model)
    path = endpoint.removeprefix("/v1") if provider.name == "openai" else endpoint
    async with provider.connect() as client:
        reply = await client.post(path, cast_to=httpx2.Response, body=orjson.loads(body))
        usage = orjson.loads(reply.content)["usage"]
    return usage.get("input_tokens", usage.get("prompt_tokens"))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("model", "endpoint"),
    [(CLAUDE, "/v1/messages"), (GPT, "/v1/chat/completions"), (GPT, "/v1/responses")],
)
async def test_counted_is_billed(sandbox, model, endpoint, asked):
    """What the provider counts of a rendered request is what it bills for the same request."""
    request = rendered(model, ASKED[asked], None if endpoint == "/v1/messages" else endpoint)
    assert request.endpoint == endpoint
    (tokens,) = await counted(model, [request.body], endpoint)
    assert tokens == await billed(model, request.body, endpoint)
    assert 0 < tokens <= request.estimate.input_bound


async def test_tools_of_a_chat_are_counted(sandbox):
    """A chat with calls of tools and their results is counted as the response that says it."""
    function = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    messages = [
        {"role": "user", "content": "Add it"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "three, or about that"},
    ]
    body = {
        "model": GPT,
        "messages": messages,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": function}],
    }
    more = {**body, "messages": [*messages, {"role": "user", "content": "Thank you so much"}]}
    bodies = [orjson.dumps(each) for each in (body, more)]
    first, second = await counted(GPT, bodies, "/v1/chat/completions")
    assert 0 < first < second


async def test_counts_come_in_order(sandbox):
    """Sixty counts in parallel come back in the order of the requests."""
    bodies = [rendered(CLAUDE, {"prompt": "word " * n}).body for n in range(1, 61)]
    tokens = await counted(CLAUDE, bodies, "/v1/messages", at_once=7, per_second=1_000)
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == 60


async def test_requests_are_read_as_their_turn_comes(sandbox):
    """No more requests are in memory than calls are in flight, also when nobody asks for more."""
    taken = 0

    def bodies():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield rendered(CLAUDE, {"prompt": "Hi"}).body

    provider = provider_for(CLAUDE)
    async with provider.connect() as client:
        found = exact_input_tokens("anthropic", client, bodies(), "/v1/messages", at_once=5)
        await anext(found)
        await asyncio.sleep(0.2)
        await found.aclose()
    assert taken <= 6


async def test_a_rate_is_kept(sandbox):
    """At 20 calls a second, nine take no less than 0.4 seconds."""
    bodies = [rendered(CLAUDE, {"prompt": "Hi"}).body] * 9
    began = time.monotonic()
    await counted(CLAUDE, bodies, "/v1/messages", per_second=20)
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    "fault",
    [
        {"mode": "status", "status": 429, "headers": {"retry-after": "0.2"}},
        {"mode": "status", "status": 529},
        {"mode": "status", "status": 500},
        {"mode": "drop_before"},
    ],
)
@pytest.mark.parametrize(("model", "endpoint"), [(CLAUDE, "/v1/messages"), (GPT, "/v1/responses")])
async def test_trouble_is_waited_out(sandbox, model, endpoint, fault):
    """Limits, failures and dropped connections delay a count and change nothing of it."""
    bodies = [rendered(model, {"prompt": "word " * n}, endpoint).body for n in (3, 4, 5)]
    expected = await counted(model, bodies, endpoint)
    sandbox.fault(operation="count_tokens", times=2, **fault)
    assert await counted(model, bodies, endpoint) == expected


async def test_one_refusal_slows_all_calls(sandbox):
    """While one 429 lasts, no call is begun, so that twenty are not refused as well."""
    sandbox.fault(
        mode="status", operation="count_tokens", times=1, status=429, headers={"retry-after": "0.5"}
    )
    bodies = [rendered(CLAUDE, {"prompt": "Hi"}).body] * 20
    began = time.monotonic()
    await counted(CLAUDE, bodies, "/v1/messages", at_once=2, per_second=1_000)
    assert time.monotonic() - began >= 0.5


async def test_a_refused_key_is_an_error_at_once(sandbox, monkeypatch):
    """A wrong key is not tried again, and its error does not show it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-1234567890")
    body = rendered(GPT, {"prompt": "Hi"}, "/v1/responses").body
    with pytest.raises(ProviderError, match="401") as caught:
        await counted(GPT, [body] * 3, "/v1/responses")
    assert "sk-w" not in str(caught.value)


async def test_a_refused_request_is_named(sandbox):
    """A request that would fail in the batch is found out before it, by its place."""
    good = rendered(CLAUDE, {"prompt": "Hi"}).body
    bad = orjson.dumps({"model": CLAUDE, "max_tokens": 5, "messages": []})
    with pytest.raises(ValidationError, match=r"request 3: .*messages"):
        await counted(CLAUDE, [good, good, bad, good], "/v1/messages")


async def test_a_server_that_cannot_count_says_so(sandbox):
    """A compatible server without the endpoint is an error with the way out."""
    sandbox.fault(
        mode="status", operation="count_tokens", status=404, message="Invalid URL", times=None
    )
    body = rendered(GPT, {"prompt": "Hi"}, "/v1/responses").body
    with pytest.raises(ValidationError, match=r"does not count tokens.*estimate='exact'"):
        await counted(GPT, [body], "/v1/responses")


async def test_embeddings_are_not_counted(sandbox):
    """Where a provider has no counting at all, nothing is called and the error says so."""
    assert not can_count("openai", "/v1/embeddings")
    with pytest.raises(ValidationError, match=r"/v1/embeddings; nothing was sent"):
        await counted(GPT, [b"{}"], "/v1/embeddings")


async def test_counting_costs_nothing(sandbox):
    """No bill stands in the provider's ledger for a count."""
    before = len(list(sandbox.ledger.billed()))
    await counted(CLAUDE, [rendered(CLAUDE, {"prompt": "Hi"}).body] * 4, "/v1/messages")
    assert len(list(sandbox.ledger.billed())) == before


@pytest.mark.parametrize("tokens", [0, 1, 10, 100, 1_000_000])
def test_a_counted_bound_leaves_a_margin(tokens):
    """The bound is above the count, by 2 % where it is large."""
    assert tokens + 32 <= counted_bound(tokens) <= tokens * 1.02 + 33


@pytest.mark.parametrize(
    ("model", "path", "body", "reason"),
    [
        (
            CLAUDE,
            "/v1/messages/count_tokens",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
            "max_tokens: Extra inputs are not permitted",
        ),
        (
            GPT,
            "/responses/input_tokens",
            {"input": "Hi", "max_output_tokens": 50},
            "Unknown parameter: 'max_output_tokens'",
        ),
    ],
)
async def test_sandbox_counts_no_other_keys(sandbox, model, path, body, reason):
    """The sandbox refuses to count what the providers' own endpoints do not take."""
    async with provider_for(model).connect() as client:
        with pytest.raises(Exception, match=reason):
            await client.post(path, cast_to=object, body={"model": model, **body})
