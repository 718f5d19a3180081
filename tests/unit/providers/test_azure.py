"""What is Azure's own: its paths, names, logins and files. The rest is in the tests of all."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import openai
import orjson
import pytest

from batchata_prefect.errors import MissingCredentialsError, ValidationError
from batchata_prefect.models import Job
from batchata_prefect.money.quota import told
from batchata_prefect.providers import (
    Key,
    ProviderNotFoundError,
    price_book,
    provider_for,
    providers,
)
from batchata_prefect.providers.azure import Azure, batches
from batchata_prefect.providers.failures import NotSentError, classify
from batchata_prefect.sandbox import Sandbox

from .conftest import body
from .orders import Order, answers, finished, run

AZURE = Azure()
VERSIONS = [None, "v1", "preview", "2024-10-21"]


def job(**values: Any) -> Job:
    return Job(**{"id": "j", "model": "fleet", "prompt": "Hi", "provider": "azure", **values})


@pytest.fixture
def placed(sandbox, tmp_path) -> Order:
    prompts = ["One", "[[sandbox:errored content_filter]]"]
    return Order(AZURE, tmp_path / "r.jsonl", prompts, str(tmp_path))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_lives_by_either_path(placed, monkeypatch, version: str | None) -> None:
    """Below `/openai/v1`, or `/openai` where a day of a version is given; it is one account."""
    if version is not None:
        monkeypatch.setenv("OPENAI_API_VERSION", version)
    monkeypatch.setenv("AZURE_OPENAI_REALTIME_DEPLOYMENT", "fleet-live")

    async def live(client: Any) -> None:
        assert AZURE.account(client).endswith("/azure/openai")
        batch = await finished(AZURE, client, (await placed.create(client)).batch_id)
        found = await answers(placed, client, batch)
        assert (found[0].outcome, found[1].outcome) == ("succeeded", "errored")
        # What the filter refuses is refused of that request alone, and finally.
        assert (found[1].error_code, found[1].status) == ("content_filter", 400)
        for endpoint in ("/v1/chat/completions", "/v1/responses"):
            asked = AZURE.render(job(endpoint=endpoint)).body
            reply = AZURE.read(await AZURE.answer(client, "x-1", asked, endpoint), endpoint)
            assert reply.outcome == "succeeded", reply.error

    run(AZURE, live)


def test_a_deployment_for_batches_answers_no_direct_request(placed) -> None:
    """Without another one for them its refusal is the request's."""

    async def ask(client: Any) -> None:
        row = await AZURE.answer(client, "x-1", AZURE.render(job()).body, "/v1/chat/completions")
        assert AZURE.read(row, "/v1/chat/completions").error_code == "OperationNotSupported"

    run(AZURE, ask)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [("/v1/chat/completions", "/chat/completions"), ("/v1/responses", "/v1/responses")],
)
def test_lines_name_azures_urls(placed, tmp_path, endpoint: str, url: str) -> None:
    """And the sandbox runs them by these, whatever the create says."""
    request = AZURE.render(job(endpoint=endpoint))
    assert request.provider == "azure"
    line = orjson.loads(AZURE.line("c-0", request.body, endpoint))
    assert (line["url"], line["body"]["model"]) == (url, "fleet")


def test_a_name_tells_nothing_of_a_model() -> None:
    """Of `gpt-5` no parameter is taken out, and of an image not less is reckoned with."""
    named = job(model="gpt-5", params={"temperature": 0.2}, max_tokens=500_000)
    assert body(AZURE.render(named))["temperature"] == 0.2
    assert body(AZURE.render(named))["max_completion_tokens"] == 500_000
    assert not AZURE.serves("gpt-5")
    assert AZURE.most_output("gpt-5") is None
    assert AZURE.takes_temperature("gpt-5") is None
    with pytest.raises(ProviderNotFoundError, match="name one with provider="):
        provider_for("fleet")
    with pytest.raises(ValidationError, match="no batches of embeddings"):
        AZURE.render(job(endpoint="/v1/embeddings"))


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-6-luna", "fleet"])
def test_no_price_is_known_by_a_name(name: str) -> None:
    """Also where genai-prices has one for a model of that name at Azure."""
    assert not price_book().knows("azure", name)
    assert f"prices={{{name!r}:" in str(price_book().note("azure", name))
    own = price_book({name: {"input": 1, "output": 2}})
    assert own.knows("azure", name)
    assert not own.knows("azure", name, realtime=True)


