"""Response models: what is asked for, and the answer's text read back into it.

A response model is a pydantic class, a dataclass, a TypedDict, the import path of one, or a JSON
schema. The class itself is never persisted.

A `Decimal` field is asked for as a JSON number, so that the provider's grammar rules out `1,234.50`
or `USD 12`, and is read from the number's own digits, never through a float: `12.30` stays `12.30`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from copy import deepcopy
from dataclasses import is_dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeGuard, cast

import pydantic
from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from typing_extensions import is_typeddict

from batchata_prefect.content.schema.answers import (
    Parsed,
    made,
    parse_answer,
    parse_value,
    validator_kind,
)
from batchata_prefect.content.schema.conversion import converted
from batchata_prefect.content.schema.dialects import Dialect
from batchata_prefect.content.schema.nodes import Schema, UnfitError, resolved, schema_nodes
from batchata_prefect.content.schema.plain import Answer, AnswerSchema, json_schema
from batchata_prefect.errors import ValidationError
from batchata_prefect.models import ResponseModel

__all__ = [
    "Answer",
    "AnswerSchema",
    "Parsed",
    "answer_schema",
    "asked_for",
    "made",
    "parse_answer",
    "parse_value",
    "prompt_for",
]


def answer_schema(response_model: ResponseModel) -> AnswerSchema:
    """The answer schema of a response model; cached for classes."""
    if isinstance(response_model, str):
        return _of_class(_imported(response_model))
    if isinstance(response_model, dict):
        try:
            return _of_dict(json.dumps(response_model))
        except TypeError as error:
            raise ValidationError(f"response_model is not a JSON schema: {error}") from error
    if not _is_model(response_model):
        raise ValidationError(
            f"response_model {response_model!r} is not a pydantic model class, a dataclass, a "
            "TypedDict, a JSON schema or an import path 'module:Class'"
        )
    return _of_class(response_model)


def asked_for(s: AnswerSchema, dialect: Dialect, *, job_id: str) -> dict[str, Any]:
    """The schema as a provider is asked for it; shared, never change it."""
    try:
        return _converted(s, dialect)
    except UnfitError as unfit:
        raise ValidationError(f"job {job_id!r}: response model {s.name!r}: {unfit}") from None


@lru_cache(maxsize=256)
def prompt_for(s: AnswerSchema) -> str:
    """Instructions for an answer with citations and JSON in one text.

    Anthropic refuses citations together with `output_config.format` [structured outputs guide], so
    the schema is asked for in words. The facts come first, as sentences that can carry citations.
    """
    bare = deepcopy(s.schema)
    for node in schema_nodes(bare):
        node.pop("title", None)
    schema = json.dumps(bare, ensure_ascii=False)
    return (
        "Answer in two parts.\n\n"
        "First write down every fact that the answer needs as one short sentence of its own that "
        "names the field and its value, and cite the document for it. Write values as the "
        "document does.\n\n"
        "Then end with exactly one fenced block that starts with ```json and holds one JSON value "
        "that follows this JSON schema, with no text after it:\n\n"
        f"```json\n{schema}\n```"
    )


@lru_cache(maxsize=256)
def _of_class(model: type[Any]) -> AnswerSchema:
    try:
        schema = json_schema(model)
    except (PydanticUserError, pydantic.errors.PydanticSchemaGenerationError) as error:
        raise ValidationError(
            f"response model {model.__name__!r} has no JSON schema: {error}"
        ) from error
    return _made(model.__name__, schema, model)


@lru_cache(maxsize=256)
def _of_dict(text: str) -> AnswerSchema:
    from jsonschema.exceptions import SchemaError

    schema = json.loads(text)
    try:
        validator_kind(schema).check_schema(schema)
    except SchemaError as error:
        raise ValidationError(
            f"response_model is not a valid JSON schema: {error.json_path}: {error.message}"
        ) from error
    return _made(str(schema.get("title") or "answer"), schema, None)


def _made(name: str, schema: Schema, model: type[Any] | None) -> AnswerSchema:
    try:
        root = resolved(schema, schema)
    except UnfitError as unfit:
        raise ValidationError(f"response model {name!r} {unfit}") from None
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
    return AnswerSchema(clean, schema, digest, model)


def _imported(path: str) -> type[Any]:
    colon = ":" if ":" in path else "."
    module_name, _, name = path.rpartition(colon)
    if not module_name or not name:
        raise ValidationError(
            f"response_model {path!r} is no import path; write it as 'module:Class'"
        )
    try:
        found: Any = attrgetter(name)(importlib.import_module(module_name))
    except Exception as error:
        raise ValidationError(
            f"response_model {path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not _is_model(found):
        raise ValidationError(f"response_model {path!r} is {found!r}, not a pydantic model class")
    return found


def _is_model(given: object) -> TypeGuard[type[Any]]:
    if not isinstance(given, type):
        return False
    model = cast("type[Any]", given)
    return issubclass(model, BaseModel) or is_dataclass(model) or is_typeddict(model)


@lru_cache(maxsize=256)
def _converted(s: AnswerSchema, dialect: Dialect) -> Schema:
    return converted(s.schema, dialect, s.name)
