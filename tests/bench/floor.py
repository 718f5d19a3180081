"""The least that the same transfers take: httpx2 and orjson, no SDK, no checks, no records."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import orjson

from .work import Clock, Work, body

_PIECE = 1 << 20


def floor(work: Work) -> None:
    """Answer all jobs."""
    import httpx2

    clock = Clock()
    client = httpx2.Client(timeout=600)
    (_anthropic if work.provider == "anthropic" else _openai)(work, client)
    clock.tell()


def _anthropic(work: Work, client: Any) -> None:
    base = os.environ["ANTHROPIC_BASE_URL"].rstrip("/") + "/v1/messages/batches"
    headers = {
        "x-api-key": os.environ["ANTHROPIC_API_KEY"],
        "anthropic-version": "2026-10-21",
        "content-type": "application/json",
    }
    batches: list[str] = []
    for start in work.starts():
        reply = client.post(base, headers=headers, content=_requests(work, start))
        batches.append(reply.raise_for_status().json()["id"])
    with (work.folder / "floor.jsonl").open("wb") as file:
        for batch in batches:
            while (
                client.get(f"{base}/{batch}", headers=headers).json()["processing_status"]
                != "ended"
            ):
                time.sleep(0.1)
            for line in _rows(client, f"{base}/{batch}/results", headers):
                row = orjson.loads(line)
                message = row["result"]["message"]
                _write(file, row["custom_id"], message["content"][-1]["text"], message["usage"])


def _requests(work: Work, start: int) -> Iterator[bytes]:
    yield b'{"requests":['
    held: list[bytes] = []
    size = 0
    for n in work.ordinals(start):
        request = orjson.dumps({"custom_id": str(n), "params": body(work, n)})
        held += (b",", request) if n > start else (request,)
        size += len(request)
        if size > _PIECE:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held) + b"]}"


def _openai(work: Work, client: Any) -> None:
    base = os.environ["OPENAI_BASE_URL"].rstrip("/")
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    path = "/v1/chat/completions"
    batches: list[str] = []
    for start in work.starts():
        requests = work.folder / f"floor-{start}.jsonl"
        with requests.open("wb", buffering=_PIECE) as file:
            for n in work.ordinals(start):
                line = {"custom_id": str(n), "method": "POST", "url": path, "body": body(work, n)}
                file.write(orjson.dumps(line) + b"\n")
        with requests.open("rb") as sent:
            upload = client.post(
                f"{base}/files", headers=headers, data={"purpose": "batch"}, files={"file": sent}
            )
        requests.unlink()
        made = client.post(
            f"{base}/batches",
            headers=headers,
            json={
                "input_file_id": upload.raise_for_status().json()["id"],
                "endpoint": path,
                "completion_window": "24h",
            },
        )
        batches.append(made.raise_for_status().json()["id"])
    with (work.folder / "floor.jsonl").open("wb") as file:
        for batch in batches:
            while (state := client.get(f"{base}/batches/{batch}", headers=headers).json())[
                "status"
            ] != "completed":
                assert state["status"] in {"validating", "in_progress", "finalizing"}, state
                time.sleep(0.1)
            for line in _rows(client, f"{base}/files/{state['output_file_id']}/content", headers):
                row = orjson.loads(line)
                answer = row["response"]["body"]
                text = answer["choices"][0]["message"]["content"]
                _write(file, row["custom_id"], text, answer["usage"])


def _rows(client: Any, url: str, headers: dict[str, str]) -> Iterator[bytes]:
    rest = b""
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        for piece in response.iter_bytes(_PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line for line in lines if line)
    if rest:
        yield rest


def _write(file: Any, custom_id: str, text: str, usage: Any) -> None:
    file.write(orjson.dumps({"id": custom_id, "text": text, "usage": usage}) + b"\n")
