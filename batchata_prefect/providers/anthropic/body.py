"""A job as the body of Anthropic's Messages API.

Sources: anthropic/types/*_param.py (2.12.0) and platform.claude.com: api/errors,
migration-2026-10-21, batch-processing, structured-outputs, citations, pdf-support, vision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from batchata_prefect.content.documents import Document, text_document
from batchata_prefect.content.schema import answer_schema, prompt_for
from batchata_prefect.models import USUAL, Job, Message, Request
from batchata_prefect.providers import Provider
from batchata_prefect.providers.anthropic.facts import (
    DIALECT,
    IMAGES,
    LEAST_THINKING,
    OTHERS,
    OWN,
    most_pages,
    takes_enabled_thinking,
    takes_forced_tool,
    takes_prefill,
)
from batchata_prefect.providers.anthropic.usage import terms_of
from batchata_prefect.providers.bodies import last_shared, prefix_digest
from batchata_prefect.providers.refusals import (
    check_images,
    check_part,
    check_text,
    check_tool_choice,
    foreign,
)
from batchata_prefect.providers.rendering import (
    MESSAGE,
    UNSEEN,
    Draft,
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
from batchata_prefect.providers.rows import object_at

ENDPOINT = "/v1/messages"

_ROLES = ("user", "assistant", "system", "developer")
_SAMPLING = ("temperature", "top_p", "top_k")
_NOT_IN_A_BATCH = ("speed", "fallbacks", "store", "previous_thread_event_id")

_MARKER = {"type": "ephemeral", "ttl": "1h"}
"""It reads from its cache what such a marker ends; an hour is the lifetime that batches are told to
use [prompt-caching, batch-processing]: written at twice the input price, read at a tenth."""

_MOST_MARKERS = 4


def render(job: Job, provider: Provider) -> Request:
    """The job's exact request."""
    if job.endpoint not in {None, ENDPOINT}:
        raise fault(job, f"endpoint {job.endpoint!r}: Anthropic batches only take {ENDPOINT!r}")
    draft = Draft(job, provider, job.model)
    params, is_known = parameters(job), job.model.startswith(OWN)
    if params:
        foreign(draft, params, ENDPOINT, OTHERS if is_known else {})
    if params and is_known:
        draft.drop(
            params,
            _SAMPLING,
            "since API version 2026-10-21 no Claude model does; leave it out and say in the "
            "prompt what the answer shall be like",
        )
        draft.drop(params, _NOT_IN_A_BATCH, "Message Batches do not have it; leave it out")
    limit = max_tokens(draft, params, ("max_tokens",))
    content = _Content(draft)
    if job.messages:
        system, messages = _conversation(job, params)
        messages = [content.read(message) for message in messages]
    else:
        system, messages = params.pop("system", None), [content.prompt()]
    body: dict[str, Any] = {"model": job.model, "max_tokens": limit}
    if system is not None:
        body["system"] = system
        content.count(system)
        for block in cast("list[Any]", system) if isinstance(system, list) else ():
            check_part(job, block, "system", ENDPOINT, is_known=is_known)
    body["messages"] = messages
    content.check()
    _ask_for_form(draft, body, params, cited=content.native and content.citable > 0)
    if params:
        _check_thinking(job, params, limit)
        _count_tools(draft, params)
        body |= params
    _check_markers(job, body)
    return finish(
        draft,
        body,
        limit,
        endpoint=ENDPOINT,
        prefix=_mark(body) if job.cache_prefix else None,
        terms=terms_of(params) if params else USUAL,
    )


def _conversation(job: Job, params: dict[str, Any]) -> tuple[Any, list[Message]]:
    """The system prompt and the messages after it."""
    messages = checked_messages(job, _ROLES)
    for message in messages:
        if is_empty(message.get("content")):
            raise fault(job, f"a message of role {message['role']!r} has no content")
    leading = 0
    while leading < len(messages) and messages[leading]["role"] in {"system", "developer"}:
        leading += 1
    system = params.pop("system", None)
    if leading:
        if system is not None:
            one_system(job)
        system = _joined([message["content"] for message in messages[:leading]])
    messages = messages[leading:]
    _check_turns(job, messages)
    return system, messages


def _joined(contents: list[Any]) -> Any:
    """Contents of leading system messages as one `system`: a text, or blocks where there are."""
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents)
    blocks: list[Any] = []
    for content in contents:
        blocks += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return blocks


def _check_turns(job: Job, messages: list[Message]) -> None:
    roles = [message["role"] for message in messages]
    if not roles:
        raise fault(job, "it has only system messages; add a user message")
    if roles[0] != "user":
        raise fault(job, f"its first message has role {roles[0]!r}; it must be the user's")
    if "developer" in roles:
        raise fault(job, "role 'developer' is only taken at the start, as the system prompt")
    for at, role in enumerate(roles):
        if role == "system" and (roles[at - 1] != "user" or roles[at + 1 : at + 2] == ["user"]):
            raise fault(
                job,
                "a system message inside the conversation must follow a user message and be the "
                "last one or come before an assistant message",
            )
    if roles[-1] == "assistant":
        _check_prefill(job, messages[-1]["content"])


