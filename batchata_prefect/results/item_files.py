"""Images and sounds of an answer as files beside the results, and their paths in its items."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from batchata_prefect.files import whole_file

FOLDER = "files"
"""Where they lie, below the results directory."""

_DATA_KEYS = {"image_generation_call": "result", "audio": "data"}
"""Kind of an item -> its field of base64 [openai/types/responses/response_output_item.py,
types/chat/chat_completion_audio.py]."""

_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,")

_KINDS = (
    (b"\x89PNG\r\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"ID3", "mp3"),
    (b"\xff\xfb", "mp3"),
    (b"\xff\xf3", "mp3"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"%PDF", "pdf"),
    (b"<svg", "svg"),
)


class ItemFiles:
    """Writes what the items of one answer hold in base64.

    The name is made of the answer's custom_id alone, so that reading the same reply again writes
    the same files, and nothing that a model or a user wrote stands in it.
    """

    def __init__(self, results_dir: Path, custom_id: str) -> None:
        self._results_dir = results_dir
        self._stem = re.sub(r"[^\w-]", "_", custom_id, flags=re.ASCII)[:80]
        self._count = 0

    def put(self, items: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        """The items with `path` in place of the bytes; what is no base64 stays as it is."""
        return tuple(self._item(item) for item in items)

    def _item(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        key = _DATA_KEYS.get(str(item.get("type")))
        data = item.get(key) if key is not None else None
        path = self._write(data) if isinstance(data, str) and data else None
        if path is not None:
            rest = {name: value for name, value in item.items() if name != key}
            return {**self._without_urls(rest), "path": path}
        return self._without_urls(item)

    def _without_urls(self, value: Any) -> Any:
        if isinstance(value, str) and (match := _DATA_URL.match(value)):
            return self._write(value[match.end() :]) or value
        if isinstance(value, dict):
            parts = cast("dict[str, Any]", value).items()
            return {key: self._without_urls(part) for key, part in parts}
        if isinstance(value, list):
            return [self._without_urls(part) for part in cast("list[Any]", value)]
        return value

    def _write(self, encoded: str) -> str | None:
        try:
            data = b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return None
        name = f"{FOLDER}/{self._stem}-{self._count}.{_suffix(data)}"
        self._count += 1
        with whole_file(self._results_dir / name) as file:
            file.write(data)
        return name


def _suffix(data: bytes) -> str:
    head = data[:16].lstrip()
    for start, suffix in _KINDS:
        if head.startswith(start):
            return suffix
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"WAVE": "wav"}.get(data[8:12], "bin")
    return "bin"
