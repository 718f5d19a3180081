"""Citations through whole runs: compared with the documents, quotes that are false dropped."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from batchata_prefect import Batch, Job, JobResult, ValidationError
from batchata_prefect.jobs.spool import SpoolReader
from tests.unit.content.test_documents import PNG, make_pdf

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
BILL = "Vendor: Acme Trading Ltd\nInvoice number: 4711\nTotal: 1,250.50\nThanks for the order.\n"
PAGES = ("Vendor: Acme Trading Ltd", "Total: 1,250.50")


class Bill(BaseModel):
    """What the structured jobs ask for."""

    vendor: str
    total: Decimal


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A text and a PDF."""
    text, pdf = tmp_path / "bill.txt", tmp_path / "bill.pdf"
    text.write_text(BILL)
    pdf.write_bytes(make_pdf(*PAGES))
    return {"text": text, "pdf": pdf}


def new_batch(tmp_path: Path, **defaults: Any) -> Batch:
    batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    return batch.set_default_params(max_tokens=2000, **defaults)


def completed(batch: Batch) -> dict[str, JobResult]:
    results = batch.run().results()
    assert results["failed"] == results["cancelled"] == []
    return {result.job_id: result for result in results["completed"]}


def fields(result: JobResult) -> dict[str, list[str]]:
    assert result.citation_mappings is not None
    return {path: [one.text for one in found] for path, found in result.citation_mappings.items()}


pytestmark = pytest.mark.usefixtures("prefect_server", "sandbox")


def test_claudes_citations_are_compared_with_the_documents(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    """The API's places in a text and in a PDF, with and without a response model."""
    batch = new_batch(tmp_path, model=CLAUDE, enable_citations=True)
    for kind, file in files.items():
        batch.add_job(file=file, prompt="Read it.", id=kind)
        batch.add_job(file=file, prompt="Read it.", response_model=Bill, id=f"{kind}-model")
    found = completed(batch)
    assert len(found) == 4
    for result in found.values():
        assert result.citations
        assert all(citation.metadata["verified"] is True for citation in result.citations)
        assert result.citations_dropped == 0
    kinds = {name: result.citations[0].metadata["type"] for name, result in found.items()}
    assert (kinds["text"], kinds["pdf"]) == ("char_location", "page_location")
    assert fields(found["pdf-model"]) == {"vendor": [PAGES[0]], "total": [PAGES[1]]}
    mapped = found["pdf-model"].citation_mappings["total"][0]
    assert (mapped.page, mapped.metadata["verified"]) == (2, True)


@pytest.mark.parametrize(
    ("model", "endpoint"), [(GPT, None), (GPT, "/v1/responses"), (CLAUDE, None)]
)
def test_quotes_are_compared_and_false_ones_dropped(
    tmp_path: Path, files: dict[str, Path], model: str, endpoint: str | None
) -> None:
    """Quotes that stand in the document are citations with their place, the others are counted."""
    batch = new_batch(tmp_path, model=model, endpoint=endpoint, citations="quoted")
    for kind, file in files.items():
        batch.add_job(file=file, prompt="Read it.", response_model=Bill, id=kind)
        prompt = "Read it. [[sandbox:misquote]]"
        batch.add_job(file=file, prompt=prompt, response_model=Bill, id=f"{kind}-false")
    found = completed(batch)
    expected = {"vendor": ["Vendor: Acme Trading Ltd"], "total": ["Total: 1,250.50"]}
    for name, result in found.items():
        assert result.parsed_response == Bill(vendor="Acme Trading Ltd", total=Decimal("1250.50"))
        assert fields(result) == expected
        assert [citation.metadata["verified"] for citation in result.citations] == [True, True]
        assert result.citations_dropped == name.endswith("-false")
        assert result.citations[0].source == f"bill.{'txt' if 'text' in name else 'pdf'}"
        assert result.citation_mappings["total"][0].confidence == "high"
        assert '"quotes"' in result.raw_response
    total = found["text"].citations[1].metadata
    assert BILL[total["start_char_index"] : total["end_char_index"]] == "Total: 1,250.50"
    assert [citation.page for citation in found["pdf"].citations] == [1, 2]


@pytest.mark.parametrize("model", [GPT, CLAUDE])
def test_a_plain_answer_with_quotes_is_text(
    tmp_path: Path, files: dict[str, Path], model: str
) -> None:
    """Without a response model the answer is the text itself, as it is without quotes."""
    batch = new_batch(tmp_path, model=model)
    batch.add_job(file=files["text"], prompt="Read it.", citations="quoted", id="quoted")
    batch.add_job(file=files["text"], prompt="Read it.", id="plain")
    found = completed(batch)
    quoted = found["quoted"]
    assert quoted.raw_response == "bill.txt: Thanks for the order."
    assert quoted.parsed_response is None
    assert quoted.citations
    assert all(citation.metadata["verified"] for citation in quoted.citations)
    assert (found["plain"].citations, found["plain"].citations_dropped) == (None, 0)


def test_a_default_of_quotes_spares_jobs_that_can_have_none(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    """Jobs without a document, and jobs that want no citations, are answered in plain text."""
    batch = new_batch(tmp_path, model=GPT, citations="quoted")
    batch.add_job(prompt="Hello", id="no-document")
    batch.add_job(file=files["text"], prompt="Read.", enable_citations=False, id="not-wanted")
    batch.add_jobs([Job(id="job", model=GPT, file=files["text"], prompt="Read.")])
    found = completed(batch)
    assert found["no-document"].raw_response.startswith("The sandbox was asked: Hello")
    assert [found[name].citations for name in ("no-document", "not-wanted")] == [None, None]
    assert found["job"].citations


def test_a_document_in_the_messages_is_quoted(tmp_path: Path) -> None:
    """A PDF that the user put into the messages counts as one in `file`."""
    data = base64.b64encode(make_pdf(*PAGES)).decode()
    url = f"data:application/pdf;base64,{data}"
    part = {"type": "file", "file": {"filename": "own.pdf", "file_data": url}}
    content = [part, {"type": "text", "text": "Read it. [[sandbox:misquote]]"}]
    batch = new_batch(tmp_path, model=GPT, citations="quoted", response_model=Bill)
    batch.add_job(messages=[{"role": "user", "content": content}])
    (result,) = completed(batch).values()
    assert [(one.source, one.page) for one in result.citations] == [("own.pdf", 1), ("own.pdf", 2)]
    assert result.citations_dropped == 1


def test_quotes_of_several_documents_name_theirs(tmp_path: Path, files: dict[str, Path]) -> None:
    """Documents are told apart by their place in the request, images among them."""
    image = tmp_path / "dot.png"
    image.write_bytes(PNG)
    other = tmp_path / "other.txt"
    other.write_text("Discount: 17 percent\n")
    batch = new_batch(tmp_path, model=GPT, citations="quoted")
    batch.add_job(file=[image, files["pdf"], other], prompt="Read them.", id="three")
    (result,) = completed(batch).values()
    told = {(one.source, one.metadata["document_index"]) for one in result.citations}
    assert told == {("bill.pdf", 1), ("other.txt", 2)}
    assert result.citations_dropped == 0


def test_quotes_are_dropped_again_without_a_new_call(
    tmp_path: Path, files: dict[str, Path], sandbox: Any
) -> None:
    """A second run reads the same replies and counts the same."""

    def run() -> list[JobResult]:
        batch = new_batch(tmp_path, model=GPT, citations="quoted")
        batch.add_job(file=files["pdf"], prompt="[[sandbox:misquote]] Read.", response_model=Bill)
        return list(completed(batch).values())

    first, calls = run(), sandbox.ledger.calls()
    (tmp_path / "out" / "results.jsonl").unlink()
    assert run() == first
    assert first[0].citations_dropped == 1
    assert sandbox.ledger.calls() == calls


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("[[sandbox:truncated]] Read.", "truncated"),
        ("[[sandbox:invalid_json]] Read.", "invalid_json"),
        ('[[sandbox:reply {"answer": " ", "quotes": null}]]', "empty_answer"),
        ('[[sandbox:reply {"answer": 3, "quotes": null}]]', "invalid_output"),
        ("[[sandbox:reply Hello]]", "invalid_json"),
        ("[[sandbox:refusal]]", "refusal"),
    ],
)
def test_an_answer_without_its_form_is_a_failure(
    tmp_path: Path, files: dict[str, Path], prompt: str, code: str
) -> None:
    """Its reason is told and its text kept whole."""
    batch = new_batch(tmp_path, model=GPT, citations="quoted")
    batch.add_job(file=files["text"], prompt=prompt)
    (result,) = batch.run().results()["failed"]
    assert (result.error_code, result.citations, result.parsed_response) == (code, None, None)
    assert result.raw_response or code == "refusal"