def test_a_file_is_waited_for(placed, sandbox, monkeypatch) -> None:
    """No batch is made of a file that is not processed, and it is not uploaded again for that."""
    monkeypatch.setattr(batches, "_LOOKS_SECONDS", 0.05)
    sandbox.limits(pending_seconds=3600)
    before = sandbox.ledger.calls()

    async def wait(client: Any) -> None:
        with pytest.raises(NotSentError) as waited:
            await placed.create(client)
        assert classify(waited.value).kind == "wait"
        assert sandbox.ledger.calls().get("azure.create") == before.get("azure.create")
        monkeypatch.setattr(batches, "_LOOKS_SECONDS", 60)
        sandbox.limits(pending_seconds=0)
        assert (await placed.create(client)).batch_id

    try:
        run(AZURE, wait)
    finally:
        sandbox.limits(pending_seconds=0.05)
    assert sandbox.ledger.calls()["azure.upload"] == before.get("azure.upload", 0) + 1


def answered(answer: Callable[[Any], Any], work: Callable[[Any], Any]) -> Any:
    """What comes of some work where a resource answers each request so."""

    def reply(request: Any) -> httpx2.Response:
        return httpx2.Response(200, json=answer(request))

    async def main() -> Any:
        transport = httpx2.AsyncClient(transport=httpx2.MockTransport(reply))
        told = {"base_url": "http://azure/openai", "api_version": "v1", "api_key": "k"}
        async with openai.AsyncAzureOpenAI(http_client=transport, **told) as client:
            return await work(client)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "usable"), [("processed", True), ("Processed", True), (None, True), ("error", False)]
)
def test_a_file_that_cannot_be_read_is_given_up(status: str | None, usable: bool) -> None:
    """It is uploaded again by the next create; a server that tells no status is believed."""
    file = {"id": "f", "status": status}
    assert answered(lambda _: file, lambda client: AZURE._is_usable(client, "f")) is usable


def test_what_is_not_told_yet_is_read() -> None:
    """As the documents show it: a capital, dates in words, nulls and empty names of files."""
    batch = AZURE.batch(
        {
            "id": "batch_1",
            "status": "Validating",
            "created_at": "2024-07-19T17:13:57.2491382+00:00",
            "endpoint": None,
            "metadata": None,
            "output_file_id": "",
            "error_file_id": "",
            "request_counts": {"total": None, "completed": None, "failed": None},
        }
    )
    assert (batch.state, batch.output_file_id, batch.error_file_id) == ("in_progress", None, None)
    assert batch.created_at is not None
    assert AZURE.batch({"id": "batch_1", "status": "Cancelled"}).ending == "canceled"
    failed: dict[str, Any] = {
        "id": "batch_1",
        "status": "failed",
        "request_counts": {"total": 9, "completed": 0},
    }
    assert AZURE.batch(failed).ending == "failed"
    # It failed on its way: what is answered is fetched.
    failed["request_counts"] = {"total": 9, "completed": 4, "failed": None}
    assert AZURE.batch(failed).ending == "ended"


LIMITS = {
    "Limit: 2,000,000 enqueued tokens": 2_000_000,
    "the configured limit of 30K for the deployment 'gpt-4.1-batch'. Please": 30_000,
    "the configured limit of 1.8K for": 1_800,
    "the configured limit of 50000K for": 50_000_000,
    "a limit of 5M.": 5_000_000,
    "the limit is reached": None,
}


