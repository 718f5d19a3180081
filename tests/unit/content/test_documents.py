"""Files are told apart by their bytes, read once, and refused before anything is paid."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pypdf
import pytest

from batchata_prefect.content.documents import (
    Document,
    load_bytes,
    load_documents,
)
from batchata_prefect.content.documents.pdf import PageTexts, string_bytes
from batchata_prefect.errors import ValidationError


def page_texts(document: Document) -> list[str]:
    pages = PageTexts(document.data)
    return [pages.read(number) for number in range(pages.count)]


def make_pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page; a page without text where the line is empty."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 "
            b"3 0 R >> >> /Contents %d 0 R >>" % (5 + 2 * number)
        )
        escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        stream = f"BT /F1 12 Tf 72 700 Td ({escaped}) Tj ET".encode() if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream))
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        start,
    )
    return bytes(out)


def make_encrypted_pdf(password: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(make_pdf("secret")))
    writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def make_docx(*paragraphs: str) -> bytes:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    return docx_of(f"<w:body>{body}</w:body>".encode())


def docx_of(body: bytes) -> bytes:
    space = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    return make_zip(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
            'content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
            "word/document.xml": b'<w:document xmlns:w="%b">%b</w:document>' % (space, body),
        }
    )


def make_zip(entries: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return out.getvalue()


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480) + b"\x08\x02\0\0\0"
GIF = b"GIF89a" + struct.pack("<HH", 320, 200) + b"\0\0\0"
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    b"\xff\xff\xc4\x00\x04\0\0"
    b"\xff\xc2\x00\x0b\x08" + struct.pack(">HH", 1232, 980) + b"\x01\x01\x11\x00"
)
WEBP_LOSSY = (
    b"RIFF\x20\0\0\0WEBPVP8 \x14\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 550, 368) + b"\0" * 8
)
WEBP_LOSSLESS = (
    b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f" + struct.pack("<I", 385 | 394 << 14) + b"\0" * 12
)
WEBP_EXTENDED = (
    b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0"
    + (1919).to_bytes(3, "little")
    + (1079).to_bytes(3, "little")
)
PDF = make_pdf("hello")


def load(file, job_id: str = "j1") -> Document:
    (document,) = load_documents(file, job_id=job_id)
    return document


def refusal(file) -> str:
    with pytest.raises(ValidationError) as caught:
        load_documents(file, job_id="j1")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "media_type", "kind"),
    [
        ("a.pdf", PDF, "application/pdf", "pdf"),
        ("a.txt", PDF, "application/pdf", "pdf"),
        ("a.pdf", b"junk before\n" + PDF, "application/pdf", "pdf"),
        ("about.md", b"A file starts with %PDF-1.4", "text/markdown", "text"),
        ("a.pdf", PNG, "image/png", "image"),
        ("a", GIF, "image/gif", "image"),
        ("a.png", JPEG, "image/jpeg", "image"),
        ("a.webp", WEBP_LOSSY, "image/webp", "image"),
        ("a.md", b"# Title", "text/markdown", "text"),
        ("a.csv", b"x,y\n1,2\n", "text/csv", "text"),
        ("a.json", b"{}", "application/json", "text"),
        ("a.jsonl", b"{}\n{}\n", "application/jsonl", "text"),
        ("a.html", b"<p>x</p>", "text/html", "text"),
        ("a.svg", b"<svg/>", "image/svg+xml", "text"),
        ("a.py", b"x = 1", "text/x-python", "text"),
        ("a.ts", b"let x = 1", "text/plain", "text"),
        ("a.tex", b"\\section{x}", "text/plain", "text"),
        ("a.unheardof", b"words", "text/plain", "text"),
        ("README", b"words", "text/plain", "text"),
        ("a.rtf", b"{\\rtf1 words}", "application/rtf", "other"),
        ("a.tar.gz", b"\x1f\x8b\x08\0", "application/gzip", "other"),
        (
            "a.xlsx",
            make_zip({"xl/workbook.xml": "<workbook/>"}),
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "other",
        ),
        (
            "a.odt",
            make_zip({"mimetype": "application/vnd.oasis.opendocument.text"}),
            "application/vnd.oasis.opendocument.text",
            "other",
        ),
        ("a.zip", make_zip({"x": "y"}), "application/zip", "other"),
        (
            "a.doc.pdf",
            make_docx("words"),
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "docx",
        ),
    ],
)
def test_type_is_told_by_content_then_by_suffix(tmp_path: Path, name, data, media_type, kind):
    """The bytes decide what a file is, and its suffix where they do not say."""
    path = tmp_path / name
    path.write_bytes(data)
    document = load(path)
    assert (document.name, document.media_type, document.kind) == (name, media_type, kind)
    assert document.data == data
    assert document.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (PNG, (640, 480)),
        (GIF, (320, 200)),
        (JPEG, (980, 1232)),
        (WEBP_LOSSY, (550, 368)),
        (WEBP_LOSSLESS, (386, 395)),
        (WEBP_EXTENDED, (1920, 1080)),
    ],
)
def test_image_size_comes_from_the_header(data, size):
    """Width and height are read out of the header of each image format."""
    document = load(data)
    assert (document.width, document.height) == size


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("naïve 中 🎉".encode(), "naïve 中 🎉"),
        (b"\xef\xbb\xbfwith mark", "with mark"),
        ("sixteen é".encode("utf-16"), "sixteen é"),
        (b"\xfe\xff" + "big é".encode("utf-16-be"), "big é"),
        ("thirty-two".encode("utf-32"), "thirty-two"),
        (b"line\r\nline\rline", "line\r\nline\rline"),
    ],
)
def test_text_is_decoded_without_its_byte_order_mark(data, text):
    """UTF-8, UTF-16 and UTF-32 are read, and not one character is changed."""
    assert load(data).text == text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.pdf", b"", "is empty"),
        ("a.txt", b" \n\t", "nothing but white space"),
        ("a.txt", b"\xef\xbb\xbf", "nothing but white space"),
        ("a.txt", b"a\0b", "NUL bytes"),
        ("a.txt", "déjà".encode("latin-1"), "is no UTF-8 text (byte 0xe9 at 1)"),
        ("a", "déjà".encode("latin-1"), "is no UTF-8 text"),
        ("a.csv", b"\xff\xfea", "is no UTF-16 text"),
        ("a", b"\x00\x01\xff", "is no text, and of no type that can be told"),
        ("a.pdf", b"<!DOCTYPE html>", "is named like application/pdf, but its bytes are not"),
        ("a.png", b"no picture", "is named like image/png"),
        ("a.docx", b"words", "is named like application/vnd"),
        ("a.docx", make_zip({"x": "y"}), "is another kind of zip archive"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1", "encrypted or an old Word file"),
        ("a.docx", b"PK\x03\x04rest", "is a broken DOCX"),
        ("a.docx", make_docx(""), "is a DOCX without any text"),
        ("a.docx", make_zip({"word/document.xml": "<"}), "is a broken DOCX"),
        ("a.zip", b"PK\x03\x04rest", "is a broken zip archive"),
        ("a.pdf", PDF[:40], "is a broken PDF"),
        ("a.pdf", b"%PDF-1.4 and nothing", "is a broken PDF"),
        ("a.pdf", make_pdf(), "is a PDF without pages"),
        ("a.pdf", make_encrypted_pdf("pw"), "is an encrypted PDF"),
        ("a.pdf", make_encrypted_pdf(""), "is an encrypted PDF"),
        ("a.png", PNG[:20], "is a broken image/png"),
        ("a.gif", GIF[:8], "is a broken image/gif"),
        ("a.jpg", JPEG[:24], "is a broken image/jpeg"),
        ("a.jpg", b"\xff\xd8\xff\xda\0\x08" + b"\0" * 9, "is a broken image/jpeg"),
        ("a.webp", WEBP_LOSSY[:20], "is a broken image/webp"),
        ("a.gif", b"GIF89a\0\0\0\0\0\0\0", "is a broken image/gif"),
    ],
)
def test_unusable_file_is_refused_with_its_reason(tmp_path: Path, name, data, reason):
    """A file that no model can take is refused, naming the job, the file and why."""
    path = tmp_path / name
    path.write_bytes(data)
    message = refusal(path)
    assert reason in message
    assert "job 'j1'" in message
    assert repr(str(path)) in message
    assert message.endswith("Nothing was sent.")


def _closed(path: Path) -> None:
    path.write_text("words")
    path.chmod(0)


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 512_000_001)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.exists, "does not exist"),
        (Path.mkdir, "is a directory; name the files in it"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (os.mkfifo, "is not a regular file"),
        (_huge, "has 512,000,001 bytes; no provider takes more"),
        pytest.param(
            _closed,
            "cannot be read",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file"),
        ),
    ],
)
def test_a_path_of_no_file_is_refused_without_reading(tmp_path: Path, make, reason):
    """What is not there, no file, too large or closed is an error that says so."""
    make(tmp_path / "a.txt")
    assert reason in refusal(tmp_path / "a.txt")


def test_text_given_in_place_of_a_path_is_shown_short():
    """The text of a document given as `file` does not flood the error."""
    message = refusal("word " * 2_000)
    assert "cannot be read" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (12, "int"),
        (None, "NoneType"),
        ([None], "NoneType"),
        ([["a.txt"]], "list"),
        (bytearray(b"words"), "bytearray"),
        (io.BytesIO(b"words"), "BytesIO"),
    ],
)
def test_what_is_no_file_is_refused(file, kind):
    """Neither numbers nor open files nor nested lists are taken for a file."""
    assert f"is {kind}; give a path, a URL or bytes" in refusal(file)


def test_no_file_at_all_is_refused():
    """An empty list is an error."""
    assert "job 'j1': file is an empty list" in refusal([])


def test_all_faulty_files_are_named(tmp_path: Path):
    """One error names each faulty file of the job."""
    with pytest.raises(ValidationError) as caught:
        load_documents([tmp_path / "one", b"fine", tmp_path / "two", b""], job_id="j1")
    assert len(caught.value.faults) == 3
    assert "'one'" not in caught.value.faults[1]
    assert "'document-4' (0 bytes) is empty" in caught.value.faults[2]


def test_several_files_keep_their_order(tmp_path: Path):
    """A list gives one document for each item, in order, bytes named by their place."""
    path = tmp_path / "a.md"
    path.write_text("# A")
    names = [doc.name for doc in load_documents([PDF, path, str(path), PNG], job_id="j1")]
    assert names == ["document-1.pdf", "a.md", "a.md", "document-4.png"]


@pytest.mark.parametrize(
    ("data", "name"), [(PDF, "document.pdf"), (b"words", "document.txt"), (JPEG, "document.jpg")]
)
def test_bytes_get_a_name_with_their_suffix(data, name):
    """Bytes are titled after their type, for citations to name; a name that was given stays."""
    assert load_bytes(data, "document", job_id="j1").name == "document"
    assert load(data).name == name


def test_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path may start with `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "note.txt").write_text("words")
    assert load("~/note.txt").text == "words"


def test_url_is_read_through_fsspec():
    """A URL is read by its file system and named by the last part of its path."""
    fsspec.filesystem("memory").pipe("/box/a%20b.md", b"# A")
    document = load("memory://box/a%20b.md")
    assert (document.name, document.text) == ("a b.md", "# A")


def test_changed_url_is_read_again():
    """A URL whose content changed gives the new content."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/changing.txt", b"old")
    first = load("memory://changing.txt")
    assert load("memory://changing.txt") is first
    memory.pipe("/changing.txt", b"new")
    assert load("memory://changing.txt").text == "new"


