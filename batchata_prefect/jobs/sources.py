"""What rows become: the jobs that they make, by a template or by themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from batchata_prefect.content.documents.allowed import Allowed, row_file
from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.row_files import Damaged, Row, file_rows
from batchata_prefect.jobs.row_files import read_rows as read_rows
from batchata_prefect.jobs.tables import as_json, as_text, is_missing, table_rows
from batchata_prefect.models import Job

Piece = tuple[str, str | None]

_JOB_FIELDS = frozenset(name for name in Job.__dataclass_fields__ if name != "defaulted")


def rows_of(source: Any) -> Iterator[Mapping[str, Any] | Damaged]:
    """The rows of a path or URL as `file_rows`, or of a table as `tables.table_rows`.

    Raises:
        ValidationError: As these.
    """
    if isinstance(source, (str, os.PathLike)):
        return file_rows(cast("str | os.PathLike[str]", source))
    return table_rows(source)


def fill(template: str, row: Mapping[str, Any], line: int, empty: list[str] | None = None) -> str:
    """The template with each `{column}` replaced by the row's value; `{{` and `}}` are braces.

    An empty value (None) gives no text; lists and objects are written as JSON.

    Args:
        template: The text, such as `Summarize in {language}: {text}`.
        row: The values by column.
        line: Line of the row, for the error.
        empty: Takes the columns that give no text.

    Raises:
        ValidationError: The row has no such column, or the template has a single brace.
    """
    _pieces(template)
    try:
        return _filled(template, row, [] if empty is None else empty)
    except ValidationError as error:
        raise ValidationError(f"{place_of(row, line)}: {error}") from None


def _filled(template: str, row: Mapping[str, Any], empty: list[str]) -> str:
    parts: list[str] = []
    for text, column in _pieces(template):
        parts.append(text)
        if column is not None:
            if column not in row:
                raise ValidationError(
                    f"the template asks for {{{column}}}, but the row has only the columns "
                    f"{sorted(row)}; write {{{{ and }}}} for braces that are text"
                )
            value = _as(as_text, row[column], f"the column {column!r}")
            parts.append(value)
            if not value or value.isspace():
                empty.append(column)
    return "".join(parts)


def jobs_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    prompt: str | None = None,
    id_column: str | None = None,
    file_column: str | None = None,
    metadata_columns: Sequence[str] | None = None,
    documents_root: str | os.PathLike[str] | None = None,
    allow_urls: Sequence[str] = (),
    **defaults: Any,
) -> Iterator[dict[str, Any]]:
    """Keyword arguments of `Batch.add_job` for each row.

    With a prompt template, a row gives the template's values. Without one, a row is a job itself:
    its columns are a job's fields, `messages` or `prompt` among them.

    Args:
        rows: Rows of `read_rows`, or any mappings.
        prompt: Prompt template, see `fill`.
        id_column: Column with the job's id; without it a row of jobs gives its own `id`.
        file_column: Column with the path or URL of the document. A relative path counts from the
            folder of the file that the rows come from.
        metadata_columns: Columns that are given back in the result's metadata.
        documents_root: Folder in which rows' documents have to lie, links followed; that of their
            file by default, and the current one for a table that comes from none.
        allow_urls: Hosts of URLs that rows may name, such as `docs.example.com` or
            `*.example.com`; none by default. What a URL leads on to is held to the same.
        **defaults: Arguments of every job; a row that is a job itself overrides them.

    Raises:
        ValidationError: A column is missing or empty, or the row is no job; names file and line.
    """
    told = RowForm(
        prompt,
        id_column,
        file_column,
        metadata_columns,
        defaults,
        documents_root=documents_root,
        allow_urls=allow_urls,
    )
    for number, row in enumerate(rows, 1):
        try:
            job = told.job(row)
        except ValidationError as error:
            raise ValidationError(f"{place_of(row, number)}: {error}") from None
        yield job


@dataclass(frozen=True, slots=True)
class RowForm:
    """What a row is to become; the attributes are the arguments of `jobs_from_rows`.

    Attributes:
        prompt: Prompt template.
        id_column: Column with the job's id.
        file_column: Column with the document.
        metadata_columns: Columns that go into the metadata.
        defaults: Arguments of every job.
        documents_root: Folder in which rows' documents have to lie; that of their file by default,
            and the current one for a table that comes from none.
        allow_urls: Hosts of URLs that rows may name, see `content.documents.allowed`.
        others: With a template, whether the column `id` is the id where no other is named, and
            all columns that the template, the id and the file do not use go into the metadata
            where none are named; what has no JSON form is left out.
        empty: Columns of the template that gave no text, since it was emptied.
    """

    prompt: str | None
    id_column: str | None
    file_column: str | None
    metadata_columns: Sequence[str] | None
    defaults: Mapping[str, Any]
    others: bool = False
    documents_root: str | os.PathLike[str] | None = None
    allow_urls: Sequence[str] = ()
    empty: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Refuse a template that no row can fill.

        Raises:
            ValidationError: It has a single brace.
        """
        if self.prompt is not None:
            _pieces(self.prompt)

    def job(self, row: Mapping[str, Any] | Damaged) -> dict[str, Any]:
        """Keyword arguments of `Batch.add_job` for a row.

        Raises:
            ValidationError: A column is missing or empty, or the row is no job; where it stands is
                for the caller to say.
        """
        if isinstance(row, Damaged):
            raise ValidationError(row.why)
        if not isinstance(row, (dict, Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValidationError(f"it is {type(row).__name__}, not a mapping")
        if self.prompt is not None:
            prompt = _filled(self.prompt, row, self.empty)
            job: dict[str, Any] = {**self.defaults, "prompt": prompt}
        else:
            job = {**self.defaults, **_job_fields(row)}
        if (id_column := self._id_column(row)) is not None:
            job["id"] = _cell(row, id_column)
        if "id" in job:
            job["id"] = _as(as_text, job["id"], "the id")
        if self.file_column is not None:
            job["file"] = _file(_cell(row, self.file_column))
        if job.get("file") is not None:
            source = getattr(row, "source", None)
            job["file"] = row_file(_beside(job["file"], source), self._allowed(source))
        elif self.empty and not job["prompt"].strip():
            columns = ", ".join(map(repr, self.empty))
            raise ValidationError(f"the prompt is empty, as the cell of {columns} is")
        metadata = job.get("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValidationError(
                f"metadata must be a mapping, not {type(metadata).__name__}; columns that are "
                "given back are named by metadata_columns"
            )
        if self.metadata_columns:
            columns = {
                name: _as(as_json, _cell(row, name, empty=True), f"the column {name!r}")
                for name in self.metadata_columns
            }
            job["metadata"] = {**(job.get("metadata") or {}), **columns}
        elif self.others and self.metadata_columns is None and self.prompt is not None:
            job["metadata"] = {**(job.get("metadata") or {}), **self._others(self.prompt, row)}
        return job

    def own_id(self, row: Mapping[str, Any]) -> str | None:
        """The id of a row that makes no job; None where it has none that can be used."""
        column = "id" if self.prompt is None and not self.id_column else self._id_column(row)
        with suppress(TypeError, UnicodeEncodeError):
            text = as_text(row.get(column)) if column is not None else ""
            return text if text.encode().strip() else None
        return None

    def _id_column(self, row: Mapping[str, Any]) -> str | None:
        own = self.others and self.prompt is not None and self.id_column is None and "id" in row
        return "id" if own else self.id_column

    def reads_files(self, row: Mapping[str, Any]) -> bool:
        """Whether a row names a document."""
        return self.file_column is not None or "file" in row

    def _allowed(self, source: str | None) -> Allowed:
        root = self.documents_root
        if root is None:
            folder = "." if source is None else source.partition("?")[0]
            is_url = source is not None and "://" in source
            root = folder.rpartition("/")[0] if is_url else str(Path(folder).parent)
        return Allowed(os.fspath(root), tuple(self.allow_urls))

    def _others(self, prompt: str, row: Mapping[str, Any]) -> dict[str, Any]:
        used = {self._id_column(row), self.file_column, *(column for _, column in _pieces(prompt))}
        kept: dict[str, Any] = {}
        for name, value in row.items():
            if name not in used:
                with suppress(TypeError):
                    kept[name] = as_json(value)
        return kept


def _file(cell: Any) -> Any:
    """The path or bytes in a cell; a Hugging Face file column holds both."""
    if isinstance(cell, Mapping):
        values = cast("Mapping[str, Any]", cell)
        return values.get("bytes") or values.get("path")
    return cell


@lru_cache(maxsize=64)
def _pieces(template: str) -> tuple[Piece, ...]:
    """The template as pairs of a text and the column after it."""
    pieces: list[Piece] = []
    text, at = "", 0
    while at < len(template):
        letter = template[at]
        if letter in "{}" and template[at : at + 2] == letter * 2:
            text, at = text + letter, at + 2
        elif letter == "{" and (end := template.find("}", at)) > at + 1:
            pieces.append((text, template[at + 1 : end].strip()))
            text, at = "", end + 1
        elif letter in "{}":
            raise ValidationError(
                f"the prompt template has a single {letter!r} at character {at + 1}; "
                f"write {letter * 2} for a brace that is text, {{column}} for a column"
            )
        else:
            text, at = text + letter, at + 1
    return (*pieces, (text, None))


def place_of(row: Mapping[str, Any] | Damaged, number: int) -> str:
    """Where a row stands, for an error: its file and line, or its number."""
    known = isinstance(row, (Row, Damaged))
    return f"{row.source!r} line {row.line}" if known else f"row {number}"


def _cell(row: Mapping[str, Any], column: str, *, empty: bool = False) -> Any:
    if column not in row:
        raise ValidationError(f"no column {column!r}; there are {sorted(row)}")
    value = row[column]
    if not empty and (is_missing(value) or value == ""):
        raise ValidationError(f"the column {column!r} is empty")
    return value


def _as(form: Callable[[Any], Any], value: Any, what: str) -> Any:
    try:
        return form(value)
    except TypeError as error:
        raise ValidationError(f"{what} cannot be used: {error}") from None


def _job_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as a job's own fields, with its further parameters as keywords beside them."""
    if not row.get("messages") and not row.get("prompt"):
        raise ValidationError(
            "give a prompt template, or rows with messages or prompt; "
            f"this row has only {sorted(row)}"
        )
    unknown = sorted(set(row) - _JOB_FIELDS)
    if unknown:
        raise ValidationError(
            f"{unknown} are not fields of a job; further request parameters go into an object "
            "called 'params'"
        )
    # An empty list says as much as nothing, and is how `Job.to_dict` writes no tags.
    fields = {key: value for key, value in row.items() if not is_missing(value) and value != []}
    for name in ("prompt", "id"):
        if name in fields:
            fields[name] = _as(as_text, fields[name], f"the column {name!r}")
    if isinstance(fields.get("response_model"), str):
        # Whoever writes the rows would choose what this process imports.
        raise ValidationError(
            f"response_model names a class to import, {fields['response_model']!r}; rows are "
            "data, so name it in set_default_params(response_model=...), or put a JSON schema "
            "into the row"
        )
    params: Any = fields.pop("params", {})
    if not isinstance(params, Mapping):
        raise ValidationError("params must be an object")
    return {**cast("Mapping[str, Any]", params), **fields}


def _beside(file: Any, source: str | None) -> Any:
    """A relative path as seen from the folder of the file that names it."""
    if source is None or isinstance(file, bytes):
        return file
    if isinstance(file, Sequence) and not isinstance(file, str):
        return [_beside(item, source) for item in cast("Sequence[Any]", file)]
    path = os.fspath(file)
    if "://" in path or Path(path).is_absolute():
        return path
    if "://" in source:
        return f"{source.partition('?')[0].rpartition('/')[0]}/{path}"
    return str(Path(source).parent / path)
