"""What is sent, where it is read from the jobs and is no file on disk."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch
from batchata_prefect.engine.request_files import SpooledRequests
from batchata_prefect.models import Chunk
from batchata_prefect.providers import provider_for

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
BOTH = pytest.mark.parametrize("model", [CLAUDE, GPT])


def large(tmp_path: Path, model: str, jobs: int = 4, **options: Any) -> Batch:
    """Jobs of about 100 kB each."""
    batch = Batch(tmp_path / "out", raw_files=False, **options).set_state(file=tmp_path / "state")
    for n in range(jobs):
        text = f"{tmp_path} {n} " + "x" * (100_000 + n)
        batch.add_job(prompt=text, id=f"j{n}", model=model, max_tokens=50, accept_truncated=True)
    return batch


@pytest.fixture
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """The spooled requests of three jobs, not in their order, and the bytes that they are."""
    batch = large(tmp_path, request.param)
    run = batch._prepare(None, 1.0)
    spool, order = run._session.spool, [2, 0, 3]
    spool.amend(3, b'{"changed":true}', (1, 1, 1))
    provider = provider_for(request.param)
    chunk = Chunk(
        sequence=0,
        round=0,
        token="f" * 64,
        provider=provider.name,
        endpoint="/v1/messages",
        model=request.param,
        count=3,
        size_bytes=0,
        input_tokens=0,
        output_tokens=0,
        reserved_usd=None,
    )
    jobs = spool.reader()
    told = b"".join(
        provider.line(chunk.custom_id(place), body, chunk.endpoint) + b"\n"
        for place, body in enumerate(jobs.bodies(order))
    )
    jobs.close()
    assert told.count(b"\n") == 3
    with SpooledRequests(spool, provider, chunk, order) as file:
        yield file, told
    assert file.closed
    file.close()


@pytest.mark.parametrize("opened", [CLAUDE, GPT], indirect=True)
def test_they_read_as_the_file_that_they_are_not(opened: Any) -> None:
    """In pieces of any size, and again from the start, as a client does that sends twice."""
    file, told = opened
    assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    for size in (7_777, 1 << 20, -1):
        pieces = list(iter(lambda size=size: file.read(size), b""))
        assert b"".join(pieces) == told
        assert file.tell() == len(told)
        assert file.seek(0) == 0
    assert file.seek(0, os.SEEK_END) == len(told)
    assert file.read(10) == b""
    file.seek(0)
    assert file.read(10) == told[:10]
    with pytest.raises(io.UnsupportedOperation):
        file.seek(5)
