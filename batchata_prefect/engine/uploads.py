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
from contextlib import closing
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


class Uploads:
    """What a run has uploaded, as far as this process knows."""

    def __init__(self, run: Session) -> None:
        self._run = run
        self._ids: dict[tuple[str, str], str] = {}
        self._listed: set[str] = set()
        self._refusing: set[str] = set()

    def of(self, provider: str) -> dict[str, str]:
        """Digest -> id, of what lies at a provider."""
        return {digest: id_ for (owner, digest), id_ in self._ids.items() if owner == provider}

    async def ensure(self, family: Family, ordinals: Sequence[int]) -> dict[str, str]:
        """Digest -> id of the upload, for the shared documents of some jobs.

        A provider that takes no uploads is given the documents in the requests, as before.

        Raises:
            BatchSubmissionError: It refuses the key or the account.
        """
        run, name = self._run, family.provider
        shared = {
            digest for digest, (jobs, size) in run.spool.files.items() if _pays(run, jobs, size)
        }
        if not shared or name in self._refusing or not run.providers[name].keeps_files:
            return {}
        with closing(run.spool.reader()) as jobs:
            wanted: dict[str, int] = {}
            for ordinal in ordinals:
                for digest in jobs.context(ordinal).files:
                    if digest in shared:
                        wanted.setdefault(digest, ordinal)
            try:
                for digest, ordinal in wanted.items():
                    if (name, digest) not in self._ids:
                        (body,) = jobs.bodies([ordinal])
                        await patiently(run, partial(self._upload, name, digest, body), _after(run))
            except Exception as error:
                failure = classify(error)
                # A key may create batches and no files: a 403.
                if failure.of_money or failure.status == 401:
                    raise BatchSubmissionError(
                        f"{name} refused a document of the jobs ({failure.text}). Nothing of its "
                        f"jobs that are not sent was created or paid. {failure.what_to_do}, then "
                        "run again: what was answered is kept, and only the rest is sent"
                    ) from error
                if failure.kind != "wait":
                    self._refusing.add(name)
                get_run_logger().warning(
                    "%s took no upload (%s); documents go in each request", name, failure.text
                )
                return {}
        return {digest: self._ids[name, digest] for digest in wanted if (name, digest) in self._ids}

    async def _upload(self, provider_name: str, digest: str, body: bytes) -> None:
        run = self._run
        provider, client = run.providers[provider_name], run.clients[provider_name]
        if provider_name not in self._listed:
            for name, file_id in (await provider.uploads(client, _prefix(run))).items():
                self._ids[provider_name, name.partition(".")[0].rpartition("-")[2]] = file_id
            self._listed.add(provider_name)
            if (provider_name, digest) in self._ids:
                return
        for attachment in attachments(orjson.loads(body)):
            if attachment.digest == digest:
                suffix = mimetypes.guess_extension(attachment.media_type) or ""
                self._ids[provider_name, digest] = await provider.upload(
                    client,
                    f"{_prefix(run)}{digest}{suffix}",
                    attachment.media_type,
                    attachment.data,
                )
                return

    async def clean(self) -> None:
        """Delete what the run uploaded, once nothing of it is in flight; no harm if it fails."""
        run = self._run
        if any(entry.ending is None for entry in run.ledger):
            return
        if not any(_pays(run, jobs, size) for jobs, size in run.spool.files.values()):
            return
        for name, client in run.clients.items():
            provider = run.providers[name]
            if not provider.keeps_files:
                continue
            try:
                left = set((await provider.uploads(client, _prefix(run))).values())
                left |= set(self.of(name).values())
                for file_id in sorted(left):
                    await provider.forget(client, file_id)
            except Exception as error:
                get_run_logger().info("uploads at %s were not deleted (%s)", name, one_line(error))


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
