"""What each provider and each profile has: it is stated, and asking for more is refused unpaid."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from batchata_prefect.errors import ValidationError
from batchata_prefect.models import Job
from batchata_prefect.providers import Provider, providers
from batchata_prefect.providers.openai.facts import PROFILES

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
ALL = (CHAT, RESPONSES, EMBEDDINGS)
DOCUMENT: dict[str, Any] = {"file": [b"Total: 500 EUR"]}


class Has(NamedTuple):
    """What is there; quotes are everywhere."""

    endpoints: tuple[str, ...]
    max_requests: int
    max_bytes: int
    citations: bool = False
    uploads: bool = False
    cache_prefix: bool = False


TABLE = {
    "anthropic": Has(("/v1/messages",), 100_000, 256_000_000, True, True, True),
    "azure": Has((CHAT, RESPONSES), 100_000, 200_000_000, cache_prefix=True),
    "gemini": Has(("/models/gemini-2.5-flash:generateContent",), 100_000, 200_000_000),
    "openai": Has(ALL, 50_000, 200_000_000, uploads=True, cache_prefix=True),
    "openai/openai": Has(ALL, 50_000, 200_000_000, uploads=True, cache_prefix=True),
    "openai/groq": Has((CHAT,), 50_000, 100_000_000),
    "openai/doubleword": Has(ALL, 50_000, 100_000_000),
    "openai/ogx": Has((CHAT, EMBEDDINGS), 50_000, 100_000_000),
    "openai/aibrix": Has((CHAT, EMBEDDINGS), 50_000, 100_000_000),
    "openai/careful": Has((CHAT,), 50_000, 100_000_000),
}
MODELS = {"anthropic": "claude-sonnet-5-5", "gemini": "gemini-2.5-flash"}
CALLED = {"anthropic": "/v1/messages"}


def provider_of(name: str) -> Provider:
    kind, _, profile = name.partition("/")
    if not profile:
        return providers()[kind]
    table = {"kind": kind, "base_url": "http://x.test/v1", "api_key_env": "K", "profile": profile}
    return providers({"lab": table})["lab"]


def job(name: str, **told: Any) -> Job:
    model = MODELS.get(name, "some-model")
    return Job(**{"id": "j", "model": model, "prompt": "x", **told})


def test_the_table_is_whole() -> None:
    """A new provider or profile stands in it."""
    assert {*providers(), *(f"openai/{name}" for name in PROFILES)} == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_what_is_there_and_what_is_refused(name: str) -> None:
    """What is refused names the job, and who does not have it."""
    provider, has = provider_of(name), TABLE[name]
    limits = provider.limits
    assert (limits.max_requests, limits.max_bytes) == (has.max_requests, has.max_bytes)
    assert (provider.cites, provider.keeps_files) == (has.citations, has.uploads)
    usual = has.endpoints[0]
    asked: dict[str, tuple[dict[str, Any], bool]] = {
        "quotes": ({"citations": "quoted", **DOCUMENT}, True),
        "citations": ({"enable_citations": True, **DOCUMENT}, has.citations),
        "cache_prefix": ({"cache_prefix": True}, has.cache_prefix),
        **{each: ({"endpoint": each}, each in has.endpoints) for each in {usual, *ALL}},
    }
    if EMBEDDINGS in has.endpoints:
        asked["cached"] = {"endpoint": EMBEDDINGS, "cache_prefix": True}, False
    who = "lab" if provider.bound else CALLED.get(name, name)
    for what, (told, is_there) in asked.items():
        if is_there:
            assert provider.render(job(name, **told)).provider == provider.name
            continue
        with pytest.raises(ValidationError) as refused:
            provider.render(job(name, **told))
        said = str(refused.value)
        if "cache_prefix" in told:
            left = provider.render(
                job(name, **told, defaulted=frozenset({"cache_prefix"}))
            ).left_out
            assert left == ("cache_prefix",)
        assert said.startswith("job 'j'"), said
        assert (EMBEDDINGS if what == "cached" and has.cache_prefix else who) in said.lower(), said
