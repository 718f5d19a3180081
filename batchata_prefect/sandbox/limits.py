"""The providers' limits, which a test can set lower."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .compatible import check_ways
from .wire import Json


@dataclass(slots=True)
class Limits:
    """How much the sandbox takes, and how long it makes a batch wait.

    Sources: the provider notes. Where a page says MB without more, the smaller reading is used,
    so that whatever fits here fits there.
    """

    seconds: float = 0.2
    """Time from the creation of a batch to its end."""
    max_requests: int = 100_000
    """Requests of an Anthropic batch."""
    max_bytes: int = 256_000_000
    """Body of an Anthropic batch."""
    queued_requests: int | None = None
    """Anthropic requests in batches that have not ended; more is a 429."""
    max_lines: int = 50_000
    """Lines of an OpenAI batch file."""
    max_file_bytes: int = 209_715_200
    """Size of an OpenAI batch file when a batch is made of it."""
    max_upload_bytes: int = 536_870_912
    """Size of any uploaded file."""
    embedding_inputs: int = 50_000
    """Inputs of all lines of an OpenAI embeddings batch."""
    clock_seconds: float = 0.0
    """How far its clock is ahead of this machine's, in what it says of batches and in `Date`."""
    expires_seconds: float = 86_400
    """Time from the creation of a batch to when it says that it expires; it ends none by it."""
    keeps_metadata: bool = True
    """Whether an OpenAI batch gives back the metadata that it was made with."""
    ways: list[str] = field(default_factory=list[str])
    """In what OpenAI's API here differs, as of a server that only speaks it: `compatible.WAYS`."""
    enqueued_tokens: int | None = None
    """Prompt tokens per OpenAI model, or deployment of Azure, in batches that have not ended."""
    pending_seconds: float = 0.05
    """Time after an upload to Azure in which no batch can be made of the file."""
    fails_fast: bool = True
    """Whether Azure tells by its create that there would be more, as some of its regions do."""
    keys: list[str] | None = None
    """The only keys that it takes; by default any that begins with `sandbox`."""

    def change(self, wanted: Json) -> None:
        """Set some limits.

        Raises:
            ValueError: for a name that is no limit.
        """
        names = {each.name for each in fields(self)}
        for name, value in wanted.items():
            if name not in names:
                raise ValueError(f"limit {name!r} is not one of {', '.join(sorted(names))}")
            if name == "ways":
                check_ways(value)
            setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """The limits as JSON."""
        return asdict(self)
