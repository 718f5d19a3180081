"""Which bodies OpenAI refuses: tables of what they hold, and what their models do not take.

Sources: openai/types/*_create_params.py (3.54.0), recorded error bodies, the provider notes; of
models, told from the patterns of their ids: developers.openai.com reasoning and "using GPT-6"
guides, third-party probes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .content import FileReader, Prompt, text_tokens
from .openai_content import gpt_refusal, missing, read_chat, read_input
from .schemas import openai_schema_problem
from .shapes import (
    NAMED,
    SOMETHING,
    STRING,
    Remembered,
    Shape,
    closed,
    fit,
    list_of,
    loose,
    matching,
    needed,
    one_of,
    tagged,
)
from .wire import Json, RefusedError, is_array, is_integer, object_at

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


CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
_MOST_INPUT_TOKENS = 8192

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_NAME = needed(
    matching(
        "^[a-zA-Z0-9_-]{1,64}$",
        "Invalid '{path}': string does not match pattern. Expected a string that matches the"
        " pattern '^[a-zA-Z0-9_-]+$'.",
        code="invalid_value",
    )
)
METADATA = loose()
_MAX_TOKENS = Shape(
    "integer",
    least=1,
    most=MAX_OUTPUT_TOKENS,
    says=f"max_tokens is too large: {{value}}. This model supports at most {MAX_OUTPUT_TOKENS}"
    " completion tokens, whereas you provided {value}.",
    code="invalid_value",
)
_SAMPLING = {
    "temperature": Shape("number", least=0, most=2),
    "top_p": Shape("number", least=0, most=1),
}
_PENALTIES = {
    "presence_penalty": Shape("number", least=-2, most=2),
    "frequency_penalty": Shape("number", least=-2, most=2),
}
_DEFAULTS = dict.fromkeys(_SAMPLING, 1) | dict.fromkeys(_PENALTIES, 0)
_FORM = loose(name=_NAME)
_CHAT_PART = tagged(
    {
        "text": loose(text=NAMED),
        "image_url": loose(image_url=needed(loose(url=NAMED))),
        "input_audio": loose(),
        "refusal": loose(),
        "file": loose(file=needed(loose())),
    }
)
_CHAT_ROLE = one_of("system", "developer", "user", "assistant", "tool", "function", required=True)
_CHAT_MESSAGE = loose(role=_CHAT_ROLE, content=list_of(_CHAT_PART, "string or list"))
_MESSAGES = list_of(_CHAT_MESSAGE, required=True, least=1)
_CHAT_BODY = closed(
    """audio function_call functions logit_bias logprobs modalities model moderation
    parallel_tool_calls prediction prompt_cache_key prompt_cache_options prompt_cache_retention
    safety_identifier seed service_tier stop store stream stream_options tool_choice
    top_logprobs user verbosity web_search_options""",
    messages=_MESSAGES,
    max_tokens=_MAX_TOKENS,
    max_completion_tokens=_MAX_TOKENS,
    n=Shape("integer", least=1, most=128),
    metadata=METADATA,
    **_SAMPLING,
    **_PENALTIES,
    reasoning_effort=one_of(*_EFFORTS),
    response_format=tagged(
        {
            "json_object": loose(),
            "json_schema": loose(json_schema=needed(_FORM)),
            "text": loose(),
        }
    ),
    tools=list_of(
        tagged({"function": loose(function=needed(loose(name=NAMED)))}, others=None, default="")
    ),
)
_CHAT_BODY.says = "Unrecognized request argument supplied: {path}"

_INPUT_PART = tagged(
    {
        "input_text": loose(text=NAMED),
        "input_image": loose(),
        "output_text": loose(text=NAMED),
        "refusal": loose(),
        "input_file": loose(),
    }
)
_INPUT_MESSAGE = loose(
    role=one_of("system", "developer", "user", "assistant", required=True),
    content=list_of(_INPUT_PART, "string or list", required=True),
)
_INPUT = list_of(
    tagged({"message": _INPUT_MESSAGE}, others=None, default="message"), "string or list"
)
_RESPONSES_BODY = closed(
    """access_programs background background_options context_management conversation image include
    max_tool_calls model moderation parallel_tool_calls previous_response_id prompt
    prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier service_tier
    store stream stream_options tool_choice top_logprobs truncation user""",
    input=_INPUT,
    instructions=STRING,
    max_output_tokens=Shape("integer", least=16, most=MAX_OUTPUT_TOKENS),
    metadata=METADATA,
    reasoning=loose(effort=one_of(*_EFFORTS)),
    **_SAMPLING,
    text=loose(
        format=tagged(
            {
                "json_object": loose(),
                "json_schema": loose(name=_NAME, schema=SOMETHING),
                "text": loose(),
            }
        )
    ),
    tools=list_of(tagged({"function": loose(name=NAMED)}, others=None, default="")),
)
_EMBEDDINGS_BODY = closed(
    "model input user",
    dimensions=Shape("integer", least=1, most=3072),
    encoding_format=one_of("float", "base64"),
)
_EMBEDDINGS_BODY.says = _CHAT_BODY.says
_BODIES = {CHAT: _CHAT_BODY, RESPONSES: _RESPONSES_BODY, EMBEDDINGS: _EMBEDDINGS_BODY}

_TURNS = {"messages": loose(messages=_MESSAGES), "input": loose(input=_INPUT)}
_right = Remembered()

KEYS = {endpoint: shape.names for endpoint, shape in _BODIES.items()}
"""Parameters of each kind of call."""

_Problem = tuple[str, str | None, str | None]
"""Text, param and code of a refusal."""


def _problems(body: Json, model: OpenAIModel, *, chat: bool) -> Iterator[_Problem]:
    """What is wrong beside the shape, the messages and schemas apart."""
    if chat:
        param, effort = "reasoning_effort", body.get("reasoning_effort")
    else:
        param, effort = "reasoning.effort", object_at(body, "reasoning").get("effort")
    unsupported = "Unsupported parameter: '{}' is not supported with this model."
    samples = not model.reasons or (effort == "none" and model.takes_no_effort)
    if chat and body.get("max_tokens") is not None and model.reasons:
        text = f"{unsupported.format('max_tokens')} Use 'max_completion_tokens' instead."
        yield text, "max_tokens", "unsupported_parameter"
    if chat and effort is not None and not model.reasons:
        yield f"Unrecognized request argument supplied: {param}", param, None
    if not chat and body.get("reasoning") is not None and not model.reasons:
        yield unsupported.format(param), param, "unsupported_parameter"
    for name, default in () if samples else _DEFAULTS.items():
        given = body.get(name)
        if given is not None and not chat:
            yield unsupported.format(name), name, None
        if given not in (None, default):
            yield (
                f"Unsupported value: '{name}' does not support {given} with this model. Only"
                f" the default ({default}) value is supported.",
                name,
                "unsupported_value",
            )
    if effort in _EFFORTS[:2] and not model.takes_no_effort:
        others = ", ".join(f"'{each}'" for each in _EFFORTS[2:])
        yield (
            f"Unsupported value: '{effort}' is not supported with the '{model.id}' model. Supported"
            f" values are: {others}.",
            param,
            "unsupported_value",
        )
    if chat and body.get("tools") and not model.takes_chat_tools:
        yield (
            "Function tools are not supported with this model in /v1/chat/completions. Please use"
            " /v1/responses instead.",
            "tools",
            "unsupported_parameter",
        )
    if body.get("tool_choice") not in (None, "none", "auto") and body.get("tools") is None:
        yield (
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are"
            " specified.",
            "tool_choice",
            None,
        )


def read_body(endpoint: str, body: Json, files: FileReader) -> tuple[OpenAIModel, Prompt]:
    """Check a body as the API does and read what it says."""
    shape = _BODIES.get(endpoint)
    if shape is None:
        text = f"The sandbox does not serve {endpoint}."
        raise RefusedError(text, code="unsupported_endpoint")
    model = _model(body, responses=endpoint == RESPONSES)
    turns = "messages" if endpoint == CHAT else "input"
    key = _right.key(body, turns, endpoint)
    known = endpoint != EMBEDDINGS and _right.has(key)
    fit(_TURNS[turns] if known else shape, body, gpt_refusal)
    if endpoint == EMBEDDINGS:
        return model, _read_embedded(body.get("input"), model)
    if not known:
        for text, param, code in _problems(body, model, chat=endpoint == CHAT):
            raise RefusedError(text, param, code)
        _check_schemas(body)
        check_metadata(body.get("metadata"))
        _right.add(key)
    prompt = read_chat(body, files) if endpoint == CHAT else read_input(body, files)
    if prompt.tokens > model.max_input_tokens:
        raise RefusedError(
            "Your input exceeds the context window of this model. Please adjust your input and try"
            " again.",
            turns,
            "context_length_exceeded",
        )
    return model, prompt


def _model(body: Json, *, responses: bool) -> OpenAIModel:
    model_id = body.get("model")
    if model_id is None:
        raise (
            missing("model") if responses else RefusedError("you must provide a model parameter")
        )
    model = openai_model(model_id) if isinstance(model_id, str) else None
    if model is None and responses:
        text = f"The requested model '{model_id}' does not exist."
        raise RefusedError(text, "model", "model_not_found")
    if model is None:
        text = f"The model `{model_id}` does not exist or you do not have access to it."
        raise RefusedError(text, None, "model_not_found", status=404)
    return model


def _check_schemas(body: Json) -> None:
    """Refuse strict schemas of another kind than the API takes."""
    given = object_at(object_at(body, "response_format"), "json_schema")
    form = object_at(object_at(body, "text"), "format")
    # The Responses API is strict unless told otherwise; Chat Completions is not.
    if given.get("strict") is True:
        _check_schema(given, "schema", "response_format", "response_format", None)
    elif form.get("type") == "json_schema" and form.get("strict") is not False:
        _check_schema(
            form, "schema", "response_format", "text.format.schema", "invalid_json_schema"
        )
    tools: Any = body.get("tools")
    for number, tool in enumerate(tools or ()):
        where = f"tools[{number}].function" if "function" in tool else f"tools[{number}]"
        function = tool.get("function", tool)
        if tool.get("type") == "function" and function.get("strict") is True:
            code = "invalid_function_parameters"
            _check_schema(function, "parameters", "function", f"{where}.parameters", code)


def _check_schema(form: Json, key: str, what: str, param: str, code: str | None) -> None:
    problem = openai_schema_problem(form.get(key))
    if problem:
        text = f"Invalid schema for {what} '{form['name']}': {problem}"
        raise RefusedError(text, param, code)


def _read_embedded(given: Any, model: OpenAIModel) -> Prompt:
    """Each input of an embeddings call as one text of a prompt."""
    if not model.embeds:
        text = "You are not allowed to generate embeddings from this model"
        raise RefusedError(text, status=403)
    texts: list[Any] = given if is_array(given) and not _is_tokens(given) else [given]
    prompt = Prompt()
    if not texts or len(texts) > 2048:
        raise RefusedError("'$.input' is invalid. Please check the API reference.")
    for text in texts:
        if isinstance(text, str) and text:
            prompt.add_text(text)
            if (tokens := text_tokens(text)) > _MOST_INPUT_TOKENS:
                raise RefusedError(
                    f"This model's maximum context length is {_MOST_INPUT_TOKENS} tokens, however"
                    f" you requested {tokens} tokens. Please reduce your prompt."
                )
        elif _is_tokens(text):
            prompt.texts.append(str(text))
            prompt.tokens += len(text)
        else:
            raise RefusedError("'$.input' is invalid. Please check the API reference.")
    return prompt


def _is_tokens(value: Any) -> bool:
    return is_array(value) and bool(value) and all(is_integer(each) for each in value)


def check_metadata(metadata: Json | None) -> None:
    """Refuse metadata that is not at most 16 pairs of short texts."""
    if metadata is not None and len(metadata) > 16:
        raise RefusedError(
            "Invalid 'metadata': too many properties. Expected an object with at most 16"
            f" properties, but got an object with {len(metadata)} properties instead.",
            "metadata",
            "object_above_max_properties",
        )
    for key, value in (metadata or {}).items():
        where = f"metadata.{key}"
        if not isinstance(value, str):
            text = f"Invalid type for '{where}': expected a string."
            raise RefusedError(text, where, "invalid_type")
        for text, most, what in ((key, 64, "key"), (value, 512, "value")):
            if len(text) > most:
                raise RefusedError(
                    f"Invalid '{where}': string too long. Expected a {what} with maximum length"
                    f" {most}, but got a string with length {len(text)} instead.",
                    where,
                    "string_above_max_length",
                )
