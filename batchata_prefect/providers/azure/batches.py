"""Azure OpenAI: OpenAI's Files and Batches at a resource, with its own paths, names and logins.

Sources: openai/lib/azure.py (3.54.0); learn.microsoft.com, foundry/openai: how-to/batch (August
2026), api-version-lifecycle, authoring-reference-preview; openai-dotnet#312. None of it was tried
at a live resource.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote
from weakref import WeakKeyDictionary

import orjson
from typing_extensions import override

from batchata_prefect.errors import MissingCredentialsError, keep_secret, one_line
from batchata_prefect.models import Chunk, Job, ProviderBatch, Request
from batchata_prefect.money.billing import Billing
from batchata_prefect.providers import Key, LoginForm, Provider, Requests, wire
from batchata_prefect.providers.accounts import Account
from batchata_prefect.providers.failures import HeldBackError
from batchata_prefect.providers.openai import OpenAI
from batchata_prefect.providers.openai.body import render
from batchata_prefect.providers.openai.facts import EMBEDDINGS, LIMITS
from batchata_prefect.providers.refusals import CHAT
from batchata_prefect.providers.rendering import fault

_CHAT = "/chat/completions"
"""What a line and a create call chat completions. Of a create it is said that "while passing this
parameter is required, the system will read your input file" for the endpoint [how-to/batch]."""
_V1 = ("v1", "preview")
"""Versions of the API below `/openai/v1` [openai/latest]; that of a day is below `/openai`."""
_SCOPE = "https://cognitiveservices.azure.com/.default"
_FILE_SECONDS = 14 * 24 * 3600
"""The shortest time after which an input file may end; 500 files may lie there without an end, and
10,000 with one [how-to/batch]."""
_LOOKS_SECONDS = 60.0
"""For which a create waits for its file: asked again, it goes on to wait."""

