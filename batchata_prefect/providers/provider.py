"""What a provider is: the verbs and the facts that all of them have.

It knows the wire of one API and nothing of Prefect, budgets or where files lie; it is handed a
ready SDK client.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, BinaryIO, ClassVar, TypeAlias, TypeVar
from urllib.parse import urlsplit

from batchata_prefect.answers import Reply
from batchata_prefect.errors import (
    MissingCredentialsError,
    ValidationError,
    one_line,
)
from batchata_prefect.models import Chunk, Job, ProviderBatch, Request
from batchata_prefect.money.billing import Billing
from batchata_prefect.providers import bodies, lists, wire
from batchata_prefect.providers.accounts import Account, Key, LoginForm
from batchata_prefect.providers.bodies import Again
from batchata_prefect.providers.failures import NotSentError, status_of
from batchata_prefect.providers.rows import objects_at
from batchata_prefect.providers.tokens import Counting

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one provider batch may hold.

    Attributes:
        max_requests: Requests.
        max_bytes: Bytes on the wire.
        max_request_bytes: Bytes of a single request body.
        calls: API calls for one batch, besides its polls.
    """

    max_requests: int
    max_bytes: int
    max_request_bytes: int
    calls: int = 2


Requests: TypeAlias = Callable[[], BinaryIO | RawIOBase]
"""Opens the chunk file from its start, as often as it is sent: a request and a newline a line."""


