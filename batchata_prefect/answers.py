"""A reply and its job -> the job's result: pure, so that reading again is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import orjson
from pydantic import BaseModel

from batchata_prefect.citations import map_citations, read_citations
from batchata_prefect.errors import ParseError
from batchata_prefect.models import Attempt, Chunk, JobResult, Reply, Usage
from batchata_prefect.pricing import PriceBook
from batchata_prefect.schema import AnswerSchema, read_answer
from batchata_prefect.spool import Context

_TRUNCATED = {"max_tokens", "model_context_window_exceeded"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is needed to read the replies of one chunk.

    Attributes:
        chunk: The chunk.
        batch_id: The provider batch that answered it; None where there was none.
        prices: What tokens cost.
        schemas: Digest -> answer schema.
        canceled: Why we canceled the batch, for the jobs that it left unanswered; None where
            we did not.
    """

    chunk: Chunk
    batch_id: str | None
    prices: PriceBook
    schemas: Mapping[str, AnswerSchema]
    canceled: str | None = None

    def result(self, reply: Reply, job: Context, cost: Decimal | None) -> JobResult:
        """The job's result from its reply; what is wrong with the answer stands in `error`.

        Args:
            reply: The reply.
            job: Its job.
            cost: What it was billed, as from `cost`.
        """
        result = self._blank(job, cost)
        usage = reply.usage or Usage()
        result.input_tokens = usage.input_tokens
        result.output_tokens = usage.output_tokens
        result.cache_read_tokens = usage.cache_read_tokens
        result.cache_write_tokens = usage.cache_write_tokens
        result.reasoning_tokens = usage.reasoning_tokens
        result.stop_reason = reply.stop_reason
        if reply.embedding is not None:
            result.embedding = list(reply.embedding)
        elif reply.outcome == "succeeded":
            result.raw_response = reply.text
        fault = _fault(reply) or self._parse(reply, job, result)
        if reply.outcome == "canceled" and self.canceled is not None:
            result.error_code, result.error = "time_limit_exceeded", self.canceled
            result.status = "failed"
        elif fault:
            result.error_code, result.error = fault
            result.status = "cancelled" if reply.outcome == "canceled" else "failed"
        result.attempts[-1].error_code = result.error_code
        result.attempts[-1].error = result.error
        return result

    def missing(self, job: Context, code: str, error: str) -> JobResult:
        """The result of a job that got no reply."""
        result = self._blank(job, Decimal(0))
        result.status = "failed"
        result.error_code, result.error = code, error
        result.attempts[-1].error_code, result.attempts[-1].error = code, error
        return result

    def cost(self, reply: Reply) -> Decimal | None:
        """What a reply was billed, in USD; None where the price is unknown.

        Only succeeded rows are billed: errored, canceled and expired requests are free
        [Anthropic batch-processing; OpenAI Batch API guide], and a refusal before any output is
        free too [Anthropic refusals-and-fallback].
        """
        if reply.outcome != "succeeded" or reply.usage is None:
            return Decimal(0)
        if reply.stop_reason == "refusal" and not reply.blocks and not reply.usage.output_tokens:
            return Decimal(0)
        return self.prices.cost(self.chunk.provider, self.chunk.model, reply.usage)

    def _blank(self, job: Context, cost: Decimal | None) -> JobResult:
        usd = None if cost is None else float(cost)
        return JobResult(
            job_id=job.job_id,
            cost_usd=usd,
            batch_id=self.batch_id,
            model=self.chunk.model,
            provider=self.chunk.provider,
            metadata=job.metadata,
            attempts=[Attempt(self.chunk.round, self.batch_id, cost_usd=usd)],
        )

    def _parse(self, reply: Reply, job: Context, result: JobResult) -> tuple[str, str] | None:
        """Fill the parsed parts of a result; what is wrong with them as (code, text)."""
        if job.citations:
            result.citations = read_citations(reply.blocks, job.sources)
        if job.answer_schema is None:
            return None
        try:
            value = read_answer(reply.text, self.schemas[job.answer_schema])
        except ParseError as error:
            if reply.stop_reason in _TRUNCATED:
                return "truncated", f"the answer was cut off at max_tokens; {error}"
            return error.code, str(error)
        result.parsed_response = cast("BaseModel | dict[str, Any] | list[Any]", value)
        if result.citations:
            result.citation_mappings = map_citations(value, reply.blocks, result.citations)
        return None


