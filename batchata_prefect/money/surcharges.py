"""What is billed beside tokens at the usual rate: fees, service tiers and regions, in one table.

Sources: the pricing pages of both providers (platform.claude.com about-claude/pricing and
developers.openai.com api/docs/pricing, copies of September to November 2026), the fields of
genai-prices where it has them, and anthropic/types/usage.py, openai/types/responses/response.py.
What stands in no table here is unknown, and unknown is never nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple
from urllib.parse import urlsplit


class Fee(NamedTuple):
    """The price of a fee.

    Attributes:
        key: Price of genai-prices, in USD per thousand; it goes before `per_thousand`.
        per_thousand: USD per thousand; None where it cannot be told from a reply.
    """

    key: str | None
    per_thousand: Decimal | None


FEES: Mapping[tuple[str, str], Fee] = {
    # "$10 per 1,000 searches", in batches as well [agents-and-tools/tool-use/web-search-tool].
    ("anthropic", "web_searches"): Fee("web_searches_kcount", Decimal(10)),
    # "No additional charges beyond standard token costs".
    ("anthropic", "web_fetches"): Fee(None, Decimal(0)),
    # Counted in the usage, and not on the price list, which has every tool that costs something.
    ("anthropic", "tool_searches"): Fee(None, Decimal(0)),
    # By the hour of a container, after 1,550 free ones a month: no reply tells how long.
    ("anthropic", "code_executions"): Fee("code_executions_kcount", None),
    # "Web search (all models): $10.00 / 1k calls".
    ("openai", "web_searches"): Fee("web_searches_kcount", Decimal(10)),
    ("openai", "file_searches"): Fee("storage_searches_kcount", Decimal("2.5")),
    # By the minute of a container, $0.03 to $1.92 for 20 minutes: no reply tells how long.
    ("openai", "code_executions"): Fee("code_executions_kcount", None),
}
"""Fees by provider. All others are unknown: images, whose tokens are those of another model,
containers of a hosted shell, searches of chat completions, and what is new."""

_PREVIEWS = "web_search_previews"
_PREVIEW_PER_THOUSAND = Decimal(25)
"""`web_search_preview` with models that do not reason; with the others it costs as any search."""


_MINI = re.compile(r"(?:ft:)?gpt-4(?:o|\.1)-mini(?:-\d|:|$)")
_MINI_TOKENS = 8_000
"""What is found by a search of theirs with `web_search` (and not with the preview) is "charged as a
fixed block of 8,000 input tokens per call" [pricing], which their usage does not hold."""


def fees(provider: str, model: str, prices: Mapping[str, object]) -> dict[str, Decimal]:
    """USD of a single use of each fee whose price is known.

    Args:
        provider: Name of the provider.
        model: Model id.
        prices: What genai-prices says of the model.
    """
    found: dict[str, Decimal] = {}
    for (name, fee), (key, per_thousand) in FEES.items():
        if name != provider:
            continue
        listed = prices.get(key) if key is not None else None
        price = listed if isinstance(listed, Decimal) else per_thousand
        if price is not None:
            found[fee] = price / 1000
    if provider == "openai" and (of := _openai_version(model)) is not None:
        reasons = of >= (5, 0) or model.startswith("o")
        found[_PREVIEWS] = found["web_searches"] if reasons else _PREVIEW_PER_THOUSAND / 1000
        rate = prices.get("input_mtok")
        if _MINI.match(model) and isinstance(rate, Decimal):
            found["web_searches"] += _MINI_TOKENS * rate / 1_000_000
    return found


USUAL_TIERS = {
    "anthropic": frozenset({"auto", "standard_only"}),
    "azure": frozenset({"auto", "default"}),
    "openai": frozenset({"auto", "default"}),
}
"""Tiers, asked for or named in a reply, that stand for the price of the way that was taken: of a
batch in a batch, the standard one else. A batch of OpenAI's says `default`."""

TIERS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("anthropic", "batch"): {"processing": "batch"},
    ("anthropic", "standard"): {},
    # `usage.speed`, which is a tier by another name.
    ("anthropic", "fast"): {"speed": "fast"},
    ("openai", "batch"): {"processing": "batch"},
    ("openai", "flex"): {"service_tier": "flex"},
    # One tier of two names since July 2026; a reply says `priority` for both.
    ("openai", "priority"): {"service_tier": "priority"},
    ("openai", "fast"): {"service_tier": "priority"},
}
"""Tiers that have prices of their own in genai-prices, and under what it holds them. Anthropic's
`priority` and OpenAI's `scale` are bought in advance, and `ultrafast` is on no list."""

_ANYWHERE = frozenset({"global", "not_available"})
"""`inference_geo` of requests that may run anywhere, and of models that do not know it."""

_US_SINCE = (4, 6)
_US = Decimal("1.1")
"""`inference_geo: "us"`: "For Claude 4.6 and later models ... a 1.1x multiplier on all token
pricing categories", on top of the batch and cache prices. Searches are not multiplied."""

_HOST = re.compile(r"([a-z]{2,})\.api\.openai\.com")
_HOSTS = frozenset({"us", "eu", "gb", "ca", "au", "jp", "in", "sg", "kr", "ae"})
_REGIONAL_SINCE = (5, 4)
_REGIONAL = Decimal("1.1")
"""OpenAI's regional hosts: "a 10% uplift for models released on or after March 5, 2026", the day of
GPT-5.4 [guides/your-data; pricing]."""

_CLAUDE = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:-(\d{1,2}))?(?!\d)")
_GPT = re.compile(r"(?:ft:)?(?:chat)?(?:gpt-|o)(\d{1,2})(?:\.(\d+))?(?!\d)")
_BEFORE = re.compile(r"(?:text-embedding-(?:3|ada)-|o\d)")
"""Models without such a version that are older than any surcharge."""


def region_of(provider: str, account: str) -> str | None:
    """The region that the host of an account stands for; None where it stands for none.

    Args:
        provider: Name of the provider.
        account: Base URL of its requests.
    """
    match = _HOST.fullmatch(urlsplit(account).hostname or "") if provider == "openai" else None
    return match[1] if match else None


def region_factor(provider: str, model: str, region: str | None) -> Decimal | None:
    """How many times the list price of its tokens a request costs in a region; None if unknown."""
    if region is None:
        return Decimal(1)
    if provider == "anthropic":
        if region in _ANYWHERE:
            return Decimal(1)
        version = _version(_CLAUDE, model)
        if region != "us" or version is None:
            return None
        return _US if version >= _US_SINCE else Decimal(1)
    if provider == "openai" and region in _HOSTS:
        if _BEFORE.match(model):
            return Decimal(1)
        version = _openai_version(model)
        if version is not None:
            return _REGIONAL if version >= _REGIONAL_SINCE else Decimal(1)
    return None


def _openai_version(model: str) -> tuple[int, int] | None:
    return _version(_GPT, model)


def _version(pattern: re.Pattern[str], model: str) -> tuple[int, int] | None:
    match = pattern.match(model)
    return None if match is None else (int(match[1]), int(match[2] or 0))
