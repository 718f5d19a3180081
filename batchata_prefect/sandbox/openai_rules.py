"""Which bodies OpenAI refuses: the parameters around the messages.

Sources: openai/types/*_create_params.py (3.54.0), recorded error bodies, the provider notes.
"""

from __future__ import annotations

from typing import Any

from .content import Prompt, text_tokens
from .openai_content import FileReader, read_chat, read_input
from .openai_formats import bad_value, check_response_format, check_text, schema_problem
from .openai_models import MAX_OUTPUT_TOKENS, OpenAIModel, openai_model
from .wire import BadRequestError, Json, is_array, is_integer, is_number, is_object

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"

_CHAT_KEYS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
_RESPONSES_KEYS = frozenset(
    {
        "access_programs",
        "background",
        "background_options",
        "context_management",
        "conversation",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
_EMBEDDINGS_KEYS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_LEAST_OUTPUT_TOKENS = 16
_MOST_INPUT_TOKENS = 8192


def read_body(endpoint: str, body: Json, files: FileReader) -> tuple[OpenAIModel, Prompt]:
    """Check a body as the API does and read what it says.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    if endpoint == EMBEDDINGS:
        return read_embeddings_body(body)
    if endpoint in (CHAT, RESPONSES):
        read = read_chat_body if endpoint == CHAT else read_responses_body
        model, prompt = read(body, files)
        if prompt.tokens > model.max_input_tokens:
            raise BadRequestError(
                "Your input exceeds the context window of this model. Please adjust your input"
                " and try again.",
                param="messages" if endpoint == CHAT else "input",
                code="context_length_exceeded",
            )
        return model, prompt
    raise BadRequestError(f"The sandbox does not serve {endpoint}.", code="unsupported_endpoint")


def read_chat_body(body: Json, files: FileReader) -> tuple[OpenAIModel, Prompt]:
    """`read_body` for chat completions."""
    if not body.keys() <= _CHAT_KEYS:
        unknown = next(key for key in body if key not in _CHAT_KEYS)
        raise BadRequestError(f"Unrecognized request argument supplied: {unknown}")
    model = _model(body)
    if len(body) > 2:
        _chat_limits(body, model)
        _sampling(body, model, body.get("reasoning_effort"), chat=True)
        _effort(body.get("reasoning_effort"), model, "reasoning_effort")
        if body.get("tools") and not model.takes_chat_tools:
            raise BadRequestError(
                "Function tools are not supported with this model in /v1/chat/completions. Please"
                " use /v1/responses instead.",
                param="tools",
                code="unsupported_parameter",
            )
        _tools(body, nested=True)
        if body.get("response_format") is not None:
            check_response_format(body["response_format"])
        _metadata(body)
    return model, read_chat(body, files)


def read_responses_body(body: Json, files: FileReader) -> tuple[OpenAIModel, Prompt]:
    """`read_body` for responses."""
    if not body.keys() <= _RESPONSES_KEYS:
        unknown = next(key for key in body if key not in _RESPONSES_KEYS)
        raise BadRequestError(
            f"Unknown parameter: '{unknown}'.", param=unknown, code="unknown_parameter"
        )
    model = _model(body, responses=True)
    if len(body) > 2:
        reasoning = body.get("reasoning")
        if reasoning is not None and not is_object(reasoning):
            raise BadRequestError(
                "Invalid type for 'reasoning': expected an object.",
                param="reasoning",
                code="invalid_type",
            )
        effort = reasoning.get("effort") if is_object(reasoning) else None
        if is_object(reasoning) and not model.reasons:
            raise BadRequestError(
                "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
                param="reasoning.effort",
                code="unsupported_parameter",
            )
        _integer(body, "max_output_tokens", _LEAST_OUTPUT_TOKENS, MAX_OUTPUT_TOKENS)
        _sampling(body, model, effort, chat=False)
        _effort(effort, model, "reasoning.effort")
        _tools(body, nested=False)
        check_text(body.get("text"))
        _metadata(body)
    return model, read_input(body, files)


def read_embeddings_body(body: Json) -> tuple[OpenAIModel, Prompt]:
    """`read_body` for embeddings; each input becomes one text of the prompt."""
    if not body.keys() <= _EMBEDDINGS_KEYS:
        unknown = next(key for key in body if key not in _EMBEDDINGS_KEYS)
        raise BadRequestError(f"Unrecognized request argument supplied: {unknown}")
    model = _model(body)
    if not model.embeds:
        raise BadRequestError(
            "You are not allowed to generate embeddings from this model", status=403
        )
    given = body.get("input")
    texts: list[Any] = given if is_array(given) and not _is_tokens(given) else [given]
    if not texts or len(texts) > 2048:
        raise BadRequestError("'$.input' is invalid. Please check the API reference.")
    prompt = Prompt()
    for text in texts:
        if isinstance(text, str) and text:
            prompt.add_text(text)
        elif is_array(text) and text and _is_tokens(text):
            prompt.texts.append(str(text))
            prompt.tokens += len(text)
        else:
            raise BadRequestError("'$.input' is invalid. Please check the API reference.")
        if isinstance(text, str) and text_tokens(text) > _MOST_INPUT_TOKENS:
            raise BadRequestError(
                f"This model's maximum context length is {_MOST_INPUT_TOKENS} tokens, however you"
                f" requested {text_tokens(text)} tokens. Please reduce your prompt."
            )
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise bad_value("encoding_format", body["encoding_format"], ("float", "base64"))
    _integer(body, "dimensions", 1, 3072)
    return model, prompt


def _is_tokens(value: list[Any]) -> bool:
    return bool(value) and all(is_integer(each) for each in value)


def _model(body: Json, *, responses: bool = False) -> OpenAIModel:
    model_id = body.get("model")
    if model_id is None:
        if responses:
            raise BadRequestError(
                "Missing required parameter: 'model'.",
                param="model",
                code="missing_required_parameter",
            )
        raise BadRequestError("you must provide a model parameter")
    model = openai_model(model_id) if isinstance(model_id, str) else None
    if model is None:
        text = (
            f"The requested model '{model_id}' does not exist."
            if responses
            else f"The model `{model_id}` does not exist or you do not have access to it."
        )
        raise BadRequestError(
            text,
            param="model" if responses else None,
            code="model_not_found",
            status=400 if responses else 404,
        )
    return model


def _chat_limits(body: Json, model: OpenAIModel) -> None:
    if body.get("max_tokens") is not None and model.reasons:
        raise BadRequestError(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
            " 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    for key in ("max_tokens", "max_completion_tokens"):
        value = body.get(key)
        if is_integer(value) and value > MAX_OUTPUT_TOKENS:
            raise BadRequestError(
                f"max_tokens is too large: {value}. This model supports at most"
                f" {MAX_OUTPUT_TOKENS} completion tokens, whereas you provided {value}.",
                param=key,
                code="invalid_value",
            )
        _integer(body, key, 1, MAX_OUTPUT_TOKENS)
    if body.get("reasoning_effort") is not None and not model.reasons:
        raise BadRequestError(
            "Unrecognized request argument supplied: reasoning_effort", param="reasoning_effort"
        )
    _integer(body, "n", 1, 128)


def _integer(body: Json, key: str, least: int, most: int) -> None:
    value = body.get(key)
    if value is None:
        return
    if not is_integer(value):
        raise BadRequestError(
            f"Invalid type for '{key}': expected an integer.", param=key, code="invalid_type"
        )
    if value < least:
        raise BadRequestError(
            f"Invalid '{key}': integer below minimum value. Expected a value >= {least}, but got"
            f" {value} instead.",
            param=key,
            code="integer_below_min_value",
        )
    if value > most:
        raise BadRequestError(
            f"Invalid '{key}': integer above maximum value. Expected a value <= {most}, but got"
            f" {value} instead.",
            param=key,
            code="integer_above_max_value",
        )


_SAMPLING = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)


def _sampling(body: Json, model: OpenAIModel, effort: Any, *, chat: bool) -> None:
    free = not model.reasons or (effort == "none" and model.takes_no_effort)
    for key, least, most in _SAMPLING:
        value = body.get(key)
        if value is None:
            continue
        if not is_number(value):
            raise BadRequestError(
                f"Invalid type for '{key}': expected a decimal.", param=key, code="invalid_type"
            )
        default = 1 if key in ("temperature", "top_p") else 0
        if not free and not (chat and value == default):
            if not chat:
                raise BadRequestError(
                    f"Unsupported parameter: '{key}' is not supported with this model.", param=key
                )
            raise BadRequestError(
                f"Unsupported value: '{key}' does not support {value} with this model. Only the"
                f" default ({default}) value is supported.",
                param=key,
                code="unsupported_value",
            )
        for bad, word, bound, sign in (
            (value < least, "below minimum", least, ">="),
            (value > most, "above maximum", most, "<="),
        ):
            if bad:
                code = "decimal_below_min_value" if sign == ">=" else "decimal_above_max_value"
                raise BadRequestError(
                    f"Invalid '{key}': decimal {word} value. Expected a value {sign} {bound}, but"
                    f" got {value} instead.",
                    param=key,
                    code=code,
                )


def _effort(effort: Any, model: OpenAIModel, param: str) -> None:
    if effort is None:
        return
    if effort not in _EFFORTS:
        raise bad_value(param, effort, _EFFORTS)
    if effort in ("none", "minimal") and not model.takes_no_effort:
        others = ", ".join(f"'{each}'" for each in _EFFORTS if each not in ("none", "minimal"))
        raise BadRequestError(
            f"Unsupported value: '{effort}' is not supported with the '{model.id}' model. Supported"
            f" values are: {others}.",
            param=param,
            code="unsupported_value",
        )


def _tools(body: Json, *, nested: bool) -> None:
    tools = body.get("tools")
    if tools is None:
        if body.get("tool_choice") not in (None, "none", "auto"):
            raise BadRequestError(
                "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are"
                " specified.",
                param="tool_choice",
            )
        return
    for number, tool in enumerate(tools if is_array(tools) else []):
        if not is_object(tool) or tool.get("type") != "function":
            continue
        function = tool.get("function") if nested else tool
        where = f"tools[{number}].function" if nested else f"tools[{number}]"
        if not is_object(function) or not isinstance(function.get("name"), str):
            raise BadRequestError(
                f"Missing required parameter: '{where}.name'.",
                param=f"{where}.name",
                code="missing_required_parameter",
            )
        if function.get("strict") is True:
            problem = schema_problem(function.get("parameters"))
            if problem:
                raise BadRequestError(
                    f"Invalid schema for function '{function['name']}': {problem}",
                    param=f"{where}.parameters",
                    code="invalid_function_parameters",
                )


def check_metadata(metadata: Any) -> None:
    """Refuse metadata that is not at most 16 pairs of short texts.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    if metadata is None:
        return
    if not is_object(metadata):
        raise BadRequestError(
            "Invalid type for 'metadata': expected an object.",
            param="metadata",
            code="invalid_type",
        )
    if len(metadata) > 16:
        raise BadRequestError(
            "Invalid 'metadata': too many properties. Expected an object with at most 16"
            f" properties, but got an object with {len(metadata)} properties instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise BadRequestError(
                f"Invalid type for 'metadata.{key}': expected a string.",
                param=f"metadata.{key}",
                code="invalid_type",
            )
        for text, most, what in ((key, 64, "key"), (value, 512, "value")):
            if len(text) > most:
                raise BadRequestError(
                    f"Invalid 'metadata.{key}': string too long. Expected a {what} with maximum"
                    f" length {most}, but got a string with length {len(text)} instead.",
                    param=f"metadata.{key}",
                    code="string_above_max_length",
                )


def _metadata(body: Json) -> None:
    if "metadata" in body:
        check_metadata(body["metadata"])
