"""OpenAI's Files and Batches, and servers that speak them.

Sources: openai/resources/{files,batches}.py, types/batch.py, types/chat, types/responses (3.54.0),
and developers.openai.com, guides/batch.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import RawIOBase
from os import SEEK_END
from typing import Any, BinaryIO, ClassVar, cast

from typing_extensions import override

from batchata_prefect.answers import Reply
from batchata_prefect.content.exact_json import dumps
from batchata_prefect.errors import (
    MissingCredentialsError,
    ProviderError,
    ValidationError,
    blanked,
)
from batchata_prefect.models import (
    BatchFault,
    BatchState,
    Chunk,
    EndingKind,
    Job,
    ProviderBatch,
    Request,
)
from batchata_prefect.providers import Key, Provider, Requests, lists, wire
from batchata_prefect.providers.accounts import Account
from batchata_prefect.providers.failures import classify, status_of
from batchata_prefect.providers.openai.body import render
from batchata_prefect.providers.openai.facts import (
    BILLING,
    CAREFUL,
    LIMITS,
    LOGIN_FORM,
    PROFILES,
    GptCounting,
    Profile,
    reasons,
)
from batchata_prefect.providers.openai.replies import ordinary, read_row
from batchata_prefect.providers.rendering import fault
from batchata_prefect.providers.rows import count_at, id_at, list_at, object_at, parse, text_at

_SERVED = re.compile(r"gpt-|chatgpt-|o\d|text-embedding-|ft:|codex-|omni-|computer-use-")
_TOKEN, _CHUNK = "batchata_token", "batchata_chunk"
"""Names of what goes with a batch as its metadata."""
_FILE_NAME = re.compile(r"batchata-([0-9a-f]{16})[0-9a-f]{48}\.jsonl")
_HIDDEN = frozenset({400, 403, 404, 405})
"""Statuses of a file that is gone, or that a server does not give."""
_RECENT_FILES = 100
_UNSEEN_TIMES = 3
"""Creates that do not see the file, after which it is uploaded again."""
_STATES: Mapping[str, tuple[BatchState, EndingKind | None]] = {
    "cancelling": ("canceling", None),
    "completed": ("ended", "ended"),
    "cancelled": ("ended", "canceled"),
    "canceled": ("ended", "canceled"),
    "expired": ("ended", "expired"),
    "failed": ("ended", "failed"),
}
_ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")


@dataclass(slots=True)
class _Upload:
    """The request file of a create that did not succeed yet.

    Attributes:
        file_id: Its id; None while it is not known whether it arrived.
        unseen: Times that the API did not see it.
    """

    file_id: str | None = None
    unseen: int = 0


class OpenAI(Provider):
    """Batches: a file with all requests goes up, a file of answers and one of errors come down."""

    name = "openai"
    address = "https://api.openai.com/v1"
    hosts = ("api.openai.com",)
    billing = BILLING
    counting = GptCounting()
    login_form = LOGIN_FORM
    limits = LIMITS
    profile: Profile | None = None
    """What the server of an account takes; None for the provider of the environment."""
    batches_path = "/batches"
    batches_cursor = "after"
    files_path = "/files"
    console = "https://platform.openai.com/batches/{id}"
    keeps_days = 30  # [guides/batch]
    webhook_secret = "OPENAI_WEBHOOK_SECRET"  # noqa: S105 - names a variable, is no secret
    batch_fields: ClassVar[Mapping[str, Any]] = {"purpose": "batch"}
    """What goes up beside the file of a batch."""
    uploads_asked: ClassVar = {"purpose": "user_data", "limit": 1000}
    upload_fields: ClassVar = {
        "purpose": "user_data",
        "expires_after": {"anchor": "created_at", "seconds": wire.UPLOAD_SECONDS},
    }
    """[openai/types/file_create_params.py]"""

    def __init__(self) -> None:
        self._begun: dict[str, _Upload] = {}
        """Token of a chunk whose create began and did not succeed -> its file."""
        self._heads: dict[str, str] = {}
        """Id of a file or a batch -> head of the chunk that it is of; empty for none of ours."""

    @override
    def bind(self, name: str, account: Account) -> None:
        super().bind(name, replace(account, profile=None))
        self.bound = account
        known = account.profile or (OpenAI.name if self.is_listed else CAREFUL)
        if known not in PROFILES:
            raise ValidationError(
                f"account {name!r}: profile is one of {sorted(PROFILES)}, not {known!r}"
            )
        self.profile = profile = PROFILES[known]
        self.keeps_files = profile.keeps_files
        self.limits = replace(
            LIMITS,
            max_requests=profile.max_requests,
            max_bytes=profile.max_bytes,
            max_request_bytes=profile.max_bytes,
        )

    @override
    def verify(self, body: bytes, headers: Mapping[str, str], secret: str) -> None:
        # Within the last five minutes; the client is not used for calls here.
        import openai

        client = openai.OpenAI(api_key="unused", webhook_secret=secret)
        client.webhooks.verify_signature(body, headers)

    @override
    def serves(self, model: str) -> bool:
        return _SERVED.match(model) is not None

    @override
    def most_output(self, model: str) -> int | None:
        return 128_000 if reasons(model) else None  # [models pages]

    @override
    def takes_temperature(self, model: str) -> bool | None:
        return None if "embedding" in model else not reasons(model)

    @override
    def connect(self, key: Key | None = None) -> Any:
        # The SDK's own variables: `OPENAI_API_KEY`, `OPENAI_BASE_URL`, ...
        import openai

        missing = MissingCredentialsError(
            "no OpenAI key: set OPENAI_API_KEY in the environment or in .env"
        )
        try:
            client = wire.sdk_client(
                openai.AsyncOpenAI,
                openai.DefaultAsyncHttpxClient,
                "OPENAI_BASE_URL",
                key,
            )
        except openai.OpenAIError:
            raise missing from None
        if client.api_key == "" and not client.admin_api_key and not client.workload_identity:
            raise missing
        wire.check_keys(
            client, OPENAI_API_KEY=client.api_key, OPENAI_ADMIN_KEY=client.admin_api_key
        )
        return client

    @override
    def render(self, job: Job) -> Request:
        profile = self.profile
        request = render(job, self, has_cache_key=profile is None or profile.has_cache_key)
        if profile is not None and request.endpoint not in profile.endpoints:
            raise fault(
                job,
                f"batches at {self.name} are known to take {', '.join(profile.endpoints)}, not "
                f"{request.endpoint}; name the profile of its server in the account, such as "
                "profile='openai' for one that takes all",
            )
        return request

    @override
    def line(self, custom_id: str, body: bytes, endpoint: str) -> bytes:
        return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}' % (
            custom_id.encode(),
            endpoint.encode(),
            body,
        )

    @override
    async def create(self, client: Any, chunk: Chunk, requests: Requests) -> ProviderBatch:
        # Uploaded as a file, unless it is there already, of which the batch is created.
        upload = await self.sent_ahead(chunk, requests, partial(self._uploaded, client, chunk))
        body = {
            "input_file_id": upload.file_id,
            "endpoint": chunk.endpoint,
            "completion_window": "24h",
            "metadata": {_TOKEN: chunk.token, _CHUNK: chunk.name[:512]},
        }
        try:
            created = await wire.buy(client, "/batches", "id", body)
        except Exception as error:
            if classify(error).kind == "unseen":
                upload.unseen += 1
                # Where the API goes on not to see it, it is uploaded again.
                if upload.unseen % _UNSEEN_TIMES == 0:
                    with suppress(Exception):
                        await self.forget(client, str(upload.file_id))
                    del self._begun[chunk.token]
            raise
        # Only now: until a batch is known to be made of it, the file is to be used again.
        del self._begun[chunk.token]
        self._heads.pop(upload.file_id or "", None)
        return self.batch(created)

    async def _uploaded(self, client: Any, chunk: Chunk, requests: BinaryIO | RawIOBase) -> _Upload:
        """The chunk's file, uploaded unless an earlier create has left it there."""
        upload = self._begun.get(chunk.token)
        if upload is None:
            # Before the upload: one whose answer is lost is looked for by the next create.
            upload = self._begun[chunk.token] = _Upload()
        elif upload.file_id is None:
            size = await asyncio.to_thread(requests.seek, 0, SEEK_END)
            await asyncio.to_thread(requests.seek, 0)
            # Not every key and server may list files; the worst is a second upload, free as well.
            with suppress(Exception):
                left = await _left(client, chunk)
                upload.file_id = next((id_ for id_, bytes_ in left if bytes_ == size), None)
        if upload.file_id is None:
            # The SDK reads a path into memory, and streams an open file [openai/_files.py].
            upload.file_id = await self.upload(
                client, _file_name(chunk), "application/jsonl", requests, self.batch_fields
            )
        # A server may not tell names either.
        self._heads[upload.file_id] = chunk.head
        if not await self._is_usable(client, upload.file_id):
            del self._begun[chunk.token]
            raise ProviderError("the provider cannot read the file; it is uploaded again")
        return upload

    async def _is_usable(self, client: Any, file_id: str) -> bool:
        """Whether a batch can be made of an uploaded file, once that is known."""
        return True

    @override
    async def withdraw(self, client: Any, chunk: Chunk) -> None:
        upload = self._begun.pop(chunk.token, None)
        known = [upload.file_id] if upload is not None and upload.file_id is not None else []
        for file_id in known or [file_id for file_id, _ in await _left(client, chunk)]:
            await self.forget(client, file_id)

    @override
    async def answer(self, client: Any, custom_id: str, body: bytes, endpoint: str) -> bytes:
        # The client's base URL ends in /v1.
        return await self._asked(client, custom_id, body, endpoint.removeprefix("/v1"))

    async def _asked(self, client: Any, custom_id: str, body: bytes, path: str) -> bytes:
        """Send one realtime request to a path: the reply as a result row."""
        answered, status, error = await wire.ask(client, path, "object", body)
        told = answered if answered is not None else dumps({"error": error}).encode()
        form = b'{"custom_id":"%b","response":{"status_code":%d,"body":%b},"error":null}'
        return form % (custom_id.encode(), status, told)

    @override
    def token(self, item: Mapping[str, Any]) -> str | None:
        return text_at(object_at(item, "metadata"), _TOKEN)

    @override
    async def head(self, client: Any, item: Mapping[str, Any], batch: ProviderBatch) -> str | None:
        # By its metadata, its file, or its rows. Not every server that speaks this API gives
        # metadata back, keeps the names of files, or shows what is in them; each alone is proof.
        if (token := self.token(item)) is not None:
            return token[:16]
        file_id, name = batch.input_file_id, batch.batch_id
        if (known := self._heads.get(name, self._heads.get(file_id or ""))) is not None:
            return known
        told = None if file_id is None else await self._head_of_file(client, file_id)
        if told is None and batch.state == "ended":
            told = await lists.head_of(self.download(client, batch), _HIDDEN)
        if told is not None:
            self._heads[name] = told
        return told

    async def _head_of_file(self, client: Any, file_id: str) -> str | None:
        path = f"{self.files_path}/{file_id}"
        try:
            file = await wire.get(client, path, "id")
        except Exception as error:
            if status_of(error) not in _HIDDEN:
                raise
            file = {}
        if (match := _FILE_NAME.fullmatch(text_at(file, "filename") or "")) is not None:
            return match[1]
        if self.is_own(wire.base_url(client)):
            # There both are given back, so that it is somebody else's.
            return ""
        return await lists.head_of(wire.stream(client, f"{path}/content"), _HIDDEN)

    @override
    def batch(self, data: Mapping[str, Any]) -> ProviderBatch:
        status = str(data.get("status"))
        # Azure's documents have them with a capital as well, and an empty text for no file.
        state, ending = _STATES.get(status.lower(), ("in_progress", None))
        counts = object_at(data, "request_counts")
        total: int | None = count_at(counts, "total") or None
        done = count_at(counts, "completed"), count_at(counts, "failed")
        ended = [at for name in _ENDS if (at := wire.moment(data.get(name))) is not None]
        files = [id_at(data, name) for name in ("output_file_id", "error_file_id")]
        is_bare = not any(files) and not total
        if is_bare and ending in {"canceled", "expired"} and data.get("in_progress_at"):
            # It ran, so it counts its requests and has files of those that it answered; before it
            # shows either, it must not be taken for one of which nothing ran and nothing was paid.
            state, ending = ("canceling" if ending == "canceled" else "in_progress"), None
        if ending == "failed" and (any(files) or any(done)):
            # AIBrix, Doubleword and Azure say so of one that ran and failed on its way, or whose
            # rows all failed: what it has may have been paid for, and is fetched.
            ending, total = "ended", sum(done) if counts else total
        return ProviderBatch(
            batch_id=str(data["id"]),
            state=state,
            raw_status=status,
            ending=ending,
            # All counts are 0 while the file is being validated, and when it was refused.
            total=total,
            succeeded=done[0],
            failed=done[1],
            created_at=wire.moment(data.get("created_at")),
            expires_at=wire.moment(data.get("expires_at")),
            ended_at=ended[0] if ended else None,
            faults=tuple(_fault(item) for item in list_at(object_at(data, "errors"), "data")),
            output_file_id=files[0],
            error_file_id=files[1],
            input_file_id=id_at(data, "input_file_id"),
        )

    @override
    async def download(self, client: Any, batch: ProviderBatch) -> AsyncGenerator[bytes]:
        # The output file, then the error file; either may not exist, and both may be one.
        end = b"\n"
        for file_id in dict.fromkeys((batch.output_file_id, batch.error_file_id)):
            if file_id is None:
                continue
            if end != b"\n":
                yield b"\n"
            async with aclosing(wire.stream(client, f"/files/{file_id}/content")) as pieces:
                async for piece in pieces:
                    end = piece[-1:] or end
                    yield piece

    @override
    def read(self, row: bytes, endpoint: str) -> Reply:
        # The fast way first: it takes only what it reads exactly as the other one would.
        if (reply := ordinary(row)) is not None:
            return reply
        return read_row(*parse(row, is_exact="embeddings" not in endpoint))

    @override
    def uploads_following(self, page: Mapping[str, Any]) -> Mapping[str, Any]:
        items = list_at(page, "data")
        return {"after": items[-1]["id"]} if page.get("has_more") and items else {}


def _file_name(chunk: Chunk) -> str:
    return f"batchata-{chunk.token}.jsonl"


async def _left(client: Any, chunk: Chunk) -> list[tuple[str, int]]:
    """Id and size in bytes of the chunk's files among the newest uploads."""
    params = {"purpose": "batch", "order": "desc", "limit": _RECENT_FILES}
    page = await wire.get(client, "/files", "data", params)
    files = [cast("dict[str, Any]", item) for item in list_at(page, "data")]
    return [
        (str(file["id"]), count_at(file, "bytes"))
        for file in files
        if file.get("filename") == _file_name(chunk) and "id" in file
    ]


def _fault(item: Any) -> BatchFault:
    fault = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    return BatchFault(
        code=text_at(fault, "code") or "unknown",
        message=blanked(text_at(fault, "message")) or "no reason given",
        line=count_at(fault, "line") or None,
        param=text_at(fault, "param"),
    )