def test_file_url_is_a_path(tmp_path: Path):
    """A `file://` URL is the local path, escapes undone."""
    path = tmp_path / "a b.txt"
    path.write_text("words")
    assert load(path.as_uri()) is load(path)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://nowhere.pdf", "does not exist"),
        ("memory://folder", "is a directory"),
        ("nosuch://bucket/a.pdf", "cannot be read: Protocol not known"),
        pytest.param(
            "s3://bucket/a.pdf",
            "needs a driver that is not installed: Install s3fs",
            marks=pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is here"),
        ),
    ],
)
def test_unreadable_url_is_refused(url, reason):
    """A URL that cannot be read says whether it is the file, the driver or the scheme."""
    fsspec.filesystem("memory").pipe("/folder/x", b"x")
    assert reason in refusal(url)


def test_secrets_of_a_url_are_not_shown():
    """Neither a password nor a signature in a URL gets into an error."""
    message = refusal("nosuch://user:pa55@host/a.pdf?signature=5ecret")
    assert "nosuch://host/a.pdf" in message
    assert "pa55" not in message
    assert "5ecret" not in message


def test_document_used_twice_is_read_once(tmp_path: Path):
    """The same path, a link to it and the same bytes give the very same document."""
    path = tmp_path / "a.txt"
    path.write_text("words")
    link = tmp_path / "sub" / "a.txt"
    link.parent.mkdir()
    link.symlink_to(path)
    assert load(path) is load(str(path)) is load(link)
    assert load(b"some bytes") is load(b"some " + b"bytes")


