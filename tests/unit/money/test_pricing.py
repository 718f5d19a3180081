"""Estimates that hold for hostile text, and prices that are never silently wrong."""

from __future__ import annotations

import base64
import json
import random
import string
import subprocess
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices import types
from genai_prices.data import providers as price_data
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchata_prefect.answers import Usage
from batchata_prefect.content.documents import Document, load_documents
from batchata_prefect.errors import ValidationError
from batchata_prefect.money.own import read_prices
from batchata_prefect.providers import price_book, providers
from batchata_prefect.providers.tokens import Counting

BATCH = {"processing": "batch"}
NOW = datetime(2026, 11, 22, tzinfo=UTC)
BOOK = price_book(at=NOW)


def counting(name: str) -> Counting:
    """How a provider counts, or one that nobody knows."""
    known = providers()
    return known[name].counting if name in known else Counting()


def usd(text: str) -> Decimal:
    return Decimal(text)


# ---- text


def draw(alphabet: str, count: int = 2_000) -> str:
    pick = random.Random(1)
    return "".join(pick.choice(alphabet) for _ in range(count))


# Tokens counted with o200k_base and with the Claude tokenizer of npm @anthropic-ai/tokenizer.
HOSTILE = {
    "hex": (draw("0123456789abcdef"), 1116, 1150),
    "base64": (base64.b64encode(random.Random(1).randbytes(1_500)).decode(), 1359, 1400),
    "letters": (draw(string.ascii_letters), 1235, 1252),
    "consonants": (draw("qxzjkvwy"), 1223, 1166),
    "digits": (draw(string.digits), 667, 827),
    "spaced digits": (" ".join(draw(string.digits)), 3999, 2000),
    "punctuation": (draw(string.punctuation), 1318, 1335),
    "control characters": (draw("".join(map(chr, range(1, 32)))), 1993, 2000),
    "letter and digit": ("a1" * 1_000, 2000, 2000),
    "mixed case": ("xQ" * 1_000, 2000, 2000),
    "rare han": ("".join(map(chr, range(0x4E00, 0x9FFF, 10))), 4047, 4518),
    "hangul": ("".join(map(chr, range(0xAC00, 0xD7A3, 6))), 4135, 4734),
    "emoji": ("".join(map(chr, range(0x1F300, 0x1F64F))), 1866, 2213),
    "joined emoji": (
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f3\ufe0f\u200d"
        "\U0001f308\U0001f469\U0001f3fd\u200d\U0001f680" * 100,
        2400,
        3100,
    ),
    "plane two": ("".join(map(chr, range(0x20000, 0x203E8))), 3923, 2989),
    "ligature that folds into 18": ("\ufdfa" * 500, 1000, 7500),
}
USUAL = {
    "chinese": ("中华人民共和国成立于一九四九年，首都北京。" * 20, 260, 460),  # noqa: RUF001 real text
    "japanese": (
        "日本語の文章を処理するためには、トークン数を正確に見積もる必要があります。" * 20,
        520,
        700,
    ),
    "korean": ("한국어 문장을 처리하려면 토큰 수를 정확하게 추정해야 합니다." * 20, 360, 700),
    "thai": (
        "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีน" * 20,
        560,
        2660,
    ),
    "hindi": ("हिन्दी विश्व की एक प्रमुख भाषा है और भारत की एक राजभाषा है।" * 20, 380, 1300),
    "arabic": (
        "اللغة العربية هي أكثر اللغات السامية تحدثا، وإحدى أكثر اللغات انتشارا في العالم" * 20,
        439,
        1460,
    ),
    "russian": (
        "Русский язык — один из восточнославянских языков, национальный язык русского народа." * 20,
        420,
        920,
    ),
    "german": (
        "Die deutsche Sprache gehört zum westlichen Zweig der germanischen Sprachen und ist eine "
        "Weltsprache." * 20,
        401,
        620,
    ),
    "english": (
        "The invoice was paid on the second of May, but the customer says that the goods never "
        "arrived. " * 20,
        401,
        401,
    ),
    "code": (
        "def total(items: list[Item]) -> Decimal:\n    return sum((item.price * item.count for "
        "item in items), Decimal(0))\n\n" * 20,
        580,
        679,
    ),
    "json": (
        '{"invoice_number": "INV-2024-0117", "total": 1234.5, "currency": "EUR", "lines": '
        '[{"sku": "A-1", "n": 3}]}\n' * 20,
        920,
        900,
    ),
}


