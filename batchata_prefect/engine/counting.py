"""Exact input tokens in place of the estimates, for runs with `estimate="exact"`."""

from __future__ import annotations

import logging

from batchata_prefect.engine.session import Session
from batchata_prefect.providers.exact import can_count, counted_bound, exact_input_tokens

logger = logging.getLogger("batchata_prefect")


async def count_exactly(run: Session) -> None:
    """Have the providers count the jobs that wait, where the run asks for it.

    Raises:
        ValidationError: A provider refuses to count a job, which is named; nothing was sent.
        ProviderError: The key is refused, or the provider does not answer.
    """
    if run.settings.estimate != "exact":
        return
    for family in run.spool.families():
        ordinals = [
            row.ordinal
            for attempts in range(run.settings.max_attempts)
            for row in run.spool.waiting(family, attempts)
            if not run.spool.amendments(row.ordinal)
        ]
        if not can_count(family.provider, family.endpoint):
            if ordinals:
                logger.warning(
                    "%s does not count the tokens of requests to %s; the upper bounds made here "
                    "hold for %s",
                    family.provider,
                    family.endpoint,
                    family.model,
                )
            continue
        jobs = run.spool.reader()
        try:
            counts = exact_input_tokens(
                family.provider,
                run.clients[family.provider],
                jobs.bodies(ordinals),
                family.endpoint,
                name=lambda place, o=ordinals, j=jobs: f"job {j.context(o[place - 1]).job_id!r}",
            )
            done = 0
            async for tokens in counts:
                run.spool.recount(ordinals[done], tokens, counted_bound(tokens))
                done += 1
                run.waiting_for = f"exact token counts: {done:,} of {len(ordinals):,}"
                if run.is_ending:
                    return
        finally:
            run.waiting_for = None
            jobs.close()
