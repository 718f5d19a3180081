"""Chat completions, responses and embeddings in OpenAI's own form."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from array import array
from dataclasses import dataclass, field
from typing import Any

import orjson

from .answers import json_answer, plain_answer
from .content import Marker, Prompt, cut_text, text_tokens
from .extras import Extras, allow_response, ordered
from .openai_models import OpenAIModel
from .openai_rules import CHAT, EMBEDDINGS
from .quotes import formed_answer
from .wire import Json, is_array, is_object

_TINY = 16
_CACHE_MINIMUM = 1024
_TIERS = {"flex": "flex", "priority": "priority", "fast": "priority"}
"""Tier asked for -> tier that the reply names (openai/types/responses/response.py)."""
_REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of an answer; `input` includes the cached ones, `output` the reasoning."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    cut: bool
    refused: bool
    reasoning: int
    tokens: int


class CacheMemory:
    """Which prompt heads were seen so far, within one batch."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def cached(self, prompt: Prompt) -> int:
        """Prompt tokens that come from the cache: 1,024 where the head was seen before."""
        if prompt.tokens < _CACHE_MINIMUM:
            return 0
        head = "\0".join(text[:4096] for text in prompt.texts)[:4096]
        key = hash(head)
        if len(head) < 4096 or key not in self._seen:
            self._seen.add(key)
            return 0
        return _CACHE_MINIMUM


def make_body(
    endpoint: str,
    body: Json,
    model: OpenAIModel,
    prompt: Prompt,
    marker: Marker | None,
    number: str,
    at: float,
    cache: CacheMemory,
    *,
    batch: bool,
) -> tuple[Json, Counted]:
    """The body that answers a request, and its tokens.

    Args:
        endpoint: which API it was sent to.
        body: the request body, already checked.
        model: traits of its model.
        prompt: what the body says.
        marker: what a test ordered in the text, if anything.
        number: text that makes the ids of the answer.
        at: Unix time of the answer.
        cache: prompt heads seen before.
        batch: whether it is a line of a batch, which has a tier of its own.
    """
    if endpoint == EMBEDDINGS:
        return _embeddings(body, model, prompt)
    if endpoint == CHAT:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        given = body.get("response_format")
        form = given.get("json_schema") if is_object(given) else None
        effort = body.get("reasoning_effort")
    else:
        limit = body.get("max_output_tokens")
        text = body.get("text")
        given = text.get("format") if is_object(text) else None
        form = given if is_object(given) and given.get("type") == "json_schema" else None
        reasoning = body.get("reasoning")
        effort = reasoning.get("effort") if is_object(reasoning) else None
    schema = form.get("schema") if is_object(form) else None
    wants_object = is_object(given) and given.get("type") == "json_object"
    said = _text(prompt, model, marker, effort, limit, schema, wants_object)
    extras = ordered(marker)
    extras.passes = []
    allow_response(extras, body if endpoint != CHAT else {})
    extras.tier = None if batch else _TIERS.get(str(body.get("service_tier")))
    counted = Counted(
        max(prompt.tokens, 1),
        said.tokens * int(body.get("n") or 1),
        cache.cached(prompt),
        said.reasoning,
        extras,
    )
    if marker is not None and marker.name == "tokens":
        tokens_in, tokens_out = (int(each) for each in marker.rest.split()[:2])
        counted = Counted(tokens_in, tokens_out, 0, min(said.reasoning, tokens_out), extras)
    if endpoint == CHAT:
        answer = _chat(body, model, said, counted, number, at)
    else:
        answer = _response(body, model, said, counted, number, at, effort)
    if marker is not None:
        _bent(answer, marker)
    return answer, counted


