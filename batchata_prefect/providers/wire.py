"""Calls over an SDK's own client, for raw JSON and streams.

Both SDKs document `client.get` and `client.post` with `cast_to=httpx2.Response` [README,
"undocumented endpoints"]. They keep the SDK's keys, base URLs and retries, and leave out its
models, which refuse replies with words that they do not know.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Mapping,
)
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import orjson

from batchata_prefect.errors import MissingCredentialsError, ProviderError, blanked, keep_secret
from batchata_prefect.providers.accounts import Key
from batchata_prefect.providers.caps import ReplyTooLargeError, http_client, streaming
from batchata_prefect.providers.failures import classify, status_of
from batchata_prefect.providers.rows import too_many_values

RETRIES = 2
"""Times that the SDK repeats a call which costs nothing."""

PATIENCE_SECONDS = 120.0
"""Time for a small call with its retries: the SDKs sleep for as long as `Retry-After` says, which
in anthropic is without limit [anthropic/_base_client.py]."""

CREATE_SECONDS = 900.0
"""Time that a server may take to check a whole batch, or not to read on while it is sent."""

DOWNLOAD_SECONDS = 300.0
"""Silence that ends a download."""

UPLOAD_SECONDS = 7 * 24 * 3600
"""After this a stored document that nobody deleted ends by itself."""

_OLDEST_YEAR = 2020

_OF_ENVIRONMENT = ("organization", "project", "admin_api_key")
"""Attributes of an SDK's client that it reads from the environment by itself."""

_REFUSED = frozenset({"refused", "absent", "unseen"})
"""Kinds of failures that refuse a request for what it says."""


Guard: TypeAlias = Callable[[], Awaitable[None]]
"""Raises `failures.HeldBackError` where a call that costs money must not be sent any more."""

_guard: ContextVar[Guard | None] = ContextVar("_guard", default=None)

_heard: WeakKeyDictionary[Any, tuple[datetime, float]] = WeakKeyDictionary()
"""Client -> what the provider's clock said last, and our own steady clock at that moment."""


@contextmanager
def guarded(guard: Guard) -> Generator[None]:
    """Have the calls inside that cost money ask once more, right before their last bytes leave.

    Connections are made, files go up and retries wait between the decision to buy and that moment,
    and a process may be stopped at any of them.
    """
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


