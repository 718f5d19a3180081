"""The answers of OpenAI's endpoints and their rows, and those of servers that write such rows.

Sources: openai/types/chat/chat_completion.py, types/responses/response.py,
types/completion_usage.py, types/create_embedding_response.py (3.54.0); developers.openai.com,
guides/batch; ogx providers/inline/batches (1.5.0); aibrix batch/job_entity (0.8.0); vllm
entrypoints/openai/run_batch.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct
from msgspec.json import Decoder

from batchata_prefect.answers import Outcome, Reply, TextBlock, Usage
from batchata_prefect.providers.openai.usage import SEARCHES_BY_ITSELF, usage_of
from batchata_prefect.providers.replies import Said, error_in, kept
from batchata_prefect.providers.rows import (
    Count,
    decoded,
    list_at,
    object_at,
    objects_at,
    opened,
    opened_object,
    text_at,
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

_CALLS = frozenset({"function_call", "custom_tool_call", "mcp_call", "mcp_approval_request"})
_CLIENTS = frozenset({"local_shell_call", "shell_call", "apply_patch_call", "computer_call"})
"""Calls that the client is to make, and that have no name and arguments."""

_SEEN = frozenset({"content", "refusal", "tool_calls", "function_call", "annotations", "audio"})
"""Fields of a message that are looked at by themselves."""


class _Read(Struct, gc=False):
    cached_tokens: Count
    cache_write_tokens: Count = 0
    audio_tokens: Literal[0] | None = None


class _Written(Struct, gc=False):
    reasoning_tokens: Count
    audio_tokens: Literal[0] | None = None


class _Tokens(Struct, gc=False):
    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: _Read
    completion_tokens_details: _Written


class _Message(Struct, gc=False, forbid_unknown_fields=True):
    content: Annotated[str, Meta(min_length=1)]
    role: str | None = None
    refusal: None = None
    tool_calls: tuple[()] | None = None
    annotations: tuple[()] | None = None
    function_call: None = None
    audio: None = None
    reasoning: None = None
    reasoning_content: None = None


class _Choice(Struct, gc=False):
    message: _Message
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class _Body(Struct, gc=False):
    choices: tuple[_Choice]
    usage: _Tokens
    model: str = ""
    service_tier: Literal["default", "auto"] | None = None
    error: None = None


class _Answered(Struct, gc=False):
    status_code: Literal[200]
    body: _Body


class _Row(Struct, gc=False):
    custom_id: str
    response: _Answered
    error: None


_DECODER = Decoder(_Row)


def ordinary(row: bytes) -> Reply | None:
    """The reply of a row with one chat completion of one text; None for any other.

    It is what `answer` makes of the row. Most rows are such ones, and of them only what is looked
    for is decoded, which costs a third of decoding all and looking at each field with care.
    """
    if (found := decoded(_DECODER, row)) is None:
        return None
    body = found.response.body
    (choice,) = body.choices
    if SEARCHES_BY_ITSELF in body.model:
        return None
    usage = body.usage
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
            (),
            (),
            body.service_tier,
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
    usage = usage_of(body)
    choices = list_at(body, "choices")
    if not choices or not isinstance(choices[0], dict):
        return unreadable(custom_id, "no choices", usage)
    choice = cast("dict[str, Any]", choices[0])
    message = opened(choice.get("message"))
    if not isinstance(message, dict):
        message = {"content": message}
    message = cast("dict[str, Any]", message)
    finish = text_at(choice, "finish_reason")
    said = _Said()
    # Servers that complete a text write it beside the message's place.
    said.take(message.get("content") or choice.get("text"), objects_at(message, "annotations"))
    said.refuse(message.get("refusal"))
    calls = opened(message.get("tool_calls"))
    said.calls += objects_at({"": calls if isinstance(calls, list) else [calls]}, "")
    if function := object_at(message, "function_call"):
        said.calls.append({"type": "function_call", **function})
    if audio := object_at(message, "audio"):
        said.items.append({"type": "audio", **audio})
        if not said.blocks and (transcript := text_at(audio, "transcript")):
            said.blocks.append(TextBlock(transcript))
    said.logprobs(object_at(choice, "logprobs").get("content"))
    for name, value in message.items():
        # What servers of the same protocol write there: images, the model's reasoning.
        is_thought = name.startswith("reasoning")
        if name not in _SEEN and value and (is_thought or isinstance(value, (dict, list))):
            kind = "reasoning" if is_thought else name
            said.items.append({"type": kind, name: kept(value)})
    made = object_at(object_at(body, "usage"), "completion_tokens_details")
    said.has_thinking = bool(made.get("reasoning_tokens"))
    return said.reply(custom_id, usage, _FINISHED.get(finish.lower(), finish) if finish else None)


def _response(custom_id: str, body: Mapping[str, Any]) -> Reply:
    usage = usage_of(body)
    status = text_at(body, "status") or None
    if status in {"failed", "cancelled"}:
        error = object_at(body, "error")
        code = text_at(error, "code") or f"response_{status}"
        return Reply(
            custom_id, "errored", usage=usage, error_code=code, error=text_at(error, "message")
        )
    said = _Said()
    output = objects_at(body, "output")
    remarks = _remarks(output)
    for item in output:
        if item in remarks:
            said.items.append(kept(item))
        else:
            said.take_item(item)
    return said.reply(custom_id, usage, _stop_of(body, said))


def _stop_of(body: Mapping[str, Any], said: _Said) -> str:
    """Why a response ends."""
    status = text_at(body, "status") or "completed"
    if status == "incomplete":
        reason = text_at(object_at(body, "incomplete_details"), "reason")
        return _INCOMPLETE.get(reason or "", f"incomplete: {reason or 'no reason given'}")
    if status != "completed":
        return status
    if any(item.get("status") == "incomplete" for item in (*said.messages, *said.calls)):
        return "incomplete: a part of it"
    return "tool_use" if said.calls_client else "end_turn"


def _remarks(output: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the model remarked on the way, where it has answered as well: kept, and no answer.

    `phase` labels a message as `commentary` or as `final_answer`
    [openai/types/responses/response_output_message.py].
    """
    said = [item for item in output if item.get("type") == "message"]
    remarks = [item for item in said if item.get("phase") == "commentary"]
    return remarks if len(remarks) < len(said) else []


