"""Accounts of several kinds, two of each, every one with a server and a key of its own."""

from __future__ import annotations

from collections.abc import Mapping

from batchata_prefect.sandbox import Sandbox

KINDS = {"lab": "openai", "openai": "openai", "team": "anthropic", "anthropic": "anthropic"}
MODELS = {"openai": "gpt-6-luna", "anthropic": "claude-sonnet-5-5"}
RATES = {"input": 1, "output": 5}
PRICES = {model: {**RATES, "realtime": RATES} for model in MODELS.values()}


def key_of(name: str) -> str:
    """The only key that an account's server takes."""
    return f"sandbox-of-{name}-only"


def variable_of(name: str) -> str:
    """The environment variable that holds it."""
    return f"{name.upper()}_KEY_OF_TEST"


def address_of(name: str, servers: Mapping[str, Sandbox]) -> str:
    """Where its server is."""
    return servers[name].environment()[f"{KINDS[name].upper()}_BASE_URL"]


def tables(servers: Mapping[str, Sandbox]) -> dict[str, dict[str, str]]:
    """The accounts as a run is given them."""
    return {
        name: {
            "kind": kind,
            "base_url": address_of(name, servers),
            "api_key_env": variable_of(name),
        }
        for name, kind in KINDS.items()
    }


def billed_of(servers: Mapping[str, Sandbox]) -> dict[str, int]:
    """How many requests each server has billed."""
    return {name: len(list(box.ledger.billed())) for name, box in servers.items()}


def strangers(servers: Mapping[str, Sandbox]) -> dict[str, int]:
    """Servers that were called with a key that is not theirs, and how often."""
    return {
        f"{name}: {call}": count
        for name, box in servers.items()
        for call, count in box.ledger.calls().items()
        if call.endswith(".refused_key")
    }
