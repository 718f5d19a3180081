"""What a request costs at known rates: pure sums, in USD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from batchata_prefect.answers import Pass, Usage
from batchata_prefect.models import Terms

MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Rates:
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

    @property
    def top_input(self) -> Decimal:
        """The dearest rate of input without cache writes."""
        return max(self.input, self.cache_read)

    @property
    def top_cached(self) -> Decimal:
        """The dearest rate of input with cache writes."""
        return max(self.top_input, self.cache_write, self.cache_write_1h)


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates of a whole request whose input passes `start` tokens.

    Attributes:
        start: Input tokens that must be passed; -1 for the first tier.
        rates: What the request costs.
        top_input: Dearest rate of input in this tier or a lower one, without cache writes.
        top_cached: The same with cache writes.
        top_output: Dearest rate of output in this tier or a lower one.
    """

    start: int
    rates: Rates
    top_input: Decimal
    top_cached: Decimal
    top_output: Decimal | None


@dataclass(frozen=True, slots=True)
class Tariff:
    """All that is known of the price of a model.

    Attributes:
        tiers: From the highest start down.
        per_request: USD of a request besides its tokens.
        note: What a person should know of the price.
        fees: USD of one use of what is billed beside tokens, where that is known.
        is_own: Whether it is the user's own, which holds in every region and service tier.
    """

    tiers: tuple[Tier, ...]
    per_request: Decimal = Decimal(0)
    note: str | None = None
    fees: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])
    is_own: bool = False


def flat(rates: Rates, fees: Mapping[str, Decimal]) -> Tariff:
    """The tariff of a model that has one tier, as its user gives it."""
    tier = Tier(-1, rates, rates.top_input, rates.top_cached, rates.output)
    return Tariff((tier,), fees=fees, is_own=True)


def cost(tariff: Tariff, usage: Usage | Pass) -> Decimal | None:
    """What the tokens of one pass cost; None where its output has no known price."""
    rates = reached(tariff, usage.input_tokens).rates
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
    return total / MILLION


def fees(tariff: Tariff, usage: Usage, free: Iterable[str] = ()) -> Decimal | None:
    """What an answer cost beside its tokens; None where one of its fees has no known price."""
    total = tariff.per_request
    for name, uses in usage.fees:
        price = Decimal(0) if name in free else tariff.fees.get(name)
        if price is None:
            return None
        total += price * uses
    return total


def most_fees(tariff: Tariff, terms: Terms) -> Decimal | None:
    """What a request cannot pass beside its tokens; None where a fee has no price or no bound."""
    total = tariff.per_request
    for names, most in terms.uses:
        prices = [tariff.fees.get(name) for name in names]
        dearest_of = max((price for price in prices if price is not None), default=Decimal(0))
        if None in prices or (most is None and dearest_of):
            return None
        total += dearest_of * (most or 0)
    return total


def bound(tariff: Tariff, input_tokens: int, output_tokens: int, *, cached: bool) -> Decimal | None:
    """What so many tokens of a request cannot pass; None where its output has no price."""
    tier = reached(tariff, input_tokens)
    total = input_tokens * (tier.top_cached if cached else tier.top_input)
    if output_tokens:
        if tier.top_output is None:
            return None
        total += output_tokens * tier.top_output
    return total / MILLION


def reached(tariff: Tariff, input_tokens: int) -> Tier:
    """The tier of a request; passing a start moves the whole request, not only what is above."""
    for tier in tariff.tiers:
        if input_tokens > tier.start:
            return tier
    return tariff.tiers[-1]


def dearest(rates: Iterable[Rates]) -> Rates:
    """The highest of each rate; output that has no price in one of them has none."""
    every = list(rates)
    outputs = [each.output for each in every]
    return Rates(
        input=max(each.input for each in every),
        cache_read=max(each.cache_read for each in every),
        cache_write=max(each.cache_write for each in every),
        cache_write_1h=max(each.cache_write_1h for each in every),
        output=None if None in outputs else max(o for o in outputs if o is not None),
    )


def dearest_fees(every: Iterable[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    """The highest price of each fee."""
    found: dict[str, Decimal] = {}
    for prices in every:
        for name, price in prices.items():
            found[name] = max(price, found.get(name, price))
    return found
