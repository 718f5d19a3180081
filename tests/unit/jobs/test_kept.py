"""Jobs that were made from a file are taken over by the next start, and are the same jobs."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pypdf import PdfWriter

from batchata_prefect import Batch
from batchata_prefect.jobs.spool import IN_FLIGHT, Spool


class Ticket(BaseModel):
    word: str


def write(path: Path, count: int = 3_000, **more: Any) -> Path:
    rows = ({"id": f"r{n}", "text": f"Ticket {n}", "team": n % 3, **more} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(out: Path, source: Path, **values: Any) -> tuple[Batch, Spool]:
    batch = Batch(out).set_default_params(model="gpt-6-luna", max_tokens=values.pop("most", 64))
    batch.add_rows(source, values.pop("prompt", "Say it: {text}"), **values)
    run = batch._prepare(None, 1.0)
    return batch, run._session.spool


def told(batch: Batch, spool: Spool) -> Any:
    """All that the rest of the package can ask of a spool."""
    families = spool.families()
    rows = [list(spool.waiting(family, 0)) for family in families]
    reader = spool.reader()
    try:
        bodies = list(reader.bodies(range(spool.count)))
        contexts = [reader.context(n) for n in range(spool.count)]
    finally:
        reader.close()
    sizes = [spool.size(family) for family in families]
    examples = [spool.example(family) for family in families]
    beside = spool.has_prefixes, spool.files
    return spool.digest, families, sizes, examples, rows, bodies, contexts, beside


def was_kept(out: Path) -> list[str]:
    return [path.name for path in (out / ".batchata").glob("jobs-*")]


def test_jobs_taken_over_are_those_made_anew(tmp_path: Path) -> None:
    """The second start has the same jobs, requests, metadata and digest, unread and unrendered."""
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out"
    first = told(*made(out, source))
    inode = (next((out / ".batchata").glob("jobs-*")) / "bodies").stat().st_ino
    batch, again = made(out, source)
    assert told(batch, again) == first
    assert len(batch) == 3_000
    assert (again.directory / "bodies").stat().st_ino == inode


def test_what_is_uploaded_and_sent_side_by_side_is_kept_too(tmp_path: Path) -> None:
    """Large files inside the rows, and prefixes that the jobs share."""
    pdf = tmp_path / "a.pdf"
    writer = PdfWriter()
    writer.add_blank_page(72, 72)
    writer.add_attachment("large", os.urandom(150_000))
    writer.write(pdf)
    data = base64.b64encode(pdf.read_bytes()).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    content = [{"type": "document", "source": source}, {"type": "text", "text": "What is it?"}]
    row = {"model": "claude-sonnet-5-5", "messages": [{"role": "user", "content": content}]}
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(3)))
    system, out = "Be brief. " * 2_000, tmp_path / "out"

    def start() -> Any:
        return told(*made(out, rows, prompt=None, cache_prefix=True, system=system))

    first = start()
    assert was_kept(out)
    assert first[-1][0]
    assert [jobs for jobs, _ in first[-1][1].values()] == [3]
    assert start() == first


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Say: {text}"},
        {"most": 65},
        {"metadata_columns": ["team"]},
        {"id_column": "text"},
        {"tags": ["a"]},
        {"response_model": Ticket},
        {"model": "gpt-6-sol"},
    ],
)
def test_another_way_to_make_them_makes_them_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    """Where an argument or a default is another, the jobs are what they are in a new folder."""
    source = write(tmp_path / "in.jsonl", 20)
    made(tmp_path / "out", source)
    assert told(*made(tmp_path / "out", source, **dict(change))) == told(
        *made(tmp_path / "new", source, **dict(change))
    )
    assert len(was_kept(tmp_path / "out")) == 1


def test_rows_that_make_no_job_are_kept_too(tmp_path: Path) -> None:
    """With their reasons and states; but where a document was missing, which may be there now."""
    source, out = write(tmp_path / "in.jsonl", 40), tmp_path / "out"
    rows = source.read_text().splitlines()
    again, empty = {"id": "r7", "text": "Once more"}, {"id": "e", "text": " "}
    rows[20:20] = [json.dumps(again), "{", json.dumps(empty)]
    source.write_text("\n".join(rows))

    def all_told(prompt: str) -> Any:
        batch, spool = made(out, source, on_bad_row="skip", prompt=prompt)
        codes, counts = list(spool.states.codes), dict(spool.states.counts)
        spool.states.move(range(9), IN_FLIGHT)
        spool.reset()
        assert list(spool.states.codes) == codes
        assert dict(+spool.states.counts) == {k: n for k, n in counts.items() if n}
        return told(batch, spool), codes, list(spool.faults()), batch.remarks

    first = all_told("{text}")
    assert was_kept(out)
    places = [fault.rpartition("jsonl' ")[2].partition(":")[0] for fault in first[2]]
    assert places == ["row 21", "line 22", "line 23"]
    assert len(first[0][4][0]) == 40, "what waits"
    assert all_told("{text}") == first
    assert len(all_told("Say {text}")[2]) == 2, "what was empty is asked"
    other = tmp_path / "documents.jsonl"
    other.write_text(json.dumps({"id": "x", "prompt": "Read it", "file": "later.txt"}))
    for there in (False, True):
        if there:
            (tmp_path / "later.txt").write_text("It is here now.")
        _, spool = made(tmp_path / "two", other, prompt=None, on_bad_row="skip")
        assert (spool.count, spool.refused) == (1, not there)
    assert not was_kept(tmp_path / "two")


def test_another_file_of_that_name_is_read(tmp_path: Path) -> None:
    """What counts is what stands in the file."""
    source = write(tmp_path / "in.jsonl", 20)
    made(tmp_path / "out", source)
    write(source, 21)
    assert len(made(tmp_path / "out", source)[0]) == 21


def test_an_answer_class_comes_with_the_jobs(tmp_path: Path) -> None:
    """Jobs taken over with a response model have it for their answers."""
    source = write(tmp_path / "in.jsonl", 20)
    first, _ = made(tmp_path / "out", source, response_model=Ticket)
    again, spool = made(tmp_path / "out", source, response_model=Ticket)
    assert spool._restored is not None
    assert again._intake.schemas.keys() == first._intake.schemas.keys()
    assert [schema.model for schema in again._intake.schemas.values()] == [Ticket]


def test_jobs_with_documents_are_made_anew(tmp_path: Path) -> None:
    """A document may have changed though the file that names it has not."""
    (tmp_path / "a.txt").write_text("old words")
    source = write(tmp_path / "in.jsonl", 3, doc="a.txt")
    old = told(*made(tmp_path / "out", source, file_column="doc"))
    assert was_kept(tmp_path / "out") == []
    (tmp_path / "a.txt").write_text("new words")
    assert told(*made(tmp_path / "out", source, file_column="doc")) != old


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _overwrite(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:50] + b"\xff" * 30 + data[80:])


@pytest.mark.parametrize("harm", [_cut, _overwrite, Path.unlink])
@pytest.mark.parametrize("file", ["index", "contexts", "codes", "facts.json"])
def test_what_was_damaged_is_made_anew(
    tmp_path: Path, file: str, harm: Callable[[Path], None]
) -> None:
    """A kept file that is cut short, overwritten or gone costs time and nothing else."""
    source, out = write(tmp_path / "in.jsonl", 40), tmp_path / "out"
    first = told(*made(out, source))
    harm(next((out / ".batchata").glob("jobs-*")) / file)
    batch, spool = made(out, source)
    assert spool._restored is None
    assert told(batch, spool) == first
    assert made(out, source)[1]._restored is not None


def test_a_damaged_request_is_never_sent(tmp_path: Path) -> None:
    """A request that is not what was added ends with the job's name and what to do."""
    source, out = write(tmp_path / "in.jsonl", 40), tmp_path / "out"
    made(out, source)
    _overwrite(next((out / ".batchata").glob("jobs-*")) / "bodies")
    batch, spool = made(out, source)
    reader = spool.reader()
    with pytest.raises(OSError, match=r"job 'r0': its request was damaged on disk; delete .*jobs-"):
        list(reader.bodies(range(len(batch))))
    reader.close()


def test_more_jobs_can_be_added_to_those_taken_over(tmp_path: Path) -> None:
    """They come behind the others, and what was kept stays as it was."""
    source, out = write(tmp_path / "in.jsonl", 40), tmp_path / "out"
    first = told(*made(out, source))
    batch, spool = made(out, source)
    spool.amend(3, b"changed", (1, 2, 3))
    batch.add_job(prompt="one more", id="more")
    batch._prepare(None, 1.0)
    more = told(batch, spool)
    new = Batch(tmp_path / "new").set_default_params(model="gpt-6-luna", max_tokens=64)
    new.add_rows(source, "Say it: {text}").add_job(prompt="one more", id="more")
    whole = told(new, new._prepare(None, 1.0)._session.spool)
    spool.reset()
    assert told(batch, spool) == whole
    assert more[0] == whole[0]
    assert told(*made(out, source)) == first
