"""Gemini's HTTP API: files, batches, direct calls and models.

Sources: google/genai/batches.py, files.py, _api_client.py and errors.py (3.6.1); ai.google.dev:
api/batch-mode, api/files, api/generate-content, gemini-api/docs/batch-api, troubleshooting. What
they leave open is decided here for the harder case: an expired batch has no rows, a list comes in
no order, a file that does not exist is a 403.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar

from .api import Api, Call, Operation
from .engine import Engine
from .gemini_answers import (
    VERSIONS,
    GeminiCheck,
    GeminiRows,
    error_body,
    exists,
    fitting,
    google_refusal,
    line_count,
)
from .reading import TooLargeError, save_body
from .shapes import ANYTHING, NAMED, STRING, Shape, closed, needed
from .store import Batch, StoredFile
from .wire import Json, Refusal, RefusedError, Reply, new_id

_LASTS_SECONDS = 48 * 3600
_FILE_NAME = re.compile(r"files/[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_CREATE = closed(
    batch=needed(
        closed(
            displayName=NAMED,
            inputConfig=needed(closed(fileName=NAMED)),
            priority=ANYTHING,
            webhookConfig=ANYTHING,
            model=STRING,
        )
    )
)
_START = closed(
    file=needed(
        closed(
            "sizeBytes sha256Hash uri source state",
            name=STRING,
            displayName=Shape("string", most=512),
            mimeType=NAMED,
        )
    )
)


class Gemini(Api):
    """The API under `/gemini`."""

    name = "gemini"
    canceling = "CANCELLING"
    status_field = "state"
    file_prefix = ""
    batches_path = ""
    check = GeminiCheck
    rows = GeminiRows
    key_header = "x-goog-api-key"
    deleted: ClassVar = {}
    misfit = staticmethod(google_refusal)
    refusals: ClassVar[Mapping[str, Refusal]] = {
        "key": Refusal(
            400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID"
        ),
        "no key": Refusal(
            403,
            "Method doesn't allow unregistered callers (callers without established identity)."
            " Please use API Key or other form of API consumer identity to call this API.",
        ),
        "path": Refusal(404, "Not Found: {method} {path}"),
        "batch": Refusal(404, "Requested entity was not found."),
        "file": Refusal(
            403, "You do not have permission to access the File {id} or it may not exist."
        ),
        "model": Refusal(
            404,
            "models/{id} is not found for API version v1beta, or is not supported for"
            " generateContent. Call ListModels to see the list of available models and their"
            " supported methods.",
        ),
        "json": Refusal(400, "Invalid JSON payload received. {problem}"),
        "ended": Refusal(400, "Batch is in a final state.", code="FAILED_PRECONDITION"),
        "large": Refusal(400, "The file is too large."),
        "taken": Refusal(409, "Requested entity already exists"),
        "stream": Refusal(400, "The sandbox does not stream."),
        "enqueued": Refusal(
            429,
            "You exceeded your current quota, please check your plan and billing details. Quota"
            " exceeded for metric: batch_enqueued_tokens.",
            param="{most}",
        ),
    }

    def __init__(self, engine: Engine, url: str) -> None:
        super().__init__(engine, url)
        self.begun: dict[str, Json] = {}
        """Uploads that were started and have no bytes yet."""

    def operations(self) -> list[Operation]:
        return [each for version in VERSIONS for each in self._operations(version)]

    def _operations(self, version: str) -> list[Operation]:
        batches, files, models = (f"{version}/{each}" for each in ("batches", "files", "models"))
        return [
            Operation("POST", f"{models}/{{id}}:batchGenerateContent", "create", self.create),
            Operation("POST", f"{models}/{{id}}:generateContent", "message", self.message),
            Operation("GET", batches, "list", self.list_batches),
            Operation("POST", f"{batches}/{{id}}:cancel", "cancel", self.cancel),
            Operation("GET", f"{batches}/{{id}}", "retrieve", self.retrieve),
            Operation("POST", f"/upload{files}", "file", self.start_upload),
            Operation("POST", f"/upload{files}/{{id}}", "upload", self.upload),
            Operation("GET", f"{files}/{{id}}:download", "content", self.content),
            Operation("GET", f"{files}/{{id}}", "file", self.file),
            Operation("DELETE", f"{files}/{{id}}", "delete", self.delete_file),
        ]

    def check_key(self, headers: Mapping[str, str]) -> None:
        """As `Api.check_key`; the address of an upload is its key."""
        if headers.get("x-goog-upload-offset") is None:
            super().check_key(headers)

    def headers(self) -> dict[str, str]:
        return {"server-timing": "gfet4t7; dur=12", "x-content-type-options": "nosniff"}

    def error_body(self, problem: RefusedError, headers: Mapping[str, str]) -> Json:
        return error_body(problem, headers.get("retry-after"))

    def encoder(self, call: Call) -> GeminiRows:
        endpoint = f"/models/{call.target}:generateContent"
        return GeminiRows(endpoint, self.engine.read_file, None)

    def find_batch(self, call: Call) -> Batch:
        """As `Api.find_batch`: ids are whole names."""
        return super().find_batch(Call(call.request, f"batches/{call.target}", call.fault))

    async def create(self, call: Call) -> Reply:
        """As `Api.create`: the file must be there; its lines are checked as the batch runs."""
        engine = self.engine
        given = fitting(_CREATE, await self.read_object(call))["batch"]
        if not exists(call.target):
            raise self.refuse("model", id=call.target)
        file_id = given["inputConfig"]["fileName"].removeprefix("files/")
        file = engine.files.get(file_id)
        if file is None or call.bent("file_vanished"):
            raise self.refuse("file", id=file_id)
        tokens, most = file.bytes // 4, self.engine.limits.enqueued_tokens
        if most is not None:
            waiting = [each for each in engine.running(self.name) if each.model == call.target]
            if tokens + sum((each.usage or {}).get("tokens", 0) for each in waiting) > most:
                raise self.refuse("enqueued", most=most)
        batch = self.new_batch(
            f"batches/{uuid.uuid4().hex}",
            f"/models/{call.target}:generateContent",
            model=call.target,
            count=await asyncio.to_thread(line_count, engine.file_path(file_id)),
            metadata={"displayName": given["displayName"]},
            input_file_id=file_id,
            usage={"tokens": tokens},
        )
        return await self.start_batch(batch)

    async def retrieve(self, call: Call) -> Reply:
        """As `Api.retrieve`; a fault can leave out its file."""
        reply = await super().retrieve(call)
        if (odd := reply.body.pop("state", None)) is not None:
            reply.body["metadata"]["state"] = odd
            reply.body.pop("done", None)
        if call.bent("no_output") is not None:
            reply.body["metadata"].pop("output", None)
            reply.body.pop("response", None)
        return reply

    async def cancel(self, call: Call) -> Reply:
        """As `Api.cancel`, whose answer is empty."""
        await super().cancel(call)
        return Reply({})

    async def list_batches(self, call: Call) -> Reply:
        """As `Api.list_batches`, with page tokens."""
        if "pageSize" not in call.request.query_params:
            return Reply({})  # as was seen [python-genai#1250]
        size = ("pageSize", 10, 1000)
        page, has_more = self.page(
            call, self.listed_batches(), size=size, after="pageToken", what="batch"
        )
        body: Json = {"operations": [self.batch_body(batch) for batch in page]} if page else {}
        return Reply({**body, "nextPageToken": page[-1].id} if has_more else body)

    def batch_body(self, batch: Batch) -> Json:
        """As `Api.batch_body`: an operation, whose metadata is the batch."""
        share = (time.time() - batch.created_at) / max(batch.takes, 0.001)
        running = "PENDING" if share < 0.15 and batch.cancel_at is None else "RUNNING"
        limits = self.engine.limits
        ahead = limits.clock_seconds
        # No time of expiry is told: one that is overdue was created longer ago.
        overdue = _LASTS_SECONDS - limits.expires_seconds if limits.expires_seconds < 0 else 0
        done = batch.counts if batch.final else {}
        counts = {
            "requestCount": batch.count,
            "successfulRequestCount": done.get("succeeded", 0),
            "failedRequestCount": done.get("failed", 0),
            "pendingRequestCount": 0 if batch.final else batch.count,
        }
        shown: Json = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": f"models/{batch.model}",
            "displayName": (batch.metadata or {})["displayName"],
            "createTime": _moment(batch.created_at + ahead - overdue),
            "updateTime": _moment((batch.ended_at or batch.created_at) + ahead),
            # Counts of 64 bits are texts in proto JSON, and those of 0 are left out.
            "batchStats": {name: str(count) for name, count in counts.items() if count},
            "state": f"BATCH_STATE_{batch.status if batch.final else running}",
            "name": batch.id,
        }
        body: Json = {"name": batch.id, "metadata": shown}
        if batch.final:
            shown["endTime"] = _moment((batch.ended_at or 0) + ahead)
            body["done"] = True
        if batch.final and batch.output_file_id is not None:
            shown["output"] = {"responsesFile": f"files/{batch.output_file_id}"}
            body["response"] = shown["output"]
        if batch.final and batch.errors:
            body["error"] = batch.errors[0]
        elif batch.final and batch.status == "CANCELLED":
            body["error"] = {"code": 1, "message": "The operation was cancelled."}
        return body

    async def start_upload(self, call: Call) -> Reply:
        """POST what is known of a file, for an address where its bytes go."""
        headers = call.request.headers
        asked = fitting(_START, await self.read_object(call))
        size = headers.get("x-goog-upload-header-content-length", "")
        if (
            headers.get("x-goog-upload-protocol") != "resumable"
            or headers.get("x-goog-upload-command") != "start"
            or not size.isdigit()
        ):
            raise RefusedError("Invalid upload headers.")
        name = asked["file"].get("name") or f"files/{new_id('', 12).lower()}"
        if not _FILE_NAME.fullmatch(name):
            raise RefusedError(
                f"* CreateFileRequest.file.name: file name '{name}' is not a valid name. It must be"
                " 'files/' and at most 40 lowercase letters, digits and dashes."
            )
        if name.removeprefix("files/") in self.engine.files:
            raise self.refuse("taken")
        upload = uuid.uuid4().hex
        self.begun[upload] = {**asked["file"], "name": name, "size": int(size)}
        place = f"/gemini/upload{VERSIONS[0]}/files/{upload}?upload_protocol=resumable"
        return Reply({}, {"x-goog-upload-url": self.url + place, "x-goog-upload-status": "active"})

    async def upload(self, call: Call) -> Reply:
        """POST the bytes of a file, all of them."""
        engine, headers = self.engine, call.request.headers
        begun = self.begun.pop(call.target, None)
        if begun is None or (
            headers.get("x-goog-upload-command") != "upload, finalize"
            or headers.get("x-goog-upload-offset") != "0"
        ):
            raise RefusedError("Invalid upload headers.")
        file_id, now = begun["name"].removeprefix("files/"), time.time()
        if file_id in engine.files:
            raise self.refuse("taken")
        body = engine.store.incoming_dir / uuid.uuid4().hex
        try:
            size = await save_body(call.request.stream(), body, engine.limits.max_upload_bytes)
        except TooLargeError as error:
            raise self.refuse("large") from error
        if size != begun["size"]:
            raise RefusedError(f"The upload has {size} bytes and not {begun['size']}.")
        body.replace(engine.file_path(file_id))
        title, media_type = begun.get("displayName", ""), begun["mimeType"]
        expires = now + _LASTS_SECONDS
        file = StoredFile(file_id, self.name, "batch", title, size, media_type, now, expires)
        kept = await self.keep_file(file)
        return Reply({"file": kept.body}, {"x-goog-upload-status": "final"})

    def file_body(self, file: StoredFile) -> Json:
        """As `Api.file_body` (types.File)."""
        made = file.purpose == "batch_output"
        uri = f"https://generativelanguage.googleapis.com/v1/files/{file.id}"
        return {
            "name": f"files/{file.id}",
            "displayName": file.filename,
            "mimeType": file.mime_type,
            "sizeBytes": str(file.bytes),
            "createTime": _moment(file.created_at),
            "expirationTime": _moment(file.expires_at or 0),
            "uri": uri,
            "state": "ACTIVE",
            "source": "GENERATED" if made else "UPLOADED",
            **({"downloadUri": f"{uri}:download?alt=media"} if made else {}),
        }

    async def content(self, call: Call) -> Reply:
        """As `Api.content`: of files that were made, and not of uploaded ones."""
        file = self.find_file(call)
        if file.purpose != "batch_output" or call.request.query_params.get("alt") != "media":
            raise RefusedError(f"File files/{file.id} is not downloadable.")
        path = self.engine.file_path(file.id)
        return Reply(file=path, media_type="application/octet-stream")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
