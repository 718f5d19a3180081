"""The parsed object is what the model said: one validation of its own JSON, now and later."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    TypeAdapter,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from batchata_prefect.answers import JobResult, Reply, TextBlock, Usage
from batchata_prefect.content.schema import AnswerSchema, answer_schema
from batchata_prefect.jobs.spool import Context
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book
from batchata_prefect.results.row import Reading, from_row

CHUNK = Chunk(0, 1, "ab" * 32, "openai", "/v1/responses", "gpt-6-luna", 9, 0, 0, 0, Decimal(1))


def stored(text: str, schema: AnswerSchema) -> dict[str, Any]:
    """The row of an answer, as it is read back from results.jsonl."""
    reading = Reading(CHUNK, "batch_1", price_book(), {schema.digest: schema})
    job = Context("the-job", {}, schema.digest)
    reply = Reply("x-0", "succeeded", (TextBlock(text),), Usage(1, 1), "end_turn")
    return orjson.loads(orjson.dumps(reading.row(reply, job, Decimal(0))))


def delivered(text: str, model: Any) -> JobResult:
    schema = answer_schema(model)
    row = stored(text, schema)
    first, second = (from_row(row, {schema.digest: schema}) for _ in range(2))
    assert second == first, "another look gives the same"
    return first


class Money:
    """A class that JSON has nothing for."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents


class Plain(BaseModel):
    n: int


class Cents(BaseModel):
    total: int

    @field_validator("total")
    @classmethod
    def cents(cls, value: int) -> int:
        return value * 100


class Share(BaseModel):
    share: float

    @field_validator("share")
    @classmethod
    def of_one(cls, value: float) -> float:
        return value / 100


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int
    hidden: int = Field(exclude=True)

    @computed_field
    @property
    def area(self) -> int:
        return self.width * self.width


class Written(BaseModel):
    on: date
    by: str = Field(serialization_alias="author")

    @field_serializer("on")
    def day(self, value: date) -> str:
        return value.strftime("%d.%m.%Y")


class Whole(BaseModel):
    n: int

    @model_serializer
    def as_text(self) -> str:
        return f"n={self.n}"


class Aliased(BaseModel):
    total: int = Field(validation_alias="Total")
    tax: int = Field(validation_alias=AliasChoices("VAT", "tax"))
    first: str = Field(validation_alias=AliasPath("names", 0))
    city: str = Field(validation_alias=AliasPath("home", "city"))


class Inner(BaseModel):
    rows: Json[list[int]]


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    data: Annotated[bytes, BeforeValidator(base64.b64decode)]
    money: Annotated[Any, AfterValidator(Money)]


class Huge(BaseModel):
    account: int
    share: float


class Joined(BaseModel):
    net: Decimal
    tax: Decimal
    gross: Decimal = Decimal(0)

    @model_validator(mode="before")
    @classmethod
    def add(cls, data: Any) -> Any:
        return {**data, "gross": data["net"] + data["tax"]}


@dataclass
class Line:
    item: str
    count: Annotated[int, AfterValidator(lambda n: n * 2)]


class ByItself(BaseModel):
    """What restoring would change is read by the class itself."""

    gone: Annotated[int, BeforeValidator(lambda v: -1 if v is None else v)] = 5
    word: Annotated[Literal["a", "b"], BeforeValidator(lambda v: "b" if v == "A" else v)] = "a"
    pair: tuple[Annotated[Literal["a", "b"], BeforeValidator(str.lower)], int] = ("a", 1)
    price: Decimal = Field(max_digits=5, decimal_places=2)
    rate: Decimal | float = 0.5
    other: float | Decimal = 0.5


class Card(TypedDict):
    name: str
    born: date


CASES: list[tuple[Any, str]] = [
    (Cents, '{"total": 12}'),
    (Share, '{"share": 41}'),
    (Strict, '{"width": 3, "hidden": 4}'),
    (Written, '{"on": "2026-11-22", "by": "x"}'),
    (Whole, '{"n": 3}'),
    (Aliased, '{"Total": 1, "VAT": 2, "names": ["a", "b"], "home": {"city": "c"}}'),
    (Inner, '{"rows": "[1, 2]"}'),
    (Odd, '{"data": "//79", "money": 5}'),
    (Huge, '{"account": 36893488147419103232, "share": 1e999}'),
    (Joined, '{"net": 1.5, "tax": 0.25}'),
    (Line, '{"item": "x", "count": 2}'),
    (Card, '{"name": "x", "born": "2026-11-22"}'),
    (ByItself, '{"gone": null, "word": "A", "pair": ["B", 2], "price": 1.5}'),
    (ByItself, '{"price": 123.45000000000000000001, "rate": 0.3, "other": 0.3}'),
]


@pytest.mark.parametrize(("model", "text"), CASES, ids=[each[0].__name__ for each in CASES])
@pytest.mark.parametrize("around", ["{}", "\n {}\n", "Here:\n```json\n{}\n```"])
def test_the_object_is_one_validation_of_the_answer(model: Any, text: str, around: str) -> None:
    """Validators run once, and no serializer has a say."""
    result = delivered(around.replace("{}", text), model)
    assert result.error is None
    assert result.parsed_response == TypeAdapter(model).validate_json(text)
    assert type(result.parsed_response) is type(TypeAdapter(model).validate_json(text))
    result.to_dict()


