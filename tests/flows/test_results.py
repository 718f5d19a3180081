"""What runs give: tables, parsed objects, calls and images, and a row for each damaged reply."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter

from batchata_prefect import Batch, JobResult
from batchata_prefect.results.frames import arrow_table
from tests.flows.test_cli import batchata
from tests.unit.results.test_items import BIG, IMAGE
from tests.unit.results.test_odd_rows import deep
from tests.unit.results.test_parsed_response import (
    CASES,
    SCHEMA,
    Aliased,
    Card,
    Cents,
    Inner,
    Line,
    Strict,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def test_a_run_gives_its_results_as_tables(tmp_path: Path, sandbox):
    """A finished run gives Arrow, pandas and polars, and has written the same as Parquet."""
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    batch = Batch(tmp_path / "out", result_format="parquet").set_state(tmp_path / "state")
    batch.set_default_params(model="gpt-6-luna", max_tokens=64)
    batch.add_rows([{"id": f"r{n}", "q": "Hi", "lang": "de"} for n in range(5)], prompt="{q} {id}")
    run = batch.run()
    table = run.to_arrow()
    assert table.column("metadata.lang").to_pylist() == ["de"] * 5
    assert run.to_pandas()["job_id"].tolist() == [f"r{n}" for n in range(5)]
    assert run.to_polars()["status"].to_list() == ["completed"] * 5
    parquet = tmp_path / "out" / "results.parquet"
    assert polars.read_parquet(parquet).equals(run.to_polars())
    assert len(pandas.read_parquet(parquet)) == 5
    parquet.unlink()
    batch.run()
    assert parquet.exists(), "a run again writes what is missing"


@pytest.mark.usefixtures("prefect_server")
def test_a_run_keeps_calls_and_images(tmp_path: Path, sandbox) -> None:
    """Through both SDKs: completed, nothing asked again, the image once, and the same once more."""
    shared = Path(__file__).parents[4] / "shared" / "cases" / "wire" / "responses_image_only.json"
    image = orjson.loads(shared.read_bytes())["output"] if shared.exists() else [IMAGE]
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"n": int(BIG) % 2**63}}

    def run() -> dict[str, JobResult]:
        batch = Batch(tmp_path / "out", max_reasks=2).set_state(file=tmp_path / "state")
        batch.set_default_params(max_tokens=300)
        for name, answer, model, endpoint in [
            ("image", image, "gpt-6-luna", RESPONSES),
            ("text", None, "gpt-6-luna", CHAT),
            ("call", [{"type": "text", "text": "So:"}, use], "claude-sonnet-5-5", None),
        ]:
            order = f" [[sandbox:answer {json.dumps(answer)} ]]" if answer else ""
            batch.add_job(id=name, prompt=f"{tmp_path}{order}", model=model, endpoint=endpoint)
        return {result.job_id: result for result in batch.run().iter_results()}

    found = run()
    assert {result.status for result in found.values()} == {"completed"}
    assert [len(result.attempts) for result in found.values()] == [1, 1, 1]
    (item,) = found["image"].items
    path = tmp_path / "out" / item["path"]
    assert path.read_bytes() == base64.b64decode(image[0]["result"])
    assert image[0]["result"] not in (tmp_path / "out" / "results.jsonl").read_text()
    assert [call.name for call in found["call"].tool_calls] == ["f"]
    table = tmp_path / "table.csv"
    assert batchata("results", str(tmp_path / "out"), "--export", str(table)).returncode == 0
    with table.open(newline="") as file:
        rows = {row["job_id"]: row for row in csv.DictReader(file)}
    assert json.loads(rows["call"]["tool_calls_json"])[0]["name"] == "f"
    assert json.loads(rows["image"]["items_json"]) == [item]
    frame = arrow_table(tmp_path / "out" / "results.jsonl")
    assert json.loads(frame.column("tool_calls_json")[2].as_py())[0]["id"] == "t"
    path.unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "results.jsonl").unlink()
    assert run() == found
    assert path.exists()


def test_a_run_with_an_odd_row(tmp_path: Path, billed) -> None:
    """Replies damaged on disk end their own jobs at the next start, which buys nothing."""

    def rows() -> list[dict[str, Any]]:
        batch = Batch(tmp_path / "out", items_per_batch=5).set_state(file=tmp_path / "state")
        for n in range(10):
            batch.add_job(prompt=f"{tmp_path} {n}", model="claude-sonnet-5-5", id=f"job-{n}")
        batch.run()
        return [orjson.loads(line) for line in (tmp_path / "out" / "results.jsonl").open("rb")]

    assert {row["status"] for row in rows()} == {"completed"}
    for path in (tmp_path / "out" / "raw_files" / "responses").glob("*.jsonl"):
        first, *others = path.read_bytes().splitlines(keepends=True)
        row = orjson.loads(first)
        row["result"]["message"]["content"] = "HERE"
        odd = orjson.dumps(row).replace(b'"HERE"', deep(1_100).encode())
        path.write_bytes(odd + b"\n" + b"".join(others))
    (tmp_path / "out" / "manifest.json").unlink()
    found = rows()
    assert [row["status"] for row in found].count("completed") == 8
    assert {row["error_code"] for row in found} == {None, "unreadable_reply"}
    (tmp_path / "out" / "manifest.json").unlink()
    assert rows() == found
    assert len(billed()) == 10


def test_a_run_and_its_restart_give_the_same_objects(tmp_path: Path, billed) -> None:
    """Through the wire of both providers, and bought once."""
    texts = {
        "cents": (Cents, '{"total": 12}'),
        "strict": (Strict, '{"width": 3, "hidden": 4}'),
        "aliased": (Aliased, CASES[5][1]),
        "inner": (Inner, '{"rows": "[1, 2] "}'),
        "line": (Line, '{"item": "x", "count": 2}'),
        "card": (Card, '{"name": "x", "born": "2026-11-22"}'),
        "schema": (SCHEMA, '{"account": 36893488147419103232, "share": 0.5}'),
        "huge": (SCHEMA, '{"account": 1, "share": 1e400}'),
    }

    def results() -> dict[str, JobResult]:
        batch = Batch(tmp_path / "out", result_format="json").set_state(file=tmp_path / "state")
        for name, (model, text) in texts.items():
            for company in ("claude-sonnet-5-5", "gpt-6-luna"):
                batch.add_job(
                    id=f"{name} {company}",
                    prompt=f"{tmp_path} [[sandbox:reply {text}]]",
                    model=company,
                    max_tokens=500,
                    response_model=model,
                )
        return {result.job_id: result for result in batch.run().iter_results()}

    found = results()
    for job_id, result in found.items():
        model, text = texts[job_id.split()[0]]
        if job_id.startswith("huge"):
            assert (result.status, result.error_code) == ("failed", "invalid_output")
            continue
        given_ = json.loads(text) if model is SCHEMA else TypeAdapter(model).validate_json(text)
        assert result.error is None
        assert result.parsed_response == given_
    (tmp_path / "out" / "manifest.json").unlink()
    assert results() == found
    assert len(billed()) == 2 * len(texts)


def test_a_refusal_that_is_paid_can_be_had_later(sandbox, tmp_path: Path) -> None:
    """Another machine that does not get a paid refusal at once does not call it a failed batch."""

    def make(which: str) -> Batch:
        batch = Batch(tmp_path / which, run_key=f"{tmp_path}").set_state(tmp_path / "state")
        text = f"[[sandbox:refusal]] {tmp_path}"
        return batch.add_job(prompt=text, model="gpt-6-luna", max_tokens=90, id="a")

    (before,) = make("here").run().iter_results()
    assert before.error_code == "refusal"
    sandbox.fault("openai", operation="retrieve", mode="status", status=503, times=3)
    (away,) = make("there").run().iter_results()
    assert away.error_code == "answer_lost"
    (after,) = make("there").run().iter_results()
    assert (after.error_code, after.cost_usd) == ("refusal", before.cost_usd)
