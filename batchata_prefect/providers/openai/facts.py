"""What is known of OpenAI and of servers that speak its API: what they take, count and bill.

Servers that are sold were not tried with a key. One that differs in nothing from the careful
profile has none of its own.

Sources: openai/types/chat and types/responses *_param.py, types/responses/response.py (3.54.0);
developers.openai.com: guides/images-vision, structured-outputs, api/docs/pricing (copies of
September to November 2026); the fields of genai-prices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlsplit

from typing_extensions import override

from batchata_prefect.content.schema.dialects import BOUNDS, COMMON_FORMATS, Dialect
from batchata_prefect.money.billing import Billing, Fee, version
from batchata_prefect.providers import Limits, LoginForm
from batchata_prefect.providers.refusals import CHAT, RESPONSES, Images
from batchata_prefect.providers.tokens import Counting, TextRates, tiles

EMBEDDINGS = "/v1/embeddings"

LIMITS = Limits(max_requests=50_000, max_bytes=200_000_000, max_request_bytes=200_000_000, calls=5)
"""Of one batch file [docs: guides/batch; openai/resources/files.py]. No limit of a single body is
documented. The server's own text says 209,715,200 bytes; this is the smaller reading of 200 MB."""

OWN = ("gpt-", "chatgpt-", "ft:", "o1", "o3", "o4")
"""What the names of its models begin with; what other servers take is not for us to say."""

LOGIN_FORM = LoginForm(
    "OpenAI",
    "A key for OpenAI's Batch API, as batchata-prefect uses it.",
    "https://developers.openai.com/api/docs/guides/batch",
    "https://avatars.githubusercontent.com/u/14957082?s=200",
    {
        "organization": "Organization that is charged, where the key is of several.",
        "project": "Project that is charged, where the key is of several.",
    },
    instead={"data_residency": "base_url='https://eu.api.openai.com/v1', or another region's"},
)

OTHERS = {
    CHAT: {
        "stop_sequences": "give stop",
        "top_k": "OpenAI has no top_k",
        "thinking": "give reasoning_effort",
        "output_config": "give reasoning_effort or response_model",
        "reasoning": "give reasoning_effort",
        "text": "give response_model or verbosity",
        "instructions": "give system",
        "input": "give messages",
        "include": f"it is of {RESPONSES}",
        "truncation": f"it is of {RESPONSES}",
        "max_tool_calls": f"it is of {RESPONSES}",
        "previous_response_id": f"it is of {RESPONSES}",
        "conversation": f"it is of {RESPONSES}",
        "background": f"it is of {RESPONSES}",
    },
    RESPONSES: {
        "stop_sequences": "it has no stop sequences",
        "stop": "it has no stop sequences",
        "seed": "it has no seed",
        "top_k": "OpenAI has no top_k",
        "thinking": "give reasoning={'effort': ...}",
        "output_config": "give reasoning={'effort': ...} or response_model",
        "reasoning_effort": "give reasoning={'effort': ...}",
        "verbosity": "give text={'verbosity': ...}",
        "response_format": "give response_model or text={'format': ...}",
        "frequency_penalty": "it has no penalties",
        "presence_penalty": "it has no penalties",
        "logit_bias": "it has none",
        "logprobs": "give include=['message.output_text.logprobs']",
        "functions": "give tools",
        "function_call": "give tool_choice",
        "modalities": "it has none",
        "audio": "it has none",
        "prediction": "it has none",
        "web_search_options": "give tools=[{'type': 'web_search'}]",
    },
}
"""Endpoint -> parameters of other endpoints, and what is given there in their place."""

IMAGES = Images(total_bytes=50_000_000)
"""[images-vision]; that GIFs may not be animated is looked at besides."""

MOST_IMAGES = 500

DIALECT = Dialect(
    name="OpenAI",
    formats=COMMON_FORMATS,
    keywords=BOUNDS | {"minItems", "maxItems", "pattern"},
    all_required=True,
    recursion=True,
    max_depth=10,
    max_properties=5000,
    max_enum_values=1000,
)
"""OpenAI "Structured model outputs", supported schemas, of 2026-09."""


