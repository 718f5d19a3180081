"""Shared prefixes: marked for the provider's cache, sent side by side, and accounted for."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from pypdf import PdfWriter

from batchata_prefect import Batch

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
LONG = "Rules that every answer has to follow, one after the other. " * 200
MARKER = {"type": "ephemeral", "ttl": "1h"}


def make(tmp_path: Path, model: str, **options: Any) -> Batch:
    """Six jobs over two documents, added in turn."""
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    batch.set_default_params(model=model, max_tokens=100, cache_prefix=True, system=LONG)
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"Document {name} of {tmp_path}. " * 300)
    for n in range(6):
        batch.add_job(file=tmp_path / f"{'ab'[n % 2]}.txt", prompt=f"What is {n}?", id=f"j{n}")
    return batch


def sent(tmp_path: Path) -> list[dict[str, Any]]:
    """The bodies that were sent, in their order."""
    files = sorted((tmp_path / "out" / "raw_files" / "requests").glob("*.jsonl"))
    lines = [orjson.loads(line) for file in files for line in file.open("rb")]
    return [line.get("params") or line["body"] for line in lines]


def test_claude_reads_the_prefix_from_its_cache(tmp_path: Path, sandbox) -> None:
    """System prompt and documents carry the marker, and the summary says what that saved."""
    before = len(list(sandbox.ledger.billed()))
    run = make(tmp_path, CLAUDE).run()
    bodies = sent(tmp_path)
    for body in bodies:
        assert body["system"] == [{"type": "text", "text": LONG, "cache_control": MARKER}]
        document, question = body["messages"][0]["content"]
        assert document["cache_control"] == MARKER
        assert "cache_control" not in question
    assert run.manifest is not None
    sums = run.manifest["by_model"][f"anthropic {CLAUDE}"]
    assert sums["cache_read_tokens"] > sums["cache_write_tokens"] > 0
    assert sums["cache_saved_usd"] > 0
    billed = list(sandbox.ledger.billed())[before:]
    assert run.manifest["cost_usd"] == pytest.approx(float(sum(row.cost_usd for row in billed)))


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_jobs_with_one_prefix_are_side_by_side(tmp_path: Path, sandbox, model: str) -> None:
    """They are grouped in the provider batch, and the results keep the order of the jobs."""
    run = make(tmp_path, model).run()
    asked = [orjson.dumps(body).count(b"Document a of") > 0 for body in sent(tmp_path)]
    assert asked == [True] * 3 + [False] * 3
    assert [result.job_id for result in run.iter_results()] == [f"j{n}" for n in range(6)]
    assert {result.status for result in run.iter_results()} == {"completed"}
    for result in run.iter_results():
        number = int(result.job_id[1:])
        own = (f"Document {'ab'[number % 2]}", f"What is {number}?")
        assert any(words in (result.raw_response or "") for words in own)


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_openai_gets_one_key_for_one_prefix(tmp_path: Path, sandbox, endpoint: str) -> None:
    """Jobs that begin alike carry the same `prompt_cache_key`, the others another one."""
    batch = make(tmp_path, GPT).set_default_params(endpoint=endpoint)
    batch.add_job(prompt="No document", id="plain")
    batch.add_job(prompt="Also none", id="own", prompt_cache_key="mine")
    batch.run()
    keys: dict[str, set[str]] = {}
    for body in sent(tmp_path):
        text = orjson.dumps(body).decode()
        kind = "a" if "Document a" in text else "b" if "Document b" in text else "none"
        keys.setdefault(kind, set()).add(body["prompt_cache_key"])
    assert len(keys["a"]) == len(keys["b"]) == 1
    assert keys["none"] - {"mine"}
    assert "mine" in keys["none"]
    assert keys["a"].isdisjoint(keys["b"])


def test_it_resumes_and_stays_in_the_budget(tmp_path: Path, sandbox) -> None:
    """The bound covers the dearer writes, and the same jobs are not sent again."""
    planned = make(tmp_path, CLAUDE).run(dry_run=True).planned
    assert planned is not None
    before = len(list(sandbox.ledger.billed()))
    for _ in range(2):
        run = make(tmp_path, CLAUDE).add_cost_limit(planned["cost_upper_usd"] * 1.001).run()
    assert len(list(sandbox.ledger.billed())) - before == 6
    assert run.manifest is not None
    assert run.manifest["counts"]["completed"] == 6
    assert run.manifest["cost_usd"] <= planned["cost_upper_usd"]


@pytest.mark.parametrize("document", ["text", "pdf"])
def test_the_bound_holds_where_all_of_the_input_is_written(
    tmp_path: Path, sandbox, document: str
) -> None:
    """Writing to the cache for an hour costs twice the input price, and a sample may write all."""
    path = tmp_path / f"a.{document}"
    if document == "pdf":
        writer = PdfWriter()
        writer.add_blank_page(72, 72)
        writer.write(path)
    else:
        path.write_text(LONG)

    def upper(*, cache_prefix: bool, max_tokens: int) -> Decimal:
        batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
        batch.add_job(
            file=path, prompt="Hi", model=CLAUDE, max_tokens=max_tokens, cache_prefix=cache_prefix
        )
        planned = batch.run(dry_run=True).planned
        assert planned is not None
        return Decimal(str(planned["cost_upper_usd"]))

    output = upper(cache_prefix=False, max_tokens=101) - upper(cache_prefix=False, max_tokens=1)
    plain, cached = (upper(cache_prefix=on, max_tokens=101) for on in (False, True))
    assert float(cached - output) >= 1.98 * float(plain - output)


def test_own_markers_are_left_alone(tmp_path: Path, sandbox) -> None:
    """Who sets `cache_control` knows better."""
    batch = Batch(tmp_path / "out").set_state(file=tmp_path / "state")
    own = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
    batch.add_job(prompt="Hi", system=own, model=CLAUDE, max_tokens=50, cache_prefix=True)
    batch.run()
    (body,) = sent(tmp_path)
    assert body["system"] == own
