"""How many tokens a request will be, counted without a provider and without a tokenizer.

Each estimate is a pair: what is likely, and what cannot be passed. The likely one is a rule of
thumb for showing; the bound is what a budget reserves, so it holds for hostile content as well.
"""

from __future__ import annotations

import io
import math
import unicodedata
import zipfile
from typing import NamedTuple

from batchata_prefect.content.documents import Document


class TextRates(NamedTuple):
    """Tokens a character, likely.

    Attributes:
        letter: Of an ASCII letter.
        digit: Of a digit.
        space: Of a space.
        other_ascii: Of any other of ASCII.
        scripts: Of one in each of `_SCRIPTS`.
    """

    letter: float
    digit: float
    space: float
    other_ascii: float
    scripts: tuple[float, ...]


# By the first byte of their UTF-8 form.
_SCRIPTS = (
    range(0xC2, 0xCE),  # accented Latin, combining marks
    range(0xCE, 0xD0),  # Greek
    range(0xD0, 0xD4),  # Cyrillic
    range(0xD4, 0xE0),  # Armenian, Hebrew, Arabic
    range(0xE0, 0xE1),  # Indic, Thai
    range(0xE1, 0xE2),  # Georgian, Ethiopic, Khmer, Vietnamese
    range(0xE2, 0xE3),  # punctuation, symbols
    range(0xE3, 0xE4),  # kana
    range(0xE4, 0xEA),  # Han
    range(0xEA, 0xEE),  # Hangul
    range(0xEE, 0xF0),  # private use, presentation forms
    range(0xF0, 0xF5),  # emoji, rare Han
)


def _all_but(keep: bytes | range) -> bytes:
    return bytes(byte for byte in range(256) if byte not in keep)


