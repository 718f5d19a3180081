"""The check of a batch file that decides whether an OpenAI batch runs at all.

Codes and texts: the provider notes, section 2, "Validation failures", from captures of 2026-09-02;
where no text was captured the words are the sandbox's own.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .content import text_tokens
from .limits import Limits
from .openai_models import openai_model
from .store import Batch, StoredFile
from .wire import Json, is_array, is_object

_MOST_ERRORS = 100


@dataclass(slots=True)
class Validation:
    """What the check found: errors, or the model and the places of the lines."""

    errors: list[Json] = field(default_factory=list[Json])
    model: str | None = None
    count: int = 0
    tokens: int = 0
    places: array[int] = field(default_factory=lambda: array("Q"))


def validate_file(
    batch: Batch,
    file: StoredFile | None,
    path: Path | None,
    limits: Limits,
    enqueued: Callable[[str], int],
) -> Validation:
    """Check the input file of a batch.

    Args:
        batch: the batch.
        file: its input file, None where there is no such file.
        path: where the file's bytes lie.
        limits: limits in force.
        enqueued: gives the tokens of a model that wait already.
    """
    found = Validation()
    fault = batch.fault
    if fault is not None and fault.get("mode") == "batch_failed":
        found.errors.append(_ordered_failure(fault.get("options", {}), batch))
        return found
    if file is None or path is None or not path.exists() or file.purpose != "batch":
        found.errors.append(
            _error(
                "invalid_request",
                f"The input file '{batch.input_file_id}' does not exist or does not have the"
                " purpose 'batch'.",
                "file_id",
                None,
            )
        )
        return found
    if file.bytes == 0:
        found.errors.append(_error("empty_file", "The batch input file is empty.", None, None))
        return found
    check = _Check(batch, limits, found)
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check.lines(data)
    found.count = len(found.places) // 2
    if file.bytes > limits.max_file_bytes and not found.errors:
        found.errors.append(
            _error(
                "invalid_request",
                f"The batch input file is larger than the {limits.max_file_bytes} maximum for the"
                f" {found.model} model",
                "file_id",
                None,
            )
        )
    if not found.errors and found.count == 0:
        found.errors.append(_error("empty_file", "The batch input file is empty.", None, None))
    if not found.errors and found.model is not None and limits.enqueued_tokens is not None:
        waiting = enqueued(found.model)
        if waiting + found.tokens > limits.enqueued_tokens:
            found.errors.append(token_limit_error(found.model, limits.enqueued_tokens))
    return found


def token_limit_error(model: str | None, limit: int) -> Json:
    """The error of a batch that would pass the enqueued-token limit (openai-python#2084)."""
    return _error(
        "token_limit_exceeded",
        f"Enqueued token limit reached for {model} in organization org-sandbox. Limit: {limit:,}"
        " enqueued tokens. Please try again once some in_progress batches have been completed.",
        None,
        None,
    )


class _Check:
    def __init__(self, batch: Batch, limits: Limits, found: Validation) -> None:
        self.endpoint = batch.endpoint
        self.limits = limits
        self.found = found
        self.custom_ids: set[str] = set()
        self.inputs = 0
        self.count_tokens = limits.enqueued_tokens is not None

    def lines(self, data: mmap.mmap) -> None:
        start, number, size = 0, 0, len(data)
        while start < size and len(self.found.errors) < _MOST_ERRORS:
            end = data.find(b"\n", start)
            end = size if end < 0 else end
            number += 1
            raw = data[start:end]
            if raw.strip():
                self._line(raw, number)
                self.found.places.extend((start, end))
            start = end + 1
            if len(self.found.places) // 2 > self.limits.max_lines:
                self._add(
                    "too_many_tasks",
                    "The batch input file contains too many requests. The maximum is"
                    f" {self.limits.max_lines}.",
                    None,
                    None,
                )
                return
        if self.inputs > self.limits.embedding_inputs:
            self._add(
                "too_many_tasks",
                "The batch input file contains too many embedding inputs. The maximum is"
                f" {self.limits.embedding_inputs}.",
                None,
                None,
            )

    def _line(self, raw: bytes, number: int) -> None:
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            line = None
        if not is_object(line):
            message = "This line is not parseable as valid JSON."
            self._add("invalid_json_line", message, None, number)
            return
        custom_id = line.get("custom_id")
        if not isinstance(custom_id, str):
            self._missing("custom_id", number)
            return
        if custom_id in self.custom_ids:
            self._add(
                "duplicate_custom_id",
                f"The custom_id for this request is a duplicate of another request: {custom_id}.",
                "custom_id",
                number,
            )
            return
        self.custom_ids.add(custom_id)
        if line.get("method") != "POST":
            if "method" not in line:
                self._missing("method", number)
            else:
                message = "The HTTP method of a batch request must be 'POST'."
                self._add("invalid_method", message, "method", number)
            return
        if line.get("url") != self.endpoint:
            self._add(
                "invalid_url",
                f"The URL provided for this request does not match the batch endpoint"
                f" {self.endpoint}.",
                "url",
                number,
            )
            return
        body = line.get("body")
        if not is_object(body):
            self._missing("body", number)
            return
        self._body(body, number)

    def _body(self, body: Json, number: int) -> None:
        model = body.get("model")
        if not isinstance(model, str):
            message = "The request body must name a model."
            self._add("invalid_request", message, "body.model", number)
            return
        if self.found.model is None:
            if openai_model(model) is None:
                self._add(
                    "model_not_found",
                    f"The provided model '{model}' is not supported by the Batch API.",
                    "body.model",
                    number,
                )
                return
            self.found.model = model
        elif model != self.found.model:
            self._add(
                "mismatched_model",
                "The provided model does not match the model of the other requests in the batch:"
                f" '{model}' is not '{self.found.model}'.",
                "body.model",
                number,
            )
            return
        if body.get("stream") is True:
            message = "Streaming is not supported in the Batch API."
            self._add("streaming_unsupported", message, "body.stream", number)
            return
        if self.endpoint == "/v1/embeddings":
            given: Any = body.get("input")
            self.inputs += len(given) if is_array(given) else 1
        if self.count_tokens:
            self.found.tokens += _prompt_tokens(body)

    def _missing(self, name: str, number: int) -> None:
        message = f"Missing required parameter: '{name}'."
        self._add("missing_required_parameter", message, name, number)

    def _add(self, code: str, message: str, param: str | None, line: int | None) -> None:
        self.found.errors.append(_error(code, message, param, line))


def _error(code: str, message: str, param: str | None, line: int | None) -> Json:
    return {"code": code, "line": line, "message": message, "param": param}


def _ordered_failure(options: Json, batch: Batch) -> Json:
    code = options.get("code", "token_limit_exceeded")
    message = options.get("message")
    if code == "token_limit_exceeded" and message is None:
        return token_limit_error(options.get("model", "gpt-6-luna"), 2_000_000)
    return _error(
        code,
        message or "The sandbox was asked to fail this batch.",
        options.get("param"),
        options.get("line"),
    )


def _prompt_tokens(value: Any) -> int:
    """Tokens of the texts in a body, without its data URLs and its schema."""
    if isinstance(value, str):
        return 0 if value.startswith("data:") else text_tokens(value)
    if is_object(value):
        return sum(
            _prompt_tokens(child)
            for key, child in value.items()
            if key in ("messages", "input", "instructions", "content", "text")
        )
    if is_array(value):
        return sum(_prompt_tokens(child) for child in value)
    return 0
