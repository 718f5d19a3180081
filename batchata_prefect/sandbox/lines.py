"""The check of a batch file's lines, which decides whether a batch of it runs at all.

Codes and texts: the provider notes, section 2, "Validation failures", from captures of 2026-09-02;
where no text was captured the words are the sandbox's own.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import orjson

from .content import text_tokens
from .faults import Limits
from .openai_rules import EMBEDDINGS, openai_model
from .store import Batch, StoredFile
from .wire import Json, is_array, is_object

_MOST_ERRORS = 100
Problem = tuple[Any, str, str | None]
"""Code, text and parameter of what is wrong with a line."""


@dataclass(slots=True)
class Validation:
    """What the check found: errors, or the model and the places of the lines."""

    errors: list[Json] = field(default_factory=list[Json])
    model: str | None = None
    endpoint: str | None = None
    """That of its lines, where it is not told by the batch."""
    count: int = 0
    tokens: int = 0
    places: array[int] = field(default_factory=lambda: array("Q"))


class Check(ABC):
    """Walks the lines of a batch's file and notes their places and errors."""

    drops_canceled: ClassVar[bool] = True
    """Whether a batch that is canceled before its file was checked has no rows."""

    def __init__(self, batch: Batch, limits: Limits) -> None:
        self.batch = batch
        self.endpoint = batch.endpoint
        self.limits = limits
        self.most_lines = limits.max_lines
        self.found = Validation()
        self.ids: set[str] = set()

    @abstractmethod
    def line(self, line: Json | None) -> Problem | None:
        """What is wrong with a line, None for one that is no JSON object."""

    @abstractmethod
    def whole(self, file: StoredFile, enqueued: Callable[[str], int]) -> Problem | None:
        """What is wrong with a file whose lines are right."""

    @abstractmethod
    def ordered_failure(self, options: Json) -> Json:
        """The error of a batch that a test has fail."""

    def run(
        self, file: StoredFile | None, path: Path, enqueued: Callable[[str], int]
    ) -> Validation:
        """Check the file.

        Args:
            file: the batch's input file, None where there is no such file.
            path: where its bytes lie.
            enqueued: gives the tokens of a model that wait already.
        """
        found = self.found
        if self.batch.ending == "batch_failed":
            found.errors.append(self.ordered_failure(self.batch.ending_options))
        elif file is None or not path.exists() or file.purpose != "batch":
            text = f"The input file '{self.batch.input_file_id}' does not exist or does not have"
            found.errors.append(error("invalid_request", f"{text} the purpose 'batch'.", "file_id"))
        else:
            if file.bytes:
                with (
                    path.open("rb") as opened,
                    mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
                ):
                    self._walk(data)
            found.count = len(found.places) // 2
            if not found.errors and (problem := self.whole(file, enqueued)) is not None:
                found.errors.append(error(*problem))
        return found

    def _walk(self, data: mmap.mmap) -> None:
        """Check all lines, up to a hundred errors."""
        found = self.found
        start, number, size = 0, 0, len(data)
        while start < size and len(found.errors) < _MOST_ERRORS:
            end = data.find(b"\n", start)
            end = size if end < 0 else end
            number += 1
            raw = data[start:end]
            if raw.strip():
                problem = self.line(_parsed(raw))
                if problem is not None:
                    found.errors.append(error(*problem, line=number))
                found.places.extend((start, end))
            start = end + 1
            if len(found.places) // 2 > self.most_lines:
                found.errors.append(error(*_too_many("requests", self.most_lines)))
                return


