"""Anthropic's HTTP API: Message Batches; the other calls are in rooms of their own.

Sources: anthropic/resources (2.12.0), recorded replies, platform.claude.com, the provider notes.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
from array import array
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .anthropic_files import FILE_ROUTES
from .anthropic_messages import MESSAGE_ROUTES
from .anthropic_rows import ENDPOINT
from .anthropic_wire import bad_request, not_found, query_integer, refuse
from .outcome import save_index
from .reading import Element, MalformedBodyError, TooLargeError, read_array, save_body
from .routing import Call, Route, route
from .store import Batch
from .wire import (
    Json,
    RefusedError,
    Reply,
    is_object,
    new_id,
)

PROVIDER = "anthropic"
KEY_START = "sandbox"
_VERSIONS = ("2026-10-21", "2023-06-01")
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
_RETRY_AFTER = 10


def check_headers(call: Call) -> None:
    """Refuse a call without a key of the sandbox or without a known `anthropic-version`."""
    headers = call.request.headers
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token if scheme.lower() == "bearer" else None
    if key is None:
        raise refuse(401, "authentication_error", "x-api-key header is required")
    if not hmac.compare_digest(key[: len(KEY_START)].encode(), KEY_START.encode()):
        raise refuse(401, "authentication_error", "API key is invalid.")
    version = headers.get("anthropic-version")
    if version is None:
        raise bad_request("anthropic-version: header is required")
    if version not in _VERSIONS:
        raise bad_request(f'anthropic-version: "{version}" is not a valid version')


async def create(call: Call) -> Reply:
    """POST /v1/messages/batches."""
    context, limits = call.context, call.context.limits
    batch_id = new_id("msgbatch_01", 22)
    path = context.store.batches_dir / f"{batch_id}.json"
    try:
        await save_body(call.request.stream(), path, limits.max_bytes)
        places, model = await asyncio.to_thread(_read_requests, path, limits.max_requests)
        _check_queue(call, len(places) // 2)
        now = time.time()
        fault = context.faults.take_create(PROVIDER)
        batch = Batch(
            id=batch_id,
            provider=PROVIDER,
            endpoint=ENDPOINT,
            model=model,
            status="in_progress",
            count=len(places) // 2,
            created_at=now,
            due_at=now + limits.seconds,
            version=call.request.headers["anthropic-version"],
            betas=call.request.headers.get("anthropic-beta", ""),
            fault=None if fault is None else {"mode": fault.mode, "options": fault.options},
        )
        await asyncio.to_thread(_keep, call, batch, places)
    except TooLargeError as error:
        message = "Request exceeds the maximum size"
        raise refuse(413, "request_too_large", message) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    context.engine.add(batch)
    return Reply(batch_body(call, batch))


def _check_queue(call: Call, count: int) -> None:
    most = call.context.limits.queued_requests
    waiting = sum(batch.count for batch in call.context.engine.running(PROVIDER))
    if most is not None and waiting + count > most:
        raise refuse(
            429,
            "rate_limit_error",
            f"Your organization has {waiting} batch requests in the processing queue and its"
            f" limit is {most}.",
        )


def _keep(call: Call, batch: Batch, places: array[int]) -> None:
    store = call.context.store
    save_index(store.batches_dir / f"{batch.id}.index", places)
    store.add_batch(batch)


def _read_requests(path: Path, most: int) -> tuple[array[int], str | None]:
    """Places of the requests in a saved create body, and the first one's model."""
    places: array[int] = array("Q")
    known: set[str] = set()
    model: str | None = None
    extra: str | None = None
    try:
        for item in read_array(path, "requests"):
            if not isinstance(item, Element):
                name, value = item
                if name == "requests":
                    raise bad_request(
                        "requests: List should have at least 1 item after validation, not 0"
                        if value == []
                        else "requests: Input should be a valid list"
                    )
                extra = extra or name
                continue
            params = _check_request(item.value, len(places) // 2, known)
            if model is None and isinstance(params.get("model"), str):
                model = params["model"]
            places.extend((item.start, item.end))
    except MalformedBodyError as error:
        raise bad_request(f"The request body is not valid JSON: {error}") from error
    if not places:
        raise bad_request("requests: Field required")
    if len(places) // 2 > most:
        raise bad_request(
            f"requests: List should have at most {most} items after validation, not"
            f" {len(places) // 2}"
        )
    if extra is not None:
        raise bad_request(f"{extra}: Extra inputs are not permitted")
    return places, model


def _check_request(entry: Any, number: int, known: set[str]) -> Json:
    where = f"requests.{number}"
    if not is_object(entry):
        raise bad_request(f"{where}: Input should be a valid dictionary or object")
    custom_id = entry.get("custom_id")
    if not isinstance(custom_id, str):
        problem = "Field required" if custom_id is None else "Input should be a valid string"
        raise bad_request(f"{where}.custom_id: {problem}")
    if not _CUSTOM_ID.fullmatch(custom_id):
        if len(custom_id) > 64:
            raise bad_request(f"{where}.custom_id: String should have at most 64 characters")
        raise bad_request(
            f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
        )
    if custom_id in known:
        raise bad_request(
            "requests: custom_id's must be unique within a batch. Duplicate custom_id found:"
            f" {custom_id}"
        )
    known.add(custom_id)
    params = entry.get("params")
    if not is_object(params):
        problem = "Field required" if params is None else "Input should be a valid dictionary"
        raise bad_request(f"{where}.params: {problem}")
    if len(entry) > 2:
        extra = next(key for key in entry if key not in ("custom_id", "params"))
        raise bad_request(f"{where}.{extra}: Extra inputs are not permitted")
    return params


def batch_body(call: Call, batch: Batch) -> Json:
    """The batch as the API shows it now (types/messages/message_batch.py)."""
    limits = call.context.limits
    ahead = limits.clock_seconds
    created = datetime.fromtimestamp(batch.created_at + ahead, UTC)
    counts = dict.fromkeys(_COUNTS, 0)
    status = "canceling" if batch.cancel_at is not None else "in_progress"
    if batch.final:
        counts, status = batch.counts, batch.status
    else:
        counts["processing"] = batch.count
    results_url = f"{call.context.url}/anthropic/v1/messages/batches/{batch.id}/results"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        "ended_at": _moment(batch.ended_at, ahead) if batch.final else None,
        "created_at": created.isoformat(),
        "expires_at": (created + timedelta(seconds=limits.expires_seconds)).isoformat(),
        "archived_at": None,
        "cancel_initiated_at": _moment(batch.cancel_at, ahead),
        "results_url": results_url if batch.final else None,
    }