_live: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Client -> the deployment that answers direct requests."""


class Azure(OpenAI):
    """Batches of one resource; a job's model is the name of a deployment for batches.

    Such a name tells nothing of the model: no price, no limit and no parameter is known by it.
    """

    name = "azure"
    address = None
    hosts = ("azure.com",)
    billing = Billing()
    auths = frozenset({"entra"})
    login_form = LoginForm(
        "Azure OpenAI",
        "A login for Azure OpenAI's batch API, as batchata-prefect uses it.",
        "https://learn.microsoft.com/azure/foundry/openai/how-to/batch",
        "https://avatars.githubusercontent.com/u/6844498?s=200",
        {
            "api_version": "Day of a version of the API; without one, that of /openai/v1.",
            "realtime_deployment": "Deployment for direct requests, which one for batches refuses.",
            "azure_ad_token_provider": "Class of azure.identity that logs in; "
            "DefaultAzureCredential without a key.",
        },
        key="The key of the resource; none for a login with Microsoft Entra ID.",
        needs_key=False,
        address_title="Endpoint",
        address="Address of the resource, such as https://NAME.openai.azure.com.",
    )
    limits = replace(LIMITS, max_requests=100_000, calls=LIMITS.calls + 2)
    keeps_files = False
    keeps_days = None
    webhook_secret = None
    batch_fields: ClassVar = {
        "purpose": "batch",
        "expires_after": {"anchor": "created_at", "seconds": _FILE_SECONDS},
    }

    @override
    def bind(self, name: str, account: Account) -> None:
        Provider.bind(self, name, account)

    @override
    def serves(self, model: str) -> bool:
        return False

    @override
    def most_output(self, model: str) -> int | None:
        return None

    @override
    def takes_temperature(self, model: str) -> bool | None:
        return None

    @override
    def connect(self, key: Key | None = None) -> Any:
        # The SDK's own variables, and besides them a deployment for direct requests.
        import openai

        options = dict(key.options) if key else {}
        env: Mapping[str, str] = {} if key else os.environ
        address = key.base_url if key else env.get("AZURE_OPENAI_ENDPOINT")
        if not address:
            raise MissingCredentialsError(
                "no Azure OpenAI resource: set AZURE_OPENAI_ENDPOINT in the environment or in "
                ".env, or base_url of the account, to its address, such as "
                "https://NAME.openai.azure.com"
            )
        version = options.pop("api_version", None) or env.get("OPENAI_API_VERSION") or "v1"
        live = options.pop("realtime_deployment", env.get("AZURE_OPENAI_REALTIME_DEPLOYMENT"))
        login = _login(key, options.pop("azure_ad_token_provider", None))
        root = re.sub(r"/openai(/v1)?/*$", "", address.rstrip("/"))
        client = wire.sdk_client(
            openai.AsyncAzureOpenAI,
            openai.DefaultAsyncHttpxClient,
            "AZURE_OPENAI_ENDPOINT",
            key,
            {
                **options,
                **login,
                "base_url": f"{root}/openai/v1" if version in _V1 else f"{root}/openai",
                "api_version": version,
            },
        )
        wire.check_keys(
            client,
            AZURE_OPENAI_API_KEY=login.get("api_key"),
            AZURE_OPENAI_AD_TOKEN=login.get("azure_ad_token"),
        )
        if live:
            _live[client] = live
        return client

    @override
    def account(self, client: Any) -> str:
        # It is the same resource by either path.
        return super().account(client).removesuffix("/v1")

    @override
    def render(self, job: Job) -> Request:
        if job.endpoint == EMBEDDINGS:
            raise fault(job, "Azure OpenAI has no batches of embeddings; send it to OpenAI")
        return render(job, self, is_named=False)

    @override
    def line(self, custom_id: str, body: bytes, endpoint: str) -> bytes:
        return super().line(custom_id, body, _CHAT if endpoint == CHAT else endpoint)

    @override
    async def create(self, client: Any, chunk: Chunk, requests: Requests) -> ProviderBatch:
        return await super().create(client, replace(chunk, endpoint=_CHAT), requests)

    @override
    async def _is_usable(self, client: Any, file_id: str) -> bool:
        # A batch of a file that is not processed yet is refused [openai-dotnet#312].
        seconds = 0.1
        async with asyncio.timeout(_LOOKS_SECONDS):
            while True:
                file = await wire.get(client, f"{self.files_path}/{file_id}", "id")
                status = str(file.get("status") or "processed").lower()
                if status not in {"pending", "running", "uploaded", "notrunning"}:
                    return status == "processed"
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, 5.0)

    @override
    async def answer(self, client: Any, custom_id: str, body: bytes, endpoint: str) -> bytes:
        # By a deployment of another kind: one for batches answers no direct request. The SDK would
        # write its name into the path only of a body that it has dumped itself.
        asked = orjson.loads(body)
        asked["model"] = name = _live.get(client) or str(asked["model"])
        path = endpoint.removeprefix("/v1")
        if endpoint == CHAT and not wire.base_url(client).endswith("/v1"):
            path = f"/deployments/{quote(name, safe='')}{path}"
        return await self._asked(client, custom_id, orjson.dumps(asked), path)

    @override
    def batch(self, data: Mapping[str, Any]) -> ProviderBatch:
        # "Jobs taking longer than 24 hours will continue to execute until canceled."
        return replace(super().batch(data), expires_at=None)


def _login(key: Key | None, credential: str | None) -> dict[str, Any]:
    """What the client shows: a key, a token, or what Microsoft Entra ID gives it.

    Args:
        key: The account; those of the environment, without one, in the SDK's order.
        credential: The class of azure.identity that logs in.
    """
    if key is None and (token := os.environ.get("AZURE_OPENAI_AD_TOKEN")):
        return {"azure_ad_token": token}
    api_key = key.api_key if key else os.environ.get("AZURE_OPENAI_API_KEY")
    if api_key and credential is None:
        return {"api_key": api_key}
    return {"azure_ad_token_provider": _entra(credential or "DefaultAzureCredential")}


def _entra(credential: str) -> Callable[[], Awaitable[str]]:
    """Gives a token of Microsoft Entra ID, as fresh as it has to be."""
    try:
        from azure import identity
    except ImportError:
        raise MissingCredentialsError(
            "no Azure OpenAI key: set AZURE_OPENAI_API_KEY in the environment or in .env, or "
            "install batchata-prefect[azure] to log in with Microsoft Entra ID"
        ) from None
    kind = getattr(identity, credential, None) if credential.endswith("Credential") else None
    if kind is None:
        raise MissingCredentialsError(
            f"azure_ad_token_provider {credential!r} is no credential of azure.identity; name one "
            "such as DefaultAzureCredential or ManagedIdentityCredential"
        )
    ask = identity.get_bearer_token_provider(kind(), _SCOPE)

    def told() -> str:
        token = ask()
        keep_secret(token)
        return token

    async def fresh() -> str:
        # It may ask the network, and is asked before every call.
        try:
            return await asyncio.to_thread(told)
        except Exception as error:
            # What is wrong may pass by itself, and nothing has left yet.
            raise HeldBackError(f"Microsoft Entra ID gave no token ({one_line(error)})") from None

    try:
        told()
    except Exception as error:
        raise MissingCredentialsError(
            f"no Azure OpenAI key, and Microsoft Entra ID gave no token ({one_line(error)}). "
            "Nothing was sent: set AZURE_OPENAI_API_KEY, or log in, as with `az login`"
        ) from None
    return fresh
