"""An answer's text -> the JSON that is stored of it, and the object that is made from that."""

from __future__ import annotations

import copy
import importlib
import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

import pydantic

from batchata_prefect.content.exact_json import compact, dumps, has_halves, loads, loads_exact
from batchata_prefect.content.schema.json_text import json_text, json_value
from batchata_prefect.content.schema.nodes import Schema, schema_nodes
from batchata_prefect.content.schema.plain import (
    Answer,
    AnswerSchema,
    AsGiven,
    json_schema,
    validated,
)
from batchata_prefect.content.schema.restoring import needs_restoring, restored
from batchata_prefect.errors import ParseError

_HUGE = re.compile(r"\d[eE]\+?\d{3}|\d{300}")
"""What a number looks like that may be infinite as a float."""


class Parsed(NamedTuple):
    """An answer that was read.

    Attributes:
        json: Its JSON as the model gave it, in the form that the plain schema describes: what is
            stored.
        value: What was made from it.
    """

    json: str
    value: Answer


def parse_answer(text: str, s: AnswerSchema) -> Parsed:
    """The answer as the user's class, or as a dict where only a JSON schema is known.

    Strict: nothing is guessed or repaired. A code fence around the JSON is taken off; of a text
    with more in it the last ```json block counts.
    """
    body = json_text(text)
    value = json_value(body, exact=_form(s).is_special)
    if has_halves(body):
        # Halves of surrogate pairs, which no file can hold, are replaced by now.
        body = dumps(loads_exact(body))
    return parse_value(value, s, body=body)


def parse_value(value: Any, s: AnswerSchema, *, body: str | None = None) -> Parsed:
    """A parsed JSON value as the user's class, or as it is where only a JSON schema is known.

    Args:
        value: The value, with its fractions as `Decimal` where digits matter.
        s: What it shall be.
        body: The JSON text of the value, where there is one; saves writing it again.
    """
    if s.model is None:
        return _by_schema(value, s, body)
    # A class may take a null or another case by itself, and may not take all the digits.
    is_special = _form(s).is_special
    texts = [dumps(_restored(value, s, leniently=False))] if is_special else []
    for text in (*texts, body):
        if text is not None:
            try:
                return Parsed(compact(text), validated(s.model, text))
            except Exception:  # noqa: S110 - the same is asked again below, after restoring
                pass
    plain = dumps(_restored(value if is_special or body is None else loads_exact(body), s))
    return Parsed(plain, made(plain, s))


def made(text: str, s: AnswerSchema) -> Answer:
    """The answer of `Parsed.json`: the user's class, or a dict where only its schema is known."""
    if s.model is None:
        return loads(text)
    try:
        return validated(s.model, text)
    except pydantic.ValidationError as error:
        raise ParseError(_output_fault(s, error), "invalid_output") from None
    except Exception as error:
        raise ParseError(
            f"the answer could not be read as {s.name}: its validator raised "
            f"{type(error).__name__}: {error}",
            "invalid_output",
        ) from error


def _by_schema(value: Any, s: AnswerSchema, body: str | None) -> Parsed:
    plain = _restored(value, s)
    if body is not None and not _form(s).is_special and plain == value:
        text = compact(body)
    else:
        text = dumps(_restored(value if body is None else loads_exact(body), s))
    # What is checked is what every later reader will have.
    plain = loads(text)
    if _HUGE.search(text) is not None:
        try:
            json.dumps(plain, allow_nan=False)
        except ValueError:
            fault = "it holds a number that is too large"
            raise ParseError(_faults(s, [fault]), "invalid_output") from None
    return Parsed(text, _checked(plain, s))


def _restored(value: Any, s: AnswerSchema, *, leniently: bool = True) -> Any:
    try:
        return restored(value, _form(s).schema, leniently=leniently)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"the answer is no valid {s.name}: {error}", "invalid_output") from None


class _Form(NamedTuple):
    """What an answer is brought into the form of.

    Attributes:
        schema: Its plain schema.
        is_special: Whether valid answers on the wire can differ from what the class or the schema
            takes.
    """

    schema: Schema
    is_special: bool


def _form(s: AnswerSchema) -> _Form:
    """The form of the class, where there is one.

    Not of its `AnswerSchema`: two classes may have the same one, and validators of their own.
    """
    return _form_of(s if s.model is None else s.model)


@lru_cache(maxsize=256)
def _form_of(owner: AnswerSchema | type[Any]) -> _Form:
    if isinstance(owner, AnswerSchema):
        # Decimals stay numbers: without a class they are checked as such.
        schema = copy.deepcopy(owner.schema)
        for node in schema_nodes(schema):
            if node.get("format") == "decimal":
                del node["format"]
    else:
        schema = json_schema(owner, AsGiven)
    return _Form(schema, needs_restoring(schema))


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
    try:
        faults = [
            f"{_path(fault.absolute_path)}: {_brief(fault.instance)} - {fault.message[:200]}"
            for fault in _validator(s).iter_errors(value)
        ]
    except Exception as error:
        # The schema is the user's, and the answer may be nested without end.
        faults = [f"it could not be checked ({type(error).__name__}: {str(error)[:200]})"]
    if faults:
        raise ParseError(_faults(s, faults), "invalid_output")
    return value


@lru_cache(maxsize=64)
def _validator(s: AnswerSchema) -> Any:
    kind = validator_kind(s.schema)
    return kind(s.schema, format_checker=kind.FORMAT_CHECKER)


def validator_kind(schema: Schema) -> Any:
    """The class that validates by the schema's own draft."""
    # Imported late: only schemas without a class need it, and it costs a tenth of a second.
    validators = importlib.import_module("jsonschema.validators")
    return validators.validator_for(schema, default=validators.Draft202012Validator)
