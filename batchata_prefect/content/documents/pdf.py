"""What is in a PDF: its pages, their text, and how much text they show."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections import Counter
from typing import Any, cast

from batchata_prefect.content.bounds import bounds
from batchata_prefect.content.documents.formats import RefusedError
from batchata_prefect.content.documents.watch import in_time

_LITERAL = re.compile(rb"\\[0-7]{1,3}|\\.|[()]", re.DOTALL)
_NAME = re.compile(rb"/[^\s\x00/<>\[\](){}%]*")
_HEX = re.compile(rb"<([0-9A-Fa-f\s]++)>")


def _reader(data: bytes) -> Any:
    import pypdf  # slow to import, and jobs without a PDF never need it

    log = logging.getLogger("pypdf")
    if log.level == logging.NOTSET:
        # It warns of every oddity of every file; what matters is in our own error.
        log.setLevel(logging.CRITICAL)
    return pypdf.PdfReader(io.BytesIO(data))


def page_count(data: bytes) -> int:
    """Number of pages."""

    def read() -> int:
        reader = _reader(data)
        if reader.is_encrypted:
            # Also where it opens without a password: "no passwords/encryption" (Claude docs, PDF
            # support), which the API would say an hour later.
            raise RefusedError("is an encrypted PDF, which the providers refuse; save it decrypted")
        return len(reader.pages)

    try:
        pages = in_time(read)
    except RefusedError:
        raise
    except Exception as error:
        # pypdf raises its own errors and, deep in a damaged file, any other.
        text = str(error) or type(error).__name__
        raise RefusedError(f"is a broken PDF: {text}") from error
    if not pages:
        raise RefusedError("is a PDF without pages")
    return pages


def shown_bytes(data: bytes, pages: int) -> list[int | None]:
    """Bytes of text that each page shows; None where a page cannot be read.

    Counts the strings in a page's content without laying them out: one byte a character with
    simple fonts, two with composite ones. About 1 ms a page, where its text takes 30 ms.
    """
    results: list[int | None] = []

    def read() -> None:
        all_pages = _reader(data).pages
        for number in range(pages):
            try:
                results.append(_shown_on(all_pages[number]))
            except Exception:
                # pypdf raises its own errors and, deep in a damaged file, any other.
                results.append(None)

    if pages:
        with contextlib.suppress(RefusedError):
            in_time(read)
    return results + [None] * (pages - len(results))


class PageTexts:
    """The pages of a PDF, whose texts are read one by one; none where it cannot be read."""

    def __init__(self, data: bytes) -> None:
        self._pages: Any = ()
        self.count = 0
        # pypdf raises its own errors and, deep in a damaged file, any other.
        with contextlib.suppress(Exception):
            self._pages = in_time(lambda: _reader(data).pages)
            self.count = in_time(lambda: len(self._pages))

    def read(self, number: int) -> str:
        """The text of a page, by its number from 0; empty where it cannot be read."""
        try:
            return in_time(lambda: _text(self._pages[number]))
        except Exception:
            return ""


class _Steps:
    """Content streams that may still be read of one page, each form counted once."""

    def __init__(self) -> None:
        self.left = bounds().document_steps
        self.known: dict[tuple[int, int], int] = {}

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RefusedError("draws too many forms; raise BATCHATA_MOST_DOCUMENT_STEPS")


def _text(page: Any) -> str:
    steps = _Steps()

    def counted(*_: Any) -> None:
        # A form that draws forms is laid out as often as it is drawn.
        steps.take()

    steps.left *= 20
    return cast(str, page.extract_text(visitor_operand_before=counted))


def _shown_on(page: Any) -> int | None:
    contents = page.get_contents()
    data = b"" if contents is None else cast(bytes, contents.get_data())
    return _shown_in(data, page.get("/Resources"), _Steps(), depth=0)


def _shown_in(data: bytes, resources: Any, steps: _Steps, depth: int) -> int:
    """Bytes of text shown by a content stream and by the forms that it draws."""
    steps.take()
    total = string_bytes(data)
    forms: Any = resources.get_object().get("/XObject") if resources is not None else None
    if forms is None or depth > 4:
        return total
    # Some writers list every form of the file on every page; only the drawn ones count.
    drawn = Counter(_NAME.findall(data))
    for name, reference in forms.get_object().items():
        times = drawn[str(name).encode("latin-1", "replace")]
        if times:
            total += times * _shown_by(reference, steps, depth)
    return total


def _shown_by(reference: Any, steps: _Steps, depth: int) -> int:
    """Bytes of text that one drawing of a form shows; each form is read once at each depth."""
    form = reference.get_object()
    if form.get("/Subtype") != "/Form":
        return 0
    key = (id(form), depth)
    if key not in steps.known:
        inner = _shown_in(form.get_data(), form.get("/Resources"), steps, depth + 1)
        steps.known[key] = inner
    return steps.known[key]


def string_bytes(data: bytes) -> int:
    """Bytes in the literal and hex strings of a content stream; never fewer than it shows.

    Literal strings nest, so brackets are counted; binary data between brackets counts as text.
    """
    total = sum(len(match[1]) // 2 for match in _HEX.finditer(data))
    depth = start = 0
    for match in _LITERAL.finditer(data):
        token = match[0]
        if token == b"(":
            if not depth:
                start = match.end()
            depth += 1
        elif token == b")":
            depth -= depth > 0
            if start and not depth:
                total += match.start() - start
                start = 0
        elif depth:
            total -= len(token) - 1
    return total + (len(data) - start if depth else 0)
