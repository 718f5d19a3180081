"""Rendered requests of one job set, on disk: bodies end to end in one file, an index beside it.

Memory holds four bytes a job, its state, and eight more while jobs are added; everything else is
read where it lies. Nothing here is state of the run: it is made anew from the jobs at each start,
and told from the records what is done.
"""

from __future__ import annotations

from batchata_prefect.jobs.spool.layout import (
    ACCEPTS_TRUNCATED,
    ANSWERED,
    CANCELED,
    FAILED,
    HELD,
    IN_FLIGHT,
    WAITING,
    Context,
    Family,
    Row,
    Stored,
    in_a_row,
    pack,
)
from batchata_prefect.jobs.spool.reader import SpoolReader
from batchata_prefect.jobs.spool.spool import Spool, sweep

__all__ = [
    "ACCEPTS_TRUNCATED",
    "ANSWERED",
    "CANCELED",
    "FAILED",
    "HELD",
    "IN_FLIGHT",
    "WAITING",
    "Context",
    "Family",
    "Row",
    "Spool",
    "SpoolReader",
    "Stored",
    "in_a_row",
    "pack",
    "sweep",
]
