"""Credentials in blocks, several accounts side by side, and records in remote storage blocks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pydantic
import pytest
from prefect import flow, get_client, task
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_API_URL
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr

from batchata_prefect import (
    Batch,
    MissingCredentialsError,
    ProviderNotFoundError,
    StateError,
    ValidationError,
)
from batchata_prefect.blocks import (
    AnthropicCredentials,
    AzureCredentials,
    GeminiCredentials,
    JobsFile,
    OpenAICredentials,
)
from batchata_prefect.collector.inflight import open_run, status
from batchata_prefect.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")

VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@pytest.mark.parametrize(
    "block",
    [AnthropicCredentials, AzureCredentials, GeminiCredentials, OpenAICredentials, JobsFile],
)
class TestConventions(BlockStandardTestSuite):
    """What Prefect asks of the blocks of a collection."""

    # It would download the logo.
    test_has_a_valid_image = None

    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> Any:
        return request.param


def test_prefect_finds_the_blocks() -> None:
    """The entry point of collections names their module."""
    points = entry_points(group="prefect.collections")
    found = {point.name: point.load() for point in points}["batchata_prefect"]
    assert found.AnthropicCredentials is AnthropicCredentials


@pytest.mark.parametrize(
    ("block", "host", "key"),
    [
        (AnthropicCredentials(api_key=SecretStr("k")), "api.anthropic.com", "k"),
        (AnthropicCredentials(api_key=SecretStr("k"), base_url="http://a.test"), "a.test", "k"),
        (AzureCredentials(api_key=SecretStr("k"), base_url="http://z.test"), "z.test", "k"),
        (GeminiCredentials(api_key=SecretStr("k"), base_url="http://g.test"), "g.test", "k"),
        (OpenAICredentials(api_key=SecretStr("k")), "api.openai.com", "k"),
        (OpenAICredentials(api_key=SecretStr("k"), base_url="http://o.test/v1"), "o.test", "k"),
    ],
)
def test_the_client_of_a_block(
    block: Any, host: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key and base URL are the block's."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    client = block.get_client()
    assert (urlsplit(str(client.base_url)).hostname, client.api_key) == (host, key)


def test_whom_a_block_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Organization and project go to the SDK's client."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    block = OpenAICredentials(api_key=SecretStr("k"), organization="org-1", project="proj-2")
    client = block.get_client()
    assert (client.organization, client.project) == ("org-1", "proj-2")


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Sandbox]]:
    """Two accounts, each with its own server and blocks, and no key in the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with Sandbox(tmp_path / "a", seconds=0.1) as a, Sandbox(tmp_path / "b", seconds=0.1) as b:
        found = {"team-a": a, "team-b": b}
        for name, sandbox in found.items():
            known = sandbox.environment()
            for kind, provider in (
                (AnthropicCredentials, "ANTHROPIC"),
                (OpenAICredentials, "OPENAI"),
            ):
                kind(
                    api_key=SecretStr(known[f"{provider}_API_KEY"]),
                    base_url=known[f"{provider}_BASE_URL"],
                ).save(name, overwrite=True)
        yield found


def test_accounts_side_by_side(accounts: dict[str, Sandbox], tmp_path: Path) -> None:
    """Each provider is reached with the key of its own block, and no secret is written anywhere."""
    credentials = {"anthropic": "team-a", "openai": "batchata-openai-credentials/team-b"}
    batch = Batch(tmp_path / "out", credentials=credentials).set_state(tmp_path / "state")
    for n, model in enumerate(["claude-sonnet-5-5", "gpt-6-luna"]):
        batch.add_job(prompt=f"{tmp_path} {n}", model=model, max_tokens=100)
    run = batch.run()
    assert len(run.results()["completed"]) == 2
    models = {name: {row.model for row in box.ledger.billed()} for name, box in accounts.items()}
    assert models == {"team-a": {"claude-sonnet-5-5"}, "team-b": {"gpt-6-luna"}}
    assert run.flow_run_id is not None
    with get_client(sync_client=True) as client:
        parameters = client.read_flow_run(run.flow_run_id).parameters
    assert parameters["options"]["credentials"] == credentials
    written = [*(tmp_path / "out").rglob("*"), *(tmp_path / "state").rglob("*")]
    texts = [orjson.dumps(parameters), *(path.read_bytes() for path in written if path.is_file())]
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        secret = accounts["team-a"].environment()[name].encode()
        assert not [text for text in texts if secret in text]

    async def look() -> list[Any]:
        return await status(await open_run(tmp_path / "out"))

    assert asyncio.run(look()) == []


@pytest.mark.parametrize(
    ("credentials", "error", "told"),
    [
        ({"anthropic": ""}, ValidationError, "name of a saved block"),
        ({"mistral": "team-a"}, ProviderNotFoundError, "mistral"),
    ],
)
def test_credentials_that_make_no_sense(
    credentials: dict[str, str], error: type[Exception], told: str, tmp_path: Path
) -> None:
    """They are refused when the batch is built."""
    with pytest.raises(error, match=told):
        Batch(tmp_path / "out", credentials=credentials)


def test_a_block_that_is_not_there(tmp_path: Path) -> None:
    """The error names it, and nothing is sent."""
    batch = Batch(tmp_path / "out", credentials={"openai": "nobody"})
    batch.add_job(prompt="x", model="gpt-6-luna", max_tokens=100)
    with pytest.raises(MissingCredentialsError, match=r"batchata-openai-credentials/nobody.*sent"):
        batch.run()


