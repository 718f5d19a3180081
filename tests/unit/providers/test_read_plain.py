"""Rows of one text are read the short way, and come to the same as the careful way."""

from __future__ import annotations

import copy
import json
from itertools import product
from typing import Any

from batchata_prefect.errors import ParseError
from batchata_prefect.providers.anthropic.batches import Anthropic
from batchata_prefect.providers.gemini.replies import ordinary, read_row
from batchata_prefect.providers.openai.batches import OpenAI
from batchata_prefect.providers.rows import parse

GPT: dict[str, Any] = {
    "id": "batch_req_1",
    "custom_id": "c-0",
    "response": {
        "status_code": 200,
        "body": {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "Hallo",
                        "refusal": None,
                        "tool_calls": None,
                    },
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 30,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
            "error": None,
        },
    },
    "error": None,
}
CLAUDE: dict[str, Any] = {
    "custom_id": "c-0",
    "result": {
        "type": "succeeded",
        "message": {
            "content": [
                {"type": "thinking", "thinking": ""},
                {"type": "text", "text": "Hallo", "citations": None},
            ],
            "stop_reason": "end_turn",
            "usage": {
                "input_tokens": 30,
                "output_tokens": 9,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 7,
                "cache_creation": {"ephemeral_1h_input_tokens": 0},
                "output_tokens_details": {"thinking_tokens": 2},
            },
        },
    },
}
# Without this count a row is read the careful way, and says the same: 0 is what is missing.
GPT_COUNT = ("response", "body", "usage", "completion_tokens_details", "reasoning_tokens")
CLAUDE_COUNT = ("result", "message", "usage", "cache_creation", "ephemeral_1h_input_tokens")

GEMINI = {
    "key": "0123456789abcdef-0",
    "response": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [{"text": "Hello", "thoughtSignature": "c2ln"}],
                },
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 9,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 2,
            "cachedContentTokenCount": 4,
            "toolUsePromptTokenCount": 0,
            "totalTokenCount": 16,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r",
    },
}

MISSING = object()
VALUES = [MISSING, None, True, 0, 1, 2.5, "", "x", " ", "tool_calls", "refusal", "length", 429]
PARTS = [[], {}, [{}], [{"type": "text", "text": "more"}], {"code": "bad", "message": "no"}]


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [at, *(path for key, item in items for path in paths(item, (*at, key)))]


def changed(row: Any, path: tuple[Any, ...], value: Any) -> Any:
    row = copy.deepcopy(row)
    place = row
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return row


def read(provider: Any, row: Any) -> Any:
    try:
        return provider.read(json.dumps(row).encode(), "/v1/chat/completions")
    except ParseError as error:
        return type(error), error.code


def check(provider: Any, row: Any, count: tuple[Any, ...], path: Any, value: Any) -> None:
    row = changed(row, path, value)
    try:
        careful = changed(row, count, MISSING)
    except (KeyError, TypeError, IndexError):
        return  # the change took the count away with it
    place = row
    for key in count[:-1]:
        place = place[key]
    if place[count[-1]] != 0 or place[count[-1]] is False:
        return
    assert read(provider, row) == read(provider, careful), (path, value)


def test_chat_completions_of_any_shape_read_the_same_both_ways():
    """Whatever any one field of a completion holds, the short way reads it as the careful one."""
    for path, value in product(paths(GPT)[1:], VALUES + PARTS):
        if path != ("custom_id",):
            check(OpenAI(), GPT, GPT_COUNT, path, value)


def test_messages_of_any_shape_read_the_same_both_ways():
    """Whatever any one field of a message holds, the short way reads it as the careful one."""
    for path, value in product(paths(CLAUDE)[1:], VALUES + PARTS):
        if path != ("custom_id",):
            check(Anthropic(), CLAUDE, CLAUDE_COUNT, path, value)


def test_geminis_answers_of_any_shape_read_the_same_both_ways():
    """Whatever any one field of an answer holds, the short way reads it as the careful one."""
    plain = 0
    for path, value in product(paths(GEMINI)[1:], VALUES + PARTS):
        row = json.dumps(changed(GEMINI, path, value)).encode()
        if (reply := ordinary(row)) is not None:
            plain += 1
            assert reply == read_row(*parse(row, name="key")), (path, value)
    assert plain > 50
