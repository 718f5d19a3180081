"""The benchmarks, of which the suite runs none, still know what they time."""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter

import pytest

from tests.bench.ours import PHASES


@pytest.mark.parametrize("place", [place for places in PHASES.values() for place in places])
def test_what_is_timed_is_there(place: tuple[str, str]) -> None:
    module, name = place
    assert callable(attrgetter(name)(import_module(f"batchata_prefect.{module}")))
