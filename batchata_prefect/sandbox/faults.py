"""What a test can order: what goes wrong and when, and limits other than the providers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .compatible import WAYS
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
    operations: list[str] = field(default_factory=list[str])
    times: int | None = 1
    after: int = 0
    path: str | None = None
    options: Json = field(default_factory=dict[str, Any])

    def matches(self, provider: str, operation: str, path: str) -> bool:
        """Whether a call is one that this rule speaks of."""
        return (
            self.provider in (None, provider)
            and (not self.operations or operation in self.operations)
            and (self.path is None or self.path in path)
        )

    def use(self) -> bool:
        """Whether it hits a call that it matches, which uses one of its times."""
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


def parse_fault(asked: Json) -> Fault:
    """Read a fault as `POST /_sandbox/faults` takes it; a `ValueError` tells what is unknown."""
    mode, provider = asked.get("mode"), asked.get("provider")
    operations: Any = asked.get("operation")
    if operations is None:
        operations = _MODES.get(str(mode), ())
    elif isinstance(operations, str):
        operations = [operations]
    for name, given, known in (
        ("mode", [mode], _MODES),
        ("provider", [] if provider is None else [provider], _PROVIDERS),
        ("operation", operations, _OPERATIONS),
    ):
        for value in set(given) - set(known):
            raise ValueError(f"{name} {value!r} is not one of {', '.join(sorted(known))}")
    own = {each.name for each in fields(Fault)}
    rule: Json = {name: value for name, value in asked.items() if name in own}
    options = {name: asked[name] for name in asked.keys() - own - {"operation"}}
    rule.update(operations=[*operations], options=options)
    return Fault(**rule)


class Faults:
    """The rules that are in force; they survive a restart of the server through `save`."""

    def __init__(self, rules: list[Json], save: Callable[[list[Json]], None]) -> None:
        self._rules = [Fault(**rule) for rule in rules]
        self._save = save

    def add(self, fault: Fault) -> None:
        """Put a rule in force, behind those already there."""
        self._rules.append(fault)
        self._keep()

    def clear(self) -> None:
        """Drop every rule."""
        self._rules.clear()
        self._keep()

    def listed(self) -> list[Json]:
        """The rules in force, as JSON."""
        return [asdict(rule) for rule in self._rules]

    def take(self, provider: str, operation: str, path: str) -> list[Fault]:
        """The rules that this call uses up: any delays, and at most one that ends the call."""
        taken: list[Fault] = []
        changed = False
        for rule in self._rules:
            if rule.mode not in _CALL_MODES or not rule.matches(provider, operation, path):
                continue
            if rule.mode != "delay" and any(earlier.mode != "delay" for earlier in taken):
                continue
            changed = changed or rule.times is not None or rule.after > 0
            if rule.use():
                taken.append(rule)
        if changed:
            self._keep()
        return taken

    def take_create(self, provider: str) -> Fault | None:
        """The rule, if any, that decides how the batch that is now created will end."""
        for rule in self._rules:
            if rule.mode in _CREATE_MODES and rule.matches(provider, "create", "") and rule.use():
                self._keep()
                return rule
        return None

    def standing(self, provider: str, mode: str) -> Fault | None:
        """The rule of a standing mode that holds for a provider."""
        for rule in self._rules:
            if rule.mode == mode and rule.provider in (None, provider):
                return rule
        return None

    def _keep(self) -> None:
        self._rules = [rule for rule in self._rules if rule.times is None or rule.times > 0]
        self._save(self.listed())


@dataclass(slots=True)
class Limits:
    """How much the sandbox takes, and how long it makes a batch wait.

    Sources: the provider notes. Where a page says MB without more, the smaller reading is used,
    so that whatever fits here fits there.
    """

    seconds: float = 0.2
    """Time from the creation of a batch to its end."""
    max_requests: int = 100_000
    """Requests of an Anthropic batch."""
    max_bytes: int = 256_000_000
    """Body of an Anthropic batch."""
    queued_requests: int | None = None
    """Anthropic requests in batches that have not ended; more is a 429."""
    max_lines: int = 50_000
    """Lines of an OpenAI batch file."""
    max_file_bytes: int = 209_715_200
    """Size of an OpenAI batch file when a batch is made of it."""
    max_upload_bytes: int = 536_870_912
    """Size of any uploaded file."""
    embedding_inputs: int = 50_000
    """Inputs of all lines of an OpenAI embeddings batch."""
    clock_seconds: float = 0.0
    """How far its clock is ahead of this machine's, in what it says of batches and in `Date`."""
    expires_seconds: float = 86_400
    """Time from the creation of a batch to when it says that it expires; it ends none by it."""
    keeps_metadata: bool = True
    """Whether an OpenAI batch gives back the metadata that it was made with."""
    ways: list[str] = field(default_factory=list[str])
    """In what OpenAI's API here differs, as of a server that only speaks it: `compatible.WAYS`."""
    enqueued_tokens: int | None = None
    """Prompt tokens per OpenAI model, or deployment of Azure, in batches that have not ended."""
    pending_seconds: float = 0.05
    """Time after an upload to Azure in which no batch can be made of the file."""
    keys: list[str] | None = None
    """The only keys that it takes; by default any that begins with `sandbox`."""

    def change(self, wanted: Json) -> None:
        """Set some limits."""
        names = {each.name for each in fields(self)}
        for name, value in wanted.items():
            if name not in names:
                raise ValueError(f"limit {name!r} is not one of {', '.join(sorted(names))}")
            for way in set(value) - WAYS.keys() if name == "ways" else ():
                raise ValueError(f"way {way!r} is not one of {', '.join(sorted(WAYS))}")
            setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """The limits as JSON."""
        return asdict(self)
