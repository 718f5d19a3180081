"""Response models: what is asked for, and the answer's text read back into it.

A response model is a pydantic class, the import path of one, or a JSON schema. The class itself is
never persisted: `to_plain` and `from_plain` carry its JSON schema, its digest and its import path.

A `Decimal` field is asked for as a JSON number, so that the provider's grammar rules out `1,234.50`
or `USD 12`, and is read from the number's own digits, never through a float: `12.30` stays `12.30`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias, TypeGuard, cast

import pydantic
from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from batchata_prefect.content.schema.conversion import converted
from batchata_prefect.content.schema.dialects import ANTHROPIC, OPENAI, Dialect
from batchata_prefect.content.schema.json_text import json_text, json_value
from batchata_prefect.content.schema.nodes import Schema, UnfitError, resolved, schema_nodes
from batchata_prefect.content.schema.restoring import needs_restoring, restored
from batchata_prefect.errors import ParseError, ValidationError
from batchata_prefect.models import ResponseModel

Answer: TypeAlias = "BaseModel | dict[str, Any] | list[Any]"


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """What an answer shall look like.

    Attributes:
        name: Its name, of `[a-zA-Z0-9_-]` and at most 64 characters, as OpenAI asks.
        schema: Plain JSON schema, shared: never change it.
        digest: Hex digest of the schema, the same in every process.
        import_path: `module:Class` where a class can be imported; else None.
        model: The class; None where only the JSON schema is known.
    """

    name: str
    schema: dict[str, Any] = field(hash=False)
    digest: str
    import_path: str | None = None
    model: type[BaseModel] | None = field(default=None, compare=False, repr=False)


class _PlainSchema(GenerateJsonSchema):
    """Pydantic's JSON schema, with decimals told apart from `float | str`."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """A number of the format `decimal`; its precision in keywords that validators skip."""
        bounds = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
        bounds |= {"lt": "exclusiveMaximum", "multiple_of": "multipleOf"}
        bounds |= {"decimal_places": "decimalPlaces", "max_digits": "maxDigits"}
        given = cast("Mapping[str, Any]", schema)
        plain: Schema = {"type": "number", "format": "decimal"}
        for key, keyword in bounds.items():
            if given.get(key) is not None:
                value = given[key]
                plain[keyword] = value if isinstance(value, int) else float(value)
        return plain


def answer_schema(response_model: ResponseModel) -> AnswerSchema:
    """The answer schema of a response model; cached for classes.

    Raises:
        ValidationError: It cannot be imported, is no pydantic model, or describes no object.
    """
    if isinstance(response_model, str):
        return _of_class(_imported(response_model))
    if isinstance(response_model, dict):
        try:
            return _of_dict(json.dumps(response_model))
        except TypeError as error:
            raise ValidationError(f"response_model is not a JSON schema: {error}") from error
    if not _is_model(response_model):
        raise ValidationError(
            f"response_model {response_model!r} is not a pydantic model class, a JSON schema or an "
            "import path 'module:Class'"
        )
    return _of_class(response_model)


def for_anthropic(s: AnswerSchema, *, job_id: str) -> dict[str, Any]:
    """The schema for `output_config.format.schema`; shared, never change it.

    Raises:
        ValidationError: A field cannot be expressed; the text names its path and the job.
    """
    return _for_dialect(s, ANTHROPIC, job_id)


def for_openai(s: AnswerSchema, *, job_id: str) -> dict[str, Any]:
    """The strict schema for `response_format` or `text.format`; shared, never change it.

    Raises:
        ValidationError: A field cannot be expressed; the text names its path and the job.
    """
    return _for_dialect(s, OPENAI, job_id)


