"""How much of what others wrote is read: documents, answers, replies of a server.

Every bound is far above what an honest document or answer needs. It is there for those that are
made to hang a process or to fill its memory. One that is met ends what it bounds, by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is read at most. Each is raised by `BATCHATA_MOST_<FIELD>`.

    Attributes:
        document_seconds: Time for making sense of one document.
        fetch_seconds: Time for one document of a URL to arrive.
        document_steps: Content streams of a PDF, and parts and paragraphs of a DOCX, that are
            read of one document.
        document_unpacked_bytes: Bytes that one document may unpack to while it is read.
        mapping_steps: Steps of about a microsecond for mapping an answer's citations to its
            fields; what is found within them has a low confidence.
        reply_bytes: Bytes of one reply of a provider's API, unpacked.
        row_bytes: Bytes of one row of a provider's results.
        row_values: Values in one row, and in one reply: a parser holds the interpreter until it is
            done, for about half a microsecond each, and the lease is not renewed meanwhile.
        token_bytes: Bytes of a results file for each token that its requests may be answered
            with: an image of some thousand tokens comes as megabytes.
    """

    document_seconds: float = 60.0
    fetch_seconds: float = 300.0
    document_steps: int = 50_000
    document_unpacked_bytes: int = 300_000_000
    mapping_steps: int = 2_000_000
    reply_bytes: int = 64_000_000
    row_bytes: int = 64_000_000
    row_values: int = 5_000_000
    token_bytes: int = 600

    @classmethod
    def from_environment(cls) -> Bounds:
        """The defaults, or what `BATCHATA_MOST_<FIELD>` says.

        Raises:
            ValueError: A variable holds no number above 0; its text names it.
        """
        values: dict[str, float] = {}
        for name in cls.__dataclass_fields__:
            variable = f"BATCHATA_MOST_{name.upper()}"
            if text := os.environ.get(variable):
                number = float(text) if name.endswith("seconds") else int(text)
                if number <= 0:
                    raise ValueError(f"{variable} is {text}; give a number above 0")
                values[name] = number
        return cls(**values)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1)
def bounds() -> Bounds:
    """The bounds of this process, read from the environment once."""
    return Bounds.from_environment()


class Work:
    """What some work may cost, in steps of about a microsecond; counted by who does it."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def goes_on(self, steps: int) -> bool:
        """Count some steps; whether there are any left."""
        if self.left > 0:
            self.left -= steps
        return self.left > 0
