"""The README on a package index: no link of it points to a neighbour that is not there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELATIVE = re.compile(r"\]\((?!https?://|#)([^)]+)\)")


@pytest.mark.parametrize("page", ["https://github.com/someone/project", None])
def test_the_links_lead_somewhere(page: str | None) -> None:
    pytest.importorskip("hatchling")
    made = runpy.run_path(str(ROOT / ".ci" / "readme.py"))
    text = (ROOT / "README.md").read_text("utf-8")
    shown = made["absolute"](text, page, "0.1.0")
    assert RELATIVE.findall(text)
    assert not RELATIVE.findall(shown)
    if page:
        assert f"({page}/blob/v0.1.0/.docs/pages/limits.md)" in shown
        assert f"({page}/raw/v0.1.0/.docs/img/run.png)" in shown
        for path in re.findall(rf"{page}/(?:blob|raw)/v0\.1\.0/([^)]+)\)", shown):
            assert (ROOT / path).exists(), path
    else:
        assert "[limits]" not in shown
        assert "share one. So does the time limit: exactly." in shown
