"""Endpoints of a run beside those that the environment names: several of one kind, each by a name.

A table of them stands in the settings and records of a run, and never holds a secret.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from batchata_prefect.errors import ValidationError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_ACCOUNT = ("kind", "base_url", "api_key_env", "credentials", "profile", "options")


@dataclass(frozen=True, slots=True)
class Account:
    """One endpoint of a kind of provider, with a login of its own; holds no secret.

    Attributes:
        kind: Name of the provider whose API it speaks.
        base_url: Where requests go; None for the kind's own address, or another of it in the block.
        api_key_env: Name of the environment variable with its key.
        credentials: Name of the Prefect credentials block with its key, in place of a variable.
        profile: Name of what its server is known to take; None for what its address tells.
        options: Further arguments of the SDK's client.
    """

    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    credentials: str | None = None
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
        if (made.api_key_env is None) == (made.credentials is None):
            raise ValidationError(
                f"{where} needs either api_key_env, the name of the environment variable with its "
                "key, or credentials, the name of a block"
            )
        if made.base_url is not None:
            parts = urlsplit(made.base_url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
                raise ValidationError(
                    f"{where}: base_url is an http or https address without user and password"
                )
        return made


def read_accounts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Accounts out of a JSON or TOML file, by name.

    Raises:
        ValidationError: The file cannot be read, or is no table.
    """
    where = f"accounts file {os.fspath(path)!r}"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        is_toml = Path(path).suffix.lower() == ".toml"
        content: Any = tomllib.loads(text) if is_toml else json.loads(text)
    except OSError as error:
        raise ValidationError(
            f"{where} cannot be read: {error.strerror or error}; nothing was sent"
        ) from error
    except ValueError as error:
        raise ValidationError(f"{where} cannot be read: {error}; nothing was sent") from error
    if not isinstance(content, dict):
        raise ValidationError(f"{where} must map names to tables")
    return cast("dict[str, Any]", content)