@pytest.mark.parametrize("name", [*HOSTILE, *USUAL])
def test_bound_of_a_text_holds_for_known_tokenizers(name):
    """No text, however hostile, makes more tokens than the bound."""
    text, openai, anthropic = (HOSTILE | USUAL)[name]
    assert counting("openai").text(text)[1] >= openai
    assert counting("anthropic").text(text)[1] >= anthropic


def test_bound_of_a_text_holds_for_the_newest_tokenizer():
    """A run of 512 `a`, of which Claude 4.7 makes three times the tokens of 4.6, stays below."""
    assert counting("anthropic").text("a" * 512)[1] >= 512


@pytest.mark.parametrize("name", list(USUAL))
def test_likely_tokens_of_usual_text_are_near(name):
    """The likely count of usual text is neither below 0.8 nor above 1.7 times the real one."""
    text, openai, anthropic = USUAL[name]
    assert 0.8 <= counting("openai").text(text)[0] / openai <= 1.7
    assert 0.8 <= counting("anthropic").text(text)[0] / anthropic <= 1.7


@given(st.text(st.characters(codec=None)), st.sampled_from(["openai", "anthropic", "other"]))
def test_bound_is_never_below_the_likely_count(text, provider):
    """For any text, lone surrogates too, the bound covers the likely count and all bytes."""
    likely, bound = counting(provider).text(text)
    assert likely <= bound
    assert bound >= len(text.encode("utf-8", "surrogatepass"))
    assert (likely > 0) == (text != "")


def test_unknown_provider_counts_as_the_dearer():
    """A provider that is not known is not taken for the one with fewer tokens."""
    text = "Some words in English."
    assert counting("other").text(text) == counting("anthropic").text(text)


@pytest.mark.parametrize(
    ("file", "provider"),
    [
        ("anthropic/cache-1h-write.json", "anthropic"),
        ("anthropic/cache-read.json", "anthropic"),
        ("openai/chat-cache-read.json", "openai"),
        ("openai/responses-cache-read.json", "openai"),
        ("openai/chat-parse.json", "openai"),
        ("openai/responses-parse.json", "openai"),
    ],
)
def test_bound_of_recorded_requests_holds(real: Path, file, provider):
    """The texts of recorded requests, schema included, bound their recorded input tokens."""
    recorded = json.loads((real / "corpus" / file).read_text())
    usage = recorded["response"]["usage"]
    actual = usage.get("prompt_tokens", usage.get("input_tokens"))
    actual += usage.get("cache_creation_input_tokens", 0) + usage.get("cache_read_input_tokens", 0)
    request = {
        key: value
        for key, value in recorded["request"].items()
        if key in {"messages", "system", "input", "response_format", "text"}
    }
    likely, bound = counting(provider).text(json.dumps(request))
    assert bound >= actual
    assert likely >= 0.8 * actual


# ---- documents


def image(width: int | None, height: int | None) -> Document:
    return Document("a.png", "image/png", b"", None, None, width, height, "", "image")


def pdf(*shown: int | None) -> Document:
    document = Document("a.pdf", "application/pdf", b"", None, len(shown), None, None, "", "pdf")
    vars(document)["shown_bytes"] = shown
    return document


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        # Claude Sonnet 5.5, less the 77 tokens of the question (public measurement, 2026-10).
        (256, 256, 100),
        (512, 512, 361),
        (768, 768, 784),
        (1024, 1024, 1369),
        (1280, 720, 1196),
        (1920, 1080, 2691),
        (4032, 3024, 3928),
    ],
)
def test_images_for_claude_count_patches_of_28_pixels(width, height, tokens):
    """An image costs Claude its patches of 28 pixels, and no more than 4,784."""
    likely, bound = counting("anthropic").document(image(width, height))
    assert tokens <= bound
    assert tokens <= likely <= tokens + 4_784 - 3_928 + 44


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        # GPT-6 with `detail` left alone (public measurement, 2026-10).
        (256, 256, 77),
        (512, 512, 308),
        (1024, 1024, 1229),
        (1920, 1080, 2448),
        (2560, 1440, 4320),
        (4032, 3024, 14364),
    ],
)
def test_images_for_gpt_6_count_patches_of_32_pixels(width, height, tokens):
    """An image costs GPT-6 1.2 tokens for each patch of 32 pixels."""
    likely, bound = counting("openai").document(image(width, height), model="gpt-6-luna")
    assert tokens <= likely <= tokens + 41
    assert bound >= max(tokens, 85 + 170)


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [(512, 512, 8_500), (1024, 1024, 25_501), (2048, 4096, 36_835), (640, 1000, 25_501)],
)
def test_images_for_gpt_4o_mini_are_dear(width, height, tokens):
    """gpt-4o-mini counts 5,667 tokens a tile; without a model name that is reckoned with."""
    for model in ("gpt-4o-mini-2024-07-18", None):
        assert counting("openai").document(image(width, height), model=model)[1] >= tokens
    assert counting("openai").document(image(width, height), model="gpt-6-luna")[1] < 15_000


