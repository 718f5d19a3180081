"""The documentation: its commands are real; its Python runs in tests/flows/test_examples.py."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / ".docs" / "pages").glob("*.md")), ROOT / "README.md"]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, kind: re.Pattern[str]) -> list[str]:
    return kind.findall(path.read_text(encoding="utf-8"))


def commands() -> list[tuple[str, list[str]]]:
    """Every `batchata` command of the pages, as (page, arguments)."""
    found: list[tuple[str, list[str]]] = []
    for path in PAGES:
        for block in blocks(path, CONSOLE):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["batchata"] and line.startswith("$ "):
                    told = words[1 : words.index("&")] if "&" in words else words[1:]
                    found.append((path.stem, told))
    return found


def test_commands_are_understood() -> None:
    """Every command that a page shows is one that the command line takes."""
    from batchata_prefect.cli import app

    shown = [(page, told) for page, told in commands() if not told[0].startswith("--")]
    assert {told[0] for _, told in shown} >= {"run", "plan", "retry", "results", "deploy", "diff"}
    for page, told in shown:
        command, _, _ = app.parse_args(told, exit_on_error=False, print_error=False)
        assert command is not None, f"{page}: {told}"


def test_release_notes_are_the_section_of_the_version(tmp_path: Path) -> None:
    """A release says what its section of the changelog says; one without a section is refused."""
    names = runpy.run_path(str(ROOT / ".github" / "release_notes.py"))
    (tmp_path / "batchata_prefect").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "batchata_prefect" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    log = "# Log\n\n## [Unreleased]\n\n## [1.2.3] - 2026-12-01\n\n- New.\n\n## [1.2.2]\n\n- Old.\n"
    (tmp_path / "CHANGELOG.md").write_text(log)
    assert names["notes"]("1.2.3", tmp_path) == "- New.\n"
    with pytest.raises(SystemExit, match=r"the tag says 1\.2\.2"):
        names["notes"]("1.2.2", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(log.replace("1.2.3", "1.2.1"))
    with pytest.raises(SystemExit, match="no section"):
        names["notes"]("1.2.3", tmp_path)
