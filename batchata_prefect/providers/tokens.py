"""How many tokens a request will be, counted without a provider and without a tokenizer.

Each estimate is a pair: what is likely, and what cannot be passed. The likely one is a rule of
thumb for showing; the bound is what a budget reserves, so it holds for hostile content as well.
"""

from __future__ import annotations

import io
import math
import unicodedata
import zipfile

from batchata_prefect.content.documents import Document, pdf_shown_bytes

# Tokens a character, likely, as (OpenAI, Anthropic). OpenAI: measured with o200k_base on prose,
# code, JSON, CSV, hex and tables (all within 20%) and on sentences in 20 languages. Anthropic: the
# published Claude tokenizer (npm @anthropic-ai/tokenizer); for letters times 1.4, because models
# from 4.7 on cut Latin text finer (docs: about 30% more; public measurements with count_tokens:
# English 1.2 to 1.46, code 1.15 to 1.3, other scripts 1.0).
_LETTER = (0.22, 0.31)
_DIGIT = (0.70, 0.75)
_SPACE = (0.10, 0.12)
_OTHER_ASCII = (0.50, 0.60)
# Other scripts by the first byte of their UTF-8 form.
_SCRIPTS = (
    (range(0xC2, 0xCE), (0.90, 1.20)),  # accented Latin, combining marks
    (range(0xCE, 0xD0), (0.45, 1.20)),  # Greek
    (range(0xD0, 0xD4), (0.35, 0.65)),  # Cyrillic
    (range(0xD4, 0xE0), (0.50, 1.00)),  # Armenian, Hebrew, Arabic
    (range(0xE0, 0xE1), (0.45, 2.00)),  # Indic, Thai
    (range(0xE1, 0xE2), (1.00, 1.60)),  # Georgian, Ethiopic, Khmer, Vietnamese
    (range(0xE2, 0xE3), (1.00, 1.10)),  # punctuation, symbols
    (range(0xE3, 0xE4), (0.75, 1.00)),  # kana
    (range(0xE4, 0xEA), (0.75, 1.05)),  # Han
    (range(0xEA, 0xEE), (0.55, 1.05)),  # Hangul
    (range(0xEE, 0xF0), (1.50, 2.00)),  # private use, presentation forms
    (range(0xF0, 0xF5), (2.20, 2.70)),  # emoji, rare Han
)


def _all_but(keep: bytes | range) -> bytes:
    return bytes(byte for byte in range(256) if byte not in keep)


_NO_LETTER = _all_but(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NO_DIGIT = _all_but(b"0123456789")
_NO_ASCII = _all_but(range(0x80))
_NO_LEAD = _all_but(range(0xC2, 0xF5))
_NO_SCRIPT = tuple((_all_but(leads), rates) for leads, rates in _SCRIPTS)


def estimate_text(text: str, provider: str) -> tuple[int, int]:
    """Likely tokens of a text, and tokens that it cannot pass.

    The bound is the number of UTF-8 bytes. The tokenizers of both providers build their tokens out
    of bytes and none is empty, so it holds for any text and any model; no ratio of characters
    does: base64 and `a1b2c3` come near one token a byte, and a new tokenizer made 1.5 to 3 times as
    many of some texts. It is three to five times the likely count of English prose.

    Args:
        text: The text.
        provider: Name of the provider; an unknown one is taken as the one that counts more.
    """
    which = 0 if provider == "openai" else 1
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
            len(leads.translate(None, others)) * rates[which] for others, rates in _NO_SCRIPT
        )
        ascii_part = data.translate(None, _NO_ASCII)
    letters = len(ascii_part.translate(None, _NO_LETTER))
    digits = len(ascii_part.translate(None, _NO_DIGIT))
    spaces = ascii_part.count(b" ")
    likely += (
        letters * _LETTER[which]
        + digits * _DIGIT[which]
        + spaces * _SPACE[which]
        + (len(ascii_part) - letters - digits - spaces) * _OTHER_ASCII[which]
    )
    return math.ceil(likely), bound


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

_PAGE_IMAGE = {"anthropic": (1_600, 1_800), "openai": (2_500, 3_800), "gemini": (560, 2_240)}
"""Tokens of the picture of a PDF page. Anthropic: an empty page is 1,590 (recorded reply of
claude-sonnet-4-5), a scanned one about 1,530 on Sonnet 5.5 (public measurement); the bound and the
text bound together also cover the largest image, 4,784. OpenAI: `detail` is high by default from
GPT-5.6 on (openai SDK, response_input_file_param), 2,500 patches at 1.2 tokens; the bound is the
dearest of the small models, 1,536 patches at 2.46 (guide images-vision). Gemini: 258 up to 2.5, and
from 3 on 560 by default, at most those of an image (guides document-processing, media-resolution).
"""

