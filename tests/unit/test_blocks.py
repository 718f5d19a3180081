"""A block's run that is over, and has an interruption come after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchata_prefect import Batch, ValidationError
from batchata_prefect.blocks import JobsFileRun


def test_an_interruption_of_a_run_that_is_over_is_no_error_of_its_own(tmp_path: Path) -> None:
    """It strikes between the end of the run and what waits for it."""
    run = JobsFileRun(Batch(tmp_path))
    with pytest.raises(ValidationError, match="no jobs"):
        run.wait_for_completion()
    run._end()
