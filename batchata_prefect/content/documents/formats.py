"""What the bytes of a file are, and what can be said of them without a provider.

Types are told by content first: a suffix is what somebody called a file, not what it is.
"""

from __future__ import annotations

import io
import mimetypes
import zipfile
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias, cast

from batchata_prefect.content.bounds import bounds

DocumentKind: TypeAlias = Literal["pdf", "text", "image", "docx", "other"]

MAX_FILE_BYTES = 512_000_000
"""Larger files are not read, nor unpacked. Source: the docstring of OpenAI's `files.create`
(512 MB), the most that any of the providers takes."""

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

_CLAIMS = {
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".docx": DOCX,
}
_IMAGES = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF....WEBP",),
}
"""How the images begin that providers take; a point stands for any byte."""
_AS_IMAGE = "which no provider takes; save it as JPEG or PNG"
_FOREIGN = (
    (
        (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        f"a TIFF image, {_AS_IMAGE}, or all of its pages as PDF",
    ),
    (
        tuple(b"....ftyp" + b for b in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim")),
        f"a HEIC image, {_AS_IMAGE}",
    ),
    ((b"....ftypavif", b"....ftypavis"), f"an AVIF image, {_AS_IMAGE}"),
    ((b"\0\0\0\x0cJXL ", b"\xff\x0a"), f"a JPEG XL image, {_AS_IMAGE}"),
    ((b"\0\0\0\x0cjP  ",), f"a JPEG 2000 image, {_AS_IMAGE}"),
    ((b"8BPS",), f"a Photoshop image, {_AS_IMAGE}"),
    ((b"BM....\0\0\0\0",), f"a BMP image, {_AS_IMAGE}"),
)
"""How files begin that people have and no provider reads [ISO 14496-12, TIFF 6.0, the formats' own
documents]; written as the others."""

_OFFICE = {
    "word/": DOCX,
    "xl/": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ppt/": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_TEXT_TYPES = {
    "application/javascript",
    "application/json",
    "application/jsonl",
    "application/x-sh",
    "application/xml",
}
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


class RefusedError(Exception):
    """Why a file cannot be used: the rest of a sentence that starts with the file."""


def suffix_of(media_type: str, kind: DocumentKind) -> str:
    """The suffix for a file that came without a name; empty where there is no usual one."""
    if kind == "text":
        return ".txt"
    return next((suffix for suffix, claimed in _CLAIMS.items() if claimed == media_type), "")


def identify(data: bytes, name: str) -> tuple[str, DocumentKind]:
    """Media type and family of some bytes.

    Args:
        data: The bytes; not empty.
        name: File name; empty where there is none.
    """
    suffix = PurePosixPath(name).suffix.lower()
    claim = _CLAIMS.get(suffix)
    head = data[:1024]
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-") or (
        suffix == ".pdf" and b"%PDF-" in head
    ):
        return "application/pdf", "pdf"
    # Bytes before names: what a provider refuses or misreads is what they are.
    image = next((kind for kind, marks in _IMAGES.items() if _starts(head, marks)), None)
    if image is not None:
        return image, "image"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        media_type = _zip_type(data, claim)
        return media_type, "docx" if media_type == DOCX else "other"
    if claim == DOCX and head.startswith(b"\xd0\xcf\x11\xe0"):
        raise RefusedError("is an encrypted or an old Word file; save it as DOCX without password")
    foreign = next((word for marks, word in _FOREIGN if _starts(head, marks)), None)
    if foreign is not None:
        raise RefusedError(f"is {foreign}")
    if claim is not None:
        raise RefusedError(
            f"is named like {claim}, but its bytes are not: it starts with {data[:12]!r}"
        )
    if head.startswith(b"{\\rtf"):
        return "application/rtf", "other"
    return _type_by_suffix(data, suffix)


def _starts(head: bytes, marks: tuple[bytes, ...]) -> bool:
    return any(
        len(head) >= len(mark)
        and all(wanted in (have, 0x2E) for have, wanted in zip(head, mark, strict=False))
        for mark in marks
    )


def _type_by_suffix(data: bytes, suffix: str) -> tuple[str, DocumentKind]:
    """The type where the bytes say no more than whether they are text."""
    guess, encoding = _types().guess_type(f"x{suffix}")
    if encoding is not None:
        return f"application/{encoding}", "other"
    textual = guess is None or (
        guess.startswith("text/") or guess in _TEXT_TYPES or guess.endswith(("+xml", "+json"))
    )
    try:
        decode(data)
    except RefusedError:
        if guess is None or textual:
            raise
        return guess, "other"
    # What reads as text is text: the standard library calls `.tex` an application.
    return (guess if guess and textual else "text/plain"), "text"


@cache
def _types() -> mimetypes.MimeTypes:
    # The standard library's own table: what a machine adds must not change a request's bytes.
    types = mimetypes.MimeTypes()
    types.add_type("application/jsonl", ".jsonl")
    types.add_type("text/markdown", ".md")
    return types


def decode(data: bytes) -> str:
    """Text of UTF-8, or of UTF-16 and UTF-32 with a byte order mark, which is left out.

    There is no guess at old one-byte encodings: a wrong one is paid for and answers nonsense.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise RefusedError("is no text, and of no type that can be told") from None
        raise RefusedError(
            f"is no {encoding.removesuffix('-sig').upper()} text (byte 0x{data[error.start]:02x} "
            f"at {error.start:,}), and of no type that can be told; convert it to UTF-8"
        ) from None
    if "\0" in text:
        raise RefusedError("holds NUL bytes, so it is no text, and is of no type that can be told")
    if not text.strip():
        raise RefusedError("is empty: it holds nothing but white space")
    return text


def _zip_type(data: bytes, claim: str | None) -> str:
    most = min(bounds().document_unpacked_bytes, MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            size = sum(entry.file_size for entry in archive.infolist())
            if size > most:
                raise RefusedError(f"unpacks to {size:,} bytes, more than {most:,}")
            opendocument = None
            if "mimetype" in names:
                with archive.open("mimetype") as file:
                    opendocument = file.read(100)
    except (zipfile.BadZipFile, RuntimeError, OSError) as error:
        what = "DOCX" if claim == DOCX else "zip archive"
        raise RefusedError(f"is a broken {what}: {error}") from error
    for folder, media_type in _OFFICE.items():
        if any(name.startswith(folder) for name in names):
            return media_type
    if claim is not None:
        raise RefusedError(f"is named like {claim}, but is another kind of zip archive")
    if opendocument is not None:
        return opendocument.decode("ascii", "replace").strip()
    return "application/zip"


def docx_html(data: bytes) -> str:
    """The text of a DOCX as HTML, in which tables survive; without pictures and page headers."""
    try:
        import mammoth  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise RefusedError(
            "is a DOCX, which needs mammoth to be read: pip install 'batchata-prefect[docx]'"
        ) from None
    try:
        _check_docx(data)
        # Pictures would come as base64, which a model reads as text, and which is paid for.
        result: Any = mammoth.convert_to_html(  # pyright: ignore[reportUnknownMemberType]
            io.BytesIO(data), convert_image=_no_picture
        )
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(f"is a broken DOCX: {error}") from error
    html = cast(str, result.value)
    if not html.strip():
        raise RefusedError("is a DOCX without any text")
    return html


def _check_docx(data: bytes) -> None:
    """Count what mammoth takes its time and memory for, before it does."""
    most = bounds().document_steps
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [name for name in archive.namelist() if name.endswith((".xml", ".rels"))]
        paragraphs = tags = 0
        for name in parts[: most + 1]:
            with archive.open(name) as file:
                tail = b""
                while piece := file.read(1 << 20):
                    paragraphs += (tail + piece).count(b"<w:p>") + (tail + piece).count(b"<w:p ")
                    paragraphs += (tail + piece).count(b"<w:p/")
                    tags += piece.count(b"<")
                    tail = piece[-4:]
    for count, what, limit in (
        (len(parts), "parts", most),
        (paragraphs, "paragraphs", most),
        (tags, "tags", 40 * most),
    ):
        if count > limit:
            raise RefusedError(
                f"is a DOCX of {count:,} {what}, of which {limit:,} are read; raise "
                "BATCHATA_MOST_DOCUMENT_STEPS if it is not made to hang its reader"
            )


def _no_picture(_image: Any) -> list[Any]:
    return []


def image_size(data: bytes, media_type: str) -> tuple[int, int]:
    """Width and height of an image in pixels, out of its header."""
    read = {"image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp}
    size = read[media_type](data)
    if size is None or 0 in size:
        raise RefusedError(f"is a broken {media_type}: its header gives no size")
    return size


def _png(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif(data: bytes) -> tuple[int, int] | None:
    if len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _webp(data: bytes) -> tuple[int, int] | None:
    if len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        return width, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            return int.from_bytes(data[at + 7 : at + 9], "big"), height
        elif marker == 0xDA:
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
