"""What is printed for a person, sentences and tables: shown, never obeyed by the terminal.

No id, model, number or path is cut or broken in two: they are there to be copied.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from batchata_prefect.views.escapes import printable

_GAP = "  "
_LEAST = 20
_DOTS = "..."

Cell = str | tuple[str, str]
"""What stands in a column; with a style."""


@dataclass(frozen=True, slots=True)
class Printable:
    """Anything for a terminal, without what of its text the terminal would obey."""

    what: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The same pieces, cleaned; those that rich itself steers the terminal with stay."""
        for piece in console.render(self.what, options):
            yield piece if piece.control else piece._replace(text=printable(piece.text))


def say(what: RenderableType = "", *, stderr: bool = False) -> None:
    """Print for a person; away from a terminal each sentence stays in one line.

    Args:
        what: A text, or anything that rich shows.
        stderr: Whether it stands beside the answer, on standard error.
    """
    # A text is markup to rich, links and colors, unless the console has none.
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if isinstance(what, str):
        what = Text(wrapped(what, console.width) if console.is_terminal else what)
    console.print(Printable(what), soft_wrap=True)


def one_line(said: object, most: int = 300) -> str:
    """What was said, if anything, without line breaks and of so many letters at most."""
    flat = " ".join(str(said or "").split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."


def wrapped(text: str, width: int) -> str:
    """A text in lines of a width, each as far in as it was; a longer word stays whole."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=line[: len(line) - len(line.lstrip())],
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ) or [""]
    return "\n".join(lines)


class Rows:
    """A table for rich: as wide as what it holds, and on a terminal no wider than that.

    What is too wide for the terminal stands in lines of its own, each value behind the name of its
    column.

    Args:
        *head: Names of the columns.
        right: Columns of numbers.
        texts: Columns whose values are cut to what the others leave of the width.
    """

    def __init__(
        self, *head: str, right: Collection[str] = (), texts: Collection[str] = ()
    ) -> None:
        self._head, self._right = head, right
        self._texts = [place for place, name in enumerate(head) if name in texts]
        self._rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell) -> None:
        """Add a row, one value for each column."""
        self._rows.append(cells)

    def __bool__(self) -> bool:
        """Whether it has rows."""
        return bool(self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Its lines."""
        yield from self.lines(options.max_width if console.is_terminal else None)

    def lines(self, width: int | None) -> Iterator[Text]:
        """Its lines, the names of the columns first.

        Args:
            width: Columns of the terminal; None for as many as it takes.
        """
        rows = [[_flat(cell) for cell in row] for row in self._rows]
        widths = [
            max(cell_len(each) for each in (name, *(row[place][0] for row in rows)))
            for place, name in enumerate(self._head)
        ]
        if width is not None:
            room = width - len(_GAP) * (len(widths) - 1)
            room -= sum(size for place, size in enumerate(widths) if place not in self._texts)
            for left, place in zip(range(len(self._texts), 0, -1), self._texts, strict=True):
                widths[place] = min(widths[place], max(_LEAST, room // left))
                room -= widths[place]
            if room < 0:
                yield from self._one_by_one(rows, width)
                return
        yield self._line([(name, "dim") for name in self._head], widths)
        for row in rows:
            yield self._line(row, widths)

    def _line(self, row: Sequence[tuple[str, str]], widths: Sequence[int]) -> Text:
        line = Text()
        for place, ((value, style), size) in enumerate(zip(row, widths, strict=True)):
            told = _cut(value, size)
            space = " " * (size - cell_len(told))
            if self._head[place] in self._right:
                line.append(space).append(told, style)
            else:
                line.append(told, style).append(space)
            line.append(_GAP)
        line.rstrip()
        return line

    def _one_by_one(self, rows: list[list[tuple[str, str]]], width: int) -> Iterator[Text]:
        indent = max(map(cell_len, self._head)) + len(_GAP)
        for number, row in enumerate(rows):
            if number:
                yield Text()
            for place, (value, style) in enumerate(row):
                if place in self._texts:
                    value = _cut(value, max(_LEAST, width - indent))
                name = self._head[place]
                label = name + " " * (indent - cell_len(name))
                told = wrapped(" " * indent + value, width)[indent:]
                yield Text().append(label, "dim").append(told, style)


def _flat(cell: Cell) -> tuple[str, str]:
    """A value on one line and as wide as it looks, and its style."""
    value, style = cell if isinstance(cell, tuple) else (cell, "")
    return " ".join(printable(value).split()), style


def _cut(value: str, size: int) -> str:
    if cell_len(value) <= size:
        return value
    return set_cell_size(value, size - len(_DOTS)).rstrip() + _DOTS
