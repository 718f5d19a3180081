"""The errors that this package raises.

```
BatchataError
├── ValidationError            the jobs or the settings are wrong; nothing was sent or spent
├── ProviderError              a provider, its key or its answer
│   ├── ProviderNotFoundError  no provider is known for a model
│   ├── MissingCredentialsError  the provider is known, its API key is not set
│   └── BatchSubmissionError   a provider batch could not be created
├── CostLimitExceededError     what was asked for cannot be done inside the cost limit
├── StateError                 the persisted records of a run cannot be read, written or trusted
└── ParseError                 an answer does not hold what was asked for
```

A job that fails does not raise: its `JobResult` carries the error. These are raised for what
stops a whole run, or for what a person can mend before anything is paid.
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from pydantic import ValidationError as PydanticError

OBEYED = re.compile(
    # C0 but for tab and line feed, DEL and C1: titles, colors, links, the clipboard, the bell.
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Marks that have text read in another order than it stands in.
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    # Halves of a pair, which no terminal can be sent.
    r"\ud800-\udfff]"
)
"""What a terminal obeys."""


def printable(text: str) -> str:
    """A text without what a terminal obeys; tabs and line feeds stay."""
    return OBEYED.sub("", text)


_OURS = str(Path(__file__).parent)


def printable_log(record: logging.LogRecord) -> bool:
    """A filter for loggers: what this package logs, without what a terminal obeys."""
    if record.pathname.startswith(_OURS):
        said = record.getMessage()
        if (shown := printable(said)) != said:
            record.msg, record.args = shown, ()
    return True


for _name in ("batchata_prefect", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(printable_log)


class BatchataError(Exception):
    """Base of all errors of this package.

    Their texts are for a person: they hold nothing that a terminal obeys, whatever they quote.
    """

    def __init__(self, message: str = "", *rest: object) -> None:
        super().__init__(printable(message), *rest)


class ValidationError(BatchataError, ValueError):
    """The jobs or settings are wrong; nothing was sent and nothing was spent.

    Attributes:
        faults: Every fault found, one sentence each, in the order of the jobs.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults) or (message,)


class OptionError(ValidationError):
    """An option that makes no sense where it stands; nothing was sent."""


class ProviderError(BatchataError):
    """A provider refused, failed or answered something that cannot be used."""


class ProviderNotFoundError(ProviderError):
    """No provider is known for a model id."""


class MissingCredentialsError(ProviderError):
    """The provider is known, but no API key for it is set."""


class BatchSubmissionError(ProviderError):
    """A provider batch could not be created; the message says what was and was not spent."""


class CostLimitExceededError(BatchataError):
    """What was asked for cannot be done inside the cost limit."""


class StateError(BatchataError):
    """The persisted records of a run cannot be read, written or trusted."""


class ParseError(BatchataError):
    """An answer does not hold what was asked for.

    Attributes:
        code: Stable `error_code` for the job's result, such as `invalid_json` or `invalid_output`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


_SHORTEST_SECRET = 6
"""Letters; a shorter word is in too many texts to be taken out of all of them."""

_FORMS = re.compile(
    r"\b(?:sk|sess|rk)-[\w*.\-]{3,}|\bBearer [\w*.~+/=\-]+|(?<=key provided: )\S+"
    r"|(?<=://)[^\s/@]+(?=@)"
)
"""What keys look like, also shortened ones, as OpenAI's 401 quotes the key that it refuses; and the
user and password in a URL."""

_secrets: dict[str, None] = {}


def keep_secret(*secrets: str) -> None:
    """Have these words taken out of all errors and logs of this process from here on.

    Args:
        secrets: Keys, or URLs with a user and password.
    """
    for secret in secrets:
        words = [secret]
        if "://" in secret:
            parts = urlsplit(secret)
            login, at, _ = parts.netloc.rpartition("@")
            password = login.partition(":")[2]
            # The way in which it goes over the wire as Basic authorization.
            pair = b64encode(unquote(login).encode()).decode() if at else ""
            words = [password, unquote(password), pair]
        for word in words:
            for form in (word, quote(word, safe="")):
                if len(form) >= _SHORTEST_SECRET:
                    _secrets[form] = None


@overload
def blanked(text: str) -> str: ...
@overload
def blanked(text: None) -> None: ...
def blanked(text: str | None) -> str | None:
    """A text without the keys of this process, and without all that looks like one."""
    if text is None:
        return None
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "[key]")
    return _FORMS.sub("[key]", text)


def one_line(error: BaseException) -> str:
    """An error's text on one line of at most 300 letters, without keys."""
    text = blanked(" ".join(printable(str(error)).split())) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def refusal(error: PydanticError) -> ValidationError:
    """The faults that pydantic found in the options, in our words."""
    faults, kind = list[str](), cast("type[ValidationError]", OptionError)
    for each in error.errors(include_url=False):
        cause = each.get("ctx", {}).get("error")
        name, *inner = map(str, each["loc"] or ("the options",))
        if isinstance(cause, ValidationError):
            kind = type(cause)
            faults.append(f"{name}[{inner[0]!r}]: {cause}" if inner else str(cause))
        elif each["type"] == "extra_forbidden":
            faults.append(f"there is no option {name!r}")
        elif each["type"] == "literal_error":
            expected = each.get("ctx", {}).get("expected")
            faults.append(f"{name} must be {expected}, not {each['input']!r:.60}")
        else:
            faults.append(f"{name}: {each['msg']}, not {each['input']!r:.60}")
    return kind("; ".join(faults), faults)
