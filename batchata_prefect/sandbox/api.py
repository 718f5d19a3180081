"""What the providers' HTTP APIs do alike: batches, files, models and direct calls.

`Api` is the base of each; what it leaves open are their words and the shapes of their objects.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import orjson
from starlette.requests import Request

from .content import find_marker
from .engine import Engine
from .faults import Fault
from .lines import Check
from .reading import Form, MalformedBodyError, TooLargeError, copy_range, read_form, save_body
from .rows import Encoder, make_bill
from .shapes import MisfitError, Shape, closed, fit
from .store import Batch, StoredFile
from .wire import Json, Refusal, RefusedError, Reply, body_digest, is_object, new_id

KEY_START = b"sandbox"

T = TypeVar("T", Batch, StoredFile)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call: the request, the id in its path, and the fault that bends it, if any."""

    request: Request
    target: str
    fault: Fault | None = None

    def bent(self, mode: str) -> Fault | None:
        """The call's fault, where it is of this mode."""
        return self.fault if self.fault is not None and self.fault.mode == mode else None


class Operation(NamedTuple):
    """A method and path of a provider, the operation's name and its handler."""

    method: str
    path: str
    name: str
    handler: Callable[[Call], Awaitable[Reply]]


class Upload(NamedTuple):
    """What a form says of its file. `seconds` is the time until it expires, None for never."""

    purpose: str
    filename: str
    media_type: str
    seconds: int | None


