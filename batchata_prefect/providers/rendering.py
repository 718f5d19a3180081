"""What rendering a job has in common for all providers: checks, the JSON, the count of tokens."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import orjson

from batchata_prefect.content.citations.quotes import quoted_schema
from batchata_prefect.content.documents import Document, load_bytes, load_documents
from batchata_prefect.content.schema import answer_schema, asked_for
from batchata_prefect.content.schema.dialects import Dialect
from batchata_prefect.errors import ValidationError
from batchata_prefect.models import (
    DEFAULT_MAX_TOKENS,
    USUAL,
    Estimate,
    Job,
    Message,
    Request,
    Terms,
)
from batchata_prefect.providers.bodies import FILE_PARTS, LEAST_BYTES, file_in, held, says_data
from batchata_prefect.providers.provider import Provider
from batchata_prefect.providers.rows import object_at

UNSEEN = (5_000, 1_000_000)
"""Tokens of what is not in the request: a URL, an uploaded file, a stored conversation, what a
server tool brings in. The bound is the largest context window of both providers' models pages."""

FRAME = (4, 30)
"""Tokens around a request and its instructions. `Hello` is 8 input tokens (recorded reply), with
those of its message."""

MESSAGE = (4, 10)
"""Tokens around a message: role and separators."""

TOOLS = (350, 1_500)
"""Tokens of the instructions that tools add. Source: Claude docs, tool use: 290 to 804."""

FORMAT = (150, 600)
"""Tokens of the instructions that a schema adds, besides its own. A schema of 110 bytes with 31
bytes of question is 222 input tokens (recorded reply of claude-sonnet-4-5)."""

_MOST_TOKENS = 2**31
"""Output tokens that no model has; a bound of more would not fit where bounds are kept."""

_KINDS = {"image": "image", "image_url": "image", "input_image": "image", "document": "pdf"}
"""What a part of a type holds; a `file` of OpenAI's holds any."""


def fault(job: Job, text: str) -> ValidationError:
    """An error that names the job."""
    return ValidationError(f"job {job.id!r}: {text}")


class Draft:
    """A request that is being written: its tokens, its documents, and what is left out of it.

    Args:
        job: The job.
        provider: The provider that the request is for.
        model: The model; None where its name does not tell what it is.
    """

    def __init__(self, job: Job, provider: Provider, model: str | None) -> None:
        self.job = job
        self.provider = provider
        self.counting = provider.counting
        self.model = model
        self.likely, self.bound = FRAME
        self.pages = 0
        self.files: list[tuple[str, int]] = []
        self.images: list[Document] = []
        self.sources: list[str] = []
        self.left_out: list[str] = []

    def add(self, tokens: tuple[int, int]) -> None:
        """Add (likely, bound) tokens."""
        self.likely += tokens[0]
        self.bound += tokens[1]

    def text(self, text: str) -> None:
        """Add a text."""
        likely, bound = self.counting.text(text)
        self.likely += likely
        self.bound += bound

    def json(self, value: Any) -> None:
        """Add a value that the model sees as JSON: a tool, a call, a part of an unknown kind."""
        try:
            self.text(orjson.dumps(value).decode())
        except TypeError:
            # The body as a whole is refused with the whole path to what is not JSON.
            return

    def form(self, form: Any) -> None:
        """Add the schema of an answer."""
        self.add(FORMAT)
        self.json(form)

    def tools(self, tools: Any, ours: Collection[str | None]) -> None:
        """Add tools; what those of other types than ours bring in is not seen."""
        if not isinstance(tools, (list, tuple)) or not tools:
            return
        self.add(TOOLS)
        for tool in cast("Sequence[Any]", tools):
            self.json(tool)
            kind = cast("Message", tool).get("type") if isinstance(tool, dict) else None
            if kind not in ours:
                self.add(UNSEEN)

    def drop(self, params: dict[str, Any], names: Iterable[str], reason: str) -> None:
        """Take parameters out of `params` that the model does not take."""
        for name in names:
            if name in params:
                self.leave_out(name, params.pop(name), reason)

    def leave_out(self, name: str, value: Any, reason: str) -> None:
        """Leave out what came from the defaults."""
        job = self.job
        if name not in job.defaulted:
            raise fault(job, f"{job.model!r} does not take {name}={value!r}: {reason}")
        self.left_out.append(name)

    def document(self, document: Document, *, citations: bool = False) -> None:
        """Add a document."""
        self.pages += document.pages or 0
        if document.kind == "image":
            self.images.append(document)
        if document.kind in {"pdf", "image"} and len(document.data) >= LEAST_BYTES:
            self.files.append((document.digest, len(document.data)))
        self.add(self.counting.document(document, model=self.model, citations=citations))

    def item(self, item: Any) -> None:
        """Add a part of a message, or what stands in its place."""
        part = cast("Message", item) if isinstance(item, dict) else {}
        if isinstance(part.get("text"), str):
            self.text(part["text"])
        elif part.get("type") in FILE_PARTS:
            self.part(part)
        elif part.get("type") == "input_audio":
            self.add(UNSEEN)
        else:
            self.json(item)

    def part(self, part: Message) -> None:
        """Add the file in a part, by the checks of `file=`; of URLs and uploads we see nothing."""
        found = file_in(part)
        if found is None:
            if says_data(part):
                raise fault(self.job, f"the file in a part of type {part['type']!r} is no base64")
            self.add(UNSEEN)
            return
        said, data = found
        try:
            raw = base64.b64decode("".join(data.split()), validate=True)
        except ValueError as error:
            kind = part["type"]
            raise fault(
                self.job, f"the file in a part of type {kind!r} is no base64: {error}"
            ) from None
        name = object_at(part, "file").get("filename") or part.get("filename")
        document = load_bytes(raw, str(name or ""), job_id=self.job.id)
        self._compare(document, said.strip().lower(), part["type"])
        self.document(document, citations=bool(part.get("citations")))

    def _compare(self, document: Document, said: str, kind: str) -> None:
        wanted = _KINDS.get(kind)
        if wanted not in {None, document.kind}:
            raise fault(
                self.job,
                f"a file in its messages is {document.media_type}; a part of type {kind!r} holds "
                f"{'an image' if wanted == 'image' else 'a PDF'}",
            )
        is_told = document.kind in {"image", "pdf"} and said not in {"", "image/jpg"}
        if is_told and said != document.media_type:
            raise fault(
                self.job, f"a file in its messages is {document.media_type} and called {said}"
            )


