"""A row of OpenAI's output and error files, and of the servers that write such files.

Sources: developers.openai.com, guides/batch; ogx providers/inline/batches (1.5.0); aibrix
batch/job_entity (0.8.0); vllm entrypoints/openai/run_batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchata_prefect.answers import Outcome, Reply
from batchata_prefect.providers.openai.replies import answer
from batchata_prefect.providers.row_errors import error_in
from batchata_prefect.providers.rows import (
    list_at,
    opened,
    opened_object,
    unreadable,
    whole_number,
)

_UNRUN: Mapping[str, Outcome] = {
    "batch_expired": "expired",
    "batch_cancelled": "canceled",
    "batch_canceled": "canceled",
}


def read_row(custom_id: str, row: Mapping[str, Any]) -> Reply:
    """The reply in a row.

    An answer that is there is read, whatever the fields around it say: it was paid for.
    """
    response = opened_object(row.get("response"))
    body: Any = opened(response.get("body"))
    inside = opened_object(body)
    if _is_answer(inside):
        return answer(custom_id, inside)
    for other in (response, opened_object(row.get("body"))):
        if _is_answer(other):
            return answer(custom_id, other)
    status = whole_number(response.get("status_code"))
    is_good = status is not None and 200 <= status < 300
    error = error_in(
        opened(row.get("error")),
        opened(inside.get("error")),
        # Some send the error in place of the body, or the page of a proxy.
        *(() if is_good and inside.get("object") != "error" else (body,)),
        status=status,
    )
    if error is not None:
        unrun = _UNRUN.get(error.code or "")
        if unrun is not None:
            return Reply(custom_id, unrun, error_code=unrun, error=error.text)
        return error.reply(custom_id, "unknown_result")
    if is_good:
        return answer(custom_id, inside)
    if body or (row.get("response") and not response):
        return unreadable(custom_id, "its response has no status, and no answer that we know")
    return Reply(custom_id, "errored", error_code="unknown_result", error="the row says nothing")


def _is_answer(body: Mapping[str, Any]) -> bool:
    """Whether a body holds an answer, or is one that failed and may have been billed."""
    if body.get("object") == "response":
        return True
    return any(list_at(body, name) for name in ("choices", "output", "data"))
