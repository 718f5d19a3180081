"""Prices of genai-prices, with what it does silently made safe and said.

Its silent cases, each found in its data of version 0.2.3 or in its code (types.py):

- A model without a batch price, or with an empty one (`gpt-3.5-turbo-1106`), gets the standard
  rate.
- A batch price that starts later than the request gets the standard rate.
- A batch price without a rate of its own for cached input keeps the standard one (`gpt-4o`).
- A batch price without the long-context tier that the standard price has (`gpt-5.5-pro`) would
  price a long request as a short one: half or less of what any other model of its kind costs.
- A name that begins like a known one gets the known one's price.
- A price that changes while a batch waits is that of one moment only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, cast

from batchata_prefect.money.billing import Billing
from batchata_prefect.money.tariffs import Rates, Tariff, Tier, dearest, dearest_fees

BATCH: Mapping[str, str] = {"processing": "batch"}
STANDARD: Mapping[str, str] = {}
_SUFFIX = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
_HORIZON = timedelta(hours=48)
"""How long after the moment of the prices a batch of the run may still be billed: a day in the
queue of the run, and a provider's 24 hours."""
_STEP = timedelta(minutes=30)

_Prices: TypeAlias = "Mapping[str, Any]"


def listed_tariff(
    billing: Billing, model: str, at: datetime, context: Mapping[str, str]
) -> Tariff | None:
    """The tariff of genai-prices; None where it knows no price of the model's tokens.

    Args:
        billing: How the provider bills.
        model: Model id.
        at: The moment whose prices hold.
        context: Which of the model's prices is wanted: `BATCH`, none for the standard one, or
            that of a service tier, which the model must have.
    """
    listed = billing.listed_as
    if listed is None:
        return None
    from genai_prices import Usage as Tokens  # its price table takes a while to load
    from genai_prices import calc_price

    try:
        found = calc_price(Tokens(), model, provider_id=listed, genai_request_timestamp=at)
    except LookupError:
        return None
    # Providers are matched loosely: "my-openai-proxy" must not get OpenAI's prices.
    if found.provider.id != listed or not _is_meant(found.model, model.lower()):
        return None
    # A model lent by another provider is priced without its variants, as genai-prices does.
    lent = not any(found.model is each for each in found.provider.models)
    batch = context == BATCH
    if context and not batch and (lent or not _has(found.model, at, context)):
        return None
    if lent:
        context = {}
    prices = _at(found.model, at, context)
    if "input_mtok" not in prices:
        return None
    standard = _at(found.model, at, {})
    changes = _changes(found.model, at, context, prices)
    notes = _notes(found, model, prices, standard, at, lent=lent) if batch else []
    tiers = _tiers([prices, *changes], standard)
    if tiers != _tiers([prices], standard):
        notes.append("the price changes within two days; the dearer one is taken")
    return Tariff(
        tiers=tiers,
        per_request=(_price(prices.get("requests_kcount"), -1) or Decimal(0)) / 1000,
        note="; ".join(notes) or None,
        fees=dearest_fees(billing.fee_prices(model, each) for each in (prices, *changes)),
    )


def _is_meant(entry: Any, model: str) -> bool:
    """Whether a price entry is the model's own, and not that of one whose name starts alike.

    Some entries match every longer name: `claude-opus-4-5` would price a `claude-opus-4-50`, and
    `gpt-4` a fine-tuned one.
    """
    if model.startswith("ft:"):
        return entry.id.startswith("ft:")
    base = _SUFFIX.sub("", model)
    any_end = entry.is_match(f"{model}~")
    return not (any_end and entry.is_match(base) and entry.is_match(base[:-1]))


def _has(entry: Any, at: datetime, context: Mapping[str, str]) -> bool:
    """Whether a model has prices of its own in a service tier, which hold now."""
    return any(
        variant.when == context and _known(variant.prices) and _holds(variant, at)
        for variant in entry.price_variants or ()
    )


def _holds(variant: Any, at: datetime) -> bool:
    return variant.constraint is None or variant.constraint.active(at)


def _at(entry: Any, at: datetime, context: Mapping[str, str]) -> _Prices:
    """The prices of a model at one moment, those that there are."""
    return _known(entry.get_prices(at, context or None))