@pytest.mark.parametrize("provider", ["anthropic", "openai", "other"])
def test_image_of_unknown_size_counts_as_the_largest(provider):
    """Where the pixels are not known, the largest image is assumed."""
    unknown = counting(provider).document(image(None, None))
    assert unknown == counting(provider).document(image(8_000, 8_000))
    assert unknown[1] >= counting(provider).document(image(3_000, 2_000))[1]


@pytest.mark.parametrize("provider", ["anthropic", "openai", "other"])
def test_pdf_counts_every_page(provider):
    """Each page costs its picture and its text, a dense page more than the usual one."""
    one, two = (counting(provider).document(pdf(*[800] * n)) for n in (1, 2))
    dense = counting(provider).document(pdf(9_000))
    assert two[0] > 1.9 * one[0]
    assert two[1] > 1.9 * one[1]
    assert dense[1] >= one[1] + 2 * 9_000 - 3_000
    assert counting(provider).document(pdf(None))[1] >= one[1] + 7_000


def test_pdf_pages_for_gpt_4o_mini_are_dear():
    """A page is up to eight tiles of 5,667 tokens; three pages came to 77,200 (public report)."""
    for model in ("gpt-4o-mini", None):
        assert counting("openai").document(pdf(800, 800, 800), model=model)[1] >= 77_200
    assert counting("openai").document(pdf(800, 800, 800), model="gpt-6-luna")[1] < 25_000


def test_pdf_page_covers_the_documented_range():
    """A page of Claude's documented range, 3,000 of text and the picture, is below the bound."""
    assert counting("anthropic").document(pdf(0))[1] >= 3_000 + 1_600
    assert counting("anthropic").document(pdf(0))[1] >= 4_784


@pytest.mark.parametrize(
    "file",
    [
        "citations-page-location.json",
        "citations-char-location.json",
        "document-binary.json",
        "document-text.json",
        "pdf-message.json",
        "message-vision.json",
    ],
)
def test_documents_of_recorded_requests_are_near(real: Path, file):
    """What Claude counted for recorded documents is near the likely count and below the bound."""
    recorded = json.loads((real / "corpus/anthropic" / file).read_text())
    exchange = recorded.get("exchanges", [recorded])[0]
    likely = bound = 12  # the frame of the message itself
    for block in exchange["request"]["messages"][0]["content"]:
        if block["type"] == "text":
            estimate = counting("anthropic").text(block["text"])
        else:
            source = block["source"]
            text = source["data"].encode()
            data = base64.b64decode(text) if source["type"] == "base64" else text
            (document,) = load_documents(data, job_id="j1")
            estimate = counting("anthropic").document(document, citations="citations" in block)
        likely += estimate[0]
        bound += estimate[1]
    actual = exchange["response"]["usage"]["input_tokens"]
    assert bound >= actual
    assert 0.9 <= likely / actual <= 1.3


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_text_document_counts_its_text_and_its_name(provider):
    """A text document costs its text, its frame and its title; citations add to each sentence."""
    (document,) = load_documents(b"One. Two. Three.", job_id="j1")
    plain = counting(provider).document(document)
    cited = counting(provider).document(document, citations=True)
    assert plain[1] >= len(b"One. Two. Three.") + len(document.name)
    assert cited[1] >= plain[1] + 1_000 + 2 * 20


def test_archive_counts_what_it_unpacks_to(tmp_path: Path):
    """An office file that is sent as it is costs at most the text that it unpacks to."""
    import zipfile

    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "word " * 100_000)
    (document,) = load_documents(path, job_id="j1")
    assert len(document.data) < 10_000
    assert counting("openai").document(document)[1] >= 500_000


