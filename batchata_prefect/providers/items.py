"""What an answer holds besides its text: calls of tools, images, sounds, and items of any kind.

Sources: openai/types/responses/response_output_item.py, types/chat/chat_completion_message.py
(3.54.0); anthropic/types/content_block.py (2.12.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.providers.rows import object_at, text_at

_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "logprobs", "message")
"""Kinds of items that say how an answer came about, and are none; a message is a remark."""

_STEPS = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "mcp_list_tools",
        "tool_search_call",
        "additional_tools",
        "compaction",
        "server_tool_use",
        "mcp_tool_use",
        "refusal",
    }
)
"""What the provider does on the way to an answer; also what ends in `_output` or `_tool_result`."""

_REFUSED = "the model refused to answer"
_FILTERED = "the answer was cut off by the content filter"

_CALL = frozenset(
    {"type", "id", "call_id", "index", "name", "arguments", "input", "function", "custom", "status"}
)
"""Fields of a call that `call` reads, or that say nothing."""


def call(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Id, name, arguments and type of a call, whichever endpoint it comes from."""
    inner = object_at(raw, "function") or object_at(raw, "custom") or raw
    given = inner.get("arguments", inner.get("input"))
    return {
        "id": text_at(raw, "call_id") or text_at(raw, "id"),
        "name": text_at(inner, "name") or "",
        "arguments": given if isinstance(given, str) else "" if given is None else dumps(given),
        "type": text_at(raw, "type") or "function",
    }


def says_more(raw: Mapping[str, Any]) -> bool:
    """Whether a call holds more than its id, name and arguments, such as its result."""
    return any(
        value and value != {"type": "direct"} for key, value in raw.items() if key not in _CALL
    )


def kept(value: Any) -> Any:
    """An item without what only the provider can read, which stays in the raw reply."""
    if isinstance(value, dict):
        item = cast("dict[str, Any]", value)
        opaque = "signature" if item.get("type") == "thinking" else "encrypted_content"
        return {
            key: kept(part)
            for key, part in item.items()
            if key != opaque and not key.startswith("encrypted_")
        }
    if isinstance(value, list):
        return [kept(part) for part in cast("list[Any]", value)]
    return value


class Said:
    """What an answer says, taken in part by part.

    Attributes:
        blocks: Its texts.
        calls: The provider's own objects of the tools that the model calls.
        items: What else it holds.
        refusals: Words in which the model refuses.
        has_thinking: Whether it holds thinking, shown or not.
        final: As in `Reply`.
    """

    def __init__(self) -> None:
        self.blocks: list[TextBlock] = []
        self.calls: list[Mapping[str, Any]] = []
        self.items: list[Mapping[str, Any]] = []
        self.refusals: list[str] = []
        self.has_thinking = False
        self.final = 0

    def reply(self, custom_id: str, usage: Usage | None, stop: str | None) -> Reply:
        """All of it as the reply of a request that was answered, and may have been refused."""
        code = error = None
        if self.refusals or stop == "refusal":
            stop, code = "refusal", "refusal"
            error = "\n".join(self.refusals) or (_FILTERED if self.blocks else _REFUSED)
        return Reply(
            custom_id,
            "succeeded",
            blocks=tuple(self.blocks),
            usage=usage,
            stop_reason=stop,
            error_code=code,
            error=error,
            has_thinking=self.has_thinking or bool(usage and usage.reasoning_tokens),
            tool_calls=tuple(self.calls),
            items=(*self.items, *(kept(each) for each in self.calls if says_more(each))),
            final=self.final,
        )


def why_none(
    calls: Iterable[Mapping[str, Any]], items: Iterable[Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Why an answer without text is none, as (code, text); None where it is one.

    An item of a kind that nobody knows yet is an answer: it was paid for, and to ask again would be
    paid again.
    """
    if any(text_at(each, "type") != "mcp_call" for each in calls):
        return None
    failed: list[tuple[str, str]] = []
    steps: list[str] = []
    for item in items:
        kind = text_at(item, "type") or "unknown"
        if kind in _THOUGHTS:
            continue
        if kind in _STEPS or kind.endswith(("_output", "_tool_result")):
            steps.append(kind)
        elif (fault := _fault(kind, item)) is None:
            return None
        else:
            failed.append(fault)
    if failed:
        return failed[0]
    if steps:
        names = ", ".join(dict.fromkeys(steps))
        return "no_answer", f"the model ended after {names} without saying anything"
    return "empty_answer", "the answer is empty"


def _fault(kind: str, item: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with an item; None where it is whole."""
    error: Any = item.get("error")
    status = text_at(item, "status")
    has_image = kind != "image_generation_call" or item.get("result") or item.get("path")
    if not error and status not in {"failed", "incomplete"} and has_image:
        return None
    told: Any = cast("Mapping[str, Any]", error) if isinstance(error, dict) else {}
    code, text = told.get("code") or told.get("type"), told.get("message")
    why = [str(part)[:300] for part in (code, text or (error if isinstance(error, str) else None))]
    why = [part for part in why if part != "None"]
    return (
        "refusal" if code == "moderation_blocked" else "no_answer",
        f"{kind} ended as {status or 'failed'}: {': '.join(why) or 'no reason is given'}",
    )


class _Block(msgspec.Struct):
    type: str = ""
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Content(msgspec.Struct):
    content: list[_Block]


class _Result(msgspec.Struct):
    message: _Content


class _Row(msgspec.Struct):
    result: _Result


_decode = msgspec.json.Decoder(_Row).decode


def exact_inputs(row: bytes, kinds: frozenset[str]) -> list[msgspec.Raw] | None:
    """The inputs of an Anthropic row's blocks of some kinds, as the very bytes of the row.

    None where the row has another form, or holds what JSON forbids.
    """
    try:
        blocks = _decode(row).result.message.content
        found = [
            each.input
            for each in blocks
            if each.type in kinds and isinstance(each.input, msgspec.Raw)
        ]
        for each in found:
            msgspec.json.decode(each)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found
