"""How a provider bills, as its own folder tells it: price list, fees, service tiers and regions.

What no provider tells is unknown, and unknown is never nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple


class Fee(NamedTuple):
    """The price of a fee.

    Attributes:
        key: Price of genai-prices, in USD per thousand; it goes before `per_thousand`.
        per_thousand: USD per thousand; None where it cannot be told from a reply.
    """

    key: str | None
    per_thousand: Decimal | None


@dataclass(frozen=True)
class Billing:
    """What is known of how a provider bills; what is left out here is unknown.

    Attributes:
        listed_as: Its id in genai-prices; None where no list holds its prices.
        fees: Name of what is billed beside tokens -> its price.
        usual_tiers: Service tiers, asked for or named in a reply, that stand for the price of the
            way that was taken: of a batch in a batch, the standard one else.
        tiers: Service tiers that have prices of their own in genai-prices, and under what it holds
            them.
        uses_parameter: What limits how often a request may use tools that are billed.
        caches_unasked: Whether it may write a cache, and bill that, for a request that asks for
            none.
    """

    listed_as: str | None = None
    fees: Mapping[str, Fee] = field(default_factory=dict[str, Fee])
    usual_tiers: frozenset[str] = frozenset()
    tiers: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    uses_parameter: str = "max_tool_calls"
    caches_unasked: bool = True

    def fee_prices(self, model: str, prices: Mapping[str, object]) -> dict[str, Decimal]:
        """USD of a single use of each fee whose price is known.

        Args:
            model: Model id.
            prices: What genai-prices says of the model.
        """
        found: dict[str, Decimal] = {}
        for name, (key, per_thousand) in self.fees.items():
            listed = prices.get(key) if key is not None else None
            price = listed if isinstance(listed, Decimal) else per_thousand
            if price is not None:
                found[name] = price / 1000
        return found

    def region_of(self, base_url: str) -> str | None:
        """The region that an address stands for; None where it stands for none."""
        return None

    def region_factor(self, model: str, region: str) -> Decimal | None:
        """How many times the list price of its tokens a request costs there; None if unknown."""
        return None


def version(pattern: re.Pattern[str], model: str) -> tuple[int, int] | None:
    """The two numbers that a pattern finds in a model's name; None where it does not fit."""
    match = pattern.match(model)
    return None if match is None else (int(match[1]), int(match[2] or 0))
