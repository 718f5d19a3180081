"""Starts what docker-compose.yaml describes on one machine without containers.

    python deployments/native.py --dir .stack --workers 2

PostgreSQL, Redis, Prefect's API, its background services and workers, each a process of its own.
PostgreSQL and Redis are used where they are installed; without them the server keeps its data in
SQLite, and API and services are one process. Everything lies in one directory and ends with the
script; the next start finds its data again.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0


@dataclass
class Stack:
    """What runs, and how to reach it.

    Attributes:
        directory: Where its data and logs lie.
        environment: For a process that works with it, such as a worker.
        database: `postgres` or `sqlite`.
        messaging: `redis` or `memory`.
        processes: Name -> process.
    """

    directory: Path
    environment: dict[str, str]
    database: str = "sqlite"
    messaging: str = "memory"
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the UI is."""
        return self.environment["PREFECT_API_URL"].removesuffix("/api")

    def start(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to a log of its name."""
        log = (self.directory / f"{name}.log").open("ab")
        # The workers alone need the providers' keys.
        keys = () if name.startswith("worker") else ("ANTHROPIC_", "OPENAI_")
        own = {key: value for key, value in self.environment.items() if not key.startswith(keys)}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**own, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.processes[name] = process
        return process

    def start_worker(self, number: int = 1) -> subprocess.Popen[bytes]:
        """Start a worker of the pool `batchata`, which is made if there is none."""
        return self.start(
            f"worker-{number}",
            [*_PREFECT, "worker", "start", "--pool", "batchata", "--type", "process"],
        )

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Stop a process, and what it has started, by force if it takes too long."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, *arguments: str) -> None:
        """Run a Prefect command to its end.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        command = [*_PREFECT, "--no-prompt", *arguments]
        subprocess.run(
            command, cwd=ROOT, env=self.environment, check=True, capture_output=True, timeout=180
        )

    @property
    def password(self) -> str:
        """Of the database and of Redis; made once, and kept beside their data."""
        path = self.directory / "password"
        if not path.exists():
            path.touch(0o600)
            path.write_text(secrets.token_hex(24))
        return path.read_text()

    def log(self, name: str) -> str:
        """The end of a process's log."""
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else "(no log)"


_PREFECT = [sys.executable, "-m", "prefect"]


@contextmanager
def stack(
    directory: Path, *, postgres: bool = True, redis: bool = True, port: int = 0
) -> Generator[Stack]:
    """Prefect's server with its database, without workers.

    Args:
        directory: For data and logs.
        postgres: Whether to use PostgreSQL, if it is installed.
        redis: Whether to use Redis, if it and prefect-redis are installed; not without PostgreSQL.
        port: Port of the server; any free one by default.

    Raises:
        RuntimeError: Something does not start; the text holds the end of its log.
    """
    directory.mkdir(parents=True, exist_ok=True)
    api = f"http://127.0.0.1:{port or _free_port()}/api"
    environment = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(directory / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(directory / "records"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
    }
    found = Stack(directory, environment)
    with ExitStack() as stopping:
        stopping.callback(_stop_all, found)
        server: dict[str, str] = {}
        if postgres and _postgres_tools() is not None:
            server |= _start_postgres(found)
            found.database = "postgres"
            if redis and shutil.which("redis-server") and find_spec("prefect_redis"):
                server |= _start_redis(found)
                found.messaging = "redis"
        host = ["--host", "127.0.0.1", "--port", api.split(":")[2].removesuffix("/api")]
        split = found.messaging == "redis"
        start = [*_PREFECT, "server", "start", *host, *(["--no-services"] if split else [])]
        found.start("server", start, server)
        _wait_for("server", found, lambda: _answers(f"{api}/health"))
        if split:
            # After the API, which has made the tables.
            found.start("services", [*_PREFECT, "server", "services", "start"], server)
        yield found


def _stop_all(found: Stack) -> None:
    order = ["worker", "webhook", "services", "server", "redis", "postgres"]
    for name in sorted(found.processes, key=lambda each: order.index(each.partition("-")[0])):
        # PostgreSQL waits for its clients to go, unless it is told not to.
        found.stop(name, signal.SIGINT if name == "postgres" else signal.SIGTERM)


def _postgres_tools() -> Path | None:
    """Where initdb and postgres are; None where they are not installed."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    on_path = shutil.which("initdb")
    if on_path:
        places.insert(0, Path(on_path).parent)
    tools = ("initdb", "postgres", "pg_isready")
    return next((p for p in places if all((p / tool).exists() for tool in tools)), None)


def _start_postgres(found: Stack) -> dict[str, str]:
    """Settings of a server that uses it."""
    tools, data = _postgres_tools(), found.directory / "postgres"
    assert tools is not None
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    if not (data / "PG_VERSION").exists():
        data.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            shutil.chown(data, user)
            for parent in data.parents:
                # Directories of tests are closed to all but their owner.
                if parent.is_relative_to(tempfile.gettempdir()):
                    parent.chmod(parent.stat().st_mode | 0o011)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(found.password)
            file.flush()
            if user is not None:
                shutil.chown(file.name, user)
            subprocess.run(
                [
                    *(tools / "initdb", "--pgdata", data, "--username", "prefect"),
                    *("--auth", "scram-sha-256", "--pwfile", file.name),
                ],
                check=True,
                capture_output=True,
                user=user,
                cwd=data,
            )
    port = _free_port()
    log = (found.directory / "postgres.log").open("ab")
    found.processes["postgres"] = subprocess.Popen(
        # A socket's path may be 107 letters long at most; the port is enough.
        [tools / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""],
        stdout=log,
        stderr=log,
        user=user,
        cwd=data,
        start_new_session=True,
    )
    ready = [tools / "pg_isready", "--host", "127.0.0.1", "--port", str(port)]
    _wait_for("postgres", found, lambda: subprocess.run(ready, capture_output=True).returncode == 0)
    url = f"postgresql+asyncpg://prefect:{found.password}@127.0.0.1:{port}/postgres"
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}


def _start_redis(found: Stack) -> dict[str, str]:
    """Settings of a server that uses it."""
    port, data = _free_port(), found.directory / "redis"
    data.mkdir(exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(data)]
    options += ["--appendonly", "yes", "--requirepass", found.password]
    found.start("redis", ["redis-server", *options])
    _wait_for("redis", found, lambda: _listens(port))
    return {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        # In memory, as by default, the slots of limits would leak when the server restarts.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
        "PREFECT_REDIS_MESSAGING_PORT": str(port),
        "PREFECT_REDIS_MESSAGING_PASSWORD": found.password,
        "PREFECT_SERVER_DOCKET_URL": f"redis://:{found.password}@127.0.0.1:{port}/1",
    }


def _wait_for(name: str, found: Stack, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if found.processes[name].poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} does not start:\n{found.log(name)}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    # A proxy of the machine must not be asked for an address of the machine itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Start everything, deploy, and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path(".stack"), help="for data and logs")
    parser.add_argument("--port", type=int, default=4200, help="of the Prefect UI and API")
    parser.add_argument("--workers", type=int, default=1, help="workers of the pool batchata")
    parser.add_argument("--sqlite", action="store_true", help="no PostgreSQL, no Redis")
    told = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with stack(told.dir.resolve(), postgres=not told.sqlite, port=told.port) as found:
        for number in range(told.workers):
            found.start_worker(number + 1)
        found.run("work-pool", "create", "--type", "process", "batchata", "--overwrite")
        found.run("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
        print(f"{found.database}, {found.messaging}; the UI is at {found.url}")
        print(f"export PREFECT_API_URL={found.environment['PREFECT_API_URL']}")
        try:
            while all(process.poll() is None for process in found.processes.values()):
                time.sleep(1)
        except KeyboardInterrupt:
            return
        ended = [name for name, each in found.processes.items() if each.poll() is not None]
        sys.exit(f"ended by itself: {', '.join(ended)}; see its log in {told.dir}")


if __name__ == "__main__":
    main()
