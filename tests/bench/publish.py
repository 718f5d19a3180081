"""Puts measurements into the README and the documentation.

After `make bench-full`: `python -m tests.bench.publish tests/bench`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .show import table

ROOT = Path(__file__).parents[2]
_SHORT = ("jobs", "plain SDK script", "this package", "ratio", "its CPU", "its memory", "run again")
_LEAST = 100_000


def cells(report: str) -> list[list[str]]:
    """The rows of the first table of a report."""
    lines = report.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("| jobs |"))
    rows: list[list[str]] = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def short(report: str) -> str:
    """The machine, and a line for each of the larger sets of jobs."""
    groups: dict[str, dict[str, list[str]]] = {}
    for row in cells(report):
        groups.setdefault(row[0], {})[row[1]] = row
    lines: list[list[str]] = []
    for name, by in groups.items():
        count = int(re.sub(r"\D", "", name.partition(", ")[2].partition(" ")[0]))
        if "ours" not in by or (count < _LEAST and "pdf" not in name):
            continue
        ours, again = by["ours"], by.get("again, file")
        lines.append(
            [
                name.replace("pdf jobs", "PDFs of 1 MB")
                .replace("openai", "OpenAI")
                .replace("anthropic", "Anthropic"),
                f"{by['plain'][2]} s",
                f"{ours[2]} s",
                ours[8],
                f"{ours[3]} s",
                f"{ours[4]} MB",
                f"{again[2]} s" if again else "",
            ]
        )
    machine = report.partition(". The sandbox")[0]
    return f"{table(lines, _SHORT)}\n\n{machine}; the sandbox answers a batch after a second."


def put(path: Path, name: str, text: str) -> None:
    """Replace what stands between a document's two marks of a name."""
    before = path.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = before.partition(start)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no {start} ... {end}")
    path.write_text(f"{head}{start}\n{text.strip()}\n{end}{tail}")


def main() -> None:
    """Publish a folder's bench.md and bench.svg."""
    folder = Path(sys.argv[1])
    report = (folder / "bench.md").read_text()
    put(ROOT / "README.md", "benchmarks", short(report))
    put(ROOT / ".docs" / "pages" / "benchmarks.md", "benchmarks", report)
    plot = (folder / "bench.svg").read_bytes()
    (ROOT / ".docs" / "pages" / "img" / "bench.svg").write_bytes(plot)


if __name__ == "__main__":
    main()
