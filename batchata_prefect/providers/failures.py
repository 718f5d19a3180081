"""What an error of a provider means: one classing, whichever call raised it.

A wait passes by itself, and a refusal does not. Of an account's refusal every further call gets the
same answer, so that nothing more is to be sent there; any other refusal is of what was sent.

Sources: anthropic/_error_classes.py and types/shared (2.12.0), openai/_exceptions.py (3.54.0),
Claude docs, api/errors and rate-limits; OpenAI's error codes guide and its help pages on 429s and
on spend limits (November 2026); google/genai/errors.py (3.6.1), google/rpc/error_details.proto,
ai.google.dev, troubleshooting; recorded replies.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any, Literal, TypeAlias, cast

import orjson

from batchata_prefect.errors import ProviderError, one_line
from batchata_prefect.money.quota import TURNED_AWAY_CODE
from batchata_prefect.providers.rows import object_at, objects_at, text_at

Kind: TypeAlias = Literal["wait", "refused", "absent", "unseen", "account", "ours"]
"""What to do about an error:

- `wait`: nothing was said against what was sent; the same call may go well later.
- `refused`: what was sent is refused.
- `absent`: what was asked for is not there, or not yet; of a create, the API itself.
- `unseen`: the provider does not see a file that it has taken a moment ago; wait, or send it again.
- `account`: the key, or the account's credit, is refused: so would be every further call.
- `ours`: it did not come from the provider or the way to it.
"""

LONGEST_SECONDS = 3600.0
"""The longest wait that is believed: a provider that asks for more is asked again after it."""

_TRANSIENT = frozenset({0, 408, 409, 425, 429})
_ABSENT = frozenset({404, 405, 410})
_EPOCH = 1e9
"""Seconds from here on are a time since 1970 and no span."""

_MONEY = re.compile(
    r"insufficient_(?:user_)?(?:quota|balance|credits?|funds)|billing|credit_balance"
    r"|credits?_exhausted|(?:spend|usage)_limit|budget_exceeded|payment_required"
)
"""Codes of an account whose credit or limit is used up. OpenAI: `insufficient_quota`,
`billing_hard_limit_reached`, `billing_not_active`, `credit_balance_exhausted`,
`organization_usage_limit_exceeded`, `organization_spend_limit_exceeded`,
`project_spend_limit_exceeded`. Anthropic: `billing_error`, `contract_spend_limit_reached`,
`enforced_spend_limit_reached`, `linked_organization_spend_limit_reached`,
`user_profile_billing_not_authorized`. Gateways: `budget_exceeded`, `insufficient_balance`."""

_MONEY_SAID = re.compile(
    r"credit balance is too low|reached your specified (?:\w+ )?api usage limits"
    r"|billing hard limit|billing is not active|monthly spending cap"
    r"|prepay(?:ment)? (?:credits?|balance|funds) (?:is|are) depleted",
    re.IGNORECASE,
)
"""The same where only the text tells, as of a 400 `invalid_request_error` at Anthropic [api/errors,
public reports]."""

_CLOSED = frozenset(
    {
        "invalid_api_key",
        "authentication_error",
        "permission_error",
        "account_deactivated",
        "organization_on_hold",
        "user_profile_not_billable",
        "cmek_key_disabled",
        "cmek_key_network_blocked",
        "api_key_invalid",
        "api_key_expired",
    }
)
"""Codes that refuse the key or the account itself, with whatever status they come."""

_PASSING = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "too_many_requests",
        "slow_down",
        "overloaded_error",
    }
)
"""Codes of a limit of rates or of an overload, which pass, also where a server or a gateway gives
them another status than 429, 503 or 529."""

_CLOSED_SAID = re.compile(
    r"organization has been disabled|user location is not supported|api key (?:not valid|expired)"
    r"|free tier is not available in your country",
    re.IGNORECASE,
)

_UNSEEN = re.compile(
    r"(?:can(?:no|')t|could ?n(?:o|')t|unable to) (?:find|locate|access) (?:the )?(?:input )?file"
    r"|no such file|\bfile\b[^.]{0,120}(?:not (?:be )?found|does(?: no|n')t exist"
    r"|not (?:yet )?(?:been )?(?:ready|available|processed)|being processed"
    r"|not in an ACTIVE state)",
    re.IGNORECASE,
)
"""Texts with which a file that was uploaded a moment ago is not seen yet: OpenAI and servers that
speak its API [public reports; recorded replies]."""

_HIDDEN = re.compile(r"permission to access the File \S+ or it may not exist")
"""How Google's Files API says with a 403 that there is no such file [public reports]."""

_PLACE = re.compile(r"\brequests[.\[](\d+)\b")
"""The request that a refusal of a whole create names, counted from 0: `requests.3.custom_id: ...`
[recorded replies of Anthropic's create]."""

_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
"""A time as OpenAI's `x-ratelimit-reset-...` headers say it: `6m0s`, `1h2m3.5s`, `88ms`."""

_NETWORK = frozenset({"anthropic", "openai", "httpx", "httpx2", "httpcore", "httpcore2", "ssl"})


