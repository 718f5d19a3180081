"""What the sandbox was asked for in a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def bodies(billed: Callable[[], list[Any]]) -> Callable[[], list[str]]:
    """Digests of the requests that this test was billed for."""
    return lambda: [row.body_digest for row in billed()]
