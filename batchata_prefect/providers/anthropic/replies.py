"""Anthropic's rows and messages, and those of servers that write such rows, read into one form.

Sources: anthropic/types/messages/message_batch_individual_response.py, message_batch_result.py,
types/message.py, types/usage.py (2.12.0); ogx providers/inline/messages (1.5.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct
from msgspec.json import Decoder

from batchata_prefect.answers import Outcome, Reply, TextBlock, Usage
from batchata_prefect.providers.anthropic.usage import usage_of
from batchata_prefect.providers.replies import Said, error_in, exact_inputs, kept
from batchata_prefect.providers.rows import (
    Count,
    decoded,
    object_at,
    objects_at,
    opened,
    opened_object,
    text_at,
    unreadable,
)

_WORK = ("server_tool_use", "mcp_tool_use", "_tool_result")
"""Ends of the types of blocks in which the provider's own tools work
[anthropic/types/content_block.py]."""


class _Thought(Struct, gc=False):
    thinking_tokens: Count


class _Written(Struct, gc=False, forbid_unknown_fields=True):
    ephemeral_1h_input_tokens: Count
    ephemeral_5m_input_tokens: Count = 0


class _NoTools(Struct, gc=False, forbid_unknown_fields=True):
    web_search_requests: Literal[0] = 0
    web_fetch_requests: Literal[0] = 0


class _Tokens(Struct, gc=False):
    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count
    cache_creation_input_tokens: Count
    cache_creation: _Written
    output_tokens_details: _Thought | None = None
    server_tool_use: _NoTools | None = None
    iterations: None = None
    speed: Literal["standard"] | None = None
    service_tier: Literal["batch"] | None = None
    inference_geo: Literal["global", "not_available"] | None = None


class _Text(Struct, tag_field="type", tag="text", gc=False):
    text: str
    citations: None = None


class _Thinking(Struct, tag_field="type", tag="thinking", gc=False):
    thinking: Literal[""] = ""


class _Message(Struct, gc=False):
    content: list[_Text | _Thinking]
    usage: _Tokens
    stop_reason: Annotated[str, Meta(min_length=1)]
    container: None = None


class _Succeeded(Struct, gc=False):
    type: Literal["succeeded"]
    message: _Message


class _Row(Struct, gc=False):
    custom_id: str
    result: _Succeeded


_DECODER = Decoder(_Row)


def ordinary(row: bytes) -> Reply | None:
    """The reply of a row with a message of one text, after its thinking; None for any other.

    It is what `answer` makes of the message. Most rows are such ones, and of them only what is
    looked for is decoded, which costs a third of decoding all and looking at each field with care.
    """
    if (found := decoded(_DECODER, row)) is None:
        return None
    message = found.result.message
    *before, text = message.content or (None,)
    if type(text) is not _Text or message.stop_reason == "refusal":
        return None
    if len(before) > 1 or (before and type(before[0]) is not _Thinking):
        return None
    usage = message.usage
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    hour = usage.cache_creation.ephemeral_1h_input_tokens
    if hour + usage.cache_creation.ephemeral_5m_input_tokens > written:
        return None
    details = usage.output_tokens_details
    thought = 0 if details is None else details.thinking_tokens
    return Reply(
        found.custom_id,
        "succeeded",
        (TextBlock(text.text),),
        Usage(
            usage.input_tokens + read + written,
            usage.output_tokens,
            read,
            written,
            hour,
            thought,
            (),
            (),
            usage.service_tier,
            usage.inference_geo,
        ),
        message.stop_reason,
        has_thinking=bool(before or thought),
    )


def answer(custom_id: str, message: Mapping[str, Any]) -> Reply:
    """The answer in the message of a row that succeeded."""
    content: Any = message.get("content")
    usage = usage_of(message)
    if isinstance(content, (str, dict)):
        content = [content] if content else None
    if not isinstance(content, list):
        return unreadable(custom_id, f"its content is {type(content).__name__}", usage)
    said = Said()
    for item in cast("list[Any]", content):
        _take(said, cast("dict[str, Any]", item) if isinstance(item, dict) else {"text": item})
    stop = text_at(message, "stop_reason") or None
    if stop == "refusal":
        why = text_at(object_at(message, "stop_details"), "explanation")
        said.refusals.append(why or "the model refused to answer")
    return said.reply(custom_id, usage, stop)


def _take(said: Said, block: Mapping[str, Any]) -> None:
    kind = text_at(block, "type") or "text"
    if kind == "text":
        if isinstance(block.get("text"), str):
            said.blocks.append(TextBlock(block["text"], tuple(objects_at(block, "citations"))))
    elif kind == "tool_use":
        said.calls.append(block)
    elif kind in {"thinking", "redacted_thinking"}:
        said.has_thinking = True
        if block.get("thinking"):
            said.items.append(kept(block))
    else:
        said.items.append(kept(block))
        if kind.endswith(_WORK):
            said.final = len(said.blocks)


def exactly(reply: Reply, row: bytes) -> Reply:
    """The reply of a row with the inputs of its calls as they stand in the row."""
    inputs = exact_inputs(row, frozenset({"tool_use"}))
    if inputs is None or len(inputs) != len(reply.tool_calls):
        return reply
    calls = zip(reply.tool_calls, inputs, strict=True)
    return reply._replace(tool_calls=tuple({**each, "input": raw} for each, raw in calls))


_UNRUN: Mapping[str, tuple[Outcome, str]] = {
    "canceled": ("canceled", "the request was canceled before it ran; it was not billed"),
    "cancelled": ("canceled", "the request was canceled before it ran; it was not billed"),
    "expired": (
        "expired",
        "the request did not run within the batch's 24 hours; it was not billed",
    ),
}


def read_row(custom_id: str, row: Mapping[str, Any]) -> Reply:
    """The reply in a row.

    An answer that is there is read, whatever the fields around it say: it was paid for.
    """
    result = opened_object(row.get("result"))
    kind = text_at(result, "type")
    around = opened(result.get("error"))
    places = (result.get("message"), result, row.get("message"))
    # Before any error: a word around an answer does not make it free.
    found = [each for each in map(opened_object, places) if each.get("content")]
    if found and (kind != "errored" or not around):
        return answer(custom_id, found[0])
    message = opened_object(result.get("message"))
    if kind == "succeeded":
        told = error_in(opened(message.get("error"))) if message.get("type") == "error" else None
        return answer(custom_id, message) if told is None else told.reply(custom_id, "errored")
    if kind is not None and kind in _UNRUN:
        outcome, why = _UNRUN[kind]
        return Reply(custom_id, outcome, error_code=outcome, error=why)
    # The row's error wraps the API's error body, which wraps the error itself.
    status = result.get("status_code", result.get("status"))
    error = error_in(opened(opened_object(around).get("error")), around, status=status)
    if error is not None:
        return error.reply(custom_id, kind or "unknown_result")
    return Reply(custom_id, "errored", error_code=kind or "unknown_result")
