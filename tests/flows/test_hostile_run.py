"""A run whose provider sends more than can be an answer: that batch fails by name, others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchata_prefect import Batch
from batchata_prefect.content.bounds import bounds
from batchata_prefect.errors import BatchataError

pytestmark = pytest.mark.usefixtures("prefect_server", "sandbox")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Rows of at most 800 bytes: Anthropic's short answer takes fewer, and OpenAI's more."""
    monkeypatch.setenv("BATCHATA_MOST_ROW_BYTES", "800")
    bounds.cache_clear()
    yield monkeypatch
    bounds.cache_clear()


def new_batch(tmp_path: Path) -> Batch:
    batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    batch.set_default_params(max_tokens=4000)
    batch.add_job(model="claude-sonnet-5-5", prompt="Say hi.", id="small")
    batch.add_job(model="gpt-6-luna", prompt="Say hi.", id="large")
    return batch


def test_a_row_too_large_fails_its_batch_and_no_other(
    tmp_path: Path, narrow: pytest.MonkeyPatch
) -> None:
    """The error names batch and bound; with a higher one the next run reads what was paid."""
    with pytest.raises(BatchataError, match="BATCHATA_MOST_ROW_BYTES") as raised:
        new_batch(tmp_path).run()
    assert "gpt-6-luna" in str(raised.value)
    narrow.delenv("BATCHATA_MOST_ROW_BYTES")
    bounds.cache_clear()
    results = new_batch(tmp_path).run().results()
    assert {one.job_id for one in results["completed"]} == {"small", "large"}
