"""A job as the body of Gemini's `generateContent`.

Sources: google/genai/types.py and batches.py (3.6.1); ai.google.dev: api/generate-content,
api/batch-mode, gemini-api/docs/batch-api, structured-output, thinking, models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from batchata_prefect.content.documents import Document
from batchata_prefect.models import Job, Message, Request
from batchata_prefect.providers import Provider
from batchata_prefect.providers.bodies import file_in, titled
from batchata_prefect.providers.gemini.facts import DIALECT
from batchata_prefect.providers.refusals import check_text, foreign
from batchata_prefect.providers.rendering import (
    MESSAGE,
    Draft,
    asker,
    checked_messages,
    documents,
    fault,
    finish,
    form_of,
    is_empty,
    max_tokens,
    one_system,
    parameters,
    prompt_of,
    refused_kind,
    wants_quotes,
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
    draft = Draft(job, provider, job.model)
    params = parameters(job)
    quoted = wants_quotes(draft)
    if job.cache_prefix:
        draft.leave_out(
            "cache_prefix",
            True,
            "Gemini caches by itself, and what it shall hold longer is a cache of its own that "
            "costs by the hour; leave it out",
        )
    foreign(draft, params, endpoint, {})
    system: Any = params.pop("system", None)
    config, body = _settings(job, params)
    limit = max_tokens(draft, config, ("maxOutputTokens",))
    leading, contents = _contents(draft, system)
    if leading:
        body["systemInstruction"] = {"parts": leading}
    _ask_for_form(draft, config, quoted=quoted)
    _count_tools(draft, body)
    return finish(
        draft,
        {"contents": contents, **body, "generationConfig": {"maxOutputTokens": limit, **config}},
        limit,
        endpoint=endpoint,
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


def _contents(draft: Draft, system: Any) -> tuple[list[Message], list[Message]]:
    """The parts of the system instruction, and the turns."""
    job, leading = draft.job, list[Message]()
    if job.messages:
        leading, turns = _conversation(draft)
        if leading and system is not None:
            one_system(job)
    else:
        prompt = prompt_of(draft)
        parts = [*(_document(draft, each) for each in documents(job)), {"text": prompt}]
        turns: list[Message] = [{"role": "user", "parts": parts}]
    if system is not None and not leading:
        draft.add(MESSAGE)
        leading = _parts(draft, system, "system")
    return leading, turns


def _conversation(draft: Draft) -> tuple[list[Message], list[Message]]:
    job = draft.job
    leading: list[Message] = []
    turns: list[Message] = []
    for message in checked_messages(job, (*_ROLES, *_LEADING)):
        role = str(message["role"])
        content = message.get("content", message.get("parts"))
        if is_empty(content):
            raise fault(job, f"a message of role {role!r} has no content")
        draft.add(MESSAGE)
        parts = _parts(draft, content, role)
        if role not in _LEADING:
            turns.append({"role": _ROLES[role], "parts": parts})
        elif turns:
            raise fault(job, f"a message of role {role!r} is only taken at the start")
        else:
            leading += parts
    if not turns or turns[-1]["role"] != "user":
        raise fault(job, "its last message must be the user's")
    return leading, turns


def _parts(draft: Draft, content: Any, role: str) -> list[Message]:
    """The content of a message as Gemini's parts, counted."""
    if isinstance(content, str):
        draft.text(content)
        return [{"text": content}]
    if not isinstance(content, list):
        raise fault(draft.job, f"the content of a message of role {role!r} is no text and no list")
    return [_part(draft, each, role) for each in cast("list[Any]", content)]


def _part(draft: Draft, item: Any, role: str) -> Message:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict):
        raise fault(draft.job, f"part of a message is no object: {item!r:.80}")
    part = cast("Message", item)
    if isinstance(part.get("text"), str):
        check_text(draft.job, part["text"], f"a message of role {role!r}")
        draft.text(part["text"])
        return {key: value for key, value in part.items() if key != "type"}
    found = file_in(part)
    if found is not None:
        # Also of the other providers' parts, so that a job can go to any of them.
        draft.part(part if "type" in part else {"type": "file", **part})
        return {"inlineData": {"mimeType": found[0], "data": found[1]}}
    if "type" in part:
        raise fault(
            draft.job,
            f"Gemini knows no part of type {part['type']!r}; give {{'text': ...}}, or "
            "{'inlineData': {'mimeType': ..., 'data': base64}}",
        )
    if _FILE_DATA & part.keys():
        draft.add(_UNSEEN)
    else:
        draft.json(part)
    return part


def _document(draft: Draft, document: Document) -> Message:
    draft.document(document)
    draft.sources.append(document.name)
    if document.kind in {"image", "pdf"}:
        return {"inlineData": {"mimeType": document.media_type, "data": document.base64}}
    if document.text is not None:
        return {"text": titled(document.name, document.text)}
    raise refused_kind(draft.job, document, "Gemini takes PDF, text, images and DOCX; convert it")


def _ask_for_form(draft: Draft, config: dict[str, Any], *, quoted: bool) -> None:
    job = draft.job
    if quoted or job.response_model is not None:
        if any(name in config for name in _FORMS):
            raise fault(job, f"it has {asker(job)} and a form of its own; give one of them")
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = form_of(job, DIALECT, quoted=quoted)
    given: Any = config.get("responseJsonSchema", config.get("responseSchema"))
    if given is not None:
        draft.form(given)


def _count_tools(draft: Draft, body: Mapping[str, Any]) -> None:
    if body.get("cachedContent") is not None:
        draft.add(_UNSEEN)
    tools: Any = body.get("tools") or ()
    for tool in cast("Sequence[Any]", tools):
        given = set(cast("Message", tool)) if isinstance(tool, dict) else set[str]()
        if not given or not given <= _FUNCTIONS:
            raise fault(
                draft.job,
                f"of Gemini's tools only function_declarations are taken, and not "
                f"{sorted(given) or tool!r}: what the others cost by use is not reckoned with",
            )
    # They have no type, and are all the user's own.
    draft.tools(tools, (None,))
