"""Jobs that ask for a city and its population, with an order to the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from batchata_prefect import Batch

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"


class Place(BaseModel):
    """What the structured jobs ask for."""

    city: str
    population: int


def new_batch(tmp_path: Path, **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    return batch.set_default_params(max_tokens=400)


def ask(batch: Batch, tmp_path: Path, model: str, marker: str, **more: Any) -> Batch:
    text = f"{tmp_path} [[sandbox:{marker}]]\nCity: Oslo\nPopulation: 717710"
    return batch.add_job(prompt=text, model=model, **{"id": "a", **more})
