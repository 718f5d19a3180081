"""Refusals in OpenAI's own form."""

from __future__ import annotations

from .shapes import MisfitError, Tag
from .wire import Json, RefusedError

_KINDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a decimal",
    "list": "an array of objects",
    "string or list": "a string or array of objects",
}


def error_body(problem: RefusedError) -> Json:
    """The error body of a refused request."""
    usual = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": problem.message,
            "type": problem.error_type or usual,
            "param": problem.param,
            "code": problem.code,
        }
    }


def gpt_refusal(misfit: MisfitError) -> RefusedError:
    """What does not fit, in OpenAI's words."""
    steps = [step for step in misfit.path if not isinstance(step, Tag)]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]
    shape, value, kind = misfit.shape, misfit.value, misfit.kind
    if shape.says is not None and kind == "extra":
        return RefusedError(shape.says.format(path=where))
    if shape.says is not None and kind not in ("type", "missing", "below"):
        return RefusedError(shape.says.format(path=where, value=value), where, shape.code)
    if kind in ("choice", "tag"):
        where += ".type" if kind == "tag" else ""
        return bad_value(where, value, shape.choices or tuple(shape.shapes))
    number = "integer" if shape.kind == "integer" else "decimal"
    text, code = {
        "missing": (f"Missing required parameter: '{where}'.", "missing_required_parameter"),
        "extra": (f"Unknown parameter: '{where}'.", "unknown_parameter"),
        "type": (
            f"Invalid type for '{where}': expected {_KINDS.get(shape.kind, 'an object')}.",
            "invalid_type",
        ),
        "below": (
            f"Invalid '{where}': {number} below minimum value. Expected a value >= {shape.least},"
            f" but got {value} instead.",
            f"{number}_below_min_value",
        ),
        "above": (
            f"Invalid '{where}': {number} above maximum value. Expected a value <= {shape.most},"
            f" but got {value} instead.",
            f"{number}_above_max_value",
        ),
        "short": (
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an"
            " empty array instead.",
            "empty_array",
        ),
    }[kind]
    return RefusedError(text, where, code)


def bad_value(name: str, value: object, supported: tuple[str, ...]) -> RefusedError:
    """The refusal of a value that is not one of a few."""
    listed = ", ".join(f"'{each}'" for each in supported)
    text = f"Invalid value: '{value}'. Supported values are: {listed}."
    return RefusedError(text, name, "invalid_value")


def missing(name: str) -> RefusedError:
    """The refusal of a call without a parameter that it needs."""
    text = f"Missing required parameter: '{name}'."
    return RefusedError(text, name, "missing_required_parameter")
