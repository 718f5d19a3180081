"""Very large sets of LLM jobs through the providers' batch APIs, as Prefect flows.

Each job is paid once, inside a budget, and every job gets its result.

Example:
    ```python
    from batchata_prefect import Batch

    batch = Batch(results_dir="./output").set_default_params(model="claude-sonnet-5-5")
    batch.add_job(prompt="Say hello")
    run = batch.run()
    print(run.results()["completed"][0].raw_response)
    ```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchata_prefect.answers import Attempt, Citation, EndedBatch, JobResult, ToolCall, Usage
    from batchata_prefect.batch import Batch
    from batchata_prefect.errors import (
        BatchataError,
        BatchSubmissionError,
        CostLimitExceededError,
        MissingCredentialsError,
        ParseError,
        ProviderError,
        ProviderNotFoundError,
        StateError,
        ValidationError,
    )
    from batchata_prefect.models import Job
    from batchata_prefect.run import BatchRun

_HOMES = {"Batch": "batch", "BatchRun": "run", "Job": "models"}
"""Modules of the public names; of those that are not here, errors are in `errors`, and what comes
back is in `answers`."""

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - by weight: the builder first
    "Batch",
    "BatchRun",
    "Job",
    "JobResult",
    "Citation",
    "ToolCall",
    "EndedBatch",
    "Attempt",
    "Usage",
    "BatchataError",
    "ValidationError",
    "ProviderError",
    "ProviderNotFoundError",
    "MissingCredentialsError",
    "BatchSubmissionError",
    "CostLimitExceededError",
    "StateError",
    "ParseError",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used; importing the package costs nothing (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "errors" if name.endswith("Error") else "answers")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
