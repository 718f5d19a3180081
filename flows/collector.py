"""Wakes suspended runs: the flow to deploy on a schedule beside flows that wait with "suspend".

It asks the providers for the batches of all of them at once, and resumes a run when there is
something to collect, or when its deadline has come. Between two looks nothing is running.
"""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, Failed, State

from batchata_prefect.collector.collect import collect


@flow(name="batchata-collector", flow_run_name="collector", persist_result=False)
async def collector() -> State[None]:
    """Look once after all suspended runs, and resume those that have something to do.

    Returns:
        Completed, with what was done; Failed where a provider or a run's records could not be
        asked. The next look tries again, and nothing is lost in between.
    """
    done = await collect()
    return Failed(message=str(done)) if done.troubles else Completed(message=str(done))


if __name__ == "__main__":
    collector.serve(name="collector", interval=60)
