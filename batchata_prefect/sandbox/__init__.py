"""A local server that speaks the providers' batch APIs, strictly and without a key.

`Sandbox` runs it beside a test; `python -m batchata_prefect.sandbox` runs it in the foreground.
It imports nothing of the rest of the package, so that what it says of the providers is a second
opinion and not an echo.
"""

from __future__ import annotations

from .control import Sandbox, SandboxError
from .ledger import BatchRow, BilledRow, FileRow, Ledger

__all__ = ["BatchRow", "BilledRow", "FileRow", "Ledger", "Sandbox", "SandboxError", "body_digest"]


def body_digest(body: object) -> str:
    """The digest under which the ledger knows Anthropic's `params` or OpenAI's `body`."""
    # Kept out of the import: a program that only starts a sandbox need not load orjson.
    from .wire import body_digest as digest

    return digest(body)
