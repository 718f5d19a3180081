"""What OpenAI says when it refuses, and what it refuses of the messages of a body.

Sources: openai/types/chat and openai/types/responses (3.54.0), guides/file-inputs, the notes.
"""

from __future__ import annotations

import re
from typing import Any

from .content import (
    Document,
    FileReader,
    Prompt,
    UnreadablePdfError,
    decode_base64,
    image_tokens,
    image_type,
    pdf_pages,
)
from .shapes import MisfitError, Tag
from .wire import Json, RefusedError, is_array

_PDF = "application/pdf"
_DATA_URL = re.compile(r"^data:([\w.+/-]+)(?:;[\w=-]+)*;base64,", re.I)


_KINDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a decimal",
    "list": "an array of objects",
    "string or list": "a string or array of objects",
}


def error_body(problem: RefusedError) -> Json:
    """The error body of a refused request."""
    usual = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": problem.message,
            "type": problem.error_type or usual,
            "param": problem.param,
            "code": problem.code,
        }
    }


def gpt_refusal(misfit: MisfitError) -> RefusedError:
    """What does not fit, in OpenAI's words."""
    steps = [step for step in misfit.path if not isinstance(step, Tag)]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]
    shape, value, kind = misfit.shape, misfit.value, misfit.kind
    if shape.says is not None and kind == "extra":
        return RefusedError(shape.says.format(path=where))
    if shape.says is not None and kind not in ("type", "missing", "below"):
        return RefusedError(shape.says.format(path=where, value=value), where, shape.code)
    if kind in ("choice", "tag"):
        where += ".type" if kind == "tag" else ""
        return bad_value(where, value, shape.choices or tuple(shape.shapes))
    number = "integer" if shape.kind == "integer" else "decimal"
    text, code = {
        "missing": (f"Missing required parameter: '{where}'.", "missing_required_parameter"),
        "extra": (f"Unknown parameter: '{where}'.", "unknown_parameter"),
        "type": (
            f"Invalid type for '{where}': expected {_KINDS.get(shape.kind, 'an object')}.",
            "invalid_type",
        ),
        "below": (
            f"Invalid '{where}': {number} below minimum value. Expected a value >= {shape.least},"
            f" but got {value} instead.",
            f"{number}_below_min_value",
        ),
        "above": (
            f"Invalid '{where}': {number} above maximum value. Expected a value <= {shape.most},"
            f" but got {value} instead.",
            f"{number}_above_max_value",
        ),
        "short": (
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an"
            " empty array instead.",
            "empty_array",
        ),
    }[kind]
    return RefusedError(text, where, code)


def bad_value(name: str, value: object, supported: tuple[str, ...]) -> RefusedError:
    """The refusal of a value that is not one of a few."""
    listed = ", ".join(f"'{each}'" for each in supported)
    text = f"Invalid value: '{value}'. Supported values are: {listed}."
    return RefusedError(text, name, "invalid_value")


def missing(name: str) -> RefusedError:
    """The refusal of a call without a parameter that it needs."""
    text = f"Missing required parameter: '{name}'."
    return RefusedError(text, name, "missing_required_parameter")


def read_chat(body: Json, files: FileReader) -> Prompt:
    """What the messages of a chat completion say."""
    reader = _Reader(files)
    for number, message in enumerate(body["messages"]):
        content = message.get("content")
        if content is None and message["role"] == "user":
            text = "Invalid value for 'content': expected a string, got null."
            raise RefusedError(text, f"messages[{number}].content")
        reader.content(content, f"messages[{number}]", message["role"])
    return reader.prompt


def read_input(body: Json, files: FileReader) -> Prompt:
    """What the instructions and input of a response say."""
    reader = _Reader(files)
    if body.get("instructions") is not None:
        reader.prompt.add_text(body["instructions"], asked=False)
    given: Any = body.get("input")
    if given is None and "prompt" not in body:
        raise missing("input")
    if isinstance(given, str):
        reader.prompt.add_text(given)
    for number, item in enumerate(given if is_array(given) else ()):
        kind = item.get("type", "message")
        if kind == "message":
            reader.content(item["content"], f"input[{number}]", item["role"])
        elif kind == "function_call_output" and isinstance(item.get("output"), str):
            reader.prompt.add_text(item["output"], asked=False)
    return reader.prompt


