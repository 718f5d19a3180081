"""The requests of a chunk on their way out, as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial

from batchata_prefect.engine.session import Session
from batchata_prefect.files import whole_file
from batchata_prefect.models import Chunk
from batchata_prefect.providers import Requests
from batchata_prefect.providers.bodies import with_uploads


def prepare_requests(
    run: Session, chunk: Chunk, ordinals: Sequence[int], uploads: Mapping[str, str]
) -> Requests:
    """Have the chunk file ready to be sent: one line a request, in the order of their places.

    Args:
        run: The session.
        chunk: The chunk.
        ordinals: Its jobs.
        uploads: Digest of a document -> id of its upload, which stands in for it.

    Returns:
        Opens the file, from its start.

    Raises:
        OSError: The disk is full or not writable; nothing was sent.
    """
    provider, path = run.providers[chunk.provider], run.request_file(chunk.token)
    # Not synced: after a loss of power it is made anew from the jobs, or not needed at all.
    with closing(run.spool.reader()) as jobs, whole_file(path, synced=False) as file:
        for place, body in enumerate(jobs.bodies(ordinals)):
            sent = with_uploads(body, uploads) if uploads else body
            file.write(provider.line(chunk.custom_id(place), sent, chunk.endpoint))
            file.write(b"\n")
    return partial(path.open, "rb")
