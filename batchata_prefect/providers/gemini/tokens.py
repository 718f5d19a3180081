"""How Gemini counts images; texts as `Counting`, for want of a published tokenizer."""

from __future__ import annotations

from typing_extensions import override

from batchata_prefect.providers.tokens import Counting, patches

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
