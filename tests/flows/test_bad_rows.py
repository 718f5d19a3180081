"""Rows that make no job: all told together, or skipped as failed results while the others run."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, BatchRun, ValidationError
from batchata_prefect.blocks import JobsFile
from batchata_prefect.cli.orders import Order
from batchata_prefect.cli.runs import _Asked, carry_out, retry
from batchata_prefect.deployed import jobs_from_file

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE = "claude-sonnet-5-5"


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the runs of a test have logged."""
    logger, found = logging.getLogger("prefect.flow_runs"), list[str]()

    def see(record: logging.LogRecord) -> bool:
        found.append(record.getMessage())
        return True

    # Handlers are lost where Prefect sets its logs up.
    logger.addFilter(see)
    yield found
    logger.removeFilter(see)


def make(tmp_path: Path, source: Any, prompt: str | None = None, **told: Any) -> Batch:
    batch = Batch(tmp_path / "out", result_format="json").set_state(tmp_path / "rec")
    batch.set_default_params(model=CLAUDE, max_tokens=99)
    return batch.add_rows(source, prompt, **{"on_bad_row": "skip", **told})


def rows_of(tmp_path: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    path = tmp_path / "out" / name
    return [orjson.loads(line) for line in path.open("rb")] if path.exists() else []


def lines(tmp_path: Path, *rows: Any) -> Path:
    """A file of jobs; a text is a line as it stands."""
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def planned(batch: Batch) -> dict[str, Any]:
    found = batch.run(dry_run=True).planned
    assert found is not None
    return found


def told(run: BatchRun) -> dict[str, Any]:
    assert run.manifest is not None
    return run.manifest


def test_the_others_run(tmp_path: Path, billed, said: list[str]) -> None:
    """Each kind of bad row is one failed result in its place; mended, it alone is sent."""
    ask = f"{tmp_path} one"
    bad = [
        {"id": "empty", "prompt": ""},
        '{"prompt": "cut o',
        {"id": "lost", "prompt": ask, "file": "nowhere.pdf"},
        {
            "id": "refused",
            "messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}],
        },
        {"id": "model", "prompt": ask, "model": "no-model-of-anybody"},
        {"id": "a", "prompt": f"{ask} more"},
        "[1, 2]",
        {"prompt": ask, "metadata": "no mapping"},
    ]
    good = [{"id": "a", "prompt": ask}, {"prompt": ask}, {"id": "row-3", "prompt": f"{ask} row"}]
    source = lines(tmp_path, good[0], *bad[:4], good[1], *bad[4:], good[2])
    with pytest.raises(ValidationError) as raised:
        make(tmp_path, source, on_bad_row="fail")
    assert len(raised.value.faults) == 7, "all but the id that repeats, of which the end tells"
    plan = planned(make(tmp_path, source))
    assert (plan["jobs"], plan["to_send"], plan["skipped"], plan["failed"]) == (11, 3, 8, 0)
    (remark,) = (each for each in plan["warnings"] if "skipped" in each)
    assert remark.startswith("8 rows skipped, of which no job can be made: ")
    assert "jobs.jsonl' line 2: " in remark
    assert remark.endswith("; and 5 more")
    run = make(tmp_path, source).run()
    assert said.count(remark) == 1
    assert len(billed()) == 3
    rows = rows_of(tmp_path)
    ids = ["a", "empty", "row-3-2", "lost", "refused", rows[5]["job_id"]]
    ids += ["model", "row-8", "row-9", "row-10", "row-3"]
    assert [row["job_id"] for row in rows] == ids
    assert len(list((tmp_path / "out").glob("*.json"))) >= 11
    for number, row in enumerate(rows):
        if number in {0, 5, 10}:
            assert row["status"] == "completed"
            continue
        about = row["status"], row["error_code"], row["cost_usd"], row["batch_id"]
        assert about == ("failed", "invalid_row", 0, None)
        place = f"line {number + 1}: " if number != 7 else "row 8: its id 'a' is that of another"
        assert place in row["error"]
    manifest = told(run)
    assert manifest["counts"] == {"total": 11, "completed": 3, "failed": 8, "cancelled": 0}
    assert manifest["failures"]["invalid_row"]["count"] == 8
    assert run.status()["failed"] == 8
    assert run.status()["failures"] == {"invalid_row": 8}
    assert sorted(run.get_failed_jobs()) == sorted(set(ids) - {"a", ids[5], "row-3"})
    # The same again does nothing, not even to the results.
    before = (tmp_path / "out" / "results.jsonl").stat().st_mtime_ns
    assert told(make(tmp_path, source).run())["cost_of_run_usd"] == 0
    assert (tmp_path / "out" / "results.jsonl").stat().st_mtime_ns == before
    # One is mended, one was good and is bad now; what that was answered is kept.
    mended = {"id": "empty", "prompt": f"{ask} mended"}
    source = lines(tmp_path, good[0], mended, *bad[1:4], "{", *bad[4:], good[2])
    assert planned(make(tmp_path, source))["to_send"] == 1
    make(tmp_path, source).run()
    assert len(billed()) == 4
    now = rows_of(tmp_path)
    assert [row["status"] for row in now].count("completed") == 3
    assert now[1]["status"] == "completed"
    assert now[5]["error_code"] == "invalid_row"
    assert rows_of(tmp_path, "archive.jsonl") == [rows[5]]


def test_an_empty_cell_is_bad_where_it_is_all_and_told_where_it_is_not(
    tmp_path: Path, billed, said: list[str]
) -> None:
    """Also where the job set is taken over from an earlier start, which reads no row."""
    rows = [("x", ""), ("", "y"), (" ", "z"), ("x", ""), ("", "")]
    path = tmp_path / "jobs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "comment"), *rows])
    (fault,) = faults(tmp_path, path, "{text} {comment}")
    assert "line 6: the prompt is empty, as the cell of 'text', 'comment' is" in fault
    plan = planned(make(tmp_path, path, f"{tmp_path} {{text}}: {{comment}}"))
    empty = "3 rows have an empty cell `comment`, 3 `text`: asked without it"
    assert empty in plan["warnings"]
    assert plan["skipped"] == 0
    make(tmp_path, path, f"{tmp_path} {{text}}: {{comment}}").run()
    assert said.count(empty) == 1
    assert len(billed()) == 5


def faults(tmp_path: Path, *told: Any) -> Sequence[str]:
    with pytest.raises(ValidationError) as raised:
        make(tmp_path, *told, on_bad_row="fail")
    return raised.value.faults


def test_only_bad_rows(tmp_path: Path, sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with all failed; no provider is asked, and no key needed."""
    calls = sandbox.ledger.calls()
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    batch = make(tmp_path, lines(tmp_path, "{", {"id": "a", "prompt": " "}))
    assert planned(batch)["to_send"] == 0
    batch.add_cost_limit(1)
    run = batch.run(canary=0.5)
    assert told(run)["counts"] == {"total": 2, "completed": 0, "failed": 2, "cancelled": 0}
    assert [row["job_id"] for row in rows_of(tmp_path)] == ["row-1", "a"]
    assert sandbox.ledger.calls() == calls
    again = make(tmp_path, tmp_path / "jobs.jsonl").run()
    assert told(again)["counts"]["failed"] == 2


def test_a_canary_takes_none_of_them(tmp_path: Path, billed) -> None:
    """Nor does what it says of the others count them."""
    good = [{"id": f"g{n}", "prompt": f"{tmp_path} {n}"} for n in range(4)]
    source = lines(tmp_path, "{", *good[:2], "{", "{", *good[2:], "{")
    run = make(tmp_path, source).add_cost_limit(5).run(canary=2, min_valid=1)
    manifest = told(run)
    assert manifest["canary"]["jobs"] == manifest["canary"]["valid"] == 2
    assert manifest["counts"]["completed"] == len(billed()) == 4


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("a.csv", b"id,text\n1,a\n2\n3,c\n4,d,e\n5,f\n", {2: "1 value,", 4: "3 values"}),
        ("a.csv", b"id,text\n1,a\n2,\xff\n3,c\n", {2: "not UTF-8 (byte 3"}),
        ("a.csv", b'id,text\n1,"a\n\xff\nb"\n3,c\n', {1: "line 3: not UTF-8"}),
        ("a.csv", b"id,text,\n1,a,\n2,b,c\n", {2: "no name"}),
        ("a.jsonl", b'{"text":"a"}\n\xff\n\n{"text":"b"}\n{"text":', {2: "line 2", 4: "line 5"}),
        (
            "a.jsonl",
            b'{"text":"a"}\n{"text":"b","text":"c"}\n{"test":"b"}',
            {2: "twice", 3: "{text}"},
        ),
        ("a.jsonl", b'{"text":{"a":1}}\n{"text":null}\n', {2: "the cell of 'text'"}),
    ],
)
def test_lines_that_are_no_rows(
    tmp_path: Path, name: str, content: bytes, bad: dict[int, str]
) -> None:
    """By their number; told together where they are not to be skipped."""
    path = tmp_path / name
    path.write_bytes(content)
    found = faults(tmp_path, path, "{text}")
    assert len(found) == len(bad)
    batch = make(tmp_path, path, "{text}")
    spool = batch._intake.open_spool()
    assert (spool.refused, planned(batch)["to_send"]) == (len(bad), len(batch) - len(bad))
    for (number, why), fault, told_before in zip(bad.items(), spool.faults(), found, strict=True):
        assert why in fault
        assert fault == told_before.replace(f"{tmp_path}/", "")
        reader = spool.reader()
        assert reader.context(number - 1).fault == fault
        reader.close()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'id,text\n1,"a\n2,b\n', "end of data"),
        (b'id,text\n1,"a"b,c\n2,b\n', "expected after"),
        (b"\xff,text\n1,a\n", "not UTF-8"),
        (b"id,id\n1,a\n", "named twice"),
    ],
)
def test_what_hides_where_rows_begin_is_no_row(tmp_path: Path, content: bytes, why: str) -> None:
    """One bad row of it could be a hundred: the file is refused in any case."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValidationError, match=why):
        make(tmp_path, path, "{id}")


@pytest.mark.parametrize("ids", [["a", "a", "a-2"], ["row-2", "row-2"], ["1", "", "row-2", "1"]])
def test_no_two_results_have_one_id(tmp_path: Path, ids: list[str]) -> None:
    source = [{"key": job_id, "text": f"{n}"} for n, job_id in enumerate(ids)]
    batch = make(tmp_path, source, "{text}", id_column="key")
    planned(batch)
    reader = batch._intake.open_spool().reader()
    found = [reader.context(ordinal).job_id for ordinal in range(len(ids))]
    reader.close()
    assert len(set(found)) == len(found)
    first = {job_id: ids.index(job_id) for job_id in ids if job_id}
    assert all(found[at] == job_id for job_id, at in first.items())


def test_a_word_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="'fail' or 'skip'"):
        make(tmp_path, [{"a": "b"}], "{a}", on_bad_row="ignore")


def test_the_command(tmp_path: Path, billed, capfd: pytest.CaptureFixture[str]) -> None:
    """It tells of them before it sends; a retry leaves them be, and takes those that are mended."""
    path, out = tmp_path / "jobs.csv", tmp_path / "out"

    def write(*rows: str) -> None:
        path.write_text("".join(f"{row}\n" for row in ("key,text,more", *rows)))

    def order(**more: Any) -> Order:
        told = {"prompt": "{text} {more}", "model": CLAUDE, "max_tokens": 99, "id_column": "key"}
        told |= {"on_bad_row": "--skip-bad-rows", "state": str(tmp_path / "rec")}
        return Order(str(path), out, told | more)

    text = f"{tmp_path} text"
    write(f"a,{text},", "b,,", f"c,{text} [[sandbox:refusal]],x", ",no id,x", "d")
    assert carry_out(order(), as_json=False, quiet=False) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "Note: 3 rows skipped, of which no job can be made: " in said
    assert "Note: 1 row has an empty cell `more`: asked without it" in said
    assert "batchata retry" in said
    assert len(billed()) == 1
    ids = ["a", "b", "c", "row-4", "row-5"]
    assert [row["job_id"] for row in rows_of(tmp_path)] == ids
    # Of all that failed, one can be asked in another way.
    assert retry(out, asked=_Asked(max_tokens=50)) == 1
    assert "1 job" in capfd.readouterr().err
    assert len(billed()) == 1, "the refusal costs nothing"
    codes = ["invalid_row", "refusal", "invalid_row", "invalid_row"]
    assert [row["error_code"] for row in rows_of(tmp_path)] == [None, *codes]
    write(f"a,{text},", f"b,{text} b,", f"c,{text} [[sandbox:refusal]],x", "e,now id,x", "d")
    assert retry(out) == 1
    assert len(billed()) == 3
    rows = rows_of(tmp_path)
    assert [row["job_id"] for row in rows] == ["a", "b", "c", "e", "row-5"]
    assert [row["error_code"] for row in rows] == [None, None, "refusal", None, "invalid_row"]
    assert retry(out, code=("invalid_row",), asked=_Asked(prompt="{key}?")) == 1
    assert len(billed()) == 3


def test_the_deployed_flow_and_the_block(tmp_path: Path, billed) -> None:
    """The flow's result counts them as failed; the block takes them the same way."""
    source = lines(tmp_path, {"id": "a", "prompt": f"{tmp_path}"}, "{", {"id": "b", "prompt": ""})
    told = {"jobs": str(source), "model": CLAUDE, "max_tokens": 99, "on_bad_row": "skip"}
    told |= {"results_dir": str(tmp_path / "out"), "state": str(tmp_path / "rec")}
    came = asyncio.run(jobs_from_file(**told, run_key="night"))
    assert came["counts"] == {"total": 3, "completed": 1, "failed": 2, "cancelled": 0}
    assert came["failures"]["invalid_row"]["count"] == 2
    batch = JobsFile(**told)._batch("night")
    assert [remark[:14] for remark in batch.remarks] == ["2 rows skipped"]
    assert len(billed()) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"messages": 5},
        {"prompt": "x", "tags": True},
        {"prompt": "x", "provider": [1]},
        {"prompt": "x", "citations": {}},
        {"prompt": "x", "id": "\ud800"},
        {"prompt": "x", "file": "\ud800"},
        {"prompt": "x", "\ud800": 1},
        5,
    ],
)
def test_whatever_stands_in_a_row_is_its_own_trouble(tmp_path: Path, odd: Any) -> None:
    rows = [{"prompt": "one", "id": "a"}, odd, {"prompt": "two", "id": "b"}]
    assert [fault[:7] for fault in faults(tmp_path, rows)] == ["row 2: "]
    batch = make(tmp_path, rows)
    assert planned(batch)["to_send"] == 2
    reader = batch._intake.open_spool().reader()
    assert [reader.context(n).job_id for n in range(3)] == ["a", "row-2", "b"]
    reader.close()
