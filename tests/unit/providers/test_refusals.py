"""Bodies that the APIs are known to refuse are refused before anything is paid, with a way out."""

from __future__ import annotations

import base64
import inspect
import re
import struct
import zlib
from typing import Any, get_args

import pytest
from anthropic.types import ContentBlockParam
from openai.types.chat import ChatCompletionContentPartParam
from openai.types.responses import ResponseInputContentParam

from batchata_prefect.errors import ValidationError
from batchata_prefect.models import Job
from batchata_prefect.providers.anthropic import Anthropic
from batchata_prefect.providers.openai import OpenAI
from batchata_prefect.providers.refusals import CHAT, MESSAGES, PARTS, RESPONSES

from .conftest import body, claude_job, gpt_job, pdf

OLD = "claude-haiku-4-5"
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
CACHED = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}


def png(width: int = 1, height: int = 1, more: int = 0) -> bytes:
    """A PNG of a size, whose pixels do not matter, with so many bytes more."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"teXt", b"a" * more), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def split(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `add_job` as those of a job: what is no field is a parameter."""
    own = {name: value for name, value in values.items() if name in Job.__dataclass_fields__}
    return {**own, "params": {k: v for k, v in values.items() if k not in own}}


def turn(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def claude_image(data: bytes | str, media_type: str = "image/png") -> dict[str, Any]:
    text = data if isinstance(data, str) else b64(data)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": text}}


def claude_pdf(data: bytes) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": b64(data)}
    return {"type": "document", "source": source}


def chat_image(data: bytes | str, media_type: str = "image/png") -> dict[str, Any]:
    text = data if isinstance(data, str) else b64(data)
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{text}"}}


def response_file(data: bytes, name: str) -> dict[str, Any]:
    url = f"data:application/octet-stream;base64,{b64(data)}"
    return {"type": "input_file", "filename": name, "file_data": url}


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
QUESTION = {"type": "text", "text": "What is it?"}
SIX = [{"role": "user", "content": "a"}]


CLAUDE = {
    "an empty text block": ({"messages": [turn({"type": "text", "text": ""})]}, "without a text"),
    "a blank text block": (
        {"messages": [turn(QUESTION, {"type": "text", "text": " \n"})]}, "without a text"),
    "an empty system block": (
        {"prompt": "a", "system": [{"type": "text", "text": ""}]}, "'system' has a text block"),
    "an empty document": (
        {"messages": [turn({"type": "document", "source": {"type": "text",
         "media_type": "text/plain", "data": " "}}, QUESTION)]}, "document in its messages has"),
    "a prefill that ends in white space": (
        {"model": OLD, "messages": [*SIX, {"role": "assistant", "content": "{ "}]},
        "ends in white space"),
    "blocks of a prefill that end in white space": (
        {"model": OLD, "messages": [*SIX, turn({"type": "text", "text": "x\n"}, role="assistant")]},
        "ends in white space"),
    "too little thinking": (
        {"model": OLD, "prompt": "a", "max_tokens": 4096, "thinking": {
            "type": "enabled", "budget_tokens": 1023}}, "at least 1,024"),
    "five breakpoints": (
        {"messages": [turn(CACHED, CACHED)], "system": [CACHED, CACHED],
         "tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}]}, "5 cache breakpoints"),
    "a choice of no tools": ({"prompt": "a", "tool_choice": {"type": "auto"}}, "and no tools"),
    "headers": ({"prompt": "a", "extra_headers": {"x": "y"}}, "ANTHROPIC_CUSTOM_HEADERS"),
    "betas": ({"prompt": "a", "betas": ["b"]}, "ANTHROPIC_CUSTOM_HEADERS"),
    "extra_body": ({"prompt": "a", "extra_body": {"x": 1}}, "give its fields to the job"),
    "timeout": ({"prompt": "a", "timeout": 60}, "add_time_limit"),
    "stop": ({"prompt": "a", "stop": ["x"]}, "give stop_sequences"),
    "seed": ({"prompt": "a", "seed": 1}, "Claude has no seed"),
    "a chat's part": ({"messages": [turn({"type": "image_url"}, QUESTION)]},
                      "knows no part of type 'image_url'; give a part of type 'image'"),
    "a part that nobody knows": (
        {"messages": [turn({"type": "hologram"})]}, "no part of type 'hologram'; it knows"),
    "a part without a type": ({"messages": [turn({"text": "a"})]}, "no block with a type"),
    "no base64": ({"messages": [turn(claude_image("%%%"), QUESTION)]}, "no base64"),
    "no data": ({"messages": [turn({"type": "image", "source": {"type": "base64",
                 "media_type": "image/png"}}, QUESTION)]}, "no base64"),
    "an image of another type": (
        {"messages": [turn(claude_image(png(), "image/jpeg"), QUESTION)]},
        "image/png and called image/jpeg"),
    "a HEIC": ({"messages": [turn(claude_image(HEIC, "image/heic"), QUESTION)]},
               "HEIC image, which no provider takes; save it as JPEG or PNG"),
    "a PDF for an image": (
        {"messages": [turn(claude_image(pdf(), "application/pdf"), QUESTION)]}, "holds an image"),
    "an image for a PDF": ({"messages": [turn(claude_pdf(png()), QUESTION)]}, "holds a PDF"),
    "a broken PDF": ({"messages": [turn(claude_pdf(b"%PDF-1.7 no"), QUESTION)]}, "in its messages"),
    "a large image": ({"messages": [turn(claude_image(png(8001, 2)), QUESTION)]},
                      "8001 x 2 pixels and 8,000 on a side"),
    "a large image among many": (
        {"messages": [turn(*[claude_image(png(2001, 2))] * 21, QUESTION)]},
        "2,000 on a side are taken where there are more than 20"),
    "a heavy image": ({"messages": [turn(claude_image(png(more=4_000_000)), QUESTION)]},
                      "5,242,880 are taken for an image"),
    "too many images": ({"messages": [turn(*[claude_image(png())] * 601, QUESTION)]},
                        "601 images and 'claude-sonnet-5-5' takes 600"),
    "too many images of an old model": (
        {"model": OLD, "messages": [turn(*[claude_image(png())] * 101, QUESTION)]}, "takes 100"),
    "a heavy file": ({"prompt": "a", "file": png(more=4_000_000)}, "5,242,880"),
    "a TIFF": ({"prompt": "a", "file": b"II*\0" + b"\1" * 40}, "TIFF.* all of its pages as PDF"),
}  # fmt: skip

GPT = {
    "an empty text part": ({"messages": [turn({"type": "text", "text": ""})]}, "without a text"),
    "a choice of no tools": ({"prompt": "a", "tool_choice": "auto"}, "and no tools"),
    "a forced choice of none": (
        {"prompt": "a", "endpoint": RESPONSES, "tool_choice": "required"}, "and no tools"),
    "headers": ({"prompt": "a", "extra_headers": {}}, "headers belong to the client"),
    "stop of responses": ({"prompt": "a", "endpoint": RESPONSES, "stop": ["x"]}, "no stop seq"),
    "seed of responses": ({"prompt": "a", "endpoint": RESPONSES, "seed": 1}, "has no seed"),
    "effort of responses": (
        {"prompt": "a", "endpoint": RESPONSES, "reasoning_effort": "low"}, "give reasoning="),
    "reasoning of a chat": (
        {"prompt": "a", "reasoning": {"effort": "low"}}, "give reasoning_effort"),
    "a response's part": ({"messages": [turn({"type": "input_text", "text": "a"})]},
                          "no part of type 'input_text'; give a part of type 'text'"),
    "a chat's part": ({"endpoint": RESPONSES, "messages": [turn(QUESTION)]},
                      "give a part of type 'input_text'"),
    "Claude's part": ({"messages": [turn({"type": "tool_result"})]}, "leave it out"),
    "a part that nobody knows": ({"messages": [turn({"type": "hologram"})]}, "it knows file"),
    "no base64": ({"messages": [turn(chat_image("%%%"), QUESTION)]}, "no base64"),
    "data that is no base64": (
        {"messages": [turn({"type": "image_url", "image_url": {"url": "data:image/png,abc"}})]},
        "no base64"),
    "a HEIC": ({"messages": [turn(chat_image(HEIC, "image/heic"), QUESTION)]}, "save it as JPEG"),
    "an image of another type": (
        {"messages": [turn(chat_image(png(), "image/gif"), QUESTION)]}, "called image/gif"),
    "a broken PDF": (
        {"endpoint": RESPONSES, "messages": [turn(response_file(b"%PDF-1.7", "a.pdf"))]},
        "file 'a.pdf' in its messages"),
    "too many images": ({"messages": [turn(*[chat_image(png())] * 501, QUESTION)]}, "takes 500"),
    "heavy images": ({"messages": [turn(*[chat_image(png(more=17_000_000))] * 3, QUESTION)]},
                     "50,000,000 are taken in a request"),
    "a HEIC file": ({"prompt": "a", "file": HEIC}, "HEIC image.*save it as JPEG or PNG"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLAUDE)
def test_claude_would_refuse(case: str, claude: Anthropic) -> None:
    values, says = CLAUDE[case]
    with pytest.raises(ValidationError, match=f"(?s)job 'j'.*{says}"):
        claude.render(claude_job(**split(values)))


@pytest.mark.parametrize("case", GPT)
def test_openai_would_refuse(case: str, gpt: OpenAI) -> None:
    values, says = GPT[case]
    with pytest.raises(ValidationError, match=f"(?s)job 'j'.*{says}"):
        gpt.render(gpt_job(**split(values)))


def test_what_is_just_inside_goes_out(claude: Anthropic, gpt: OpenAI) -> None:
    """The limits themselves, and what only looks like a fault."""
    images = [claude_image(png(2000, 2000))] * 21
    for values in (
        {"messages": [turn(*images, QUESTION)]},
        {"messages": [turn(claude_image(png(8000, 8000)), QUESTION)]},
        {"messages": [turn(CACHED, CACHED)], "system": [CACHED, CACHED]},
        {"model": OLD, "messages": [*SIX, {"role": "assistant", "content": "{"}]},
        {"prompt": "a", "tools": [TOOL], "tool_choice": {"type": "auto"}},
        {"messages": [turn({"type": "image", "source": {"type": "url", "url": "https://x/y"}})]},
        {"messages": [turn({"type": "document", "source": {"type": "text",
         "media_type": "text/plain", "data": "%PDF-1.7 in a text"}}, QUESTION)]},
    ):  # fmt: skip
        claude.render(claude_job(**split(values)))
    for values in (
        {"prompt": "a", "endpoint": RESPONSES, "tool_choice": "auto"},
        {"messages": [turn(chat_image("iVBOR\n" + b64(png())[5:]), QUESTION)]},
        {"messages": [turn({"type": "image_url", "image_url": {"url": "https://x/y.png"}})]},
        {"model": "qwen3-vl", "messages": [turn({"type": "video_url", "video_url": {"url": "x"}})]},
        {"messages": [*SIX, {"role": "tool", "tool_call_id": "1", "content": [
            {"type": "text", "text": ""}]}]},
        {"prompt": "a", "not_known_yet": 1},
        {"model": "qwen3", "prompt": "a", "top_k": 40, "thinking": {"type": "enabled"}},
        {"model": "qwen3", "messages": [turn({"type": "image", "image": "x"}, QUESTION)]},
    ):  # fmt: skip
        gpt.render(gpt_job(**split(values)))


def test_a_default_of_another_provider_is_left_out(claude: Anthropic, gpt: OpenAI) -> None:
    """Defaults serve all jobs of a mixed set; what one provider does not know goes to the other."""
    values = {"prompt": "a", "seed": 7, "stop_sequences": ["x"]}
    said = frozenset({"seed", "stop_sequences"})
    ours = claude.render(claude_job(**split(values), defaulted=said))
    theirs = gpt.render(gpt_job(**split(values), defaulted=said))
    assert (ours.left_out, body(ours)["stop_sequences"]) == (("seed",), ["x"])
    assert (theirs.left_out, body(theirs)["seed"]) == (("stop_sequences",), 7)


@pytest.mark.parametrize(
    ("endpoint", "union"),
    [
        (MESSAGES, ContentBlockParam),
        (CHAT, ChatCompletionContentPartParam),
        (RESPONSES, ResponseInputContentParam),
    ],
)
def test_the_parts_are_those_of_the_sdks(endpoint: str, union: Any) -> None:
    """A part that an SDK knows and the table does not would be refused in vain."""
    known = {
        re.findall(r'^    type: Required\[Literal\["(\w+)"\]\]', inspect.getsource(part), re.M)[0]
        for part in get_args(union)
    }
    assert len(known) > 2
    assert known <= PARTS[endpoint]