_NO_LETTER = _all_but(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NO_DIGIT = _all_but(b"0123456789")
_NO_ASCII = _all_but(range(0x80))
_NO_LEAD = _all_but(range(0xC2, 0xF5))
_NO_SCRIPT = tuple(map(_all_but, _SCRIPTS))


_FRAME = (40, 100)
"""Tokens around a document's content: its title and markup. A 14 character text document is 57
input tokens with its question (recorded reply of claude-sonnet-4-5)."""

_CITATIONS = (600, 1_000)
"""Tokens that enabled citations add to a request. A 257 character document with citations is 674
input tokens (recorded reply of claude-haiku-4-5)."""

_SENTENCE = (15, 20)
"""Tokens that enabled citations add to each sentence: 66 sentences on a page came to 985 more than
without (the same PDF, recorded with and without, claude-haiku-4-5)."""

_PAGE_TEXT_BOUND = 3_000
"""Text tokens of a PDF page. Source: Claude docs, PDF support ("1,500-3,000 tokens per page")."""

_UNREADABLE_PAGE = 10_000
"""Text tokens of a PDF page whose content pypdf cannot read, but a provider may."""

_LARGEST_SIDE = 8_000
"""Largest side of an image in pixels. Source: Claude docs, vision."""


class Counting:
    """How the models of a provider count; of one that is not known, as those that count most.

    Attributes:
        rates: The published Claude tokenizer (npm @anthropic-ai/tokenizer); for letters times 1.4,
            because models from 4.7 on cut Latin text finer (docs: about 30% more; public
            measurements with count_tokens: English 1.2 to 1.46, code 1.15 to 1.3, other scripts
            1.0).
    """

    rates: TextRates = TextRates(
        0.31, 0.75, 0.12, 0.60, (1.2, 1.2, 0.65, 1.0, 2.0, 1.6, 1.1, 1.0, 1.05, 1.05, 2.0, 2.7)
    )

    def text(self, text: str) -> tuple[int, int]:
        """Likely tokens of a text, and tokens that it cannot pass.

        The bound is the number of UTF-8 bytes. Tokenizers build their tokens out of bytes and none
        is empty, so it holds for any text and any model; no ratio of characters does: base64 and
        `a1b2c3` come near one token a byte, and a new tokenizer made 1.5 to 3 times as many of some
        texts. It is three to five times the likely count of English prose.
        """
        rates = self.rates
        if text.isascii():
            data = ascii_part = text.encode()
            likely = 0.0
            bound = len(data)
        else:
            data = text.encode("utf-8", "surrogatepass")
            bound = len(data)
            if not unicodedata.is_normalized("NFKC", text):
                # The published Claude tokenizer folds text first, which can make it longer: one
                # U+FDFA becomes 18 characters.
                folded = unicodedata.normalize("NFKC", text)
                bound = max(bound, len(folded.encode("utf-8", "surrogatepass")))
            leads = data.translate(None, _NO_LEAD)
            likely = sum(
                len(leads.translate(None, others)) * rate
                for others, rate in zip(_NO_SCRIPT, rates.scripts, strict=True)
            )
            ascii_part = data.translate(None, _NO_ASCII)
        letters = len(ascii_part.translate(None, _NO_LETTER))
        digits = len(ascii_part.translate(None, _NO_DIGIT))
        spaces = ascii_part.count(b" ")
        likely += (
            letters * rates.letter
            + digits * rates.digit
            + spaces * rates.space
            + (len(ascii_part) - letters - digits - spaces) * rates.other_ascii
        )
        return math.ceil(likely), bound

    def document(
        self, document: Document, *, model: str | None = None, citations: bool = False
    ) -> tuple[int, int]:
        """Likely tokens of a document in a request, and tokens that it cannot pass.

        Args:
            document: The document.
            model: Model id; None takes the dearest.
            citations: Whether citations are enabled on the document, which adds to it.
        """
        if document.kind == "pdf":
            likely, bound = self._pdf(document, model)
        elif document.kind == "image":
            size = document.width or _LARGEST_SIDE, document.height or _LARGEST_SIDE
            likely, bound = self.image(*size, model)
        elif document.text is not None:
            likely, bound = self.text(document.text)
        else:
            bound = _unpacked_bytes(document.data)
            likely = bound // 4
        likely += _FRAME[0]
        bound += _FRAME[1] + len(document.name.encode("utf-8", "surrogatepass"))
        if citations:
            sentences = _sentences(document)
            likely += _CITATIONS[0] + _SENTENCE[0] * sentences
            bound += _CITATIONS[1] + _SENTENCE[1] * sentences
        return likely, bound

    def _pdf(self, document: Document, model: str | None) -> tuple[int, int]:
        """Each page is sent as its picture and its text (the providers' PDF guides)."""
        image_likely, image_bound = self.page(model)
        rate = self.rates.letter * 1.25
        likely = bound = 0
        for shown in document.shown_bytes or (None,) * (document.pages or 1):
            text_bound = _UNREADABLE_PAGE if shown is None else max(_PAGE_TEXT_BOUND, 2 * shown)
            likely += image_likely + math.ceil((shown or 0) * rate)
            bound += image_bound + text_bound
        return likely, bound

    def page(self, model: str | None) -> tuple[int, int]:
        """Tokens of the picture of a PDF page.

        OpenAI's: `detail` is high by default from GPT-5.6 on (openai SDK,
        response_input_file_param), 2,500 patches at 1.2 tokens; the bound is the dearest of the
        small models, 1,536 patches at 2.46 (guide images-vision).
        """
        return 2_500, 3_800

    def image(self, width: int, height: int, model: str | None) -> tuple[int, int]:
        """Tokens of an image of so many pixels.

        OpenAI's patches of 32 pixels. The large models count 1.2 tokens each, GPT-6 without any
        limit where `detail` is left alone (14,364 for 4032 x 3024, public measurement); small ones
        up to 2.46 for at most 1,536. Models that count tiles stay below, but for gpt-4o-mini.
        Source: OpenAI guide images-vision.
        """
        count = patches(width, height, 32)
        likely = math.ceil(count * 1.2)
        small = math.ceil(min(count, 1_536) * 2.46)
        return likely, max(likely, small, 85 + 170 * tiles(width, height)) + 10


def _sentences(document: Document) -> int:
    """Sentences, about; lines count as well. A PDF's text is not read for it: one in 40 bytes."""
    if document.text is None:
        return sum((shown or 0) // 40 for shown in document.shown_bytes)
    return sum(document.text.count(end) for end in (". ", "! ", "? ", "\n", "\u3002"))


def tiles(width: int, height: int) -> int:
    """Squares of 512 pixels, after fitting into 2048 and shrinking the short side to 768."""
    scale = min(1.0, 2_048 / max(width, height))
    scale = min(scale, 768 / min(width, height)) if min(width, height) * scale > 768 else scale
    return math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def patches(width: int, height: int, side: int) -> int:
    """Squares of `side` pixels that an image is cut into."""
    return -(-width // side) * -(-height // side)


def _unpacked_bytes(data: bytes) -> int:
    """Bytes that the text in a file cannot pass: its own, or those that an archive unpacks to."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return max(len(data), sum(entry.file_size for entry in archive.infolist()))
    except zipfile.BadZipFile:
        return len(data)
