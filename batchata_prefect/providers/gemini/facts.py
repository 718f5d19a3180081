"""What is known of Gemini: what its batches and schemas take, and how it counts.

Texts are counted as `Counting` does, for want of a published tokenizer.

Sources: ai.google.dev: gemini-api/docs/rate-limits, structured-output, models, image-understanding;
google/genai/types.py (3.6.1).
"""

from __future__ import annotations

import re

from typing_extensions import override

from batchata_prefect.content.schema.dialects import Dialect
from batchata_prefect.providers import Limits
from batchata_prefect.providers.tokens import Counting, patches

LIMITS = Limits(max_requests=100_000, max_bytes=200_000_000, max_request_bytes=20_000_000, calls=6)
"""A file may have 2 GB and a project's files 20 GB together, with 100 batches at once
[rate-limits]: a hundred of 200 MB. No number of requests is documented; 20 MB are those of a
request with its files in it [document-processing]."""

DIALECT = Dialect(
    name="Gemini",
    formats=frozenset({"date-time", "date", "time"}),
    keywords=frozenset({"minimum", "maximum", "minItems", "maxItems"}),
    all_required=False,
    recursion=False,
    constants=False,
)
"""`responseJsonSchema` of Gemini [google/genai/types.py 3.6.1, GenerateContentConfig; guide
"Structured output"]. A reference to itself is only taken in places that may be left out, and there
only to an undocumented depth, so that none is sent."""

WRITES_65K = re.compile(r"gemini-(?:2\.5|[3-9](?:\.\d+)?)-(?:pro|flash|flash-lite)(?!-image|.*tts)")
_TILE = 258
_MOST = 2_240
"""Tokens of an image: a tile's up to 2.5; from 3 on those of the resolution that is asked for,
ultra high at most (guides image-understanding, media-resolution)."""


class GeminiCounting(Counting):
    """Tiles of 256 to 768 pixels."""

    @override
    def page(self, model: str | None) -> tuple[int, int]:
        # 258 up to 2.5, and from 3 on 560 by default, at most those of an image (guides
        # document-processing, media-resolution).
        return 560, _MOST

    @override
    def image(self, width: int, height: int, model: str | None) -> tuple[int, int]:
        side = min(max(min(width, height) * 2 // 3, 256), 768)
        is_small = max(width, height) <= 384
        tokens = _TILE * (1 if is_small else patches(width, height, side))
        return tokens, max(tokens, _MOST)
