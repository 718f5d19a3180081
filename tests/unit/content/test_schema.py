"""Response models: converted for each provider, and answers read back into them."""

from __future__ import annotations

import json
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
from pydantic import (
    AnyUrl,
    BaseModel,
    Field,
    NaiveDatetime,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)

from batchata_prefect.content.schema import (
    AnswerSchema,
    answer_schema,
    asked_for,
    parse_answer,
)
from batchata_prefect.errors import ValidationError
from batchata_prefect.providers.anthropic.facts import DIALECT as ANTHROPIC
from batchata_prefect.providers.gemini.facts import DIALECT as GEMINI
from batchata_prefect.providers.openai.facts import DIALECT as OPENAI


def read_answer(text: str, schema: AnswerSchema) -> Any:
    return parse_answer(text, schema).value


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


class NullBesideMap(BaseModel):
    count: int | None = 5
    sizes: dict[str, int]


class Pair(BaseModel):
    key: str
    value: int


class ByName(BaseModel):
    kind: Literal["by name"] = "by name"
    data: dict[str, int]


class InOrder(BaseModel):
    kind: Literal["in order"] = "in order"
    data: list[Pair]


class Data(BaseModel):
    either: Annotated[ByName | InOrder, Field(discriminator="kind")]


class Stern(BaseModel, strict=True, frozen=True):
    day: date
    price: Decimal
    pair: tuple[int, str]
    tags: set[str]
    color: Color


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


class HalfPoint(NamedTuple):
    x: int
    y: str = "q"
    z: int | None = 1


class Halves(BaseModel):
    points: list[HalfPoint]


class Keyed(BaseModel):
    by_number: dict[int, str]
    by_day: dict[date, int]


class Zoneless(BaseModel):
    at: NaiveDatetime


class LikeKeywords(BaseModel):
    prefixItems: list[int]  # noqa: N815
    format: str
    properties: dict[str, int]
    items: str
    enum: int


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
STERN_WIRE = {
    "day": "2024-03-05",
    "price": 1.5,
    "pair": {"item_1": 1, "item_2": "a"},
    "tags": ["x"],
    "color": "red",
}
LINKED = Tree(root=Node(value=1, children=[Node(value=2)]), chain=Chain(value=1))


def both(answer: dict[str, Any]) -> dict[str, Any]:
    """The same answer of both providers."""
    return {"anthropic": answer, "openai": answer}


