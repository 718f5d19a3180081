"""Answers that are not whole: cut off, paused, of unknown end, or never given at all."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from batchata_prefect import Batch, JobResult, ValidationError
from tests.flows.places import CLAUDE, GPT, Place, ask, new_batch

pytestmark = pytest.mark.usefixtures("prefect_server")

BOTH = pytest.mark.parametrize("model", [CLAUDE, GPT])
ALL = pytest.mark.parametrize(
    ("model", "endpoint"), [(CLAUDE, None), (GPT, None), (GPT, "/v1/responses")]
)


def only(batch: Batch) -> JobResult:
    (result,) = list(batch.run().iter_results())
    return result


@ALL
def test_text_that_was_cut_off_is_failed_and_kept(
    tmp_path: Path, bodies, model: str, endpoint: str | None
) -> None:
    """It is half an answer: its text is kept, and taken as the answer only where that is asked."""
    found = only(ask(new_batch(tmp_path), tmp_path, model, "truncated", endpoint=endpoint))
    assert (found.status, found.error_code) == ("failed", "truncated")
    assert found.raw_response
    batch = new_batch(tmp_path).set_default_params(accept_truncated=True)
    taken = only(ask(batch, tmp_path, model, "truncated", endpoint=endpoint))
    assert (taken.status, taken.error_code) == ("completed", None)
    assert taken.raw_response == found.raw_response
    assert len(bodies()) == 1, "what is there is read again, and not bought again"


@ALL
def test_text_that_was_cut_off_gets_more_tokens(
    tmp_path: Path, bodies, model: str, endpoint: str | None
) -> None:
    """With max_reasks it is asked again with more room, and the whole text is the answer."""
    text = " ".join(f"word{n}" for n in range(40))
    batch = new_batch(tmp_path, max_reasks=2).set_default_params(max_tokens=40)
    found = only(ask(batch, tmp_path, model, f"reply {text}", endpoint=endpoint))
    assert (found.status, found.raw_response) == ("completed", text)
    assert [each.error_code for each in found.attempts] == ["truncated", "truncated", None]
    assert len(set(bodies())) == 3


@BOTH
def test_the_canary_sees_what_was_cut_off(tmp_path: Path, sandbox, model: str) -> None:
    """A sample of half answers holds the others back."""
    batch = new_batch(tmp_path)
    for n in range(6):
        ask(batch, tmp_path, model, "truncated", id=f"j{n}")
    run = batch.run(canary=2)
    assert run.manifest is not None
    failures = run.manifest["failures"]
    assert {code: each["count"] for code, each in failures.items()} == {
        "truncated": 2,
        "canary_failed": 4,
    }


@pytest.mark.parametrize(
    ("model", "endpoint", "word", "code"),
    [
        (CLAUDE, None, "model_context_window_exceeded", "truncated"),
        (CLAUDE, None, "novelty", "unknown_stop"),
        (GPT, None, "abort", "unknown_stop"),
        (GPT, "/v1/responses", "max_messages", "truncated"),
        (GPT, "/v1/responses", "novelty", "truncated"),
    ],
)
def test_no_reason_to_stop_is_a_silent_success(
    tmp_path: Path, bodies, model: str, endpoint: str | None, word: str, code: str
) -> None:
    """What no provider documents as an end is none; a full window gets no more tokens."""
    batch = new_batch(tmp_path, max_reasks=0 if code == "unknown_stop" else 1)
    found = only(ask(batch, tmp_path, model, f"stop {word}", endpoint=endpoint))
    assert (found.status, found.error_code) == ("failed", code)
    assert found.raw_response
    assert word in (found.stop_reason or "")
    if word == "model_context_window_exceeded":
        assert len(bodies()) == 1


def test_accept_truncated_is_true_or_false(tmp_path: Path) -> None:
    """A text of a table, such as "false", is refused and not taken for true."""
    with pytest.raises(ValidationError, match="accept_truncated"):
        ask(new_batch(tmp_path), tmp_path, CLAUDE, "truncated", accept_truncated="false")


def test_a_row_takes_what_was_cut_off(tmp_path: Path, sandbox) -> None:
    """The same as a field of a row of jobs, for that job alone."""
    rows = tmp_path / "jobs.jsonl"
    jobs = [
        {"id": f"j{n}", "prompt": f"{tmp_path} {n} [[sandbox:truncated]]", "model": GPT}
        | ({"accept_truncated": True} if n else {})
        for n in range(4)
    ]
    rows.write_text("\n".join(map(json.dumps, jobs)))
    results = new_batch(tmp_path).add_rows(rows).run().iter_results()
    assert [each.error_code for each in results] == ["truncated", None, None, None]


def accepts(batch: Batch) -> bool:
    spool = batch._intake.spool  # pyright: ignore[reportPrivateUsage]
    assert spool is not None
    spool.seal()
    return spool.reader().context(0).accept_truncated


def test_every_way_in_takes_accept_truncated(tmp_path: Path) -> None:
    """The command, the deployed flow and the block say it as Python does."""
    from batchata_prefect.blocks import JobsFile
    from batchata_prefect.cli.orders import Order
    from batchata_prefect.cli.serving import _parameters  # pyright: ignore[reportPrivateUsage]
    from flows.jobs_from_file import jobs_from_file

    rows = tmp_path / "jobs.jsonl"
    rows.write_text(json.dumps({"id": "a", "prompt": "Hello"}))
    for wanted in (True, False):
        told = {"model": GPT, "accept_truncated": wanted}
        assert accepts(Order(str(rows), tmp_path / f"a{wanted}", told).batch()) is wanted
        parameters = _parameters(str(rows), told, str(tmp_path / "b"))
        assert parameters.get("accept_truncated", False) is wanted
        assert set(parameters) <= set(jobs_from_file.parameters.properties)
        place = str(tmp_path / f"c{wanted}")
        block = JobsFile(jobs=str(rows), model=GPT, results_dir=place, accept_truncated=wanted)
        assert accepts(block._batch("k")) is wanted  # pyright: ignore[reportPrivateUsage]


PARTS = ["I look for part 1. ", "I look for part 2. "]


def test_a_paused_turn_fails_where_nothing_may_be_asked_again(tmp_path: Path, bodies) -> None:
    """Half a turn is no answer, and what was said is kept."""
    found = only(ask(new_batch(tmp_path), tmp_path, CLAUDE, "paused"))
    assert (found.status, found.error_code, found.stop_reason) == ("failed", "paused", "pause_turn")
    assert found.raw_response == PARTS[0]
    assert len(bodies()) == 1


def test_a_paused_turn_is_continued_until_its_end(tmp_path: Path, bodies) -> None:
    """Each time with all that the model has said, and the answer is the whole turn."""
    found = only(ask(new_batch(tmp_path, max_reasks=2), tmp_path, CLAUDE, "paused 2"))
    assert (found.status, found.error_code, found.stop_reason) == ("completed", None, "end_turn")
    assert [each.error_code for each in found.attempts] == ["paused", "paused", None]
    assert (found.raw_response or "").startswith("".join(PARTS))
    assert len(found.raw_response or "") > len("".join(PARTS))
    assert len(set(bodies())) == 3
    assert found.cost_usd == pytest.approx(sum(each.cost_usd or 0 for each in found.attempts))
    again = only(ask(new_batch(tmp_path, max_reasks=2), tmp_path, CLAUDE, "paused 2"))
    assert again == found, "a restart reads the same out of the replies"
    assert len(bodies()) == 3


def test_a_paused_turn_ends_with_its_reasks(tmp_path: Path, bodies) -> None:
    """What was said in all of its parts is kept, and a later run with more goes on from there."""
    found = only(ask(new_batch(tmp_path, max_reasks=1), tmp_path, CLAUDE, "paused 2"))
    assert (found.error_code, found.raw_response) == ("paused", "".join(PARTS))
    found = only(ask(new_batch(tmp_path, max_reasks=2), tmp_path, CLAUDE, "paused 2"))
    assert found.status == "completed"
    assert len(set(bodies())) == len(bodies()) == 3


def test_a_form_is_read_behind_a_pause(tmp_path: Path, bodies) -> None:
    """What was said before the last work of a tool is no part of the form."""
    batch = new_batch(tmp_path, max_reasks=1)
    found = only(ask(batch, tmp_path, CLAUDE, "paused 1", response_model=Place))
    assert found.parsed_response == Place(city="Oslo", population=717710)
    assert len(bodies()) == 2


def test_a_continued_turn_stays_in_the_budget(tmp_path: Path, bodies) -> None:
    """Its request is longer than the one before it, and is sent only where that still fits."""
    batch = ask(new_batch(tmp_path, max_reasks=3), tmp_path, CLAUDE, "paused 3")
    planned = batch.run(dry_run=True).planned
    assert planned is not None
    batch.add_cost_limit(usd=planned["cost_upper_usd"] * 1.01)
    run = batch.run()
    assert len(bodies()) == 1
    assert float(run.status()["cost_usd"]) <= planned["cost_upper_usd"] * 1.01


def test_the_final_answer_is_the_answer(tmp_path: Path, sandbox) -> None:
    """What a model remarks on the way, and labels so, is no part of it."""
    batch = new_batch(tmp_path).set_default_params(endpoint="/v1/responses")
    found = only(ask(batch, tmp_path, GPT, "commentary", response_model=Place))
    assert found.parsed_response == Place(city="Oslo", population=717710)
    assert "register" not in (found.raw_response or "")


@BOTH
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_batch_that_expired_without_rows(
    tmp_path: Path, sandbox, model: str, fraction: float
) -> None:
    """Its jobs are expired, never missing, and sent again."""
    provider = "anthropic" if model == CLAUDE else "openai"
    sandbox.fault(provider, mode="batch_expired", fraction=fraction, bare=True)
    batch = new_batch(tmp_path)
    for n in range(4):
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, id=f"j{n}")
    results = list(batch.run().iter_results())
    assert [each.status for each in results] == ["completed"] * 4
    codes = [[attempt.error_code for attempt in each.attempts] for each in results]
    assert sorted(codes, key=len) == [[None]] * int(4 * fraction) + [["expired", None]] * int(
        4 * (1 - fraction)
    )


@BOTH
def test_a_batch_that_was_canceled_at_the_provider_without_rows(
    tmp_path: Path, sandbox, model: str
) -> None:
    """Its jobs are canceled, never missing, and go out with the next run."""
    provider = "anthropic" if model == CLAUDE else "openai"
    sandbox.fault(provider, mode="no_unrun_rows")
    sandbox.limits(seconds=5)
    try:
        batch = new_batch(tmp_path)
        for n in range(4):
            batch.add_job(prompt=f"{tmp_path} {n}", model=model, id=f"j{n}")
        run = batch._prepare(None, 0.1)  # pyright: ignore[reportPrivateUsage]
        flights = run._session.flights  # pyright: ignore[reportPrivateUsage]
        path = {
            "anthropic": "anthropic/v1/messages/batches",
            "openai": "openai/v1/batches",
        }[provider]

        def cancel() -> None:
            while not any(each.batch for each in flights.values()):
                time.sleep(0.02)
            time.sleep(0.5)
            (batch_id,) = [each.batch.batch_id for each in flights.values() if each.batch]
            key = sandbox.environment()[f"{provider.upper()}_API_KEY"]
            request = urllib.request.Request(
                f"{sandbox.url}/{path}/{batch_id}/cancel",
                method="POST",
                headers={"Authorization": f"Bearer {key}", "anthropic-version": "2026-10-21"},
            )
            urllib.request.urlopen(request).close()

        thread = threading.Thread(target=cancel)
        thread.start()
        results = list(run.execute().iter_results())
        thread.join()
    finally:
        sandbox.limits(seconds=0.1)
    codes = {each.error_code for each in results}
    assert codes <= {None, "canceled"} and "canceled" in codes
    assert {each.status for each in results if each.error_code} == {"cancelled"}
    batch = new_batch(tmp_path)
    for n in range(4):
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, id=f"j{n}")
    assert [each.status for each in batch.run().iter_results()] == ["completed"] * 4
