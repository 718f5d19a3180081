"""What an account connects with, and the accounts of a run beside those that the environment names.

A table of them stands in the settings and records of a run, and never holds a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from batchata_prefect.errors import OptionError, ValidationError
from batchata_prefect.files import read_table


@dataclass(frozen=True, slots=True)
class Key:
    """Credentials of one account, in place of those in the environment.

    Attributes:
        api_key: The secret; in no text of this object.
        base_url: Where requests go; None for the SDK's own.
        options: Further arguments of the SDK's client, such as `project`.
        is_alone: Whether nothing of the environment goes with it, such as a project or headers.
    """

    api_key: str = field(repr=False)
    base_url: str | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    is_alone: bool = False

    def arguments(self) -> dict[str, Any]:
        """Arguments of the SDK's client."""
        given = {"api_key": self.api_key, **self.options}
        return given if self.base_url is None else {**given, "base_url": self.base_url}


@dataclass(frozen=True, slots=True)
class LoginForm:
    """What the Prefect block of a provider's credentials shows and asks for.

    Attributes:
        title: What the provider is called.
        what: What the block holds.
        page: Address of its documentation.
        logo: Address of its picture.
        options: Name of a further argument of the SDK's client -> what it is.
        instead: Name of an argument of the client that an account cannot give -> what to give in
            its place.
        key: What the key is.
        needs_key: Whether there is no login without one.
        address_title: What the base URL is called.
        address: What the base URL is.
    """

    title: str
    what: str
    page: str
    logo: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    instead: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str = "The key of the account."
    needs_key: bool = True
    address_title: str = "Base URL"
    address: str = "Where requests go, if not to the provider itself."


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
IDENTITY = ("kind", "base_url", "api_key_env", "credentials", "auth")
"""What two accounts have alike that are one under two names."""

_OF_ACCOUNT = (*IDENTITY, "profile", "options")


@dataclass(frozen=True, slots=True)
class Account:
    """One endpoint of a kind of provider, with a login of its own; holds no secret.

    Attributes:
        kind: Name of the provider whose API it speaks.
        base_url: Where requests go; None for the kind's own address, or another of it in the block.
        api_key_env: Name of the environment variable with its key.
        credentials: Name of the Prefect credentials block with its key, in place of a variable.
        auth: What logs in without a key, such as `entra`, in place of either.
        profile: Name of what its server is known to take; None for what its address tells.
        options: Further arguments of the SDK's client.
    """

    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    credentials: str | None = None
    auth: str | None = None
    profile: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, table: Any) -> Account:
        """The account that a table describes.

        Raises:
            ValidationError: It is none; the text names the account, and shows no value.
        """
        where = f"account {name!r}"
        if not _NAME.fullmatch(name):
            raise ValidationError(f"{where}: a name is letters, digits, '.', '_' and '-'")
        if not isinstance(table, Mapping):
            raise ValidationError(f"{where} is a table of {', '.join(_OF_ACCOUNT)}")
        values = {**cast("Mapping[str, Any]", table)}
        if unknown := sorted(set(map(str, values)) - set(_OF_ACCOUNT)):
            raise ValidationError(
                f"{where} has {unknown}; there are {', '.join(_OF_ACCOUNT)}. A key itself belongs "
                "in an environment variable, which api_key_env names, or in a credentials block"
            )
        options: Any = values.pop("options", None) or {}
        texts = [value for value in values.values() if value is not None]
        if not isinstance(options, Mapping):
            raise ValidationError(f"{where}: options is a table of texts")
        told = {str(key): value for key, value in cast("Mapping[Any, Any]", options).items()}
        if not all(isinstance(text, str) and text for text in [*texts, *told.values()]):
            raise ValidationError(f"{where}: its values are texts that are not empty")
        if secret := sorted(each for each in told if "key" in each or "token" in each):
            raise ValidationError(f"{where}: options cannot hold {secret}; name it by api_key_env")
        made = cls(**{"kind": "", **values}, options=tuple(sorted(told.items())))
        if [made.api_key_env, made.credentials, made.auth].count(None) != 2:
            raise ValidationError(
                f"{where} needs either api_key_env, the name of the environment variable with its "
                "key, or credentials, the name of a block, or auth, what logs in without a key"
            )
        if made.base_url is not None:
            parts = urlsplit(made.base_url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
                raise ValidationError(
                    f"{where}: base_url is an http or https address without user and password"
                )
        return made


def tables(told: Any) -> dict[str, Any]:
    """Accounts by name as plain tables, checked: of a table, or of a JSON or TOML file of it.

    Raises:
        ValidationError: The file cannot be read, or one of them is no account.
    """
    if isinstance(told, (str, os.PathLike)):
        told = read_table("accounts file", cast("Any", told), "names to tables")
    if told is not None and not isinstance(told, dict):
        raise ValidationError("accounts is a table by name, or the path of a JSON or TOML file")
    found = cast("dict[str, Any]", told or {})
    for name, table in found.items():
        Account.of(str(name), table)
    return found


def blocks(told: Any) -> Any:
    """Names of saved credentials blocks, by provider or account; what is no table stays as it is.

    Raises:
        OptionError: One is no name.
    """
    named = cast("dict[Any, Any]", told) if isinstance(told, dict) else {}
    for provider, block in named.items():
        if not isinstance(block, str) or not block:
            raise OptionError(
                f"the credentials for {provider!r} must be the name of a saved block, so that the "
                "run finds its key again; save the block and give its name"
            )
    return cast("Any", told) if told is not None else {}
