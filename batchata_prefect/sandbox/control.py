"""Starting, stopping, killing and steering a sandbox server from a test or a demo."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .ledger import Ledger

ANTHROPIC_KEY = "sandbox-anthropic-key"
AZURE_KEY = "sandbox-azure-key"
OPENAI_KEY = "sandbox-openai-key"
GEMINI_KEY = "sandbox-gemini-key"
_START_SECONDS = 30.0
_PORTS_TRIED = 5


class SandboxError(RuntimeError):
    """The sandbox did not start, or refused an order; the text holds what it said."""


def environment_for(url: str) -> dict[str, str]:
    """The environment variables that point the SDKs at a sandbox."""
    return {
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
        "AZURE_OPENAI_ENDPOINT": f"{url}/azure",
        "AZURE_OPENAI_API_KEY": AZURE_KEY,
        "OPENAI_BASE_URL": f"{url}/openai/v1",
        "OPENAI_API_KEY": OPENAI_KEY,
        "GOOGLE_GEMINI_BASE_URL": f"{url}/gemini",
        "GEMINI_API_KEY": GEMINI_KEY,
        # Google's SDK takes this one before the other, where it is not empty.
        "GOOGLE_API_KEY": "",
    }


class Sandbox:
    """A sandbox server in a process of its own, as a context manager.

    It dies with the process that started it.

    Args:
        data_dir: where it keeps batches, files and the ledger; a temporary directory if None.
        seconds: simulated processing time of a batch.
        port: loopback port; 0 for a free one, which then stays the same over restarts.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        seconds: float = 0.2,
        port: int = 0,
    ) -> None:
        self._temporary = None
        if data_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sandbox-")
            data_dir = Path(self._temporary.name)
        self.data_dir = Path(data_dir)
        self.seconds = seconds
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address; known once it has started."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while it is down."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def ledger(self) -> Ledger:
        """What it billed, made and was asked; readable while it is down too."""
        return Ledger(self.data_dir, self._refresh)

    def environment(self) -> dict[str, str]:
        """The environment variables that point both SDKs at it."""
        return environment_for(self.url)

    def start(self) -> Self:
        """Start the server and wait until it takes connections.

        Raises:
            SandboxError: where it does not; the text holds its standard error.
        """
        if self.running:
            return self
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for attempt in range(_PORTS_TRIED):
            fresh = not self.port
            self.port = self.port or _free_port()
            try:
                self._launch()
            except SandboxError:
                # Another sandbox may have taken the port between the choice and the start.
                if not fresh or attempt == _PORTS_TRIED - 1:
                    raise
                self.port = 0
            else:
                return self
        return self

    def _launch(self) -> None:
        log = self.data_dir / "server.log"
        package_root = Path(__file__).parents[2]
        path = os.pathsep.join(filter(None, [str(package_root), os.environ.get("PYTHONPATH")]))
        command = [
            sys.executable,
            "-m",
            __package__ or "batchata_prefect.sandbox",
            *("--port", str(self.port), "--data-dir", str(self.data_dir)),
            *("--seconds", str(self.seconds)),
            "--die-with-parent",
        ]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - its own interpreter and module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        self._wait_until_up(log)

    def stop(self) -> None:
        """Stop the server in good order; batches that run go on after the next start."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap(self._process)

    def kill(self) -> None:
        """Kill the server as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._reap(self._process)

    def restart(self) -> None:
        """Stop the server and start it again on the same port and data."""
        self.stop()
        self.start()

    def fault(
        self,
        provider: str | None = None,
        operation: str | list[str] | None = None,
        mode: str = "status",
        *,
        times: int | None = 1,
        after: int = 0,
        **options: Any,
    ) -> None:
        """Order something to go wrong; `faults.py` lists modes and operations.

        Args:
            provider: `anthropic`, `azure`, `gemini`, `openai`, or None for all.
            operation: which calls; None for those that the mode is about, or all.
            mode: what happens.
            times: how many matching calls; None for all until `clear_faults`.
            after: how many matching calls go well first.
            options: what the mode takes, e.g. `status`, `headers`, `seconds`, `rows`, `at`.
        """
        rule = {"provider": provider, "mode": mode, "operation": operation}
        self._order("POST", "faults", {**rule, "times": times, "after": after, **options})

    def clear_faults(self) -> None:
        """Withdraw all faults."""
        self._order("DELETE", "faults")

    def limits(self, **limits: Any) -> None:
        """Change limits; `faults.Limits` lists them. They survive a restart."""
        self._order("POST", "limits", limits)
        if isinstance(seconds := limits.get("seconds"), (int, float)):
            self.seconds = float(seconds)

    def settle(self) -> None:
        """End all running batches now."""
        self._order("POST", "settle")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _refresh(self) -> None:
        if self.running:
            self._order("POST", "refresh")

    def _order(self, method: str, name: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.url}/_sandbox/{name}"
        request = urllib.request.Request(address, method=method, data=data)  # noqa: S310
        try:
            with _OPENER.open(request, timeout=600) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise SandboxError(error.read().decode()) from error

    def _wait_until_up(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                tail = log.read_text(errors="replace")[-2000:].strip()
                why = tail or f"{str(log)!r} says nothing; is its disk full?"
                raise SandboxError(f"the sandbox stopped while starting: {why}")
            try:
                answer = self._order("GET", "health")
            except OSError:
                answer = None
            # On a port that was lost to another sandbox, that one answers.
            if answer and answer.get("pid") == self._process.pid:
                return
            time.sleep(0.02)
        self.kill()
        raise SandboxError(f"the sandbox did not answer within {_START_SECONDS:.0f} s")

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None


# A proxy of the environment must not come between a test and its own machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    """A loopback port outside the range that outgoing connections take theirs from.

    While a killed server is down, nothing else may come to own its port.
    """
    ports = list(range(20_000, 30_000))
    random.shuffle(ports)
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SandboxError("no free loopback port between 20000 and 30000")
