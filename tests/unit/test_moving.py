"""Each public name of the original library is the same here, or moving.md says what differs."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import pytest

import batchata_prefect
from batchata_prefect import Batch, BatchataError, BatchRun, Citation, Job, JobResult, errors
from batchata_prefect.answers import FieldCitations
from batchata_prefect.views.original import Config

PAGE = (Path(__file__).parents[2] / ".docs" / "pages" / "moving.md").read_text()

SAME = ""


def told_of(names: str, told: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), told)


ERRORS = {
    "BatchataError": SAME,
    "ValidationError": SAME,
    "ProviderError": SAME,
    "ProviderNotFoundError": SAME,
    "BatchSubmissionError": SAME,
    "CostLimitExceededError": SAME,
    "StateError": SAME,
    "ParseError": SAME,
    "ModelNotSupportedError": "not there: a model that no provider is known for",
    "TimeoutError": "a time limit raises nothing",
}
BATCH = {
    **told_of(
        "set_default_params set_state add_cost_limit add_time_limit raw_files "
        "set_verbosity add_job run config",
        SAME,
    ),
    "jobs": "`Batch.jobs`, `BatchRun.jobs` | not there",
}
RUN = {
    **told_of(
        "execute set_on_progress is_complete status results get_failed_jobs shutdown "
        "to_json completed_results failed_jobs cancelled_jobs results_dir pending_jobs",
        SAME,
    ),
    "jobs": "`Batch.jobs`, `BatchRun.jobs` | not there",
    "dry_run": "`BatchRun.dry_run()` | `batch.run(dry_run=True)`",
    "raw_files_dir": "`BatchRun.raw_files_dir` |",
    **told_of(
        "cost_tracker state_manager batch_tracking total_batches completed_batches "
        "current_batch_index current_batch_size",
        "`BatchRun.cost_tracker`, `.state_manager`, `.batch_tracking`, `.total_batches`, "
        "`.completed_batches`, `.current_batch_index`, `.current_batch_size` | not there",
    ),
}
RESULT = told_of(
    "job_id raw_response parsed_response citations citation_mappings input_tokens "
    "output_tokens cost_usd error batch_id is_success total_tokens to_dict from_dict "
    "save_to_json",
    SAME,
)
JOB = told_of(
    "id model messages file prompt temperature max_tokens response_model "
    "enable_citations to_dict from_dict",
    SAME,
)
CITATION = told_of("text source page metadata confidence match_reason", SAME)
CONFIG = told_of(
    "state_file results_dir max_parallel_batches items_per_batch cost_limit_usd "
    "default_params reuse_state raw_files verbosity time_limit_seconds",
    SAME,
)
EXPORTED = told_of(
    "Batch BatchRun Job JobResult Citation BatchataError CostLimitExceededError "
    "ProviderError ProviderNotFoundError ValidationError",
    SAME,
)


def names_of(kind: type) -> set[str]:
    own = {field.name for field in fields(kind)} if hasattr(kind, "__dataclass_fields__") else set()
    return {*dir(kind), *own}


@pytest.mark.parametrize(
    ("table", "there"),
    [
        (ERRORS, set(vars(errors))),
        (BATCH, names_of(Batch)),
        (RUN, names_of(BatchRun)),
        (RESULT, names_of(JobResult)),
        (JOB, names_of(Job)),
        (CITATION, names_of(Citation)),
        (CONFIG, names_of(Config)),
        (EXPORTED, set(batchata_prefect.__all__)),
    ],
    ids=["errors", "batch", "run", "result", "job", "citation", "config", "exported"],
)
def test_each_name_is_the_same_or_its_difference_is_told(
    table: dict[str, str], there: set[str]
) -> None:
    """A name that went is told of; one that came back is told of no more."""
    assert [name for name, told in table.items() if (told == SAME) != (name in there)] == []
    assert [name for name, told in table.items() if told not in PAGE] == []


def test_the_errors_are_of_the_kinds_that_they_were() -> None:
    """What caught one of the original's errors catches it here."""
    for name in (name for name, told in ERRORS.items() if told == SAME):
        assert issubclass(getattr(errors, name), BatchataError)
    for name in ("ProviderNotFoundError", "BatchSubmissionError"):
        assert issubclass(getattr(errors, name), errors.ProviderError)


def test_what_was_a_value_error_is_one(tmp_path: Path) -> None:
    """No jobs, no model, messages beside a file, a file without a prompt, numbers out of range."""
    hello = [{"role": "user", "content": "Hi"}]
    batch = Batch(str(tmp_path / "out"))
    for act in (
        batch.run,
        lambda: batch.add_job(messages=hello),
        lambda: batch.add_job(messages=hello, file="a.pdf", model="gpt-4o"),
        lambda: batch.add_job(file="a.pdf", model="gpt-4o"),
        lambda: batch.add_cost_limit(usd=-1),
        lambda: batch.add_time_limit(seconds=5),
        lambda: batch.set_verbosity("loud"),
        lambda: Batch(str(tmp_path / "other"), max_parallel_batches=0),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            act()


def test_the_config_of_a_batch_has_the_original_names(tmp_path: Path) -> None:
    """It tells what the batch was told so far, and cannot be changed."""
    batch = Batch(str(tmp_path / "out"), max_parallel_batches=2, items_per_batch=3)
    batch.set_default_params(model="gpt-4o").add_cost_limit(usd=5.0).add_time_limit(minutes=10)
    config = batch.set_verbosity("warn").config
    assert (config.max_parallel_batches, config.items_per_batch) == (2, 3)
    assert (config.cost_limit_usd, config.time_limit_seconds) == (5.0, 600)
    assert (config.default_params, config.verbosity) == ({"model": "gpt-4o"}, "warn")
    assert config.state_file is None
    with pytest.raises(AttributeError):
        config.items_per_batch = 4  # type: ignore[misc]


def test_the_name_of_a_list_field_answers_for_its_items() -> None:
    """The original's keys are names of fields; the paths of the items stay the only keys."""
    one, two, other = (Citation(text, "a.txt") for text in ("one", "two", "other"))
    found = FieldCitations(
        {"key_points[0]": [one], "key_points[1]": [one, two], "key_points_more": [other]}
    )
    assert found["key_points"] == found.get("key_points") == [one, two]
    assert found["key_points[1]"] == [one, two]
    assert "key_points" in found
    assert "points" not in found
    assert found.get("points", []) == []
    assert list(found) == ["key_points[0]", "key_points[1]", "key_points_more"]
    with pytest.raises(KeyError, match="points"):
        found["points"]
    result = JobResult("a", citation_mappings=found)
    again = JobResult.from_dict(result.to_dict())
    assert again.citation_mappings == found
    assert pickle.loads(pickle.dumps(again)).citation_mappings["key_points"] == [one, two]
