"""How Anthropic bills beside tokens at the usual rate.

Sources: platform.claude.com, about-claude/pricing (copies of September to November 2026),
anthropic/types/usage.py (2.12.0), and the fields of genai-prices where it has them.
"""

from __future__ import annotations

import re
from decimal import Decimal

from typing_extensions import override

from batchata_prefect.money.billing import Billing, Fee, version

_ANYWHERE = frozenset({"global", "not_available"})
"""`inference_geo` of requests that may run anywhere, and of models that do not know it."""
_US_SINCE = (4, 6)
_US = Decimal("1.1")
"""`inference_geo: "us"`: "For Claude 4.6 and later models ... a 1.1x multiplier on all token
pricing categories", on top of the batch and cache prices. Searches are not multiplied."""
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:-(\d{1,2}))?(?!\d)")


class _Anthropic(Billing):
    @override
    def region_factor(self, model: str, region: str) -> Decimal | None:
        if region in _ANYWHERE:
            return Decimal(1)
        of = version(_VERSION, model)
        if region != "us" or of is None:
            return None
        return _US if of >= _US_SINCE else Decimal(1)


BILLING = _Anthropic(
    listed_as="anthropic",
    fees={
        # "$10 per 1,000 searches", in batches as well [agents-and-tools/tool-use/web-search-tool].
        "web_searches": Fee("web_searches_kcount", Decimal(10)),
        # "No additional charges beyond standard token costs".
        "web_fetches": Fee(None, Decimal(0)),
        # Counted in the usage, and not on the price list, which has every tool that costs.
        "tool_searches": Fee(None, Decimal(0)),
        # By the hour of a container, after 1,550 free ones a month: no reply tells how long.
        "code_executions": Fee("code_executions_kcount", None),
    },
    usual_tiers=frozenset({"auto", "standard_only"}),
    tiers={
        "batch": {"processing": "batch"},
        "standard": {},
        # `usage.speed`, which is a tier by another name. `priority` is bought in advance.
        "fast": {"speed": "fast"},
    },
    uses_parameter="max_uses",
    caches_unasked=False,
)
