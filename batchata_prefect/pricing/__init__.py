"""What a request may cost before it is sent, and what an answer did cost.

Tokens are estimated twice: what is likely, and what cannot be passed. Money is `Decimal` USD. The
prices are those of genai-prices, which holds them as dated data, or the user's own.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

from batchata_prefect.errors import ValidationError
from batchata_prefect.models import Usage
from batchata_prefect.pricing.estimates import estimate_document as estimate_document
from batchata_prefect.pricing.estimates import estimate_text as estimate_text

_BATCH = {"processing": "batch"}
_MILLION = Decimal(1_000_000)
_RATE_KEYS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
_SUFFIX = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


@dataclass(frozen=True, slots=True)
class _Rates:
    """USD per million tokens. Each token has one rate: what is cached is not input as well.

    Attributes:
        input: Input that is neither read from nor written to a cache.
        cache_read: Input read from a cache.
        cache_write: Input written to a cache for minutes.
        cache_write_1h: Input written to a cache for an hour.
        output: All output; None for models without any, such as embeddings.
    """

    input: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    output: Decimal | None


@dataclass(frozen=True, slots=True)
class _Tier:
    """Rates of a whole request whose input passes `start` tokens.

    Attributes:
        start: Input tokens that must be passed; -1 for the first tier.
        rates: What the request costs.
        top_input: Dearest rate of input in this tier or a lower one, without cache writes.
        top_cached: The same with cache writes.
        top_output: Dearest rate of output in this tier or a lower one.
    """

    start: int
    rates: _Rates
    top_input: Decimal
    top_cached: Decimal
    top_output: Decimal | None


@dataclass(frozen=True, slots=True)
class _Tariff:
    """All that is known of the price of a model.

    Attributes:
        tiers: From the highest start down.
        per_request: USD of a request besides its tokens.
        note: What a person should know of the price.
    """

    tiers: tuple[_Tier, ...]
    per_request: Decimal = Decimal(0)
    note: str | None = None


class PriceBook:
    """Prices of batch and of realtime requests, fixed at one moment.

    A price that changed during a run would make its ledger wrong, so all prices are those of the
    moment `at`, and are never fetched: newer prices come with a newer genai-prices.

    Args:
        overrides: The user's own prices by model id, for models that genai-prices does not know
            (fine-tuned ones, compatible servers) or knows wrongly: USD per million tokens as they
            are charged in a batch, such as
            `{"gpt-x": {"input": 1.0, "output": 5.0, "cache_read": 0.1}}`. `input` and `output`
            are required; `cache_read` and `cache_write` cost as input where they are left out,
            `cache_write_1h` as `cache_write`.
        at: The moment whose prices hold; now by default.

    Raises:
        ValidationError: An override is not such a table.
    """

    def __init__(
        self,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        at: datetime | None = None,
    ) -> None:
        self._own = {
            model: _own_tariff(model, prices) for model, prices in (overrides or {}).items()
        }
        self._at = at or datetime.now(UTC)
        self._batch: dict[tuple[str, str], _Tariff | None] = {}
        self._realtime: dict[tuple[str, str], _Tariff | None] = {}

    def knows(self, provider: str, model: str) -> bool:
        """Whether the price of a batch request to the model is known."""
        return self._tariff(provider, model) is not None

    def note(self, provider: str, model: str) -> str | None:
        """What a person should know of the model's price; None where there is nothing to say."""
        tariff = self._tariff(provider, model)
        if tariff is None:
            return (
                f"no price of {model!r} is known; give it in USD per million tokens with "
                f"prices={{{model!r}: {{'input': ..., 'output': ...}}}}"
            )
        return tariff.note

    def cost(self, provider: str, model: str, usage: Usage) -> Decimal | None:
        """What an answer cost in a batch, in USD; None where the price is unknown, never 0."""
        return _cost(self._tariff(provider, model), usage)

    def realtime_cost(self, provider: str, model: str, usage: Usage) -> Decimal | None:
        """What the same answer costs at the standard rate; None where that is unknown.

        The user's own prices are those of a batch and say nothing of the standard rate.
        """
        key = (provider, model)
        if key not in self._realtime:
            self._realtime[key] = _tariff(provider, model, self._at, batch=False)
        return _cost(self._realtime[key], usage)

    def bound(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        cached: bool = False,
    ) -> Decimal | None:
        """What a batch request of at most these tokens cannot pass, in USD; None if unknown.

        Every token is taken at the dearest rate of any tier that the counts can reach.

        Args:
            provider: Name of the provider.
            model: Model id.
            input_tokens: Upper bound of input tokens.
            output_tokens: Upper bound of output tokens.
            cached: Whether the request asks for a cache to be written. Only Anthropic waits to be
                asked: elsewhere, where writing a cache has a price, it is always reckoned with
                (GPT-5.6 and later write and bill it unasked).
        """
        tariff = self._tariff(provider, model)
        if tariff is None:
            return None
        tier = _reached(tariff, input_tokens)
        top_input = tier.top_cached if cached or provider != "anthropic" else tier.top_input
        total = input_tokens * top_input
        if output_tokens:
            if tier.top_output is None:
                return None
            total += output_tokens * tier.top_output
        return total / _MILLION + tariff.per_request

    def _tariff(self, provider: str, model: str) -> _Tariff | None:
        own = self._own.get(model)
        if own is not None:
            return own
        key = (provider, model)
        if key not in self._batch:
            self._batch[key] = _tariff(provider, model, self._at, batch=True)
        return self._batch[key]


