"""A request once more, changed: with the answer that was not as asked, or with more output tokens.

What is changed depends on the endpoint's wire form alone, so both providers share it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import orjson

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


def _limit(data: dict[str, Any]) -> str | None:
    return next((name for name in _LIMITS if isinstance(data.get(name), int)), None)
