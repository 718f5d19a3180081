"""Unit tests need no Prefect server: what runs a flow lies in tests/flows."""

from __future__ import annotations

import pytest


@pytest.fixture
def prefect_server() -> None:
    """Refuse what would make `make quick` slow."""
    pytest.fail("a unit test needs no Prefect server: what runs a flow lies in tests/flows")
