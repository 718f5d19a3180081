"""Which call an HTTP request is, and what every handler is given."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from starlette.requests import Request

from .engine import Engine
from .faults import Fault, Faults
from .limits import Limits
from .store import Store
from .wire import Json, Reply, is_object


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of a running sandbox that handlers use. `url` is its address."""

    store: Store
    engine: Engine
    faults: Faults
    limits: Limits
    url: str


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call: the request, the id in its path, and the fault that bends it, if any."""

    context: Context
    request: Request
    target: str
    fault: Fault | None = None

    def bent(self, mode: str) -> Fault | None:
        """The call's fault, where it is of this mode."""
        return self.fault if self.fault is not None and self.fault.mode == mode else None


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and path of a provider, the operation's name and its handler."""

    method: str
    path: re.Pattern[str]
    operation: str
    handler: Handler


def route(method: str, path: str, operation: str, handler: Handler) -> Route:
    """A route; `{id}` in the path is the call's target."""
    pattern = re.escape(path).replace(r"\{id\}", r"([^/]+)")
    return Route(method, re.compile(f"^{pattern}$"), operation, handler)


def find_route(routes: list[Route], method: str, path: str) -> tuple[Route, str] | None:
    """The route of a request and its target."""
    for each in routes:
        if each.method == method and (match := each.path.match(path)):
            return each, match[1] if match.lastindex else ""
    return None


class NotAnObjectError(Exception):
    """A body that is no JSON object; the text says why."""


async def read_object(request: Request) -> Json:
    """The JSON object in a request's body.

    Raises:
        NotAnObjectError: where there is none.
    """
    try:
        value = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise NotAnObjectError(str(error)) from error
    if not is_object(value):
        raise NotAnObjectError("expected an object")
    return value
