"""This package against a plain script over the official SDKs, on one sandbox, in one run.

    python tests/bench.py [--sizes 10000 100000] [--seconds 1.0]

Every measurement is a process of its own. Times are seconds of wall clock from the first job to
the last result on disk; imports and the Prefect server's start are not in them, the flow run is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-6-luna"}
PER_BATCH = {"anthropic": 100_000, "openai": 50_000}
PROMPT = "Classify the ticket in one word. Ticket {n}: the printer on floor {n} is out of paper."
MAX_TOKENS = 64


def ours(provider: str, count: int, out: Path) -> None:
    """The jobs through this package."""
    import batchata_prefect.flow  # noqa: F401
    from batchata_prefect import Batch

    _import_sdk(provider)
    began = time.perf_counter()
    batch = Batch(out / "results", items_per_batch=PER_BATCH[provider], raw_files=False)
    batch.set_state(file=out / "state")
    batch.set_default_params(model=MODELS[provider], max_tokens=MAX_TOKENS)
    for n in range(count):
        batch.add_job(prompt=PROMPT.format(n=n), id=str(n))
    added = time.perf_counter()
    run = batch.run()
    done = time.perf_counter()
    assert run.status()["completed"] == count, run.status()
    _tell(done - began, add=added - began)


def plain_anthropic(count: int, out: Path) -> None:
    """What a person would write with the SDK."""
    import anthropic

    began = time.perf_counter()
    client = anthropic.Anthropic()
    with (out / "plain.jsonl").open("w") as file:
        for start in range(0, count, PER_BATCH["anthropic"]):
            requests: list[Any] = [
                {
                    "custom_id": str(n),
                    "params": {
                        "model": MODELS["anthropic"],
                        "max_tokens": MAX_TOKENS,
                        "messages": [{"role": "user", "content": PROMPT.format(n=n)}],
                    },
                }
                for n in range(start, min(start + PER_BATCH["anthropic"], count))
            ]
            batch = client.messages.batches.create(requests=requests)
            while client.messages.batches.retrieve(batch.id).processing_status != "ended":
                time.sleep(0.5)
            for row in client.messages.batches.results(batch.id):
                assert row.result.type == "succeeded"
                message = row.result.message
                text = "".join(block.text for block in message.content if block.type == "text")
                usage = [message.usage.input_tokens, message.usage.output_tokens]
                file.write(json.dumps({"id": row.custom_id, "text": text, "usage": usage}) + "\n")
    _tell(time.perf_counter() - began)


def plain_openai(count: int, out: Path) -> None:
    """What a person would write with the SDK."""
    import openai

    began = time.perf_counter()
    client = openai.OpenAI()
    batches = []
    for start in range(0, count, PER_BATCH["openai"]):
        path = out / f"requests-{start}.jsonl"
        with path.open("w") as file:
            for n in range(start, min(start + PER_BATCH["openai"], count)):
                body = {
                    "model": MODELS["openai"],
                    "max_completion_tokens": MAX_TOKENS,
                    "messages": [{"role": "user", "content": PROMPT.format(n=n)}],
                }
                line = {
                    "custom_id": str(n),
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": body,
                }
                file.write(json.dumps(line) + "\n")
        with path.open("rb") as file:
            upload = client.files.create(file=file, purpose="batch")
        batches.append(
            client.batches.create(
                input_file_id=upload.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        )
    with (out / "plain.jsonl").open("w") as file:
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
                file.write(
                    json.dumps({"id": row["custom_id"], "text": text, "usage": usage}) + "\n"
                )
    _tell(time.perf_counter() - began)


def _import_sdk(provider: str) -> None:
    __import__(provider)


def _tell(seconds: float, **more: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        **more,
    }
    print("BENCH " + json.dumps(told), flush=True)


def measure(who: str, provider: str, count: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    out = Path(tempfile.mkdtemp(prefix="bench-"))
    command = [sys.executable, __file__, "--one", who, provider, str(count), str(out)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    shutil.rmtree(out, ignore_errors=True)
    for line in done.stdout.splitlines():
        if line.startswith("BENCH "):
            return json.loads(line[6:])
    raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--providers", nargs="+", default=["anthropic", "openai"])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--one", nargs=4)
    told = parser.parse_args()
    if told.one:
        who, provider, count, out = told.one
        if who == "ours":
            ours(provider, int(count), Path(out))
        else:
            {"anthropic": plain_anthropic, "openai": plain_openai}[provider](int(count), Path(out))
        return

    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    from batchata_prefect.sandbox import Sandbox

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"a provider batch takes {told.seconds} s; costs of imports and server start left out\n")
    head = ("provider", "jobs", "who", "wall s", "CPU s", "peak MB", "API calls", "ratio")
    print(" | ".join(f"{name:>9}" for name in head))
    peaks: dict[tuple[str, int], float] = {}
    with prefect_test_harness(server_startup_timeout=120):
        for provider in told.providers:
            for count in told.sizes:
                plain_seconds = 0.0
                for who in ("plain", "ours"):
                    data = Path(tempfile.mkdtemp(prefix="bench-sandbox-"))
                    with Sandbox(data, seconds=told.seconds) as sandbox:
                        environment = {
                            "PREFECT_API_URL": PREFECT_API_URL.value(),
                            **sandbox.environment(),
                        }
                        found = measure(who, provider, count, environment)
                        calls = sum(sandbox.ledger.calls().values())
                    shutil.rmtree(data, ignore_errors=True)
                    ratio = ""
                    if who == "plain":
                        plain_seconds = found["seconds"]
                    else:
                        ratio = f"{found['seconds'] / plain_seconds:.2f}"
                        peaks[provider, count] = found["peak_mb"]
                    row = (
                        provider,
                        f"{count:,}",
                        who,
                        f"{found['seconds']:.1f}",
                        f"{found['cpu_seconds']:.1f}",
                        f"{found['peak_mb']:.0f}",
                        str(calls),
                        ratio,
                    )
                    print(" | ".join(f"{value:>9}" for value in row), flush=True)
    print()
    for provider in told.providers:
        small, large = min(told.sizes), max(told.sizes)
        growth = peaks[provider, large] / peaks[provider, small]
        print(f"{provider}: peak memory at {large:,} jobs is {growth:.2f} times that at {small:,}")


if __name__ == "__main__":
    main()
