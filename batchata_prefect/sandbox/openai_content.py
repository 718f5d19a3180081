"""Messages, input items and their parts: what OpenAI refuses, and what is left to answer.

Sources: openai/types/chat and openai/types/responses (3.54.0), guides/file-inputs, the notes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .content import (
    Document,
    Prompt,
    UnreadablePdfError,
    decode_base64,
    image_tokens,
    image_type,
    pdf_pages,
)
from .wire import BadRequestError, Json, is_array, is_object

FileReader = Callable[[str], tuple[str, bytes] | None]
"""Gives (media type, bytes) of an uploaded file, or None where there is none."""

_DATA_URL = re.compile(r"^data:([\w.+/-]+)(?:;[\w=-]+)*;base64,", re.I)
_CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_RESPONSE_ROLES = ("system", "developer", "user", "assistant")


def read_chat(body: Json, files: FileReader) -> Prompt:
    """Check the messages of a chat completion and read them.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    messages = body.get("messages")
    if messages is None:
        raise _missing("messages")
    if not is_array(messages):
        raise _bad_type("messages", "an array of objects")
    if not messages:
        raise BadRequestError(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an"
            " empty array instead.",
            param="messages",
            code="empty_array",
        )
    prompt = Prompt()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not is_object(message):
            raise _bad_type(where, "an object")
        role = message.get("role")
        if role is None:
            raise _missing(f"{where}.role")
        if role not in _CHAT_ROLES:
            raise _bad_value(f"{where}.role", role, _CHAT_ROLES)
        content = message.get("content")
        if isinstance(content, str):
            prompt.add_text(content, asked=role == "user")
        elif is_array(content):
            for place, part in enumerate(content):
                _chat_part(part, f"{where}.content[{place}]", role, prompt, files)
        elif content is not None or (role == "user" and "content" not in message):
            raise _bad_type(f"{where}.content", "a string or array of objects")
        elif role == "user":
            raise BadRequestError(
                "Invalid value for 'content': expected a string, got null.",
                param=f"{where}.content",
            )
    return prompt


def _chat_part(part: Any, where: str, role: str, prompt: Prompt, files: FileReader) -> None:
    if not is_object(part):
        raise _bad_type(where, "an object")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise _missing(f"{where}.text")
        prompt.add_text(part["text"], asked=role == "user")
    elif kind == "image_url":
        prompt.quotable.append(Document("opaque", None, []))
        image = part.get("image_url")
        url = image.get("url") if is_object(image) else None
        if not isinstance(url, str):
            raise _missing(f"{where}.image_url.url")
        _image(url, f"{where}.image_url.url", prompt)
    elif kind == "file":
        file = part.get("file")
        if not is_object(file):
            raise _missing(f"{where}.file")
        _chat_file(file, f"{where}.file", prompt, files)
    elif kind in ("input_audio", "refusal"):
        prompt.tokens += 50
    else:
        raise _bad_value(
            f"{where}.type", kind, ("text", "image_url", "input_audio", "refusal", "file")
        )


def _chat_file(file: Json, where: str, prompt: Prompt, files: FileReader) -> None:
    if isinstance(file.get("file_id"), str):
        media_type, data = _uploaded(file["file_id"], files)
        if media_type != "application/pdf":
            raise BadRequestError(
                f"Invalid file data: the file '{file['file_id']}' is not a PDF.", param=where
            )
        prompt.add_document(_pdf(data, file.get("filename"), where))
        return
    given = file.get("file_data")
    if not isinstance(given, str):
        raise _missing(f"{where}.file_data")
    match = _DATA_URL.match(given)
    if match is None or match[1].lower() != "application/pdf":
        found = "" if match is None else f", but got unsupported MIME type '{match[1]}'"
        raise BadRequestError(
            f"Invalid file data: '{where}.file_data'. Expected a base64-encoded data URL with an"
            " application/pdf MIME type (e.g."
            f" 'data:application/pdf;base64,aW1nIGJ5dGVzIGhlcmU='){found}.",
            param=f"{where}.file_data",
            code="invalid_value",
        )
    if not file.get("filename"):
        raise _missing(f"{where}.filename")
    data = _decoded(given, match, f"{where}.file_data")
    prompt.add_document(_pdf(data, file["filename"], where))


