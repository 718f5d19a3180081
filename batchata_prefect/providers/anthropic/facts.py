"""What Anthropic's Messages take and refuse, as far as it is documented.

Sources: anthropic/types/message_create_params.py (2.12.0); platform.claude.com: vision,
structured-outputs, extended-thinking.
"""

from __future__ import annotations

from batchata_prefect.content.schema.dialects import COMMON_FORMATS, Dialect
from batchata_prefect.providers.refusals import Images

OWN = "claude"
"""What the names of its models begin with; what other servers take is not for us to say."""

OTHERS = {
    "extra_headers": "headers belong to the client and not to a job: "
    "set ANTHROPIC_CUSTOM_HEADERS, or leave it out",
    "betas": "what is in beta is asked for by the client's headers and not by a job: "
    "set ANTHROPIC_CUSTOM_HEADERS='anthropic-beta: ...', or leave it out",
    "stop": "give stop_sequences",
    "seed": "Claude has no seed",
    "frequency_penalty": "Claude has no penalties",
    "presence_penalty": "Claude has no penalties",
    "logit_bias": "Claude has none",
    "logprobs": "Claude gives none",
    "top_logprobs": "Claude gives none",
    "response_format": "give response_model",
    "reasoning_effort": "give output_config={'effort': ...}",
    "reasoning": "give output_config={'effort': ...}",
    "verbosity": "say in the prompt how long the answer shall be",
    "max_completion_tokens": "give max_tokens",
    "max_output_tokens": "give max_tokens",
    "functions": "give tools",
    "function_call": "give tool_choice",
    "parallel_tool_calls": "give tool_choice={'disable_parallel_tool_use': ...}",
    "instructions": "give system",
    "input": "give messages",
    "modalities": "Claude answers in text",
}
"""Parameters of other endpoints and of the SDK, and what is given here in their place."""

LEAST_THINKING = 1_024

IMAGES = Images(side=8_000, many=20, side_of_many=2_000, letters=5_242_880)
"""[vision]; that the 5 MB are of the base64 is in the API's own refusals."""

DIALECT = Dialect(
    name="Anthropic",
    formats=COMMON_FORMATS | {"uri"},
    keywords=frozenset(),
    all_required=False,
    recursion=False,
    patterns=False,
    max_optional=24,
    max_unions=16,
)
"""Anthropic "Structured outputs", JSON schema limitations and explicit limits, of 2026-09."""
