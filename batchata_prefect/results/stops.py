"""Why a model stopped, and whether what it has said until then is its answer.

In the words of `Reply.stop_reason`. Only what a provider documents as an end is one
[anthropic/types/message.py; openai/types/chat/chat_completion.py, types/responses/response.py]: a
word that is new may stand for half an answer.
"""

from __future__ import annotations

from batchata_prefect.answers import Reply

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