@given(
    st.one_of(
        st.builds(image, st.integers(1, 9_000), st.integers(1, 9_000)),
        st.lists(st.integers(0, 20_000) | st.none(), min_size=1).map(lambda shown: pdf(*shown)),
    ),
    st.sampled_from(["openai", "anthropic", "other"]),
    st.sampled_from([None, "gpt-6-luna", "gpt-4o-mini"]),
    st.booleans(),
)
def test_bound_of_a_document_covers_its_likely_count(document, provider, model, citations):
    """Whatever the document, its bound is not below what is likely."""
    likely, bound = counting(provider).document(document, model=model, citations=citations)
    assert 0 < likely <= bound


# ---- prices


@pytest.mark.parametrize(
    ("provider", "model", "usage", "expected"),
    [
        # Batch replies of the recorded corpus at $1 and $5, and at $0.10 and $0.625.
        ("anthropic", "claude-sonnet-5", Usage(26, 7), "0.000061"),
        ("openai", "gpt-5.4-nano-2026-03-17", Usage(25, 7), "0.000006875"),
        # 3 plain, 418 written, 1,111 read, 33 out at 1.50, 1.875, 0.15 and 7.50.
        ("anthropic", "claude-sonnet-4-5-20250929", Usage(1532, 33, 1111, 418), "0.0012024"),
        # Thinking is output: 51 at 2.50, 1,699 at 12.50.
        ("anthropic", "claude-opus-5", Usage(51, 1699, reasoning_tokens=139), "0.021365"),
        # One hour writes: 10 plain, 100 for minutes, 1,000 for an hour at 1, 1.25 and 2.
        ("anthropic", "claude-sonnet-5-5", Usage(1110, 0, 0, 1100, 1000), "0.002135"),
        # gpt-4o keeps its standard rate for cached input: 125 and 1,390 at 1.25, 8 at 5.
        ("openai", "gpt-4o-2024-08-06", Usage(1515, 8, 1390), "0.00193375"),
        # OpenAI's written tokens: 500 plain, 300 written, 200 read at 1, 1.25 and 0.05.
        ("openai", "gpt-6.1-sol", Usage(1000, 10, 200, 300), "0.000935"),
        # Embeddings have no output, and no batch price.
        ("openai", "text-embedding-3-small", Usage(12), "0.00000024"),
        ("anthropic", "claude-haiku-5-5", Usage(), "0"),
    ],
)
def test_cost_of_known_usage(provider, model, usage, expected):
    """Known usage costs, to the last digit, what the batch rates say by hand."""
    assert BOOK.cost(provider, model, usage) == usd(expected)


@pytest.mark.parametrize(
    ("provider", "model", "input_tokens", "expected"),
    [
        ("anthropic", "claude-haiku-5-5", 100_000, "0.00525"),
        ("anthropic", "claude-haiku-5-5", 100_001, "0.02625025"),
        ("openai", "gpt-6-luna", 272_000, "0.01385"),
        ("openai", "gpt-6-luna", 272_001, "0.0275751"),
        ("anthropic", "claude-sonnet-4-5", 200_000, "0.3075"),
        ("anthropic", "claude-sonnet-4-5", 200_001, "0.611253"),
        ("anthropic", "claude-haiku-4-5", 100_000, "0.0525"),
        ("anthropic", "claude-haiku-4-5", 100_001, "0.0525005"),
    ],
)
def test_tier_moves_the_whole_request(provider, model, input_tokens, expected):
    """One token over a boundary prices all tokens anew, output too; a flat model has none."""
    assert BOOK.cost(provider, model, Usage(input_tokens, 1_000)) == usd(expected)
    assert BOOK.bound(provider, model, input_tokens, 1_000) >= usd(expected)


def batch_priced() -> list[tuple[str, str]]:
    return [
        (provider.id, model.id)
        for provider in price_data
        if provider.id in {"anthropic", "openai"}
        for model in provider.models
        if any(variant.when == BATCH for variant in model.price_variants or ())
        and provider.find_model(model.id) is model
    ]


@st.composite
def usages(draw_from, limit: int = 600_000) -> Usage:
    total = draw_from(st.integers(0, limit))
    read = draw_from(st.integers(0, total))
    written = draw_from(st.integers(0, total - read))
    hour = draw_from(st.integers(0, written))
    output = draw_from(st.integers(0, 200_000))
    return Usage(total, output, read, written, hour, draw_from(st.integers(0, output)))


