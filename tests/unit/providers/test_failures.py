"""What each error of a provider means: a table, and every combination of what an error can hold."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchata_prefect.errors import blanked, keep_secret, one_line
from batchata_prefect.money.quota import TURNED_AWAY_CODE
from batchata_prefect.money.quota import told as limit_in
from batchata_prefect.providers import Key
from batchata_prefect.providers.failures import (
    LONGEST_SECONDS,
    Failure,
    NotSentError,
    classify,
    classify_code,
    is_transient,
)
from batchata_prefect.providers.gemini.client import Client

BOTH = ("anthropic", "gemini", "openai")


@cache
def sdk(provider: str) -> Any:
    if provider == "gemini":
        return Client(Key("sandbox", "http://127.0.0.1:1"))
    if provider == "anthropic":
        return anthropic.AsyncAnthropic(api_key="sandbox", base_url="http://127.0.0.1:1")
    return openai.AsyncOpenAI(api_key="sandbox", base_url="http://127.0.0.1:1/v1")


def status_error(
    provider: str, status: int, content: bytes, headers: dict[str, str] | None = None
) -> Exception:
    """The error that the provider's own SDK makes of a response."""
    request = httpx2.Request("POST", "http://127.0.0.1:1/v1/batches")
    response = httpx2.Response(status, headers=headers or {}, content=content, request=request)
    if provider == "gemini":
        errors = pytest.importorskip("google.genai.errors", reason="an extra")
        with pytest.raises(errors.APIError) as refused:
            asyncio.run(sdk(provider)._refuse(response))
        return refused.value
    return sdk(provider)._make_status_error_from_response(response)


def told(provider: str, status: int, /, **error: Any) -> Exception:
    """The same with the provider's own error body."""
    error = {"message": "What was wrong.", **error}
    body = {"type": "error", "error": error} if provider == "anthropic" else {"error": error}
    return status_error(provider, status, orjson.dumps(body))


QUOTA = "You exceeded your current quota, please check your plan and billing details."

HIDDEN = "You do not have permission to access the File x1 or it may not exist."

