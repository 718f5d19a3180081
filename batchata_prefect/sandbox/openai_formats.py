"""Structured outputs in OpenAI bodies: which formats are refused, and in which words.

Sources: openai/types/shared_params, developers.openai.com structured outputs, recorded errors.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import orjson

from .schemas import openai_schema_problem
from .wire import BadRequestError, Json, is_object

_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")

_schema_problems: OrderedDict[bytes, str | None] = OrderedDict()


def check_response_format(given: Any) -> None:
    """Refuse a bad `response_format` of a chat completion.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    kinds = ("json_object", "json_schema", "text")
    kind = given.get("type") if is_object(given) else None
    if kind not in kinds:
        raise bad_value("response_format.type", kind, kinds)
    if kind != "json_schema":
        return
    form = given.get("json_schema")
    if not is_object(form):
        raise BadRequestError(
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    name = _format_name(form, "response_format.json_schema.name")
    if form.get("strict") is True:
        problem = schema_problem(form.get("schema"))
        if problem:
            raise BadRequestError(
                f"Invalid schema for response_format '{name}': {problem}", param="response_format"
            )


def check_text(text: Any) -> None:
    """Refuse a bad `text` of a response.

    Raises:
        BadRequestError: with the error that the API answers.
    """
    if text is None:
        return
    form = text.get("format") if is_object(text) else None
    if form is None:
        return
    kinds = ("json_object", "json_schema", "text")
    kind = form.get("type") if is_object(form) else None
    if kind not in kinds:
        raise bad_value("text.format.type", kind, kinds)
    if kind != "json_schema":
        return
    name = _format_name(form, "text.format.name")
    if "schema" not in form:
        raise BadRequestError(
            "Missing required parameter: 'text.format.schema'.",
            param="text.format.schema",
            code="missing_required_parameter",
        )
    # The Responses API is strict unless told otherwise; Chat Completions is not.
    if form.get("strict") is not False:
        problem = schema_problem(form["schema"])
        if problem:
            raise BadRequestError(
                f"Invalid schema for response_format '{name}': {problem}",
                param="text.format.schema",
                code="invalid_json_schema",
            )


def _format_name(form: Json, param: str) -> str:
    name = form.get("name")
    if not isinstance(name, str):
        raise BadRequestError(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    if not _NAME.match(name):
        raise BadRequestError(
            f"Invalid '{param}': string does not match pattern. Expected a string that matches the"
            " pattern '^[a-zA-Z0-9_-]+$'.",
            param=param,
            code="invalid_value",
        )
    return name


def schema_problem(schema: Any) -> str | None:
    """What is wrong with a strict schema, or None."""
    # A batch repeats one schema in every row; walking it each time would be most of the work.
    key = orjson.dumps(schema)
    if key not in _schema_problems:
        _schema_problems[key] = openai_schema_problem(schema)
        while len(_schema_problems) > 1000:
            _schema_problems.popitem(last=False)
    return _schema_problems[key]


def bad_value(name: str, value: Any, supported: tuple[str, ...]) -> BadRequestError:
    """The refusal of a value that is not one of a few."""
    listed = ", ".join(f"'{each}'" for each in supported)
    return BadRequestError(
        f"Invalid value: '{value}'. Supported values are: {listed}.",
        param=name,
        code="invalid_value",
    )
