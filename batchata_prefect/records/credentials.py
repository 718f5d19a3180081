"""The providers' keys in Prefect blocks, so that several accounts or workspaces work side by side.

A run names the blocks, and the names alone stand in its settings and records:

```python
Batch("out", credentials={"anthropic": "team-a", "openai": "team-b"})
```
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

from prefect.blocks.abstract import CredentialsBlock
from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from batchata_prefect.errors import MissingCredentialsError
from batchata_prefect.providers import Key, Provider, providers


class _Credentials(CredentialsBlock):
    """What the blocks of all providers have."""

    api_key: SecretStr = Field(title="API key", description="The key of the account.")
    base_url: str | None = Field(
        default=None,
        title="Base URL",
        description="Where requests go, if not to the provider itself.",
    )

    def key(self) -> Key:
        """What the provider connects with."""
        return Key(self.api_key.get_secret_value(), self.base_url)


class AnthropicCredentials(_Credentials):
    """A key of one Anthropic workspace.

    Example:
        ```python
        from batchata_prefect.blocks import AnthropicCredentials

        credentials = AnthropicCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Batchata Anthropic Credentials"
    _block_type_slug = "batchata-anthropic-credentials"
    _description = "A key for Anthropic's Message Batches, as batchata-prefect uses it."
    _documentation_url = cast("Any", "https://platform.claude.com/docs/en/api/overview")
    _logo_url = cast("Any", "https://avatars.githubusercontent.com/u/76263028?s=200")

    def get_client(self) -> Any:
        """An `anthropic.AsyncAnthropic`, with the timeouts and retries that runs use."""
        return providers()["anthropic"].connect(self.key())


class AzureCredentials(_Credentials):
    """A login of one Azure OpenAI resource.

    Example:
        ```python
        from batchata_prefect.blocks import AzureCredentials

        credentials = AzureCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Batchata Azure OpenAI Credentials"
    _block_type_slug = "batchata-azure-credentials"
    _description = "A login for Azure OpenAI's batch API, as batchata-prefect uses it."
    _documentation_url = cast(
        "Any", "https://learn.microsoft.com/azure/foundry/openai/how-to/batch"
    )
    _logo_url = cast("Any", "https://avatars.githubusercontent.com/u/6844498?s=200")

    api_key: SecretStr = Field(
        default=SecretStr(""),
        title="API key",
        description="The key of the resource; none for a login with Microsoft Entra ID.",
    )
    base_url: str | None = Field(
        default=None,
        title="Endpoint",
        description="Address of the resource, such as https://NAME.openai.azure.com.",
    )
    api_version: str | None = Field(
        default=None, description="Day of a version of the API; without one, that of /openai/v1."
    )
    realtime_deployment: str | None = Field(
        default=None, description="Deployment for direct requests, which one for batches refuses."
    )
    azure_ad_token_provider: str | None = Field(
        default=None,
        description="Class of azure.identity that logs in; DefaultAzureCredential without a key.",
    )

    def key(self) -> Key:
        """What the provider connects with."""
        names = ("api_version", "realtime_deployment", "azure_ad_token_provider")
        options = {name: value for name in names if (value := getattr(self, name))}
        return replace(super().key(), options=options)

    def get_client(self) -> Any:
        """An `openai.AsyncAzureOpenAI`, with the timeouts and retries that runs use."""
        return providers()["azure"].connect(self.key())


class GeminiCredentials(_Credentials):
    """A key of one Google project.

    Example:
        ```python
        from batchata_prefect.blocks import GeminiCredentials

        credentials = GeminiCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Batchata Gemini Credentials"
    _block_type_slug = "batchata-gemini-credentials"
    _description = "A key for Gemini's Batch API, as batchata-prefect uses it."
    _documentation_url = cast("Any", "https://ai.google.dev/gemini-api/docs/batch-api")
    _logo_url = cast("Any", "https://avatars.githubusercontent.com/u/161781182?s=200")

    def get_client(self) -> Any:
        """A client with which the verbs of `providers.gemini` are called."""
        return providers()["gemini"].connect(self.key())


class OpenAICredentials(_Credentials):
    """A key of one OpenAI project.

    Example:
        ```python
        from batchata_prefect.blocks import OpenAICredentials

        credentials = OpenAICredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Batchata OpenAI Credentials"
    _block_type_slug = "batchata-openai-credentials"
    _description = "A key for OpenAI's Batch API, as batchata-prefect uses it."
    _documentation_url = cast("Any", "https://developers.openai.com/api/docs/guides/batch")
    _logo_url = cast("Any", "https://avatars.githubusercontent.com/u/14957082?s=200")

    organization: str | None = Field(
        default=None, description="Organization that is charged, where the key is of several."
    )
    project: str | None = Field(
        default=None, description="Project that is charged, where the key is of several."
    )

    def key(self) -> Key:
        """What the provider connects with."""
        named = {"organization": self.organization, "project": self.project}
        options = {name: value for name, value in named.items() if value}
        return replace(super().key(), options=options)

    def get_client(self) -> Any:
        """An `openai.AsyncOpenAI`, with the timeouts and retries that runs use."""
        return providers()["openai"].connect(self.key())


_KINDS = {
    "anthropic": AnthropicCredentials._block_type_slug,  # pyright: ignore[reportPrivateUsage]
    "azure": AzureCredentials._block_type_slug,  # pyright: ignore[reportPrivateUsage]
    "gemini": GeminiCredentials._block_type_slug,  # pyright: ignore[reportPrivateUsage]
    "openai": OpenAICredentials._block_type_slug,  # pyright: ignore[reportPrivateUsage]
}


async def connect(provider: Provider, credentials: str | None = None) -> Any:
    """A client of a provider; whoever asks for it closes it.

    Args:
        provider: The provider.
        credentials: Name of the block with its key, or `type/name`; None for the environment's.

    Raises:
        MissingCredentialsError: There is no such block, or it is none of credentials; or the
            environment has no key.
    """
    block = credentials or (provider.bound and provider.bound.credentials)
    key = provider.login(await _key_in(block, provider.kind) if block else None)
    # To make a client takes a while, in which other runs of this process have to go on.
    return await asyncio.to_thread(provider.connect, key)


async def _key_in(name: str, provider: str) -> Key:
    kind = _KINDS.get(provider)
    full = name if "/" in name or kind is None else f"{kind}/{name}"
    try:
        block: Any = await Block.aload(full)
    except Exception as error:
        raise MissingCredentialsError(
            f"the credentials block {full!r} for {provider} cannot be loaded ({error}). Nothing "
            "was sent. Make it in the Prefect UI, or with `prefect block register -m "
            "batchata_prefect.blocks` and its save()"
        ) from error
    if not hasattr(block, "key"):
        raise MissingCredentialsError(
            f"the block {full!r} is none with a key for {provider}; name one of the type {kind!r}"
        )
    return block.key()
