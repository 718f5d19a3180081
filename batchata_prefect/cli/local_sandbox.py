"""The sandbox in the place of the providers, for one run of the command."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from batchata_prefect.errors import StateError
from batchata_prefect.files import make_folder

FOLDER = Path(".batchata", "sandbox")
"""What the sandbox of a run leaves in its results directory; without it the run starts over."""
_SECONDS = 2.0


@contextmanager
def local_sandbox(results_dir: Path) -> Generator[dict[str, str]]:
    """A sandbox for one run: the variables that point at it.

    Its state and address stay in the results directory, so that the next run finds its batches.

    Raises:
        StateError: It does not start.
    """
    from batchata_prefect.sandbox import Sandbox, SandboxError

    folder = results_dir / FOLDER
    make_folder(folder)
    kept = folder / "port"
    port = int(kept.read_text()) if kept.exists() else 0
    server = Sandbox(folder, seconds=_SECONDS, port=port)
    try:
        server.start()
    except SandboxError as error:
        raise StateError(f"the sandbox does not start: {error}") from error
    try:
        kept.write_text(str(server.port))
        # A proxy of the machine must not be asked for an address of the machine itself.
        own = {
            name: ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
            for name in ("NO_PROXY", "no_proxy")
        }
        yield {**server.environment(), **own}
    finally:
        server.stop()
