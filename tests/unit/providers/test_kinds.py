"""What is known of one provider stands in its folder: nothing else tells kinds apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from starlette.testclient import TestClient

import batchata_prefect
from batchata_prefect import Batch, ValidationError
from batchata_prefect import providers as registry
from batchata_prefect.cli.known_models import known_models
from batchata_prefect.money.billing import Billing
from batchata_prefect.providers import LoginForm, price_book, provider_for, providers
from batchata_prefect.providers.openai import OpenAI
from batchata_prefect.providers.tokens import Counting
from batchata_prefect.records.credentials import block_type
from batchata_prefect.webhook import application

ROOT = Path(batchata_prefect.__file__).parent
KINDS = re.compile(r"anthropic|openai|gemini|azure|claude|gpt|google", re.IGNORECASE)
ALLOWED = {
    (
        "blocks.py",
        "annotations name a block's type, which a type checker cannot read off the entry points",
    ): r"\w+Credentials$",
    ("cli/__init__.py", "the command's examples"): r"Answer very large sets of LLM jobs",
    (
        "providers/failures.py",
        "errors of every SDK are read in one place, so that none is read in two ways",
    ): r"anthropic|openai|anthropic-ratelimit-",
}
"""File and reason -> what may stand there."""


def names(tree: ast.AST) -> Iterator[str]:
    """Texts and identifiers of a module, without its docstrings and comments."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value
        for name in ("id", "attr", "name", "arg"):
            if isinstance(found := getattr(node, name, None), str):
                yield found


def outside() -> list[Path]:
    """Modules that are neither a provider's own nor the sandbox's."""
    return [
        path
        for path in ROOT.rglob("*.py")
        if (parts := path.relative_to(ROOT).parts)[0] != "sandbox"
        and not (parts[0] == "providers" and len(parts) > 2)
    ]


def test_no_kind_is_named_outside_of_its_folder() -> None:
    """A provider's facts are attributes of its class, so that a further one is one folder."""
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in outside()
        for name in names(ast.parse(path.read_text()))
        if KINDS.search(name)
        and not any(
            ROOT / file == path and re.match(text, name) for (file, _), text in ALLOWED.items()
        )
    }
    assert not found


def test_what_may_be_named_is_there() -> None:
    """The list of what is allowed holds nothing that is gone."""
    for file, _ in ALLOWED:
        assert any(KINDS.search(name) for name in names(ast.parse((ROOT / file).read_text())))


class Acme(OpenAI):
    """A provider of another package: all that there is of it."""

    name = "acme"
    address = "https://acme.test/v1"
    hosts = ("acme.test",)
    billing = Billing(listed_as="mistral")
    counting: ClassVar[Any] = Counting()
    login_form = LoginForm(
        "Acme", "A key.", "https://acme.test", "https://acme.test", {"team": "?"}
    )
    webhook_secret = "ACME_SECRET"

    def serves(self, model: str) -> bool:
        return model.startswith("mistral-")

    def verify(self, body: bytes, headers: Any, secret: str) -> None:
        assert headers["acme"] == secret


def test_a_further_provider_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, prices, tokens, accounts, the block and webhooks know of it by its entry point."""
    acme, known = Acme(), providers()
    monkeypatch.setattr(registry, "_kinds", lambda: {**known, "acme": acme})
    model = "mistral-large-latest"
    assert provider_for(model) is acme
    assert price_book().knows("acme", model)
    assert not price_book().knows("openai", model)
    assert {each.provider for each in known_models() if "mistral" in each.model} == {"acme"}
    account = {"kind": "acme", "api_key_env": "K", "options": {"team": "a"}}
    batch = Batch(tmp_path, accounts={"lab": account})
    batch.add_job(prompt="one", model=model)
    batch.add_job(prompt="two", model=f"lab/{model}")
    spool = batch._intake.open_spool()
    spool.seal()
    assert {(each.provider, each.model) for each in spool.families()} == {
        ("acme", model),
        ("lab", model),
    }
    monkeypatch.setenv("K", "key")
    login = batch._intake.providers["lab"].login()
    assert login is not None
    assert (login.base_url, login.options) == (Acme.address, {"team": "a"})
    with pytest.raises(ValidationError, match="acme takes that one"):
        Batch(tmp_path, accounts={"x": {**account, "kind": "openai"}})
    block = block_type(acme, Acme.login_form)
    assert block.get_block_type_slug() == "batchata-acme-credentials"
    assert block(api_key="k", team="t").key().options == {"team": "t"}
    monkeypatch.setenv("ACME_SECRET", "signed")
    with TestClient(application(look=False)) as client:
        assert client.post("/acme", content=b"{}", headers={"acme": "signed"}).status_code == 204
        assert client.post("/acme", content=b"{}", headers={"acme": "guessed"}).status_code == 401
