"""Requests that are filled into a form are the requests that are rendered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batchata_prefect import Batch
from batchata_prefect.models import Job
from batchata_prefect.providers import provider_for, providers
from batchata_prefect.providers.prompt_forms import prompt_form


class Answer(BaseModel):
    """An answer."""

    word: str


JOBS: list[dict[str, Any]] = [
    {"model": "gpt-6-luna", "max_tokens": 64},
    {"model": "gpt-6-luna", "params": {"system": "Be brief.", "reasoning_effort": "low"}},
    {"model": "gpt-6-luna", "endpoint": "/v1/responses", "response_model": Answer},
    {"model": "gpt-4o-mini", "temperature": 0.5, "response_model": Answer},
    {"model": "text-embedding-3-small"},
    {"model": "claude-haiku-4-5", "max_tokens": 64},
    {"model": "claude-sonnet-5-5", "params": {"system": "Kurz.", "thinking": {"type": "adaptive"}}},
    {"model": "claude-haiku-4-5", "response_model": Answer},
    {"model": "claude-haiku-4-5", "temperature": 1.0, "defaulted": frozenset({"temperature"})},
]


def render(job: Job) -> Any:
    return provider_for(job.model).render(job)


LAB = providers({"lab": {"kind": "openai", "base_url": "https://lab.test/v1", "api_key_env": "K"}})[
    "lab"
]
"""An account, which counts as its kind does."""


@pytest.mark.parametrize("values", JOBS, ids=lambda values: values["model"])
@given(prompt=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_filled_request_is_the_rendered_one(values: dict[str, Any], prompt: str):
    """Any prompt gives the same bytes and the same estimate both ways; an empty one neither."""
    job = Job(id="a", prompt="first", **values)
    form = prompt_form(provider_for(job.model), job, 10**6)
    assert form is not None
    if not prompt or prompt.isspace():
        assert form.fill(prompt) is None
    else:
        rendered = render(replace(job, prompt=prompt))
        assert form.fill(prompt) == (rendered.body, rendered.estimate)
        assert form.request._replace(body=rendered.body, estimate=rendered.estimate) == rendered


@pytest.mark.parametrize(
    "values",
    [
        {"cache_prefix": True, "params": {"system": "Long."}},
        {"params": {"system": [{"type": "text", "text": "S", "cache_control": {"type": "x"}}]}},
        {"enable_citations": True, "defaulted": frozenset({"enable_citations"})},
    ],
)
def test_jobs_whose_estimate_is_more_than_a_sum_have_no_form(values: dict[str, Any]):
    """A cache that is written doubles the bound, and prefixes are digested: no form for those."""
    job = Job(id="a", prompt="p", model="claude-haiku-4-5", **values)
    assert prompt_form(provider_for(job.model), job, 9) is None


def test_a_prompt_that_makes_the_body_too_large_is_not_filled_in():
    """What the provider would refuse for its size is left to the way that says so."""
    form = prompt_form(LAB, Job(id="a", prompt="p", model="gpt-6-luna"), 2_000)
    assert form is not None
    assert form.fill("x" * 1_000)
    assert form.fill("x" * 2_000) is None


ADDED: list[dict[str, Any]] = [
    {"prompt": "one", "id": "1"},
    {"prompt": "two"},
    {"prompt": "three", "metadata": {"a": 1}, "tags": ["x", "x", "y"]},
    {"prompt": "two"},
    {"prompt": "four", "id": "4", "max_tokens": 9},
    {"prompt": "five", "id": "5", "metadata": {}},
    {"prompt": "six", "id": "6", "max_tokens": 9, "response_model": Answer},
    {"messages": [{"role": "user", "content": "seven"}], "id": "7"},
]


def spooled(batch: Batch) -> tuple[bytes, bytes, bytes, str]:
    spool = batch._intake.spool
    assert spool is not None
    spool.seal()
    files = (spool.directory / name for name in ("bodies", "contexts", "index"))
    return (*(path.read_bytes() for path in files), spool.digest)  # pyright: ignore


@pytest.mark.parametrize("defaults", [{}, {"tags": ["d"], "metadata": {"m": 2}, "top_p": 0.5}])
def test_a_job_is_stored_the_same_whether_filled_in_or_rendered(tmp_path: Path, defaults: Any):
    """Jobs added after many of their kind leave the same bytes on disk as those added first."""
    rendered = Batch(tmp_path / "a").set_default_params(model="gpt-4o-mini", **defaults)
    filled = Batch(tmp_path / "b").set_default_params(model="gpt-4o-mini", **defaults)
    for number, job in enumerate([*ADDED, *ADDED, *ADDED]):
        named = {**job, "id": f"{job['id']}-{number}"} if "id" in job else job
        # Defaults that are set anew put an end to the forms.
        rendered.set_default_params(model="gpt-4o-mini").add_job(**named)
        filled.add_job(**named)
    assert not any(rendered._intake._forms.values())
    assert any(filled._intake._forms.values())
    assert spooled(rendered) == spooled(filled)


@pytest.mark.parametrize(
    "job", [{"id": " "}, {"id": 5}, {"tags": [""]}, {"tags": "x"}, {"metadata": {"a": object()}}]
)
def test_a_faulty_job_is_refused_after_many_of_its_kind(tmp_path: Path, job: dict[str, Any]):
    """The short way refuses what the long one does, with the same words."""
    texts: list[str] = []
    for times in (0, 3):
        batch = Batch(tmp_path).set_default_params(model="gpt-6-luna")
        for number in range(times):
            batch.add_job(prompt="p", id=f"n{number}")
        with pytest.raises(Exception, match="job") as error:
            batch.add_job(prompt="p", **job)
        texts.append(f"{type(error.value)} {error.value}".partition(" at 0x")[0])
        assert len(batch) == times
    assert texts[0] == texts[1]


def test_defaults_are_those_of_the_moment_they_were_set(tmp_path: Path):
    """A list or dict that the caller changes afterwards changes no job."""
    stop = ["END"]
    batch = Batch(tmp_path).set_default_params(model="gpt-4o-mini", stop=stop)
    for number in range(4):
        batch.add_job(prompt=f"p{number}", id=str(number))
        stop.append("MORE")
    assert b"MORE" not in spooled(batch)[0]
