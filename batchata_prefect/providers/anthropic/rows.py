"""A row of a Message Batch's results, and of the servers that write such rows.

Sources: anthropic/types/messages/message_batch_result.py (2.12.0); ogx providers/inline/messages
(1.5.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchata_prefect.answers import Outcome, Reply
from batchata_prefect.providers.anthropic.replies import answer
from batchata_prefect.providers.row_errors import error_in
from batchata_prefect.providers.rows import opened, opened_object, text_at

_UNRUN: Mapping[str, tuple[Outcome, str]] = {
    "canceled": ("canceled", "the request was canceled before it ran; it was not billed"),
    "cancelled": ("canceled", "the request was canceled before it ran; it was not billed"),
    "expired": (
        "expired",
        "the request did not run within the batch's 24 hours; it was not billed",
    ),
}


def read_row(custom_id: str, row: Mapping[str, Any]) -> Reply:
    """The reply in a row.

    An answer that is there is read, whatever the fields around it say: it was paid for.
    """
    result = opened_object(row.get("result"))
    kind = text_at(result, "type")
    around = opened(result.get("error"))
    places = (result.get("message"), result, row.get("message"))
    # Before any error: a word around an answer does not make it free.
    found = [each for each in map(opened_object, places) if each.get("content")]
    if found and (kind != "errored" or not around):
        return answer(custom_id, found[0])
    message = opened_object(result.get("message"))
    if kind == "succeeded":
        told = error_in(opened(message.get("error"))) if message.get("type") == "error" else None
        return answer(custom_id, message) if told is None else told.reply(custom_id, "errored")
    if kind is not None and kind in _UNRUN:
        outcome, why = _UNRUN[kind]
        return Reply(custom_id, outcome, error_code=outcome, error=why)
    # The row's error wraps the API's error body, which wraps the error itself.
    status = result.get("status_code", result.get("status"))
    error = error_in(opened(opened_object(around).get("error")), around, status=status)
    if error is not None:
        return error.reply(custom_id, kind or "unknown_result")
    return Reply(custom_id, "errored", error_code=kind or "unknown_result")
