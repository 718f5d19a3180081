"""The sandbox's HTTP server: finds the call, applies faults, answers, and serves its controls."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .anthropic import Anthropic
from .api import Api, Call, Operation
from .azure import Azure
from .engine import Engine
from .faults import Fault, Faults, Limits, parse_fault
from .gemini import Gemini
from .openai import OpenAI
from .store import Store
from .wire import ERROR_TYPES, RefusedError, Reply

_NOTHING = Router()
_TICK = 0.5
_CHUNK = 256 * 1024
_GARBAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n"

_KINDS: tuple[type[Api], ...] = (Anthropic, Azure, Gemini, OpenAI)

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

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine = engine
        self.routers = {kind.name: _router(kind(engine, url)) for kind in _KINDS}
        self.routers["_sandbox"] = Router(
            [
                Route("/faults", self._faults, methods=["GET", "POST", "DELETE"]),
                Route("/limits", self._limits, methods=["GET", "POST"]),
                Route("/settle", self._settle, methods=["POST"]),
                Route("/refresh", self._refresh, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        name, _, path = scope["path"].removeprefix("/").partition("/")
        router = self.routers.get(name, _NOTHING)
        await router({**scope, "path": f"/{path}", "root_path": ""}, receive, send)

    async def _faults(self, request: Request) -> Response:
        faults = self.engine.faults
        if request.method == "DELETE":
            faults.clear()
        elif request.method == "POST":
            try:
                faults.add(parse_fault(await request.json()))
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(faults.listed())

    async def _limits(self, request: Request) -> Response:
        limits = self.engine.limits
        if request.method == "POST":
            try:
                limits.change(await request.json())
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 400)
            self.engine.store.set_setting("limits", limits.shown())
        return JSONResponse(limits.shown())

    async def _settle(self, _: Request) -> Response:
        await self.engine.settle()
        return JSONResponse({})

    async def _refresh(self, _: Request) -> Response:
        await self.engine.catch_up()
        self.engine.store.flush_calls()
        return JSONResponse({})

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"pid": os.getpid()})


def _router(api: Api) -> Router:
    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await _drain(request)
        told = {"method": request.method, "path": request.url.path}
        await _refused(api, api.refuse("path", **told))(scope, receive, send)

    routes = [
        Route(each.path, _Served(api, each), methods=[each.method]) for each in api.operations()
    ]
    return Router(routes, redirect_slashes=False, default=unknown)


class _Served:
    """One operation of a provider, with the faults that are ordered for it."""

    def __init__(self, api: Api, operation: Operation) -> None:
        self.api = api
        self.operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api, name, path = self.api, self.operation.name, scope["path"]
        request = Request(scope, receive)
        api.engine.store.count_call(api.name, name)
        try:
            api.check_key(request.headers)
        except RefusedError as refusal:
            api.engine.store.count_call(api.name, "refused_key")
            await _drain(request)
            await _refused(api, refusal)(scope, receive, send)
            return
        taken = api.engine.faults.take(api.name, name, path)
        fault = next((each for each in taken if each.mode != "delay"), None)
        late = 0.0
        for delay in taken:
            if delay.mode == "delay" and delay.options.get("when") == "before":
                request = await _held(request)
                await asyncio.sleep(float(delay.options.get("seconds", 1)))
            elif delay.mode == "delay":
                late += float(delay.options.get("seconds", 1))
        if fault is not None and fault.mode == "drop_before":
            await reset_connection(scope)
            return
        response = None
        if fault is not None and not fault.options.get("commit"):
            response = _instead(api, fault)
        try:
            if response is None:
                target = scope["path_params"].get("id", "")
                reply = await self.operation.handler(Call(request, target, fault))
                response = (fault and _instead(api, fault)) or _answered(api, reply, fault, scope)
        except ClientDisconnect:
            return
        except RefusedError as refusal:
            response, fault = _refused(api, refusal), None
        await _drain(request)
        await asyncio.sleep(late)
        if fault is not None and fault.mode == "drop_after":
            await reset_connection(scope)
            return
        await response(scope, receive, send)


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


def _headers(api: Api, more: Mapping[str, str]) -> dict[str, str]:
    """Headers of a reply, with the time by the sandbox's clock."""
    now = time.time() + api.engine.limits.clock_seconds
    return {**api.headers(), "date": formatdate(now, usegmt=True), **more}


def _refused(api: Api, refusal: RefusedError, more: Mapping[str, str] | None = None) -> Response:
    headers = _headers(api, more or {})
    body = orjson.dumps(api.error_body(refusal, headers))
    return Response(body, refusal.status, headers, "application/json")


def _instead(api: Api, fault: Fault) -> Response | None:
    """The answer that a fault gives in place of the handler's, if it is of that kind."""
    options = fault.options
    if fault.mode == "garbage":
        text = options.get("text", _GARBAGE)
        return Response(text, int(options.get("status", 502)), media_type="text/html")
    if fault.mode != "status":
        return None
    status = int(options.get("status", 500))
    text = options.get("message", f"The sandbox was asked to answer {status}.")
    usual = ERROR_TYPES.get(status) if status < 500 else None
    error_type = options.get("error_type") or usual
    refusal = RefusedError(text, None, options.get("code"), error_type=error_type, status=status)
    return _refused(api, refusal, options.get("headers"))


def _answered(api: Api, reply: Reply, fault: Fault | None, scope: Scope) -> Response:
    headers = _headers(api, reply.headers)
    if reply.file is None:
        return Response(orjson.dumps(reply.body), 200, headers, "application/json")
    cut = fault if fault is not None and fault.mode == "truncate" else None
    pieces = _pieces(reply.file) if cut is None else _cut_pieces(reply.file, cut, scope)
    return StreamingResponse(pieces, 200, headers, reply.media_type)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


async def _cut_pieces(path: Path, cut: Fault, scope: Scope) -> AsyncIterator[bytes]:
    lines = (await asyncio.to_thread(path.read_bytes)).splitlines(keepends=True)
    rows = min(int(cut.options.get("rows", len(lines) // 2)), len(lines))
    yield b"".join(lines[:rows])
    if cut.options.get("at", "line") != "line" and rows < len(lines):
        yield lines[rows][: max(1, len(lines[rows]) // 2)]
    if cut.options.get("at", "line") == "reset":
        # What was written must leave before the reset, or the client sees none of it.
        await asyncio.sleep(0.05)
        await reset_connection(scope)


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
    # asyncio turns Nagle's delay off only for sockets that name the protocol; it is 40 ms a call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A port that a killed server used a moment ago can be had again.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    url = f"http://{host}:{listener.getsockname()[1]}"
    store = Store(data_dir)
    in_force = Limits()
    in_force.change(store.setting("limits") or {})
    in_force.change(limits)
    faults = Faults(store.setting("faults") or [], lambda rules: store.set_setting("faults", rules))
    engine = Engine(
        store, in_force, faults, {kind.name: (kind.check, kind.rows) for kind in _KINDS}
    )

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
        App(engine, url),
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
