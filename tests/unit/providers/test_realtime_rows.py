"""A realtime answer is paid when it comes: its row is what came, byte by byte."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from batchata_prefect.content.exact_json import dumps
from batchata_prefect.providers import Key, providers

WHOLE = str(2**65)
DEEP = '{"a":' * 1_100 + "1" + "}" * 1_100
ENDPOINTS = {
    "anthropic": "/v1/messages",
    "gemini": "/models/gemini-2.5-flash:generateContent",
    "openai": "/v1/chat/completions",
}
BODIES = {
    "anthropic": '{\n "object": 1,\r\n "content": [{"type": "tool_use", "id": "t", "name": "f", '
    '"input": %s}],\n "stop_reason": "tool_use",\n "usage": {"input_tokens": 1}\n}\n',
    "gemini": '{\n "usageMetadata": {"promptTokenCount": 1, "totalTokenCount": 1},\n "candidates": '
    '[{"content": {"parts": [{"functionCall": {"id": "t", "name": "f", "args": %s}}]},\n '
    '"finishReason": "STOP"}]\n}\n',
    "openai": '{\n "object": "chat.completion",\n "choices": [{"message": {"tool_calls": '
    '[{"id": "t", "function": %s}]},\n "finish_reason": "tool_calls"}]\n}\n',
}


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers every request with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def answered(name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The row of a realtime request that is answered with a body."""
    provider = providers()[name]

    async def ask(address: str) -> bytes:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", address)
        client = provider.connect(Key("sk-test"))
        try:
            return await provider.answer(client, "h-1", b"{}", ENDPOINTS[name])
        finally:
            await client.close()

    with answering(body.encode()) as address:
        return asyncio.run(ask(address))


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("inside", ['{"n": %s}' % WHOLE, DEEP], ids=["digits", "deep"])  # noqa: UP031
def test_an_odd_answer_is_kept_as_it_came(
    name: str, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that no parser takes is a row like any other, and not a reply that was lost."""
    row = answered(name, BODIES[name].replace("%s", inside), monkeypatch)
    assert inside.encode() in row
    assert b"\n" not in row
    assert row.startswith((b'{"custom_id":"h-1",', b'{"key":"h-1",'))
    if inside != DEEP:
        (call,) = providers()[name].read(row, "").tool_calls
        assert f'{{"n":{WHOLE}}}' in dumps(call).replace(" ", "")


@pytest.mark.parametrize("name", BODIES)
def test_a_page_is_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's page of status 200 tells nothing of the request."""
    with pytest.raises(httpx2.DecodingError, match="not what was asked for"):
        answered(name, "<html>Please sign in</html>", monkeypatch)
