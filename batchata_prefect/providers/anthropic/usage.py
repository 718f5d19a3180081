"""What a message of Anthropic's may be billed for, and what it was.

Sources: anthropic/types/usage.py, types/beta/beta_usage.py, beta_iterations_usage.py and its
entries (2.12.0); platform.claude.com: compaction ("to calculate total tokens consumed and billed
for a request, sum across all entries in the usage.iterations array"), advisor tool (each entry at
the rates of its model), code execution, about-claude/pricing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from batchata_prefect.answers import Pass, Usage
from batchata_prefect.models import USUAL, Terms
from batchata_prefect.providers.rows import (
    EMPTY,
    limit_at,
    list_at,
    object_at,
    objects_at,
    text_at,
    tokens_at,
    whole_number,
)

_FEES = {
    "web_search_requests": "web_searches",
    "web_fetch_requests": "web_fetches",
    "code_execution_requests": "code_executions",
    "tool_search_requests": "tool_searches",
}
_FORMS = {"server_tool_use": dict, "iterations": (list, tuple)}
_IN_A_CONTAINER = frozenset({"code_execution", "bash_code_execution", "text_editor_code_execution"})
_OF_THE_TURN = frozenset({"message", "fallback_message"})
"""Iterations that the top-level counts are the sum of; the others are left out there."""
_NAMES_ITS_MODEL = frozenset({"advisor_message", "fallback_message"})
_COUNTS = ("input_tokens", "output_tokens")
_LIFETIMES = ("ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens")


_TOOLS = {
    "web_search_": "web_searches",
    "web_fetch_": "web_fetches",
    "code_execution_": "code_executions",
    "tool_search_tool_": "tool_searches",
}
"""Head of a tool's type -> its fee [anthropic/types/tool_union_param.py]."""
_OURS = ("custom", "bash_", "browser_", "computer_", "memory_", "text_editor_", "mcp_toolset")
"""Heads of the types of tools that run at the user's, or whose calls are tokens alone."""
_WITH_FREE_CODE = re.compile(r"web_(?:search|fetch)_(\d+)")
_FREE_CODE_SINCE = 20260209


def terms_of(params: Mapping[str, Any]) -> Terms:
    """How a request with these parameters is billed beside its tokens."""
    uses: list[tuple[tuple[str, ...], int | None]] = []
    free: tuple[str, ...] = ()
    for tool in objects_at(params, "tools"):
        kind = text_at(tool, "type") or "custom"
        if kind.startswith(_OURS):
            continue
        fee = next((fee for head, fee in _TOOLS.items() if kind.startswith(head)), kind)
        uses.append(((fee,), limit_at(tool, "max_uses")))
        match = _WITH_FREE_CODE.match(kind)
        if match is not None and int(match[1]) >= _FREE_CODE_SINCE:
            # "Code execution is free when used with web search or web fetch" of these versions.
            free = ("code_executions",)
    if params.get("context_management") is not None:
        # A summary of what grew too long is a pass of its own, and nothing bounds it.
        uses.append((("compactions",), None))
    region, tier = params.get("inference_geo"), params.get("service_tier")
    if params.get("speed") not in {None, "standard"}:
        tier = params["speed"]
    if not (uses or region or tier):
        return USUAL
    return Terms(
        tuple(each for each in uses if not set(each[0]) <= set(free)),
        free,
        None if tier is None else str(tier),
        None if region is None else str(region),
    )


def usage_of(message: Mapping[str, Any]) -> Usage | None:
    """The usage in our definitions: Anthropic's `input_tokens` leave the cached ones out.

    None where a count is not told, or is no number of tokens: it is not 0, and what the answer
    cost is not known.
    """
    usage = object_at(message, "usage")
    if not _tells(usage):
        return None
    try:
        whole = _tokens(usage)
        fees = _fees(usage, message)
        passes = _passes(usage, whole, fees, text_at(message, "model"))
        thought = tokens_at(object_at(usage, "output_tokens_details"), "thinking_tokens")
    except ValueError:
        return None
    if len(passes) > 1 or (passes and passes[0] != whole):
        counts = tuple(sum(column) for column in zip(*(each[1:] for each in passes), strict=True))
    else:
        counts, passes = whole[1:], []
    speed, tier = text_at(usage, "speed"), text_at(usage, "service_tier")
    given, written, read, cached, hour = counts
    return Usage(
        given,
        written,
        read,
        cached,
        hour,
        thought,
        fees=tuple(sorted(fees.items())),
        passes=tuple(passes),
        tier=tier if speed in {None, "standard"} else speed,
        region=text_at(usage, "inference_geo"),
    )