def read_prices(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Overrides for a `PriceBook` out of a JSON or TOML file, by model id; no digit is rounded.

    Raises:
        ValidationError: The file cannot be read, or is no table of tables.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        loads = tomllib.loads if file.suffix.lower() == ".toml" else json.loads
        content: Any = loads(text, parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ValidationError(f"price file {str(file)!r} cannot be read: {error}") from error
    tables = cast("dict[str, Any]", content) if isinstance(content, dict) else None
    if tables is None or not all(isinstance(table, dict) for table in tables.values()):
        raise ValidationError(
            f"price file {str(file)!r} must map model ids to tables of {', '.join(_RATE_KEYS)}"
        )
    return tables


def _cost(tariff: _Tariff | None, usage: Usage) -> Decimal | None:
    if tariff is None:
        return None
    rates = _reached(tariff, usage.input_tokens).rates
    read, written, hour = (
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
    )
    # A reply whose parts pass their whole is counted by its parts: never too little.
    total = max(0, usage.input_tokens - read - written) * rates.input
    if read:
        total += read * rates.cache_read
    if written or hour:
        total += max(0, written - hour) * rates.cache_write + hour * rates.cache_write_1h
    if usage.output_tokens:
        if rates.output is None:
            return None
        total += usage.output_tokens * rates.output
    return total / _MILLION + tariff.per_request


def _reached(tariff: _Tariff, input_tokens: int) -> _Tier:
    """The tier of a request; passing a start moves the whole request, not only what is above."""
    for tier in tariff.tiers:
        if input_tokens > tier.start:
            return tier
    return tariff.tiers[-1]


def _own_tariff(model: str, prices: Any) -> _Tariff:
    """The tariff of an override."""
    if not isinstance(prices, Mapping):
        raise ValidationError(f"prices of {model!r} must be a table, not {prices!r}")
    table = cast("Mapping[str, Any]", prices)
    unknown = sorted(set(table) - set(_RATE_KEYS))
    if unknown or "input" not in table or "output" not in table:
        raise ValidationError(
            f"prices of {model!r} must hold 'input' and 'output', and may hold 'cache_read', "
            f"'cache_write' and 'cache_write_1h'; they hold {sorted(table)}"
        )
    rates: dict[str, Decimal] = {}
    for key, value in table.items():
        try:
            rate = Decimal(str(value))
        except InvalidOperation:
            rate = Decimal("NaN")
        if not rate.is_finite() or rate < 0:
            raise ValidationError(
                f"price {key!r} of {model!r} must be USD per million tokens, not {value!r}"
            )
        rates[key] = rate
    write = rates.get("cache_write", rates["input"])
    own = _Rates(
        input=rates["input"],
        cache_read=rates.get("cache_read", rates["input"]),
        cache_write=write,
        cache_write_1h=rates.get("cache_write_1h", write),
        output=rates["output"],
    )
    top_input = max(own.input, own.cache_read)
    top_cached = max(top_input, own.cache_write, own.cache_write_1h)
    return _Tariff((_Tier(-1, own, top_input, top_cached, own.output),))


def _tariff(provider: str, model: str, at: datetime, *, batch: bool) -> _Tariff | None:
    """The tariff of genai-prices; None where it knows no price of the model's tokens."""
    from genai_prices import Usage as Tokens  # its price table takes a while to load
    from genai_prices import calc_price

    try:
        found = calc_price(
            Tokens(),
            model,
            provider_id=provider,
            genai_request_timestamp=at,
            price_context=_BATCH if batch else None,
        )
    except LookupError:
        return None
    # Providers are matched loosely: "my-openai-proxy" must not get OpenAI's prices.
    if found.provider.id != provider or not _is_meant(found.model, model.lower()):
        return None
    prices = {key: price for key, price in vars(found.model_price).items() if price is not None}
    if "input_mtok" not in prices:
        return None
    per_request = _price(prices.get("requests_kcount"), -1) or Decimal(0)
    return _Tariff(
        tiers=_tiers(prices),
        per_request=per_request / 1000,
        note=_note(found, model, prices, at) if batch else None,
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


def _tiers(prices: Mapping[str, Any]) -> tuple[_Tier, ...]:
    """Tiers of one model's prices, from the highest start down."""
    starts = {-1} | {
        tier.start for price in prices.values() for tier in getattr(price, "tiers", ())
    }
    tiers: list[_Tier] = []
    top_input = top_cached = Decimal(0)
    top_output: Decimal | None = None
    for start in sorted(starts):
        at = {key: cast(Decimal, _price(price, start)) for key, price in prices.items()}
        write = at.get("cache_write_mtok", at["input_mtok"])
        rates = _Rates(
            input=at["input_mtok"],
            cache_read=at.get("cache_read_mtok", at["input_mtok"]),
            cache_write=at.get("cache_write_5m_mtok", write),
            cache_write_1h=at.get("cache_write_1h_mtok", write),
            output=at.get("output_mtok"),
        )
        # Images and sound may be dearer than text, and the counts do not tell them apart.
        for key, rate in at.items():
            if not key.endswith("_mtok"):
                continue
            if key.startswith("output_"):
                top_output = max(top_output or rate, rate)
            else:
                top_cached = max(top_cached, rate)
                if "write" not in key:
                    top_input = max(top_input, rate)
        tiers.append(_Tier(start, rates, top_input, top_cached, top_output))
    return tuple(reversed(tiers))


def _price(price: Any, start: int) -> Decimal | None:
    """A price of genai-prices for input that passes `start` tokens."""
    if price is None or isinstance(price, Decimal):
        return price
    rate = cast(Decimal, price.base)
    for tier in price.tiers:
        if tier.start <= start:
            rate = cast(Decimal, tier.price)
    return rate


def _note(found: Any, model: str, prices: Mapping[str, Any], at: datetime) -> str | None:
    """What genai-prices leaves unsaid of a model's batch price."""
    notes: list[str] = []
    # A model lent by another provider is priced without its variants.
    own = any(found.model is model_info for model_info in found.provider.models)
    variants: list[Any] = [
        variant
        for variant in (found.model.price_variants or ())
        if own
        if variant.when.items() <= _BATCH.items()
    ]
    active = [v for v in variants if v.constraint is None or v.constraint.active(at)]
    reduced = {
        str(key) for variant in active for key in cast("dict[str, Any]", vars(variant.prices))
    }
    if not variants:
        notes.append("no batch price is known; priced at the standard rate")
    elif not active:
        start = getattr(variants[0].constraint, "start_date", None)
        notes.append(f"the batch price starts on {start}; priced at the standard rate")
    elif "input_mtok" in reduced and "cache_read_mtok" in set(prices) - reduced:
        notes.append("no batch price of cached input is known; it is priced at the standard rate")
    if _SUFFIX.sub("", model.lower()) != _SUFFIX.sub("", found.model.id.lower()):
        notes.append(f"priced as {found.model.id!r}")
    if any("_image_" in key or "_audio_" in key for key in prices):
        notes.append("images and sound are priced as text")
    return "; ".join(notes) or None
