"""What the Messages API says of a Claude model id, told from the id's own pattern.

Source: platform.claude.com models overview, migration guides and thinking pages, November 2026.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_ID = re.compile(
    r"^claude-(?:(?P<line>[a-z]+)-(?P<major>\d)(?:-(?P<minor>\d{1,2}))?"
    r"|(?P<old_major>\d)(?:-(?P<old_minor>\d))?-(?P<old_line>[a-z]+))(?:-\d{8}|-latest)?$"
)
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


REGIONS_SINCE = (4, 6)
"""The first models that know `inference_geo` (platform.claude.com manage-claude/data-residency)."""


@dataclass(frozen=True, slots=True)
class ClaudeModel:
    """Traits of a model that decide what its requests may hold."""

    id: str
    line: str
    version: tuple[int, int]
    max_tokens: int
    max_input_tokens: int
    efforts: tuple[str, ...]

    @property
    def thinks_by_default(self) -> bool:
        """Whether thinking is on where the request says nothing."""
        return self.version >= (5, 0)

    @property
    def always_thinks(self) -> bool:
        """Whether thinking cannot be switched off."""
        return self.line in ("fable", "mythos") or (self.line == "opus" and self.version >= (5, 5))

    @property
    def takes_enabled_thinking(self) -> bool:
        """Whether `thinking: {"type": "enabled"}` is still taken."""
        return self.version < (4, 7)

    @property
    def takes_adaptive_thinking(self) -> bool:
        """Whether `thinking: {"type": "adaptive"}` is taken."""
        return self.version >= (4, 6)

    @property
    def takes_prefill(self) -> bool:
        """Whether the last message may be the assistant's."""
        return self.version < (4, 6)

    @property
    def takes_forced_tool(self) -> bool:
        """Whether `tool_choice` may force a tool."""
        if self.line in ("fable", "mythos"):
            return self.version < (5, 1)
        return not (self.line == "opus" and self.version >= (5, 5))


@lru_cache(maxsize=4096)
def claude_model(model_id: str) -> ClaudeModel | None:
    """The traits of a model, or None where the sandbox says that it does not exist."""
    if not model_id.startswith("claude-") or "does-not-exist" in model_id:
        return None
    match = _ID.match(model_id)
    line = (match["line"] or match["old_line"]) if match else "unknown"
    major = int(match["major"] or match["old_major"]) if match else 9
    minor = int(match["minor"] or match["old_minor"] or 0) if match else 0
    version = (major, minor)
    small = version <= (4, 5) or (line == "haiku" and version < (5, 0))
    if version <= (4, 5):
        efforts = ("low", "medium", "high") if line == "opus" and version == (4, 5) else ()
    elif version == (4, 6):
        efforts = ("low", "medium", "high", "max")
    else:
        efforts = _EFFORTS
    return ClaudeModel(
        id=model_id,
        line=line,
        version=version,
        max_tokens=64_000 if small else 128_000,
        max_input_tokens=200_000 if small else 1_000_000,
        efforts=efforts,
    )