def reckon(provider: str, model: str, usage: Usage, context: dict[str, str] | None) -> Decimal:
    return genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=NOW,
        price_context=context,
    ).total_price


NO_LONG_BATCH_PRICE = [("openai", "gpt-5.5-pro")]
"""Their batch price has no tier where the standard one has: genai-prices is not right there."""


def test_every_batch_price_is_known():
    """All models with a batch price have one here, and there are many of them."""
    models = batch_priced()
    assert len(models) > 50
    assert [model for model in models if not BOOK.knows(*model)] == []


@pytest.mark.parametrize("usage", [Usage(1_000, 100), Usage(300_000, 9_000, 200_000, 50_000)])
def test_cost_of_every_model_equals_the_price_library(usage):
    """No model is left out: each costs what genai-prices says, where that is right."""
    wrong = [
        model
        for model in batch_priced()
        if BOOK.cost(*model, usage) != reckon(*model, usage, BATCH)
        or BOOK.cost(*model, usage, realtime=True) != reckon(*model, usage, None)
    ]
    assert wrong == (NO_LONG_BATCH_PRICE if usage.input_tokens > 272_000 else [])


def test_long_requests_without_a_batch_price_cost_the_standard_rate():
    """gpt-5.5-pro has no long batch price: 300,000 tokens cost $60 and $270, not $15 and $90."""
    model = NO_LONG_BATCH_PRICE[0]
    usage = Usage(300_000, 1_000)
    assert BOOK.cost(*model, Usage(272_000, 1_000)) == usd("4.17")
    assert BOOK.cost(*model, usage) == BOOK.cost(*model, usage, realtime=True) == usd("18.27")
    assert BOOK.bound(*model, 300_000, 1_000) == usd("18.27")
    assert "no batch price above 272,000 input tokens" in (BOOK.note(*model) or "")


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(batch_priced()), usages())
def test_cost_equals_the_price_library(model, usage):
    """For every model and usage, the quick way costs what genai-prices says."""
    assume(model not in NO_LONG_BATCH_PRICE or usage.input_tokens <= 272_000)
    assert BOOK.cost(*model, usage) == reckon(*model, usage, BATCH)
    assert BOOK.cost(*model, usage, realtime=True) == reckon(*model, usage, None)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(batch_priced()), usages(), st.integers(0, 50_000), st.integers(0, 5_000))
def test_bound_is_never_passed(model, usage, more_input, more_output):
    """No usage within the counts costs more than their bound, whatever is cached."""
    counts = usage.input_tokens + more_input, usage.output_tokens + more_output
    cost = BOOK.cost(*model, usage)
    assert cost <= BOOK.bound(*model, *counts, cached=True)
    if model[0] == "openai" or not usage.cache_write_tokens:
        assert cost <= BOOK.bound(*model, *counts)


def test_caching_is_reckoned_with_where_it_is_asked_for():
    """On Anthropic a bound holds cache writes only if asked; OpenAI writes unasked."""
    model = ("anthropic", "claude-sonnet-5-5")
    assert BOOK.bound(*model, 1_000_000, 0) == usd("1")
    assert BOOK.bound(*model, 1_000_000, 0, cached=True) == usd("2")
    assert BOOK.bound("openai", "gpt-6.1-sol", 100_000, 0) == usd("0.125")


def test_bound_takes_the_dearest_of_modalities():
    """Where images cost more than text, the bound takes all tokens for images."""
    assert BOOK.bound("openai", "gpt-image-1.5", 1_000_000, 1_000_000) == usd("20")


UNKNOWN = [
    ("openai", "gpt-no-such-model"),
    ("anthropic", "gpt-6-luna"),
    ("my-openai-proxy", "gpt-6-luna"),
    ("", "gpt-6-luna"),
    ("openai", "ft:gpt-4-0613:org::id"),
    ("openai", "ft:gpt-4.1-2025-04-14:org::id"),
    ("anthropic", "claude-opus-4-50"),
    ("anthropic", "claude-haiku-4-5-next"),
    ("openai", "tts-1"),
    ("openai", "omni-moderation-latest"),
]


@pytest.mark.parametrize(("provider", "model"), UNKNOWN)
def test_unknown_price_is_none_and_said(provider, model):
    """What has no price of its own costs None, never 0, and the note says what to do."""
    assert not BOOK.knows(provider, model)
    assert BOOK.cost(provider, model, Usage(1, 1)) is None
    assert BOOK.cost(provider, model, Usage()) is None
    assert BOOK.bound(provider, model, 1, 1) is None
    assert BOOK.cost(provider, model, Usage(1, 1), realtime=True) is None
    assert f"no price of {model!r} is known" in (BOOK.note(provider, model) or "")


