"""What a server may send at most: the replies of its API, rows, and downloads."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pytest

from batchata_prefect.content.bounds import bounds
from batchata_prefect.models import Chunk
from batchata_prefect.providers import providers, wire
from batchata_prefect.providers.caps import Download, ReplyTooLargeError, http_client
from batchata_prefect.providers.failures import classify
from batchata_prefect.providers.rows import UnreadableRowError


@cache
def packed() -> bytes:
    """300 kB that unpack to 300 MB."""
    return gzip.compress(b'{"id": "' + bytes(300_000_000) + b'"}')


class Gateway(BaseHTTPRequestHandler):
    """Answers each path in its own bad way."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body, status, coding = b'{"id": "b1"}', 200, None
        if "bomb" in self.path:
            body, coding = packed(), "gzip"
        elif "refused" in self.path:
            body, status, coding = packed(), 400, "gzip"
        elif "packed" in self.path:
            body, coding = gzip.compress(body), "gzip"
        elif "brotli" in self.path:
            coding = "br"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if coding:
            self.send_header("Content-Encoding", coding)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 - the server's own names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """Base URL of a gateway that means ill."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def clients(url: str) -> list[Any]:
    kept = {"api_key": "k", "base_url": url, "max_retries": 0}
    return [
        openai.AsyncOpenAI(http_client=http_client(openai.DefaultAsyncHttpxClient), **kept),
        anthropic.AsyncAnthropic(
            http_client=http_client(anthropic.DefaultAsyncHttpxClient), **kept
        ),
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bounds of a hundredth."""
    monkeypatch.setenv("BATCHATA_MOST_REPLY_BYTES", "500000")
    monkeypatch.setenv("BATCHATA_MOST_ROW_BYTES", "1000")
    monkeypatch.setenv("BATCHATA_MOST_TOKEN_BYTES", "10")
    bounds.cache_clear()
    yield
    monkeypatch.undo()
    bounds.cache_clear()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("path", ["/bomb", "/refused"])
@pytest.mark.parametrize("which", [0, 1], ids=["openai", "anthropic"])
def test_a_reply_that_unpacks_to_gigabytes_is_not_unpacked(
    gateway: str, path: str, which: int
) -> None:
    """It ends with its own error and name, whether it says yes or no, and proves no create."""

    async def ask() -> None:
        await wire.send(clients(gateway)[which], path, "id", headers={}, content=b"{}")

    with pytest.raises(ReplyTooLargeError, match="more than 500,000 bytes") as raised:
        asyncio.run(ask())
    assert not classify(raised.value).made_nothing


@pytest.mark.parametrize("which", [0, 1], ids=["openai", "anthropic"])
def test_an_honest_packed_reply_is_read(gateway: str, which: int) -> None:
    """Plain and gzip are what is asked for."""

    async def ask(path: str) -> dict[str, Any]:
        return await wire.get(clients(gateway)[which], path, "id")

    assert asyncio.run(ask("/packed")) == asyncio.run(ask("/plain")) == {"id": "b1"}


def test_packing_that_nobody_asked_for_is_refused(gateway: str) -> None:
    """What cannot be unpacked up to a size is not unpacked."""

    async def ask() -> None:
        await wire.get(clients(gateway)[0], "/brotli", "id")

    with pytest.raises(openai.APIConnectionError):
        asyncio.run(ask())


CHUNK = Chunk(0, 0, "ab" * 20, "openai", "/v1/responses", "m", 2, 100, 10, 1_000, None)


@pytest.mark.usefixtures("small")
def test_a_download_ends_where_no_answer_can_reach() -> None:
    """What the chunk may be answered with bounds the file; one row has a bound of its own."""
    endless = Download(CHUNK, "b1")
    rows = 0
    with pytest.raises(ReplyTooLargeError, match=r"b1 sends more than 710,000 bytes.*TOKEN_BYTES"):
        while rows < 10_000:
            endless.take(b"x" * 99 + b"\n")
            rows += 1
    assert rows == 7_100
    row = Download(CHUNK, "b1")
    row.take(b"x" * 900 + b"\n" + b"x" * 900)
    with pytest.raises(ReplyTooLargeError, match=r"more than 1,000 bytes as a row.*ROW_BYTES"):
        row.take(b"x" * 200)


@pytest.mark.parametrize("fewer", [0, 1])
@pytest.mark.parametrize("provider", providers())
def test_a_row_of_too_many_values_is_not_parsed(
    provider: str, fewer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease cannot be renewed while a parser works: its job fails, as paid, and by name."""
    error = b'{"error":{"message":"no","type":"invalid_request_error"},"list":[[],[],{"a":1}]}'
    row = b'{"custom_id":"a-0","key":"a-0","result":{"type":"errored","error":%b},"error":%b}' % (
        error,
        error,
    )
    marks = sum(map(row.count, (b",", b"[", b"{")))
    monkeypatch.setenv("BATCHATA_MOST_ROW_VALUES", str(marks - fewer))
    bounds.cache_clear()
    try:
        reply = providers()[provider].read(row, "/v1/messages")
    except UnreadableRowError as told:
        reply = told.reply
    finally:
        monkeypatch.undo()
        bounds.cache_clear()
    if fewer:
        assert (reply.outcome, reply.error_code) == ("succeeded", "unreadable_reply")
        assert f"more than {marks - 1} values; raise BATCHATA_MOST_ROW_VALUES" in str(reply.error)
    else:
        assert (reply.outcome, reply.error_code) == ("errored", "invalid_request_error")
