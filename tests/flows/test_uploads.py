"""Documents that several jobs share: uploaded once, referred to by id, deleted afterwards."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from pypdf import PdfWriter

from batchata_prefect import Batch
from batchata_prefect.errors import ValidationError
from batchata_prefect.providers.bodies import attachments, with_uploads
from tests.chaos.killing import Forker, log_of, told, until

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
FORMS = [(CLAUDE, None), (GPT, None), (GPT, "/v1/responses")]


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """A PDF of our own that is large enough for an upload."""
    writer = PdfWriter(Path(__file__).parents[2] / "flows" / "documents" / "invoice-1042.pdf")
    writer.add_attachment("noise.bin", os.urandom(150_000))
    path = tmp_path / "large.pdf"
    writer.write(path)
    return path


def make(tmp_path: Path, pdf: Path, model: str, endpoint: str | None, **options: Any) -> Batch:
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    for n in range(4):
        batch.add_job(
            file=pdf,
            prompt=f"{tmp_path}: what is {n}?",
            model=model,
            endpoint=endpoint,
            max_tokens=200,
            id=f"j{n}",
        )
    return batch


def sent(tmp_path: Path) -> bytes:
    files = (tmp_path / "out" / "raw_files" / "requests").glob("*.jsonl")
    return b"".join(file.read_bytes() for file in files)


@pytest.mark.parametrize(("model", "endpoint"), FORMS)
def test_uploaded_once_and_deleted(
    tmp_path: Path, sandbox, pdf: Path, model: str, endpoint: str | None
) -> None:
    """Four jobs and one upload; the requests carry its id, the answers read the document."""
    before = sandbox.ledger.calls()
    run = make(tmp_path, pdf, model, endpoint, upload_files=True).run()
    results = run.results()
    assert len(results["completed"]) == 4
    said = [r.raw_response or "" for r in results["completed"]]
    assert all("Continued on page 2" in text or "large.pdf" in text for text in said), said
    assert len(sent(tmp_path)) < 10_000
    assert sent(tmp_path).count(b'"file_id":"file') == 4
    after = sandbox.ledger.calls()
    provider = "anthropic" if model == CLAUDE else "openai"
    batch_files = 0 if model == CLAUDE else 1
    assert _grown(before, after, provider, "upload") == 1 + batch_files
    assert _grown(before, after, provider, "delete") == 1 + batch_files
    again = make(tmp_path, pdf, model, endpoint, upload_files=True).run()
    assert _grown(after, sandbox.ledger.calls(), provider, "upload") == 0
    assert len(again.results()["completed"]) == 4


def _grown(before: dict[str, int], after: dict[str, int], provider: str, operation: str) -> int:
    name = f"{provider}.{operation}"
    return after.get(name, 0) - before.get(name, 0)


@pytest.mark.parametrize(("model", "endpoint"), FORMS)
def test_inline_where_it_does_not_pay(
    tmp_path: Path, sandbox, pdf: Path, model: str, endpoint: str | None
) -> None:
    """By itself a document of some hundred kilobytes goes in each request."""
    make(tmp_path, pdf, model, endpoint).run()
    assert len(sent(tmp_path)) > 4 * 100_000


def test_a_provider_that_takes_no_uploads(tmp_path: Path, sandbox, pdf: Path) -> None:
    """The documents go in the requests, as before."""
    sandbox.fault("anthropic", operation="upload", mode="status", status=403, times=None)
    run = make(tmp_path, pdf, CLAUDE, None, upload_files=True).run()
    assert len(run.results()["completed"]) == 4
    assert len(sent(tmp_path)) > 4 * 100_000


@pytest.mark.parametrize(
    ("provider", "model"), [("gemini", "gemini-2.5-flash"), ("azure", "fleet"), ("lab", "m")]
)
def test_uploads_that_a_provider_cannot_store_are_refused(
    tmp_path: Path, pdf: Path, provider: str, model: str
) -> None:
    """Asked for, they are no wish that is dropped without a word; by default they go inline."""
    lab = {"lab": {"kind": "openai", "base_url": "http://lab.test/v1", "api_key_env": "K"}}
    batch = Batch(tmp_path / "out", upload_files=True, accounts=lab)
    batch.add_job(file=pdf, prompt="?", model=model, provider=provider, id="alone")
    batch.add_job(file=pdf, prompt="!", model=model, provider=provider, id="other")
    with pytest.raises(ValidationError, match=f"{provider} .*'alone'.*nothing was sent"):
        batch.run()


def test_citations_are_verified_in_an_uploaded_document(tmp_path: Path, sandbox, pdf: Path) -> None:
    """The run still holds the document that it uploaded."""
    batch = Batch(tmp_path / "out", upload_files=True).set_state(file=tmp_path / "state")
    for n in range(2):
        batch.add_job(
            file=pdf,
            prompt=f"{n}: what does it say?",
            model=CLAUDE,
            max_tokens=300,
            enable_citations=True,
            id=f"j{n}",
        )
    results = batch.run().results()["completed"]
    citations = [c for result in results for c in result.citations or ()]
    assert citations
    assert all((c.metadata or {}).get("verified") for c in citations)
    assert sent(tmp_path).count(b'"file_id":"file') == 2


def test_found_again_after_a_kill(
    tmp_path: Path, sandbox, pdf: Path, forker: Forker, billed
) -> None:
    """A process that is killed after its upload leaves one that the next one uses and deletes."""
    job = told(tmp_path, jobs=4, models=[CLAUDE], file=str(pdf), upload_files=True)
    before = sandbox.ledger.calls()
    sandbox.fault("anthropic", operation="create", mode="status", status=429, times=None)
    pid = forker.start(job)
    until(lambda: _grown(before, sandbox.ledger.calls(), "anthropic", "create"), job)
    os.kill(pid, signal.SIGKILL)
    assert forker.wait() == -9
    sandbox.clear_faults()
    assert forker.run(job)[0] == 0, log_of(job)
    assert len(billed()) == 4
    after = sandbox.ledger.calls()
    assert _grown(before, after, "anthropic", "upload") == 1
    assert _grown(before, after, "anthropic", "delete") == 1


def test_only_known_files_are_replaced() -> None:
    """A body keeps every file that was not uploaded, byte by byte."""
    data = base64.b64encode(os.urandom(120_000)).decode()
    block = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": data},
        "title": "a",
    }
    body = orjson.dumps({"messages": [{"role": "user", "content": [block, block]}]})
    (first, _) = attachments(orjson.loads(body))
    assert with_uploads(body, {"0" * 64: "file_1"}) == body
    changed = orjson.loads(with_uploads(body, {first.digest: "file_1"}))
    parts = changed["messages"][0]["content"]
    assert [part["source"] for part in parts] == [{"type": "file", "file_id": "file_1"}] * 2
    assert [part["title"] for part in parts] == ["a", "a"]
