"""Response models: converted for each provider, and answers read back into them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import jsonschema
import pytest
from pydantic import AnyUrl, BaseModel, Field, RootModel, create_model, field_validator

from batchata_prefect.errors import ParseError, ValidationError
from batchata_prefect.quotes import quoted_schema, read_quoted
from batchata_prefect.schema import (
    answer_schema,
    for_anthropic,
    for_openai,
    from_plain,
    prompt_for,
    read_answer,
    to_plain,
)

REAL = Path(os.environ.get("BATCHATA_REAL", Path(__file__).parents[1] / "../shared/real"))


class Color(Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


class Address(BaseModel):
    street: str
    city: str = Field(description="City or town")


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Chain(BaseModel):
    value: int
    further: Chain | None = Field(None, description="the next one")


class Point(NamedTuple):
    x: int
    y: float


class Plain(BaseModel):
    name: str
    age: int
    weight: float
    alive: bool


class Described(BaseModel):
    """An answer with words about itself."""

    name: str = Field(description="Full name", examples=["Ada Lovelace"])
    home: Address = Field(description="Where they live")
    number: int = Field(title="Number in the top right corner")


class Nested(BaseModel):
    home: Address
    work: Address


class Lists(BaseModel):
    tags: list[str]
    addresses: list[Address]
    table: list[list[int]]


class Nullable(BaseModel):
    name: str | None
    home: Address | None


class Optionals(BaseModel):
    name: str | None = None
    home: Address | None = None
    color: Color | None = None


class Defaults(BaseModel):
    name: str = "unknown"
    count: int = 3
    color: Color = Color.RED
    tags: list[str] = ["a"]
    made: int = Field(default_factory=lambda: 7)


class NullIsNotDefault(BaseModel):
    count: int | None = 5


class Enums(BaseModel):
    color: Color
    size: Literal["small", "large"]
    version: Literal[1]


class MixedLiteral(BaseModel):
    level: Literal["high", 1, None]


class Dates(BaseModel):
    day: date
    moment: datetime
    clock: time
    span: timedelta


class Decimals(BaseModel):
    price: Decimal
    discount: Decimal | None = Field(None, ge=0, max_digits=8, decimal_places=2)
    rates: list[Decimal]


class DecimalOrText(BaseModel):
    price: Decimal | Literal["on request"]


class Unions(BaseModel):
    value: int | str | Address


class Tagged(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Tuples(BaseModel):
    pair: tuple[int, int]
    mixed: tuple[str, float]
    points: list[Point]
    many: tuple[str, ...]


class Sets(BaseModel):
    tags: set[str]
    sizes: frozenset[int] = frozenset()


class Maps(BaseModel):
    prices: dict[str, Decimal]
    by_color: dict[Color, Address]
    groups: dict[str, dict[int, list[str]]]


class PatternMap(BaseModel):
    codes: dict[Annotated[str, Field(pattern="^[A-Z]+$")], int]


class Bounds(BaseModel):
    count: int = Field(ge=1, le=10)
    share: float = Field(gt=0, lt=1, multiple_of=0.1)
    code: str = Field(pattern="^[A-Z]{2}$", min_length=2, max_length=2)
    odd: Annotated[list[int], Field(min_length=2, max_length=3)]
    some: Annotated[list[int], Field(min_length=1)]


class Formats(BaseModel):
    key: UUID
    link: AnyUrl
    host: IPv4Address
    blob: bytes


class Aliased(BaseModel):
    number: str = Field(alias="Invoice No.")


class Extra(BaseModel, extra="forbid"):
    name: str


class Tree(BaseModel):
    root: Node
    chain: Chain | None = None


class Deep(BaseModel):
    data: list[dict[str, tuple[Color, list[Address | None]]]]


@cache
def wide(optional: int, unions: int) -> type[BaseModel]:
    fields: dict[str, Any] = {f"o{n}": (str | None, None) for n in range(optional)}
    fields |= {f"u{n}": (int | str, ...) for n in range(unions)}
    return create_model("Wide", **fields)


@dataclass(frozen=True)
class Shape:
    """A model, an instance, and the instance as each provider would write it.

    `anthropic` and `openai` are the answer on the wire, where it differs from the instance's own
    JSON; or the path of the field that the provider has to be spared.
    """

    model: type[BaseModel]
    instance: BaseModel
    anthropic: dict[str, Any] | str | None = None
    openai: dict[str, Any] | str | None = None

    @property
    def plain(self) -> dict[str, Any]:
        return self.instance.model_dump(mode="json", by_alias=True)


ADA = Address(street="St James Sq 12", city="London")
ADA_JSON = {"street": "St James Sq 12", "city": "London"}
DECIMALS_WIRE = {"price": 12.5, "discount": 0.25, "rates": [1, 2.75]}
TUPLES_WIRE = {
    "pair": [1, 2],
    "mixed": {"item_1": "a", "item_2": 0.5},
    "points": [{"x": 1, "y": 2.5}],
    "many": ["a", "b", "c"],
}
MAPS_WIRE = {
    "prices": [{"key": "apple", "value": 1.2}, {"key": "pear", "value": 3}],
    "by_color": [{"key": "dark blue", "value": ADA_JSON}],
    "groups": [{"key": "a", "value": [{"key": "1", "value": ["x"]}]}],
}
DEEP_WIRE = {"data": [[{"key": "k", "value": {"item_1": "red", "item_2": [ADA_JSON, None]}}]]}
LINKED = Tree(root=Node(value=1, children=[Node(value=2)]), chain=Chain(value=1))

SHAPES = {
    "plain": Shape(Plain, Plain(name="Ada", age=36, weight=50.5, alive=False)),
    "described": Shape(Described, Described(name="Ada", home=ADA, number=3)),
    "nested": Shape(Nested, Nested(home=ADA, work=ADA)),
    "lists": Shape(Lists, Lists(tags=["a", "b"], addresses=[ADA], table=[[1, 2], [3]])),
    "empty lists": Shape(Lists, Lists(tags=[], addresses=[], table=[])),
    "nullable": Shape(Nullable, Nullable(name=None, home=ADA)),
    "optional given": Shape(Optionals, Optionals(name="Ada", home=ADA, color=Color.DARK_BLUE)),
    "optional absent": Shape(Optionals, Optionals(), anthropic={}),
    "defaults given": Shape(Defaults, Defaults(name="x", count=1, tags=[], made=2)),
    "defaults absent": Shape(
        Defaults, Defaults(), {}, dict.fromkeys(("name", "count", "color", "tags", "made"))
    ),
    "null beside default": Shape(NullIsNotDefault, NullIsNotDefault(count=None)),
    "enums": Shape(Enums, Enums(color=Color.RED, size="large", version=1)),
    "mixed literal": Shape(MixedLiteral, MixedLiteral(level=None)),
    "dates": Shape(
        Dates,
        Dates(
            day=date(2024, 3, 5),
            moment=datetime(2024, 3, 5, 14, 30, tzinfo=UTC),
            clock=time(14, 30),
            span=timedelta(hours=36),
        ),
    ),
    "decimals": Shape(
        Decimals,
        Decimals(price=Decimal("12.5"), discount=Decimal("0.25"), rates=[Decimal(1), Decimal("2.75")]),
        DECIMALS_WIRE,
        DECIMALS_WIRE,
    ),
    "decimal or text": Shape(DecimalOrText, DecimalOrText(price="on request")),
    "union of int": Shape(Unions, Unions(value=3)),
    "union of model": Shape(Unions, Unions(value=ADA)),
    "tagged union": Shape(Tagged, Tagged(pet=Dog(name="Rex"), others=[Cat(lives=9)])),
    "tuples": Shape(
        Tuples,
        Tuples(pair=(1, 2), mixed=("a", 0.5), points=[Point(1, 2.5)], many=("a", "b", "c")),
        TUPLES_WIRE,
        TUPLES_WIRE,
    ),
    "sets": Shape(
        Sets,
        Sets(tags={"a"}, sizes=frozenset({1})),
        {"tags": ["a", "a"], "sizes": [1]},
        {"tags": ["a"], "sizes": [1, 1]},
    ),
    "open dictionaries": Shape(
        Maps,
        Maps(
            prices={"apple": Decimal("1.2"), "pear": Decimal(3)},
            by_color={Color.DARK_BLUE: ADA},
            groups={"a": {1: ["x"]}},
        ),
        MAPS_WIRE,
        MAPS_WIRE,
    ),
    "dictionary with key pattern": Shape(
        PatternMap,
        PatternMap(codes={"AB": 1}),
        {"codes": [{"key": "AB", "value": 1}]},
        {"codes": [{"key": "AB", "value": 1}]},
    ),
    "bounds": Shape(Bounds, Bounds(count=3, share=0.5, code="DE", odd=[1, 3], some=[1])),
    "formats": Shape(
        Formats,
        Formats(
            key=UUID(int=5), link=AnyUrl("https://a.example/b"), host=IPv4Address("10.0.0.1"), blob=b"x"
        ),
    ),
    "aliases": Shape(Aliased, Aliased.model_validate({"Invoice No.": "A-1"})),
    "no further fields": Shape(Extra, Extra(name="x")),
    "recursion": Shape(Node, Node(value=1, children=[Node(value=2)]), anthropic="children[]"),
    "recursion below": Shape(Tree, LINKED, anthropic="root.children[]"),
    "recursion with description": Shape(
        Chain, Chain(value=1, further=Chain(value=2)), anthropic="further"
    ),
    "deep mix": Shape(
        Deep, Deep(data=[{"k": (Color.RED, [ADA, None])}]), DEEP_WIRE, DEEP_WIRE
    ),
    "17 optional texts": Shape(
        wide(17, 0),
        wide(17, 0)(o3="x"),
        {"o3": "x"},
        dict.fromkeys([f"o{n}" for n in range(17)]) | {"o3": "x"},
    ),
    "30 optional texts": Shape(
        wide(30, 4),
        wide(30, 4)(o3="x", u0=1, u1="a", u2=2, u3="b"),
        dict.fromkeys([f"o{n}" for n in range(24, 30)])
        | {"o3": "x", "u0": 1, "u1": "a", "u2": 2, "u3": "b"},
    ),
}  # fmt: skip

PROVIDERS = {"anthropic": for_anthropic, "openai": for_openai}


# The rules below are written from the providers' documentation, not from the conversion.

ANTHROPIC_KEYWORDS = {
    "type", "enum", "const", "anyOf", "$ref", "$defs", "required", "additionalProperties",
    "properties", "items", "minItems", "format", "description", "title",
}  # fmt: skip
ANTHROPIC_FORMATS = {
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
}  # fmt: skip
OPENAI_KEYWORDS = ANTHROPIC_KEYWORDS | {
    "maxItems", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf",
}  # fmt: skip
OPENAI_FORMATS = ANTHROPIC_FORMATS - {"uri"}


def nodes(schema: dict[str, Any], path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema node; names of properties and definitions are no keywords."""
    yield path, schema
    for group in ("properties", "$defs"):
        for name, child in schema.get(group, {}).items():
            yield from nodes(child, f"{path}.{group}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    for index, child in enumerate(schema.get("anyOf", ())):
        yield from nodes(child, f"{path}.anyOf{index}")


def references(schema: dict[str, Any]) -> dict[str, set[str]]:
    """Definition -> the definitions that it refers to."""
    return {
        name: {node["$ref"].removeprefix("#/$defs/") for _, node in nodes(child) if "$ref" in node}
        for name, child in schema.get("$defs", {}).items()
    }


def is_recursive(schema: dict[str, Any]) -> bool:
    graph = references(schema)

    def reaches(name: str, goal: str, seen: set[str]) -> bool:
        return any(
            child == goal or (child not in seen and reaches(child, goal, seen | {child}))
            for child in graph.get(name, ())
        )

    return any(reaches(name, name, set()) for name in graph)


def common_faults(schema: dict[str, Any], keywords: set[str], formats: set[str]) -> list[str]:
    faults = []
    for path, node in nodes(schema):
        faults += [f"{path}: keyword {key}" for key in node.keys() - keywords]
        if "$ref" in node:
            if set(node) != {"$ref"}:
                faults.append(f"{path}: keywords beside $ref")
            if node["$ref"].removeprefix("#/$defs/") not in schema.get("$defs", {}):
                faults.append(f"{path}: {node['$ref']} leads nowhere")
        if not {"type", "anyOf", "$ref", "enum", "const"} & node.keys():
            faults.append(f"{path}: no type")
        if node.get("type") == "object" and node.get("additionalProperties") is not False:
            faults.append(f"{path}: open object")
        if "format" in node and node["format"] not in formats:
            faults.append(f"{path}: format {node['format']}")
        if any(isinstance(value, (dict, list)) for value in node.get("enum", ())):
            faults.append(f"{path}: enum of objects")
    if schema.get("type") != "object":
        faults.append("$: no object")
    return faults


def anthropic_faults(schema: dict[str, Any]) -> list[str]:
    faults = common_faults(schema, ANTHROPIC_KEYWORDS, ANTHROPIC_FORMATS)
    found = list(nodes(schema))
    faults += [f"{path}: minItems" for path, node in found if node.get("minItems", 0) > 1]
    optional = sum(
        len(node.get("properties", {})) - len(node.get("required", ())) for _, node in found
    )
    unions = sum("anyOf" in node or isinstance(node.get("type"), list) for _, node in found)
    if optional > 24:
        faults.append(f"{optional} optional properties")
    if unions > 16:
        faults.append(f"{unions} unions")
    if is_recursive(schema):
        faults.append("recursion")
    return faults


def openai_faults(schema: dict[str, Any]) -> list[str]:
    faults = common_faults(schema, OPENAI_KEYWORDS, OPENAI_FORMATS)
    for path, node in nodes(schema):
        if node.get("type") == "object" and list(node["properties"]) != node.get("required"):
            faults.append(f"{path}: not all properties are required")
        if not {"type", "anyOf", "$ref"} & node.keys():
            faults.append(f"{path}: schema must have a 'type' key")
        if "(?" in node.get("pattern", ""):
            faults.append(f"{path}: lookaround")
    return faults


FAULTS = {"anthropic": anthropic_faults, "openai": openai_faults}
TAKEN = [
    pytest.param(provider, shape, id=f"{provider} {name}")
    for name, shape in SHAPES.items()
    for provider in PROVIDERS
    if not isinstance(getattr(shape, provider), str)
]
REFUSED = [
    pytest.param(provider, shape, id=f"{provider} {name}")
    for name, shape in SHAPES.items()
    for provider in PROVIDERS
    if isinstance(getattr(shape, provider), str)
]


def wire(shape: Shape, provider: str) -> dict[str, Any]:
    given = getattr(shape, provider)
    return shape.plain if given is None else given


@pytest.mark.parametrize(("provider", "shape"), TAKEN)
def test_a_converted_schema_keeps_the_rules_of_its_provider(provider: str, shape: Shape) -> None:
    """It holds no keyword, object, reference or count that the documentation rules out."""
    schema = PROVIDERS[provider](answer_schema(shape.model), job_id="a")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert FAULTS[provider](schema) == []


@pytest.mark.parametrize(("provider", "shape"), TAKEN)
def test_an_answer_on_the_wire_is_valid_and_read_as_the_same_object(
    provider: str, shape: Shape
) -> None:
    """What the provider's grammar lets through becomes the instance, with nothing lost."""
    schema = answer_schema(shape.model)
    answer = wire(shape, provider)
    jsonschema.validate(answer, PROVIDERS[provider](schema, job_id="a"))
    assert read_answer(json.dumps(answer), schema) == shape.instance


@pytest.mark.parametrize(("provider", "shape"), TAKEN)
def test_an_answer_in_its_own_json_is_read_as_the_same_object(provider: str, shape: Shape) -> None:
    """Without the provider's grammar, as beside citations, the model's own JSON is read as well."""
    text = shape.instance.model_dump_json(by_alias=True)
    assert read_answer(text, answer_schema(shape.model)) == shape.instance


@pytest.mark.parametrize(("provider", "shape"), REFUSED)
def test_a_field_that_cannot_be_expressed_is_refused_by_its_path(
    provider: str, shape: Shape
) -> None:
    """The refusal names the job and the field."""
    with pytest.raises(ValidationError) as caught:
        PROVIDERS[provider](answer_schema(shape.model), job_id="job-7")
    assert "'job-7'" in str(caught.value)
    assert f"field {getattr(shape, provider)!r} " in str(caught.value)


def test_there_are_at_least_30_shapes() -> None:
    """The table holds what it promises."""
    assert len(SHAPES) >= 30


class AnyValue(BaseModel):
    outer: list[dict[str, Any]]


class Untyped(BaseModel):
    rows: list[Any]


class Ragged(BaseModel):
    pair: tuple[int, str] | None
    odd: Annotated[list[Any], Field(json_schema_extra={"items": {"type": "wrong"}})]


class OpenExtra(BaseModel, extra="allow"):
    __pydantic_extra__: dict[str, int]
    name: str


class Holder(BaseModel):
    inner: OpenExtra


class HalfPoint(NamedTuple):
    x: int
    y: str = "q"


class Changing(BaseModel):
    point: HalfPoint


def levels(count: int) -> type[BaseModel]:
    model: type[BaseModel] = create_model("Level0", leaf=(int, ...))
    for number in range(1, count):
        model = create_model(f"Level{number}", inner=(model, ...))
    return model


@pytest.mark.parametrize(
    ("model", "provider", "path", "reason"),
    [
        (AnyValue, "anthropic", "outer[]", "values of any type"),
        (AnyValue, "openai", "outer[]", "values of any type"),
        (Untyped, "openai", "rows[]", "any type"),
        (Ragged, "openai", "odd[]", "'wrong'"),
        (Holder, "anthropic", "inner", "further ones of any name"),
        (Changing, "openai", "point", "changing length"),
        (wide(0, 17), "anthropic", "u16", "16 in a schema"),
        (wide(41, 0), "anthropic", "o40", "may be left out"),
        (levels(11), "openai", ".".join(["inner"] * 10), "10 objects deep"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_would_lose_its_meaning_is_refused(
    model: type[BaseModel], provider: str, path: str, reason: str
) -> None:
    """The field's path and the reason are in the text, before anything is sent."""
    with pytest.raises(ValidationError) as caught:
        PROVIDERS[provider](answer_schema(model), job_id="a")
    assert f"field {path!r} " in str(caught.value)
    assert reason in str(caught.value)


def test_limits_on_optional_fields_are_used_up_before_a_model_is_refused() -> None:
    """24 fields may be left out and 16 more may be null."""
    schema = for_anthropic(answer_schema(wide(40, 0)), job_id="a")
    assert anthropic_faults(schema) == []
    assert len(schema["required"]) == 16


DESCRIPTIONS = [
    ("anthropic", Bounds, "count", "{maximum: 10, minimum: 1}"),
    ("anthropic", Bounds, "code", "{maxLength: 2, minLength: 2, pattern: ^[A-Z]{2}$}"),
    ("openai", Bounds, "code", "{maxLength: 2, minLength: 2}"),
    ("anthropic", Defaults, "color", "{default: red}"),
    ("openai", Defaults, "count", "{default: 3}"),
    ("anthropic", Described, "name", 'Full name\n\n{examples: ["Ada Lovelace"]}'),
    ("openai", Described, "home", "Where they live"),
    ("openai", Formats, "link", "{format: uri, minLength: 1}"),
]


@pytest.mark.parametrize(("provider", "model", "name", "text"), DESCRIPTIONS)
def test_what_a_provider_does_not_take_goes_into_the_description(
    provider: str, model: type[BaseModel], name: str, text: str
) -> None:
    """Bounds, defaults and formats stay known to the model as words."""
    schema = PROVIDERS[provider](answer_schema(model), job_id="a")
    assert schema["properties"][name]["description"] == text


def test_titles_stay_only_where_they_say_more_than_the_name() -> None:
    """A title made of the name would cost tokens in every request."""
    properties = for_anthropic(answer_schema(Described), job_id="a")["properties"]
    assert properties["number"]["title"] == "Number in the top right corner"
    assert "title" not in properties["name"]


COMPARED = [
    "plain", "nested", "lists", "nullable", "optional given", "enums", "dates", "union of int",
    "bounds", "formats", "aliases",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPARED)
def test_the_conversion_agrees_with_anthropics_own_helper(name: str) -> None:
    """Apart from titles, descriptions and the type beside an enum, where the helper is right."""
    from anthropic import transform_schema

    def bare(node: Any) -> Any:
        if isinstance(node, list):
            return [bare(item) for item in node]
        if not isinstance(node, dict):
            return node
        drop = {"title", "description"} if not isinstance(node.get("title"), dict) else set()
        drop |= {"type"} if "enum" in node or "const" in node else set()
        return {key: bare(value) for key, value in node.items() if key not in drop}

    model = SHAPES[name].model
    assert bare(for_anthropic(answer_schema(model), job_id="a")) == bare(transform_schema(model))


@pytest.mark.parametrize("name", ["plain", "nested", "lists", "nullable", "enums"])
def test_the_conversion_agrees_with_openais_own_helper(name: str) -> None:
    """Where its helper makes a schema that the API takes, ours is the same."""
    from openai import pydantic_function_tool

    def bare(node: Any) -> Any:
        if isinstance(node, list):
            return [bare(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: bare(value) for key, value in node.items() if key != "title"}

    model = SHAPES[name].model
    tool = pydantic_function_tool(model)["function"]["parameters"]
    assert bare(for_openai(answer_schema(model), job_id="a")) == bare(tool)


@pytest.fixture(scope="module")
def specs() -> dict[str, Any]:
    if not (REAL / "specs").is_dir():
        pytest.skip("the providers' OpenAPI documents are not here")
    return {
        provider: json.loads((REAL / f"specs/{provider}.openapi.json").read_text())
        for provider in PROVIDERS
    }


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_formats_are_valid_in_the_official_documents(shape: Shape, specs: dict[str, Any]) -> None:
    """The format objects around the schema are what the OpenAPI documents describe."""
    schema = answer_schema(shape.model)
    strict = for_openai(schema, job_id="a")
    named = {"name": schema.name, "schema": strict, "strict": True}
    formats = [
        ("openai", "ResponseFormatJsonSchema", {"type": "json_schema", "json_schema": named}),
        ("openai", "TextResponseFormatJsonSchema", {"type": "json_schema", **named}),
    ]
    if not isinstance(shape.anthropic, str):
        claude = {"type": "json_schema", "schema": for_anthropic(schema, job_id="a")}
        formats.append(("anthropic", "JsonOutputFormat", claude))
    for provider, component, value in formats:
        components = specs[provider]["components"]
        root = {"$ref": f"#/components/schemas/{component}", "components": components}
        jsonschema.Draft202012Validator(root).validate(value)


# Answers


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
        "both": {
            "allOf": [
                {"$ref": "#/definitions/address"},
                {"type": "object", "properties": {"zip": {"type": "string"}}, "required": ["zip"]},
            ]
        },
    },
    "required": ["name", "limits", "home", "size", "either", "both"],
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
    "both": {"city": "London", "zip": "SW1"},
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_json_schema_of_the_users_own_is_converted_and_read(provider: str) -> None:
    """Definitions, type lists, oneOf, allOf and dictionaries of a plain schema work as well."""
    schema = answer_schema(USER_SCHEMA)
    converted = PROVIDERS[provider](schema, job_id="a")
    assert FAULTS[provider](converted) == []
    answer = USER_ANSWER if provider == "anthropic" else {**USER_ANSWER, "level": None}
    jsonschema.validate(answer, converted)
    assert read_answer(json.dumps(answer), schema) == {**USER_ANSWER, "limits": {"day": 5}}


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


def test_plain_form_is_json_and_restores_the_class() -> None:
    """By the registry, by the import path, and else as a schema whose answers are dicts."""
    schema = answer_schema(Address)
    plain = json.loads(json.dumps(to_plain(schema)))
    assert from_plain(plain).model is Address
    local = create_model("Local", street=(str, ...))
    gone = json.loads(json.dumps(to_plain(answer_schema(local)))) | {"import_path": None}
    assert from_plain(gone, {gone["digest"]: local}).model is local
    assert read_answer('{"street": "A"}', from_plain(gone)) == {"street": "A"}


def test_a_class_that_changed_since_is_not_restored() -> None:
    """An answer that was asked for by the old schema is not forced into the new class."""
    plain = to_plain(answer_schema(Address)) | {"digest": "0" * 64}
    restored = from_plain(plain)
    assert restored.model is None
    assert read_answer(ADDRESS_TEXT, restored) == {"street": "A", "city": "B"}


def test_digest_and_wire_form_are_the_same_in_every_process() -> None:
    """String hashes change from process to process, and requests are known by their bytes."""
    program = (
        "import json\n"
        "from pydantic import BaseModel, Field\n"
        "from batchata_prefect.schema import answer_schema, for_anthropic, for_openai\n"
        "class A(BaseModel):\n"
        "    tags: set[str] = {'a', 'b', 'c', 'd', 'e'}\n"
        "    code: str = Field(pattern='^x', min_length=1, max_length=5)\n"
        "s = answer_schema(A)\n"
        "print(s.digest, json.dumps([for_anthropic(s, job_id=''), for_openai(s, job_id='')]))\n"
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
        "import sys, batchata_prefect.schema, batchata_prefect.citations, batchata_prefect.quotes\n"
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


# Quotes


@pytest.mark.parametrize("model", [Nested, Maps, Node, None])
def test_quotes_are_asked_for_in_a_strict_schema(model: type[BaseModel] | None) -> None:
    """The answer and its quotes together keep OpenAI's rules."""
    schema = quoted_schema(None if model is None else answer_schema(model), job_id="a")
    assert openai_faults(schema) == []


def test_quotes_are_read_beside_the_answer() -> None:
    """They come back as location objects, the answer as the class, with all digits."""
    text = (
        '{"answer": {"price": 0.10, "discount": null, "rates": []}, '
        '"quotes": [{"field": "price", "document": 2, "quote": "Price 0.10"}]}'
    )
    answer, quotes = read_quoted(text, answer_schema(Decimals))
    assert str(answer.price) == "0.10"
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
