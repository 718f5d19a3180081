"""`python -m batchata_prefect.sandbox`: run the sandbox in the foreground."""

from __future__ import annotations

import argparse
import errno
import os
import sqlite3
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

from .control import environment_for
from .faults import Limits

_OFTEN = 0.5
_NO_ADDRESS = {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m batchata_prefect.sandbox",
        description="A local server that speaks the batch APIs of Anthropic, Gemini and OpenAI.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765, help="0 for any free port")
    parser.add_argument("--data-dir", type=Path, required=True, help="kept over restarts")
    parser.add_argument("--seconds", type=float, help="simulated processing time of a batch")
    for limit in fields(Limits):
        if limit.name not in {"seconds", "keys", "ways"}:
            flag = "--" + limit.name.replace("_", "-")
            parser.add_argument(flag, type=int, help="in place of the provider's limit")
    parser.add_argument("--keys", nargs="+", help="the only keys that it takes")
    parser.add_argument("--die-with-parent", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.die_with_parent:
        _die_with_parent()
    limits = {
        limit.name: value
        for limit in fields(Limits)
        if (value := getattr(asked, limit.name, None)) is not None
    }
    # Threads that compute must not keep a waiting call from its turn for long.
    sys.setswitchinterval(0.001)
    from .server import serve

    try:
        serve(asked.data_dir, asked.host, asked.port, limits, _announce)
    except (OSError, OverflowError, sqlite3.Error) as error:
        what = f"{asked.host} port {asked.port} cannot be served"
        is_file = isinstance(error, OSError) and (
            error.filename is not None or error.errno not in _NO_ADDRESS
        )
        if is_file or isinstance(error, sqlite3.Error):
            what = f"{str(asked.data_dir)!r} cannot be used"
        parser.exit(2, f"sandbox: {what}: {error}\n")


def _announce(url: str) -> None:
    variables = " ".join(f"{name}={value}" for name, value in environment_for(url).items())
    print(f"sandbox at {url} | export {variables}", flush=True)


def _die_with_parent() -> None:
    """End with the parent process, however that ends.

    Its end of our standard input closes then; a copy of it that a fork of the parent holds is
    why the parent's id is watched as well.
    """
    parent = os.getppid()

    def watch_input() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_OFTEN)
        os._exit(0)

    for watch in (watch_input, watch_parent):
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