def read_input(body: Json, files: FileReader) -> Prompt:
    """Check the instructions and input of a response and read them.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    prompt = Prompt()
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        prompt.add_text(instructions, asked=False)
    elif instructions is not None:
        raise _bad_type("instructions", "a string")
    given = body.get("input")
    if given is None and "prompt" not in body:
        raise _missing("input")
    if isinstance(given, str):
        prompt.add_text(given)
        return prompt
    if given is not None and not is_array(given):
        raise _bad_type("input", "a string or array of objects")
    for number, item in enumerate(given or []):
        _input_item(item, f"input[{number}]", prompt, files)
    return prompt


def _input_item(item: Any, where: str, prompt: Prompt, files: FileReader) -> None:
    if not is_object(item):
        raise _bad_type(where, "an object")
    kind = item.get("type", "message")
    if kind == "function_call_output":
        if isinstance(item.get("output"), str):
            prompt.add_text(item["output"], asked=False)
        return
    if kind != "message":
        return
    role = item.get("role")
    if role not in _RESPONSE_ROLES:
        raise _bad_value(f"{where}.role", role, _RESPONSE_ROLES)
    content = item.get("content")
    if isinstance(content, str):
        prompt.add_text(content, asked=role == "user")
        return
    if not is_array(content):
        raise _bad_type(f"{where}.content", "a string or array of objects")
    for place, part in enumerate(content):
        _input_part(part, f"{where}.content[{place}]", role, prompt, files)


def _input_part(part: Any, where: str, role: str, prompt: Prompt, files: FileReader) -> None:
    if not is_object(part):
        raise _bad_type(where, "an object")
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        if (kind == "output_text") != (role == "assistant"):
            supported = "output_text" if role == "assistant" else "input_text"
            raise _bad_value(f"{where}.type", kind, (supported,))
        if not isinstance(part.get("text"), str):
            raise _missing(f"{where}.text")
        prompt.add_text(part["text"], asked=role == "user")
    elif kind == "input_image":
        prompt.quotable.append(Document("opaque", None, []))
        if isinstance(part.get("file_id"), str):
            _, data = _uploaded(part["file_id"], files)
            prompt.tokens += image_tokens(data)
        elif isinstance(part.get("image_url"), str):
            _image(part["image_url"], f"{where}.image_url", prompt)
        else:
            raise _missing(f"{where}.image_url")
    elif kind == "input_file":
        prompt.add_document(_input_file(part, where, files))
    elif kind == "refusal":
        prompt.tokens += 10
    else:
        supported = ("input_text", "input_image", "output_text", "refusal", "input_file")
        raise _bad_value(f"{where}.type", kind, supported)


def _input_file(part: Json, where: str, files: FileReader) -> Document:
    title = part.get("filename") if isinstance(part.get("filename"), str) else None
    if isinstance(part.get("file_url"), str):
        _check_url(part["file_url"])
        return Document("opaque", title, [])
    if isinstance(part.get("file_id"), str):
        media_type, data = _uploaded(part["file_id"], files)
    elif isinstance(part.get("file_data"), str):
        match = _DATA_URL.match(part["file_data"])
        if match is None:
            raise BadRequestError(
                f"Invalid '{where}.file_data'. Expected a base64-encoded data URL (e.g."
                " 'data:application/pdf;base64,...').",
                param=f"{where}.file_data",
                code="invalid_value",
            )
        if title is None:
            raise _missing(f"{where}.filename")
        media_type = match[1].lower()
        data = _decoded(part["file_data"], match, f"{where}.file_data")
    else:
        raise _missing(f"{where}.file_data")
    if media_type == "application/pdf":
        return _pdf(data, title, where)
    if media_type.startswith(("text/", "application/json", "application/csv")):
        return Document("text", title, [data.decode(errors="replace")])
    return Document("opaque", title, [])


def _pdf(data: bytes, title: str | None, where: str) -> Document:
    try:
        return Document("pages", title, pdf_pages(data))
    except UnreadablePdfError as error:
        raise BadRequestError(
            "The file you provided could not be read as a PDF. Please check the file and try"
            " again.",
            param=where,
            code="invalid_file",
        ) from error


def _image(url: str, where: str, prompt: Prompt) -> None:
    match = _DATA_URL.match(url)
    if match is None:
        if url.startswith(("https://", "http://")):
            _check_url(url)
            prompt.tokens += 1500
            return
        raise BadRequestError(
            f"Invalid '{where}'. Expected a valid URL, but got a value with an invalid format.",
            param=where,
            code="invalid_image_url",
        )
    data = _decoded(url, match, where)
    if image_type(data) is None:
        raise BadRequestError(
            "You uploaded an unsupported image. Please make sure your image has of one the"
            " following formats: ['png', 'jpeg', 'gif', 'webp'].",
            code="invalid_image_format",
        )
    prompt.tokens += image_tokens(data)


def _check_url(url: str) -> None:
    # The sandbox fetches nothing; hosts that cannot exist stand for those that do not answer.
    if url.split("/")[2:3] and url.split("/")[2].endswith(".invalid"):
        raise BadRequestError(
            "Error while downloading file. Upstream status code: 400.",
            param="url",
            code="invalid_value",
        )


def _decoded(url: str, match: re.Match[str], where: str) -> bytes:
    data = decode_base64(url[match.end() :])
    if data is None:
        raise BadRequestError(
            f"Invalid '{where}'. Expected a base64-encoded data URL, but the data is not valid"
            " base64.",
            param=where,
            code="invalid_base64",
        )
    return data


def _uploaded(file_id: str, files: FileReader) -> tuple[str, bytes]:
    found = files(file_id)
    if found is None:
        raise BadRequestError(f"No such File object: {file_id}", param="file_id", status=404)
    return found


def _missing(name: str) -> BadRequestError:
    return BadRequestError(
        f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
    )


def _bad_type(name: str, wanted: str) -> BadRequestError:
    return BadRequestError(
        f"Invalid type for '{name}': expected {wanted}.", param=name, code="invalid_type"
    )


def _bad_value(name: str, value: Any, supported: tuple[str, ...]) -> BadRequestError:
    listed = ", ".join(f"'{each}'" for each in supported)
    return BadRequestError(
        f"Invalid value: '{value}'. Supported values are: {listed}.",
        param=name,
        code="invalid_value",
    )