def test_changed_file_is_read_again(tmp_path: Path):
    """A file of the same size that was written later is read again."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    os.utime(path, ns=(1, 1))
    assert load(path).text == "old"
    path.write_text("new")
    os.utime(path, ns=(2, 2))
    assert load(path).text == "new"


def test_same_bytes_under_two_names_keep_their_names(tmp_path: Path):
    """A hard link of another name is a document of another title."""
    path = tmp_path / "a.txt"
    path.write_text("words")
    os.link(path, tmp_path / "b.txt")
    assert [load(path).name, load(tmp_path / "b.txt").name] == ["a.txt", "b.txt"]


def test_memory_of_documents_is_bounded():
    """What was read first is forgotten once the documents pass the limit of memory."""
    first, second = b"1" * 12_000_000, b"2" * 12_000_000
    kept = load(first)
    assert load(first) is kept
    load(second)
    assert load(first) is not kept


def test_base64_is_encoded_once():
    """The encoded form is made once and holds the exact bytes."""
    document = load(PDF)
    assert base64.b64decode(document.base64) == PDF
    assert document.base64 is document.base64


def test_docx_keeps_its_tables_and_drops_its_pictures(real: Path):
    """A DOCX becomes HTML with its tables; one with nothing but a picture is refused."""
    tables = load(real / "inputs/docx/tables.docx")
    assert tables.kind == "docx"
    assert tables.text is not None
    assert "<td><p>Bottom right</p></td>" in tables.text
    assert "without any text" in refusal(real / "inputs/docx/tiny-picture.docx")


def test_docx_without_mammoth_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    """The extra that a DOCX needs is named with its command."""
    monkeypatch.setitem(sys.modules, "mammoth", None)
    assert "pip install 'batchata-prefect[docx]'" in refusal(make_docx("not seen before"))


def test_zip_bomb_is_refused(tmp_path: Path):
    """An archive that says it unpacks to more than any file may hold is not unpacked."""
    data = bytearray(make_zip({"word/document.xml": "x"}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 4_000_000_000)
    assert "unpacks to 4,000,000,000 bytes" in refusal(bytes(data))


def test_page_texts_are_given_page_by_page():
    """Each page's text stands alone, in order."""
    document = load(make_pdf("First (page)", "", "Third"))
    assert document.pages == 3
    assert [text.strip() for text in page_texts(document)] == ["First (page)", "", "Third"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (make_pdf("", "words"), False),
        (make_pdf("", ""), True),
        (b"words", False),
        (PNG, False),
    ],
)
def test_scans_are_told_by_that_they_show_no_text(data, expected):
    """A PDF without text to cite is told apart from one with."""
    assert load(data).is_scan is expected


