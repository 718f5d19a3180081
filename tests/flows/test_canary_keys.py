"""Keys and passwords of an unknown form, which a server repeats in all that it says."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from batchata_prefect import Batch
from batchata_prefect.errors import BatchataError

KEY, PASSWORD = "canary+of/an=unknown.form", "canary!password"


class Echo(BaseHTTPRequestHandler):
    """Refuses everything, and repeats every header of it."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        told = f"you sent {dict(self.headers)} with {KEY} and {PASSWORD}"
        body = json.dumps({"type": "error", "error": {"type": KEY, "code": KEY, "message": told}})
        self.send_response(self.server.status)  # pyright: ignore[reportAttributeAccessIssue]
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize(
    ("name", "model"), [("ANTHROPIC", "claude-sonnet-5-5"), ("OPENAI", "gpt-6-luna")]
)
def test_a_repeated_key_is_nowhere(
    tmp_path: Path,
    echo: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    prefect_server,
    name: str,
    model: str,
    status: int,
) -> None:
    """In no error, log line, record, result or report."""
    echo.status = status  # pyright: ignore[reportAttributeAccessIssue]
    address = f"http://me:{PASSWORD}@127.0.0.1:{echo.server_address[1]}"
    monkeypatch.setenv(f"{name}_BASE_URL", address + ("/v1" if name == "OPENAI" else ""))
    monkeypatch.setenv(f"{name}_API_KEY", KEY)
    caplog.set_level(logging.DEBUG, "prefect")
    batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    batch.add_job(prompt=f"{tmp_path}", model=model, max_tokens=50)
    raised = ""
    with contextlib.suppress(BatchataError):
        try:
            batch.run()
        except BatchataError as error:
            raised = str(error)
            raise
    said = [record.getMessage() for record in caplog.records if "prefect" in record.name]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for secret in (KEY, PASSWORD):
        assert secret not in raised
        assert [line for line in said if secret in line] == []
        assert [path.name for path in files if secret.encode() in path.read_bytes()] == []