@pytest.mark.parametrize(
    ("provider", "model", "note"),
    [
        ("anthropic", "claude-sonnet-5-5", None),
        ("anthropic", "claude-sonnet-5-5-20261101", None),
        ("anthropic", "claude-haiku-4-5-20251001", None),
        ("openai", "gpt-6-luna", None),
        ("openai", "gpt-5.4-nano-2026-03-17", None),
        ("anthropic", "claude-opus-4-1", "no batch price is known; priced at the standard rate"),
        ("openai", "text-embedding-3-small", "no batch price is known"),
        # Its entry for batches is there and holds no price.
        ("openai", "gpt-3.5-turbo-1106", "no batch price is known; priced at the standard rate"),
        ("openai", "gpt-4o", "no batch price of cached input is known"),
        ("openai", "gpt-5-codex", "priced as 'gpt-5'"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:org::id", "priced as 'ft:gpt-4o-mini'"),
        ("openai", "gpt-image-1", "images are priced as text"),
        # Lent by another provider.
        ("gemini", "claude-haiku-4-5-20251001", "no batch price is known"),
    ],
)
def test_what_a_price_leaves_unsaid_is_noted(provider, model, note):
    """A price that is not the model's own batch price says so."""
    actual = BOOK.note(provider, model)
    assert BOOK.knows(provider, model)
    assert (actual is None) if note is None else (note in (actual or ""))


def test_model_without_batch_price_costs_the_standard_rate():
    """The higher rate is taken where no batch price is known: 1M at $15 and 100k at $75."""
    usage = Usage(1_000_000, 100_000)
    assert BOOK.cost("anthropic", "claude-opus-4-1", usage) == usd("22.5")


def test_before_a_batch_price_starts_the_standard_rate_holds():
    """Batch prices start on 2026-10-14 in the data; a moment before costs double, and says so."""
    early = price_book(at=datetime(2026, 10, 13, 23, 59, tzinfo=UTC))
    usage = Usage(1_000_000, 0)
    assert early.cost("anthropic", "claude-sonnet-5-5", usage) == usd("2")
    assert "starts on 2026-10-14; priced at the standard rate" in (
        early.note("anthropic", "claude-sonnet-5-5") or ""
    )
    later = price_book(at=datetime(2026, 10, 14, tzinfo=UTC))
    assert later.cost("anthropic", "claude-sonnet-5-5", usage) == usd("1")
    assert later.note("anthropic", "claude-sonnet-5-5") is None


def model_info(name: str, prices: Any, variants: Any = None) -> Any:
    return types.ModelInfo(
        id=name,
        match=types.ClauseEquals(equals=name),
        prices=prices,
        price_variants=variants,
    )


def price(input_mtok: str, output_mtok: str) -> types.ModelPrice:
    return types.ModelPrice(input_mtok=usd(input_mtok), output_mtok=usd(output_mtok))


@pytest.fixture
def listed(monkeypatch):
    """Puts one more model into the price table of OpenAI; which remembers names, so a new one."""
    provider = next(each for each in price_data if each.id == "openai")

    def put(model):
        monkeypatch.setattr(provider, "models", [*provider.models, model])

    return put


@pytest.mark.parametrize(
    ("day", "expected", "noted"),
    [(1, "2", False), (2, "3", True), (3, "3", True), (4, "3", False)],
)
def test_price_that_rises_while_a_batch_waits_is_taken(listed, day, expected, noted):
    """A rise within two days of the prices' moment counts at once, and is said."""
    rise = types.StartDateConstraint(start_date=date(2026, 12, 4))
    listed(
        model_info(
            "rising",
            [
                types.ConditionalPrice(prices=price("2", "20")),
                types.ConditionalPrice(constraint=rise, prices=price("3", "10")),
            ],
        )
    )
    book = price_book(at=datetime(2026, 12, day, 12, tzinfo=UTC))
    assert book.cost("openai", "rising", Usage(1_000_000)) == usd(expected)
    assert ("changes within two days" in (book.note("openai", "rising") or "")) == noted
    output = book.cost("openai", "rising", Usage(0, 1_000_000))
    assert output == (usd("10") if day == 4 else usd("20"))


def test_price_of_the_time_of_day_is_the_dearest(listed):
    """A batch runs at an hour of the provider's choice, so that off-peak prices are not taken."""
    night = types.TimeOfDateConstraint(start_time=time(22), end_time=time(6))
    listed(
        model_info(
            "by-hour",
            [
                types.ConditionalPrice(prices=price("2", "4")),
                types.ConditionalPrice(constraint=night, prices=price("1", "2")),
            ],
        )
    )
    for hour in (3, 12):
        book = price_book(at=datetime(2026, 12, 1, hour, tzinfo=UTC))
        assert book.cost("openai", "by-hour", Usage(1_000_000, 1_000_000)) == usd("6")


def test_half_a_batch_price_is_said(listed):
    """A batch price of input alone leaves output at the standard rate, and the note says so."""
    half = types.PriceVariant(when=BATCH, prices=types.ModelPrice(input_mtok=usd("1")))
    listed(model_info("half-priced", price("2", "4"), [half]))
    book = price_book(at=NOW)
    assert book.cost("openai", "half-priced", Usage(1_000_000, 1_000_000)) == usd("5")
    assert "only a part of the batch price is known" in (book.note("openai", "half-priced") or "")


def test_bound_of_a_realtime_request_is_at_the_standard_rate():
    """What a fallback through the realtime API cannot pass is twice the batch's."""
    model = ("anthropic", "claude-sonnet-5-5")
    assert BOOK.bound(*model, 1_000_000, 1_000, realtime=True) == usd("2.01")
    assert BOOK.bound(*model, 1_000_000, 1_000) == usd("1.005")
    private = price_book({"m": {"input": 1, "output": 1}})
    assert private.knows("p", "m")
    assert not private.knows("p", "m", realtime=True)
    assert private.bound("p", "m", 1, 1, realtime=True) is None


def test_output_of_a_model_without_output_price_is_unknown():
    """Output of an embeddings model has no price, so it is not counted as free."""
    assert BOOK.cost("openai", "text-embedding-3-small", Usage(10, 1)) is None
    assert BOOK.bound("openai", "text-embedding-3-small", 10, 1) is None
    assert BOOK.bound("openai", "text-embedding-3-small", 1_000_000, 0) == usd("0.02")


def test_parts_that_pass_their_whole_are_counted():
    """A reply that says more was cached than came in costs its parts, not less."""
    assert BOOK.cost("anthropic", "claude-sonnet-5", Usage(10, 0, 0, 1_000, 2_000)) == usd("0.004")


# ---- the user's own prices


def test_own_prices_go_first():
    """An override prices the model for any provider, and nothing is left to say of it."""
    book = price_book(
        {"gpt-6-luna": {"input": 1.1, "output": "5.5"}, "private": {"input": 1, "output": 0}}
    )
    assert book.cost("openai", "gpt-6-luna", Usage(1_000_000, 1_000_000)) == usd("6.6")
    assert book.cost("my-server", "private", Usage(3_000_000, 5)) == usd("3")
    assert book.bound("my-server", "private", 3_000_000, 5) == usd("3")
    assert book.knows("my-server", "private")
    assert book.note("openai", "gpt-6-luna") is None


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ({}, "1.11"),
        ({"cache_read": "0.1"}, "1.02"),
        ({"cache_write": "1.25"}, "1.36"),
        ({"cache_write": "1.25", "cache_write_1h": "2"}, "1.735"),
        ({"cache_write_1h": "2"}, "1.61"),
    ],
)
def test_own_cache_rates_fall_back(prices, expected):
    """Without a rate of its own, cached input costs as input and an hour as a write."""
    book = price_book({"m": {"input": 1, "output": 1} | prices})
    usage = Usage(1_100_000, 10_000, 100_000, 1_000_000, 500_000)
    assert book.cost("p", "m", usage) == usd(expected)
    assert book.bound("p", "m", 1_100_000, 10_000, cached=True) >= usd(expected)


