"""The sandbox against the providers' own descriptions: SDK types and OpenAPI documents."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import openai
import pytest
from anthropic.types import message_create_params
from openai.types import embedding_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from batchata_prefect.sandbox import Sandbox, anthropic_rules, openai_rules

from .conftest import answers, chat, ended, lines_of, output, params, requests_of

# Parameters of the SDK method that travel as headers.
HEADERS = {"user_profile_id", "workspace_id"}
KEYS = [
    (anthropic_rules.KEYS, message_create_params.MessageCreateParamsStreaming),
    (
        openai_rules.KEYS["/v1/chat/completions"],
        completion_create_params.CompletionCreateParamsStreaming,
    ),
    (openai_rules.KEYS["/v1/responses"], response_create_params.ResponseCreateParamsStreaming),
    (openai_rules.KEYS["/v1/embeddings"], embedding_create_params.EmbeddingCreateParams),
]


@pytest.mark.parametrize(("known", "sdk"), KEYS)
def test_known_keys_are_the_sdks(known: frozenset[str], sdk: Any) -> None:
    """The keys that the sandbox takes are those that the installed SDK can send."""
    keys: set[str] = set()
    for base in (sdk, *sdk.__orig_bases__):
        keys |= set(getattr(base, "__annotations__", {}))
    assert known == keys - HEADERS


@pytest.fixture(scope="module")
def specs(request: pytest.FixtureRequest) -> Path:
    root = Path(__file__).parents[4] / "shared" / "real"
    path = Path(os.environ.get("BATCHATA_REAL", root)) / "specs"
    if not path.is_dir():
        pytest.skip("the OpenAPI documents are not here")
    return path


@lru_cache(maxsize=2)
def document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def problems(path: Path, name: str, value: Any) -> list[str]:
    """What a schema of an OpenAPI document says against a value."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document(path)["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{list(error.path)}: {error.message[:200]}" for error in validator.iter_errors(value)]


def schema_name(path: Path, *wanted: str) -> str:
    names = document(path)["components"]["schemas"]
    return next(name for name in wanted if name in names)


def test_claude_objects_fit_the_openapi_document(
    box: Sandbox, claude: anthropic.Anthropic, specs: Path
) -> None:
    """The batch in both states and a succeeded message satisfy Anthropic's document."""
    path = specs / "anthropic.openapi.json"
    name = schema_name(path, "MessageBatch")
    batch = claude.messages.batches.create(requests=requests_of(params()))
    raw = claude.messages.batches.with_raw_response
    assert problems(path, name, json.loads(raw.retrieve(batch.id).http_response.text)) == []
    box.settle()
    assert problems(path, name, json.loads(raw.retrieve(batch.id).http_response.text)) == []
    message = answers(box, claude, params())["r-0"]["message"]
    # The document requires keys that recorded replies of the same month do not have.
    blocks = [
        {"citations": None, **block} if block["type"] == "text" else block
        for block in message["content"]
    ]
    full = {"container": None, **message, "content": blocks}
    assert problems(path, schema_name(path, "Message"), full) == []


def test_openai_objects_fit_the_openapi_document(
    box: Sandbox, gpt: openai.OpenAI, specs: Path
) -> None:
    """File, batch, chat completion and response satisfy OpenAI's document."""
    path = specs / "openai.openapi.json"
    batch = ended(box, gpt, lines_of(chat()))
    raw = json.loads(gpt.batches.with_raw_response.retrieve(batch.id).http_response.text)
    # The recorded batches have null where the document only knows absent.
    present = {key: value for key, value in raw.items() if value is not None}
    assert problems(path, "Batch", present) == []
    file = gpt.files.with_raw_response.retrieve(batch.output_file_id).http_response
    present = {key: value for key, value in json.loads(file.text).items() if value is not None}
    assert problems(path, "OpenAIFile", present) == []
    (row,) = output(gpt, batch.output_file_id)
    completion = row["response"]["body"]
    assert (
        problems(path, "CreateChatCompletionResponse", {**completion, "system_fingerprint": "x"})
        == []
    )
    response = gpt.responses.with_raw_response.create(model="gpt-6-luna", input="Hi")
    body = json.loads(response.http_response.text)
    body = {
        key: value
        for key, value in body.items()
        if value is not None or key in ("error", "incomplete_details", "instructions")
    }
    assert problems(path, "Response", body) == []


