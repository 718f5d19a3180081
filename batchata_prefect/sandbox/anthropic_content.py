"""The content of a Messages body of the right shape: what is left to refuse, and to answer.

Sources: anthropic/types/*_param.py (2.12.0) and the provider notes; for models, told from the
pattern of their ids: platform.claude.com overview, migration guides and thinking pages (11/2026).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .content import (
    CachePoint,
    Document,
    FileReader,
    Prompt,
    UnreadablePdfError,
    decode_base64,
    image_tokens,
    image_type,
    pdf_pages,
)
from .shapes import names
from .wire import Json, RefusedError, is_array, object_at

CURRENT_VERSION = "2026-10-21"

HANDED_BACK = names(
    """server_tool_use web_search_tool_result web_fetch_tool_result code_execution_tool_result
    bash_code_execution_tool_result text_editor_code_execution_tool_result tool_search_tool_result
    container_upload"""
)
"""Blocks of the provider's tools, which come back as they were given."""

_MAX_PDF_PAGES = 600
_SMALL_CONTEXT_PDF_PAGES = 100


_ID = re.compile(
    r"^claude-(?:(?P<line>[a-z]+)-(?P<major>\d)(?:-(?P<minor>\d{1,2}))?"
    r"|(?P<old_major>\d)(?:-(?P<old_minor>\d))?-(?P<old_line>[a-z]+))(?:-\d{8}|-latest)?$"
)
EFFORTS = ("low", "medium", "high", "xhigh", "max")

REGIONS_SINCE = (4, 6)
"""The first models that know `inference_geo` (platform.claude.com manage-claude/data-residency)."""


@dataclass(frozen=True, slots=True)
class ClaudeModel:
    """Traits of a model that decide what its requests may hold."""

    id: str
    line: str
    version: tuple[int, int]
    max_tokens: int
    max_input_tokens: int
    efforts: tuple[str, ...]
    thinks_by_default: bool
    always_thinks: bool
    takes_enabled_thinking: bool
    takes_adaptive_thinking: bool
    takes_prefill: bool
    """Whether the last message may be the assistant's."""
    takes_forced_tool: bool


@lru_cache(maxsize=4096)
def claude_model(model_id: str) -> ClaudeModel | None:
    """The traits of a model, or None where the sandbox says that it does not exist."""
    if not model_id.startswith("claude-") or "does-not-exist" in model_id:
        return None
    match = _ID.match(model_id)
    line = (match["line"] or match["old_line"]) if match else "unknown"
    major = int(match["major"] or match["old_major"]) if match else 9
    minor = int(match["minor"] or match["old_minor"] or 0) if match else 0
    version = (major, minor)
    is_fable = line in ("fable", "mythos")
    small = version <= (4, 5) or (line == "haiku" and version < (5, 0))
    if version <= (4, 5):
        efforts = ("low", "medium", "high") if line == "opus" and version == (4, 5) else ()
    elif version == (4, 6):
        efforts = ("low", "medium", "high", "max")
    else:
        efforts = EFFORTS
    return ClaudeModel(
        id=model_id,
        line=line,
        version=version,
        max_tokens=64_000 if small else 128_000,
        max_input_tokens=200_000 if small else 1_000_000,
        efforts=efforts,
        thinks_by_default=version >= (5, 0),
        always_thinks=is_fable or (line == "opus" and version >= (5, 5)),
        takes_enabled_thinking=version < (4, 7),
        takes_adaptive_thinking=version >= (4, 6),
        takes_prefill=version < (4, 6),
        takes_forced_tool=version < (5, 1) if is_fable else line != "opus" or version < (5, 5),
    )


def read_content(params: Json, model: ClaudeModel, version: str, files: FileReader) -> Prompt:
    """What a body says."""
    reader = _Reader(model, version, files)
    system = params.get("system")
    if isinstance(system, str):
        reader.prompt.add_text(system, asked=False)
    for number, block in enumerate(system if is_array(system) else ()):
        reader.block(block, f"system.{number}", "system")
    reader.messages(params["messages"])
    return reader.prompt


