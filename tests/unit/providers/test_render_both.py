"""What holds for the requests of both providers: their bytes, their lines, their estimates."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from batchata_prefect.models import Job
from batchata_prefect.providers import provider_for

from .conftest import PNG, claude_job, gemini_job, gpt_job, pdf


class Answer(BaseModel):
    city: str
    people: list[int] = []


def _jobs() -> list[Job]:
    shapes: list[dict[str, Any]] = [
        {},
        {"params": {"tool_config": {"z": 1, "y": 2}}},
        {"response_model": Answer},
        {"file": [b"Some text", PNG], "prompt": "What?"},
        {"messages": [{"role": "system", "content": "ä"}, {"role": "user", "content": "b"}]},
    ]
    return [make(**shape) for shape in shapes for make in (claude_job, gemini_job, gpt_job)]


def digests() -> list[str]:
    """Digest of each job's request."""
    return [hashlib.sha256(provider_for(job.model).render(job).body).hexdigest() for job in _jobs()]


def test_a_job_gives_the_same_bytes_in_another_process():
    """The digest of a request does not depend on the process: resuming recognises jobs by it."""
    code = "from tests.unit.providers.test_render_both import digests; print('\\n'.join(digests()))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == digests(), done.stderr


def test_lines_hold_the_bodies_as_they_are(claude, gpt):
    """A line is valid JSON around the exact bytes of the body."""
    body = b'{"model":"m","x":"\\u00e4"}'
    line = claude.line("head-1", body, "/v1/messages")
    assert orjson.loads(line) == {"custom_id": "head-1", "params": orjson.loads(body)}
    assert body in line
    line = gpt.line("head-1", body, "/v1/responses")
    assert orjson.loads(line) == {
        "custom_id": "head-1",
        "method": "POST",
        "url": "/v1/responses",
        "body": orjson.loads(body),
    }
    assert body in line


def test_importing_the_providers_does_not_import_an_sdk():
    """The SDKs take seconds to import, so that rendering does not wait for them."""
    code = (
        "import sys, batchata_prefect.providers.anthropic, batchata_prefect.providers.openai;"
        "print([n for n in ('anthropic', 'openai', 'httpx2', 'prefect') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("claude-opus-5-5", "anthropic"),
        ("gpt-6.2-sol", "openai"),
        ("o3", "openai"),
        ("text-embedding-3-small", "openai"),
        ("ft:gpt-4o-mini:acme::1", "openai"),
        ("llama-4", None),
        ("opus", None),
    ],
)
def test_models_are_told_by_their_name(claude, gpt, model: str, provider: str | None):
    """Each provider knows its models by their pattern, and no other's."""
    assert claude.serves(model) is (provider == "anthropic")
    assert gpt.serves(model) is (provider == "openai")


def _recorded(real: Path) -> list[tuple[str, dict[str, Any], int]]:
    """File, request and input tokens of every recorded call."""
    found: list[tuple[str, dict[str, Any], int]] = []
    for path in sorted((real / "corpus").glob("*/*.json")):
        content = json.loads(path.read_bytes())
        for call in content.get("exchanges") or [content]:
            request, response = call.get("request"), call.get("response")
            if not isinstance(request, dict) or not isinstance(response, dict):
                continue
            usage = response.get("usage")
            if isinstance(usage, dict) and "model" in request:
                names = ("input_tokens", "prompt_tokens")
                names += ("cache_creation_input_tokens", "cache_read_input_tokens")
                total = sum(usage.get(name) or 0 for name in names)
                found.append((f"{path.parent.name}/{path.name}", request, total))
    return found


def test_bounds_hold_for_every_recorded_call(real: Path, claude, gpt):
    """No recorded call used more input tokens than its estimate allows, or wildly other ones."""
    calls = _recorded(real)
    assert len(calls) > 20
    for file, request, tokens in calls:
        given = {k: v for k, v in request.items() if k not in {"stream", "messages", "input"}}
        given = {k: v for k, v in given.items() if k not in {"temperature", "top_p", "top_k"}}
        limit = given.pop("max_tokens", None) or given.pop("max_output_tokens", None)
        messages = request.get("messages") or request.get("input")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        job = Job(
            id=file,
            model=given.pop("model"),
            messages=messages,
            max_tokens=limit,
            endpoint="/v1/responses" if "input" in request else None,
            params=given,
        )
        estimate = (claude if file.startswith("anthropic") else gpt).render(job).estimate
        assert tokens <= estimate.input_bound, (file, tokens, estimate)
        if estimate.input_bound < 900_000:
            assert tokens / 4 <= estimate.input_tokens <= tokens * 4, (file, tokens, estimate)


@pytest.mark.parametrize(
    "longer",
    [
        {"prompt": "Hello Hello Hello"},
        {"response_model": Answer},
        {"params": {"system": "Be brief."}},
        {"params": {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}},
        {"file": PNG},
        {"file": pdf(3)},
        {"file": b"A text"},
    ],
)
@pytest.mark.parametrize("make", [claude_job, gpt_job])
def test_everything_in_a_request_is_counted(claude, gpt, make: Any, longer: dict[str, Any]):
    """Each part of a request adds to both counts."""
    render = claude.render if make is claude_job else gpt.render
    plain, more = render(make()).estimate, render(make(**longer)).estimate
    assert more.input_tokens > plain.input_tokens
    assert more.input_bound > plain.input_bound


def test_what_is_not_in_the_request_may_fill_the_context(claude, gpt):
    """A file by address, and what a server's tool brings in, is bounded by the context window."""
    url = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    job = claude_job(messages=[{"role": "user", "content": [url]}])
    assert claude.render(job).estimate.input_bound > 1_000_000
    search = {"type": "web_search_20260209", "name": "web_search"}
    assert claude.render(claude_job(params={"tools": [search]})).estimate.input_bound > 1_000_000
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    job = gpt_job(messages=[{"role": "user", "content": [image]}])
    assert gpt.render(job).estimate.input_bound > 1_000_000
