"""Replies fetched from the provider, or from where earlier results lie; results put there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from prefect import get_run_logger

from batchata_prefect.engine.read_chunk import kept_answers
from batchata_prefect.engine.retries import GaveUpError, UnseenError, backoff, persist
from batchata_prefect.engine.session import Flight, Session
from batchata_prefect.errors import StateError, one_line
from batchata_prefect.files import whole_file
from batchata_prefect.models import Chunk, ProviderBatch
from batchata_prefect.money.ledger import (
    AGAIN,
    ANSWERED,
    FAILED,
    LOST,
    NEVER_SENT,
    NOT_AS_ASKED,
    WRITTEN_OFF,
    Ending,
    Entry,
)
from batchata_prefect.providers import Provider
from batchata_prefect.providers.caps import Download
from batchata_prefect.records.credentials import connect
from batchata_prefect.results.ended import ANSWERS
from batchata_prefect.results.read import count_rows, lines
from batchata_prefect.results.remote import (
    bring_file,
    bring_told,
    drop_folder,
    is_there,
    publish,
    put_file,
)

_SAME_TIMES = 3
_SHORT_TIMES = 12


async def fetch(run: Session, flight: Flight, batch: ProviderBatch) -> Path:
    """Have the provider's rows on disk, whole.

    A transfer can end early without an error, so rows are counted. Fewer rows than requests are
    fetched again, and believed only when they are the same several times and no fewer than the
    provider counts: what is taken for missing is sent again, and must not have been paid.

    Raises:
        OSError: The disk is full or not writable.
        ReplyTooLargeError: More comes than the chunk's requests can be answered with.
        UnseenError: There are none, and go on to be none, although the provider counts some.
    """
    path = run.reply_file(flight.entry.chunk.token)
    if not path.exists():
        with whole_file(path) as file:
            await _fetch_into(run, flight, batch, file)
    return path


async def _fetch_into(run: Session, flight: Flight, batch: ProviderBatch, file: BinaryIO) -> None:
    chunk = flight.entry.chunk
    provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
    partial = Path(file.name)

    async def transfer() -> tuple[int, bool]:
        file.seek(0)
        file.truncate()
        size = Download(chunk, batch.batch_id)
        async for piece in provider.download(client, batch):
            size.take(piece)
            file.write(piece)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
        return await asyncio.to_thread(count_rows, partial)

    counted = min(batch.succeeded + batch.failed, chunk.count)
    if batch.total is None and batch.ending == "ended":
        # It counts nothing, and says that all were run.
        counted = chunk.count
    written_off = flight.entry.written_off

    def is_all() -> bool:
        """Whether no row is missing that was paid.

        A batch that was canceled or expired need not list what did not run.
        """
        if batch.ending not in {"canceled", "expired"}:
            return False
        return _answered(provider, partial, chunk.endpoint) >= batch.succeeded

    seen: list[int] = []
    while True:
        rows, whole = await persist(run, flight, "download", transfer)
        if whole and rows >= chunk.count:
            break
        seen.append(rows if whole else -1)
        is_same = len(seen) >= _SAME_TIMES and len(set(seen[-_SAME_TIMES:])) == 1
        if is_same and (rows >= counted or (whole and await asyncio.to_thread(is_all))):
            break
        if whole and len(seen) >= (_SAME_TIMES if written_off else _SHORT_TIMES):
            told = f"{rows} rows arrive, but {batch.batch_id} counts {counted}"
            told = f"{told}: what is missing may be paid and is not sent again"
            if batch.ending == "ended" and not rows and not written_off:
                raise UnseenError(told)
            # Where some rows come, or after a cancel, the others may never be in any file.
            flight.short = True
            get_run_logger().error("%s; it counts at its upper bound", told)
            break
        get_run_logger().info(
            "%d of %d rows arrived, fetching them again", max(rows, 0), chunk.count
        )
        if run.out_of_patience:
            raise GaveUpError(f"{max(rows, 0)} of {chunk.count} rows arrive")
        await run.pause(backoff(run, len(seen)))


def _answered(provider: Provider, replies: Path, endpoint: str) -> int:
    """How many rows of a file are of requests that ran; what cannot be read is taken for none."""
    answered = 0
    for line in lines(replies):
        with suppress(Exception):
            answered += provider.read(line, endpoint).outcome == "succeeded"
    return answered


async def reach(run: Session, name: str) -> None:
    """Be connected to a provider, also to one that no job of today needs.

    Raises:
        MissingCredentialsError: Its key is not here.
    """
    if name not in run.clients:
        run.providers[name] = run.provider(name)
        credentials = run.settings.credentials.get(name)
        run.clients[name] = await connect(run.providers[name], credentials)


async def restore(run: Session, entry: Entry, ordinals: Sequence[int]) -> None:
    """Fetch the replies of an ended chunk again, where their file is gone and something was in it.

    Raises:
        OSError: The disk is full or not writable.
    """
    ending, receipt, chunk = entry.ending, entry.receipt, entry.chunk
    if ending is None or not _had_rows(ending):
        return
    if run.reply_file(chunk.token).exists() or kept_answers(run, entry) is not None:
        return
    if max(ordinals) < 0 and await asyncio.to_thread(_is_kept, run, chunk):
        return
    if await asyncio.to_thread(_brought, run, ending, chunk):
        return
    if receipt is None:
        return  # of a realtime request, no provider keeps the reply
    get_run_logger().warning("%s: its reply file is gone, fetching it again", chunk.name)
    try:
        await reach(run, chunk.provider)
        provider, client = run.providers[chunk.provider], run.clients[chunk.provider]
        batch = await provider.poll(client, receipt.batch_id)
        await fetch(run, Flight(entry, ordinals), batch)
    except OSError:
        raise
    except Exception as error:
        get_run_logger().error(
            "%s: its replies cannot be had (%s); the next start looks for them again",
            chunk.name,
            one_line(error),
        )


def _had_rows(ending: Ending) -> bool:
    """Whether the provider gave rows of a batch: answers, or what failed and what that cost."""
    if ending.status in NEVER_SENT or ending.status == "failed":
        return False
    told = {ANSWERED, NOT_AS_ASKED}
    if ending.reason not in {LOST, WRITTEN_OFF}:
        told |= {FAILED, AGAIN}
    return not told.isdisjoint(ending.marks)


async def look_at_results(run: Session) -> None:
    """Have the note and the manifest of the results at a URL, which say whose they are.

    Raises:
        StateError: It cannot be read.
    """
    if (url := run.settings.results_url) is not None:
        await asyncio.to_thread(bring_told, url)


async def put_results(run: Session) -> None:
    """Put the results where the run was told to, if that is a URL.

    Raises:
        StateError: They cannot be put there; they are in the working folder.
    """
    if (url := run.settings.results_url) is None:
        return
    if await asyncio.to_thread(publish, run.results_dir, url):
        get_run_logger().info("the results are at %s", url)
    # All that stood there is in the results.
    await asyncio.to_thread(drop_folder, url, Path(ANSWERS).name)


async def put_answers(run: Session, chunk: Chunk) -> str | None:
    """Where the answers of an ended chunk can be read, put where the results go.

    None where they cannot be put there: they are in the results at the end.
    """
    path = run.answer_file(chunk.token)
    if (url := run.settings.results_url) is None:
        return str(path)
    try:
        await asyncio.to_thread(put_file, url, run.own_dir, path)
    except StateError as error:
        get_run_logger().warning("%s", one_line(error))
        return None
    return f"{url}/{path.relative_to(run.own_dir).as_posix()}"


async def put_replies(run: Session, chunk: Chunk) -> None:
    """Put the replies of a chunk where the results go, before its ending says that it has them.

    For those that can be had once: another machine would find them nowhere else.

    Raises:
        StateError: They cannot be put there; they are in the working folder.
    """
    if (url := run.settings.results_url) is not None:
        path = run.reply_file(chunk.token)
        await asyncio.to_thread(put_file, url, run.results_dir, path)


def _is_kept(run: Session, chunk: Chunk) -> bool:
    """Whether the replies of a chunk whose jobs are all gone need not be fetched again.

    A local directory was emptied by its owner; at a URL they are the only copy.
    """
    url = run.settings.results_url
    return url is None or is_there(url, run.results_dir, run.reply_file(chunk.token))


def _brought(run: Session, ending: Ending, chunk: Chunk) -> bool:
    """Whether the replies of a chunk came back from where the results are put, and are whole."""
    url, path = run.settings.results_url, run.reply_file(chunk.token)
    # What lies in a bucket is as much somebody else's as what a provider sends.
    if url is None or not bring_file(url, run.results_dir, path, Download(chunk, url).take):
        return False
    rows, whole = count_rows(path)
    if whole and rows >= ending.marks.count(ANSWERED) + ending.marks.count(NOT_AS_ASKED):
        return True
    path.unlink()
    return False
