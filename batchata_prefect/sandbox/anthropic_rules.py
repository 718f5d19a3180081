"""Which Messages bodies are refused: the parameters around the messages.

Sources: anthropic/types/message_create_params.py (2.12.0), platform.claude.com api/errors,
migration-2026-10-21 and batch-processing, and the provider notes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import orjson

from .anthropic_content import (
    CURRENT_VERSION,
    ContentReader,
    FileReader,
    check_cache_control,
    check_integer,
)
from .anthropic_models import REGIONS_SINCE, ClaudeModel, claude_model
from .schemas import check_anthropic_schema
from .wire import BadRequestError, Json, is_array, is_integer, is_number, is_object

_KEYS = frozenset(
    {
        "max_tokens",
        "messages",
        "model",
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "metadata",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")
_LONG_OUTPUT_BETA = "output-300k-2026-03-24"
_LONG_OUTPUT = 300_000
_MAX_CACHE_POINTS = 4

_schemas_checked: OrderedDict[bytes, BadRequestError | None] = OrderedDict()


def read_params(
    params: Json, *, version: str, betas: str, batch: bool, files: FileReader
) -> tuple[ClaudeModel, ContentReader]:
    """Check a Messages body as the API does and read what it says.

    Args:
        params: the body.
        version: the `anthropic-version` of the call.
        betas: the `anthropic-beta` header of the call.
        batch: whether it is a row of a batch.
        files: gives uploaded files.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    if not params.keys() <= _KEYS:
        _check_other_keys(params, version)
    for key in ("model", "max_tokens", "messages"):
        if key not in params:
            raise BadRequestError(f"{key}: Field required")
    if batch and len(params) > 3:
        _check_batch(params)
    model = _model(params["model"])
    max_tokens = check_integer(params, "max_tokens", 1)
    most = model.max_tokens
    if batch and _LONG_OUTPUT_BETA in betas and most == 128_000:
        most = _LONG_OUTPUT
    if max_tokens > most:
        raise BadRequestError(
            f"max_tokens: {max_tokens} > {most}, which is the maximum allowed number of output"
            f" tokens for {model.id}"
        )
    reader = ContentReader(model, version, files)
    if len(params) > 3:
        _check_sampling(params, model)
        _check_plain(params, model)
        _check_thinking(params, model, max_tokens)
        _check_tools(params, model)
        _check_output_config(params, model)
        if "system" in params:
            reader.read_system(params["system"])
    reader.read_messages(params["messages"])
    if len(params) > 3 or reader.cache_controls:
        _check_together(params, reader)
    if reader.prompt.tokens > model.max_input_tokens:
        raise BadRequestError(
            f"prompt is too long: {reader.prompt.tokens} tokens > {model.max_input_tokens} maximum"
        )
    return model, reader


def _check_other_keys(params: Json, version: str) -> None:
    for key in params:
        if key in _KEYS or (key in _SAMPLING and version != CURRENT_VERSION):
            continue
        raise BadRequestError(f"{key}: Extra inputs are not permitted")


def _check_batch(params: Json) -> None:
    if params.get("stream") is True:
        raise BadRequestError('"stream=True" is not supported in the Message Batches API')
    if params.get("speed") is not None:
        raise BadRequestError('"speed" is not supported in the Message Batches API')


def _model(model_id: Any) -> ClaudeModel:
    if not isinstance(model_id, str):
        raise BadRequestError("model: Input should be a valid string")
    model = claude_model(model_id)
    if model is None:
        raise BadRequestError(f"model: {model_id}", error_type="not_found_error", status=404)
    return model


def _check_sampling(params: Json, model: ClaudeModel) -> None:
    # Only a call with the version of 2023 comes here with any of these; see `_check_other_keys`.
    for key in ("temperature", "top_p"):
        value = params.get(key)
        if value is None:
            continue
        if not is_number(value) or not 0 <= value <= 1:
            raise BadRequestError(f"{key}: Input should be a number from 0 to 1")
        if model.version >= (4, 7) and value != 1:
            raise BadRequestError(f"{key}: Extra inputs are not permitted")
    if model.version >= (4, 7) and params.get("top_k") is not None:
        raise BadRequestError("top_k: Extra inputs are not permitted")
    if params.get("temperature") is not None and params.get("top_p") is not None:
        raise BadRequestError(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only"
            " one."
        )


