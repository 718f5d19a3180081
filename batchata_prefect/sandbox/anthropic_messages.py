"""Anthropic's direct calls: Messages, token counting and models.

Sources: anthropic/resources/messages and models.py (2.12.0), platform.claude.com.
"""

from __future__ import annotations

import asyncio
import time
import uuid

from .anthropic_answers import CacheMemory, make_message
from .anthropic_models import LISTED, claude_model, model_info
from .anthropic_rows import ENDPOINT, MAX_REQUEST_BYTES, make_bill, too_large
from .anthropic_rules import read_params
from .anthropic_wire import bad_request, not_found, refuse
from .content import find_marker
from .routing import Call, NotAnObjectError, Route, read_object, route
from .wire import BadRequestError, Json, Reply, body_digest

_COUNTED_MAX_TOKENS = 64_000
"""Counting takes no max_tokens; this is one that every model and thinking budget fits."""
_COUNTED_KEYS = frozenset(
    {
        "messages",
        "model",
        "cache_control",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""What counting takes (types/message_count_tokens_params.py); its schema allows nothing else."""


async def message(call: Call) -> Reply:
    """POST /v1/messages, without streaming."""
    params = await _body(call)
    if params.get("stream") is True:
        raise bad_request("stream: the sandbox does not stream")
    return await asyncio.to_thread(_answer, call, params, await call.request.body())


def _answer(call: Call, params: Json, body: bytes) -> Reply:
    try:
        if len(body) > MAX_REQUEST_BYTES:
            raise too_large()
        model, reader = read_params(
            params,
            version=call.request.headers["anthropic-version"],
            betas=call.request.headers.get("anthropic-beta", ""),
            batch=False,
            files=call.context.engine.read_file,
        )
        marker = find_marker(reader.prompt)
        if marker is not None and marker.name == "errored":
            raise refuse(500, "api_error", "Internal server error")
        answer, billing = make_message(
            params,
            model,
            reader,
            marker,
            f"msg_01{uuid.uuid4().hex[:22]}",
            tier="standard",
            cache=CacheMemory(),
        )
    except BadRequestError as problem:
        raise refuse(problem.status, problem.error_type, problem.message) from problem
    if billing is not None:
        digest = body_digest(params)
        call.context.store.bill(
            make_bill(ENDPOINT, None, None, digest, model.id, billing, time.time())
        )
    return Reply(answer)


async def count_tokens(call: Call) -> Reply:
    """POST /v1/messages/count_tokens."""
    params = await _body(call)
    for key in params:
        if key not in _COUNTED_KEYS:
            raise bad_request(f"{key}: Extra inputs are not permitted")
    try:
        _, reader = read_params(
            {**params, "max_tokens": _COUNTED_MAX_TOKENS},
            version=call.request.headers["anthropic-version"],
            betas="",
            batch=False,
            files=call.context.engine.read_file,
        )
    except BadRequestError as problem:
        raise refuse(problem.status, problem.error_type, problem.message) from problem
    return Reply({"input_tokens": max(reader.prompt.tokens, 1)})


async def models(call: Call) -> Reply:
    """GET /v1/models."""
    found = [claude_model(each) for each in LISTED]
    data = [model_info(model) for model in found if model is not None]
    return Reply(
        {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
    )


async def model(call: Call) -> Reply:
    """GET /v1/models/{id}."""
    found = claude_model(call.target)
    if found is None:
        raise not_found(f"model: {call.target}")
    return Reply(model_info(found))


async def _body(call: Call) -> Json:
    try:
        return await read_object(call.request)
    except NotAnObjectError as error:
        raise bad_request(f"The request body is not valid JSON: {error}") from error


MESSAGE_ROUTES: list[Route] = [
    route("POST", "/v1/messages", "message", message),
    route("POST", "/v1/messages/count_tokens", "count_tokens", count_tokens),
    route("GET", "/v1/models", "models", models),
    route("GET", "/v1/models/{id}", "models", model),
]