@pytest.mark.parametrize("text", LIMITS)
def test_the_limit_that_a_refusal_names_is_read(text: str) -> None:
    """OpenAI's in tokens, and Azure's in thousands."""
    assert told(text) == LIMITS[text]


@pytest.fixture
def identity() -> Iterator[str]:
    """What gives tokens to a machine of Azure's App Service, over loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert "cognitiveservices.azure.com" in self.path
            token = {"access_token": "sandbox-token", "expires_on": str(int(time.time()) + 86_400)}
            data = orjson.dumps({**token, "resource": "x", "token_type": "Bearer"})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    server.server_close()


def test_microsoft_entra_id_logs_in(placed, sandbox: Sandbox, identity, monkeypatch) -> None:
    """By a token of the environment, an account's credential, or what is there by default."""
    pytest.importorskip("azure.identity", reason="an extra")
    endpoint = sandbox.environment()["AZURE_OPENAI_ENDPOINT"]
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("IDENTITY_ENDPOINT", identity)
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    named = {"azure_ad_token_provider": "ManagedIdentityCredential", "api_version": "2024-10-21"}

    async def login(key: Key | None) -> None:
        client = AZURE.connect(key)
        found = [batch async for batch in AZURE.listed(client)]
        assert found is not None
        await client.close()

    asyncio.run(login(None))
    asyncio.run(login(Key("", endpoint, named)))
    # An account's login is its own, whatever the environment has.
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "wrong")
    asyncio.run(login(Key("", endpoint, named)))
    asyncio.run(login(Key("sandbox-of-the-account", endpoint)))
    # In a table of accounts by its name, without a block.
    table = {"kind": "azure", "auth": "entra", "base_url": endpoint}
    account = providers({"prod": table})["prod"]
    asyncio.run(login(account.login()))
    with monkeypatch.context() as without:
        without.delattr(sys.modules["azure"], "identity")
        without.setitem(sys.modules, "azure.identity", None)
        with pytest.raises(MissingCredentialsError, match=r"batchata-prefect\[azure\]"):
            account.connect(account.login())
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "sandbox-token")
    asyncio.run(login(None))
    with pytest.raises(MissingCredentialsError, match="no credential of azure"):
        AZURE.connect(Key("", endpoint, {"azure_ad_token_provider": "Anything"}))
    monkeypatch.delenv("IDENTITY_ENDPOINT")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(MissingCredentialsError, match=r"gave no token .*az login"):
        AZURE.connect(Key("", endpoint))
    with pytest.raises(MissingCredentialsError, match="AZURE_OPENAI_ENDPOINT"):
        AZURE.connect(Key("sandbox-key"))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/openai/batches", 404),
        ("GET", "/openai/batches?api-version=v1", 404),
        ("GET", "/openai/batches?api-version=2024-10-21", 200),
        ("GET", "/openai/v1/batches", 200),
        ("GET", "/openai/v1/batches?api-version=2024-10-21", 404),
        ("POST", "/openai/v1/embeddings", 404),
        ("POST", "/openai/chat/completions?api-version=2024-10-21", 404),
        ("POST", "/openai/deployments/none/chat/completions?api-version=2024-10-21", 404),
    ],
)
def test_the_sandbox_wants_azures_paths(sandbox, method: str, path: str, status: int) -> None:
    """With the day of a version on the path without `/v1`, and on the other without."""
    headers = {"api-key": "sandbox-key"}
    where = f"{sandbox.environment()['AZURE_OPENAI_ENDPOINT']}{path}"
    content = None if method == "GET" else orjson.dumps({"model": "none", "messages": []})
    reply = httpx2.request(method, where, headers=headers, content=content)
    assert reply.status_code == status, reply.text
    assert httpx2.request(method, where, content=content).status_code in {401, 404}