def _text(
    prompt: Prompt,
    model: OpenAIModel,
    marker: Marker | None,
    effort: Any,
    limit: Any,
    schema: Any,
    wants_object: bool,
) -> _Text:
    reasoning = 0
    most = limit if isinstance(limit, int) else None
    if model.reasons and effort != "none":
        reasoning = 16 + zlib.crc32(prompt.ask.encode()) % 48
        if most is not None:
            reasoning = most if most <= _TINY else min(reasoning, most // 2)
    name = marker.name if marker is not None else ""
    if name == "refusal":
        return _Text(_REFUSAL, False, True, 0, text_tokens(_REFUSAL))
    if most is not None and reasoning >= most:
        return _Text("", True, False, reasoning, most)
    if name == "reply" and marker is not None:
        text = marker.rest
    elif is_object(schema):
        text = orjson.dumps(formed_answer(prompt, schema, misquote=name == "misquote")).decode()
    elif wants_object:
        text = orjson.dumps({"answer": plain_answer(prompt)}).decode()
    else:
        text = plain_answer(prompt)
    if name == "invalid_json":
        text = text[: len(text) // 2] + " oops"
    tokens = text_tokens(text)
    left = tokens if most is None else most - reasoning
    if name in ("truncated", "stop"):
        left = min(left, max(1, tokens // 2))
    if tokens > left:
        return _Text(cut_text(text, left), True, False, reasoning, reasoning + left)
    return _Text(text, False, False, reasoning, reasoning + tokens)


def _bent(answer: Json, marker: Marker) -> None:
    """Have an answer be another, stop for another reason, or remark on its work before it."""
    if marker.name == "answer" and "choices" in answer:
        answer["choices"][0]["message"] |= orjson.loads(marker.rest)
    elif marker.name == "answer":
        answer["output"] = orjson.loads(marker.rest)
    elif marker.name == "stop" and "choices" in answer:
        answer["choices"][0]["finish_reason"] = marker.rest
    elif marker.name == "stop":
        answer["incomplete_details"] = {"reason": marker.rest}
    elif marker.name == "commentary" and "output" in answer:
        said = answer["output"][-1]
        remark = {**said["content"][0], "text": "I will check the register first."}
        said["phase"] = "final_answer"
        remarked = {**said, "id": f"{said['id']}_1", "phase": "commentary", "content": [remark]}
        answer["output"].insert(-1, remarked)


def _tool_call(tools: Any, choice: Any, prompt_text: str) -> Json | None:
    if not is_array(tools) or choice in (None, "auto", "none"):
        return None
    for tool in tools:
        function = tool.get("function", tool) if is_object(tool) else None
        if is_object(function) and isinstance(function.get("name"), str):
            prompt = Prompt(texts=[prompt_text], ask=prompt_text)
            arguments = json_answer(prompt, function.get("parameters") or {})
            return {"name": function["name"], "arguments": orjson.dumps(arguments).decode()}
    return None


def _chat(
    body: Json, model: OpenAIModel, said: _Text, counted: Counted, number: str, at: float
) -> Json:
    message: Json = {
        "role": "assistant",
        "content": None if said.refused else said.text,
        "refusal": said.text if said.refused else None,
        "annotations": [],
    }
    finish = "length" if said.cut else "stop"
    call = _tool_call(body.get("tools"), body.get("tool_choice"), said.text)
    if call is not None and not said.cut:
        message["content"] = None
        message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": call}]
        finish = "tool_calls"
    choices = int(body.get("n") or 1)
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(at),
        "model": model.id,
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
            for index in range(choices)
        ],
        "usage": {
            "prompt_tokens": counted.input,
            "completion_tokens": counted.output,
            "total_tokens": counted.input + counted.output,
            "prompt_tokens_details": {
                "cached_tokens": counted.cached,
                "cache_write_tokens": 0,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": counted.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": counted.extras.tier or "default",
        "system_fingerprint": None,
    }


def _response(
    body: Json,
    model: OpenAIModel,
    said: _Text,
    counted: Counted,
    number: str,
    at: float,
    effort: Any,
) -> Json:
    output: list[Json] = []
    if said.reasoning:
        output.append({"id": f"rs_{number}", "type": "reasoning", "summary": []})
    for kind in ("web_search", "file_search"):
        for nth in range(counted.extras.fees.get(f"{kind}es", 0)):
            asked: Json = {"query": said.text[:40]}
            searched = {"action": {"type": "search", **asked}} if kind == "web_search" else asked
            call_id = f"{kind[0]}s_{number}{nth:02x}"
            kind_of_call = f"{kind}_call"
            output.append({"id": call_id, "type": kind_of_call, "status": "completed", **searched})
    call = _tool_call(body.get("tools"), body.get("tool_choice"), said.text)
    if call is not None and not said.cut:
        output.append(
            {
                "id": f"fc_{number}",
                "type": "function_call",
                "status": "completed",
                "call_id": f"call_{number}",
                **call,
            }
        )
    elif said.text:
        part: Json = (
            {"type": "refusal", "refusal": said.text}
            if said.refused
            else {"type": "output_text", "annotations": [], "logprobs": [], "text": said.text}
        )
        output.append(
            {
                "id": f"msg_{number}",
                "type": "message",
                "status": "incomplete" if said.cut else "completed",
                "content": [part],
                "role": "assistant",
            }
        )
    text = body.get("text")
    sampled = not model.reasons or effort == "none"
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(at),
        "status": "incomplete" if said.cut else "completed",
        "background": False,
        "completed_at": None if said.cut else int(at),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if said.cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "model": model.id,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {
            "effort": effort or ("medium" if model.reasons else None),
            "summary": None,
        },
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": counted.extras.tier or "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0) if sampled else 1.0,
        "text": text if is_object(text) else {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_logprobs": body.get("top_logprobs", 0),
        "top_p": body.get("top_p", 1.0) if sampled else 1.0,
        "truncation": body.get("truncation", "disabled"),
        "usage": {
            "input_tokens": counted.input,
            "input_tokens_details": {"cached_tokens": counted.cached, "cache_write_tokens": 0},
            "output_tokens": counted.output,
            "output_tokens_details": {"reasoning_tokens": counted.reasoning},
            "total_tokens": counted.input + counted.output,
        },
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


_DIMENSIONS = {"text-embedding-3-large": 3072}


def _embeddings(body: Json, model: OpenAIModel, prompt: Prompt) -> tuple[Json, Counted]:
    size = body.get("dimensions") or _DIMENSIONS.get(model.id, 1536)
    data: list[Json] = []
    for index, text in enumerate(prompt.texts):
        vector = _vector(text, size)
        given: Any = (
            base64.b64encode(vector.tobytes()).decode()
            if body.get("encoding_format") == "base64"
            else [round(value, 8) for value in vector]
        )
        data.append({"object": "embedding", "index": index, "embedding": given})
    counted = Counted(max(prompt.tokens, 1), 0)
    usage = {"prompt_tokens": counted.input, "total_tokens": counted.input}
    return {"object": "list", "data": data, "model": model.id, "usage": usage}, counted


def _vector(text: str, size: int) -> array[float]:
    numbers = array("h", hashlib.shake_128(text.encode()).digest(2 * size))
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return array("f", (number / length for number in numbers))
