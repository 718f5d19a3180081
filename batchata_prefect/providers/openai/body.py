"""A job as a body of OpenAI's chat completions, responses or embeddings.

Sources: openai/types/*_create_params.py and types/responses/*_param.py (3.54.0), and
developers.openai.com: guides/batch, file-inputs, images-vision, structured-outputs, reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from batchata_prefect.content.documents import Document
from batchata_prefect.content.schema import answer_schema
from batchata_prefect.models import Job, Message, Request
from batchata_prefect.providers import Provider
from batchata_prefect.providers.bodies import last_shared, prefix_digest, titled
from batchata_prefect.providers.openai.facts import (
    DIALECT,
    EMBEDDINGS,
    IMAGES,
    MOST_IMAGES,
    OTHERS,
    OWN,
    reasons,
)
from batchata_prefect.providers.openai.usage import terms_of
from batchata_prefect.providers.refusals import (
    CHAT,
    RESPONSES,
    check_images,
    check_part,
    check_tool_choice,
    foreign,
)
from batchata_prefect.providers.rendering import (
    MESSAGE,
    UNSEEN,
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
from batchata_prefect.providers.rows import objects_at

_FILE_DATA = 73_400_320
"""Letters of a file's base64 [OpenAPI document of 2026-08: InputFileContentParam.file_data]."""

_LEADING = frozenset({"system", "developer"})
_SAMPLING = {
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
}
"""What reasoning models do not take, and the value that chat completions let pass."""


def render(
    job: Job, provider: Provider, *, is_named: bool = True, has_cache_key: bool = True
) -> Request:
    """The job's exact request.

    Args:
        job: The job.
        provider: The provider that it is for.
        is_named: Whether the model's name tells what it is, and what it takes.
        has_cache_key: Whether its server takes `prompt_cache_key`.
    """
    embeds = is_named and job.model.startswith("text-embedding-")
    endpoint = job.endpoint or (EMBEDDINGS if embeds else CHAT)
    if endpoint not in (CHAT, RESPONSES, EMBEDDINGS):
        raise fault(job, f"endpoint {endpoint!r} is not one of {CHAT}, {RESPONSES}, {EMBEDDINGS}")
    draft = Draft(job, provider, job.model if is_named else None)
    params = parameters(job)
    if job.cache_prefix and not has_cache_key:
        draft.leave_out(
            "cache_prefix",
            True,
            f"the server of {provider.name} is not known to take prompt_cache_key; leave it out, "
            "or name its profile in the account",
        )
        draft.job = job = replace(job, cache_prefix=False)
    if endpoint == EMBEDDINGS:
        return _embedding(draft, params)
    quoted = wants_quotes(draft)
    if params:
        is_known = job.model.startswith(OWN)
        foreign(draft, params, endpoint, OTHERS[endpoint] if is_known else {})
        _drop_sampling(draft, params, endpoint)
        check_tool_choice(job, params, endpoint)
    body, limit = _write(draft, params, endpoint)
    _ask_for_form(draft, body, params, endpoint, quoted=quoted)
    if params:
        draft.tools(params.get("tools"), ("function", "custom"))
        for name in ("previous_response_id", "conversation", "prompt"):
            if params.get(name) is not None:
                draft.add(UNSEEN)
        for name in ("instructions", "prediction", "functions"):
            if params.get(name) is not None:
                draft.json(params[name])
        body |= params
    check_images(job, draft.images, IMAGES, MOST_IMAGES)
    return finish(
        draft,
        body,
        limit,
        endpoint=endpoint,
        prefix=_cache_key(body) if job.cache_prefix else None,
        terms=terms_of(draft.model or "", params),
    )


