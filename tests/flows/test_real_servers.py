"""Third-party servers that speak the batch APIs, where they are installed and up.

They answer in ways that no author of a sandbox imagines. `REAL_SERVERS` names them and their base
URLs, such as `ogx=http://127.0.0.1:18321/v1,aibrix=http://127.0.0.1:18091/v1`, and `litellm` and
`aimock`; `REAL_SERVERS_KEY` is a key for one that wants one.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

from batchata_prefect import Batch
from batchata_prefect.providers import providers
from tests.chaos.killing import Forker, log_of, manifest_of, rows_of, told

pytestmark = pytest.mark.usefixtures("prefect_server")

URLS = dict(
    each.split("=", 1) for each in os.environ.get("REAL_SERVERS", "").split(",") if "=" in each
)
ANSWERS = {
    "hello": '{"capital": "Anywhere"}',
    "NOT-JSON": "I would rather talk about cheese.",
    "FLAKY": '{"capital": "Quito"}',
}


@pytest.mark.parametrize(
    ("server", "provider", "model"),
    [
        ("ogx", "openai", "openai/gpt-4o-mini"),
        ("ogx", "anthropic", "openai/claude-haiku-4-5"),
        ("aibrix", "openai", "gpt-4o-mini"),
    ],
)
def test_every_job_ends_by_what_its_server_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, provider: str, model: str
) -> None:
    """Answers are read, what says nothing against a request goes again, the rest is final."""
    url = _address(server)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url.removesuffix("/v1"))
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "test")
    batch = Batch(tmp_path / "out", max_attempts=2).set_state(file=tmp_path / "state")
    batch.set_default_params(model=model, provider=provider, max_tokens=100)
    for name in (*ANSWERS, "REJECT-ME", "RATE-LIMIT-ME", "CRASH-ME", "TRUNCATE-ME"):
        batch.add_job(prompt=f"{name} please", id=name)
    found = {each.job_id: each for each in batch.run().iter_results()}
    for name, text in ANSWERS.items():
        assert (found[name].status, found[name].raw_response) == ("completed", text)
        assert found[name].output_tokens > 0
    assert {name: len(each.attempts) for name, each in found.items() if name not in ANSWERS} == {
        "REJECT-ME": 1,
        "RATE-LIMIT-ME": 2,
        "CRASH-ME": 2,
        "TRUNCATE-ME": 1,
    }
    assert found["TRUNCATE-ME"].error_code == "truncated"
    assert found["TRUNCATE-ME"].raw_response


@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["ogx", "aibrix", "litellm", "aimock"])
def test_a_run_that_is_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """Nothing is made twice: a chunk has one batch at the server, and that is the run's."""
    lab = _account(monkeypatch, server)
    began, chance = datetime.now(UTC), random.Random(server)
    model = "lab/openai/gpt-4o-mini" if server == "ogx" else "lab/gpt-4o-mini"
    job = told(tmp_path, jobs=8, models=[model], options={"accounts": {"lab": lab}})
    made = Forker(dict(os.environ))
    try:
        codes = [made.run(job, kill_after=chance.uniform(0.5, 3))[0] for _ in range(3)]
        assert made.run(job)[0] == 0, (codes, log_of(job))
    finally:
        made.close()
    rows = rows_of(job)
    assert [row["status"] for row in rows] == ["completed"] * 8, rows
    known = {batch["batch_id"] for batch in manifest_of(job)["batches"]}
    heads = asyncio.run(_heads(lab, began))
    mine = {heads[batch_id] for batch_id in known}
    assert known == {batch_id for batch_id, head in heads.items() if head in mine}, codes


@pytest.mark.parametrize(
    ("server", "model"), [("ogx", "openai/gpt-4o-mini"), ("aibrix", "gpt-4o-mini")]
)
def test_structured_answers_of_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, model: str
) -> None:
    """They come back as the model, out of a code fence as well; prose fails by itself."""
    lab = _account(monkeypatch, server) | {"profile": server}
    batch = Batch(tmp_path / "out", accounts={"lab": lab}, max_attempts=1)
    batch.set_state(file=tmp_path / "state")
    for name in ("hello", "FENCED", "NOT-JSON"):
        batch.add_job(
            prompt=f"{name} please",
            id=name,
            provider="lab",
            model=model,
            max_tokens=100,
            response_model=Capital,
        )
    found = {each.job_id: each for each in batch.run().iter_results()}
    assert found["hello"].parsed_response == Capital(capital="Anywhere")
    assert found["FENCED"].parsed_response == Capital(capital="Rome")
    assert found["NOT-JSON"].error_code == "invalid_json"


class Capital(BaseModel):
    """What the structured jobs ask for."""

    capital: str


async def _heads(lab: dict[str, str], since: datetime) -> dict[str, str | None]:
    """Batches at a server that this package made since a time: id -> what it was made for."""
    provider = providers({"lab": lab})["lab"]
    client = provider.connect(provider.login())
    try:
        return {each.batch.batch_id: each.head for each in await provider.ours(client, since)}
    finally:
        await client.close()


def _account(monkeypatch: pytest.MonkeyPatch, server: str) -> dict[str, str]:
    url = _address(server)
    monkeypatch.setenv("REAL_SERVERS_KEY", os.environ.get("REAL_SERVERS_KEY", "test"))
    return {"kind": "openai", "base_url": url, "api_key_env": "REAL_SERVERS_KEY"}


def _address(server: str) -> str:
    url = URLS.get(server)
    if url is None or not _is_up(url):
        pytest.skip(f"{server} is not up")
    return url


def _is_up(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 80)) == 0
