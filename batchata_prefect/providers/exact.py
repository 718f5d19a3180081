"""Exact input tokens, counted by the providers themselves before anything is paid.

Counting is free at both providers and costs a call a request, with the whole request in it. What
comes back may still differ from what is billed by a little (Claude docs, token-counting: "the
actual number of input tokens used when creating a message may differ by a small amount"), so that
`counted_bound` adds a margin before a budget relies on it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from batchata_prefect.errors import ProviderError, ValidationError
from batchata_prefect.providers.failures import classify
from batchata_prefect.providers.throttle import Throttle

_CHAT, _RESPONSES = "/v1/chat/completions", "/v1/responses"

_PER_SECOND = 30.0
"""Calls a second: 1,800 a minute, below the 2,000 of Anthropic's tier 2 (docs, token-counting;
tier 1 has 100, which its 429s tell). OpenAI documents no number."""

_TRIES = 8
_LONGEST_WAIT = 120.0
_SHORTEST_WAIT = 0.5

_ANTHROPIC_KEYS = frozenset(
    {
        "cache_control",
        "messages",
        "model",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""What counting takes [anthropic/types/message_count_tokens_params.py]; all else is a 400."""

_RESPONSES_KEYS = frozenset(
    {
        "conversation",
        "input",
        "instructions",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "text",
        "tool_choice",
        "tools",
        "truncation",
    }
)
"""What counting takes [openai/types/responses/input_token_count_params.py]."""


def can_count(provider: str, endpoint: str) -> bool:
    """Whether a provider counts the tokens of requests to this endpoint."""
    return (provider, endpoint) in _COUNTERS


def counted_bound(tokens: int) -> int:
    """What a request of so many counted input tokens is taken not to pass."""
    return math.ceil(tokens * 1.02) + 32


async def exact_input_tokens(
    provider: str,
    client: Any,
    bodies: Iterable[bytes],
    endpoint: str,
    *,
    at_once: int = 16,
    per_second: float = _PER_SECOND,
    name: Callable[[int], str] = "request {}".format,
) -> AsyncGenerator[int]:
    """Input tokens of rendered requests as the provider counts them, in the order of the bodies.

    Bodies are read as their turn comes, so that no more than `at_once` are in memory. A 429 slows
    all calls down for as long as it says.

    Args:
        provider: Name of the provider.
        client: Its async SDK client.
        bodies: Exact JSON bytes of the requests, without custom_id.
        endpoint: Endpoint path that they are for.
        at_once: Calls in flight at once, at most.
        per_second: Calls begun in a second, at most.
        name: Place of a body, from 1 -> what to call it in an error.

    Raises:
        ValidationError: The provider does not count such requests, or it refuses one of them,
            which is named by its place, from 1.
        ProviderError: The key is refused, or the provider does not answer.
    """
    counter = _COUNTERS.get((provider, endpoint))
    if counter is None:
        raise ValidationError(
            f"{provider!r} does not count the tokens of requests to {endpoint}; nothing was sent. "
            "Leave estimate='exact' out: the estimate is then an upper bound made here"
        )
    pace = Throttle(1.0 / per_second)
    running: deque[asyncio.Task[int]] = deque()
    numbered = enumerate(bodies, start=1)
    try:
        while True:
            while len(running) < at_once and (item := next(numbered, None)) is not None:
                running.append(asyncio.create_task(_count(client, counter, *item, pace, name)))
            if not running:
                return
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Counter:
    """How one provider counts: the path, and the body made of a request's."""

    path: str
    body: Callable[[dict[str, Any]], dict[str, Any]]


async def _count(
    client: Any,
    counter: _Counter,
    place: int,
    body: bytes,
    pace: Throttle,
    name: Callable[[int], str],
) -> int:
    asked = counter.body(cast("dict[str, Any]", orjson.loads(body)))
    for attempt in range(_TRIES):
        await pace.turn()
        try:
            reply = await _post(client, counter.path, asked)
        except Exception as error:
            last = attempt == _TRIES - 1
            wait = _wait_after(error, name(place), attempt, last=last)
            if getattr(error, "status_code", None) == 429:
                pace.slow_down(wait)
            else:
                await asyncio.sleep(wait)
            continue
        tokens = reply.get("input_tokens")
        if not isinstance(tokens, int):
            raise ProviderError(
                f"counting the tokens of {name(place)} brought no number but {reply!r:.200}; "
                "nothing was sent or paid. Leave estimate='exact' out"
            )
        return tokens
    raise AssertionError("unreachable")


