"""What can be told to go wrong, and when: one list of rules that calls consume."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .shapes import names
from .wire import Json

_CALL_MODES: dict[str, tuple[str, ...]] = {
    "status": (),
    "drop_before": (),
    "drop_after": (),
    "delay": (),
    "garbage": (),
    "truncate": ("results", "content"),
    "results_not_ready": ("results",),
    "unknown_status": ("retrieve",),
    "no_output": ("retrieve",),
    "file_vanished": ("content",),
}
"""Modes that end or bend one call, with the operations that they mean where none is named; a call
that they match uses one of their `times`."""

_CREATE_MODES = dict.fromkeys(("batch_failed", "batch_expired", "no_unrun_rows"), ("create",))
"""Modes that decide at create how that batch will end."""

_STANDING_MODES = {
    "list_lag": ("list",),
    "create_404": ("retrieve",),
    "stuck_canceling": ("cancel",),
}
"""Modes that hold until they are cleared, whatever `times` says."""

_MODES = {**_CALL_MODES, **_CREATE_MODES, **_STANDING_MODES}
_PROVIDERS = ("anthropic", "azure", "gemini", "openai")
_OPERATIONS = names("create retrieve list results cancel delete upload content file message")


@dataclass(slots=True)
class Fault:
    """One rule: which calls it matches, how often, and what it does to them."""

    mode: str
    provider: str | None = None
    operations: tuple[str, ...] = ()
    times: int | None = 1
    after: int = 0
    path: str | None = None
    options: Json = field(default_factory=dict[str, Any])

    def matches(self, provider: str, operation: str, path: str) -> bool:
        """Whether a call is one that this rule speaks of."""
        return (
            (self.provider is None or self.provider == provider)
            and (not self.operations or operation in self.operations)
            and (self.path is None or self.path in path)
        )


def parse_fault(asked: Json) -> Fault:
    """Read a fault as `POST /_sandbox/faults` takes it.

    Raises:
        ValueError: for a mode, provider or operation that does not exist.
    """
    rest = dict(asked)
    mode = rest.pop("mode", None)
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(sorted(_MODES))}")
    provider = rest.pop("provider", None)
    if provider not in (None, *_PROVIDERS):
        raise ValueError(f"provider {provider!r} is not one of {', '.join(_PROVIDERS)}")
    operation = rest.pop("operation", None)
    operations = (
        _MODES[mode]
        if operation is None
        else (operation,)
        if isinstance(operation, str)
        else tuple(operation)
    )
    unknown = set(operations) - _OPERATIONS
    if unknown:
        raise ValueError(
            f"operation {min(unknown)!r} is not one of {', '.join(sorted(_OPERATIONS))}"
        )
    return Fault(
        mode=mode,
        provider=provider,
        operations=operations,
        times=rest.pop("times", 1),
        after=rest.pop("after", 0),
        path=rest.pop("path", None),
        options=rest,
    )


def _kept_fault(rule: Json) -> Fault:
    fault = Fault(**rule)
    fault.operations = tuple(rule["operations"])
    return fault


class Faults:
    """The rules that are in force; they survive a restart of the server through `save`."""

    def __init__(self, rules: list[Json], save: Callable[[list[Json]], None]) -> None:
        self._rules = [_kept_fault(rule) for rule in rules]
        self._save = save
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Put a rule in force, behind those already there."""
        with self._lock:
            self._rules.append(fault)
            self._keep()

    def clear(self) -> None:
        """Drop every rule."""
        with self._lock:
            self._rules.clear()
            self._keep()

    def listed(self) -> list[Json]:
        """The rules in force, as JSON."""
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def take(self, provider: str, operation: str, path: str) -> list[Fault]:
        """The rules that this call uses up: any delays, and at most one that ends the call."""
        with self._lock:
            taken: list[Fault] = []
            changed = False
            for rule in self._rules:
                if rule.mode not in _CALL_MODES or not rule.matches(provider, operation, path):
                    continue
                if rule.mode != "delay" and any(earlier.mode != "delay" for earlier in taken):
                    continue
                changed = changed or rule.times is not None or rule.after > 0
                if self._use(rule):
                    taken.append(rule)
            if changed:
                self._keep()
            return taken

    def take_create(self, provider: str) -> Fault | None:
        """The rule, if any, that decides how the batch that is now created will end."""
        with self._lock:
            for rule in self._rules:
                if (
                    rule.mode in _CREATE_MODES
                    and rule.matches(provider, "create", "")
                    and self._use(rule)
                ):
                    self._keep()
                    return rule
            return None

    def standing(self, provider: str, mode: str) -> Fault | None:
        """The rule of a standing mode that holds for a provider."""
        if not self._rules:
            return None
        with self._lock:
            for rule in self._rules:
                if rule.mode == mode and rule.provider in (None, provider):
                    return rule
            return None

    def _use(self, rule: Fault) -> bool:
        if rule.after > 0:
            rule.after -= 1
            return False
        if rule.times is not None:
            if rule.times <= 0:
                return False
            rule.times -= 1
        return True

    def _keep(self) -> None:
        self._rules = [rule for rule in self._rules if rule.times is None or rule.times > 0]
        self._save([asdict(rule) for rule in self._rules])
