"""The messages, input items and parts of a body of the right shape: what is left to refuse.

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
from .openai_wire import bad_value, missing
from .wire import Json, RefusedError, is_array

_DATA_URL = re.compile(r"^data:([\w.+/-]+)(?:;[\w=-]+)*;base64,", re.I)


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
        title = file.get("filename")
        if isinstance(file.get("file_id"), str):
            media_type, data = self._uploaded(file["file_id"])
            if media_type != "application/pdf":
                text = f"Invalid file data: the file '{file['file_id']}' is not a PDF."
                raise RefusedError(text, where)
        else:
            given = file.get("file_data")
            if not isinstance(given, str):
                raise missing(f"{where}.file_data")
            match = _DATA_URL.match(given)
            if match is None or match[1].lower() != "application/pdf":
                found = "" if match is None else f", but got unsupported MIME type '{match[1]}'"
                raise RefusedError(
                    f"Invalid file data: '{where}.file_data'. Expected a base64-encoded data URL"
                    " with an application/pdf MIME type (e.g."
                    f" 'data:application/pdf;base64,aW1nIGJ5dGVzIGhlcmU='){found}.",
                    f"{where}.file_data",
                    "invalid_value",
                )
            if not title:
                raise missing(f"{where}.filename")
            data = _decoded(given, match, f"{where}.file_data")
        self.prompt.add_document(_pdf(data, title, where))

    def _input_file(self, part: Json, where: str) -> Document:
        title = part.get("filename") if isinstance(part.get("filename"), str) else None
        if isinstance(part.get("file_url"), str):
            _check_url(part["file_url"])
            return Document("opaque", title, [])
        if isinstance(part.get("file_id"), str):
            media_type, data = self._uploaded(part["file_id"])
        else:
            given = part.get("file_data")
            if not isinstance(given, str):
                raise missing(f"{where}.file_data")
            match = _DATA_URL.match(given)
            if match is None:
                raise RefusedError(
                    f"Invalid '{where}.file_data'. Expected a base64-encoded data URL (e.g."
                    " 'data:application/pdf;base64,...').",
                    f"{where}.file_data",
                    "invalid_value",
                )
            if title is None:
                raise missing(f"{where}.filename")
            media_type = match[1].lower()
            data = _decoded(given, match, f"{where}.file_data")
        if media_type == "application/pdf":
            return _pdf(data, title, where)
        if media_type.startswith(("text/", "application/json", "application/csv")):
            return Document("text", title, [data.decode(errors="replace")])
        return Document("opaque", title, [])

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
