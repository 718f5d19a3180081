"""Shared prefixes: what many requests begin with is marked, so that the provider's cache holds it.

Anthropic reads what a `cache_control` marker ends; an hour is the lifetime that batches are told to
use [prompt-caching, batch-processing]: written at twice the input price, read at a tenth. OpenAI
caches by itself and sends requests with one `prompt_cache_key` to one cache
[openai/types/chat/completion_create_params.py].
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import orjson

MARKER = {"type": "ephemeral", "ttl": "1h"}
_LEADING = frozenset({"system", "developer"})


def mark_for_anthropic(body: dict[str, Any]) -> str | None:
    """Mark the system prompt of a Messages body, and what stands before the first question.

    Returns:
        Digest of what was marked; None where there is nothing to share, or the user set markers.
    """
    if b'"cache_control":' in orjson.dumps(body):
        return None
    shared: list[Any] = []
    system: Any = body.get("system")
    if system:
        blocks = [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
        shared.append(blocks)
        body["system"] = [*blocks[:-1], {**blocks[-1], "cache_control": MARKER}]
    first: Any = body["messages"][0]
    content: Any = first.get("content")
    last = _last_shared(content)
    if last is not None:
        shared.append(content[: last + 1])
        marked = [*content]
        marked[last] = {**content[last], "cache_control": MARKER}
        body["messages"] = [{**first, "content": marked}, *body["messages"][1:]]
    return _digest(shared)


def key_for_openai(body: dict[str, Any], turns: str) -> str | None:
    """Give a body the cache key of its system prompt and what stands before the first question.

    Args:
        body: The body.
        turns: Name of its conversation, `messages` or `input`.

    Returns:
        Digest of what it begins with; None where there is nothing to share.
    """
    shared: list[Any] = [body["instructions"]] if body.get("instructions") else []
    messages: Any = body[turns]
    for item in cast("list[Any]", messages) if isinstance(messages, list) else []:
        message = cast("Mapping[str, Any]", item)
        content: Any = message.get("content")
        if message.get("role") in _LEADING:
            shared.append(content)
            continue
        last = _last_shared(content)
        if last is not None:
            shared.append(content[: last + 1])
        break
    digest = _digest(shared)
    if digest is not None:
        body.setdefault("prompt_cache_key", digest)
    return digest


def _last_shared(content: Any) -> int | None:
    """Place of the last part before the question, which is the last one; None where none is."""
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    return len(parts) - 2 if len(parts) > 1 else None


def _digest(shared: list[Any]) -> str | None:
    return hashlib.sha256(orjson.dumps(shared)).hexdigest()[:32] if shared else None
