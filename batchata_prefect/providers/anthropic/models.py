"""What a Claude model takes, told from the pattern of its id; nothing is said of other models.

Sources: platform.claude.com: models overview, api/errors, pdf-support, whats-new-opus-5-5.
"""

from __future__ import annotations

import re
from functools import lru_cache

Family = tuple[str, tuple[int, int]]

_FAMILY = re.compile(
    r"claude-(?:([a-z]+)-(\d)(?:-(\d{1,2}))?|(\d)(?:-(\d{1,2}))?-([a-z]+))(?![a-z\d])"
)


@lru_cache(maxsize=1024)
def family(model: str) -> Family | None:
    """Line and version out of a model id, such as `("opus", (5, 5))`; None for other ids."""
    match = _FAMILY.match(model)
    if match is None:
        return None
    line, major, minor, old_major, old_minor, old_line = match.groups()
    return line or old_line, (int(major or old_major), int(minor or old_minor or 0))


def most_tokens(model: str) -> int | None:
    """The most output tokens; None where nothing is known.

    The 300k of a beta need a header, which is not sent.
    """
    if not model.startswith("claude"):
        return None
    return 64_000 if _is_small(family(model)) else 128_000


def most_pages(model: str) -> int:
    """The most PDF pages of a request."""
    return 100 if _is_small(family(model)) else 600


def _is_small(found: Family | None) -> bool:
    """Whether a model has 200k context and 64k output: the 4.5 generation and older."""
    return found is not None and found[1] <= (4, 5)


def takes_prefill(model: str) -> bool:
    """Whether the last message may be the assistant's; not from 4.6 on."""
    found = family(model)
    return found is None or found[1] < (4, 6)


def takes_enabled_thinking(model: str) -> bool:
    """Whether `thinking` may be of type `enabled`; not from 4.7 on."""
    found = family(model)
    return found is None or found[1] < (4, 7)


def takes_forced_tool(model: str) -> bool:
    """Whether `tool_choice` may force a tool; not Opus from 5.5, nor Fable and Mythos from 5.1."""
    found = family(model)
    if found is None:
        return True
    line, version = found
    return version < {"opus": (5, 5), "fable": (5, 1), "mythos": (5, 1)}.get(line, (99, 0))
