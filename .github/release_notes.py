"""Prints the changelog's section of a version; fails where tag, package and changelog disagree."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(version: str, root: Path = ROOT) -> str:
    """The changelog's section of a version.

    Raises:
        SystemExit: The package has another version, or the changelog has no such section.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    (package,) = re.findall(
        r'^__version__ = "(.+)"$', (root / "batchata_prefect/__init__.py").read_text(), re.MULTILINE
    )
    if {project, package} != {version}:
        sys.exit(f"the tag says {version}, pyproject.toml {project}, the package {package}")
    sections = re.split(
        r"^## \[(.+?)\].*$", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE
    )
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    if not found.get(version, "").strip():
        sys.exit(f"CHANGELOG.md has no section [{version}]")
    return found[version].strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(notes(sys.argv[1]))