def _check_prefill(job: Job, content: Any) -> None:
    """Refuse an answer's beginning that the model cannot go on from."""
    if not takes_prefill(job.model):
        raise fault(
            job,
            f"its last message is the assistant's, and {job.model!r} does not continue a given "
            "answer; end with a user message, or ask for a form with response_model",
        )
    last: Any = cast("list[Any]", content)[-1] if isinstance(content, list) else content
    text: Any = cast("Message", last).get("text") if isinstance(last, dict) else last
    if isinstance(text, str) and text != text.rstrip():
        raise fault(job, "its last message, which the answer goes on from, ends in white space")


class _Content:
    """Walks the content of a request once: counts it, checks it, notes its documents."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.job = job = draft.job
        self.citable = 0
        self.native = job.citing == "native"
        self.is_known = job.model.startswith(OWN)

    def prompt(self) -> Message:
        """The message of the job's prompt, after its documents, where the API wants them."""
        prompt = prompt_of(self.draft)
        if self.job.file is None:
            return {"role": "user", "content": prompt}
        blocks = [self._block(document) for document in documents(self.job)]
        return {"role": "user", "content": [*blocks, {"type": "text", "text": prompt}]}

    def _block(self, document: Document) -> dict[str, Any]:
        if document.kind == "image":
            self.draft.document(document)
            source = {"type": "base64", "media_type": document.media_type, "data": document.base64}
            return {"type": "image", "source": source}
        self.draft.document(document, citations=self.native)
        if document.kind == "pdf":
            self._check_citable(document)
            source = {"type": "base64", "media_type": "application/pdf", "data": document.base64}
        elif document.text is not None:
            source = {"type": "text", "media_type": "text/plain", "data": document.text}
        else:
            raise refused_kind(
                self.job, document, "Claude takes PDF, text, images and DOCX; convert it"
            )
        self.draft.sources.append(document.name)
        self.citable += 1
        block: dict[str, Any] = {"type": "document", "source": source, "title": document.name}
        return _with_citations(block) if self.native else block

    def _check_citable(self, pdf: Document) -> None:
        """Refuse a scan where citations are asked for: only a PDF's text is cited."""
        asked = self.native and "enable_citations" not in self.job.defaulted
        if asked and pdf.is_scan:
            raise fault(
                self.job,
                f"file {pdf.name!r} has no text on any page, so nothing of it can be cited; run "
                "text recognition over it, or leave enable_citations out",
            )

    def read(self, message: Message) -> Message:
        """A message of the user's, counted, with citations enabled where the job asks for them."""
        self.draft.add(MESSAGE)
        content = message["content"]
        if not isinstance(content, list):
            self.count(content)
            return message
        blocks: list[Any] = []
        for block in cast("list[Any]", content):
            check_part(self.job, block, message["role"], ENDPOINT, is_known=self.is_known)
            blocks.append(self._read_block(cast("Message", block), message["role"]))
        return {**message, "content": blocks}

    def _read_block(self, block: Message, role: str) -> Message:
        kind = block["type"]
        if kind in {"document", "search_result"}:
            self.citable += 1
            if self.native:
                # The API wants citations on all documents or on none.
                block = _with_citations(block)
        if kind == "document":
            if role == "assistant":
                raise fault(self.job, "documents are only taken in user messages; move them there")
            sources = self.draft.sources
            sources.append(str(block.get("title") or f"document {len(sources) + 1}"))
        self._count_block(block)
        return block

    def count(self, content: Any) -> None:
        """Count a text, or a list of blocks."""
        if isinstance(content, str):
            self.draft.text(content)
        elif isinstance(content, list):
            for block in cast("list[Any]", content):
                self._count_block(block)
        else:
            self.draft.json(content)

    def _count_block(self, item: Any) -> None:
        block = cast("Message", item) if isinstance(item, dict) else {}
        if block.get("type") in {"image", "document"}:
            self._count_source(block)
        elif isinstance(block.get("text"), str) and block.get("type") != "text":
            # What else a block of another type holds is read as well.
            self.draft.json(item)
        else:
            self.draft.item(item)

    def _count_source(self, block: Message) -> None:
        source = object_at(block, "source")
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            text = source["data"]
            check_text(self.job, text, "a document in its messages")
            document = text_document(text, str(block.get("title") or "document"))
            self.draft.document(document, citations=bool(block.get("citations")))
        elif source.get("type") == "content":
            self.count(source.get("content"))
        else:
            self.draft.part(block)
        for name in ("title", "context"):
            if isinstance(block.get(name), str):
                self.draft.text(block[name])

    def check(self) -> None:
        """Refuse what is only seen in the whole."""
        most = most_pages(self.job.model)
        if self.draft.pages > most:
            raise fault(
                self.job,
                f"its PDFs have {self.draft.pages:,} pages and {self.job.model!r} takes {most} in "
                "a request; split them over several jobs",
            )
        # Models of a context of 200,000 tokens take 100 of each, the others 600 [vision].
        check_images(self.job, self.draft.images, IMAGES, most)
        asked = self.native and "enable_citations" not in self.job.defaulted
        if asked and not self.citable:
            raise fault(
                self.job, "enable_citations needs a document to cite; images cannot be cited"
            )


