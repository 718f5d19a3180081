"""The README as a package index shows it: links that lead somewhere from there.

An index page has no neighbours, so a link to a file of this repository becomes absolute, where the
build knows the repository (on its code host's runner, or from the checkout's `origin`), and plain
words where it does not. Images that cannot be reached are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")


def repository(root: Path) -> str | None:
    """The repository's page on its code host, or None where the build does not know it."""
    if "GITHUB_REPOSITORY" in os.environ:
        host = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        return f"{host}/{os.environ['GITHUB_REPOSITORY']}"
    asked = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        url = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.fullmatch(r"(?:https://|git@)(github\.com)[/:]([\w.-]+/[\w.-]+?)(?:\.git)?", url)
    return f"https://{found[1]}/{found[2]}" if found else None


def absolute(text: str, page: str | None, version: str) -> str:
    """The README with its links to files of the repository as seen from anywhere."""

    def link(found: re.Match[str]) -> str:
        image, words, path = found.groups()
        if page is None:
            return "" if image else words
        return f"{image}[{words}]({page}/{'raw' if image else 'blob'}/v{version}/{path})"

    return _LINK.sub(link, text)


class Readme(MetadataHookInterface):
    """Puts the readme into the package's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling when it builds."""
        root = Path(self.root)
        text = (root / "README.md").read_text("utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, repository(root), metadata["version"]),
        }
