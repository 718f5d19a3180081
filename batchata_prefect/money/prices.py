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
        self._billing = billing or {}
        self._at = at or datetime.now(UTC)
        self._known: dict[tuple[str, str, str | None, bool], Tariff | None] = {}
        self._regions: dict[str, str | None] = {}

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
        self._regions[provider] = self._of(provider).region_of(account)

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
        if self._factor(tariff, provider, model, terms.region) is None:
            region = terms.region or self._regions[provider]
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

    def cost(
        self,
        provider: str,
        model: str,
        usage: Usage,
        terms: Terms = USUAL,
        *,
        realtime: bool = False,
    ) -> Decimal | None:
        """What an answer cost, in USD; None where a price is unknown, never 0.

        Args:
            provider: Name of the provider.
            model: Model id.
            usage: What the reply says that it is billed for.
            terms: What the request asked for; the reply goes before it.
            realtime: Whether it came through the realtime API, at the standard rate.
        """
        tier, region = usage.tier or terms.tier, usage.region or terms.region
        tariff = self._tariff(provider, model, tier, realtime=realtime)
        total = None if tariff is None else tariffs.fees(tariff, usage, terms.free)
        rest = usage
        for each in usage.passes:
            named = each.model or model
            theirs = self._tariff(provider, named, tier, realtime=realtime)
            more = self._tokens(theirs, provider, named, each, region)
            if total is None or more is None:
                return None
            total += more
            rest = rest.less(each)
        own = self._tokens(tariff, provider, model, rest, region)
        return None if own is None or total is None else own + total

    def _tokens(
        self,
        tariff: Tariff | None,
        provider: str,
        model: str,
        tokens: Usage | Pass,
        region: str | None,
    ) -> Decimal | None:
        """What the tokens of one pass cost."""
        if tariff is None:
            return None
        usd, factor = tariffs.cost(tariff, tokens), self._factor(tariff, provider, model, region)
        return None if usd is None or factor is None else usd * factor

    def _factor(
        self, tariff: Tariff, provider: str, model: str, region: str | None
    ) -> Decimal | None:
        """How many times a tariff a request costs in a region; None where that is unknown."""
        region = region or self._regions.get(provider)
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
        factor = self._factor(tariff, provider, model, terms.region)
        cached = cached or self._of(provider).caches_unasked
        usd = tariffs.bound(tariff, input_tokens, output_tokens, cached=cached)
        each = tariffs.most_fees(tariff, terms)
        if usd is None or factor is None or each is None:
            return None
        return usd * factor + each * requests

    def _tariff(
        self, provider: str, model: str, tier: str | None = None, *, realtime: bool = False
    ) -> Tariff | None:
        billing = self._of(provider)
        if tier is None or tier in billing.usual_tiers:
            tier = ""
        elif tier not in billing.tiers:
            tier = None  # its price is known where the user's own holds
        key = (provider, model, tier, realtime)
        if key not in self._known:
            self._known[key] = self._found(*key)
        return self._known[key]

    def _found(self, provider: str, model: str, tier: str | None, realtime: bool) -> Tariff | None:
        billing = self._of(provider)
        # The user's own price of an account goes first.
        for name in (f"{provider}/{model}", model):
            own = self._own.get((name, realtime))
            if own is not None:
                # Fees that it leaves out are those of a model that is known.
                listed = listed_tariff(billing, model, self._at, STANDARD)
                return replace(own, fees={**(listed.fees if listed else {}), **own.fees})
        if tier is None:
            return None
        usual = STANDARD if realtime else BATCH
        return listed_tariff(billing, model, self._at, billing.tiers[tier] if tier else usual)