class NotSentError(ProviderError):
    """What a create needs first did not go through, such as its file: no batch was created."""


class HeldBackError(Exception):
    """The last bytes of a call were held back, so that the provider has made nothing of it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error of a call to a provider means.

    Attributes:
        kind: What to do about it.
        text: The error on one line, without keys.
        status: HTTP status; None where there was no reply.
        code: The provider's own name for it, where it gave one.
        seconds: How long the provider asks to wait; None where it does not say.
        made_nothing: Whether it proves of a create, sent once, that no batch was made.
        billed_nothing: Whether it proves of a realtime request, sent once, that it was not billed.
        of_money: Whether an account's refusal is for its credit or limits, and not for the key.
        places: Place of a request in what was sent -> what is said against it, where a refusal
            names requests.
    """

    kind: Kind
    text: str
    status: int | None = None
    code: str | None = None
    seconds: float | None = None
    made_nothing: bool = False
    billed_nothing: bool = False
    of_money: bool = False
    places: Mapping[int, str] = field(default_factory=dict[int, str])

    @property
    def what_to_do(self) -> str:
        """What a person does about what every further call would be answered with."""
        if self.of_money:
            return (
                "The account's credit or spend limit is used up, and waiting does not lift it: "
                "raise it in the provider's console"
            )
        if self.kind == "absent":
            return "Check the base URL, and that the account has a batch API there"
        if self.kind == "unseen":
            return "It goes on not to see a file that it has taken: try again later"
        return "Check the API key and what it may do"


def is_transient(status: int) -> bool:
    """Whether a status, of a reply or of a row, says nothing against the request itself.

    0 is how a row says that nothing answered it [public reports of OpenAI's error files].
    """
    return status in _TRANSIENT or status >= 500


def classify(error: BaseException) -> Failure:
    """What an error means; for any error, and without raising."""
    if isinstance(error, NotSentError):
        inner = classify(error.__cause__) if error.__cause__ else Failure("wait", "")
        kind: Kind = "wait" if inner.kind == "ours" else inner.kind
        return replace(
            inner,
            kind=kind,
            text=one_line(error),
            made_nothing=True,
            billed_nothing=True,
            places={},
        )
    text, status = one_line(error), status_of(error)
    if status is None:
        if not _is_network(error):
            return Failure("ours", text)
        never = _never_sent(error)
        return Failure("wait", text, made_nothing=never, billed_nothing=never)
    told = _told(error)
    said = text_at(told, "message") or text_at(told, "detail") or ""
    names = _names(told)
    most = _most_enqueued(told)
    if most is not None:
        names, text = [TURNED_AWAY_CODE, *names], f"limit: {most:,} enqueued tokens ({text})"
    money = status == 402 or _is_money(names, said, status)
    kind = "account" if money else "refused" if most else _kind(status, names, said)
    refused = 400 <= status < 500 and status not in {408, 409}
    # A proxy's 4xx says nothing of what reached the provider; but nothing too large for somebody on
    # the way has reached its end, and a limiter of rates turns away at the door.
    nothing = status in {407, 413, 429} or (bool(told) and refused)
    places = [int(place[:9]) for place in _PLACE.findall(said) if kind == "refused"]
    return Failure(
        kind,
        text,
        status,
        names[0] if names else None,
        asked_seconds(error),
        made_nothing=nothing,
        # What answers with its own error has not answered the request; a gateway's 502 or 504, or
        # silence, tells nothing.
        billed_nothing=nothing or (bool(told) and status in {500, 503, 529}),
        of_money=money,
        places=dict.fromkeys(places, text),
    )


def classify_code(code: str | None, message: str | None, status: int | None = None) -> Kind:
    """The same for an error that is told in a batch: a code and a text, without a call."""
    names = [code.lower()] if code else []
    if _is_money(names, message or "", status):
        return "account"
    return _kind(status or 400, names, message or "")


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an SDK's error; None where it has none."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and not isinstance(status, bool) else None


def asked_seconds(error: BaseException) -> float | None:
    """Seconds that a reply asks to wait, at most `LONGEST_SECONDS`; None where it does not say.

    `retry-after` counts, as seconds or as a date by the provider's own clock, before it the more
    exact `retry-after-ms`, and after it the times at which a limit that is used up comes back, and
    `google.rpc.RetryInfo` in the body.
    """
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return None
    given = cast("Mapping[str, Any]", headers)
    said = [
        _span(each["retryDelay"])
        for each in objects_at(_told(error), "details")
        if "retryDelay" in each
    ]
    for seconds in chain(_asked(given, limited=status_of(error) == 429), said):
        if seconds is not None and math.isfinite(seconds) and seconds > 0:
            return min(seconds, LONGEST_SECONDS)
    return None


def _asked(headers: Mapping[str, Any], *, limited: bool) -> Iterator[float | None]:
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        yield milliseconds / 1000
    after = headers.get("retry-after")
    seconds = _number(after)
    yield seconds if seconds is not None else _until(after, headers)
    if limited:
        yield min(_resets(headers), default=None)