TABLE: list[tuple[str, int, dict[str, Any], str, bool]] = [
    # provider, status, error, kind, of money
    ("openai", 429, {"code": "rate_limit_exceeded", "type": "requests"}, "wait", False),
    ("openai", 429, {"code": None, "type": "tokens"}, "wait", False),
    ("openai", 429, {}, "wait", False),
    ("openai", 429, {"code": "insufficient_quota", "type": "insufficient_quota"}, "account", True),
    ("openai", 429, {"code": None, "type": "insufficient_quota"}, "account", True),
    ("openai", 429, {"code": "credit_balance_exhausted"}, "account", True),
    ("openai", 429, {"code": "organization_usage_limit_exceeded"}, "account", True),
    ("openai", 429, {"code": "organization_spend_limit_exceeded"}, "account", True),
    ("openai", 429, {"code": "project_spend_limit_exceeded"}, "account", True),
    ("openai", 400, {"code": "billing_hard_limit_reached"}, "account", True),
    ("openai", 400, {"message": "Billing hard limit has been reached"}, "account", True),
    ("openai", 429, {"code": "billing_not_active"}, "account", True),
    ("openai", 403, {"code": "account_deactivated"}, "account", False),
    ("openai", 401, {"code": "invalid_api_key"}, "account", False),
    ("openai", 402, {}, "account", True),
    ("openai", 503, {"code": "slow_down"}, "wait", False),
    ("openai", 500, {"code": "server_error"}, "wait", False),
    ("openai", 409, {}, "wait", False),
    ("openai", 400, {"code": "invalid_value", "param": "endpoint"}, "refused", False),
    ("openai", 400, {"message": "Cannot find file file-abc123."}, "unseen", False),
    ("openai", 404, {"message": "No such File object: file-abc123"}, "unseen", False),
    ("openai", 400, {"message": "The file 'file-abc' does not exist."}, "unseen", False),
    ("openai", 400, {"message": "The file file-1 is not ready yet"}, "unseen", False),
    ("openai", 400, {"message": "File file-1 is still being processed."}, "unseen", False),
    ("openai", 400, {"code": "rate_limit_exceeded", "type": "requests"}, "wait", False),
    ("openai", 403, {"code": "rate_limit_exceeded", "type": "tokens"}, "wait", False),
    ("openai", 403, {"code": "slow_down"}, "wait", False),
    ("openai", 401, {"code": "rate_limit_exceeded"}, "account", False),
    ("openai", 403, {"code": "insufficient_quota", "type": "rate_limit_error"}, "account", True),
    ("anthropic", 400, {"type": "overloaded_error"}, "wait", False),
    ("anthropic", 403, {"type": "rate_limit_error"}, "wait", False),
    ("openai", 404, {"message": "No batch found with id 'batch_1'."}, "absent", False),
    ("openai", 404, {"message": "Invalid URL (POST /v1/batchess)"}, "absent", False),
    ("anthropic", 429, {"type": "rate_limit_error"}, "wait", False),
    (
        "anthropic",
        429,
        {"type": "rate_limit_error", "details": {"error_code": "ramp_limit_exceeded"}},
        "wait",
        False,
    ),
    (
        "anthropic",
        429,
        {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}},
        "account",
        True,
    ),
    (
        "anthropic",
        429,
        {"type": "rate_limit_error", "details": {"error_code": "contract_spend_limit_reached"}},
        "account",
        True,
    ),
    ("anthropic", 402, {"type": "billing_error"}, "account", True),
    ("anthropic", 400, {"type": "billing_error"}, "account", True),
    (
        "anthropic",
        400,
        {
            "type": "invalid_request_error",
            "message": "Your credit balance is too low to access the Anthropic API. Please go to "
            "Plans & Billing to upgrade or purchase credits.",
        },
        "account",
        True,
    ),
    (
        "anthropic",
        400,
        {
            "type": "invalid_request_error",
            "message": "You have reached your specified workspace API usage limits. You will "
            "regain access on 2026-12-01 at 00:00 UTC.",
        },
        "account",
        True,
    ),
    (
        "anthropic",
        400,
        {
            "type": "invalid_request_error",
            "message": "requests.0.custom_id: no such file, billing hard limit, credit balance is "
            "too low",
        },
        "refused",
        False,
    ),
    ("anthropic", 400, {"details": {"error_code": "organization_on_hold"}}, "account", False),
    ("anthropic", 401, {"type": "authentication_error"}, "account", False),
    ("anthropic", 403, {"type": "permission_error"}, "account", False),
    ("anthropic", 404, {"type": "not_found_error"}, "absent", False),
    ("anthropic", 413, {"type": "request_too_large"}, "refused", False),
    ("anthropic", 529, {"type": "overloaded_error"}, "wait", False),
    ("anthropic", 504, {"type": "timeout_error"}, "wait", False),
    ("gemini", 429, {"status": "RESOURCE_EXHAUSTED", "message": QUOTA}, "wait", False),
    ("gemini", 402, {"status": "RESOURCE_EXHAUSTED"}, "account", True),
    (
        "gemini",
        429,
        {"message": "Your project has exceeded its monthly spending cap."},
        "account",
        True,
    ),
    ("gemini", 429, {"message": "Your prepayment credits are depleted."}, "account", True),
    ("gemini", 400, {"details": [{"reason": "API_KEY_INVALID"}]}, "account", False),
    (
        "gemini",
        400,
        {"message": "API key not valid. Please pass a valid API key."},
        "account",
        False,
    ),
    ("gemini", 403, {"status": "PERMISSION_DENIED"}, "account", False),
    (
        "gemini",
        400,
        {"message": "User location is not supported for the API use."},
        "account",
        False,
    ),
    ("gemini", 400, {"message": "The File x is not in an ACTIVE state."}, "unseen", False),
    ("gemini", 403, {"message": HIDDEN}, "unseen", False),
    ("gemini", 400, {"status": "INVALID_ARGUMENT"}, "refused", False),
    ("gemini", 404, {"status": "NOT_FOUND"}, "absent", False),
    (
        "gemini",
        503,
        {"status": "UNAVAILABLE", "message": "The model is overloaded."},
        "wait",
        False,
    ),
    ("gemini", 504, {"status": "DEADLINE_EXCEEDED"}, "wait", False),
]


@pytest.mark.parametrize(("provider", "status", "error", "kind", "of_money"), TABLE)
def test_what_an_error_means(
    provider: str, status: int, error: dict[str, Any], kind: str, of_money: bool
) -> None:
    """A wait passes, a refusal does not, and the account's refusals are told from the others."""
    failure = classify(told(provider, status, **error))
    assert (failure.kind, failure.of_money, failure.status) == (kind, of_money, status)


