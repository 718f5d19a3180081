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
from typing import Any, ClassVar

from .api import Api, Call, Operation, Refusal, Upload
from .gemini_answers import GeminiRows, line_count
from .gemini_rules import VERSIONS, error_body, exists, fitting, google_refusal
from .reading import Form, TooLargeError, save_body
from .shapes import ANYTHING, NAMED, STRING, MisfitError, Shape, closed, needed
from .store import Batch, StoredFile
from .wire import Json, RefusedError, Reply, new_id

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

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.begun: dict[str, Json] = {}
        """Uploads that were started and have no bytes yet."""

    def operations(self) -> list[Operation]:
        """As `Api.operations`."""
        return [each for version in VERSIONS for each in self._operations(version)]

    def _operations(self, version: str) -> list[Operation]:
        batches, files, models = (f"{version}/{each}" for each in ("batches", "files", "models"))
        return [
            Operation("POST", f"{models}/{{id}}:batchGenerateContent", "create", self.create),
            Operation("POST", f"{models}/{{id}}:generateContent", "message", self.message),
            Operation("GET", models, "models", self.models),
            Operation("GET", f"{models}/{{id}}", "models", self.models),
            Operation("GET", batches, "list", self.list_batches),
            Operation("POST", f"{batches}/{{id}}:cancel", "cancel", self.cancel),
            Operation("GET", f"{batches}/{{id}}", "retrieve", self.retrieve),
            Operation("DELETE", f"{batches}/{{id}}", "delete", self.delete_batch),
            Operation("POST", f"/upload{files}", "file", self.start_upload),
            Operation("POST", f"/upload{files}/{{id}}", "upload", self.upload),
            Operation("GET", files, "file", self.list_files),
            Operation("GET", f"{files}/{{id}}:download", "content", self.content),
            Operation("GET", f"{files}/{{id}}", "file", self.file),
            Operation("DELETE", f"{files}/{{id}}", "delete", self.delete_file),
        ]

    def key_of(self, headers: Mapping[str, str]) -> str:
        """As `Api.key_of`."""
        key = headers.get("x-goog-api-key")
        if not key:
            raise self.refuse("no key")
        return key

    def check_key(self, headers: Mapping[str, str]) -> None:
        """As `Api.check_key`; the address of an upload is its key."""
        if headers.get("x-goog-upload-offset") is None:
            super().check_key(headers)

    def headers(self) -> dict[str, str]:
        """As `Api.headers`."""
        return {"server-timing": "gfet4t7; dur=12", "x-content-type-options": "nosniff"}

    def error_body(self, problem: RefusedError, headers: Mapping[str, str]) -> Json:
        """As `Api.error_body`."""
        return error_body(problem, headers.get("retry-after"))

    def misfit(self, misfit: MisfitError) -> RefusedError:
        """As `Api.misfit`."""
        return google_refusal(misfit)

    def encoder(self, call: Call) -> GeminiRows:
        """As `Api.encoder`."""
        endpoint = f"/models/{call.target}:generateContent"
        return GeminiRows(endpoint, self.context.engine.read_file, None)

    def find_batch(self, call: Call) -> Batch:
        """As `Api.find_batch`: ids are whole names."""
        return super().find_batch(Call(call.request, f"batches/{call.target}", call.fault))

    async def create(self, call: Call) -> Reply:
        """As `Api.create`: the file must be there; its lines are checked as the batch runs."""
        limits, engine = self.context.limits, self.context.engine
        given = fitting(_CREATE, await self.read_object(call))["batch"]
        if not exists(call.target):
            raise self.refuse("model", id=call.target)
        file_id = given["inputConfig"]["fileName"].removeprefix("files/")
        file = engine.files.get(file_id)
        if file is None or call.bent("file_vanished"):
            raise self.refuse("file", id=file_id)
        tokens, most = file.bytes // 4, limits.enqueued_tokens
        if most is not None:
            waiting = [each for each in engine.running(self.name) if each.model == call.target]
            if tokens + sum((each.usage or {}).get("tokens", 0) for each in waiting) > most:
                raise self.refuse("enqueued", most=most)
        now = time.time()
        return await self.start_batch(
            Batch(
                id=f"batches/{uuid.uuid4().hex}",
                provider=self.name,
                endpoint=f"/models/{call.target}:generateContent",
                model=call.target,
                status="in_progress",
                count=await asyncio.to_thread(line_count, engine.file_path(file_id)),
                created_at=now,
                due_at=now + limits.seconds,
                metadata={"displayName": given["displayName"]},
                input_file_id=file_id,
                usage={"tokens": tokens},
                fault=self.planned_end(),
            )
        )

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

    async def delete_batch(self, call: Call) -> Reply:
        """DELETE a batch: nobody is interested in it any more; it goes on."""
        batch = self.find_batch(call)
        batch.deleted = True
        await asyncio.to_thread(self.context.store.save_batch, batch)
        return Reply({})

    async def list_batches(self, call: Call) -> Reply:
        """As `Api.list_batches`, with page tokens."""
        shown = self.listed_batches()
        if "pageSize" not in call.request.query_params:
            return Reply({})  # as was seen [python-genai#1250]
        page, following = self._page(call, shown)
        body: Json = {"operations": [self.batch_body(batch) for batch in page]} if page else {}
        return Reply({**body, **following})

    def _page(self, call: Call, shown: list[Any]) -> tuple[list[Any], Json]:
        size = self.query_integer(call, "pageSize", 10, 1000)
        token = call.request.query_params.get("pageToken", "")
        start = self.after(shown, token or None, "batch")
        page = shown[start : start + size]
        more = start + size < len(shown)
        return page, {"nextPageToken": page[-1].id} if more else {}

    def batch_body(self, batch: Batch) -> Json:
        """As `Api.batch_body`: an operation, whose metadata is the batch."""
        share = (time.time() - batch.created_at) / max(batch.due_at - batch.created_at, 0.001)
        running = "PENDING" if share < 0.15 and batch.cancel_at is None else "RUNNING"
        limits = self.context.limits
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

    async def models(self, call: Call) -> Reply:
        """As `Api.models`."""
        if not call.target:
            return Reply({"models": [_model_body("gemini-2.5-flash")]})
        if not exists(call.target):
            raise self.refuse("model", id=call.target)
        return Reply(_model_body(call.target))

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
        if name.removeprefix("files/") in self.context.engine.files:
            raise self.refuse("taken")
        upload = uuid.uuid4().hex
        self.begun[upload] = {**asked["file"], "name": name, "size": int(size)}
        place = f"/gemini/upload{VERSIONS[0]}/files/{upload}?upload_protocol=resumable"
        return Reply(
            {}, {"x-goog-upload-url": self.context.url + place, "x-goog-upload-status": "active"}
        )

    async def upload(self, call: Call) -> Reply:
        """POST the bytes of a file, all of them."""
        engine, store, headers = self.context.engine, self.context.store, call.request.headers
        begun = self.begun.pop(call.target, None)
        if begun is None or (
            headers.get("x-goog-upload-command") != "upload, finalize"
            or headers.get("x-goog-upload-offset") != "0"
        ):
            raise RefusedError("Invalid upload headers.")
        file_id, now = begun["name"].removeprefix("files/"), time.time()
        if file_id in engine.files:
            raise self.refuse("taken")
        body = store.incoming_dir / uuid.uuid4().hex
        try:
            most = self.context.limits.max_upload_bytes
            size = await save_body(call.request.stream(), body, most)
        except TooLargeError as error:
            raise self.refuse("large") from error
        if size != begun["size"]:
            raise RefusedError(f"The upload has {size} bytes and not {begun['size']}.")
        body.replace(engine.file_path(file_id))
        title, media_type = begun.get("displayName", ""), begun["mimeType"]
        expires = now + _LASTS_SECONDS
        file = StoredFile(file_id, self.name, "batch", title, size, media_type, now, expires)
        await asyncio.to_thread(store.add_file, file)
        engine.files[file_id] = file
        return Reply({"file": self.file_body(file)}, {"x-goog-upload-status": "final"})

    def read_upload(self, form: Form) -> Upload:
        """As `Api.read_upload`; it has no forms."""
        raise NotImplementedError

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

    def deleted_body(self, file: StoredFile) -> Json:
        """As `Api.deleted_body`: empty."""
        return {}

    async def content(self, call: Call) -> Reply:
        """As `Api.content`: of files that were made, and not of uploaded ones."""
        file = self.find_file(call)
        if file.purpose != "batch_output" or call.request.query_params.get("alt") != "media":
            raise RefusedError(f"File files/{file.id} is not downloadable.")
        path = self.context.engine.file_path(file.id)
        return Reply(file=path, media_type="application/octet-stream")

    async def list_files(self, call: Call) -> Reply:
        """As `Api.list_files`, with page tokens."""
        page, following = self._page(call, self.newest_files())
        return Reply({"files": [self.file_body(file) for file in page], **following})


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _model_body(model_id: str) -> Json:
    return {
        "name": f"models/{model_id}",
        "supportedGenerationMethods": ["generateContent", "batchGenerateContent"],
    }
