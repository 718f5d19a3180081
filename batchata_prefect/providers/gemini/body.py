"""A job as the body of Gemini's `generateContent`.

Sources: google/genai/types.py and batches.py (3.6.1); ai.google.dev: api/generate-content,
api/batch-mode, gemini-api/docs/batch-api, structured-output, thinking, models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from batchata_prefect.content.documents import Document
from batchata_prefect.models import Job, Message, Request
from batchata_prefect.providers import Provider
from batchata_prefect.providers.bodies import file_in, titled
from batchata_prefect.providers.gemini.facts import DIALECT, most_tokens
from batchata_prefect.providers.refusals import check_text, foreign
from batchata_prefect.providers.rendering import (
    FORMAT,
    MESSAGE,
    TOOLS,
    Tally,
    asker,
    checked_messages,
    documents,
    drop_unsupported,
    fault,
    finish,
    form_of,
    is_empty,
    max_tokens,
    only_quotes,
    parameters,
    prompt_of,
    refused_kind,
)

_UNSEEN = (5_000, 1_048_576)
"""As `rendering.UNSEEN`, with the largest context window of Gemini's models page."""

_ENDPOINT = "/models/{}:generateContent"
"""Below the version of the API, which is the SDK's."""
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*")

_ROLES = {"user": "user", "assistant": "model", "model": "model"}
_LEADING = ("system", "developer")
_FILE_DATA = frozenset({"fileData", "file_data"})
_FUNCTIONS = frozenset({"functionDeclarations", "function_declarations"})


def _wire_names(names: str) -> dict[str, str]:
    """Names as the SDK writes them, and as they go over the wire -> as they go over the wire."""
    heads = [name.split("_") for name in names.split()]
    camels = [head + "".join(word.title() for word in rest) for head, *rest in heads]
    return dict(zip(names.split(), camels, strict=True)) | {name: name for name in camels}


_CONFIG = _wire_names(
    "temperature top_p top_k seed stop_sequences presence_penalty frequency_penalty "
    "candidate_count max_output_tokens response_logprobs logprobs response_mime_type "
    "response_schema response_json_schema response_modalities media_resolution speech_config "
    "image_config thinking_config"
)
"""Fields of `generationConfig`."""

_BESIDE = _wire_names("tools tool_config safety_settings cached_content")
"""Fields beside it."""

_FORMS = ("responseSchema", "responseJsonSchema", "responseMimeType")


def render(job: Job, provider: Provider) -> Request:
    """The job's exact request."""
    if not _MODEL.fullmatch(job.model):
        raise fault(job, f"{job.model!r} is no model of Gemini's; give its name without 'models/'")
    if "embedding" in job.model:
        raise fault(job, "Gemini's embeddings are not taken; give an OpenAI model for them")
    endpoint = _ENDPOINT.format(job.model)
    if job.endpoint not in {None, endpoint}:
        raise fault(job, f"endpoint {job.endpoint!r}: Gemini batches only take {endpoint!r}")
    tally = Tally(job, provider, job.model)
    params = parameters(job)
    quoted, left_out = only_quotes(job, provider)
    if job.cache_prefix:
        left_out += drop_unsupported(
            job,
            {"cache_prefix": True},
            ("cache_prefix",),
            "Gemini caches by itself, and what it shall hold longer is a cache of its own that "
            "costs by the hour; leave it out",
        )
    foreign(job, params, endpoint, {})
    system: Any = params.pop("system", None)
    config, body = _settings(job, params)
    limit = max_tokens(job, config, ("maxOutputTokens",), least=1, most=most_tokens(job.model))
    leading, contents, sources = _contents(job, tally, system)
    if leading:
        body["systemInstruction"] = {"parts": leading}
    _ask_for_form(job, tally, config, quoted=quoted)
    _count_tools(job, tally, body)
    return finish(
        tally,
        {"contents": contents, **body, "generationConfig": {"maxOutputTokens": limit, **config}},
        limit,
        endpoint=endpoint,
        left_out=left_out,
        sources=sources,
    )


