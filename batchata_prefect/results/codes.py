"""What a person can do about each `error_code` of a job."""

from __future__ import annotations

from batchata_prefect.jobs.chunks import RETRY_CODES

_AGAIN = "Run the same jobs again: only these are sent."

ADVICE: dict[str, str] = {
    # The run
    "time_limit_exceeded": "Start a run with a longer time limit for these jobs, in another "
    "results_dir: the limit counts from the first start.",
    "cost_limit_exceeded": "Raise the cost limit and run again: only these are sent.",
    "canceled": _AGAIN,
    "in_flight": "Run the same jobs again to collect them; `batchata status` shows what the "
    "provider says.",
    "provider_refused": "Mend the key or the account's limits, then run again: only these are "
    "sent.",
    "not_sent": _AGAIN,
    "canary_failed": "Look at the answers of the canary's jobs. Change the prompt or the response "
    "model, or let it pass with a lower min_valid or a higher cost limit; then run again: what the "
    "canary answered is kept.",
    # The batch
    "expired": "The provider did not run them within 24 hours, three times over. Run again at "
    "another time, with smaller batches (items_per_batch) or a higher max_attempts.",
    "missing": "The provider gave no row for them. Look at the batch in the provider's console "
    "before you send them again: they may have been paid.",
    "batch_failed": "Their batch was refused for other jobs. " + _AGAIN,
    "batch_refused": "Read what the provider said of the whole batch, and change the jobs.",
    "token_limit_exceeded": "The account's limit of enqueued tokens is reached: wait until other "
    "batches are done, or give a smaller tokens_per_batch.",
    "answer_lost": "They were or may have been answered and paid. Where their reply file is gone, "
    "bring it back from a backup of raw_files/responses; a realtime reply that never came cannot "
    "be had. Sent under another id they are paid again.",
    # The request
    "invalid_request": "Read what the provider said of the request, and change the job.",
    "invalid_request_error": "Read what the provider said of the request, and change the job.",
    "not_found_error": "The model id is unknown to this account; check its spelling and access.",
    "model_not_found": "The model id is unknown to this account; check its spelling and access.",
    "permission_error": "The key has no access to this model; use another key or model.",
    # The answer
    "truncated": "Give the jobs more max_tokens, or let the run do it with max_reasks.",
    "empty_answer": "Give the jobs more max_tokens or another prompt, or use max_reasks.",
    "invalid_json": "Make the response model simpler, use another model, or use max_reasks.",
    "invalid_output": "Make the response model more lenient, say in the prompt what its fields "
    "hold, or use max_reasks.",
    "refusal": "The model declined to answer. Change the prompt or the model; it is not sent "
    "again.",
    "unreadable_reply": "The reply is kept in raw_files/responses. Report its form; a newer "
    "version of this package can read it without paying again.",
}

_PROVIDER = (
    "The provider failed every attempt. Run again later with a higher max_attempts: only these "
    "are sent."
)


def what_to_do(code: str) -> str:
    """The next step for jobs that failed with a code."""
    if code not in ADVICE and code in RETRY_CODES:
        return _PROVIDER
    return ADVICE.get(code, "Read what the provider said of one of them, and change the jobs.")
