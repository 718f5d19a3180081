"""The Prefect server of a process that has none, which starts while the process goes on.

Prefect would start one by itself, but only when it is first asked for something, and by importing
the whole server into this process too. This one is started before Prefect is imported. It ends by
itself when this process is gone, however it died, so none is ever left behind; Ctrl-C, which a
terminal sends to all of its processes, does not reach it, as a run that ends in order has to tell
it so.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, BinaryIO

_START_SECONDS = 120
"""What it may take to start: Prefect's own 20 seconds were seen to pass on two busy cores."""
_LOOK_SECONDS = 0.5
_LEAVE_SECONDS = 10.0
"""What it may take to leave in order: it still writes what it was told last."""


class OwnServer:
    """A server of this process; one at most.

    Attributes:
        url: Its API.
    """

    def __init__(self) -> None:
        # It listens before it can answer, so that nobody has to ask again and again, and no port
        # is taken by another meanwhile.
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
            self._port: int = listening.getsockname()[1]
            self._log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the server
            fd = listening.fileno()
            self._parent = os.getpid()
            command = [sys.executable, "-P", __file__, str(self._parent), str(fd)]
            self._process = subprocess.Popen(  # noqa: S603 - our own
                command,
                env={**os.environ, **_settings_of_now()},
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{self._port}/api"

    def is_there(self) -> bool:
        """Whether its process lives; of a fork, it is that of the process it was forked from."""
        return os.getpid() != self._parent or self._process.poll() is None

    def wait(self, seconds: float) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It does not start.
        """
        connection = HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            self.end()
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4000))
            told = self._log.read().decode(errors="replace").strip()
            raise RuntimeError(
                f"Prefect's temporary server does not start ({error or type(error).__name__})"
                + (f": {told}" if told else "")
            ) from error
        finally:
            connection.close()
        if status != 200:
            raise RuntimeError(f"Prefect's temporary server does not start: status {status}")

    def end(self) -> None:
        """End it at once; it has nothing to write."""
        self._process.kill()
        self._process.wait()


_own: OwnServer | None = None


def start_early() -> None:
    """Start the server of a process that seems to have none; returns at once.

    Whether Prefect's settings name one is known only when Prefect is imported, which takes half as
    long as the server's start: `own_server` ends it where they do.
    """
    global _own
    if _own is not None and not _own.is_there():
        if "prefect.context" in sys.modules and _url() == _own.url:
            _set_url(None)
        _own = None
    if _own is None and not os.environ.get("PREFECT_API_URL") and not _has_another():
        _own = OwnServer()


def own_server() -> AbstractContextManager[Any]:
    """Wait until the server answers, and have Prefect use it; nothing where another one is set.

    Returns:
        What to run in, where the caller has settings of its own.

    Raises:
        RuntimeError: It does not start.
    """
    global _own
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    start_early()
    if _own is None or _url() == _own.url:
        return nullcontext()
    if _has_another():
        _own.end()
        _own = None
        return nullcontext()
    patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    _own.wait(max(patience, _START_SECONDS))
    # For all threads: those in which Prefect sends events and logs do not have our context.
    _set_url(_own.url)
    has_settings = _url() != _own.url
    return temporary_settings({PREFECT_API_URL: _own.url}) if has_settings else nullcontext()


def is_own() -> bool:
    """Whether Prefect's server is that of this process, and ends with it."""
    return _own is not None and _url() == _own.url


def _url() -> str | None:
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


def _set_url(url: str | None) -> None:
    import prefect.context as context
    from prefect.settings import PREFECT_API_URL

    old = context.GLOBAL_SETTINGS_CONTEXT
    settings = old.settings.copy_with_update(updates={PREFECT_API_URL: url})
    context.GLOBAL_SETTINGS_CONTEXT = context.SettingsContext(
        profile=old.profile, settings=settings
    )


def _has_another() -> bool:
    """Whether, as far as it is known yet, Prefect's settings or Prefect itself see to a server."""
    if "prefect.context" not in sys.modules:
        return False
    from prefect.settings import PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    if _url() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return True
    # That of a flow around this run, or before it.
    serving: Any = sys.modules.get("prefect.server.api.server")
    return serving is not None and any(
        each.running for each in serving.SubprocessASGIServer._instances.values()
    )


@contextmanager
def no_collector() -> Generator[None]:
    """Load what is large without the collector, which would go through all of it again and again.

    At the end of the process it would go through it once more: what is set aside then is not
    looked at, and the process leaves half a second earlier.
    """
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)


def _settings_of_now() -> dict[str, str]:
    own = {
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_UI_ENABLED": "0",
    }
    if "prefect.context" in sys.modules:
        from prefect.settings import get_current_settings

        own |= get_current_settings().to_environment_variables(exclude_unset=True)
    return own


def _serve(parent: int, fd: int) -> None:
    """Be the server until the parent is gone."""
    server: Any = None

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        if server is not None:
            server.should_exit = True
            time.sleep(_LEAVE_SECONDS)
        os._exit(0)

    threading.Thread(target=look, daemon=True).start()
    from prefect.settings import PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    if _url() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        sys.exit("Prefect's settings name another server, or allow none")
    with no_collector():
        import uvicorn
        from prefect.server.api.server import create_app

        gc.freeze()
    config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    with socket.socket(fileno=fd) as listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
