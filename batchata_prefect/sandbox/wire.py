"""Small shapes that every room of the sandbox shares: replies, refusals, ids, digests."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import orjson

Json = dict[str, Any]

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""What Anthropic calls the error of a status (platform.claude.com api/errors)."""

_ALPHABET = string.digits + string.ascii_letters


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers: a JSON body, or a file that is streamed."""

    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    file: Path | None = None
    media_type: str = "application/json"


class RefusedError(Exception):
    """A call or a batch row that the provider refuses.

    `error_type`, `param` and `code` are the fields of the provider's error object, `error_type`
    told by the status where it is None; `status` is the HTTP status that a call answers with.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        error_type: str | None = None,
        status: int = 400,
        at_run_time: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.param = param
        self.code = code
        self.status = status
        self.at_run_time = at_run_time


class Refusal(NamedTuple):
    """What a provider says when it refuses; the text has places for what it speaks of."""

    status: int
    text: str
    param: str | None = None
    code: str | None = None
    error_type: str | None = None

    def of(self, **told: object) -> RefusedError:
        """The refusal that speaks of these."""
        param = None if self.param is None else self.param.format(**told)
        return RefusedError(
            self.text.format(**told),
            param,
            self.code,
            error_type=self.error_type,
            status=self.status,
        )


def is_object(value: object) -> TypeGuard[Json]:
    """Whether a JSON value is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Whether a JSON value is an array."""
    return isinstance(value, list)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer; `true` is not one."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number; `true` is not one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def object_at(value: Json, key: str) -> Json:
    """The object under a key, empty where there is none."""
    found = value.get(key)
    return found if found is not None and is_object(found) else {}


def new_id(prefix: str, length: int) -> str:
    """A fresh id: `prefix` and `length` random letters and digits."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))


def body_digest(body: object) -> str:
    """The digest under which the ledger knows a request.

    It is the SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of Anthropic's
    `params` or OpenAI's `body`, so it is the same for a batch row and for a realtime call.
    """
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
