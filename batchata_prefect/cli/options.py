"""What the commands can be told, each with its words for `--help`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union, cast, get_args, get_origin

import orjson
from cyclopts import Group, Parameter, Token
from pydantic.fields import FieldInfo

from batchata_prefect.errors import OptionError, ValidationError
from batchata_prefect.options import (
    JOBS,
    LIMITS,
    PLACES,
    SENDING,
    FileOptions,
    flag_of,
    how,
    options,
    python,
)
from batchata_prefect.results.remote import bring, is_url

GROUPS = {
    name: Group(name, sort_key=number)
    for number, name in enumerate((JOBS, LIMITS, SENDING, PLACES), start=1)
}


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
_ONCE = Parameter(negative="", show_default=False)
Switch: TypeAlias = Annotated[bool, _ONCE]
Codes: TypeAlias = Annotated[tuple[str, ...], _ONCE]
Quiet: TypeAlias = Annotated[Switch, Parameter(name=["--quiet", "-q"])]
Json: TypeAlias = Annotated[Switch, Parameter(name="--json", help="Print JSON for machines.")]
Trust: TypeAlias = Annotated[
    Switch,
    Parameter(
        help="Read the files and import the classes that the results directory names, although "
        "somebody else wrote them there.",
    ),
]
JobsFile: TypeAlias = Annotated[
    str,
    Parameter(help="Jobs, one a row: .jsonl, .csv, .tsv or .parquet; a path or a URL."),
]


Sandboxed: TypeAlias = Annotated[
    Switch,
    Parameter(
        group=GROUPS[SENDING],
        help="Send the jobs to a local server in place of the providers: no key, nothing to pay. "
        "Its answers are made up.",
    ),
]

_BY_ITSELF = {"jobs", "results_dir"}
"""Options that each command has under its own words."""

_MORE: dict[str, dict[str, Any]] = {"metadata_columns": {"consume_multiple": True}}
_SAID = {
    "duration": " Such as 90m, 2h or 1h30m.",
    "pairs": " As name=value; may be given several times.",
    "text": " @FILE reads it from a file.",
    "schema": " Here also the path of a JSON schema.",
}


def flags(*names: str, change: bool = False) -> type[Any]:
    """The flags of options, as a class that a command takes as its argument.

    Args:
        *names: The options; all that a command can give where there are none.
        change: Whether they change what was given before, so that none has a default.
    """
    found: list[tuple[str, Any, Any]] = []
    for name, option in options().items():
        if name in _BY_ITSELF or (names and name not in names):
            continue
        kind, default, more = _flag(option)
        if change and kind != tuple[str, ...]:
            kind, default = kind | None, None
        told = Parameter(**_words(name, option), **more, **_MORE.get(name, {}))
        found.append((name, Annotated[kind, told], default))
    # Of the module that makes them, or the command line would take them for Python's own.
    own = {"__module__": __name__}
    made = make_dataclass("Flags", found, frozen=True, kw_only=True, namespace=own)
    return Parameter(name="*")(made)


def _words(name: str, option: FieldInfo) -> dict[str, Any]:
    """Names, heading and help of the flag of an option."""
    known = how(option)
    if "command" in known.refused:
        return {"name": flag_of(name), "show": False}
    said = _SAID.get(known.form, "")
    if get_origin(option.annotation) is tuple:
        said = " May be given several times."
    return {
        "name": [flag for flag in (flag_of(name), known.short) if flag],
        "group": GROUPS[known.group],
        "help": f"{option.description}{said}",
    }


def _flag(option: FieldInfo) -> tuple[Any, Any, dict[str, Any]]:
    """Type and default of the flag of an option, and what else the command line has to know."""
    form, default = how(option).form, option.get_default()
    once: dict[str, Any] = {"negative": "", "show_default": False}
    if form == "switch" or "command" in how(option).refused:
        return bool, False, once
    if form == "pairs":
        return tuple[str, ...], (), once
    if form in {"text", "schema", "prices"}:
        return str | None, None, {}
    if form == "duration":
        return str | None, None if default is None else _duration(default), {}
    kind = _plain(option.annotation)
    if kind is bool:
        return bool, default, {"show_default": False} if default else once
    if kind == tuple[str, ...]:
        return kind, (), once
    return kind, default, {}


def _duration(length: float) -> str:
    return f"{length / 3600:g}h" if length >= 3600 else f"{length:g}s"


def _plain(kind: Any) -> Any:
    """A type without its checks, as the command line reads it."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return Union[tuple(_plain(each) for each in get_args(kind))]  # noqa: UP007 - made here
    return float if kind is Decimal else kind


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([hms])")


