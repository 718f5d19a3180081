"""OpenTelemetry spans of provider batches, through the real SDK's exporter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batchata_prefect import Batch
from batchata_prefect.views import spans

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What a tracer provider gets; a process can set one only once, so the tracer is set here."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("batchata_prefect"))
    yield exporter
    provider.shutdown()


def test_one_span_for_each_provider_batch(
    tmp_path: Path, sandbox, exported: InMemorySpanExporter
) -> None:
    """With provider, model, tokens, cost and flow run, and not a word of a job."""
    batch = Batch(tmp_path / "out", items_per_batch=3).set_state(file=tmp_path / "state")
    for n in range(3):
        batch.add_job(prompt=f"whisper {tmp_path} {n}", model="gpt-6-luna", max_tokens=100)
        marked = f"whisper {tmp_path} {n} [[sandbox:truncated]]"
        batch.add_job(prompt=marked, model="claude-sonnet-5-5", max_tokens=100)
    batch.add_job(prompt=f"whisper {tmp_path}", model="text-embedding-3-small")
    run = batch.run()
    assert run.manifest is not None
    found = exported.get_finished_spans()
    told: dict[Any, Any] = {span.attributes["batchata.batch_id"]: span for span in found}
    assert len(told) == len(found) == len(run.manifest["batches"]) == 3
    for each in run.manifest["batches"]:
        span = told[each["batch_id"]]
        kind = "embeddings" if each["model"].startswith("text") else "chat"
        assert span.name == f"{kind} {each['model']}"
        assert span.attributes["gen_ai.operation.name"] == kind
        assert span.attributes["gen_ai.provider.name"] == each["provider"]
        assert span.attributes["gen_ai.request.model"] == each["model"]
        assert span.attributes["gen_ai.usage.input_tokens"] == each["input_tokens"]
        assert span.attributes["gen_ai.usage.output_tokens"] == each["output_tokens"]
        assert span.attributes["batchata.cost_usd"] == each["cost_usd"]
        assert span.attributes["prefect.flow_run.id"] == run.flow_run_id
        assert span.status.is_ok != (each["provider"] == "anthropic")
        assert span.end_time >= span.start_time
        assert "whisper" not in span.to_json()


def test_a_tracer_that_fails_does_not_hold_a_run_up(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be traced is left out."""

    class Broken(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError

    monkeypatch.setattr(spans, "_tracer", Broken())
    batch = Batch(tmp_path / "out").add_job(prompt=f"{tmp_path}", model="gpt-6-luna")
    assert len(batch.run().results()["completed"]) == 1
