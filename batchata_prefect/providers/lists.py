"""Lists of an account, page by page and back to a time, and whose a batch in them is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeAlias

from batchata_prefect.content.bounds import bounds
from batchata_prefect.errors import ParseError, ProviderError
from batchata_prefect.models import Chunk, ProviderBatch
from batchata_prefect.providers import wire
from batchata_prefect.providers.failures import status_of
from batchata_prefect.providers.rows import objects_at, parse

Item: TypeAlias = Mapping[str, Any]

PAGE = 100
"""Batches in a page of a list; the most that OpenAI takes [openai/resources/batches.py]."""

CLOCK_MARGIN = timedelta(minutes=15)
"""How far the time of a create, as it was written down, may be after the provider's own."""

_OURS = re.compile(r"([0-9a-f]{16})-\d{1,12}")
_OURS_IN_A_ROW = re.compile(rb'"custom_id"\s*:\s*"([0-9a-f]{16})-\d{1,12}"')


async def paged(
    client: Any,
    path: str,
    key: str,
    params: Item,
    following: Callable[[Item], Item],
) -> AsyncGenerator[Item]:
    """A list, a page for each call.

    Args:
        client: The SDK client.
        path: Where it is.
        key: What a page must at least hold, empty for nothing.
        params: What the first page is asked by.
        following: What of a page asks for the next one; empty for none.
    """
    asked = {**params}
    while True:
        page = await wire.get(client, path, key, asked)
        yield page
        more = following(page)
        # A server may give one page again and again.
        if not more or {**asked, **more} == asked:
            return
        asked |= more


