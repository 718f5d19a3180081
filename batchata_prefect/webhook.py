"""A receiver of providers' webhooks: wakes suspended runs in seconds instead of at the next look.

```
OPENAI_WEBHOOK_SECRET=whsec_... uvicorn --factory batchata_prefect.webhook:application --port 8000
```

Point a webhook of the OpenAI project at `https://<your host>/openai`, with the events
`batch.completed`, `batch.failed`, `batch.expired` and `batch.cancelled` [guides/webhooks]. Each is
verified against the secret by OpenAI's SDK, told to Prefect as an event, and followed by a look of
the collector. The other providers' batches are found by the collector's own looks, and a webhook of
theirs is refused with a word.

Nothing is taken from a webhook but that it is time to look: what is collected and paid for stands
in the records and at the provider. One that is lost, comes twice or is made up costs at most a few
free calls; the collector's schedule stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import orjson
from prefect.events import emit_event
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from batchata_prefect.collector.collect import collect
from batchata_prefect.errors import MissingCredentialsError, one_line
from batchata_prefect.providers import Provider, providers
from batchata_prefect.providers.rows import object_at, text_at

logger = logging.getLogger("batchata_prefect")

EVENT = "batchata.webhook.received"
"""The Prefect event; its resource is `batchata.batch.<id>`, with the label `batchata.provider`."""

_MOST_BYTES = 64 * 1024


def application(
    secret: str | None = None, *, look: bool | None = None, every_seconds: float | None = None
) -> Starlette:
    """The receiver as an ASGI application.

    Args:
        secret: The webhook's signing secret; that of the provider's variable by default, such as
            `OPENAI_WEBHOOK_SECRET`.
        look: Whether it looks after the suspended runs itself, for which it needs the providers'
            keys and the workers' result storage; else it only tells Prefect, and an automation
            runs the collector. `BATCHATA_WEBHOOK_LOOK=0` switches it off; on by default.
        every_seconds: Seconds between two looks without a webhook; with them it stands in for the
            collector deployment. `BATCHATA_COLLECT_SECONDS` by default, else none.

    Raises:
        MissingCredentialsError: There is no secret.
    """
    sending = {name: each for name, each in providers().items() if each.webhook_secret}
    secrets = {
        name: known
        for name, each in sending.items()
        if (known := secret or os.environ.get(each.webhook_secret or ""))
    }
    if not secrets:
        variables = " or ".join(str(each.webhook_secret) for each in sending.values())
        raise MissingCredentialsError(
            f"no webhook secret: set {variables} to the one that was shown when the webhook was "
            "made; without it anybody could send events"
        )
    if look is None:
        look = os.environ.get("BATCHATA_WEBHOOK_LOOK", "1") != "0"
    if every_seconds is None and (text := os.environ.get("BATCHATA_COLLECT_SECONDS")):
        every_seconds = float(text)
    wanted = asyncio.Event()

    async def receive(request: Request) -> Response:
        name = str(request.path_params["provider"])
        if name not in secrets:
            return PlainTextResponse(_why_not(name), 404)
        body = await _body(request)
        if body is None:
            return PlainTextResponse("too large", 413)
        if not _is_signed(sending[name], body, request, secrets[name]):
            return PlainTextResponse("the signature does not fit", 401)
        event = _event(body)
        if event is None:
            return PlainTextResponse("no event", 400)
        kind, batch_id = str(event.get("type")), text_at(object_at(event, "data"), "id")
        if kind.startswith("batch.") and batch_id is not None:
            _tell(name, kind, batch_id)
            if look:
                wanted.set()
        # Any other event is none of ours; an error would have it sent again for days.
        return Response(status_code=204)

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def alive(_: Starlette) -> AsyncGenerator[None]:
        task = asyncio.create_task(_keep_looking(wanted, every_seconds))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return Starlette(
        routes=[
            Route("/health", healthy, methods=["GET"]),
            Route("/{provider}", receive, methods=["POST"]),
        ],
        lifespan=alive,
    )


async def _keep_looking(wanted: asyncio.Event, every_seconds: float | None) -> None:
    """Look when it is time; what comes in during one look leads to one more after it."""
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(wanted.wait(), every_seconds)
        wanted.clear()
        try:
            logger.info("%s", await collect())
        except Exception as error:
            # Without a traceback: what is wrong stands in the text, and the next look comes.
            logger.warning("the suspended runs could not be looked after: %s", one_line(error))


async def _body(request: Request) -> bytes | None:
    """The body of a request; None where it is larger than any event."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            return None
    return body


def _why_not(name: str) -> str:
    """Why webhooks to the path of a name are not taken."""
    known = providers().get(name)
    if known is None:
        return "no such provider"
    if known.webhook_secret is None:
        return f"{name} has no webhooks that are taken here; its batches are looked after by polls"
    return f"no secret: set {known.webhook_secret}"


def _is_signed(provider: Provider, body: bytes, request: Request, secret: str) -> bool:
    try:
        provider.verify(body, request.headers, secret)
    except Exception as error:
        # What anybody sends may break the check as well, as a signature of other letters than
        # ASCII does: what was not verified is not signed.
        logger.warning("a webhook was refused: %s", one_line(error))
        return False
    return True


def _event(body: bytes) -> dict[str, Any] | None:
    try:
        event: Any = orjson.loads(body)
    except ValueError as error:
        logger.warning("a webhook was refused: %s", one_line(error))
        return None
    return cast("dict[str, Any]", event) if isinstance(event, dict) else None


def _tell(provider: str, kind: str, batch_id: str) -> None:
    """Let Prefect's automations know."""
    resource = {
        "prefect.resource.id": f"batchata.batch.{batch_id}",
        "batchata.provider": provider,
        "batchata.kind": kind,
    }
    try:
        emit_event(EVENT, resource, payload={"type": kind, "batch_id": batch_id})
    except Exception as error:
        logger.warning("the event of %s was not sent to Prefect (%s)", batch_id, one_line(error))
