"""A provider whose pace, faults and clock these tests change, and two machines that run jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import Forker


@pytest.fixture(scope="session")
def changed_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("chaos"), seconds=0.2) as server:
        yield server


@pytest.fixture
def provider(
    prefect_server, changed_sandbox: Sandbox, request: pytest.FixtureRequest
) -> Iterator[Sandbox]:
    """A sandbox for this test, in whose module `SECONDS` says how long a batch takes."""
    usual = {"seconds": getattr(request.module, "SECONDS", 0.2), "expires_seconds": 86_400}
    usual |= {"clock_seconds": 0, "keeps_metadata": True}
    changed_sandbox.limits(**usual)
    yield changed_sandbox
    changed_sandbox.clear_faults()
    changed_sandbox.limits(**usual)
    changed_sandbox.settle()


@pytest.fixture
def forkers(provider: Sandbox, request: pytest.FixtureRequest) -> Iterator[list[Forker]]:
    """Two machines; `ENVIRONMENT` of the module is theirs."""
    environment = getattr(request.module, "ENVIRONMENT", {}) | provider.environment()
    found = [Forker(environment) for _ in range(2)]
    yield found
    for forker in found:
        forker.close()


@pytest.fixture
def forker(forkers: list[Forker]) -> Forker:
    return forkers[0]


@pytest.fixture
def billed(provider: Sandbox) -> Callable[[], list[Any]]:
    before = len(list(provider.ledger.billed()))
    return lambda: list(provider.ledger.billed())[before:]
