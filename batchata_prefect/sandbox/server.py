"""The sandbox's HTTP server: finds the call, applies faults, answers, and serves its controls."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import anthropic, openai
from .engine import Engine
from .faults import Fault, Faults, parse_fault
from .limits import Limits
from .routing import Call, Context, find_route
from .store import Store
from .wire import RefusedError, Reply, new_id

_TICK = 0.5
_CHUNK = 256 * 1024
_GARBAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n"

_transports: dict[tuple[str, int], asyncio.Transport] = {}


class AbortableProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with its connections where a fault can find them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection by the client's address."""
        super().connection_made(transport)
        if self.client is not None:
            _transports[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client is not None:
            _transports.pop(self.client, None)
        super().connection_lost(exc)


async def reset_connection(scope: Scope) -> None:
    """Reset the TCP connection of a request, without another byte."""
    client = scope.get("client")
    transport = _transports.get(tuple(client)) if client else None
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Without lingering, closing sends RST, which is what a broken path looks like.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    # The protocol must have seen the loss before the request ends, or uvicorn answers a 500.
    for _ in range(3):
        await asyncio.sleep(0)


class App:
    """The ASGI application."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path: str = scope["path"]
        if path.startswith("/_sandbox/"):
            response = await self._control(request, path.removeprefix("/_sandbox/"))
            await response(scope, receive, send)
            return
        provider, path = _provider(request, path)
        await self._serve(provider, path, request, self._dated(send))

    def _dated(self, send: Send) -> Send:
        """Answers with the time by the sandbox's clock."""

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                now = time.time() + self.context.limits.clock_seconds
                header = (b"date", formatdate(now, usegmt=True).encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        return dated

    async def _serve(self, provider: str, path: str, request: Request, send: Send) -> None:
        rooms = anthropic if provider == "anthropic" else openai
        found = find_route(rooms.ROUTES, request.method, path)
        call = Call(self.context, request, found[1] if found else "")
        if found is None:
            await _drain(request)
            await _send_refusal(rooms.unknown(call), provider, request, send)
            return
        route, target = found
        self.context.store.count_call(provider, route.operation)
        try:
            rooms.check_headers(call)
        except RefusedError as refusal:
            await _drain(request)
            await _send_refusal(refusal, provider, request, send)
            return
        fault: Fault | None = None
        late = 0.0
        for taken in self.context.faults.take(provider, route.operation, path):
            if taken.mode != "delay":
                fault = taken
            elif taken.options.get("when") == "before":
                request = await _held(request)
                await asyncio.sleep(float(taken.options.get("seconds", 1)))
            else:
                late += float(taken.options.get("seconds", 1))
        if fault is not None and fault.mode == "drop_before":
            await reset_connection(request.scope)
            return
        if fault is not None and not fault.options.get("commit"):
            response = _instead(fault, provider)
            if response is not None:
                await _drain(request)
                await asyncio.sleep(late)
                await response(request.scope, request.receive, send)
                return
        try:
            reply = await route.handler(Call(self.context, request, target, fault))
        except ClientDisconnect:
            return
        except RefusedError as refusal:
            await _drain(request)
            await asyncio.sleep(late)
            await _send_refusal(refusal, provider, request, send)
            return
        await asyncio.sleep(late)
        if fault is not None and fault.mode == "drop_after":
            await reset_connection(request.scope)
            return
        response = _instead(fault, provider) if fault is not None else None
        if response is not None:
            await response(request.scope, request.receive, send)
            return
        if reply.file is not None:
            await _send_file(reply, provider, fault, request, send)
            return
        body = orjson.dumps(reply.body)
        headers = {**_headers(provider), **reply.headers}
        response = Response(body, reply.status, headers, "application/json")
        await response(request.scope, request.receive, send)

    async def _control(self, request: Request, name: str) -> Response:
        context = self.context
        asked: Any = orjson.loads(await request.body() or b"{}")
        shown: Any = {}
        try:
            if name == "faults" and request.method == "POST":
                context.faults.add(parse_fault(asked))
            elif name == "faults" and request.method == "DELETE":
                context.faults.clear()
            elif name == "faults":
                shown = context.faults.listed()
            elif name == "limits" and request.method == "POST":
                context.limits.change(asked)
                context.store.set_setting("limits", context.limits.shown())
            elif name == "limits":
                shown = context.limits.shown()
            elif name == "settle":
                await context.engine.settle()
            elif name == "refresh":
                await context.engine.catch_up()
                context.store.flush_calls()
            elif name == "health":
                shown = {"pid": os.getpid()}
            else:
                return JSONResponse({"error": f"no such control: {name}"}, 404)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(shown)


def _provider(request: Request, path: str) -> tuple[str, str]:
    for provider in ("anthropic", "openai"):
        if path.startswith(f"/{provider}/"):
            return provider, path.removeprefix(f"/{provider}")
    # Without the prefix the two APIs share paths; only Anthropic's clients send this header.
    return ("anthropic" if "anthropic-version" in request.headers else "openai"), path


def _headers(provider: str) -> dict[str, str]:
    if provider == "anthropic":
        return {
            "request-id": new_id("req_01", 22),
            "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
            "anthropic-workspace-id": "wrkspc_01Sandbox",
            "anthropic-ratelimit-requests-limit": "4000",
            "anthropic-ratelimit-requests-remaining": "3999",
        }
    return {
        "x-request-id": new_id("req_", 32),
        "openai-organization": "org-sandbox",
        "openai-version": "2020-10-01",
        "openai-processing-ms": "12",
    }


async def _drain(request: Request) -> None:
    """Read what the client still sends; it could not read the answer otherwise."""
    try:
        async for _ in request.stream():
            pass
    except (RuntimeError, ClientDisconnect):
        # The first is how Starlette says that the handler has already read the body.
        return


async def _held(request: Request) -> Request:
    """The request with its whole body in memory, to be served even if the client hangs up."""
    body = await request.body()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


async def _send_refusal(refusal: RefusedError, provider: str, request: Request, send: Send) -> None:
    headers = {**_headers(provider), **refusal.headers}
    response = Response(orjson.dumps(refusal.body), refusal.status, headers, "application/json")
    await response(request.scope, request.receive, send)


_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _instead(fault: Fault, provider: str) -> Response | None:
    """The answer that a fault gives in place of the handler's, if it is of that kind."""
    options = fault.options
    if fault.mode == "garbage":
        return Response(_GARBAGE, int(options.get("status", 502)), media_type="text/html")
    if fault.mode != "status":
        return None
    status = int(options.get("status", 500))
    error_type = options.get("error_type")
    message = options.get("message", f"The sandbox was asked to answer {status}.")
    if provider == "anthropic":
        error_type = error_type or _ERROR_TYPES.get(status, "api_error")
        body: Any = {
            "type": "error",
            "error": {"type": error_type, "message": message},
            "request_id": new_id("req_01", 22),
        }
    else:
        error_type = error_type or (
            "server_error" if status >= 500 else _ERROR_TYPES.get(status, "invalid_request_error")
        )
        body = {
            "error": {
                "message": message,
                "type": error_type,
                "param": None,
                "code": options.get("code"),
            }
        }
    headers = {**_headers(provider), **options.get("headers", {})}
    return Response(orjson.dumps(body), status, headers, "application/json")


async def _send_file(
    reply: Reply, provider: str, fault: Fault | None, request: Request, send: Send
) -> None:
    headers = {**_headers(provider), **reply.headers, "content-type": reply.media_type}
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    cut = fault if fault is not None and fault.mode == "truncate" else None
    assert reply.file is not None
    pieces = _pieces(reply.file) if cut is None else _cut_pieces(reply.file, cut)
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if cut is not None and cut.options.get("at", "line") == "reset":
        # What was written must leave before the reset, or the client sees none of it.
        await asyncio.sleep(0.05)
        await reset_connection(request.scope)
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


async def _cut_pieces(path: Path, cut: Fault) -> AsyncIterator[bytes]:
    lines = (await asyncio.to_thread(path.read_bytes)).splitlines(keepends=True)
    rows = min(int(cut.options.get("rows", len(lines) // 2)), len(lines))
    yield b"".join(lines[:rows])
    if cut.options.get("at", "line") != "line" and rows < len(lines):
        yield lines[rows][: max(1, len(lines[rows]) // 2)]


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; a port that a killed server used a moment ago can be had again."""
    # asyncio turns Nagle's delay off only for sockets that name the protocol; it is 40 ms a call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def serve(
    data_dir: Path,
    host: str,
    port: int,
    limits: dict[str, Any],
    announce: Callable[[str], None],
) -> None:
    """Run the server until it is told to stop.

    Args:
        data_dir: where batches, files and the ledger are kept.
        host: address to listen on.
        port: port; 0 for any.
        limits: limits that differ from the providers'.
        announce: told the address once connections are taken.
    """
    listener = open_socket(host, port)
    url = f"http://{host}:{listener.getsockname()[1]}"
    store = Store(data_dir)
    in_force = Limits()
    in_force.change(store.setting("limits") or {})
    in_force.change(limits)
    faults = Faults(store.setting("faults") or [], lambda rules: store.set_setting("faults", rules))
    engine = Engine(store, in_force, faults)
    context = Context(store, engine, faults, in_force, url)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            engine.load()
            await super().startup(sockets)
            announce(url)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            ticker.cancel()
            await engine.close()
            store.flush_calls()

        async def main_loop(self) -> None:
            nonlocal ticker
            ticker = asyncio.create_task(_flush_calls(store))
            await super().main_loop()

    ticker: asyncio.Task[None]
    # Rows are made by the hundred thousand; looking through them for cycles each time is waste.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    config = uvicorn.Config(
        App(context),
        http=AbortableProtocol,
        ws="none",
        lifespan="off",
        date_header=False,
        log_level="warning",
        access_log=False,
        # A server that hangs up on idle connections looks like a fault that nobody asked for.
        timeout_keep_alive=600,
        timeout_graceful_shutdown=1,
    )
    Server(config).run([listener])


async def _flush_calls(store: Store) -> None:
    while True:
        await asyncio.sleep(_TICK)
        await asyncio.to_thread(store.flush_calls)