def _cache_key(body: dict[str, Any]) -> str | None:
    """Give a body the cache key of its system prompt and what stands before the first question.

    OpenAI caches by itself, and sends requests with one `prompt_cache_key` to one cache
    [openai/types/chat/completion_create_params.py].

    Returns:
        Digest of what it begins with; None where there is nothing to share.
    """
    shared: list[Any] = [body["instructions"]] if body.get("instructions") else []
    for message in objects_at(body, "messages" if "messages" in body else "input"):
        content: Any = message.get("content")
        if message.get("role") in _LEADING:
            shared.append(content)
            continue
        last = last_shared(content)
        if last is not None:
            shared.append(content[: last + 1])
        break
    digest = prefix_digest(shared)
    if digest is not None:
        body.setdefault("prompt_cache_key", digest)
    return digest


def _drop_sampling(draft: Draft, params: dict[str, Any], endpoint: str) -> None:
    """Take out what only models without reasoning take, unless reasoning is switched off.

    They need effort `none` [docs: guides "using GPT-5.2" and later]; whether a model takes that
    effort is for the API to say.
    """
    if not reasons(draft.model or ""):
        return
    reasoning: Any = params.get("reasoning")
    effort = params.get("reasoning_effort")
    if endpoint == RESPONSES and isinstance(reasoning, Mapping):
        effort = cast("Message", reasoning).get("effort")
    if effort == "none":
        return
    names = [
        name
        for name, default in _SAMPLING.items()
        if name in params and not (endpoint == CHAT and params[name] == default)
    ]
    switch = "reasoning_effort='none'" if endpoint == CHAT else "reasoning={'effort': 'none'}"
    draft.drop(
        params,
        names,
        f"it is a reasoning model; leave it out, or give {switch} where the model takes that",
    )


class _Names(NamedTuple):
    """What an endpoint calls what both have."""

    roles: Sequence[str]
    turns: str
    text: str
    limit: str
    least: int


_NAMES = {
    CHAT: _Names(
        ("system", "developer", "user", "assistant", "tool", "function"),
        "messages",
        "text",
        "max_completion_tokens",
        1,
    ),
    # The least that it takes is 16 [types/responses/response_create_params.py].
    RESPONSES: _Names(
        ("system", "developer", "user", "assistant"), "input", "input_text", "max_output_tokens", 16
    ),
}


def _write(draft: Draft, params: dict[str, Any], endpoint: str) -> tuple[dict[str, Any], int]:
    """The body without what is asked for its answer, and the limit of output tokens."""
    job, names = draft.job, _NAMES[endpoint]
    if endpoint == RESPONSES and "max_completion_tokens" in params:
        raise fault(job, f"max_completion_tokens is not of {RESPONSES}; give max_tokens")
    limit = max_tokens(draft, params, ("max_tokens", names.limit), least=names.least)
    messages = _conversation(draft, endpoint) if job.messages else [_prompt(draft, endpoint)]
    system = params.pop("system", None)
    if system is not None and messages[0].get("role") in _LEADING:
        one_system(job)
    elif system is not None:
        # Anthropic has it as a parameter.
        draft.add(MESSAGE)
        draft.text(system) if isinstance(system, str) else draft.json(system)
        messages = [{"role": "system", "content": system}, *messages]
    return {"model": job.model, names.turns: messages, names.limit: limit}, limit


def _ask_for_form(
    draft: Draft, body: dict[str, Any], params: dict[str, Any], endpoint: str, *, quoted: bool
) -> None:
    job = draft.job
    form: dict[str, Any] | None = None
    if quoted or job.response_model is not None:
        name = "answer" if job.response_model is None else answer_schema(job.response_model).name
        form = {"name": name, "schema": form_of(job, DIALECT, quoted=quoted), "strict": True}
    if endpoint == CHAT:
        if form is not None:
            if "response_format" in params:
                raise fault(job, f"it has {asker(job)} and response_format; give one of them")
            body["response_format"] = {"type": "json_schema", "json_schema": form}
            draft.form(form)
        elif "response_format" in params:
            draft.form(params["response_format"])
        return
    given: Any = params.pop("text", None)
    text = dict(cast("Message", given)) if isinstance(given, Mapping) else {}
    if form is not None:
        if "format" in text:
            raise fault(job, f"it has {asker(job)} and text.format; give one of them")
        text["format"] = {"type": "json_schema", **form}
    if "format" in text:
        draft.form(text["format"])
    if text or given is not None:
        body["text"] = text or given