def test_records_in_a_remote_storage_block(tmp_path: Path, sandbox) -> None:
    """A run resumes from records in a store that is no file system."""
    RemoteFileSystem(basepath="memory://bucket/records").save("bucket", overwrite=True)

    def make(jobs: int) -> Batch:
        batch = Batch(tmp_path / "out").set_state("remote-file-system/bucket")
        for n in range(jobs):
            batch.add_job(prompt=f"{tmp_path} {n}", model="gpt-6-luna", max_tokens=100, id=f"j{n}")
        return batch

    known = len(list(sandbox.ledger.billed()))
    first = make(3).run()
    assert first.manifest is not None and "memory://" in first.manifest["state"]
    assert not (tmp_path / "state").exists()
    again = make(4).run()
    assert again.status()["resumed"] == 3
    assert len(list(sandbox.ledger.billed())) - known == 4


def jobs_file(folder: Path, count: int = 3, **told: Any) -> JobsFile:
    """A block over a file with as many rows."""
    path = folder / "jobs.csv"
    path.write_text("text\n" + "".join(f"{folder} {n}\n" for n in range(count)))
    values = {
        "jobs": str(path),
        "prompt": "Say {text}",
        "model": "gpt-6-luna",
        "results_dir": str(folder / "{run_key}"),
        "state": str(folder / "state"),
        "max_tokens": 200,
    }
    return JobsFile(**{**values, **told})


def test_a_flow_triggers_a_saved_file_of_jobs(tmp_path: Path, sandbox) -> None:
    """It runs as a subflow; triggered again, nothing is sent; another key is another run."""
    jobs_file(tmp_path, cost_limit_usd="0.5").save("tickets", overwrite=True)

    @flow
    async def nightly(run_key: str) -> tuple[dict[str, int], str]:
        block = await JobsFile.aload("tickets")
        run = await block.trigger(run_key)
        with pytest.raises(StateError, match="wait_for_completion"):
            await run.fetch_result()
        await run.wait_for_completion()
        done = await run.fetch_result()
        assert await run.afetch_result() is done
        assert done.results_dir == tmp_path / run_key
        return done.manifest["counts"], done.flow_run_id

    counts, flow_run_id = asyncio.run(nightly("monday"))
    assert counts["completed"] == 3
    billed = len(list(sandbox.ledger.billed()))
    assert asyncio.run(nightly("monday"))[0] == counts
    assert len(list(sandbox.ledger.billed())) == billed
    assert asyncio.run(nightly("tuesday"))[0] == counts
    assert len(list(sandbox.ledger.billed())) == billed + 3

    async def parent() -> Any:
        async with get_client() as client:
            return (await client.read_flow_run(flow_run_id)).parent_task_run_id

    assert asyncio.run(parent()) is not None


def test_a_flow_that_is_not_async_triggers_it_as_well(tmp_path: Path, sandbox) -> None:
    """The same methods, without await: in a flow, in a task, and in a plain script."""
    jobs_file(tmp_path).save("plain", overwrite=True)

    def go(run_key: str) -> dict[str, int]:
        block = JobsFile.load("plain")
        run = block.trigger(run_key)
        with pytest.raises(StateError, match="wait_for_completion"):
            run.fetch_result()
        assert run.wait_for_completion() is None
        done = run.fetch_result()
        assert done.results_dir == tmp_path / run_key
        return done.manifest["counts"]

    @task
    def step(run_key: str) -> dict[str, int]:
        return go(run_key)

    @flow
    def nightly() -> list[dict[str, int]]:
        return [go("monday"), step("tuesday")]

    billed = len(list(sandbox.ledger.billed()))
    assert [each["completed"] for each in [*nightly(), go("monday")]] == [3, 3, 3]
    assert len(list(sandbox.ledger.billed())) == billed + 6


def test_a_run_that_fails_tells_so_where_it_is_waited_for(
    tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a flow that is not async as in one that is."""
    monkeypatch.delenv("OPENAI_API_KEY")

    @flow
    def nightly() -> None:
        run = jobs_file(tmp_path).trigger()
        for ask in (run.wait_for_completion, run.fetch_result):
            with pytest.raises(MissingCredentialsError):
                ask()

    nightly()


def test_prefect_registers_no_block_without_a_name(tmp_path: Path) -> None:
    """`prefect block register` finds the three blocks of the package, each by its name."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "batchata_prefect.blocks"],
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or "", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Batchata Jobs File" in done.stdout
    assert "JobBlock" not in done.stdout
    assert "[" not in done.stdout


def test_an_option_that_a_block_cannot_take_is_refused(tmp_path: Path) -> None:
    """With why, where Prefect would take any name for a field."""
    with pytest.raises(pydantic.ValidationError, match="wait cannot be given in the block"):
        jobs_file(tmp_path, wait="suspend")


def test_a_triggered_run_ends_in_order_with_its_flow(tmp_path: Path, sandbox) -> None:
    """Cancelled while it waits, it cancels its batches, and every job has its place."""

    async def begin_and_leave() -> None:
        run = await jobs_file(tmp_path).trigger("monday")
        while not any(batch.status == "in_progress" for batch in sandbox.ledger.batches()):
            await asyncio.sleep(0.05)
        async with asyncio.timeout(0.1):
            await run.wait_for_completion()

    sandbox.limits(seconds=3600)
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(begin_and_leave())
    finally:
        sandbox.limits(seconds=0.1)
    rows = [orjson.loads(row) for row in (tmp_path / "monday" / "results.jsonl").open("rb")]
    assert [row["status"] for row in rows] == ["cancelled"] * 3


def test_a_wrong_file_of_jobs_is_refused_at_the_trigger(tmp_path: Path, sandbox) -> None:
    """Faults are told where the run is triggered, and nothing is sent."""
    created = len(list(sandbox.ledger.batches()))
    with pytest.raises(ValidationError, match="nothere"):
        asyncio.run(jobs_file(tmp_path, prompt="Say {nothere}").trigger())
    assert len(list(sandbox.ledger.batches())) == created
