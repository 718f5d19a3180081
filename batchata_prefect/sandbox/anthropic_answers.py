"""Messages in the Messages API's own form, made from what a request says."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from .answers import Place, Said, cited_answer, cited_text, json_answer, plain_answer
from .anthropic_content import ContentReader
from .anthropic_models import REGIONS_SINCE, ClaudeModel
from .content import Marker, cut_text, text_tokens
from .extras import Extras, allow_claude, ordered
from .quotes import formed_answer
from .wire import Json, is_object

_TINY = 16
"""Below this many tokens a model that thinks has none left for an answer."""

_SIGNATURE = "EqkBCkYIBxgCKkDsandbox0signature0of0an0omitted0thinking0block0AAAAAAAAAAAA=="


@dataclass(frozen=True, slots=True)
class Billing:
    """Tokens to charge for. `input` counts cached and cache-written tokens too."""

    input: int
    output: int
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    extras: Extras = field(default_factory=Extras)


class CacheMemory:
    """Which prompt prefixes were written to the cache so far, within one batch."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def hit(self, prefix: str) -> bool:
        """Whether a prefix was there before; it is there from now on."""
        digest = hashlib.sha256(prefix.encode()).digest()
        if digest in self._seen:
            return True
        self._seen.add(digest)
        return False


def make_message(
    params: Json,
    model: ClaudeModel,
    reader: ContentReader,
    marker: Marker | None,
    message_id: str,
    *,
    tier: str,
    cache: CacheMemory,
) -> tuple[Json, Billing | None]:
    """The message that answers a request, and what it costs; None when it is free.

    Args:
        params: the request body, already checked.
        model: traits of its model.
        reader: what the body says.
        marker: what a test ordered in the text, if anything.
        message_id: id of the message.
        tier: `batch` or `standard`.
        cache: prompt prefixes seen before.
    """
    max_tokens: int = params["max_tokens"]
    thinking = _thinking_tokens(params, model, reader, max_tokens)
    content: list[Json] = []
    if thinking is not None:
        shown = "The sandbox considers the request." if _shows_thinking(params) else ""
        content.append({"type": "thinking", "thinking": shown, "signature": _SIGNATURE})
    spent = thinking or 0
    stop_reason, stop_sequence, stop_details = "end_turn", None, None
    if marker is not None and marker.name == "refusal":
        content, spent, stop_reason = [], 0, "refusal"
        stop_details = {
            "type": "refusal",
            "category": "general_harms",
            "explanation": "The sandbox was asked to refuse this request.",
        }
    elif spent >= max_tokens:
        stop_reason = "max_tokens"
    else:
        blocks, stop_reason = _blocks(params, reader, marker)
        left = max_tokens - spent
        if marker is not None and marker.name in ("truncated", "stop"):
            left = min(left, max(1, _tokens_of(blocks) // 2))
        blocks, used, cut = _cut(blocks, left)
        content.extend(_searches(params, marker))
        content.extend(blocks)
        spent += used
        if cut and marker is not None and marker.name == "stop":
            stop_reason = marker.rest
        elif cut:
            stop_reason = "max_tokens"
        elif (found := _stop_sequence(params, content)) is not None:
            stop_reason, stop_sequence = "stop_sequence", found
    usage, billing = _usage(params, model, reader, marker, spent, thinking or 0, tier, cache)
    message: Json = {
        "model": model.id,
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "stop_details": stop_details,
        "usage": usage,
    }
    free = stop_reason == "refusal" and not content
    return message, None if free else billing


def _searches(params: Json, marker: Marker | None) -> list[Json]:
    """The searches of the web that a test ordered, as the blocks before the answer."""
    extras = ordered(marker)
    allow_claude(extras, params)
    blocks: list[Json] = []
    for nth in range(extras.fees.get("web_searches", 0)):
        call = f"srvtoolu_01{nth:022d}"
        asked: Json = {"type": "server_tool_use", "id": call, "name": "web_search"}
        blocks.append({**asked, "input": {"query": "sandbox"}})
        blocks.append({"type": "web_search_tool_result", "tool_use_id": call, "content": []})
    return blocks


def _thinking_tokens(
    params: Json, model: ClaudeModel, reader: ContentReader, max_tokens: int
) -> int | None:
    thinking = params.get("thinking")
    kind = thinking.get("type") if is_object(thinking) else None
    choice = params.get("tool_choice")
    forced = is_object(choice) and choice.get("type") in ("any", "tool")
    if kind in ("disabled", "between_tools") or forced:
        return None
    if kind is None and not model.thinks_by_default:
        return None
    if max_tokens < _TINY:
        return max_tokens
    wanted = 16 + zlib.crc32(reader.prompt.ask.encode()) % 48
    return min(wanted, max_tokens // 2)


def _shows_thinking(params: Json) -> bool:
    thinking = params.get("thinking")
    if not is_object(thinking):
        return False
    display = thinking.get("display")
    return display == "summarized" or (display is None and thinking.get("type") == "enabled")


def _blocks(params: Json, reader: ContentReader, marker: Marker | None) -> tuple[list[Json], str]:
    prompt = reader.prompt
    if marker is not None and marker.name == "paused" and reader.pauses < int(marker.rest or 1):
        return _paused(reader.pauses), "pause_turn"
    if marker is not None and marker.name == "reply":
        return [{"type": "text", "text": marker.rest}], "end_turn"
    if marker is not None and marker.name == "answer":
        blocks: list[Json] = orjson.loads(marker.rest)
        calls = any(block["type"] == "tool_use" for block in blocks)
        return blocks, "tool_use" if calls else "end_turn"
    choice = params.get("tool_choice")
    if is_object(choice) and choice.get("type") in ("any", "tool"):
        return [_tool_use(params, reader, choice)], "tool_use"
    config = params.get("output_config")
    form = config.get("format") if is_object(config) else None
    if is_object(form):
        misquote = marker is not None and marker.name == "misquote"
        text = orjson.dumps(formed_answer(prompt, form["schema"], misquote=misquote)).decode()
        if marker is not None and marker.name == "invalid_json":
            text = text[: len(text) // 2] + " oops"
        return [{"type": "text", "text": text}], "end_turn"
    if marker is not None and marker.name == "invalid_json":
        return [{"type": "text", "text": '```json\n{"broken": \n```'}], "end_turn"
    if reader.cited_sources and prompt.documents:
        return [_said_block(said, reader) for said in cited_answer(prompt)], "end_turn"
    return [{"type": "text", "text": plain_answer(prompt)}], "end_turn"


def _paused(number: int) -> list[Json]:
    """A turn that is handed back while a tool of the provider's works."""
    use = {
        "type": "server_tool_use",
        "id": f"srvtoolu_01Sandbox{number:04d}",
        "name": "web_search",
        "input": {"query": f"part {number + 1}"},
    }
    return [{"type": "text", "text": f"I look for part {number + 1}. ", "citations": None}, use]


def _tool_use(params: Json, reader: ContentReader, choice: Json) -> Json:
    tools: list[Json] = params["tools"]
    tool = next((each for each in tools if each["name"] == choice.get("name")), tools[0])
    return {
        "type": "tool_use",
        "id": "toolu_01" + hashlib.sha256(reader.prompt.ask.encode()).hexdigest()[:22],
        "name": tool["name"],
        "input": json_answer(reader.prompt, tool.get("input_schema", {})),
    }


def _said_block(said: Said, reader: ContentReader) -> Json:
    place = said.place
    citations = None if place is None else [_citation(place, reader)]
    return {"type": "text", "text": said.text, "citations": citations}


def _citation(place: Place, reader: ContentReader) -> Json:
    document = reader.prompt.documents[place.document]
    common: Json = {
        "cited_text": cited_text(document, place),
        "document_index": place.document,
        "document_title": document.title,
        "file_id": document.file_id,
    }
    if document.kind == "pages":
        return {
            "type": "page_location",
            **common,
            "start_page_number": place.part + 1,
            "end_page_number": place.part + 2,
        }
    if document.kind == "blocks":
        return {
            "type": "content_block_location",
            **common,
            "start_block_index": place.part,
            "end_block_index": place.part + 1,
        }
    return {
        "type": "char_location",
        **common,
        "start_char_index": place.start,
        "end_char_index": place.end,
    }


def _tokens_of(blocks: list[Json]) -> int:
    total = 0
    for block in blocks:
        text = block.get("text")
        total += text_tokens(text if isinstance(text, str) else orjson.dumps(block).decode())
    return total


def _cut(blocks: list[Json], left: int) -> tuple[list[Json], int, bool]:
    kept: list[Json] = []
    used = 0
    for block in blocks:
        tokens = _tokens_of([block])
        if used + tokens <= left:
            kept.append(block)
            used += tokens
            continue
        text = block.get("text")
        head = cut_text(text, left - used) if isinstance(text, str) else ""
        if head:
            kept.append({**block, "text": head})
        return kept, left, True
    return kept, used, False


def _stop_sequence(params: Json, content: list[Json]) -> str | None:
    stops = params.get("stop_sequences")
    if not stops:
        return None
    for number, block in enumerate(content):
        text = block.get("text")
        for stop in stops:
            if isinstance(text, str) and stop in text:
                block["text"] = text[: text.index(stop)]
                del content[number + 1 :]
                return stop
    return None


def _usage(
    params: Json,
    model: ClaudeModel,
    reader: ContentReader,
    marker: Marker | None,
    output: int,
    thinking: int,
    tier: str,
    cache: CacheMemory,
) -> tuple[Json, Billing]:
    total = max(reader.prompt.tokens, 1)
    read = write_5m = write_1h = 0
    if marker is not None and marker.name == "tokens":
        given = marker.rest.split()
        total, output = int(given[0]), int(given[1])
        thinking = min(thinking, output)
    elif reader.cache_controls or is_object(params.get("cache_control")):
        read, write_5m, write_1h = _cached(params, reader, cache, total)
    extras = ordered(marker)
    allow_claude(extras, params)
    searches = extras.fees.get("web_searches", 0)
    knows_regions = model.version >= REGIONS_SINCE
    extras.region = params.get("inference_geo") if knows_regions else None
    usage: Json = {
        "input_tokens": total - read - write_5m - write_1h,
        "cache_creation_input_tokens": write_5m + write_1h,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": write_5m,
            "ephemeral_1h_input_tokens": write_1h,
        },
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": thinking},
        "server_tool_use": (
            {"web_search_requests": searches, "web_fetch_requests": 0} if searches else None
        ),
        "service_tier": tier,
        "inference_geo": (extras.region or "global") if knows_regions else "not_available",
    }
    if extras.passes:
        turn = ("message", None, total - read - write_5m - write_1h, output)
        usage["iterations"] = [_iteration(*each) for each in (*extras.passes, turn)]
        usage["iterations"][-1] |= {
            name: usage[name] for name in ("cache_read_input_tokens", "cache_creation_input_tokens")
        }
    return usage, Billing(total, output, read, write_5m, write_1h, extras)


def _iteration(kind: str, model: str | None, given: int, written: int) -> Json:
    """One entry of `usage.iterations` (anthropic/types/beta/beta_iterations_usage.py)."""
    return {
        "type": kind,
        "input_tokens": given,
        "output_tokens": written,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        **({} if model is None else {"model": model}),
    }


_CACHE_MINIMUM = 1024


def _cached(
    params: Json, reader: ContentReader, cache: CacheMemory, total: int
) -> tuple[int, int, int]:
    whole: Any = params.get("cache_control")
    if is_object(whole):
        tokens, control = total, whole
        texts, documents = reader.prompt.texts, reader.prompt.documents
    else:
        tokens, control = reader.cache_prefix_tokens, reader.cache_controls[-1]
        texts = reader.prompt.texts[: reader.cache_prefix_texts]
        documents = reader.prompt.documents[: reader.cache_prefix_documents]
    if tokens < _CACHE_MINIMUM:
        return 0, 0, 0
    parts = [part for document in documents for part in document.parts]
    prefix = "\0".join([str(params["model"]), *texts, *parts])
    if cache.hit(prefix):
        return tokens, 0, 0
    if control.get("ttl", "5m") == "1h":
        return 0, 0, tokens
    return 0, tokens, 0