async def head_of(rows: AsyncGenerator[bytes], hidden: Collection[int] = (404,)) -> str | None:
    """By its first row, the head of the chunk that a file is of; empty where it is none of ours.

    None where there is no row, or what is there names no request, as a proxy's page does: it
    proves nothing.

    Args:
        rows: The file.
        hidden: Statuses that say of it that it is gone, or is not given.
    """
    first = bytearray()
    try:
        async for piece in rows:
            first += piece
            if b"\n" in piece or len(first) > bounds().row_bytes:
                break
    except Exception as error:
        if status_of(error) not in hidden:
            raise
        return None
    finally:
        await rows.aclose()
    row = bytes(first.partition(b"\n")[0])
    try:
        # The row's own: a tool may have a field of that name, in front of it as well.
        custom_id, _ = parse(row, is_exact=False)
    except ParseError:
        cut = _OURS_IN_A_ROW.search(row)
        return cut[1].decode() if cut else None
    named = _OURS.fullmatch(custom_id)
    return named[1] if named else ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for a batch of uncertain creation brought.

    Attributes:
        batch: The batch, proven to be the chunk's; None where none was found.
        undecided: Ids of batches that may be it and cannot be told apart before they end.
    """

    batch: ProviderBatch | None = None
    undecided: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ours:
    """A batch at the provider that this package made, whichever run it was.

    Attributes:
        batch: The batch.
        head: `Chunk.head` of what it was made for; None where it cannot be told before it ends.
    """

    batch: ProviderBatch
    head: str | None


class Batches(ABC):
    """The batches of a provider as its list has them, and which of them are ours.

    `client` is always the SDK's async client.

    Attributes:
        batches_path: Path of its batches, below the client's base URL.
        batches_cursor: Parameter of a list that takes the last id of the page before.
        is_sorted: Whether a page of its list tells the order of the others.
        counts_at_once: Whether it tells of every batch from its start how many requests it has.
        id_field: What the id of a batch stands under.
        keeps_days: For which it keeps the results of a batch; None where that is not documented.
    """

    batches_path: ClassVar[str]
    batches_cursor: ClassVar[str]
    is_sorted: ClassVar[bool] = True
    counts_at_once: ClassVar[bool] = False
    id_field: ClassVar[str] = "id"
    keeps_days: ClassVar[int | None] = None

    @abstractmethod
    def batch(self, data: Item) -> ProviderBatch:
        """A batch out of the provider's own object."""

    @abstractmethod
    def download(self, client: Any, batch: ProviderBatch) -> AsyncGenerator[bytes]:
        """The raw result rows as they come over the wire, in pieces of any size.

        Files follow each other with a newline between them. A broken transfer raises, or ends
        early without an error: the caller counts rows.
        """

    async def pages(self, client: Any) -> AsyncGenerator[list[Item]]:
        """The batches of the account as its list has them; a call for each page."""
        seen: set[Any] = {None}

        def following(page: Item) -> Item:
            ids = [item["id"] for item in objects_at(page, "data") if item.get("id") is not None]
            is_last = not ids or page.get("has_more") is False
            return {} if is_last else {self.batches_cursor: page.get("last_id") or ids[-1]}

        params = {"limit": PAGE}
        async for page in paged(client, self.batches_path, "data", params, following):
            items = [item for item in objects_at(page, "data") if item.get("id") not in seen]
            yield items
            # Who does not say whether there are more may have a page of his own.
            if not items:
                return
            seen.update(item.get("id") for item in items)

    def made_at(self, item: Item) -> datetime | None:
        """When a batch of the list was made; None where it does not say."""
        return wire.moment(item.get("created_at"))

    async def since(self, client: Any, since: datetime) -> list[Item]:
        """What the list has of batches that may have been made since a time.

        Args:
            client: The SDK client.
            since: The time, by the provider's clock or by ours.
        """
        kept: list[Item] = []
        async for items in self.pages(client):
            # Whose clock the time is by is not known: an earlier start may have had another one.
            ahead = datetime.now(UTC) - (wire.now(client) or datetime.now(UTC))
            oldest = min(since, since - ahead) - CLOCK_MARGIN
            moments = [self.made_at(item) for item in items]
            kept += [
                item
                for item, made in zip(items, moments, strict=True)
                if made is None or made > oldest
            ]
            times = [made for made in moments if made is not None]
            # A list whose oldest come first, or whose order nobody tells, is read to its end.
            is_told = len(times) == len(moments) and times == sorted(times, reverse=True)
            if times and self.is_sorted and is_told and times[-1] <= oldest:
                break
        return kept

    async def listed(self, client: Any) -> AsyncGenerator[list[ProviderBatch]]:
        """All batches of the account as they stand now; a call for each page."""
        async for items in self.pages(client):
            yield [self.batch(item) for item in items]

    async def find(
        self, client: Any, chunk: Chunk, since: datetime, known: frozenset[str]
    ) -> Found:
        """Look for a batch that an uncertain create may have made.

        Args:
            client: The SDK client.
            chunk: What was sent.
            since: Time just before the create was sent.
            known: Ids of batches that belong to other chunks.

        Raises:
            ProviderError: One may be it, and nothing tells any more whose it is.
        """
        listed = [(item, self.batch(item)) for item in await self.since(client, since)]
        listed = [(item, batch) for item, batch in listed if batch.batch_id not in known]
        # All tokens first: other proofs cost a call each.
        for item, batch in listed:
            if self.token(item) == chunk.token:
                return Found(batch)
        undecided: list[str] = []
        for item, batch in listed:
            if self.counts_at_once and batch.total not in {None, chunk.count}:
                continue
            head = await self.head(client, item, batch)
            if head == chunk.head:
                return Found(batch)
            if head is None and self.is_gone(item):
                raise ProviderError(
                    f"{chunk.name}: {batch.batch_id} of {batch.created_at} may be this batch and "
                    f"may have been paid for, but its results are gone after {self.keeps_days} "
                    "days. Start over with set_state(reuse_state=False) if these jobs shall be "
                    "sent again"
                )
            if head is None and self._may_be(batch, chunk):
                undecided.append(batch.batch_id)
        return Found(undecided=tuple(undecided))

    def _may_be(self, batch: ProviderBatch, chunk: Chunk) -> bool:
        """Whether a batch that nothing is proven of may be a chunk's, and cost something."""
        has_begun = batch.succeeded or batch.failed or batch.output_file_id or batch.error_file_id
        is_void = batch.ending in {"failed", "canceled", "expired"} and not has_begun
        return batch.total in {None, chunk.count} and not is_void

    async def ours(self, client: Any, since: datetime) -> list[Ours]:
        """Batches of the account since a time that carry our token, or may carry it."""
        found: list[Ours] = []
        for item in await self.since(client, since):
            batch = self.batch(item)
            head = await self.head(client, item, batch)
            if head or (head is None and batch.state != "ended"):
                found.append(Ours(batch, head))
        return found

    def token(self, item: Item) -> str | None:
        """The token of the chunk that a batch of the list was made for; None where none is told."""
        return None

    async def head(self, client: Any, item: Item, batch: ProviderBatch) -> str | None:
        """Head of the chunk that a batch of the list was made for; empty where it is none of ours.

        None where it cannot be told, or not before the batch has ended. Without a body of its own,
        for who gives the token back with every batch.
        """
        return (self.token(item) or "")[:16]

    def is_gone(self, item: Item) -> bool:
        """Whether the results of a batch of the list are not kept any more."""
        return False
