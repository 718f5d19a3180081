"""Third-party servers that speak the batch APIs, where they are installed and up.

They answer in ways that no author of a sandbox imagines. `REAL_SERVERS` names them and their base
URLs, such as `ogx=http://127.0.0.1:18321/v1,aibrix=http://127.0.0.1:18091/v1`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from batchata_prefect import Batch

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
    url = URLS.get(server)
    if url is None or not _is_up(url):
        pytest.skip(f"{server} is not up")
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


def _is_up(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 80)) == 0
