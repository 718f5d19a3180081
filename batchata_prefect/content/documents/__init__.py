"""Files that go into a request: read once, and refused before anything is paid.

A document is what the user's path, URL or bytes hold. Which wire form it takes, and how many pages
or pixels a model accepts, is the provider's business.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from batchata_prefect.content.documents import formats, pdf
from batchata_prefect.content.documents.allowed import RowFile
from batchata_prefect.content.documents.formats import MAX_FILE_BYTES, DocumentKind, RefusedError
from batchata_prefect.content.documents.watch import in_time
from batchata_prefect.content.shelf import Shelf
from batchata_prefect.errors import ValidationError
from batchata_prefect.models import FileInput

CACHE_BYTES = 64_000_000
"""Memory that documents may keep, base64 and text included, so that many jobs can share one."""

# Sequences that are one file, or nothing that is one.
_PIECE_BYTES = 1 << 20
_ONE = (str, bytes, bytearray, memoryview)


@dataclass(frozen=True)
class Document:
    """One file, as read.

    Attributes:
        name: File name; the title that citations name.
        media_type: What the bytes are; the suffix only decides where the bytes do not say.
        data: The exact bytes.
        text: The decoded text of a text file, the HTML of a DOCX; None for all else.
        pages: Pages of a PDF.
        width: Width of an image in pixels.
        height: Height of an image in pixels.
        digest: SHA-256 of the bytes, in hex.
        kind: The family that the media type belongs to.
    """

    name: str
    media_type: str
    data: bytes
    text: str | None
    pages: int | None
    width: int | None
    height: int | None
    digest: str
    kind: DocumentKind

    @cached_property
    def base64(self) -> str:
        """The bytes in standard base64 without line breaks; encoded once."""
        import pybase64  # thirty times as fast as the standard library's

        return pybase64.b64encode_as_string(self.data)

    @cached_property
    def shown_bytes(self) -> tuple[int | None, ...]:
        """Bytes of text that each page of a PDF shows; nothing for other documents.

        A quick upper bound of a page's length, see `pdf.shown_bytes`; None where a page cannot be
        read.
        """
        return tuple(pdf.shown_bytes(self.data, self.pages or 0))

    @property
    def is_scan(self) -> bool:
        """Whether it is a PDF that shows no text on any page: nothing of it can be cited."""
        return self.kind == "pdf" and not any(shown is None or shown for shown in self.shown_bytes)


def load_documents(file: FileInput, *, job_id: str) -> tuple[Document, ...]:
    """The documents that a job's `file` names, in the order given.

    A document that several jobs use is read, checked and encoded once, as long as it does not
    change and fits into `CACHE_BYTES` together with the others.

    Args:
        file: Path, URL (`s3://`, `gs://`, `https://`, ... through fsspec), bytes, or several.
        job_id: Id of the job, for the text of errors.
    """
    single = isinstance(file, _ONE) or not isinstance(file, Sequence)
    items: list[Any] = [file] if single else list(cast("Sequence[Any]", file))
    documents: list[Document] = []
    faults: list[str] = [] if items else [f"job {job_id!r}: file is an empty list"]
    for number, item in enumerate(items, start=1):
        stem = "document" if single else f"document-{number}"
        try:
            documents.append(_load(item, stem))
        except RefusedError as refusal:
            faults.append(f"job {job_id!r}: file {_shown(item, stem)} {refusal}")
    if faults:
        raise ValidationError("; ".join(faults) + ". Nothing was sent.", faults)
    return tuple(documents)


def text_document(text: str, name: str) -> Document:
    """A text as a document, whatever it looks like."""
    data = text.encode("utf-8", "surrogatepass")
    return Document(name, "text/plain", data, text, None, None, None, _digest(data), "text")


def load_bytes(data: bytes, name: str, *, job_id: str) -> Document:
    """The document of bytes that a message holds, by the checks of `load_documents`.

    Args:
        data: The bytes.
        name: Its file name; empty where there is none.
        job_id: Id of the job, for the text of errors.
    """
    try:
        return _of_bytes(data, name or "document", named=bool(name))
    except RefusedError as refusal:
        what = f"file {name!r}" if name else "a file"
        raise ValidationError(f"job {job_id!r}: {what} in its messages {refusal}") from None


_shelf = Shelf[Document](CACHE_BYTES)


def _shown(item: Any, stem: str) -> str:
    """The file as an error names it, without those parts of a URL that may hold secrets."""
    if isinstance(item, bytes):
        return f"{stem!r} ({len(item):,} bytes)"
    text = str(item)
    if "://" in text:
        parts = urlsplit(text)
        text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return repr(text if len(text) <= 200 else text[:200] + "...")


def _load(item: Any, stem: str) -> Document:
    if isinstance(item, bytes):
        return _of_bytes(item, stem, named=False)
    if isinstance(item, str) and "://" in item:
        return _load_url(item)
    if isinstance(item, RowFile):
        return _load_path(item.allowed.path(item))
    if isinstance(item, (str, os.PathLike)):
        return _load_path(Path(cast("str | os.PathLike[str]", item)).expanduser())
    raise RefusedError(f"is {type(item).__name__}; give a path, a URL or bytes")


def _of_bytes(data: bytes, name: str, *, named: bool) -> Document:
    key = ("bytes", name, named, _digest(data))
    return _shelf.get(key) or _shelved(key, data, name, named=named)


def _load_path(path: Path) -> Document:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise RefusedError("is a directory; name the files in it")
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError("is not a regular file")
        _refuse_size(found.st_size)
        # Device and inode are the same file under any link, without resolving every path.
        key = (path.name, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        return _shelf.get(key) or _shelved(key, _read_file(path), path.name)
    except FileNotFoundError:
        raise RefusedError("does not exist") from None
    except (OSError, ValueError) as error:
        raise RefusedError(f"cannot be read: {_reason(error)}") from error


def _read_file(path: Path) -> bytes:
    # What was a regular file may be another by now; a pipe must not hang, nor /dev/zero fill.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RefusedError("is not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    _refuse_size(len(data))
    return data


def _load_url(url: str) -> Document:
    parts = urlsplit(url)
    if parts.scheme in ("file", "local"):
        path = unquote(parts.path if parts.scheme == "file" else url[8:])
        return _load_path(url.allowed.path(path) if isinstance(url, RowFile) else Path(path))
    try:
        key, document, data = in_time(lambda: _fetched(url), "fetch_seconds")
    except RefusedError:
        raise
    except FileNotFoundError:
        raise RefusedError("does not exist") from None
    except ImportError as error:
        raise RefusedError(f"needs a driver that is not installed: {error}") from error
    except Exception as error:
        # Each file system has errors of its own, and their texts may quote a signed URL.
        reason = type(error).__name__ if parts.query or "@" in parts.netloc else _reason(error)
        raise RefusedError(f"cannot be read: {reason}") from error
    name = unquote(PurePosixPath(parts.path).name) or "document"
    return document or _shelved(key, data, name)


def _fetched(url: str) -> tuple[Hashable, Document | None, bytes]:
    if isinstance(url, RowFile):
        is_open = url.allowed.is_open(url)
        if urlsplit(url).scheme in ("http", "https"):
            data = url.allowed.fetch(url)
            return ("url", url, is_open, _digest(data)), None, data
    key, read = _open_url(url)
    document = _shelf.get(key)
    return key, document, b"" if document else read()


def _open_url(url: str) -> tuple[Hashable, Callable[[], bytes]]:
    """A key that changes with the content, as far as the file system tells, and how to read it."""
    import fsspec  # pyright: ignore[reportMissingTypeStubs]

    opened: tuple[Any, str] = cast(Any, fsspec).url_to_fs(url)
    filesystem, path = opened
    info: dict[str, Any] = filesystem.info(path)
    if info.get("type") == "directory":
        raise RefusedError("is a directory; name the files in it")
    _refuse_size(info.get("size") or 0)
    if info.get("type") not in ("file", None):
        raise RefusedError("is not a regular file")
    # Without blocks, an HTTP server is asked once and not for ranges.
    how = {"block_size": 0} if "http" in filesystem.protocol else {}

    def read() -> bytes:
        pieces: list[bytes] = []
        size = 0
        with filesystem.open(path, "rb", **how) as file:
            while piece := file.read(_PIECE_BYTES):
                size += len(piece)
                _refuse_size(size)
                pieces.append(piece)
        return b"".join(pieces)

    return ("url", url, str(filesystem.ukey(path))), read


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return text or type(error).__name__


def _refuse_size(size_bytes: int) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise RefusedError(
            f"has {size_bytes:,} bytes; no provider takes more than {MAX_FILE_BYTES:,}"
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _shelved(key: Hashable, data: bytes, name: str, *, named: bool = True) -> Document:
    document = _document(data, name, named=named)
    # What it may come to hold: its data, base64 of it, its text, and a little.
    _shelf.put(key, document, len(data) * 7 // 3 + len(document.text or "") + 1_000)
    return document


def _document(data: bytes, name: str, *, named: bool) -> Document:
    """The document of some bytes; `named` where the name is the user's and its suffix counts."""
    if not data:
        raise RefusedError("is empty")
    _refuse_size(len(data))
    media_type, kind = formats.identify(data, name if named else "")
    text = pages = width = height = None
    if kind == "pdf":
        pages = pdf.page_count(data)
    elif kind == "image":
        width, height = formats.image_size(data, media_type)
    elif kind == "docx":
        text = in_time(lambda: formats.docx_html(data))
    elif kind == "text":
        text = formats.decode(data)
    if not named:
        name += formats.suffix_of(media_type, kind)
    return Document(name, media_type, data, text, pages, width, height, _digest(data), kind)
