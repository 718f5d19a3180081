"""Answers read back into the response model, strictly; and what of the model is persisted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import AliasPath, BaseModel, Field, RootModel, field_validator

from batchata_prefect.content.citations.quotes import quoted_schema, read_quoted
from batchata_prefect.content.schema import (
    answer_schema,
    asked_for,
    prompt_for,
)
from batchata_prefect.errors import ParseError, ValidationError
from batchata_prefect.providers.anthropic.facts import DIALECT as ANTHROPIC
from batchata_prefect.providers.openai.facts import DIALECT as OPENAI
from tests.unit.content.test_schema import (
    FAULTS,
    PROVIDERS,
    SHAPES,
    Address,
    Color,
    Decimals,
    Described,
    Dog,
    Enums,
    Maps,
    Nested,
    Node,
    PatternMap,
    Tagged,
    openai_faults,
    read_answer,
)


def read(text: str, model: Any) -> Any:
    return read_answer(text, answer_schema(model))


ADDRESS_TEXT = '{"street": "A", "city": "B"}'


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS_TEXT,
        f"\n  {ADDRESS_TEXT}\n",
        f"\ufeff{ADDRESS_TEXT}",
        f"```json\n{ADDRESS_TEXT}\n```",
        f"```\n{ADDRESS_TEXT}\n```",
        f"The street is A.\n\n```json\n{ADDRESS_TEXT}\n```",
        f"The street is A.```json\n{ADDRESS_TEXT}```",
        f"[1] says A.\n```json\n{{}}\n```\nIn short:\n```json\n{ADDRESS_TEXT}\n```\nDone.",
        f"```json\r\n{ADDRESS_TEXT}\r\n```",
    ],
)
def test_json_is_found_in_its_fence(text: str) -> None:
    """One fence is taken off, and of several the last one marked json counts."""
    assert read(text, Address) == Address(street="A", city="B")


def test_a_fence_inside_of_a_string_is_text() -> None:
    """Code in an answer's strings does not end the JSON."""
    code = "see\n```json\n{}\n```\n"
    text = json.dumps({"street": code, "city": "B"})
    assert read(text, Address).street == code
    assert read(f"```json\n{text}\n```", Address).street == code


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("I cannot help with that.", "starts with 'I cannot help"),
        ('{"street": "A", "city', "stops in the middle"),
        ('{"street": "A",', "stops in the middle"),
        ('Facts.\n```json\n{"street": "A"', "cut off"),
        ('{"street": "A", "city": "B",}', "line 1 column"),
        ("{'street': 'A'}", "line 1 column 2"),
        ('{"street": NaN, "city": "B"}', "NaN"),
        (f"{ADDRESS_TEXT} and more", "Extra data"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(text: str, says: str) -> None:
    """Nothing is repaired: the code is invalid_json, and the text says where it breaks."""
    with pytest.raises(ParseError) as caught:
        read(text, Address)
    assert caught.value.code == "invalid_json"
    assert says in str(caught.value)


class Strict(BaseModel):
    name: str
    lines: list[Address]

    @field_validator("name")
    @classmethod
    def no_digits(cls, value: str) -> str:
        if value == "boom":
            raise KeyError("lookup")
        if value.isdigit():
            raise ValueError("a name has letters")
        return value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "x", "lines": [{"street": "A"}]}', "lines[0].city: Field required"),
        ('{"name": "1", "lines": []}', "name: Value error, a name has letters (got '1')"),
        ('{"name": "boom", "lines": []}', "its validator raised KeyError"),
        ("[]", "answer: Input should be an object"),
        ('{"lines": 3}', "name: Field required"),
    ],
)
def test_what_is_not_valid_names_the_field_and_the_reason(text: str, says: str) -> None:
    """The code is invalid_output, and the user's own validators have the last word."""
    with pytest.raises(ParseError) as caught:
        read(text, Strict)
    assert caught.value.code == "invalid_output"
    assert says in str(caught.value)


