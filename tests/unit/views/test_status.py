"""Where a provider batch stands, in a word or two."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batchata_prefect.models import ProviderBatch
from batchata_prefect.money.ledger import Chunk, Entry, Receipt
from batchata_prefect.views.status import BatchStatus

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RUNNING = ProviderBatch("b1", "in_progress", "in_progress")
CHUNK = Chunk(0, 0, "0" * 64, "anthropic", "/v1/messages", "m", 4, 1, 1000, 1000, None)


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        (RUNNING, "in progress"),
        (replace(RUNNING, state="ended", raw_status="ended", ending="ended"), "to be collected"),
        (replace(RUNNING, state="ended", raw_status="completed"), "to be collected"),
        (replace(RUNNING, state="ended", ending="expired"), "expired, to be collected"),
        (replace(RUNNING, state="ended", ending="canceled"), "cancelled, to be collected"),
    ],
)
def test_what_the_provider_has_ended_is_not_told_as_ended_before_it_is_collected(
    batch: ProviderBatch, word: str
) -> None:
    """`batchata status` lists it as in flight, and counts as ended what is collected."""
    entry = Entry(CHUNK, NOW)
    entry.receipt = Receipt("b1", NOW)
    assert BatchStatus(entry, batch).state == word