def finish(
    draft: Draft,
    body: Mapping[str, Any],
    output_bound: int,
    *,
    endpoint: str,
    prefix: str | None = None,
    terms: Terms = USUAL,
) -> Request:
    """The request of a body."""
    job = draft.job
    try:
        # The same bytes for the same body in every process.
        data = orjson.dumps(body)
    except TypeError as error:
        path, reason = _culprit(body, str(error))
        raise fault(job, f"{path.lstrip('.') or 'a value'} cannot be sent: {reason}") from None
    provider, most = draft.provider, draft.provider.limits.max_request_bytes
    if len(data) > most:
        raise fault(
            job,
            f"its request is {len(data):,} bytes and {provider.name} takes {most:,}; give it "
            "fewer or smaller documents",
        )
    estimate = Estimate(draft.likely, draft.bound, output_bound)
    if b'"cache_control":' in data:
        # Writing to the cache for an hour costs twice the input price [prompt caching], and how
        # much of the input will be written is not known before.
        estimate = estimate._replace(input_bound=2 * estimate.input_bound)
    return Request(
        provider=provider.name,
        endpoint=endpoint,
        model=job.model,
        body=data,
        estimate=estimate,
        left_out=tuple(draft.left_out),
        sources=tuple(draft.sources),
        prefix=prefix,
        files=tuple(draft.files),
        terms=terms,
    )


def _culprit(value: Any, reason: str) -> tuple[str, str]:
    """Path to the innermost value that is not JSON, and why."""
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        parts = [(f".{key}", item) for key, item in cast("Mapping[Any, Any]", value).items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"[{at}]", item) for at, item in enumerate(cast("Sequence[Any]", value))]
    for step, item in parts:
        try:
            orjson.dumps(item)
        except TypeError as error:
            path, inner = _culprit(item, str(error))
            return step + path, inner
    return "", reason


def parameters(job: Job) -> dict[str, Any]:
    """The job's further parameters, its temperature among them."""
    params = dict(job.params)
    if job.temperature is not None:
        params["temperature"] = job.temperature
    if params:
        for name, value in params.items():
            if name in {"model", "messages"}:
                raise fault(job, f"params may not hold {name!r}; give {name}= to the job")
            if isinstance(value, float) and not math.isfinite(value):
                raise fault(job, f"{name} is {value}, which is no JSON number")
        if params.get("n", 1) != 1:
            raise fault(job, f"n={params['n']!r}: a job has one answer; add the job several times")
        if params.get("stream"):
            raise fault(job, "stream=True is not possible in a batch; leave it out")
    return params