def test_many_faults_are_counted_not_listed() -> None:
    """Five faults are shown, the rest is a number."""
    lines = [{} for _ in range(4)]
    with pytest.raises(ParseError, match="and 3 more"):
        read(json.dumps({"name": "x", "lines": lines}), Strict)


def test_decimals_keep_every_digit() -> None:
    """A number's digits never pass through a float."""
    text = '{"price": 12345678901234567890.1230, "rates": [0.10], "discount": null}'
    answer = read(text, Decimals)
    assert str(answer.price) == "12345678901234567890.1230"
    assert str(answer.rates[0]) == "0.10"


class TextOrDecimal(BaseModel):
    price: str | Decimal


def test_a_number_stays_a_number_beside_a_text() -> None:
    """A union of text and decimal is told by what the answer holds."""
    assert read('{"price": 1.5}', TextOrDecimal).price == Decimal("1.5")
    assert read('{"price": "1.50"}', TextOrDecimal).price == "1.50"


class FloatBesideMap(BaseModel):
    share: float
    sizes: dict[str, float]
    whole: float | int


def test_floats_stay_floats_where_digits_are_kept_for_others() -> None:
    """Only decimal fields get decimals."""
    answer = read(
        '{"share": 0.1, "sizes": [{"key": "a", "value": 1.5}], "whole": 2}', FloatBesideMap
    )
    assert answer == FloatBesideMap(share=0.1, sizes={"a": 1.5}, whole=2)


def test_a_key_given_twice_is_an_error() -> None:
    """A dictionary with two values for one key has lost one of them."""
    text = '{"codes": [{"key": "A", "value": 1}, {"key": "A", "value": 2}]}'
    with pytest.raises(ParseError, match="'A' is given twice") as caught:
        read(text, PatternMap)
    assert caught.value.code == "invalid_output"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"color": "RED", "size": "Large", "version": 1}', Color.RED),
        ('{"color": " Dark Blue", "size": "large", "version": 1}', Color.DARK_BLUE),
    ],
)
def test_allowed_values_are_read_in_any_case(text: str, expected: Color) -> None:
    """Anthropic's grammar does not promise the case of an enum."""
    answer = read(text, Enums)
    assert (answer.color, answer.size) == (expected, "large")


class Cases(Enum):
    LOWER = "a"
    UPPER = "A"


class TwoCases(BaseModel):
    case: Cases
    unknown: Literal["x", "X"]


def test_case_is_kept_where_it_tells_values_apart() -> None:
    """The exact value wins over a like one, and two like ones decide nothing."""
    assert read('{"case": "A", "unknown": "X"}', TwoCases).case is Cases.UPPER
    with pytest.raises(ParseError, match="unknown: Input should be 'x' or 'X'"):
        read('{"case": "A", "unknown": " x"}', TwoCases)


def test_a_tag_in_another_case_finds_its_variant() -> None:
    """A discriminated union is told apart by its tag, in any case."""
    answer = read('{"pet": {"kind": "DOG", "name": "Rex"}, "others": []}', Tagged)
    assert answer.pet == Dog(name="Rex")


USER_SCHEMA = {
    "title": "Customer card",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "level": {"enum": ["gold", "silver"], "default": "silver"},
        "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
        "home": {"$ref": "#/definitions/address"},
        "size": {"type": ["integer", "null"], "minimum": 1},
        "either": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        "twice": {"anyOf": [{"type": "integer"}, {"type": "integer"}]},
        "both": {
            "allOf": [
                {"$ref": "#/definitions/address"},
                {"type": "object", "properties": {"zip": {"type": "string"}}, "required": ["zip"]},
            ]
        },
    },
    "required": ["name", "limits", "home", "size", "either", "twice", "both"],
    "definitions": {
        "address": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        }
    },
}
USER_ANSWER = {
    "name": "Ada",
    "limits": [{"key": "day", "value": 5}],
    "home": {"city": "London"},
    "size": None,
    "either": 3,
    "twice": 4,
    "both": {"city": "London", "zip": "SW1"},
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_json_schema_of_the_users_own_is_converted_and_read(provider: str) -> None:
    """Definitions, type lists, oneOf, allOf and dictionaries of a plain schema work as well."""
    schema = answer_schema(USER_SCHEMA)
    converted = asked_for(schema, PROVIDERS[provider], job_id="a")
    assert FAULTS[provider](converted) == []
    assert converted["properties"]["both"]["required"] == ["city", "zip"]
    assert converted["properties"]["twice"] == {"type": "integer"}
    answer = USER_ANSWER if provider == "anthropic" else {**USER_ANSWER, "level": None}
    jsonschema.validate(answer, converted)
    assert read_answer(json.dumps(answer), schema) == {**USER_ANSWER, "limits": {"day": 5}}


SELF_SCHEMA = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["v"],
}


