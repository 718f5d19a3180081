"""What comes back: replies, what they were billed for, and the results that a user reads.

Those that are made for every single job are named tuples, which cost a third of a data class.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from batchata_prefect.files import whole_file

JobStatus: TypeAlias = Literal["completed", "failed", "cancelled"]
_UNTOLD = cast("JobStatus", None)


class Pass(NamedTuple):
    """One pass of a model over a request that is billed apart from the others.

    Such are the summary of a conversation that grew too long, a second model that advises the
    first one, and each turn of a loop of server tools.

    Attributes:
        model: Model id at whose price it is billed; None for the request's own.
        input_tokens: As in `Usage`, of this pass.
        output_tokens: The same.
        cache_read_tokens: The same.
        cache_write_tokens: The same.
        cache_write_1h_tokens: The same.
    """

    model: str | None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0


class Usage(NamedTuple):
    """What one answer was billed for, with one definition for all providers.

    Attributes:
        input_tokens: All input, cached and cache-written tokens included, of all passes.
        output_tokens: All output, thinking included.
        cache_read_tokens: Part of the input that was read from a cache.
        cache_write_tokens: Part of the input that was written to a cache, of any lifetime.
        cache_write_1h_tokens: Part of `cache_write_tokens` that was written for one hour.
        reasoning_tokens: Part of the output that was thinking.
        fees: What is billed beside tokens, and how many times: `web_searches`, `file_searches`,
            ..., each once, in the order of their names.
        passes: Parts of these tokens that are billed apart.
        tier: Service tier that the reply names; None for the usual one.
        region: Region that the reply names; None for any.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    fees: tuple[tuple[str, int], ...] = ()
    passes: tuple[Pass, ...] = ()
    tier: str | None = None
    region: str | None = None

    def less(self, part: Pass) -> Usage:
        """What is left of it without one of its passes."""
        return Usage(
            max(0, self.input_tokens - part.input_tokens),
            max(0, self.output_tokens - part.output_tokens),
            max(0, self.cache_read_tokens - part.cache_read_tokens),
            max(0, self.cache_write_tokens - part.cache_write_tokens),
            max(0, self.cache_write_1h_tokens - part.cache_write_1h_tokens),
        )

    def uncached(self) -> Usage:
        """The same tokens, none of them read from a cache or written to one."""
        return self._replace(
            cache_read_tokens=0,
            cache_write_tokens=0,
            cache_write_1h_tokens=0,
            passes=tuple(
                Pass(each.model, each.input_tokens, each.output_tokens) for each in self.passes
            ),
        )

    def plus(self, more: Usage, times: int = 1) -> Usage:
        """The sum with another one; of both passes, tiers and regions nothing is kept."""
        fees = dict(self.fees)
        for name, uses in more.fees:
            fees[name] = fees.get(name, 0) + uses * times
        return Usage(
            self.input_tokens + more.input_tokens * times,
            self.output_tokens + more.output_tokens * times,
            self.cache_read_tokens + more.cache_read_tokens * times,
            self.cache_write_tokens + more.cache_write_tokens * times,
            self.cache_write_1h_tokens + more.cache_write_1h_tokens * times,
            self.reasoning_tokens + more.reasoning_tokens * times,
            tuple(sorted(fees.items())),
        )


@dataclass(frozen=True, slots=True)
class EndedBatch:
    """A provider batch that has ended and been read, as `Batch.run(on_batch=...)` is told of it.

    Attributes:
        batch_id: The provider's id; None where the provider has refused it, or for a group of
            realtime requests.
        name: What a person calls it, such as `anthropic claude-sonnet-5-5 #3, 1,000 jobs`.
        provider: Name of the provider.
        model: Model id of all its jobs.
        ending: How it ended: ended, expired, canceled, failed or never_created.
        jobs: Number of its jobs.
        answered: Jobs that it answered.
        failed: Jobs that failed in it for good.
        cost_usd: What it cost in USD; None where the price is unknown.
        ended_at: Time of the end.
        reason: Why it failed or was canceled; None where there is nothing to say.

    The jobs that are neither answered nor failed are sent again in another batch, by this start or
    by the next.
    """

    batch_id: str | None
    name: str
    provider: str
    model: str
    ending: str
    jobs: int
    answered: int
    failed: int
    cost_usd: float | None
    ended_at: datetime
    reason: str | None = None


