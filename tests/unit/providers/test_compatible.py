"""Servers that speak OpenAI's Files and Batches in ways of their own: no batch twice, no row lost.

The sandbox differs in any of them together (`sandbox.compatible.WAYS`); the real SDK calls it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchata_prefect.models import ProviderBatch
from batchata_prefect.providers import Provider, lists, wire
from batchata_prefect.providers.failures import classify
from batchata_prefect.providers.openai.batches import OpenAI
from batchata_prefect.sandbox import Sandbox
from batchata_prefect.sandbox.compatible import WAYS

from .orders import Order, answers, rows, run

PROMPTS = ["One", "[[sandbox:errored invalid_request_error]]", "[[sandbox:reply Drei]]"]
HIDE = {"no_metadata", "no_names", "no_content", "no_file"}
"""What takes the proofs away that are there before a batch has ended."""
salts = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("compatible"), seconds=60) as box:
        yield box


@pytest.fixture
def box(server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    yield server
    server.clear_faults()
    server.limits(ways=[], seconds=60)
    server.settle()


def placed(folder: Path, provider: Provider, prompts: list[str] = PROMPTS) -> Order:
    number = next(salts)
    return Order(provider, folder / f"{number}.jsonl", prompts, f"{folder} {number}")


async def told(order: Order, client: Any, batch: ProviderBatch) -> list[tuple[str, str | None]]:
    found = await answers(order, client, batch)
    assert len(await rows(order.provider, client, batch)) == order.chunk.count
    assert set(found) == set(range(order.chunk.count)), found
    return [(found[at].outcome, found[at].text) for at in range(order.chunk.count)]


ways_of_servers = st.sets(st.sampled_from(sorted(WAYS.keys() - {"no_list"})))


@settings(
    max_examples=int(os.environ.get("BATCHATA_CHAOS", "0")) or 18,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ways=ways_of_servers, killed=st.booleans())
@example(ways={"same_file", "numbers", "zero_times"}, killed=True)
@example(ways=HIDE, killed=True)
@example(ways=WAYS.keys() - {"no_list"}, killed=True)
def test_a_lost_create_in_any_ways(
    box: Sandbox, tmp_path: Path, ways: set[str], killed: bool
) -> None:
    """Its batch is found or waited for, and no other is taken for it; every row is read."""
    box.limits(ways=sorted(ways))
    first = OpenAI()
    mine, other = placed(tmp_path, first), placed(tmp_path, first)
    earlier = frozenset(batch.id for batch in box.ledger.batches())

    async def live(client: Any) -> None:
        theirs = await other.create(client)
        box.fault("openai", operation="create", mode="drop_after")
        with pytest.raises(Exception) as lost:
            await mine.create(client)
        assert not classify(lost.value).made_nothing
        # Another process knows nothing of the file that was uploaded.
        mine.provider = provider = OpenAI() if killed else first
        found = await mine.find(client, earlier)
        if found.batch is None:
            assert killed
            assert ways > {"no_metadata"}
            assert len(found.undecided) == 2
        box.settle()
        found = await mine.find(client, earlier)
        assert found.batch is not None
        assert found.batch.batch_id != theirs.batch_id
        taken = earlier | {found.batch.batch_id}
        assert (await mine.find(client, taken)).batch is None
        batch = await provider.poll(client, found.batch.batch_id)
        assert (batch.state, batch.ending) == ("ended", "ended")
        outcomes = await told(mine, client, batch)
        assert [outcome for outcome, _ in outcomes] == ["succeeded", "errored", "succeeded"]
        assert outcomes[2][1] == "Drei"
        assert await told(other, client, await provider.poll(client, theirs.batch_id)) == outcomes

    run(first, live)


def test_a_page_in_place_of_the_rows_proves_nothing(box: Sandbox, tmp_path: Path) -> None:
    """A proxy's page of status 200 names no request: the batch stays a candidate of a lost create.

    Taken for somebody else's it would be created, and paid, once more.
    """
    box.limits(ways=sorted(HIDE))
    order = placed(tmp_path, OpenAI())

    async def live(client: Any) -> None:
        made = await order.create(client)
        box.settle()
        order.provider = OpenAI()
        box.fault("openai", operation="content", mode="garbage", status=200, after=1)
        assert (await order.find(client)).undecided == (made.batch_id,)
        found = await order.find(client)
        assert found.batch is not None
        assert found.batch.batch_id == made.batch_id

    run(order.provider, live)


OURS = "0123456789abcdef-0"
CALL = {"tools": [{"parameters": {"properties": {"custom_id": {"type": "string"}}}}]}


@pytest.mark.parametrize(
    ("row", "head"),
    [
        ({"body": CALL, "custom_id": OURS}, OURS[:16]),
        ({"response": {"input": {"custom_id": "x"}}, "custom_id": OURS}, OURS[:16]),
        ({"custom_id": OURS, "body": CALL}, OURS[:16]),
        ({"custom_id": "x", "body": {"custom_id": OURS}}, ""),
        ({"custom_id": 5}, None),
        (["custom_id"], None),
    ],
)
def test_a_row_is_told_by_its_own_id(row: Any, head: str | None) -> None:
    """A tool may have a field `custom_id`, and a server write the body before the row's own.

    Taken for somebody else's, a batch of a lost create would be created, and paid, once more.
    """

    async def pieces(data: bytes) -> AsyncGenerator[bytes]:
        yield data

    data = orjson.dumps(row)
    assert asyncio.run(lists.head_of(pieces(data + b"\n{}\n"))) == head


@pytest.mark.parametrize(("end", "head"), [(-1, OURS[:16]), (20, None)])
def test_a_row_that_is_cut_off_tells_what_it_still_shows(end: int, head: str | None) -> None:
    """It proves a batch to be ours, and none to be somebody else's."""

    async def pieces(data: bytes) -> AsyncGenerator[bytes]:
        yield data

    data = orjson.dumps({"custom_id": OURS, "body": CALL})
    assert asyncio.run(lists.head_of(pieces(data[:end]))) == head