def _moment(unix_seconds: float | None, ahead: float) -> str | None:
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds + ahead, UTC).isoformat()


def _find(call: Call) -> Batch:
    batch = call.context.engine.batches.get(call.target)
    if batch is None or batch.provider != PROVIDER or batch.deleted:
        raise not_found(f"Message Batch {call.target} not found.")
    return batch


async def retrieve(call: Call) -> Reply:
    """GET /v1/messages/batches/{id}."""
    batch = _find(call)
    hidden = call.context.faults.standing(PROVIDER, "create_404")
    if hidden is not None and time.time() - batch.created_at < hidden.options.get("seconds", 1):
        raise not_found(f"Message Batch {call.target} not found.")
    body = batch_body(call, batch)
    odd = call.bent("unknown_status")
    if odd is not None:
        body["processing_status"] = odd.options.get("word", "paused")
    # The API says 10; here a batch takes less, and a client that obeys must not wait longer.
    wait = min(_RETRY_AFTER, math.floor(batch.due_at - batch.created_at))
    return Reply(body, headers={} if batch.final else {"retry-after": str(wait)})


async def list_batches(call: Call) -> Reply:
    """GET /v1/messages/batches: newest first."""
    limit = query_integer(call, "limit", 20, 1000)
    shown = [
        batch
        for batch in reversed(call.context.engine.batches.values())
        if batch.provider == PROVIDER and not batch.deleted
    ]
    lag = call.context.faults.standing(PROVIDER, "list_lag")
    if lag is not None:
        newest = time.time() - float(lag.options.get("seconds", 1))
        shown = [batch for batch in shown if batch.created_at <= newest]
    ids = [batch.id for batch in shown]
    after, before = (call.request.query_params.get(key) for key in ("after_id", "before_id"))
    if after is not None and before is not None:
        raise bad_request("Only one of before_id and after_id can be provided.")
    has_more = False
    if before is not None:
        end = ids.index(before) if before in ids else len(ids)
        has_more = end - limit > 0
        page = shown[max(0, end - limit) : end]
    else:
        start = ids.index(after) + 1 if after in ids else 0
        if after is not None and after not in ids:
            raise bad_request(f"after_id: {after} is not a Message Batch of this Workspace")
        page = shown[start : start + limit]
        has_more = start + limit < len(shown)
    return Reply(
        {
            "data": [batch_body(call, batch) for batch in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


async def cancel(call: Call) -> Reply:
    """POST /v1/messages/batches/{id}/cancel."""
    batch = _find(call)
    if batch.status == "ended":
        raise bad_request("Message Batch has already ended and cannot be canceled.")
    if batch.cancel_at is None:
        batch.cancel_at, batch.status = time.time(), "canceling"
        await asyncio.to_thread(call.context.store.save_batch, batch)
        call.context.engine.wake(batch)
    return Reply(batch_body(call, batch))


async def delete(call: Call) -> Reply:
    """DELETE /v1/messages/batches/{id}."""
    batch = _find(call)
    if not batch.final:
        raise bad_request(
            "In progress batches cannot be deleted. Consider canceling the batch instead."
        )
    batch.deleted = True
    await asyncio.to_thread(call.context.store.save_batch, batch)
    return Reply({"id": batch.id, "type": "message_batch_deleted"})


async def results(call: Call) -> Reply:
    """GET /v1/messages/batches/{id}/results."""
    batch = _find(call)
    if not batch.final or call.bent("results_not_ready"):
        raise not_found(f"Message Batch {batch.id} has no available results.")
    path = call.context.store.batches_dir / f"{batch.id}.results.jsonl"
    return Reply(file=path, media_type="application/x-jsonl")


def unknown(call: Call) -> RefusedError:
    """The refusal of a path that does not exist."""
    return not_found("Not Found")


_BATCHES = "/v1/messages/batches"
ROUTES: list[Route] = [
    route("POST", _BATCHES, "create", create),
    route("GET", _BATCHES, "list", list_batches),
    route("GET", f"{_BATCHES}/{{id}}", "retrieve", retrieve),
    route("POST", f"{_BATCHES}/{{id}}/cancel", "cancel", cancel),
    route("DELETE", f"{_BATCHES}/{{id}}", "delete", delete),
    route("GET", f"{_BATCHES}/{{id}}/results", "results", results),
    *MESSAGE_ROUTES,
    *FILE_ROUTES,
]
