"""What a process loads before it needs it: told by its modules, since times vary by machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "anthropic", "datasets", "duckdb", "fsspec", "genai_prices", "httpx2", "jsonschema", "numpy",
    "openai", "pandas", "polars", "prefect", "pyarrow", "pypdf", "rapidfuzz", "rich", "starlette",
]  # fmt: skip


def loaded(code: str, *arguments: str) -> list[str]:
    """Heavy libraries that some code loads in a process of its own."""
    tell = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code + tell, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_import_loads_next_to_nothing() -> None:
    """`import batchata_prefect` loads none of the libraries, not even pydantic or asyncio."""
    none_of_them = "assert not {'pydantic', 'asyncio'} & set(sys.modules)"
    assert loaded(f"import sys, batchata_prefect; {none_of_them}") == []


def test_adding_text_jobs_loads_neither_prefect_nor_sdks_nor_prices(tmp_path: Path) -> None:
    """Building a batch of prompts loads none of the libraries."""
    code = (
        "import sys; from batchata_prefect import Batch\n"
        "b = Batch(sys.argv[1]).set_default_params(model='gpt-6-luna')\n"
        "for n in range(5): b.add_job(prompt=f'p{n}')\n"
        "b.set_default_params(model='claude-haiku-4-5').add_job(prompt='p')"
    )
    assert loaded(code, str(tmp_path)) == []


@pytest.mark.parametrize(
    ("model", "own", "other"),
    [("gpt-6-luna", "openai", "anthropic"), ("claude-haiku-4-5", "anthropic", "openai")],
)
def test_a_run_loads_the_sdk_of_its_provider_alone(
    tmp_path: Path, sandbox, prefect_server, model: str, own: str, other: str
) -> None:
    """A run of one provider loads its SDK, and nothing of the other, of PDFs or of tables."""
    from prefect.settings import PREFECT_API_URL

    code = (
        "import os, sys; os.environ['PREFECT_API_URL'] = sys.argv[3]\n"
        "from batchata_prefect import Batch\n"
        "b = Batch(sys.argv[1] + '/out').set_state(sys.argv[1] + '/state')\n"
        "b.set_default_params(model=sys.argv[2]).add_job(prompt='p').run()"
    )
    found = set(loaded(code, str(tmp_path), model, str(PREFECT_API_URL.value())))
    assert own in found
    assert found.isdisjoint({other, "pypdf", "pandas", "polars", "pyarrow", "duckdb", "datasets"})
