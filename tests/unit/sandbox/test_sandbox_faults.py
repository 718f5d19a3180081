"""Everything that can be told to go wrong, seen through the SDKs."""

from __future__ import annotations

import json
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from batchata_prefect.sandbox import Sandbox, SandboxError

from .conftest import (
    chat,
    claude_of,
    ended,
    eventually,
    gpt_of,
    lines_of,
    make_batch,
    output,
    params,
    requests_of,
    upload,
)


def create_claude(box: Sandbox, **options: Any) -> str:
    client = claude_of(box, **options)
    return client.messages.batches.create(requests=requests_of(params())).id


def create_gpt(box: Sandbox, **options: Any) -> str:
    client = gpt_of(box, **options)
    return make_batch(client, lines_of(chat())).id


CREATES = {"anthropic": create_claude, "openai": create_gpt}
ENDINGS = {"anthropic": "ended", "openai": "completed"}
CONNECTION_ERRORS = (anthropic.APIConnectionError, openai.APIConnectionError)


@pytest.mark.parametrize("provider", CREATES)
@pytest.mark.parametrize(("mode", "made"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_create_may_have_been_made(
    box: Sandbox, provider: str, mode: str, made: int
) -> None:
    """The client sees the same reset; only after `drop_after` is there a batch, that runs."""
    before = [batch.id for batch in box.ledger.batches()]
    box.fault(provider, operation="create", mode=mode)
    with pytest.raises(CONNECTION_ERRORS) as caught:
        CREATES[provider](box)
    assert isinstance(caught.value.__cause__, (httpx2.ReadError, httpx2.RemoteProtocolError))
    box.settle()
    fresh = [batch for batch in box.ledger.batches() if batch.id not in before]
    assert [batch.status for batch in fresh] == [ENDINGS[provider]] * made
    billed = [row for row in box.ledger.billed() if row.batch_id in {each.id for each in fresh}]
    assert len(billed) == made


def test_a_retried_create_is_made_again(box: Sandbox) -> None:
    """What the notes measured: the SDK's own retry of a lost create makes a second batch."""
    before = len(box.ledger.batches())
    box.fault("anthropic", operation="create", mode="drop_after", times=2)
    create_claude(box, max_retries=2)
    assert len(box.ledger.batches()) == before + 3


def test_a_drop_of_a_large_create_leaves_nothing(box: Sandbox, claude: Any) -> None:
    """A reset while the body is still on its way commits nothing."""
    before = len(box.ledger.batches())
    box.fault("anthropic", operation="create", mode="drop_before")
    with pytest.raises(anthropic.APIConnectionError):
        claude.messages.batches.create(requests=requests_of(params("x" * 5_000_000)))
    assert len(box.ledger.batches()) == before


STATUSES: list[tuple[int, type[Exception], type[Exception]]] = [
    (400, anthropic.BadRequestError, openai.BadRequestError),
    (401, anthropic.AuthenticationError, openai.AuthenticationError),
    (402, anthropic.APIStatusError, openai.APIStatusError),
    (403, anthropic.PermissionDeniedError, openai.PermissionDeniedError),
    (429, anthropic.RateLimitError, openai.RateLimitError),
    (500, anthropic.InternalServerError, openai.InternalServerError),
    (503, anthropic.InternalServerError, openai.InternalServerError),
    (529, anthropic.APIStatusError, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "of_claude", "of_gpt"), STATUSES)
def test_statuses_are_the_sdks_own_errors(
    box: Sandbox, status: int, of_claude: type[Exception], of_gpt: type[Exception]
) -> None:
    """A status fault answers in the provider's form, with its headers, and makes nothing."""
    before = len(box.ledger.batches())
    for provider, wanted in (("anthropic", of_claude), ("openai", of_gpt)):
        headers = {"retry-after": "7"}
        box.fault(provider, operation="create", mode="status", status=status, headers=headers)
        with pytest.raises(wanted) as caught:
            CREATES[provider](box)
        error: Any = caught.value
        assert error.status_code == status
        assert error.response.headers["retry-after"] == "7"
    assert len(box.ledger.batches()) == before


def test_a_status_can_come_after_the_commit(box: Sandbox) -> None:
    """With `commit` a 500 hides a batch that was made."""
    before = len(box.ledger.batches())
    box.fault("anthropic", operation="create", mode="status", status=500, commit=True)
    with pytest.raises(anthropic.InternalServerError):
        create_claude(box)
    assert len(box.ledger.batches()) == before + 1


def test_faults_hit_the_calls_they_name(box: Sandbox, claude: Any) -> None:
    """`after` lets calls pass, `times` limits them, `path` chooses among batches."""
    first = claude.messages.batches.create(requests=requests_of(params()))
    second = claude.messages.batches.create(requests=requests_of(params()))
    box.fault("anthropic", operation="retrieve", mode="status", status=500, after=1, times=2)
    outcomes = []
    for _ in range(4):
        try:
            claude.messages.batches.retrieve(first.id)
            outcomes.append("ok")
        except anthropic.InternalServerError:
            outcomes.append("500")
    assert outcomes == ["ok", "500", "500", "ok"]
    box.fault(operation="retrieve", mode="status", status=503, times=None, path=second.id)
    claude.messages.batches.retrieve(first.id)
    for _ in range(3):
        with pytest.raises(anthropic.InternalServerError):
            claude.messages.batches.retrieve(second.id)
    box.clear_faults()
    claude.messages.batches.retrieve(second.id)


def test_delays_add_to_other_faults(box: Sandbox, claude: Any) -> None:
    """A delay holds the call and the next fault still applies."""
    box.fault("anthropic", operation="list", mode="delay", seconds=0.3)
    box.fault("anthropic", operation="list", mode="status", status=529)
    begun = time.monotonic()
    with pytest.raises(anthropic.APIStatusError):
        claude.messages.batches.list()
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_client_that_gives_up_waiting_has_bought(box: Sandbox, when: str) -> None:
    """A read timeout of a create is an uncertain one: the batch is made, at once or late."""
    before = len(box.ledger.batches())
    box.fault("anthropic", operation="create", mode="delay", seconds=0.6, when=when)
    with pytest.raises(anthropic.APITimeoutError):
        create_claude(box, timeout=0.2)
    assert len(box.ledger.batches()) == before + (when == "after")
    eventually(lambda: len(box.ledger.batches()), before + 1)


def test_garbage_is_not_json(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A proxy's HTML page comes with a 502, or with a 200."""
    box.fault("openai", operation="list", mode="garbage")
    with pytest.raises(openai.InternalServerError):
        gpt.batches.list()
    box.fault("openai", operation="retrieve", mode="garbage", status=200)
    batch = make_batch(gpt, lines_of(chat()))
    assert isinstance(gpt.batches.retrieve(batch.id), str)


@pytest.mark.parametrize("provider", CREATES)
def test_results_can_be_cut(box: Sandbox, provider: str) -> None:
    """A cut at a line's end is silent, in a line a JSON error, a reset a protocol error."""
    if provider == "anthropic":
        claude = claude_of(box).messages.batches
        batch_id = claude.create(requests=requests_of(*[params()] * 20)).id
        box.settle()
    else:
        gpt = gpt_of(box)
        file_id = ended(box, gpt, lines_of(*[chat()] * 20)).output_file_id

    def read() -> int:
        if provider == "anthropic":
            return sum(1 for _ in claude.results(batch_id))
        with gpt.files.with_streaming_response.content(file_id) as response:
            return len([json.loads(line) for line in response.iter_lines()])

    for at, wanted in (
        ("line", 7),
        ("middle", json.JSONDecodeError),
        ("reset", (httpx2.ReadError, httpx2.RemoteProtocolError)),
    ):
        box.fault(provider, mode="truncate", at=at, rows=7)
        if wanted == 7:
            assert read() == 7
        else:
            with pytest.raises(wanted):
                read()
    assert read() == 20


def batches_of(box: Sandbox, provider: str) -> Any:
    return claude_of(box).messages.batches if provider == "anthropic" else gpt_of(box).batches


@pytest.mark.parametrize("provider", CREATES)
def test_a_lagging_list_hides_fresh_batches(box: Sandbox, provider: str) -> None:
    """With `list_lag` a batch is found by its id at once, in the list only later."""
    box.fault(provider, mode="list_lag", seconds=0.5)
    made = CREATES[provider](box)

    def listed() -> bool:
        batches = batches_of(box, provider)
        assert batches.retrieve(made).id == made
        return made in [batch.id for batch in batches.list(limit=5).data]

    assert not listed()
    eventually(listed, True)


@pytest.mark.parametrize("provider", CREATES)
def test_a_fresh_batch_can_be_unknown_for_a_while(box: Sandbox, provider: str) -> None:
    """With `create_404` retrieve does not find a batch that was just made."""
    batches = batches_of(box, provider)
    box.fault(provider, mode="create_404", seconds=0.8)
    made = CREATES[provider](box)
    with pytest.raises((anthropic.NotFoundError, openai.NotFoundError)):
        batches.retrieve(made)
    time.sleep(0.85)
    assert batches.retrieve(made).id == made


def test_results_may_come_late(box: Sandbox, claude: Any) -> None:
    """An ended batch can say n times that it has no results yet."""
    batch = claude.messages.batches.create(requests=requests_of(params()))
    box.settle()
    box.fault("anthropic", mode="results_not_ready", times=2)
    for _ in range(2):
        with pytest.raises(anthropic.NotFoundError, match="has no available results"):
            list(claude.messages.batches.results(batch.id))
    assert len(list(claude.messages.batches.results(batch.id))) == 1


def test_an_unknown_status_can_be_shown(box: Sandbox, claude: Any, gpt: openai.OpenAI) -> None:
    """The status word of a retrieve can be one that no SDK knows."""
    first = claude.messages.batches.create(requests=requests_of(params()))
    box.fault("anthropic", mode="unknown_status", word="resting")
    assert claude.messages.batches.retrieve(first.id).processing_status == "resting"
    assert claude.messages.batches.retrieve(first.id).processing_status != "resting"
    second = make_batch(gpt, lines_of(chat()))
    box.fault("openai", mode="unknown_status")
    assert gpt.batches.retrieve(second.id).status == "paused"


def test_a_cancel_can_get_stuck(box: Sandbox, claude: Any) -> None:
    """A batch stays canceling while `stuck_canceling` holds."""
    box.limits(seconds=1)
    box.fault("anthropic", mode="stuck_canceling")
    batch = claude.messages.batches.create(requests=requests_of(params()))
    claude.messages.batches.cancel(batch.id)
    # Without the fault it would end a quarter of a second after the cancel.
    time.sleep(0.6)
    assert claude.messages.batches.retrieve(batch.id).processing_status == "canceling"
    box.clear_faults()
    eventually(lambda: claude.messages.batches.retrieve(batch.id).processing_status, "ended")


def test_a_batch_can_be_told_to_fail(box: Sandbox, gpt: openai.OpenAI) -> None:
    """`batch_failed` ends the next OpenAI batch with the given error, and only that one."""
    box.fault("openai", mode="batch_failed")
    limited = ended(box, gpt, lines_of(chat()))
    assert limited.errors.data[0].code == "token_limit_exceeded"
    box.fault("openai", mode="batch_failed", code="invalid_json_line", message="No.", line=3)
    broken = ended(box, gpt, lines_of(chat()))
    error = broken.errors.data[0]
    assert (error.code, error.message, error.line) == ("invalid_json_line", "No.", 3)
    assert ended(box, gpt, lines_of(chat())).status == "completed"


def test_files_can_vanish(box: Sandbox, gpt: openai.OpenAI) -> None:
    """The content of an output file can be a 404."""
    batch = ended(box, gpt, lines_of(chat()))
    box.fault("openai", mode="file_vanished")
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        output(gpt, batch.output_file_id)
    assert output(gpt, batch.output_file_id)


def test_a_completed_batch_can_be_without_output(box: Sandbox, gpt: openai.OpenAI) -> None:
    """It names no files for a while, with or without its counts; they come later."""
    batch = ended(box, gpt, lines_of(chat()))
    for counts in (1, 0):
        box.fault("openai", mode="no_output", counts=bool(counts))
        bare = gpt.batches.retrieve(batch.id)
        assert (bare.status, bare.output_file_id, bare.error_file_id) == ("completed", None, None)
        assert bare.request_counts.completed == counts
    assert gpt.batches.retrieve(batch.id).output_file_id == batch.output_file_id


def test_an_input_file_can_vanish(box: Sandbox, gpt: openai.OpenAI) -> None:
    """A batch whose input file is gone fails while validating, as for any unknown file."""
    box.fault("openai", operation="create", mode="file_vanished")
    error = ended(box, gpt, lines_of(chat())).errors.data[0]
    assert (error.code, error.param) == ("invalid_request", "file_id")


def test_uploads_can_fail(box: Sandbox, gpt: openai.OpenAI) -> None:
    """An upload dropped after the commit leaves an orphan file; one before leaves none."""
    before = len(box.ledger.files())
    box.fault("openai", operation="upload", mode="drop_before")
    with pytest.raises(openai.APIConnectionError):
        upload(gpt, lines_of(chat()))
    assert len(box.ledger.files()) == before
    box.fault("openai", operation="upload", mode="drop_after")
    with pytest.raises(openai.APIConnectionError):
        upload(gpt, lines_of(chat()))
    assert len(box.ledger.files()) == before + 1


BAD_FAULTS = [
    {"mode": "explode"},
    {"mode": "status", "operation": "dance"},
    {"mode": "status", "provider": "acme"},
]


@pytest.mark.parametrize("fault", BAD_FAULTS)
def test_an_unknown_fault_is_an_error(box: Sandbox, fault: dict[str, Any]) -> None:
    """A misspelt fault is refused, so that a test does not pass for nothing."""
    with pytest.raises(SandboxError, match="is n"):
        box.fault(**fault)


def test_an_unknown_limit_is_an_error(box: Sandbox) -> None:
    """The same for limits."""
    with pytest.raises(SandboxError, match="limit 'max_joy' is not one of"):
        box.limits(max_joy=1)
