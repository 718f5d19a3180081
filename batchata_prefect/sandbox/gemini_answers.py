"""Gemini's answers in its own form, and rows of result files."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from .answers import json_answer, plain_answer, thought_tokens
from .content import FileReader, Marker, Prompt, cut_text, text_tokens
from .gemini_rules import Asked, read_body
from .quotes import formed_answer
from .rows import Counted, Encoder, Outcome, Produced
from .store import Batch, Bill, Store, StoredFile
from .wire import Json, RefusedError, is_object, new_id

_RPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4}
_UNRUN = {"canceled": (1, "The operation was cancelled."), "expired": (4, "Deadline expired.")}
_DAYS_2 = 2 * 86400


def line_places(path: Path) -> array[int] | None:
    """Start and end of each line of a file; None where one is no request with a key."""
    places, at, keys = array("Q"), 0, set[str]()
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                return None
            is_whole = is_object(entry) and entry.keys() == {"key", "request"}
            if not is_whole or entry["key"] in keys or not is_object(entry["request"]):
                return None
            keys.add(entry["key"])
            places.extend((at, at + len(line)))
        at += len(line) + 1
    return places


def line_count(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def failure(batch: Batch) -> Json:
    """The error of a batch that failed as a whole: as a test ordered it, or of its file."""
    options = batch.ending_options
    text = options.get("message", "Failed to parse the input file as requests with a key each.")
    code = options.get("code")
    return {"code": code if isinstance(code, int) else 3, "message": text}


class GeminiRows(Encoder):
    """How a Gemini model answers."""

    provider = "gemini"
    id_key = "key"
    body_key = "request"

    def __init__(self, endpoint: str, files: FileReader, batch: Batch | None) -> None:
        super().__init__(endpoint, files, batch)
        self.model = endpoint.rpartition("/")[2].partition(":")[0]
        self.head = "" if batch is None else hashlib.sha256(batch.id.encode()).hexdigest()[:12]

    def read(self, body: Json, size: int = 0) -> tuple[Asked, Prompt]:
        """As `Encoder.read`."""
        return read_body(self.model, body)

    def answer(
        self, body: Json, model: Asked, prompt: Prompt, marker: Marker | None, number: str
    ) -> tuple[Json, Counted | None]:
        """As `Encoder.answer`."""
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

    def ordered_error(self, marker: Marker) -> RefusedError:
        """As `Encoder.ordered_error`."""
        kind = marker.rest.split()[0] if marker.rest else "api_error"
        if kind == "invalid_request_error":
            return RefusedError("The sandbox was asked to fail this request.")
        if kind == "rate_limit_error":
            return RefusedError("Resource has been exhausted (e.g. check quota).", status=429)
        return RefusedError("An internal error has occurred.", status=500)

    def number(self, ordinal: int) -> str:
        """As `Encoder.number`."""
        return f"{self.head}{ordinal:08x}"

    def row(self, custom_id: str, number: str, kind: str, result: Any) -> Json:
        """As `Encoder.row`."""
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
            {"succeeded": succeeded, "failed": kinds.total() - succeeded},
            output_file_id=file.final.name,
            bills=bills,
        )
        outcome.files.append(
            StoredFile(
                file.final.name,
                self.provider,
                "batch_output",
                "",
                file.bytes,
                "application/json",
                self.now,
                self.now + _DAYS_2,
            )
        )
        outcome.moves.append((file.temporary, file.final))
        return outcome


def _said(
    asked: Asked, prompt: Prompt, marker: Marker | None, most: int | None, thought: int
) -> tuple[Json | None, int, bool]:
    """The part of an answer, its tokens, and whether it was cut off."""
    name = "" if marker is None else marker.name
    if most is not None and thought >= most:
        return None, 0, True
    schema = asked.config.get("responseJsonSchema")
    if (function := asked.call) is not None:
        parameters: Json = function.get("parametersJsonSchema") or function.get("parameters") or {}
        arguments = json_answer(prompt, parameters)
        call = {"name": function["name"], "args": arguments}
        return {"functionCall": call}, text_tokens(orjson.dumps(call).decode()), False
    if marker is not None and name == "reply":
        text = marker.rest
    elif is_object(schema):
        text = orjson.dumps(formed_answer(prompt, schema, misquote=name == "misquote")).decode()
    else:
        text = plain_answer(prompt)
        if asked.config.get("responseMimeType") == "application/json":
            text = orjson.dumps({"answer": text}).decode()
    if name == "invalid_json":
        text = text[: len(text) // 2] + " oops"
    tokens = text_tokens(text)
    left = tokens if most is None else most - thought
    if name in ("truncated", "stop"):
        left = min(left, max(1, tokens // 2))
    if tokens > left:
        return {"text": cut_text(text, left)}, left, True
    return {"text": text}, tokens, False
