"""The answers of OpenAI's endpoints, read into one form.

Sources: openai/types/chat/chat_completion.py, types/responses/response.py,
types/completion_usage.py, types/create_embedding_response.py (3.54.0).
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Literal, cast

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

from batchata_prefect.models import Reply, TextBlock, Usage
from batchata_prefect.providers.rows import (
    MOST_TOKENS,
    list_at,
    object_at,
    objects_at,
    text_at,
    tokens_at,
    unreadable,
    whole_number,
)

_FINISHED = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
    # Of servers that speak the protocol with words of their own [TGI; Mistral].
    "eos_token": "end_turn",
    "model_length": "max_tokens",
}
_INCOMPLETE = {"max_output_tokens": "max_tokens", "content_filter": "refusal"}
_REFUSED = "the model refused to answer"
_FILTERED = "the answer was cut off by the content filter"

_Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class _Read(Struct, gc=False):
    cached_tokens: _Count
    cache_write_tokens: _Count = 0


class _Written(Struct, gc=False):
    reasoning_tokens: _Count


class _Tokens(Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Read
    completion_tokens_details: _Written


class _Message(Struct, gc=False):
    content: Annotated[str, Meta(min_length=1)]
    refusal: None = None
    tool_calls: None = None


class _Choice(Struct, gc=False):
    message: _Message
    finish_reason: Literal["stop", "length"]


class _Body(Struct, gc=False):
    choices: tuple[_Choice]
    usage: _Tokens
    error: None = None


class _Answered(Struct, gc=False):
    status_code: Literal[200]
    body: _Body


class _Row(Struct, gc=False):
    custom_id: str
    response: _Answered
    error: None


_decode = Decoder(_Row).decode


def ordinary(row: bytes) -> Reply | None:
    """The reply of a row with one chat completion of one text; None for any other.

    It is what `answer` makes of the row. Most rows are such ones, and of them only what is looked
    for is decoded, which costs a third of decoding all and looking at each field with care.
    """
    try:
        found = _decode(row)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    (choice,) = found.response.body.choices
    usage = found.response.body.usage
    read, thought = usage.prompt_tokens_details, usage.completion_tokens_details.reasoning_tokens
    return Reply(
        found.custom_id,
        "succeeded",
        (TextBlock(choice.message.content),),
        Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            read.cached_tokens,
            read.cache_write_tokens,
            0,
            thought,
        ),
        _FINISHED[choice.finish_reason],
        has_thinking=bool(thought),
    )


def answer(custom_id: str, body: Mapping[str, Any]) -> Reply:
    """The answer in the body of a row of status 200."""
    if "choices" in body:
        return _completion(custom_id, body)
    if "output" in body:
        return _response(custom_id, body)
    if "data" in body:
        return _embedding(custom_id, body)
    return unreadable(custom_id, f"an object with {sorted(body)[:5]}")


def _completion(custom_id: str, body: Mapping[str, Any]) -> Reply:
    told = object_at(body, "usage")
    usage = _usage(told, "prompt", "completion")
    choices = list_at(body, "choices")
    if not choices or not isinstance(choices[0], dict):
        return unreadable(custom_id, "no choices", usage)
    choice = cast("dict[str, Any]", choices[0])
    message = object_at(choice, "message")
    finish = text_at(choice, "finish_reason")
    # Servers that complete a text write it beside the message's place.
    texts, refusals = _texts([message.get("content") or choice.get("text")])
    refusal = text_at(message, "refusal")
    return _reply(
        custom_id,
        texts,
        usage,
        stop=_FINISHED.get(finish.lower(), finish) if finish else None,
        refusals=[*refusals, refusal] if refusal else refusals,
        calls=objects_at(message, "tool_calls"),
        has_thinking=bool(_written(told, "completion").get("reasoning_tokens")),
    )


def _response(custom_id: str, body: Mapping[str, Any]) -> Reply:
    usage = _usage(object_at(body, "usage"), "input", "output")
    status = text_at(body, "status")
    if status in {"failed", "cancelled"}:
        error = object_at(body, "error")
        code = text_at(error, "code") or f"response_{status}"
        return Reply(
            custom_id, "errored", usage=usage, error_code=code, error=text_at(error, "message")
        )
    contents: list[Any] = []
    calls: list[Mapping[str, Any]] = []
    stop, has_thinking = "end_turn", False
    for part in objects_at(body, "output"):
        kind = text_at(part, "type")
        if kind == "message":
            contents.append(part.get("content"))
        elif kind == "reasoning":
            has_thinking = True
        elif kind in {"function_call", "custom_tool_call"}:
            stop = "tool_use"
            calls.append(part)
    if status == "incomplete":
        reason = text_at(object_at(body, "incomplete_details"), "reason")
        stop = _INCOMPLETE.get(reason or "", f"incomplete: {reason or 'no reason given'}")
    elif status not in {None, "completed"}:
        stop = status
    texts, refusals = _texts(contents)
    return _reply(
        custom_id,
        texts,
        usage,
        stop=stop,
        refusals=refusals,
        has_thinking=has_thinking,
        calls=calls,
    )


def _reply(
    custom_id: str,
    texts: list[str],
    usage: Usage | None,
    *,
    stop: str | None,
    refusals: list[str],
    has_thinking: bool = False,
    calls: Sequence[Mapping[str, Any]] = (),
) -> Reply:
    code = error = None
    if refusals or stop == "refusal":
        stop, code = "refusal", "refusal"
        error = "\n".join(refusals) or (_FILTERED if texts else _REFUSED)
    return Reply(
        custom_id,
        "succeeded",
        blocks=tuple(map(TextBlock, texts)),
        usage=usage,
        stop_reason=stop,
        error_code=code,
        error=error,
        has_thinking=has_thinking or bool(usage and usage.reasoning_tokens),
        tool_calls=tuple(calls),
    )


def _texts(contents: list[Any]) -> tuple[list[str], list[str]]:
    """The texts and the refusals in contents, each a text or a list of parts."""
    texts: list[str] = []
    refusals: list[str] = []
    for content in contents:
        if isinstance(content, str):
            texts += [content] if content else []
            continue
        items = cast("list[Any]", content) if isinstance(content, list) else [content]
        for item in items:
            part = cast("dict[str, Any]", item) if isinstance(item, dict) else {"text": item}
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(part.get("refusal"), str):
                refusals.append(part["refusal"])
    return texts, refusals


def _usage(usage: Mapping[str, Any], taken: str, given: str | None) -> Usage | None:
    """The usage in our definitions: OpenAI's input and output include all their parts.

    None where a count is not told: it is not 0, and what the answer cost is not known.
    """
    read, total = (whole_number(usage.get(f"{name}_tokens")) for name in (taken, "total"))
    written = 0 if given is None else whole_number(usage.get(f"{given}_tokens"))
    if written is None and read is not None and total is not None:
        written = max(total - read, 0)
    if read is None or written is None:
        return None
    try:
        details = object_at(usage, f"{taken}_tokens_details")
        return Usage(
            tokens_at(usage, f"{taken}_tokens"),
            tokens_at({"": written}, ""),
            tokens_at(details, "cached_tokens"),
            tokens_at(details, "cache_write_tokens"),
            0,
            tokens_at(_written(usage, given), "reasoning_tokens"),
        )
    except ValueError:
        return None  # an unknown cost, which never counts as 0


def _written(usage: Mapping[str, Any], given: str | None) -> Mapping[str, Any]:
    return object_at(usage, f"{given}_tokens_details")


def _embedding(custom_id: str, body: Mapping[str, Any]) -> Reply:
    usage = _usage(object_at(body, "usage"), "prompt", None)
    items = list_at(body, "data")
    vector: Any = (
        cast("Any", items[0]).get("embedding") if items and isinstance(items[0], dict) else None
    )
    if isinstance(vector, str):
        vector = _floats(vector)
    if not isinstance(vector, list):
        return unreadable(custom_id, "no embedding", usage)
    numbers = cast("list[float]", vector)
    try:
        is_vector = all(map(isfinite, numbers))
    except (TypeError, OverflowError):
        is_vector = False
    if not is_vector:
        return unreadable(custom_id, "its embedding is not made of numbers", usage)
    return Reply(
        custom_id, "succeeded", usage=usage, stop_reason="end_turn", embedding=tuple(numbers)
    )


def _floats(encoded: str) -> list[float] | None:
    """The numbers of `encoding_format="base64"`: little-endian floats of four bytes."""
    try:
        numbers = array("f", b64decode(encoded))
    except ValueError:
        return None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
