"""Files inside request bodies, and the same bodies with the ids of uploads in their place.

Wire forms: `document` and `image` blocks of Anthropic [anthropic/types/*_source_param.py]; `file`
parts of OpenAI's chat completions, `input_file` and `input_image` of its Responses
[guides/file-inputs].
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import orjson

LEAST_BYTES = 100_000
"""A file smaller than this is not worth a call of its own."""


class Attachment(NamedTuple):
    """One file of a request.

    Attributes:
        digest: SHA-256 of its bytes, as hex.
        media_type: Its type.
        data: Its bytes.
        part: The part of the body that holds it.
    """

    digest: str
    media_type: str
    data: bytes
    part: dict[str, Any]


def attachments(body: Mapping[str, Any]) -> Iterator[Attachment]:
    """The large files of a body that an upload can stand in for."""
    turns: Any = body.get("messages") or body.get("input")
    for turn in cast("list[Any]", turns) if isinstance(turns, list) else []:
        content: Any = cast("dict[str, Any]", turn).get("content") if isinstance(turn, dict) else 0
        for item in cast("list[Any]", content) if isinstance(content, list) else []:
            if not isinstance(item, dict):
                continue
            part = cast("dict[str, Any]", item)
            encoded = _encoded(part)
            if encoded is None or len(encoded[1]) * 3 // 4 < LEAST_BYTES:
                continue
            import pybase64  # jobs without large files do not wait for it

            data = pybase64.b64decode(encoded[1])
            yield Attachment(hashlib.sha256(data).hexdigest(), encoded[0], data, part)


def with_uploads(body: bytes, ids: Mapping[str, str]) -> bytes:
    """The body with uploads in place of its files.

    Args:
        body: The body.
        ids: Digest of a file -> id of its upload.
    """
    if len(body) < LEAST_BYTES:
        return body
    data: dict[str, Any] = orjson.loads(body)
    for attachment in attachments(data):
        if attachment.digest in ids:
            _refer(attachment.part, ids[attachment.digest])
    return orjson.dumps(data)


def _encoded(part: dict[str, Any]) -> tuple[str, str] | None:
    """Type and base64 text of the file in a part; None where there is none."""
    kind = part.get("type")
    if kind in {"document", "image"}:
        source = cast("dict[str, Any]", part.get("source") or {})
        if source.get("type") == "base64":
            return str(source["media_type"]), str(source["data"])
        return None
    holder: Any = part.get("file") if kind == "file" else part
    name = "image_url" if kind == "input_image" else "file_data"
    if kind not in {"file", "input_file", "input_image"} or not isinstance(holder, dict):
        return None
    url: Any = cast("dict[str, Any]", holder).get(name)
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    head, _, data = url.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), data


def _refer(part: dict[str, Any], file_id: str) -> None:
    kind = part["type"]
    if kind in {"document", "image"}:
        part["source"] = {"type": "file", "file_id": file_id}
    elif kind == "file":
        part["file"] = {"file_id": file_id}
    else:
        for name in ("file_data", "filename", "image_url"):
            part.pop(name, None)
        part["file_id"] = file_id