def _check_region(region: Any, model: ClaudeModel) -> None:
    if region is None:
        return
    if model.version < REGIONS_SINCE:
        raise BadRequestError("inference_geo: not supported on this model")
    if region not in ("us", "global"):
        raise BadRequestError("inference_geo: Input should be 'global' or 'us'")


def _check_plain(params: Json, model: ClaudeModel) -> None:
    metadata = params.get("metadata")
    if metadata is not None:
        if not is_object(metadata):
            raise BadRequestError("metadata: Input should be a valid dictionary")
        for key, value in metadata.items():
            if key != "user_id":
                raise BadRequestError(f"metadata.{key}: Extra inputs are not permitted")
            if value is not None and not isinstance(value, str):
                raise BadRequestError("metadata.user_id: Input should be a valid string")
    _check_region(params.get("inference_geo"), model)
    if params.get("service_tier") not in (None, "auto", "standard_only"):
        raise BadRequestError("service_tier: Input should be 'auto' or 'standard_only'")
    stops = params.get("stop_sequences")
    if stops is not None:
        if not is_array(stops):
            raise BadRequestError("stop_sequences: Input should be a valid list")
        for number, stop in enumerate(stops):
            if not isinstance(stop, str):
                raise BadRequestError(f"stop_sequences.{number}: Input should be a valid string")
            if not stop.strip():
                raise BadRequestError(
                    f"stop_sequences.{number}: each stop sequence must contain non-whitespace"
                )
    if "cache_control" in params and params["cache_control"] is not None:
        check_cache_control(params["cache_control"], "cache_control")


def _check_thinking(params: Json, model: ClaudeModel, max_tokens: int) -> None:
    thinking = params.get("thinking")
    if thinking is None:
        return
    if not is_object(thinking):
        raise BadRequestError("thinking: Input should be a valid dictionary")
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise BadRequestError(
            f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected"
            " tags: 'adaptive', 'between_tools', 'disabled', 'enabled'"
        )
    allowed = {"enabled": {"type", "budget_tokens", "display"}, "adaptive": {"type", "display"}}
    for key in thinking:
        if key not in allowed.get(kind, {"type"}):
            raise BadRequestError(f"thinking.{kind}.{key}: Extra inputs are not permitted")
    if kind == "enabled":
        if not model.takes_enabled_thinking:
            raise BadRequestError(
                '"thinking.type.enabled" is not supported for this model. Use'
                ' "thinking.type.adaptive" and "output_config.effort" to control thinking'
                " behavior."
            )
        budget = thinking.get("budget_tokens")
        if not is_integer(budget):
            raise BadRequestError("thinking.enabled.budget_tokens: Field required")
        if budget < 1024:
            raise BadRequestError(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if budget >= max_tokens:
            raise BadRequestError(
                "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our"
                " documentation at"
                " https://docs.claude.com/en/docs/build-with-claude/extended-thinking"
            )
    elif kind == "adaptive" and not model.takes_adaptive_thinking:
        raise BadRequestError("adaptive thinking is not supported on this model")
    elif kind in ("disabled", "between_tools") and model.always_thinks:
        raise BadRequestError(f'"thinking.type.{kind}" is not supported for this model.')


def _check_tools(params: Json, model: ClaudeModel) -> None:
    tools = params.get("tools")
    names: list[str] = []
    if tools is not None:
        if not is_array(tools):
            raise BadRequestError("tools: Input should be a valid list")
        for number, tool in enumerate(tools):
            if not is_object(tool):
                raise BadRequestError(f"tools.{number}: Input should be a valid dictionary")
            custom = tool.get("type", "custom") == "custom"
            name = tool.get("name")
            if not isinstance(name, str) or not _TOOL_NAME.match(name):
                raise BadRequestError(
                    f"tools.{number}.custom.name: String should match pattern"
                    " '^[a-zA-Z0-9_-]{1,128}$'"
                )
            if custom and not is_object(tool.get("input_schema")):
                raise BadRequestError(f"tools.{number}.custom.input_schema: Field required")
            if name in names:
                raise BadRequestError("tools: Tool names must be unique.")
            names.append(name)
    choice = params.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type") if is_object(choice) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise BadRequestError(
            f"tool_choice: Input tag '{kind}' found using 'type' does not match any of the"
            " expected tags: 'any', 'auto', 'none', 'tool'"
        )
    if not names:
        raise BadRequestError("tool_choice may only be specified while providing tools")
    if kind in ("any", "tool"):
        if not model.takes_forced_tool:
            raise BadRequestError(
                f"tool_choice: type '{kind}' is not supported on this model. Use 'auto' or"
                " 'none', or output_config.format for structured output."
            )
        thinking = params.get("thinking")
        if is_object(thinking) and thinking.get("type") in ("enabled", "adaptive"):
            raise BadRequestError("Thinking may not be enabled when tool_choice forces tool use.")
    if kind == "tool" and choice.get("name") not in names:
        raise BadRequestError(f"Tool '{choice.get('name')}' not found in provided tools")