def test_own_prices_of_an_account_go_before_those_of_its_model():
    """One endpoint of several may have a price of its own for the same model."""
    one, all_ = {"input": 1, "output": 2}, {"input": 10, "output": 20}
    book = price_book({"gpt-6-luna": all_, "openai/gpt-6-luna": one}, at=NOW)
    assert book.bound("openai", "gpt-6-luna", 1_000_000, 1_000_000) == 3
    assert book.bound("azure", "gpt-6-luna", 1_000_000, 1_000_000) == 30


def test_own_prices_say_nothing_of_the_standard_rate():
    """The realtime rate stays the listed one, and is unknown for a private model."""
    book = price_book({m: {"input": 9, "output": 9} for m in ("claude-sonnet-5-5", "private")})
    usage = Usage(1_000_000, 0)
    assert book.cost("anthropic", "claude-sonnet-5-5", usage, realtime=True) == usd("2")
    assert book.cost("openai", "private", usage, realtime=True) is None


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        ({"input": 1}, "must hold 'input' and 'output'"),
        ({"output": 1}, "must hold 'input' and 'output'"),
        ({"input": 1, "output": 1, "cached": 1}, "'cached'"),
        ({"input": -1, "output": 1}, "not -1"),
        ({"input": "free", "output": 1}, "not 'free'"),
        ({"input": float("nan"), "output": 1}, "not nan"),
        ({"input": float("inf"), "output": 1}, "not inf"),
        ({"input": True, "output": 1}, "not True"),
        ({"input": None, "output": 1}, "not None"),
        (5, "must be a table"),
    ],
)
def test_own_prices_are_checked(prices: Any, reason):
    """A wrong table of prices is an error that names the model and what is wrong."""
    with pytest.raises(ValidationError, match="'gpt-x'") as caught:
        price_book({"gpt-x": prices})
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prices.json", '{"ft:gpt-4.1:org": {"input": 0.1, "output": 0.3}}'),
        ("prices.toml", '["ft:gpt-4.1:org"]\ninput = 0.1\noutput = 0.3\n'),
    ],
)
def test_price_file_is_read_without_rounding(tmp_path: Path, name, text):
    """Prices of a JSON or TOML file are the decimals that stand there, by each way to give it."""
    path = tmp_path / name
    path.write_text(text)
    prices = read_prices(path)
    assert prices == {"ft:gpt-4.1:org": {"input": usd("0.1"), "output": usd("0.3")}}
    for book in map(price_book, (prices, path, str(path))):
        assert book.cost("openai", "ft:gpt-4.1:org", Usage(3, 1)) == usd("0.0000006")


