"""Documents and answers that are made to hang a process or to fill its memory.

The bounds are counted in what is done, not in seconds: a slow machine passes, a loop does not.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from batchata_prefect.content.bounds import Bounds, bounds
from batchata_prefect.content.documents import formats, load_documents, pdf, watch
from batchata_prefect.content.documents.formats import RefusedError
from batchata_prefect.content.schema.json_text import json_spans, json_text
from batchata_prefect.errors import ParseError, ValidationError
from tests.unit.content.test_documents import make_docx, make_zip


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets bounds by their variables."""
    bounds.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    bounds.cache_clear()


def nested_forms(names: int, depth: int) -> bytes:
    """A PDF whose page draws a form `names` times, which draws another so often, and so on."""
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(100, 100)
    draw = b" ".join(b"/F%d Do" % number for number in range(names))
    inner = None
    for _ in range(depth):
        form = DecodedStreamObject()
        form.set_data(draw if inner is not None else b"(x) Tj")
        form[NameObject("/Type")] = NameObject("/XObject")
        form[NameObject("/Subtype")] = NameObject("/Form")
        if inner is not None:
            form[NameObject("/Resources")] = resources(names, inner)
        inner = writer._add_object(form)
    content = DecodedStreamObject()
    content.set_data(draw)
    page[NameObject("/Contents")] = writer._add_object(content)
    page[NameObject("/Resources")] = resources(names, inner)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def resources(names: int, form: Any) -> DictionaryObject:
    drawn = {NameObject(f"/F{number}"): form for number in range(names)}
    return DictionaryObject({NameObject("/XObject"): DictionaryObject(drawn)})


def test_forms_that_draw_forms_are_each_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty names in each of five forms are 10^8 drawings, and six streams."""
    read: list[int] = []
    count = pdf.string_bytes
    monkeypatch.setattr(pdf, "string_bytes", lambda data: read.append(1) or count(data))
    assert pdf.shown_bytes(nested_forms(40, 5), 1) == [40**5]
    assert len(read) <= 6


def test_laying_out_forms_that_draw_forms_ends(bounded: pytest.MonkeyPatch) -> None:
    """The text of such a page is not to be had, and that is all."""
    bounded.setenv("BATCHATA_MOST_DOCUMENT_STEPS", "100")
    data = nested_forms(10, 5)
    assert pdf.PageTexts(data).read(0) == ""
    assert pdf.PageTexts(data).read(0) == ""


def test_a_form_that_draws_itself_ends() -> None:
    """As many names as one likes."""
    data = nested_forms(3, 2).replace(b"(x) Tj", b"/F0 Do")
    assert pdf.shown_bytes(data, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            make_docx(*"a" * 80_000),
            r"80,000 paragraphs, of which 50,000 are read; raise BATCHATA_MOST_DOCUM",
        ),
        (make_docx(*"a" * 400_000), "paragraphs"),
    ],
)
def test_a_docx_of_very_many_paragraphs_is_refused_unread(
    data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted before anything is built of it."""
    mammoth = pytest.importorskip("mammoth")
    monkeypatch.setattr(mammoth, "convert_to_html", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValidationError, match=reason):
        load_documents(data, job_id="j1")


def test_a_docx_of_many_parts_or_bytes_is_refused(bounded: pytest.MonkeyPatch) -> None:
    """Its parts are counted, and what it unpacks to."""
    pytest.importorskip("mammoth")
    data = make_zip({f"word/{number}.xml": "<a/>" for number in range(60)})
    bounded.setenv("BATCHATA_MOST_DOCUMENT_STEPS", "50")
    with pytest.raises(RefusedError, match="60 parts"):
        formats.docx_html(data)
    bounded.setenv("BATCHATA_MOST_DOCUMENT_UNPACKED_BYTES", "100")
    bounds.cache_clear()
    with pytest.raises(RefusedError, match="unpacks to"):
        formats.identify(data, "")


def test_a_reader_that_does_not_end_is_interrupted(bounded: pytest.MonkeyPatch) -> None:
    """Also one that catches every `Exception`; what follows is not interrupted."""
    bounded.setenv("BATCHATA_MOST_DOCUMENT_SECONDS", "0.2")

    def forever() -> None:
        while True:
            try:
                time.sleep(0.001)
            except Exception:
                continue

    for _ in range(3):
        with pytest.raises(RefusedError, match=r"more than 0.2 s to read; raise BATCHATA_MOST_"):
            watch.in_time(forever)
        assert watch.in_time(lambda: 7) == 7
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        pass


