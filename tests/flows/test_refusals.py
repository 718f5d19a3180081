"""A wait is not a refusal, and a refusal is not a wait: what each does to a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchata_prefect import Batch, BatchSubmissionError
from batchata_prefect.sandbox import Sandbox
from tests.chaos.killing import check_all_paid_once

pytestmark = pytest.mark.usefixtures("prefect_server")

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-6-luna"
BOTH = pytest.mark.parametrize("provider", ["anthropic", "openai"])
JOBS = 12
RATE = {"code": "rate_limit_exceeded", "error_type": "requests", "message": "Rate limit reached."}


def make(tmp_path: Path, jobs: int = JOBS, **options: Any) -> Batch:
    options.setdefault("items_per_batch", 1)
    batch = Batch(tmp_path / "out", **options).set_state(file=tmp_path / "state")
    for n in range(jobs):
        model = (CLAUDE, GPT)[n % 2]
        batch.add_job(
            prompt=f"{tmp_path} {n}", model=model, max_tokens=200, id=f"job-{n}", metadata={"n": n}
        )
    return batch


def calls(sandbox: Sandbox, operation: str) -> int:
    return sandbox.ledger.calls().get(operation, 0)


def kept_files(sandbox: Sandbox) -> set[str]:
    """Names of the request files that lie at OpenAI."""
    return {
        file.filename
        for file in sandbox.ledger.files()
        if file.purpose == "batch" and not file.deleted
    }


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (tmp_path / "out/results.jsonl").open("rb")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": "-1", "retry-after-ms": "soon"},
        {"x-ratelimit-reset-requests": "50ms"},
    ],
)
def test_a_rate_limit_is_waited_out(
    tmp_path: Path, sandbox, billed, headers: dict[str, str]
) -> None:
    """At every step, whether the provider says how long to wait or not."""
    for provider, told in (("openai", RATE), ("anthropic", {**RATE, "error_type": None})):
        for operation in ("create", "upload", "retrieve", "results", "content"):
            sandbox.fault(
                provider,
                operation=operation,
                mode="status",
                status=429,
                times=4,
                headers=headers,
                **told,
            )
    make(tmp_path, 6, items_per_batch=3).run()
    check_all_paid_once(billed(), tmp_path / "out", 6)


# How each error of each provider is understood, tests/unit/providers/test_failures.py says.
SPENT = {
    "openai quota": (
        "openai",
        {"status": 429, "code": "insufficient_quota", "error_type": "insufficient_quota"},
    ),
    "openai hard limit": ("openai", {"status": 400, "code": "billing_hard_limit_reached"}),
    "anthropic credit": (
        "anthropic",
        {
            "status": 400,
            "error_type": "invalid_request_error",
            "message": "Your credit balance is too low to access the Anthropic API.",
        },
    ),
}


@pytest.mark.parametrize(
    ("provider", "error", "parallel"),
    [(*each, (1, 4)[n % 2]) for n, each in enumerate(SPENT.values())],
    ids=list(SPENT),
)
def test_nothing_more_is_sent_to_an_account_without_credit(
    tmp_path: Path, sandbox, billed, provider: str, error: dict[str, Any], parallel: int
) -> None:
    """Its jobs stay unsent and go out in the next run; the other provider's are answered."""
    known = kept_files(sandbox)
    creates, uploads = calls(sandbox, f"{provider}.create"), calls(sandbox, "openai.upload")
    sandbox.fault(provider, operation="create", mode="status", times=None, **error)
    with pytest.raises(BatchSubmissionError) as refused:
        make(tmp_path, max_parallel_batches=parallel).run()
    text = str(refused.value)
    for part in ("Nothing was created or paid", "its 1 job,", provider, "has spent $", "console"):
        assert part in text
    assert calls(sandbox, f"{provider}.create") - creates <= parallel
    if provider == "openai":
        assert calls(sandbox, "openai.upload") - uploads <= parallel
    assert kept_files(sandbox) == known, "a refused create leaves no upload behind"
    found = Counter((row["provider"], row["error_code"]) for row in rows(tmp_path))
    other = {"anthropic": "openai", "openai": "anthropic"}[provider]
    assert found == {(provider, "provider_refused"): 6, (other, None): 6}
    sandbox.clear_faults()
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


def test_two_accounts_that_refuse_are_both_named(tmp_path: Path, sandbox) -> None:
    """Who mends one key at night should not find the other one in the morning."""
    for provider in ("anthropic", "openai"):
        sandbox.fault(provider, operation="create", mode="status", status=401, times=None)
    with pytest.raises(BatchSubmissionError) as refused:
        make(tmp_path, 2).run()
    said = str(refused.value)
    other = "anthropic" if "openai refused it" in said else "openai"
    assert said.endswith(f"Refused as well, as the log says: {other}")
    sandbox.clear_faults()