def prompt_for(s: AnswerSchema) -> str:
    """Instructions for an answer with citations and JSON in one text.

    Anthropic refuses citations together with `output_config.format` [structured outputs guide], so
    the schema is asked for in words. The facts come first, as sentences that can carry citations.
    """
    schema = json.dumps(_without_titles(s.schema), ensure_ascii=False)
    return (
        "Answer in two parts.\n\n"
        "First write down every fact that the answer needs as one short sentence of its own that "
        "names the field and its value, and cite the document for it. Write values as the "
        "document does.\n\n"
        "Then end with exactly one fenced block that starts with ```json and holds one JSON value "
        "that follows this JSON schema, with no text after it:\n\n"
        f"```json\n{schema}\n```"
    )


def read_answer(text: str, s: AnswerSchema) -> Answer:
    """The answer as the user's class, or as a dict where only a JSON schema is known.

    Strict: nothing is guessed or repaired. A code fence around the JSON is taken off; of a text
    with more in it the last ```json block counts.

    Raises:
        ParseError: `invalid_json` or `invalid_output`, with the field and what was wrong with it.
    """
    body = json_text(text)
    value = json_value(body, exact=s.model is not None and _special(s))
    return read_value(value, s, body=body)


def read_value(value: Any, s: AnswerSchema, *, body: str | None = None) -> Answer:
    """A parsed JSON value as the user's class, or as it is where only a JSON schema is known.

    Args:
        value: The value, with its fractions as `Decimal` where digits matter.
        s: What it shall be.
        body: The JSON text of the value, where there is one; saves writing it again.

    Raises:
        ParseError: `invalid_output`, with the field and what was wrong with it.
    """
    if s.model is None:
        plain = _restored(value, s)
        # Without a text of its own the value may hold decimals, which JSON has not.
        plain = plain if body else json.loads(json.dumps(plain, default=float))
        return _checked(plain, s)
    if body is not None and not _special(s):
        try:
            return s.model.model_validate_json(body)
        except Exception:  # noqa: S110 - the same is asked again below, after restoring
            pass
    # Decimals outside of decimal fields become floats again, as JSON would have made them.
    plain = json.dumps(_restored(value, s), default=float)
    try:
        return s.model.model_validate_json(plain)
    except pydantic.ValidationError as error:
        raise ParseError(_output_fault(s, error), "invalid_output") from None
    except Exception as error:
        raise ParseError(
            f"the answer could not be read as {s.name}: its validator raised "
            f"{type(error).__name__}: {error}",
            "invalid_output",
        ) from error


def to_plain(s: AnswerSchema) -> dict[str, Any]:
    """The answer schema as JSON-ready values, without the class."""
    return {
        "name": s.name,
        "schema": s.schema,
        "digest": s.digest,
        "import_path": s.import_path,
    }


def from_plain(
    plain: Mapping[str, Any], registry: Mapping[str, type[BaseModel]] | None = None
) -> AnswerSchema:
    """The answer schema of `to_plain` values, with its class where that can be had.

    Args:
        plain: The values.
        registry: Digest -> class, of the classes that the running script brought along.

    Returns:
        With the class of the registry, else with the class at the import path if its schema is
        still the same, else without a class: answers are then dicts.
    """
    digest = str(plain["digest"])
    path = cast("str | None", plain.get("import_path"))
    model = (registry or {}).get(digest)
    if model is None and path is not None:
        try:
            found = answer_schema(path)
        except ValidationError:
            found = None
        model = found.model if found is not None and found.digest == digest else None
    return AnswerSchema(str(plain["name"]), dict(plain["schema"]), digest, path, model)


@lru_cache(maxsize=256)
def _of_class(model: type[BaseModel]) -> AnswerSchema:
    try:
        schema = model.model_json_schema(schema_generator=_PlainSchema)
    except (PydanticUserError, pydantic.errors.PydanticSchemaGenerationError) as error:
        raise ValidationError(
            f"response model {model.__name__!r} has no JSON schema: {error}"
        ) from error
    path = f"{model.__module__}:{model.__qualname__}"
    importable = model.__module__ != "__main__" and "<locals>" not in path
    return _made(model.__name__, schema, path if importable else None, model)


