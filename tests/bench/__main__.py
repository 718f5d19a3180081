"""`python -m tests.bench`: measure, print the tables, and write them with a plot.

make bench        minutes: up to 100,000 text jobs, 100 PDFs
make bench-full   an hour: up to 1,000,000 text jobs, 2,000 PDFs, 1 and 100 batches, a run again
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .floor import floor
from .measure import Case, Found, measure
from .ours import again, again_file, ours, ours_file
from .plain import plain
from .show import HEAD, plot, report, row
from .work import Work

WHO = {
    "floor": floor,
    "plain": plain,
    "ours": ours,
    "again": again,
    "ours, file": ours_file,
    "again, file": again_file,
}
ALL = ("floor", "plain", "ours")


def cases(sizes: list[int], providers: list[str], pdfs: int, *, full: bool) -> list[Case]:
    """What is measured, the small before the large."""
    found = [Case("text", provider, size, ALL) for size in sizes for provider in providers]
    if full:
        largest = max(sizes)
        found = [
            Case("text", c.provider, c.count, tuple(WHO)) if c.count == largest else c
            for c in found
        ]
        found += [Case("text", provider, 100_000, ALL, per_batch=1_000) for provider in providers]
    if pdfs:
        found += [Case("pdf", provider, pdfs, ALL) for provider in providers]
    return found


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--full", action="store_true", help="a million jobs")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of text jobs")
    parser.add_argument("--pdfs", type=int, help="number of PDF jobs")
    parser.add_argument("--providers", nargs="+", default=["anthropic", "openai"])
    parser.add_argument("--seconds", type=float, default=1.0, help="that a batch takes")
    parser.add_argument("--out", type=Path, help="folder for bench.md and bench.svg")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        who, kind, provider, count, per_batch, folder = told.one
        WHO[who](Work(kind, provider, int(count), int(per_batch), Path(folder)))
        return
    sizes = told.sizes or ([1_000, 10_000, 100_000] + [1_000_000] * told.full)
    pdfs = (2_000 if told.full else 100) if told.pdfs is None else told.pdfs

    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    found: list[Found] = []
    with prefect_test_harness(server_startup_timeout=120):
        print(" | ".join((*HEAD, "to plain", "to floor, wall / CPU")))
        for case in cases(sizes, told.providers, pdfs, full=told.full):
            measured = measure(case, str(PREFECT_API_URL.value()), told.seconds)
            found += measured
            for each in measured:
                print(" | ".join(row(each, measured)), flush=True)
            # An hour's run that breaks off leaves what it has.
            if told.out is not None:
                _write(told.out, found, told.seconds)
    print(f"\n{report(found, told.seconds)}")


def _write(folder: Path, found: list[Found], seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(report(found, seconds))
    (folder / "bench.svg").write_text(plot(found))


if __name__ == "__main__":
    main()
