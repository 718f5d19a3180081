"""What the pages take out of the code, written into them where they are read.

    python .docs/generated.py            # writes; `make pages`
    python .docs/generated.py --check    # ends with 1 where a page is behind the code; `make docs`

A page is met on the code host as often as on the built site, so what is generated stands in it as
text, between `<!-- generated: name -->` and `<!-- /generated -->`. mkdocs calls `on_page_markdown`.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "batchata_prefect"
PAGES = ROOT / ".docs" / "pages"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Unfold what only the built site can show: `<!-- ::: name -->` is a reference of that name."""
    return re.sub(r"^<!-- (:::.*?) -->$", r"\1", markdown, flags=re.MULTILINE | re.DOTALL)


def written(page: str) -> str:
    """A page with its generated parts as the code has them now."""
    return PART.sub(lambda found: f"{found[1]}\n{GENERATED[found[2]]()}\n\n{found[3]}", page)


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
    from batchata_prefect.engine.pace import Pace

    words = _attributes(Pace.__doc__ or "")
    lines = ["| variable | seconds | waits |", "|---|--:|---|"]
    for name in Pace.__dataclass_fields__:
        value = getattr(Pace(), name)
        lines.append(f"| `BATCHATA_{name.upper()}_SECONDS` | {value:,g} | {words[name]} |")
    return "\n".join(lines)


def states() -> str:
    """The states of runs and provider batches."""
    text = ast.get_docstring(ast.parse((PACKAGE / "views" / "states.py").read_text())) or ""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


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


def capabilities() -> str:
    """What each provider and each profile of a server takes, told by what it renders."""
    from batchata_prefect.errors import ValidationError
    from batchata_prefect.models import Job
    from batchata_prefect.providers import Provider, providers
    from batchata_prefect.providers.openai.facts import PROFILES

    tables = {
        f"openai, profile {name}": {"kind": "openai", "api_key_env": "KEY", "profile": name}
        for name in PROFILES
        if name != "openai"
    }
    servers = {name: providers({"x": table})["x"] for name, table in tables.items()}

    def takes(provider: Provider, **told: Any) -> str | None:
        models = {"anthropic": "claude-sonnet-5-5", "gemini": "gemini-3-flash"}
        model = models.get(provider.kind, "gpt-6-luna")
        try:
            rendered = provider.render(Job(id="j", model=model, prompt="x", **told))
        except ValidationError:
            return None
        return rendered.endpoint.replace(model, "MODEL")

    asked = (None, "/v1/chat/completions", "/v1/responses", "/v1/embeddings")
    columns = ("endpoints", "requests", "bytes", "own citations", '`citations="quoted"`')
    columns += ("stored documents", "`cache_prefix`")
    lines = [f"| | {' | '.join(columns)} |", "|---|---|--:|--:|---|---|---|---|"]
    for name, provider in {**providers(), **servers}.items():
        most = provider.limits
        found = dict.fromkeys(each for end in asked if (each := takes(provider, endpoint=end)))
        quoted = takes(provider, citations="quoted", file=[b"Total: 5"])
        facts = (provider.cites, quoted, provider.keeps_files, takes(provider, cache_prefix=True))
        lines.append(
            f"| {name} | {', '.join(f'`{each}`' for each in found)} | {most.max_requests:,} "
            f"| {most.max_bytes:,} | {' | '.join('yes' if each else 'no' for each in facts)} |"
        )
    return "\n".join(lines)


def provider_lines() -> str:
    """How large each provider is: its folder, and its part of the sandbox."""
    lines = ["| | files | lines | of the sandbox: files | lines |", "|---|--:|--:|--:|--:|"]
    shared = [PACKAGE / "providers", PACKAGE / "sandbox"]
    kinds = sorted(path.name for path in shared[0].iterdir() if (path / "batches.py").exists())
    for name in kinds:
        found = [sorted((shared[0] / name).glob("*.py")), sorted(shared[1].glob(f"{name}*.py"))]
        lines.append(f"| {name} | {' | '.join(map(_size, found))} |")
    rest = [
        [path for path in sorted(folder.glob("*.py")) if not path.name.startswith(tuple(kinds))]
        for folder in shared
    ]
    return "\n".join([*lines, f"| shared by all | {' | '.join(map(_size, rest))} |"])


def _size(paths: list[Path]) -> str:
    return f"{len(paths)} | {sum(len(path.read_text().splitlines()) for path in paths):,}"


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
    """The floors of the package, from the import contract that CI checks."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contract["contracts"] if c["type"] == "layers"]
    lines = ["   ".join(re.split(r"\s*[:|]\s*", layer)) for layer in layers]
    return "\n".join(["```text", *lines, "```"])


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

    # The command's own list of commands is shorter: it looks at how it was called.
    sys.argv = ["batchata", "run", "--help"]
    from batchata_prefect.cli import app

    parts: list[str] = []
    for name in (each for each in app if not each.startswith("-")):
        shown = io.StringIO()
        app([name, "--help"], console=Console(file=shown, width=76), result_action="return_value")
        lines = "\n".join(line.rstrip() for line in shown.getvalue().splitlines())
        parts.append(f"## batchata {name}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def api() -> str:
    """Every public name with the first sentence of its docstring."""
    import batchata_prefect

    lines = ["| name | what it is |", "|---|---|"]
    for name in sorted(set(batchata_prefect.__all__) - {"__version__"}):
        text = getattr(batchata_prefect, name).__doc__ or ""
        said = escape(" ".join(text.partition("\n\n")[0].split()), quote=False)
        lines.append(f"| `{name}` | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def options() -> str:
    """Every option of a run: what it means, its default, and how it is given where."""
    from batchata_prefect.options import flag_of, how, python
    from batchata_prefect.options import options as all_options

    lines = ["| option | default | Python | command | what it does |", "|---|---|---|---|---|"]
    for name, option in all_options().items():
        known = how(option)
        default = "" if option.is_required() else option.get_default()
        shown = "" if default in ("", None, (), {}) else f"`{default}`"
        refused = [f"Not in a {at}: {why}." for at, why in known.refused.items()]
        said = escape(" ".join([option.description or "", *refused]), quote=False)
        command = "" if "command" in known.refused else f"`{flag_of(name)}`"
        said = said.replace("|", chr(92) + "|")
        lines.append(f"| `{name}` | {shown} | `{python(name)}` | {command} | {said} |")
    return "\n".join(lines)


GENERATED = {
    each.__name__: each
    for each in (
        advice,
        pace,
        states,
        batch_limits,
        capabilities,
        provider_lines,
        models,
        floors,
        rooms,
        commands,
        api,
        options,
    )
}


def main(check: bool) -> int:
    """Write every page, or only say which of them are behind the code."""
    behind = 0
    for path in sorted(PAGES.glob("*.md")):
        before = path.read_text("utf-8")
        after = written(before)
        if after == before:
            continue
        behind += 1
        print(f"{'is behind the code' if check else 'written'}: .docs/pages/{path.name}")  # noqa: T201
        if not check:
            path.write_text(after, "utf-8")
    if behind and check:
        print("`make pages` writes them")  # noqa: T201
    return int(bool(behind and check))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
