"""The command speaks of its options: no text of an error names what only Python has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchata_prefect
from batchata_prefect.cli.options import spoken
from batchata_prefect.errors import OptionError

PACKAGE = Path(batchata_prefect.__file__).parent
PYTHON = re.compile(
    r"\b(?:set_default_params|set_state|add_cost_limit|add_time_limit|add_rows|add_job)\b"
    r"|\bBatch\(|\brun\(\w|\breuse_state\b|\bcanary=|\bmodel=|\brun_key=|\bresults_dir\b"
)
OF_PYTHON_ALONE = {
    "batch.py": "what Batch and its methods were given",
    "blocks.py": "what a block was given",
    "run.py": "what BatchRun was asked for",
    "original.py": "what the original library's calls were given",
    "deployed.py": "what the flow was given",
}


def errors() -> Iterator[tuple[str, str]]:
    """Each text of an error that is raised, where it stands, with x for what is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith("sandbox/") or name in OF_PYTHON_ALONE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for text in node.exc.args[:1]:
                    yield f"{name}:{node.lineno}", "".join(parts(text))


def parts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.FormattedValue):
        yield "x"
    else:
        for child in ast.iter_child_nodes(node):
            yield from parts(child)


def test_no_error_speaks_python_to_the_command() -> None:
    texts = list(errors())
    assert len(texts) > 200
    assert any(PYTHON.search(text) for _, text in texts)
    left = {where: told for where, text in texts if PYTHON.search(told := spoken(text))}
    assert left == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("give it in set_default_params(model=...)", "give it in --model MODEL"),
        ("Give Batch(prices={a: {'input': USD}}), in USD", "Give --prices FILE, in USD"),
        ("Give run_key='x' and set_state('/s')", "Give --run-key 'x' and --state '/s'"),
        ("or start over with set_state(reuse_state=False)", "or start over with another --out"),
        ("run(canary=0.01) measures it", "--canary 0.01 measures it"),
        ("use another results_dir", "use another --out"),
        ("'/a/results_dir/b' is none", "'/a/results_dir/b' is none"),
        ("row 3: max_tokens is no number", "row 3: max_tokens is no number"),
        (OptionError("max_attempts: 0; canary: -1"), "--max-attempts: 0; --canary: -1"),
        (OptionError("approve=True needs canary="), "--approve needs --canary"),
    ],
)
def test_a_python_way_of_saying_becomes_the_flag(text: str | Exception, told: str) -> None:
    assert spoken(text) == told
