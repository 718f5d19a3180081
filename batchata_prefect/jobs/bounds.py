"""Refusing jobs that cannot be sent as the run asks for it, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal

from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.numbers import counted
from batchata_prefect.providers import Provider


def refuse_unbound(
    spool: Spool, prices: PriceBook, cost_limit: Decimal | None, realtime_limit: Decimal | None
) -> None:
    """Refuse to run under a limit that cannot be kept.

    Args:
        spool: The jobs.
        prices: What they cost.
        cost_limit: USD that the run may cost; None for no limit.
        realtime_limit: USD for which jobs may go through the realtime API; None where none do.

    Raises:
        ValidationError: The price of a model is unknown, or what a job may be billed beside its
            tokens; all such models or jobs are named.
    """
    for realtime, limit in ((False, cost_limit), (True, realtime_limit)):
        if limit is not None:
            _refuse_unknown(spool, prices, realtime=realtime)
            _refuse_endless(spool, prices, realtime=realtime)


def refuse_uploads(spool: Spool, providers: Mapping[str, Provider]) -> None:
    """Refuse to run where documents are to be uploaded and their provider stores none.

    Raises:
        ValidationError: Jobs of such a provider share a document; the provider is named.
    """
    shared = {digest for digest, (jobs, _) in spool.files.items() if jobs > 1}
    without = {name for name, each in providers.items() if not each.keeps_files}
    if not shared or without.isdisjoint(family.provider for family in spool.families()):
        return
    faults: dict[str, str] = {}
    with closing(spool.reader()) as jobs:
        for ordinal in range(spool.count):
            name = jobs.family(ordinal).provider
            if name not in without or name in faults:
                continue
            context = jobs.context(ordinal)
            if not shared.isdisjoint(context.files):
                faults[name] = f"{name} (such as job {context.job_id!r})"
    if faults:
        raise ValidationError(
            f"upload_files is set, but {', '.join(faults.values())} can store no document for the "
            "requests of a batch; nothing was sent. Leave upload_files out: what jobs share is "
            "then stored where that is possible and saves enough, and goes in the requests "
            "elsewhere",
            list(faults.values()),
        )


def _refuse_unknown(spool: Spool, prices: PriceBook, *, realtime: bool) -> None:
    unknown = {
        (family.provider, family.model): f"{family.model!r} at {family.provider} "
        f"({counted(spool.size(family), 'job')}, such as {spool.example(family)!r})"
        for family in spool.families()
        if not prices.knows(family.provider, family.model, realtime=realtime)
    }
    if not unknown:
        return
    table = "{'input': USD, 'output': USD}"
    table = "{..., 'realtime': " + table + "}" if realtime else table
    raise ValidationError(
        f"a cost limit is set, but the {'realtime ' if realtime else ''}price of "
        f"{', '.join(unknown.values())} is unknown; nothing was sent. Give it with "
        f"Batch(prices={{model: {table}}}), or as 'account/model' where it holds for one account "
        "alone, in USD per million tokens"
        + (", or" if realtime else " as charged in a batch, or")
        + f" run without {_limit(realtime=realtime)}",
        list(unknown.values()),
    )


def _refuse_endless(spool: Spool, prices: PriceBook, *, realtime: bool) -> None:
    faults = [
        f"job {spool.example(family)!r}"
        + (f" and {size - 1:,} more" if (size := spool.size(family)) > 1 else "")
        + f": {why}"
        for family in spool.families()
        if (why := prices.unbound(family.provider, family.model, family.terms, realtime=realtime))
    ]
    if faults:
        shown = "".join(f"\n- {fault}" for fault in faults)
        raise ValidationError(
            "a cost limit is set, but what these jobs may cost has no known upper bound; nothing "
            f"was sent:{shown}\nOr run without {_limit(realtime=realtime)}",
            faults,
        )


def _limit(*, realtime: bool) -> str:
    return "a realtime limit" if realtime else "a cost limit"
