"""What the OpenAI API says of a model id, told from the id's own pattern.

Source: developers.openai.com reasoning and "using GPT-6" guides, third-party probes; see the notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_EXISTS = re.compile(r"^(gpt-|o\d|text-embedding-|ft:gpt|chatgpt-)")
_VERSION = re.compile(r"^(?:ft:)?gpt-(\d+)(?:\.(\d+))?")
_LATEST = re.compile(r"^gpt-6\.(1-sol|[2-9])")
MAX_OUTPUT_TOKENS = 128_000


@dataclass(frozen=True, slots=True)
class OpenAIModel:
    """Traits of a model that decide what its requests may hold."""

    id: str
    reasons: bool
    embeds: bool
    takes_no_effort: bool
    """Whether effort may be `none`, with which sampling parameters are taken again."""
    takes_chat_tools: bool
    max_input_tokens: int


@lru_cache(maxsize=4096)
def openai_model(model_id: str) -> OpenAIModel | None:
    """The traits of a model, or None where the sandbox says that it does not exist."""
    if not _EXISTS.match(model_id) or "does-not-exist" in model_id:
        return None
    match = _VERSION.match(model_id)
    major, minor = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    version = (major, minor)
    is_o = re.match(r"^o\d", model_id) is not None
    latest = _LATEST.match(model_id) is not None
    return OpenAIModel(
        id=model_id,
        reasons=is_o or (version >= (5, 0) and "-chat" not in model_id),
        embeds=model_id.startswith("text-embedding-"),
        takes_no_effort=version >= (5, 1) and not latest,
        takes_chat_tools=not latest,
        max_input_tokens=_window(model_id, version),
    )


def _window(model_id: str, version: tuple[int, int]) -> int:
    if "gpt-4.1" in model_id or version >= (5, 4):
        return 1_000_000
    return 272_000 if version >= (5, 0) else 128_000