def _tells(counts: Mapping[str, Any]) -> bool:
    """Whether both counts are there that every message and every iteration has."""
    return None not in [whole_number(counts.get(name)) for name in _COUNTS]


def _tokens(counts: Mapping[str, Any], model: str | None = None) -> Pass:
    read = tokens_at(counts, "cache_read_input_tokens")
    lifetimes = object_at(counts, "cache_creation")
    if any(tokens and name not in _LIFETIMES for name, tokens in lifetimes.items()):
        raise ValueError(f"what a cache of {sorted(lifetimes)} costs is not known")
    hour, minutes = (tokens_at(lifetimes, name) for name in _LIFETIMES)
    # The total may be left out, and the parts not.
    written = max(tokens_at(counts, "cache_creation_input_tokens"), hour + minutes)
    return Pass(
        model,
        tokens_at(counts, "input_tokens") + read + written,
        tokens_at(counts, "output_tokens"),
        read,
        written,
        hour,
    )


def _fees(usage: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, int]:
    """Fee -> uses; one that we do not know goes by the provider's name."""
    found: dict[str, int] = {}
    for name in ("server_tool_use", "iterations"):
        if usage.get(name) and not isinstance(usage[name], _FORMS[name]):
            found[name] = 1
    for name, value in object_at(usage, "server_tool_use").items():
        if not value:
            continue
        if name in _FEES:
            found[_FEES[name]] = tokens_at({name: value}, name)
        else:
            found[name] = value if type(value) is int and value > 0 else 1
    ran = sum(
        block.get("type") == "server_tool_use" and block.get("name") in _IN_A_CONTAINER
        for block in objects_at(message, "content")
    )
    # A container costs by its time, whether the usage counts what ran in it or not.
    ran = max(ran, int(bool(message.get("container"))))
    if ran and "code_executions" not in found:
        found["code_executions"] = ran
    return found


def _passes(
    usage: Mapping[str, Any], whole: Pass, fees: dict[str, int], served: str | None
) -> list[Pass]:
    """Each iteration with its tokens; none where the top level says all."""
    passes: list[Pass] = []
    left = whole
    entries = [
        cast("Mapping[str, Any]", item) if isinstance(item, dict) else EMPTY
        for item in list_at(usage, "iterations")
    ]
    # What answered is the model that was asked for, under its own name, unless another stood in.
    own = None if any(e.get("type") == "fallback_message" for e in entries) else served
    for entry in entries:
        kind, model = text_at(entry, "type"), text_at(entry, "model")
        if kind in {"message", "compaction"} and model == own:
            model = None
        if kind is None or not _tells(entry) or (kind in _NAMES_ITS_MODEL and model is None):
            # Some model was paid, and it is not said which, or for how much.
            fees[kind or "iterations"] = fees.get(kind or "iterations", 0) + 1
            continue
        tokens = _tokens(entry, model)
        if kind in _OF_THE_TURN:
            if entry.get("cache_creation") is None:
                # How long it is kept may stand at the top level only.
                hour = min(tokens.cache_write_tokens, left.cache_write_1h_tokens)
                tokens = tokens._replace(cache_write_1h_tokens=hour)
            rest = (max(0, of - part) for of, part in zip(left[1:], tokens[1:], strict=True))
            left = Pass(None, *rest)
        passes.append(tokens)
    # What the top level says, and no turn does, was billed as well.
    if passes and any(left[1:]):
        passes.append(left)
    return passes
