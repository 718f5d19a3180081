"""Refusals in OpenAI's own form."""

from __future__ import annotations

from .openai_rows import error_body
from .routing import Call
from .wire import BadRequestError, RefusedError


def refuse(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> RefusedError:
    """A refusal with OpenAI's error body."""
    return RefusedError(status, error_body(BadRequestError(message, param=param, code=code)))


def refused(problem: BadRequestError) -> RefusedError:
    """The refusal that a refused body stands for in a direct call."""
    return RefusedError(problem.status, error_body(problem))


def bad_request(message: str, param: str | None, code: str | None) -> RefusedError:
    """A 400."""
    return refuse(400, message, param=param, code=code)


def missing(name: str) -> RefusedError:
    """A 400 for a required parameter that is absent."""
    return bad_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def query_integer(call: Call, name: str, default: int, most: int) -> int:
    """A number from the query, from 1 to `most`.

    Raises:
        RefusedError: where it is something else.
    """
    given = call.request.query_params.get(name)
    if given is None:
        return default
    value = int(given) if given.lstrip("-").isdigit() else 0
    if not 1 <= value <= most:
        raise bad_request(
            f"Invalid '{name}': expected an integer from 1 to {most}, but got '{given}' instead.",
            name,
            "invalid_value",
        )
    return value
