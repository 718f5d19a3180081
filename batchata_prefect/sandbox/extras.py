"""What a request is billed for beside its own tokens: fees, further passes, tier and region.

A test orders it in the text with `[[sandbox:bill web_searches 3 compaction 500 20]]`: names of
fees with how often, and kinds of further passes with their tokens in and out; a pass of
`advisor_message` or `fallback_message` has its model before them. Tools are used only as far as
the request has them, and never more often than it allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from .content import Marker
from .wire import Json, is_array, is_object

_PASSES = ("message", "compaction")
_PASSES_OF_A_MODEL = ("advisor_message", "fallback_message")


@dataclass(slots=True)
class Extras:
    """What is billed beside the tokens of the answer.

    Attributes:
        fees: Fee -> uses.
        passes: Kind, model (None for the request's own), tokens in and out.
        tier: Service tier that answered; None for the usual one.
        region: Region that answered; None for any.
    """

    fees: dict[str, int] = field(default_factory=dict[str, int])
    passes: list[tuple[str, str | None, int, int]] = field(
        default_factory=list[tuple[str, str | None, int, int]]
    )
    tier: str | None = None
    region: str | None = None

    def stored(self) -> str:
        """It as JSON for the ledger; empty where there is nothing."""
        if not (self.fees or self.passes or self.tier or self.region):
            return ""
        told = [self.fees, self.passes, self.tier, self.region]
        return orjson.dumps(told).decode()


def ordered(marker: Marker | None) -> Extras:
    """What a test ordered."""
    extras = Extras()
    if marker is None or marker.name != "bill":
        return extras
    words = iter(marker.rest.split())
    for name in words:
        if name in _PASSES or name in _PASSES_OF_A_MODEL:
            model = next(words) if name in _PASSES_OF_A_MODEL else None
            extras.passes.append((name, model, int(next(words)), int(next(words))))
        else:
            extras.fees[name] = int(next(words))
    return extras


def allow_claude(extras: Extras, params: Json) -> None:
    """Leave only the searches that a Messages request allows: `max_uses` of its tool."""
    wanted, extras.fees = extras.fees.get("web_searches", 0), {}
    for tool in _tools(params):
        if str(tool.get("type", "")).startswith("web_search_"):
            most = tool.get("max_uses")
            extras.fees["web_searches"] = wanted if most is None else min(wanted, int(most))


def allow_response(extras: Extras, body: Json) -> None:
    """Leave only the calls that a response allows: of its tools, `max_tool_calls` together."""
    kinds = {str(tool.get("type", "")) for tool in _tools(body)}
    most = body.get("max_tool_calls")
    left = most if isinstance(most, int) else 1 << 30
    allowed: dict[str, int] = {}
    for fee, kind in (("web_searches", "web_search"), ("file_searches", "file_search")):
        if kind in kinds and (uses := min(extras.fees.get(fee, 0), left)):
            allowed[fee] = uses
            left -= uses
    extras.fees = allowed


def _tools(body: Json) -> list[Json]:
    tools: Any = body.get("tools")
    return [tool for tool in tools if is_object(tool)] if is_array(tools) else []