SHAPES = {
    "plain": Shape(Plain, Plain(name="Ada", age=36, weight=50.5, alive=False)),
    "described": Shape(Described, Described(name="Ada", home=ADA, number=3)),
    "nested": Shape(Nested, Nested(home=ADA, work=ADA)),
    "lists": Shape(Lists, Lists(tags=["a", "b"], addresses=[ADA], table=[[1, 2], [3]])),
    "slots with defaults": Shape(
        Halves,
        Halves(points=[HalfPoint(1), HalfPoint(2, "a"), HalfPoint(3, "q", None)]),
        anthropic={"points": [{"x": 1}, {"x": 2, "y": "a"},
                              {"x": 3, "z": None}]},
        openai={"points": [{"x": 1, "y": None, "z": 1},
                           {"x": 2, "y": "a", "z": 1},
                           {"x": 3, "y": None, "z": None}]},
    ),
    "keys that are no texts": Shape(
        Keyed,
        Keyed(by_number={1: "a", -2: "b"}, by_day={date(2026, 1, 2): 3}),
        **both({
            "by_number": [{"key": "1", "value": "a"}, {"key": "-2", "value": "b"}],
            "by_day": [{"key": "2026-01-02", "value": 3}],
        }),
    ),
    "a time without a zone": Shape(Zoneless, Zoneless(at=datetime(2026, 1, 2, 3, 4, 5))),
    "fields called like keywords": Shape(
        LikeKeywords,
        LikeKeywords(prefixItems=[1], format="decimal", properties={"a": 1}, items="x", enum=2),
        **both({"prefixItems": [1], "format": "decimal", "items": "x", "enum": 2,
                "properties": [{"key": "a", "value": 1}]}),
    ),
    "empty lists": Shape(Lists, Lists(tags=[], addresses=[], table=[])),
    "nullable": Shape(Nullable, Nullable(name=None, home=ADA)),
    "optional given": Shape(Optionals, Optionals(name="Ada", home=ADA, color=Color.DARK_BLUE)),
    "optional absent": Shape(Optionals, Optionals(), anthropic={}),
    "defaults given": Shape(Defaults, Defaults(name="x", count=1, tags=[], made=2)),
    "defaults absent": Shape(
        Defaults, Defaults(), {}, dict.fromkeys(("name", "count", "color", "tags", "made"))
    ),
    "null beside default": Shape(NullIsNotDefault, NullIsNotDefault(count=None)),
    "null beside default and dictionary": Shape(
        NullBesideMap,
        NullBesideMap(count=None, sizes={"a": 1}),
        {"count": None, "sizes": [{"key": "a", "value": 1}]},
        {"count": None, "sizes": [{"key": "a", "value": 1}]},
    ),
    "variants told by their tag": Shape(
        Data, Data(either=InOrder(data=[Pair(key="a", value=1)]))
    ),
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
        Decimals(
            price=Decimal("12.5"), discount=Decimal("0.25"), rates=[Decimal(1), Decimal("2.75")]
        ),
        DECIMALS_WIRE,
        DECIMALS_WIRE,
    ),
    "decimal or text": Shape(DecimalOrText, DecimalOrText(price="on request")),
    "strict model": Shape(
        Stern,
        Stern(
            day=date(2024, 3, 5), price=Decimal("1.50"), pair=(1, "a"), tags={"x"}, color=Color.RED
        ),
        STERN_WIRE,
        STERN_WIRE,
    ),
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
            key=UUID(int=5),
            link=AnyUrl("https://a.example/b"),
            host=IPv4Address("10.0.0.1"),
            blob=b"x",
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

PROVIDERS = {"anthropic": ANTHROPIC, "openai": OPENAI}


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


