"""The collector over runs that sleep, have died or were cancelled: what it does with each."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Failed, Running, Suspended
from starlette.testclient import TestClient

from batchata_prefect import Batch, ValidationError
from batchata_prefect.collector.collect import MOST_REVIVALS, Round, collect, is_due
from batchata_prefect.errors import MissingCredentialsError
from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import Entry, Intent, Receipt, Start
from batchata_prefect.providers import providers
from batchata_prefect.records.lease import Lease
from batchata_prefect.records.sleepers import Place, Waiting, Watched, forget, places, write
from batchata_prefect.records.storage import DurableFileSystem
from batchata_prefect.records.store import Records
from batchata_prefect.webhook import application

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def waiting(batches: int = 2, *, costs: float = 10.0, sleeps: float = 3600.0) -> Waiting:
    return Waiting(
        flow_run_id="a",
        batch_run_id=None,
        since=NOW,
        resume_at=NOW + timedelta(seconds=sleeps),
        costs_seconds=costs,
        batches=tuple(Watched("openai", f"b{n}", NOW) for n in range(batches)),
        credentials={},
    )


@pytest.mark.parametrize(
    ("asleep", "ended", "seconds", "due"),
    [
        (waiting(), set(), 60, False),
        (waiting(), {"b0", "b1"}, 1, True),
        (waiting(), {"b0"}, 99, False),
        (waiting(), {"b0"}, 101, True),
        (waiting(costs=60), {"b0"}, 599, False),
        (waiting(), set(), 3601, True),
        (waiting(), {"other"}, 600, False),
        (waiting(0), set(), 600, False),
        (waiting(0), set(), 3601, True),
    ],
)
def test_when_a_run_is_resumed(asleep: Waiting, ended: set[str], seconds: float, due: bool) -> None:
    """At once when all of its batches have ended or its time has come.

    For a part of them when it has slept ten times longer than a new process costs.
    """
    assert is_due(asleep, frozenset(ended), NOW + timedelta(seconds=seconds)) is due


def test_what_a_run_waits_for_is_read_as_it_was_written() -> None:
    """The note survives JSON."""
    asleep = waiting(3)
    assert Waiting.from_dict(orjson.loads(orjson.dumps(asleep.to_dict()))) == asleep


@flow(name="sleeper")
def sleeper() -> None:
    """Never run: only its flow runs are looked at."""


def do(call: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await call

    return asyncio.run(main())


@pytest.fixture(scope="module")
def deployment(prefect_server) -> UUID:
    async def make() -> UUID:
        async with get_client() as client:
            flow_id = await client.create_flow(sleeper)
            return await client.create_deployment(flow_id, "collected")

    return do(make())


class Sleepers:
    """Runs as the collector finds them: flow runs, their records, and batches at the sandbox."""

    def __init__(self, deployment: UUID, home: Path) -> None:
        self.deployment, self.home = deployment, home
        self.made: list[str] = []

    async def make(self, state: State[Any], batches: list[Watched], **told: Any) -> str:
        """A flow run in a state, with records that say what it waits for."""
        async with get_client() as client:
            made = await client.create_flow_run_from_deployment(self.deployment, state=Running())
            await client.set_flow_run_state(made.id, state, force=not state.is_paused())
        name = str(made.id)
        self.made.append(name)
        records = self.records(name)
        await records.begin(Start(name, datetime.now(UTC), str(self.home)), afresh=False)
        for sequence, each in enumerate(batches):
            chunk = Chunk(
                sequence=sequence,
                round=0,
                token=f"{sequence:064x}",
                provider=each.provider,
                endpoint="/v1/responses" if each.provider == "openai" else "/v1/messages",
                model="gpt-6-luna" if each.provider == "openai" else "claude-sonnet-5-5",
                count=1,
                size_bytes=1,
                input_tokens=1,
                output_tokens=1,
                reserved_usd=None,
            )
            await records.write_intent(Intent(chunk, each.created_at, b"x" * 12))
            await records.write_receipt(sequence, Receipt(each.batch_id, each.created_at))
        now = datetime.now(UTC)
        note = Waiting(
            flow_run_id=name,
            batch_run_id=None,
            since=now,
            resume_at=told.pop("resume_at", now + timedelta(hours=1)),
            costs_seconds=10,
            batches=tuple(batches),
            credentials={},
            accounts=told.pop("accounts", {}),
        )
        await records.write_waiting(note.to_dict())
        await write(Place(name, name, str(self.home / "state"), "collect", **told))
        return name

    def records(self, run_key: str) -> Records:
        return Records(DurableFileSystem(basepath=str(self.home / "state")), run_key)

    def state(self, name: str) -> str:
        with get_client(sync_client=True) as client:
            return str(client.read_flow_run(UUID(name)).state_name)

    def known(self) -> dict[str, Place]:
        return {p.flow_run_id: p for p in do(places()) if p.flow_run_id in self.made}


@pytest.fixture
def sleepers(deployment: UUID, sandbox, tmp_path: Path) -> Iterator[Sleepers]:
    found = Sleepers(deployment, tmp_path)
    yield found
    for name in found.made:
        do(forget(name))


async def batch_at(sandbox, name: str, tmp_path: Path, provider: str = "openai") -> Watched:
    """A batch of one request at the sandbox."""
    found = providers()[provider]
    client = found.connect()
    model = "gpt-6-luna" if provider == "openai" else "claude-sonnet-5-5"
    text = {"role": "user", "content": f"{tmp_path} {name}"}
    if provider == "openai":
        endpoint, body = "/v1/responses", {"model": model, "input": [text]}
    else:
        endpoint = "/v1/messages"
        body = {"model": model, "max_tokens": 100, "messages": [text]}
    path = tmp_path / f"{name}.jsonl"
    path.write_bytes(found.line("0000000000000000-0", orjson.dumps(body), endpoint) + b"\n")
    chunk = Chunk(
        sequence=0,
        round=0,
        token=hashlib.sha256(name.encode()).hexdigest(),
        provider=provider,
        endpoint=endpoint,
        model=model,
        count=1,
        size_bytes=path.stat().st_size,
        input_tokens=1,
        output_tokens=1,
        reserved_usd=None,
    )
    batch = await found.create(client, chunk, partial(path.open, "rb"))
    await client.close()
    return Watched(provider, batch.batch_id, batch.created_at or datetime.now(UTC))


def asleep() -> State[Any]:
    return Suspended(pause_key="x")


@pytest.fixture
def slow(sandbox) -> Iterator[Any]:
    """A sandbox whose batches end when they are told to."""
    before = sandbox.seconds
    sandbox.limits(seconds=3600)
    yield sandbox
    sandbox.settle()
    sandbox.limits(seconds=before)


def test_one_look_asks_for_all_batches_of_an_account_at_once(
    sleepers: Sleepers, slow, tmp_path: Path
) -> None:
    """A dozen runs wait; two calls tell which of them to resume, and nothing is resumed twice."""

    async def prepare() -> list[str]:
        names: list[str] = []
        for n in range(12):
            provider = ("openai", "anthropic")[n % 2]
            batch = await batch_at(slow, f"many {n}", tmp_path, provider)
            names.append(await sleepers.make(asleep(), [batch]))
        return names

    names = do(prepare())
    first: Round = do(collect())
    assert (first.asleep, first.batches, first.calls, first.resumed) == (12, 12, 2, [])
    slow.settle()
    second: Round = do(collect())
    assert sorted(second.resumed) == sorted(names)
    assert second.calls == 2
    assert {sleepers.state(name) for name in names[:3]} == {"Resuming"}
    third: Round = do(collect())
    assert (third.asleep, third.calls, third.resumed) == (0, 0, [])


def test_batches_behind_those_of_others_are_asked_for_one_by_one(
    sleepers: Sleepers, slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that is longer than it is worth is left, and no batch is forgotten."""
    monkeypatch.setattr("batchata_prefect.providers.lists.PAGE", 2)

    async def prepare() -> str:
        mine = await batch_at(slow, "behind", tmp_path)
        for n in range(12):
            await batch_at(slow, f"of others {n}", tmp_path)
        return await sleepers.make(asleep(), [mine])

    name = do(prepare())
    slow.settle()
    done: Round = do(collect())
    assert done.resumed == [name]
    assert done.calls == 3  # two pages, and the batch itself


