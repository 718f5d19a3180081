"""What a reply holds besides its text, and what a row without an answer says of its request.

Calls of tools, images, sounds, and items of any kind; and errors, however a server writes them.
OpenAI and Anthropic write one form each. Servers that speak their protocols (OGX, AIBrix, vLLM,
proxies) put numbers where codes stand, texts and web pages where objects stand, or wrap the error
of a server behind them in a word of their own, with the status only in the text.

Sources: openai/types/responses/response_output_item.py, types/chat/chat_completion_message.py
(3.54.0); anthropic/types/content_block.py (2.12.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import msgspec

from batchata_prefect.answers import Outcome, Reply, TextBlock, Usage
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.errors import blanked
from batchata_prefect.providers.rows import EMPTY, object_at, opened, text_at, whole_number

_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "logprobs", "message")
"""Kinds of items that say how an answer came about, and are none; a message is a remark."""

_STEPS = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "mcp_list_tools",
        "tool_search_call",
        "additional_tools",
        "compaction",
        "server_tool_use",
        "mcp_tool_use",
        "refusal",
    }
)
"""What the provider does on the way to an answer; also what ends in `_output` or `_tool_result`."""

_REFUSED = "the model refused to answer"
_FILTERED = "the answer was cut off by the content filter"

_CALL = frozenset(
    {"type", "id", "call_id", "index", "name", "arguments", "input", "function", "custom", "status"}
)
"""Fields of a call that `call` reads, or that say nothing."""


def call(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Id, name, arguments and type of a call, whichever endpoint it comes from."""
    inner = object_at(raw, "function") or object_at(raw, "custom") or raw
    given = inner.get("arguments", inner.get("input"))
    return {
        "id": text_at(raw, "call_id") or text_at(raw, "id"),
        "name": text_at(inner, "name") or "",
        "arguments": given if isinstance(given, str) else "" if given is None else dumps(given),
        "type": text_at(raw, "type") or "function",
    }


def says_more(raw: Mapping[str, Any]) -> bool:
    """Whether a call holds more than its id, name and arguments, such as its result."""
    return any(
        value and value != {"type": "direct"} for key, value in raw.items() if key not in _CALL
    )


def kept(value: Any) -> Any:
    """An item without what only the provider can read, which stays in the raw reply."""
    if isinstance(value, dict):
        item = cast("dict[str, Any]", value)
        opaque = "signature" if item.get("type") == "thinking" else "encrypted_content"
        return {
            key: kept(part)
            for key, part in item.items()
            if key != opaque and not key.startswith("encrypted_")
        }
    if isinstance(value, list):
        return [kept(part) for part in cast("list[Any]", value)]
    return value


class Said:
    """What an answer says, taken in part by part.

    Attributes:
        blocks: Its texts.
        calls: The provider's own objects of the tools that the model calls.
        items: What else it holds.
        refusals: Words in which the model refuses.
        has_thinking: Whether it holds thinking, shown or not.
        final: As in `Reply`.
    """

    def __init__(self) -> None:
        self.blocks: list[TextBlock] = []
        self.calls: list[Mapping[str, Any]] = []
        self.items: list[Mapping[str, Any]] = []
        self.refusals: list[str] = []
        self.has_thinking = False
        self.final = 0

    def reply(self, custom_id: str, usage: Usage | None, stop: str | None) -> Reply:
        """All of it as the reply of a request that was answered, and may have been refused."""
        code = error = None
        if self.refusals or stop == "refusal":
            stop, code = "refusal", "refusal"
            error = "\n".join(self.refusals) or (_FILTERED if self.blocks else _REFUSED)
        return Reply(
            custom_id,
            "succeeded",
            blocks=tuple(self.blocks),
            usage=usage,
            stop_reason=stop,
            error_code=code,
            error=error,
            has_thinking=self.has_thinking or bool(usage and usage.reasoning_tokens),
            tool_calls=tuple(self.calls),
            items=(*self.items, *(kept(each) for each in self.calls if says_more(each))),
            final=self.final,
        )


def why_none(
    calls: Iterable[Mapping[str, Any]], items: Iterable[Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Why an answer without text is none, as (code, text); None where it is one.

    An item of a kind that nobody knows yet is an answer: it was paid for, and to ask again would be
    paid again.
    """
    if any(text_at(each, "type") != "mcp_call" for each in calls):
        return None
    failed: list[tuple[str, str]] = []
    steps: list[str] = []
    for item in items:
        kind = text_at(item, "type") or "unknown"
        if kind in _THOUGHTS:
            continue
        if kind in _STEPS or kind.endswith(("_output", "_tool_result")):
            steps.append(kind)
        elif (fault := _fault(kind, item)) is None:
            return None
        else:
            failed.append(fault)
    if failed:
        return failed[0]
    if steps:
        names = ", ".join(dict.fromkeys(steps))
        return "no_answer", f"the model ended after {names} without saying anything"
    return "empty_answer", "the answer is empty"


def _fault(kind: str, item: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with an item; None where it is whole."""
    error: Any = item.get("error")
    status = text_at(item, "status")
    has_image = kind != "image_generation_call" or item.get("result") or item.get("path")
    if not error and status not in {"failed", "incomplete"} and has_image:
        return None
    told: Any = cast("Mapping[str, Any]", error) if isinstance(error, dict) else {}
    code, text = told.get("code") or told.get("type"), told.get("message")
    why = [str(part)[:300] for part in (code, text or (error if isinstance(error, str) else None))]
    why = [part for part in why if part != "None"]
    return (
        "refusal" if code == "moderation_blocked" else "no_answer",
        f"{kind} ended as {status or 'failed'}: {': '.join(why) or 'no reason is given'}",
    )


class _Block(msgspec.Struct):
    type: str = ""
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Content(msgspec.Struct):
    content: list[_Block]


class _Result(msgspec.Struct):
    message: _Content


class _Row(msgspec.Struct):
    result: _Result


_decode = msgspec.json.Decoder(_Row).decode


def exact_inputs(row: bytes, kinds: frozenset[str]) -> list[msgspec.Raw] | None:
    """The inputs of an Anthropic row's blocks of some kinds, as the very bytes of the row.

    None where the row has another form, or holds what JSON forbids.
    """
    try:
        blocks = _decode(row).result.message.content
        found = [
            each.input
            for each in blocks
            if each.type in kinds and isinstance(each.input, msgspec.Raw)
        ]
        for each in found:
            msgspec.json.decode(each)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found


_WORDS_OF_THE_REQUEST = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
    }
)
"""Anthropic's types that stand for one status each [anthropic/types/shared]: a status in the text
is then of something else, such as a document's URL."""

