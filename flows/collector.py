"""Serves the flow that wakes suspended runs, for flows that wait with "suspend"."""

from __future__ import annotations

from prefect.types.entrypoint import EntrypointType

from batchata_prefect.deployed import collector

if __name__ == "__main__":
    collector.serve(name="collector", interval=60, entrypoint_type=EntrypointType.MODULE_PATH)
