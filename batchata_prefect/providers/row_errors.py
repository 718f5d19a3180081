"""What a result row without an answer says of its request, however its server writes that.

OpenAI and Anthropic write one form each. Servers that speak their protocols (OGX, AIBrix, vLLM,
proxies) put numbers where codes stand, texts and web pages where objects stand, or wrap the error
of a server behind them in a word of their own, with the status only in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from batchata_prefect.answers import Reply
from batchata_prefect.errors import blanked
from batchata_prefect.providers.rows import opened, text_at, whole_number

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

    def reply(self, custom_id: str, otherwise: str) -> Reply:
        """It as the reply of a request that was not answered.

        Args:
            custom_id: The request.
            otherwise: The code where there is neither word nor status.
        """
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