def test_an_account_without_credit_that_is_told_by_failed_batches(
    tmp_path: Path, sandbox, billed
) -> None:
    """OpenAI takes the batch, and fails it before anything of it has run."""
    creates = calls(sandbox, "openai.create")
    told = {"code": "insufficient_quota", "message": "Used up.", "line": None}
    sandbox.fault("openai", mode="batch_failed", times=None, **told)
    with pytest.raises(BatchSubmissionError, match="Used up"):
        make(tmp_path, max_parallel_batches=1).run()
    assert calls(sandbox, "openai.create") - creates == 1
    found = Counter((row["provider"], row["error_code"]) for row in rows(tmp_path))
    assert found == {("openai", "provider_refused"): 6, ("anthropic", None): 6}
    sandbox.clear_faults()
    make(tmp_path).run()
    check_all_paid_once(billed(), tmp_path / "out", JOBS)


@pytest.mark.parametrize(
    ("times", "status", "message"),
    [(1, 400, "Cannot find file file-abc."), (7, 404, "No such File object: file-abc")],
)
def test_a_file_that_is_not_seen_yet(
    tmp_path: Path, sandbox, billed, times: int, status: int, message: str
) -> None:
    """It is waited for, and uploaded again in the end; nothing is left behind."""
    known, uploads = kept_files(sandbox), calls(sandbox, "openai.upload")
    sandbox.fault(
        "openai", operation="create", mode="status", status=status, message=message, times=times
    )
    make(tmp_path, 6, items_per_batch=3).run()
    assert calls(sandbox, "openai.upload") - uploads == 1 + times // 3
    assert kept_files(sandbox) == known
    check_all_paid_once(billed(), tmp_path / "out", 6)


def test_a_file_that_is_not_seen_by_the_batch(tmp_path: Path, sandbox, billed) -> None:
    """The create takes it, and the batch fails for it: it goes out again, and is no attempt."""
    known = kept_files(sandbox)
    sandbox.fault("openai", operation="create", mode="file_vanished", times=3)
    make(tmp_path, 6, items_per_batch=3, max_attempts=1).run()
    assert kept_files(sandbox) == known
    check_all_paid_once(billed(), tmp_path / "out", 6)


@pytest.mark.parametrize("mode", ["status", "file_vanished"])
def test_a_file_that_is_never_seen(
    tmp_path: Path, sandbox, billed, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with words, and the next one sends what was not sent."""
    monkeypatch.setenv("BATCHATA_UNKNOWN_SECONDS", "1")
    known = kept_files(sandbox)
    told = {"status": 400, "message": "Cannot find file."} if mode == "status" else {}
    sandbox.fault("openai", operation="create", mode=mode, times=None, **told)
    with pytest.raises(BatchSubmissionError, match="goes on not to see a file"):
        make(tmp_path, 6, items_per_batch=3).run()
    assert kept_files(sandbox) == known
    assert {row["error_code"] for row in rows(tmp_path)} == {None, "provider_refused"}
    sandbox.clear_faults()
    make(tmp_path, 6).run()
    check_all_paid_once(billed(), tmp_path / "out", 6)


@BOTH
def test_a_server_without_a_batch_api(tmp_path: Path, sandbox, billed, provider: str) -> None:
    """It says nothing of the jobs: they stay unsent until the address is right."""
    sandbox.fault(
        provider, operation="create", mode="status", status=404, message="Not Found", times=None
    )
    with pytest.raises(BatchSubmissionError, match="Check the base URL"):
        make(tmp_path, 4).run()
    found = Counter(row["error_code"] for row in rows(tmp_path) if row["provider"] == provider)
    assert found == {"provider_refused": 2}
    sandbox.clear_faults()
    make(tmp_path, 4).run()
    check_all_paid_once(billed(), tmp_path / "out", 4)


def test_a_create_that_was_stopped_leaves_no_upload(tmp_path: Path, sandbox, short_limits) -> None:
    """A run that ends while its provider takes nothing takes its file away."""
    known = kept_files(sandbox)
    sandbox.fault("openai", operation="create", mode="status", status=429, times=None)
    make(tmp_path, 2).add_time_limit(seconds=5).run()
    assert kept_files(sandbox) == known
    assert Counter(row["error_code"] for row in rows(tmp_path)) == {
        None: 1,
        "time_limit_exceeded": 1,
    }


@BOTH
def test_a_realtime_account_without_credit(tmp_path: Path, sandbox, provider: str) -> None:
    """Also a 400 is no answer to the request then; the other provider's requests are answered."""
    error = SPENT["openai hard limit" if provider == "openai" else "anthropic credit"][1]
    sandbox.limits(seconds=60)
    sandbox.fault(provider, operation="message", mode="status", times=None, **error)
    try:
        batch = make(tmp_path, 12, items_per_batch=6)
        batch.add_time_limit(seconds=10, on_deadline="realtime", realtime_usd=5, margin_seconds=8)
        with pytest.raises(BatchSubmissionError, match="it was not billed"):
            batch.run()
    finally:
        sandbox.limits(seconds=0.1)
    found = {(row["provider"], row["error_code"]) for row in rows(tmp_path)}
    other = {"anthropic": "openai", "openai": "anthropic"}[provider]
    assert (other, None) in found
    assert not {code for name, code in found if name == provider} & {None, "invalid_request_error"}