def test_a_run_whose_time_has_come_is_resumed_although_the_provider_is_down(
    sleepers: Sleepers, slow, tmp_path: Path
) -> None:
    """What cannot be asked is told, and does not keep a deadline from being kept."""
    past = datetime.now(UTC) - timedelta(seconds=1)

    async def prepare() -> tuple[str, str]:
        batch = await batch_at(slow, "down", tmp_path)
        late = await sleepers.make(asleep(), [batch], resume_at=past)
        return late, await sleepers.make(asleep(), [batch])

    late, other = do(prepare())
    slow.fault("openai", ["list", "retrieve"], "status", status=401, times=None)
    done: Round = do(collect())
    assert done.resumed == [late]
    assert "openai" in done.troubles[0]
    assert sleepers.state(other) == "Suspended"


def test_batches_of_a_run_that_was_cancelled_in_its_sleep_are_cancelled(
    sleepers: Sleepers, slow, tmp_path: Path
) -> None:
    """Its process is gone, so that nobody else would do it."""

    async def prepare() -> str:
        return await sleepers.make(Cancelled(), [await batch_at(slow, "cancelled", tmp_path)])

    name = do(prepare())
    done: Round = do(collect())
    assert done.cancelled == [name]
    statuses = {row.id: row.status for row in slow.ledger.batches()}
    batch_id = do(sleepers.records(name).start()) and do(_first_batch(sleepers.records(name)))
    assert statuses[batch_id] in {"cancelling", "cancelled"}
    assert sleepers.known() == {}


