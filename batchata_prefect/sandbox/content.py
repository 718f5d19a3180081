"""What a request says: its texts, its documents, its tokens and the markers of a test."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

FileReader = Callable[[str], tuple[str, bytes] | None]
"""Gives (media type, bytes) of an uploaded file, or None where there is none."""

PDF_PAGE_TOKENS = 1500
IMAGE_TOKENS = 1500

_TITLED = re.compile(r"Document ([^\n]{1,300}):\n\n")
_MARKER = re.compile(r"\[\[sandbox:(\w+)(?:\s+(.*?))?\]\]", re.S)


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a request: one text, or a text for each page or block.

    `kind` decides how it is cited; an `opaque` one (a URL) has no text here.
    """

    kind: Literal["text", "pages", "blocks", "opaque"]
    title: str | None
    parts: list[str]
    citable: bool = False
    file_id: str | None = None

    @property
    def tokens(self) -> int:
        """Input tokens that the document costs."""
        if self.kind == "opaque":
            return PDF_PAGE_TOKENS
        if self.kind == "pages":
            return PDF_PAGE_TOKENS * len(self.parts)
        return sum(text_tokens(part) for part in self.parts)


class CachePoint(NamedTuple):
    """A `cache_control`, and how much of the prompt stands before it."""

    control: dict[str, Any]
    tokens: int
    texts: int
    documents: int


@dataclass(slots=True)
class Prompt:
    """A request as an answer needs it.

    Attributes:
        quotable: The documents as a reader counts them where plain ones are texts of the prompt.
        ask: The last text of a user.
        cited: Whether citations are asked for.
        pauses: Times that the turn which the messages end with was paused and handed back.
    """

    texts: list[str] = field(default_factory=list[str])
    documents: list[Document] = field(default_factory=list[Document])
    quotable: list[Document] = field(default_factory=list[Document])
    tokens: int = 0
    ask: str = ""
    cited: bool = False
    pauses: int = 0
    cache_points: tuple[CachePoint, ...] = ()

    def add_text(self, text: str, *, asked: bool = True) -> None:
        """Take in a text; `asked` when it is the user's."""
        self.texts.append(text)
        if asked and (match := _TITLED.match(text)):
            self.quotable.append(Document("text", match[1], [text[match.end() :]], True))
        self.tokens += text_tokens(text)
        if asked:
            self.ask = text

    def add_document(self, document: Document) -> None:
        """Take in a document."""
        self.documents.append(document)
        self.quotable.append(document)
        self.tokens += document.tokens


@dataclass(frozen=True, slots=True)
class Marker:
    """A `[[sandbox:...]]` order that a test wrote into a request's text."""

    name: str
    rest: str


def text_tokens(text: str) -> int:
    """Tokens of a text by the sandbox's rule: four UTF-8 bytes each, rounded up."""
    return (len(text) if text.isascii() else len(text.encode())) + 3 >> 2


def cut_text(text: str, tokens: int) -> str:
    """The longest head of a text that is at most so many tokens."""
    return text.encode()[: max(tokens, 0) * 4].decode(errors="ignore")


def find_marker(prompt: Prompt) -> Marker | None:
    """The first marker in a request's texts or documents.

    `[[sandbox:first ...]]` holds for the first answer of a dialogue: only while it stands in what
    the user said last.
    """
    for text in prompt.texts:
        if "[[sandbox:" in text and (match := _MARKER.search(text)):
            if match[1] != "first":
                return Marker(match[1], match[2] or "")
            name, _, rest = (match[2] or "").partition(" ")
            return Marker(name, rest) if match[0] in prompt.ask else None
    for document in prompt.documents:
        for part in document.parts:
            if "[[sandbox:" in part and (match := _MARKER.search(part)):
                return Marker(match[1], match[2] or "")
    return None


class UnreadablePdfError(Exception):
    """Bytes that are no PDF, or an encrypted one."""


_pages_by_digest: OrderedDict[bytes, list[str]] = OrderedDict()
_PAGES_KEPT = 512


def pdf_pages(data: bytes) -> list[str]:
    """The text of each page of a PDF; remembered, as batches repeat their documents."""
    digest = hashlib.sha256(data).digest()
    if (known := _pages_by_digest.get(digest)) is not None:
        return known
    if not data.startswith(b"%PDF"):
        raise UnreadablePdfError("The PDF specified was not valid.")
    # Loading pypdf costs more than the whole server needs to start.
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(data))
        encrypted = reader.is_encrypted
        pages = [] if encrypted else [page.extract_text() for page in reader.pages]
    # pypdf lets many kinds of error out of a damaged file; all mean the same here.
    except Exception as error:
        raise UnreadablePdfError("The PDF specified was not valid.") from error
    if encrypted:
        raise UnreadablePdfError("The PDF specified is password protected.")
    if not pages:
        raise UnreadablePdfError("The PDF specified was not valid.")
    _pages_by_digest[digest] = pages
    while len(_pages_by_digest) > _PAGES_KEPT:
        _pages_by_digest.popitem(last=False)
    return pages


def decode_base64(data: object) -> bytes | None:
    """The bytes of a base64 string, or None if it is none."""
    if not isinstance(data, str):
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None


_IMAGE_HEADS = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}


def image_type(data: bytes) -> str | None:
    """The media type that an image's first bytes show."""
    for media_type, heads in _IMAGE_HEADS.items():
        if data.startswith(heads):
            return media_type
    return None


def image_tokens(data: bytes) -> int:
    """Tokens of an image: width x height / 750 for a PNG, else the flat figure."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        return max(1, min(width * height // 750, 4784))
    return IMAGE_TOKENS
