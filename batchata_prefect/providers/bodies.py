"""Rendered requests, read again by their shape and changed.

What holds `messages` is Anthropic's Messages or a chat completion, what holds `contents` Gemini's,
and what holds `input` a response or an embedding. Everything that looks into a body after it was
rendered stands here: its files and what is cited of its documents, the prefix that it shares with
others, and the same request once more.

Wire forms: `document`, `image` and `search_result` blocks of Anthropic
[anthropic/types/*_block_param.py, *_source_param.py]; `file` and `image_url` parts of OpenAI's chat
completions, `input_file` and `input_image` of its Responses [guides/file-inputs]; `inlineData` of
Gemini, whose parts have no type [google/genai/types.py].
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import orjson

from batchata_prefect.content.citations.originals import (
    Held,
    Original,
    blocks_original,
    pdf_original,
    text_original,
)
from batchata_prefect.content.exact_json import dumps, loads_exact
from batchata_prefect.models import Message
from batchata_prefect.providers.rows import object_at, objects_at

LEAST_BYTES = 100_000
"""A file smaller than this is not worth a call of its own."""

FILE_PARTS = frozenset({"document", "image", "file", "input_file", "input_image", "image_url"})
"""Types of the parts that hold a file, or say where one is."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
"""Names of the output limit: Messages and older chat models, chat completions, Responses, and
`generationConfig` of Gemini."""

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[\w.=-]+)*;base64,")

_CORRECTION = (
    "This answer cannot be used: {fault}\n\nAnswer the same request again, whole and corrected, "
    "and with nothing else."
)


def _turns(body: Mapping[str, Any]) -> tuple[str, Any]:
    """Name and value of a body's conversation."""
    name = next((each for each in ("messages", "contents") if each in body), "input")
    return name, body.get(name)


def _turn(name: str, role: str, text: str) -> Message:
    """A turn of one text, as it stands in a conversation of that name."""
    if name == "contents":
        return {"role": "model" if role == "assistant" else role, "parts": [{"text": text}]}
    return {"role": role, "content": text}


def _parts(turns: Any, *, inner: bool = False) -> Iterator[Message]:
    """The parts of all turns, with `inner` those in tool results too."""
    for turn in cast("list[Any]", turns) if isinstance(turns, list) else ():
        message = cast("Message", turn) if isinstance(turn, dict) else {}
        content: Any = message.get("content", message.get("parts"))
        for item in cast("list[Any]", content) if isinstance(content, list) else ():
            if not isinstance(item, dict):
                continue
            part = cast("Message", item)
            yield part
            if inner and part.get("type") == "tool_result":
                yield from _parts([part], inner=True)


