"""How long a run waits for what, how much it sends at once, and what it tries later."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from batchata_prefect.numbers import number

REALTIME_AT_ONCE = 32
"""Realtime requests in flight at once."""

_SLOWEST = 64.0
"""How many times slower than at first a `Throttle` becomes at most."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds.

    Attributes:
        poll_shortest: Between two polls of a young batch.
        poll_longest: Between two polls of an old batch.
        lookup: After a create of unknown outcome, before a batch that is not listed counts as
            absent; a provider's list may lag behind its creates.
        settle: For a canceled batch to end, and for what else a run that was told to stop still
            waits for.
        terminate: For which a run that got SIGTERM still waits for what does not end: whoever
            sends it kills after 30 s.
        overdue: After a batch's expiry, before one that its provider has not ended is canceled.
        retry_longest: Between two tries of a call that fails.
        watch: Between two looks at whether the flow run was canceled in Prefect.
        unknown: For a provider that does not know a batch of its own, or has no results of it.
        retention: After its end, for which a provider keeps a batch's results: 29 days at Anthropic
            [batch-processing], 30 at OpenAI [Batch API guide].
        prefect: For a Prefect server that is away when a run is to end.
        lease: For which one process owns a run; it renews its lease every third of it.
        suspend: Before a deployed run that may suspend does so: what ends sooner is collected by
            the process that sent it.
        show: Between two updates of what Prefect shows of a run.
    """

    poll_shortest: float = 0.25
    poll_longest: float = 120.0
    lookup: float = 30.0
    settle: float = 900.0
    terminate: float = 20.0
    overdue: float = 24 * 3600.0
    retry_longest: float = 300.0
    watch: float = 5.0
    unknown: float = 600.0
    retention: float = 29 * 24 * 3600.0
    prefect: float = 600.0
    lease: float = 60.0
    suspend: float = 30.0
    show: float = 5.0

    @classmethod
    def from_environment(cls) -> Pace:
        """The defaults, or what `BATCHATA_<FIELD>_SECONDS` says.

        Raises:
            NumberError: One of them is no number of seconds.
        """
        values: dict[str, float] = {}
        for name in cls.__dataclass_fields__:
            if text := os.environ.get(f"BATCHATA_{name.upper()}_SECONDS"):
                try:
                    seconds: Any = float(text)
                except ValueError:
                    seconds = text
                values[name] = number(f"BATCHATA_{name.upper()}_SECONDS", seconds)
        return cls(**values)

    def poll(self, age_seconds: float, running: int) -> float:
        """Seconds until the next poll: a tenth of the batch's age, more where many run.

        A tenth keeps the delay after the provider's end below 10 % of the batch's duration; at
        most 20 polls a second over all batches stay far below the providers' request limits.
        """
        shortest = max(self.poll_shortest, running / 20)
        return min(max(shortest, age_seconds / 10), max(self.poll_longest, shortest))


@dataclass(slots=True)
class Throttle:
    """Spaces calls evenly, and slows all of them down when the provider says so.

    Attributes:
        interval: Seconds between two calls.
    """

    interval: float
    _next_at: float = 0.0
    _slowed: float = 1.0

    async def turn(self) -> None:
        """Wait until a call may begin."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_at)
        self._next_at = at + self.interval * self._slowed
        await asyncio.sleep(at - now)

    def slow_down(self, seconds: float) -> None:
        """Begin nothing for so long, and then half as fast."""
        resume = asyncio.get_running_loop().time() + seconds
        if resume > self._next_at + seconds / 2:
            self._slowed = min(self._slowed * 2, _SLOWEST)
        self._next_at = max(self._next_at, resume)


@dataclass(slots=True)
class Lines:
    """The lines to the providers, which the requests of a run share.

    Attributes:
        sending_bytes: Bytes of the request files that are on their way.
        slots: Held by each realtime request in flight.
        throttles: Provider -> when its next realtime request may begin.
    """

    sending_bytes: int = 0
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REALTIME_AT_ONCE))
    throttles: dict[str, Throttle] = field(default_factory=dict[str, Throttle])


class TurnedAway:
    """Models of which a provider, or another run, had no room for a batch."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._until: dict[tuple[str, str], tuple[int, float]] = {}
        self.next_try: datetime | None = None
        """When one of them is worth a try, for a run that goes to sleep."""

    def add(self, provider: str, model: str, seconds: float | None = None) -> int:
        """A batch of the model was turned away: others wait, and the next one is tried later.

        Args:
            provider: The provider.
            model: The model.
            seconds: When it is tried; longer each time where that is not given.

        Returns:
            How often that happened since the last one was let in.
        """
        times, _ = self._until.get((provider, model), (0, 0.0))
        if seconds is None:
            seconds = min(self._pace.poll_shortest * 2.0 ** (times + 1), self._pace.retry_longest)
        self._until[provider, model] = (times + 1, time.monotonic() + seconds)
        return times + 1

    def let_in(self, provider: str, model: str) -> None:
        """A batch of the model has ended: there may be room again."""
        self._until.pop((provider, model), None)

    def seconds(self, provider: str, model: str) -> float:
        """Seconds until a batch of the model is worth a try; 0 where none was turned away."""
        _, at = self._until.get((provider, model), (0, 0.0))
        return max(0.0, at - time.monotonic())
