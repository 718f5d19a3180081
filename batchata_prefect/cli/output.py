"""What the command says: results to standard output, everything else to standard error."""

from __future__ import annotations

import errno
import sys
from typing import Any

from rich.console import Console, RenderableType

from batchata_prefect.content.exact_json import dumps
from batchata_prefect.errors import (
    BatchataError,
    ProviderNotFoundError,
    ValidationError,
)
from batchata_prefect.views.escapes import printable_json
from batchata_prefect.views.printed import say

VERSION = 1
"""Version of what `--json` prints: it grows by one when a field is taken away or changes."""


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, an account or a process that may hold no more."""


def show(what: RenderableType) -> None:
    """Print an answer for a person."""
    say(what)


def tell(what: RenderableType = "") -> None:
    """Say something beside the answer; in a log file a sentence stays in one line."""
    say(what, stderr=True)


def width() -> int:
    """Columns of the terminal."""
    return Console(stderr=True).width


def fail(text: str) -> None:
    """Say what is wrong."""
    tell(f"batchata: {text}")


def print_json(name: str, values: dict[str, Any]) -> None:
    """Print an answer for machines; its first field names and numbers its form."""
    document = {"schema": f"batchata/{name}/{VERSION}", **values}
    text = dumps(document)
    sys.stdout.write((printable_json(text) if sys.stdout.isatty() else text) + "\n")


def exit_code(error: BatchataError) -> int:
    """2 where the command or the jobs are wrong, 3 where somebody else said no."""
    return 2 if isinstance(error, (ValidationError, ProviderNotFoundError)) else 3


def of_file(error: OSError) -> str:
    """What is wrong with a file, in one sentence."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{str(error.filename)!r}: {why}"
    return f"the output cannot be written: {why}" if error.errno in FULL else why