class _Said(Said):
    """What a message says, part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Mapping[str, Any]] = []
        self.calls_client = False

    def take_item(self, item: Mapping[str, Any]) -> None:
        """Take in an item of a response's output."""
        kind = text_at(item, "type")
        if kind == "message":
            self.take(item.get("content"))
            self.messages.append(item)
            return
        if kind == "reasoning":
            self.has_thinking = True
            if item.get("summary") or item.get("content"):
                self.items.append(kept(item))
            return
        if kind in _CALLS:
            self.calls.append(item)
        else:
            self.items.append(kept(item))
        self.final = len(self.blocks)
        self.calls_client |= kind in _CLIENTS or (kind in _CALLS and kind != "mcp_call")

    def take(self, content: Any, annotations: Sequence[Mapping[str, Any]] = ()) -> None:
        """Take in a text or a list of parts, and what annotates a text as a whole."""
        cited = tuple(map(_citation, annotations))
        parts = cast("list[Any]", content) if isinstance(content, list) else [content]
        for each in parts:
            part = cast("dict[str, Any]", each) if isinstance(each, dict) else {"text": each}
            text = part.get("text")
            if isinstance(text, dict):
                # As of the Assistants API [openai/types/beta/threads/text.py].
                text = cast("dict[str, Any]", text).get("value")
            if isinstance(text, str):
                marked = tuple(map(_citation, objects_at(part, "annotations")))
                if text:
                    self.blocks.append(TextBlock(text, marked or cited))
                self.logprobs(part.get("logprobs"))
            elif isinstance(part.get("refusal"), str):
                self.refuse(part["refusal"])
            elif text_at(part, "type") not in {None, "text", "output_text"}:
                self.items.append(kept(part))

    def refuse(self, text: Any) -> None:
        """Take in a refusal, where there is one."""
        if isinstance(text, str) and text:
            self.refusals.append(text)
            self.items.append({"type": "refusal", "refusal": text})

    def logprobs(self, tokens: Any) -> None:
        """Take in the logprobs of a text, where they were asked for."""
        if isinstance(tokens, list) and tokens:
            self.items.append({"type": "logprobs", "content": tokens})


def _citation(annotation: Mapping[str, Any]) -> Mapping[str, Any]:
    """An annotation in one form: chat completions wrap what Responses write flat."""
    kind = text_at(annotation, "type")
    return {**annotation, **object_at(annotation, kind or "")}


def _embedding(custom_id: str, body: Mapping[str, Any]) -> Reply:
    usage = usage_of(body)
    items = list_at(body, "data")
    vector: Any = (
        cast("Any", items[0]).get("embedding") if items and isinstance(items[0], dict) else None
    )
    if isinstance(vector, str):
        vector = _floats(vector)
    if not isinstance(vector, list) or not vector:
        return unreadable(custom_id, "no embedding", usage)
    numbers = cast("list[float]", vector)
    try:
        # What is no number does not add up, and what is none of use adds up to none.
        is_vector = isfinite(sum(numbers))
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
        numbers = array("f", b64decode(encoded, validate=True))
    except ValueError:
        return None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


_UNRUN: Mapping[str, Outcome] = {
    "batch_expired": "expired",
    "batch_cancelled": "canceled",
    "batch_canceled": "canceled",
}


def read_row(custom_id: str, row: Mapping[str, Any]) -> Reply:
    """The reply in a row.

    An answer that is there is read, whatever the fields around it say: it was paid for.
    """
    response = opened_object(row.get("response"))
    body: Any = opened(response.get("body"))
    inside = opened_object(body)
    if _is_answer(inside):
        return answer(custom_id, inside)
    for other in (response, opened_object(row.get("body"))):
        if _is_answer(other):
            return answer(custom_id, other)
    status = whole_number(response.get("status_code"))
    is_good = status is not None and 200 <= status < 300
    error = error_in(
        opened(row.get("error")),
        opened(inside.get("error")),
        # Some send the error in place of the body, or the page of a proxy.
        *(() if is_good and inside.get("object") != "error" else (body,)),
        status=status,
    )
    if error is not None:
        return error.reply(custom_id, "unknown_result", _UNRUN)
    if is_good:
        return answer(custom_id, inside)
    if body or (row.get("response") and not response):
        return unreadable(custom_id, "its response has no status, and no answer that we know")
    return Reply(custom_id, "errored", error_code="unknown_result", error="the row says nothing")


def _is_answer(body: Mapping[str, Any]) -> bool:
    """Whether a body holds an answer, or is one that failed and may have been billed."""
    if body.get("object") == "response":
        return True
    return any(list_at(body, name) for name in ("choices", "output", "data"))
