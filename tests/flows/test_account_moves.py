"""Accounts and addresses that change between two starts: what is in flight is never lost for it."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, MissingCredentialsError, ProviderError, StateError
from batchata_prefect.cli.provider_side import cancel_batches
from batchata_prefect.collector.inflight import open_run, status
from batchata_prefect.providers.openai.batches import OpenAI
from batchata_prefect.sandbox import Sandbox
from tests.flows.endpoints import KINDS, MODELS, PRICES, address_of, key_of, strangers, tables

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def slow(servers: dict[str, Sandbox]) -> Iterator[dict[str, Sandbox]]:
    """The servers, whose batches end when they are told to."""
    for box in servers.values():
        box.limits(seconds=3600)
    yield servers
    for box in servers.values():
        box.settle()
        box.limits(seconds=0.1)


def make(
    out: Path, jobs: Iterable[str], accounts: Mapping[str, Any], prices: Any = PRICES
) -> Batch:
    """One job at each of these accounts."""
    batch = Batch(out, accounts=accounts, prices=prices).set_state(out / "state")
    batch.add_cost_limit(usd=5)
    for name in jobs:
        model = MODELS["anthropic" if KINDS.get(name) == "anthropic" else "openai"]
        batch.add_job(prompt=f"{out} {name}", model=model, provider=name, max_tokens=300, id=name)
    return batch


def leave(batch: Batch, box: Sandbox) -> None:
    """Run until a server has one more batch, and leave it there."""
    known = len(list(box.ledger.batches()))

    def look(*_: Any) -> None:
        if len(list(box.ledger.batches())) > known and batch.latest_run is not None:
            batch.latest_run.cancel(detach=True)

    run = batch.run(look, 0.05)
    assert run.manifest is not None
    assert run.manifest["status"] == "detached"


def batches(servers: Mapping[str, Sandbox]) -> dict[str, int]:
    return {name: len(list(box.ledger.batches())) for name, box in servers.items()}


def collect(batch: Batch, box: Sandbox, out: Path) -> None:
    """Run to the end, and see that the server has billed nothing twice."""
    box.settle()
    run = batch.run()
    assert {result.error for result in run.iter_results()} == {None}
    billed = Counter(row.body_digest for row in box.ledger.billed())
    assert set(billed.values()) == {1}, out


def test_the_environment_points_elsewhere(
    slow: dict[str, Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the provider has joined later, or no job of today needs it."""

    def point_at(name: str) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", address_of(name, slow))
        monkeypatch.setenv("OPENAI_API_KEY", key_of(name))

    out, team = tmp_path / "out", {"team": tables(slow)["team"]}
    slow["team"].limits(seconds=0.1)
    make(out, ["team"], team).run()
    point_at("lab")
    leave(make(out, ["team", "openai"], team), slow["lab"])
    known, before = batches(slow), strangers(slow)

    point_at("openai")
    for jobs in (["team", "openai"], ["team"]):
        with pytest.raises(StateError, match="was begun with openai at"):
            make(out, jobs, team).run()

    async def look() -> Any:
        return await status(await open_run(out, state=str(out / "state")))

    with pytest.raises(ProviderError, match="were sent to"):
        asyncio.run(look())
    assert batches(slow) == known
    assert strangers(slow) == before
    point_at("lab")
    assert [line.batch_id is not None for line in asyncio.run(look())] == [True]
    collect(make(out, ["team", "openai"], team), slow["lab"], out)


