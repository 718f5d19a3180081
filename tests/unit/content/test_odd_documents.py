"""Documents that nobody has seen before: each is read or refused by name, within bounded work."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pypdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchata_prefect.content.documents import (
    load_documents,
)
from batchata_prefect.errors import ValidationError
from tests.unit.content.test_documents import GIF, JPEG, PNG, docx_of, page_texts

EXAMPLES = int(os.environ.get("BATCHATA_ODD_DOCUMENTS", "60"))
"""Mutated documents that are read; `make chaos` reads 2,000."""

MOST_CALLS = 3_000_000
"""Calls of functions that reading one of these small documents may take; an honest one takes tens
of thousands."""

FOLDER = Path(__file__).parents[3] / "flows" / "documents"
PIECES = [
    b"", b"\x00", b"\xff" * 9, b"0" * 40, b"-1", b"99999999999", b"%%EOF", b"<<", b">>", b"[" * 300,
    b"(" * 300, b"endobj", b"stream\n", b"/Parent 1 0 R", b"/Kids [1 0 R 1 0 R]", b"/Length 0",
    b"/Filter [/FlateDecode /FlateDecode]", b"1 0 R", b"\xef\xbb\xbf", b"\xff\xfe", b"<w:p>" * 40,
    b"&a;", b"<!DOCTYPE a [<!ENTITY a 'b'>]>",
]  # fmt: skip


def small_pdf() -> bytes:
    """One whose streams are not packed, so that a mutation reaches what they say."""
    writer = pypdf.PdfWriter(clone_from=FOLDER / "invoice-1042.pdf")
    for page in writer.pages:
        content = page.get_contents()
        assert content is not None
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


BODY = b"<w:body><w:p><w:r><w:t>The total is 12.</w:t></w:r></w:p></w:body>"
SEEDS = {
    "a.pdf": small_pdf(),
    "b.pdf": (FOLDER / "invoice-2297.pdf").read_bytes(),
    "a.docx": docx_of(BODY),
    "a.png": PNG,
    "a.jpg": JPEG,
    "a.gif": GIF,
    "a.txt": (FOLDER / "lease.txt").read_bytes()[:2_000],
    "a.md": "# ü\n\n| a | b |\n".encode("utf-16"),
}


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A document with some of its bytes replaced, doubled, moved or cut off."""
    name = draw(st.sampled_from(sorted(SEEDS)))
    is_body = name.endswith(".docx") and draw(st.booleans())
    data = BODY if is_body else SEEDS[name]
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 4, 20, 200])))
        if draw(st.integers(0, 3)):
            middle = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
        else:
            middle = data[start:end] * draw(st.sampled_from([2, 30]))
        data = data[:start] + middle + data[end:]
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    if is_body:
        data = docx_of(data)
    # What a name says may be another kind than what the bytes say.
    return draw(st.sampled_from([name, name, name, "a.pdf", "a.docx", "a"])), data


class TooMuchWorkError(BaseException):
    """No `except Exception` of a library catches it."""


class Counted:
    """Ends what is done in it by this thread after so many calls."""

    def __enter__(self) -> None:
        self.calls = 0
        sys.setprofile(self._count)

    def _count(self, _frame: Any, event: str, _arg: Any) -> None:
        if event.endswith("call"):
            self.calls += 1
            if self.calls == MOST_CALLS:
                raise TooMuchWorkError

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(odd=mutated())
@pytest.mark.timeout(3_600)
def test_any_document_is_read_or_refused(folder: Path, odd: tuple[str, bytes]) -> None:
    """Nothing else comes of it, and it takes bounded work."""
    name, data = odd
    path = folder / name
    path.write_bytes(data)
    with Counted():
        try:
            (document,) = load_documents(path, job_id="job-7")
        except ValidationError as error:
            assert "job-7" in str(error)
            return
        assert document.is_scan in {True, False}
        if document.kind == "pdf":
            assert len(page_texts(document)) == len(document.shown_bytes) == document.pages
