"""Anthropic's Files API as it is generally available: upload, list, look up, delete.

Sources: anthropic/resources/files.py, types/file_metadata.py (2.12.0).
"""

from __future__ import annotations

import asyncio
import mimetypes
import time
import uuid
from datetime import UTC, datetime
from pathlib import PurePath

from .anthropic_wire import bad_request, not_found, query_integer, refuse
from .reading import MalformedBodyError, TooLargeError, copy_range, read_form, save_body
from .routing import Call, Route, route
from .store import StoredFile
from .wire import Json, Reply, new_id

PROVIDER = "anthropic"
_SECONDS = (3600, 7_776_000)


async def upload(call: Call) -> Reply:
    """POST /v1/files."""
    engine = call.context.engine
    body = call.context.store.incoming_dir / uuid.uuid4().hex
    try:
        await save_body(call.request.stream(), body, call.context.limits.max_upload_bytes)
        content_type = call.request.headers.get("content-type", "")
        form = await asyncio.to_thread(read_form, body, content_type)
        if form.file_place is None:
            raise bad_request("file: Field required")
        expires_in = form.fields.get("expires_in_seconds")
        if expires_in is not None and not (
            expires_in.isdigit() and _SECONDS[0] <= int(expires_in) <= _SECONDS[1]
        ):
            raise bad_request(
                f"expires_in_seconds: Input should be from {_SECONDS[0]} to {_SECONDS[1]}"
            )
        filename = PurePath(form.filename or "").name or "unnamed"
        file_id = new_id("file_01", 22)
        size = await asyncio.to_thread(copy_range, body, form.file_place, engine.file_path(file_id))
        now = time.time()
        file = StoredFile(
            file_id,
            PROVIDER,
            "",
            filename,
            size,
            form.file_type or mimetypes.guess_type(filename)[0] or "application/octet-stream",
            now,
            None if expires_in is None else now + int(expires_in),
        )
        await asyncio.to_thread(call.context.store.add_file, file)
    except TooLargeError as error:
        raise refuse(413, "request_too_large", "Request exceeds the maximum size") from error
    except MalformedBodyError as error:
        raise bad_request(str(error)) from error
    finally:
        body.unlink(missing_ok=True)
    engine.files[file_id] = file
    return Reply(_file_body(file))


def _file_body(file: StoredFile) -> Json:
    expires = file.expires_at
    return {
        "type": "file",
        "id": file.id,
        "filename": file.filename,
        "mime_type": file.mime_type,
        "size_bytes": file.bytes,
        "created_at": datetime.fromtimestamp(file.created_at, UTC).isoformat(),
        "expires_at": None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat(),
        "downloadable": False,
    }


def _find(call: Call) -> StoredFile:
    file = call.context.engine.files.get(call.target)
    if file is None or file.provider != PROVIDER:
        raise not_found(f"File not found: {call.target}")
    return file


async def metadata(call: Call) -> Reply:
    """GET /v1/files/{id}."""
    return Reply(_file_body(_find(call)))


async def content(call: Call) -> Reply:
    """GET /v1/files/{id}/content: uploaded files cannot be had back."""
    _find(call)
    raise bad_request(f"File {call.target} is not downloadable.")


async def delete(call: Call) -> Reply:
    """DELETE /v1/files/{id}."""
    file = _find(call)
    await call.context.engine.delete_file(file.id)
    return Reply({"id": file.id, "type": "file_deleted"})


async def list_files(call: Call) -> Reply:
    """GET /v1/files: newest first, by page."""
    limit = query_integer(call, "limit", 20, 1000)
    shown = [
        file for file in reversed(call.context.engine.files.values()) if file.provider == PROVIDER
    ]
    wanted = call.request.query_params.getlist("ids[]")
    if wanted:
        data = [_file_body(file) for file in shown if file.id in wanted]
        return Reply({"data": data, "next_page": None})
    page = call.request.query_params.get("page", "page_0")
    start = int(page.removeprefix("page_")) if page.removeprefix("page_").isdigit() else 0
    more = start + limit < len(shown)
    return Reply(
        {
            "data": [_file_body(file) for file in shown[start : start + limit]],
            "next_page": f"page_{start + limit}" if more else None,
        }
    )


FILE_ROUTES: list[Route] = [
    route("POST", "/v1/files", "upload", upload),
    route("GET", "/v1/files", "file", list_files),
    route("GET", "/v1/files/{id}", "file", metadata),
    route("GET", "/v1/files/{id}/content", "content", content),
    route("DELETE", "/v1/files/{id}", "delete", delete),
]
