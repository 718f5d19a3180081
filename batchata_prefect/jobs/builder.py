"""Taking jobs: one by one, many, or the rows of a table; what no provider would take is refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Self, cast
from urllib.parse import urlsplit

from batchata_prefect.errors import ProviderError, ValidationError
from batchata_prefect.jobs.faults import Faults, fault_of, remarks
from batchata_prefect.jobs.intake import JOB_FIELDS, Intake
from batchata_prefect.jobs.jobs_file import JobsFile
from batchata_prefect.jobs.row_files import Damaged, Row
from batchata_prefect.jobs.sources import RowForm, place_of, rows_of
from batchata_prefect.models import FileInput, Job, Message, OnBadRow, ResponseModel
from batchata_prefect.providers import provider_for

_FAULTS_KEPT = 1_000
_OF_A_ROW = (
    *(ValidationError, ProviderError),
    # Whatever stands in a field that nobody has thought of; a full disk is no row's trouble.
    *(TypeError, ValueError, LookupError, AttributeError, RecursionError),
)


class JobsBuilder:
    """Takes the jobs of a batch."""

    def __init__(self, results_dir: Path) -> None:
        self._intake = Intake(results_dir)
        self._files: Counter[str] = Counter()
        self._came_from: tuple[JobsFile | None, int] = None, 0

    def set_default_params(self, **kwargs: Any) -> Self:
        """Set parameters for the jobs added from here on; a job's own values go first.

        Takes what `add_job` takes besides the job's content and id: model, temperature,
        max_tokens, response_model, provider, endpoint, and any request parameter.

        Raises:
            ProviderNotFoundError: No provider is known for the model.
            ValidationError: A name that is no default, such as `messages`.
        """
        for name in ("messages", "file", "prompt", "id"):
            if name in kwargs:
                raise ValidationError(f"{name!r} belongs to a job and cannot be a default")
        if "model" in kwargs:
            provider_for(
                kwargs["model"],
                kwargs.get("provider", self._intake.defaults.get("provider")),
                known=self._intake.providers,
            )
        self._intake.set_defaults(kwargs)
        return self

    def add_job(
        self,
        messages: Sequence[Message] | None = None,
        file: FileInput | None = None,
        prompt: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        response_model: ResponseModel | None = None,
        enable_citations: bool | None = None,
        *,
        citations: Literal["quoted"] | None = None,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        cache_prefix: bool | None = None,
        accept_truncated: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Add one job: `messages`, or `prompt` with or without `file`.

        Args:
            messages: Chat messages.
            file: Path, URL or bytes of a document, or several.
            prompt: What to do, with the document if there is one.
            model: Model id.
            temperature: Sampling temperature; an error where the model takes none.
            max_tokens: Upper bound of output tokens, thinking included.
            response_model: Pydantic class, dataclass, TypedDict, JSON schema or import path to
                parse the answer into.
            enable_citations: Whether the answer shall cite its documents, with the provider's own
                citations (Anthropic).
            citations: `quoted` asks for quotes in the answer's form instead, on all providers,
                with or without `response_model`. Each is looked for in the documents; those that
                stand in none are dropped and counted in the result's `citations_dropped`. Costs
                the output tokens of the quotes.
            id: The job's own id; made from its content where none is given.
            metadata: Your own values, given back on the result, never sent.
            tags: Words under which the cost is added up in the report and the manifest; never
                sent. A job with two tags counts under both.
            cache_prefix: Whether other jobs begin with the same system prompt and documents: they
                are held in the provider's cache for an hour and the jobs are sent side by side.
                Writing costs twice the input price at Anthropic, reading a tenth.
            accept_truncated: Whether an answer that was cut off at `max_tokens`, or where the
                context window was full, is taken as completed; by default it is failed with
                `truncated`. One that has to be parsed must be whole all the same.
            **kwargs: `provider`, `endpoint`, and any request parameter.

        Raises:
            ValidationError: The job would be refused; the text says why. Nothing was sent.
            ProviderNotFoundError: No provider is known for the model.
        """
        if not (kwargs or metadata or tags) and (
            messages is file is model is temperature is max_tokens is response_model is None
            and enable_citations is citations is cache_prefix is accept_truncated is None
            and prompt is not None
            and id is not None
        ):
            # Most jobs of a large run, and looking through all that they leave out takes a while.
            self._intake.add({"prompt": prompt, "id": id})
            return self
        given = {
            "messages": messages,
            "file": file,
            "prompt": prompt,
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "response_model": response_model,
            "enable_citations": enable_citations,
            "citations": citations,
            "id": id,
            "metadata": metadata,
            "tags": tags,
            "cache_prefix": cache_prefix,
            "accept_truncated": accept_truncated,
            **kwargs,
        }
        self._add(given)
        return self

    def _add(self, values: Mapping[str, Any]) -> None:
        self._intake.add({key: value for key, value in values.items() if value is not None})

    def add_jobs(self, jobs: Iterable[Mapping[str, Any] | Job]) -> Self:
        """Add many jobs: `Job` objects, or mappings of `add_job`'s arguments; read as they come.

        Raises:
            ValidationError: Some jobs would be refused: all of them are named together. The
                batch then holds only the good ones; make a new one from mended jobs.
        """
        faults = Faults()
        for nth, item in enumerate(jobs, start=1):
            own: Any = None
            try:
                values = _job_values(item) if isinstance(item, Job) else item
                own = values.get("id")
                self._add(values)
            except _OF_A_ROW as error:
                faults.add(f"job {own or nth!r}", error, own)
        faults.raise_together()
        return self

    def add_rows(
        self,
        source: str | Path | Iterable[Mapping[str, Any]] | Any,
        prompt: str | None = None,
        *,
        id_column: str | None = None,
        file_column: str | None = None,
        metadata_columns: Sequence[str] | None = None,
        documents_root: str | Path | None = None,
        allow_urls: Sequence[str] = (),
        on_bad_row: OnBadRow = "fail",
        **kwargs: Any,
    ) -> Self:
        """Add one job for each row of a table; read in pieces, never held as a whole.

        Args:
            source: Path or URL of a `.jsonl`, `.csv`, `.tsv` or `.parquet` file (packed ones too),
                a pandas or polars frame, an Arrow table or reader, a Hugging Face data set, a
                duckdb relation, or any iterable of mappings.
            prompt: Prompt template over the columns, such as `Summarize: {text}`. Without one,
                each row is a job itself: its columns are arguments of `add_job`.
            id_column: Column with the job's id; the column `id` by default, where there is one.
            file_column: Column with a path or URL, from the folder of the source where it is
                relative, or with the bytes of the document.
            metadata_columns: Columns that are given back with the result; by default all that the
                template, the id and the file do not use, `[]` for none.
            documents_root: Folder in which the documents have to lie that rows name, links
                followed: rows are data. That of the source by default, and the current one for a
                table that is no file; `/` for any.
            allow_urls: Hosts of the URLs that rows may name, such as `docs.example.com` or
                `*.example.com`, and `s3://bucket` of what is not HTTP; none by default. What a URL
                leads on to is held to the same, and an address of a private network is read only
                from a host that is named in full.
            on_bad_row: What becomes of rows that make no job: an empty cell where the template has
                nothing else, a document that is missing, a line that is no JSON, an id that an
                earlier row has, a request that no provider would take. `fail` refuses all before
                anything is sent; with `skip` they end as failed with `invalid_row`, under their own
                id or `row-7`, cost nothing, and the others run.
            **kwargs: Further arguments of `add_job` for every row.

        Raises:
            ValidationError: The source cannot be read, or some rows make no job and are not to be
                skipped: all of them are named together. The batch then holds only the good ones;
                make a new one.
        """
        before = len(self)
        allowed = (documents_root and str(documents_root), *allow_urls)
        columns = (id_column, file_column, metadata_columns, allowed)
        path = str(cast("Any", source)) if isinstance(source, (str, os.PathLike)) else None
        file = None if path is None or before else JobsFile.of(path)
        origin: str | None = None
        if file is not None:
            told = {**kwargs, "prompt": prompt, "columns": columns, "bad": on_bad_row}
            origin = self._intake.take_over(file, told)
        # It takes nothing over where there are jobs already, whatever those came from.
        if origin is None or self._intake.origin is None:
            form = RowForm(
                prompt,
                id_column,
                file_column,
                metadata_columns,
                kwargs,
                others=True,
                documents_root=documents_root,
                allow_urls=allow_urls,
            )
            self.take(rows_of(source), lambda _: form, on_bad_row)
            self._intake.came_from(origin)
        if file is not None:
            self.came_from(file, prompt)
        if path is not None:
            self._files[PurePath(urlsplit(path).path or path).name] += len(self) - before
        return self

    def came_from(self, file: JobsFile, prompt: str | None) -> None:
        """Have the manifest name the file that each row of is a job, for exports to join.

        One whose rows are whole requests is not named: they are no columns for a table.
        """
        if prompt is not None or file.is_table:
            self._came_from = file, len(self)

    @property
    def remarks(self) -> list[str]:
        """What a person should know of the rows: those skipped, and cells that are empty."""
        return [] if self._intake.spool is None else list(remarks(self._intake.spool))

    @property
    def jobs_file(self) -> JobsFile | None:
        """The file that each row of is one of the jobs, in their order."""
        file, count = self._came_from
        return file if count == len(self) else None

    def take(
        self,
        rows: Iterable[Mapping[str, Any] | Damaged],
        form_of: Callable[[int], RowForm],
        on_bad_row: OnBadRow,
    ) -> None:
        """Make a job of each row.

        Args:
            rows: The rows: mappings, and what is none where a row should be.
            form_of: What a row becomes, by its number from 1.
            on_bad_row: As for `add_rows`.

        Raises:
            ValidationError: As of `add_rows`.
        """
        if on_bad_row not in {"fail", "skip"}:
            raise ValidationError(f"on_bad_row must be 'fail' or 'skip', not {on_bad_row!r}")
        faults, first, empty = Faults(), len(self), Counter[str]()
        skips = on_bad_row == "skip"
        nothing: dict[str, Any] = {}
        try:
            for number, row in enumerate(rows, start=1):
                if len(faults) == _FAULTS_KEPT:
                    faults.add("", "no more of the rows were read")
                    break
                form, values = form_of(number), nothing
                try:
                    values = form.job(row)
                    self._add(values)
                    if form.empty:
                        empty.update(form.empty)
                except _OF_A_ROW as error:
                    own = values.get("id")
                    if skips:
                        self._skip(row, number, form, fault_of(error, own))
                    else:
                        faults.add(place_of(row, number), error, own)
                form.empty.clear()
        except ValidationError as error:
            # The source itself broke off, and what stands behind this is not known.
            faults.add("", error)
        faults.raise_together()
        if skips:
            self._intake.refuse_repeats(first)
        if empty:
            self._intake.open_spool().empty.update(empty)

    def _skip(
        self, row: Mapping[str, Any] | Damaged, number: int, form: RowForm, fault: str
    ) -> None:
        """Have a row fail that makes no job."""
        own_id, reads_files, place = None, False, f"row {number}"
        if isinstance(row, Mapping):
            own_id, reads_files = form.own_id(row), form.reads_files(row)
        if isinstance(row, (Row, Damaged)):
            # The same from another folder, or the rows would be another job set there: without
            # its path, also before the name of a document that lies beside it.
            folder, slash, name = row.source.rpartition("/")
            place = f"{name!r} line {row.line}"
            for quote in ("'", '"') if slash else ():
                fault = fault.replace(f"{quote}{folder}/", quote)
        fault = f"{place}: {fault}".removesuffix(" Nothing was sent.").removesuffix(".")
        # Half a character, which JSON can name and UTF-8 cannot.
        fault = fault.encode(errors="backslashreplace").decode()
        self._intake.refuse(own_id, number, fault, reads_files=reads_files)

    def __len__(self) -> int:
        """Number of jobs."""
        return self._intake.spool.count if self._intake.spool is not None else 0


def _job_values(job: Job) -> dict[str, Any]:
    values = {name: getattr(job, name) for name in JOB_FIELDS}
    values |= job.params
    for name in ("enable_citations", "accept_truncated", "metadata", "tags"):
        if not values[name]:
            del values[name]
    return values
