"""What is documented of OpenAI: what its endpoints take and refuse, and what a login is made of.

Sources: openai/types/chat and types/responses *_param.py (3.54.0); developers.openai.com:
guides/images-vision, structured-outputs.
"""

from __future__ import annotations

from batchata_prefect.content.schema.dialects import BOUNDS, COMMON_FORMATS, Dialect
from batchata_prefect.providers import LoginForm
from batchata_prefect.providers.refusals import CHAT, RESPONSES, Images

OWN = ("gpt-", "chatgpt-", "ft:", "o1", "o3", "o4")
"""What the names of its models begin with; what other servers take is not for us to say."""

LOGIN_FORM = LoginForm(
    "OpenAI",
    "A key for OpenAI's Batch API, as batchata-prefect uses it.",
    "https://developers.openai.com/api/docs/guides/batch",
    "https://avatars.githubusercontent.com/u/14957082?s=200",
    {
        "organization": "Organization that is charged, where the key is of several.",
        "project": "Project that is charged, where the key is of several.",
    },
    instead={"data_residency": "base_url='https://eu.api.openai.com/v1', or another region's"},
)

OTHERS = {
    CHAT: {
        "stop_sequences": "give stop",
        "top_k": "OpenAI has no top_k",
        "thinking": "give reasoning_effort",
        "output_config": "give reasoning_effort or response_model",
        "reasoning": "give reasoning_effort",
        "text": "give response_model or verbosity",
        "instructions": "give system",
        "input": "give messages",
        "include": f"it is of {RESPONSES}",
        "truncation": f"it is of {RESPONSES}",
        "max_tool_calls": f"it is of {RESPONSES}",
        "previous_response_id": f"it is of {RESPONSES}",
        "conversation": f"it is of {RESPONSES}",
        "background": f"it is of {RESPONSES}",
    },
    RESPONSES: {
        "stop_sequences": "it has no stop sequences",
        "stop": "it has no stop sequences",
        "seed": "it has no seed",
        "top_k": "OpenAI has no top_k",
        "thinking": "give reasoning={'effort': ...}",
        "output_config": "give reasoning={'effort': ...} or response_model",
        "reasoning_effort": "give reasoning={'effort': ...}",
        "verbosity": "give text={'verbosity': ...}",
        "response_format": "give response_model or text={'format': ...}",
        "frequency_penalty": "it has no penalties",
        "presence_penalty": "it has no penalties",
        "logit_bias": "it has none",
        "logprobs": "give include=['message.output_text.logprobs']",
        "functions": "give tools",
        "function_call": "give tool_choice",
        "modalities": "it has none",
        "audio": "it has none",
        "prediction": "it has none",
        "web_search_options": "give tools=[{'type': 'web_search'}]",
    },
}
"""Endpoint -> parameters of other endpoints, and what is given there in their place."""

IMAGES = Images(total_bytes=50_000_000)
"""[images-vision]; that GIFs may not be animated is looked at besides."""

MOST_IMAGES = 500

DIALECT = Dialect(
    name="OpenAI",
    formats=COMMON_FORMATS,
    keywords=BOUNDS | {"minItems", "maxItems"},
    all_required=True,
    recursion=True,
    patterns=True,
    max_depth=10,
    max_properties=5000,
    max_enum_values=1000,
)
"""OpenAI "Structured model outputs", supported schemas, of 2026-09."""
