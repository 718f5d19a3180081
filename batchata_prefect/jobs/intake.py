"""What becomes of a job when it is added: checked, rendered, and written to the spool."""

from __future__ import annotations

import hashlib
import logging
import re
import weakref
from collections.abc import Hashable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from batchata_prefect.content.schema import AnswerSchema, answer_schema
from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.jobs.spool import Family, Spool, pack
from batchata_prefect.jobs.spool.kept import keep, reopen
from batchata_prefect.models import Job, package
from batchata_prefect.providers import Provider, provider_for, providers
from batchata_prefect.providers.prompt_forms import PromptForm, prompt_form

logger = logging.getLogger("batchata_prefect")

JOB_FIELDS = frozenset(Job.__dataclass_fields__) - {"params", "defaulted"}
_FORMS_HELD = 1_000
_LINE_BYTES = 256
_MADE_ID = re.compile(r"job-[0-9a-f]{12}(?:-\d+)?")
_OWN = frozenset({"prompt", "id", "metadata", "tags"})
_SIMPLE = frozenset({str, int, bool})


class _Form(NamedTuple):
    """How jobs of one form become requests.

    Attributes:
        prompt: Their request without the prompt.
        family: Their family.
        schema: Digest of their answer schema.
        accept_truncated: Whether they take an answer that was cut off.
    """

    prompt: PromptForm
    family: Family
    schema: str | None
    accept_truncated: bool


