"""What a request may cost before it is sent, and what an answer did cost.

Tokens are estimated twice: what is likely, and what cannot be passed. Money is `Decimal` USD. The
prices are those of genai-prices, which holds them as dated data, or the user's own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from batchata_prefect.models import Usage
from batchata_prefect.money import tariffs
from batchata_prefect.money.listed import listed_tariff
from batchata_prefect.money.own import Prices, own_tariffs
from batchata_prefect.money.tariffs import Tariff


class PriceBook:
    """Prices of batch and of realtime requests, fixed at one moment.

    A price that changed during a run would make its ledger wrong, so all prices are those of the
    moment `at`, and are never fetched: newer prices come with a newer genai-prices. A price that
    is known to change within the two days after it is taken at the dearer rate.

    Args:
        overrides: The user's own prices by model id, for models that genai-prices does not know
            (fine-tuned ones, compatible servers) or knows wrongly: USD per million tokens as they
            are charged in a batch, such as
            `{"gpt-x": {"input": 1.0, "output": 5.0, "cache_read": 0.1}}`, or the path of a JSON
            or TOML file of the same keys. `input` and `output` are required; `cache_read` and
            `cache_write` cost as input where they are left out, `cache_write_1h` as
            `cache_write`. A table of the same keys under `realtime` gives the standard rates.
        at: The moment whose prices hold; now by default.

    Raises:
        ValidationError: An override is not such a table, or the file cannot be read; the text
            names the file, the model and the key.
    """

    def __init__(self, overrides: Prices | None = None, *, at: datetime | None = None) -> None:
        self._own = own_tariffs(overrides)
        self._at = at or datetime.now(UTC)
        self._listed: dict[tuple[str, str, bool], Tariff | None] = {}

    def knows(self, provider: str, model: str, *, realtime: bool = False) -> bool:
        """Whether the price of a batch request to the model is known, or of a realtime one."""
        return self._tariff(provider, model, realtime=realtime) is not None

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
        tariff = self._tariff(provider, model)
        return None if tariff is None else tariffs.cost(tariff, usage)

    def realtime_cost(self, provider: str, model: str, usage: Usage) -> Decimal | None:
        """What the same answer costs at the standard rate; None where that is unknown."""
        tariff = self._tariff(provider, model, realtime=True)
        return None if tariff is None else tariffs.cost(tariff, usage)

    def bound(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        cached: bool = False,
        realtime: bool = False,
    ) -> Decimal | None:
        """What a request of at most these tokens cannot pass, in USD; None if unknown.

        Every token is taken at the dearest rate of any tier that the counts can reach.

        Args:
            provider: Name of the provider.
            model: Model id.
            input_tokens: Upper bound of input tokens.
            output_tokens: Upper bound of output tokens.
            cached: Whether the request asks for a cache to be written. Only Anthropic waits to be
                asked: elsewhere, where writing a cache has a price, it is always reckoned with
                (GPT-5.6 and later write and bill it unasked).
            realtime: Whether it goes through the realtime API, at the standard rate.
        """
        tariff = self._tariff(provider, model, realtime=realtime)
        if tariff is None:
            return None
        cached = cached or provider != "anthropic"
        return tariffs.bound(tariff, input_tokens, output_tokens, cached=cached)

    def _tariff(self, provider: str, model: str, *, realtime: bool = False) -> Tariff | None:
        if (model, realtime) in self._own:
            return self._own[model, realtime]
        key = (provider, model, realtime)
        if key not in self._listed:
            self._listed[key] = listed_tariff(provider, model, self._at, batch=not realtime)
        return self._listed[key]
