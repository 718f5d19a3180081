"""What an account connects with, and what the block of its credentials asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