_STATUS = re.compile(
    r"\bError code: (\d{3})\b"  # how both SDKs write an error [_base_client.py]
    r"|(?<![\w.,])([45]\d\d) (?:Bad Gateway|Gateway Time-?out|Internal Server Error|Service "
    r"(?:Temporarily )?Unavailable|Too Many Requests|Request Time-?out)\b"  # proxies, and httpx
    r"|^([45]\d\d): "  # how FastAPI writes an error [HTTPException.__str__]
    r"|\bstatus(?:[ _]?code)?\s*[=:]?\s*(\d{3})\b"
    r"|\bHTTP(?:/\d(?:\.\d)?| error| status)?[ :]+(\d{3})\b",
    re.I,
)
_WORD = re.compile(r"[a-z]+(?:_[a-z]+)+")
"""What a provider's word looks like where it stands alone, and is not said by a person."""

_NO_REPLY = re.compile(r"(?:Connection error|Request timed out)\.?$", re.I)
"""How both SDKs write that there was no reply at all [_exceptions.py]."""

_STATUSES = ("status", "status_code", "http_status", "code", "type")
"""Fields of an error in which servers write a status."""

_SHOWN = 300


class RowError(NamedTuple):
    """An error of a request.

    Attributes:
        code: The provider's word; None where there is none.
        text: What it says besides.
        status: HTTP status of the request, 0 where it got no reply; None where nothing tells.
    """

    code: str | None
    text: str | None
    status: int | None

    def reply(self, custom_id: str, otherwise: str, unrun: Mapping[str, Outcome] = EMPTY) -> Reply:
        """It as the reply of a request that was not answered.

        Args:
            custom_id: The request.
            otherwise: The code where there is neither word nor status.
            unrun: The provider's words of a request that did not run -> what became of it.
        """
        if (outcome := unrun.get(self.code or "")) is not None:
            return Reply(custom_id, outcome, error_code=outcome, error=self.text)
        code = self.code or (otherwise if self.status is None else f"http_{self.status}")
        text = self.text
        if not text and self.status is not None:
            text = f"the request ended with status {self.status} and no word of why"
        return Reply(custom_id, "errored", error_code=code, error=text, status=self.status)


def error_in(*found: Any, status: Any = None) -> RowError | None:
    """The first error among some values; None where none of them is one and the status is good.

    Args:
        found: An error's object, its text or number, or what else stands in its place.
        status: The row's own HTTP status, as it came.
    """
    number = whole_number(status)
    if number is not None and 200 <= number < 300:
        number = None
    for value in found:
        if (error := _error(value)) is not None:
            code, text, told = error
            if number is None:
                number = told if told is not None else _status_in(code, text)
            return RowError(code, blanked(text), number)
    return None if number is None else RowError(None, None, number)


def _error(value: Any) -> tuple[str | None, str | None, int | None] | None:
    """Code, text and status of an error; None where a value says of none."""
    if isinstance(value, str) and value.strip():
        word = value.strip()
        return word if _WORD.fullmatch(word) else None, _shown(value), None
    if (number := whole_number(value)) is not None:
        return None, None, number
    return _of_object(cast("Mapping[str, Any]", value)) if isinstance(value, dict) else None


def _of_object(error: Mapping[str, Any]) -> tuple[str | None, str | None, int | None] | None:
    inner = opened(error.get("error"))
    if inner and error.get("message") is None and (found := _error(inner)) is not None:
        return found
    words = [text_at(error, name) for name in ("code", "type")]
    code = next((word for word in words if word and whole_number(word) is None), None)
    numbers = map(whole_number, map(error.get, _STATUSES))
    status = next((number for number in numbers if number is not None), None)
    said = error.get("message") or error.get("detail")
    text = said if isinstance(said, str) or said is None else _shown(str(said))
    if code is None and text is None and status is None:
        return None
    return code, text, status


def _status_in(code: str | None, text: str | None) -> int | None:
    """The status that an error's text tells, where its word leaves that open."""
    if text is None or code in _WORDS_OF_THE_REQUEST:
        return None
    if _NO_REPLY.match(text):
        return 0
    match = _STATUS.search(text)
    return None if match is None else int(next(filter(None, match.groups())))


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
