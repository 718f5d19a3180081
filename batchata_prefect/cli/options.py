"""What the commands can be told, each with its words for `--help`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Group, Parameter, Token

from batchata_prefect.errors import ValidationError
from batchata_prefect.results.remote import bring, is_url

QUIET = Parameter(name=["--quiet", "-q"], negative="", show_default=False)

JOBS = Group("The jobs", sort_key=1)
LIMITS = Group("Limits", sort_key=2)
SENDING = Group("How they are sent", sort_key=3)
PLACES = Group("Where things lie", sort_key=4)


def _brought(_type: object, tokens: Sequence[Token]) -> Path:
    """A results directory as a local one; what lies at a URL is fetched."""
    (token,) = tokens
    return bring(token.value) if is_url(token.value) else Path(token.value)


def named(_type: object, tokens: Sequence[Token]) -> Path | str:
    """A results directory by its name; nothing in it is needed."""
    (token,) = tokens
    return token.value if is_url(token.value) else Path(token.value)


_HELP = "Results directory of the run, or its URL."
ResultsDir: TypeAlias = Annotated[Path, Parameter(help=_HELP, converter=_brought)]
Place: TypeAlias = Annotated[Path | str, Parameter(help=_HELP, converter=named)]
MaybeResultsDir: TypeAlias = Annotated[Path | str | None, Parameter(help=_HELP, converter=named)]
RunKey: TypeAlias = Annotated[
    str | None, Parameter(help="Run key of the job set, where it was given one of its own.")
]
State: TypeAlias = Annotated[
    str | None,
    Parameter(help="Where its records are kept, as in set_state: a directory or type/name."),
]
WriteOff: TypeAlias = Annotated[
    str | None,
    Parameter(help="Id of a batch whose answers cannot be had; its number, where it has no id."),
]
Json: TypeAlias = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON for machines.")
]
Trust: TypeAlias = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        help="Read the files and import the classes that the results directory names, although "
        "somebody else wrote them there.",
    ),
]
JobsFile: TypeAlias = Annotated[
    str,
    Parameter(help="Jobs, one a row: .jsonl, .csv, .tsv or .parquet; a path or a URL."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of the model for each row."""

    model: Annotated[str | None, Parameter(name=["--model", "-m"], group=JOBS)] = None
    """Model id, such as claude-sonnet-5-5 or gpt-6-luna; see `batchata models`."""
    prompt: Annotated[str | None, Parameter(name=["--prompt", "-p"], group=JOBS)] = None
    """Prompt template: {column} stands for the row's value; @FILE reads it from a file. Without
    one each row is a job itself, with messages or prompt."""
    system: Annotated[str | None, Parameter(group=JOBS)] = None
    """System prompt; @FILE reads it from a file."""
    response_model: Annotated[str | None, Parameter(group=JOBS)] = None
    """What answers are parsed into: package.module:Class of a pydantic model, or the path of a
    JSON schema."""
    max_tokens: Annotated[int | None, Parameter(group=JOBS)] = None
    """Output tokens of one job at most, thinking included; 4,096 where none are given."""
    id_column: Annotated[str | None, Parameter(group=JOBS)] = None
    """Column with the job's id; `id` where there is one, else the id is made from the job."""
    file_column: Annotated[str | None, Parameter(group=JOBS)] = None
    """Column with the path or URL of the job's document, seen from the folder of the jobs file."""
    documents_root: Annotated[str | None, Parameter(group=JOBS)] = None
    """Folder in which the documents have to lie that rows name; that of the jobs file by default,
    `/` for any."""
    allow_urls: Annotated[
        tuple[str, ...],
        Parameter(name="--allow-url", group=JOBS, negative="", show_default=False),
    ] = ()
    """Host of URLs that rows may name, such as docs.example.com or *.example.com; none by default.
    May be given several times."""
    metadata_columns: Annotated[
        tuple[str, ...],
        Parameter(
            name="--metadata", group=JOBS, consume_multiple=True, negative="", show_default=False
        ),
    ] = ()
    """Columns that are given back with the result; never sent."""
    tags: Annotated[
        tuple[str, ...],
        Parameter(name="--tag", group=JOBS, negative="", show_default=False),
    ] = ()
    """Word under which the cost is added up; may be given several times."""
    citations: Annotated[Literal["provider", "quoted"] | None, Parameter(group=JOBS)] = None
    """Have answers cite the job's document: with the provider's own citations, or with quotes that
    are looked for in it."""
    cache_prefix: Annotated[bool, Parameter(group=JOBS, negative="", show_default=False)] = False
    """The jobs begin with the same system prompt or documents: hold them in the provider's
    cache."""
    accept_truncated: Annotated[bool, Parameter(group=JOBS, negative="", show_default=False)] = (
        False
    )
    """Take an answer that was cut off as it is; else it is failed with `truncated`."""
    provider: Annotated[str | None, Parameter(group=JOBS)] = None
    """Provider of a model id that does not tell it: anthropic or openai."""
    endpoint: Annotated[str | None, Parameter(group=JOBS)] = None
    """OpenAI's endpoint, such as /v1/responses."""
    params: Annotated[
        tuple[str, ...],
        Parameter(name="--param", group=JOBS, negative="", show_default=False),
    ] = ()
    """Further request parameter as name=value, the value as JSON or text; may be given several
    times."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ways:
    """How a run goes about it."""

    budget: Annotated[float | None, Parameter(name=["--budget", "-b"], group=LIMITS)] = None
    """USD that the run never passes, over all its restarts."""
    shared_budget: Annotated[str | None, Parameter(group=LIMITS)] = None
    """Name of a budget that runs share through the Prefect server; --budget is then that of all
    together."""
    time_limit: Annotated[str | None, Parameter(group=LIMITS)] = None
    """Time after the first start at which what is not answered is cancelled, such as 90m, 2h or
    1h30m; from 10s to 24h."""
    realtime: Annotated[float | None, Parameter(group=LIMITS)] = None
    """USD for which, a margin before the time limit, what is not answered yet goes through the
    realtime API at full price."""
    items_per_batch: Annotated[int, Parameter(group=SENDING)] = 10_000
    """Jobs in one provider batch at most."""
    max_parallel_batches: Annotated[int, Parameter(group=SENDING)] = 10
    """Provider batches in flight at once."""
    max_attempts: Annotated[int, Parameter(group=SENDING)] = 3
    """Times that one job is sent at most, when the provider fails it."""
    max_reasks: Annotated[int, Parameter(group=SENDING)] = 0
    """Times that a job is asked, and paid, again because its answer was cut off or not as asked."""
    canary: Annotated[float | None, Parameter(group=SENDING)] = None
    """Part of the jobs (0.01) or number of them (50) that are answered first; the others follow
    only if those answers are good enough."""
    min_valid: Annotated[float, Parameter(group=SENDING)] = 0.95
    """Part of the canary's answers that must be as asked."""
    detach: Annotated[bool, Parameter(group=SENDING, negative="", show_default=False)] = False
    """Let provider batches run on when the run is stopped, for the next one to collect."""
    sandbox: Annotated[bool, Parameter(group=SENDING, negative="", show_default=False)] = False
    """Send the jobs to a local server in place of the providers: no key, nothing to pay. Its
    answers are made up."""
    prices: Annotated[Path | None, Parameter(group=PLACES)] = None
    """JSON or TOML file of USD per million tokens in a batch, for models whose price is unknown."""
    run_key: Annotated[str | None, Parameter(group=PLACES)] = None
    """Identity under which the run resumes, in place of the results directory."""
    state: Annotated[str | None, Parameter(group=PLACES)] = None
    """Where the records are kept: a directory, or a Prefect storage block as type/name."""


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([hms])")


def seconds(text: str) -> float:
    """A duration such as `90m`, `2h` or `1h30m` in seconds.

    Raises:
        ValidationError: It is none.
    """
    if not _DURATION.fullmatch(text.strip().lower()):
        raise ValidationError(
            f"{text!r} is no duration; write hours, minutes and seconds such as 2h, 90m or 1h30m"
        )
    return sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text.strip().lower()))