def _fault(reply: Reply) -> tuple[str, str] | None:
    if reply.outcome != "succeeded":
        code = reply.error_code or reply.outcome
        return code, reply.error or f"the provider answered {reply.outcome!r} without a reason"
    if reply.stop_reason == "refusal" or reply.error_code is not None:
        code = reply.error_code or "refusal"
        return code, reply.error or "the model refused to answer"
    if reply.embedding is not None:
        return None
    empty = not reply.text.strip()
    if reply.stop_reason in _TRUNCATED and empty:
        eater = "thinking used up max_tokens" if reply.has_thinking else "max_tokens was used up"
        return "truncated", f"{eater} before any answer was written; give the job more max_tokens"
    if empty and reply.stop_reason != "tool_use":
        return "empty_answer", f"the answer is empty (stop_reason {reply.stop_reason!r})"
    return None


_JSON_COLUMNS = ("parsed_response", "citations", "citation_mappings", "metadata", "attempts")
"""Fields of open shape: JSON text in their column, so that every column has one type."""


def to_row(result: JobResult, *, answer_schema: str | None) -> dict[str, Any]:
    """A result as one flat row whose columns have the same type in every row.

    Args:
        result: The result.
        answer_schema: Digest of the job's answer schema, by which a reader finds its class.
    """
    parsed = result.parsed_response
    return {
        "job_id": result.job_id,
        "status": result.status,
        "provider": result.provider,
        "model": result.model,
        "raw_response": result.raw_response,
        "error_code": result.error_code,
        "error": result.error,
        "stop_reason": result.stop_reason,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
        "cache_read_tokens": result.cache_read_tokens,
        "cache_write_tokens": result.cache_write_tokens,
        "reasoning_tokens": result.reasoning_tokens,
        "cost_usd": result.cost_usd,
        "batch_id": result.batch_id,
        "embedding": result.embedding,
        "answer_schema": answer_schema,
        "parsed_response_json": (
            parsed.model_dump_json() if isinstance(parsed, BaseModel) else _json_text(parsed)
        ),
        "citations_json": _json_text(result.citations),
        "citation_mappings_json": _json_text(result.citation_mappings),
        "metadata_json": _json_text(result.metadata),
        "attempts_json": _json_text(result.attempts),
    }


def from_row(row: Mapping[str, Any], schemas: Mapping[str, AnswerSchema]) -> JobResult:
    """The result of a row of `to_row`, its parsed answer as the class where that is known."""
    values: dict[str, Any] = {
        key: value for key, value in row.items() if key in JobResult.__dataclass_fields__
    }
    for name in _JSON_COLUMNS:
        text: str | None = row.get(f"{name}_json")
        values[name] = None if text is None else orjson.loads(text)
    values["metadata"] = values["metadata"] or {}
    result = JobResult.from_dict(values)
    schema = schemas.get(row.get("answer_schema") or "")
    if schema is not None and schema.model is not None and result.parsed_response is not None:
        result.parsed_response = schema.model.model_validate_json(row["parsed_response_json"])
    return result


def _json_text(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def merge_attempts(row: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a job's last attempt, with its earlier attempts and their cost in it."""
    attempts = earlier + orjson.loads(row["attempts_json"])
    costs = [attempt["cost_usd"] for attempt in attempts]
    known = None if any(cost is None for cost in costs) else sum(costs)
    return {**row, "attempts_json": _json_text(attempts), "cost_usd": known}
