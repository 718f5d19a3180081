"""Azure OpenAI: OpenAI's API below `/openai/v1`, or `/openai` with the day of a version.

Sources: learn.microsoft.com, foundry/openai: how-to/batch (August 2026), api-version-lifecycle,
authoring-reference-preview; openai-dotnet#312 for files that are not processed yet. The texts of
refusals are of public reports, or the sandbox's own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from .api import Call, Operation, Upload
from .content import Prompt
from .faults import Limits
from .lines import GptCheck, Problem
from .openai import OpenAI
from .openai_answers import DAYS_30, Gpt
from .openai_rules import CHAT, EMBEDDINGS, METADATA, RESPONSES, OpenAIModel
from .reading import Form
from .shapes import ANYTHING, NAMED, closed, one_of
from .store import Batch, StoredFile
from .wire import Json, Refusal, RefusedError, Reply, new_id

_V1 = (None, "v1", "preview")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_DAYS_14 = 14 * 86400


class Deployment(NamedTuple):
    """A model under a name that its owner gave.

    Attributes:
        model: The model.
        batches: Whether it is for batches, and answers nothing else.
    """

    model: str
    batches: bool


DEPLOYMENTS = {
    "fleet": Deployment("gpt-6-luna", batches=True),
    # By its name it would be another model, of another price.
    "gpt-4o-reader": Deployment("gpt-6-luna", batches=True),
    "gpt-4o-mini": Deployment("gpt-6-luna", batches=True),
    "fleet-live": Deployment("gpt-6-luna", batches=False),
}
URLS = {"/chat/completions": CHAT, CHAT: CHAT, RESPONSES: RESPONSES}
"""Path that a line or a create names -> endpoint."""
_CREATE = closed(
    input_file_id=NAMED,
    endpoint=one_of(*URLS, required=True),
    completion_window=one_of("24h", required=True),
    metadata=METADATA,
    output_expires_after=ANYTHING,
)


class AzureCheck(GptCheck):
    """What is wrong with the lines of a batch, whose endpoint is that of its lines."""

    codes: ClassVar = {"url": "url_mismatch", "model": "model_mismatch"}

    def __init__(self, batch: Batch, limits: Limits) -> None:
        super().__init__(batch, limits)
        # 100,000 requests to a file, where OpenAI takes 50,000.
        self.most_lines = 2 * limits.max_lines

    def fits(self, url: Any) -> bool:
        if self.found.endpoint is None:
            self.found.endpoint = URLS.get(url) if isinstance(url, str) else None
            self.endpoint = url
        return self.found.endpoint is not None and url == self.endpoint

    def knows(self, model: str) -> bool:
        deployment = DEPLOYMENTS.get(model)
        return deployment is not None and deployment.batches

    def too_many_tokens(self, model: str | None, limit: int) -> Problem:
        return (
            "token_limit_exceeded",
            f"The number of enqueued tokens has surpassed the configured limit of {limit / 1000:g}K"
            f" for the deployment '{model}'. Please either increase the limit or try again once the"
            " current jobs have finished.",
            None,
        )


class AzureGpt(Gpt):
    """How a deployment answers."""

    provider = "azure"
    errors: ClassVar = {
        **Gpt.errors,
        "content_filter": Refusal(
            400,
            "The response was filtered due to the prompt triggering Azure OpenAI's content"
            " management policy. Please modify your prompt and retry.",
            "prompt",
            "content_filter",
        ),
    }

    def read(self, body: Json, size: int = 0) -> tuple[OpenAIModel, Prompt]:
        """As `Encoder.read`: a name of a deployment is read as its model."""
        deployment = DEPLOYMENTS.get(str(body.get("model")))
        if deployment is None:
            text = "The API deployment for this resource does not exist."
            raise RefusedError(text, code="DeploymentNotFound", status=404)
        if deployment.batches != (self.batch is not None):
            text = "The requested operation is unsupported."
            raise RefusedError(text, code="OperationNotSupported")
        return super().read({**body, "model": deployment.model}, size)


class Azure(OpenAI):
    """The API of a resource under `/azure`."""

    name = "azure"
    check = AzureCheck
    rows = AzureGpt
    key_header = "api-key"
    create_shape = _CREATE
    refusals: ClassVar[Mapping[str, Refusal]] = {
        **OpenAI.refusals,
        "key": Refusal(
            401,
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to"
            " provide a valid key for an active subscription and use a correct regional API"
            " endpoint for your resource.",
            code="401",
        ),
        "no key": Refusal(
            401,
            "Access denied due to missing subscription key. Make sure to include subscription key"
            " when making requests to an API.",
            code="401",
        ),
        "path": Refusal(404, "Resource not found", code="404"),
        "pending": Refusal(
            400, "The file '{id}' has not been processed yet.", code="invalidPayload"
        ),
        "purpose": Refusal(400, "Invalid purpose: '{id}'.", code="invalidPayload"),
        "expires": Refusal(
            400,
            "expires_after must be created_at and 1209600 to 2592000 seconds.",
            code="invalidPayload",
        ),
    }

    def operations(self) -> list[Operation]:
        """As `Api.operations`, below both paths; there is no batch of embeddings."""
        found: list[Operation] = []
        for method, path, name, handler in super().operations():
            rest = path.removeprefix("/v1")
            if path == EMBEDDINGS:
                continue
            dated = f"/deployments/{{id}}{rest}" if path == CHAT else rest
            found += [
                Operation(method, f"/openai/v1{rest}", name, self._versioned(handler, dated=False)),
                Operation(method, f"/openai{dated}", name, self._versioned(handler, dated=True)),
            ]
        return found

    def _versioned(
        self, handler: Callable[[Call], Awaitable[Reply]], *, dated: bool
    ) -> Callable[[Call], Awaitable[Reply]]:
        """A handler below a path that takes no version, or one below that which takes a day."""

        async def served(call: Call) -> Reply:
            version = call.request.query_params.get("api-version")
            if not (_DAY.fullmatch(version or "") if dated else version in _V1):
                raise self.refuse("path")
            return await handler(call)

        return served

    def headers(self) -> dict[str, str]:
        return {"apim-request-id": new_id("", 32), "x-ms-region": "Sandbox"}

    def error_body(self, problem: RefusedError, headers: Mapping[str, str]) -> Json:
        """As `Api.error_body`; what refuses the resource has a code and a text alone."""
        if problem.code is not None and problem.code.isdigit():
            return {"error": {"code": problem.code, "message": problem.message}}
        return super().error_body(problem, headers)

    async def create(self, call: Call) -> Reply:
        """As `Api.create`: of a file that is processed."""
        given = (await self.read_object(call)).get("input_file_id")
        file = self.engine.files.get(str(given))
        if file is not None and self._is_pending(file):
            raise self.refuse("pending", id=file.id)
        return await super().create(call)

    async def start_batch(self, batch: Batch) -> Reply:
        """As `Api.start_batch`, where as many tokens may wait."""
        if self.engine.limits.enqueued_tokens is not None:
            for error in (await self.engine.checked(batch)).errors:
                if error["code"] == "token_limit_exceeded":
                    raise RefusedError(error["message"], code=error["code"])
        return await super().start_batch(batch)

    def batch_body(self, batch: Batch) -> Json:
        """As `Api.batch_body`: without what Azure's has not, and with empty names of files."""
        body = super().batch_body(batch)
        for name in ("model", "usage"):
            del body[name]
        for name in ("output_file_id", "error_file_id"):
            body[name] = body[name] or ""
        return body

    def read_upload(self, form: Form) -> Upload:
        if form.fields.get("purpose") == "user_data":
            raise self.refuse("purpose", id="user_data")
        anchor, seconds = (form.fields.get(f"expires_after[{at}]") for at in ("anchor", "seconds"))
        upload = super().read_upload(form)
        if anchor is None and seconds is None:
            return upload._replace(seconds=None)
        if not _DAYS_14 <= int(seconds or 0) <= DAYS_30:
            raise self.refuse("expires")
        return upload

    def file_body(self, file: StoredFile) -> Json:
        status = "pending" if self._is_pending(file) else "processed"
        return {**super().file_body(file), "status": status}

    def _is_pending(self, file: StoredFile) -> bool:
        age = time.time() - file.created_at
        return file.purpose == "batch" and age < self.engine.limits.pending_seconds