def test_an_account_with_the_name_of_its_kind_is_gone(
    slow: dict[str, Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the environment is not asked for what another key has bought."""
    out, accounts = tmp_path / "out", {"openai": tables(slow)["openai"]}
    leave(make(out, ["openai"], accounts), slow["openai"])
    known = batches(slow)
    monkeypatch.setenv("OPENAI_BASE_URL", address_of("openai", slow))
    monkeypatch.setenv("OPENAI_API_KEY", "sandbox-of-somebody")
    with pytest.raises(StateError, match="not given any more"):
        make(out, ["openai"], {}).run()
    assert batches(slow) == known
    collect(make(out, ["openai"], accounts), slow["openai"], out)


def test_an_account_is_renamed(servers: dict[str, Sandbox], tmp_path: Path) -> None:
    """Nothing is paid again for the name; both can be given where both are meant."""
    out, lab = tmp_path / "out", tables(servers)["lab"]
    make(out, ["lab"], {"lab": lab}).run()
    known = batches(servers)
    for _ in range(2):
        with pytest.raises(StateError, match=r"'lab', which is called 'other'.*Nothing was sent"):
            make(out, ["other"], {"other": lab}).run()
    assert batches(servers) == known
    run = make(out, ["lab", "other"], {"lab": lab, "other": lab}).run()
    assert {result.error for result in run.iter_results()} == {None}
    assert batches(servers) == known | {"lab": known["lab"] + 1}


def test_an_account_is_renamed_that_has_bought_nothing(
    servers: dict[str, Sandbox], tmp_path: Path
) -> None:
    """What was refused before it was created is not paid again under another name."""
    out, lab = tmp_path / "out", tables(servers)["lab"]
    servers["lab"].limits(keys=["another"])
    try:
        with pytest.raises(ProviderError):
            make(out, ["lab"], {"lab": lab}).run()
    finally:
        servers["lab"].limits(keys=[key_of("lab")])
    known = batches(servers)
    run = make(out, ["other"], {"other": lab}).run()
    assert {result.error for result in run.iter_results()} == {None}
    assert batches(servers) == known | {"lab": known["lab"] + 1}


def test_what_an_account_costs_that_is_gone(
    slow: dict[str, Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in flight there costs what the list says, and the next jobs are sent."""
    monkeypatch.setattr(OpenAI, "hosts", ("127.0.0.1",))
    out, known = tmp_path / "out", tables(slow)

    def batch(jobs: list[str], accounts: list[str]) -> Batch:
        prices = {MODELS["anthropic"]: PRICES[MODELS["anthropic"]]}
        return make(out, jobs, {name: known[name] for name in accounts}, prices)

    leave(batch(["lab"], ["lab"]), slow["lab"])
    slow["lab"].settle()
    slow["team"].limits(seconds=0.1)
    monkeypatch.delenv(known["lab"]["api_key_env"])
    with pytest.raises(MissingCredentialsError, match="earlier start is in flight at lab"):
        batch(["team"], ["team"]).run()
    monkeypatch.setenv(known["lab"]["api_key_env"], key_of("lab"))
    run = batch(["team"], ["team"]).run()
    assert run.manifest is not None
    assert run.manifest["counts"]["completed"] == 1
    (billed,) = list(slow["lab"].ledger.billed())[-1:]
    told = run.manifest["by_provider"]["lab"]["cost_usd"]
    assert told == pytest.approx(float(billed.cost_usd or 0), abs=1e-9)


def test_an_account_is_gone_with_a_batch_in_flight(
    slow: dict[str, Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records know where it is; its key may be another one meanwhile."""
    out, known = tmp_path / "out", tables(slow)
    leave(make(out, ["lab"], {"lab": known["lab"]}), slow["lab"])
    slow["lab"].limits(keys=["rotated"])
    monkeypatch.setenv(known["lab"]["api_key_env"], "rotated")
    try:
        slow["lab"].settle()
        slow["team"].limits(seconds=0.1)
        run = make(out, ["team"], {"team": known["team"]}).run()
        assert run.manifest is not None
        assert [each["answered"] for each in run.manifest["batches"]] == [1, 1]
        collect(make(out, ["lab", "team"], known), slow["lab"], out)
    finally:
        slow["lab"].limits(keys=[key_of("lab")])


def test_canceled_without_the_run_although_one_account_is_dead(
    slow: dict[str, Sandbox], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other account's batches are not left running for it."""
    out, known = tmp_path / "out", tables(slow)
    names = ["lab", "team"]
    accounts = {name: known[name] for name in names}
    # Those of `lab` stand first, and `team` is the last to be sent to.
    leave(make(out, names, accounts), slow["team"])
    state = str(out / "state")

    async def look() -> list[Any]:
        return await status(await open_run(out, state=state))

    slow["lab"].limits(keys=["another"])
    try:
        assert [bool(line.trouble) for line in asyncio.run(look())] == [True, False]
        code = cancel_batches(str(out), state=state)
    finally:
        slow["lab"].limits(keys=[key_of("lab")])
    said = capsys.readouterr()
    assert code == 1
    assert "1 provider batches cancelled" in said.out
    assert "1 may go on there" in said.err
    ends = {name: list(slow[name].ledger.batches())[-1].status for name in names}
    assert ends["team"] in {"canceling", "ended"}
    assert ends["lab"] not in {"cancelling", "cancelled"}


def test_what_an_account_said_that_is_gone(servers: dict[str, Sandbox], tmp_path: Path) -> None:
    """No job of today needs it, and its replies are nowhere any more: they are fetched again."""
    known, url = tables(servers), f"file://{tmp_path}/out"

    def batch(name: str) -> Batch:
        made = Batch(url, run_key=url, accounts={name: known[name]}, prices=PRICES)
        made.set_state(tmp_path / "state")
        model = MODELS[KINDS[name]]
        return made.add_job(prompt=url, model=model, provider=name, max_tokens=90, id=name)

    run = batch("lab").run()
    for place in (run.results_dir, tmp_path / "out" / "raw_files"):
        shutil.rmtree(place)
    run = batch("team").run()
    assert [result.error for result in run.iter_results()] == [None]
    assert len(list((tmp_path / "out" / "raw_files" / "responses").iterdir())) == 2
