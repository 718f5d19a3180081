"""Which field a citation supports: a table of traps beside `test_mapping`'s usual forms.

Each line is an answer, the texts that were cited, and what each field must and must not be mapped
to. The answer's own JSON stands behind the cited texts in every case, so nothing may come from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from batchata_prefect.answers import TextBlock
from batchata_prefect.content.citations import map_citations

D = Decimal


class Plan(Enum):
    PRO = "pro_annual"
    FREE = "free"


class Currency(Enum):
    EUR = "EUR"
    USD = "USD"


class Money(BaseModel):
    amount: D
    currency: Currency


class Item(BaseModel):
    description: str
    quantity: int
    unit_price: D
    amount: D


class Invoice(BaseModel):
    number: str
    issued: date
    items: list[Item]
    net: Money
    gross: Money


class Case(NamedTuple):
    """An answer, the cited texts, and field -> places of the texts that support it."""

    id: str
    value: Any
    cited: Sequence[str]
    expected: Mapping[str, Any]


INVOICE = Invoice(
    number="R-2031",
    issued=date(2026, 3, 4),
    items=[
        Item(description="Oak table", quantity=2, unit_price=D("450.00"), amount=D("900.00")),
        Item(description="Oak chair", quantity=6, unit_price=D("150.00"), amount=D("900.00")),
    ],
    net=Money(amount=D("1800.00"), currency=Currency.EUR),
    gross=Money(amount=D("2142.00"), currency=Currency.EUR),
)

MARCH_4 = date(2026, 3, 4)
CASES = [
    # The value in two places
    Case(
        "rent twice, one is named",
        {"deposit": 1500},
        ["Rent 1,500", "Deposit: 1,500"],
        {"deposit": [1]},
    ),
    Case(
        "named in both", {"rent": 900}, ["Rent: 900 EUR", "the rent of 900 EUR"], {"rent": [0, 1]}
    ),
    Case(
        "date of another event",
        {"signed": MARCH_4},
        ["Starts 4 March 2026", "Signed 4 March 2026"],
        {"signed": [1]},
    ),
    Case(
        "another city", {"city": "Hamburg"}, ["Port of Hamburg", "City: Hamburg"], {"city": [1, 0]}
    ),
    Case(
        "other person of the name",
        {"tenant": "Ann Lee"},
        ["Landlord: Ann Lee", "Tenant: Ann Lee"],
        {"tenant": {1: "high"}},
    ),
    Case("one text, two places", {"total": 50}, ["Fee 50\nTotal 50"], {"total": {0: "high"}}),
    Case(
        "only at another name",
        {"tenant": "Ann Lee"},
        ["Landlord: Ann Lee"],
        {"tenant": {0: "medium"}},
    ),
    Case("the name of another line", {"total": 80}, ["Total 90\nPaid 80"], {"total": {0: "low"}}),
    Case(
        "no name at either",
        {"units": 40},
        ["40 chairs", "40 tables"],
        {"units": {0: "low", 1: "low"}},
    ),
    # Digits inside of digits
    Case("head of a number", {"total": 125}, ["Total 12500"], {}),
    Case("tail of a number", {"total": 500}, ["Total 12500"], {}),
    Case("group of a number", {"total": 345}, ["Total 12,345,678"], {}),
    Case("group in German", {"total": 345}, ["Gesamt Total 12.345.678"], {}),
    Case("cents alone", {"total": 99}, ["Total 1.99"], {}),
    Case("whole of German cents", {"total": 1}, ["Total 1,99"], {}),
    Case("in a phone number", {"extension": 4411}, ["Extension of the phone 030-4411-220"], {}),
    Case("in a postcode with letters", {"number": 12}, ["Number NW12 8AB"], {}),
    Case("in an IP address", {"port": 168}, ["Port of 192.168.0.1"], {}),
    Case("in a section number", {"months": 3}, ["Months, see section 2.3.1"], {}),
    Case("in an e-mail address", {"count": 24}, ["Count: ask office24@example.com"], {}),
    Case("in a URL", {"count": 77}, ["Count at https://example.com/77/x"], {}),
    Case("in a hash", {"count": 31}, ["Count of a31f7"], {}),
    Case("in a part of an ISBN", {"count": 306}, ["Count 978-0-306-40615-7"], {}),
    Case("behind a currency code", {"total": 500}, ["Total EUR1500"], {}),
    Case("text number inside a longer one", {"code": "4711"}, ["Code 47110"], {}),
    Case("text number with a tail", {"code": "4711"}, ["Code 4711.5"], {}),
    Case("leading zeros are the code", {"code": "0042"}, ["Code 0042"], {"code": {0: "high"}}),
    Case("leading zeros are not 42", {"code": "0042"}, ["Code 42"], {}),
    # Dates against numbers
    Case("year is no count", {"employees": 2026}, ["Employees as of March 2026"], {}),
    Case("day is no count", {"pages": 4}, ["Pages of 4 March 2026"], {}),
    Case("month is no count", {"pages": 3}, ["Pages of 04/03/2026"], {}),
    Case("count beside a date", {"pages": 12}, ["4 March 2026, pages: 12"], {"pages": {0: "high"}}),
    Case("count is no date", {"issued": MARCH_4}, ["Issued 4326 copies"], {}),
    Case(
        "a number that looks like a date",
        {"amount": 20260304},
        ["Amount 20,260,304"],
        {"amount": [0]},
    ),
    Case("version is no date", {"issued": date(2026, 3, 4)}, ["Issued as version 4.3"], {}),
    Case(
        "year as a number",
        {"founded_year": 1987},
        ["Founded in 1987"],
        {"founded_year": {0: "high"}},
    ),
    Case(
        "year of a date as a number",
        {"tax_year": 2025},
        ["Tax year ending 31.12.2025"],
        {"tax_year": [0]},
    ),
    Case("clock is no ratio", {"ratio": 12.3}, ["Ratio measured at 12:30"], {}),
    Case(
        "date and time",
        {"sent_at": datetime(2026, 3, 4, 9, 5)},
        ["Sent 2026-03-04T09:05:00Z"],
        {"sent_at": {0: "high"}},
    ),
    Case(
        "date and another time",
        {"sent_at": datetime(2026, 3, 4, 9, 5)},
        ["Sent 2026-03-04, 17:30"],
        {"sent_at": {0: "medium"}},
    ),
    Case("time in the evening", {"closes": time(21, 0)}, ["Closes at 9 pm"], {"closes": [0]}),
    Case("time in the morning", {"closes": time(21, 0)}, ["Closes at 9 am"], {}),
    # Dates in every order
    Case("day first with dots", {"due": MARCH_4}, ["Due 04.03.2026"], {"due": {0: "high"}}),
    Case("day first, other day", {"due": date(2026, 3, 14)}, ["Due 04.03.2026"], {}),
    Case(
        "month first by its day",
        {"due": date(2026, 3, 14)},
        ["Due 03/14/2026"],
        {"due": {0: "high"}},
    ),
    Case("ambiguous, read day first", {"due": MARCH_4}, ["Due 04/03/2026"], {"due": [0]}),
    Case(
        "ambiguous, read month first", {"due": date(2026, 4, 3)}, ["Due 04/03/2026"], {"due": [0]}
    ),
    Case("dots are never month first", {"due": date(2026, 4, 3)}, ["Fällig Due 13.04.2026"], {}),
    Case("year first with dots", {"due": MARCH_4}, ["Due 2026.03.04"], {"due": {0: "high"}}),
    Case(
        "weekday before", {"due": MARCH_4}, ["Due Wednesday, March 4th, 2026"], {"due": {0: "high"}}
    ),
    Case(
        "weekday in German",
        {"due": MARCH_4},
        ["Due Mittwoch, den 4. März 2026"],
        {"due": {0: "high"}},
    ),
    Case("French month", {"due": date(2026, 8, 1)}, ["Due le 1er août 2026"], {"due": {0: "high"}}),
    Case("Japanese", {"due": MARCH_4}, ["Due 2026年3月4日"], {"due": {0: "high"}}),
    Case("year with apostrophe", {"due": MARCH_4}, ["Due 4 Mar '26"], {"due": {0: "high"}}),
    Case("last century", {"born": date(1958, 7, 9)}, ["Born 9 July 1958"], {"born": {0: "high"}}),
    Case(
        "last century, short", {"born": date(1998, 7, 9)}, ["Born 09.07.98"], {"born": {0: "high"}}
    ),
    Case("no year", {"due": MARCH_4}, ["Due on 4 March"], {"due": {0: "medium"}}),
    Case("no year, other field", {"due": MARCH_4}, ["The shop opened on 4 March"], {}),
    Case("month and year, other year", {"due": date(2025, 3, 4)}, ["Due in March 2026"], {}),
    Case(
        "a range of days",
        {"start": MARCH_4, "end": date(2026, 3, 9)},
        ["Start 04.03.2026 - End 09.03.2026"],
        {"start": {0: "high"}, "end": {0: "high"}},
    ),
    Case(
        "text with a date",
        {"period": "March 2026"},
        ["Period: March 2026"],
        {"period": {0: "high"}},
    ),
    # Currency, percent, negative, separators
    Case("dollars", {"fee": D("19.99")}, ["Fee US$ 19.99"], {"fee": {0: "high"}}),
    Case("pounds and thousands", {"fee": D("1250.00")}, ["Fee £1,250"], {"fee": {0: "high"}}),
    Case("euros behind", {"fee": D("1250.5")}, ["Fee 1.250,50€"], {"fee": {0: "high"}}),
    Case("yen", {"fee": 12000}, ["Fee ¥12,000"], {"fee": {0: "high"}}),
    Case("Swiss dash for cents", {"fee": 250}, ["Fee CHF 250.-"], {"fee": [0]}),
    Case("German dash for cents", {"fee": 250}, ["Fee 250,- EUR"], {"fee": [0]}),
    Case("cents that differ", {"fee": D("19.99")}, ["Fee 19.90"], {}),
    Case("cents are written out", {"fee": D("19.9")}, ["Fee 19.90"], {"fee": {0: "high"}}),
    Case("separator is no point", {"fee": D("1.25")}, ["Fee 1,250"], {"fee": {0: "medium"}}),
    Case("separator is no point, unnamed", {"fee": D("1.25")}, ["You pay 1,250"], {}),
    Case("point is no separator", {"fee": 125}, ["Fee 1.25"], {}),
    Case("three decimals", {"weight": D("1.234")}, ["Weight 1.234 kg"], {"weight": [0]}),
    Case("comma for three decimals", {"weight": D("1.234")}, ["Weight 1,234 kg"], {"weight": [0]}),
    Case("percent of a share", {"rate": D("0.075")}, ["Rate: 7.5%"], {"rate": {0: "high"}}),
    Case("percent in German", {"rate": D("7.5")}, ["Rate: 7,5 Prozent"], {"rate": {0: "high"}}),
    Case(
        "percent of another", {"discount": 10}, ["VAT 10%\nDiscount 10"], {"discount": {0: "high"}}
    ),
    Case("share against count", {"seats": 0.2}, ["20 seats"], {}),
    Case(
        "loss in brackets", {"result": D("-1250.5")}, ["Result (1,250.50)"], {"result": {0: "high"}}
    ),
    Case(
        "loss in brackets with euros",
        {"result": -1250},
        ["Result (€1,250)"],
        {"result": {0: "high"}},
    ),
    Case("a remark in brackets", {"pages": 12}, ["Report (12 pages)"], {"pages": {0: "high"}}),
    Case(
        "credit with its sign behind",
        {"balance": D("-99.00")},
        ["Balance 99.00 CR-"],
        {"balance": {0: "medium"}},
    ),
    Case(
        "minus of another line", {"total": 100}, ["Discount -\nTotal 100"], {"total": {0: "high"}}
    ),
    Case("a dash before", {"total": 100}, ["Total - 100"], {"total": [0]}),
    Case("millions", {"revenue": 3_400_000}, ["Revenue EUR 3.4m"], {"revenue": {0: "high"}}),
    Case("metres are no millions", {"length": 3_400_000}, ["Length 3.4 metres"], {}),
    Case("in thousands", {"revenue": 3400}, ["Revenue 3.4k"], {"revenue": {0: "high"}}),
    Case("zero", {"tax": 0}, ["Tax: 0.00"], {"tax": {0: "high"}}),
    Case("zero nowhere", {"tax": 0}, ["Tax is not charged"], {}),
    Case(
        "large integer of text",
        {"account": "12345678901234567"},
        ["Account 12345678901234567"],
        {"account": {0: "high"}},
    ),
    Case("plus sign", {"change": D("4.5")}, ["Change +4.5%"], {"change": [0]}),
    # Several fields with one value
    Case(
        "net is gross",
        {"net": 100, "gross": 100},
        ["Net 100", "Gross 100"],
        {"net": {0: "high"}, "gross": {1: "high"}},
    ),
    Case(
        "price and total alike",
        {"unit_price": D("9.5"), "total": D("9.5")},
        ["Unit price 9.50 Quantity 1 Total 9.50"],
        {"unit_price": {0: "high"}, "total": {0: "high"}},
    ),
    Case(
        "one date, two meanings",
        {"ordered": MARCH_4, "shipped": MARCH_4},
        ["Ordered: 2026-03-04", "Shipped: 2026-03-04"],
        {"ordered": {0: "high"}, "shipped": {1: "high"}},
    ),
    Case(
        "same name in two roles",
        {"buyer": "Acme Ltd", "payer": "Acme Ltd"},
        ["Buyer: Acme Ltd", "Payer: Acme Ltd"],
        {"buyer": [0], "payer": [1]},
    ),
    Case(
        "true and true",
        {"paid": True, "shipped": True},
        ["Paid: yes", "Shipped: yes"],
        {"paid": {0: "high"}, "shipped": {1: "high"}},
    ),
    Case(
        "true and false",
        {"paid": True, "shipped": False},
        ["Paid: yes, shipped: no"],
        {"paid": {0: "high"}, "shipped": {0: "high"}},
    ),
    Case(
        "count and number of it",
        {"rooms": 3, "floor": 3},
        ["3 rooms on floor 3"],
        {"rooms": {0: "high"}, "floor": {0: "high"}},
    ),
    # Lists and paths
    Case(
        "deep path",
        {"a": {"b": [{"c": {"price": 77.5}}]}},
        ["Price 77.50"],
        {"a.b[0].c.price": {0: "high"}},
    ),
    Case(
        "list of dates",
        {"visits": [MARCH_4, date(2026, 3, 9)]},
        ["Visits: 4 March 2026", "Visits: 9 March 2026"],
        {"visits[0]": {0: "high"}, "visits[1]": {1: "high"}},
    ),
    Case(
        "one of a list is not there",
        {"tags": ["garden chairs", "sofa beds"]},
        ["garden chairs only"],
        {"tags[0]": [0]},
    ),
    Case(
        "list of lists",
        {"grid": [[1200, 1300], [1400, 1500]]},
        ["Grid 1200 1300", "Grid 1400 1500"],
        {"grid[0][0]": [0], "grid[0][1]": [0], "grid[1][0]": [1], "grid[1][1]": [1]},
    ),
    Case(
        "values of two rows",
        {"items": [{"sku": "A-100", "price": 20}, {"sku": "B-200", "price": 30}]},
        ["A-100 20\nB-200 30"],
        {"items[0].sku": [0], "items[0].price": [0], "items[1].sku": [0], "items[1].price": [0]},
    ),
    Case(
        "row of another",
        {"items": [{"sku": "A-100", "price": 20}]},
        ["A-100 30\nB-200 20"],
        {"items[0].sku": [0]},
    ),
    Case(
        "same rows",
        {"items": [{"sku": "A-100", "price": 20}, {"sku": "B-200", "price": 20}]},
        ["B-200 20"],
        {"items[1].sku": [0], "items[1].price": [0], "items[0].price": {0: "low"}},
    ),
    Case(
        "a whole invoice",
        INVOICE,
        [
            "Invoice number R-2031, issued 4 March 2026",
            "Oak table 2 450.00 900.00",
            "Oak chair 6 150.00 900.00",
            "Net amount EUR 1,800.00",
            "Gross amount EUR 2,142.00",
        ],
        {
            "number": [0],
            "issued": [0],
            "items[0].description": [1],
            "items[0].quantity": [1],
            "items[0].unit_price": [1],
            "items[0].amount": [1],
            "items[1].description": [2],
            "items[1].quantity": [2],
            "items[1].unit_price": [2],
            "items[1].amount": [2],
            "net.amount": {3: "high"},
            "net.currency": ...,
            "gross.amount": {4: "high"},
            "gross.currency": ...,
        },
    ),
    # Texts: quoted, partial, inside of others, in other spellings
    Case(
        "quoted by the document",
        {"title": "The Long Way"},
        ["a film, “The Long Way”, of 1998"],
        {"title": {0: "high"}},
    ),
    Case(
        "other quotes", {"nickname": "O'Neil"}, ["Nickname: O\u2019Neil"], {"nickname": {0: "high"}}
    ),
    Case(
        "partial company",
        {"vendor": "Acme Trading Company Limited"},
        ["Vendor: Acme Trading Company"],
        {"vendor": {0: "medium"}},
    ),
    Case("longer than the value", {"vendor": "Acme"}, ["Vendor: Acmeco Ltd"], {}),
    Case(
        "hyphen at a line's end",
        {"subject": "maintenance contract"},
        ["Subject: mainte-\nnance contract"],
        {"subject": [0]},
    ),
    Case("accents", {"city": "Zürich"}, ["City: Zu\u0308rich"], {"city": {0: "high"}}),
    Case("other accents", {"city": "Zürich"}, ["City: Zurich"], {"city": [0]}),
    Case(
        "sharp s", {"street": "Hauptstraße 5"}, ["Street: HAUPTSTRASSE 5"], {"street": {0: "high"}}
    ),
    Case("another house", {"street": "Hauptstraße 5"}, ["Street: Hauptstraße 55"], {}),
    Case(
        "email", {"email": "ann@example.com"}, ["mail to Ann@Example.com."], {"email": {0: "high"}}
    ),
    Case("email inside another", {"contact": "ann@example.com"}, ["mail joann@example.com"], {}),
    Case(
        "another address of the house",
        {"contact": "ann@example.com"},
        ["Contact: bob@example.com"],
        {},
    ),
    Case(
        "phone in another form",
        {"phone": "+1 (555) 010-4477"},
        ["Phone 1-555-010-4477"],
        {"phone": [0]},
    ),
    Case("phone one digit off", {"phone": "+1 (555) 010-4477"}, ["Phone 1-555-010-4478"], {}),
    Case("code of two letters", {"state": "IN"}, ["in the state of Ohio"], {}),
    Case("short word", {"status": "open"}, ["The shop opens at nine"], {}),
    Case(
        "negated word is the text",
        {"status": "not paid"},
        ["Status: not paid"],
        {"status": {0: "high"}},
    ),
    Case("name of the field alone", {"vendor": "Acme Trading"}, ["Vendor:"], {}),
    Case("name of the field is the value", {"type": "Invoice"}, ["Invoice 17"], {"type": [0]}),
    # Enums and booleans
    Case("enum in words", {"plan": Plan.PRO}, ["Plan: Pro annual"], {"plan": {0: "high"}}),
    Case("enum by its name", {"plan": Plan.PRO}, ["Plan: PRO"], {"plan": [0]}),
    Case("enum of another", {"plan": Plan.FREE}, ["Plan: Pro annual"], {}),
    Case("enum inside a word", {"plan": Plan.FREE}, ["a freestanding plan"], {}),
    Case("literal with dashes", {"terms": "net-30"}, ["Terms: net 30"], {"terms": [0]}),
    Case("box checked", {"insured": True}, ["[x] Insured"], {"insured": {0: "high"}}),
    Case("box empty", {"insured": False}, ["\u2610 Insured"], {"insured": {0: "high"}}),
    Case("box empty is not true", {"insured": True}, ["\u2610 Insured"], {}),
    Case(
        "denied in other words",
        {"renewable": False},
        ["The lease isn't renewable."],
        {"renewable": {0: "high"}},
    ),
    Case(
        "a no elsewhere",
        {"furnished": True},
        ["No pets. Furnished: yes"],
        {"furnished": {0: "high"}},
    ),
    Case("yes to another", {"furnished": True}, ["Parking: yes"], {}),
    Case("prefix of a name", {"is_active": True}, ["Active: yes"], {"is_active": {0: "high"}}),
    # The field's name in the text around
    Case(
        "name before a colon",
        {"order_number": 8812},
        ["Order number: 8812"],
        {"order_number": {0: "high"}},
    ),
    Case(
        "name over two lines",
        {"order_number": 8812},
        ["Order number\n8812"],
        {"order_number": {0: "high"}},
    ),
    Case(
        "only the generic part",
        {"order_number": 12},
        ["Number of guests: 12"],
        {"order_number": {0: "low"}},
    ),
    Case("plural", {"child": 2}, ["2 of the children"], {"child": {0: "low"}}),
    Case(
        "words turned around",
        {"date_of_birth": MARCH_4},
        ["Birth date: 4 March 2026"],
        {"date_of_birth": {0: "high"}},
    ),
    Case(
        "name in another field's words",
        {"total": 20, "subtotal": 80},
        ["Subtotal: 80", "Total: 20"],
        {"total": {1: "high"}, "subtotal": {0: "high"}},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_citation_supports_what_it_speaks_of_and_nothing_else(case: Case) -> None:
    """The places of each field's citations are those of the table, and no other field has any."""
    blocks = [
        TextBlock("", ({"type": "char_location", "cited_text": text, "document_index": at},))
        for at, text in enumerate(case.cited)
    ]
    dump = (
        case.value.model_dump_json()
        if isinstance(case.value, BaseModel)
        else json.dumps(case.value, default=str)
    )
    blocks.append(TextBlock(f"\n```json\n{dump}\n```"))
    mapped = map_citations(case.value, blocks)
    found = {
        path: {one.metadata["document_index"]: one.confidence for one in citations}
        for path, citations in mapped.items()
    }
    why = {path: [one.match_reason for one in citations] for path, citations in mapped.items()}
    assert set(found) - {p for p, w in case.expected.items() if w is ...} == {
        p for p, w in case.expected.items() if w is not ...
    }, why
    for path, wanted in case.expected.items():
        if isinstance(wanted, list):
            assert list(found[path]) == wanted, why
        elif wanted is not ...:
            assert found[path] == wanted, why


def test_the_table_is_large_enough() -> None:
    """At least 80 cases, each under a name of its own."""
    assert len({case.id for case in CASES}) == len(CASES) >= 80