def test_a_schema_that_refers_to_its_own_root_works_where_recursion_does() -> None:
    """OpenAI takes it as a definition; Anthropic is spared it."""
    schema = answer_schema(SELF_SCHEMA)
    converted = asked_for(schema, OPENAI, job_id="a")
    assert openai_faults(converted) == []
    answer = {"v": 1, "kids": [{"v": 2, "kids": None}]}
    jsonschema.validate(answer, converted)
    assert read_answer(json.dumps(answer), schema) == {"v": 1, "kids": [{"v": 2}]}
    with pytest.raises(ValidationError, match=r"field 'kids\[\]' holds 'answer' inside of itself"):
        asked_for(schema, ANTHROPIC, job_id="a")


def test_an_answer_is_checked_against_the_users_own_schema() -> None:
    """Also by what no provider's grammar holds."""
    with pytest.raises(ParseError, match="name: 'A' - 'A' is too short") as caught:
        read_answer(json.dumps({**USER_ANSWER, "name": "A"}), answer_schema(USER_SCHEMA))
    assert caught.value.code == "invalid_output"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (RootModel[list[int]], "not an object with named fields"),
        ({"type": "array", "items": {"type": "string"}}, "not an object with named fields"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "not a valid JSON schema"),
        ({"type": "object", "properties": {}}, "not an object with named fields"),
        (
            {"type": "object", "properties": {"a": {"default": date(2024, 3, 5)}}},
            "not a JSON schema",
        ),
        ("no_such_module:Thing", "cannot be imported"),
        ("json:Thing", "cannot be imported"),
        ("json:dumps", "not a pydantic model class"),
        ("Thing", "no import path"),
        (int, "not a pydantic model class"),
        (Address(street="a", city="b"), "not a pydantic model class"),
    ],
    ids=str,
)
def test_what_is_no_response_model_is_refused(given: Any, says: str) -> None:
    """Before anything is sent, with what to give instead."""
    with pytest.raises(ValidationError, match=says):
        answer_schema(given)


@pytest.mark.parametrize("path", [f"{__name__}:Address", f"{__name__}.Address"])
def test_a_class_is_the_same_by_its_import_path(path: str) -> None:
    """Deployments name the class, scripts hand it over."""
    assert answer_schema(path) == answer_schema(Address)
    assert answer_schema(path).model is Address


@pytest.mark.parametrize(
    ("name", "expected"), [("A b/ü", "A_b__"), ("x" * 80, "x" * 64), ("Ok-1_a", "Ok-1_a")]
)
def test_names_are_what_openai_takes(name: str, expected: str) -> None:
    """Other characters become underscores, and 64 is the end."""
    schema = {"title": name, "type": "object", "properties": {"a": {"type": "string"}}}
    assert answer_schema(schema).name == expected


