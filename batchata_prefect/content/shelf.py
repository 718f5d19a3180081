"""What was made of the bytes of documents, kept so that jobs which share one make it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(slots=True)
class Shelf(Generic[_T]):
    """Things by key; the least recently used go once all of them pass a number of bytes."""

    limit_bytes: int
    size_bytes: int = 0
    _held: OrderedDict[Hashable, tuple[_T, int]] = field(
        default_factory=OrderedDict[Hashable, "tuple[_T, int]"]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Hashable) -> _T | None:
        """The thing of a key, while it is kept."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: Hashable, made: _T, size_bytes: int) -> None:
        """Keep a thing that may come to hold so much memory, unless it is too large for all."""
        if size_bytes > self.limit_bytes:
            return
        with self._lock:
            if key in self._held:
                return
            self._held[key] = made, size_bytes
            self.size_bytes += size_bytes
            while self.size_bytes > self.limit_bytes:
                _, (_, dropped) = self._held.popitem(last=False)
                self.size_bytes -= dropped
