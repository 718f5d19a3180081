"""What a person would write with the official SDKs: send, wait, write id, text and usage."""

from __future__ import annotations

import json
import time
from typing import Any

from .work import Clock, Work, body


def plain(work: Work) -> None:
    """Answer all jobs."""
    (_anthropic if work.provider == "anthropic" else _openai)(work)


def _anthropic(work: Work) -> None:
    import anthropic

    clock = Clock()
    client = anthropic.Anthropic()
    batches: list[str] = []
    for start in work.starts():
        requests: list[Any] = [
            {"custom_id": str(n), "params": body(work, n)} for n in work.ordinals(start)
        ]
        batches.append(client.messages.batches.create(requests=requests).id)
    with (work.folder / "plain.jsonl").open("w") as file:
        for batch in batches:
            while client.messages.batches.retrieve(batch).processing_status != "ended":
                time.sleep(0.5)
            for row in client.messages.batches.results(batch):
                assert row.result.type == "succeeded"
                message = row.result.message
                text = "".join(block.text for block in message.content if block.type == "text")
                usage = [message.usage.input_tokens, message.usage.output_tokens]
                file.write(json.dumps({"id": row.custom_id, "text": text, "usage": usage}) + "\n")
    clock.tell()


def _openai(work: Work) -> None:
    import openai

    clock = Clock()
    client = openai.OpenAI()
    batches: list[Any] = []
    path = "/v1/chat/completions"
    for start in work.starts():
        requests = work.folder / f"plain-{start}.jsonl"
        with requests.open("w") as file:
            for n in work.ordinals(start):
                line = {"custom_id": str(n), "method": "POST", "url": path, "body": body(work, n)}
                file.write(json.dumps(line) + "\n")
        with requests.open("rb") as sent:
            upload = client.files.create(file=sent, purpose="batch")
        batches.append(
            client.batches.create(input_file_id=upload.id, endpoint=path, completion_window="24h")
        )
    with (work.folder / "plain.jsonl").open("w") as file:
        for batch in batches:
            while (batch := client.batches.retrieve(batch.id)).status != "completed":
                assert batch.status in {"validating", "in_progress", "finalizing"}, batch
                time.sleep(0.5)
            assert batch.output_file_id
            for line in client.files.content(batch.output_file_id).text.splitlines():
                row = json.loads(line)
                answer = row["response"]["body"]
                text = answer["choices"][0]["message"]["content"]
                usage = [answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]]
                told = {"id": row["custom_id"], "text": text, "usage": usage}
                file.write(json.dumps(told) + "\n")
    clock.tell()