@lru_cache(maxsize=256)
def _of_dict(text: str) -> AnswerSchema:
    from jsonschema.exceptions import SchemaError

    schema = json.loads(text)
    try:
        _validator_kind(schema).check_schema(schema)
    except SchemaError as error:
        raise ValidationError(
            f"response_model is not a valid JSON schema: {error.json_path}: {error.message}"
        ) from error
    return _made(str(schema.get("title") or "answer"), schema, None, None)


def _made(
    name: str, schema: Schema, path: str | None, model: type[BaseModel] | None
) -> AnswerSchema:
    try:
        root = resolved(schema, schema)
    except UnfitError as unfit:
        raise ValidationError(f"response model {name!r} {unfit.reason}") from None
    if root.get("type") != "object" or not root.get("properties"):
        raise ValidationError(
            f"response model {name!r} is not an object with named fields, which both providers ask "
            "for; put it into a model with one field"
        )
    for node in schema_nodes(schema):
        # Pydantic 2.12 writes a set in its own order, which changes from process to process.
        if node.get("uniqueItems") is True and isinstance(node.get("default"), list):
            node["default"] = sorted(node["default"], key=json.dumps)
    digest = hashlib.sha256(json.dumps(schema, default=str).encode()).hexdigest()
    clean = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
    return AnswerSchema(clean, schema, digest, path, model)


def _imported(path: str) -> type[BaseModel]:
    module_name, colon, name = path.partition(":")
    if not colon:
        module_name, _, name = path.rpartition(".")
    if not module_name or not name:
        raise ValidationError(
            f"response_model {path!r} is no import path; write it as 'module:Class'"
        )
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ValidationError(
            f"response_model {path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not _is_model(found):
        raise ValidationError(f"response_model {path!r} is {found!r}, not a pydantic model class")
    return found


def _is_model(given: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(given, type) and issubclass(given, BaseModel)


def _for_dialect(s: AnswerSchema, dialect: Dialect, job_id: str) -> Schema:
    try:
        return _converted(s, dialect)
    except UnfitError as unfit:
        where = f"field {unfit.path!r} " if unfit.path else ""
        raise ValidationError(
            f"job {job_id!r}: response model {s.name!r}: {where}{unfit.reason}"
        ) from None


@lru_cache(maxsize=256)
def _converted(s: AnswerSchema, dialect: Dialect) -> Schema:
    return converted(s.schema, dialect, s.name)


@lru_cache(maxsize=256)
def _special(s: AnswerSchema) -> bool:
    return needs_restoring(s.schema)


def _restored(value: Any, s: AnswerSchema) -> Any:
    try:
        return restored(value, s.schema, s.schema)
    except ValueError as error:
        raise ParseError(f"the answer is no valid {s.name}: {error}", "invalid_output") from None


def _output_fault(s: AnswerSchema, error: pydantic.ValidationError) -> str:
    faults = [
        f"{_path(fault['loc'])}: {fault['msg']} (got {_brief(fault.get('input'))})"
        for fault in error.errors(include_url=False, include_context=False)
    ]
    return _faults(s, faults)


def _faults(s: AnswerSchema, faults: list[str]) -> str:
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return f"the answer is no valid {s.name}: {'; '.join(faults[:5])}{more}"


def _path(parts: Any) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "answer"


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _checked(value: Any, s: AnswerSchema) -> Answer:
    faults = [
        f"{_path(fault.absolute_path)}: {_brief(fault.instance)} - {fault.message[:200]}"
        for fault in _validator(s).iter_errors(value)
    ]
    if faults:
        raise ParseError(_faults(s, faults), "invalid_output")
    return cast("Answer", value)


@lru_cache(maxsize=64)
def _validator(s: AnswerSchema) -> Any:
    kind = _validator_kind(s.schema)
    return kind(s.schema, format_checker=kind.FORMAT_CHECKER)


def _validator_kind(schema: Schema) -> Any:
    # Imported late: only schemas without a class need it, and it costs a tenth of a second.
    validators = importlib.import_module("jsonschema.validators")
    return validators.validator_for(schema, default=validators.Draft202012Validator)


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    node = cast("Schema", schema)
    return {
        key: _without_titles(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }
