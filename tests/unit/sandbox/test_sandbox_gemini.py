"""Google's own SDK against the sandbox: what it sends is taken, and what is wrong is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.sandbox import Sandbox

genai = pytest.importorskip("google.genai", reason="an extra")
MODEL = "gemini-2.5-flash"
PROMPT = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.fixture
def client(box: Sandbox) -> Iterator[Any]:
    known = box.environment()
    made = genai.Client(
        api_key=known["GEMINI_API_KEY"],
        http_options={"base_url": known["GOOGLE_GEMINI_BASE_URL"]},
    )
    yield made
    made.close()


def uploaded(client: Any, tmp_path: Path, *lines: Any) -> Any:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return client.files.upload(file=path, config={"mime_type": "application/jsonl"})


def ended(client: Any, name: str) -> Any:
    states = {"JOB_STATE_PENDING", "JOB_STATE_RUNNING"}
    while (job := client.batches.get(name=name)).state.name in states:
        time.sleep(0.05)
    return job


def test_a_batch_lives_through_the_sdks_methods(client: Any, tmp_path: Path) -> None:
    """Upload, create, list, get, download, delete; a bad request fails alone."""
    wrong = {**PROMPT, "generationConfig": {"temprature": 1}}
    file = uploaded(
        client, tmp_path, {"key": "a", "request": PROMPT}, {"key": "b", "request": wrong}
    )
    made = client.batches.create(model=MODEL, src=file.name, config={"display_name": "mine"})
    job = ended(client, made.name)
    assert (job.state.name, job.display_name) == ("JOB_STATE_SUCCEEDED", "mine")
    rows = {
        row["key"]: row
        for row in map(orjson.loads, client.files.download(file=job.dest.file_name).splitlines())
    }
    answer = genai.types.GenerateContentResponse.model_validate(rows["a"]["response"])
    assert answer.text
    assert answer.usage_metadata.thoughts_token_count
    assert rows["b"]["error"]["code"] == 3
    assert "Unknown name \"temprature\" at 'generation_config'" in rows["b"]["error"]["message"]
    listed = {each.name for each in client.batches.list(config={"page_size": 1})}
    assert made.name in listed
    assert list(client.batches.list()) == [], "as was seen [python-genai#1250]"
    client.files.delete(name=file.name)
    with pytest.raises(genai.errors.ClientError):
        client.files.get(name=file.name)


def test_a_direct_call_and_a_form(client: Any) -> None:
    """What the SDK makes of its own configuration is taken."""
    config = {
        "response_mime_type": "application/json",
        "response_json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "system_instruction": "Be brief.",
        "temperature": 0.5,
        "thinking_config": {"thinking_budget": 100},
    }
    answer = client.models.generate_content(model=MODEL, contents="a: 7", config=config)
    assert orjson.loads(answer.text) == {"a": 7}
    assert answer.candidates[0].finish_reason.name == "STOP"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"generationConfig": {}}, "contents is not specified"),
        ({**PROMPT, "messages": []}, 'Unknown name "messages": Cannot find field'),
        ({"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}, "valid role"),
        ({"contents": [{"parts": [{"type": "text", "text": "a"}]}]}, 'Unknown name "type"'),
        ({"contents": [{"parts": []}]}, "must not be empty"),
        ({**PROMPT, "generationConfig": {"maxOutputTokens": 0}}, "max_output_tokens"),
        ({**PROMPT, "generation_config": {"top_pp": 0}}, 'Unknown name "top_pp"'),
        (
            {**PROMPT, "generationConfig": {"responseJsonSchema": {"type": "object"}}},
            "only allowed",
        ),
        (
            {
                **PROMPT,
                "generationConfig": {
                    "responseMimeType": "application/json",
                    "responseJsonSchema": {"type": "string", "pattern": "a"},
                },
            },
            "'pattern' is not supported",
        ),
        (
            {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]}]},
            "process input image",
        ),
    ],
)
def test_what_is_wrong_is_refused(client: Any, body: Any, told: str) -> None:
    """With a 400 whose text names it."""
    with pytest.raises(genai.errors.ClientError, match="INVALID_ARGUMENT") as refused:
        client._api_client.request("post", f"models/{MODEL}:generateContent", body)
    assert told in refused.value.message


def test_a_wrong_key_a_missing_file_and_a_full_queue(
    box: Sandbox, client: Any, tmp_path: Path
) -> None:
    """Each is refused as the API does it, and nothing is created."""
    options = {"base_url": box.environment()["GOOGLE_GEMINI_BASE_URL"]}
    stranger = genai.Client(api_key="wrong", http_options=options)
    with pytest.raises(genai.errors.ClientError, match="API key not valid"):
        stranger.batches.get(name="batches/x")
    with pytest.raises(genai.errors.ClientError, match="or it may not exist"):
        client.batches.create(model=MODEL, src="files/none", config={"display_name": "a"})
    file = uploaded(client, tmp_path, {"key": "a", "request": PROMPT})
    box.limits(enqueued_tokens=1)
    with pytest.raises(genai.errors.ClientError, match="RESOURCE_EXHAUSTED"):
        client.batches.create(model=MODEL, src=file.name, config={"display_name": "a"})
    assert not [batch for batch in box.ledger.batches() if batch.metadata == {"displayName": "a"}]


@pytest.mark.parametrize(
    "lines", [[7], [{"key": "a"}], [{"key": "a", "request": PROMPT}] * 2, [{"custom_id": "a"}]]
)
def test_a_file_of_other_lines_fails_the_batch(client: Any, tmp_path: Path, lines: Any) -> None:
    """As a whole, and before anything runs."""
    file = uploaded(client, tmp_path, *lines)
    made = client.batches.create(model=MODEL, src=file.name, config={"display_name": "bad"})
    assert ended(client, made.name).state.name == "JOB_STATE_FAILED"
