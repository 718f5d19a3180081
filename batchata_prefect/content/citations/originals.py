"""The documents of a request as its citations see them: texts, pages and blocks to compare with.

A plain text is the same for everyone. A PDF is read here with pypdf and there by the provider: they
part on white space, line breaks, hyphens, ligatures and now and then a letter.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

from batchata_prefect.content.citations.written import normal
from batchata_prefect.content.documents.pdf import PageTexts
from batchata_prefect.content.shelf import Shelf

Kind: TypeAlias = Literal["text", "pages", "blocks"]

KEPT_BYTES = 48_000_000
"""Memory that the documents of many requests may keep, so that a shared one is read once."""

_PAGE_BYTES = 20_000
"""What a page that was read may keep."""

_SHORT = 20
"""Letters and digits below which a text is only found as whole words, and never nearly."""

_MOST_COMPARED = 1_000_000_000
"""Product of two lengths up to which texts are compared by letters, for a tenth of a second."""

_LEAST_LIKENESS = 95.0
"""Percent of `rapidfuzz.fuzz.partial_ratio` from which a page is looked at for a misread letter."""


class Part:
    """A text that is looked into: a document's, a page's or a block's."""

    __slots__ = ("_seen", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._seen: tuple[str, str, array[int]] | None = None

    @property
    def size_bytes(self) -> int:
        """Memory that it may keep: itself, in one spelling, bare, and the places of that."""
        return 8 * len(self.text)

    def find(self, wanted: str, *, misread: bool = False) -> bool:
        """Whether a text stands in it, but for white space, hyphens, ligatures, case and quotes.

        Every digit, decimal point and sign must be the same, digits are never found inside of a
        longer number, and a text of less than 20 letters and digits not inside of a word.

        With `misread` a letter in fifty may differ, as two readers of one PDF have it, but no word.
        """
        bare, _ = _bared(normal(wanted))
        if not bare:
            return False
        short = len(bare) < _SHORT
        plain = wanted.strip()
        at = self.text.find(plain)
        if at >= 0 and _stands_alone(self.text, at, at + len(plain), short=short):
            return True
        if self._seen is None:
            spelled = normal(self.text)
            # Set at once: two threads may look into one document.
            self._seen = (spelled, *_bared(spelled))
        spelled, own, places = self._seen
        at = own.find(bare)
        while at >= 0:
            first, last = places[at], places[at + len(bare) - 1]
            if _stands_alone(spelled, first, last + 1, short=short):
                return True
            at = own.find(bare, at + 1)
        return misread and not short and _is_nearly_in(bare, own)


def _stands_alone(text: str, start: int, end: int, *, short: bool) -> bool:
    before, after = text[max(0, start - 2) : start][::-1], text[end : end + 2]
    return not (
        _is_joined(before, text[start], short=short)
        or _is_joined(after, text[end - 1], short=short)
    )


def _is_joined(outside: str, edge: str, *, short: bool) -> bool:
    """Whether what lies outside of an edge, nearest first, belongs to the same word or number."""
    near, far = outside[:1], outside[1:2]
    if edge.isdigit():
        return near.isdigit() or (near in {".", ","} and far.isdigit())
    return short and edge.isalnum() and near.isalnum()


def _bared(text: str) -> tuple[str, array[int]]:
    """What tells texts apart, with the place of each character.

    Letters and digits; points and commas between digits; a minus before a digit.
    """
    kept: list[str] = []
    places = array("I")
    before, last = "", len(text) - 1
    for place, char in enumerate(text):
        if not char.isalnum():
            after = text[place + 1] if place < last else ""
            point = char in ".," and before.isdigit() and after.isdigit()
            minus = char == "-" and after.isdigit() and not before.isalnum()
            if not (point or minus):
                before = char
                continue
        kept.append(char)
        places.append(place)
        before = char
    return "".join(kept), places


def _is_nearly_in(wanted: str, text: str) -> bool:
    if len(wanted) * len(text) > _MOST_COMPARED:
        return False
    # Imported late: most cited texts stand there as they are.
    from rapidfuzz import fuzz
    from rapidfuzz.distance import Levenshtein

    found = fuzz.partial_ratio_alignment(wanted, text, score_cutoff=_LEAST_LIKENESS)
    if found is None:
        return False
    there = text[found.dest_start : found.dest_end]
    if re.findall(r"[\d.,-]", there) != re.findall(r"[\d.,-]", wanted):
        return False
    wrong = 0
    for step in Levenshtein.opcodes(wanted, there):
        if step.tag == "equal":
            continue
        size = max(step.src_end - step.src_start, step.dest_end - step.dest_start)
        if size > (2 if step.tag == "replace" else 1):
            return False
        wrong += size
    return wrong <= max(1, len(wanted) // 50)


@dataclass(slots=True)
class Original:
    """A document of a request that we hold: its title, how it is cited, and its texts.

    The text of a page is read when it is first asked for.
    """

    name: str
    kind: Kind
    parts: Sequence[Part]


def text_original(name: str, text: str) -> Original:
    """A plain text."""
    part = Part(text) if len(text) <= _PAGE_BYTES else _kept("text", text, Part)
    return Original(name, "text", (part,))


def blocks_original(name: str, texts: Sequence[str]) -> Original:
    """Content blocks, or those of a search result."""
    return Original(name, "blocks", tuple(Part(text) for text in texts))


def pdf_original(name: str, encoded: str) -> Original:
    """A PDF, in base64: read page by page, as far as citations ask, and kept for the next job."""
    return Original(name, "pages", _kept("pages", encoded, Pages))


class Held(NamedTuple):
    """What a request holds to cite from.

    Attributes:
        documents: Its documents by index; None for a URL, an uploaded file or an image.
        results: Its search results by their index.
    """

    documents: Sequence[Original | None] = ()
    results: Sequence[Original | None] = ()


class Pages(Sequence[Part]):
    """The pages of a PDF in base64; none where it cannot be read."""

    def __init__(self, encoded: str) -> None:
        data = b""
        with contextlib.suppress(ValueError):
            data = base64.b64decode(encoded)
        self._lock = threading.Lock()
        self._known: dict[int, Part] = {}
        self._texts = PageTexts(data)
        # The reader keeps streams as they are and unpacked.
        self.size_bytes = 3 * len(data) + _PAGE_BYTES * len(self)

    def __len__(self) -> int:
        """Number of pages."""
        return self._texts.count

    def __getitem__(self, index: Any) -> Any:
        """The page at an index, or those of a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        # One reader of a file is no matter for two threads.
        with self._lock:
            if index not in self._known:
                self._known[index] = Part(self._texts.read(index))
            return self._known[index]


_shelf = Shelf[Part | Pages](KEPT_BYTES)
_Kept = TypeVar("_Kept", Part, Pages)


def _kept(kind: str, given: str, make: Callable[[str], _Kept]) -> _Kept:
    """What is made of a text, once while it is kept."""
    digest = hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    found = cast("_Kept | None", _shelf.get((kind, digest)))
    if found is None:
        found = make(given)
        _shelf.put((kind, digest), found, found.size_bytes)
    return found
