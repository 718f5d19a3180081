"""How OpenAI bills beside tokens at the usual rate.

Sources: developers.openai.com, api/docs/pricing (copies of September to November 2026),
openai/types/responses/response.py (3.54.0), and the fields of genai-prices where it has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from urllib.parse import urlsplit

from typing_extensions import override

from batchata_prefect.money.billing import Billing, Fee, version

_PREVIEW_PER_THOUSAND = Decimal(25)
"""`web_search_preview` with models that do not reason; with the others it costs as any search."""

_MINI = re.compile(r"(?:ft:)?gpt-4(?:o|\.1)-mini(?:-\d|:|$)")
_MINI_TOKENS = 8_000
"""What is found by a search of theirs with `web_search` (and not with the preview) is "charged as a
fixed block of 8,000 input tokens per call" [pricing], which their usage does not hold."""

_HOST = re.compile(r"([a-z]{2,})\.api\.openai\.com")
_HOSTS = frozenset({"us", "eu", "gb", "ca", "au", "jp", "in", "sg", "kr", "ae"})
_REGIONAL_SINCE = (5, 4)
_REGIONAL = Decimal("1.1")
"""Regional hosts: "a 10% uplift for models released on or after March 5, 2026", the day of GPT-5.4
[guides/your-data; pricing]."""
_VERSION = re.compile(r"(?:ft:)?(?:chat)?(?:gpt-|o)(\d{1,2})(?:\.(\d+))?(?!\d)")
_BEFORE = re.compile(r"(?:text-embedding-(?:3|ada)-|o\d)")
"""Models without such a version that are older than any surcharge."""


class _OpenAI(Billing):
    @override
    def fee_prices(self, model: str, prices: Mapping[str, object]) -> dict[str, Decimal]:
        found = super().fee_prices(model, prices)
        of = version(_VERSION, model)
        if of is not None:
            reasons = of >= (5, 0) or model.startswith("o")
            preview = found["web_searches"] if reasons else _PREVIEW_PER_THOUSAND / 1000
            found["web_search_previews"] = preview
            rate = prices.get("input_mtok")
            if _MINI.match(model) and isinstance(rate, Decimal):
                found["web_searches"] += _MINI_TOKENS * rate / 1_000_000
        return found

    @override
    def region_of(self, base_url: str) -> str | None:
        match = _HOST.fullmatch(urlsplit(base_url).hostname or "")
        return match[1] if match else None

    @override
    def region_factor(self, model: str, region: str) -> Decimal | None:
        if region in _HOSTS:
            if _BEFORE.match(model):
                return Decimal(1)
            of = version(_VERSION, model)
            if of is not None:
                return _REGIONAL if of >= _REGIONAL_SINCE else Decimal(1)
        return None


BILLING = _OpenAI(
    listed_as="openai",
    # All others are unknown: images, whose tokens are those of another model, containers of a
    # hosted shell, searches of chat completions, and what is new.
    fees={
        # "Web search (all models): $10.00 / 1k calls".
        "web_searches": Fee("web_searches_kcount", Decimal(10)),
        "file_searches": Fee("storage_searches_kcount", Decimal("2.5")),
        # By the minute of a container, $0.03 to $1.92 for 20 minutes: no reply tells how long.
        "code_executions": Fee("code_executions_kcount", None),
    },
    # A batch says `default`.
    usual_tiers=frozenset({"auto", "default"}),
    tiers={
        "batch": {"processing": "batch"},
        "flex": {"service_tier": "flex"},
        # One tier of two names since July 2026; a reply says `priority` for both. `scale` is
        # bought in advance, and `ultrafast` is on no list.
        "priority": {"service_tier": "priority"},
        "fast": {"service_tier": "priority"},
    },
)
