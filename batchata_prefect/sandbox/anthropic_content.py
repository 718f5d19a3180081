"""Messages and their content blocks: what the Messages API refuses, and what is left to answer.

Sources: anthropic/types/*_param.py (2.12.0) and the provider notes. Texts that no capture shows
follow the pattern of those that one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .anthropic_models import ClaudeModel
from .content import (
    Document,
    Prompt,
    UnreadablePdfError,
    decode_base64,
    image_tokens,
    image_type,
    pdf_pages,
)
from .wire import BadRequestError, Json, is_array, is_integer, is_object

FileReader = Callable[[str], tuple[str, bytes] | None]
"""Gives (media type, bytes) of an uploaded file, or None where there is none."""

CURRENT_VERSION = "2026-10-21"

_BLOCK_KEYS: dict[str, frozenset[str]] = {
    "text": frozenset({"type", "text", "cache_control", "citations"}),
    "image": frozenset({"type", "source", "cache_control"}),
    "document": frozenset({"type", "source", "cache_control", "citations", "context", "title"}),
    "search_result": frozenset(
        {"type", "source", "title", "content", "citations", "cache_control"}
    ),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control", "caller"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"}),
}
_OPEN_BLOCKS = frozenset(
    {
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "container_upload",
    }
)
_TAGS = ", ".join(f"'{tag}'" for tag in sorted({*_BLOCK_KEYS, *_OPEN_BLOCKS}))
_MAX_PDF_PAGES = 600
_SMALL_CONTEXT_PDF_PAGES = 100


class ContentReader:
    """Walks the messages of one request, refuses what the API refuses, fills a prompt."""

    def __init__(self, model: ClaudeModel, version: str, files: FileReader) -> None:
        self.prompt = Prompt()
        self.model = model
        self.version = version
        self.files = files
        self.cache_controls: list[Json] = []
        self.cache_prefix_tokens = 0
        self.cache_prefix_texts = 0
        self.cache_prefix_documents = 0
        self.cited_sources = 0
        self.plain_sources = 0
        self.pauses = 0
        """Times that the turn which the messages end with was paused and handed back."""

    def read_system(self, system: Any) -> None:
        """Take in the `system` parameter: a text, or text blocks."""
        if isinstance(system, str):
            self.prompt.add_text(system, asked=False)
            return
        if not is_array(system):
            raise BadRequestError("system: Input should be a valid string or list")
        for number, block in enumerate(system):
            where = f"system.{number}"
            if not is_object(block) or block.get("type") != "text":
                raise BadRequestError(f"{where}.type: Input should be 'text'")
            self._text(block, where, "system")
            self._cache_point(block, where)

    def read_messages(self, messages: Any) -> None:
        """Take in the `messages` parameter."""
        if not is_array(messages):
            raise BadRequestError("messages: Input should be a valid list")
        if not messages:
            raise BadRequestError("messages: at least one message is required")
        if len(messages) > 100_000:
            raise BadRequestError("messages: List should have at most 100000 items")
        last = len(messages) - 1
        for number, message in enumerate(messages):
            if not is_object(message):
                raise BadRequestError(f"messages.{number}: Input should be a valid dictionary")
            for key in message:
                if key not in ("role", "content"):
                    raise BadRequestError(
                        f"messages.{number}.{key}: Extra inputs are not permitted"
                    )
            role = message.get("role")
            if role is None:
                raise BadRequestError(f"messages.{number}.role: Field required")
            if role not in ("user", "assistant", "system"):
                raise BadRequestError(
                    f"messages.{number}.role: Input should be 'user' or 'assistant'"
                )
            if "content" not in message:
                raise BadRequestError(f"messages.{number}.content: Field required")
            if number == 0 and role != "user":
                raise BadRequestError('messages: first message must use the "user" role')
            if role == "system":
                self._check_system_turn(messages, number)
            content = message["content"]
            if isinstance(content, str):
                if not content and not (role == "assistant" and number == last):
                    raise BadRequestError(
                        f"messages.{number}: all messages must have non-empty content except for"
                        " the optional final assistant message"
                    )
                self.prompt.add_text(content, asked=role == "user")
            elif is_array(content):
                if not content and not (role == "assistant" and number == last):
                    raise BadRequestError(
                        f"messages.{number}: all messages must have non-empty content except for"
                        " the optional final assistant message"
                    )
                for place, block in enumerate(content):
                    self._block(block, f"messages.{number}.content.{place}", role)
            else:
                raise BadRequestError(
                    f"messages.{number}.content: Input should be a valid string or list"
                )
        handed_back = _handed_back(messages[-1])
        self.pauses = handed_back.count("server_tool_use")
        if (
            messages[-1]["role"] == "assistant"
            and not self.model.takes_prefill
            and not (handed_back and handed_back[-1] in _OPEN_BLOCKS)
        ):
            raise BadRequestError(
                "This model does not support assistant message prefill. The conversation must end"
                " with a user message."
            )
        if self.cited_sources and self.plain_sources:
            raise BadRequestError(
                "messages: citations must be enabled on all documents or on none of them"
            )

    def _check_system_turn(self, messages: list[Any], number: int) -> None:
        if self.model.line == "sonnet" and self.model.version == (5, 0):
            raise BadRequestError(
                f"messages.{number}.role: role 'system' is not supported on this model"
            )
        before = messages[number - 1]
        after = messages[number + 1] if number + 1 < len(messages) else None
        if before.get("role") != "user" or (is_object(after) and after.get("role") != "assistant"):
            raise BadRequestError(
                f"messages.{number}: a system message must follow a user message and come before"
                " an assistant message or last"
            )

    def _block(self, block: Any, where: str, role: str) -> None:
        if not is_object(block):
            raise BadRequestError(f"{where}: Input should be a valid dictionary or object")
        kind = block.get("type")
        if kind is None:
            raise BadRequestError(f"{where}.type: Field required")
        keys = _BLOCK_KEYS.get(kind) if isinstance(kind, str) else None
        if keys is None:
            if kind in _OPEN_BLOCKS:
                return
            raise BadRequestError(
                f"{where}: Input tag '{kind}' found using 'type' does not match any of the"
                f" expected tags: {_TAGS}"
            )
        for key in block:
            if key not in keys:
                raise BadRequestError(f"{where}.{kind}.{key}: Extra inputs are not permitted")
        where = f"{where}.{kind}"
        if kind == "text":
            self._text(block, where, role)
        elif kind == "image":
            self._image(block, where)
        elif kind == "document":
            self._document(block, where, role)
        elif kind == "search_result":
            self._search_result(block, where)
        elif kind == "tool_result":
            self._tool_result(block, where)
        elif kind == "tool_use":
            for key in ("id", "name", "input"):
                if key not in block:
                    raise BadRequestError(f"{where}.{key}: Field required")
        self._cache_point(block, where)

    def _text(self, block: Json, where: str, role: str) -> None:
        text = block.get("text")
        if not isinstance(text, str):
            problem = "Field required" if text is None else "Input should be a valid string"
            raise BadRequestError(f"{where}.text: {problem}")
        if not text.strip():
            raise BadRequestError("messages: text content blocks must be non-empty")
        if role == "user" and self.version == CURRENT_VERSION and block.get("citations"):
            raise BadRequestError(
                f"{where}.citations: citations are not permitted on user text blocks"
            )
        self.prompt.add_text(text, asked=role == "user")

    def _image(self, block: Json, where: str) -> None:
        source = _source(block, where)
        kind = source.get("type")
        if kind == "base64":
            declared = source.get("media_type")
            if declared not in ("image/jpeg", "image/png", "image/gif", "image/webp"):
                raise BadRequestError(
                    f"{where}.source.base64.media_type: Input should be 'image/jpeg', 'image/png',"
                    " 'image/gif' or 'image/webp'"
                )
            data = decode_base64(source.get("data"))
            if not data:
                raise BadRequestError(f"{where}.source.base64.data: Invalid base64 data")
            found = image_type(data)
            if found is None:
                raise BadRequestError("Could not process image")
            if found != declared:
                raise BadRequestError(
                    f"{where}.source.base64.data: The image was specified using the {declared}"
                    f" media type, but the image appears to be a {found} image"
                )
            self.prompt.tokens += image_tokens(data)
        elif kind == "url":
            _check_url(source, where)
            self.prompt.tokens += 1500
        elif kind == "file":
            _, data = self._uploaded(source, where)
            self.prompt.tokens += image_tokens(data)
        else:
            raise _unknown_tag(f"{where}.source", kind, "'base64', 'file', 'url'")

    def _document(self, block: Json, where: str, role: str) -> None:
        if role == "assistant" and self.version == CURRENT_VERSION:
            raise BadRequestError(
                f"{where}: document blocks are not permitted in assistant messages"
            )
        title, context = block.get("title"), block.get("context")
        for key, value in (("title", title), ("context", context)):
            if value is not None and not isinstance(value, str):
                raise BadRequestError(f"{where}.{key}: Input should be a valid string")
        citable = self._citations(block, where)
        source = _source(block, where)
        kind = source.get("type")
        file_id = None
        if kind == "base64":
            if source.get("media_type") != "application/pdf":
                raise BadRequestError(
                    f"{where}.source.base64.media_type: Input should be 'application/pdf'"
                )
            data = decode_base64(source.get("data"))
            if data is None:
                raise BadRequestError(f"{where}.source.base64.data: Invalid base64 data")
            document = self._pdf(data, where, title, citable, None)
        elif kind == "text":
            if source.get("media_type") != "text/plain":
                raise BadRequestError(
                    f"{where}.source.text.media_type: Input should be 'text/plain'"
                )
            data = source.get("data")
            if not isinstance(data, str):
                raise BadRequestError(f"{where}.source.text.data: Input should be a valid string")
            if not data:
                raise BadRequestError(f"{where}.source.text.data: document must not be empty")
            document = Document("text", title, [data], citable)
        elif kind == "content":
            document = Document("blocks", title, self._parts(source, where), citable)
        elif kind == "url":
            _check_url(source, where)
            document = Document("opaque", title, [], citable)
        elif kind == "file":
            media_type, data = self._uploaded(source, where)
            file_id = str(source["file_id"])
            if media_type == "application/pdf":
                document = self._pdf(data, where, title, citable, file_id)
            elif media_type == "text/plain":
                text = data.decode(errors="replace")
                document = Document("text", title, [text], citable, file_id)
            else:
                raise BadRequestError(
                    f"{where}.source.file.file_id: files of type {media_type} cannot be used in"
                    " document blocks"
                )
        else:
            raise _unknown_tag(
                f"{where}.source", kind, "'base64', 'content', 'file', 'text', 'url'"
            )
        if isinstance(context, str):
            self.prompt.add_text(context, asked=False)
        self.prompt.add_document(document)

    def _pdf(
        self, data: bytes, where: str, title: str | None, citable: bool, file_id: str | None
    ) -> Document:
        try:
            pages = pdf_pages(data)
        except UnreadablePdfError as error:
            raise BadRequestError(f"{where}.source.base64.data: {error}") from error
        most = (
            _MAX_PDF_PAGES if self.model.max_input_tokens >= 1_000_000 else _SMALL_CONTEXT_PDF_PAGES
        )
        if len(pages) > most:
            raise BadRequestError(f"A maximum of {most} PDF pages may be provided.")
        return Document("pages", title, pages, citable, file_id)

    def _parts(self, source: Json, where: str) -> list[str]:
        content = source.get("content")
        if isinstance(content, str):
            return [content]
        if not is_array(content) or not content:
            raise BadRequestError(f"{where}.source.content.content: Field required")
        parts: list[str] = []
        for number, part in enumerate(content):
            if is_object(part) and part.get("type") == "text" and isinstance(part["text"], str):
                parts.append(part["text"])
            elif is_object(part) and part.get("type") == "image":
                self._image(part, f"{where}.source.content.content.{number}.image")
                parts.append("")
            else:
                raise BadRequestError(
                    f"{where}.source.content.content.{number}: Input should be a text or image"
                    " block"
                )
        return parts

    def _search_result(self, block: Json, where: str) -> None:
        for key in ("source", "title", "content"):
            if key not in block:
                raise BadRequestError(f"{where}.{key}: Field required")
        self._citations(block, where)
        content = block["content"]
        for part in content if is_array(content) else []:
            if is_object(part) and isinstance(part.get("text"), str):
                self.prompt.add_text(part["text"], asked=False)

    def _tool_result(self, block: Json, where: str) -> None:
        if "tool_use_id" not in block:
            raise BadRequestError(f"{where}.tool_use_id: Field required")
        content = block.get("content")
        if isinstance(content, str):
            self.prompt.add_text(content, asked=False)
        elif is_array(content):
            for number, part in enumerate(content):
                self._block(part, f"{where}.content.{number}", "tool")

    def _citations(self, block: Json, where: str) -> bool:
        citations = block.get("citations")
        if citations is not None and (
            not is_object(citations) or not isinstance(citations.get("enabled", False), bool)
        ):
            raise BadRequestError(f"{where}.citations.enabled: Input should be a valid boolean")
        enabled = is_object(citations) and citations.get("enabled") is True
        if enabled:
            self.cited_sources += 1
        else:
            self.plain_sources += 1
        return enabled

    def _uploaded(self, source: Json, where: str) -> tuple[str, bytes]:
        file_id = source.get("file_id")
        if not isinstance(file_id, str):
            raise BadRequestError(f"{where}.source.file.file_id: Field required")
        found = self.files(file_id)
        if found is None:
            raise BadRequestError(
                f"File not found: {file_id}", error_type="not_found_error", status=404
            )
        return found

    def _cache_point(self, block: Json, where: str) -> None:
        control = block.get("cache_control")
        if control is None:
            return
        check_cache_control(control, f"{where}.cache_control")
        self.cache_controls.append(control)
        self.cache_prefix_tokens = self.prompt.tokens
        self.cache_prefix_texts = len(self.prompt.texts)
        self.cache_prefix_documents = len(self.prompt.documents)


def check_cache_control(control: Any, where: str) -> None:
    """Refuse a `cache_control` that is not `{"type": "ephemeral", "ttl": "5m" | "1h"}`."""
    if not is_object(control) or control.get("type") != "ephemeral":
        raise BadRequestError(f"{where}.type: Input should be 'ephemeral'")
    if control.get("ttl", "5m") not in ("5m", "1h"):
        raise BadRequestError(f"{where}.ttl: Input should be '5m' or '1h'")
    for key in control:
        if key not in ("type", "ttl"):
            raise BadRequestError(f"{where}.{key}: Extra inputs are not permitted")


def check_integer(params: Json, key: str, least: int) -> int:
    """A required integer parameter.

    Raises:
        BadRequestError: where it is absent, no integer or too small.
    """
    value = params.get(key)
    if value is None:
        raise BadRequestError(f"{key}: Field required")
    if not is_integer(value):
        raise BadRequestError(f"{key}: Input should be a valid integer")
    if value < least:
        raise BadRequestError(f"{key}: must be greater than or equal to {least}")
    return value


def _handed_back(message: Json) -> list[Any]:
    """The types of the blocks of a turn that is to be continued; none where it is a user's."""
    content = message["content"]
    if message["role"] != "assistant" or not is_array(content):
        return []
    return [block.get("type") for block in content if is_object(block)]


def _source(block: Json, where: str) -> Json:
    source = block.get("source")
    if not is_object(source):
        raise BadRequestError(f"{where}.source: Field required")
    return source


def _unknown_tag(where: str, kind: Any, tags: str) -> BadRequestError:
    return BadRequestError(
        f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags:"
        f" {tags}"
    )


def _check_url(source: Json, where: str) -> None:
    url = source.get("url")
    if not isinstance(url, str):
        raise BadRequestError(f"{where}.source.url.url: Field required")
    if not url.startswith("https://"):
        raise BadRequestError(f"{where}.source.url.url: Only HTTPS URLs are supported.")
    # The sandbox fetches nothing; hosts that cannot exist stand for those that do not answer.
    if url.split("/")[2].endswith(".invalid"):
        raise BadRequestError(
            "Unable to download the file. Please verify the URL and try again.", at_run_time=True
        )
