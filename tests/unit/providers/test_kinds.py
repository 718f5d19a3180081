"""What is known of one provider stands in its folder: nothing else tells kinds apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import batchata_prefect

ROOT = Path(batchata_prefect.__file__).parent
KINDS = re.compile(r"anthropic|openai|gemini|azure|claude|gpt|google", re.IGNORECASE)
ALLOWED = {
    ("cli/__init__.py", "the command's examples"): r"Answer very large sets of LLM jobs",
    (
        "providers/failures.py",
        "errors of every SDK are read in one place, so that none is read in two ways",
    ): r"anthropic|openai|anthropic-ratelimit-",
}
"""File and reason -> what may stand there."""


def names(tree: ast.AST) -> Iterator[str]:
    """Texts and identifiers of a module, without its docstrings and comments."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value
        for name in ("id", "attr", "name", "arg"):
            if isinstance(found := getattr(node, name, None), str):
                yield found


def outside() -> list[Path]:
    """Modules that are neither a provider's own nor the sandbox's."""
    return [
        path
        for path in ROOT.rglob("*.py")
        if (parts := path.relative_to(ROOT).parts)[0] != "sandbox"
        and not (parts[0] == "providers" and len(parts) > 2)
    ]


def test_no_kind_is_named_outside_of_its_folder() -> None:
    """A provider's facts are attributes of its class, so that a further one is one folder."""
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in outside()
        for name in names(ast.parse(path.read_text()))
        if KINDS.search(name)
        and not any(
            ROOT / file == path and re.match(text, name) for (file, _), text in ALLOWED.items()
        )
    }
    assert not found


def test_what_may_be_named_is_there() -> None:
    """The list of what is allowed holds nothing that is gone."""
    for file, _ in ALLOWED:
        assert any(KINDS.search(name) for name in names(ast.parse((ROOT / file).read_text())))
