"""Rows and results directories are data: what they name is not read or imported unasked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchata_prefect.cli.orders import Amendment, Order
from batchata_prefect.content.documents import load_documents
from batchata_prefect.errors import StateError, ValidationError
from batchata_prefect.jobs.sources import jobs_from_rows, read_rows
from batchata_prefect.results.remote import ORDER


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Prefect home of its own, in which the user's key lies."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def order(folder: Path, **changes: Any) -> Order:
    told = {"prompt": "{q}", "response_model": "m:Invoice"}
    made = Order("jobs.csv", folder / "out", told)
    made.out.joinpath(".batchata").mkdir(parents=True, exist_ok=True)
    return replace(made, **changes)


def changed(made: Order, **values: Any) -> None:
    path = made.out / ORDER
    note = json.loads(path.read_text())
    note["told"].update(values)
    path.write_text(json.dumps(note))


@pytest.mark.usefixtures("home")
def test_a_note_of_ones_own_is_taken(tmp_path: Path) -> None:
    """`batchata retry` after one's own `batchata run` asks nothing."""
    made = order(tmp_path)
    made.note()
    assert Order.noted(made.place).told == made.told


@pytest.mark.usefixtures("home")
def test_a_note_that_somebody_changed_is_shown_and_refused(tmp_path: Path) -> None:
    """The class and the file that it would import and read stand in the error."""
    made = order(tmp_path)
    made.note()
    changed(made, response_model="evil:Class", prompt="@/etc/passwd")
    with pytest.raises(StateError, match=r"(?s)evil:Class.*/etc/passwd.*--trust"):
        Order.noted(made.place)
    assert Order.noted(made.place, trust=True).told["response_model"] == "evil:Class"


def test_a_note_of_another_user_is_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seal was made with another key, which only its owner can read."""
    made = order(tmp_path)
    made.note()
    assert (home / "batchata.key").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    with pytest.raises(StateError, match="--trust"):
        Order.noted(made.place)


@pytest.mark.usefixtures("home")
def test_a_run_takes_no_amendments_of_somebody_else(tmp_path: Path) -> None:
    """The same command over a directory that came with changed jobs would ask what they say."""
    amended = order(tmp_path, amendments=(Amendment({0: "a"}, {"response_model": "evil:Class"}),))
    amended.note()
    plain = order(tmp_path, jobs=amended.jobs)
    assert plain.with_earlier_amendments().amendments == amended.amendments
    path = amended.out / ORDER
    path.write_text(json.dumps({**json.loads(path.read_text()), "seal": "0" * 64}))
    with pytest.raises(StateError, match="evil:Class"):
        plain.with_earlier_amendments()
    assert plain.with_earlier_amendments(trust=True).amendments == amended.amendments


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("damage", ["{", "[]", '{"jobs": "a"}', '{"jobs": 5, "told": 6}'])
def test_changes_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path, damage: str) -> None:
    """The jobs would be sent unchanged, and paid again."""
    plain = order(tmp_path)
    assert plain.with_earlier_amendments() is plain
    (plain.out / ORDER).write_text(damage)
    for act in (plain.with_earlier_amendments, lambda: Order.noted(plain.place)):
        with pytest.raises(StateError, match=r"order\.json.* cannot be read.* nothing was sent"):
            act()


@pytest.mark.usefixtures("home")
def test_an_order_of_another_version(tmp_path: Path) -> None:
    """It is no matter where nothing was changed since."""
    plain = order(tmp_path)
    replace(plain, told={"gone": 1}).note()
    assert plain.with_earlier_amendments() is plain
    with pytest.raises(StateError, match="gone"):
        Order.noted(plain.place)
    order(tmp_path, amendments=(Amendment({0: "a"}, {"gone": 1}),)).note()
    with pytest.raises(StateError, match="gone"):
        plain.with_earlier_amendments()


def test_the_command_imports_nothing_from_a_folder_that_came_from_elsewhere(
    tmp_path: Path, home: Path
) -> None:
    """The module beside it, which would leave a trace, is not run; with --trust it is."""
    made = order(tmp_path)
    made.note()
    (made.out / "results.jsonl").write_text("")
    (tmp_path / "evil.py").write_text(
        "from pathlib import Path\nPath('trace').touch()\nClass = dict\n"
    )
    changed(made, response_model="evil:Class")
    command = [sys.executable, "-m", "batchata_prefect.cli", "retry", str(made.place)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "trace").exists()) == (3, False), done.stderr
    assert "evil:Class" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run([*command, "--trust"], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("named", ["os:environ", "evil:Class"])
def test_a_row_names_no_class(named: str) -> None:
    """A row may hold a JSON schema; a class comes from the code or the command line."""
    row = {"prompt": "hi", "response_model": named}
    with pytest.raises(ValidationError, match="rows are data"):
        list(jobs_from_rows([row]))
    schema = {"type": "object", "properties": {}}
    (job,) = jobs_from_rows([{**row, "response_model": schema}], model="gpt-6-luna")
    assert job["response_model"] == schema
    (job,) = jobs_from_rows([{"prompt": "hi"}], response_model=named)
    assert job["response_model"] == named


def loaded(folder: Path, named: Any, **how: Any) -> list[str]:
    """Names of the documents that a row of a file in `folder` gets, or the error."""
    source = folder / "jobs.jsonl"
    source.write_text(json.dumps({"prompt": "Read", "file": named}))
    (job,) = jobs_from_rows(read_rows(source), **how)
    return [document.name for document in load_documents(job["file"], job_id="a")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of jobs with a document, a secret beside it, and links to that."""
    made = tmp_path / "jobs"
    (made / "docs").mkdir(parents=True)
    (made / "docs" / "ours.txt").write_text("ours")
    (tmp_path / "secret.txt").write_text("secret")
    (made / "link.txt").symlink_to(tmp_path / "secret.txt")
    (made / "up").symlink_to(tmp_path)
    return made