def _prompt(draft: Draft, endpoint: str) -> Message:
    """The message of the job's prompt, after its documents."""
    job, prompt = draft.job, prompt_of(draft)
    if job.file is None:
        return {"role": "user", "content": prompt}
    part = _chat_part if endpoint == CHAT else _response_part
    content: list[Message] = []
    for document in documents(job):
        draft.document(document)
        draft.sources.append(document.name)
        content.append(part(job, document))
    content.append({"type": _NAMES[endpoint].text, "text": prompt})
    return {"role": "user", "content": content}


def _conversation(draft: Draft, endpoint: str) -> list[Message]:
    job, is_known = draft.job, draft.job.model.startswith(OWN)
    messages = checked_messages(job, _NAMES[endpoint].roles, items=endpoint == RESPONSES)
    for message in messages:
        draft.add(MESSAGE)
        content = message.get("content")
        if message.get("role") == "user" and is_empty(content):
            raise fault(job, "a user message has no content")
        if isinstance(content, str):
            draft.text(content)
        elif isinstance(content, list):
            for item in cast("list[Any]", content):
                check_part(job, item, str(message.get("role")), endpoint, is_known=is_known)
                draft.item(item)
        rest = {key: value for key, value in message.items() if key not in {"role", "content"}}
        if rest:
            draft.json(rest)
    return messages


def _data_url(document: Document) -> str:
    return f"data:{document.media_type};base64,{document.base64}"


def _file_data(job: Job, document: Document) -> str:
    data = _data_url(document)
    if len(data) > _FILE_DATA:
        raise fault(
            job,
            f"file {document.name!r} has {len(document.data):,} bytes and OpenAI takes about "
            f"{_FILE_DATA * 3 // 4:,} in a request; split it",
        )
    return data


def _chat_part(job: Job, document: Document) -> Message:
    if document.kind == "image":
        return {"type": "image_url", "image_url": {"url": _data_url(document)}}
    if document.kind == "pdf":
        file = {"filename": document.name, "file_data": _file_data(job, document)}
        return {"type": "file", "file": file}
    if document.text is not None:
        return {"type": "text", "text": titled(document.name, document.text)}
    raise refused_kind(
        job,
        document,
        f"{CHAT} takes PDF, text, images and DOCX; give endpoint={RESPONSES!r}, or convert it",
    )


def _response_part(job: Job, document: Document) -> Message:
    if document.kind == "image":
        return {"type": "input_image", "image_url": _data_url(document), "detail": "auto"}
    if document.text is not None:
        return {"type": "input_text", "text": titled(document.name, document.text)}
    return {
        "type": "input_file",
        "filename": document.name,
        "file_data": _file_data(job, document),
    }


def _embedding(draft: Draft, params: dict[str, Any]) -> Request:
    job = draft.job
    for name, value in (("response_model", job.response_model), ("file", job.file)):
        if value is not None:
            raise fault(job, f"{EMBEDDINGS} takes no {name}; leave it out")
    asked = ("max_tokens", "enable_citations", "citations", "cache_prefix")
    unused = {**params, **{name: getattr(job, name) for name in asked}}
    unused = {name: value for name, value in unused.items() if value}
    for name in ("temperature", *asked, "system"):
        if name in unused:
            draft.leave_out(name, unused[name], f"{EMBEDDINGS} has no such parameter; leave it out")
            params.pop(name, None)
    given: Any = params.pop("input", None)
    if given is not None and job.prompt:
        raise fault(job, "it has a prompt and input=; give one of them")
    text = given if given is not None else job.prompt
    if given is None and not text and len(messages := checked_messages(job, ("user",))) == 1:
        text = messages[0].get("content")
    if is_empty(text) or not isinstance(text, str):
        raise fault(job, "a job embeds one text that is not empty; add a job for each text")
    draft.text(text)
    body = {"model": job.model, "input": text, **params}
    return finish(draft, body, 0, endpoint=EMBEDDINGS)
