"""What an answer of OpenAI's may be billed for, and what it was.

Sources: openai/types/completion_usage.py, types/responses/response.py (`ToolUsage`),
response_output_item.py and its items (3.54.0); developers.openai.com: pricing, guides/tools-*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from batchata_prefect.answers import Usage
from batchata_prefect.models import USUAL, Terms
from batchata_prefect.providers.rows import (
    limit_at,
    object_at,
    objects_at,
    text_at,
    tokens_at,
    whole_number,
)

_FREE = frozenset(
    {
        # They are tokens and nothing else, or run at the user's.
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "compaction",
        "computer_call",
        "computer_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "function_call",
        "function_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "message",
        "reasoning",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "program_output",
    }
)
_FEES = {
    "file_search_call": "file_searches",
    "code_interpreter_call": "code_executions",
    "image_generation_call": "images",
    "shell_call": "shell_calls",
    "program": "programs",
}
_AT_HOME = frozenset({None, "local"})
"""Environments of a shell that is the user's own, and not a container of OpenAI's."""

_LOOKS = frozenset({"open_page", "find", "find_in_page"})
"""What a `web_search_call` does with what was found, which is no search."""

_SEARCHES, _PREVIEWS, _CHAT_SEARCHES = "web_searches", "web_search_previews", "chat_web_searches"
_SOUND = "audio_tokens"
SEARCHES_BY_ITSELF = "-search"
"""In the name of a model that searches the web for each chat completion."""


_TOOLS = {
    "file_search": "file_searches",
    "code_interpreter": "code_executions",
    "image_generation": "images",
    "programmatic_tool_calling": "programs",
}
_OURS = ("function", "custom", "computer", "local_shell", "apply_patch", "mcp", "tool_search")
"""Heads of the types of tools that run at the user's, or whose calls are tokens alone
[openai/types/responses/tool_param.py; "you only pay for tokens": guides/tools-connectors-mcp]."""


def terms_of(model: str, params: Mapping[str, Any]) -> Terms:
    """How a request with these parameters is billed beside its tokens."""
    fees = {fee for tool in objects_at(params, "tools") if (fee := _fee(tool)) is not None}
    uses: tuple[tuple[tuple[str, ...], int | None], ...] = ()
    if fees:
        # The limit is that of all calls of built-in tools together.
        uses = ((tuple(sorted(fees)), limit_at(params, "max_tool_calls")),)
    if params.get("web_search_options") is not None or SEARCHES_BY_ITSELF in model:
        uses += (((_CHAT_SEARCHES,), 1),)
    tier = params.get("service_tier")
    if not uses and tier is None:
        return USUAL
    return Terms(uses, tier=None if tier is None else str(tier))


def _fee(tool: Mapping[str, Any]) -> str | None:
    """The fee of a tool; None where its calls are tokens alone."""
    kind = text_at(tool, "type") or "function"
    if kind.startswith("web_search"):
        return _PREVIEWS if kind.startswith("web_search_preview") else _SEARCHES
    if kind == "shell":
        at_home = object_at(tool, "environment").get("type") in _AT_HOME
        return None if at_home else "shell_calls"
    if kind == "namespace" or kind.startswith(_OURS):
        return None
    return _TOOLS.get(kind, kind)


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The usage in our definitions: OpenAI's input and output include all their parts.

    None where a count is not told, or is no number of tokens: it is not 0, and what the answer
    cost is not known.
    """
    usage = object_at(body, "usage")
    taken, given = ("input", "output") if "output" in body else ("prompt", "completion")
    read, total = (whole_number(usage.get(f"{name}_tokens")) for name in (taken, "total"))
    # An embedding has no output.
    written = 0 if "data" in body else whole_number(usage.get(f"{given}_tokens"))
    if written is None and read is not None and total is not None:
        written = max(total - read, 0)
    if read is None or written is None:
        return None
    try:
        details = object_at(usage, f"{taken}_tokens_details")
        made = object_at(usage, f"{given}_tokens_details")
        fees = _fees(body)
        # Of a price of its own, many times that of text.
        fees[_SOUND] += sum(tokens_at(each, _SOUND) for each in (details, made))
        return Usage(
            tokens_at(usage, f"{taken}_tokens"),
            tokens_at({"": written}, ""),
            tokens_at(details, "cached_tokens"),
            tokens_at(details, "cache_write_tokens"),
            0,
            tokens_at(made, "reasoning_tokens"),
            fees=tuple(sorted((+fees).items())),
            tier=text_at(body, "service_tier"),
        )
    except ValueError:
        return None


def _fees(body: Mapping[str, Any]) -> Counter[str]:
    """Fee -> uses; one that we do not know goes by the provider's name."""
    found: Counter[str] = Counter()
    for item in objects_at(body, "output"):
        kind = text_at(item, "type") or "items"
        if kind == "web_search_call":
            found[_SEARCHES] += text_at(object_at(item, "action"), "type") not in _LOOKS
        elif kind == "shell_call" and object_at(item, "environment").get("type") in _AT_HOME:
            continue
        elif kind not in _FREE:
            found[_FEES.get(kind, kind)] += 1
    _told(body.get("tool_usage"), found)
    if found[_SEARCHES] and any(
        (text_at(tool, "type") or "").startswith("web_search_preview")
        for tool in objects_at(body, "tools")
    ):
        found[_PREVIEWS] = found.pop(_SEARCHES)
    if "choices" in body and _searched(body):
        found[_CHAT_SEARCHES] = 1
    return found


def _told(told: Any, found: Counter[str]) -> None:
    """Have what the provider counted itself go before the calls that are there."""
    used = cast("Mapping[str, Any]", told) if isinstance(told, dict) else {"tool_usage": told}
    for name, counts in used.items():
        if name == "web_search" and isinstance(counts, dict):
            searches = cast("Mapping[str, Any]", counts)
            if searches.get("num_requests") is not None:
                found[_SEARCHES] = tokens_at(searches, "num_requests")
        elif _is_used(counts):
            fee = "images" if name == "image_gen" else name
            found[fee] = max(found[fee], 1)


def _is_used(counts: Any) -> bool:
    """Whether any count in it is above 0."""
    if isinstance(counts, dict):
        return any(map(_is_used, cast("Mapping[str, Any]", counts).values()))
    return bool(counts)


def _searched(body: Mapping[str, Any]) -> bool:
    """Whether a chat completion searched the web, which its usage does not say."""
    return SEARCHES_BY_ITSELF in (text_at(body, "model") or "") or any(
        object_at(choice, "message").get("annotations") for choice in objects_at(body, "choices")
    )
