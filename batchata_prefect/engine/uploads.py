"""Documents that many jobs share: uploaded once, referred to by id, deleted when the run is over.

The rendered request keeps the document, so that a job is recognised by it whatever was uploaded;
only the chunk file carries the ids. An upload is named after the run and the document, and found
again by its name after a crash; one that nobody deletes ends by itself.
"""

from __future__ import annotations

import hashlib
import mimetypes
import time
from collections.abc import Callable, Sequence
from functools import partial

import orjson
from prefect import get_run_logger

from batchata_prefect.engine.retries import patiently
from batchata_prefect.engine.session import Session
from batchata_prefect.errors import BatchSubmissionError, one_line
from batchata_prefect.jobs.spool import Family
from batchata_prefect.providers.bodies import attachments
from batchata_prefect.providers.failures import classify

PAYS_OFF_BYTES = 20_000_000
"""Bytes that a document must save over all its jobs before it is uploaded by itself."""

_PATIENCE_SECONDS = 30.0
"""For an upload that fails, before the document goes in each request of the chunk."""


async def ensure_uploads(run: Session, family: Family, ordinals: Sequence[int]) -> dict[str, str]:
    """Digest -> id of the upload, for the shared documents of some jobs.

    A provider that takes no uploads is given the documents in the requests, as before.

    Raises:
        BatchSubmissionError: It refuses the key or the account.
    """
    name = family.provider
    shared = {digest for digest, (jobs, size) in run.spool.files.items() if _pays(run, jobs, size)}
    if not shared or name in run.no_uploads:
        return {}
    jobs = run.spool.reader()
    try:
        wanted: dict[str, int] = {}
        for ordinal in ordinals:
            for digest in jobs.context(ordinal).files:
                if digest in shared:
                    wanted.setdefault(digest, ordinal)
        try:
            for digest, ordinal in wanted.items():
                if (name, digest) not in run.uploads:
                    (body,) = jobs.bodies([ordinal])
                    await patiently(run, partial(_upload, run, name, digest, body), _after(run))
        except Exception as error:
            failure = classify(error)
            # A key may create batches and no files: a 403.
            if failure.of_money or failure.status == 401:
                raise BatchSubmissionError(
                    f"{name} refused a document of the jobs ({failure.text}). Nothing of its jobs "
                    f"that are not sent was created or paid. {failure.what_to_do}, then run again: "
                    "what was answered is kept, and only the rest is sent"
                ) from error
            if failure.kind != "wait":
                run.no_uploads.add(name)
            get_run_logger().warning(
                "%s took no upload (%s); documents go in each request", name, failure.text
            )
            return {}
    finally:
        jobs.close()
    return {digest: run.uploads[name, digest] for digest in wanted if (name, digest) in run.uploads}


def _after(run: Session) -> Callable[[Exception, int], float | None]:
    """What to do after an error of an upload: wait a little, or raise."""
    began = time.monotonic()

    def after(error: Exception, _: int) -> float | None:
        failure = classify(error)
        # The other providers' batches are not cut meanwhile.
        late = time.monotonic() - began + (failure.seconds or 0) > _PATIENCE_SECONDS
        if failure.kind != "wait" or late or run.is_ending:
            raise error
        return failure.seconds

    return after


def _pays(run: Session, jobs: int, size_bytes: int) -> bool:
    asked = run.settings.upload_files
    if asked is not None:
        return asked and jobs > 1
    return (jobs - 1) * size_bytes >= PAYS_OFF_BYTES


def _prefix(run: Session) -> str:
    """What the names of a run's uploads begin with: no other run may delete them."""
    return f"batchata-{hashlib.sha256(run.settings.run_key.encode()).hexdigest()[:12]}-"


async def _upload(run: Session, provider_name: str, digest: str, body: bytes) -> None:
    provider, client = run.providers[provider_name], run.clients[provider_name]
    if provider_name not in run.uploads_listed:
        for name, file_id in (await provider.uploads(client, _prefix(run))).items():
            run.uploads[provider_name, name.partition(".")[0].rpartition("-")[2]] = file_id
        run.uploads_listed.add(provider_name)
        if (provider_name, digest) in run.uploads:
            return
    for attachment in attachments(orjson.loads(body)):
        if attachment.digest == digest:
            suffix = mimetypes.guess_extension(attachment.media_type) or ""
            run.uploads[provider_name, digest] = await provider.upload(
                client, f"{_prefix(run)}{digest}{suffix}", attachment.media_type, attachment.data
            )
            return


async def clean_uploads(run: Session) -> None:
    """Delete what the run uploaded, once nothing of it is in flight; no harm if it fails."""
    if any(entry.ending is None for entry in run.ledger):
        return
    if not any(_pays(run, jobs, size) for jobs, size in run.spool.files.values()):
        return
    for name, client in run.clients.items():
        provider = run.providers[name]
        try:
            left = set((await provider.uploads(client, _prefix(run))).values())
            left |= {file_id for (owner, _), file_id in run.uploads.items() if owner == name}
            for file_id in sorted(left):
                await provider.forget(client, file_id)
        except Exception as error:
            get_run_logger().info("uploads at %s were not deleted (%s)", name, one_line(error))
