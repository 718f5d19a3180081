"""Two runs over the same jobs side by side."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.errors import StateError
from batchata_prefect.results.diff import RunDiff, compare


def row(job_id: str, **changes: Any) -> dict[str, Any]:
    answer = changes.pop("answer", None)
    return {
        "job_id": job_id,
        "status": "completed",
        "raw_response": "yes",
        "error_code": None,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": 0.25,
        "embedding": None,
        "parsed_response_json": None if answer is None else orjson.dumps(answer).decode(),
        **changes,
    }


def failed(job_id: str, code: str = "refusal") -> dict[str, Any]:
    return row(job_id, status="failed", error_code=code, raw_response="no", cost_usd=0.0)


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    lines = b"".join(orjson.dumps(each) + b"\n" for each in rows)
    (folder / "results.jsonl").write_bytes(lines)
    return folder


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        (row("a"), row("a"), {}),
        (row("a"), row("a", raw_response="no"), {"": ("yes", "no")}),
        (row("a", answer={"x": 1}), row("a", answer={"x": 1}, raw_response="other"), {}),
        (row("a", answer={"x": 1}), row("a", answer={"x": 2}), {"x": (1, 2)}),
        (
            row("a", answer={"x": {"y": 1, "z": 1}}),
            row("a", answer={"x": {"y": 2, "z": 1}}),
            {"x.y": (1, 2)},
        ),
        (row("a", answer={"x": [1, 2]}), row("a", answer={"x": [2]}), {"x": ([1, 2], [2])}),
        (row("a", answer={}), row("a", answer={"x": 1}), {"x": (None, 1)}),
        (row("a", embedding=[0.5]), row("a", embedding=[0.25]), {"": ([0.5], [0.25])}),
        (failed("a"), failed("a"), {}),
    ],
)
def test_fields(before: dict[str, Any], after: dict[str, Any], fields: dict[str, Any]) -> None:
    """The smallest parts of an answer that differ are named; the text of a parsed one is not."""
    found = compare(before, after)
    assert dict(found.fields) == fields
    assert found.is_changed == bool(fields)


def test_sums_add_up(tmp_path: Path) -> None:
    """Joined by id in any order: changed, mended, broken, missing jobs, cost and tokens."""
    old = [row("a"), row("b", answer={"x": 1}), failed("c"), row("d"), row("gone")]
    new = [
        row("new"),
        row("d", status="failed", error_code="truncated"),
        row("c"),
        row("b", answer={"x": 2}, cost_usd=0.5, output_tokens=9),
        row("a"),
    ]
    diff = RunDiff(written(tmp_path / "old", old), written(tmp_path / "new", new))
    changed = {job.job_id: job for job in diff}
    assert list(changed) == ["d", "c", "b"]
    assert (changed["c"].before, changed["c"].after) == ("failed (refusal)", "completed")
    assert changed["b"].to_dict()["fields"] == {"x": [1, 2]}
    assert (changed["b"].cost_usd, changed["b"].tokens) == (0.25, 4)
    sums = diff.sums
    assert (sums.jobs, sums.changed, sums.mended, sums.broken) == (4, 3, 1, 1)
    assert (sums.only_before, sums.only_after) == (1, 1)
    assert sums.fields == {"": 2, "x": 1}
    assert sums.cost_usd == [0.75, 1.25]
    assert sums.output_tokens == [20, 24]


def test_unknown_cost_stays_unknown(tmp_path: Path) -> None:
    """One job of unknown cost makes the sum of its run unknown."""
    old = written(tmp_path / "old", [row("a", cost_usd=None), row("b")])
    new = written(tmp_path / "new", [row("a"), row("b")])
    assert RunDiff(old, new).sums.cost_usd == [None, 0.5]


def test_memory_does_not_grow_with_the_jobs(tmp_path: Path) -> None:
    """Ten times the jobs need about the same memory."""

    def peak(name: str, count: int) -> int:
        rows = [row(f"job-{n}", raw_response="word " * 40) for n in range(count)]
        old = written(tmp_path / f"{name}-old", rows)
        new = written(tmp_path / f"{name}-new", rows[::-1])
        del rows
        tracemalloc.start()
        assert RunDiff(old, new).sums.jobs == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak("large", 20_000) < 2 * peak("small", 2_000) + 3_000_000


def test_a_folder_without_results(tmp_path: Path) -> None:
    """It is refused with its name, before anything is read."""
    with pytest.raises(StateError, match=r"has no results\.jsonl"):
        RunDiff(written(tmp_path / "old", []), tmp_path / "nothing")
