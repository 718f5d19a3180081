"""What is known of Claude: what its Messages take and refuse, how it counts and bills.

A model's facts are told from the pattern of its id; nothing is said of other models.

Sources: anthropic/types/message_create_params.py, types/usage.py (2.12.0); platform.claude.com:
vision, structured-outputs, extended-thinking, models overview, api/errors, pdf-support,
whats-new-opus-5-5, about-claude/pricing (copies of September to November 2026); the fields of
genai-prices.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from typing_extensions import override

from batchata_prefect.content.schema.dialects import COMMON_FORMATS, Dialect
from batchata_prefect.money.billing import Billing, Fee, version
from batchata_prefect.providers import Limits
from batchata_prefect.providers.refusals import Images
from batchata_prefect.providers.tokens import Counting, patches

LIMITS = Limits(max_requests=100_000, max_bytes=256_000_000, max_request_bytes=32_000_000)
"""Of one Message Batch and of one Messages body [docs: batch-processing, api/errors]. Whether the
docs' MB are decimal is not said; these are the smaller ones."""

OWN = "claude"
"""What the names of its models begin with; what other servers take is not for us to say."""

OTHERS = {
    "extra_headers": "headers belong to the client and not to a job: "
    "set ANTHROPIC_CUSTOM_HEADERS, or leave it out",
    "betas": "what is in beta is asked for by the client's headers and not by a job: "
    "set ANTHROPIC_CUSTOM_HEADERS='anthropic-beta: ...', or leave it out",
    "stop": "give stop_sequences",
    "seed": "Claude has no seed",
    "frequency_penalty": "Claude has no penalties",
    "presence_penalty": "Claude has no penalties",
    "logit_bias": "Claude has none",
    "logprobs": "Claude gives none",
    "top_logprobs": "Claude gives none",
    "response_format": "give response_model",
    "reasoning_effort": "give output_config={'effort': ...}",
    "reasoning": "give output_config={'effort': ...}",
    "verbosity": "say in the prompt how long the answer shall be",
    "max_completion_tokens": "give max_tokens",
    "max_output_tokens": "give max_tokens",
    "functions": "give tools",
    "function_call": "give tool_choice",
    "parallel_tool_calls": "give tool_choice={'disable_parallel_tool_use': ...}",
    "instructions": "give system",
    "input": "give messages",
    "modalities": "Claude answers in text",
}
"""Parameters of other endpoints and of the SDK, and what is given here in their place."""

LEAST_THINKING = 1_024

IMAGES = Images(side=8_000, many=20, side_of_many=2_000, letters=5_242_880)
"""[vision]; that the 5 MB are of the base64 is in the API's own refusals."""

DIALECT = Dialect(
    name="Anthropic",
    formats=COMMON_FORMATS | {"uri"},
    keywords=frozenset(),
    all_required=False,
    recursion=False,
    max_optional=24,
    max_unions=16,
)
"""Anthropic "Structured outputs", JSON schema limitations and explicit limits, of 2026-09."""


Family = tuple[str, tuple[int, int]]

_FAMILY = re.compile(
    r"claude-(?:([a-z]+)-(\d)(?:-(\d{1,2}))?|(\d)(?:-(\d{1,2}))?-([a-z]+))(?![a-z\d])"
)


@lru_cache(maxsize=1024)
def family(model: str) -> Family | None:
    """Line and version out of a model id, such as `("opus", (5, 5))`; None for other ids."""
    match = _FAMILY.match(model)
    if match is None:
        return None
    line, major, minor, old_major, old_minor, old_line = match.groups()
    return line or old_line, (int(major or old_major), int(minor or old_minor or 0))


def most_pages(model: str) -> int:
    """The most PDF pages of a request."""
    return 100 if is_small(model) else 600


def is_small(model: str) -> bool:
    """Whether a model has 200k context and 64k output: the 4.5 generation and older."""
    found = family(model)
    return found is not None and found[1] <= (4, 5)


def takes_prefill(model: str) -> bool:
    """Whether the last message may be the assistant's; not from 4.6 on."""
    found = family(model)
    return found is None or found[1] < (4, 6)


def takes_enabled_thinking(model: str) -> bool:
    """Whether `thinking` may be of type `enabled`; not from 4.7 on."""
    found = family(model)
    return found is None or found[1] < (4, 7)


def takes_forced_tool(model: str) -> bool:
    """Whether `tool_choice` may force a tool; not Opus from 5.5, nor Fable and Mythos from 5.1."""
    found = family(model)
    if found is None:
        return True
    line, version = found
    return version < {"opus": (5, 5), "fable": (5, 1), "mythos": (5, 1)}.get(line, (99, 0))


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