class Api(ABC):
    """One provider's API. Its handlers raise `RefusedError` for what the provider would not do."""

    name: ClassVar[str]
    canceling: ClassVar[str]
    status_field: ClassVar[str]
    file_prefix: ClassVar[str]
    batches_path: ClassVar[str]
    key_header: ClassVar[str]
    """Where a key may stand that is no bearer's token."""
    deleted: ClassVar[Json]
    """What is said of a file that was deleted, beside its id."""
    refusals: ClassVar[Mapping[str, Refusal]]
    """What is said of a wrong `key`, an unknown `path`, `batch` or `file`, a body that is no
    `json`, a `query` that is no number from 1 to `most`, an `ended` batch that cannot be canceled,
    an upload that is too `large`, and a `stream`."""
    check: ClassVar[type[Check] | None]
    """What checks a file of which a batch is made; None where there are none."""
    rows: ClassVar[type[Encoder]]
    """What answers requests."""
    misfit: Callable[[MisfitError], RefusedError]
    """What does not fit, in the provider's words."""

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine = engine
        self.url = url

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """Headers of every reply."""

    @abstractmethod
    def error_body(self, problem: RefusedError, headers: Mapping[str, str]) -> Json:
        """A refusal in the provider's form; `headers` are those of its reply."""

    @abstractmethod
    async def create(self, call: Call) -> Reply:
        """POST a batch."""

    @abstractmethod
    async def list_batches(self, call: Call) -> Reply:
        """GET the batches, newest first."""

    @abstractmethod
    async def content(self, call: Call) -> Reply:
        """GET what is in a file."""

    @abstractmethod
    def batch_body(self, batch: Batch) -> Json:
        """A batch as the API shows it now."""

    @abstractmethod
    def file_body(self, file: StoredFile) -> Json:
        """A file as the API shows it."""

    @abstractmethod
    def encoder(self, call: Call) -> Encoder:
        """What answers a direct call."""

    async def list_files(self, call: Call) -> Reply:
        """GET the files, newest first."""
        raise NotImplementedError

    def read_upload(self, form: Form) -> Upload:
        """Check the form of an upload, and read what it says of the file."""
        raise NotImplementedError

    def operations(self) -> list[Operation]:
        """Every call that it takes."""
        batches = self.batches_path
        return [
            Operation("POST", batches, "create", self.create),
            Operation("GET", batches, "list", self.list_batches),
            Operation("GET", f"{batches}/{{id}}", "retrieve", self.retrieve),
            Operation("POST", f"{batches}/{{id}}/cancel", "cancel", self.cancel),
            Operation("POST", "/v1/files", "upload", self.upload),
            Operation("GET", "/v1/files", "file", self.list_files),
            Operation("GET", "/v1/files/{id}", "file", self.file),
            Operation("GET", "/v1/files/{id}/content", "content", self.content),
            Operation("DELETE", "/v1/files/{id}", "delete", self.delete_file),
        ]

    def refuse(self, what: str, **told: object) -> RefusedError:
        """One of the provider's refusals."""
        return self.refusals[what].of(**told)

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Refuse a call without a key that the sandbox takes, or without a needed header."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get(self.key_header) or (token if scheme.lower() == "bearer" else "")
        if not given:
            raise self.refuse("no key")
        key, known = given.encode(), self.engine.limits.keys
        if known is None:
            is_known = hmac.compare_digest(key[: len(KEY_START)], KEY_START)
        else:
            is_known = any(hmac.compare_digest(key, each.encode()) for each in known)
        if not is_known:
            shown = f"{given[:4]}{'*' * 8}{given[-4:]}" if len(given) > 12 else "***"
            raise self.refuse("key", key=shown)

    def find_batch(self, call: Call) -> Batch:
        """The batch that a call names."""
        batch = self.engine.batches.get(call.target)
        if batch is None or batch.provider != self.name:
            raise self.refuse("batch", id=call.target)
        return batch

    def find_file(self, call: Call) -> StoredFile:
        """The file that a call names."""
        file = self.engine.files.get(call.target)
        if file is None or file.provider != self.name or call.bent("file_vanished"):
            raise self.refuse("file", id=call.target, param="id")
        return file

    def new_file_id(self) -> str:
        """An id of a file that is uploaded."""
        return new_id(self.file_prefix, 22)

    def newest_files(self) -> list[StoredFile]:
        """The provider's files, newest first."""
        files = reversed(self.engine.files.values())
        return [file for file in files if file.provider == self.name]

    def listed_batches(self) -> list[Batch]:
        """The batches that a list shows, newest first."""
        batches = reversed(self.engine.batches.values())
        shown = [batch for batch in batches if batch.provider == self.name]
        lag = self.engine.faults.standing(self.name, "list_lag")
        newest = time.time() - (float(lag.options.get("seconds", 1)) if lag is not None else 0)
        return [batch for batch in shown if lag is None or batch.created_at <= newest]

    def page(
        self, call: Call, shown: Sequence[T], *, size: tuple[str, int, int], after: str, what: str
    ) -> tuple[Sequence[T], bool]:
        """The page of a list that a call asks for, and whether there are more.

        Args:
            call: The call.
            shown: Batches or files in the list's order.
            size: Name of the parameter that tells how many, its default and its most.
            after: Name of the parameter that tells the id of the last one before the page.
            what: The refusal of an id that is not in the list.
        """
        name, default, most = size
        query = call.request.query_params
        given = query.get(name, str(default))
        limit = int(given) if given.lstrip("-").isdigit() else given
        fit(closed(**{name: Shape("integer", least=1, most=most)}), {name: limit}, self.misfit)
        ids, start = [item.id for item in shown], 0
        if last := query.get(after):
            if last not in ids:
                raise self.refuse(what, id=last, param="after")
            start = ids.index(last) + 1
        end = start + int(limit)
        return shown[start:end], end < len(shown)

    async def read_object(self, call: Call) -> Json:
        """The JSON object in a request's body."""
        try:
            value = orjson.loads(await call.request.body())
        except orjson.JSONDecodeError as error:
            raise self.refuse("json", problem=error) from error
        if not is_object(value):
            raise self.refuse("json", problem="expected an object")
        return value

    async def start_batch(self, batch: Batch) -> Reply:
        """Keep a new batch, and have it run."""
        await asyncio.to_thread(self.engine.store.save_batch, batch)
        self.engine.add(batch)
        return Reply(self.batch_body(batch))

    def new_batch(self, batch_id: str, endpoint: str, **more: Any) -> Batch:
        """A batch of these traits, which begins now and ends as a fault has planned it, if any."""
        now, fault = time.time(), self.engine.faults.take_create(self.name)
        if fault is not None:
            more = {"ending": fault.mode, "ending_options": fault.options, **more}
        due = now + self.engine.limits.seconds
        return Batch(batch_id, self.name, endpoint, created_at=now, due_at=due, **more)

    async def retrieve(self, call: Call) -> Reply:
        """GET a batch."""
        batch = self.find_batch(call)
        hidden = self.engine.faults.standing(self.name, "create_404")
        if hidden is not None and time.time() - batch.created_at < hidden.options.get("seconds", 1):
            raise self.refuse("batch", id=call.target)
        body = self.batch_body(batch)
        if (odd := call.bent("unknown_status")) is not None:
            body[self.status_field] = odd.options.get("word", "paused")
        return Reply(body)

    async def cancel(self, call: Call) -> Reply:
        """POST a batch's cancel."""
        batch = self.find_batch(call)
        if batch.status not in ("in_progress", self.canceling):
            raise self.refuse("ended", status=batch.status)
        if batch.cancel_at is None:
            batch.cancel_at, batch.status = time.time(), self.canceling
            await asyncio.to_thread(self.engine.store.save_batch, batch)
            self.engine.wake(batch)
        return Reply(self.batch_body(batch))

    async def upload(self, call: Call) -> Reply:
        """POST a file."""
        engine, most = self.engine, self.engine.limits.max_upload_bytes
        body = engine.store.incoming_dir / uuid.uuid4().hex
        try:
            # The form around the file takes some bytes of its own.
            await save_body(call.request.stream(), body, most + 4096)
            content_type = call.request.headers.get("content-type", "")
            form = await asyncio.to_thread(read_form, body, content_type)
            given = self.read_upload(form)
            start, end = form.file_place or (0, 0)
            if end - start > most:
                raise self.refuse("large")
            file_id, now = self.new_file_id(), time.time()
            await asyncio.to_thread(copy_range, body, (start, end), engine.file_path(file_id))
            expires = None if given.seconds is None else now + given.seconds
            what = (given.purpose, given.filename, end - start, given.media_type)
            reply = await self.keep_file(StoredFile(file_id, self.name, *what, now, expires))
        except TooLargeError as error:
            raise self.refuse("large") from error
        except MalformedBodyError as error:
            raise RefusedError(f"Could not parse multipart form: {error}") from error
        finally:
            body.unlink(missing_ok=True)
        return reply

    async def keep_file(self, file: StoredFile) -> Reply:
        """Keep a file whose bytes are there."""
        await asyncio.to_thread(self.engine.store.add_file, file)
        self.engine.files[file.id] = file
        return Reply(self.file_body(file))

    async def file(self, call: Call) -> Reply:
        """GET what is known of a file."""
        return Reply(self.file_body(self.find_file(call)))

    async def delete_file(self, call: Call) -> Reply:
        """DELETE a file."""
        file = self.find_file(call)
        await self.engine.delete_file(file.id)
        return Reply({"id": file.id, **self.deleted} if self.deleted else {})

    async def message(self, call: Call) -> Reply:
        """POST a direct call, without streaming."""
        body = await self.read_object(call)
        if body.get("stream") is True:
            raise self.refuse("stream")
        size = len(await call.request.body())
        return await asyncio.to_thread(self._answer, self.encoder(call), body, size)

    def _answer(self, encoder: Encoder, body: Json, size: int) -> Reply:
        model, prompt = encoder.read(body, size)
        marker = find_marker(prompt)
        if marker is not None and marker.name == "errored":
            raise encoder.ordered_error(marker)
        answer, counted = encoder.answer(body, model, prompt, marker, uuid.uuid4().hex)
        if counted is not None:
            bill = make_bill(encoder, None, body_digest(body), model.id, counted)
            self.engine.store.bill(bill)
        return Reply(answer)