BESIDE = [
    "docs/ours.txt",
    "docs/../docs/ours.txt",
    "{here}/docs/ours.txt",
    "file://{here}/docs/ours.txt",
]


@pytest.mark.parametrize("named", BESIDE)
def test_a_row_names_documents_beside_its_file(folder: Path, named: str) -> None:
    assert loaded(folder, named.format(here=folder)) == ["ours.txt"]


@pytest.mark.parametrize(
    "named",
    [
        "/etc/passwd",
        "{out}/secret.txt",
        "../secret.txt",
        "docs/../../secret.txt",
        "link.txt",
        "up/secret.txt",
        "file://{out}/secret.txt",
        "file://{out}/jobs/%2e%2e/secret.txt",
        "local://{out}/secret.txt",
        ["docs/ours.txt", "link.txt"],
    ],
)
def test_a_row_reaches_nothing_outside(folder: Path, named: Any) -> None:
    """Neither by an absolute path, nor upwards, nor by a link, nor by another scheme."""
    out = folder.parent
    wanted = named.format(out=out) if isinstance(named, str) else named
    with pytest.raises(ValidationError, match="documents_root"):
        loaded(folder, wanted)
    assert loaded(folder, wanted, documents_root="/")


@pytest.mark.parametrize(
    "named",
    [
        "http://127.0.0.1:9/x.txt",
        "https://docs.example.com/x.txt",
        "simplecache::file:///etc/passwd",
        "zip://x::https://docs.example.com/a.zip",
        "memory://x/y.txt",
        "s3://bucket/x.txt",
        "https://docs.example.com@127.0.0.1/x",
    ],
)
def test_a_row_names_no_url_unasked(folder: Path, named: str) -> None:
    with pytest.raises(ValidationError, match="allow_urls"):
        loaded(folder, named)
    with pytest.raises(ValidationError, match="allow_urls"):
        loaded(folder, named, allow_urls=["other.example.com", "s3://another"])


class Leads(BaseHTTPRequestHandler):
    """Gives a document at /doc.txt, and leads on from /to/<URL>."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a document")

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[int]:
    """A web server of this machine; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Leads) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_port
        made.shutdown()


def test_where_a_url_leads_on_to_is_asked_for_leave_too(folder: Path, server: int) -> None:
    """A host that is allowed does not open those behind it; a private one is named in full."""
    here = f"http://localhost:{server}"
    assert loaded(folder, f"{here}/doc.txt", allow_urls=["localhost"]) == ["doc.txt"]
    assert loaded(folder, f"{here}/to/{here}/doc.txt", allow_urls=["localhost"])
    inside = f"http://127.0.0.1:{server}/doc.txt"
    with pytest.raises(ValidationError, match=r"allow_urls=\['127\.0\.0\.1'\]"):
        loaded(folder, f"{here}/to/{inside}", allow_urls=["localhost"])
    for pattern in ("*", "local*", "*.0.0.1"):
        with pytest.raises(ValidationError, match=r"private network|allow_urls"):
            loaded(folder, f"{here}/doc.txt", allow_urls=[pattern])
    with pytest.raises(ValidationError, match="leads on"):
        loaded(folder, f"{here}/to/" * 7 + f"{here}/doc.txt", allow_urls=["localhost"])


@pytest.mark.parametrize(
    ("named", "is_there"), [("doc.txt", True), ("../other.txt", False), ("%2e%2e/other.txt", False)]
)
def test_the_folder_of_a_file_at_a_url_holds_its_documents(named: str, is_there: bool) -> None:
    """Rows of memory://bucket/jobs/ may name what lies there, and nothing beside or above it."""
    store: Any = fsspec.filesystem("memory")
    for path in ("/bucket/jobs/doc.txt", "/bucket/other.txt"):
        store.pipe_file(path, b"a document")
    row = json.dumps({"prompt": "Read", "file": named})
    store.pipe_file("/bucket/jobs/jobs.jsonl", row.encode())
    (job,) = jobs_from_rows(read_rows("memory://bucket/jobs/jobs.jsonl"))
    if is_there:
        assert load_documents(job["file"], job_id="a")[0].data == b"a document"
    else:
        with pytest.raises(ValidationError, match="allow_urls"):
            load_documents(job["file"], job_id="a")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("put", [True, False])
def test_of_two_notes_the_one_with_more_changes_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: bool
) -> None:
    """The results could not be put at their URL, or another machine has put its own there."""
    monkeypatch.chdir(tmp_path)
    place = f"file://{tmp_path}/bucket"
    plain = Order("jobs.csv", place, {"prompt": "{q}"})
    amended = replace(plain, amendments=(Amendment({0: "a"}, {"max_tokens": 8000}),))
    there = tmp_path / "bucket" / ORDER
    there.parent.mkdir(parents=True)
    here = plain.out / ORDER
    (amended if put else plain).note()
    there.write_bytes(here.read_bytes())
    (plain if put else amended).note()
    assert Order.noted(place).amendments == amended.amendments
