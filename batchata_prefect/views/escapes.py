"""What data may not say to who reads it: to a terminal, to a spreadsheet, to a page.

Answers, errors, ids, tags and names are text of whoever wrote them. Each way out of the house takes
from them what its reader would obey: what is stored and what a program reads stays as it is.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from batchata_prefect.errors import OBEYED, printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
"""Starts of a cell that spreadsheets compute, wide forms included [OWASP, CSV Injection]."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_MARKS = re.compile(r"[\\`*\[\]()!|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ADDRESS = re.compile(r":(?=\S)|(?<=www)\.", re.IGNORECASE)
"""What makes a renderer take a word for a link: `https:`, `javascript:`, `www.`."""


def printable_json(text: str) -> str:
    """JSON that says the same, with what a terminal obeys as escapes."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def sheet_cell(value: Any) -> Any:
    """A value for a cell of CSV or TSV; a text that a spreadsheet would compute gets an apostrophe.

    Numbers stay numbers, also one that is written in a text.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"


def markdown(text: str) -> str:
    """A text for one line or one cell of markdown that shows as it stands: no markup, no links."""
    flat = " ".join(printable(text).split())
    flat = _MARKS.sub(r"\\\g<0>", escape(flat, quote=False))
    return _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", flat)