def test_a_reading_that_ends_just_in_time_is_not_interrupted_later(
    bounded: pytest.MonkeyPatch,
) -> None:
    """At the very moment it is either in time or refused, and nothing is raised afterwards."""
    bounded.setenv("BATCHATA_MOST_DOCUMENT_SECONDS", "0.01")
    outcomes = set()
    for turn in range(60):
        try:
            watch.in_time(lambda turn=turn: time.sleep(0.009 + turn % 5 * 0.0005))
            outcomes.add("read")
        except RefusedError:
            outcomes.add("refused")
        sum(range(1_000))
    assert outcomes <= {"read", "refused"}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
@pytest.mark.parametrize("scheme", ["local://", "file://", "simplecache::file://", ""])
@pytest.mark.parametrize("kind", ["device", "pipe", "link"])
def test_only_regular_files_are_read(tmp_path: Path, scheme: str, kind: str) -> None:
    """A device has no end, a pipe no beginning; neither under another scheme nor behind a link."""
    path = tmp_path / "x.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path = Path("/dev/zero")
    with pytest.raises(ValidationError, match=r"not a regular file|cannot be read"):
        load_documents(f"{scheme}{path}", job_id="j1")


class Endless(BaseHTTPRequestHandler):
    """Sends bytes for as long as somebody reads."""

    sent = 0

    def do_HEAD(self) -> None:
        """Say nothing of a size."""
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        """Send without an end."""
        self.do_HEAD()
        try:
            while True:
                self.wfile.write(b"x" * 100_000)
                Endless.sent += 100_000
        except OSError:
            return

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_an_endless_document_of_a_url_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read up to the largest size that any provider takes."""
    pytest.importorskip("aiohttp")
    from batchata_prefect.content import documents

    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 3_000_000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValidationError, match="no provider takes more than 3,000,000"):
            load_documents(f"http://127.0.0.1:{server.server_port}/a.txt", job_id="j1")
    finally:
        server.shutdown()
        server.server_close()
    assert Endless.sent < 40_000_000


FENCES = ["x```\n", "```\n", "```json\n", "```   ", "{}\n", '{"a":[0,\n', "[\n", "\n   ```x", "``"]


@pytest.mark.parametrize("piece", FENCES)
def test_fences_are_found_in_linear_time(piece: str) -> None:
    """Twenty times as much takes about twenty times as long, where a square takes 400 times."""

    def seconds(times: int) -> float:
        text = piece * times
        began = time.process_time()
        with contextlib.suppress(ParseError):
            json_text(text)
        json_spans(text)
        return time.process_time() - began

    least = min(seconds(2_000) for _ in range(3))
    assert min(seconds(40_000) for _ in range(2)) < 100 * max(least, 0.001)


@given(
    st.lists(
        st.sampled_from(["```", "json", "JSON", " ", "\n", "\r\n", "{}", "[", "x", '{"a": 1}']),
        max_size=24,
    )
)
@settings(max_examples=400, deadline=None)
def test_fences_are_those_of_the_pattern(pieces: list[str]) -> None:
    """What is found is what the plain pattern finds, which took the square of the length."""
    import re

    from batchata_prefect.content.schema.json_text import _fences

    pattern = r"```(json|JSON)?[ \t]*\r?\n(.*?)(?:\r?\n[ \t]*```|```[ \t]*\Z)"
    text = "".join(pieces).strip()
    wanted = [
        (match.start(), match[2].strip(), match[1] is not None)
        for match in re.finditer(pattern, text, re.DOTALL)
    ]
    assert [(one.start, one.text.strip(), one.named) for one in _fences(text)] == wanted


def test_bounds_are_raised_by_their_variables(bounded: pytest.MonkeyPatch) -> None:
    """One variable for each field; what is no number above 0 is refused by name."""
    bounded.setenv("BATCHATA_MOST_ROW_BYTES", "5")
    assert Bounds.from_environment() == Bounds(row_bytes=5)
    bounded.setenv("BATCHATA_MOST_ROW_BYTES", "-5")
    with pytest.raises(ValueError, match="BATCHATA_MOST_ROW_BYTES is -5"):
        Bounds.from_environment()


def test_every_bound_is_documented() -> None:
    """On the page about limits, with its variable and its default."""
    page = (Path(__file__).parents[3] / ".docs" / "pages" / "limits.md").read_text("utf-8")
    for name in Bounds.__dataclass_fields__:
        assert f"BATCHATA_MOST_{name.upper()}" in page
