"""Requests of jobs that differ in their prompt alone: rendered once, then only filled in.

A job of a large run is mostly a prompt and an id beside the same model and parameters. Rendering
it with all its checks costs several times as much as putting the prompt into the place where it
stands in the request of a job that was rendered and checked before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from batchata_prefect.models import Estimate, Job, Request
from batchata_prefect.providers.provider import Provider
from batchata_prefect.providers.tokens import Counting

_SAMPLES = ("batchata prompt 7c1e", "a longer one, batchata prompt 7c1e, with 12 words: 'ten', `x`")


@dataclass(frozen=True, slots=True)
class PromptForm:
    """A request with its prompt cut out.

    Attributes:
        request: The request it was cut from.
        head: The body before the prompt.
        tail: The body after it.
        counting: How the tokens of a prompt are counted.
        likely: Likely input tokens besides those of the prompt.
        bound: The same as an upper bound.
        most_bytes: Bytes that a body may have.
    """

    request: Request
    head: bytes
    tail: bytes
    counting: Counting
    likely: int
    bound: int
    most_bytes: int

    def fill(self, prompt: str) -> tuple[bytes, Estimate] | None:
        """Body and tokens of the request of a job with this prompt.

        They are exactly what rendering the job gives; None where it has to be rendered to be
        refused.
        """
        if not prompt or prompt.isspace():
            return None
        try:
            body = b"".join((self.head, orjson.dumps(prompt), self.tail))
        except TypeError:  # half of a surrogate pair
            return None
        if len(body) > self.most_bytes:
            return None
        likely, bound = self.counting.text(prompt)
        most_output = self.request.estimate.output_bound
        return body, Estimate(self.likely + likely, self.bound + bound, most_output)


def prompt_form(provider: Provider, job: Job, most_bytes: int) -> PromptForm | None:
    """The form of all jobs that differ from one in their prompt, or None where there is none.

    Two samples are rendered, and the form is only taken for true where it gives both.

    Args:
        provider: The provider of the jobs.
        job: One of the jobs, rendered before without a fault.
        most_bytes: Bytes that a body may have.
    """
    if job.prompt is None or job.file is not None or job.messages or job.citing or job.cache_prefix:
        return None
    first, second = (provider.render(replace(job, prompt=sample)) for sample in _SAMPLES)
    parts = first.body.split(orjson.dumps(_SAMPLES[0]))
    if len(parts) != 2 or first.sources or first.files or first.prefix:
        return None
    likely, bound = provider.counting.text(_SAMPLES[0])
    form = PromptForm(
        first,
        parts[0],
        parts[1],
        provider.counting,
        first.estimate.input_tokens - likely,
        first.estimate.input_bound - bound,
        most_bytes,
    )
    filled = form.fill(_SAMPLES[1])
    if filled is None or first._replace(body=filled[0], estimate=filled[1]) != second:
        return None
    return form
