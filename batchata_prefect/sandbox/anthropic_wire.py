"""Refusals in the Messages API's words."""

from __future__ import annotations

from .shapes import MisfitError
from .wire import RefusedError

_KINDS = {"object": "dictionary", "tagged": "dictionary"}


def claude_refusal(misfit: MisfitError, *path: str | int) -> RefusedError:
    """What does not fit, in the words of the Messages API; `path` leads to what was checked."""
    where = ".".join(str(step) for step in (*path, *misfit.path))
    shape, value = misfit.shape, misfit.value
    if shape.says is not None and misfit.kind not in ("type", "missing", "extra"):
        return RefusedError(shape.says.format(path=where))
    kind = _KINDS.get(shape.kind, shape.kind)
    if kind == "dictionary" and where[-1:].isdigit():
        kind += " or object"
    pattern = shape.pattern.pattern if shape.pattern is not None else ""
    *most, last = (f"'{choice}'" for choice in shape.choices or ("",))
    tags = ", ".join(f"'{tag}'" for tag in sorted({*shape.shapes, *(shape.others or ())}))
    problems = {
        "missing": "Field required",
        "extra": "Extra inputs are not permitted",
        "type": f"Input should be a valid {kind}",
        "choice": f"Input should be {', '.join(most)}{' or ' if most else ''}{last}",
        "tag": f"Input tag '{value}' found using 'type' does not match any of the expected tags:"
        f" {tags}",
        "below": f"Input should be greater than or equal to {shape.least}",
        "above": f"Input should be less than or equal to {shape.most}",
        "long": f"String should have at most {shape.most} characters",
        "short": "List should have at least 1 item after validation, not 0",
        "pattern": f"String should match pattern '{pattern}'",
    }
    return RefusedError(f"{where}: {problems[misfit.kind]}")