def test_only_jobs_with_citations_read_their_request(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that cite nothing cost nothing more."""
    read: list[int] = []
    bodies = SpoolReader.bodies

    def counted(self: SpoolReader, ordinals: Any, **ways: Any) -> Iterator[bytes]:
        if isinstance(ordinals, list):
            read.extend(ordinals)
        return bodies(self, ordinals, **ways)

    monkeypatch.setattr(SpoolReader, "bodies", counted)
    batch = new_batch(tmp_path, model=CLAUDE)
    for at in range(4):
        batch.add_job(
            file=files["text"], prompt="Read it.", enable_citations=at == 2, id=f"job-{at}"
        )
    completed(batch)
    assert read == [2]


def test_results_hold_the_count_in_a_column(tmp_path: Path, files: dict[str, Path]) -> None:
    """Every row has the count, those without citations and the failed ones too."""
    batch = new_batch(tmp_path, model=GPT)
    batch.add_job(prompt="Hello", id="plain")
    batch.add_job(file=files["text"], prompt="[[sandbox:misquote]]", citations="quoted", id="false")
    batch.add_job(prompt="[[sandbox:refusal]]", id="failed")
    batch.run()
    rows = [orjson.loads(line) for line in (tmp_path / "out" / "results.jsonl").open("rb")]
    assert {row["job_id"]: row["citations_dropped"] for row in rows} == {
        "plain": 0,
        "false": 1,
        "failed": 0,
    }


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ({"enable_citations": True, "file": "text"}, "citations='quoted'"),
        ({"citations": "quoted"}, "needs a document whose text"),
        ({"citations": "exact", "file": "text"}, "citations is 'quoted' or left out"),
    ],
)
def test_what_cannot_be_cited_is_refused(
    tmp_path: Path, files: dict[str, Path], job: dict[str, Any], told: str
) -> None:
    """Before anything is sent, with the way out."""
    file = files.get(job.pop("file", ""))
    with pytest.raises(ValidationError, match=told):
        new_batch(tmp_path, model=GPT).add_job(file=file, prompt="Read it.", **job)
