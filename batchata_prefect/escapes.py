"""What data may not say to who reads it: to a terminal, to a spreadsheet, to a page.

Answers, errors, ids, tags and names are text of whoever wrote them. Each way out of the house takes
from them what its reader would obey: what is stored and what a program reads stays as it is.
"""

from __future__ import annotations

import logging
import re
from html import escape
from pathlib import Path
from typing import Any

_OBEYED = re.compile(
    # C0 but for tab and line feed, DEL and C1: titles, colors, links, the clipboard, the bell.
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Marks that have text read in another order than it stands in.
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    # Halves of a pair, which no terminal can be sent.
    r"\ud800-\udfff]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
"""Starts of a cell that spreadsheets compute, wide forms included [OWASP, CSV Injection]."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_MARKS = re.compile(r"[\\`*\[\]()!|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ADDRESS = re.compile(r":(?=\S)|(?<=www)\.", re.IGNORECASE)
"""What makes a renderer take a word for a link: `https:`, `javascript:`, `www.`."""


def printable(text: str) -> str:
    """A text without what a terminal obeys; tabs and line feeds stay."""
    return _OBEYED.sub("", text)


_OURS = str(Path(__file__).parent)


def printable_log(record: logging.LogRecord) -> bool:
    """A filter for loggers: what this package logs, without what a terminal obeys."""
    if record.pathname.startswith(_OURS):
        said = record.getMessage()
        if (shown := printable(said)) != said:
            record.msg, record.args = shown, ()
    return True


for _name in ("batchata_prefect", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(printable_log)


def printable_json(text: str) -> str:
    """JSON that says the same, with what a terminal obeys as escapes."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