class GptCheck(Check):
    """What OpenAI finds wrong with a file."""

    codes: ClassVar[Mapping[str, str]] = {"url": "invalid_url", "model": "mismatched_model"}
    """Codes of a line whose `url`, or whose `model`, is another than that of the others."""

    inputs = 0

    def fits(self, url: Any) -> bool:
        """Whether a line is for the endpoint of the batch."""
        return url == self.endpoint

    def knows(self, model: str) -> bool:
        """Whether batches can be made of requests to a model."""
        return openai_model(model) is not None

    def too_many_tokens(self, model: str | None, limit: int) -> Problem:
        """What passes the enqueued-token limit (openai-python#2084)."""
        return (
            "token_limit_exceeded",
            f"Enqueued token limit reached for {model} in organization org-sandbox. Limit:"
            f" {limit:,} enqueued tokens. Please try again once some in_progress batches have been"
            " completed.",
            None,
        )

    def ordered_failure(self, options: Json) -> Json:
        code, message = options.get("code", "token_limit_exceeded"), options.get("message")
        if code == "token_limit_exceeded" and message is None:
            return error(*self.too_many_tokens(options.get("model", "gpt-6-luna"), 2_000_000))
        message = message or "The sandbox was asked to fail this batch."
        return error(code, message, options.get("param"), options.get("line"))

    def whole(self, file: StoredFile, enqueued: Callable[[str], int]) -> Problem | None:
        found, limits = self.found, self.limits
        if self.inputs > limits.embedding_inputs:
            return _too_many("embedding inputs", limits.embedding_inputs)
        if file.bytes > limits.max_file_bytes:
            text = f"The batch input file is larger than the {limits.max_file_bytes} maximum for"
            return "invalid_request", f"{text} the {found.model} model", "file_id"
        if not found.count:
            return "empty_file", "The batch input file is empty.", None
        most = limits.enqueued_tokens
        if most is not None and enqueued(found.model or "") + found.tokens > most:
            return self.too_many_tokens(found.model, most)
        return None

    def line(self, line: Json | None) -> Problem | None:
        if line is None:
            return "invalid_json_line", "This line is not parseable as valid JSON.", None
        custom_id, body = line.get("custom_id"), line.get("body")
        if not isinstance(custom_id, str):
            return _missing("custom_id")
        if custom_id in self.ids:
            text = f"The custom_id for this request is a duplicate of another request: {custom_id}."
            return "duplicate_custom_id", text, "custom_id"
        self.ids.add(custom_id)
        if "method" not in line:
            return _missing("method")
        if line["method"] != "POST":
            text = "The HTTP method of a batch request must be 'POST'."
            return "invalid_method", text, "method"
        if not self.fits(line.get("url")):
            text = "The URL provided for this request does not match the batch endpoint"
            return self.codes["url"], f"{text} {self.endpoint}.", "url"
        return self._body(body) if is_object(body) else _missing("body")

    def _body(self, body: Json) -> Problem | None:
        model, found = body.get("model"), self.found
        if not isinstance(model, str):
            return "invalid_request", "The request body must name a model.", "body.model"
        if found.model is None and not self.knows(model):
            text = f"The provided model '{model}' is not supported by the Batch API."
            return "model_not_found", text, "body.model"
        found.model = found.model or model
        if model != found.model:
            text = "The provided model does not match the model of the other requests in the batch:"
            return self.codes["model"], f"{text} '{model}' is not '{found.model}'.", "body.model"
        if body.get("stream") is True:
            text = "Streaming is not supported in the Batch API."
            return "streaming_unsupported", text, "body.stream"
        if self.endpoint == EMBEDDINGS:
            given: Any = body.get("input")
            self.inputs += len(given) if is_array(given) else 1
        if self.limits.enqueued_tokens is not None:
            found.tokens += _prompt_tokens(body)
        return None


def error(code: Any, message: str, param: str | None = None, line: int | None = None) -> Json:
    """An error of a batch."""
    return {"code": code, "line": line, "message": message, "param": param}


def _parsed(raw: bytes) -> Json | None:
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if is_object(line) else None


def _missing(name: str) -> Problem:
    return "missing_required_parameter", f"Missing required parameter: '{name}'.", name


def _too_many(what: str, most: int) -> Problem:
    text = f"The batch input file contains too many {what}. The maximum is {most}."
    return "too_many_tasks", text, None


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