def test_what_cannot_be_cancelled_at_once_is_cancelled_at_the_next_look(
    sleepers: Sleepers, slow, tmp_path: Path
) -> None:
    """The batches of the other account are, and the run is not forgotten."""

    async def prepare() -> str:
        batches = [await batch_at(slow, f"{n}", tmp_path, n) for n in ("openai", "anthropic")]
        return await sleepers.make(Cancelled(), batches)

    name = do(prepare())
    slow.fault("openai", "cancel", "status", status=401)
    done: Round = do(collect())
    assert "go on although it was cancelled" in done.troubles[0]
    assert [*sleepers.known()] == [name]
    ends = {row.provider: row.status for row in slow.ledger.batches()}
    assert ends["anthropic"] in {"canceling", "ended"}
    assert ends["openai"] in {"validating", "in_progress"}
    assert do(collect()).troubles == []
    assert sleepers.known() == {}


async def _first_batch(records: Records) -> str:
    await records.start()
    entries: list[Entry] = [entry async for entry, _ in records.ledger()]
    assert entries[0].receipt is not None
    return entries[0].receipt.batch_id


@pytest.mark.parametrize("state", [Completed(), Failed()])
def test_a_run_that_is_over_is_forgotten(sleepers: Sleepers, state: State[Any]) -> None:
    """Nothing is left behind of it that would be looked at for ever."""
    do(sleepers.make(state, []))
    assert do(collect()).resumed == []
    assert sleepers.known() == {}


def test_a_run_whose_process_died_is_started_again_a_few_times(sleepers: Sleepers) -> None:
    """One that dies each time is left to a person at last."""
    name = do(sleepers.make(Crashed(), []))
    for time_ in range(1, MOST_REVIVALS + 1):
        assert do(collect()).revived == [name]
        assert sleepers.state(name) == "AwaitingRetry"
        assert sleepers.known()[name].revived == time_
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(name), Crashed(), force=True)
    assert do(collect()).revived == []
    assert sleepers.known() == {}
    assert sleepers.state(name) == "Crashed"


def test_a_run_that_went_with_its_machine_is_found_by_its_silence(sleepers: Sleepers) -> None:
    """Its flow run would be running for ever; one whose process gives a sign of life is left be."""

    async def prepare() -> tuple[str, str, Lease]:
        dead = await sleepers.make(Running(), [])
        alive = await sleepers.make(Running(), [])
        lease = Lease(sleepers.records(alive), 60)
        for each in (Lease(sleepers.records(dead), 60), lease):
            assert await each.attempt() is None
        return dead, alive, lease

    dead, alive, lease = do(prepare())
    do(collect())
    do(lease.renew())
    later = datetime.now(UTC) + timedelta(seconds=1000)
    done: Round = do(collect(now=later))
    assert (sleepers.state(dead), sleepers.state(alive)) == ("Crashed", "Running")
    assert done.revived == []
    assert do(collect(now=later)).revived == [dead]
    assert sleepers.state(alive) == "Running"


def test_records_that_cannot_be_reached_are_told_and_the_others_are_collected(
    sleepers: Sleepers, slow, tmp_path: Path
) -> None:
    """A collector with another result storage says so, and does not take the run for done."""

    async def prepare() -> tuple[str, str]:
        good = await sleepers.make(asleep(), [await batch_at(slow, "reached", tmp_path)])
        bad = await sleepers.make(asleep(), [])
        await write(Place(bad, bad, str(tmp_path / "elsewhere"), "collect"))
        return good, bad

    good, bad = do(prepare())
    slow.settle()
    done: Round = do(collect())
    assert done.resumed == [good]
    assert "the same result storage" in done.troubles[0]
    assert bad in sleepers.known()


