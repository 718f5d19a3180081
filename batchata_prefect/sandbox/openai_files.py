"""OpenAI's Files API: upload, look up, content, delete, list.

Sources: openai/resources/files.py, types/file_object.py (3.54.0), recorded error bodies.
"""

from __future__ import annotations

import asyncio
import mimetypes
import time
import uuid
from pathlib import PurePath

from .openai_wire import bad_request, missing, query_integer, refuse
from .reading import MalformedBodyError, TooLargeError, copy_range, read_form, save_body
from .routing import Call, Route, route
from .store import StoredFile
from .wire import Json, Reply, new_id

PROVIDER = "openai"
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_DAYS_30 = 30 * 86400


async def upload(call: Call) -> Reply:
    """POST /v1/files."""
    engine = call.context.engine
    body = call.context.store.incoming_dir / uuid.uuid4().hex
    try:
        # The form around the file takes some bytes of its own.
        most = call.context.limits.max_upload_bytes + 4096
        await save_body(call.request.stream(), body, most)
        content_type = call.request.headers.get("content-type", "")
        form = await asyncio.to_thread(read_form, body, content_type)
        purpose = form.fields.get("purpose")
        if purpose is None:
            raise missing("purpose")
        if purpose not in _PURPOSES:
            listed = ", ".join(f"'{each}'" for each in _PURPOSES)
            raise bad_request(
                f"'{purpose}' is not one of [{listed}] - 'purpose'", "purpose", "invalid_value"
            )
        if form.file_place is None:
            raise missing("file")
        filename = form.filename or "upload"
        if purpose == "batch" and PurePath(filename).suffix not in ("", ".jsonl"):
            raise bad_request("Invalid file format for Batch API. Must be .jsonl", None, None)
        if form.file_place[1] - form.file_place[0] > call.context.limits.max_upload_bytes:
            raise bad_request("File is too large.", None, None)
        expires_in = _expires_in(form.fields, purpose)
        file_id = new_id("file-", 22)
        size = await asyncio.to_thread(copy_range, body, form.file_place, engine.file_path(file_id))
        now = time.time()
        file = StoredFile(
            file_id,
            PROVIDER,
            purpose,
            filename,
            size,
            mimetypes.guess_type(filename)[0] or form.file_type or "application/octet-stream",
            now,
            None if expires_in is None else now + expires_in,
        )
        await asyncio.to_thread(call.context.store.add_file, file)
    except TooLargeError as error:
        raise bad_request("File is too large.", None, None) from error
    except MalformedBodyError as error:
        raise bad_request(f"Could not parse multipart form: {error}", None, None) from error
    finally:
        body.unlink(missing_ok=True)
    engine.files[file_id] = file
    return Reply(_file_body(file))


def _expires_in(fields: dict[str, str], purpose: str) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return _DAYS_30 if purpose == "batch" else None
    if anchor != "created_at":
        raise bad_request(
            "Invalid value for 'expires_after[anchor]': expected 'created_at'.",
            "expires_after[anchor]",
            "invalid_value",
        )
    if seconds is None or not seconds.isdigit() or not 3600 <= int(seconds) <= _DAYS_30:
        raise bad_request(
            "Invalid 'expires_after[seconds]': expected an integer from 3600 to 2592000.",
            "expires_after[seconds]",
            "invalid_value",
        )
    return int(seconds)


def _file_body(file: StoredFile) -> Json:
    return {
        "object": "file",
        "id": file.id,
        "purpose": file.purpose,
        "filename": file.filename,
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "status": "processed",
        "status_details": None,
    }


def _find(call: Call) -> StoredFile:
    file = call.context.engine.files.get(call.target)
    if file is None or file.provider != PROVIDER or call.bent("file_vanished"):
        raise refuse(404, f"No such File object: {call.target}", param="id")
    return file


async def retrieve(call: Call) -> Reply:
    """GET /v1/files/{id}."""
    return Reply(_file_body(_find(call)))


async def content(call: Call) -> Reply:
    """GET /v1/files/{id}/content."""
    file = _find(call)
    if file.purpose == "user_data":
        raise bad_request("Not allowed to download files of purpose: user_data", None, None)
    path = call.context.engine.file_path(file.id)
    return Reply(
        file=path,
        media_type="application/octet-stream",
        headers={"content-disposition": f'attachment; filename="{file.filename}"'},
    )


async def delete(call: Call) -> Reply:
    """DELETE /v1/files/{id}."""
    file = _find(call)
    await call.context.engine.delete_file(file.id)
    return Reply({"id": file.id, "object": "file", "deleted": True})


async def list_files(call: Call) -> Reply:
    """GET /v1/files: newest first unless asked otherwise."""
    limit = query_integer(call, "limit", 10_000, 10_000)
    query = call.request.query_params
    shown = [file for file in call.context.engine.files.values() if file.provider == PROVIDER]
    if query.get("order", "desc") == "desc":
        shown.reverse()
    purpose, after = query.get("purpose"), query.get("after")
    if purpose is not None:
        shown = [file for file in shown if file.purpose == purpose]
    start = 0
    if after is not None:
        ids = [file.id for file in shown]
        if after not in ids:
            raise refuse(404, f"No such File object: {after}", param="after")
        start = ids.index(after) + 1
    page = shown[start : start + limit]
    return Reply(
        {
            "object": "list",
            "data": [_file_body(file) for file in page],
            "has_more": start + limit < len(shown),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


FILE_ROUTES: list[Route] = [
    route("POST", "/v1/files", "upload", upload),
    route("GET", "/v1/files", "file", list_files),
    route("GET", "/v1/files/{id}", "file", retrieve),
    route("GET", "/v1/files/{id}/content", "content", content),
    route("DELETE", "/v1/files/{id}", "delete", delete),
]
