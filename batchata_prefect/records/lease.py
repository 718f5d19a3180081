"""Which process owns a run: a lease in the result storage, renewed while its holder lives.

The kernel lock in the results directory keeps two processes of one machine apart and goes with
its holder, however it dies. The lease does the same for machines that share nothing but the
records. Whether it has run out is judged by how long its record did not change, measured by the
waiting process alone, so that clocks that differ do not matter. Prefect's own locks have no expiry
where a task takes them, and those of its server outlive a restart.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from batchata_prefect.errors import StateError
from batchata_prefect.records.store import Records

_SEEN_SECONDS = 0.2
"""After this long, two processes that took the lease at once both see whose write was last."""

_held: set[str] = set()
"""Tokens of the leases that this process holds."""


class TakenOverError(StateError):
    """Another process works on the run key, as after a sleep of this process's machine."""


class Lease:
    """This process's claim to one run key.

    Attributes:
        seconds: After so long without a renewal another process may take over.
    """

    def __init__(self, records: Records, seconds: float) -> None:
        self.seconds = seconds
        self._records = records
        self._token = uuid4().hex
        self._beat = 0
        self._renewed = 0.0
        self._seen: tuple[Any, Any] | None = None
        self._seen_at = 0.0

    async def attempt(self) -> str | None:
        """Own the run key if it is free; else who holds it, for a person. To be asked repeatedly.

        Raises:
            StateError: The storage fails.
        """
        holder = await self._records.owner()
        if holder is not None and not holder["released"] and not _is_dead(holder):
            if self._seen != (holder["token"], holder["beat"]):
                self._seen, self._seen_at = (holder["token"], holder["beat"]), _now()
            if _now() - self._seen_at <= self.seconds:
                return _name(holder)
        await self._write()
        await asyncio.sleep(_SEEN_SECONDS)
        holder = await self._records.owner()
        if holder is not None and holder["token"] != self._token:
            return _name(holder)
        _held.add(self._token)
        return None

    @property
    def has_run_out(self) -> bool:
        """Whether another process may take over, as this one could not renew the lease."""
        return _now() - self._renewed > self.seconds

    async def hold(self) -> None:
        """Make sure that this process still owns the run; before anything is bought.

        Raises:
            TakenOverError: Another process has taken over.
            StateError: The storage fails.
        """
        if _now() - self._renewed > self.seconds / 2:
            await self.renew()

    async def renew(self) -> None:
        """Tell the others that this process lives.

        Raises:
            TakenOverError: Another process has taken over.
            StateError: The storage fails.
        """
        holder = await self._records.owner()
        if holder is not None and holder["token"] != self._token:
            raise TakenOverError(
                f"{_name(holder)} has taken over the job set "
                f"{self._records.run_key!r}, because this process did not answer for "
                f"{self.seconds:.0f} s. It sends nothing more; nothing is paid twice"
            )
        await self._write()

    async def release(self) -> None:
        """Let the next process begin at once."""
        _held.discard(self._token)
        holder = await self._records.owner()
        if holder is not None and holder["token"] == self._token:
            await self._write(released=True)

    async def _write(self, *, released: bool = False) -> None:
        self._beat += 1
        asked = _now()
        await self._records.write_owner(
            {
                "token": self._token,
                "beat": self._beat,
                "released": released,
                "host": socket.gethostname(),
                "machine": _machine(),
                "pid": os.getpid(),
                "born": _born(os.getpid()),
            }
        )
        self._renewed = asked


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']!r}"


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine or a run of this process, and is gone."""
    machine = _machine()
    if machine is None or holder["machine"] != machine:
        return False
    if holder["pid"] == os.getpid():
        return holder["token"] not in _held
    return _born(holder["pid"]) != holder["born"]


def _machine() -> str | None:
    """Names this boot of this machine and the container's own process numbers; None elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None where there is none."""
    try:
        # The name in the second field may hold spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
