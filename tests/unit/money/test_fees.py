"""Everything that is billed is counted: fees, passes, service tiers and regions."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchata_prefect import Batch, ValidationError
from batchata_prefect.answers import Pass, Reply, Usage
from batchata_prefect.jobs.spool import Spool
from batchata_prefect.jobs.spool.kept import keep, reopen
from batchata_prefect.models import Chunk, Job, Terms
from batchata_prefect.money.prices import PriceBook
from batchata_prefect.providers import price_book, providers
from batchata_prefect.results.row import Reading

CASES = Path(__file__).parents[4] / "shared" / "cases" / "wire"
HAIKU, SONNET, OPUS = "claude-haiku-4-5", "claude-sonnet-4-6", "claude-opus-5"


def usd(text: str) -> Decimal:
    return Decimal(text)


def message(model: str = HAIKU, content: Any = None, **usage: Any) -> Reply:
    """The reply of a row with such a message."""
    body = {
        "type": "message",
        "model": model,
        "stop_reason": "end_turn",
        "content": content or [{"type": "text", "text": "Fine."}],
        "container": usage.pop("container", None),
        "usage": {
            "input_tokens": 1000,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 100,
            "service_tier": "batch",
            **usage,
        },
    }
    row = {"custom_id": "a", "result": {"type": "succeeded", "message": body}}
    return providers()["anthropic"].read(json.dumps(row).encode(), "/v1/messages")


def response(*items: Any, **body: Any) -> Reply:
    """The reply of a row with such a response of OpenAI's."""
    text = {"type": "message", "content": [{"type": "output_text", "text": "Fine."}]}
    usage = {
        "input_tokens": 1000,
        "output_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    answered = {"status": "completed", "output": [*items, text], "usage": usage, **body}
    return _openai(answered, "/v1/responses")


def completion(**body: Any) -> Reply:
    """The reply of a row with such a chat completion."""
    choice = {"message": {"content": "Fine."} | body.pop("message", {}), "finish_reason": "stop"}
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    return _openai({"choices": [choice], "usage": usage, **body}, "/v1/chat/completions")


def _openai(body: Any, endpoint: str) -> Reply:
    told = {"status_code": 200, "body": body}
    row = {"custom_id": "a", "response": told, "error": None}
    return providers()["openai"].read(json.dumps(row).encode(), endpoint)


def cost(
    reply: Reply,
    provider: str = "anthropic",
    model: str = HAIKU,
    *,
    book: PriceBook | None = None,
    terms: Terms = Terms(),  # noqa: B008 - it cannot be changed
    realtime: bool = False,
) -> Decimal | None:
    """What a reply costs by the way in which it is settled."""
    bounds = (1, 0, 0, 0, None)
    chunk = Chunk(0, 0, "ab" * 32, provider, "", model, *bounds, realtime=realtime)
    return Reading(chunk, None, book or price_book(), {}, terms=terms).cost(reply)


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not at hand")
@pytest.mark.parametrize(
    ("case", "model", "expected", "fees"),
    [
        ("websearch_haiku.json", HAIKU, "0.0558", (("web_searches", 5),)),
        ("compaction_usage.json", SONNET, "0.1497255", ()),
    ],
)
def test_recorded_usages_cost_what_they_cost(case, model, expected, fees):
    body = json.loads((CASES / case).read_text())
    row = {"custom_id": "a", "result": {"type": "succeeded", "message": body}}
    reply = providers()["anthropic"].read(json.dumps(row).encode(), "/v1/messages")
    assert cost(reply, model=model) == usd(expected)
    assert reply.usage is not None and reply.usage.fees == fees


def entry(kind: str, given: int, written: int, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "input_tokens": given,
        "output_tokens": written,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        **more,
    }


TOP = entry("message", 1000, 100)
"""The only turn of `message`, as an iteration."""

PLAIN = "0.00075"
"""What `message` costs with Haiku 4.5 in a batch: 1,000 at $0.50 and 100 at $2.50 a million."""

ANTHROPIC_FEES: dict[str, tuple[dict[str, Any], str | None]] = {
    "no tools": ({"server_tool_use": None}, PLAIN),
    "tools unused": ({"server_tool_use": {"web_search_requests": 0}}, PLAIN),
    "searches": ({"server_tool_use": {"web_search_requests": 3}}, "0.03075"),
    "fetches are free": ({"server_tool_use": {"web_fetch_requests": 9}}, PLAIN),
    "tool searches are free": ({"server_tool_use": {"tool_search_requests": 2}}, PLAIN),
    "code has no known price": ({"server_tool_use": {"code_execution_requests": 1}}, None),
    "a container was used": ({"container": {"id": "container_1"}}, None),
    "code in a block": ({"content": [{"type": "server_tool_use", "name": "code_execution"}]}, None),
    "an unknown tool": ({"server_tool_use": {"dream_requests": 1}}, None),
    "an unknown tool unused": ({"server_tool_use": {"dream_requests": 0}}, PLAIN),
    "a count in words": ({"server_tool_use": {"web_search_requests": "3"}}, "0.03075"),
    "no count": ({"server_tool_use": {"web_search_requests": "many"}}, None),
    "a negative count": ({"server_tool_use": {"web_search_requests": -3}}, None),
    "tools in another form": ({"server_tool_use": [{"web_search_requests": 3}]}, None),
    "passes in another form": ({"iterations": {"type": "compaction"}}, None),
    # 300 x 0.625 and 200 x 1.00.
    "a cache without its total": (
        {
            "cache_creation_input_tokens": None,
            "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 200},
        },
        "0.0011375",
    ),
    "a cache that passes its total": (
        {"cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 0}},
        "0.0009375",
    ),
    "a cache of a new lifetime": (
        {
            "cache_creation_input_tokens": 300,
            "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_24h_input_tokens": 300},
        },
        None,
    ),
    "searches and cache": (
        {
            "server_tool_use": {"web_search_requests": 1},
            "cache_read_input_tokens": 10_000,
            "cache_creation_input_tokens": 3_000,
            "cache_creation": {"ephemeral_1h_input_tokens": 2_000},
        },
        # 10,000 x 0.05 + 1,000 x 0.625 + 2,000 x 1.00, and one search.
        "0.013875",
    ),
}
ITERATIONS: dict[str, tuple[list[Any], str | None]] = {
    "none": ([], PLAIN),
    "the turn alone": ([TOP], PLAIN),
    "compaction": ([entry("compaction", 50_000, 200), TOP], "0.02625"),
    "compaction without the turn": ([entry("compaction", 50_000, 200)], "0.02625"),
    "two turns": ([entry("message", 600, 40), entry("message", 400, 60)], PLAIN),
    # 2,000 x 2.50 + 300 x 12.50, Opus 5 in a batch.
    "advice": ([TOP, entry("advisor_message", 2_000, 300, model=OPUS)], "0.0095"),
    "advice with its cache": (
        [
            TOP,
            entry(
                "advisor_message",
                0,
                0,
                model=OPUS,
                cache_read_input_tokens=4_000,
                cache_creation_input_tokens=1_000,
                cache_creation={"ephemeral_1h_input_tokens": 1_000},
            ),
        ],
        "0.00675",  # 4,000 x 0.25 + 1,000 x 5
    ),
    "advice of nobody": ([TOP, entry("advisor_message", 1, 1)], None),
    "advice at no known price": ([TOP, entry("advisor_message", 1, 1, model="other")], None),
    "fallback": (
        [
            entry("message", 1_000, 0, model=HAIKU),
            entry("fallback_message", 1_000, 100, model=OPUS),
        ],
        "0.00425",  # 1,000 x 0.50, and 1,000 x 2.50 + 100 x 12.50
    ),
    "a new kind": ([TOP, entry("reflection", 1_000, 100)], "0.0015"),
    "no entry": ([TOP, "what"], None),
    "no count": ([TOP, entry("compaction", -1, 0)], None),
    "counts that are left out": ([TOP, {"type": "compaction", "output_tokens": 5}], None),
    "turns that leave something out": ([entry("message", 600, 40)], PLAIN),
}


@pytest.mark.parametrize("name", ANTHROPIC_FEES)
def test_fees_of_a_message(name):
    usage, expected = ANTHROPIC_FEES[name]
    assert cost(message(**usage)) == (None if expected is None else usd(expected))


@pytest.mark.parametrize("name", ITERATIONS)
def test_every_iteration_is_billed_at_its_price(name):
    iterations, expected = ITERATIONS[name]
    reply = message(iterations=iterations)
    assert cost(reply) == (None if expected is None else usd(expected))
    counted = [each for each in iterations if isinstance(each, dict) and each.get("type")]
    said = name not in {"compaction without the turn", "turns that leave something out"}
    if expected is not None and said and counted:
        assert reply.usage is not None
        assert reply.usage.output_tokens == sum(each["output_tokens"] for each in counted)


def test_each_turn_has_the_price_of_its_own_length():
    """Haiku 5.5 costs five times as much above 100,000 tokens: of a turn, not of their sum."""
    turns = [entry("message", 60_000, 100), entry("message", 60_000, 100)]
    reply = message("claude-haiku-5-5", input_tokens=120_000, output_tokens=200, iterations=turns)
    assert cost(reply, model="claude-haiku-5-5") == usd("0.00605")


def test_how_long_the_turns_hold_their_cache_stands_at_the_top():
    reply = message(
        input_tokens=0,
        output_tokens=0,
        cache_creation_input_tokens=3_000,
        cache_creation={"ephemeral_5m_input_tokens": 1_000, "ephemeral_1h_input_tokens": 2_000},
        iterations=[
            entry("message", 0, 0, cache_creation_input_tokens=2_000),
            entry("message", 0, 0, cache_creation_input_tokens=1_000),
        ],
    )
    assert cost(reply) == usd("0.002625")  # 2,000 x 1.00 + 1,000 x 0.625


SEARCH = {"type": "web_search_call", "action": {"type": "search"}}
OPENAI_FEES: dict[str, tuple[list[Any], dict[str, Any], str | None]] = {
    # 1,000 x 0.05 + 100 x 0.25 a million, GPT-6 Luna in a batch.
    "none": ([{"type": "reasoning"}, {"type": "function_call"}], {}, "0.000075"),
    "searches": ([SEARCH, SEARCH, {"type": "web_search_call"}], {}, "0.030075"),
    "opened pages": ([{**SEARCH, "action": {"type": "open_page"}}], {}, "0.000075"),
    "looked through": ([{**SEARCH, "action": {"type": "find_in_page"}}], {}, "0.000075"),
    "a new action": ([{**SEARCH, "action": {"type": "dream"}}], {}, "0.010075"),
    "file searches": ([{"type": "file_search_call"}] * 2, {}, "0.005075"),
    "billable searches are told": (
        [SEARCH] * 4,
        {"tool_usage": {"web_search": {"num_requests": 2}}},
        "0.020075",
    ),
    "billable searches are not told": (
        [SEARCH] * 2,
        {"tool_usage": {"web_search": {"num_requests": None}}},
        "0.020075",
    ),
    "told images": ([], {"tool_usage": {"image_gen": {"input_tokens_details": {"a": 5}}}}, None),
    "no told images": ([], {"tool_usage": {"image_gen": {"total_tokens": 0}}}, "0.000075"),
    "a new told tool": ([], {"tool_usage": {"dreams": {"num_requests": 1}}}, None),
    "told in another form": ([], {"tool_usage": [1]}, None),
    "previews": ([SEARCH], {"tools": [{"type": "web_search_preview"}]}, "0.010075"),
    "code": ([{"type": "code_interpreter_call", "container_id": "c"}], {}, None),
    "images": ([{"type": "image_generation_call"}], {}, None),
    "a shell of ours": ([{"type": "shell_call", "environment": {"type": "local"}}], {}, "0.000075"),
    "a hosted shell": (
        [{"type": "shell_call", "environment": {"type": "container_reference"}}],
        {},
        None,
    ),
    "connectors are tokens": ([{"type": "mcp_call"}, {"type": "mcp_list_tools"}], {}, "0.000075"),
    "a new tool": ([{"type": "dream_call"}], {}, None),
}


@pytest.mark.parametrize("name", OPENAI_FEES)
def test_fees_of_a_response(name):
    items, body, expected = OPENAI_FEES[name]
    found = cost(response(*items, **body), "openai", "gpt-6-luna")
    assert found == (None if expected is None else usd(expected))


def test_a_search_preview_costs_more_where_the_model_does_not_reason():
    reply = response(SEARCH, tools=[{"type": "web_search_preview_2025_03_11"}])
    assert cost(reply, "openai", "gpt-4.1") == usd("0.0264")  # 0.001 + 0.0004 + 25 / 1000


@pytest.mark.parametrize(
    ("model", "tool", "realtime", "expected"),
    [
        # 1,000 and 100 tokens, two searches of 0.01, and 16,000 tokens where they are a block.
        ("gpt-4.1-mini", "web_search", False, "0.02348"),
        ("gpt-4.1-mini-2025-04-14", "web_search", True, "0.02696"),
        ("gpt-4o-mini", "web_search", False, "0.021305"),
        ("gpt-4o-mini", "web_search_preview", False, "0.050105"),
        ("gpt-4.1-nano", "web_search", False, "0.02007"),
    ],
)
def test_what_small_models_find_is_a_block_of_tokens(model, tool, realtime, expected):
    reply = response(SEARCH, SEARCH, tools=[{"type": tool}])
    assert cost(reply, "openai", model, realtime=realtime) == usd(expected)
    fee = "web_searches" if tool == "web_search" else "web_search_previews"
    terms = Terms(uses=(((fee,), 2),))
    bound = price_book().bound("openai", model, 1_000, 100, terms=terms, realtime=realtime)
    assert bound is not None
    assert bound >= usd(expected)


@pytest.mark.parametrize("side", ["prompt", "completion"])
def test_sound_is_not_told_at_the_price_of_text(side):
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    details = {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    silent = cost(completion(usage=usage | details), "openai", "gpt-audio")
    assert silent == usd("0.0035")
    details[f"{side}_tokens_details"]["audio_tokens"] = 50
    assert cost(completion(usage=usage | details), "openai", "gpt-audio") is None


@pytest.mark.parametrize(
    "body",
    [
        {"model": "gpt-5-search-api"},
        {"message": {"annotations": [{"type": "url_citation"}]}},
    ],
)
def test_a_chat_completion_that_searched_has_an_unknown_cost(body):
    assert cost(completion(**body), "openai", "gpt-6-luna") is None
    assert cost(completion(), "openai", "gpt-6-luna") is not None


TIERS: dict[str, tuple[str, Any, bool, str | None]] = {
    # Sonnet 4.6: 3 and 15 USD a million, half of it in a batch; GPT-6 Luna: 0.10 and 0.50.
    "claude batch": ("anthropic", "batch", False, "0.00225"),
    "claude says nothing": ("anthropic", None, False, "0.00225"),
    "claude standard in a batch": ("anthropic", "standard", False, "0.0045"),
    "claude realtime": ("anthropic", "standard", True, "0.0045"),
    "claude priority": ("anthropic", "priority", True, None),
    "claude new": ("anthropic", "turbo", False, None),
    "gpt default in a batch": ("openai", "default", False, "0.000075"),
    "gpt auto": ("openai", "auto", False, "0.000075"),
    "gpt says nothing": ("openai", None, False, "0.000075"),
    "gpt default": ("openai", "default", True, "0.00015"),
    "gpt flex": ("openai", "flex", True, "0.000075"),
    "gpt flex in a batch": ("openai", "flex", False, "0.000075"),
    "gpt priority": ("openai", "priority", True, "0.0003"),
    "gpt priority in a batch": ("openai", "priority", False, "0.0003"),
    "gpt scale": ("openai", "scale", True, None),
    "gpt ultrafast": ("openai", "ultrafast", True, None),
}


@pytest.mark.parametrize("name", TIERS)
def test_the_tier_that_a_reply_names_is_the_price(name):
    provider, tier, realtime, expected = TIERS[name]
    wanted = None if expected is None else usd(expected)
    if provider == "anthropic":
        found = cost(message(SONNET, service_tier=tier), model=SONNET, realtime=realtime)
        assert found == wanted
        return
    for reply in (completion(service_tier=tier), response(service_tier=tier)):
        assert cost(reply, "openai", "gpt-6-luna", realtime=realtime) == wanted


@pytest.mark.parametrize(
    ("model", "region", "asked", "expected"),
    [
        (SONNET, "global", None, "0.00225"),
        (SONNET, "not_available", None, "0.00225"),
        (SONNET, "us", None, "0.002475"),
        (SONNET, None, "us", "0.002475"),
        (SONNET, "global", "us", "0.00225"),
        (SONNET, "eu", None, None),
        ("claude-sonnet-5-5", "us", None, "0.00165"),
        (HAIKU, "us", None, PLAIN),
        (HAIKU, "eu", None, None),
    ],
)
def test_the_region_of_a_claude_reply(model, region, asked, expected):
    reply = message(model, inference_geo=region)
    found = cost(reply, model=model, terms=Terms(region=asked))
    assert found == (None if expected is None else usd(expected))


def test_a_region_makes_tokens_dearer_and_no_searches():
    reply = message(SONNET, inference_geo="us", server_tool_use={"web_search_requests": 1})
    assert cost(reply, model=SONNET) == usd("0.012475")


@pytest.mark.parametrize(
    ("host", "model", "expected"),
    [
        ("api.openai.com", "gpt-6-luna", "0.000075"),
        ("eu.api.openai.com", "gpt-6-luna", "0.0000825"),
        ("us.api.openai.com", "gpt-6-luna-2026-09-01", "0.0000825"),
        ("eu.api.openai.com", "gpt-4.1", "0.0014"),
        ("eu.api.openai.com", "o3", "0.0014"),
        ("eu.api.openai.com", "gpt-5", "0.001125"),
        ("xx.api.openai.com", "gpt-6-luna", None),
        ("my-server.example", "gpt-6-luna", "0.000075"),
        ("eu.api.openai.com.my-server.example", "gpt-6-luna", "0.000075"),
    ],
)
def test_the_region_of_an_openai_host(host, model, expected):
    book = price_book()
    book.located("openai", f"https://{host}/v1")
    found = cost(completion(), "openai", model, book=book)
    assert found == (None if expected is None else usd(expected))
    bound = book.bound("openai", model, 1_000, 100)
    assert (bound is None) == (expected is None)
    if found is not None and bound is not None:
        assert bound >= found


def test_own_prices_hold_in_every_region_and_tier_and_may_hold_fees():
    own = {"input": 1, "output": 10, "fees": {"code_executions": 50, "dream_requests": 2}}
    book = price_book({HAIKU: own, "private": {"input": 1, "output": 10}})
    tools = {"code_execution_requests": 2, "web_search_requests": 1, "dream_requests": 1}
    reply = message(inference_geo="eu", service_tier="priority", server_tool_use=tools)
    assert cost(reply, book=book) == usd("0.114")  # 0.002 + 2 x 0.05 + 0.01 + 0.002
    assert cost(reply, model="private", book=book) is None


@pytest.mark.parametrize("fees", [5, {"x": -1}, {"x": "a"}, {"x": float("nan")}, {"x": True}])
def test_own_fees_that_are_none_are_refused(fees):
    with pytest.raises(Exception, match="fees"):
        price_book({"m": {"input": 1, "output": 1, "fees": fees}})


TERMS: dict[str, tuple[str, str, Terms, str | None]] = {
    "searches": ("anthropic", HAIKU, Terms(uses=((("web_searches",), 5),)), "0.05"),
    "searches without end": ("anthropic", HAIKU, Terms(uses=((("web_searches",), None),)), None),
    "free without end": ("anthropic", HAIKU, Terms(uses=((("web_fetches",), None),)), "0"),
    "containers": ("anthropic", HAIKU, Terms(uses=((("code_executions",), 5),)), None),
    "dearest of two": (
        "openai",
        "gpt-6-luna",
        Terms(uses=((("file_searches", "web_searches"), 3),)),
        "0.03",
    ),
    "one of two unknown": (
        "openai",
        "gpt-6-luna",
        Terms(uses=((("images", "web_searches"), 3),)),
        None,
    ),
    "an unknown region": ("anthropic", SONNET, Terms(region="eu"), None),
    "a region of one that tells none": ("gemini", "gemini-2.5-flash", Terms(region="us"), None),
    "an unknown tier": ("openai", "gpt-6-luna", Terms(tier="scale"), None),
}


@pytest.mark.parametrize("name", TERMS)
def test_the_bound_has_the_largest_fees_or_there_is_none(name):
    provider, model, terms, more = TERMS[name]
    book = price_book()
    plain = book.bound(provider, model, 1_000, 100)
    found = book.bound(provider, model, 1_000, 100, terms=terms)
    assert plain is not None
    assert found == (None if more is None else plain + usd(more))
    assert (book.unbound(provider, model, terms) is None) == (more is not None)
    three = book.bound(provider, model, 3_000, 300, terms=terms, requests=3)
    if found is not None:
        assert three == 3 * found


def test_sums_of_usages():
    one = Usage(10, 5, fees=(("web_searches", 2),), passes=(Pass(None, 3, 1),), tier="batch")
    other = Usage(1, 1, fees=(("file_searches", 1), ("web_searches", 1)))
    total = one.plus(other, 3)
    assert total == Usage(13, 8, fees=(("file_searches", 3), ("web_searches", 5)))


ASKED: dict[str, tuple[str, dict[str, Any], Terms]] = {
    "nothing": ("anthropic", {}, Terms()),
    "own tools": ("anthropic", {"tools": [{"name": "f", "input_schema": {}}]}, Terms()),
    "own typed tools": ("anthropic", {"tools": [{"type": "bash_20250124", "name": "b"}]}, Terms()),
    "searches": (
        "anthropic",
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
        Terms(uses=((("web_searches",), 5),)),
    ),
    "two tools": (
        "anthropic",
        {
            "tools": (
                {"type": "web_search_20250305", "name": "a", "max_uses": 5},
                {"type": "web_fetch_20250910", "name": "b"},
            )
        },
        Terms(uses=((("web_searches",), 5), (("web_fetches",), None))),
    ),
    "no limit": (
        "anthropic",
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": True}]},
        Terms(uses=((("web_searches",), None),)),
    ),
    "code": (
        "anthropic",
        {"tools": [{"type": "code_execution_20260521", "name": "code_execution"}]},
        Terms(uses=((("code_executions",), None),)),
    ),
    "code beside a fetch": (
        "anthropic",
        {
            "tools": [
                {"type": "code_execution_20260521", "name": "code_execution"},
                {"type": "web_fetch_20260318", "name": "web_fetch", "max_uses": 2},
            ]
        },
        Terms(uses=((("web_fetches",), 2),), free=("code_executions",)),
    ),
    "a new tool": (
        "anthropic",
        {"tools": [{"type": "dream_20270101", "name": "dream"}]},
        Terms(uses=((("dream_20270101",), None),)),
    ),
    "region": ("anthropic", {"inference_geo": "us"}, Terms(region="us")),
    "responses": (
        "openai",
        {"tools": [{"type": "web_search"}, {"type": "file_search"}], "max_tool_calls": 3},
        Terms(uses=((("file_searches", "web_searches"), 3),)),
    ),
    "responses without end": (
        "openai",
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        Terms(uses=((("code_executions",), None),)),
    ),
    "functions": ("openai", {"tools": [{"type": "function", "name": "f"}]}, Terms()),
    "tier": ("openai", {"service_tier": "flex"}, Terms(tier="flex")),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_job_may_be_billed_stands_in_its_request(name):
    provider, params, terms = ASKED[name]
    model, endpoint = (HAIKU, None) if provider == "anthropic" else ("gpt-6-luna", "/v1/responses")
    job = Job(id="a", model=model, prompt="Hello", endpoint=endpoint, params=params)
    assert providers()[provider].render(job).terms == terms


TOO_OPEN: dict[str, tuple[dict[str, Any], str]] = {
    "searches": (
        {"model": HAIKU, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "max_uses",
    ),
    "code": (
        {"model": HAIKU, "tools": [{"type": "code_execution_20260521", "name": "x"}]},
        "code_executions",
    ),
    "region": ({"model": SONNET, "inference_geo": "eu"}, "inference_geo"),
    "tier": ({"model": "gpt-6-luna", "service_tier": "scale"}, "service_tier"),
    "responses": (
        {"model": "gpt-6-luna", "endpoint": "/v1/responses", "tools": [{"type": "web_search"}]},
        "max_tool_calls",
    ),
    "chat search": ({"model": "gpt-5-search-api"}, "chat_web_searches"),
}


@pytest.mark.parametrize("name", TOO_OPEN)
def test_what_has_no_bound_is_refused_under_a_limit_before_anything_is_sent(name, tmp_path):
    given, way_out = TOO_OPEN[name]
    batch = Batch(tmp_path / "out").add_job(prompt="Hello", id="fine", model=HAIKU)
    batch.add_job(prompt="Hello", id="open-ended", **given)
    batch.add_cost_limit(usd=100)
    with pytest.raises(ValidationError, match="nothing was sent") as refused:
        batch.run()
    assert "'open-ended'" in str(refused.value)
    assert "'fine'" not in str(refused.value)
    assert way_out in str(refused.value)


def test_jobs_of_other_terms_are_never_in_one_batch_and_are_found_again(tmp_path):
    tool = {"type": "web_search_20250305", "name": "web_search"}
    spool = Spool.create(tmp_path)
    for most in (5, 5, 3):
        job = Job(
            id=f"{spool.count}",
            model=HAIKU,
            prompt="x",
            params={"tools": [tool | {"max_uses": most}]},
        )
        spool.add(job, providers()["anthropic"].render(job), named=True)
    spool.seal()
    assert [spool.size(family) for family in spool.families()] == [2, 1]
    assert spool.terms([2]) == Terms(uses=((("web_searches",), 3),))
    assert spool.terms([-1, 0]) == Terms(uses=((("web_searches",), 5),))
    keep(spool, tmp_path, "name")
    again = reopen(tmp_path, "name")
    assert again is not None
    assert again.families() == spool.families()
