"""How Claude counts: what is not here is as in `Counting`, whose text rates are Claude's."""

from __future__ import annotations

from typing_extensions import override

from batchata_prefect.providers.tokens import Counting, patches

_MOST_OF_AN_IMAGE = 4_784


class ClaudeCounting(Counting):
    """Patches of 28 pixels, at most 4,784 on the models that see most (Claude docs, vision)."""

    @override
    def page(self, model: str | None) -> tuple[int, int]:
        # An empty page is 1,590 (recorded reply of claude-sonnet-4-5), a scanned one about 1,530 on
        # Sonnet 5.5 (public measurement); the bound and the bound of its text together also cover
        # the largest image.
        return 1_600, 1_800

    @override
    def image(self, width: int, height: int, model: str | None) -> tuple[int, int]:
        # 3 or 4 tokens around each, and about 40 where it was shrunk (public measurements).
        tokens = min(patches(width, height, 28), _MOST_OF_AN_IMAGE)
        return tokens + 4, tokens + 100