class TextBlock(NamedTuple):
    """One piece of an answer's text.

    Attributes:
        text: The text.
        citations: The provider's own citation objects of this piece, as they came.
    """

    text: str
    citations: tuple[Mapping[str, Any], ...] = ()


Outcome: TypeAlias = Literal["succeeded", "errored", "canceled", "expired"]


class Reply(NamedTuple):
    """One row of a provider's results, read leniently.

    Attributes:
        custom_id: The request it answers.
        outcome: What became of the request.
        blocks: The answer's text pieces in order, thinking left out.
        usage: Token counts; None where the row carries none.
        stop_reason: Why the model stopped, in Anthropic's words (`end_turn`, `max_tokens`,
            `stop_sequence`, `tool_use`, `refusal`, ...; `incomplete: WHY` of a response that is
            said to be it); None where there is no answer, or none is told.
        error_code: The provider's code of what went wrong, or `refusal`; None on success.
        error: The provider's text of what went wrong.
        embedding: The vector, from an embeddings endpoint.
        has_thinking: Whether the answer holds thinking, shown or not.
        tool_calls: The provider's own objects of the tools that the model calls.
        items: What the answer holds besides text and calls: the provider's own objects, without
            what only the provider can read.
        final: Index of the first block behind the last work of a provider's own tools: where the
            answer stands that all of it was for.
        status: HTTP status of a request that failed, 0 where it got no reply; None where the row
            does not tell.
    """

    custom_id: str
    outcome: Outcome
    blocks: tuple[TextBlock, ...] = ()
    usage: Usage | None = None
    stop_reason: str | None = None
    error_code: str | None = None
    error: str | None = None
    embedding: tuple[float, ...] | None = None
    has_thinking: bool = False
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    status: int | None = None
    items: tuple[Mapping[str, Any], ...] = ()
    final: int = 0

    @property
    def text(self) -> str:
        """The whole text of the answer."""
        return "".join(block.text for block in self.blocks)


def _json_ready(value: Any) -> Any:
    """The JSON form of an object of the user's class."""
    try:
        return to_jsonable_python(value, by_alias=True)
    except ValueError:
        # Bytes that are no text, and values of classes that pydantic does not know.
        plain = value.model_dump(by_alias=True) if isinstance(value, BaseModel) else value
        return to_jsonable_python(plain, by_alias=True, bytes_mode="base64", fallback=str)


@dataclass(slots=True)
class Citation:
    """A place in a document that supports an answer.

    Attributes:
        text: The cited text.
        source: Title of the document.
        page: Page where the cited text starts, from 1; None where there are no pages.
        metadata: Where exactly: kind, document index, character, page or block range; and as
            `verified` whether the text stands there, where we hold the document and it has text.
        confidence: How sure a mapping to a field is: high, medium or low.
        match_reason: Why it was mapped to the field.
    """

    text: str
    source: str
    page: int | None = None
    metadata: dict[str, Any] | None = None
    confidence: str | None = None
    match_reason: str | None = None


class FieldCitations(dict[str, list[Citation]]):
    """Field path -> citations; the name of a list or an object answers with all that is in it.

    Its keys are the paths that have citations, such as `key_points[0]`. `key_points` is none of
    them, and stands for the citations of all of its items.
    """

    def __missing__(self, field: str) -> list[Citation]:
        found: list[Citation] = []
        for path, citations in self.items():
            if path.startswith((f"{field}[", f"{field}.")):
                found += [each for each in citations if each not in found]
        if not found:
            raise KeyError(field)
        return found

    def __contains__(self, field: object) -> bool:
        return super().__contains__(field) or self.get(field) is not None

    def get(self, field: Any, default: Any = None) -> Any:
        """The citations of a field, or the default where it has none."""
        try:
            return self[field]
        except KeyError:
            return default


@dataclass(slots=True)
class ToolCall:
    """A tool that the model calls, or that the provider called for it.

    Attributes:
        id: By which a tool's result is handed back; None where the provider gives none.
        name: Name of the tool.
        arguments: What it is called with, as the model wrote it: JSON with all digits, the plain
            text of a custom tool, or JSON that is broken.
        type: The provider's word, such as `function`, `function_call`, `mcp_call` or `tool_use`.
    """

    id: str | None
    name: str
    arguments: str
    type: str


