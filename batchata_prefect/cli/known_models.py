"""`batchata models`: the models that have a known batch price, and what they take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, cast

from cyclopts import Parameter

from batchata_prefect.answers import Usage
from batchata_prefect.cli.options import Json, Switch
from batchata_prefect.cli.output import print_json, show, tell
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.providers import price_book, providers
from batchata_prefect.views.printed import Rows

_NOT_LISTED = ("ft:", ".ft-", "audio", "realtime", "tts", "whisper", "transcribe", "image", "dall-")
"""In ids of models that do not write, and of fine-tuned ones."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model.

    Attributes:
        model: Its id.
        provider: Name of its provider.
        input_usd: USD of a million input tokens in a batch.
        output_usd: USD of a million output tokens in a batch; None for models without any.
        realtime_input_usd: The same of input through the realtime API.
        realtime_output_usd: The same of output.
        context_tokens: Tokens that a request and its answer may have; None where unknown.
        most_output_tokens: Output tokens at most; None where unknown.
        takes_temperature: Whether a temperature may be given; None where unknown.
        cites: Whether the provider's own citations work on it.
        note: What should be known of its price.
    """

    model: str
    provider: str
    input_usd: float
    output_usd: float | None
    realtime_input_usd: float | None
    realtime_output_usd: float | None
    context_tokens: int | None
    most_output_tokens: int | None
    takes_temperature: bool | None
    cites: bool
    note: str | None


def models(
    pattern: Annotated[str, Parameter(help="Only ids that hold this text.")] = "",
    /,
    *,
    provider: str | None = None,
    every: Annotated[Switch, Parameter(name=["--all", "-a"])] = False,
    as_json: Json = False,
) -> int:
    """Show known models with their batch prices, limits and what they take.

    Any other model id works as well: give its price with --prices where there is a budget.

    For example:

    - `batchata models`
    - `batchata models gpt-6 --json`

    Args:
        provider: Only this provider's, such as anthropic or openai.
        every: Also those without a batch price and those that the provider retires.
    """
    found = [
        each
        for each in known_models(every)
        if pattern.lower() in each.model and provider in (None, each.provider)
    ]
    limits = {
        name: {"requests": each.limits.max_requests, "bytes": each.limits.max_bytes}
        for name, each in providers().items()
    }
    if as_json:
        print_json("models", {"models": [asdict(e) for e in found], "batch_limits": limits})
        return 0
    numbers = "input", "output", "context", "most output", "temperature"
    table = Rows("model", *numbers, right=numbers)
    for each in found:
        table.add(
            each.model,
            _usd(each.input_usd),
            _usd(each.output_usd),
            _count(each.context_tokens),
            _count(each.most_output_tokens),
            {True: "yes", False: "no", None: ""}[each.takes_temperature],
        )
    show(table)
    tell("")
    citing = ", ".join(name for name, each in providers().items() if each.cites)
    tell(
        "USD per million tokens in a batch, from genai-prices; the provider's list has the last "
        f"word. Realtime prices and notes are in --json. Citations of their own: {citing}; quoted "
        "ones: every model that writes."
    )
    for name, most in limits.items():
        tell(
            f"{name}: {most['requests']:,} requests or {most['bytes'] // 10**6:,} MB in one "
            "provider batch; larger job sets are cut."
        )
    return 0


def known_models(everything: bool = False) -> list[Known]:
    """The models of genai-prices that answer with text or vectors, by provider and id."""
    from genai_prices.data_snapshot import get_snapshot

    prices = price_book()
    found: list[Known] = []
    ours = {each.billing.listed_as: name for name, each in providers().items()}
    for source in get_snapshot().providers:
        if source.id not in ours:
            continue
        for entry in source.models:
            known = _known(prices, ours[source.id], entry)
            if known is None or any(word in known.model for word in _NOT_LISTED):
                continue
            has_price = "; priced at the standard rate" not in (known.note or "")
            if everything or (has_price and not entry.deprecated):
                found.append(known)
    return sorted(found, key=lambda each: (each.provider, each.model))


def _known(prices: PriceBook, provider: str, entry: Any) -> Known | None:
    model, serving = cast("str", entry.id), providers()[provider]

    def usd(usage: Usage, times: int = 1, *, realtime: bool = False) -> float | None:
        cost = prices.cost(provider, model, usage, realtime=realtime)
        return None if cost is None else float(cost * times)

    one, out = Usage(input_tokens=1000), Usage(output_tokens=1_000_000)
    batch, output = usd(one, 1000), usd(out)
    if not batch or not serving.serves(model):
        return None
    return Known(
        model=model,
        provider=provider,
        input_usd=batch,
        output_usd=output,
        realtime_input_usd=usd(one, 1000, realtime=True),
        realtime_output_usd=None if output is None else usd(out, realtime=True),
        context_tokens=entry.context_window,
        most_output_tokens=serving.most_output(model),
        takes_temperature=serving.takes_temperature(model),
        cites=serving.cites,
        note=prices.note(provider, model),
    )


def _usd(price: float | None) -> str:
    return "" if price is None else f"{price:.4f}".rstrip("0").rstrip(".")


def _count(tokens: int | None) -> str:
    if tokens is None:
        return ""
    return f"{tokens / 1e6:.3g}M" if tokens >= 1_000_000 else f"{tokens // 1000:,}k"
