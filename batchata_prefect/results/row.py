"""A reply and its job -> the job's row in the results: pure, so that reading again is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import orjson

from batchata_prefect.answers import Attempt, Citation, JobResult, Reply, TextBlock, Usage
from batchata_prefect.content.citations import (
    drop_unverified,
    map_citations,
    read_citations,
    verify,
)
from batchata_prefect.content.citations.quotes import read_quoted
from batchata_prefect.content.exact_json import dumps, loads, writable
from batchata_prefect.content.schema import AnswerSchema, Parsed, made, parse_answer
from batchata_prefect.errors import ParseError
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import USUAL, Chunk, Terms
from batchata_prefect.money.ledger import TIME_LIMIT
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.providers.bodies import held_in
from batchata_prefect.providers.replies import call, why_none
from batchata_prefect.providers.rows import UNREADABLE
from batchata_prefect.results.codes import ENDS, FULL, cut_words, is_cut, named, unfinished


def reply_file(token: str) -> str:
    """Where a chunk's replies lie as they came, below the results."""
    return f"raw_files/responses/{token}.jsonl"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is needed to read the replies of one chunk.

    Attributes:
        chunk: The chunk.
        batch_id: The provider batch that answered it; None where there was none.
        prices: What tokens cost.
        schemas: Digest -> answer schema.
        canceled: Why we canceled the batch, for the jobs that it left unanswered; None where
            we did not cancel it.
        results_dir: Where images and sounds are put as files; None leaves them in the row.
        terms: How its requests are billed beside their tokens.
    """

    chunk: Chunk
    batch_id: str | None
    prices: PriceBook
    schemas: Mapping[str, AnswerSchema]
    canceled: str | None = None
    results_dir: Path | None = None
    terms: Terms = USUAL

    def row(
        self, reply: Reply, job: Context, cost: Decimal | None, body: bytes | None = None
    ) -> dict[str, Any]:
        """The job's result as a row; what is wrong with the answer stands in `error`.

        Args:
            reply: The reply.
            job: Its job.
            cost: What it was billed, as from `cost`.
            body: Its request, which citations are compared with; of use only where the job asked
                for citations. Without it they are not compared, and all quotes are dropped.
        """
        row = self._blank(job, cost, reply.custom_id)
        usage = reply.usage
        if usage is not None:
            row["input_tokens"] = usage.input_tokens
            row["output_tokens"] = usage.output_tokens
            row["cache_read_tokens"] = usage.cache_read_tokens
            row["cache_write_tokens"] = usage.cache_write_tokens
            row["reasoning_tokens"] = usage.reasoning_tokens
            if usage.fees:
                row["fees_json"] = _json_text(dict(usage.fees))
        row["stop_reason"] = reply.stop_reason
        if reply.embedding is not None:
            row["embedding"] = reply.embedding
        elif reply.outcome == "succeeded":
            row["raw_response"] = reply.text or (
                dumps(reply.tool_calls) if reply.tool_calls else ""
            )
        if reply.tool_calls:
            row["tool_calls_json"] = dumps([call(each) for each in reply.tool_calls])
        if reply.items:
            row["items_json"] = dumps(reply.items)
        if reply.outcome == "canceled" and self.canceled is not None:
            status = "failed" if self.canceled == TIME_LIMIT else "cancelled"
            return self._failed(row, *canceled(self.canceled), status)
        fault = _fault(reply) or _stop_fault(reply, job)
        if fault is None and (job.citations or job.answer_schema is not None):
            fault = self._parse(reply, job, row, body)
        if row["citations_json"] is None and any(block.citations for block in reply.blocks):
            # A search brings them unasked.
            row["citations_json"] = dumps(read_citations(reply.blocks, job.sources))
        if fault is None:
            return row
        code, error = fault
        if code == UNREADABLE:
            error = f"{error}; {self._kept(reply)}"
        status = "cancelled" if reply.outcome == "canceled" else "failed"
        return self._failed(row, code, error, status)

    def unreadable(
        self, reply: Reply, job: Context, cost: Decimal | None, error: Exception
    ) -> dict[str, Any]:
        """The row of a reply that could not be read, with its text.

        Args:
            reply: The reply.
            job: Its job.
            cost: What it was billed.
            error: What was raised while it was read.
        """
        row = self._blank(job, cost, reply.custom_id)
        row["raw_response"] = writable(reply.text) or None
        what = f"the answer could not be read ({type(error).__name__}: {str(error)[:300]})"
        return self._failed(row, UNREADABLE, f"{writable(what)}; {self._kept(reply)}")

    def _kept(self, reply: Reply) -> str:
        return f"it is kept as {reply.custom_id} in {reply_file(self.chunk.token)}"

    def unnamed(self, rows: int) -> str:
        """Why a job has no answer whose batch gave rows that cannot be read."""
        return (
            f"no row of its batch names this job, and {rows} of them cannot be read: it may have "
            f"been answered and paid, and is not sent again. They are kept in "
            f"{reply_file(self.chunk.token)}"
        )

    def unread(self, error: Exception) -> str:
        """Why a job has no answer where reading its whole batch failed."""
        return (
            f"the replies of {self.batch_id or 'its batch'} could not be read "
            f"({type(error).__name__}: {str(error)[:300]}). They are kept in "
            f"{reply_file(self.chunk.token)}, and nothing is sent again; report it"
        )

    def missing(self, job: Context, place: int, code: str, error: str) -> dict[str, Any]:
        """The row of a job that got no reply; where it may have been paid, its cost is unknown."""
        cost = None if code in {"answer_lost", UNREADABLE} else Decimal(0)
        row = self._blank(job, cost, self.chunk.custom_id(place))
        return self._failed(row, code, error, "cancelled" if code == "canceled" else "failed")

    def cost(self, reply: Reply) -> Decimal | None:
        """What a reply was billed, in USD; None where the price is unknown.

        Requests without an answer are free [Anthropic batch-processing; OpenAI Batch API guide],
        and so is a refusal before any output [Anthropic refusals-and-fallback]. Whatever reports
        usage is counted, and an answer that reports none has an unknown cost.
        """
        usage = reply.usage
        if usage is None:
            return Decimal(0) if reply.outcome != "succeeded" else None
        unsaid = reply.stop_reason == "refusal" and not reply.blocks and not usage.output_tokens
        if unsaid and not usage.fees:
            return Decimal(0)
        return self._price(usage)

    def cache_saved(self, reply: Reply, cost: Decimal | None) -> Decimal | None:
        """What the cache saved on a reply, below 0 what it cost, in USD; None where unknown."""
        usage = reply.usage
        if usage is None or not (usage.cache_read_tokens or usage.cache_write_tokens):
            return Decimal(0)
        without = self._price(usage.uncached())
        return None if without is None or cost is None else without - cost

    def _price(self, usage: Usage) -> Decimal | None:
        chunk, prices = self.chunk, self.prices
        terms, realtime = self.terms, chunk.realtime
        return prices.cost(chunk.provider, chunk.model, usage, terms, realtime=realtime)

    def _blank(self, job: Context, cost: Decimal | None, custom_id: str) -> dict[str, Any]:
        usd = None if cost is None else float(cost)
        row = blank_row(job, self.chunk.provider, self.chunk.model)
        row["cost_usd"] = usd
        row["batch_id"] = self.batch_id
        attempt = Attempt(self.chunk.round, self.batch_id, cost_usd=usd, custom_id=custom_id)
        row["attempts_json"] = _json_text([attempt])
        return row

    def _failed(
        self, row: dict[str, Any], code: str, error: str, status: str = "failed"
    ) -> dict[str, Any]:
        row["status"], row["error_code"], row["error"] = status, code, error
        (attempt,) = orjson.loads(row["attempts_json"])
        row["attempts_json"] = _json_text([{**attempt, "error_code": code, "error": error}])
        return row

    def _parse(
        self, reply: Reply, job: Context, row: dict[str, Any], body: bytes | None
    ) -> tuple[str, str] | None:
        """Fill the parsed parts of a row; what is wrong with them as (code, text)."""
        schema = None if job.answer_schema is None else self.schemas[job.answer_schema]
        if job.citations == "quoted":
            return _quoted(reply, job, row, schema, body)
        citations: list[Citation] | None = None
        if job.citations is not None:
            citations = _citations(reply.blocks, job, row, body)
        if schema is None:
            return None
        try:
            parsed = _parsed(reply, lambda text: parse_answer(text, schema))
        except ParseError as error:
            return None if _asks(reply) else _unread(reply, error)
        _fill(row, parsed, reply.blocks, citations)
        return None


def _quoted(
    reply: Reply,
    job: Context,
    row: dict[str, Any],
    schema: AnswerSchema | None,
    body: bytes | None,
) -> tuple[str, str] | None:
    """The same of an answer that came together with its quotes."""
    try:
        value, quotes = _parsed(reply, lambda text: read_quoted(text, schema))
    except ParseError as error:
        return None if _asks(reply) else _unread(reply, error)
    if isinstance(value, str):
        if not value.strip():
            return "empty_answer", "the answer is empty beside its quotes"
        # The form around a plain answer is ours; the user asked for the text.
        row["raw_response"] = value
    found = [TextBlock("", block.citations) for block in reply.blocks]
    citations = _citations((TextBlock("", quotes), *found), job, row, body)
    if not isinstance(value, str):
        _fill(row, value, (), citations)
    return None


def _citations(
    blocks: Sequence[TextBlock], job: Context, row: dict[str, Any], body: bytes | None
) -> list[Citation]:
    """The citations of an answer, compared with what its request holds."""
    citations = read_citations(blocks, job.sources)
    if citations and body is not None:
        verify(citations, held_in(body, job.sources))
    citations, row["citations_dropped"] = drop_unverified(citations)
    row["citations_json"] = dumps(citations)
    return citations


def _fill(
    row: dict[str, Any],
    parsed: Parsed,
    blocks: Sequence[TextBlock],
    citations: list[Citation] | None,
) -> None:
    row["parsed_response_json"] = parsed.json
    if citations:
        row["citation_mappings_json"] = dumps(map_citations(parsed.value, blocks, citations))


def _asks(reply: Reply) -> bool:
    """Whether the model calls a tool before it answers, or answers with other than text.

    To say that this is no JSON and to ask again would be paid again.
    """
    if not (reply.tool_calls or reply.items):
        return False
    return reply.stop_reason == "tool_use" or not reply.text.strip()


_T = TypeVar("_T")


def _parsed(reply: Reply, read: Callable[[str], _T]) -> _T:
    """An answer's form, which may stand behind remarks.

    That is behind the last work of a provider's tools, or as the last of several texts.
    """
    blocks, first = reply.blocks, None
    starts = dict.fromkeys((reply.final if reply.final < len(blocks) else 0, len(blocks) - 1, 0))
    for start in starts:
        try:
            return read("".join(block.text for block in blocks[max(start, 0) :]))
        except ParseError as error:
            first = first or error
    assert first is not None
    raise first


def _unread(reply: Reply, error: ParseError) -> tuple[str, str]:
    if is_cut(reply.stop_reason):
        return "truncated", f"{cut_words(reply.stop_reason)}; {error}"
    return error.code, str(error)


def _stop_fault(reply: Reply, job: Context) -> tuple[str, str] | None:
    """What is wrong with where an answer ends."""
    if reply.outcome != "succeeded":
        return None
    # JSON tells by itself whether it is whole, and some models stop right at the limit.
    has_form = job.answer_schema is not None or job.citations == "quoted"
    judged_later = has_form and not reply.tool_calls
    return unfinished(reply, accepts_cut=job.accept_truncated or judged_later)


def canceled(reason: str) -> tuple[str, str]:
    """Error code and error of a job whose batch was canceled before it was answered."""
    if reason == TIME_LIMIT:
        return "time_limit_exceeded", reason
    return "canceled", f"{reason}; it was not answered or billed before that"


def _fault(reply: Reply) -> tuple[str, str] | None:
    if reply.outcome != "succeeded":
        word = reply.error_code or reply.outcome
        told = reply.error or f"the provider answered {reply.outcome!r} without a reason"
        code = named(word, reply.status)
        return code, told if code == word else f"{word}: {told}"
    if reply.stop_reason == "refusal" or reply.error_code is not None:
        code = reply.error_code or "refusal"
        return code, reply.error or "the model refused to answer"
    if reply.embedding is not None or reply.text.strip():
        return None
    if reply.stop_reason == FULL:
        return "truncated", f"{cut_words(FULL)} before any answer was written"
    if is_cut(reply.stop_reason):
        eater = "thinking used up max_tokens" if reply.has_thinking else "max_tokens was used up"
        return "truncated", f"{eater} before any answer was written; give the job more max_tokens"
    if reply.stop_reason in ENDS and (fault := why_none(reply.tool_calls, reply.items)):
        code, told = fault
        return code, f"{told} (stop_reason {reply.stop_reason!r})"
    return None


_JSON_COLUMNS = (
    "citations",
    "citation_mappings",
    "metadata",
    "attempts",
    "tool_calls",
    "items",
    "fees",
)
"""Fields of open shape: JSON text in their column, so that every column has one type."""


def blank_row(job: Context, provider: str, model: str) -> dict[str, Any]:
    """A row of `results.jsonl` before anything is known of its answer.

    A row is flat, and each column has one type in every row. `answer_schema` is the digest by
    which a reader finds the class of the parsed answer.
    """
    return {
        "job_id": job.job_id,
        "status": "completed",
        "provider": provider,
        "model": model,
        "raw_response": None,
        "error_code": None,
        "error": None,
        "stop_reason": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "fees_json": "{}",
        "cost_usd": 0.0,
        "batch_id": None,
        "embedding": None,
        "answer_schema": job.answer_schema,
        "parsed_response_json": None,
        "citations_json": None,
        "citation_mappings_json": None,
        "citations_dropped": 0,
        "metadata_json": _json_text(job.metadata) if job.metadata else "{}",
        "tags": job.tags,
        "attempts_json": "[]",
        "tool_calls_json": None,
        "items_json": None,
    }


def from_row(row: Mapping[str, Any], schemas: Mapping[str, AnswerSchema]) -> JobResult:
    """The result of a row of `to_row`, its parsed answer as the class where that is known."""
    values: dict[str, Any] = {
        key: value for key, value in row.items() if key in JobResult.__dataclass_fields__
    }
    for name in _JSON_COLUMNS:
        text: str | None = row.get(f"{name}_json")
        values[name] = None if text is None else loads(text)
    values["metadata"] = values["metadata"] or {}
    values["fees"] = values["fees"] or {}
    result = JobResult.from_dict(values)
    if (text := row.get("parsed_response_json")) is not None:
        schema = schemas.get(row.get("answer_schema") or "")
        try:
            result.parsed_response = loads(text) if schema is None else made(text, schema)
        except Exception as error:
            # The class has changed since: that is this job's trouble, and others come behind it.
            result.status, result.error_code = "failed", "invalid_output"
            result.error = (
                f"the answer was read before, and its response model takes it no more: {error}. "
                "What the model said is in raw_response and in results.jsonl"
            )
    return result


def _json_text(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def merge_attempts(row: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a job's last attempt, with its earlier attempts and their cost in it."""
    attempts = earlier + orjson.loads(row["attempts_json"])
    costs = [attempt["cost_usd"] for attempt in attempts]
    known = None if any(cost is None for cost in costs) else sum(costs)
    return {**row, "attempts_json": _json_text(attempts), "cost_usd": known}
