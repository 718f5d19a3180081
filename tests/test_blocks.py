"""Credentials in blocks, several accounts side by side, and records in remote storage blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect import get_client
from prefect.filesystems import RemoteFileSystem
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr

from batchata_prefect import (
    Batch,
    MissingCredentialsError,
    ProviderNotFoundError,
    ValidationError,
)
from batchata_prefect.blocks import AnthropicCredentials, OpenAICredentials
from batchata_prefect.inflight import open_run, status
from batchata_prefect.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")

VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@pytest.mark.parametrize("block", [AnthropicCredentials, OpenAICredentials])
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
    assert (client.base_url.host, client.api_key) == (host, key)


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
    assert parameters["settings"]["credentials"] == credentials
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
