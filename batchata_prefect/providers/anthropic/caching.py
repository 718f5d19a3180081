"""Where a request of Anthropic's asks for its beginning to be cached [prompt-caching]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from batchata_prefect.models import Job, Message
from batchata_prefect.providers.bodies import last_shared, prefix_digest
from batchata_prefect.providers.rendering import fault

MARKER = {"type": "ephemeral", "ttl": "1h"}
"""It reads from its cache what such a marker ends; an hour is the lifetime that batches are told to
use [prompt-caching, batch-processing]: written at twice the input price, read at a tenth."""

MOST_MARKERS = 4


def mark(body: dict[str, Any]) -> str | None:
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
    last = last_shared(content)
    if last is not None:
        shared.append(content[: last + 1])
        marked = [*content]
        marked[last] = {**content[last], "cache_control": MARKER}
        body["messages"] = [{**first, "content": marked}, *body["messages"][1:]]
    return prefix_digest(shared)


def check_markers(job: Job, body: Mapping[str, Any]) -> None:
    """Refuse more breakpoints than are taken.

    Raises:
        ValidationError: There are more.
    """
    found = sum(_markers(body.get(name)) for name in ("system", "messages", "tools"))
    found += 1 if body.get("cache_control") else 0
    if found > MOST_MARKERS:
        raise fault(
            job,
            f"it has {found} cache breakpoints (cache_control) and Claude takes {MOST_MARKERS}; "
            "leave the others out",
        )


def _markers(value: Any) -> int:
    """Cache breakpoints in content, tools or a system prompt: blocks with `cache_control`."""
    if isinstance(value, list):
        return sum(map(_markers, cast("list[Any]", value)))
    if not isinstance(value, dict):
        return 0
    block = cast("Message", value)
    own = 1 if block.get("cache_control") else 0
    return own + _markers(block.get("content"))
