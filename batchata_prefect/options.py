"""Every option of a run, described once: name, type, default, bounds, meaning, and how it is given.

The flags of the command, the fields of the block, the parameters of the deployed flow, the checks
of `Batch` and the table of the reference are made from the two models here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar, cast

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.fields import FieldInfo

from batchata_prefect.errors import OptionError, refusal
from batchata_prefect.jobs.spool.layout import MOST_ATTEMPTS
from batchata_prefect.models import OnBadRow
from batchata_prefect.numbers import (
    Checked,
    Count,
    NumberError,
    Seconds,
    Usd,
    number,
    number_field,
    whole_field,
)
from batchata_prefect.providers.accounts import blocks, tables

F = TypeVar("F", bound="Callable[..., Any]")

JOBS, LIMITS, SENDING, PLACES = "The jobs", "Limits", "How they are sent", "Where things lie"

Form: TypeAlias = Literal["value", "duration", "pairs", "text", "schema", "prices", "switch"]
Face: TypeAlias = Literal["python", "command", "block", "flow"]

ResultFormat: TypeAlias = Literal["jsonl", "json", "parquet"]
OnCancel: TypeAlias = Literal["collect", "detach"]
IfRunning: TypeAlias = Literal["wait", "fail"]
Wait: TypeAlias = Literal["poll", "suspend"]


@dataclass(frozen=True, slots=True, eq=False)
class How:
    """How an option is given.

    Attributes:
        group: Heading under which `--help` shows it.
        flag: Its flag, where that has not its name.
        short: One more flag.
        form: What the flag takes: the `value`; a `duration` such as 1h30m; `pairs` of name=value; a
            `text` or @FILE; the path of a `schema` or an import path; the path of `prices`; nothing
            for a `switch`.
        python: How Python gives it, where that is not `Batch(name=)`, or
            `set_default_params(name=)` for what is asked.
        refused: Where it cannot be given, and why.
    """

    group: str
    flag: str = ""
    short: str = ""
    form: Form = "value"
    python: str = ""
    refused: Mapping[Face, str] = field(default_factory=dict["Face", str])


def option(value: Any, *told: Any, **more: Any) -> Any:
    """A field with its default and how it is given, as arguments of `How`."""
    made: FieldInfo = Field(value)
    made.metadata.append(How(*told, **more))
    return made


def _canary(value: float) -> float:
    if value <= 0 or (value > 1 and value != int(value)):
        raise NumberError(
            f"canary is a part of the jobs, such as 0.01, or a number of them, not {value!r}"
        )
    return value


_SHORTEST_SECONDS = 10.0


def _time_limit(name: str, value: Any) -> float:
    hours = number(name, value)
    seconds = round(hours * 3600, 6)
    if not _SHORTEST_SECONDS <= seconds <= 24 * 3600:
        raise NumberError(
            f"the time limit must be between {_SHORTEST_SECONDS:g} seconds and 24 hours, "
            f"not {seconds:g} seconds"
        )
    return hours


_TIME_LIMIT = Checked(_time_limit, {}, {"type": "number", "minimum": 0, "maximum": 24})


def _table(value: Any) -> Any:
    return {} if value is None else value


Texts: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(lambda value: value or ())]
_TABLE = WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]})


class RunOptions(BaseModel):
    """How a run goes about its jobs: what `Batch` and `Batch.run` are told."""

    # Built at its first use: whoever imports `Batch` does not pay for all the others.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )

    cost_limit_usd: Usd | None = option(
        None, LIMITS, "--budget", "-b", python="add_cost_limit(usd=)"
    )
    """USD that the run never passes, over all its restarts."""
    shared_budget: str | None = option(None, LIMITS, python="Batch(budget=)")
    """Name of a budget, such as team-a-2026-11, that runs of any process share through the Prefect
    server; the cost limit of each is then that of all together."""
    time_limit_hours: Annotated[float, _TIME_LIMIT] | None = option(
        None, LIMITS, "--time-limit", form="duration", python="add_time_limit(hours=)"
    )
    """Time after the first start at which what is not answered is cancelled, from 10 seconds to 24
    hours."""
    realtime_limit_usd: Usd | None = option(
        None, LIMITS, "--realtime", python="add_time_limit(realtime_usd=)"
    )
    """USD for which, a margin before the time limit, what is not answered yet goes through the
    realtime API at full price, within the cost limit."""
    margin_seconds: Seconds | None = option(
        None, LIMITS, "--margin", form="duration", python="add_time_limit(margin_seconds=)"
    )
    """Time before the time limit at which jobs go over to the realtime API; a tenth of the limit by
    default, at least 60 seconds and at most half of it."""
    quota: Annotated[dict[str, Count], BeforeValidator(_table)] = option({}, LIMITS, form="pairs")
    """Input tokens of a model that may wait at the provider at once, by model id, where the account
    has such a limit; one that is not given is learnt when the provider turns a batch away."""
    items_per_batch: Count = option(10000, SENDING)
    """Jobs in one provider batch at most; the provider's own limits hold too."""
    max_parallel_batches: Count = option(10, SENDING)
    """Provider batches in flight at once."""
    tokens_per_batch: Count | None = option(None, SENDING)
    """Upper bound of input tokens in one provider batch."""
    max_attempts: Annotated[int, whole_field(1, MOST_ATTEMPTS)] = option(3, SENDING)
    """Times that one job is sent at most, when the provider fails it."""
    max_reasks: Annotated[int, whole_field()] = option(0, SENDING)
    """Times that one job is asked, and paid, again because its answer was cut off, was no JSON or
    did not fit its response model: with more output tokens, or with the answer and what was wrong
    with it. Each counts as an attempt."""
    canary: Annotated[float, number_field(), AfterValidator(_canary)] | None = option(
        None, SENDING, python="run(canary=)"
    )
    """Part of the jobs (0.01), or number of them (50), that are answered first, spread over all of
    them; the others follow only if those answers are good enough and the whole is projected to stay
    inside the cost limit."""
    min_valid: Annotated[float, number_field(0, 1)] = option(
        0.95, SENDING, python="run(min_valid=)"
    )
    """Part of the canary's answers that must be as asked."""
    approve: bool = option(False, SENDING, python="run(approve=)")
    """Whether, after the canary, the flow run pauses until a person says in the Prefect UI whether
    the others may follow."""
    upload_files: bool | None = option(None, SENDING)
    """Whether a PDF or image from 100 kB that several jobs share is uploaded to the provider once
    and deleted after the run; by default where that saves 20 MB or more."""
    on_cancel: OnCancel = option(
        "collect", SENDING, "--detach", form="switch", python="run(cancel=)"
    )
    """What becomes of the provider batches in flight when the run is stopped: collect cancels them
    and collects what they finished, detach leaves them running for the next run."""
    if_running: IfRunning = option("wait", SENDING, python="run(if_running=)")
    """Whether to wait or to fail while another process runs the same job set."""
    wait: Wait = option(
        "poll",
        SENDING,
        python="run(wait=)",
        refused={"block": "a block waits with the flow that has triggered it; use poll"},
    )
    """What a deployed run does while the providers work: poll waits in the worker's process,
    suspend ends the process until the collector deployment resumes the run."""
    task_retries: Annotated[int, whole_field(0, 50)] = option(2, SENDING)
    """Times that Prefect starts the task of a provider batch again when it crashed or ran out of
    time; the batch is taken up where it was, and not bought again."""
    task_retry_delay_seconds: Annotated[float, number_field(0, 600)] = option(
        10.0, SENDING, "--task-retry-delay", form="duration"
    )
    """Time before Prefect starts the task of a provider batch again, to 600 seconds; a run that is
    told to stop waits for it."""
    # A provider gives up after 24 h [both Batch API guides], and `Pace.overdue` later we do; the
    # rest is for queueing and download.
    task_timeout_seconds: Annotated[float, number_field(0.1)] = option(
        72 * 3600.0, SENDING, "--task-timeout", form="duration"
    )
    """Time after which Prefect ends an attempt of the task of a provider batch. The batch goes on
    at the provider and the next attempt takes it up; a time limit ends it."""
    task_tags: Texts = option((), SENDING, "--task-tag")
    """Tags of the task runs in Prefect, beside batchata and those of provider and model; Prefect's
    concurrency limits on them hold."""
    prices: Annotated[
        Any, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value), _TABLE
    ] = option(None, PLACES, form="prices")
    """USD per million tokens, as charged in a batch, for models whose price is unknown or other: a
    table by model id with input and output, and the same under realtime; or the path of a JSON or
    TOML file of it."""
    credentials: Annotated[dict[str, str], BeforeValidator(blocks)] = option(
        {}, PLACES, form="pairs"
    )
    """Provider and name of the Prefect credentials block with its key, in place of the keys in the
    environment."""
    accounts: Annotated[dict[str, dict[str, Any]], BeforeValidator(tables), _TABLE] = option(
        {}, PLACES, form="prices"
    )
    """Endpoints by a name of their own, which jobs give as provider: a table of kind (such as
    openai), base_url, api_key_env or credentials (where the key is, never the key) and options of
    the client; or the path of a JSON or TOML file of it."""
    raw_files: bool = option(True, PLACES)
    """Whether the request files are kept in raw_files/requests of the results; the provider's
    replies are what was paid for and are always kept."""
    result_format: ResultFormat = option("jsonl", PLACES)
    """jsonl for results.jsonl; besides, json writes one file a job, and parquet a
    results.parquet."""
    state: str | None = option(None, PLACES, python="set_state(file=)")
    """Where the records of the run are kept: a directory, or a Prefect storage block as type/name
    that all workers reach. By default Prefect's own result storage."""
    reuse_state: bool = option(
        True,
        PLACES,
        python="set_state(reuse_state=)",
        refused={
            "command": "the same command again would pay for all again; give another --out",
            "block": "each trigger would pay for all again; give another run key",
            "flow": "each retry of the flow run would pay for all again; give another run_key",
        },
    )
    """Whether to resume; else everything is sent and paid again."""

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.approve and self.canary is None:
            raise OptionError("approve=True needs a canary to approve of; give canary=")
        total, margin = self.time_limit_seconds, self.margin_seconds
        if self.realtime_limit_usd is not None and total is None:
            raise OptionError("a realtime limit is for the end of a time limit; give one as well")
        if total is not None and margin is not None and not 0 < margin < total:
            raise OptionError(
                f"the margin must lie inside the time limit, and {margin!r} s does not"
            )
        return self

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """The options that were told, checked.

        Raises:
            ValidationError: One of them is none, or makes no sense; nothing was sent.
        """
        try:
            return cls(**told)
        except pydantic.ValidationError as error:
            raise refusal(error) from None

    def but(self, **told: Any) -> Self:
        """The same but for what is told now, checked.

        Raises:
            ValidationError: One of them makes no sense; nothing was sent.
        """
        return self.of({**dict(self), **told})

    @property
    def told(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON has it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def time_limit_seconds(self) -> float | None:
        """Seconds from the first start to the deadline; None without one."""
        return None if self.time_limit_hours is None else round(self.time_limit_hours * 3600, 6)

    @property
    def on_deadline(self) -> Literal["fail", "realtime"]:
        """What becomes of the jobs that their batches would not answer in time."""
        return "fail" if self.realtime_limit_usd is None else "realtime"

    @property
    def margin(self) -> float:
        """Seconds before the deadline at which jobs go over to the realtime API."""
        total = self.time_limit_seconds or 0.0
        given = self.margin_seconds
        return min(max(60.0, total / 10), total / 2) if given is None else given


class FileOptions(RunOptions):
    """A run over the rows of a file: what is asked for each, and how the run goes about it."""

    jobs: str = option(..., JOBS, python="add_rows(source)")
    """Path or URL of the jobs: .jsonl, .csv, .tsv or .parquet, one job a row."""
    prompt: str | None = option(None, JOBS, short="-p", form="text", python="add_rows(prompt=)")
    """Prompt template: {column} stands for the row's value, {{ and }} for braces. Without one each
    row is a job itself, with messages or prompt."""
    model: str | None = option(None, JOBS, short="-m")
    """Model id of all jobs, such as claude-sonnet-5-5 or gpt-6-luna."""
    results_dir: str = option(
        "results/{run_key}", PLACES, "--out", "-o", python="Batch(results_dir)"
    )
    """Directory for the answers, or a URL such as s3://bucket/answers; {run_key} stands for the run
    key, so that every run has its own."""
    provider: str | None = option(None, JOBS)
    """Provider of a model id that does not tell it, such as anthropic or openai."""
    endpoint: str | None = option(None, JOBS)
    """OpenAI's endpoint, such as /v1/responses or /v1/embeddings."""
    system: str | None = option(None, JOBS, form="text")
    """System prompt of the jobs that bring none of their own."""
    max_tokens: Count | None = option(None, JOBS)
    """Output tokens of one job at most, thinking included; 4,096 where none are given."""
    response_model: Annotated[Any, _TABLE] = option(None, JOBS, form="schema")
    """What answers are parsed into: a JSON schema, or the import path of a pydantic model, such as
    my_package.models:Invoice."""
    citations: Literal["none", "provider", "quoted"] = option(
        "none", JOBS, python="set_default_params(citations=, enable_citations=)"
    )
    """Whether answers cite the job's document: provider with the provider's own citations, where it
    has them; quoted with quotes, on every provider, of which those that stand in no document are
    dropped and counted."""
    cache_prefix: bool = option(False, JOBS)
    """Whether the jobs begin with the same system prompt or documents, which are then held in the
    provider's cache."""
    accept_truncated: bool = option(False, JOBS)
    """Whether an answer that was cut off is taken as it is; else it is failed with truncated."""
    tags: Texts = option((), JOBS, "--tag")
    """Words under which the cost is added up; never sent."""
    params: Annotated[dict[str, Any], BeforeValidator(_table)] = option(
        {}, JOBS, "--param", form="pairs", python="set_default_params(...)"
    )
    """Further request parameters of all jobs."""
    id_column: str | None = option(None, JOBS, python="add_rows(id_column=)")
    """Column with the id of the job; the column id by default, where there is one, else the id is
    made from the job."""
    file_column: str | None = option(None, JOBS, python="add_rows(file_column=)")
    """Column with the path or URL of the job's document; a relative path counts from the folder of
    the jobs file."""
    metadata_columns: Texts = option((), JOBS, "--metadata", python="add_rows(metadata_columns=)")
    """Columns that are given back with the result; never sent."""
    documents_root: str | None = option(None, JOBS, python="add_rows(documents_root=)")
    """Folder in which the documents have to lie that rows name; that of the jobs file by default, /
    for any."""
    allow_urls: Texts = option((), JOBS, "--allow-url", python="add_rows(allow_urls=)")
    """Hosts of URLs that rows may name, such as docs.example.com or *.example.com; none by
    default."""
    on_bad_row: OnBadRow = option(
        "fail", JOBS, "--skip-bad-rows", form="switch", python="add_rows(on_bad_row=)"
    )
    """What becomes of rows that make no job, such as of an empty cell, a missing document or a line
    that is no JSON: fail refuses the file before anything is sent; with skip they end as failed
    with invalid_row, cost nothing, and the others run."""
    run_key: str | None = option(
        None, PLACES, refused={"block": "each run has its own, which is given to trigger(run_key=)"}
    )
    """Identity under which the run resumes: that of the results directory by default, and that of
    the flow run in a deployed flow, so that Retry goes on where it stopped."""


for _option in (*RunOptions.model_fields.values(), *FileOptions.model_fields.values()):
    _option.description = " ".join((_option.description or "").split())


def how(option: FieldInfo) -> How:
    """How an option is given."""
    return next(each for each in option.metadata if isinstance(each, How))


def python(name: str) -> str:
    """How Python gives an option, such as `Batch(prices=)`."""
    known = how(FileOptions.model_fields[name])
    usual = "set_default_params" if known.group == JOBS else "Batch"
    return known.python or f"{usual}({name}=)"


def flag_of(name: str) -> str:
    """The flag of an option, such as `--prices`."""
    return how(FileOptions.model_fields[name]).flag or "--" + name.replace("_", "-")


def arguments(told: FileOptions, call: str) -> dict[str, Any]:
    """Those of the options that Python gives to a call, each by its name."""
    names = FileOptions.model_fields
    return {name: getattr(told, name) for name in names if python(name) == f"{call}({name}=)"}


def options(face: Face | None = None) -> dict[str, FieldInfo]:
    """All options, what everybody needs first; or those that can be given at one place."""
    fields = FileOptions.model_fields
    own = {name: fields[name] for name in FileOptions.__annotations__}
    return {
        name: option
        for name, option in (own | fields).items()
        if face is None or face not in how(option).refused
    }


def annotation(option: FieldInfo) -> Any:
    """Type, bounds and checks of an option."""
    rest = tuple(each for each in option.metadata if not isinstance(each, How))
    return Annotated[(option.annotation, *rest)] if rest else option.annotation


def described(text: str | None, names: Iterable[str]) -> str | None:
    """A docstring with a line for each of these options in the place of `**options`."""

    def lines(found: re.Match[str]) -> str:
        told = {name: FileOptions.model_fields[name].description for name in names}
        return "".join(f"{found[1]}{name}: {text}\n" for name, text in told.items()) + found[0]

    return text and re.sub(r"^( +)\*\*options:.*\n", lines, text, flags=re.MULTILINE)


def takes(face: Face, /, **types: Any) -> Callable[[F], F]:
    """Give a function of `**options` the options of one place as its parameters, described.

    Args:
        face: The place.
        **types: Other types of some of them.
    """

    def signed(function: F) -> F:
        signature = inspect.signature(function)
        keep = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(
                name,
                keep,
                default=inspect.Parameter.empty if option.is_required() else option.get_default(),
                annotation=types.get(name, annotation(option)),
            )
            for name, option in options(face).items()
        ]
        cast("Any", function).__signature__ = signature.replace(
            parameters=parameters, return_annotation=inspect.Signature.empty
        )
        function.__doc__ = described(function.__doc__, options(face))
        return function

    return signed
