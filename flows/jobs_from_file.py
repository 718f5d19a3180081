"""Serves the flow that answers a file of jobs, so that others can start runs from the Prefect UI.

To have workers run it, deploy it with `batchata deploy --pool` or `deployments/prefect.yaml`.
"""

from __future__ import annotations

from prefect.types.entrypoint import EntrypointType

from batchata_prefect.deployed import jobs_from_file

if __name__ == "__main__":
    # A served flow runs in processes of its own, which load it by its name in the package.
    jobs_from_file.serve(name="jobs-from-file", entrypoint_type=EntrypointType.MODULE_PATH)
