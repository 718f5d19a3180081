"""The file of what is sent, and how long it lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch
from batchata_prefect.providers import provider_for

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "gpt-6-luna"])
def test_a_file_goes_when_its_batch_is_known(tmp_path: Path, sandbox, model: str) -> None:
    """Where raw files are not kept it is not on disk for the hours that the provider takes."""
    batch = Batch(tmp_path / "out", raw_files=False).set_state(file=tmp_path / "state")
    for n in range(3):
        batch.add_job(prompt=f"{tmp_path} {n}", id=f"j{n}", model=model, max_tokens=50)
    left: list[list[Path]] = []
    provider = type(provider_for(model))
    poll = provider.poll

    async def look(self: Any, *arguments: Any) -> Any:
        left.append(list((tmp_path / "out").rglob("requests/*")))
        return await poll(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provider, "poll", look)
        batch.run()
    assert left
    assert not any(left)
