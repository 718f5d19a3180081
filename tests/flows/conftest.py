"""What the sandbox was asked for in a test, and servers that each have their own keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from batchata_prefect.sandbox import Sandbox
from tests.flows.endpoints import KINDS, key_of, variable_of


@pytest.fixture
def bodies(billed: Callable[[], list[Any]]) -> Callable[[], list[str]]:
    """Digests of the requests that this test was billed for."""
    return lambda: [row.body_digest for row in billed()]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sandbox]]:
    """A server for each account, which takes the key of no other."""
    found = {name: Sandbox(tmp_path_factory.mktemp(f"box-{name}"), seconds=0.1) for name in KINDS}
    with ExitStack() as stack, ThreadPoolExecutor(len(found)) as pool:
        # At once: each takes a second.
        list(pool.map(Sandbox.start, found.values()))
        for name, box in found.items():
            stack.callback(box.stop)
            box.limits(keys=[key_of(name)])
        yield found


@pytest.fixture
def servers(
    boxes: dict[str, Sandbox], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Sandbox]]:
    """The servers, with each key in a variable of its own, and none of the kinds."""
    for name, kind in KINDS.items():
        for what in ("API_KEY", "BASE_URL"):
            monkeypatch.delenv(f"{kind.upper()}_{what}", raising=False)
        monkeypatch.setenv(variable_of(name), key_of(name))
    yield boxes
    for box in boxes.values():
        box.clear_faults()
