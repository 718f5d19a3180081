"""What a request may cost before it is sent, and what an answer did cost.

Tokens are estimated twice: what is likely, and what cannot be passed. Money is `Decimal` USD. The
prices are those of genai-prices, which holds them as dated data, or the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from batchata_prefect.answers import Pass, Usage
from batchata_prefect.models import USUAL, Terms
from batchata_prefect.money import tariffs
from batchata_prefect.money.billing import Billing
from batchata_prefect.money.listed import BATCH, STANDARD, listed_tariff
from batchata_prefect.money.own import Prices, own_tariffs
from batchata_prefect.money.tariffs import Tariff

_UNKNOWN = Billing()


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
            `cache_write`. A table under `fees` gives USD per thousand uses of what is billed
            beside tokens, such as `{"web_searches": 10}`. A table of all these keys under
            `realtime` gives the standard rates. The user's own prices hold in every region and
            service tier.
        at: The moment whose prices hold; now by default.
        billing: Name of a provider -> how it bills; of any other, only the user's own prices are
            known.

    Raises:
        ValidationError: An override is not such a table, or the file cannot be read; the text
            names the file, the model and the key.
    """

    def __init__(
        self,
        overrides: Prices | None = None,
        *,
        at: datetime | None = None,
        billing: Mapping[str, Billing] | None = None,
    ) -> None:
        self._own = own_tariffs(overrides)
        self._billing = dict(billing or {})
        self._at = at or datetime.now(UTC)
        self._listed: dict[tuple[str, ...], Tariff | None] = {}
        self._regions: dict[str, str] = {}

    def _of(self, provider: str) -> Billing:
        return self._billing.get(provider, _UNKNOWN)

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

    def located(self, provider: str, account: str) -> None:
        """Reckon with where a provider's requests go: some hosts have a price of their own.

        Args:
            provider: Name of the provider.
            account: Base URL of its requests.
        """
        region = self._of(provider).region_of(account)
        if region is None:
            self._regions.pop(provider, None)
        else:
            self._regions[provider] = region

    def unbound(
        self, provider: str, model: str, terms: Terms, *, realtime: bool = False
    ) -> str | None:
        """Why a request has no upper bound beside its tokens, and the way out; None where it has.

        Args:
            provider: Name of the provider.
            model: Model id, whose price is known.
            terms: How the request is billed.
            realtime: Whether it goes through the realtime API.
        """
        own = f"give your own price with prices={{{model!r}: {{..., 'fees': {{"
        tariff = self._tariff(provider, model, terms.tier, realtime=realtime)
        if tariff is None:
            return (
                f"the price of {model!r} in service tier {terms.tier!r} is unknown; leave "
                "service_tier out, or give your own prices of the model"
            )
        region = terms.region or self._regions.get(provider)
        if self._factor(tariff, provider, model, region) is None:
            way_out = "leave inference_geo out" if terms.region else "use the global host"
            return (
                f"the price of {model!r} in region {region!r} is unknown; {way_out}, or give your "
                "own prices of the model"
            )
        for names, most in terms.uses:
            for name in names:
                if name not in tariff.fees:
                    return (
                        f"what {name} cost beside tokens is unknown; leave the tool out, or {own}"
                        f"{name!r}: USD per thousand}}}}}}"
                    )
            if most is None and any(tariff.fees[name] for name in names):
                limit = self._of(provider).uses_parameter
                return f"{' and '.join(names)} have no limit; give {limit}"
        return None

    def cost(self, provider: str, model: str, usage: Usage, terms: Terms = USUAL) -> Decimal | None:
        """What an answer cost in a batch, in USD; None where a price is unknown, never 0.

        Args:
            provider: Name of the provider.
            model: Model id.
            usage: What the reply says that it is billed for.
            terms: What the request asked for; the reply goes before it.
        """
        return self._cost(provider, model, usage, terms, realtime=False)

    def realtime_cost(
        self, provider: str, model: str, usage: Usage, terms: Terms = USUAL
    ) -> Decimal | None:
        """What the same answer costs at the standard rate; None where that is unknown."""
        return self._cost(provider, model, usage, terms, realtime=True)

    def _cost(
        self, provider: str, model: str, usage: Usage, terms: Terms, *, realtime: bool
    ) -> Decimal | None:
        tier, region = usage.tier or terms.tier, usage.region or terms.region
        tariff = self._tariff(provider, model, tier, realtime=realtime)
        if tariff is None:
            return None
        total = tariffs.fees(tariff, usage, terms.free)
        rest = usage
        for each in usage.passes:
            named = each.model or model
            more = self._tokens(provider, named, each, tier, region, realtime=realtime)
            if total is None or more is None:
                return None
            total += more
            rest = rest.less(each)
        own = self._tokens(provider, model, rest, tier, region, realtime=realtime)
        return None if own is None or total is None else own + total

    def _tokens(
        self,
        provider: str,
        model: str,
        tokens: Usage | Pass,
        tier: str | None,
        region: str | None,
        *,
        realtime: bool,
    ) -> Decimal | None:
        """What the tokens of one pass cost."""
        tariff = self._tariff(provider, model, tier, realtime=realtime)
        if tariff is None:
            return None
        factor = self._factor(tariff, provider, model, region or self._regions.get(provider))
        usd = tariffs.cost(tariff, tokens)
        return None if usd is None or factor is None else usd * factor

    def _factor(
        self, tariff: Tariff, provider: str, model: str, region: str | None
    ) -> Decimal | None:
        """How many times a tariff a request costs in a region; None where that is unknown."""
        if tariff.is_own or region is None:
            return Decimal(1)
        return self._of(provider).region_factor(model, region)

    def bound(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        cached: bool = False,
        realtime: bool = False,
        terms: Terms = USUAL,
        requests: int = 1,
    ) -> Decimal | None:
        """What requests of at most these tokens cannot pass, in USD; None if unknown.

        Every token is taken at the dearest rate of any tier that the counts can reach, and every
        fee as often as the request allows.

        Args:
            provider: Name of the provider.
            model: Model id.
            input_tokens: Upper bound of input tokens.
            output_tokens: Upper bound of output tokens.
            cached: Whether the request asks for a cache to be written. Where a provider may write
                one unasked, and that has a price, it is always reckoned with.
            realtime: Whether it goes through the realtime API, at the standard rate.
            terms: How the requests are billed beside their tokens.
            requests: How many requests these are, all of the same terms.
        """
        tariff = self._tariff(provider, model, terms.tier, realtime=realtime)
        if tariff is None:
            return None
        region = terms.region or self._regions.get(provider)
        factor = self._factor(tariff, provider, model, region)
        cached = cached or self._of(provider).caches_unasked
        usd = tariffs.bound(tariff, input_tokens, output_tokens, cached=cached)
        each = tariffs.most_fees(tariff, terms)
        if usd is None or factor is None or each is None:
            return None
        return usd * factor + each * requests

    def _tariff(
        self, provider: str, model: str, tier: str | None = None, *, realtime: bool = False
    ) -> Tariff | None:
        if self._own and self._own_name(provider, model, realtime=realtime) is not None:
            return self._own_tariff(provider, model, realtime=realtime)
        billing = self._of(provider)
        if billing.listed_as is None:
            return None
        if tier is None or tier in billing.usual_tiers:
            context = STANDARD if realtime else BATCH
        elif tier in billing.tiers:
            context = billing.tiers[tier]
        else:
            return None
        key = (provider, model, *context.values())
        if key not in self._listed:
            self._listed[key] = listed_tariff(billing, model, self._at, context)
        return self._listed[key]

    def _own_name(self, provider: str, model: str, *, realtime: bool) -> str | None:
        """Under which name the user gives the price: that of an account goes first."""
        names = (f"{provider}/{model}", model)
        return next((name for name in names if (name, realtime) in self._own), None)

    def _own_tariff(self, provider: str, model: str, *, realtime: bool) -> Tariff:
        """The user's own tariff; fees that it leaves out are those of a model that is known."""
        key = (provider, model, "realtime" if realtime else "batch", "own")
        if key not in self._listed:
            name = self._own_name(provider, model, realtime=realtime)
            assert name is not None
            own = self._own[name, realtime]
            listed = listed_tariff(self._of(provider), model, self._at, STANDARD)
            fees = {**(listed.fees if listed else {}), **own.fees}
            self._listed[key] = replace(own, fees=fees)
        found = self._listed[key]
        assert found is not None
        return found
