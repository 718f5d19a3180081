"""Several accounts of one kind in one run: each has its own address and key."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from batchata_prefect import Batch, MissingCredentialsError, StateError, ValidationError
from batchata_prefect.collector.inflight import adopt, open_run
from batchata_prefect.models import Chunk, Job
from batchata_prefect.money.ledger import FINGERPRINT_BYTES, Intent, Receipt, Start
from batchata_prefect.providers import Key, providers
from batchata_prefect.records.storage import DurableFileSystem
from batchata_prefect.records.store import Records
from batchata_prefect.sandbox import Sandbox
from tests.flows.endpoints import KINDS, MODELS, PRICES, billed_of, key_of, strangers, tables

pytestmark = pytest.mark.usefixtures("prefect_server")


def toml_of(known: dict[str, dict[str, str]]) -> str:
    lines = list[str]()
    for name, table in known.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)


def make(out: Path, accounts: Any, count: int = 1, **told: Any) -> Batch:
    batch = Batch(out, accounts=accounts, prices=PRICES, **told).set_state(out / "state")
    batch.add_cost_limit(usd=5)
    for n in range(count):
        batch.add_job(prompt=f"{out} {n}", model="lab/gpt-6-luna", max_tokens=500, id=f"lab-{n}")
        batch.add_job(prompt=f"{out} {n}", model="gpt-6-luna", max_tokens=500, id=f"openai-{n}")
        for name in ("team", "anthropic"):
            model = MODELS["anthropic"]
            batch.add_job(
                prompt=f"{out} {n}", model=model, provider=name, max_tokens=500, id=f"{name}-{n}"
            )
    return batch


def test_each_account_sees_only_its_own(servers: dict[str, Sandbox], tmp_path: Path) -> None:
    """Jobs go to the server that they name; the records have the accounts, and no key."""
    out, file = tmp_path / "out", tmp_path / "accounts.toml"
    known, before = strangers(servers), billed_of(servers)
    others = {each.id for box in servers.values() for each in box.ledger.batches()}
    file.write_text(toml_of(tables(servers)))
    run = make(out, file).run()
    done = {result.job_id: result for result in run.results()["completed"]}
    assert {id_: result.provider for id_, result in done.items()} == {f"{n}-0": n for n in KINDS}
    assert {result.model for result in done.values()} == set(MODELS.values())
    assert all((result.cost_usd or 0) > 0 for result in done.values())
    assert billed_of(servers) == {name: count + 1 for name, count in before.items()}

    # The file may be gone: whoever has the records finds the accounts in them.
    file.unlink()

    async def look() -> Any:
        with pytest.raises(StateError, match=r"lab.*--state"):
            await open_run(out)
        known = await open_run(out, state=str(out / "state"))
        return known.accounts, *await adopt(known)

    accounts, adopted, unclaimed = asyncio.run(look())
    assert (accounts, adopted) == (tables(servers), [])
    assert {each.batch.batch_id for each in unclaimed} <= others
    again = make(out, tables(servers), 2).run()
    assert again.status()["resumed"] == 4
    assert billed_of(servers) == {name: count + 2 for name, count in before.items()}
    assert strangers(servers) == known
    secrets = [key_of(name) for name in KINDS]
    written = [orjson.dumps(again.manifest)]
    written += [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not [text for text in written for secret in secrets if secret.encode() in text]

    # What is in flight at one address cannot be reached at another.
    moved = {**tables(servers), "lab": {**tables(servers)["lab"], "base_url": "http://x.test/v1"}}
    with pytest.raises(StateError, match="lab"):
        make(out, moved, 3).run()


def test_clients_of_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made with its own key and address, whatever the variables of its kind hold."""
    for kind in MODELS:
        monkeypatch.setenv(f"{kind.upper()}_API_KEY", "of-the-kind")
        monkeypatch.setenv(f"{kind.upper()}_BASE_URL", "http://kind.test/v1")
    accounts = {
        f"{name}{n}": {
            "kind": kind,
            "base_url": f"http://{name}{n}.test/v1",
            "api_key_env": f"{name}{n}",
        }
        for n in range(2)
        for name, kind in KINDS.items()
    }
    known = providers(accounts)
    for name in accounts:
        monkeypatch.setenv(name, f"key-of-{name}")
        client = known[name].connect(known[name].login())
        assert client.api_key == f"key-of-{name}"
        assert known[name].account(client) == f"http://{name}.test/v1"
    assert known["openai"].connect(known["openai"].login()).api_key == "of-the-kind"


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini", "azure"])
def test_nothing_of_the_environment_goes_with_an_account(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No project, header or address that was set for the key of the environment."""
    for name in ("OPENAI", "ANTHROPIC", "GOOGLE_GEMINI"):
        monkeypatch.setenv(f"{name}_BASE_URL", "http://other.test/v1")
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", "x-team: stranger")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "stranger")
    monkeypatch.setenv("KEY_OF_TEST", "key-of-account")
    table: dict[str, Any] = {"kind": kind, "api_key_env": "KEY_OF_TEST"}
    if kind == "azure":
        table["base_url"] = "https://x.openai.azure.com"
    if kind == "openai":
        table["options"] = {"project": "ours"}
    known = providers({"lab": table})["lab"]
    client = known.connect(known.login())
    headers = {**getattr(client, "default_headers", {})}
    assert "stranger" not in str(headers), headers
    if kind == "openai":
        assert headers["OpenAI-Project"] == "ours"
    assert getattr(client, "admin_api_key", None) is None
    assert urlsplit(known.account(client)).hostname in {*known.hosts, "x.openai.azure.com"}


@pytest.mark.parametrize(
    ("told", "held", "where"),
    [
        (None, None, "https://api.openai.com/v1"),
        (None, "https://eu.api.openai.com/v1", "https://eu.api.openai.com/v1"),
        ("http://lab.test/v1", "http://lab.test/v1", "http://lab.test/v1"),
        ("http://lab.test/v1", None, "http://lab.test/v1"),
        (None, "http://lab.test/v1", None),
        (None, "https://api.openai.com.evil.test/v1", None),
    ],
)
def test_the_address_in_the_block_of_an_account(
    told: str | None, held: str | None, where: str | None
) -> None:
    """Listed prices never count for a foreign server that only a block names."""
    table = {"kind": "openai", "credentials": "team"} | ({"base_url": told} if told else {})
    lab = providers({"lab": table})["lab"]
    if where is None:
        with pytest.raises(MissingCredentialsError, match=r"lab.*base_url"):
            lab.login(Key("sk-of-test", held))
        return
    assert lab.account(lab.connect(lab.login(Key("sk-of-test", held)))) == where
    assert lab.is_listed == where.endswith("openai.com/v1")


def test_the_key_of_an_account_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the kind is never sent to another address."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    lab = {"kind": "openai", "base_url": "http://x.test/v1", "api_key_env": "NO_SUCH_KEY"}
    batch = Batch(tmp_path / "out", accounts={"lab": lab})
    batch.add_job(prompt="x", model="lab/m", max_tokens=5)
    with pytest.raises(MissingCredentialsError, match="NO_SUCH_KEY"):
        batch.run()


def test_prices_of_an_account(tmp_path: Path) -> None:
    """At another address the price is the user's own, or unknown and refused under a limit."""
    lab = {"kind": "openai", "base_url": "http://x.test/v1", "api_key_env": "K"}
    accounts = {"lab": lab, "groq": lab, "second": {"kind": "openai", "api_key_env": "K"}}
    for provider, prices, refused in (
        ("lab", None, True),
        ("groq", None, True),
        ("second", None, False),
        ("lab", {"lab/gpt-6-luna": {"input": 1, "output": 1}}, False),
        ("groq", {"lab/gpt-6-luna": {"input": 1, "output": 1}}, True),
    ):
        batch = Batch(tmp_path / "out", accounts=accounts, prices=prices).add_cost_limit(usd=1)
        batch.add_job(prompt="x", model="gpt-6-luna", provider=provider, max_tokens=5)
        if refused:
            with pytest.raises(ValidationError, match=f"price of 'gpt-6-luna' at {provider} "):
                batch.run(dry_run=True)
        else:
            batch.run(dry_run=True)


def test_quotas_are_of_each_account(servers: dict[str, Sandbox], tmp_path: Path) -> None:
    """Declared for one of two at the same address, it does not hold for the other one."""
    table = tables(servers)["lab"]
    batch = Batch(
        tmp_path / "out",
        accounts={"lab": table, "second": table},
        prices=PRICES,
        quota={"lab/gpt-6-luna": 600, "second/gpt-6-luna": 600_000},
    )
    batch.set_state(tmp_path / "state")
    for n in range(6):
        for name in ("lab", "second"):
            text = f"{tmp_path} {name} {n} {'word ' * 100}"
            batch.add_job(prompt=text, model=f"{name}/gpt-6-luna", max_tokens=5, id=f"{name}-{n}")
    run = batch.run()
    assert run.manifest is not None
    found = Counter(each["provider"] for each in run.manifest["batches"])
    assert found["second"] == 1
    assert found["lab"] > 1


def test_two_servers_may_give_the_same_id(servers: dict[str, Sandbox], tmp_path: Path) -> None:
    """A batch is looked for among those that are not taken at its own server."""
    known = tables(servers)

    async def look() -> tuple[str, list[str]]:
        lab = providers(known)["lab"]
        body, endpoint = {"model": "m", "input": f"{tmp_path}"}, "/v1/chat/completions"
        line = lab.line("0000000000000000-0", orjson.dumps(body), endpoint) + b"\n"
        ours = Chunk(
            sequence=1,
            round=0,
            token="f" * 64,
            provider="lab",
            endpoint=endpoint,
            model="m",
            count=1,
            size_bytes=len(line),
            input_tokens=1,
            output_tokens=1,
            reserved_usd=None,
        )
        client = lab.connect(lab.login())
        now = datetime.now(UTC)
        made = await lab.create(client, ours, partial(BytesIO, line))
        await client.close()
        records = Records(DurableFileSystem(basepath=str(tmp_path / "state")), "key")
        await records.begin(Start("key", now, "out"), afresh=False)
        await records.write_accounts(known)
        theirs = replace(ours, sequence=0, provider="openai", token="e" * 64)
        for chunk in (theirs, ours):
            await records.write_intent(Intent(chunk, now, b"x" * FINGERPRINT_BYTES))
        await records.write_receipt(0, Receipt(made.batch_id, now))
        adopted, _ = await adopt(await open_run(None, "key", str(tmp_path / "state")))
        return made.batch_id, [str(each.batch_id) for each in adopted]

    made, adopted = asyncio.run(look())
    assert adopted == [made]


HELD = {"kind": "openai", "api_key_env": "K"}
FOREIGN = HELD | {"base_url": "http://x.test/v1"}


@pytest.mark.parametrize(
    ("table", "endpoints", "size", "keeps"),
    [
        (HELD, 3, 200, True),
        (FOREIGN, 1, 100, False),
        (FOREIGN | {"profile": "openai"}, 3, 200, True),
        (FOREIGN | {"profile": "groq"}, 1, 100, False),
    ],
)
def test_what_the_server_of_an_account_takes(
    table: dict[str, str], endpoints: int, size: int, keeps: bool
) -> None:
    """What is not there is refused before anything is sent, or left out where it is a default."""
    lab = providers({"lab": table})["lab"]
    assert (lab.limits.max_bytes, lab.keeps_files) == (size * 1_000_000, keeps)
    assert providers()["openai"].limits.max_bytes == 200_000_000
    taken = 0
    for endpoint in ("/v1/chat/completions", "/v1/responses", "/v1/embeddings"):
        job = Job(id="j", model="some-model", prompt="x", endpoint=endpoint)
        try:
            assert lab.render(job).endpoint == endpoint
            taken += 1
        except ValidationError as error:
            assert "'j'" in str(error), error
            assert "profile" in str(error), error
    assert taken == endpoints
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "x"}]
    job = Job(id="j", model="m", messages=messages, cache_prefix=True)
    if keeps:
        assert b"prompt_cache_key" in lab.render(job).body
        return
    with pytest.raises(ValidationError, match="cache_prefix"):
        lab.render(job)
    request = lab.render(replace(job, defaulted=frozenset({"cache_prefix"})))
    assert b"prompt_cache_key" not in request.body
    assert request.left_out == ("cache_prefix",)


