"""The report of a run: as text, as markdown, as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect.views.report.figures import ROWS_READ, BatchTime, figures
from batchata_prefect.views.report.page import page, write_page
from batchata_prefect.views.report.plots import Label, batches_in_time
from batchata_prefect.views.report.words import markdown, summary, text


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "job_id": f"job-{number}",
        "status": "completed",
        "provider": "openai",
        "model": "gpt-6-luna",
        "input_tokens": 1000,
        "output_tokens": 500,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "attempts_json": '[{"cost_usd": 0.0001}, {"cost_usd": 0.125}]',
        **changes,
    }


def batch(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"openai gpt-6-luna #{number}, 2 jobs",
        "batch_id": f"batch_{number}",
        "jobs": 2,
        "status": "ended",
        "estimated_usd": 0.01,
        "cost_usd": 0.002,
        "sent_at": f"2026-11-23T10:00:{number:02}+00:00",
        "ended_at": f"2026-11-23T10:05:{number:02}+00:00",
        **changes,
    }


def manifest(**changes: Any) -> dict[str, Any]:
    sums = {
        "cost_usd": 0.5,
        "input_tokens": 4000,
        "output_tokens": 2000,
        "batches": 2,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "cache_saved_usd": 0.0,
    }
    return {
        "package": "batchata-prefect 1",
        "run_key": "a-run",
        "state": "somewhere",
        "started_at": "2026-11-23T10:00:00+00:00",
        "finished_at": "2026-11-23T10:06:00+00:00",
        "stopped_by": None,
        "counts": {"total": 4, "completed": 4, "failed": 0, "cancelled": 0},
        "resumed": 0,
        "cost_usd": 0.5,
        "cost_limit_usd": 5.0,
        "citations_dropped": 0,
        "by_model": {"openai gpt-6-luna": sums},
        "by_tag": {},
        "failures": {},
        "batches": [batch(1), batch(2)],
        **changes,
    }


FAILED = {
    "counts": {"total": 4, "completed": 1, "failed": 2, "cancelled": 1},
    "failures": {
        "refusal": {
            "count": 2,
            "example_job_id": "job-<3>",
            "example": "I <b>cannot</b>\nsay | that",
            "what_to_do": "Change the prompt.",
        }
    },
}

TOKENS = {"input_tokens": 1, "output_tokens": 1}
TAGS = {"geo": {"jobs": 4, "completed": 1, **TOKENS, "cost_usd": 0.5}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row(n)) + b"\n" for n in range(4)))
    return path


def test_saving_is_the_realtime_price_of_the_same_tokens_less_the_cost(results: Path) -> None:
    """A batch costs half: the realtime price of the whole is twice what all attempts cost."""
    from batchata_prefect.answers import Usage
    from batchata_prefect.providers import price_book

    usage = Usage(input_tokens=1000, output_tokens=500)
    cost = price_book().cost("openai", "gpt-6-luna", usage)
    assert cost is not None
    paid = f'[{{"cost_usd": 1.0}}, {{"cost_usd": {cost}}}]'
    rows = [row(number, attempts_json=paid) for number in range(4)]
    results.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in rows))
    found = figures(manifest(), results)
    assert found.realtime_usd == pytest.approx(1.0)
    assert found.saved_usd == pytest.approx(0.5)
    assert not found.is_sample


def test_saving_is_unknown_where_a_price_is(tmp_path: Path) -> None:
    """A model without a realtime price makes the saving unknown, not 0."""
    path = tmp_path / "results.jsonl"
    path.write_bytes(orjson.dumps(row(1, model="my-own")) + b"\n")
    told = manifest()
    told["by_model"] = {"openai my-own": told["by_model"]["openai gpt-6-luna"]}
    found = figures(told, path)
    assert found.realtime_usd is None
    assert found.saved_usd is None
    assert "saved" not in text(told, tmp_path)

    # Nor does a listed price hold for an account that has the name of a kind.
    path.write_bytes(orjson.dumps(row(1)) + b"\n")
    assert figures(manifest(), path).saved_usd is not None
    assert figures(manifest() | {"accounts": {"openai": "openai"}}, path).saved_usd is None


def test_a_large_file_is_sampled(tmp_path: Path) -> None:
    """Of many rows a bounded number is read; the saving is then that of the whole cost."""
    path = tmp_path / "results.jsonl"
    count = 10 * ROWS_READ
    path.write_bytes(b"".join(orjson.dumps(row(n)) + b"\n" for n in range(count)))
    told = manifest(counts={"total": count, "completed": count, "failed": 0, "cancelled": 0})
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"".join(orjson.dumps(row(n)) + b"\n" for n in range(4)))
    small, large = figures(manifest(), few), figures(told, path)
    assert ROWS_READ - 5 <= len(large.input_tokens) <= ROWS_READ
    assert large.is_sample
    assert not small.is_sample
    assert large.saved_usd == pytest.approx(small.saved_usd)


def test_text_says_cost_saving_failures_and_places(results: Path) -> None:
    """The text has the counts, the reason of a failure, the next step, and where things lie."""
    told = manifest(**FAILED, by_tag=TAGS)
    said = text(told, results.parent, 60)
    assert said.startswith("1 of 4 jobs answered, 2 failed, 1 cancelled, for $0.50")
    assert "2 x refusal\n  job-<3>: I <b>cannot</b> say | that\n  -> Change the prompt." in said
    assert re.search(r"geo +4 +\$0\.50", said)
    assert re.search(r"results\.jsonl +one line a job", said)
    assert max(map(len, said.splitlines())) <= 96


def test_markdown_keeps_its_tables_whole(results: Path) -> None:
    """A bar or a line break in an error does not break the table that it stands in."""
    told = manifest(**FAILED, by_tag=TAGS)
    lines = markdown(told).splitlines()
    assert summary(told) in lines[0]
    (failure,) = [line for line in lines if line.startswith("| refusal")]
    assert r"I &lt;b&gt;cannot&lt;/b&gt; say \| that" in failure
    assert any(line.startswith("| geo | 4 | 1 |") for line in lines)


class Outside(HTMLParser):
    """Finds what a page would fetch, and tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "srcset"}]
        if tag not in {"meta", "line", "rect", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in {"line", "rect"}:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_stands_alone_and_escapes_what_a_model_said(results: Path) -> None:
    """The page fetches nothing, runs nothing, and shows an answer's markup as text."""
    told = manifest(**FAILED)
    written = write_page(results.parent, told).read_text()
    seen = Outside()
    seen.feed(written)
    assert seen.fetched == []
    assert seen.open == []
    assert "<script" not in written
    assert "url(" not in written
    assert "@import" not in written
    shown = " ".join("".join(seen.text).split())
    assert "I <b>cannot</b> say | that" in shown
    assert "Change the prompt." in shown
    assert "job-<3>" in shown
    assert written.count("<svg") == 2  # all jobs have as many tokens, which is said in words
    assert "Every answer has 1,000 input tokens." in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"by_model": {}, "batches": [], "cost_usd": 0.0},
        {"batches": [batch(1, ended_at=None, cost_usd=None, batch_id=None, status="in_flight")]},
        {"cost_usd": None, "cost_limit_usd": None},
        {"stopped_by": "interrupted", "resumed": 2},
    ],
)
def test_page_of_odd_runs(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A run without batches, answers, prices or end is a page as well."""
    told = manifest(**changes)
    assert "jobs answered" in page(told, tmp_path)


@pytest.mark.parametrize(
    ("own", "told"),
    [(0.5, "$0.5000"), (0.125, "$0.5000, of which $0.1250 in this run"), (None, "$0.5000")],
)
def test_what_this_run_cost_is_said_where_it_is_not_all(own: float | None, told: str) -> None:
    """Of a first run there is one amount to tell; of a later one two."""
    assert summary(manifest(cost_of_run_usd=own)) == f"4 of 4 jobs answered, {told}"


def test_a_smaller_job_set_says_what_it_leaves_out_and_what_it_cost(results: Path) -> None:
    """Else a file that has shrunk looks like answers that were lost."""
    results.unlink()
    results.with_name("archive.jsonl").touch()
    told = manifest(archived=1200, cost_of_run_usd=0.0)
    said = text(told, results.parent).splitlines()
    assert said[0] == "4 of 4 jobs answered, for $0.50, of which $0.00 in this run"
    assert said[1] == "1,200 answers of jobs gone or changed kept in archive.jsonl"
    assert any(line.split()[:1] == ["archive.jsonl"] for line in said)
    assert "archive" not in text(manifest(archived=0), results.parent / "elsewhere")


@pytest.mark.parametrize("seconds", [0.3, 2.3, 7.0, 59.0, 4_000.0, 80_000.0])
def test_no_two_times_of_the_axis_read_alike(seconds: float) -> None:
    """The first report that anyone sees is of a run of seconds."""
    plot = batches_in_time([BatchTime("a #1", "ended", 0.0, seconds)])
    assert plot is not None
    said = [shape.text for shape in plot.shapes if isinstance(shape, Label)]
    assert said and len(set(said)) == len(said)