class Intake:
    """Takes the jobs of one batch.

    Jobs that differ in their prompt, id, metadata and tags alone, as most of a large run do, share
    a form: the third of them and all that follow are filled in, and not rendered.

    Attributes:
        origin: Digest of the files and arguments that all jobs so far were made from; None where
            some came another way.
        defaults: Values for the jobs that do not give their own.
        schemas: Digest -> answer schema, of the jobs so far.
        spool: Where the jobs are written; None before the first.
        providers: Those that jobs may name.
    """

    def __init__(self, results_dir: Path) -> None:
        self.defaults: dict[str, Any] = {}
        self.schemas: dict[str, AnswerSchema] = {}
        self.spool: Spool | None = None
        self.providers = providers()
        self.origin: str | None = None
        self._schema: AnswerSchema | None = None
        self._has_files = False
        self._results_dir = results_dir
        self._left_out: set[tuple[str, str]] = set()
        self._forms: dict[Hashable, _Form | None] = {}
        self._rendered: set[Hashable] = set()
        self._times_set = 0

    def set_defaults(self, values: Mapping[str, Any]) -> None:
        """Set values for the jobs added from here on."""
        # A list or dict that is changed later would change the jobs added after that unseen.
        self.defaults.update(
            {name: deepcopy(v) if type(v) in (dict, list) else v for name, v in values.items()}
        )
        self._times_set += 1

    def add(self, given: dict[str, Any]) -> None:
        """Check a job, render it and write it to the spool.

        Args:
            given: Arguments of `Batch.add_job` that are not None.

        Raises:
            ValidationError: The job would be refused; the text says why.
            ProviderNotFoundError: No provider is known for the model.
        """
        self.origin = None
        alike = self._alike(given)
        form = None if alike is None else self._forms.get(alike)
        if form is not None and self._add_filled(given, form):
            return
        job, provider, schema = self._add_rendered(given)
        if alike is None or alike in self._forms:
            return
        # A form costs two more renderings, which the second of its jobs shows to be worth it.
        if alike in self._rendered:
            most = min(provider.limits.max_request_bytes, provider.limits.max_bytes - _LINE_BYTES)
            made = prompt_form(provider, job, most)
            if made is not None:
                family = self.open_spool().family(made.request, job.id)
                self._forms[alike] = _Form(made, family, schema, job.accept_truncated)
            else:
                self._forms[alike] = None
        elif len(self._rendered) < _FORMS_HELD:
            self._rendered.add(alike)

    def take_over(self, file: JobsFile, told: Mapping[str, Any]) -> str | None:
        """Take over the jobs that an earlier start has made from the same file, if it kept them.

        Args:
            file: What all jobs are made from.
            told: How they are made from it.

        Returns:
            The digest of file and arguments; None where there are jobs already, or one of them
            has no digest. `origin` is set where the jobs were taken over.
        """
        values = {**self.defaults, **told}
        if self.spool is not None:
            return None
        if (model := values.pop("response_model", None)) is not None:
            self._schema = answer_schema(model)
            values["schema"] = self._schema.digest
        try:
            how = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            return None
        if file.digest is None:
            return None
        made_by = f"{file.digest}\0{package()}\0{Path(file.path).suffix}\0".encode()
        origin = hashlib.blake2b(made_by + how, digest_size=16).hexdigest()
        self.spool = reopen(self._results_dir / ".batchata", origin)
        if self.spool is not None:
            weakref.finalize(self, self.spool.close)
            self.origin = origin
            if self._schema is not None:
                self.schemas[self._schema.digest] = self._schema
        return origin

    def came_from(self, origin: str | None) -> None:
        """Say what all jobs were made from, after they were added."""
        own = {self._schema.digest} if self._schema is not None else set[str]()
        if not self._has_files and self.schemas.keys() <= own:
            self.origin = origin

    def keep(self) -> None:
        """Keep the jobs for the next start, where they were made from a file alone."""
        if self.origin is not None and self.spool is not None:
            keep(self.spool, self._results_dir / ".batchata", self.origin)

    def refuse(self, own_id: str | None, number: int, fault: str, *, reads_files: bool) -> None:
        """Add a row that makes no job, in place of one.

        Args:
            own_id: Its own id; None where it has none that can be used.
            number: Its number in its source, from 1.
            fault: Why it makes none.
            reads_files: Whether it names a document, which may be another the next time.
        """
        self.origin = None
        self._has_files = self._has_files or reads_files
        self.open_spool().refuse(own_id or f"row-{number}", fault, named=own_id is not None)

    def refuse_repeats(self, first: int) -> None:
        """Have rows from an ordinal on make no job whose id an earlier one has."""

        def told(ordinal: int, job_id: str) -> tuple[str, str]:
            number = ordinal - first + 1
            return f"row-{number}", f"row {number}: its id {job_id!r} is that of another row"

        if self.spool is not None:
            self.spool.refuse_repeats(first, told)

    def _alike(self, given: Mapping[str, Any]) -> Hashable | None:
        """What jobs of the same form have in common; None for a job that has no form."""
        if type(given.get("prompt")) is not str or "file" in given:
            return None
        shared: list[Hashable] = [self._times_set]
        for name, value in given.items():
            if name in _OWN:
                continue
            if type(value) is float:
                shared.append((name, repr(value)))
            elif isinstance(value, type):
                shared.append((name, cast("Hashable", value)))
            elif type(value) in _SIMPLE:
                shared.append((name, type(value).__name__, value))
            else:
                return None
        return tuple(shared)

    def _add_filled(self, given: Mapping[str, Any], form: _Form) -> bool:
        """Add a job as `_add_rendered` does, in a third of the time; False where it has to."""
        label: Any = given.get("id")
        metadata = given.get("metadata", self.defaults.get("metadata"))
        tags: Any = given.get("tags", self.defaults.get("tags"))
        if label is not None and (type(label) is not str or not label.strip()):
            return False
        filled = form.prompt.fill(given["prompt"])
        if filled is None:
            return False
        body, estimate = filled
        job_id: str = label or _made_id(form.family.endpoint, body)
        context: dict[str, Any] = {"id": job_id}
        if metadata:
            context["metadata"] = metadata
        if tags:
            if type(tags) not in (list, tuple) or not all(
                type(tag) is str and tag.strip() for tag in tags
            ):
                return False
            context["tags"] = list(dict.fromkeys(tags))
        if form.schema:
            context["schema"] = form.schema
        if form.accept_truncated:
            context["accept_truncated"] = True
        try:
            packed = pack(context)
        except TypeError:
            return False
        named = label is not None
        self.open_spool().put(job_id, packed, form.family, body, estimate, named=named)
        return True

    def _add_rendered(self, given: dict[str, Any]) -> tuple[Job, Provider, str | None]:
        values = {**self.defaults, **given}
        if given.get("enable_citations") is False and "citations" not in given:
            # A job that wants no citations wants no quotes by default either.
            values.pop("citations", None)
        fields = {key: value for key, value in values.items() if key in JOB_FIELDS}
        params: dict[str, Any] = {**values.get("params", {})}
        params |= {k: v for k, v in values.items() if k not in JOB_FIELDS and k != "params"}
        named = "id" in fields
        label = fields.setdefault("id", "(no id)")
        if not isinstance(label, str) or not label.strip():
            raise ValidationError(f"a job's id must be a text that is not empty, not {label!r}")
        if not isinstance(fields.get("model"), str):
            raise ValidationError(
                f"job {label!r}: no model; name it in the job, or for all of them in "
                "set_default_params(model=...)"
            )
        try:
            orjson.dumps((label, fields.get("metadata")))
        except TypeError as error:
            raise ValidationError(
                f"job {label!r}: its id or metadata is not JSON: {error}"
            ) from error
        self._has_files = self._has_files or fields.get("file") is not None
        defaulted = frozenset(set(self.defaults) - set(given))
        job = Job(**fields, params=params, defaulted=defaulted)
        provider = provider_for(job.model, job.provider, job_id=label, known=self.providers)
        if job.provider is None and job.model.startswith(f"{provider.name}/"):
            fields["model"] = job.model.partition("/")[2]
            job = Job(**fields, params=params, defaulted=defaulted)
        request = provider.render(job)
        line = len(request.body) + _LINE_BYTES
        if line > provider.limits.max_bytes:
            raise ValidationError(
                f"job {label!r}: its request is {len(request.body):,} bytes, more than a whole "
                f"{provider.name} batch may hold ({provider.limits.max_bytes:,} bytes)"
            )
        for parameter in request.left_out:
            if (job.model, parameter) not in self._left_out:
                self._left_out.add((job.model, parameter))
                told = "%s does not take %r; the default is left out of its jobs"
                logger.warning(told, job.model, parameter)
        schema: str | None = None
        if job.response_model is not None:
            answer = answer_schema(job.response_model)
            self.schemas[answer.digest] = answer
            schema = answer.digest
        if not named:
            object.__setattr__(job, "id", _made_id(request.endpoint, request.body))
        self.open_spool().add(job, request, named=named, answer_schema=schema)
        return job, provider, schema

    def open_spool(self) -> Spool:
        """Where the jobs are written, made where there is none yet."""
        if self.spool is None:
            try:
                self.spool = Spool.create(self._results_dir / ".batchata")
            except OSError as error:
                raise ValidationError(
                    f"results_dir {str(self._results_dir)!r} cannot be written: {error.strerror}; "
                    "nothing was sent"
                ) from error
            weakref.finalize(self, self.spool.close)
        return self.spool


def is_made_id(job_id: str) -> bool:
    """Whether an id was made of what a job asks, as it had none of its own."""
    return _MADE_ID.fullmatch(job_id) is not None


def _made_id(endpoint: str, body: bytes) -> str:
    digest = hashlib.sha256(f"{endpoint}\0".encode() + body)
    return f"job-{digest.hexdigest()[:12]}"
