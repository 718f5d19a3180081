"""How many input tokens of a model may wait at a provider at once: declared, or learnt.

OpenAI refuses a batch that would pass the account's limit of enqueued tokens, after it was created
and before anything of it runs; that is no fault of its jobs. The limit stands in the refusal, the
refusals stand in the ledger, and so do the tokens in flight: nothing is held anywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import ceil

from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.budget import input_share
from batchata_prefect.money.ledger import Entry

TURNED_AWAY_CODE = "token_limit_exceeded"
"""Code of such a refusal [openai-python#2084]."""

_LIMIT = re.compile(
    r"limit(?: of|:)?\s*(?:(\d+(?:\.\d+)?)([KMB])\b|(\d[\d,._]*\d|\d))", re.IGNORECASE
)
"""OpenAI writes `Limit: 2,000,000 enqueued tokens`, and Azure `the configured limit of 30K`."""
_UNITS = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def is_turned_away(batch: ProviderBatch) -> bool:
    """Whether a provider let a batch in and ran none of it because too many tokens wait."""
    return batch.ending == "failed" and any(
        fault.code == TURNED_AWAY_CODE and fault.line is None for fault in batch.faults
    )


def told(reason: str | None) -> int | None:
    """The limit in tokens that a refusal names; None where it names none."""
    match = _LIMIT.search(reason or "")
    if match is None:
        return None
    if match[2]:
        return int(float(match[1]) * _UNITS[match[2].lower()])
    return int(re.sub(r"\D", "", match[3]))


def limit(
    ledger: Iterable[Entry], provider: str, model: str, declared: Mapping[str, int]
) -> int | None:
    """Tokens of a model that may wait at once; None where nothing is known of a limit.

    What a provider said last counts over what the user declared: it may have been raised since.
    Of that, what is declared as `account/model` goes first.
    """
    newest = declared.get(f"{provider}/{model}", declared.get(model))
    for entry in ledger:
        if entry.ending is not None and entry.ending.status == "turned_away":
            chunk = entry.chunk
            if (chunk.provider, chunk.model) == (provider, model):
                newest = told(entry.ending.reason) or newest
    return newest


def room(ledger: list[Entry], provider: str, model: str, most: int) -> tuple[int, int]:
    """What may still be sent, as a sum of upper bounds of input tokens.

    Returns:
        The room now, and the room that there is when nothing waits.
    """
    part = input_share(ledger, provider, model)
    return int(max(0, most - waiting(ledger, provider, model)) / part), int(most / part)


def waiting(ledger: list[Entry], provider: str, model: str) -> int:
    """Tokens of a model that this run has at the provider, as far as is known."""
    part = input_share(ledger, provider, model)
    return sum(
        ceil(entry.chunk.input_tokens * part)
        for entry in ledger
        if entry.ending is None
        and (entry.chunk.provider, entry.chunk.model) == (provider, model)
        and not entry.chunk.realtime
    )
