"""What the provider tests share: both providers, small files, and the providers' own types."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter
from pypdf import PdfWriter

from batchata_prefect.models import Job, Request
from batchata_prefect.providers import Provider
from batchata_prefect.providers.anthropic.batches import Anthropic
from batchata_prefect.providers.azure import Azure
from batchata_prefect.providers.gemini import Gemini
from batchata_prefect.providers.openai.batches import OpenAI

from .orders import Order

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d494441"
    "54789c63f8cfc0f01f0005050102a28d5bd00000000049454e44ae426082"
)


def pdf(pages: int = 1) -> bytes:
    """A PDF of blank pages."""
    writer = PdfWriter()
    for _ in range(pages):
        writer.add_blank_page(72, 72)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def body(request: Request) -> dict[str, Any]:
    """The body of a rendered request."""
    return orjson.loads(request.body)


@pytest.fixture(scope="session")
def claude() -> Anthropic:
    return Anthropic()


@pytest.fixture(scope="session")
def gemini() -> Gemini:
    return Gemini()


@pytest.fixture(scope="session")
def gpt() -> OpenAI:
    return OpenAI()


def claude_job(**values: Any) -> Job:
    values = {"id": "j", "model": "claude-sonnet-5-5", **values}
    return Job(**values if "messages" in values else {"prompt": "Hello", **values})


def gpt_job(**values: Any) -> Job:
    values = {"id": "j", "model": "gpt-6-luna", **values}
    return Job(**values if "messages" in values else {"prompt": "Hello", **values})


def gemini_job(**values: Any) -> Job:
    values = {"id": "j", "model": "gemini-2.5-flash", **values}
    return Job(**values if "messages" in values else {"prompt": "Hello", **values})


def consumed(value: Any) -> Any:
    """The value with its lazy iterators run, in which pydantic checks `Iterable` fields."""
    if isinstance(value, Mapping):
        return {key: consumed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (
        hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
    ):
        return [consumed(item) for item in value]
    return value


@cache
def _adapter(endpoint: str) -> TypeAdapter[Any]:
    if endpoint == "/v1/messages":
        from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as Params
    elif endpoint == "/v1/chat/completions":
        from openai.types.chat.completion_create_params import (
            CompletionCreateParamsNonStreaming as Params,
        )
    elif endpoint == "/v1/responses":
        from openai.types.responses.response_create_params import (
            ResponseCreateParamsNonStreaming as Params,
        )
    else:
        from openai.types.embedding_create_params import EmbeddingCreateParams as Params
    return TypeAdapter(Params)


def _check_gemini(body: dict[str, Any]) -> None:
    """Against the SDK's own types, which forbid what they do not know."""
    from google.genai import types

    config = {
        **body.pop("generationConfig"),
        "systemInstruction": body.pop("systemInstruction", None),
    }
    for content in body.pop("contents"):
        types.Content.model_validate(content)
    types.GenerateContentConfig.model_validate({**config, **body})


_SCHEMAS = {
    "/v1/messages": ("anthropic", "CreateMessageParams"),
    "/v1/chat/completions": ("openai", "CreateChatCompletionRequest"),
    "/v1/responses": ("openai", "CreateResponse"),
    "/v1/embeddings": ("openai", "CreateEmbeddingRequest"),
}


@pytest.fixture(scope="session")
def conforms() -> Iterator[Callable[[Request], None]]:
    """Checks a request against the SDK's own types, and the official OpenAPI where it is here."""
    from jsonschema import Draft202012Validator

    specs = Path(__file__).parents[4] / "shared" / "real" / "specs"
    loaded: dict[str, Any] = {}

    def check(request: Request) -> None:
        if request.provider == "gemini":
            _check_gemini(body(request))
            return
        consumed(_adapter(request.endpoint).validate_python(body(request)))
        provider, name = _SCHEMAS[request.endpoint]
        path = specs / f"{provider}.openapi.json"
        if not path.exists():
            return
        if provider not in loaded:
            # Alternatives overlap where a discriminator tells them apart, which JSON schema lacks.
            loaded[provider] = json.loads(path.read_text().replace('"oneOf"', '"anyOf"'))
        schema = {**loaded[provider], "$ref": f"#/components/schemas/{name}"}
        errors = sorted(Draft202012Validator(schema).iter_errors(body(request)), key=str)
        assert not errors, errors[0].message[:500]

    yield check


@pytest.fixture(params=[Anthropic, Azure, Gemini, OpenAI], ids=lambda kind: kind.name)
def provider(request: pytest.FixtureRequest, sandbox: Any) -> Provider:
    if request.param is Gemini:
        pytest.importorskip("google.genai", reason="an extra")
    return request.param()


@pytest.fixture
def order(provider: Provider, tmp_path: Path) -> Callable[..., Order]:
    def make(prompts: list[str] | None = None, salt: str = "") -> Order:
        path = tmp_path / f"requests-{salt}.jsonl"
        return Order(provider, path, prompts or ["One", "Two", "Three"], salt or str(tmp_path))

    return make