class _Reader:
    """Walks the parts of one request and fills a prompt."""

    def __init__(self, files: FileReader) -> None:
        self.prompt = Prompt()
        self.files = files

    def content(self, content: Any, where: str, role: str) -> None:
        """Take in what a message at `where` says."""
        if isinstance(content, str):
            self.prompt.add_text(content, asked=role == "user")
        for place, part in enumerate(content if is_array(content) else ()):
            self._part(part, f"{where}.content[{place}]", role)

    def _part(self, part: Json, where: str, role: str) -> None:
        kind = part["type"]
        wanted = "output_text" if role == "assistant" else "input_text"
        if kind in ("input_text", "output_text") and kind != wanted:
            raise bad_value(f"{where}.type", kind, (wanted,))
        if "text" in part:
            self.prompt.add_text(part["text"], asked=role == "user")
        elif kind == "image_url":
            self._image(part["image_url"]["url"], f"{where}.image_url.url")
        elif kind == "input_image" and isinstance(part.get("file_id"), str):
            self.prompt.quotable.append(Document("opaque", None, []))
            self.prompt.tokens += image_tokens(self._uploaded(part["file_id"])[1])
        elif kind == "input_image":
            self._image(part.get("image_url"), f"{where}.image_url")
        elif kind == "file":
            self._chat_file(part["file"], f"{where}.file")
        elif kind == "input_file":
            self.prompt.add_document(self._input_file(part, where))
        else:
            self.prompt.tokens += 50 if role == "user" else 10

    def _chat_file(self, file: Json, where: str) -> None:
        media_type, data = self._attached(file, where, only_pdf=True)
        if media_type != _PDF:
            text = f"Invalid file data: the file '{file['file_id']}' is not a PDF."
            raise RefusedError(text, where)
        self.prompt.add_document(_pdf(data, file.get("filename"), where))

    def _input_file(self, part: Json, where: str) -> Document:
        title = part.get("filename") if isinstance(part.get("filename"), str) else None
        if isinstance(part.get("file_url"), str):
            _check_url(part["file_url"])
            return Document("opaque", title, [])
        media_type, data = self._attached(part, where, only_pdf=False)
        if media_type == _PDF:
            return _pdf(data, title, where)
        if media_type.startswith(("text/", "application/json", "application/csv")):
            return Document("text", title, [data.decode(errors="replace")])
        return Document("opaque", title, [])

    def _attached(self, part: Json, where: str, *, only_pdf: bool) -> tuple[str, bytes]:
        """Media type and bytes of a file that was uploaded, or that is in the part."""
        if isinstance(part.get("file_id"), str):
            return self._uploaded(part["file_id"])
        given, where_data = part.get("file_data"), f"{where}.file_data"
        if not isinstance(given, str):
            raise missing(where_data)
        match = _DATA_URL.match(given)
        if match is None or (only_pdf and match[1].lower() != _PDF):
            wanted = " with an application/pdf MIME type" if only_pdf else ""
            found = "" if match is None else f", but got unsupported MIME type '{match[1]}'"
            text = f"Invalid file data: '{where_data}'. Expected a base64-encoded data URL{wanted}"
            example = "data:application/pdf;base64,aW1nIGJ5dGVzIGhlcmU="
            raise RefusedError(f"{text} (e.g. '{example}'){found}.", where_data, "invalid_value")
        if not part.get("filename"):
            raise missing(f"{where}.filename")
        return match[1].lower(), _decoded(given, match, where_data)

    def _image(self, url: Any, where: str) -> None:
        self.prompt.quotable.append(Document("opaque", None, []))
        if not isinstance(url, str):
            raise missing(where)
        match = _DATA_URL.match(url)
        if match is not None:
            data = _decoded(url, match, where)
            if image_type(data) is None:
                raise RefusedError(
                    "You uploaded an unsupported image. Please make sure your image has of one the"
                    " following formats: ['png', 'jpeg', 'gif', 'webp'].",
                    code="invalid_image_format",
                )
            self.prompt.tokens += image_tokens(data)
        elif url.startswith(("https://", "http://")):
            _check_url(url)
            self.prompt.tokens += 1500
        else:
            text = (
                f"Invalid '{where}'. Expected a valid URL, but got a value with an invalid format."
            )
            raise RefusedError(text, where, "invalid_image_url")

    def _uploaded(self, file_id: str) -> tuple[str, bytes]:
        found = self.files(file_id)
        if found is None:
            raise RefusedError(f"No such File object: {file_id}", "file_id", status=404)
        return found


def _pdf(data: bytes, title: str | None, where: str) -> Document:
    try:
        return Document("pages", title, pdf_pages(data))
    except UnreadablePdfError as error:
        raise RefusedError(
            "The file you provided could not be read as a PDF. Please check the file and try"
            " again.",
            where,
            "invalid_file",
        ) from error


def _check_url(url: str) -> None:
    # The sandbox fetches nothing; hosts that cannot exist stand for those that do not answer.
    if "".join(url.split("/")[2:3]).endswith(".invalid"):
        text = "Error while downloading file. Upstream status code: 400."
        raise RefusedError(text, "url", "invalid_value")


def _decoded(url: str, match: re.Match[str], where: str) -> bytes:
    data = decode_base64(url[match.end() :])
    if data is None:
        raise RefusedError(
            f"Invalid '{where}'. Expected a base64-encoded data URL, but the data is not valid"
            " base64.",
            where,
            "invalid_base64",
        )
    return data