def seconds(text: str) -> float:
    """A duration such as `90m`, `2h` or `1h30m` in seconds."""
    if not _DURATION.fullmatch(text.strip().lower()):
        raise ValidationError(
            f"{text!r} is no duration; write hours, minutes and seconds such as 2h, 90m or 1h30m"
        )
    return sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text.strip().lower()))


if TYPE_CHECKING:
    Flags: TypeAlias = object
else:
    Flags = flags()
    """All options, for a command that begins a run."""


def given(told: Any) -> dict[str, Any]:
    """What a command was told beside the defaults, as JSON has it."""
    if told is None:
        return {}
    for name, option in FileOptions.model_fields.items():
        known = how(option)
        if (why := known.refused.get("command")) is not None and getattr(told, name, False):
            raise ValidationError(f"{flag_of(name)}: {why}")
    return {
        each.name: list(cast("Any", value)) if isinstance(value, tuple) else value
        for each in fields(told)
        if (value := getattr(told, each.name)) != each.default
    }


def checked(told: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are checked and sent, from what a command was told."""
    return {name: _value(name, value) for name, value in told.items()}


def _value(name: str, value: Any) -> Any:
    form = how(FileOptions.model_fields[name]).form
    if form == "duration":
        return seconds(value) / (3600 if name.endswith("_hours") else 1)
    if form == "switch":
        return get_args(FileOptions.model_fields[name].annotation)[1]
    read = {"pairs": request_params, "text": prompt_text, "schema": schema_or_path}.get(form)
    return value if read is None else read(value)


def prompt_text(text: str) -> str:
    """The text itself, or the content of the file that `@` names."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise ValidationError(f"{text[1:]!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"{text[1:]!r} is not UTF-8 text; save it as UTF-8") from error


def schema_or_path(named: str) -> Any:
    """A JSON schema out of its file, or an import path, which also sees the current folder."""
    if named.endswith(".json"):
        try:
            return orjson.loads(Path(named).read_bytes())
        except OSError as error:
            raise ValidationError(f"{named!r} cannot be read: {error.strerror}") from error
        except orjson.JSONDecodeError as error:
            raise ValidationError(f"{named!r} is no JSON schema: {error}") from error
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return named


def request_params(given: Iterable[str]) -> dict[str, Any]:
    """Values from `name=value` texts, the values as JSON or text."""
    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValidationError(f"{item!r} must be name=value")
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[name] = value
    return found


def spoken(error: Exception | str, *, is_advice: bool = False) -> str:
    """A text for whoever gives options as flags, which it names as Python gives them."""
    text = _CALL.sub(_as_flag, str(error))
    is_of_options = is_advice or isinstance(error, OptionError)
    # The others are also fields of a row, which are called so there.
    names = [name for name, each in options().items() if is_of_options or how(each).group != JOBS]
    words = "|".join(sorted(names, key=len, reverse=True))

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        before = text[: found.start()].rstrip()
        is_a_name = value or "_" in name or not before or before.endswith(";")
        return _told_as(name, (value or "").removeprefix("=")) if is_a_name else found[0]

    return re.sub(
        rf"(?<![\w/.'\"-])({words})(=(?:'[^']*'|True|False|[\d.]*\d)?)?(?![\w/'\"-])", flag, text
    )


_CALL = re.compile(
    r"\b(Batch|run|set_state|set_default_params|add_rows|add_cost_limit|add_time_limit)"
    r"\((?:(\w+)=)?([^()]*)\)"
)


def _as_flag(found: re.Match[str]) -> str:
    """A call that gives an option, as its flag."""
    call, argument, value = found[1], found[2], found[3]
    for name in options():
        maker, _, rest = python(name).partition("(")
        arguments = [each.strip(" =)") for each in rest.split(",")]
        if call == maker and (argument is None or argument in arguments):
            return _told_as(name, value)
    return found[0]


def _told_as(name: str, value: str) -> str:
    """An option and its value as a command has them."""
    option = FileOptions.model_fields[name]
    known = how(option)
    if name == "results_dir" or "command" in known.refused:
        return "--out" if name == "results_dir" else "another --out"
    flag = flag_of(name)
    if value in {"", "True", "False"}:
        return flag
    if known.form in {"prices", "schema"}:
        return f"{flag} FILE"
    return f"{flag} {flag.rpartition('-')[2].upper()}" if value == "..." else f"{flag} {value}"
