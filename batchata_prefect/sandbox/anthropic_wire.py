"""Refusals in Anthropic's own form."""

from __future__ import annotations

from .routing import Call
from .wire import RefusedError, new_id


def refuse(status: int, error_type: str, message: str) -> RefusedError:
    """A refusal with Anthropic's error body; see platform.claude.com api/errors."""
    request_id = new_id("req_01", 22)
    return RefusedError(
        status,
        {
            "type": "error",
            "error": {"type": error_type, "message": message},
            "request_id": request_id,
        },
        {"request-id": request_id},
    )


def bad_request(message: str) -> RefusedError:
    """A 400."""
    return refuse(400, "invalid_request_error", message)


def not_found(message: str) -> RefusedError:
    """A 404."""
    return refuse(404, "not_found_error", message)


def query_integer(call: Call, name: str, default: int, most: int) -> int:
    """A number from the query, from 1 to `most`.

    Raises:
        RefusedError: where it is something else.
    """
    given = call.request.query_params.get(name)
    if given is None:
        return default
    if not given.lstrip("-").isdigit():
        raise bad_request(f"{name}: Input should be a valid integer")
    value = int(given)
    if value < 1:
        raise bad_request(f"{name}: Input should be greater than or equal to 1")
    if value > most:
        raise bad_request(f"{name}: Input should be less than or equal to {most}")
    return value