@pytest.mark.parametrize(
    ("name", "table", "told"),
    [
        ("lab", {"kind": "nobody", "api_key_env": "K"}, "kind is one of"),
        ("lab", {"kind": "openai"}, "needs either api_key_env"),
        ("lab", {"kind": "openai", "api_key_env": "K", "credentials": "b"}, "needs either"),
        ("lab", {"kind": "openai", "api_key": "sk-secret"}, "api_key_env names"),
        ("lab", {"kind": "openai", "api_key_env": "K", "options": {"api_key": "sk-secret"}}, "env"),
        ("lab", {"kind": "openai", "api_key_env": "K", "base_url": "http://u:sk-secret@h"}, "addr"),
        ("lab", {"kind": "openai", "api_key_env": 3}, "texts"),
        ("a/b", {"kind": "openai", "api_key_env": "K"}, "a name is"),
        ("lab", {"kind": "openai", "api_key_env": "K", "profile": "x"}, "profile is one of"),
        ("lab", {"kind": "anthropic", "api_key_env": "K", "profile": "groq"}, "no profiles"),
        ("lab", "sk-secret", "is a table"),
        (
            "lab",
            {"kind": "openai", "api_key_env": "K", "options": {"data_residency": "eu"}},
            "openai takes no option 'data_residency'; .*organization.*base_url='https://eu",
        ),
        (
            "lab",
            {"kind": "openai", "api_key_env": "K", "options": {"api_version": "v1"}},
            "openai takes no option 'api_version'; .* azure takes that one",
        ),
        ("lab", {"kind": "gemini", "api_key_env": "K", "options": {"x": "y"}}, "it takes none"),
        (
            "lab",
            {"kind": "openai", "auth": "entra"},
            "openai has no auth .*entra of azure",
        ),
        ("lab", {"kind": "azure", "auth": "entra", "api_key_env": "K"}, "needs either"),
    ],
)
def test_accounts_that_make_no_sense(name: str, table: Any, told: str, tmp_path: Path) -> None:
    """They are refused when the batch is built, and no value is shown."""
    with pytest.raises(ValidationError, match=told) as caught:
        Batch(tmp_path / "out", accounts={name: table})
    assert "sk-secret" not in str(caught.value)