def test_what_is_stored_is_the_models_own_json() -> None:
    """Its names, its digits and its text; only the space between is left out."""
    row = stored('{ "account":\n 36893488147419103232 , "share": 1.50E+3 }', answer_schema(Huge))
    assert row["parsed_response_json"] == '{"account":36893488147419103232,"share":1.50E+3}'


def test_they_are_the_same_in_another_process(tmp_path: Path) -> None:
    """One that knows no more than the import path."""
    told = [
        {
            "row": stored(text, answer_schema(model)),
            "model": f"{model.__module__}:{model.__qualname__}",
        }
        for model, text in CASES
    ]
    (tmp_path / "rows").write_bytes(orjson.dumps(told))
    program = (
        "import sys, orjson\n"
        "from batchata_prefect.content.schema import answer_schema\n"
        "from batchata_prefect.results.row import from_row\n"
        "for told in orjson.loads(open(sys.argv[1], 'rb').read()):\n"
        "    schema = answer_schema(told['model'])\n"
        "    print(repr(from_row(told['row'], {schema.digest: schema}).parsed_response))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "rows")],
        cwd=Path(__file__).parents[3],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    here = [repr(TypeAdapter(model).validate_json(text)) for model, text in CASES]
    there = done.stdout.splitlines()
    assert [text.partition(" at 0x")[0] for text in there] == [
        text.partition(" at 0x")[0] for text in here
    ]


# Generated models


@dataclass
class Kind:
    """A kind of field: how it is declared, and the JSON that it takes."""

    declared: Any
    values: st.SearchStrategy[Any]
    field: Callable[[str], dict[str, Any]] = lambda _: {}
    place: Callable[[str, Any], dict[str, Any]] = lambda name, value: {name: value}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
WHOLE = st.integers(-(10**6), 10**6)
FLOATS = st.floats(-1e9, 1e9, allow_nan=False)
BIG = st.integers(-(2**80), 2**80)
KINDS = [
    Kind(int, BIG),
    Kind(float, FLOATS | WHOLE),
    Kind(str, TEXT),
    Kind(bool, st.booleans()),
    Kind(bytes, TEXT),
    Kind(date, st.dates().map(str)),
    Kind(set[int], st.lists(WHOLE, max_size=3)),
    Kind(Decimal, st.decimals(-10**6, 10**6, places=2).map(float) | WHOLE),
    Kind(int | None, st.none() | WHOLE),
    Kind(Literal["red", "blue"], st.sampled_from(["red", "blue"])),
    Kind(Json[list[int]], st.lists(WHOLE, max_size=3).map(json.dumps)),
    Kind(dict[str, int], st.dictionaries(TEXT, WHOLE, max_size=2)),
    Kind(list[Plain], st.lists(st.builds(lambda n: {"n": n}, WHOLE), max_size=2)),
    Kind(list[Cents], st.lists(st.builds(lambda n: {"total": n}, WHOLE), max_size=2)),
    Kind(Whole, st.builds(lambda n: {"n": n}, WHOLE)),
    Kind(Line, st.builds(lambda n: {"item": "x", "count": n}, WHOLE)),
    Kind(Card, st.just({"name": "x", "born": "2026-11-22"})),
    Kind(Annotated[int, AfterValidator(lambda n: n * 100)], WHOLE),
    Kind(Annotated[float, BeforeValidator(lambda n: n / 100)], WHOLE),
    Kind(Annotated[Decimal, AfterValidator(lambda n: n * 100)], WHOLE | st.just(0.25)),
    Kind(Annotated[Decimal, BeforeValidator(lambda n: n * 3)], WHOLE | st.just(0.5)),
    Kind(Annotated[bytes, BeforeValidator(base64.b64decode)],
         st.binary(max_size=4).map(lambda data: base64.b64encode(data).decode())),
    Kind(Annotated[Any, AfterValidator(str)], WHOLE),
    Kind(Annotated[int, PlainSerializer(lambda _: object())], WHOLE),
    Kind(int, WHOLE, lambda name: {"alias": f"{name} A"}, lambda name, value: {f"{name} A": value}),
    Kind(int, WHOLE, lambda name: {"validation_alias": f"{name}V"},
         lambda name, value: {f"{name}V": value}),
    Kind(int, WHOLE, lambda name: {"validation_alias": AliasChoices(f"{name}1", f"{name}2")},
         lambda name, value: {f"{name}2": value}),
    Kind(int, WHOLE, lambda name: {"validation_alias": AliasPath(f"{name}P", 1)},
         lambda name, value: {f"{name}P": [0, value]}),
    Kind(int, WHOLE, lambda name: {"validation_alias": AliasPath(f"{name}P", "in", "side")},
         lambda name, value: {f"{name}P": {"in": {"side": value}}}),
    Kind(int, WHOLE, lambda name: {"serialization_alias": f"{name}S"}),
    Kind(int, WHOLE, lambda _: {"exclude": True}),
]  # fmt: skip


class Computed(BaseModel):
    @computed_field
    @property
    def names(self) -> list[str]:
        return sorted(type(self).model_fields)


class Forbidding(Computed):
    model_config = ConfigDict(extra="forbid")


class Stripped(BaseModel):
    @model_validator(mode="after")
    def touched(self) -> Any:
        return self

    @model_serializer(mode="wrap")
    def only_text(self, handler: Any) -> Any:
        raise TypeError("this class cannot be written")


@st.composite
def models_with_answers(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    fields: dict[str, Any] = {}
    answer: dict[str, Any] = {}
    for at, kind in enumerate(kinds):
        name = f"f{at}"
        fields[name] = (kind.declared, Field(**kind.field(name)))
        answer |= kind.place(name, draw(kind.values))
    base = draw(st.sampled_from([BaseModel, Computed, Forbidding, Stripped]))
    return create_model("Made", __base__=base, **fields), answer


@settings(max_examples=int(os.environ.get("BATCHATA_ODD_ROWS", "100")), deadline=None)
@given(made=models_with_answers(), indent=st.sampled_from([None, 2]), ascii_=st.booleans())
@pytest.mark.timeout(3_600)
def test_any_model_is_made_by_one_validation(made: Any, indent: int | None, ascii_: bool) -> None:
    """Whatever its validators, aliases and serializers do."""
    model, answer = made
    text = json.dumps(answer, indent=indent, ensure_ascii=ascii_)
    result = delivered(text, model)
    assert result.error is None
    assert result.parsed_response == model.model_validate_json(text)


@settings(deadline=None)
@given(
    fields=st.lists(st.sampled_from([k for k in KINDS if not k.field("")]), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_dataclass_is_made_by_one_validation(fields: list[Kind], data: st.DataObject) -> None:
    """The same."""
    names = [f"f{at}" for at in range(len(fields))]
    made = dataclasses.make_dataclass(
        "Made", [(name, kind.declared) for name, kind in zip(names, fields, strict=True)]
    )
    answer = {name: data.draw(kind.values) for name, kind in zip(names, fields, strict=True)}
    text = json.dumps(answer)
    assert delivered(text, made).parsed_response == TypeAdapter(made).validate_json(text)


# Numbers


SCHEMA = {
    "type": "object",
    "properties": {"account": {"type": "integer"}, "share": {"type": "number"}},
    "required": ["account"],
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"account": 36893488147419103232}', {"account": 36893488147419103232}),
        ('{"account": -36893488147419103233, "share": 12.50}', None),
        ('{"account": 18446744073709551615, "share": 0.1234567890123456789012}', None),
        ('{"account": 1, "share": 1e-400}', {"account": 1, "share": 0.0}),
    ],
)
def test_numbers_keep_their_digits_under_a_json_schema(text: str, value: Any) -> None:
    """Account and reference numbers have more than 64 bits."""
    schema = answer_schema(SCHEMA)
    row = stored(text, schema)
    assert row["error"] is None
    assert row["parsed_response_json"] == text.replace(" ", "")
    result = from_row(row, {schema.digest: schema})
    assert result.parsed_response == (json.loads(text) if value is None else value)
    assert from_row(row, {}).parsed_response == result.parsed_response


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1E+999", "9" * 400 + ".5"])
def test_a_number_that_is_too_large_is_no_valid_output(number: str) -> None:
    """And never null."""
    row = stored('{"account": 1, "share": %s}' % number, answer_schema(SCHEMA))  # noqa: UP031
    assert (row["status"], row["error_code"]) == ("failed", "invalid_output")
    assert row["parsed_response_json"] is None


def test_digits_are_kept_where_an_answer_is_restored() -> None:
    """A null that is left out, and a map that comes as a list, cost no digit of what is beside."""
    schema = answer_schema({
        "type": "object",
        "properties": {
            "share": {"type": "number"},
            "gone": {"type": "string"},
            "by_name": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "required": ["share"],
    })  # fmt: skip
    given_ = '[{"key": "a", "value": 36893488147419103232}]'
    text = f'{{"share": 0.12345678901234567890, "gone": null, "by_name": {given_}}}'
    row = stored(text, schema)
    assert row["parsed_response_json"] == (
        '{"share":0.12345678901234567890,"by_name":{"a":36893488147419103232}}'
    )


# A class that has changed


def test_a_class_that_takes_its_answers_no_more(tmp_path: Path) -> None:
    """It is that job's error, and the others come behind it."""

    class Before(BaseModel):
        n: int

    class Now(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def small(cls, value: int) -> int:
            if value > 5:
                raise ValueError("too large by now")
            return value

    schema = answer_schema(Before)
    rows = [stored(f'{{"n": {n}}}', schema) for n in (1, 9, 2)]
    now = dataclasses.replace(schema, model=Now)
    results = [from_row(row, {schema.digest: now}) for row in rows]
    assert [result.status for result in results] == ["completed", "failed", "completed"]
    assert results[1].error_code == "invalid_output"
    assert "too large by now" in (results[1].error or "")
    assert results[1].parsed_response is None
    assert results[1].raw_response == '{"n": 9}'
