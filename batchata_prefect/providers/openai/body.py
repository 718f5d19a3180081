"""A job as a body of OpenAI's chat completions, responses or embeddings.

Sources: openai/types/*_create_params.py and types/responses/*_param.py (3.54.0), and
developers.openai.com: guides/batch, file-inputs, images-vision, structured-outputs, reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from batchata_prefect.content.documents import Document
from batchata_prefect.content.schema import answer_schema
from batchata_prefect.models import Job, Message, Request
from batchata_prefect.providers import Provider
from batchata_prefect.providers.bodies import FILE_PARTS, last_shared, prefix_digest, titled
from batchata_prefect.providers.openai.facts import (
    DIALECT,
    EMBEDDINGS,
    IMAGES,
    MOST_IMAGES,
    OTHERS,
    OWN,
    most_tokens,
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
    FORMAT,
    MESSAGE,
    TOOLS,
    UNSEEN,
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
from batchata_prefect.providers.rows import objects_at

_FILE_DATA = 73_400_320
"""Letters of a file's base64 [OpenAPI document of 2026-08: InputFileContentParam.file_data]."""

_CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_RESPONSES_ROLES = ("system", "developer", "user", "assistant")
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


def render(job: Job, provider: Provider, *, is_named: bool = True) -> Request:
    """The job's exact request.

    Args:
        job: The job.
        provider: The provider that it is for.
        is_named: Whether the model's name tells what it is, and what it takes.
    """
    embeds = is_named and job.model.startswith("text-embedding-")
    endpoint = job.endpoint or (EMBEDDINGS if embeds else CHAT)
    if endpoint not in (CHAT, RESPONSES, EMBEDDINGS):
        raise fault(job, f"endpoint {endpoint!r} is not one of {CHAT}, {RESPONSES}, {EMBEDDINGS}")
    tally = Tally(job, provider, job.model if is_named else None)
    params = parameters(job)
    if endpoint == EMBEDDINGS:
        return _embedding(job, tally, params)
    quoted, left_out = only_quotes(job, provider)
    if params:
        is_known = job.model.startswith(OWN)
        left_out += foreign(job, params, endpoint, OTHERS[endpoint] if is_known else {})
        left_out += _drop_sampling(tally, params, endpoint)
        check_tool_choice(job, params, endpoint)
    write = _chat if endpoint == CHAT else _response
    body, limit, sources = write(job, tally, params, quoted=quoted)
    if params:
        _count_params(tally, params)
        body |= params
    check_images(job, tally.images, IMAGES, MOST_IMAGES)
    return finish(
        tally,
        body,
        limit,
        endpoint=endpoint,
        left_out=left_out,
        sources=sources,
        prefix=_cache_key(body) if job.cache_prefix else None,
        terms=terms_of(tally.model or "", params),
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


def _drop_sampling(tally: Tally, params: dict[str, Any], endpoint: str) -> tuple[str, ...]:
    """Take out what only models without reasoning take, unless reasoning is switched off.

    They need effort `none` [docs: guides "using GPT-5.2" and later]; whether a model takes that
    effort is for the API to say.
    """
    if not reasons(tally.model or ""):
        return ()
    reasoning: Any = params.get("reasoning")
    effort = params.get("reasoning_effort")
    if endpoint == RESPONSES and isinstance(reasoning, Mapping):
        effort = cast("Message", reasoning).get("effort")
    if effort == "none":
        return ()
    names = [
        name
        for name, default in _SAMPLING.items()
        if name in params and not (endpoint == CHAT and params[name] == default)
    ]
    switch = "reasoning_effort='none'" if endpoint == CHAT else "reasoning={'effort': 'none'}"
    return drop_unsupported(
        tally.job,
        params,
        names,
        f"it is a reasoning model; leave it out, or give {switch} where the model takes that",
    )


def _limit(tally: Tally, params: dict[str, Any], names: Sequence[str], least: int) -> int:
    most = most_tokens(tally.model or "")
    return max_tokens(tally.job, params, names, least=least, most=most)


def _chat(
    job: Job, tally: Tally, params: dict[str, Any], *, quoted: bool
) -> tuple[dict[str, Any], int, Sequence[str]]:
    limit = _limit(tally, params, ("max_tokens", "max_completion_tokens"), 1)
    messages, sources = _messages(job, tally, _CHAT_ROLES, _chat_part, "text")
    system = params.pop("system", None)
    if system is not None:
        messages = _with_system(job, tally, messages, system)
    body: dict[str, Any] = {
        "model": job.model,
        "messages": messages,
        "max_completion_tokens": limit,
    }
    if quoted or job.response_model is not None:
        if "response_format" in params:
            raise fault(job, f"it has {asker(job)} and response_format; give one of them")
        form = _form(job, quoted=quoted)
        body["response_format"] = {"type": "json_schema", "json_schema": form}
        _count_form(tally, form)
    elif "response_format" in params:
        _count_form(tally, params["response_format"])
    return body, limit, sources


def _response(
    job: Job, tally: Tally, params: dict[str, Any], *, quoted: bool
) -> tuple[dict[str, Any], int, Sequence[str]]:
    if "max_completion_tokens" in params:
        raise fault(job, f"max_completion_tokens is not of {RESPONSES}; give max_tokens")
    # The least that the endpoint takes is 16 [O: types/responses/response_create_params.py].
    limit = _limit(tally, params, ("max_tokens", "max_output_tokens"), 16)
    messages, sources = _messages(job, tally, _RESPONSES_ROLES, _response_part, "input_text")
    system = params.pop("system", None)
    if system is not None:
        messages = _with_system(job, tally, messages, system)
    body: dict[str, Any] = {"model": job.model, "input": messages, "max_output_tokens": limit}
    given: Any = params.pop("text", None)
    text = dict(cast("Message", given)) if isinstance(given, Mapping) else {}
    if quoted or job.response_model is not None:
        if "format" in text:
            raise fault(job, f"it has {asker(job)} and text.format; give one of them")
        text["format"] = {"type": "json_schema", **_form(job, quoted=quoted)}
    if "format" in text:
        _count_form(tally, text["format"])
    if text or given is not None:
        body["text"] = text or given
    return body, limit, sources


def _form(job: Job, *, quoted: bool) -> dict[str, Any]:
    model = job.response_model
    name = "answer" if model is None else answer_schema(model).name
    return {"name": name, "schema": form_of(job, DIALECT, quoted=quoted), "strict": True}


def _with_system(job: Job, tally: Tally, messages: list[Message], system: Any) -> list[Message]:
    """`system`, which Anthropic has as a parameter, as the first message."""
    if messages[0].get("role") in _LEADING:
        if "system" not in job.defaulted:
            raise fault(job, "it has a system message and system=; give one of them")
        return messages
    tally.add(MESSAGE)
    tally.text(system) if isinstance(system, str) else tally.json(system)
    return [{"role": "system", "content": system}, *messages]


def _messages(
    job: Job, tally: Tally, roles: Sequence[str], part: Any, text_type: str
) -> tuple[list[Message], Sequence[str]]:
    """The conversation, and the titles of the documents in it."""
    if job.messages:
        return _conversation(job, tally, roles), ()
    prompt = prompt_of(job, tally)
    if job.file is None:
        return [{"role": "user", "content": prompt}], ()
    found = documents(job)
    for document in found:
        tally.document(document)
    parts = [part(job, document) for document in found]
    content = [*parts, {"type": text_type, "text": prompt}]
    return [{"role": "user", "content": content}], [document.name for document in found]


def _conversation(job: Job, tally: Tally, roles: Sequence[str]) -> list[Message]:
    endpoint = CHAT if roles is _CHAT_ROLES else RESPONSES
    is_known = job.model.startswith(OWN)
    messages = checked_messages(job, roles, items=roles is _RESPONSES_ROLES)
    for message in messages:
        tally.add(MESSAGE)
        content = message.get("content")
        if message.get("role") == "user" and is_empty(content):
            raise fault(job, "a user message has no content")
        if isinstance(content, str):
            tally.text(content)
        elif isinstance(content, list):
            for item in cast("list[Any]", content):
                check_part(job, item, str(message.get("role")), endpoint, is_known=is_known)
                _count_part(tally, item)
        rest = {key: value for key, value in message.items() if key not in {"role", "content"}}
        if rest:
            tally.json(rest)
    return messages


def _count_part(tally: Tally, item: Any) -> None:
    part = cast("Message", item) if isinstance(item, dict) else {}
    kind = part.get("type")
    if isinstance(part.get("text"), str):
        tally.text(part["text"])
    elif kind in FILE_PARTS:
        tally.part(part)
    elif kind == "input_audio":
        tally.add(UNSEEN)
    else:
        tally.json(item)


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


def _count_form(tally: Tally, form: Any) -> None:
    tally.add(FORMAT)
    tally.json(form)


def _count_params(tally: Tally, params: Mapping[str, Any]) -> None:
    tools: Any = params.get("tools")
    if isinstance(tools, (list, tuple)) and tools:
        tally.add(TOOLS)
        for tool in cast("Sequence[Any]", tools):
            tally.json(tool)
            kind = cast("Message", tool).get("type") if isinstance(tool, dict) else None
            if kind not in {"function", "custom"}:
                tally.add(UNSEEN)
    for name in ("previous_response_id", "conversation", "prompt"):
        if params.get(name) is not None:
            tally.add(UNSEEN)
    for name in ("instructions", "prediction", "functions"):
        if params.get(name) is not None:
            tally.json(params[name])


def _embedding(job: Job, tally: Tally, params: dict[str, Any]) -> Request:
    for name, value in (("response_model", job.response_model), ("file", job.file)):
        if value is not None:
            raise fault(job, f"{EMBEDDINGS} takes no {name}; leave it out")
    asked = ("max_tokens", "enable_citations", "citations", "cache_prefix")
    unused = {**params, **{name: getattr(job, name) for name in asked}}
    unused = {name: value for name, value in unused.items() if value}
    left_out = drop_unsupported(
        job,
        unused,
        ("temperature", *asked, "system"),
        f"{EMBEDDINGS} has no such parameter; leave it out",
    )
    for name in left_out:
        params.pop(name, None)
    given: Any = params.pop("input", None)
    if given is not None and job.prompt:
        raise fault(job, "it has a prompt and input=; give one of them")
    text = given if given is not None else job.prompt or _only_text(job)
    if is_empty(text) or not isinstance(text, str):
        raise fault(job, "a job embeds one text that is not empty; add a job for each text")
    tally.text(text)
    body = {"model": job.model, "input": text, **params}
    return finish(
        tally,
        body,
        0,
        endpoint=EMBEDDINGS,
        left_out=left_out,
    )


def _only_text(job: Job) -> Any:
    """The text of the job's only message."""
    messages = checked_messages(job, ("user",))
    return messages[0].get("content") if len(messages) == 1 else None