class _Reader:
    """Walks the messages of one request and fills a prompt."""

    def __init__(self, model: ClaudeModel, version: str, files: FileReader) -> None:
        self.prompt = Prompt()
        self.model = model
        self.current = version == CURRENT_VERSION
        self.files = files
        self.uncited = False

    def messages(self, messages: list[Json]) -> None:
        last = messages[-1]
        if messages[0]["role"] != "user":
            raise RefusedError('messages: first message must use the "user" role')
        for number, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if role == "system":
                self._check_system_turn(messages, number)
            if not content and not (role == "assistant" and message is last):
                raise RefusedError(
                    f"messages.{number}: all messages must have non-empty content except for the"
                    " optional final assistant message"
                )
            if isinstance(content, str):
                self.prompt.add_text(content, asked=role == "user")
                continue
            for place, block in enumerate(content):
                self.block(block, f"messages.{number}.content.{place}.{block['type']}", role)
        if last["role"] == "assistant":
            self._check_prefill(last["content"])
        if self.prompt.cited and self.uncited:
            raise RefusedError(
                "messages: citations must be enabled on all documents or on none of them"
            )

    def _check_prefill(self, content: str | list[Json]) -> None:
        handed_back = [] if isinstance(content, str) else [block["type"] for block in content]
        self.prompt.pauses = handed_back.count("server_tool_use")
        ends_handed_back = bool(handed_back) and handed_back[-1] in HANDED_BACK
        if not self.model.takes_prefill and not ends_handed_back:
            raise RefusedError(
                "This model does not support assistant message prefill. The conversation must end"
                " with a user message."
            )

    def _check_system_turn(self, messages: list[Json], number: int) -> None:
        if self.model.line == "sonnet" and self.model.version == (5, 0):
            raise RefusedError(
                f"messages.{number}.role: role 'system' is not supported on this model"
            )
        after = messages[number + 1]["role"] if number + 1 < len(messages) else "assistant"
        if messages[number - 1]["role"] != "user" or after != "assistant":
            raise RefusedError(
                f"messages.{number}: a system message must follow a user message and come before"
                " an assistant message or last"
            )

    def block(self, block: Json, where: str, role: str) -> None:
        """Take in a block; `where` leads to it, `role` is whose it is."""
        kind = block["type"]
        if kind == "text":
            if role == "user" and self.current and block.get("citations"):
                raise RefusedError(
                    f"{where}.citations: citations are not permitted on user text blocks"
                )
            self.prompt.add_text(block["text"], asked=role == "user")
        elif kind == "image":
            self._image(block["source"], where)
        elif kind == "document":
            self._document(block, where, role)
        elif kind == "search_result":
            self._note_citations(block)
            self._result(block["content"], where)
        elif kind == "tool_result":
            self._result(block.get("content"), where)
        if block.get("cache_control") is not None and kind not in HANDED_BACK:
            prompt = self.prompt
            before = prompt.tokens, len(prompt.texts), len(prompt.documents)
            prompt.cache_points += (CachePoint(block["cache_control"], *before),)

    def _result(self, content: Any, where: str) -> None:
        """The content of a tool's or a search's result."""
        if isinstance(content, str):
            self.prompt.add_text(content, asked=False)
        for number, part in enumerate(content if is_array(content) else ()):
            self.block(part, f"{where}.content.{number}.{part['type']}", "tool")

    def _note_citations(self, block: Json) -> bool:
        enabled = object_at(block, "citations").get("enabled") is True
        self.prompt.cited = self.prompt.cited or enabled
        self.uncited = self.uncited or not enabled
        return enabled

    def _image(self, source: Json, where: str) -> None:
        if source["type"] == "url":
            _check_url(source["url"])
            self.prompt.tokens += 1500
        elif source["type"] == "file":
            self.prompt.tokens += image_tokens(self._uploaded(source)[1])
        else:
            data, declared = _decoded(source, where), source["media_type"]
            found = image_type(data)
            if found is None:
                raise RefusedError("Could not process image")
            if found != declared:
                raise RefusedError(
                    f"{where}.source.base64.data: The image was specified using the {declared}"
                    f" media type, but the image appears to be a {found} image"
                )
            self.prompt.tokens += image_tokens(data)

    def _document(self, block: Json, where: str, role: str) -> None:
        if role == "assistant" and self.current:
            raise RefusedError(f"{where}: document blocks are not permitted in assistant messages")
        citable = self._note_citations(block)
        kind, parts = self._parts(block["source"], where)
        file_id = block["source"].get("file_id")
        if isinstance(block.get("context"), str):
            self.prompt.add_text(block["context"], asked=False)
        self.prompt.add_document(Document(kind, block.get("title"), parts, citable, file_id))

    def _parts(self, source: Json, where: str) -> tuple[Any, list[str]]:
        """Kind and texts of a document's source."""
        kind = source["type"]
        if kind == "text":
            return "text", [source["data"]]
        if kind == "url":
            _check_url(source["url"])
            return "opaque", []
        if kind == "base64":
            return "pages", self._pages(_decoded(source, where), where)
        if kind == "file":
            media_type, data = self._uploaded(source)
            if media_type == "application/pdf":
                return "pages", self._pages(data, where)
            if media_type == "text/plain":
                return "text", [data.decode(errors="replace")]
            raise RefusedError(
                f"{where}.source.file.file_id: files of type {media_type} cannot be used in"
                " document blocks"
            )
        content = source["content"]
        if isinstance(content, str):
            return "blocks", [content]
        for number, part in enumerate(content):
            if part["type"] == "image":
                self._image(part["source"], f"{where}.source.content.content.{number}.image")
        return "blocks", [part.get("text", "") for part in content]

    def _pages(self, data: bytes, where: str) -> list[str]:
        try:
            pages = pdf_pages(data)
        except UnreadablePdfError as error:
            raise RefusedError(f"{where}.source.base64.data: {error}") from error
        small = self.model.max_input_tokens < 1_000_000
        most = _SMALL_CONTEXT_PDF_PAGES if small else _MAX_PDF_PAGES
        if len(pages) > most:
            raise RefusedError(f"A maximum of {most} PDF pages may be provided.")
        return pages

    def _uploaded(self, source: Json) -> tuple[str, bytes]:
        found = self.files(source["file_id"])
        if found is None:
            text = f"File not found: {source['file_id']}"
            raise RefusedError(text, error_type="not_found_error", status=404)
        return found


def _decoded(source: Json, where: str) -> bytes:
    data = decode_base64(source["data"])
    if data is None:
        raise RefusedError(f"{where}.source.base64.data: Invalid base64 data")
    return data


def _check_url(url: str) -> None:
    # The sandbox fetches nothing; hosts that cannot exist stand for those that do not answer.
    if url.split("/")[2].endswith(".invalid"):
        raise RefusedError(
            "Unable to download the file. Please verify the URL and try again.", at_run_time=True
        )