async def _post(client: Any, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    import httpx2

    # The SDK would sleep through its own retries, unseen by the pace of the others.
    call: Awaitable[Any] = client.post(
        path, cast_to=httpx2.Response, body=body, options={"max_retries": 0}
    )
    async with asyncio.timeout(_LONGEST_WAIT):
        reply: Any = orjson.loads((await call).content)
    return cast("dict[str, Any]", reply) if isinstance(reply, dict) else {}


def _wait_after(error: Exception, which: str, attempt: int, *, last: bool) -> float:
    """Seconds to wait before the next try.

    Raises:
        ValidationError: The provider refuses the request, or has no such endpoint.
        ProviderError: The key is refused, or all tries are used up.
    """
    failure = classify(error)
    text = failure.text
    if failure.status in {404, 405, 501} and "model" not in text:
        raise ValidationError(
            f"this server does not count tokens ({text}); nothing was sent. Leave "
            "estimate='exact' out: the estimate is then an upper bound made here"
        ) from error
    if failure.kind == "account":
        raise ProviderError(
            f"the provider refused the key or the account with {failure.status} when asked to "
            f"count tokens; nothing was sent or paid. {failure.what_to_do}, then run again"
        ) from None
    if failure.kind in {"refused", "absent", "unseen"}:
        raise ValidationError(
            f"{which}: the provider would not count it, and is likely to refuse it in a "
            f"batch as well ({text}); nothing was sent or paid"
        ) from error
    if last:
        raise ProviderError(
            f"counting the tokens of {which} failed {_TRIES} times ({text}); nothing was "
            "sent or paid. Run again, or leave estimate='exact' out"
        ) from error
    wait = _SHORTEST_WAIT * 2.0**attempt * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
    return min(failure.seconds or wait, _LONGEST_WAIT)


def _anthropic_body(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key in _ANTHROPIC_KEYS}


def _responses_body(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key in _RESPONSES_KEYS}


def _chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """The same conversation as a response's: only those are counted."""
    found: dict[str, Any] = {"model": body.get("model")}
    found["input"] = [item for message in body["messages"] for item in _items(message)]
    form = body.get("response_format")
    if isinstance(form, dict):
        given = cast("dict[str, Any]", form)
        schema = cast("dict[str, Any]", given.get("json_schema") or {})
        found["text"] = {"format": {**schema, "type": given.get("type")}}
    if body.get("reasoning_effort") is not None:
        found["reasoning"] = {"effort": body["reasoning_effort"]}
    if body.get("tools"):
        found["tools"] = [
            {"type": "function", "strict": False, **tool["function"]}
            if tool.get("type") == "function"
            else tool
            for tool in body["tools"]
        ]
    return found


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    role, content = message.get("role"), message.get("content")
    if role in {"tool", "function"}:
        call = message.get("tool_call_id") or message.get("name")
        text = content if isinstance(content, str) else orjson.dumps(content).decode()
        return [{"type": "function_call_output", "call_id": call, "output": text}]
    items: list[dict[str, Any]] = []
    if isinstance(content, str):
        items.append({"role": role, "content": content})
    elif content:
        parts = [_part(part, role) for part in content]
        items.append({"role": role, "content": parts})
    items.extend(
        {
            "type": "function_call",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
        }
        for call in message.get("tool_calls") or ()
    )
    return items


def _part(part: dict[str, Any], role: Any) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return {
            "type": "output_text" if role == "assistant" else "input_text",
            "text": part["text"],
        }
    if kind == "image_url":
        image = part["image_url"]
        detail = image.get("detail") or "auto"
        return {"type": "input_image", "image_url": image["url"], "detail": detail}
    if kind == "file":
        return {"type": "input_file", **part["file"]}
    return part


_COUNTERS: Mapping[tuple[str, str], _Counter] = {
    ("anthropic", "/v1/messages"): _Counter("/v1/messages/count_tokens", _anthropic_body),
    ("openai", _RESPONSES): _Counter("/responses/input_tokens", _responses_body),
    ("openai", _CHAT): _Counter("/responses/input_tokens", _chat_body),
}
"""Endpoints that are counted. OpenAI counts responses only; a chat completion is counted as the
response that says the same. Nobody counts embeddings."""