def _check_output_config(params: Json, model: ClaudeModel) -> None:
    config = params.get("output_config")
    if config is None:
        return
    if not is_object(config):
        raise BadRequestError("output_config: Input should be a valid dictionary")
    for key in config:
        if key not in ("effort", "format"):
            raise BadRequestError(f"output_config.{key}: Extra inputs are not permitted")
    effort = config.get("effort")
    if effort is not None:
        if effort not in ("low", "medium", "high", "xhigh", "max"):
            raise BadRequestError(
                "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"
            )
        if not model.efforts:
            raise BadRequestError("This model does not support the effort parameter.")
        if effort not in model.efforts:
            levels = ", ".join(sorted(model.efforts))
            raise BadRequestError(
                f"This model does not support effort level '{effort}'. Supported levels: {levels}."
            )
    form = config.get("format")
    if form is None:
        return
    if not is_object(form) or form.get("type") != "json_schema":
        raise BadRequestError("output_config.format.type: Input should be 'json_schema'")
    for key in form:
        if key not in ("type", "schema"):
            raise BadRequestError(f"output_config.format.{key}: Extra inputs are not permitted")
    if "schema" not in form:
        raise BadRequestError("output_config.format.schema: Field required")
    _check_schema(form["schema"])


def _check_schema(schema: Any) -> None:
    # A batch repeats one schema in every row; walking it each time would be most of the work.
    key = orjson.dumps(schema)
    if key not in _schemas_checked:
        try:
            check_anthropic_schema(schema)
            _schemas_checked[key] = None
        except BadRequestError as problem:
            _schemas_checked[key] = problem
        while len(_schemas_checked) > 1000:
            _schemas_checked.popitem(last=False)
    problem = _schemas_checked[key]
    if problem is not None:
        raise BadRequestError(problem.message)


def _check_together(params: Json, reader: ContentReader) -> None:
    config = params.get("output_config")
    if reader.cited_sources and is_object(config) and config.get("format") is not None:
        raise BadRequestError(
            "output_config.format: structured outputs cannot be used together with citations"
        )
    points = reader.cache_controls
    if is_object(params.get("cache_control")):
        points = [*points, params["cache_control"]]
    if len(points) > _MAX_CACHE_POINTS:
        raise BadRequestError(
            f"A maximum of {_MAX_CACHE_POINTS} blocks with cache_control may be provided. Found"
            f" {len(points)}."
        )
    ttls = [point.get("ttl", "5m") for point in points]
    if "1h" in ttls and "5m" in ttls[: len(ttls) - ttls[::-1].index("1h")]:
        raise BadRequestError(
            "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
        )
