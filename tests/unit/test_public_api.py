"""What users import, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import batchata_prefect
from batchata_prefect import Citation, Job, JobResult


def test_every_public_name_is_there() -> None:
    """All of `__all__` can be imported, each when it is first asked for."""
    for name in batchata_prefect.__all__:
        assert getattr(batchata_prefect, name).__name__ == name
    assert dir(batchata_prefect) == sorted(batchata_prefect.__all__)


def test_importing_loads_neither_prefect_nor_an_sdk() -> None:
    """A script that only builds a batch does not wait for what only a run needs."""
    program = (
        "import sys, batchata_prefect\n"
        "from batchata_prefect import Batch, JobResult\n"
        "names = ('prefect', 'anthropic', 'openai', 'genai_prices')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_type_checkers_know_the_credential_blocks_by_their_names() -> None:
    """They are made from the providers, which no type checker sees."""
    from batchata_prefect.records.credentials import BLOCKS

    source = (Path(batchata_prefect.__file__).parent / "blocks.py").read_text()
    told = re.findall(r"(\w+): TypeAlias = Credentials", source)
    assert set(told) == {block.__name__ for block in BLOCKS.values()}


def test_the_version_is_that_of_the_package() -> None:
    """One version, in two places that agree."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{batchata_prefect.__version__}"' in project


def test_results_and_jobs_are_made_as_in_the_original() -> None:
    """By place or by name; an error means failed; what is wrong is a ValueError too."""
    assert JobResult("a", "text").raw_response == "text"
    assert Citation("a", "b", 3, {"c": 1}).page == 3
    assert JobResult(job_id="a", error="boom").is_success is False
    assert (JobResult("a", error="boom").status, JobResult("a").status) == ("failed", "completed")
    assert JobResult("a", error="late", status="cancelled").status == "cancelled"
    assert Job("a", "gpt-4", [{"role": "user", "content": "Hi"}]).messages
    job = Job("a", "gpt-4", prompt="Hi", file=["a.pdf", b"12"], response_model=dict, tags=("x",))
    told = job.to_dict()
    assert (told["file"], told["response_model"], told["tags"]) == (
        ["a.pdf", "<2 bytes>"],
        "dict",
        ["x"],
    )
    assert "defaulted" not in told
    assert Job.from_dict(told).to_dict() == told
    with pytest.raises(ValueError, match=r"unknown fields \['defaulted'\]"):
        Job.from_dict({**told, "defaulted": []})
    for values in ({}, {"prompt": "a", "messages": [{}]}, {"file": "a.pdf"}):
        with pytest.raises(ValueError, match="job 'a'"):
            Job("a", "gpt-4", **values)