def _settings(job: Job, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters inside and beside `generationConfig`, under the names of the wire."""
    given: Any = params.pop("generation_config", params.pop("generationConfig", {}))
    if not isinstance(given, Mapping):
        raise fault(job, "generation_config must be an object")
    # What it holds is sent even where it is newer than this package.
    fields = cast("Mapping[str, Any]", given)
    config: dict[str, Any] = {_CONFIG.get(name, name): fields[name] for name in fields}
    beside: dict[str, Any] = {}
    for name, value in params.items():
        if name in _CONFIG:
            config[_CONFIG[name]] = value
        elif name in _BESIDE:
            beside[_BESIDE[name]] = value
        else:
            raise fault(
                job,
                f"Gemini knows no parameter {name!r}, and refuses a request with one that it does "
                "not know; if it is new, give it as generation_config={...}",
            )
    if config.pop("candidateCount", 1) != 1:
        raise fault(job, "candidate_count: a job has one answer; add the job several times")
    return config, beside


def _contents(
    job: Job, tally: Tally, system: Any
) -> tuple[list[Message], list[Message], list[str]]:
    """The parts of the system instruction, the turns, and the titles of the job's documents."""
    leading: list[Message] = []
    turns: list[Message] = []
    sources: list[str] = []
    if job.messages:
        leading, turns = _conversation(job, tally)
        if leading and system is not None and "system" not in job.defaulted:
            raise fault(job, "it has a system message and system=; give one of them")
    else:
        prompt = prompt_of(job, tally)
        found = documents(job)
        sources = [document.name for document in found]
        parts = [*(_document(job, tally, each) for each in found), {"text": prompt}]
        turns = [{"role": "user", "parts": parts}]
    if system is not None and not leading:
        tally.add(MESSAGE)
        leading = _parts(job, tally, system, "system")
    return leading, turns, sources


def _conversation(job: Job, tally: Tally) -> tuple[list[Message], list[Message]]:
    leading: list[Message] = []
    turns: list[Message] = []
    for message in checked_messages(job, (*_ROLES, *_LEADING)):
        role = str(message["role"])
        content = message.get("content", message.get("parts"))
        if is_empty(content):
            raise fault(job, f"a message of role {role!r} has no content")
        tally.add(MESSAGE)
        parts = _parts(job, tally, content, role)
        if role not in _LEADING:
            turns.append({"role": _ROLES[role], "parts": parts})
        elif turns:
            raise fault(job, f"a message of role {role!r} is only taken at the start")
        else:
            leading += parts
    if not turns or turns[-1]["role"] != "user":
        raise fault(job, "its last message must be the user's")
    return leading, turns


def _parts(job: Job, tally: Tally, content: Any, role: str) -> list[Message]:
    """The content of a message as Gemini's parts, counted."""
    if isinstance(content, str):
        tally.text(content)
        return [{"text": content}]
    if not isinstance(content, list):
        raise fault(job, f"the content of a message of role {role!r} is no text and no list")
    return [_part(job, tally, each, role) for each in cast("list[Any]", content)]


def _part(job: Job, tally: Tally, item: Any, role: str) -> Message:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict):
        raise fault(job, f"part of a message is no object: {item!r:.80}")
    part = cast("Message", item)
    if isinstance(part.get("text"), str):
        check_text(job, part["text"], f"a message of role {role!r}")
        tally.text(part["text"])
        return {key: value for key, value in part.items() if key != "type"}
    found = file_in(part)
    if found is not None:
        # Also of the other providers' parts, so that a job can go to any of them.
        tally.part(part if "type" in part else {"type": "file", **part})
        return {"inlineData": {"mimeType": found[0], "data": found[1]}}
    if "type" in part:
        raise fault(
            job,
            f"Gemini knows no part of type {part['type']!r}; give {{'text': ...}}, or "
            "{'inlineData': {'mimeType': ..., 'data': base64}}",
        )
    if _FILE_DATA & part.keys():
        tally.add(_UNSEEN)
    else:
        tally.json(part)
    return part


def _document(job: Job, tally: Tally, document: Document) -> Message:
    tally.document(document)
    if document.kind in {"image", "pdf"}:
        return {"inlineData": {"mimeType": document.media_type, "data": document.base64}}
    if document.text is not None:
        return {"text": titled(document.name, document.text)}
    raise refused_kind(job, document, "Gemini takes PDF, text, images and DOCX; convert it")


def _ask_for_form(job: Job, tally: Tally, config: dict[str, Any], *, quoted: bool) -> None:
    if quoted or job.response_model is not None:
        if any(name in config for name in _FORMS):
            raise fault(job, f"it has {asker(job)} and a form of its own; give one of them")
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = form_of(job, DIALECT, quoted=quoted)
    given: Any = config.get("responseJsonSchema", config.get("responseSchema"))
    if given is not None:
        tally.add(FORMAT)
        tally.json(given)


def _count_tools(job: Job, tally: Tally, body: Mapping[str, Any]) -> None:
    if body.get("cachedContent") is not None:
        tally.add(_UNSEEN)
    tools: Any = body.get("tools")
    if not tools:
        return
    tally.add(TOOLS)
    for tool in cast("list[Any]", tools):
        given = set(cast("Message", tool)) if isinstance(tool, dict) else set[str]()
        if not given or not given <= _FUNCTIONS:
            raise fault(
                job,
                f"of Gemini's tools only function_declarations are taken, and not "
                f"{sorted(given) or tool!r}: what the others cost by use is not reckoned with",
            )
        tally.json(tool)