CORPUS = {
    "anthropic/batch-ended-succeeded.json": "response",
    "anthropic/batch-create-in-progress.json": "response",
    "openai/batch-create-validating.json": "response",
    "openai/batch-completed.json": "response",
    "openai/file-upload.json": "response",
}


@pytest.mark.parametrize("name", CORPUS)
def test_objects_have_the_recorded_keys(
    box: Sandbox, claude: anthropic.Anthropic, gpt: openai.OpenAI, specs: Path, name: str
) -> None:
    """Every key of the recorded object is there, null where it was null."""
    recorded = json.loads((specs.parent / "corpus" / name).read_text())[CORPUS[name]]
    if name.startswith("anthropic"):
        batch = claude.messages.batches.create(requests=requests_of(params()))
        if "ended" in name:
            box.settle()
        reply = claude.messages.batches.with_raw_response.retrieve(batch.id).http_response
    elif "file" in name:
        reply = gpt.files.with_raw_response.create(
            file=("a.jsonl", b"{}"), purpose="batch"
        ).http_response
    else:
        made = ended(box, gpt, lines_of(chat()))
        reply = gpt.batches.with_raw_response.retrieve(made.id).http_response
    shown = json.loads(reply.text)
    assert recorded.keys() <= shown.keys()
    # Today's batch object also has model and usage, and files an expiry.
    assert shown.keys() - recorded.keys() <= {"model", "usage", "expires_at"}
    if name.startswith("anthropic") or "completed" in name:
        ignored = {"metadata"}
        nulls = {key for key, value in recorded.items() if value is None} - ignored
        assert {key for key in recorded if shown[key] is None} - ignored == nulls


def recorded_calls(root: Path) -> list[tuple[str, str, dict[str, Any], int, Any]]:
    """(file, path, body, status, reply) of every recorded direct call in the corpus."""
    calls: list[tuple[str, str, dict[str, Any], int, Any]] = []
    for file in sorted((root / "corpus").glob("*/*.json")):
        recorded = json.loads(file.read_text())
        for call in recorded.get("exchanges") or [recorded]:
            body = call.get("request")
            path = urllib.parse.urlsplit(call.get("url", "")).path
            served = ("/v1/messages", "/v1/chat/completions", "/v1/responses")
            # A text that stands for megabytes is no longer too long.
            whole = "MASSIVE_TEXT" not in json.dumps(body)
            if isinstance(body, dict) and path in served and whole and call["status"] != 401:
                calls.append((file.name, path, body, call["status"], call["response"]))
    return calls


def test_recorded_calls_are_judged_as_they_were(box: Sandbox, specs: Path) -> None:
    """What the real APIs took is taken, what they refused is refused in their words."""
    differing: list[str] = []
    calls = recorded_calls(specs.parent)
    assert len(calls) > 20
    for name, path, body, status, reply in calls:
        provider = "anthropic" if path == "/v1/messages" else "openai"
        # They were recorded under the older API version.
        headers = {"authorization": "Bearer sandbox-x", "anthropic-version": "2023-06-01"}
        request = urllib.request.Request(
            f"{box.url}/{provider}{path}", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request) as response:
                got, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            got, text = error.code, error.read().decode()
        if got != status:
            differing.append(f"{name}: {got} instead of {status}: {text[:200]}")
        elif status != 200:
            shown, wanted = json.loads(text)["error"], reply["error"]
            if shown != wanted:
                differing.append(f"{name}: {shown} instead of {wanted}")
    assert differing == []


def test_recorded_batch_files_are_taken(
    box: Sandbox, claude: anthropic.Anthropic, gpt: openai.OpenAI, specs: Path
) -> None:
    """Batch inputs that the real APIs took run here without an error, row for row."""
    files = sorted((specs.parent / "inputs" / "batch-files").glob("*.jsonl"))
    assert files
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if file.name.startswith("anthropic"):
            batch = claude.messages.batches.create(requests=lines)
            box.settle()
            rows = list(claude.messages.batches.results(batch.id))
            assert [row.result.type for row in rows] == ["succeeded"] * len(lines), file.name
        else:
            made = ended(box, gpt, file.read_bytes(), endpoint=lines[0]["url"])
            assert made.status == "completed", (file.name, made.errors)
            assert made.request_counts.completed == len(lines), file.name
