"""`run_batch`, the parent flow: recover, buy until nothing is left or a limit holds, finish."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TagsContext
from prefect.states import Cancelled

from batchata_prefect.engine.canary import canary_holds
from batchata_prefect.engine.deliver import delivering
from batchata_prefect.engine.download import look_at_results, put_results, restore
from batchata_prefect.engine.finish import finish
from batchata_prefect.engine.limits import Limits
from batchata_prefect.engine.session import Session, session
from batchata_prefect.engine.start import connected, owning, recover
from batchata_prefect.engine.status import batch_statuses, run_status
from batchata_prefect.engine.submit import Purchases
from batchata_prefect.engine.suspend import sleepy
from batchata_prefect.engine.uploads import Uploads
from batchata_prefect.engine.watch import wait_for_prefect, watching
from batchata_prefect.errors import BatchataError
from batchata_prefect.jobs.faults import remarks
from batchata_prefect.views import events, states
from batchata_prefect.views.artifacts import Seen, materialized, publish, showing
from batchata_prefect.views.report.page import keep_page
from batchata_prefect.views.report.words import markdown, summary, tell_failures


@flow(
    name="batchata",
    flow_run_name="{jobs}",
    # The facts, which are small; the answers are files.
    persist_result=True,
    result_serializer="json",
    # They are for the reader; what the run does stands in its session.
    validate_parameters=False,
)
async def run_batch(
    jobs: str,
    models: list[str],
    results: str,
    budget_usd: float | None,
    time_limit_hours: float | None,
    options: dict[str, Any],
) -> State[Any]:
    """Answer every job of a job set, each paid once, inside the limits.

    Args:
        jobs: What they are called, and how many.
        models: Ids of their models.
        results: Directory or URL of the answers.
        budget_usd: USD that the run never passes.
        time_limit_hours: Hours after the first start at which it ends.
        options: The other options that were told.

    Returns:
        What became of it, see `views.states`; Paused where it sleeps until the collector wakes the
        deployed flow run around it; with the error on the session, where a provider refuses the
        key or the account, or records or results cannot be read, written or trusted.
    """
    run = session()
    run.flow_run_id, run.waiting_for = _flow_run_id(), None
    try:
        # A limit on a tag of the run holds for what it buys, and not for what it tells.
        with TagsContext(current_tags=set()):
            return await _from_start_to_end(run)
    except BatchataError as error:
        # Raised, Prefect would log a traceback; what to do stands in the error's own words.
        run.error = run.broken or error
        return _state(run, str(run.error))
    finally:
        run.unbind()


def _showing(run: Session) -> AbstractAsyncContextManager[None]:
    def look() -> Seen:
        pages: dict[str, str] = {}
        for name, client in run.clients.items():
            provider = run.providers[name]
            if provider.console and provider.account(client) == provider.address:
                pages[name] = provider.console
        return Seen(run_status(run), batch_statuses(run), pages)

    return showing(look, run.around_id or run.flow_run_id, run.pace.show)


async def _from_start_to_end(run: Session) -> State[Any]:
    async with watching(run), _showing(run), owning(run) as owned:
        if not owned:
            assert run.stopped is not None
            return Cancelled(message=f"{run.stopped.reason}; this start sent nothing")
        async with connected(run), delivering(run) as deliveries:
            await look_at_results(run)
            for remark in remarks(run.spool):
                get_run_logger().warning("%s", remark)
            await recover(run)
            limits, uploads = Limits(run), Uploads(run)
            await limits.open()
            purchases = Purchases(run, limits, uploads)
            if await canary_holds(run, purchases):
                await purchases.make()
            if run.broken is not None:
                raise run.broken
            await limits.leave()
            await deliveries.all_told()
            if run.suspending:
                return await sleepy(run)
            for entry, ordinals in zip(run.ledger, run.members, strict=True):
                await restore(run, entry, ordinals)
            run.manifest = await run.alone(finish, run)
            tell_failures(run.manifest)
            await keep_page(run.manifest, run.results_dir)
            await put_results(run)
            await uploads.clean()
            if await wait_for_prefect(run):
                page = markdown(run.manifest, _results(run))
                shown_on = run.around_id or run.flow_run_id
                await publish("batchata-report", page, summary(run.manifest), shown_on)
                events.finished(run_status(run), run.manifest)
                if run.manifest["flow_run_id"] == run.flow_run_id:  # else nothing is new
                    await materialized(run.manifest, _results(run))
    for name, error in run.closed.items():
        if others := [other for other in run.closed if other != name]:
            # Who mends one key should not wait a night for the next one.
            told = f"{error}. Refused as well, as the log says: {', '.join(others)}"
            raise type(error)(told) from error
        raise error
    return _state(run)


def _state(run: Session, error: str | None = None) -> State[Any]:
    return states.of_run(run.manifest, _results(run), error)


def _results(run: Session) -> str:
    return f"{run.settings.results_url or run.results_dir}/results.jsonl"


def _flow_run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None
