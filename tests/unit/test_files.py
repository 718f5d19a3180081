"""Files of our own: where the disk has no room, and beside those that others write."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from batchata_prefect.files import scratch_database, sweep_partial, whole_file
from tests.unit.cli.test_closed_and_full import disk_full

TABLE = "CREATE TABLE seen (answer BLOB PRIMARY KEY)"


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_database_on_a_full_disk_raises_as_other_files_do(
    tmp_path: Path, one_by_one: bool
) -> None:
    """What is read and written along with it tells of it in one sentence."""
    answers = [(n.to_bytes(400, "big"),) for n in range(1, 2_000)]
    with closing(scratch_database(tmp_path / "db", TABLE, cache_kib=10)) as database:
        add = "INSERT INTO seen VALUES (?)"
        with disk_full(), pytest.raises(OSError, match="cannot be stored") as full:
            if one_by_one:
                for answer in answers:
                    database.execute(add, answer)
            else:
                database.executemany(add, answers)
    assert full.value.strerror


def test_a_file_that_somebody_is_writing_is_not_swept_away(tmp_path: Path) -> None:
    """Only what a process that was killed left long ago goes; the other one finds its file."""
    left = tmp_path / ".old.1.2.part"
    left.touch()
    os.utime(left, (0, 0))
    with whole_file(tmp_path / "whole") as file:
        sweep_partial(tmp_path)
        file.write(b"all of it")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