def test_an_account_that_is_not_known_here_is_told_and_the_others_are_collected(
    sleepers: Sleepers, slow, tmp_path: Path
) -> None:
    """Such as one of a kind that only the workers have."""

    async def prepare() -> str:
        batch = await batch_at(slow, "known", tmp_path)
        table = {"far": {"kind": "elsewhere", "api_key_env": "K"}}
        far = Watched("far", "b", datetime.now(UTC))
        await sleepers.make(asleep(), [far], accounts=table)
        await sleepers.make(asleep(), [far])
        return await sleepers.make(asleep(), [batch])

    good = do(prepare())
    slow.settle()
    done: Round = do(collect())
    assert done.resumed == [good]
    assert len(done.troubles) == 2


def test_without_a_deployment_nothing_is_sent(tmp_path: Path, sandbox, prefect_server) -> None:
    """An ad-hoc run has nobody to resume it, and says so at once."""
    batch = Batch(tmp_path / "out")
    batch.add_job(prompt=f"{tmp_path}", model="gpt-6-luna", max_tokens=100)
    known = len(list(sandbox.ledger.batches()))
    with pytest.raises(ValidationError, match=r"no flow run around it.*Nothing was sent"):
        batch.run(wait="suspend")
    assert len(list(sandbox.ledger.batches())) == known


SECRET = "whsec_" + base64.b64encode(b"secret of the test").decode()


def signed(
    body: bytes,
    *,
    at: float | None = None,
    key: bytes = b"secret of the test",
    mark: bytes | None = None,
) -> Any:
    stamp = str(int(time.time() if at is None else at))
    made = hmac.new(key, f"id.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": "id",
        "webhook-timestamp": stamp,
        "webhook-signature": mark or f"v1,{base64.b64encode(made).decode()}",
    }


def test_a_signed_webhook_wakes_the_run(
    sleepers: Sleepers, slow, tmp_path: Path, prefect_server
) -> None:
    """`batch.completed` leads to a look at once."""

    async def prepare() -> tuple[str, str]:
        batch = await batch_at(slow, "webhook", tmp_path)
        return await sleepers.make(asleep(), [batch]), batch.batch_id

    name, batch_id = do(prepare())
    slow.settle()
    event = {"id": "e", "object": "event", "type": "batch.completed", "data": {"id": batch_id}}
    body = orjson.dumps(event)
    with TestClient(application(SECRET)) as client:
        assert client.post("/openai", content=body, headers=signed(body)).status_code == 204
        deadline = time.monotonic() + 20
        while sleepers.state(name) == "Suspended":
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("body", "signature", "status"),
    [
        (b"{}", None, 401),
        (b'{"type":"batch.completed"}', {"body": b"{}"}, 401),
        (b"{}", {"key": b"guessed"}, 401),
        (b"{}", {"at": 0}, 401),
        (b"{}", {"mark": "v1,\u00e9".encode()}, 401),
        (b"{}", {"mark": b"v1,\xff\xfe"}, 401),
        (b"no event", {}, 400),
        (b"x" * 100_000, {}, 413),
        (b'{"type":"response.completed"}', {}, 204),
    ],
)
def test_who_may_send_webhooks(body: bytes, signature: dict[str, Any] | None, status: int) -> None:
    """Only events that OpenAI has signed a short time ago are taken; others of it are no error."""
    headers = {} if signature is None else signed(**{"body": body, **signature})
    with TestClient(application(SECRET, look=False)) as client:
        assert client.post("/openai", content=body, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("path", "said"),
    [("azure", "azure has no webhooks"), ("anthropic", "no webhooks"), ("x", "no such provider")],
)
def test_what_sends_no_webhooks_is_refused_with_a_word(path: str, said: str) -> None:
    """Whoever has set one up for another provider is told that nothing comes of it."""
    with TestClient(application(SECRET, look=False)) as client:
        reply = client.post(f"/{path}", content=b"{}")
    assert reply.status_code == 404
    assert said in reply.text


def test_no_receiver_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody could send events to it."""
    monkeypatch.delenv("OPENAI_WEBHOOK_SECRET", raising=False)
    with pytest.raises(MissingCredentialsError, match="OPENAI_WEBHOOK_SECRET"):
        application()