@pytest.mark.parametrize(("delay", "seconds"), [("34.07s", 34.07), ("0s", None), ("soon", None)])
def test_googles_delay_stands_in_the_body(delay: str, seconds: float | None) -> None:
    """A 429 of Gemini's says in its details how long to wait."""
    kinds = "type.googleapis.com/google.rpc."
    details = [{"@type": f"{kinds}Help"}, {"@type": f"{kinds}RetryInfo", "retryDelay": delay}]
    error = told("gemini", 429, status="RESOURCE_EXHAUSTED", details=details)
    assert classify(error).seconds == seconds


@pytest.mark.parametrize(
    ("violation", "most"),
    [
        ({"quotaId": "BatchEnqueuedTokensPerProjectPerModel", "quotaValue": "3000000"}, 3_000_000),
        ({"quotaMetric": "g.com/batch_enqueued_tokens", "quotaValue": "7"}, 7),
        ({"quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaValue": "10"}, None),
        ({"quotaId": "GenerateContentInputTokensPerModelPerMinute", "quotaValue": "10"}, None),
        ({"quotaId": "BatchEnqueuedTokens"}, None),
        ({"quotaId": "BatchEnqueuedTokens", "quotaValue": "many"}, None),
        ({"quotaId": "BatchEnqueuedTokens", "quotaValue": "0"}, None),
        ("nothing", None),
    ],
)
def test_googles_quota_of_waiting_tokens_is_told_from_those_that_pass(
    violation: Any, most: int | None
) -> None:
    """It is learnt, as OpenAI's is, and the others are waited for."""
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}]
    failure = classify(told("gemini", 429, status="RESOURCE_EXHAUSTED", details=details))
    assert (failure.code == TURNED_AWAY_CODE, failure.kind) == (
        (True, "refused") if most else (False, "wait")
    )
    assert failure.made_nothing
    assert limit_in(failure.text) == most


AFTER: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"retry-after": "7"}, 7),
    ({"retry-after": " 7 "}, 7),
    ({"Retry-After": "0.25"}, 0.25),
    ({"retry-after": "0"}, None),
    ({"retry-after": "-1"}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "1e400"}, None),
    ({"retry-after": "86400"}, LONGEST_SECONDS),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ({"retry-after-ms": "-5", "retry-after": "9"}, 9),
    ({"retry-after-ms": "x", "retry-after": "9"}, 9),
    ({"retry-after": "Sat, 28 Nov 2026 10:00:30 GMT", "date": "Sat, 28 Nov 2026 10:00:00 GMT"}, 30),
    ({"retry-after": "Saturday, 28-Nov-26 10:00:30 GMT", "date": "Sat, 28 Nov 2026 10:00:00"}, 30),
    ({"retry-after": "Sat, 28 Nov 2026 09:00:00 GMT", "date": "Sat, 28 Nov 2026 10:00:00"}, None),
    ({"retry-after": "Wed, 01 Jan 2098 00:00:00 GMT"}, LONGEST_SECONDS),
    ({"retry-after": "Wed, 99 Foo 2098 00:00:00 GMT"}, None),
    ({"x-ratelimit-reset-requests": "6m0s"}, 360),
    ({"x-ratelimit-reset-requests": "88ms"}, 0.088),
    ({"x-ratelimit-reset-requests": "30m2.5s"}, 1802.5),
    ({"x-ratelimit-reset-tokens": "2"}, 2),
    ({"x-ratelimit-reset-tokens": "0s"}, None),
    ({"x-ratelimit-reset-requests": "6m0s", "retry-after": "4"}, 4),
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "3s"}, 3),
    (
        {
            "x-ratelimit-reset-requests": "6m0s",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-tokens": "3s",
            "x-ratelimit-remaining-tokens": "5000",
        },
        360,
    ),
    (
        {
            "anthropic-ratelimit-requests-reset": "2026-11-28T10:00:09Z",
            "date": "Sat, 28 Nov 2026 10:00:00 GMT",
        },
        9,
    ),
]


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize(("headers", "seconds"), AFTER)
def test_how_long_to_wait(provider: str, headers: dict[str, str], seconds: float | None) -> None:
    """In whatever form HTTP or a provider says it; what is no time is as if nothing was said."""
    error = status_error(provider, 429, b'{"error":{"message":"Slow down."}}', headers)
    failure = classify(error)
    assert failure.kind == "wait"
    assert failure.seconds == (None if seconds is None else pytest.approx(seconds))


def test_a_limit_that_is_not_used_up_is_no_wait() -> None:
    """These headers come with every reply, and only a 429 is about them."""
    error = status_error("openai", 503, b"{}", {"x-ratelimit-reset-requests": "6m0s"})
    assert classify(error).seconds is None


