"""Azure OpenAI's deployments, how it checks the lines of a file, and how it answers them.

Sources: learn.microsoft.com, foundry/openai/how-to/batch (August 2026) for codes and urls, and the
content filter's page for its refusal; the text of the token limit is of a public report.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from .content import Marker, Prompt
from .limits import Limits
from .openai_answers import Gpt
from .openai_models import OpenAIModel
from .openai_rules import CHAT, RESPONSES
from .openai_validation import Check, Validation
from .store import Batch
from .wire import Json, RefusedError


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

FILTERED = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management"
    " policy. Please modify your prompt and retry."
)


class AzureCheck(Check):
    """What is wrong with the lines of a batch, whose endpoint is that of its lines."""

    codes: ClassVar = {"url": "url_mismatch", "model": "model_mismatch"}

    def __init__(self, batch: Batch, limits: Limits, found: Validation) -> None:
        super().__init__(batch, limits, found)
        # 100,000 requests to a file, where OpenAI takes 50,000.
        self.most_lines = 2 * limits.max_lines

    def fits(self, url: Any) -> bool:
        """As `Check.fits`."""
        if self.found.endpoint is None:
            self.found.endpoint = URLS.get(url) if isinstance(url, str) else None
            self.endpoint = url
        return self.found.endpoint is not None and url == self.endpoint

    def knows(self, model: str) -> bool:
        """As `Check.knows`."""
        deployment = DEPLOYMENTS.get(model)
        return deployment is not None and deployment.batches

    @staticmethod
    def too_many_tokens(model: str | None, limit: int) -> tuple[str, str]:
        """As `Check.too_many_tokens`."""
        return (
            "token_limit_exceeded",
            f"The number of enqueued tokens has surpassed the configured limit of {limit / 1000:g}K"
            f" for the deployment '{model}'. Please either increase the limit or try again once the"
            " current jobs have finished.",
        )


class AzureGpt(Gpt):
    """How a deployment answers."""

    provider = "azure"

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

    def ordered_error(self, marker: Marker) -> RefusedError:
        """As `Encoder.ordered_error`; `content_filter` as well."""
        if marker.rest == "content_filter":
            return RefusedError(FILTERED, "prompt", "content_filter")
        return super().ordered_error(marker)
