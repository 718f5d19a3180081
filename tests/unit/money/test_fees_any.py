"""Whatever mix is billed: what is booked is what it costs, and no limit is passed at any moment."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batchata_prefect.answers import Pass, Usage
from batchata_prefect.jobs import chunks
from batchata_prefect.jobs.spool import Row
from batchata_prefect.models import Chunk, Terms
from batchata_prefect.money import budget
from batchata_prefect.money.budget import correction
from batchata_prefect.money.ledger import Ending, Entry
from batchata_prefect.providers import price_book
from tests.unit.money.test_fees import cost, message, response

NOW = datetime.now(UTC)
RATES = {
    # Input, written for minutes, written for an hour, read, output; USD a million, standard.
    "claude-haiku-4-5": ("1", "1.25", "2", "0.1", "5"),
    "claude-sonnet-4-6": ("3", "3.75", "6", "0.3", "15"),
    "claude-opus-5": ("5", "6.25", "10", "0.5", "25"),
    "gpt-6-luna": ("0.1", "0.125", "0", "0.01", "0.5"),
    "gpt-5.6": ("4", "5", "0", "0.4", "20"),
    "o3": ("2", "2", "0", "0.5", "8"),
    "gpt-4.1-mini": ("0.4", "0.4", "0", "0.1", "1.6"),
}
"""From the price lists of both providers, and not from the code."""
CLAUDES = [model for model in RATES if model.startswith("claude")]
GPTS = [model for model in RATES if model not in CLAUDES]
SURCHARGED = {"claude-sonnet-4-6", "claude-opus-5", "gpt-6-luna", "gpt-5.6"}
UNKNOWN_CACHED_BATCH = {"o3", "gpt-4.1-mini"}
"""The price list has no batch price of their cached input; the standard one is taken."""

_tokens = st.integers(0, 3_000)
_uses = st.integers(0, 6)


def priced(model: str, counts: dict[str, int], half: bool) -> Decimal:
    """What such tokens cost, reckoned from the lists."""
    given, minutes, hour, read, written = map(Decimal, RATES[model])
    factor = Decimal("0.5") if half else Decimal(1)
    of_cache = Decimal(1) if model in UNKNOWN_CACHED_BATCH else factor
    total = counts["given"] * given + counts["minutes"] * minutes + counts["hour"] * hour
    total += counts["written"] * written
    return (total * factor + counts["read"] * read * of_cache) / 10**6


@st.composite
def _counts(draw: st.DrawFn) -> dict[str, int]:
    return {name: draw(_tokens) for name in ("given", "minutes", "hour", "read", "written")}


def as_anthropic(counts: dict[str, int]) -> dict[str, Any]:
    return {
        "input_tokens": counts["given"],
        "output_tokens": counts["written"],
        "cache_read_input_tokens": counts["read"],
        "cache_creation_input_tokens": counts["minutes"] + counts["hour"],
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts["minutes"],
            "ephemeral_1h_input_tokens": counts["hour"],
        },
    }


@settings(deadline=None)
@given(
    model=st.sampled_from(CLAUDES),
    turns=st.lists(_counts(), min_size=1, max_size=3),
    others=st.lists(st.tuples(st.sampled_from(["compaction", *CLAUDES]), _counts()), max_size=3),
    told=st.booleans(),
    searches=_uses,
    fetches=_uses,
    region=st.sampled_from([None, "us", "global"]),
    realtime=st.booleans(),
)
def test_any_message_costs_what_the_lists_say(
    model: str,
    turns: list[dict[str, int]],
    others: list[tuple[str, dict[str, int]]],
    told: bool,
    searches: int,
    fetches: int,
    region: str | None,
    realtime: bool,
) -> None:
    """Caches, searches, passes of every kind, regions, both ways of sending."""
    total = Decimal(0)
    for at, counts in [(model, each) for each in turns] + [
        (model if kind == "compaction" else kind, each) for kind, each in others
    ]:
        usd = priced(at, counts, not realtime)
        total += usd * (Decimal("1.1") if region == "us" and at in SURCHARGED else 1)
    passes = [{"type": "message", **as_anthropic(each)} for each in turns] if told else []
    for kind, counts in others:
        named = {} if kind == "compaction" else {"model": kind}
        kind = kind if kind == "compaction" else "advisor_message"
        passes.append({"type": kind, **named, **as_anthropic(counts)})
    top = {name: sum(each[name] for each in turns) for name in turns[0]}
    reply = message(
        model,
        **as_anthropic(top),
        iterations=passes or None,
        server_tool_use={"web_search_requests": searches, "web_fetch_requests": fetches},
        inference_geo=region,
        service_tier="standard" if realtime else "batch",
    )
    assert cost(reply, model=model, realtime=realtime) == total + searches * Decimal("0.01")


@settings(deadline=None)
@given(
    model=st.sampled_from(GPTS),
    counts=_counts(),
    actions=st.lists(st.sampled_from(["search", "open_page", "find_in_page"]), max_size=6),
    searched_files=_uses,
    host=st.sampled_from(["api.openai.com", "eu.api.openai.com", "us.api.openai.com"]),
    tier=st.sampled_from([None, "default", "auto"]),
    realtime=st.booleans(),
)
def test_any_response_costs_what_the_lists_say(
    model: str,
    counts: dict[str, int],
    actions: list[str],
    searched_files: int,
    host: str,
    tier: str | None,
    realtime: bool,
) -> None:
    """Caches, searches of the web and of files, regional hosts, both ways of sending."""
    counts["hour"] = 0
    items: list[Any] = [{"type": "web_search_call", "action": {"type": name}} for name in actions]
    items += [{"type": "file_search_call"}] * searched_files
    reply = response(
        *items,
        service_tier=tier,
        usage={
            "input_tokens": counts["given"] + counts["minutes"] + counts["read"],
            "output_tokens": counts["written"],
            "input_tokens_details": {
                "cached_tokens": counts["read"],
                "cache_write_tokens": counts["minutes"],
            },
            "output_tokens_details": {"reasoning_tokens": counts["written"] // 2},
        },
    )
    total = priced(model, counts, not realtime)
    if model in SURCHARGED and host != "api.openai.com":
        total *= Decimal("1.1")
    searches = actions.count("search")
    total += searches * Decimal("0.01") + searched_files * Decimal("0.0025")
    if model == "gpt-4.1-mini":
        block = {"given": 8_000 * searches, "minutes": 0, "hour": 0, "read": 0, "written": 0}
        total += priced(model, block, not realtime)
    book = price_book()
    book.located("openai", f"https://{host}/v1")
    assert cost(reply, "openai", model, book=book, realtime=realtime) == total


TERMS = {
    ("anthropic", "claude-haiku-4-5"): Terms(uses=((("web_searches",), 3),)),
    ("anthropic", "claude-sonnet-4-6"): Terms(region="us"),
    ("openai", "gpt-6-luna"): Terms(uses=((("file_searches", "web_searches"), 4),)),
    ("openai", "gpt-4.1-mini"): Terms(uses=((("web_searches",), 2),)),
}
BOOK = price_book()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), limit=st.decimals("0.01", "0.5", places=4))
def test_what_is_committed_never_passes_the_limit(data: st.DataObject, limit: Decimal) -> None:
    """Batches and realtime requests, settled in any order, at any cost inside of their bounds."""
    ledger: list[Entry] = []
    bills: list[Decimal] = []
    for _ in range(data.draw(st.integers(1, 14))):
        open_ = [at for at, entry in enumerate(ledger) if entry.ending is None]
        if open_ and data.draw(st.booleans()):
            at = data.draw(st.sampled_from(open_))
            bills[at] = _settle(data, ledger[at])
        elif (entry := _send(data, ledger, limit)) is not None:
            ledger.append(entry)
            assert entry.chunk.reserved_usd is not None
            bills.append(entry.chunk.reserved_usd)
        taken = budget.taken(ledger)
        assert taken is not None
        assert sum(bills) <= taken <= limit
        assert budget.realtime_room(ledger, limit / 4) >= 0


def _send(data: st.DataObject, ledger: list[Entry], limit: Decimal) -> Entry | None:
    """Cut and reserve the next chunk by what is left."""
    (provider, model), terms = data.draw(st.sampled_from(sorted(TERMS.items())))
    realtime = data.draw(st.booleans())
    factor = correction(ledger, provider, model)
    room = budget.room(ledger, limit)
    if realtime and room is not None:
        room = min(room, budget.realtime_room(ledger, limit / 4))

    def bound(given: int, written: int) -> Decimal | None:
        usd = BOOK.bound(provider, model, given, written, realtime=realtime, terms=terms)
        return None if usd is None else usd * Decimal(factor)

    sizes = data.draw(st.lists(st.tuples(_tokens, _tokens), min_size=1, max_size=6))
    rows = [Row(at, b"m" * 12, 10, each[0], *each) for at, each in enumerate(sizes)]
    cut = chunks.cut(
        rows,
        max_requests=5,
        max_bytes=10**6,
        max_tokens=None,
        line_bytes=1,
        wire_bytes=lambda size, _: size,
        bound=bound,
        room=room,
    )
    if not cut.ordinals:
        return None
    chunk = Chunk(
        sequence=len(ledger),
        round=0,
        token="ab" * 32,
        provider=provider,
        endpoint="",
        model=model,
        count=len(cut.ordinals),
        size_bytes=cut.size_bytes,
        input_tokens=cut.input_tokens,
        output_tokens=cut.output_tokens,
        reserved_usd=cut.bound_usd,
        correction=factor,
        realtime=realtime,
    )
    return Entry(chunk, NOW)


def _settle(data: st.DataObject, entry: Entry) -> Decimal:
    """End a chunk with something inside its bounds: what was really billed."""
    chunk = entry.chunk
    terms = TERMS[chunk.provider, chunk.model]
    given, written = (
        data.draw(st.integers(0, most)) for most in (chunk.input_tokens, chunk.output_tokens)
    )
    fees = tuple(
        (data.draw(st.sampled_from(names)), data.draw(st.integers(0, (most or 0) * chunk.count)))
        for names, most in terms.uses
    )
    part = Pass(None, given // 2, written // 2)
    usage = Usage(given, written, given // 3, fees=fees, passes=(part,))
    usd = BOOK.cost(chunk.provider, chunk.model, usage, terms, realtime=chunk.realtime)
    assert usd is not None
    end = data.draw(st.sampled_from(["known", "known", "unknown", "never"]))
    if end == "never":
        usd = Decimal(0)
    marks = ("r" if end == "never" else "a") * chunk.count
    status = "never_created" if end == "never" else "ended"
    entry.ending = Ending(status, marks, None if end == "unknown" else usd, usage, NOW)
    return usd