GEMINI_KEYWORDS = {
    "$defs", "$ref", "type", "format", "title", "description", "enum", "items", "minItems",
    "maxItems", "minimum", "maximum", "anyOf", "properties", "additionalProperties", "required",
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_a_schema_for_gemini_keeps_its_rules(name: str) -> None:
    """It holds no keyword that is not documented, and what cannot be said is refused."""
    schema = answer_schema(SHAPES[name].model)
    try:
        asked = asked_for(schema, GEMINI, job_id="a")
    except ValidationError:
        assert isinstance(SHAPES[name].anthropic, str)
        return
    assert common_faults(asked, GEMINI_KEYWORDS, {"date-time", "date", "time"}) == []
    assert not is_recursive(asked)


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
    schema = asked_for(answer_schema(shape.model), PROVIDERS[provider], job_id="a")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert FAULTS[provider](schema) == []


@pytest.mark.parametrize(("provider", "shape"), TAKEN)
def test_an_answer_on_the_wire_is_valid_and_read_as_the_same_object(
    provider: str, shape: Shape
) -> None:
    """What the provider's grammar lets through becomes the instance, with nothing lost."""
    schema = answer_schema(shape.model)
    answer = wire(shape, provider)
    jsonschema.validate(answer, asked_for(schema, PROVIDERS[provider], job_id="a"))
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
        asked_for(answer_schema(shape.model), PROVIDERS[provider], job_id="job-7")
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


class Changing(BaseModel):
    point: Annotated[
        list[Any], WithJsonSchema({"type": "array", "prefixItems": [{"type": "integer"}]})
    ]


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
        asked_for(answer_schema(model), PROVIDERS[provider], job_id="a")
    assert f"field {path!r} " in str(caught.value)
    assert reason in str(caught.value)


def test_limits_on_optional_fields_are_used_up_before_a_model_is_refused() -> None:
    """24 fields may be left out and 16 more may be null."""
    schema = asked_for(answer_schema(wide(40, 0)), ANTHROPIC, job_id="a")
    assert anthropic_faults(schema) == []
    assert len(schema["required"]) == 16
    fields: dict[str, Any] = {f"u{n}": (int | str | None, None) for n in range(10)}
    fields |= {f"o{n}": (str | None, None) for n in range(24)}
    mixed = asked_for(answer_schema(create_model("Mixed", **fields)), ANTHROPIC, job_id="a")
    assert anthropic_faults(mixed) == []
    assert mixed["required"] == [f"u{n}" for n in range(10)]


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
    schema = asked_for(answer_schema(model), PROVIDERS[provider], job_id="a")
    assert schema["properties"][name]["description"] == text


def test_titles_stay_only_where_they_say_more_than_the_name() -> None:
    """A title made of the name would cost tokens in every request."""
    properties = asked_for(answer_schema(Described), ANTHROPIC, job_id="a")["properties"]
    assert properties["number"]["title"] == "Number in the top right corner"
    assert "title" not in properties["name"]


def test_no_default_is_said_where_it_is_null() -> None:
    """That a field may be absent is in the schema already."""
    for dialect in PROVIDERS.values():
        properties = asked_for(answer_schema(Optionals), dialect, job_id="a")["properties"]
        assert all("description" not in node for node in properties.values())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tags_of_variants_are_required_whatever_their_default(provider: str) -> None:
    """Pydantic tells variants apart by a tag that is there."""
    dog = asked_for(answer_schema(Tagged), PROVIDERS[provider], job_id="a")["$defs"]["Dog"]
    assert dog["required"] == ["kind", "name"]
    assert dog["properties"]["kind"]["const"] == "dog"


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
    ours = asked_for(answer_schema(model), ANTHROPIC, job_id="a")
    assert bare(ours) == bare(transform_schema(model))


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
    assert bare(asked_for(answer_schema(model), OPENAI, job_id="a")) == bare(tool)


def formats(shape: Shape) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Provider, component of its OpenAPI document, and the format object of a request."""
    schema = answer_schema(shape.model)
    named = {"name": schema.name, "schema": asked_for(schema, OPENAI, job_id="a"), "strict": True}
    yield "openai", "ResponseFormatJsonSchema", {"type": "json_schema", "json_schema": named}
    yield "openai", "TextResponseFormatJsonSchema", {"type": "json_schema", **named}
    if not isinstance(shape.anthropic, str):
        claude = asked_for(schema, ANTHROPIC, job_id="a")
        yield "anthropic", "JsonOutputFormat", {"type": "json_schema", "schema": claude}


@cache
def components(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["components"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_formats_are_valid_in_the_official_documents(shape: Shape, real: Path) -> None:
    """The format objects around the schema are what the OpenAPI documents describe."""
    for provider, component, value in formats(shape):
        known = components(real / f"specs/{provider}.openapi.json")
        root = {"$ref": f"#/components/schemas/{component}", "components": known}
        jsonschema.Draft202012Validator(root).validate(value)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_formats_are_valid_in_the_types_of_the_sdks(shape: Shape) -> None:
    """The SDKs' own request types take them as they are."""
    from anthropic.types import JSONOutputFormatParam
    from openai.types.responses import ResponseFormatTextJSONSchemaConfigParam
    from openai.types.shared_params import ResponseFormatJSONSchema

    types = {
        "ResponseFormatJsonSchema": ResponseFormatJSONSchema,
        "TextResponseFormatJsonSchema": ResponseFormatTextJSONSchemaConfigParam,
        "JsonOutputFormat": JSONOutputFormatParam,
    }
    for _, component, value in formats(shape):
        assert TypeAdapter(types[component]).validate_python(value) == value