def _resets(headers: Mapping[str, Any]) -> Iterator[float]:
    """Seconds until what is used up comes back; of all limits where none says that it is."""
    found: list[tuple[bool, float]] = []
    for name, value in headers.items():
        name = str(name).lower()
        if not name.startswith(("x-ratelimit-reset", "anthropic-ratelimit-")):
            continue
        if "reset" not in name:
            continue
        seconds = _span(value)
        seconds = _until(value, headers) if seconds is None else seconds
        if seconds is not None and seconds > 0:
            left = _number(headers.get(name.replace("reset", "remaining")))
            found.append((left is not None and left <= 0, seconds))
    used_up = any(empty for empty, _ in found)
    return (seconds for empty, seconds in found if empty or not used_up)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _span(value: Any) -> float | None:
    match = _SPAN.fullmatch(str(value).strip())
    if match is None or not any(match.groups()):
        seconds = _number(value)
        return seconds if seconds is None or seconds < _EPOCH else seconds - time.time()
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000


def _until(value: Any, headers: Mapping[str, Any]) -> float | None:
    """Seconds until a date, from the time at which the reply was sent."""
    at, now = _date(value), _date(headers.get("date"))
    if at is None:
        return None
    return at - (time.time() if now is None else now)


def _date(value: Any) -> float | None:
    text = str(value or "").strip()
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(text)
        except (TypeError, ValueError, OverflowError, IndexError):
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    return None


def _kind(status: int, names: list[str], said: str) -> Kind:
    # The order decides: codes go before the status, which gateways change, and a text only where
    # neither says more, as it may quote what was sent.
    if status not in {401, 407} and not _PASSING.isdisjoint(names):
        return "wait"
    if status == 403 and _HIDDEN.search(said):
        return "unseen"
    if status in {401, 403, 407} or not _CLOSED.isdisjoint(names):
        return "account"
    if status in {400, 403} and _CLOSED_SAID.search(said):
        return "account"
    if is_transient(status) or status < 300:
        return "wait"
    if status in {400, 404, 422} and _UNSEEN.search(said) and not _PLACE.search(said):
        return "unseen"
    return "absent" if status in _ABSENT else "refused"


def _is_money(names: list[str], said: str, status: int | None) -> bool:
    if any(_MONEY.search(name) for name in names):
        return True
    # A refusal that names requests speaks of them, and may quote what stands in them.
    said = "" if _PLACE.search(said) else said
    return status in {None, 400, 403, 429} and _MONEY_SAID.search(said) is not None


def _told(error: BaseException) -> Mapping[str, Any]:
    """The provider's own error object; empty where nobody wrote one, as on a page of a proxy."""
    content: Any = None
    try:
        content = orjson.loads(cast("Any", error).response.content)
    except Exception:
        # Streams that were not read, fakes, pages: what the SDK made of it is as good.
        content = getattr(error, "body", None)
    for _ in range(3):
        if isinstance(content, list):
            content = cast("list[Any]", content)[0] if content else None
        if not isinstance(content, Mapping):
            break
        found = cast("Mapping[str, Any]", content)
        inner = found.get("error")
        if isinstance(inner, str) and inner:
            return {"message": inner, **found}
        if not isinstance(inner, (Mapping, list)) or not inner:
            known = {"message", "detail", "code", "error"}
            return found if not known.isdisjoint(found) else {}
        content = cast("Any", inner)
    return {}


def _names(told: Mapping[str, Any]) -> list[str]:
    # What Google tells beside its error are objects with a type each [google.rpc.ErrorInfo, ...].
    reasons = [each.get("reason") for each in objects_at(told, "details")]
    inner = object_at(told, "details").get("error_code")
    found = (inner, *reasons, told.get("code"), told.get("type"), told.get("status"))
    return [name.lower() for name in found if isinstance(name, str) and name]


def _most_enqueued(told: Mapping[str, Any]) -> int | None:
    """How many tokens may wait at once, where a refusal tells that limit [google.rpc.QuotaFailure].

    Google names a quota by words, such as `GenerateRequestsPerMinutePerProjectPerModel`, and one of
    this kind is no more than such a name in public reports: by its words it is told from the
    quotas that come back by themselves.
    """
    for detail in objects_at(told, "details"):
        for each in objects_at(detail, "violations"):
            name = f"{each.get('quotaId')} {each.get('quotaMetric')}".lower()
            value = str(each.get("quotaValue"))
            if "enqueued" in name and "token" in name and value.isascii() and value.isdigit():
                return int(value[:18]) or None
    return None


def _is_network(error: BaseException) -> bool:
    """Whether an error without a status came from the way to the provider."""
    module = type(error).__module__.partition(".")[0]
    return module in _NETWORK or isinstance(error, (ConnectionError, TimeoutError, HeldBackError))


def _never_sent(error: BaseException) -> bool:
    import httpx2

    # An SDK's own error has it as its cause, or there is none between.
    never = (
        HeldBackError,
        httpx2.ConnectError,
        httpx2.ConnectTimeout,
        httpx2.PoolTimeout,
        httpx2.ProxyError,
        httpx2.UnsupportedProtocol,
    )
    return isinstance(error, never) or isinstance(error.__cause__, never)
