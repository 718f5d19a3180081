"""When the next call to a provider may begin: for many calls at once that share its rate limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

_SLOWEST = 64.0


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