def test_documents_without_pages_show_nothing():
    """Text and images are no PDFs, and have no pages."""
    assert load(PNG).shown_bytes == ()


def test_damaged_page_does_not_hurt_the_others():
    """A page whose content cannot be unpacked reads as empty and counts as unknown."""
    writer = pypdf.PdfWriter(io.BytesIO(make_pdf("good", "ill")))
    names = pypdf.generic.NameObject
    writer.pages[1]["/Contents"].get_object()[names("/Filter")] = names("/NoSuchFilter")
    out = io.BytesIO()
    writer.write(out)
    document = load(out.getvalue())
    assert [text.strip() for text in page_texts(document)] == ["good", ""]
    assert document.shown_bytes == (4, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"BT (abc) Tj ET", 3),
        (b"[(ab) -250 (cd)] TJ", 4),
        (b"(a (nested) b) Tj", 12),
        (rb"(a \( b) Tj", 5),
        (rb"(\101\102) Tj", 2),
        (rb"(ends with \\) Tj (x) Tj", 12),
        (b"<00410042> Tj", 4),
        (b"<< /Type /X >> BDC", 0),
        (b"1 0 0 1 0 0 cm", 0),
        (b"(never closed", 12),
        (b") stray (ok)", 2),
    ],
)
def test_shown_text_is_counted_without_layout(content, expected):
    """Every byte of a shown string counts, and nothing else does."""
    assert string_bytes(content) == expected


