"""The SDK's own clients against the sandbox: what they send is taken, and what is wrong is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest

from batchata_prefect.sandbox import Sandbox

DAYS_14 = 14 * 86_400


@pytest.fixture(params=["v1", "2024-10-21"])
def client(box: Sandbox, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """The client that the documents take for either path; their keys come in other headers."""
    known = box.environment()
    endpoint, key = known["AZURE_OPENAI_ENDPOINT"], known["AZURE_OPENAI_API_KEY"]
    if request.param == "v1":
        made = openai.OpenAI(base_url=f"{endpoint}/openai/v1", api_key=key, max_retries=0)
    else:
        made = openai.AzureOpenAI(
            azure_endpoint=endpoint, api_key=key, api_version=request.param, max_retries=0
        )
    yield made
    made.close()


def line(number: int, url: str = "/chat/completions", model: str = "fleet", **more: Any) -> Any:
    messages = [{"role": "user", "content": "Hello"}]
    said = {"input": "Hello"} if url.endswith("responses") else {"messages": messages}
    body = {"model": model, **said}
    return {"custom_id": f"c-{number}", "method": "POST", "url": url, "body": body, **more}


def batch_of(client: openai.OpenAI, *lines: Any, **more: Any) -> Any:
    """The batch of these lines, once it has ended."""
    data = b"".join(orjson.dumps(each) + b"\n" for each in lines)
    after = {"anchor": "created_at", "seconds": DAYS_14}
    file = client.files.create(
        file=("r.jsonl", data), purpose="batch", extra_body={"expires_after": after}
    )
    while client.files.retrieve(file.id).status != "processed":
        time.sleep(0.02)
    order: Any = {"endpoint": "/chat/completions", "completion_window": "24h", **more}
    batch = client.batches.create(input_file_id=file.id, **order)
    while batch.status not in {"completed", "failed"}:
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


@pytest.mark.parametrize("url", ["/chat/completions", "/v1/chat/completions", "/v1/responses"])
def test_a_batch_is_of_the_kind_of_its_lines(client: openai.OpenAI, url: str) -> None:
    """Whatever the create says; the list has it, with the metadata that it was made with."""
    batch = batch_of(client, line(0, url), line(1, url), metadata={"mine": "yes"})
    assert (batch.status, batch.request_counts.completed) == ("completed", 2)
    rows = client.files.content(batch.output_file_id).text.splitlines()
    kinds = {orjson.loads(row)["response"]["body"]["object"] for row in rows}
    assert kinds == {"response" if url.endswith("responses") else "chat.completion"}
    assert {each.id: each.metadata for each in client.batches.list()}[batch.id] == {"mine": "yes"}
    assert batch.error_file_id == ""


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([line(0), line(1, "/v1/chat/completions")], "url_mismatch"),
        ([line(0, "/v1/embeddings")], "url_mismatch"),
        ([line(0), line(1, model="gpt-4o-reader")], "model_mismatch"),
        ([line(0, model="gpt-6-luna")], "model_not_found"),
        ([line(0, model="fleet-live")], "model_not_found"),
        ([line(0), line(0)], "duplicate_custom_id"),
        ([], "empty_file"),
    ],
)
def test_lines_that_are_refused(client: openai.OpenAI, lines: list[Any], code: str) -> None:
    """In the codes that the documents name; nothing of the batch runs."""
    batch = batch_of(client, *lines)
    assert (batch.status, batch.errors.data[0].code) == ("failed", code)


def test_what_a_resource_refuses(client: openai.OpenAI, box: Sandbox) -> None:
    """Files that end too soon or serve no batch, and a batch of a file that is not processed."""
    data: Any = {"file": ("r.jsonl", b"{}"), "purpose": "batch"}
    soon = {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    with pytest.raises(openai.BadRequestError, match="1209600"):
        client.files.create(**data, extra_body=soon)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(**{**data, "purpose": "user_data"})
    box.limits(pending_seconds=3600)
    file = client.files.create(**data)
    with pytest.raises(openai.BadRequestError, match="not been processed"):
        client.batches.create(
            input_file_id=file.id,
            endpoint="/chat/completions",  # type: ignore[arg-type]
            completion_window="24h",
        )


def test_direct_requests_go_to_a_deployment_for_them(client: openai.OpenAI) -> None:
    """By its name in the path or in the body; one for batches refuses them."""
    asked: Any = {"messages": [{"role": "user", "content": "Hello"}]}
    assert client.chat.completions.create(model="fleet-live", **asked).model == "gpt-6-luna"
    with pytest.raises(openai.BadRequestError, match="unsupported"):
        client.chat.completions.create(model="fleet", **asked)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-6-luna", **asked)
    with pytest.raises(openai.AuthenticationError, match="subscription key"):
        client.with_options(api_key="wrong").chat.completions.create(model="fleet", **asked)