@pytest.mark.parametrize(
    ("name", "text", "reasons"),
    [
        ("p.json", '{"gpt-x": {"input": 1}}', ["'gpt-x'", "'output'"]),
        ("p.json", '{"gpt-x": {"input": 1, "output": "dear"}}', ["'gpt-x'", "'output'", "'dear'"]),
        ("p.json", '{"gpt-x": {"input": NaN, "output": 1}}', ["'gpt-x'", "'input'", "nan"]),
        ("p.json", '{"gpt-x": {"input": 1, "input": 2, "output": 1}}', ["'input'", "twice"]),
        ("p.json", '{"gpt-x": {}, "gpt-x": {}}', ["'gpt-x'", "twice"]),
        ("p.toml", "[gpt-5.4]\ninput = 1\noutput = 2\n", ["'gpt-5'", "quotes", "'gpt-5.4'"]),
        ("p.toml", "input = 1\n", ["'input'", "must be a table"]),
    ],
)
def test_faults_of_a_price_file_name_file_model_and_key(tmp_path: Path, name, text, reasons):
    """Who reads the error knows which file, which model and which key to mend."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValidationError) as caught:
        price_book(path)
    for reason in [str(path), *reasons]:
        assert reason in str(caught.value)


def test_prices_that_are_neither_table_nor_path_are_refused():
    """A list of prices is an error that says what is taken."""
    with pytest.raises(ValidationError, match="path of a price file"):
        price_book([("m", 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"m": 1}', '{"m": {"input": 1}}', "\xff"])
def test_faulty_price_file_is_refused(tmp_path: Path, text):
    """A file that holds no tables of prices is an error that names it, wherever it is read."""
    path = tmp_path / "prices.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValidationError, match=r"prices\.json"):
        read_prices(path)
    with pytest.raises(ValidationError, match=r"none\.json"):
        read_prices(tmp_path / "none.json")


def test_importing_costs_little():
    """Neither module loads Prefect, an SDK, a PDF reader or the price table when imported."""
    heavy = ["prefect", "anthropic", "openai", "pypdf", "mammoth", "fsspec", "genai_prices"]
    code = (
        "import sys, batchata_prefect.money.prices, batchata_prefect.content.documents;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
