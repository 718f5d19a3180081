"""Messages in the Messages API's own form, made from what a request says, and rows of results."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from .answers import (
    Place,
    cited_answer,
    cited_text,
    json_answer,
    most_tokens,
    thought_tokens,
    wanted_text,
)
from .anthropic_content import REGIONS_SINCE, ClaudeModel
from .anthropic_rules import read_params
from .content import CachePoint, FileReader, Marker, Prompt, cut_text, text_tokens
from .rows import Counted, Encoder, Outcome, Produced, ordered
from .store import Batch, Bill, Store
from .wire import Json, Refusal, RefusedError, object_at

ENDPOINT = "/v1/messages"
_MAX_REQUEST_BYTES = 32_000_000
"""Of one Messages request (platform.claude.com api/errors: 32 MB; the smaller reading)."""

_KINDS = ("succeeded", "errored", "canceled", "expired")
_CACHE_MINIMUM = 1024
_SIGNATURE = "EqkBCkYIBxgCKkDsandbox0signature0of0an0omitted0thinking0block0AAAAAAAAAAAA=="
_NOT_RUN = (None, "invalid_request_error", "not_found_error", "request_too_large")
"""Errors that are found before a request runs."""


class Claude(Encoder):
    """How the Messages API answers, under the version and betas of a call's headers."""

    provider = "anthropic"
    body_key = "params"
    words: ClassVar = dict.fromkeys(_KINDS, "ended")
    errors: ClassVar[Mapping[str, Refusal]] = {
        kind: Refusal(status, text, error_type=kind)
        for status, kind, text in (
            (400, "invalid_request_error", "The sandbox was asked to fail this request."),
            (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
            (500, "api_error", "Internal server error"),
            (529, "overloaded_error", "Overloaded"),
        )
    }

    def __init__(
        self,
        endpoint: str,
        files: FileReader,
        batch: Batch | None,
        version: str = "",
        betas: str = "",
    ) -> None:
        super().__init__(endpoint, files, batch)
        self.version = version if batch is None else batch.version
        self.betas = betas if batch is None else batch.betas
        self.cached: set[bytes] = set()
        """Prompt prefixes that were written to the cache so far."""

    def read(self, body: Json, size: int = 0) -> tuple[ClaudeModel, Prompt]:
        if size > _MAX_REQUEST_BYTES:
            text = "Request exceeds the maximum size"
            raise RefusedError(text, error_type="request_too_large", status=413)
        return read_params(
            body,
            version=self.version,
            betas=self.betas,
            batch=self.batch is not None,
            files=self.files,
        )

    def answer(
        self, body: Json, model: ClaudeModel, prompt: Prompt, marker: Marker | None, number: str
    ) -> tuple[Json, Counted | None]:
        name = marker.name if marker is not None else ""
        most: int = body["max_tokens"]
        thinking = _thinking_tokens(body, model, prompt)
        content: list[Json] = []
        if thinking is not None:
            asked = object_at(body, "thinking")
            default = "summarized" if asked.get("type") == "enabled" else None
            is_shown = (asked.get("display") or default) == "summarized"
            shown = "The sandbox considers the request." if is_shown else ""
            content.append({"type": "thinking", "thinking": shown, "signature": _SIGNATURE})
        spent = thinking or 0
        reason, sequence, details = "end_turn", None, None
        counted = ordered(marker, body)
        if name == "refusal":
            content, spent, reason = [], 0, "refusal"
            details = {
                "type": "refusal",
                "category": "general_harms",
                "explanation": "The sandbox was asked to refuse this request.",
            }
        elif spent >= most:
            reason = "max_tokens"
        else:
            blocks, reason = _blocks(body, prompt, marker)
            blocks, used, cut = _cut(blocks, marker, most - spent)
            content += [*_searches(counted), *blocks]
            spent += used
            if cut:
                reason = marker.rest if marker is not None and name == "stop" else "max_tokens"
            elif (sequence := _stop_sequence(body, content)) is not None:
                reason = "stop_sequence"
        if counted.spend(marker, max(prompt.tokens, 1), spent, thinking or 0):
            cached = self._cached(body, prompt)
            counted.cache_read, counted.cache_write_5m, counted.cache_write_1h = cached
        message: Json = {
            "model": model.id,
            "id": f"msg_01{number[:22]}",
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": details,
            "usage": _usage(body, model, counted, "standard" if self.batch is None else "batch"),
        }
        return message, None if name == "refusal" else counted

    def _cached(self, body: Json, prompt: Prompt) -> tuple[int, int, int]:
        """Tokens read from the cache, and written to it for five minutes and for an hour."""
        whole = object_at(body, "cache_control")
        if whole:
            tokens = max(prompt.tokens, 1)
            point = CachePoint(whole, tokens, len(prompt.texts), len(prompt.documents))
        elif prompt.cache_points:
            point = prompt.cache_points[-1]
        else:
            return 0, 0, 0
        if point.tokens < _CACHE_MINIMUM:
            return 0, 0, 0
        documents = prompt.documents[: point.documents]
        parts = [part for document in documents for part in document.parts]
        prefix = "\0".join([str(body["model"]), *prompt.texts[: point.texts], *parts])
        digest = hashlib.sha256(prefix.encode()).digest()
        if digest in self.cached:
            return point.tokens, 0, 0
        self.cached.add(digest)
        if point.control.get("ttl", "5m") == "1h":
            return 0, 0, point.tokens
        return 0, point.tokens, 0

    def row(self, custom_id: str, number: str, kind: str, result: Any) -> Json:
        """As `Encoder.row`; an error is nested twice, as the API does."""
        shown: Json = {"type": kind}
        if isinstance(result, RefusedError):
            early = result.error_type in _NOT_RUN
            ran = result.at_run_time or not early
            error: Json = {
                "type": result.error_type or "invalid_request_error",
                "message": result.message,
            }
            if early:
                error = {"details": {"error_visibility": "user_facing"}, **error}
            suffix = zlib.crc32(f"{number}{custom_id}".encode())
            request_id = f"workerreq_01Sandbox{suffix:010d}" if ran else None
            shown["error"] = {"type": "error", "error": error, "request_id": request_id}
        elif result is not None:
            shown["message"] = result
        return {"custom_id": custom_id, "result": shown}

    def produced(self, store: Store) -> dict[str, Produced]:
        """As `Encoder.produced`: one file holds all rows."""
        assert self.batch is not None
        results = Produced(store, store.batches_dir / f"{self.batch.id}.results.jsonl")
        return dict.fromkeys(_KINDS, results)

    def outcome(self, kinds: Counter[str], bills: list[Bill], made: dict[str, Produced]) -> Outcome:
        results = made["succeeded"]
        counts = {"processing": 0, **{kind: kinds[kind] for kind in _KINDS}}
        return Outcome(counts, bills=bills, moves=[(results.temporary, results.final)])


def _searches(counted: Counted) -> list[Json]:
    """The searches of the web that a test ordered, as the blocks before the answer."""
    blocks: list[Json] = []
    for nth in range(counted.fees.get("web_searches", 0)):
        call = f"srvtoolu_01{nth:022d}"
        asked: Json = {"type": "server_tool_use", "id": call, "name": "web_search"}
        blocks.append({**asked, "input": {"query": "sandbox"}})
        blocks.append({"type": "web_search_tool_result", "tool_use_id": call, "content": []})
    return blocks


def _forces_tool(body: Json) -> bool:
    return object_at(body, "tool_choice").get("type") in ("any", "tool")


def _thinking_tokens(body: Json, model: ClaudeModel, prompt: Prompt) -> int | None:
    kind = object_at(body, "thinking").get("type")
    thinks = model.thinks_by_default if kind is None else kind in ("enabled", "adaptive")
    if not thinks or _forces_tool(body):
        return None
    return thought_tokens(prompt, body["max_tokens"], tiny=15)


def _blocks(body: Json, prompt: Prompt, marker: Marker | None) -> tuple[list[Json], str]:
    """What the message says, and why it ends where nothing cuts it."""
    name, rest = (marker.name, marker.rest) if marker is not None else ("", "")
    if name == "paused" and prompt.pauses < int(rest or 1):
        return _paused(prompt.pauses), "pause_turn"
    if name == "answer":
        blocks: list[Json] = orjson.loads(rest)
        calls = any(block["type"] == "tool_use" for block in blocks)
        return blocks, "tool_use" if calls else "end_turn"
    if name != "reply" and _forces_tool(body):
        return [_tool_use(body, prompt)], "tool_use"
    form = object_at(object_at(body, "output_config"), "format")
    if name != "reply" and not form and name != "invalid_json" and prompt.cited:
        cited = [
            {
                "type": "text",
                "text": said.text,
                "citations": None if said.place is None else [_citation(said.place, prompt)],
            }
            for said in cited_answer(prompt)
        ]
        return cited, "end_turn"
    if name == "invalid_json" and not form:
        text = '```json\n{"broken": \n```'
    else:
        text = wanted_text(prompt, marker, form.get("schema"), as_json=False)
    return [{"type": "text", "text": text}], "end_turn"


def _paused(number: int) -> list[Json]:
    """A turn that is handed back while a tool of the provider's works."""
    use = {
        "type": "server_tool_use",
        "id": f"srvtoolu_01Sandbox{number:04d}",
        "name": "web_search",
        "input": {"query": f"part {number + 1}"},
    }
    return [{"type": "text", "text": f"I look for part {number + 1}. ", "citations": None}, use]


def _tool_use(body: Json, prompt: Prompt) -> Json:
    tools: list[Json] = body["tools"]
    wanted = body["tool_choice"].get("name")
    tool = next((each for each in tools if each.get("name") == wanted), tools[0])
    return {
        "type": "tool_use",
        "id": "toolu_01" + hashlib.sha256(prompt.ask.encode()).hexdigest()[:22],
        "name": tool["name"],
        "input": json_answer(prompt, tool.get("input_schema", {})),
    }


_PLACES = {
    "text": ("char_location", "start_char_index", "end_char_index"),
    "pages": ("page_location", "start_page_number", "end_page_number"),
    "blocks": ("content_block_location", "start_block_index", "end_block_index"),
}


def _citation(place: Place, prompt: Prompt) -> Json:
    document = prompt.documents[place.document]
    kind, start, end = _PLACES[document.kind]
    first = place.part + (document.kind == "pages")
    places = (place.start, place.end) if document.kind == "text" else (first, first + 1)
    return {
        "type": kind,
        "cited_text": cited_text(document, place),
        "document_index": place.document,
        "document_title": document.title,
        "file_id": document.file_id,
        start: places[0],
        end: places[1],
    }


def _tokens_of(block: Json) -> int:
    text = block.get("text")
    return text_tokens(text if isinstance(text, str) else orjson.dumps(block).decode())


def _cut(blocks: list[Json], marker: Marker | None, most: int) -> tuple[list[Json], int, bool]:
    """As much as may be written, its tokens, and whether something was cut off."""
    kept: list[Json] = []
    used, left = 0, most_tokens(marker, sum(map(_tokens_of, blocks)), most)
    for block in blocks:
        tokens = _tokens_of(block)
        if used + tokens > left:
            text = block.get("text")
            head = cut_text(text, left - used) if isinstance(text, str) else ""
            return [*kept, {**block, "text": head}] if head else kept, left, True
        kept.append(block)
        used += tokens
    return kept, used, False


def _stop_sequence(body: Json, content: list[Json]) -> str | None:
    for number, block in enumerate(content if body.get("stop_sequences") else ()):
        text = block.get("text")
        for stop in body["stop_sequences"]:
            if isinstance(text, str) and stop in text:
                block["text"] = text[: text.index(stop)]
                del content[number + 1 :]
                return stop
    return None


def _usage(body: Json, model: ClaudeModel, counted: Counted, tier: str) -> Json:
    written = counted.cache_write_5m + counted.cache_write_1h
    plain = counted.input - counted.cache_read - written
    searches = counted.fees.get("web_searches", 0)
    knows_regions = model.version >= REGIONS_SINCE
    counted.region = body.get("inference_geo") if knows_regions else None
    usage: Json = {
        "input_tokens": plain,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": counted.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counted.cache_write_5m,
            "ephemeral_1h_input_tokens": counted.cache_write_1h,
        },
        "output_tokens": counted.output,
        "output_tokens_details": {"thinking_tokens": counted.reasoning},
        "server_tool_use": (
            {"web_search_requests": searches, "web_fetch_requests": 0} if searches else None
        ),
        "service_tier": tier,
        "inference_geo": (counted.region or "global") if knows_regions else "not_available",
    }
    if counted.passes:
        turns = [_iteration(*each) for each in counted.passes]
        last = _iteration("message", None, plain, counted.output, counted.cache_read, written)
        usage["iterations"] = [*turns, last]
    return usage


def _iteration(
    kind: str, model: str | None, given: int, written: int, read: int = 0, cached: int = 0
) -> Json:
    """One entry of `usage.iterations` (anthropic/types/beta/beta_iterations_usage.py)."""
    return {
        "type": kind,
        "input_tokens": given,
        "output_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": cached,
        **({} if model is None else {"model": model}),
    }
