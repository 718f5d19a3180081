"""The providers, and which one serves a model.

A provider is one folder with one class of a few verbs and one entry point in the group
`batchata_prefect.providers`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from batchata_prefect.errors import ProviderNotFoundError, ValidationError
from batchata_prefect.money.own import Prices
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.providers.accounts import Account
from batchata_prefect.providers.accounts import Key as Key
from batchata_prefect.providers.accounts import LoginForm as LoginForm
from batchata_prefect.providers.lists import Found as Found
from batchata_prefect.providers.lists import Ours as Ours
from batchata_prefect.providers.provider import Limits as Limits
from batchata_prefect.providers.provider import Provider as Provider
from batchata_prefect.providers.provider import Requests as Requests


def providers(accounts: Mapping[str, Any] | None = None) -> dict[str, Provider]:
    """All known providers by name: those of the entry points, and those of a run's accounts.

    Args:
        accounts: Name -> table of an account; one that has the name of a kind replaces it.

    Raises:
        ValidationError: A table describes no account.
    """
    found = dict(_kinds())
    for name, table in (accounts or {}).items():
        account = Account.of(name, table)
        if account.kind not in _kinds():
            raise ValidationError(
                f"account {name!r}: kind is one of {sorted(_kinds())}, not {account.kind!r}"
            )
        found[name] = _bound(name, account)
    return found


@cache
def _bound(name: str, account: Account) -> Provider:
    made = type(_kinds()[account.kind])()
    for option, _ in account.options:
        _check_option(name, made, option)
    if account.auth is not None and account.auth not in made.auths:
        knowing = {kind: sorted(each.auths) for kind, each in _kinds().items() if each.auths}
        raise ValidationError(
            f"account {name!r}: {made.kind} has no auth {account.auth!r}; there are "
            + ", ".join(f"{', '.join(auths)} of {kind}" for kind, auths in knowing.items())
        )
    made.bind(name, account)
    return made


def _check_option(name: str, provider: Provider, option: str) -> None:
    """Refuse an option of an account that its kind does not take, by the kinds that do."""
    form = provider.login_form
    if form is None or option in form.options:
        return
    knowing = [
        kind
        for kind, each in _kinds().items()
        if each.login_form is not None and option in each.login_form.options
    ]
    way_out = form.instead.get(option)
    raise ValidationError(
        f"account {name!r}: {provider.kind} takes no option {option!r}; it takes "
        + (", ".join(form.options) or "none")
        + (f", and {' and '.join(knowing)} takes that one" if knowing else "")
        + (f". Give {way_out}" if way_out else "")
    )


@cache
def _kinds() -> dict[str, Provider]:
    """The providers of the entry points; each is imported when first asked for."""
    found = {point.name: point for point in entry_points(group="batchata_prefect.providers")}
    return {name: point.load()() for name, point in sorted(found.items())}


def provider_for(
    model: str,
    name: str | None = None,
    *,
    job_id: str | None = None,
    known: Mapping[str, Provider] | None = None,
) -> Provider:
    """The provider that serves a model, by the provider's name or by the model's name pattern.

    A model `lab/NAME` is served by the account `lab`.

    Args:
        model: Model id.
        name: Name of the provider; None to go by the model.
        job_id: The job, for the error.
        known: The providers of the run; those of the entry points by default.

    Raises:
        ProviderNotFoundError: No provider of that name, or none whose pattern fits the model.
    """
    known = providers() if known is None else known
    own = known.get(model.partition("/")[0]) if name is None and "/" in model else None
    if own is not None and own.bound is not None:
        return own
    where = f"job {job_id!r}: " if job_id else ""
    if name is not None:
        if name not in known:
            raise ProviderNotFoundError(
                f"{where}no provider is called {name!r}; there are {sorted(known)}"
            )
        return known[name]
    for provider in known.values():
        # An account is asked for by its name, unless it stands for its whole kind.
        if provider.name == provider.kind and provider.serves(model):
            return provider
    raise ProviderNotFoundError(
        f"{where}no provider is known for model {model!r}; name one with provider=, "
        f"one of {sorted(known)}"
    )


def price_book(
    overrides: Prices | None = None,
    *,
    known: Mapping[str, Provider] | None = None,
    at: datetime | None = None,
    unlisted: Collection[str] = (),
) -> PriceBook:
    """The prices of providers.

    Args:
        overrides: The user's own prices, as `PriceBook` takes them.
        known: The providers of a run; those of the entry points by default.
        at: The moment whose prices hold; now by default.
        unlisted: Names that no list holds the prices of, besides those that say so themselves.

    Raises:
        ValidationError: An override is no table of prices, or its file cannot be read.
    """
    billing = {
        name: each.billing
        if each.is_listed and name not in unlisted
        else replace(each.billing, listed_as=None)
        for name, each in (providers() if known is None else known).items()
    }
    return PriceBook(overrides, at=at, billing=billing)