_GENERATION = re.compile(r"gpt-(?!35-)(\d+)(?:\.\d+)?(?!.*-chat)")
_O_SERIES = re.compile(r"o\d")


def reasons(model: str) -> bool:
    """Whether a model is known by its name to be a reasoning model.

    The o series, and GPT from 5 on but for its `-chat` variants [docs: guides/reasoning]. Models
    of other names (fine-tuned ones, compatible servers) are left to answer for themselves.
    """
    match = _GENERATION.match(model)
    return _O_SERIES.match(model) is not None or (match is not None and int(match[1]) >= 5)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one server takes.

    Attributes:
        endpoints: Endpoints that its batches may have.
        max_requests: Requests of a batch.
        max_bytes: Bytes of a batch's file.
        keeps_files: Whether documents can be stored there, beside the files of batches.
        has_cache_key: Whether it takes `prompt_cache_key`.
        source: Where these facts are from.
    """

    endpoints: tuple[str, ...]
    max_requests: int
    max_bytes: int
    keeps_files: bool
    has_cache_key: bool
    source: str


CAREFUL = "careful"
"""The profile of a server of which nothing is known."""

PROFILES: Mapping[str, Profile] = {
    "openai": Profile(
        (CHAT, RESPONSES, EMBEDDINGS),
        LIMITS.max_requests,
        LIMITS.max_bytes,
        keeps_files=True,
        has_cache_key=True,
        source="developers.openai.com, guides/batch; openai/resources/files.py",
    ),
    "groq": Profile(
        (CHAT,),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="groq-python: types/batch_create_params.py (100 MB, the endpoint) and "
        "types/file_create_params.py (no purpose but batch); console.groq.com/docs/batch says "
        "50,000 lines and 200 MB. That it takes prompt_cache_key is not documented",
    ),
    "doubleword": Profile(
        (CHAT, RESPONSES, EMBEDDINGS),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="doublewordai/control-layer 10.13.1: dwctl/src/config.rs (its defaults: the paths, "
        "100 MiB a file), config.yaml (50,000 requests are its example; without it there is no "
        "limit) and api/handlers/files.rs (no purpose but batch)",
    ),
    "ogx": Profile(
        (CHAT, EMBEDDINGS),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="ogx 1.5.0: providers/inline/batches/reference/batches.py (the endpoints; it has "
        "no limit of requests or bytes, these are the careful ones), and tried",
    ),
    "aibrix": Profile(
        (CHAT, EMBEDDINGS),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="aibrix 0.8.0: batch/job_entity/batch_job.py (the endpoints), metadata/setting/"
        "config.py (100 MiB a file) and metadata/api/v1/files.py (no purpose but batch), and tried",
    ),
    CAREFUL: Profile(
        (CHAT,),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="the least of what is documented of any such server; not verified",
    ),
}
"""By name, as `profile` of an account gives it."""


class GptCounting(Counting):
    """As `Counting` says of images, but for gpt-4o-mini, which counts them 30 times as dearly.

    Attributes:
        rates: Measured with o200k_base on prose, code, JSON, CSV, hex and tables (all within 20%)
            and on sentences in 20 languages.
    """

    rates = TextRates(
        0.22, 0.70, 0.10, 0.50, (0.9, 0.45, 0.35, 0.5, 0.45, 1.0, 1.0, 0.75, 0.75, 0.55, 1.5, 2.2)
    )

    @override
    def page(self, model: str | None) -> tuple[int, int]:
        likely, bound = super().page(model)
        return likely, _gpt_4o_mini(2_048, 768) if _counts_tiles_dearly(model) else bound

    @override
    def image(self, width: int, height: int, model: str | None) -> tuple[int, int]:
        likely, bound = super().image(width, height, model)
        if _counts_tiles_dearly(model):
            bound = max(bound, _gpt_4o_mini(width, height) + 10)
        return likely, bound


def _counts_tiles_dearly(model: str | None) -> bool:
    return model is None or "gpt-4o-mini" in model


def _gpt_4o_mini(width: int, height: int) -> int:
    """Tokens of an image for gpt-4o-mini. Source: OpenAI guide images-vision."""
    return 2_833 + 5_667 * tiles(width, height)


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