class Provider(lists.Batches):
    """The verbs of a provider. `client` is always the SDK's async client from `connect`.

    A provider writes those without a body here. The others are the same wherever batches lie at one
    path, and are written again only where its API differs.

    Attributes:
        name: What it goes by, in jobs, records and prices; of an account, the account's name.
        bound: The account whose provider it is; None for that of the environment.
        address: Its own base URL, for accounts that name none; None where there is no single one.
        hosts: Hosts of its own, where the prices on the list hold; subdomains are theirs too.
        billing: How it bills.
        counting: How its models count tokens.
        auths: What can log in without a key, as accounts name it.
        login_form: What its block of credentials asks for; None where it has no such block.
        limits: What one of its batches may hold.
        cites: Whether it has citations of its own.
        keeps_files: Whether documents can be stored there for the requests of a batch.
        files_path: Path of its files.
        gone: Statuses that say of a file that there is none.
        uploads_asked: What a list of stored documents is asked by.
        upload_fields: What goes up beside a document, for it to be stored for some days.
        console: Page of its console for a batch, with its `{id}`; None where none is known.
        webhook_secret: Variable with the secret of its webhooks; None where it sends none that
            tell of batches.
    """

    name: str
    bound: Account | None = None
    address: ClassVar[str | None] = None
    hosts: ClassVar[tuple[str, ...]] = ()
    billing: ClassVar[Billing] = Billing()
    counting: ClassVar[Counting] = Counting()
    auths: ClassVar[frozenset[str]] = frozenset()
    login_form: ClassVar[LoginForm | None] = None
    limits: Limits
    cites: ClassVar[bool] = False
    keeps_files: bool = True
    files_path: ClassVar[str]
    gone: ClassVar[frozenset[int]] = frozenset({404})
    uploads_asked: ClassVar[Mapping[str, Any]] = {"limit": 1000}
    upload_fields: ClassVar[Mapping[str, Any]] = {}
    console: ClassVar[str | None] = None
    webhook_secret: ClassVar[str | None] = None

    @property
    def kind(self) -> str:
        """Name of the provider whose API it speaks; `name` but for an account."""
        return type(self).name

    def bind(self, name: str, account: Account) -> None:
        """Be the provider of an account.

        Raises:
            ValidationError: There is no profile of that name.
        """
        self.name, self.bound = name, account
        if account.profile is not None:
            raise ValidationError(f"account {name!r}: there are no profiles of {self.kind}")

    @property
    def is_listed(self) -> bool:
        """Whether the prices on the list are those of this account."""
        # An account without an address goes to none but the provider's own: `login` sees to it.
        return self.is_own(None if self.bound is None else self.bound.base_url)

    def is_own(self, url: str | None) -> bool:
        """Whether an address is the provider's own; so is none, which is left to its SDK."""
        host = urlsplit(url or "").hostname or ""
        return url is None or any(host == own or host.endswith(f".{own}") for own in self.hosts)

    @abstractmethod
    def serves(self, model: str) -> bool:
        """Whether the model's name looks like one of this provider's."""

    def most_output(self, model: str) -> int | None:
        """The most output tokens of a model; None where nothing is known."""
        return None

    def takes_temperature(self, model: str) -> bool | None:
        """Whether a model takes a temperature; None where nothing is known."""
        return None

    def login(self, held: Key | None = None) -> Key | None:
        """What the account connects with; None to go by the SDK's own variables.

        Args:
            held: What a credentials block holds, in place of a variable.

        Raises:
            MissingCredentialsError: The variable of the account is not set, or its block names an
                address that is not the provider's own and that the account does not name.
        """
        account = self.bound
        if account is None:
            return held
        if held is None and account.auth is not None:
            held = Key("")
        if held is None:
            secret = os.environ.get(account.api_key_env or "")
            if not secret:
                raise MissingCredentialsError(
                    f"no key for {self.name}: set {account.api_key_env} in the environment or in "
                    ".env. Nothing was sent"
                )
            held = Key(secret)
        if account.base_url is None and not self.is_own(held.base_url):
            raise MissingCredentialsError(
                f"account {self.name!r}: its credentials block sends to "
                f"{urlsplit(held.base_url or '').hostname}, where the listed prices of {self.kind} "
                "do not hold; give that address as base_url of the account as well. Nothing was "
                "sent"
            )
        # The SDK's own variable belongs to the key of the environment.
        url = account.base_url or held.base_url or self.address
        return Key(held.api_key, url, {**held.options, **dict(account.options)}, is_alone=True)

    @abstractmethod
    def connect(self, key: Key | None = None) -> Any:
        """A ready async SDK client.

        Args:
            key: Credentials; those in the environment by default.

        Raises:
            MissingCredentialsError: No API key is set.
        """

    def account(self, client: Any) -> str:
        """A stable name of where the client's requests go, without any secret: the base URL."""
        return wire.base_url(client)

    @abstractmethod
    def render(self, job: Job) -> Request:
        """The job's exact request, with its estimate.

        Raises:
            ValidationError: The provider would not take the job; the text names the job and why.
        """

    @abstractmethod
    def line(self, custom_id: str, body: bytes, endpoint: str) -> bytes:
        """One line of a chunk file, without the newline."""

    def wire_bytes(self, lines_bytes: int, count: int) -> int:
        """Bytes on the wire of `count` lines of `lines_bytes` bytes in all, newlines left out."""
        return lines_bytes + count

    @abstractmethod
    async def create(self, client: Any, chunk: Chunk, requests: Requests) -> ProviderBatch:
        """Create the provider batch of these requests; the one call that costs money.

        Never retried inside. What an error of it proves is read by `failures.classify`; one that
        was raised before anything could be made is a `failures.NotSentError`.
        """

    @abstractmethod
    async def answer(self, client: Any, custom_id: str, body: bytes, endpoint: str) -> bytes:
        """Send one request through the realtime API, at its price: the reply as a result row.

        Sent once, never repeated inside. A refusal of the request itself is a row too; what any
        other error proves is read by `failures.classify`.
        """

    async def poll(self, client: Any, batch_id: str) -> ProviderBatch:
        """The batch as it stands now."""
        path = f"{self.batches_path}/{batch_id}"
        return self.batch(await wire.get(client, path, self.id_field))

    async def cancel(self, client: Any, batch_id: str) -> ProviderBatch:
        """Ask for the batch's cancellation; an ended batch is given back as it is."""
        try:
            reply = await wire.post(client, f"{self.batches_path}/{batch_id}/cancel")
        except Exception as error:
            # A batch that has ended is refused. OpenAI: 409 `Cannot cancel a batch with status
            # 'completed'.`; what Anthropic answers is not documented, and can only be a 4xx.
            if status_of(error) not in {400, 404, 409, 422}:
                raise
            return await self.poll(client, batch_id)
        return self.batch(wire.read_object(reply, self.id_field))

    @abstractmethod
    def read(self, row: bytes, endpoint: str) -> Reply:
        """One result row, read leniently: unknown fields and blocks do not hurt.

        Raises:
            ParseError: The row is not JSON or carries no custom_id.
        """

    async def sent_ahead(
        self,
        chunk: Chunk,
        requests: Requests,
        upload: Callable[[BinaryIO | RawIOBase], Awaitable[T]],
    ) -> T:
        """What `upload` makes of the chunk's file, of which the batch will be created.

        Raises:
            NotSentError: It could not be uploaded.
        """
        with await asyncio.to_thread(requests) as file:
            try:
                return await upload(file)
            except Exception as error:
                raise NotSentError(
                    f"{chunk.name}: its request file could not be uploaded ({one_line(error)}); "
                    "nothing was created or paid"
                ) from error

    async def upload(
        self,
        client: Any,
        name: str,
        media_type: str,
        data: bytes | BinaryIO | RawIOBase,
        fields: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a document at the provider for some days, or what other fields say: its id."""
        reply = await wire.send(
            client,
            self.files_path,
            "id",
            headers={"Content-Type": "multipart/form-data"},
            body=dict(self.upload_fields if fields is None else fields),
            files=[("file", (name, data, media_type))],
        )
        return str(reply["id"])

    async def uploads(self, client: Any, prefix: str) -> dict[str, str]:
        """Name -> id of the stored documents whose name begins with `prefix`."""
        pages = lists.paged(
            client, self.files_path, "data", self.uploads_asked, self.uploads_following
        )
        return {
            str(item["filename"]): str(item["id"])
            async for page in pages
            for item in objects_at(page, "data")
            if str(item.get("filename") or "").startswith(prefix)
        }

    def uploads_following(self, page: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of a page of stored documents asks for the next one; empty for none."""
        return {}

    async def forget(self, client: Any, file_id: str) -> None:
        """Delete a file; one that is gone does not matter."""
        await wire.delete(client, f"{self.files_path}/{file_id}", gone=self.gone)

    def verify(self, body: bytes, headers: Mapping[str, str], secret: str) -> None:
        """Check the signature of a webhook.

        Raises:
            Exception: It is none of this provider's; it may be anything that breaks the check.
        """
        raise NotImplementedError

    def reworded(self, body: bytes, answer: str, fault: str) -> Again | None:
        """The request with the answer to it and what was wrong with it, to be asked once more.

        None where the request has no dialogue.
        """
        return bodies.reworded(body, answer, fault)

    def roomier(self, body: bytes, model: str) -> Again | None:
        """The request with more output tokens; None where the model has no more."""
        return bodies.roomier(body, self.most_output(model))

    def continued(self, body: bytes, row: bytes, *, goes_on: bool) -> Again | None:
        """The request with the turn that the provider paused, for the model to go on with it.

        None where the provider pauses no turns.

        Args:
            body: The request.
            row: The row of the reply, as it came.
            goes_on: Whether the request itself already continues a turn.
        """
        return None

    async def withdraw(self, client: Any, chunk: Chunk) -> None:
        """Delete what creates of a chunk have uploaded, of which no batch was made."""
        return

    async def discard(self, client: Any, batch: ProviderBatch) -> None:
        """Delete what was uploaded for the batch; the answers stay. Missing files do not matter."""
        if batch.input_file_id is not None:
            await self.forget(client, batch.input_file_id)