async def last_asked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body whose last piece is given only where the guard lets it."""
    held: bytes | None = None
    async for piece in pieces:
        if held is not None:
            yield held
        held = piece
    if (guard := _guard.get()) is not None:
        await guard()
    yield held or b""


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


def timeouts(seconds: float = 60.0) -> Any:
    """Timeouts of calls, with as long a silence where there is a large body in either direction."""
    import httpx2

    return httpx2.Timeout(seconds, connect=10.0, pool=60.0)


def check_keys(client: Any, **keys: Any) -> None:
    """Refuse keys that cannot stand in a header; the HTTP stack's own error would show them.

    From here on they are in no error, nor is the password of the base URL.

    Args:
        client: The SDK client.
        keys: Name of the variable that a key is usually set by -> the key.
    """
    given = {name: key for name, key in keys.items() if isinstance(key, str)}
    keep_secret(str(client.base_url), *given.values())
    for name, key in given.items():
        if not re.fullmatch(r"[!-~]*", key):
            raise MissingCredentialsError(
                f"{name} is set, but holds spaces, line breaks or letters that no key has; "
                "copy the key again"
            )


def sdk_client(
    kind: Any, http: Any, variable: str, key: Key | None, arguments: Mapping[str, Any] | None = None
) -> Any:
    """An SDK's client with our retries, timeouts and caps.

    Args:
        kind: The SDK's class of it.
        http: `DefaultAsyncHttpxClient` of the SDK.
        variable: Name of the variable that the SDK takes its base URL from.
        key: Credentials; those in the environment where there are none.
        arguments: Arguments of the client, in place of the credentials' own.
    """
    import httpx2

    if arguments is None:
        arguments = key.arguments() if key else {}
    capped = http_client(http)
    try:
        client = kind(max_retries=RETRIES, timeout=timeouts(), http_client=capped, **arguments)
    except httpx2.InvalidURL:
        raise MissingCredentialsError(
            f"{variable} or the base URL of the credentials block is no address that can be "
            "called. Nothing was sent; look at its host, port, user and password"
        ) from None
    if key is not None and key.is_alone:
        # OPENAI_ORG_ID, ..._PROJECT_ID, ..._ADMIN_KEY, and ..._CUSTOM_HEADERS of both SDKs, which
        # read them whatever arguments they are given.
        for name in _OF_ENVIRONMENT:
            if hasattr(client, name):
                setattr(client, name, arguments.get(name))
        client._custom_headers = {}
    return client


def base_url(client: Any) -> str:
    """Where the client's requests go, without user, password or query."""
    parts = urlsplit(str(client.base_url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


async def get(
    client: Any, path: str, key: str, params: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON object at a path; `key` is what it must at least hold, empty for nothing."""
    options = {"params": dict(params or {})}
    return read_object(await _call(client.get, path, options, PATIENCE_SECONDS), key)


async def post(client: Any, path: str) -> Any:
    """Post nothing once, without retries."""
    return await _call(client.post, path, {"max_retries": 0}, PATIENCE_SECONDS)


async def delete(client: Any, path: str, *, gone: Collection[int] = (404,)) -> None:
    """Delete what is at a path; nothing there, which these statuses say, is fine."""
    try:
        # What a deletion answers does not matter; some servers answer it with nothing.
        await _call(client.delete, path, {}, PATIENCE_SECONDS)
    except Exception as error:
        if status_of(error) not in gone:
            raise


async def buy(client: Any, path: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Post once what costs money, where the guard lets it, and read the reply."""
    content = orjson.dumps(body)
    # Not by the SDK: a create whose answer was lost may have made a batch, and again makes two.
    options = {"max_retries": 0, "headers": _json_headers(len(content))}
    sent = last_asked(_whole(content))
    return _made(await _call(client.post, path, options, PATIENCE_SECONDS, content=sent), key)


async def send(
    client: Any,
    path: str,
    key: str,
    *,
    headers: Mapping[str, str],
    **body: Any,
) -> dict[str, Any]:
    """Post a large body once, as `content=` or `files=`, and read the JSON object of the reply.

    Trying again is the caller's: the SDK would sleep as long as `Retry-After` says, unseen.
    """
    return _made(await _post(client, path, headers, **body), key)


async def ask(client: Any, path: str, key: str, body: bytes) -> tuple[bytes | None, int, Any]:
    """Send one realtime request, once.

    Returns:
        The JSON object of the answer as it came, on one line, and 200 and None; or None, and the
        status and error body of a refusal of the request itself.
    """
    try:
        content = last_asked(_whole(body))
        answer = _line(await _post(client, path, _json_headers(len(body)), content=content), key)
    except Exception as error:
        failure = classify(error)
        if failure.kind not in _REFUSED or not failure.billed_nothing:
            raise
        return None, failure.status or 400, getattr(error, "body", None)
    return answer, 200, None


def _json_headers(size: int) -> dict[str, str]:
    return {"Content-Type": "application/json", "Content-Length": str(size)}


async def _post(client: Any, path: str, headers: Mapping[str, str], **body: Any) -> Any:
    # As in `buy`: what may have been taken is looked for, and never just sent again.
    options = {"headers": headers, "max_retries": 0, "timeout": timeouts(CREATE_SECONDS)}
    return await _call(client.post, path, options, None, **body)


async def _call(
    method: Any, path: str, options: Mapping[str, Any], seconds: float | None, **more: Any
) -> Any:
    """The response to a call of an SDK's client, with its retries, within some seconds."""
    import httpx2

    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            response = await method(path, cast_to=httpx2.Response, options=options, **more)
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            raise TimeoutError(f"{path}: no answer within {seconds:.0f} s") from None
        _hear(method.__self__, getattr(error, "response", None))
        if isinstance(error.__cause__, ReplyTooLargeError):
            # The SDK says only that there was a connection error.
            raise error.__cause__ from None
        # Servers repeat the key that they refuse.
        error.args = cast("tuple[Any, ...]", _clean(error.args))
        for name in ("message", "body"):
            if (value := getattr(error, name, None)) is not None:
                setattr(error, name, _clean(value))
        raise
    _hear(method.__self__, response)
    return response


def _made(response: Any, key: str) -> dict[str, Any]:
    """What a reply says was made, which it has to name: else it is to be looked for."""
    data = read_object(response, key)
    if data[key] in (None, ""):
        raise ProviderError(f"the reply says that it was made, and its {key!r} is empty")
    return data


def _line(response: Any, key: str) -> bytes:
    """The JSON object of a response as one line, byte by byte as it came: it is paid for."""
    text: bytes = response.content.strip()
    # One that no parser takes is read, or refused by name, as any other row is.
    if not (text.startswith(b"{") and text.endswith(b"}") and b'"%b"' % key.encode() in text):
        read_object(response, key)
    # Inside of its strings JSON has no line ends.
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


def _hear(client: Any, response: Any) -> None:
    """Note what the provider's clock says, in an answer or an error."""
    try:
        said = parsedate_to_datetime(response.headers["date"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return
    _heard[client] = (said if said.tzinfo else said.replace(tzinfo=UTC), time.monotonic())


def now(client: Any) -> datetime | None:
    """The time by the provider's clock, from its `Date` header; None where nothing was heard yet.

    It goes on by our steady clock, so that a clock on our wall that is set in between is no matter.
    """
    heard = _heard.get(client)
    return None if heard is None else heard[0] + timedelta(seconds=time.monotonic() - heard[1])


def read_object(response: Any, key: str) -> dict[str, Any]:
    """The JSON object of a response.

    Raises:
        httpx2.DecodingError: It is none, or does not hold `key`: a proxy's page with status 200,
            or a reply cut short.
    """
    import httpx2

    try:
        data: Any = None if too_many_values(response.content) else orjson.loads(response.content)
    except orjson.JSONDecodeError:
        data = None
    if not isinstance(data, dict) or (key and key not in data):
        start = blanked(str(response.text))[:80]
        raise httpx2.DecodingError(
            f"the reply of status {response.status_code} is not what was asked for: {start!r}",
            request=response.request,
        )
    return cast("dict[str, Any]", data)


async def stream(client: Any, path: str) -> AsyncGenerator[bytes]:
    """The bytes at a path as they come; only its start is retried."""
    options = {"timeout": timeouts(DOWNLOAD_SECONDS)}
    with streaming():
        response = await _call(client.get, path, options, DOWNLOAD_SECONDS, stream=True)
    try:
        async for piece in response.aiter_bytes():
            yield piece
    finally:
        await response.aclose()


def moment(value: Any) -> datetime | None:
    """A time of either API, unix seconds or RFC 3339; None where it is neither, or means none."""
    try:
        number = isinstance(value, (int, float))
        made = datetime.fromtimestamp(value, UTC) if number else datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    # Some servers write 0, or the year 1, for a time that there is not.
    if made.year < _OLDEST_YEAR:
        return None
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return blanked(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        items = cast("list[Any] | tuple[Any, ...]", value)
        return type(items)(_clean(item) for item in items)
    return value
