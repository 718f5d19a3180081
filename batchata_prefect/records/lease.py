"""Which process owns a run: a numbered claim in the storage, and beats while its owner lives.

The kernel lock in the results directory keeps two processes of one machine apart and goes with
its holder, however it dies. The lease does the same for machines that share nothing but the
records. Prefect's own locks have no expiry where a task takes them, and those of its server
outlive a restart.

Claims are numbered, written once, and the newest one that was won owns the run. Nothing here
depends on how fast the storage is, on clocks that agree, or on a storage that can create a record
only where there is none; it depends on a read that gives what was written before it began.

- **One winner for each number.** A process writes its claim, sees that nobody has a beat there,
  writes its beat, and has won if the claim is still its own. Of two that pass the first look, the
  claim written later is the one that is there, and its writer has seen the beat of the other
  [the splitter of Lamport's fast mutual exclusion, 1987]. There may be no winner; then the number
  is left, as that of a process that died.
- **One owner at a time.** An owner renews: it writes its beat, and then sees that there is no claim
  with the next number. Who takes over does it the other way round: it writes that claim, and then
  sees that the beat is still the one that did not change for as long as it lasts. So one of the
  two sees the other. If it did change, the new one waits until the last beat has run out.
- **A lease that ran out is not trusted.** An owner trusts a renewal for three quarters of the time
  that its beat gives it, counted from before the beat was written.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from batchata_prefect.errors import StateError
from batchata_prefect.records.store import Records, TakenOverError

_TRUST = 0.75
"""Part of its time that an owner trusts its lease: the rest is for what it has just sent to arrive
before anybody looks for it."""

_STRETCH = 4.0
"""Times its seconds that a lease may last where the storage is slow."""

_SLOW = 8.0
"""A lease lasts so many times as long as a renewal takes."""

_LANDING_SECONDS = 1.0
"""Where a record cannot be created first: time for those who saw no claim either to write theirs.
When they need longer there may be no winner, and never two."""

_held: set[str] = set()
"""Tokens of the claims that this process holds or tries to get."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the clocks of this process.

    Attributes:
        awake: Of a clock that goes on while the machine sleeps, where there is one.
        wall: Of the clock on the wall, which a virtual machine sets right after it was stopped.
    """

    awake: float
    wall: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        awake = time.monotonic() if boottime is None else time.clock_gettime(boottime)
        return cls(awake, time.time())

    def longest_since(self, before: Moment) -> float:
        """Seconds since another moment, by the clock that says more."""
        return max(self.awake - before.awake, self.wall - before.wall)


@dataclass(frozen=True, slots=True)
class _Holder:
    """The newest claim and what was heard of it last; the claim is None where there is none yet."""

    number: int
    claim: dict[str, Any] | None
    beat: dict[str, Any] | None

    @property
    def told(self) -> dict[str, Any]:
        """What names the holder: its beat, or its claim before that."""
        return self.beat or self.claim or {}

    @property
    def is_over(self) -> bool:
        """Whether nobody holds the run: given back, or of this machine and gone."""
        if self.claim is None or self.told.get("released"):
            return True
        # Without a way to be first, the beat of a dead loser may hide that of the winner.
        same = self.beat is None or self.beat["token"] == self.claim["token"]
        return same and _is_dead(self.claim)

    def __str__(self) -> str:
        return f"process {self.told['pid']} on {self.told['host']!r}"


async def holder(records: Records) -> dict[str, Any] | None:
    """Who holds a run: its `token`, `beat` and whether it was `released`; None where nobody ever.

    Raises:
        StateError: The storage fails.
    """
    found = await _newest(records)
    if found.claim is None:
        return None
    return {"beat": 0, "released": False, **found.told}


class Lease:
    """This process's claim to one run key.

    Attributes:
        seconds: After so long without a renewal another process may take over; more where the
            storage is slow.
    """

    def __init__(self, records: Records, seconds: float) -> None:
        self.seconds = seconds
        self._records = records
        self._token = uuid4().hex
        self._number: int | None = None
        self._before: _Holder | None = None
        self._before_until: float | None = None
        self._seen: _Holder | None = None
        self._seen_at = 0.0
        self._beat = 0
        self._lasts = seconds
        self._trusted: tuple[Moment, float] | None = None
        self._lost: TakenOverError | None = None
        self._turn = asyncio.Lock()

    async def attempt(self) -> str | None:
        """Own the run key if it is free; else who holds it, for a person. To be asked repeatedly.

        Raises:
            StateError: The storage fails.
        """
        if self._number is None and (rival := await self._win()) is not None:
            return rival
        if (rival := await self._wait_for_the_one_before()) is not None:
            return rival
        try:
            await self.renew()
        except TakenOverError as error:
            await self.release()
            self._begin_again()
            return str(error.__cause__ or "another process")
        with suppress(StateError):
            await self._records.write("owner", {"number": self._number})
        return None

    async def _win(self) -> str | None:
        """Have the next number; else who has it, or the one before."""
        found = await _newest(self._records)
        # A write that seemed to fail is there after all: what was seen before it counts.
        if self._before is not None and self._is_mine(found.claim) and self._may_win(found.beat):
            before = self._before
        elif self._is_free(found):
            before = self._before = found
        else:
            return str(found)
        number = before.number + 1
        began = time.monotonic()
        _held.add(self._token)
        values = {**self._who(), "seconds": self.seconds}
        won = await self._records.create(_claim(number), values)
        if won and not self._records.creates_first:
            await asyncio.sleep(max(_LANDING_SECONDS, 3 * (time.monotonic() - began)))
        won = won and self._may_win(await self._records.read(_beat(number)))
        won = won and self._is_mine(await self._records.read(_claim(number)))
        if won:
            # A loser's beat might cover the winner's: then it lasts as long as any may.
            stretch = 1.0 if self._records.creates_first else _STRETCH
            began = time.monotonic()
            await self._write_beat(number, self.seconds * stretch)
            self._reckon_with(time.monotonic() - began)
            won = self._is_mine(await self._records.read(_claim(number)))
        if won:
            self._number = number
            return None
        self._begin_again()
        return str(await _newest(self._records))

    def _is_mine(self, record: dict[str, Any] | None) -> bool:
        return record is not None and record["token"] == self._token

    def _may_win(self, beat: dict[str, Any] | None) -> bool:
        return beat is None or self._is_mine(beat)

    def _begin_again(self) -> None:
        _held.discard(self._token)
        self._token = uuid4().hex
        self._number = self._before = self._before_until = None
        self._lost = self._trusted = None

    def _is_free(self, found: _Holder) -> bool:
        if found.is_over:
            return True
        now = Moment.now().awake
        if self._seen != found:
            self._seen, self._seen_at = found, now
        return now - self._seen_at > found.told["seconds"]

    async def _wait_for_the_one_before(self) -> str | None:
        """Whom to wait for: an owner that renewed its lease while we took it over."""
        before = self._before
        if before is None or before.claim is None:
            return None
        now = await _at(self._records, before.number, before.claim)
        if now.is_over:
            return None
        until = self._before_until
        if until is None:
            if now == before:
                return None
            until = self._before_until = Moment.now().awake + float(now.told["seconds"])
        return None if Moment.now().awake > until else str(now)

    @property
    def has_run_out(self) -> bool:
        """Whether another process may take over, as this one could not renew the lease."""
        if self._trusted is None or self._lost is not None:
            return True
        since, seconds = self._trusted
        return Moment.now().longest_since(since) > seconds * _TRUST

    async def hold(self, *, fresh: bool = False) -> None:
        """Make sure that this process owns the run; before anything is bought.

        Args:
            fresh: Whether to ask the storage in any case: the clocks of a virtual machine that was
                stopped may not tell it.

        Raises:
            TakenOverError: Another process has taken over.
            StateError: The storage fails, or takes longer than the lease.
        """
        since, seconds = self._trusted or (Moment(0, 0), 0.0)
        if fresh or Moment.now().longest_since(since) > seconds / 3:
            await self.renew()
        if self.has_run_out:
            raise StateError(
                f"the records in {self._records.location} take longer to be written and read than "
                f"the {self.seconds:.0f} s for which the run is owned. Nothing is bought "
                "meanwhile; mend the storage, or set BATCHATA_LEASE_SECONDS higher, and run again"
            )

    async def renew(self) -> None:
        """Tell the others that this process lives, and make sure that none has taken over.

        Raises:
            TakenOverError: Another process has taken over, or the lease was given back.
            StateError: The storage fails.
        """
        asked = Moment.now().awake
        async with self._turn:
            if self._lost is not None:
                raise self._lost
            if self._trusted is not None and self._trusted[0].awake >= asked:
                return
            await self._renew()

    async def _renew(self) -> None:
        assert self._number is not None
        began, seconds = Moment.now(), self._lasts
        await self._write_beat(self._number, seconds)
        next_claim = await self._records.read(_claim(self._number + 1))
        if next_claim is not None:
            rival = str(_Holder(self._number + 1, next_claim, None))
            self._lost = TakenOverError(
                f"{rival} has taken over the job set "
                f"{self._records.run_key!r}, because this process did not answer for "
                f"{self.seconds:.0f} s. It sends nothing more; nothing is paid twice"
            )
            raise self._lost from StateError(rival)
        self._trusted = began, seconds
        self._reckon_with(Moment.now().awake - began.awake)

    def _reckon_with(self, took: float) -> None:
        """Have the lease last longer where the storage is slow."""
        self._lasts = max(self._lasts, min(took * _SLOW, self.seconds * _STRETCH))

    async def release(self) -> None:
        """Let the next process begin at once; this one owns nothing from here on."""
        async with self._turn:
            _held.discard(self._token)
            if self._lost is None:
                self._lost = TakenOverError("the run has ended and is not owned any more")
            if self._number is not None:
                await self._write_beat(self._number, self._lasts, released=True)

    def _who(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
        }

    async def _write_beat(self, number: int, seconds: float, *, released: bool = False) -> None:
        self._beat += 1
        values = {"beat": self._beat, "seconds": seconds, "released": released}
        await self._records.write(_beat(number), {**self._who(), **values})


def _claim(number: int) -> str:
    return f"owners/{number:06d}"


def _beat(number: int) -> str:
    return f"owners/{number:06d}.beat"


async def _newest(records: Records) -> _Holder:
    """The claim with the highest number."""
    # Only a hint, which a process that died did not write: there may be newer ones.
    hint = await records.read("owner") or {}
    number = int(hint.get("number", 0))
    claim = await records.read(_claim(number))
    if claim is None:
        if number == 0:
            return _Holder(-1, None, None)
        raise StateError(
            f"the record {_claim(number)!r} is gone from {records.location}; nothing is sent. Put "
            "it back, or start over elsewhere with set_state(reuse_state=False)"
        )
    while (following := await records.read(_claim(number + 1))) is not None:
        number, claim = number + 1, following
    return await _at(records, number, claim)


async def _at(records: Records, number: int, claim: dict[str, Any]) -> _Holder:
    return _Holder(number, claim, await records.read(_beat(number)))


def _is_dead(claim: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine or a run of this process, and is gone."""
    machine = _machine()
    if machine is None or claim["machine"] != machine:
        return False
    if claim["pid"] == os.getpid():
        return claim["token"] not in _held
    return _born(claim["pid"]) != claim["born"]


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
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return None
    # One that has ended and whose parent has not asked how sends nothing more.
    return None if fields[0] in {"Z", "X"} else fields[19]