def test_a_batch_that_never_ran_keeps_no_search_open(box: Sandbox, tmp_path: Path) -> None:
    """Somebody else's that was refused, with its file gone, proves nothing and was not paid."""
    order = placed(tmp_path, OpenAI())

    async def live(client: Any) -> None:
        file = await client.files.create(file=("theirs.jsonl", b"no json\n"), purpose="batch")
        theirs = await client.batches.create(
            input_file_id=file.id, endpoint=order.chunk.endpoint, completion_window="24h"
        )
        box.settle()
        await client.files.delete(file.id)
        batch = await order.provider.poll(client, theirs.id)
        assert (batch.ending, batch.total) == ("failed", None)
        known = frozenset(each.id for each in box.ledger.batches()) - {theirs.id}
        found = await order.find(client, known)
        assert (found.batch, found.undecided) == (None, ())

    run(order.provider, live)


ENDS = {"completed", "cancelled", "canceled", "expired", "failed"}
WORDS = ["scheduling", "created", "queued", "finalized", "success", "done", "error", "", "ended"]


@settings(max_examples=40, deadline=None)
@given(
    word=st.one_of(
        st.sampled_from(WORDS), st.text("abcdeilnpst_ ", max_size=12), st.none(), st.integers()
    )
)
def test_no_other_word_is_taken_for_an_end(word: Any) -> None:
    """What a server calls an open batch is its own affair; so is how it writes OpenAI's words."""
    if str(word).lower() in ENDS:
        return
    files = {"output_file_id": "o", "request_counts": {"total": 2, "completed": 2, "failed": 0}}
    for more in ({}, files, {"completed_at": 1_800_000_000}):
        batch = OpenAI().batch({"id": "b", "status": word, **more})
        assert batch.state == ("canceling" if str(word).lower() == "cancelling" else "in_progress")
        assert batch.ending is None


@pytest.mark.parametrize("ways", [{"words"}, {"capitals"}, {"no_counts", "no_times"}])
def test_a_batch_ends_when_its_server_says_so(box: Sandbox, tmp_path: Path, ways: set[str]) -> None:
    """Whatever it said on the way."""
    box.limits(ways=sorted(ways))
    order = placed(tmp_path, OpenAI(), ["a"] * 9)

    async def live(client: Any) -> None:
        batch = await order.create(client)
        assert (batch.state, batch.ending) == ("in_progress", None)
        batch = await order.provider.poll(client, batch.batch_id)
        assert (batch.state, batch.ending) == ("in_progress", None)
        box.settle()
        batch = await order.provider.poll(client, batch.batch_id)
        assert (batch.state, batch.ending) == ("ended", "ended")
        assert len(await answers(order, client, batch)) == 9

    run(order.provider, live)


@pytest.mark.parametrize("ways", [set[str](), {"no_counts"}, {"no_times"}, {"one_file", "numbers"}])
def test_a_canceled_batch_gives_what_it_has(box: Sandbox, tmp_path: Path, ways: set[str]) -> None:
    """Also where nobody counts, and both kinds of rows are in one file."""
    box.limits(ways=sorted(ways), seconds=2)
    order = placed(tmp_path, OpenAI(), ["a"] * 20)

    async def live(client: Any) -> None:
        made = await order.create(client)
        while (await order.provider.poll(client, made.batch_id)).raw_status == "validating":
            await asyncio.sleep(0.02)
        await order.provider.cancel(client, made.batch_id)
        box.settle()
        batch = await order.provider.poll(client, made.batch_id)
        assert batch.ending == "canceled"
        assert len(await answers(order, client, batch)) == 20

    run(order.provider, live)