_GEMINI_TILE = 258
_GEMINI_MOST = 2_240
"""Tokens of a Gemini image: a tile's up to 2.5; from 3 on those of the resolution that is asked
for, ultra high at most (guides image-understanding, media-resolution)."""

_LARGEST_SIDE = 8_000
"""Largest side of an image in pixels. Source: Claude docs, vision."""


def estimate_document(
    document: Document, provider: str, *, model: str | None = None, citations: bool = False
) -> tuple[int, int]:
    """Likely tokens of a document in a request, and tokens that it cannot pass.

    Args:
        document: The document.
        provider: Name of the provider; an unknown one is taken as the one that counts more.
        model: Model id, for OpenAI, where `gpt-4o-mini` counts an image 30 times as the others
            do; None takes the dearest.
        citations: Whether citations are enabled on the document, which adds to it.
    """
    if document.kind == "pdf":
        likely, bound = _pdf(document, provider, model)
    elif document.kind == "image":
        likely, bound = _image(document, provider, model)
    elif document.text is not None:
        likely, bound = estimate_text(document.text, provider)
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


def _sentences(document: Document) -> int:
    """Sentences, about; lines count as well. A PDF's text is not read for it: one in 40 bytes."""
    if document.text is None:
        return sum((shown or 0) // 40 for shown in pdf_shown_bytes(document))
    return sum(document.text.count(end) for end in (". ", "! ", "? ", "\n", "\u3002"))


def _pdf(document: Document, provider: str, model: str | None) -> tuple[int, int]:
    """Each page is sent as its picture and its text (both providers' PDF guides)."""
    image_likely, image_bound = _PAGE_IMAGE.get(provider, _PAGE_IMAGE["openai"])
    if provider == "openai" and _counts_tiles_dearly(model):
        image_bound = _gpt_4o_mini(2_048, 768)
    rate = _LETTER[0 if provider == "openai" else 1] * 1.25
    likely = bound = 0
    for shown in pdf_shown_bytes(document) or (None,) * (document.pages or 1):
        text_bound = _UNREADABLE_PAGE if shown is None else max(_PAGE_TEXT_BOUND, 2 * shown)
        likely += image_likely + math.ceil((shown or 0) * rate)
        bound += image_bound + text_bound
    return likely, bound


def _image(document: Document, provider: str, model: str | None) -> tuple[int, int]:
    width = document.width or _LARGEST_SIDE
    height = document.height or _LARGEST_SIDE
    if provider == "anthropic":
        # Patches of 28 pixels, at most 4,784 on the models that see most (Claude docs, vision);
        # 3 or 4 tokens around each image, and about 40 where it was shrunk (public measurements).
        tokens = min(_patches(width, height, 28), 4_784)
        return tokens + 4, tokens + 100
    if provider == "gemini":
        tokens = _GEMINI_TILE * _gemini_tiles(width, height)
        return tokens, max(tokens, _GEMINI_MOST)
    # Patches of 32 pixels. The large models count 1.2 tokens each, GPT-6 without any limit where
    # `detail` is left alone (14,364 for 4032 x 3024, public measurement); small ones up to 2.46
    # for at most 1,536. Models that count tiles stay below, but for gpt-4o-mini.
    # Source: OpenAI guide images-vision.
    patches = _patches(width, height, 32)
    likely = math.ceil(patches * 1.2)
    bound = max(likely, math.ceil(min(patches, 1_536) * 2.46), 85 + 170 * _tiles(width, height))
    if _counts_tiles_dearly(model):
        bound = max(bound, _gpt_4o_mini(width, height))
    return likely, bound + 10


def _counts_tiles_dearly(model: str | None) -> bool:
    return model is None or "gpt-4o-mini" in model


def _gpt_4o_mini(width: int, height: int) -> int:
    """Tokens of an image for gpt-4o-mini. Source: OpenAI guide images-vision."""
    return 2_833 + 5_667 * _tiles(width, height)


def _tiles(width: int, height: int) -> int:
    """Squares of 512 pixels, after fitting into 2048 and shrinking the short side to 768."""
    scale = min(1.0, 2_048 / max(width, height))
    scale = min(scale, 768 / min(width, height)) if min(width, height) * scale > 768 else scale
    return math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def _gemini_tiles(width: int, height: int) -> int:
    """Tiles that an image is cut into, of 256 to 768 pixels; a small one is a tile."""
    if max(width, height) <= 384:
        return 1
    side = min(max(min(width, height) * 2 // 3, 256), 768)
    return -(-width // side) * -(-height // side)


def _patches(width: int, height: int, side: int) -> int:
    return -(-width // side) * -(-height // side)


def _unpacked_bytes(data: bytes) -> int:
    """Bytes that the text in a file cannot pass: its own, or those that an archive unpacks to."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return max(len(data), sum(entry.file_size for entry in archive.infolist()))
    except zipfile.BadZipFile:
        return len(data)
