"""Gemini's answers in its own form, and rows of result files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import orjson

from .answers import fitting_text, json_answer, thought_tokens, wanted_text
from .content import FileReader, Marker, Prompt, text_tokens
from .faults import Limits
from .gemini_rules import Asked, read_body
from .lines import Check, Problem, error
from .rows import Counted, Encoder, Outcome, Produced
from .store import Batch, Bill, Store, StoredFile
from .wire import Json, Refusal, RefusedError, is_object, new_id

_RPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4}
_UNRUN = {"canceled": (1, "The operation was cancelled."), "expired": (4, "Deadline expired.")}
_DAYS_2 = 2 * 86400


class GeminiCheck(Check):
    """What is wrong with a file, of which one bad line fails the batch."""

    def __init__(self, batch: Batch, limits: Limits) -> None:
        super().__init__(batch, limits)
        self.most_lines = sys.maxsize

    def line(self, line: Json | None) -> Problem | None:
        key, request = (line or {}).get("key"), (line or {}).get("request")
        is_whole = is_object(request) and len(line or {}) == 2
        if not isinstance(key, str) or not is_whole or key in self.ids:
            return 3, "Failed to parse the input file as requests with a key each.", None
        self.ids.add(key)
        return None

    def whole(self, file: StoredFile, enqueued: Callable[[str], int]) -> Problem | None:
        """As `Check.whole`: its tokens were counted as the batch was created."""
        return None

    def ordered_failure(self, options: Json) -> Json:
        code = options.get("code")
        text = options.get("message", "The sandbox was asked to fail this batch.")
        return error(code if isinstance(code, int) else 3, text)


def line_count(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


class GeminiRows(Encoder):
    """How a Gemini model answers."""

    provider = "gemini"
    id_key = "key"
    body_key = "request"
    words: ClassVar = {
        "succeeded": "SUCCEEDED",
        "errored": "FAILED",
        "canceled": "CANCELLED",
        "expired": "EXPIRED",
    }
    errors: ClassVar[Mapping[str, Refusal]] = {
        "api_error": Refusal(500, "An internal error has occurred."),
        "invalid_request_error": Refusal(400, "The sandbox was asked to fail this request."),
        "rate_limit_error": Refusal(429, "Resource has been exhausted (e.g. check quota)."),
    }

    def __init__(self, endpoint: str, files: FileReader, batch: Batch | None) -> None:
        super().__init__(endpoint, files, batch)
        self.model = endpoint.rpartition("/")[2].partition(":")[0]

    def read(self, body: Json, size: int = 0) -> tuple[Asked, Prompt]:
        return read_body(self.model, body)

    def answer(
        self, body: Json, model: Asked, prompt: Prompt, marker: Marker | None, number: str
    ) -> tuple[Json, Counted | None]:
        name, rest = ("", "") if marker is None else (marker.name, marker.rest)
        given = max(prompt.tokens, 1)
        usage: Json = {"promptTokenCount": given, "totalTokenCount": given}
        answer: Json = {"usageMetadata": usage, "modelVersion": model.id, "responseId": number}
        if name == "blocked":
            answer["promptFeedback"] = {"blockReason": rest or "PROHIBITED_CONTENT"}
            return answer, Counted(given, 0)
        if name == "refusal":
            answer["candidates"] = [{"finishReason": rest or "SAFETY", "index": 0}]
            return answer, Counted(given, 0)
        most = model.config.get("maxOutputTokens")
        thought = thought_tokens(prompt, most, tiny=16) if model.thinks else 0
        part, tokens, cut = _said(model, prompt, marker, most, thought)
        content: Json = {"role": "model", "parts": [part]} if part else {"role": "model"}
        if name == "answer":
            content["parts"] = orjson.loads(rest)
        finish = rest if name == "stop" else "MAX_TOKENS" if cut else "STOP"
        answer["candidates"] = [{"content": content, "finishReason": finish, "index": 0}]
        if name == "tokens":
            given, tokens = (int(each) for each in rest.split()[:2])
            thought = min(thought, tokens)
            tokens -= thought
        counts = {"candidatesTokenCount": tokens, "thoughtsTokenCount": thought}
        # A count of 0 is left out in proto JSON.
        usage.update({key: count for key, count in counts.items() if count})
        usage.update(promptTokenCount=given, totalTokenCount=given + tokens + thought)
        return answer, Counted(given, tokens + thought, reasoning=thought)

    def row(self, custom_id: str, number: str, kind: str, result: Any) -> Json:
        if isinstance(result, RefusedError):
            error = {"code": _RPC.get(result.status, 2), "message": result.message}
            return {"key": custom_id, "error": error}
        if result is None:
            code, message = _UNRUN[kind]
            return {"key": custom_id, "error": {"code": code, "message": message}}
        return {"key": custom_id, "response": result}

    def produced(self, store: Store) -> dict[str, Produced]:
        """As `Encoder.produced`: all rows in one file."""
        made = Produced(store, store.files_dir / f"batch-{new_id('', 36).lower()}")
        return dict.fromkeys(("succeeded", "errored", "canceled", "expired"), made)

    def outcome(self, kinds: Counter[str], bills: list[Bill], made: dict[str, Produced]) -> Outcome:
        """As `Encoder.outcome`: an expired batch has no results, and is not billed for any."""
        file = made["succeeded"]
        assert self.batch is not None
        if self.batch.ending == "batch_expired" and self.batch.cancel_at is None:
            file.temporary.unlink()
            return Outcome({"failed": kinds.total()})
        succeeded = kinds["succeeded"]
        outcome = Outcome(
            {"succeeded": succeeded, "failed": kinds.total() - succeeded}, bills=bills
        )
        outcome.output_file_id = self.keep(outcome, file, "", _DAYS_2)
        return outcome


def _said(
    asked: Asked, prompt: Prompt, marker: Marker | None, most: int | None, thought: int
) -> tuple[Json | None, int, bool]:
    """The part of an answer, its tokens, and whether it was cut off."""
    if most is not None and thought >= most:
        return None, 0, True
    schema = asked.config.get("responseJsonSchema")
    if (function := asked.call) is not None:
        parameters: Json = function.get("parametersJsonSchema") or function.get("parameters") or {}
        arguments = json_answer(prompt, parameters)
        call = {"name": function["name"], "args": arguments}
        return {"functionCall": call}, text_tokens(orjson.dumps(call).decode()), False
    as_json = asked.config.get("responseMimeType") == "application/json"
    text = wanted_text(prompt, marker, schema, as_json=as_json)
    text, tokens, cut = fitting_text(text, marker, None if most is None else most - thought)
    return {"text": text}, tokens, cut
