"""Results at a URL: what comes back from there."""

from __future__ import annotations

from pathlib import Path

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from batchata_prefect.models import Chunk
from batchata_prefect.providers.caps import Download
from batchata_prefect.results.remote import bring_file

CHUNK = Chunk(0, 0, "ab" * 20, "openai", "/v1/responses", "m", 2, 100, 10, 1_000, None)


def test_a_file_comes_back_no_further_than_its_batch_can_be_answered(tmp_path: Path) -> None:
    """A bucket is somebody else's: one that goes on without end fills no disk."""
    rows = b'{"custom_id": "a-0"}\n' * 10_000
    there = fsspec.filesystem("memory")
    there.pipe("/caps/raw/whole.jsonl", rows)
    there.pipe("/caps/raw/endless.jsonl", b"x" * 70_000_000)
    whole, endless = tmp_path / "raw" / "whole.jsonl", tmp_path / "raw" / "endless.jsonl"
    taken = 0

    def take(piece: bytes) -> None:
        nonlocal taken
        taken += len(piece)
        counted.take(piece)

    counted = Download(CHUNK, "memory://caps")
    assert bring_file("memory://caps", tmp_path, whole, take)
    assert whole.read_bytes() == rows
    assert taken == len(rows)
    counted, taken = Download(CHUNK, "memory://caps"), 0
    assert not bring_file("memory://caps", tmp_path, endless, take)
    assert 64_000_000 < taken < 66_000_000
    assert sorted((tmp_path / "raw").iterdir()) == [whole]
