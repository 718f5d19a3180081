"""One file for each job, `result_format="json"`, under a name that every file system takes."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from batchata_prefect.content.exact_json import loads_exact, pretty
from batchata_prefect.files import whole_file
from batchata_prefect.results.row import from_row

_LONGEST = 180
"""Letters of a name; file systems take 255, and ours are longer while they are written."""

_OURS = ("manifest", "results", "report")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)
"""Names that Windows takes for a device, whatever stands behind the point."""


class EachJob:
    """Writes the results one by one.

    A job's file is named after its id. Where that is no name, or another job has it on a system
    that does not tell `A` from `a`, a digest of the id is added to it.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Some bytes a job, as each of them has a file: who asks for this has not very many.
        self._taken: set[str] = set()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row of the results to a file of its own."""
        values = from_row(row, {}).to_dict()
        if row["parsed_response_json"] is not None:
            values["parsed_response"] = loads_exact(row["parsed_response_json"], as_written=True)
        with whole_file(self._folder / self._name(row["job_id"]), synced=False) as file:
            file.write(pretty(values))

    def _name(self, job_id: str) -> str:
        name = quote(job_id, safe="")
        first = name.casefold().partition(".")[0]
        if len(name) > _LONGEST or first in _DEVICES or first in _OURS or self._is_taken(name):
            digest = sha256(job_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            name = f"{name[:_LONGEST]}-{digest}"
        self._taken.add(name.casefold())
        return f"{name}.json"

    def _is_taken(self, name: str) -> bool:
        return name.casefold() in self._taken
