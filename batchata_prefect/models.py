"""What goes out: jobs, requests, chunks and the batches that providers make of them.

Plain and frozen, free of Prefect and of SDK types; what comes back is in `answers`.

Those that are made for every single job are named tuples, which cost a third of a data class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from batchata_prefect.errors import ValidationError
from batchata_prefect.numbers import counted

Message: TypeAlias = dict[str, Any]
"""One chat message, `{"role": ..., "content": ...}`; content is text or a list of blocks."""

FileInput: TypeAlias = "str | Path | bytes | Sequence[str | Path | bytes]"
"""A path, a URL, the bytes themselves, or several of these."""

ResponseModel: TypeAlias = "type[Any] | dict[str, Any] | str"
"""A pydantic class, dataclass or TypedDict, the import path `module:Class` of one, or a JSON
schema."""

OnBadRow: TypeAlias = Literal["fail", "skip"]
"""What becomes of rows that make no job: the whole file is refused, or they alone fail."""

Citing: TypeAlias = Literal["native", "quoted"]
"""How an answer cites: with the provider's citations, or with quotes asked for in the schema."""

_LONGEST_ORDINAL = 12
"""Digits of a place in a chunk; Python takes a second for a number of many thousand digits."""

DEFAULT_MAX_TOKENS = 4096
"""Output tokens a job may use when neither it nor the defaults say; thinking counts against it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the user asks for: one prompt to one model.

    Give either `messages`, or `prompt` with or without `file`.

    Attributes:
        id: The job's own name, unique in a batch; given back on its result.
        model: Model id as the provider spells it.
        messages: Chat messages.
        file: Document(s) that the prompt is about.
        prompt: The prompt, alone or with `file`.
        temperature: Sampling temperature, where the model still takes one.
        max_tokens: Upper bound of output tokens, thinking included.
        response_model: What the answer is parsed into.
        enable_citations: Whether the answer shall cite its documents.
        citations: `quoted` asks for quotes in place of the provider's own citations; they are
            compared with the documents, and those found in none are dropped.
        cache_prefix: Whether the system prompt and the documents are shared with other jobs, and
            are to be held in the provider's cache.
        accept_truncated: Whether an answer that was cut off, at `max_tokens` or where the context
            window was full, is taken as it is; one that has to be parsed must be whole even so.
        provider: Provider name, for model ids that no name pattern matches.
        endpoint: Endpoint path at the provider, such as `/v1/responses`; None takes the usual one.
        metadata: The user's own values, given back on the result; never sent to a provider.
        tags: Words under which the job's cost is added up; never sent to a provider.
        params: Further request parameters, sent as they are.
        defaulted: Names of those parameters that come only from the batch's defaults.
    """

    id: str
    model: str
    messages: Sequence[Message] | None = None
    file: FileInput | None = None
    prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    response_model: ResponseModel | None = None
    enable_citations: bool = False
    citations: Literal["quoted"] | None = None
    cache_prefix: bool = False
    accept_truncated: bool = False
    provider: str | None = None
    endpoint: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: Sequence[str] = ()
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    defaulted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a job that asks for nothing, or for two things at once.

        Raises:
            ValidationError: Neither messages nor prompt, both, a file without a prompt, an
                unknown form of citations, or tags that are no words.
        """
        if self.citations not in {None, "quoted"}:
            raise ValidationError(
                f"job {self.id!r}: citations is 'quoted' or left out, not {self.citations!r}; the "
                "provider's own citations are asked for with enable_citations=True"
            )
        if isinstance(self.tags, str) or not all(
            isinstance(tag, str) and tag.strip()  # pyright: ignore[reportUnnecessaryIsInstance]
            for tag in self.tags
        ):
            raise ValidationError(
                f"job {self.id!r}: tags is a list of words that are not empty, not {self.tags!r}"
            )
        if not isinstance(self.accept_truncated, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValidationError(
                f"job {self.id!r}: accept_truncated is true or false, not {self.accept_truncated!r}"
            )
        if self.messages and (self.file is not None or self.prompt):
            raise ValidationError(f"job {self.id!r}: give either messages, or prompt and file")
        if self.file is not None and not self.prompt:
            raise ValidationError(f"job {self.id!r}: a file needs a prompt that says what to do")
        if not self.messages and not self.prompt:
            raise ValidationError(f"job {self.id!r}: give messages or a prompt; both are empty")

    @property
    def citing(self) -> Citing | None:
        """How the answer shall cite its documents; None where it shall not."""
        return self.citations or ("native" if self.enable_citations else None)

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON-ready values; a response model becomes its name, bytes their length."""
        model = self.response_model
        return {
            **{name: getattr(self, name) for name in self._told()},
            "messages": list(self.messages) if self.messages else None,
            "file": _file_name(self.file),
            "response_model": model.__name__ if isinstance(model, type) else model,
            "metadata": dict(self.metadata),
            "tags": list(self.tags),
            "params": dict(self.params),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """A job from `to_dict` values or from one line of a job file.

        Raises:
            ValidationError: The values do not make a job.
        """
        unknown = sorted(set(data).difference(cls._told()))
        if unknown:
            raise ValidationError(f"job {data.get('id')!r}: unknown fields {unknown}")
        values = {key: value for key, value in data.items() if value is not None}
        return cls(**values)

    @classmethod
    def _told(cls) -> list[str]:
        """What a user tells of it."""
        return [name for name in cls.__dataclass_fields__ if name != "defaulted"]


def _file_name(file: FileInput | None) -> Any:
    if file is None:
        return None
    if isinstance(file, bytes):
        return f"<{len(file)} bytes>"
    if isinstance(file, (str, Path)):
        return str(file)
    return [_file_name(item) for item in file]


class Terms(NamedTuple):
    """What a request asks for that is billed in another way than its tokens at the usual rate.

    Attributes:
        uses: Fees, and how many of them together there can be at most; None for no bound.
        free: Fees that cost nothing beside what else the request asks for.
        tier: Service tier that it asks for; None for the usual one.
        region: Region that it asks for; None for any.
    """

    uses: tuple[tuple[tuple[str, ...], int | None], ...] = ()
    free: tuple[str, ...] = ()
    tier: str | None = None
    region: str | None = None


USUAL = Terms()
"""The terms of nearly all requests."""


class Estimate(NamedTuple):
    """Token counts of a request before it is sent.

    Attributes:
        input_tokens: Likely input tokens.
        input_bound: Input tokens it will not pass.
        output_bound: Output tokens it cannot pass, thinking included.
    """

    input_tokens: int
    input_bound: int
    output_bound: int


class Request(NamedTuple):
    """A job as one provider takes it.

    Attributes:
        provider: Name of the provider.
        endpoint: Endpoint path, such as `/v1/messages`.
        model: Model id.
        body: Exact JSON bytes of the request, without custom_id.
        estimate: Its tokens.
        left_out: Default parameters that this model does not take and that were left out.
        sources: Titles of the documents in the request, in the order of their document index.
        prefix: Digest of what it shares with others, where it is to be held in the cache.
        files: Digest and bytes of each large file in it.
        terms: How it is billed beside its tokens.
    """

    provider: str
    endpoint: str
    model: str
    body: bytes
    estimate: Estimate
    left_out: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    prefix: str | None = None
    files: tuple[tuple[str, int], ...] = ()
    terms: Terms = USUAL


@dataclass(frozen=True, slots=True)
class Chunk:
    """Requests that are sent together as one provider batch.

    Attributes:
        sequence: Place in the run's ledger, from 0.
        round: The attempt that the chunk belongs to, from 0.
        token: Hex digest that identifies the chunk; its head is in every custom_id.
        provider: Name of the provider.
        endpoint: Endpoint path of all its requests.
        model: Model id of all its requests.
        count: Number of requests.
        size_bytes: Bytes on the wire.
        input_tokens: Upper bound of input tokens.
        output_tokens: Upper bound of output tokens.
        reserved_usd: Upper bound of what it can cost; None where the price is unknown.
        correction: How many times the reckoned bound that is, after what was seen of the model.
        realtime: Whether its requests go one by one through the realtime API, at its price.
    """

    sequence: int
    round: int
    token: str
    provider: str
    endpoint: str
    model: str
    count: int
    size_bytes: int
    input_tokens: int
    output_tokens: int
    reserved_usd: Decimal | None
    correction: float = 1.0
    realtime: bool = False

    @property
    def name(self) -> str:
        """What a person calls it, such as `anthropic claude-sonnet-5-5 #3, 1,000 jobs`."""
        how = ", realtime" if self.realtime else ""
        return (
            f"{self.provider} {self.model} #{self.sequence + 1}, {counted(self.count, 'job')}{how}"
        )

    @property
    def head(self) -> str:
        """The part of the token that every custom_id starts with."""
        return self.token[:16]

    def custom_id(self, ordinal: int) -> str:
        """The custom_id of the request at `ordinal`, at most 64 of `[a-zA-Z0-9_-]`."""
        return f"{self.head}-{ordinal}"

    def ordinal(self, custom_id: str) -> int | None:
        """Place of the request that a custom_id names; None where it is not of this chunk."""
        tail = custom_id[17:]
        if custom_id[:16] != self.token[:16] or custom_id[16:17] != "-":
            return None
        if not tail.isdecimal() or len(tail) > _LONGEST_ORDINAL:
            return None
        ordinal = int(tail)
        return ordinal if ordinal < self.count else None


BatchState: TypeAlias = Literal["in_progress", "canceling", "ended"]
EndingKind: TypeAlias = Literal["ended", "expired", "canceled", "failed"]


@dataclass(frozen=True, slots=True)
class BatchFault:
    """One reason why a provider refused a batch as a whole.

    Attributes:
        code: The provider's code, such as `token_limit_exceeded`.
        message: The provider's text.
        line: Line of the request file, from 1, where the provider names one.
        param: Field of that line, where the provider names one.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None


_CLOSING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """What a provider says of a batch.

    Attributes:
        batch_id: The provider's id.
        state: Where it stands; a status we do not know counts as in_progress.
        raw_status: The provider's own word.
        ending: How it ended; None while it runs.
        total: Number of requests that the provider counts; None where it does not say.
        succeeded: Requests answered so far, where the provider says; no promise.
        failed: Requests errored, canceled or expired so far, where the provider says; no promise.
        created_at: Time of creation.
        expires_at: Time after which the provider gives up.
        ended_at: Time of the end.
        faults: Why the provider refused the whole batch.
        output_file_id: OpenAI's file of answers.
        error_file_id: OpenAI's file of errors.
        input_file_id: OpenAI's file of requests.
    """

    batch_id: str
    state: BatchState
    raw_status: str
    ending: EndingKind | None = None
    total: int | None = None
    succeeded: int = 0
    failed: int = 0
    created_at: datetime | None = None
    expires_at: datetime | None = None
    ended_at: datetime | None = None
    faults: tuple[BatchFault, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    input_file_id: str | None = None

    def seconds_overdue(self, now: datetime) -> float:
        """Seconds since it expired without having ended; 0 where it has ended, or has time left."""
        if self.expires_at is None or self.state == "ended":
            return 0.0
        return max(0.0, (now - self.expires_at).total_seconds())

    def is_overdue(self, now: datetime) -> bool:
        """Whether its provider should have ended it for a while: to close one takes some time."""
        return self.seconds_overdue(now) > _CLOSING_SECONDS


@cache
def package() -> str:
    """Name and version of this package: another one may read more out of the same reply."""
    return f"batchata-prefect {version('batchata-prefect')}"
