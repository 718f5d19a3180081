"""Every `error_code` of a job: whether its request is sent again, or asked again, and what to do.

Also, which of a model's reasons to stop make an answer half an answer. This is the one table of
that. A code that is not in it ends the job: what a provider has against a
request it will have against it tomorrow.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from batchata_prefect.answers import Reply
from batchata_prefect.money.ledger import AGAIN, ANSWERED, CANCELED, FAILED, NOT_AS_ASKED
from batchata_prefect.providers.failures import is_transient

_STATUS = re.compile(r"http_(\d{1,4})")


class Code(NamedTuple):
    """What follows from an error code.

    Attributes:
        then: The mark of its jobs: `AGAIN` where the same request may be sent again,
            `NOT_AS_ASKED` where another request may bring a better answer, else `FAILED`.
        advice: What a person can do about it.
    """

    then: str
    advice: str


_RUN_AGAIN = "Run the same jobs again: only these are sent."
_PROVIDER = (
    "The provider failed every attempt. Run again later with a higher max_attempts: only these "
    "are sent."
)
_REQUEST = "Read what the provider said of the request, and change the job."
_MODEL = "The model id is unknown to this account; check its spelling and access."
_OTHER = Code(FAILED, "Read what the provider said of one of them, and change the jobs.")
_PASSING = Code(AGAIN, _PROVIDER)

INVALID_ROW = "invalid_row"
"""Of a row that makes no job, and was skipped."""

CODES: dict[str, Code] = {
    # The run
    "time_limit_exceeded": Code(
        FAILED,
        "Run again with a longer time limit: only these are sent. It counts from the first start "
        "of the job set.",
    ),
    "cost_limit_exceeded": Code(FAILED, "Raise the cost limit and run again: only these are sent."),
    "canceled": Code(FAILED, _RUN_AGAIN),
    "in_flight": Code(
        FAILED,
        "Run the same jobs again to collect them; `batchata status` shows what the provider says.",
    ),
    "provider_refused": Code(
        FAILED, "Mend the key or the account's limits, then run again: only these are sent."
    ),
    "not_sent": Code(FAILED, _RUN_AGAIN),
    "canary_failed": Code(
        FAILED,
        "Look at the answers of the canary's jobs. Change the prompt or the response model, or let "
        "it pass with a lower min_valid or a higher cost limit; then run again: what the canary "
        "answered is kept.",
    ),
    # The batch
    "expired": Code(
        AGAIN,
        "The provider did not run them within 24 hours, three times over. Run again at another "
        "time, with smaller batches (items_per_batch) or a higher max_attempts.",
    ),
    "missing": Code(
        AGAIN,
        "The provider gave no row for them. Look at the batch in the provider's console before you "
        "send them again: they may have been paid.",
    ),
    "batch_failed": Code(AGAIN, f"Their batch was refused for other jobs. {_RUN_AGAIN}"),
    "batch_refused": Code(
        FAILED, "Read what the provider said of the whole batch, and change the jobs."
    ),
    "token_limit_exceeded": Code(
        AGAIN,
        "The account's limit of enqueued tokens is reached: wait until other batches are done, or "
        "give a smaller tokens_per_batch.",
    ),
    "answer_lost": Code(
        FAILED,
        "They were or may have been answered and paid. Where their reply file is gone, bring it "
        "back from a backup of raw_files/responses; a realtime reply that never came cannot be "
        "had, nor what was written off. Sent with a changed request they are paid again.",
    ),
    # The request
    INVALID_ROW: Code(
        FAILED,
        "They make no job, for the reason that their error tells, and nothing was sent or paid. "
        "Mend these rows and run the same command again: only they are sent.",
    ),
    "invalid_request": Code(FAILED, _REQUEST),
    "invalid_request_error": Code(FAILED, _REQUEST),
    "not_found_error": Code(FAILED, _MODEL),
    "model_not_found": Code(FAILED, _MODEL),
    "permission_error": Code(
        FAILED, "The key has no access to this model; use another key or model."
    ),
    # The provider, for no fault of the request: Anthropic's types [anthropic/types/shared], and
    # OpenAI's codes of the same meaning [Batch API guide; openai/types/responses/response_error]
    "insufficient_quota": Code(AGAIN, f"The account has no credit left: top it up. {_RUN_AGAIN}"),
    "api_error": _PASSING,
    "overloaded_error": _PASSING,
    "rate_limit_error": _PASSING,
    "timeout_error": _PASSING,
    "server_error": _PASSING,
    "rate_limit_exceeded": _PASSING,
    "internal_error": _PASSING,
    "service_unavailable": _PASSING,
    "vector_store_timeout": _PASSING,
    # The answer
    "truncated": Code(
        NOT_AS_ASKED,
        "Give the jobs more max_tokens, or let the run do it with max_reasks; or take them as they "
        "are with accept_truncated.",
    ),
    "paused": Code(
        NOT_AS_ASKED,
        "The provider handed their turn back before its end, as it does in long work with its own "
        "tools. Let the run continue it with max_reasks, each of which is paid, or give them less "
        "to do at once.",
    ),
    "unknown_stop": Code(
        NOT_AS_ASKED,
        "Read in raw_response what was said until then. Use max_reasks, or another model; if it "
        "is an end, report the reason.",
    ),
    "empty_answer": Code(
        NOT_AS_ASKED, "Give the jobs more max_tokens or another prompt, or use max_reasks."
    ),
    "invalid_json": Code(
        NOT_AS_ASKED, "Make the response model simpler, use another model, or use max_reasks."
    ),
    "invalid_output": Code(
        NOT_AS_ASKED,
        "Make the response model more lenient, say in the prompt what its fields hold, or use "
        "max_reasks.",
    ),
    "no_answer": Code(
        FAILED,
        "A tool of the provider's failed, or the model said nothing after it; what it did stands "
        "in items. It was paid and is not sent again: change the prompt or the tools.",
    ),
    "damaged_row": Code(
        FAILED,
        "Their lines in results.jsonl were damaged. Delete that file and run the same jobs again: "
        "it is made anew from raw_files/responses, and nothing is paid again.",
    ),
    "refusal": Code(
        FAILED,
        "The model declined to answer. Change the prompt or the model; it is not sent again.",
    ),
    "content_filter": Code(
        FAILED,
        "The provider's content filter refused the prompt. Change it, or the filter of the "
        "deployment; it is not sent again.",
    ),
    "unreadable_reply": Code(
        FAILED,
        "The reply is kept in raw_files/responses. Report its form; a newer version of this "
        "package can read it without paying again.",
    ),
}
"""Error code -> what follows from it."""


def rule(code: str) -> Code:
    """What follows from a code, also from one that only names an HTTP status (`http_503`)."""
    found = CODES.get(code)
    if found is None and (match := _STATUS.fullmatch(code)) and is_transient(int(match[1])):
        return _PASSING
    return found or _OTHER


def named(code: str, status: int | None) -> str:
    """The code of a request that failed: the provider's word, or `http_503` where that misleads.

    The status decides whether it is sent again. Servers of the same protocol put one word on
    everything (`inference_failed`, `api_error`), which is told in the error's text instead.

    Args:
        code: The provider's word.
        status: HTTP status of the request; None where the row tells none.
    """
    if status is None or (rule(code).then == AGAIN) == is_transient(status):
        return code
    return f"http_{status}"


def mark(reply: Reply, error_code: str | None) -> str:
    """The letter that a reply gets in the ending's marks.

    Args:
        reply: The reply.
        error_code: What is wrong with the answer after it was read; None for nothing.
    """
    if reply.outcome == "canceled":
        return CANCELED
    if error_code is None:
        return ANSWERED
    then = rule(named(error_code, reply.status)).then
    # What was answered was paid for, and is not sent again as it is; what was not answered cannot
    # be answered better.
    return then if then == (NOT_AS_ASKED if reply.outcome == "succeeded" else AGAIN) else FAILED


def what_to_do(code: str) -> str:
    """The next step for jobs that failed with a code."""
    return rule(code).advice


# Why a model stopped, in the words of `Reply.stop_reason`. Only what a provider documents as an end
# is one [anthropic/types/message.py; openai/types/chat/chat_completion.py,
# types/responses/response.py]: a word that is new may stand for half an answer.

ENDS = frozenset({None, "end_turn", "stop_sequence", "tool_use"})
"""Reasons that are an end; servers of the same protocol may leave it out."""

MAX_TOKENS, FULL, INCOMPLETE = "max_tokens", "model_context_window_exceeded", "incomplete"
CUTS = frozenset({MAX_TOKENS, FULL})
"""Reasons that cut an answer off, besides those that begin with `INCOMPLETE`."""

_PAUSES = frozenset({"pause_turn", "compaction"})
"""Reasons that hand a turn back before its end, for another request to continue it."""


def is_cut(reason: str | None) -> bool:
    """Whether a reason to stop says that the answer was cut off."""
    return reason in CUTS or (reason is not None and reason.startswith(INCOMPLETE))


def unfinished(reply: Reply, *, accepts_cut: bool) -> tuple[str, str] | None:
    """Error code and error of an answer that is not whole; None for a whole one.

    Args:
        reply: A reply with an answer in it.
        accepts_cut: Whether one that was cut off is good enough, or is judged by its form.
    """
    reason = reply.stop_reason
    if reason in ENDS or (accepts_cut and is_cut(reason)):
        return None
    if is_cut(reason):
        return "truncated", f"{cut_words(reason)}; what was written is in raw_response"
    if reason in _PAUSES:
        return "paused", (
            f"the provider paused the turn before its end ({reason}); what was said until then is "
            "in raw_response"
        )
    return "unknown_stop", (
        f"the model stopped for a reason that is not known as an end ({reason!r}); what was said "
        "until then is in raw_response"
    )


def cut_words(reason: str | None) -> str:
    """How an answer was cut off, in words."""
    if reason == FULL:
        return "the answer was cut off where the model's context window was full"
    if reason == MAX_TOKENS:
        return "the answer was cut off at max_tokens"
    return f"the answer was not finished ({reason})"