def _with_citations(block: Message) -> Message:
    return {**block, "citations": {"enabled": True}}


def _ask_for_form(
    draft: Draft, body: dict[str, Any], params: dict[str, Any], *, cited: bool
) -> None:
    """Ask for the response model: natively, or in words where there are citations.

    The API refuses citations together with `output_config.format` [docs: structured-outputs];
    quotes are a part of the form.
    """
    job, quoted = draft.job, wants_quotes(draft)
    given: Any = params.pop("output_config", None)
    config = dict(cast("Message", given)) if isinstance(given, Mapping) else {}
    if "format" in config and (job.response_model is not None or cited or quoted):
        other = "response_model" if job.response_model is not None else "citations"
        raise fault(job, f"it has output_config.format and {other}, which exclude each other")
    if job.response_model is not None and cited and not quoted:
        instructions = prompt_for(answer_schema(job.response_model))
        draft.text(instructions)
        _append(body["messages"], instructions)
    elif quoted or job.response_model is not None:
        form = form_of(job, DIALECT, quoted=quoted)
        config["format"] = {"type": "json_schema", "schema": form}
    if "format" in config:
        draft.form(config["format"])
    if config or given is not None:
        body["output_config"] = config or given


def _append(messages: list[Message], text: str) -> None:
    """Add a text to the end of the last user message."""
    at = max(at for at, message in enumerate(messages) if message["role"] == "user")
    content = messages[at]["content"]
    if isinstance(content, str):
        longer: Any = f"{content}\n\n{text}"
    else:
        longer = [*content, {"type": "text", "text": text}]
    messages[at] = {**messages[at], "content": longer}


def _check_thinking(job: Job, params: Mapping[str, Any], limit: int) -> None:
    thinking: Any = params.get("thinking")
    if not isinstance(thinking, Mapping) or cast("Message", thinking).get("type") != "enabled":
        return
    if not takes_enabled_thinking(job.model):
        raise fault(
            job,
            f"{job.model!r} does not take thinking of type 'enabled'; leave it out or give "
            "{'type': 'adaptive'}, and set output_config={'effort': ...}",
        )
    budget = cast("Message", thinking).get("budget_tokens")
    if isinstance(budget, int) and budget < LEAST_THINKING:
        raise fault(
            job,
            f"thinking.budget_tokens={budget:,} must be at least {LEAST_THINKING:,}; leave "
            "thinking out for less",
        )
    if isinstance(budget, int) and budget >= limit:
        raise fault(
            job,
            f"thinking.budget_tokens={budget:,} must be less than max_tokens={limit:,}, against "
            "which thinking counts",
        )


def _count_tools(draft: Draft, params: Mapping[str, Any]) -> None:
    job = draft.job
    check_tool_choice(job, params, ENDPOINT)
    choice: Any = params.get("tool_choice")
    forced = isinstance(choice, Mapping) and cast("Message", choice).get("type") in {"any", "tool"}
    if forced and not takes_forced_tool(job.model):
        raise fault(
            job,
            f"{job.model!r} cannot be forced to use a tool; leave tool_choice out, or ask for a "
            "form with response_model",
        )
    draft.tools(params.get("tools"), (None, "custom"))
    if params.get("container") is not None or params.get("mcp_servers") is not None:
        draft.add(UNSEEN)


def _mark(body: dict[str, Any]) -> str | None:
    """Mark the system prompt of a Messages body, and what stands before the first question.

    Returns:
        Digest of what was marked; None where there is nothing to share, or the user set markers.
    """
    if b'"cache_control":' in orjson.dumps(body):
        return None
    shared: list[Any] = []
    system: Any = body.get("system")
    if system:
        blocks = [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
        shared.append(blocks)
        body["system"] = [*blocks[:-1], {**blocks[-1], "cache_control": _MARKER}]
    first: Any = body["messages"][0]
    content: Any = first.get("content")
    last = last_shared(content)
    if last is not None:
        shared.append(content[: last + 1])
        marked = [*content]
        marked[last] = {**content[last], "cache_control": _MARKER}
        body["messages"] = [{**first, "content": marked}, *body["messages"][1:]]
    return prefix_digest(shared)


def _check_markers(job: Job, body: Mapping[str, Any]) -> None:
    """Refuse more breakpoints than are taken."""
    found = sum(_markers(body.get(name)) for name in ("system", "messages", "tools"))
    found += 1 if body.get("cache_control") else 0
    if found > _MOST_MARKERS:
        raise fault(
            job,
            f"it has {found} cache breakpoints (cache_control) and Claude takes {_MOST_MARKERS}; "
            "leave the others out",
        )


def _markers(value: Any) -> int:
    """Cache breakpoints in content, tools or a system prompt: blocks with `cache_control`."""
    if isinstance(value, list):
        return sum(map(_markers, cast("list[Any]", value)))
    if not isinstance(value, dict):
        return 0
    block = cast("Message", value)
    own = 1 if block.get("cache_control") else 0
    return own + _markers(block.get("content"))
