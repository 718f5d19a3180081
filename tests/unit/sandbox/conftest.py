"""One sandbox server for these tests, and the real SDK clients that talk to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from batchata_prefect.sandbox import Sandbox
from batchata_prefect.sandbox.faults import Limits

SECONDS = 0.2


@pytest.fixture(scope="session")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("own-sandbox"), seconds=SECONDS) as server:
        yield server


@pytest.fixture
def box(one_server: Sandbox) -> Iterator[Sandbox]:
    """The server, with the providers' limits and without faults."""
    yield one_server
    one_server.clear_faults()
    one_server.limits(**Limits(seconds=SECONDS).shown())


def claude_of(server: Sandbox, **options: Any) -> anthropic.Anthropic:
    names = server.environment()
    given = {
        "base_url": names["ANTHROPIC_BASE_URL"],
        "api_key": names["ANTHROPIC_API_KEY"],
        "max_retries": 0,
    }
    return anthropic.Anthropic(**{**given, **options})


def gpt_of(server: Sandbox, **options: Any) -> openai.OpenAI:
    names = server.environment()
    given = {
        "base_url": names["OPENAI_BASE_URL"],
        "api_key": names["OPENAI_API_KEY"],
        "max_retries": 0,
    }
    return openai.OpenAI(**{**given, **options})


@pytest.fixture(scope="session")
def one_claude(one_server: Sandbox) -> anthropic.Anthropic:
    return claude_of(one_server)


@pytest.fixture(scope="session")
def one_gpt(one_server: Sandbox) -> openai.OpenAI:
    return gpt_of(one_server)


@pytest.fixture
def claude(box: Sandbox, one_claude: anthropic.Anthropic) -> anthropic.Anthropic:
    return one_claude


@pytest.fixture
def gpt(box: Sandbox, one_gpt: openai.OpenAI) -> openai.OpenAI:
    return one_gpt


def params(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """A Messages body."""
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


def requests_of(*bodies: dict[str, Any]) -> list[Any]:
    return [{"custom_id": f"r-{number}", "params": body} for number, body in enumerate(bodies)]


def chat(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """A Chat Completions body."""
    return {"model": "gpt-6-luna", "messages": [{"role": "user", "content": text}], **more}


def lines_of(*bodies: dict[str, Any], url: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    return [
        {"custom_id": f"r-{number}", "method": "POST", "url": url, "body": body}
        for number, body in enumerate(bodies)
    ]


def jsonl(lines: list[Any]) -> bytes:
    return b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )


def upload(client: openai.OpenAI, lines: list[Any] | bytes) -> str:
    data = lines if isinstance(lines, bytes) else jsonl(lines)
    return client.files.create(file=("batch.jsonl", data), purpose="batch").id


def make_batch(
    client: openai.OpenAI,
    lines: list[Any] | bytes,
    endpoint: Any = "/v1/chat/completions",
    **more: Any,
) -> Any:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=endpoint, completion_window="24h", **more
    )


def ended(server: Sandbox, client: openai.OpenAI, lines: list[Any] | bytes, **more: Any) -> Any:
    """An OpenAI batch that was created and brought to its end."""
    batch = make_batch(client, lines, **more)
    server.settle()
    return client.batches.retrieve(batch.id)


def output(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def answers(
    server: Sandbox, client: anthropic.Anthropic, *bodies: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Raw `result` objects of a batch that was brought to its end, by custom_id."""
    batch = client.messages.batches.create(requests=requests_of(*bodies))
    server.settle()
    response = client.messages.batches.with_raw_response.results(batch.id)
    rows = [json.loads(line) for line in response.http_response.iter_lines()]
    return {row["custom_id"]: row["result"] for row in rows}


def eventually(read: Callable[[], Any], wanted: Any, seconds: float = 5.0) -> Any:
    deadline = time.monotonic() + seconds
    while (value := read()) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert value == wanted
    return value
