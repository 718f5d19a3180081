"""Results and records in object storage: any machine can go on, and each request is paid once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_HOME, temporary_settings

from batchata_prefect import Batch, ValidationError
from batchata_prefect.errors import StateError
from batchata_prefect.records.storage import firm
from batchata_prefect.records.store import Records
from batchata_prefect.results.remote import bring, publish, working_folder
from tests.chaos.killing import Forker, until

JOBS = 12
RUN = """
import sys
from batchata_prefect import Batch

url, state = sys.argv[1:]
batch = Batch(url, items_per_batch=4).set_state(file=state)
for n in range(12):
    batch.add_job(
        prompt=f"{url} {n}", model="gpt-6-luna", max_tokens=200, id=f"job-{n}", metadata={"n": n}
    )
run = batch.run()
print("STATUS", run.manifest["status"], run.status()["completed"], run.status()["resumed"])
"""


@pytest.fixture(scope="module")
def s3(prefect_server) -> Iterator[dict[str, str]]:
    """Environment of an S3 server with the bucket `results`, and a block `records` in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}
    environment = {
        **keys,
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    storage().mkdir("results")
    told = {"client_kwargs": {"endpoint_url": environment["AWS_ENDPOINT_URL"]}}
    block = RemoteFileSystem(basepath="s3://results/records", settings=told)
    block.save("records", overwrite=True)
    yield environment
    os.environ.clear()
    os.environ.update(before)
    server.stop()


def storage() -> Any:
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True)