def test_statuses_that_pass() -> None:
    """Of calls and of rows alike; 0 is a row that nothing answered."""
    assert {status for status in range(600) if is_transient(status)} == (
        {0, 408, 409, 425, 429} | set(range(500, 600))
    )


def bodies() -> Iterator[bytes]:
    yield from (b"", b"   ", b"<html><h1>502 Bad Gateway</h1></html>", b"error code: 1015")
    yield from (b"null", b"[]", b"{}", b"42", b'"insufficient_quota"', b'{"error":', b"\xff\xfe")
    yield from (b'{"error":null}', b'{"error":"insufficient_quota"}', b'{"error":[]}')
    yield from (b'{"detail":"Input file not found"}', b'{"detail":[{"msg":"x"}]}')
    yield b'[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota"}}]'


_words = st.sampled_from(
    [
        "",
        "rate_limit_exceeded",
        "insufficient_quota",
        "billing_error",
        "invalid_request_error",
        "not_found_error",
        "Cannot find file file-1",
        "requests.3.custom_id: bad, requests.99999999999999999999: worse",
        "\x00\ud800",
    ]
)
_value = _words | st.none() | st.integers() | st.booleans() | st.lists(_words, max_size=2)
_objects = st.dictionaries(
    st.sampled_from(["message", "code", "type", "param", "details", "error", "detail"]),
    _value | st.dictionaries(st.just("error_code"), _value),
)
_content = st.sampled_from(list(bodies())) | st.builds(
    lambda inner: json.dumps({"error": inner}).encode(), _objects
)
_headers = st.dictionaries(
    st.sampled_from(
        [
            "retry-after",
            "retry-after-ms",
            "date",
            "x-ratelimit-reset-requests",
            "x-ratelimit-remaining-requests",
            "anthropic-ratelimit-tokens-reset",
        ]
    ),
    st.sampled_from(
        [
            *("0", "-1", "1e999", "nan", "5", "2.5", "6m0s", "1d2h3m4s5ms", "", "m", "9" * 400),
            *("Sat, 28 Nov 2026 10:00:30 GMT", "Wed, 31 Dec 9999 23:59:59 -1200", "x" * 50),
            *("0001-01-01T00:00:00+23:59", "2026-11-28T10:00:09Z"),
        ]
    ),
)


@given(st.sampled_from(BOTH), st.sampled_from([*range(300, 600)]), _content, _headers)
def test_no_reply_is_too_odd(
    provider: str, status: int, content: bytes, headers: dict[str, str]
) -> None:
    """Whatever a reply says, its error has one meaning, and the same whatever the headers are."""
    failure = classify(status_error(provider, status, content, headers))
    assert failure.status == status
    assert failure.kind in {"wait", "refused", "absent", "unseen", "account"}
    assert failure.kind == classify(status_error(provider, status, content)).kind
    if failure.seconds is not None:
        assert math.isfinite(failure.seconds)
        assert 0 < failure.seconds <= LONGEST_SECONDS
    if failure.kind == "wait" and not is_transient(status) and status >= 300:
        assert b"rate_limit_exceeded" in content
        assert status not in {401, 402}
    elif status in {401, 402, 403, 407}:
        assert failure.kind == "account"
    elif failure.kind != "account":
        assert (failure.kind == "wait") == is_transient(status)
    else:
        assert content.strip().startswith((b"{", b"[")), "a page says nothing of the account"
    if status in {408, 409} or status >= 500 or (status < 400):
        assert not failure.made_nothing
    if failure.made_nothing:
        assert failure.billed_nothing
    assert all(place >= 0 for place in failure.places)


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"null", b"[]", b"nothing"])
def test_a_page_of_a_proxy_proves_nothing(provider: str, status: int, content: bytes) -> None:
    """What reached the provider behind it is not known."""
    failure = classify(status_error(provider, status, content))
    assert not failure.made_nothing
    assert not failure.billed_nothing


