"""What Prefect is told of a run: artifacts that are updated in place, and events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import get_client
from prefect.assets import Asset
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from batchata_prefect import Batch
from batchata_prefect.views.artifacts import asset_key
from batchata_prefect.views.escapes import markdown

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What is emitted meanwhile, kept by Prefect's own client for tests."""
    AssertingEventsClient.reset()
    EventsWorker.drain_all()
    EventsWorker.set_client_override(AssertingEventsClient)
    yield EventsWorker.instance()
    EventsWorker.drain_all()
    EventsWorker.set_client_override(None)


def told(prefix: str = "batchata.") -> list[Any]:
    """Our events, oldest first, once all are there: nothing may emit any meanwhile."""
    EventsWorker.drain_all()
    return heard(prefix)


def heard(prefix: str = "batchata.") -> list[Any]:
    """Those that are there by now."""
    return [
        event
        for client in AssertingEventsClient.all
        # One that was made this moment has no list yet.
        for event in getattr(client, "events", ())
        if event.event.startswith(prefix)
    ]


def make(tmp_path: Path, jobs: int = 6, **told_: Any) -> Batch:
    batch = Batch(tmp_path / "out", items_per_batch=2, **told_)
    for n in range(jobs):
        model = ("claude-sonnet-5-5", "gpt-6-luna")[n % 2]
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, max_tokens=100, id=f"j{n}")
    return batch


def artifacts(flow_run_id: Any) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        asked = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        found = client.read_artifacts(artifact_filter=asked)
    # Prefect keeps the return value as one more, without a type.
    found = [each for each in found if each.type is not None]
    assert len({each.type for each in found}) == len(found), "made once, updated afterwards"
    return {str(each.type): each for each in found}


def test_the_artifacts_of_a_run(tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress, a table of provider batches and the report stand on the flow run, once each."""
    monkeypatch.setenv("BATCHATA_SHOW_SECONDS", "0.05")
    run = make(tmp_path).run()
    found = artifacts(run.flow_run_id)
    assert set(found) == {"progress", "table", "markdown"}
    assert found["progress"].data == 100.0
    assert "6 of 6 jobs answered" in found["progress"].description
    rows = orjson.loads(found["table"].data)
    assert len(rows) == 4
    assert {row["state"] for row in rows} == {"ended"}
    assert sum(row["answered"] for row in rows) == 6
    assert {row["model"] for row in rows} == {"claude-sonnet-5-5", "gpt-6-luna"}
    assert markdown(f"{run.results_dir}/results.jsonl") in found["markdown"].data


def test_the_results_are_an_asset(tmp_path: Path, sandbox, events: Any) -> None:
    """With rows, failures and cost; once for what is made once, and none without an answer."""
    batch = make(tmp_path)
    batch.add_job(prompt=f"{tmp_path} [[sandbox:truncated]]", model="gpt-6-luna", max_tokens=100)
    run = batch.run()
    (made,) = told("prefect.asset.materialization")
    assert made.event == "prefect.asset.materialization.succeeded"
    assert made.resource.id == asset_key(f"{tmp_path}/out/results.jsonl")
    assert made.payload["rows"] == 7
    assert (made.payload["answered"], made.payload["failed"]) == (6, 1)
    assert made.payload["cost_usd"] == run.status()["cost_usd"]
    related = {each.id for each in made.related}
    assert f"prefect.flow-run.{run.flow_run_id}" in related
    again = make(tmp_path)
    again.add_job(prompt=f"{tmp_path} [[sandbox:truncated]]", model="gpt-6-luna", max_tokens=100)
    again.run()
    assert len(told("prefect.asset.materialization")) == 1
    none = Batch(tmp_path / "none")
    none.add_job(prompt=f"{tmp_path} [[sandbox:truncated]]", model="gpt-6-luna", max_tokens=100)
    none.run()
    assert len(told("prefect.asset.materialization")) == 1


def test_an_asset_that_cannot_be_told_is_no_matter(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on without it."""

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("batchata_prefect.views.artifacts.materialize", broken)
    assert len(make(tmp_path).run().results()["completed"]) == 6


@given(st.text(min_size=1, max_size=600))
@example("s3://key:secret@bucket/a b/%41?x=1#y")
@example("/a/\ud800")
@example("S3+x://B/ü")
def test_any_place_is_a_key(place: str) -> None:
    """Of any path or URL, and without what stands before an @ in a URL."""
    key = asset_key(place)
    assert Asset(key=key).key == key
    assert "secret" not in key


def test_places_that_look_alike_have_keys_of_their_own() -> None:
    """What Prefect does not take in a key is replaced, and told apart."""
    assert asset_key("s3://b/out/results.jsonl") == "s3://b/out/results.jsonl"
    assert asset_key("/srv/out/results.jsonl") == "file:///srv/out/results.jsonl"
    places = ["/a b", "/a_b", "/a%b", "/a" + "b" * 600, "/a" + "b" * 601]
    assert len({asset_key(place) for place in places}) == len(places)


def test_the_events_of_a_run(tmp_path: Path, sandbox, events: Any) -> None:
    """One for what happens to a batch or the run, with labels to match on; none for a job."""
    run = make(tmp_path).run()
    found = told()
    names = [event.event for event in found]
    assert names.count("batchata.batch.submitted") == names.count("batchata.batch.ended") == 4
    assert names.count("batchata.run.finished") == 1
    assert len(names) == 9
    ended = next(event for event in found if event.event == "batchata.batch.ended")
    assert ended.resource["batchata.provider"] in {"anthropic", "openai"}
    assert ended.payload["answered"] == ended.payload["jobs"]
    last = found[-1]
    assert last.resource["prefect.resource.id"] == f"batchata.run.{run.flow_run_id}"
    assert last.resource["batchata.status"] == "completed"
    assert last.payload["counts"]["completed"] == 6


def test_a_batch_that_fails_and_a_limit_that_is_reached(
    tmp_path: Path, sandbox, events: Any
) -> None:
    """What a person has to look at has events of its own."""
    batch = make(tmp_path, jobs=40, prices={"gpt-6-luna": {"input": 1000.0, "output": 1000.0}})
    batch.add_cost_limit(usd=1).run()
    names = {event.event: event for event in told()}
    assert names["batchata.budget.exhausted"].payload["limit_usd"] == 1
    assert names["batchata.budget.exhausted"].payload["jobs"] > 0


def test_costs_are_told_at_round_numbers(tmp_path: Path, sandbox, events: Any) -> None:
    """1, 2, 5, 10, ... USD once each, so that an automation can match on one of them."""
    price = {"input": 20_000.0, "output": 20_000.0}
    run = make(tmp_path, jobs=4, prices={"gpt-6-luna": price}).run()
    cost = run.status()["cost_usd"]
    steps = [int(e.resource["batchata.usd"]) for e in told() if e.event == "batchata.cost.passed"]
    known = [step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step <= cost]
    assert sorted(steps) == known and known


def test_a_prefect_without_events_does_not_hold_a_run_up(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be told is left out."""

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("batchata_prefect.views.events.emit_event", broken)
    assert len(make(tmp_path).run().results()["completed"]) == 6
