"""What the pages take out of the code, so that it cannot be another there: mkdocs calls this.

`{{ name }}` in a page is replaced by what the function of that name gives.
"""

from __future__ import annotations

import ast
import re
import tomllib
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "batchata_prefect"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for; a name that is not known stops the build."""
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: GENERATED[found[1]](), markdown)


def advice() -> str:
    """Every error code with its next step, by its place in the table of the code."""
    from batchata_prefect.results.codes import CODES, rule, what_to_do

    passing = rule("http_503")
    lines = ["| `error_code` | what to do |", "|---|---|"]
    lines += [f"| `{code}` | {each.advice} |" for code, each in CODES.items() if each != passing]
    others = [f"`{code}`" for code, each in CODES.items() if each == passing]
    lines.append(
        f"| {', '.join(others)}, `http_` with 0, 408, 409, 425, 429 or from 500 | "
        f"{passing.advice} |"
    )
    lines.append(f"| any other code | {what_to_do('')} |")
    return "\n".join(lines)


def pace() -> str:
    """How long is waited for what, and the variable that changes it."""
    from batchata_prefect.engine.session import Pace

    words = _attributes(Pace.__doc__ or "")
    lines = ["| variable | seconds | waits |", "|---|--:|---|"]
    for name in Pace.__dataclass_fields__:
        value = getattr(Pace(), name)
        lines.append(f"| `BATCHATA_{name.upper()}_SECONDS` | {value:,g} | {words[name]} |")
    return "\n".join(lines)


def _attributes(text: str) -> dict[str, str]:
    """The Attributes section of a docstring: name -> words."""
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def batch_limits() -> str:
    """What one provider batch may hold."""
    from batchata_prefect.providers import providers

    lines = ["| provider | requests in a batch | bytes of a batch | bytes of a request |"]
    lines.append("|---|--:|--:|--:|")
    for name, provider in providers().items():
        most = provider.limits
        lines.append(
            f"| {name} | {most.max_requests:,} | {most.max_bytes:,} | {most.max_request_bytes:,} |"
        )
    return "\n".join(lines)


def models() -> str:
    """Known models with their batch prices."""
    from batchata_prefect.cli.known_models import known_models

    lines = ["| model | input | output | realtime | most output | temperature |"]
    lines.append("|---|--:|--:|--:|--:|---|")
    for each in known_models():
        out, real = each.output_usd, each.realtime_output_usd
        realtime = f"{each.realtime_input_usd:g} / {real:g}" if real is not None else ""
        most = f"{each.most_output_tokens:,}" if each.most_output_tokens else ""
        lines.append(
            f"| `{each.model}` | {each.input_usd:g} | {'' if out is None else f'{out:g}'} "
            f"| {realtime or f'{each.realtime_input_usd:g}'} | {most} "
            f"| {'yes' if each.takes_temperature else 'no'} |"
        )
    return "\n".join(lines)


def floors() -> str:
    """The floors of the package as a picture, from the import contract that CI checks."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contract["contracts"] if c["type"] == "layers"]
    width, row, parts = 720, 34, []
    for number, layer in enumerate(layers):
        names = [name.strip() for name in layer.replace(":", "|").split("|")]
        each, y = (width - 6 * (len(names) - 1)) / len(names), number * row
        for place, name in enumerate(names):
            x = place * (each + 6)
            size = min(13.0, each / (0.62 * len(name)))
            parts.append(
                f'<rect x="{x:.0f}" y="{y}" width="{each:.0f}" height="{row - 6}" rx="4"/>'
                f'<text x="{x + each / 2:.0f}" y="{y + 19}" font-size="{size:.1f}">{name}</text>'
            )
    style = (
        "<style>.floors rect{fill:none;stroke:currentColor;stroke-opacity:.35}"
        ".floors text{fill:currentColor;text-anchor:middle;font-family:monospace}</style>"
    )
    label = "The modules of the package; imports go down only"
    return (
        f'<svg class="floors" viewBox="-1 -1 {width + 2} {len(layers) * row}" role="img" '
        f'aria-label="{label}">{style}{"".join(parts)}</svg>'
    )


def rooms() -> str:
    """Every module with the first sentence of its docstring."""
    lines = ["| module | what it is for |", "|---|---|"]
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if name.startswith("sandbox/") and name != "sandbox/__init__":
            continue
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        said = escape(" ".join(text.partition("\n\n")[0].split()), quote=False)
        lines.append(f"| `{name.removesuffix('/__init__')}` | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def commands() -> str:
    """The help of every command, as the terminal shows it."""
    import io

    from rich.console import Console

    from batchata_prefect.cli import app

    parts: list[str] = []
    for name in (
        "run",
        "retry",
        "results",
        "diff",
        "status",
        "adopt",
        "cancel",
        "models",
        "deploy",
    ):
        shown = io.StringIO()
        app([name, "--help"], console=Console(file=shown, width=76), result_action="return_value")
        lines = "\n".join(line.rstrip() for line in shown.getvalue().splitlines())
        parts.append(f"## batchata {name}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


GENERATED = {
    each.__name__: each for each in (advice, pace, batch_limits, models, floors, rooms, commands)
}
