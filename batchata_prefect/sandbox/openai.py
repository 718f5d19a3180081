"""OpenAI's HTTP API: files, batches, chat completions, responses, embeddings and models.

Sources: openai/resources (3.54.0), recorded replies, developers.openai.com, the provider notes.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from typing import Any

from .content import find_marker
from .engine import FINALIZING_SHARE
from .openai_answers import CacheMemory, make_body
from .openai_files import FILE_ROUTES
from .openai_models import LISTED, openai_model
from .openai_rows import error_body, make_bill, ordered_error
from .openai_rules import CHAT, EMBEDDINGS, RESPONSES, check_metadata, read_body
from .openai_wire import bad_request, missing, query_integer, refuse, refused
from .routing import Call, NotAnObjectError, Route, read_object, route
from .store import Batch
from .wire import BadRequestError, Json, RefusedError, Reply, body_digest, is_object

PROVIDER = "openai"
KEY_START = "sandbox"
_ENDPOINTS = (
    RESPONSES,
    CHAT,
    EMBEDDINGS,
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)
_CREATE_KEYS = (
    "input_file_id",
    "endpoint",
    "completion_window",
    "metadata",
    "output_expires_after",
)
_COUNTED_KEYS = frozenset(
    {
        "conversation",
        "input",
        "instructions",
        "model",
        "parallel_tool_calls",
        "personality",
        "previous_response_id",
        "reasoning",
        "text",
        "tool_choice",
        "tools",
        "truncation",
    }
)
"""What counting takes (types/responses/input_token_count_params.py)."""
_TERMINAL = ("completed", "failed", "expired", "cancelled")
_VANISHED: Json = {
    "mode": "batch_failed",
    "options": {
        "code": "invalid_request",
        "param": "file_id",
        "message": "The input file does not exist.",
    },
}


def check_headers(call: Call) -> None:
    """Refuse a call without a key of the sandbox."""
    scheme, _, key = call.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise refuse(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization"
            " header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    if not hmac.compare_digest(key[: len(KEY_START)].encode(), KEY_START.encode()):
        shown = f"{key[:4]}{'*' * 8}{key[-4:]}" if len(key) > 12 else "***"
        raise refuse(
            401,
            f"Incorrect API key provided: {shown}. You can find your API key at"
            " https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )


async def create(call: Call) -> Reply:
    """POST /v1/batches: only the shape is checked; the file is checked while validating."""
    asked = await _body(call)
    for key in asked:
        if key not in _CREATE_KEYS:
            raise bad_request(f"Unknown parameter: '{key}'.", key, "unknown_parameter")
    for key in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(asked.get(key), str):
            raise missing(key)
    _one_of("endpoint", asked["endpoint"], _ENDPOINTS)
    _one_of("completion_window", asked["completion_window"], ("24h",))
    try:
        check_metadata(asked.get("metadata"))
    except BadRequestError as problem:
        raise refused(problem) from problem
    expires_after = _expires_after(asked.get("output_expires_after"))
    now = time.time()
    batch = Batch(
        id=f"batch_{uuid.uuid4().hex}",
        provider=PROVIDER,
        endpoint=asked["endpoint"],
        model=None,
        status="in_progress",
        count=0,
        created_at=now,
        due_at=now + call.context.limits.seconds,
        metadata=asked.get("metadata") if call.context.limits.keeps_metadata else None,
        input_file_id=asked["input_file_id"],
        output_expires_after=expires_after,
        fault=_planned_end(call),
    )
    await asyncio.to_thread(call.context.store.add_batch, batch)
    call.context.engine.add(batch)
    return Reply(batch_body(call, batch))


def _planned_end(call: Call) -> Json | None:
    """How a fault will have the batch end, if one does."""
    if call.bent("file_vanished"):
        return _VANISHED
    fault = call.context.faults.take_create(PROVIDER)
    return None if fault is None else {"mode": fault.mode, "options": fault.options}


def _one_of(key: str, value: str, supported: tuple[str, ...]) -> None:
    if value not in supported:
        listed = ", ".join(f"'{each}'" for each in supported)
        raise bad_request(
            f"Invalid value: '{value}'. Supported values are: {listed}.", key, "invalid_value"
        )


def _expires_after(given: Any) -> float | None:
    if given is None:
        return None
    seconds = given.get("seconds") if is_object(given) else None
    if (
        not is_object(given)
        or given.get("anchor") != "created_at"
        or not isinstance(seconds, int)
        or not 3600 <= seconds <= 2_592_000
    ):
        raise bad_request(
            "Invalid 'output_expires_after': expected {'anchor': 'created_at', 'seconds': 3600 to"
            " 2592000}.",
            "output_expires_after",
            "invalid_value",
        )
    return seconds


def batch_body(call: Call, batch: Batch) -> Json:
    """The batch as the API shows it now (types/batch.py)."""
    now = time.time()
    status = _status(batch, now)
    limits = call.context.limits
    ahead = limits.clock_seconds
    created = int(batch.created_at + ahead)
    ended = int(batch.ended_at + ahead) if batch.ended_at is not None and batch.final else None
    finalizing = batch.created_at + (batch.due_at - batch.created_at) * FINALIZING_SHARE
    ran = batch.validated_at is not None and batch.cancel_at is None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": status,
        "output_file_id": batch.output_file_id if batch.final else None,
        "error_file_id": batch.error_file_id if batch.final else None,
        "created_at": created,
        "in_progress_at": None if batch.validated_at is None else int(batch.validated_at),
        "expires_at": created + int(limits.expires_seconds),
        "finalizing_at": int(finalizing) if ran and status in ("finalizing", "completed") else None,
        "completed_at": ended if status == "completed" else None,
        "failed_at": ended if status == "failed" else None,
        "expired_at": ended if status == "expired" else None,
        "cancelling_at": None if batch.cancel_at is None else int(batch.cancel_at),
        "cancelled_at": ended if status == "cancelled" else None,
        "request_counts": _counts(call, batch, status, now),
        "usage": batch.usage or _NO_USAGE,
        "metadata": batch.metadata,
    }


_NO_USAGE: Json = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def _status(batch: Batch, now: float) -> str:
    if batch.final:
        return batch.status
    if batch.cancel_at is not None:
        return "cancelling"
    if batch.validated_at is None:
        return "validating"
    whole = batch.due_at - batch.created_at
    return "finalizing" if now >= batch.created_at + whole * FINALIZING_SHARE else "in_progress"


def _counts(call: Call, batch: Batch, status: str, now: float) -> Json:
    if batch.final:
        return batch.counts or {"total": 0, "completed": 0, "failed": 0}
    if batch.validated_at is None:
        return {"total": 0, "completed": 0, "failed": 0}
    if status == "cancelling":
        done = call.context.engine.finished_share(batch)
    else:
        share = (now - batch.validated_at) / max(batch.due_at - batch.validated_at, 0.001)
        done = int(batch.count * min(max(share / FINALIZING_SHARE, 0.0), 1.0))
    return {"total": batch.count, "completed": done, "failed": 0}


def _find(call: Call) -> Batch:
    batch = call.context.engine.batches.get(call.target)
    if batch is None or batch.provider != PROVIDER:
        raise refuse(404, f"No batch found with id '{call.target}'.")
    return batch


async def retrieve(call: Call) -> Reply:
    """GET /v1/batches/{id}."""
    batch = _find(call)
    hidden = call.context.faults.standing(PROVIDER, "create_404")
    if hidden is not None and time.time() - batch.created_at < hidden.options.get("seconds", 1):
        raise refuse(404, f"No batch found with id '{call.target}'.")
    body = batch_body(call, batch)
    odd = call.bent("unknown_status")
    if odd is not None:
        body["status"] = odd.options.get("word", "paused")
    if batch.status in _TERMINAL and (bare := call.bent("no_output")) is not None:
        body |= {"output_file_id": None, "error_file_id": None}
        if not bare.options.get("counts", True):
            body["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
    return Reply(body)


async def list_batches(call: Call) -> Reply:
    """GET /v1/batches: newest first."""
    limit = query_integer(call, "limit", 20, 100)
    shown = [
        batch
        for batch in reversed(call.context.engine.batches.values())
        if batch.provider == PROVIDER
    ]
    lag = call.context.faults.standing(PROVIDER, "list_lag")
    if lag is not None:
        newest = time.time() - float(lag.options.get("seconds", 1))
        shown = [batch for batch in shown if batch.created_at <= newest]
    after = call.request.query_params.get("after")
    start = 0
    if after is not None:
        ids = [batch.id for batch in shown]
        if after not in ids:
            raise refuse(404, f"No batch found with id '{after}'.")
        start = ids.index(after) + 1
    page = shown[start : start + limit]
    return Reply(
        {
            "object": "list",
            "data": [batch_body(call, batch) for batch in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": start + limit < len(shown),
        }
    )


async def cancel(call: Call) -> Reply:
    """POST /v1/batches/{id}/cancel."""
    batch = _find(call)
    if batch.status in _TERMINAL:
        raise refuse(409, f"Cannot cancel a batch with status '{batch.status}'.")
    if batch.cancel_at is None:
        batch.cancel_at, batch.status = time.time(), "cancelling"
        await asyncio.to_thread(call.context.store.save_batch, batch)
        call.context.engine.wake(batch)
    return Reply(batch_body(call, batch))


async def chat(call: Call) -> Reply:
    """POST /v1/chat/completions, without streaming."""
    return await _realtime(call, CHAT)


async def responses(call: Call) -> Reply:
    """POST /v1/responses, without streaming."""
    return await _realtime(call, RESPONSES)


async def embeddings(call: Call) -> Reply:
    """POST /v1/embeddings."""
    return await _realtime(call, EMBEDDINGS)


async def _realtime(call: Call, endpoint: str) -> Reply:
    body = await _body(call)
    if body.get("stream") is True:
        raise bad_request("The sandbox does not stream.", "stream", "unsupported_value")
    return await asyncio.to_thread(_answer, call, endpoint, body)


def _answer(call: Call, endpoint: str, body: Json) -> Reply:
    now = time.time()
    try:
        model, prompt = read_body(endpoint, body, call.context.engine.read_file)
        marker = find_marker(prompt)
        if marker is not None and marker.name == "errored":
            raise ordered_error(marker)
        number = uuid.uuid4().hex
        answer, counted = make_body(
            endpoint, body, model, prompt, marker, number, now, CacheMemory(), batch=False
        )
    except BadRequestError as problem:
        raise RefusedError(problem.status, error_body(problem)) from problem
    bill = make_bill(endpoint, None, None, body_digest(body), model.id, counted, now)
    call.context.store.bill(bill)
    return Reply(answer)


async def input_tokens(call: Call) -> Reply:
    """POST /v1/responses/input_tokens."""
    body = await _body(call)
    for key in body:
        if key not in _COUNTED_KEYS:
            raise bad_request(f"Unknown parameter: '{key}'.", key, "unknown_parameter")
    body.pop("personality", None)
    try:
        _, prompt = read_body(RESPONSES, body, call.context.engine.read_file)
    except BadRequestError as problem:
        raise refused(problem) from problem
    return Reply({"object": "response.input_tokens", "input_tokens": max(prompt.tokens, 1)})


async def models(call: Call) -> Reply:
    """GET /v1/models."""
    return Reply({"object": "list", "data": [_model_body(each) for each in LISTED]})


async def model(call: Call) -> Reply:
    """GET /v1/models/{id}."""
    if openai_model(call.target) is None:
        raise refuse(
            404,
            f"The model '{call.target}' does not exist",
            param="model",
            code="model_not_found",
        )
    return Reply(_model_body(call.target))


def _model_body(model_id: str) -> Json:
    return {"id": model_id, "object": "model", "created": 1767225600, "owned_by": "system"}


async def _body(call: Call) -> Json:
    try:
        return await read_object(call.request)
    except NotAnObjectError as error:
        raise bad_request(
            f"We could not parse the JSON body of your request. ({error})", None, None
        ) from error


def unknown(call: Call) -> RefusedError:
    """The refusal of a path that does not exist."""
    path = call.request.url.path
    return refuse(404, f"Invalid URL ({call.request.method} {path})")


ROUTES: list[Route] = [
    route("POST", "/v1/batches", "create", create),
    route("GET", "/v1/batches", "list", list_batches),
    route("GET", "/v1/batches/{id}", "retrieve", retrieve),
    route("POST", "/v1/batches/{id}/cancel", "cancel", cancel),
    route("POST", CHAT, "message", chat),
    route("POST", RESPONSES, "message", responses),
    route("POST", EMBEDDINGS, "message", embeddings),
    route("POST", "/v1/responses/input_tokens", "count_tokens", input_tokens),
    route("GET", "/v1/models", "models", models),
    route("GET", "/v1/models/{id}", "models", model),
    *FILE_ROUTES,
]
