"""Chat completions, responses and embeddings in OpenAI's own form, and rows of result files."""

from __future__ import annotations

import base64
import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from .answers import fitting_text, json_answer, thought_tokens, wanted_text
from .compatible import bent_row, new_number
from .content import FileReader, Marker, Prompt, text_tokens
from .openai_content import error_body
from .openai_rules import CHAT, EMBEDDINGS, OpenAIModel, read_body
from .rows import Counted, Encoder, Outcome, Produced, ordered
from .store import Batch, Bill, Store
from .wire import Json, Refusal, RefusedError, is_array, is_object, new_id, object_at

_CACHE_MINIMUM = 1024
_CACHE_HEAD = 4096
_TIERS = {"flex": "flex", "priority": "priority", "fast": "priority"}
"""Tier asked for -> tier that the reply names (openai/types/responses/response.py)."""
_REFUSAL = "I'm sorry, but I can't help with that."
_NOT_RUN = {
    "canceled": (
        "batch_cancelled",
        "This request was not executed because the batch was cancelled.",
    ),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}
DAYS_30 = 30 * 86400


@dataclass(slots=True)
class _Text:
    text: str
    cut: bool
    refused: bool
    reasoning: int
    tokens: int


class Gpt(Encoder):
    """How OpenAI answers at one of its endpoints."""

    provider = "openai"
    body_key = "body"
    words: ClassVar = {
        "succeeded": "completed",
        "errored": "failed",
        "canceled": "cancelled",
        "expired": "expired",
    }
    errors: ClassVar[Mapping[str, Refusal]] = {
        "api_error": Refusal(
            500, "The server had an error while processing your request. Sorry about that!"
        ),
        "invalid_request_error": Refusal(400, "The sandbox was asked to fail this request."),
        "rate_limit_error": Refusal(
            429,
            "Rate limit reached for requests",
            code="rate_limit_exceeded",
            error_type="requests",
        ),
    }

    def __init__(self, endpoint: str, files: FileReader, batch: Batch | None) -> None:
        super().__init__(endpoint, files, batch)
        self.ways = [] if batch is None else batch.ways
        self.is_one_file = not {"one_file", "same_file"}.isdisjoint(self.ways)
        self.input = self.output = self.cached = self.reasoning = 0
        self.heads: set[int] = set()
        """Heads of prompts that were seen so far."""

    def read(self, body: Json, size: int = 0) -> tuple[OpenAIModel, Prompt]:
        return read_body(self.endpoint, body, self.files)

    def answer(
        self, body: Json, model: OpenAIModel, prompt: Prompt, marker: Marker | None, number: str
    ) -> tuple[Json, Counted]:
        if self.endpoint == EMBEDDINGS:
            answer, counted = _embeddings(body, model, prompt)
        else:
            chats = self.endpoint == CHAT
            effort = (body if chats else object_at(body, "reasoning")).get(
                "reasoning_effort" if chats else "effort"
            )
            said = _text(body, model, prompt, marker, effort)
            counted = self._counted(body, prompt, marker, said)
            if self.endpoint == CHAT:
                answer = _chat(body, model, said, counted, number, self.now)
            else:
                answer = _response(body, model, said, counted, number, self.now, effort)
            if marker is not None:
                _bend(answer, marker)
        self.input += counted.input
        self.output += counted.output
        self.cached += counted.cache_read
        self.reasoning += counted.reasoning
        return answer, counted

    def _counted(self, body: Json, prompt: Prompt, marker: Marker | None, said: _Text) -> Counted:
        counted = ordered(marker, body if self.endpoint != CHAT else {})
        counted.passes = []
        counted.tier = _TIERS.get(str(body.get("service_tier"))) if self.batch is None else None
        written = said.tokens * int(body.get("n") or 1)
        if counted.spend(marker, max(prompt.tokens, 1), written, said.reasoning):
            counted.cache_read = self._cached(prompt)
        return counted

    def _cached(self, prompt: Prompt) -> int:
        """Prompt tokens that come from the cache: 1,024 where the head was seen before."""
        if prompt.tokens < _CACHE_MINIMUM:
            return 0
        head = "\0".join(text[:_CACHE_HEAD] for text in prompt.texts)[:_CACHE_HEAD]
        if len(head) == _CACHE_HEAD and hash(head) in self.heads:
            return _CACHE_MINIMUM
        self.heads.add(hash(head))
        return 0

    def row(self, custom_id: str, number: str, kind: str, result: Any) -> Json:
        response = error = None
        if result is None:
            code, message = _NOT_RUN[kind]
            error = {"code": code, "message": message}
        elif isinstance(result, RefusedError):
            status, body = result.status, error_body(result)
            response = {"status_code": status, "request_id": number, "body": body}
        else:
            response = {"status_code": 200, "request_id": number, "body": result}
        row = {
            "id": f"batch_req_{number}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        return bent_row(row, self.ways)

    def produced(self, store: Store) -> dict[str, Produced]:
        """As `Encoder.produced`: answers in one file, all else in another."""
        made = [new_number() if "numbers" in self.ways else new_id("file-", 22) for _ in range(2)]
        output, errors = (Produced(store, store.files_dir / name) for name in made)
        if self.is_one_file:
            errors = output
        return {"succeeded": output, **dict.fromkeys(("errored", *_NOT_RUN), errors)}

    def outcome(self, kinds: Counter[str], bills: list[Bill], made: dict[str, Produced]) -> Outcome:
        assert self.batch is not None
        total = kinds.total()
        # A capture shows the counters of a cancelled batch back at zero; see the notes on counting.
        completed = 0 if self.batch.cancel_at is not None else kinds["succeeded"]
        outcome = Outcome(
            {
                "total": total,
                "completed": completed,
                "failed": 0 if self.batch.cancel_at is not None else total - completed,
            },
            usage={
                "input_tokens": self.input,
                "output_tokens": self.output,
                "total_tokens": self.input + self.output,
                "input_tokens_details": {"cached_tokens": self.cached},
                "output_tokens_details": {"reasoning_tokens": self.reasoning},
            },
            bills=bills,
        )
        # A file without rows is not made.
        for made_file, kind in ((made["succeeded"], "output"), (made["errored"], "error")):
            if kind == "error" and self.is_one_file:
                continue
            if not made_file.rows and "empty_file" not in self.ways:
                made_file.temporary.unlink()
                continue
            lasts = self.batch.output_expires_after or DAYS_30
            name = self.keep(outcome, made_file, f"{self.batch.id}_{kind}.jsonl", lasts)
            setattr(outcome, f"{kind}_file_id", name)
        return outcome


def _text(
    body: Json, model: OpenAIModel, prompt: Prompt, marker: Marker | None, effort: Any
) -> _Text:
    """What is said at either of the two endpoints that say something."""
    if "messages" in body:
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        form = object_at(body, "response_format")
        schema = object_at(form, "json_schema").get("schema")
    else:
        most = body.get("max_output_tokens")
        form = object_at(object_at(body, "text"), "format")
        schema = form.get("schema")
    reasoning = thought_tokens(prompt, most, tiny=16) if model.reasons and effort != "none" else 0
    if marker is not None and marker.name == "refusal":
        return _Text(_REFUSAL, False, True, 0, text_tokens(_REFUSAL))
    if most is not None and reasoning >= most:
        return _Text("", True, False, reasoning, most)
    text = wanted_text(prompt, marker, schema, as_json=form.get("type") == "json_object")
    text, tokens, cut = fitting_text(text, marker, None if most is None else most - reasoning)
    return _Text(text, cut, False, reasoning, reasoning + tokens)


def _bend(answer: Json, marker: Marker) -> None:
    """Have an answer be another, or stop for another reason."""
    if marker.name == "answer" and "choices" in answer:
        answer["choices"][0]["message"] |= orjson.loads(marker.rest)
    elif marker.name == "answer":
        answer["output"] = orjson.loads(marker.rest)
    elif marker.name == "stop" and "choices" in answer:
        answer["choices"][0]["finish_reason"] = marker.rest
    elif marker.name == "stop":
        answer["incomplete_details"] = {"reason": marker.rest}


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
                "cached_tokens": counted.cache_read,
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
        "service_tier": counted.tier or "default",
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
        for nth in range(counted.fees.get(f"{kind}es", 0)):
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
        "service_tier": counted.tier or "default",
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
            "input_tokens_details": {"cached_tokens": counted.cache_read, "cache_write_tokens": 0},
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
