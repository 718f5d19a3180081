"""What is sent, where it is read from the jobs and lies in no file for hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch
from batchata_prefect.providers import provider_for
from tests.unit.engine.test_request_files import BOTH, large

pytestmark = pytest.mark.usefixtures("prefect_server")


@BOTH
@pytest.mark.usefixtures("prefect_server")
def test_large_requests_are_sent_without_a_file(
    tmp_path: Path, sandbox, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They arrive whole, also where they are sent again, and each is paid once."""
    provider = provider_for(model).name
    before = len(list(sandbox.ledger.billed()))
    for operation in ("upload", "create") if provider == "openai" else ("create",):
        headers = {"retry-after": "0"}
        sandbox.fault(provider, operation=operation, mode="status", status=429, headers=headers)
    seen: list[list[str]] = []
    create = type(provider_for(model)).create

    async def look(self: Any, *arguments: Any) -> Any:
        seen.append([path.name for path in (tmp_path / "out").rglob("requests/*")])
        return await create(self, *arguments)

    monkeypatch.setattr(type(provider_for(model)), "create", look)
    run = large(tmp_path, model, 5, items_per_batch=2).run()
    assert len(seen) > 3
    assert not any(seen)
    completed = run.results()["completed"]
    assert [result.job_id for result in completed] == [f"j{n}" for n in range(5)]
    for n, result in enumerate(completed):
        assert f"{tmp_path} {n} x" in (result.raw_response or "")
        assert result.input_tokens > 100_000 / 5
    assert len(list(sandbox.ledger.billed())) - before == 5


@BOTH
@pytest.mark.usefixtures("prefect_server")
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
