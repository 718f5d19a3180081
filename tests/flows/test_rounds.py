"""Rounds: what may be sent again goes out again, changed where that helps, and no more often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import ValidationError
from tests.flows.places import CLAUDE, GPT, Place, ask, new_batch

pytestmark = pytest.mark.usefixtures("prefect_server")

MODELS = pytest.mark.parametrize("model", [CLAUDE, GPT])


@MODELS
def test_invalid_output_is_asked_again(tmp_path: Path, sandbox, bodies, model: str) -> None:
    """The second answer, asked for with what was wrong with the first, is the result."""
    batch = new_batch(tmp_path, max_reasks=1)
    ask(batch, tmp_path, model, "first invalid_json", response_model=Place)
    (result,) = batch.run().results()["completed"]
    assert result.parsed_response == Place(city="Oslo", population=717710)
    assert [attempt.error_code for attempt in result.attempts] == ["invalid_json", None]
    assert len(set(bodies())) == 2, "the two requests differ"
    assert result.cost_usd == pytest.approx(sum(a.cost_usd or 0 for a in result.attempts))


@MODELS
def test_nothing_is_asked_again_unasked(tmp_path: Path, sandbox, bodies, model: str) -> None:
    """By default an answer that is not as asked is a failure, paid once."""
    batch = new_batch(tmp_path)
    ask(batch, tmp_path, model, "first invalid_json", response_model=Place)
    (result,) = batch.run().results()["failed"]
    assert result.error_code == "invalid_json"
    assert len(bodies()) == 1


@MODELS
def test_a_cut_off_answer_gets_more_tokens(tmp_path: Path, sandbox, bodies, model: str) -> None:
    """It is asked once more with twice the output tokens, until the answer fits."""
    text = " ".join(f"word{n}" for n in range(40))
    batch = new_batch(tmp_path, max_reasks=2)
    batch.set_default_params(max_tokens=40)
    reply = orjson.dumps({"city": text, "population": 1}).decode()
    ask(batch, tmp_path, model, f"reply {reply}", response_model=Place)
    (result,) = batch.run().results()["completed"]
    assert result.parsed_response == Place(city=text, population=1)
    codes = [attempt.error_code for attempt in result.attempts]
    assert codes == ["truncated", "truncated", None]
    assert len(set(bodies())) == 3


def test_reasks_end(tmp_path: Path, sandbox, bodies) -> None:
    """A job that never answers as asked is asked `max_reasks` times more, and fails."""
    batch = new_batch(tmp_path, max_reasks=2)
    ask(batch, tmp_path, CLAUDE, "invalid_json", response_model=Place)
    (result,) = batch.run().results()["failed"]
    assert result.error_code == "invalid_json"
    assert len(result.attempts) == len(bodies()) == 3
    run = ask(
        new_batch(tmp_path, max_reasks=2), tmp_path, CLAUDE, "invalid_json", response_model=Place
    ).run()
    assert len(run.results()["failed"]) == 1
    assert len(bodies()) == 3, "and not again in the next run"


def test_more_reasks_in_the_next_run(tmp_path: Path, sandbox, bodies) -> None:
    """A next run with more reasks asks only the failed jobs again, in the changed form."""
    for reasks in (0, 1):
        batch = new_batch(tmp_path, max_reasks=reasks)
        ask(batch, tmp_path, GPT, "first invalid_json", response_model=Place)
        batch.add_job(prompt=f"{tmp_path} hello", model=GPT, id="b")
        run = batch.run()
    assert len(run.results()["completed"]) == 2
    assert len(bodies()) == len(set(bodies())) == 3


def test_a_reask_stays_in_the_budget(tmp_path: Path, sandbox, bodies) -> None:
    """What does not fit any more is not asked again."""
    batch = new_batch(tmp_path, max_reasks=3)
    ask(batch, tmp_path, CLAUDE, "invalid_json", response_model=Place)
    planned = batch.run(dry_run=True).planned
    assert planned is not None
    batch.add_cost_limit(usd=planned["cost_upper_usd"] * 1.01)
    run = batch.run()
    assert len(bodies()) == 1
    assert len(run.results()["failed"]) == 1
    assert float(run.status()["cost_usd"]) <= planned["cost_upper_usd"] * 1.01


@MODELS
def test_a_failing_job_does_not_fail_its_neighbours(tmp_path: Path, sandbox, model: str) -> None:
    """Attempts go on for the one job alone, and end at `max_attempts` with all their errors."""
    batch = new_batch(tmp_path, max_attempts=3)
    kind = "api_error" if model == CLAUDE else "server_error"
    ask(batch, tmp_path, model, f"errored {kind}")
    for n in range(5):
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, id=f"good-{n}")
    run = batch.run()
    results = run.results()
    assert len(results["completed"]) == 5
    (failed,) = results["failed"]
    assert [attempt.error_code for attempt in failed.attempts] == [kind] * 3
    assert run.manifest is not None
    assert [batch["jobs"] for batch in run.manifest["batches"]] == [6, 1, 1]


REFUSALS = [
    (
        GPT,
        "batch_failed",
        {"code": "invalid_request", "message": "Unknown value", "param": "body.x", "line": 3},
    ),
    (
        CLAUDE,
        "status",
        {
            "status": 400,
            "error_type": "invalid_request_error",
            "message": "requests.2.params.metadata: Extra inputs are not permitted",
        },
    ),
]


@pytest.mark.parametrize(("model", "mode", "options"), REFUSALS)
def test_one_bad_request_does_not_fail_the_batch(
    tmp_path: Path, sandbox, bodies, model: str, mode: str, options: dict[str, Any]
) -> None:
    """A batch refused whole for one of its requests goes out again without it."""
    provider = "openai" if model == GPT else "anthropic"
    sandbox.fault(provider, operation="create", mode=mode, **options)
    batch = new_batch(tmp_path)
    for n in range(5):
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, id=f"j{n}")
    results = batch.run().results()
    assert sorted(result.job_id for result in results["completed"]) == ["j0", "j1", "j3", "j4"]
    (failed,) = results["failed"]
    assert failed.job_id == "j2"
    assert failed.error_code in {"invalid_request", "invalid_request_error"}
    assert options["message"] in (failed.error or "")
    assert len(bodies()) == 4


def test_max_reasks_is_a_count(tmp_path: Path) -> None:
    """A negative number is refused."""
    with pytest.raises(ValidationError, match="max_reasks"):
        new_batch(tmp_path, max_reasks=-1)