class Machine(Forker):
    """A machine of its own: nothing on its disk, the same Prefect server and storage."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        super().__init__({"PREFECT_HOME": str(home), "BATCHATA_LEASE_SECONDS": "2"})

    def say(self, *arguments: str, exit_code: int = 0) -> str:
        """What a process says."""
        done = self.python(*arguments)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def command(self, exit_code: int, *told: str) -> dict[str, Any]:
        """The JSON that a command prints."""
        out = self.say("-m", "batchata_prefect.cli", *told, exit_code=exit_code)
        return orjson.loads(out[out.index("{") : out.rindex("}") + 1])


@pytest.fixture
def machines(tmp_path: Path, sandbox, s3) -> Iterator[list[Machine]]:
    found = [Machine(tmp_path / name) for name in ("one", "two", "three")]
    yield found
    for machine in found:
        machine.close()


def test_another_machine_goes_on(machines: list[Machine], sandbox, billed, s3) -> None:
    """A run killed on one machine is finished by a second, and a third finds it done."""
    url, state = "s3://results/nightly", "remote-file-system/records"
    one, two, three = machines
    sandbox.limits(seconds=4)
    pid = one.start_python("-c", RUN, url, state)
    until(lambda: sum("receipt" in name for name in storage().find("results/records")) == 3)
    os.kill(pid, signal.SIGKILL)
    assert one.wait() == -9
    sandbox.limits(seconds=0.1)

    assert "STATUS completed 12" in two.say("-c", RUN, url, state)
    found = {path.removeprefix("results/nightly/") for path in storage().find("results/nightly")}
    assert {"results.jsonl", "manifest.json", "report.html"} <= found
    assert sum(name.startswith("raw_files/responses/") for name in found) == 3
    assert not any("probe" in name or ".batchata" in name for name in found)
    assert (
        s3["AWS_SECRET_ACCESS_KEY"] not in storage().cat("results/nightly/manifest.json").decode()
    )

    calls = sandbox.ledger.calls()
    assert "STATUS completed 12 12" in three.say("-c", RUN, url, state)
    later = sandbox.ledger.calls()
    # The replies came from the storage, and nothing was asked of the provider.
    assert {name: later[name] - calls.get(name, 0) for name in later} == dict.fromkeys(later, 0)
    assert len(billed()) == JOBS

    shown = three.say("-m", "batchata_prefect.cli", "results", url)
    rows = [orjson.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert sorted(row["job_id"] for row in rows) == sorted(f"job-{n}" for n in range(JOBS))


def test_a_command_is_retried_on_another_machine(
    tmp_path: Path, machines: list[Machine], billed
) -> None:
    """What one machine changed for a retry, a third one knows: nothing goes out again."""
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("text\n" + "".join(f"{tmp_path} {n}\n" for n in range(3)))
    one, two, three = machines
    url, state = "s3://results/cli", "remote-file-system/records"
    told = ("--model", "gpt-6-luna", "--prompt", "{text}", "--out", url, "--state", state, "--json")
    asked = one.command(1, "run", str(jobs), *told, "--max-tokens", "9")
    assert asked["results"] == f"{url}/results.jsonl"
    assert list(asked["failures"]) == ["truncated"]

    refused = two.say(
        "-m", "batchata_prefect.cli", "retry", url, "--max-tokens", "200", exit_code=3
    )
    assert "--trust" in refused
    assert str(jobs) in refused
    retried = two.command(0, "retry", url, "--max-tokens", "200", "--json", "--trust")
    assert retried["counts"]["completed"] == 3
    paid = len(billed())
    again = three.command(0, "run", str(jobs), *told, "--max-tokens", "9", "--trust")
    assert again["counts"]["completed"] == 3
    assert len(billed()) == paid


def test_what_cannot_be_written_is_refused_before_anything_is_paid(
    tmp_path: Path, prefect_server, sandbox, s3
) -> None:
    """A bucket that is not there ends the run with its name, and nothing was sent."""
    created = len(list(sandbox.ledger.batches()))
    job = {"prompt": "a", "model": "gpt-6-luna", "max_tokens": 200}
    with temporary_settings({PREFECT_HOME: tmp_path}):
        batch = Batch("s3://no-such-bucket/out").set_state(file=tmp_path / "state").add_job(**job)
        told = "'s3://no-such-bucket/out' cannot be written.*Nothing was sent"
        with pytest.raises(ValidationError, match=told):
            batch.run()
        with pytest.raises(ValidationError, match=r"'nosuch://x/out'.*Nothing was sent"):
            Batch("nosuch://x/out").add_job(**job).run()
    assert len(list(sandbox.ledger.batches())) == created
    assert not storage().exists("no-such-bucket")


def test_a_password_in_the_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    """It would stand in records, manifests and logs."""
    for use in (Batch, bring):
        with pytest.raises(ValidationError, match=r"'far\.test' holds a password") as raised:
            use("sftp://me:hush-hush@far.test/out")
        assert "hush-hush" not in str(raised.value)


def test_a_slash_at_the_end_names_the_same_results() -> None:
    """The run, its folder and `batchata status` agree on it."""
    assert working_folder("s3://bucket/out/") == working_folder("s3://bucket/out")
    assert repr(Batch("s3://bucket/out/")) == repr(Batch("s3://bucket/out"))


def _folder(path: Path, run_key: str, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    (path / "manifest.json").write_text(json.dumps({"run_key": run_key, "ledger": [1, 1, 1]}))
    return path


def test_results_of_another_run_are_kept(tmp_path: Path) -> None:
    """What lies at the URL already is never overwritten by another run."""
    url = f"file://{tmp_path / 'far'}"
    old = _folder(tmp_path / "old", "one", results_jsonl="old", report_html="old")
    new = _folder(tmp_path / "new", "two", results_jsonl="new")
    assert publish(old, url)
    assert not publish(old, url)
    assert publish(new, url)
    found = {path.name: path.read_text() for path in (tmp_path / "far").iterdir()}
    assert found["results.jsonl"] == "new"
    (kept,) = (text for name, text in found.items() if name.startswith("results.2"))
    assert kept == "old"
    assert sum(name.startswith("manifest.") for name in found) == 2


def test_a_publish_that_broke_off_is_finished_by_the_next(tmp_path: Path) -> None:
    """Without its manifest nothing counts as there, and all of it is put again."""
    url = f"file://{tmp_path / 'far'}"
    folder = _folder(tmp_path / "run", "one", results_jsonl="rows")
    (tmp_path / "far" / "results.jsonl").mkdir(parents=True)  # in the way of the file
    with pytest.raises(StateError, match=r"cannot be put at 'file://.*run again to put them there"):
        publish(folder, url)
    assert not (tmp_path / "far" / "manifest.json").exists()
    (tmp_path / "far" / "results.jsonl").rmdir()
    assert publish(folder, url)
    assert (tmp_path / "far" / "results.jsonl").read_text() == "rows"


def test_results_are_brought_as_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader gets what lies at the URL, also after another machine has put something new."""
    url = f"file://{tmp_path / 'far'}"
    monkeypatch.setattr(
        "batchata_prefect.results.remote.working_folder", lambda _: tmp_path / "mine"
    )
    assert working_folder(url) != working_folder(f"{url}2")
    publish(_folder(tmp_path / "a", "one", results_jsonl="first"), url)
    assert (bring(url) / "results.jsonl").read_text() == "first"
    publish(_folder(tmp_path / "b", "two", results_parquet="second"), url)
    assert (bring(url) / "results.parquet").read_text() == "second"
    assert not (tmp_path / "mine" / "results.jsonl").exists()


def test_s3_says_who_was_first(tmp_path: Path, prefect_server, s3) -> None:
    """Of two that create one record at once, S3's conditional put refuses the second."""

    async def check() -> None:
        block = await RemoteFileSystem.aload("records")
        storage = firm(cast("RemoteFileSystem", block))
        one, two = Records(storage, f"{tmp_path}"), Records(storage, f"{tmp_path}")
        assert await one.create("x", {"n": 1})
        assert not await two.create("x", {"n": 2})
        assert one.creates_first
        assert two.creates_first
        assert await two.create("x", {"n": 1}), "what is there is what was wanted"
        assert (await two.read("x") or {})["n"] == 1

    asyncio.run(check())