def file_in(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """Type and base64 text of the file in a part; None where it holds none."""
    kind = part.get("type")
    inline = object_at(part, "inlineData") or object_at(part, "inline_data")
    if inline:
        data = inline.get("data")
        kind = inline.get("mimeType", inline.get("mime_type"))
        return (str(kind), data) if isinstance(data, str) else None
    if kind in {"document", "image"}:
        source = object_at(part, "source")
        data = source.get("data")
        is_file = source.get("type") == "base64" and isinstance(data, str)
        return (str(source.get("media_type")), str(data)) if is_file else None
    url: Any = None
    if kind in {"file", "input_file"}:
        url = (object_at(part, "file") if kind == "file" else part).get("file_data")
    elif kind in {"image_url", "input_image"}:
        url = object_at(part, "image_url").get("url") or part.get("image_url")
    match = _DATA_URL.match(url) if isinstance(url, str) else None
    return None if match is None else (match[1], url[match.end() :])


def says_data(part: Mapping[str, Any]) -> bool:
    """Whether a part means to hold a file, and not to say where one is."""
    if object_at(part, "source").get("type") == "base64":
        return True
    file = object_at(part, "file").get("file_data") or part.get("file_data")
    url = file or object_at(part, "image_url").get("url") or part.get("image_url")
    return isinstance(url, str) and (url is file or url.startswith("data:"))


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
    for part in _parts(_turns(body)[1]):
        found = file_in(part)
        # A chat completion takes no id in place of an image's URL.
        if found is None or part.get("type") == "image_url" or len(found[1]) * 3 // 4 < LEAST_BYTES:
            continue
        import pybase64  # jobs without large files do not wait for it

        data = pybase64.b64decode(found[1])
        yield Attachment(hashlib.sha256(data).hexdigest(), found[0], data, part)


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


def titled(name: str, text: str) -> str:
    """A document that is sent as a part of the prompt, for OpenAI, which has none of plain text."""
    return f"Document {name}:\n\n{text}"


def held_in(body: bytes, sources: Sequence[str]) -> Held:
    """What a request holds to cite from.

    Args:
        body: The request.
        sources: Titles of the documents of the job's `file`, as in `models.Request`.
    """
    return held(orjson.loads(body), sources)


def held(data: Mapping[str, Any], sources: Sequence[str] = ()) -> Held:
    """The same of a request that is not yet written down.

    The numbers of documents and search results count over all messages [Claude docs: citations,
    search results].
    """
    blocks = list(_parts(_turns(data)[1], inner=True))
    documents: list[Original | None] = []
    results: list[Original | None] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "document":
            documents.append(_document(block, _name(sources, len(documents))))
        elif kind == "search_result":
            results.append(blocks_original(str(block.get("title") or ""), _texts(block)))
    if documents or results:
        return Held(documents, results)
    return Held(list(_sent_documents(blocks, sources)))


def _name(sources: Sequence[str], index: int) -> str:
    return sources[index] if index < len(sources) else f"document {index + 1}"


def _texts(block: Mapping[str, Any]) -> list[str]:
    if isinstance(block.get("content"), str):
        return [block["content"]]
    return [str(one.get("text") or "") for one in objects_at(block, "content")]


def _document(block: Message, name: str) -> Original | None:
    source = object_at(block, "source")
    name = str(block.get("title") or name)
    if source.get("type") == "text" and isinstance(source.get("data"), str):
        return text_original(name, source["data"])
    if source.get("type") == "content":
        return blocks_original(name, _texts(source))
    found = file_in(block)
    return None if found is None else pdf_original(name, found[1])


def _sent_documents(blocks: Sequence[Message], sources: Sequence[str]) -> Iterator[Original | None]:
    """OpenAI's documents: what stands before the prompt, or the files in the user's messages."""
    found = [block for block in blocks if sources or not _is_text(block)]
    if sources:
        # A system prompt, the documents, the prompt; what came back and was asked again behind it.
        first = next((at for at, one in enumerate(blocks) if _is_first(one, sources[0])), None)
        found = blocks[first : first + len(sources)] if first is not None else list[Message]()
    for index, block in enumerate(found):
        name, file = _name(sources, index), file_in(block)
        if _is_text(block):
            yield text_original(name, str(block.get("text")).removeprefix(titled(name, "")))
        elif file is None or file[0] != "application/pdf":
            yield None
        else:
            given = object_at(block, "file") or block
            yield pdf_original(name if sources else str(given.get("filename") or name), file[1])


def _is_text(block: Message) -> bool:
    return block.get("type", "text" if "text" in block else None) in {"text", "input_text"}


def _is_first(block: Message, name: str) -> bool:
    return not _is_text(block) or str(block.get("text")).startswith(titled(name, ""))


def last_shared(content: Any) -> int | None:
    """Place of the last part before the question, which is the last one; None where none is."""
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    return len(parts) - 2 if len(parts) > 1 else None


def prefix_digest(shared: list[Any]) -> str | None:
    """Digest of what requests begin with; None where there is nothing to share."""
    return hashlib.sha256(orjson.dumps(shared)).hexdigest()[:32] if shared else None


class Again(NamedTuple):
    """A changed request.

    Attributes:
        body: Exact JSON bytes of the request, without custom_id.
        added: Text that it holds more than the one before.
        output_bound: Output tokens it cannot pass, thinking included.
    """

    body: bytes
    added: str
    output_bound: int


def reworded(body: bytes, answer: str, fault: str) -> Again | None:
    """The request with the answer to it and with what was wrong; None where it has no dialogue."""
    data: dict[str, Any] = orjson.loads(body)
    name, turns = _turns(data)
    settings, limit = _limit(data)
    # Anthropic refuses an assistant turn that is empty or ends in white space.
    said = answer.strip()
    if limit is None or not said or not isinstance(turns, (str, list)):
        return None
    if isinstance(turns, str):
        turns = [_turn(name, "user", turns)]
    request = _CORRECTION.format(fault=fault)
    data[name] = [
        *cast("list[Any]", turns),
        _turn(name, "assistant", said),
        _turn(name, "user", request),
    ]
    return Again(orjson.dumps(data), said + request, settings[limit])


def roomier(body: bytes, most: int | None) -> Again | None:
    """The request with twice the output tokens, at most `most`; None where it has all of them."""
    data: dict[str, Any] = orjson.loads(body)
    settings, limit = _limit(data)
    if limit is None:
        return None
    wanted = 2 * settings[limit]
    wanted = wanted if most is None else min(wanted, most)
    if wanted <= settings[limit]:
        return None
    settings[limit] = wanted
    return Again(orjson.dumps(data), "", wanted)


def continued(body: bytes, message: Mapping[str, Any], *, goes_on: bool) -> Again | None:
    """The request with the turn that was paused handed back, for the model to go on with it.

    As it is given [anthropic/types/message.py, `pause_turn`], but for white space at its end, which
    the API refuses.

    Args:
        body: The request.
        message: The message that was paused.
        goes_on: Whether the request itself already ends with a paused turn, which is then longer.
    """
    data = loads_exact(body)
    turns, content = data.get("messages"), message.get("content")
    if not isinstance(turns, list) or not isinstance(content, list):
        return None
    said = _trimmed(cast("list[Any]", content))
    settings, limit = _limit(data)
    if limit is None or not said:
        return None
    turns = cast("list[Any]", turns)
    if goes_on:
        turns[-1] = {**turns[-1], "content": [*turns[-1]["content"], *said]}
    else:
        turns.append({"role": "assistant", "content": said})
    container = object_at(message, "container").get("id")
    if isinstance(container, str):
        given = data.get("container")
        # Its files are in the container; skills are asked for beside its id.
        data["container"] = (
            {**cast("dict[str, Any]", given), "id": container}
            if isinstance(given, dict)
            else container
        )
    return Again(dumps(data).encode(), dumps(said), settings[limit])


def handed_back(body: bytes) -> list[Any]:
    """The content of the paused turn that a request of `continued` ends with."""
    return loads_exact(body)["messages"][-1]["content"]


def _trimmed(content: list[Any]) -> list[Any]:
    """The content without white space at its end, and without texts that hold nothing else."""
    kept = list(content)
    while kept and isinstance(kept[-1], dict):
        block = cast("dict[str, Any]", kept[-1])
        if block.get("type") != "text":
            break
        if text := str(block.get("text")).rstrip():
            kept[-1] = {**block, "text": text}
            break
        kept.pop()
    return kept


def _limit(data: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What holds the output limit, and its name there."""
    settings: dict[str, Any] = data.get("generationConfig") or data
    return settings, next((name for name in _LIMITS if isinstance(settings.get(name), int)), None)
