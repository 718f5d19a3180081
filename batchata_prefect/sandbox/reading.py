"""Large bodies: onto the disk as they arrive, then read from there piece by piece."""

from __future__ import annotations

import codecs
import json
import mmap
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\r\n]*")


class MalformedBodyError(Exception):
    """A body that is not what it says it is; the text names the place."""


class TooLargeError(Exception):
    """A body above the limit that applies to it."""


async def save_body(chunks: AsyncIterator[bytes], path: Path, most: int) -> int:
    """Write a body to a file as it arrives; the rest of too large a one is read and dropped.

    A client that is still sending could not read the refusal otherwise.

    Returns:
        The number of bytes.
    """
    size = 0
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    continue
                file.write(chunk)
    except BaseException:
        _remove(path)
        raise
    if size > most:
        _remove(path)
        raise TooLargeError(size)
    return size


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a JSON array in a file: its place in bytes, and its value."""

    start: int
    end: int
    value: Any


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBodyError(f"{name} is not valid JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_array(path: Path, key: str) -> Iterator[Element | tuple[str, Any]]:
    """Walk a JSON object in a file: elements of the array under `key`, other members as pairs.

    Only one element is held at a time. `key` with anything but a filled array is a pair too.
    """
    _check_utf8(path)
    # JSON's own characters are ASCII, so Latin-1 keeps character and byte positions the same.
    text = path.read_bytes().decode("latin-1")
    try:
        yield from _walk(text, key)
    except json.JSONDecodeError as error:
        raise MalformedBodyError(str(error)) from error


def _check_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while piece := file.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise MalformedBodyError(f"invalid UTF-8: {error.reason}") from error


def _walk(text: str, key: str) -> Iterator[Element | tuple[str, Any]]:
    at = _expect(text, 0, "{")
    more = text[at : at + 1] != "}"
    while more:
        name, at = _DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
        at = _expect(text, at, ":")
        is_filled = name == key and re.match(r"\[[ \t\r\n]*[^\]]", text[at : at + 64])
        if is_filled:
            at = _expect(text, at, "[")
        while True:
            value, end = _DECODER.raw_decode(text, at)
            yield Element(at, end, value) if is_filled else (name, value)
            at = _skip(text, end)
            if not is_filled or text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
        if is_filled:
            at = _expect(text, at, "]")
        more = text[at : at + 1] == ","
        at = _skip(text, at + 1) if more else at
    at = _expect(text, at, "}")
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"Expecting '{character}'", text, at)
    return _skip(text, at + 1)


@dataclass(slots=True)
class Form:
    """A multipart form: its fields, and where its file lies in the saved body."""

    fields: dict[str, str] = field(default_factory=dict[str, str])
    filename: str | None = None
    file_type: str | None = None
    file_place: tuple[int, int] | None = None


_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.I)
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def read_form(path: Path, content_type: str) -> Form:
    """Read a multipart form that was saved to a file, without loading the file in it."""
    match = _BOUNDARY.search(content_type)
    if match is None or path.stat().st_size == 0:
        raise MalformedBodyError("the body is not multipart/form-data")
    boundary = b"--" + match[1].encode()
    form = Form()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body,
    ):
        at = body.find(boundary)
        while at >= 0:
            at += len(boundary)
            if body[at : at + 2] == b"--":
                return form
            head_end = body.find(b"\r\n\r\n", at)
            end = body.find(b"\r\n" + boundary, head_end + 2)
            if head_end < 0 or end < 0:
                break
            _take_part(form, body, body[at:head_end].decode(errors="replace"), head_end + 4, end)
            at = end + 2
    raise MalformedBodyError("the multipart body has no end")


def _take_part(form: Form, body: mmap.mmap, head: str, start: int, end: int) -> None:
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head.split("\r\n"))
    }
    parameters = dict(_PARAMETER.findall(headers.get("content-disposition", "")))
    name = parameters.get("name", "")
    if name == "file" or "filename" in parameters:
        form.filename = parameters.get("filename")
        form.file_type = headers.get("content-type")
        form.file_place = (start, end)
    else:
        form.fields[name] = body[start:end].decode(errors="replace")


def copy_range(source: Path, place: tuple[int, int], target: Path) -> None:
    """Copy a range of bytes into a file of its own."""
    start, end = place
    with source.open("rb") as reader, target.open("wb") as writer:
        reader.seek(start)
        while piece := reader.read(min(end - reader.tell(), 1 << 20)):
            writer.write(piece)
