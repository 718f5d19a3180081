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

from collections.abc import Sequence


class BatchataError(Exception):
    """Base of all errors of this package."""


class ValidationError(BatchataError):
    """The jobs or settings are wrong; nothing was sent and nothing was spent.

    Attributes:
        faults: Every fault found, one sentence each, in the order of the jobs.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults) or (message,)


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
