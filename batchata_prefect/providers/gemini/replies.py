"""Gemini's answers and rows, read into one form.

Sources: google/genai/types.py (3.6.1): GenerateContentResponse, Candidate, FinishReason,
GenerateContentResponseUsageMetadata; ai.google.dev: api/generate-content, api/batch-mode, pricing;
google/rpc/code.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct
from msgspec.json import Decoder

from batchata_prefect.answers import Reply, TextBlock, Usage
from batchata_prefect.providers.replies import Said, error_in
from batchata_prefect.providers.rows import (
    Count,
    decoded,
    object_at,
    objects_at,
    opened,
    opened_object,
    text_at,
    tokens_at,
    unreadable,
    whole_number,
)

_FINISHED = {
    "STOP": "end_turn",
    "MAX_TOKENS": "max_tokens",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "ESCALATION",
        ),
        "refusal",
    ),
}
"""Reason -> the same in Anthropic's words; any other stays as it is, and is not known as an end."""

CODES = {
    1: ("cancelled", 499),
    2: ("unknown", 500),
    3: ("invalid_argument", 400),
    4: ("deadline_exceeded", 504),
    5: ("not_found", 404),
    6: ("already_exists", 409),
    7: ("permission_denied", 403),
    8: ("resource_exhausted", 429),
    9: ("failed_precondition", 400),
    10: ("aborted", 409),
    11: ("out_of_range", 400),
    12: ("unimplemented", 501),
    13: ("internal", 500),
    14: ("unavailable", 503),
    15: ("data_loss", 500),
    16: ("unauthenticated", 401),
}
"""Codes of `google.rpc.Status`, which a row's error is, with the HTTP status of each."""


class _Tokens(Struct, gc=False, rename="camel"):
    prompt_token_count: Count
    candidates_token_count: Count
    thoughts_token_count: Count = 0
    cached_content_token_count: Count = 0
    tool_use_prompt_token_count: Literal[0] = 0


class _Text(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1)]
    thought_signature: str | None = None


class _Content(Struct, gc=False):
    parts: tuple[_Text]


class _Candidate(Struct, gc=False, rename="camel"):
    content: _Content
    finish_reason: Literal["STOP", "MAX_TOKENS"]
    logprobs_result: None = None


class _Response(Struct, gc=False, rename="camel"):
    candidates: tuple[_Candidate]
    usage_metadata: _Tokens


class _Row(Struct, gc=False):
    key: str
    response: _Response
    error: None = None


_DECODER = Decoder(_Row)


def ordinary(row: bytes) -> Reply | None:
    """The reply of a row with one candidate of one text; None for any other.

    It is what `read_row` makes of the row, for a fraction of the time.
    """
    if (found := decoded(_DECODER, row)) is None:
        return None
    (candidate,), usage = found.response.candidates, found.response.usage_metadata
    thought = usage.thoughts_token_count
    return Reply(
        found.key,
        "succeeded",
        (TextBlock(candidate.content.parts[0].text),),
        Usage(
            usage.prompt_token_count,
            usage.candidates_token_count + thought,
            usage.cached_content_token_count,
            reasoning_tokens=thought,
        ),
        _FINISHED[candidate.finish_reason],
        has_thinking=bool(thought),
    )


def read_row(custom_id: str, row: Mapping[str, Any]) -> Reply:
    """The reply in a row.

    An answer that is there is read, whatever the fields around it say: it was paid for.
    """
    response = opened_object(row.get("response"))
    if response.get("candidates") or response.get("promptFeedback"):
        return _answer(custom_id, response)
    error: Any = opened(row.get("error")) or opened(response.get("error"))
    status = None
    if isinstance(error, dict):
        told = cast("Mapping[str, Any]", error)
        number = whole_number(told.get("code"))
        word, status = CODES.get(number or 0, (None, number))
        word = (text_at(told, "status") or word or "").lower() or None
        error = {**told, "code": word}
    found = error_in(error, status=status)
    if found is not None:
        return found.reply(custom_id, "unknown_result", {"cancelled": "canceled"})
    if response:
        return unreadable(custom_id, "no candidates", usage_of(response))
    return Reply(custom_id, "errored", error_code="unknown_result", error="the row says nothing")


def _answer(custom_id: str, response: Mapping[str, Any]) -> Reply:
    usage, said = usage_of(response), Said()
    candidates = objects_at(response, "candidates")
    if not candidates:
        feedback = object_at(response, "promptFeedback")
        reason = text_at(feedback, "blockReason")
        if reason is None:
            return unreadable(custom_id, "no candidates", usage)
        why = text_at(feedback, "blockReasonMessage")
        said.refusals.append(f"the prompt was blocked: {why or reason}")
        return _refusal(said, custom_id, usage, reason)
    candidate = candidates[0]
    for part in objects_at(object_at(candidate, "content"), "parts"):
        _take(said, part)
    reason = text_at(candidate, "finishReason")
    stop = None if reason is None else _FINISHED.get(reason, reason.lower())
    if stop == "refusal":
        said.refusals.append(text_at(candidate, "finishMessage") or f"it was stopped: {reason}")
        return _refusal(said, custom_id, usage, reason or "")
    if stop == "end_turn" and said.calls:
        stop = "tool_use"
    if (logprobs := candidate.get("logprobsResult")) is not None:
        said.items.append({"type": "logprobs", "content": logprobs})
    return said.reply(custom_id, usage, stop)


def _refusal(said: Said, custom_id: str, usage: Usage | None, reason: str) -> Reply:
    """A refusal under Gemini's own reason: that one before any output is free is not documented."""
    return said.reply(custom_id, usage, "refusal")._replace(stop_reason=reason.lower())


def _take(said: Said, part: Mapping[str, Any]) -> None:
    text, call = part.get("text"), object_at(part, "functionCall")
    if part.get("thought"):
        said.has_thinking = True
        if text:
            said.items.append({"type": "thinking", "thinking": text})
    elif isinstance(text, str):
        if text:
            said.blocks.append(TextBlock(text))
    elif call:
        said.calls.append(
            {
                "type": "function_call",
                "id": text_at(call, "id"),
                "name": text_at(call, "name"),
                "input": call.get("args", {}),
            }
        )
        said.final = len(said.blocks)
    elif kinds := [name for name in part if name != "thoughtSignature"]:
        said.items.append({"type": kinds[0], **{name: part[name] for name in kinds}})


def usage_of(response: Mapping[str, Any]) -> Usage | None:
    """The usage in our definitions: Gemini counts thoughts beside the answer, and bills both.

    None where a count is not told, or is no number of tokens: it is not 0, and what the answer
    cost is not known. Where nothing was written its count is left out.
    """
    usage = object_at(response, "usageMetadata")
    read, total = (whole_number(usage.get(f"{name}TokenCount")) for name in ("prompt", "total"))
    if read is None:
        return None
    try:
        thought = tokens_at(usage, "thoughtsTokenCount")
        told_back = tokens_at(usage, "toolUsePromptTokenCount")
        written = whole_number(usage.get("candidatesTokenCount"))
        if written is None:
            if total is None:
                return None
            written = max(total - read - thought - told_back, 0)
        return Usage(
            tokens_at(usage, "promptTokenCount") + told_back,
            tokens_at({"": written}, "") + thought,
            tokens_at(usage, "cachedContentTokenCount"),
            reasoning_tokens=thought,
        )
    except ValueError:
        return None
