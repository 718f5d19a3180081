"""Which Messages bodies are refused: tables of what they hold, and what their models do not take.

Sources: anthropic/types/message_create_params.py and *_param.py (2.12.0), platform.claude.com
api/errors, migration-2026-10-21 and batch-processing, and the provider notes. Texts that no
capture shows follow the pattern of those that one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .anthropic_content import (
    CURRENT_VERSION,
    EFFORTS,
    HANDED_BACK,
    REGIONS_SINCE,
    ClaudeModel,
    claude_model,
    read_content,
)
from .content import FileReader, Prompt
from .schemas import anthropic_schema_problem
from .shapes import (
    ANYTHING,
    NAMED,
    SOMETHING,
    STRING,
    MisfitError,
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
from .wire import Json, RefusedError, object_at

_LONG_OUTPUT_BETA = "output-300k-2026-03-24"
_LONG_OUTPUT = 300_000
_MAX_CACHE_POINTS = 4

_SAID = needed(matching(r"\S", "messages: text content blocks must be non-empty"))
_CACHE = closed(type=one_of("ephemeral", required=True), ttl=one_of("5m", "1h"))
_CITATIONS = loose(enabled=Shape("boolean"))
_URL = loose(url=needed(matching("^https://", "{path}: Only HTTPS URLs are supported.")))
_FILE = loose(file_id=NAMED)
_PDF = loose(media_type=one_of("application/pdf", required=True), data=SOMETHING)
_PLAIN = loose(
    media_type=one_of("text/plain", required=True),
    data=needed(matching("(?s).", "{path}: document must not be empty")),
)
_PICTURE = loose(
    media_type=one_of("image/jpeg", "image/png", "image/gif", "image/webp", required=True),
    data=SOMETHING,
)
_IMAGE = tagged({"base64": _PICTURE, "file": _FILE, "url": _URL}, required=True)
_PARTS = list_of(
    tagged({"text": loose(text=NAMED), "image": loose(source=_IMAGE)}),
    "string or list",
    least=1,
    required=True,
)
_DOCUMENT = tagged(
    {"base64": _PDF, "content": loose(content=_PARTS), "file": _FILE, "text": _PLAIN, "url": _URL},
    required=True,
)
_RESULT = list_of(ANYTHING, "string or list")
_FOUND = list_of(ANYTHING, "string or list", required=True)
_BLOCK = tagged(
    {
        "text": closed("type citations", text=_SAID, cache_control=_CACHE),
        "image": closed("type", source=_IMAGE, cache_control=_CACHE),
        "document": closed(
            "type",
            source=_DOCUMENT,
            title=STRING,
            context=STRING,
            citations=_CITATIONS,
            cache_control=_CACHE,
        ),
        "search_result": closed(
            "type",
            source=SOMETHING,
            title=SOMETHING,
            content=_FOUND,
            citations=_CITATIONS,
            cache_control=_CACHE,
        ),
        "thinking": closed("type thinking signature"),
        "redacted_thinking": closed("type data"),
        "tool_use": closed(
            "type caller", id=SOMETHING, name=SOMETHING, input=SOMETHING, cache_control=_CACHE
        ),
        "tool_result": closed(
            "type is_error", tool_use_id=SOMETHING, content=_RESULT, cache_control=_CACHE
        ),
    },
    others=HANDED_BACK,
)
_RESULT.items = _FOUND.items = _BLOCK
_ROLE = one_of(
    "user",
    "assistant",
    "system",
    required=True,
    says="{path}: Input should be 'user' or 'assistant'",
)
_MESSAGE = closed(role=_ROLE, content=list_of(_BLOCK, "string or list", required=True))
_MESSAGES = list_of(
    _MESSAGE, required=True, least=1, says="messages: at least one message is required"
)
_TURNS = loose(messages=_MESSAGES)
_TOOL = loose(name=needed(matching("^[a-zA-Z0-9_-]{1,128}$")), input_schema=needed(loose()))
_FORMAT = closed(type=one_of("json_schema", required=True), schema=SOMETHING)
_BODY = closed(
    "container diagnostics speed stream",
    model=NAMED,
    max_tokens=Shape(
        "integer", required=True, least=1, says="{path}: must be greater than or equal to 1"
    ),
    messages=_MESSAGES,
    cache_control=_CACHE,
    inference_geo=one_of("global", "us"),
    metadata=closed(user_id=STRING),
    output_config=closed(effort=one_of(*EFFORTS), format=_FORMAT),
    service_tier=one_of("auto", "standard_only"),
    stop_sequences=list_of(
        matching(r"\S", "{path}: each stop sequence must contain non-whitespace")
    ),
    system=list_of(
        loose(type=one_of("text", required=True), text=_SAID, cache_control=_CACHE),
        "string or list",
    ),
    thinking=tagged(
        {
            "adaptive": closed("type display"),
            "between_tools": closed("type"),
            "disabled": closed("type"),
            "enabled": closed(
                "type display", budget_tokens=Shape("integer", required=True, least=1024)
            ),
        }
    ),
    tool_choice=tagged(
        {"any": loose(), "auto": loose(), "none": loose(), "tool": loose(name=NAMED)}
    ),
    tools=list_of(tagged({"custom": _TOOL}, others=None, default="custom")),
)
_OLD_BODY = replace(
    _BODY,
    fields={
        **_BODY.fields,
        "temperature": Shape("number", least=0, most=1),
        "top_p": Shape("number", least=0, most=1),
        "top_k": Shape("integer"),
    },
)
"""What a call with the version of 2023 may hold."""

_right = Remembered()

KEYS = _BODY.names
"""Parameters of a Messages call."""


_KINDS = {"object": "dictionary", "tagged": "dictionary"}


def claude_refusal(misfit: MisfitError, *path: str | int) -> RefusedError:
    """What does not fit, in the words of the Messages API; `path` leads to what was checked."""
    where = ".".join(str(step) for step in (*path, *misfit.path))
    shape, value = misfit.shape, misfit.value
    if shape.says is not None and misfit.kind not in ("type", "missing", "extra"):
        return RefusedError(shape.says.format(path=where))
    kind = _KINDS.get(shape.kind, shape.kind)
    if kind == "dictionary" and where[-1:].isdigit():
        kind += " or object"
    pattern = shape.pattern.pattern if shape.pattern is not None else ""
    *most, last = (f"'{choice}'" for choice in shape.choices or ("",))
    tags = ", ".join(f"'{tag}'" for tag in sorted({*shape.shapes, *(shape.others or ())}))
    problems = {
        "missing": "Field required",
        "extra": "Extra inputs are not permitted",
        "type": f"Input should be a valid {kind}",
        "choice": f"Input should be {', '.join(most)}{' or ' if most else ''}{last}",
        "tag": f"Input tag '{value}' found using 'type' does not match any of the expected tags:"
        f" {tags}",
        "below": f"Input should be greater than or equal to {shape.least}",
        "above": f"Input should be less than or equal to {shape.most}",
        "long": f"String should have at most {shape.most} characters",
        "short": "List should have at least 1 item after validation, not 0",
        "pattern": f"String should match pattern '{pattern}'",
    }
    return RefusedError(f"{where}: {problems[misfit.kind]}")


def _sampling_problems(params: Json, model: ClaudeModel) -> Iterator[str]:
    for name in ("temperature", "top_p", "top_k"):
        value = params.get(name)
        if value is not None and model.version >= (4, 7) and (value != 1 or name == "top_k"):
            yield f"{name}: Extra inputs are not permitted"
    if params.get("temperature") is not None and params.get("top_p") is not None:
        yield (
            "`temperature` and `top_p` cannot both be specified for this model. Please use only"
            " one."
        )


def _region_problems(_: Json, model: ClaudeModel) -> Iterator[str]:
    if model.version < REGIONS_SINCE:
        yield "inference_geo: not supported on this model"


def _thinking_problems(params: Json, model: ClaudeModel) -> Iterator[str]:
    kind = params["thinking"]["type"]
    if kind == "enabled" and not model.takes_enabled_thinking:
        yield (
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive"'
            ' and "output_config.effort" to control thinking behavior.'
        )
    if kind == "adaptive" and not model.takes_adaptive_thinking:
        yield "adaptive thinking is not supported on this model"
    if kind in ("disabled", "between_tools") and model.always_thinks:
        yield f'"thinking.type.{kind}" is not supported for this model.'
    if params["thinking"].get("budget_tokens", 0) >= params["max_tokens"]:
        yield (
            "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our"
            " documentation at https://docs.claude.com/en/docs/build-with-claude/extended-thinking"
        )


def _tool_problems(params: Json, model: ClaudeModel) -> Iterator[str]:
    tools: list[Json] = params.get("tools") or []
    named = [tool.get("name") for tool in tools]
    if len(set(named)) < len(named):
        yield "tools: Tool names must be unique."
    choice = object_at(params, "tool_choice")
    kind = choice.get("type")
    if kind is not None and not named:
        yield "tool_choice may only be specified while providing tools"
    if kind in ("any", "tool"):
        if not model.takes_forced_tool:
            yield (
                f"tool_choice: type '{kind}' is not supported on this model. Use 'auto' or 'none',"
                " or output_config.format for structured output."
            )
        if object_at(params, "thinking").get("type") in ("enabled", "adaptive"):
            yield "Thinking may not be enabled when tool_choice forces tool use."
    if kind == "tool" and choice["name"] not in named:
        yield f"Tool '{choice['name']}' not found in provided tools"


def _output_problems(params: Json, model: ClaudeModel) -> Iterator[str]:
    effort = params["output_config"].get("effort")
    if effort is not None and not model.efforts:
        yield "This model does not support the effort parameter."
    if effort is not None and effort not in model.efforts:
        levels = ", ".join(sorted(model.efforts))
        yield f"This model does not support effort level '{effort}'. Supported levels: {levels}."
    form = object_at(params["output_config"], "format")
    if form:
        problem = anthropic_schema_problem(form["schema"])
        if problem is not None:
            yield f"output_config.format.schema: {problem}"


_PROBLEMS = {
    "temperature": _sampling_problems,
    "top_p": _sampling_problems,
    "top_k": _sampling_problems,
    "inference_geo": _region_problems,
    "thinking": _thinking_problems,
    "tools": _tool_problems,
    "tool_choice": _tool_problems,
    "output_config": _output_problems,
}
"""What a model does not take of a parameter."""


def _problems(params: Json, model: ClaudeModel, *, long: bool, batch: bool) -> Iterator[str]:
    """What is wrong beside the shape, the messages apart."""
    if batch and params.get("stream") is True:
        yield '"stream=True" is not supported in the Message Batches API'
    if batch and params.get("speed") is not None:
        yield '"speed" is not supported in the Message Batches API'
    most = _LONG_OUTPUT if batch and long and model.max_tokens == 128_000 else model.max_tokens
    if params["max_tokens"] > most:
        yield (
            f"max_tokens: {params['max_tokens']} > {most}, which is the maximum allowed number of"
            f" output tokens for {model.id}"
        )
    for name, find in _PROBLEMS.items():
        if params.get(name) is not None:
            yield from find(params, model)


def read_params(
    params: Json, *, version: str, betas: str, batch: bool, files: FileReader
) -> tuple[ClaudeModel, Prompt]:
    """Check a Messages body as the API does and read what it says.

    Args:
        params: the body.
        version: the `anthropic-version` of the call.
        betas: the `anthropic-beta` header of the call.
        batch: whether it is a row of a batch.
        files: gives uploaded files.
    """
    key = _right.key(params, "messages", version, betas, batch)
    known = _right.has(key)
    whole = _BODY if version == CURRENT_VERSION else _OLD_BODY
    fit(_TURNS if known else whole, params, claude_refusal)
    model = claude_model(params["model"])
    if model is None:
        text = f"model: {params['model']}"
        raise RefusedError(text, error_type="not_found_error", status=404)
    if not known:
        for problem in _problems(params, model, long=_LONG_OUTPUT_BETA in betas, batch=batch):
            raise RefusedError(problem)
        _right.add(key)
    prompt = read_content(params, model, version, files)
    if len(params) > 3 or prompt.cache_points:
        _check_together(params, prompt)
    if prompt.tokens > model.max_input_tokens:
        raise RefusedError(
            f"prompt is too long: {prompt.tokens} tokens > {model.max_input_tokens} maximum"
        )
    return model, prompt


def _check_together(params: Json, prompt: Prompt) -> None:
    if prompt.cited and object_at(params, "output_config").get("format") is not None:
        raise RefusedError(
            "output_config.format: structured outputs cannot be used together with citations"
        )
    points = [point.control for point in prompt.cache_points]
    if params.get("cache_control") is not None:
        points.append(params["cache_control"])
    if len(points) > _MAX_CACHE_POINTS:
        raise RefusedError(
            f"A maximum of {_MAX_CACHE_POINTS} blocks with cache_control may be provided. Found"
            f" {len(points)}."
        )
    ttls = [point.get("ttl", "5m") for point in points]
    if "1h" in ttls and "5m" in ttls[: len(ttls) - ttls[::-1].index("1h")]:
        raise RefusedError(
            "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
        )
