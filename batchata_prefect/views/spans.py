"""One OpenTelemetry span for each provider batch, for whoever has set a tracer provider.

Names are those of the [GenAI conventions](https://opentelemetry.io/docs/specs/semconv/gen-ai/):
`gen_ai.operation.name`, `gen_ai.provider.name` (and `gen_ai.system`, its older name),
`gen_ai.request.model` and `gen_ai.usage.*`. They have no name for a cost: `batchata.cost_usd`,
which is missing where the price is unknown. Besides there are `batchata.batch_id`,
`batchata.ending`, `batchata.jobs`, `batchata.answered` and `prefect.flow_run.id`. Nothing that a
job or an answer says is in a span.

A span lasts from the batch's creation to its end, however many processes have waited for it, and is
made when the end is on record. It is a child of the span that is current there: with Prefect's own
telemetry on, of the task run's. Without a tracer provider it costs a few microseconds a batch.
"""

from __future__ import annotations

import logging

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from batchata_prefect.views.status import BatchStatus

logger = logging.getLogger("batchata_prefect")

_tracer = trace.get_tracer("batchata_prefect")


def ended(batch: BatchStatus, flow_run_id: str | None) -> None:
    """Make the span of a provider batch that has ended; what fails here is no matter of the run.

    Args:
        batch: The batch; one that was never created has no span.
        flow_run_id: Prefect's id of the flow run.
    """
    if batch.batch_id is None and not batch.entry.chunk.realtime:
        return
    try:
        _make(batch, flow_run_id)
    except Exception as error:
        # Whatever a tracer provider of somebody else raises.
        logger.debug("no span of %s (%s)", batch.entry.chunk.name, type(error).__name__)


def _make(batch: BatchStatus, flow_run_id: str | None) -> None:
    chunk, ending, began = batch.entry.chunk, batch.entry.ending, batch.sent_at
    assert ending is not None
    usage = ending.usage
    operation = "embeddings" if chunk.endpoint.endswith("/embeddings") else "chat"
    span = _tracer.start_span(
        f"{operation} {chunk.model}", kind=SpanKind.CLIENT, start_time=int(began.timestamp() * 1e9)
    )
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": chunk.provider,
            "gen_ai.system": chunk.provider,
            "gen_ai.request.model": chunk.model,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "batchata.ending": ending.status,
            "batchata.jobs": chunk.count,
            "batchata.answered": batch.answered,
            "batchata.realtime": chunk.realtime,
        }
    )
    if batch.batch_id is not None:
        span.set_attribute("batchata.batch_id", batch.batch_id)
    if flow_run_id is not None:
        span.set_attribute("prefect.flow_run.id", flow_run_id)
    if ending.cost_usd is not None:
        span.set_attribute("batchata.cost_usd", float(ending.cost_usd))
    if not batch.answered:
        span.set_attribute("error.type", ending.status)
        span.set_status(Status(StatusCode.ERROR))
    # A provider's clock that is behind ours must not make it negative.
    span.end(int(max(began, ending.ended_at).timestamp() * 1e9))
