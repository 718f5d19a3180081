"""A request once more, changed: with the answer that was not as asked, or with more output tokens.

What is changed depends on the endpoint's wire form alone, so both providers share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import orjson

from batchata_prefect.exact_json import dumps, loads_exact
from batchata_prefect.providers.rows import object_at

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Names of the output limit: Messages and older chat models, chat completions, Responses."""

_TEXT = (
    "This answer cannot be used: {fault}\n\nAnswer the same request again, whole and corrected, "
    "and with nothing else."
)


class Again(NamedTuple):
    """A changed request.

    Attributes:
        body: Exact JSON bytes of the request, without custom_id.
        added: Text that it holds more than the one before.
        output_bound: Output tokens it cannot pass, thinking included.
    """

    body: bytes
    added: str
    output_bound: int


def reworded(body: bytes, answer: str, fault: str) -> Again | None:
    """The request with the answer to it and with what was wrong; None where it has no dialogue."""
    data: dict[str, Any] = orjson.loads(body)
    name = "messages" if "messages" in data else "input"
    turns: Any = data.get(name)
    limit = _limit(data)
    # Anthropic refuses an assistant turn that is empty or ends in white space.
    said = answer.strip()
    if limit is None or not said or not isinstance(turns, (str, list)):
        return None
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    request = _TEXT.format(fault=fault)
    data[name] = [
        *cast("list[Any]", turns),
        {"role": "assistant", "content": said},
        {"role": "user", "content": request},
    ]
    return Again(orjson.dumps(data), said + request, data[limit])


def roomier(body: bytes, most: int | None) -> Again | None:
    """The request with twice the output tokens, at most `most`; None where it has all of them."""
    data: dict[str, Any] = orjson.loads(body)
    limit = _limit(data)
    if limit is None:
        return None
    wanted = 2 * data[limit]
    wanted = wanted if most is None else min(wanted, most)
    if wanted <= data[limit]:
        return None
    data[limit] = wanted
    return Again(orjson.dumps(data), "", wanted)


def continued(body: bytes, message: Mapping[str, Any], *, goes_on: bool) -> Again | None:
    """The request with the turn that was paused handed back, for the model to go on with it.

    As it is given [anthropic/types/message.py, `pause_turn`], but for white space at its end, which
    the API refuses.

    Args:
        body: The request.
        message: The message that was paused.
        goes_on: Whether the request itself already ends with a paused turn, which is then longer.
    """
    data = loads_exact(body)
    turns, content = data.get("messages"), message.get("content")
    if not isinstance(turns, list) or not isinstance(content, list):
        return None
    said = _trimmed(cast("list[Any]", content))
    limit = _limit(data)
    if limit is None or not said:
        return None
    turns = cast("list[Any]", turns)
    if goes_on:
        turns[-1] = {**turns[-1], "content": [*turns[-1]["content"], *said]}
    else:
        turns.append({"role": "assistant", "content": said})
    container = object_at(message, "container").get("id")
    if isinstance(container, str):
        given = data.get("container")
        # Its files are in the container; skills are asked for beside its id.
        data["container"] = (
            {**cast("dict[str, Any]", given), "id": container}
            if isinstance(given, dict)
            else container
        )
    return Again(dumps(data).encode(), dumps(said), data[limit])


def handed_back(body: bytes) -> list[Any]:
    """The content of the paused turn that a request of `continued` ends with."""
    return loads_exact(body)["messages"][-1]["content"]


def _trimmed(content: list[Any]) -> list[Any]:
    """The content without white space at its end, and without texts that hold nothing else."""
    kept = list(content)
    while kept and isinstance(kept[-1], dict):
        block = cast("dict[str, Any]", kept[-1])
        if block.get("type") != "text":
            break
        if text := str(block.get("text")).rstrip():
            kept[-1] = {**block, "text": text}
            break
        kept.pop()
    return kept


def _limit(data: dict[str, Any]) -> str | None:
    return next((name for name in _LIMITS if isinstance(data.get(name), int)), None)