def raised(provider: str) -> Iterator[tuple[Exception, str, bool]]:
    """Errors without a reply, as the SDKs raise them: error, kind, whether it never left."""
    module: Any = anthropic if provider == "anthropic" else openai
    request = httpx2.Request("POST", "http://127.0.0.1:1")
    causes: list[tuple[Exception, bool]] = [
        (httpx2.ConnectError("refused"), True),
        (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), True),
        (httpx2.ConnectTimeout("slow"), True),
        (httpx2.PoolTimeout("full"), True),
        (httpx2.ProxyError("407"), True),
        (httpx2.UnsupportedProtocol("ftp"), True),
        (httpx2.ReadTimeout("slow"), False),
        (httpx2.WriteTimeout("slow"), False),
        (httpx2.ReadError("reset"), False),
        (httpx2.WriteError("reset"), False),
        (httpx2.RemoteProtocolError("cut"), False),
        (httpx2.LocalProtocolError("less than was said"), False),
        (httpx2.DecodingError("gzip"), False),
        (httpx2.TooManyRedirects("round and round"), False),
        (ssl.SSLError("reset"), False),
    ]
    for cause, never in causes:
        yield cause, "wait", never
        for error in (module.APIConnectionError(request=request), module.APITimeoutError(request)):
            error.__cause__ = cause
            yield error, "wait", never
    response = httpx2.Response(200, content=b"<html>", request=request)
    yield module.APIResponseValidationError(response, None), "wait", False
    yield ConnectionResetError("reset"), "wait", False
    yield TimeoutError(), "wait", False
    yield json.JSONDecodeError("x", "y", 0), "ours", False
    yield KeyError("id"), "ours", False
    yield OSError(28, "No space left on device"), "ours", False


@pytest.mark.parametrize("provider", BOTH)
def test_errors_without_a_reply(provider: str) -> None:
    """What never left made nothing; what was cut off on the way may have; the rest is ours."""
    for error, kind, never in raised(provider):
        failure = classify(error)
        assert (failure.kind, failure.made_nothing, failure.billed_nothing) == (kind, never, never)
        before = NotSentError("its file did not go up")
        before.__cause__ = error
        failure = classify(before)
        assert failure.made_nothing
        assert failure.kind == "wait"


def test_a_refused_upload_is_a_refusal() -> None:
    """What went before a create has the meaning of its own error, and no batch was made."""
    error = NotSentError("its file did not go up")
    error.__cause__ = told("openai", 429, code="insufficient_quota")
    failure = classify(error)
    assert (failure.kind, failure.of_money, failure.made_nothing) == ("account", True, True)


def test_what_a_failed_batch_says() -> None:
    """The same words count where no call failed: OpenAI accepts a batch, and fails it later."""
    assert classify_code("billing_hard_limit_reached", "Billing hard limit.") == "account"
    assert classify_code("insufficient_quota", None) == "account"
    assert classify_code("invalid_request", "The input file 'f' does not exist or") == "unseen"
    assert classify_code("mismatched_model", "Two models.") == "refused"
    assert classify_code(None, None) == "refused"


def test_the_requests_that_a_refusal_names() -> None:
    """So that the others go out again."""
    error = told("anthropic", 400, message="requests.3.custom_id: bad\nrequests.12.params: worse")
    assert set(classify(error).places) == {3, 12}


def test_recorded_errors(real: Path) -> None:
    """Each error that was recorded is a refusal, of what it says."""
    found: dict[str, str] = {}
    for path in sorted((real / "corpus").glob("*/*.json")):
        recorded = json.loads(path.read_text())
        status, response = recorded.get("status"), recorded.get("response")
        if not isinstance(status, int) or status < 400 or not isinstance(response, dict):
            continue
        if "error" not in response:
            continue
        failure: Failure = classify(status_error(path.parent.name, status, orjson.dumps(response)))
        assert failure.made_nothing
        found[path.stem] = failure.kind
    assert {name: kind for name, kind in found.items() if kind != "refused"} == {
        "auth-error": "account",
        "batch-create-401": "account",
        "batch-unknown-id-404": "absent",
        "chat-error": "account",
    }
    assert "file-too-large-400" in found


@pytest.mark.parametrize(
    "secret",
    ["gateway/key+of=an:unknown.form", "user key with spaces", "https://me:s%C3%BCss%40er@host/v1"],
)
def test_a_known_key_is_in_no_error(secret: str) -> None:
    """Whatever it looks like, and in each form in which it may come back."""
    keep_secret(secret)
    word = secret.removeprefix("https://me:").partition("@")[0]
    for text in (f"bad key {word}!", f'{{"key":"{word}"}}', f"at {secret}"):
        assert word not in blanked(text)
    assert word not in one_line(ValueError(f"a\n{word}\nb"))
    if secret.startswith("https"):
        assert blanked("the password süss@er of bWU6c8O8c3NAZXI=") == "the password [key] of [key]"


def test_what_looks_like_a_key() -> None:
    """Also one that nobody knows, such as another run's; words that only begin so stay."""
    assert blanked("sk-abcdef0123 and rk-12****89") == "[key] and [key]"
    assert blanked("at https://a:b@host") == "at https://[key]@host"
    assert blanked("a desk-lamp, a mask-wearer") == "a desk-lamp, a mask-wearer"
