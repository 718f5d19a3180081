"""What servers that speak OpenAI's Files and Batches take.

Those that are sold were not tried with a key. One that differs in nothing from the careful profile
has none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchata_prefect.providers.openai.body import CHAT, EMBEDDINGS, LIMITS, RESPONSES


@dataclass(frozen=True, slots=True)
class Profile:
    """What one server takes.

    Attributes:
        endpoints: Endpoints that its batches may have.
        max_requests: Requests of a batch.
        max_bytes: Bytes of a batch's file.
        keeps_files: Whether documents can be stored there, beside the files of batches.
        has_cache_key: Whether it takes `prompt_cache_key`.
        source: Where these facts are from.
    """

    endpoints: tuple[str, ...]
    max_requests: int
    max_bytes: int
    keeps_files: bool
    has_cache_key: bool
    source: str


CAREFUL = "careful"
"""The profile of a server of which nothing is known."""

PROFILES: Mapping[str, Profile] = {
    "openai": Profile(
        (CHAT, RESPONSES, EMBEDDINGS),
        LIMITS.max_requests,
        LIMITS.max_bytes,
        keeps_files=True,
        has_cache_key=True,
        source="developers.openai.com, guides/batch; openai/resources/files.py",
    ),
    "groq": Profile(
        (CHAT,),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="groq-python: types/batch_create_params.py (100 MB, the endpoint) and "
        "types/file_create_params.py (no purpose but batch); console.groq.com/docs/batch says "
        "50,000 lines and 200 MB. That it takes prompt_cache_key is not documented",
    ),
    "doubleword": Profile(
        (CHAT, RESPONSES, EMBEDDINGS),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="doublewordai/control-layer 10.13.1: dwctl/src/config.rs (its defaults: the paths, "
        "100 MiB a file), config.yaml (50,000 requests are its example; without it there is no "
        "limit) and api/handlers/files.rs (no purpose but batch)",
    ),
    "ogx": Profile(
        (CHAT, EMBEDDINGS),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="ogx 1.5.0: providers/inline/batches/reference/batches.py (the endpoints; it has "
        "no limit of requests or bytes, these are the careful ones), and tried",
    ),
    "aibrix": Profile(
        (CHAT, EMBEDDINGS),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="aibrix 0.8.0: batch/job_entity/batch_job.py (the endpoints), metadata/setting/"
        "config.py (100 MiB a file) and metadata/api/v1/files.py (no purpose but batch), and tried",
    ),
    CAREFUL: Profile(
        (CHAT,),
        50_000,
        100_000_000,
        keeps_files=False,
        has_cache_key=False,
        source="the least of what is documented of any such server; not verified",
    ),
}
"""By name, as `profile` of an account gives it."""