def _changes(
    entry: Any, at: datetime, context: Mapping[str, str], prices: _Prices
) -> list[_Prices]:
    """Other prices of the model that hold while a batch of now may be waiting."""
    conditional = isinstance(entry.prices, list) or any(
        variant.constraint is not None for variant in entry.price_variants or ()
    )
    if not conditional:
        return []
    found: list[_Prices] = []
    for step in range(1, _HORIZON // _STEP + 1):
        later = _at(entry, at + step * _STEP, context)
        if later != prices and later not in found and "input_mtok" in later:
            found.append(later)
    return found


def _tiers(every: list[_Prices], standard: _Prices) -> tuple[Tier, ...]:
    """Tiers from the highest start down; where several prices may hold, the dearest rates."""
    starts = {-1} | {
        tier.start
        for prices in (*every, standard)
        for price in prices.values()
        for tier in getattr(price, "tiers", ())
    }
    tiers: list[Tier] = []
    top_input = top_cached = Decimal(0)
    top_output: Decimal | None = None
    for start in sorted(starts):
        flat = [_flat(prices, standard, start) for prices in every]
        rates = dearest(_rates(at) for at in flat)
        top_input = max(top_input, rates.top_input)
        top_cached = max(top_cached, rates.top_cached)
        # Images and sound may be dearer than text, and the counts do not tell them apart.
        for key, rate in (item for at in flat for item in at.items()):
            if not key.endswith("_mtok"):
                continue
            if key.startswith("output_"):
                top_output = max(top_output or rate, rate)
            else:
                top_cached = max(top_cached, rate)
                if "write" not in key:
                    top_input = max(top_input, rate)
        tier = Tier(start, rates, top_input, top_cached, top_output)
        if not tiers or replace(tier, start=tiers[-1].start) != tiers[-1]:
            tiers.append(tier)
    return tuple(reversed(tiers))


def _flat(prices: _Prices, standard: _Prices, start: int) -> dict[str, Decimal]:
    """The rates of a request whose input passes `start` tokens."""
    at = {key: cast("Decimal", _price(price, start)) for key, price in prices.items()}
    for key, price in _untiered(prices, standard).items():
        if any(tier.start <= start for tier in price.tiers):
            at[key] = max(at[key], cast("Decimal", _price(price, start)))
    return at


def _untiered(prices: _Prices, standard: _Prices) -> _Prices:
    """The standard prices with tiers of what has one price for all lengths."""
    return {
        key: price
        for key, price in standard.items()
        if key in prices and hasattr(price, "tiers") and not hasattr(prices[key], "tiers")
    }


def _known(model_price: Any) -> dict[str, Any]:
    """The prices in a ModelPrice of genai-prices, those that there are."""
    prices = cast("dict[str, Any]", vars(model_price))
    return {key: price for key, price in prices.items() if price is not None}


def _rates(at: Mapping[str, Decimal]) -> Rates:
    write = at.get("cache_write_mtok", at["input_mtok"])
    return Rates(
        input=at["input_mtok"],
        cache_read=at.get("cache_read_mtok", at["input_mtok"]),
        cache_write=write,
        cache_write_1h=at.get("cache_write_1h_mtok", write),
        output=at.get("output_mtok"),
    )


def _price(price: Any, start: int) -> Decimal | None:
    """A price of genai-prices for input that passes `start` tokens."""
    if price is None or isinstance(price, Decimal):
        return price
    rate = cast("Decimal", price.base)
    for tier in price.tiers:
        if tier.start <= start:
            rate = cast("Decimal", tier.price)
    return rate


def _notes(
    found: Any, model: str, prices: _Prices, standard: _Prices, at: datetime, *, lent: bool
) -> list[str]:
    """What genai-prices leaves unsaid of a model's batch price."""
    notes = [_reduced(found, prices, at, lent=lent), _tiers_missing(prices, standard)]
    if _SUFFIX.sub("", model.lower()) != _SUFFIX.sub("", found.model.id.lower()):
        notes.append(f"priced as {found.model.id!r}")
    if any("_image_" in key for key in prices):
        notes.append("images are priced as text")
    if any("_audio_" in key for key in prices):
        notes.append("what an answer with sound costs is not told")
    return [note for note in notes if note is not None]


def _reduced(found: Any, prices: _Prices, at: datetime, *, lent: bool) -> str | None:
    """What of the batch price is not known at a time."""
    variants: list[Any] = [
        variant
        for variant in (found.model.price_variants or ())
        if not lent and variant.when and variant.when.items() <= BATCH.items()
    ]
    known: set[str] = set()
    for variant in variants:
        if _holds(variant, at):
            known |= set(_known(variant.prices))
    if not any(_known(variant.prices) for variant in variants):
        return "no batch price is known; priced at the standard rate"
    if not known:
        start = getattr(variants[0].constraint, "start_date", None)
        return f"the batch price starts on {start}; priced at the standard rate"
    if not {"input_mtok", *({"output_mtok"} & set(prices))} <= known:
        return "only a part of the batch price is known; the rest is the standard rate"
    if "cache_read_mtok" in set(prices) - known:
        return "no batch price of cached input is known; it is priced at the standard rate"
    return None


def _tiers_missing(prices: _Prices, standard: _Prices) -> str | None:
    """From where on the standard price has a further tier that the batch price lacks."""
    missing: set[int] = {
        tier.start for price in _untiered(prices, standard).values() for tier in price.tiers
    }
    if not missing:
        return None
    return (
        f"no batch price above {min(missing):,} input tokens is known; such requests are "
        "priced at the standard rate"
    )