def max_tokens(
    draft: Draft, params: dict[str, Any], names: Sequence[str], *, least: int = 1
) -> int:
    """The output tokens that a job may use; takes the provider's own names out of `params`."""
    job, most = draft.job, draft.provider.most_output(draft.job.model)
    value: Any = job.max_tokens
    for name in names:
        if name in params:
            if value is not None and "max_tokens" not in job.defaulted:
                raise fault(job, f"max_tokens and {name} say the same; give one of them")
            value = params.pop(name)
    if value is None:
        return DEFAULT_MAX_TOKENS
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise fault(job, f"max_tokens must be a whole number from {least}, not {value!r}")
    if value > (most := _MOST_TOKENS if most is None else most):
        raise fault(job, f"max_tokens={value:,} is more than {job.model!r} can write ({most:,})")
    return value


def checked_messages(job: Job, roles: Collection[str], *, items: bool = False) -> list[Message]:
    """The job's messages, with a known role each.

    Args:
        job: The job.
        roles: The roles that the endpoint knows.
        items: Whether entries of another type than messages, which have no role, may be among them.
    """
    messages: list[Message] = []
    for at, item in enumerate(cast("Sequence[Any]", job.messages or ())):
        if not isinstance(item, dict):
            raise fault(job, f"messages[{at}] is {type(item).__name__}, not a dict")
        message = cast("Message", item)
        role = message.get("role")
        other = items and role is None and message.get("type", "message") != "message"
        if role not in roles and not other:
            raise fault(
                job, f"messages[{at}] has role {role!r}; it must be one of {', '.join(roles)}"
            )
        messages.append(message)
    return messages


def is_empty(content: Any) -> bool:
    """Whether a message's content holds nothing: no text but white space, no parts."""
    if isinstance(content, str):
        return not content or content.isspace()
    return not content


def prompt_of(draft: Draft) -> str:
    """The job's prompt as a message, counted."""
    prompt = draft.job.prompt or ""
    if is_empty(prompt):
        raise fault(draft.job, "its prompt is empty")
    draft.add(MESSAGE)
    draft.text(prompt)
    return prompt


def one_system(job: Job) -> None:
    """Refuse a `system` beside a system message, but for one of the defaults."""
    if "system" not in job.defaulted:
        raise fault(job, "it has a system message and system=; give one of them")


def form_of(job: Job, dialect: Dialect, *, quoted: bool) -> dict[str, Any]:
    """The schema that is asked for: of the response model, of the answer with quotes, or both."""
    schema = None if job.response_model is None else answer_schema(job.response_model)
    if quoted or schema is None:
        return quoted_schema(schema, dialect, job_id=job.id)
    return asked_for(schema, dialect, job_id=job.id)


def asker(job: Job) -> str:
    """What of the job asks for a form."""
    return "citations='quoted'" if job.response_model is None else "response_model"


def documents(job: Job) -> tuple[Document, ...]:
    """The documents of the job's file."""
    return () if job.file is None else load_documents(job.file, job_id=job.id)


def refused_kind(job: Job, document: Document, way_out: str) -> ValidationError:
    """The error for a document of a type that the provider does not take."""
    return fault(job, f"file {document.name!r} is {document.media_type}; {way_out}")


def wants_quotes(draft: Draft) -> bool:
    """Whether the job's answer is asked for together with quotes.

    Quotes are only worth what they are compared with, so a job without a document whose text we
    hold has none: refused where the job itself asks for them, left out where the defaults do. So
    are citations of a provider's own, where it has none.
    """
    job, name = draft.job, draft.provider.name
    if job.citing == "native" and not draft.provider.cites:
        from batchata_prefect.providers import providers  # the providers are made of this module

        citing = ", ".join(name for name, each in providers().items() if each.cites)
        draft.leave_out(
            "enable_citations",
            True,
            f"{name} has no citations of its own; give citations='quoted' for quotes that are "
            "compared with the documents, leave it out, or send the job to a provider that has "
            f"them ({citing})",
        )
    if job.citing != "quoted":
        return False
    asked = "citations" not in job.defaulted
    if job.file is None:
        sent = held({"messages": job.messages}).documents
        quotable = any(document is not None for document in sent)
    else:
        found = documents(job)
        scans = [document for document in found if document.is_scan]
        if asked and scans:
            raise fault(
                job,
                f"file {scans[0].name!r} has no text on any page, so a quote of it cannot be "
                "compared; run text recognition over it, or leave citations out",
            )
        quotable = any(
            document.text is not None or (document.kind == "pdf" and document not in scans)
            for document in found
        )
    if asked and not quotable:
        raise fault(
            job,
            "citations='quoted' needs a document whose text can be compared with the quotes: a "
            "PDF or a text as file=, or a PDF in the messages itself; images, URLs and uploaded "
            "files cannot be",
        )
    if not quotable:
        draft.left_out.append("citations")
    return quotable