def test_counting_shown_text_takes_linear_time():
    """Megabytes of unbalanced brackets, as in an inline image, are counted at once."""
    assert string_bytes(b"(" * 500_000 + b"\\") == 500_000


def test_forms_count_where_they_are_drawn():
    """Text inside a form counts once for each time that a page draws it."""
    writer = pypdf.PdfWriter(io.BytesIO(make_pdf("ab")))
    form = pypdf.generic.StreamObject()
    form.set_data(b"BT (12345) Tj ET")
    form.update({pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Form")})
    reference = writer._add_object(form)
    page = writer.pages[0]
    names = pypdf.generic.NameObject
    page["/Resources"][names("/XObject")] = pypdf.generic.DictionaryObject(
        {names("/Fm0"): reference, names("/Unused"): reference}
    )
    contents = pypdf.generic.StreamObject()
    contents.set_data(b"BT (ab) Tj ET /Fm0 Do /Fm0 Do")
    page[names("/Contents")] = writer._add_object(contents)
    out = io.BytesIO()
    writer.write(out)
    assert load(out.getvalue()).shown_bytes == (2 + 5 + 5,)


def test_real_pdfs_show_no_less_than_their_text(real: Path):
    """On real files the quick count is not below the characters that extraction finds."""
    paths = sorted((real / "inputs").glob("invoices/*.pdf"))
    assert len(paths) == 10
    for path in paths:
        document = load(path)
        for shown, text in zip(document.shown_bytes, page_texts(document), strict=True):
            assert shown is not None
            assert shown >= len("".join(text.split())), path.name
        assert not document.is_scan


def test_real_scan_has_no_text(real: Path):
    """A scanned annual report is seen to hold no text."""
    document = load(real / "inputs/cvna-2021-annual-report-extract.pdf")
    assert (document.pages, document.is_scan) == (1, True)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("nutrition_label.png", (482, 892)),
        ("page.jpeg", (980, 1232)),
        ("receipt1.png", (814, 1270)),
        ("receipt2.png", (816, 1302)),
    ],
)
def test_real_images_give_their_size(real: Path, name, size):
    """Sizes of real images are those that other programs read."""
    document = load(real / "inputs/images" / name)
    assert (document.width, document.height) == size


def test_every_real_input_loads_or_says_why_not(real: Path):
    """No real file makes the loader fail in any other way than a refusal."""
    paths = [path for path in (real / "inputs").rglob("*") if path.is_file()]
    refused = []
    for path in paths:
        try:
            load(path)
        except ValidationError as error:
            refused.append((path.name, str(error)))
    assert [name for name, _ in refused] == ["tiny-picture.docx"]
    assert len(paths) > 60


def test_recorded_citations_slice_the_loaded_text(real: Path):
    """Character ranges of a recorded answer slice the loaded text to the cited words."""
    recorded = json.loads((real / "corpus/anthropic/citations-char-location.json").read_text())
    source = recorded["request"]["messages"][0]["content"][1]["source"]["data"]
    document = load(source.encode())
    cited = [
        citation
        for block in recorded["response"]["content"]
        for citation in block.get("citations") or ()
    ]
    assert cited
    for citation in cited:
        assert document.text is not None
        piece = document.text[citation["start_char_index"] : citation["end_char_index"]]
        assert piece == citation["cited_text"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0\0\0\x24ftypheic", "HEIC image.*JPEG or PNG"),
        (b"\0\0\0\x24ftypmif1", "HEIC image.*JPEG or PNG"),
        (b"\0\0\0\x24ftypavif", "AVIF image"),
        (b"II*\0\x80\x81", "TIFF image.*JPEG or PNG, or all of its pages as PDF"),
        (b"MM\0*\x80\x81", "TIFF image"),
        (b"BM\x46\0\0\0\0\0\0\0", "BMP image"),
    ],
)
@pytest.mark.parametrize("name", ["photo.jpg", "photo", "photo.heic", "photo.pdf"])
def test_images_that_no_provider_reads_are_refused_with_advice(tmp_path: Path, name, data, says):
    """Whatever they are called: a telephone's photos are often HEIC, a scanner's pages TIFF."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValidationError, match=says):
        load(path)
