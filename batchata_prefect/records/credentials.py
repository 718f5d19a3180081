"""The providers' keys in Prefect blocks, so that several accounts or workspaces work side by side.

A run names the blocks, and the names alone stand in its settings and records:

```python
Batch("out", credentials={"anthropic": "team-a", "openai": "team-b"})
```
"""

from __future__ import annotations

import asyncio
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from batchata_prefect.errors import MissingCredentialsError
from batchata_prefect.providers import Key, LoginForm, Provider, providers


class Credentials(CredentialsBlock):
    """A login of one account at a provider."""

    _provider: ClassVar[str]

    api_key: SecretStr
    base_url: str | None = None

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            """The types of the providers have more fields, and a key is given as a text as well."""

    def key(self) -> Key:
        """What the provider connects with."""
        known = set(Credentials.model_fields)
        options = {
            name: value
            for name in type(self).model_fields
            if name not in known and (value := getattr(self, name))
        }
        return Key(self.api_key.get_secret_value(), self.base_url, options)

    def get_client(self) -> Any:
        """The client that runs use, with their timeouts and retries."""
        return providers()[self._provider].connect(self.key())


def block_type(provider: Provider, form: LoginForm) -> type[Credentials]:
    """The block type of a provider's credentials, as Prefect shows it."""
    name = f"{type(provider).__name__}Credentials"
    default: Any = ... if form.needs_key else SecretStr("")
    fields: dict[str, tuple[Any, Any]] = {
        "api_key": (SecretStr, Field(default, title="API key", description=form.key)),
        "base_url": (str | None, Field(None, title=form.address_title, description=form.address)),
    }
    for option, what in form.options.items():
        fields[option] = (str | None, Field(None, description=what))
    about = f"""{form.what}

    Example:
        ```python
        from batchata_prefect.blocks import {name}

        credentials = {name}.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """
    namespace = {
        "__module__": "batchata_prefect.blocks",
        "__doc__": about,
        "__annotations__": {field: kind for field, (kind, _) in fields.items()},
        **{field: value for field, (_, value) in fields.items()},
        "_provider": provider.kind,
        "_block_type_name": f"Batchata {form.title} Credentials",
        "_block_type_slug": f"batchata-{provider.kind}-credentials",
        "_description": form.what,
        "_documentation_url": form.page,
        "_logo_url": form.logo,
    }
    return new_class(name, (Credentials,), exec_body=lambda space: space.update(namespace))


BLOCKS = {
    kind: block_type(each, each.login_form)
    for kind, each in providers().items()
    if each.login_form is not None
}
"""Name of a provider -> the type of its block."""


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
    known = BLOCKS.get(provider)
    kind = None if known is None else known.get_block_type_slug()
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