@pytest.mark.parametrize("way", ["no_list", "no_file_list", "no_delete"])
def test_what_a_server_does_not_offer(box: Sandbox, tmp_path: Path, way: str) -> None:
    """Without a list nothing is proven, and that is an error; files that stay are no harm."""
    box.limits(ways=[way])
    order = placed(tmp_path, OpenAI())

    async def live(client: Any) -> None:
        made = await order.create(client)
        box.settle()
        if way == "no_list":
            with pytest.raises(Exception) as refused:
                await order.find(client)
            assert classify(refused.value).kind == "absent"
        else:
            found = await order.find(client)
            assert found.batch is not None
            assert found.batch.batch_id == made.batch_id
        batch = await order.provider.poll(client, made.batch_id)
        assert len(await answers(order, client, batch)) == 3

    run(order.provider, live)


def test_what_a_batch_that_failed_on_its_way_has() -> None:
    """What ran may have been paid for; OpenAI's own words of a refused file stay what they are."""
    failed: dict[str, Any] = {"id": 7, "status": "failed"}
    zero = {"total": 0, "completed": 0, "failed": 0}
    for more, ending, total in (
        ({"request_counts": zero}, "failed", None),
        ({"request_counts": None}, "failed", None),
        ({"request_counts": {**zero, "total": 4}}, "failed", 4),
        ({"request_counts": {"total": 4, "completed": 1, "failed": 1}}, "ended", 2),
        ({"request_counts": {"total": 4, "completed": 0, "failed": 4}}, "ended", 4),
        ({"request_counts": None, "output_file_id": 3}, "ended", None),
        # As Doubleword, which makes both files before anything runs.
        ({"request_counts": zero, "output_file_id": "o", "error_file_id": "e"}, "ended", 0),
    ):
        batch = OpenAI().batch(failed | more)
        assert (batch.batch_id, batch.ending, batch.total) == ("7", ending, total), more


@pytest.mark.parametrize("no_time", [0, -1, None, "", "0001-01-01T00:00:00Z", "soon", 1e20, True])
def test_a_time_that_is_none(no_time: Any) -> None:
    """It makes no batch too old to be looked at, overdue, or past its provider's retention."""
    times = dict.fromkeys(("created_at", "expires_at", "completed_at", "failed_at"), no_time)
    batch = OpenAI().batch({"id": "b", "status": "completed", **times})
    assert (batch.created_at, batch.expires_at, batch.ended_at) == (None, None, None)


@pytest.mark.parametrize("has_more", [True, None])
@pytest.mark.parametrize("order", ["newest", "oldest", "any", "same"])
def test_a_list_is_read_as_far_as_its_order_tells(
    monkeypatch: pytest.MonkeyPatch, has_more: bool | None, order: str
) -> None:
    """Only a list whose newest come first is left where what is older cannot be the batch."""
    new, old, size = 2_000_000_000, 1_600_000_000, 3
    items = [{"id": f"b{at}", "created_at": new if at > 6 else old + at} for at in range(10)]
    if order == "newest":
        items.reverse()
    if order == "any":
        # Its first page looks as if the newest came first.
        items = [items[at] for at in (9, 5, 3, 8, 7, 6, 4, 2, 1, 0)]
    asked = list[Any]()

    async def page(_client: Any, _path: str, _key: str, params: Any = None) -> dict[str, Any]:
        asked.append(params)
        start = 0
        if order != "same" and "after" in params:
            start = [item["id"] for item in items].index(params["after"]) + 1
        shown = items[start : start + size] if order != "same" else items
        is_last = start + size >= len(items)
        return {"data": shown, "has_more": None if has_more is None else not is_last}

    monkeypatch.setattr(wire, "get", page)
    since = wire.moment(new)
    assert since is not None
    found = asyncio.run(OpenAI().since(object.__new__(_Client), since))
    expected = {"b7", "b8", "b9"} if order != "any" else {"b9"}
    assert {item["id"] for item in found} == expected


class _Client:
    """Stands for an SDK's client of which nothing was heard yet."""


@pytest.mark.parametrize("odd", [{}, {"id": None}, "text"])
def test_an_item_without_an_id_ends_no_list(monkeypatch: pytest.MonkeyPatch, odd: Any) -> None:
    """What stands behind the page of an odd item is found, such as the batch of a lost create."""
    listed = {None: ({"id": "a"}, odd), "a": ({"id": "b"},)}

    async def page(_client: Any, _path: str, _key: str, params: Any = None) -> dict[str, Any]:
        items = listed[params.get("after")]
        return {"data": [*items], "has_more": params.get("after") is None}

    monkeypatch.setattr(wire, "get", page)

    async def ids() -> list[Any]:
        return [item["id"] async for items in OpenAI().pages(None) for item in items]

    assert asyncio.run(ids()) == ["a", "b"]