def test_digest_and_wire_form_are_the_same_in_every_process() -> None:
    """String hashes change from process to process, and requests are known by their bytes."""
    program = (
        "import json\n"
        "from pydantic import BaseModel, Field\n"
        "from batchata_prefect.content.schema import answer_schema, asked_for\n"
        "from batchata_prefect.providers.anthropic.facts import DIALECT as ANTHROPIC\n"
        "from batchata_prefect.providers.openai.facts import DIALECT as OPENAI\n"
        "class A(BaseModel):\n"
        "    tags: set[str] = {'a', 'b', 'c', 'd', 'e'}\n"
        "    code: str = Field(pattern='^x', min_length=1, max_length=5)\n"
        "s = answer_schema(A)\n"
        "print(s.digest, json.dumps([asked_for(s, d, job_id='') for d in (ANTHROPIC, OPENAI)]))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_nothing_heavy_is_imported() -> None:
    """Schemas and citations cost neither an SDK nor Prefect to import."""
    program = (
        "import sys, batchata_prefect.content.schema, batchata_prefect.content.citations.quotes\n"
        "print([m for m in ('anthropic', 'openai', 'prefect', 'jsonschema', 'rapidfuzz', 'pypdf') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_prompt_holds_the_schema_and_no_titles() -> None:
    """Beside citations the schema is asked for in words."""
    text = prompt_for(answer_schema(Described))
    schema = json.loads(text.split("```json\n")[1].split("\n```")[0])
    assert schema["properties"]["name"]["description"] == "Full name"
    assert "title" not in json.dumps(schema)
    jsonschema.validate(SHAPES["described"].plain, schema)


def test_values_of_the_prompt_keep_their_titles() -> None:
    """A default, an example and a field may hold or be a title; that of a schema is left out."""
    value = {"title": "Dr", "name": "Ada"}
    fields = {"title": {"type": "string", "title": "T"}, "name": {"type": "string"}}
    given = {
        "type": "object",
        "title": "Person",
        "properties": fields,
        "default": value,
        "examples": [value],
    }
    text = prompt_for(answer_schema(given))
    shown = json.loads(text.split("```json\n")[1].split("\n```")[0])
    assert shown["properties"]["title"] == {"type": "string"}
    assert shown["default"] == value
    assert shown["examples"] == [value]
    assert shown.get("title") is None


class Pathed(BaseModel):
    first: str = Field(validation_alias=AliasPath("names", 0))
    last: str = Field(validation_alias=AliasPath("names", 1))
    x: int = Field(validation_alias=AliasPath("point", "x"))
    y: float = Field(validation_alias=AliasPath("point", "y"))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_fields_that_are_looked_for_in_one_value_are_asked_for_as_one(provider: str) -> None:
    """Two paths into a list or an object do not replace each other."""
    schema = answer_schema(Pathed)
    answer = {"names": ["Ann", "Lee"], "point": {"x": 1, "y": 2.5}}
    converted = asked_for(schema, PROVIDERS[provider], job_id="a")
    assert FAULTS[provider](converted) == []
    jsonschema.validate(answer, converted)
    assert not jsonschema.Draft202012Validator(converted).is_valid({"names": [], "point": {}})
    found = read_answer(json.dumps(answer), schema)
    assert (found.first, found.last, found.x, found.y) == ("Ann", "Lee", 1, 2.5)


# Quotes


@pytest.mark.parametrize("model", [Nested, Maps, Node, None])
def test_quotes_are_asked_for_in_a_strict_schema(model: type[BaseModel] | None) -> None:
    """The answer and its quotes together keep OpenAI's rules."""
    schema = quoted_schema(None if model is None else answer_schema(model), OPENAI, job_id="a")
    assert openai_faults(schema) == []


def test_quotes_are_read_beside_the_answer() -> None:
    """They come back as location objects, the answer as the class, with all digits."""
    text = (
        '{"answer": {"price": 0.10, "discount": null, "rates": []}, '
        '"quotes": [{"field": "price", "document": 2, "quote": "Price 0.10"}]}'
    )
    answer, quotes = read_quoted(text, answer_schema(Decimals))
    assert str(answer.value.price) == "0.10"
    assert quotes == (
        {"type": "quote", "cited_text": "Price 0.10", "document_index": 1, "field": "price"},
    )


def test_quotes_of_a_plain_text_answer_are_read() -> None:
    """Without a response model the answer is text."""
    text = '{"answer": "Hi", "quotes": [{"field": null, "document": 1, "quote": "x"}]}'
    answer, quotes = read_quoted(text, None)
    assert (answer, len(quotes)) == ("Hi", 1)
    with pytest.raises(ParseError, match="no field 'answer'"):
        read_quoted('{"price": 1}', None)