@dataclass(slots=True)
class Attempt:
    """One time that a job was sent.

    Attributes:
        round: The round it was sent in, from 0.
        batch_id: The provider batch; None where none was created.
        error_code: What went wrong; None where it was answered.
        error: The text of what went wrong.
        cost_usd: What it cost in USD; None where the price is unknown.
        custom_id: What it was called in the provider batch, and in `raw_files`; None where an
            earlier version wrote it down.
    """

    round: int
    batch_id: str | None = None
    error_code: str | None = None
    error: str | None = None
    cost_usd: float | None = None
    custom_id: str | None = None


@dataclass(slots=True)
class JobResult:
    """The answer to one job.

    Attributes:
        job_id: The job's own id.
        raw_response: The answer's text, kept also where it could not be parsed; of an answer
            that only calls tools, the calls as JSON. With `citations="quoted"` and a response model
            it holds the quotes besides; without a response model it is the answer alone.
        parsed_response: The answer as the job's response model, made by one validation of the
            JSON that the model gave; or a dict for a JSON schema.
        citations: Citations of the answer.
        citation_mappings: Field path of the parsed answer -> citations that support it; see
            `FieldCitations`.
        citations_dropped: Quotes that were dropped because they stand in no document.
        input_tokens: Input tokens, cached ones included.
        output_tokens: Output tokens, thinking included.
        cost_usd: What all attempts of the job cost in USD; None where the price is unknown.
        error: What went wrong, for a person.
        batch_id: Provider batch of the last attempt.
        status: completed, failed or cancelled; where none is given, an error means failed.
        error_code: What went wrong, for a program; stable.
        stop_reason: Why the model stopped.
        model: Model id.
        provider: Name of the provider.
        metadata: The user's own values from the job.
        tags: The job's tags.
        cache_read_tokens: Input tokens read from a cache.
        cache_write_tokens: Input tokens written to a cache.
        reasoning_tokens: Output tokens that were thinking.
        fees: What was billed beside tokens -> how many times, such as `{"web_searches": 3}`.
        attempts: Every time the job was sent, oldest first.
        embedding: The vector, from an embeddings endpoint.
        tool_calls: The tools that the model calls, also beside text.
        items: What else the answer holds, as the provider's objects: images, sounds, searches,
            shell calls, summaries of the thinking, logprobs and what is not known yet. Images and
            sounds are files; `path` tells where below the results directory.
    """

    job_id: str
    raw_response: str | None = None
    parsed_response: Any = None
    citations: list[Citation] | None = None
    citation_mappings: dict[str, list[Citation]] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    error: str | None = None
    batch_id: str | None = None
    status: JobStatus = _UNTOLD
    error_code: str | None = None
    stop_reason: str | None = None
    model: str | None = None
    provider: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    embedding: list[float] | None = None
    citations_dropped: int = 0
    tags: list[str] = field(default_factory=list[str])
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    items: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    fees: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        """Tell the status by the error where none is given."""
        self.status = self.status or ("failed" if self.error else "completed")

    @property
    def is_success(self) -> bool:
        """Whether the job was answered."""
        return self.status == "completed"

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a parsed model becomes its JSON form."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["parsed_response"] = _json_ready(self.parsed_response)
        if self.citations is not None:
            values["citations"] = [asdict(citation) for citation in self.citations]
        if self.citation_mappings is not None:
            values["citation_mappings"] = {
                path: [asdict(citation) for citation in citations]
                for path, citations in self.citation_mappings.items()
            }
        values["attempts"] = [asdict(attempt) for attempt in self.attempts]
        values["tool_calls"] = [asdict(call) for call in self.tool_calls]
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobResult:
        """A result from `to_dict` values, or from those of the original library.

        The original's files carry no status: there an error means failed.
        """
        known = cls.__dataclass_fields__
        values = {key: value for key, value in data.items() if key in known}
        if values.get("citations") is not None:
            values["citations"] = [Citation(**item) for item in values["citations"]]
        mappings = cast(
            "Mapping[str, list[dict[str, Any]]] | None", values.get("citation_mappings")
        )
        if mappings is not None:
            values["citation_mappings"] = FieldCitations(
                (path, [Citation(**item) for item in items]) for path, items in mappings.items()
            )
        values["attempts"] = [Attempt(**item) for item in values.get("attempts") or ()]
        values["tool_calls"] = [ToolCall(**item) for item in values.get("tool_calls") or ()]
        values["items"] = list(values.get("items") or ())
        return cls(**values)

    def save_to_json(self, filepath: str | os.PathLike[str], indent: int = 2) -> None:
        """Write the result to a file as one JSON object, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        told = json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)
        with whole_file(Path(filepath), synced=False) as file:
            file.write(told.encode())
