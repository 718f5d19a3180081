"""Citations mapped to the fields that they support: one table of cases, most of them traps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from pydantic import BaseModel, Field

from batchata_prefect.answers import TextBlock
from batchata_prefect.content.citations import map_citations

D = Decimal


class Status(Enum):
    IN_PROGRESS = "in_progress"
    DONE = "done"


class Level(IntEnum):
    HIGH = 3


class Incoterm(Enum):
    DELIVERED = "DPU"


class Line(BaseModel):
    name: str
    qty: int
    price: D


class Order(BaseModel):
    vendor: str
    lines: list[Line]
    total: D


class Address(BaseModel):
    street: str
    city: str


class Parties(BaseModel):
    billing_address: Address
    shipping_address: Address


class Aliased(BaseModel):
    number: str = Field(alias="Rechnungsnummer")
    when: date = Field(title="Lieferdatum")


@dataclass(frozen=True)
class Case:
    """A parsed answer, what was cited for it, and which citations support which field.

    `cited` holds cited texts, or pairs of the answer's sentence and the cited text. `expected`
    maps a field's path to the citations that support it, or to their confidence.
    """

    id: str
    value: Any
    cited: Sequence[str | tuple[str, str]]
    expected: Mapping[str, Any]


CASES = [
    # numbers: every usual form
    Case("int plain", {"total": 1250}, ["Total: 1250"], {"total": {0: "high"}}),
    Case("int thousands comma", {"total": 1250}, ["Total: 1,250"], {"total": {0: "high"}}),
    Case("float US", {"total": 1234.5}, ["Total $1,234.50"], {"total": {0: "high"}}),
    Case("decimal European", {"total": D("1234.50")}, ["Total 1.234,50 EUR"], {"total": [0]}),
    Case("decimal French", {"total": D("1234.50")}, ["Total 1 234,50 €"], {"total": [0]}),
    Case("narrow space", {"total": D("1234567")}, ["Total 1\u202f234\u202f567"], {"total": [0]}),
    Case("decimal Swiss", {"total": D("1234.50")}, ["Total CHF 1'234.50"], {"total": [0]}),
    Case("Indian groups", {"total": 123456}, ["Total Rs 1,23,456"], {"total": [0]}),
    Case("curly apostrophe", {"total": 12500}, ["Total 12\u2019500"], {"total": [0]}),
    Case("full width digits", {"total": 1250}, ["Total \uff11\uff12\uff15\uff10"], {"total": [0]}),
    Case("currency before", {"total": 500}, ["Total USD500"], {"total": [0]}),
    Case("currency after", {"total": 500}, ["Total 500€"], {"total": [0]}),
    Case("percent as share", {"tax_rate": 0.19}, ["Tax rate 19 %"], {"tax_rate": {0: "high"}}),
    Case("percent as number", {"tax_rate": 19}, ["Tax rate: 19%"], {"tax_rate": {0: "high"}}),
    Case("negative in brackets", {"net": -500}, ["Net loss (500)"], {"net": {0: "high"}}),
    Case("negative brackets currency", {"net": -500}, ["Net ($500)"], {"net": [0]}),
    Case("negative minus sign", {"net": -500}, ["Net \u2212500"], {"net": {0: "high"}}),
    Case("negative behind", {"net": -500}, ["Net 500.00-"], {"net": [0]}),
    Case("negative before currency", {"net": D("-12.34")}, ["Net -$12.34"], {"net": [0]}),
    Case("credit without sign", {"discount": -50}, ["Discount 50.00"], {"discount": {0: "medium"}}),
    Case("million", {"revenue": 1200000}, ["Revenue of $1.2 million"], {"revenue": {0: "high"}}),
    Case("billion short", {"revenue": 3.4e9}, ["Revenue: $3.4bn"], {"revenue": [0]}),
    Case("thousand k", {"users": 5000}, ["We have 5k users"], {"users": [0]}),
    Case("in millions", {"revenue": 1.2}, ["Revenue of $1.2 million"], {"revenue": [0]}),
    Case("float noise", {"total": 0.1 + 0.2}, ["Total 0.30"], {"total": [0]}),
    Case("unit attached", {"weight": 12}, ["Weight 12kg"], {"weight": [0]}),
    Case("number word", {"employees": 12}, ["twelve employees"], {"employees": [0]}),
    Case("numeric text", {"total": "1234.50"}, ["Total 1,234.50"], {"total": [0]}),
    Case("leading point", {"rate": 0.5}, ["Rate .5"], {"rate": [0]}),
    # numbers: traps
    Case("digits inside digits", {"qty": 234}, ["Qty 12345"], {}),
    Case("digits inside thousands", {"qty": 234}, ["Qty 1,234"], {}),
    Case("digits inside spaced", {"qty": 234}, ["Qty 1 234 €"], {}),
    Case("digits inside decimals", {"qty": 12}, ["Qty 3.12"], {}),
    Case("whole of a decimal", {"qty": 12}, ["Qty 12.5"], {}),
    Case("digits inside identifier", {"qty": 2024}, ["Qty, see INV-2024-001"], {}),
    Case("digits inside word", {"qty": 4}, ["Qty of PS4 consoles"], {}),
    Case("digits inside version", {"qty": 2}, ["Qty in release 1.2.3"], {}),
    Case("number against date", {"qty": 5}, ["Qty as of 5 March 2024"], {}),
    Case("number against ISO date", {"qty": 3}, ["Qty on 2024-03-05"], {}),
    Case("number against slash date", {"qty": 12}, ["Qty 12/03/2024"], {}),
    Case("number against time", {"qty": 30}, ["Qty counted at 12:30"], {}),
    Case("year of a date", {"year": 2024}, ["Year ended 31 December 2024"], {"year": [0]}),
    Case("positive against brackets", {"qty": 500}, ["The loss was (500)"], {}),
    Case("positive against negative", {"balance": 500}, ["Balance -500"], {}),
    Case("range is no sign", {"maximum": 500}, ["Maximum in 100-500"], {"maximum": [0]}),
    Case("percent against count", {"qty": 15}, ["a rebate of 15%"], {}),
    Case("thousand against fraction", {"rate": 1.234}, ["Sum: 1,234"], {}),
    Case("one is no evidence", {"qty": 1}, ["one of the best"], {}),
    Case("hour of a time", {"qty": 12}, ["Qty counted at 12:30"], {}),
    Case("last group of a spaced number", {"qty": 500}, ["Qty 12 500"], {}),
    Case(
        "money in a row",
        {"lines": [{"name": "Widget", "qty": 234}]},
        ["Widget 1 234 €"],
        {"lines[0].name": [0]},
    ),
    Case(
        "another number between",
        {"total": 100},
        ["Total 120, deposit 100"],
        {"total": {0: "low"}},
    ),
    Case(
        "name in the sentence before",
        {"total": 12},
        ["Total unknown. Weight 12 kg"],
        {"total": {0: "medium"}},
    ),
    # dates
    Case("date ISO", {"due": date(2024, 3, 5)}, ["Due 2024-03-05"], {"due": {0: "high"}}),
    Case("date day first", {"due": date(2024, 3, 5)}, ["Due: 05/03/2024"], {"due": [0]}),
    Case("date month first", {"due": date(2024, 3, 5)}, ["Due: 3/5/2024"], {"due": [0]}),
    Case("date dots", {"due": date(2024, 3, 5)}, ["Due 5.3.2024"], {"due": [0]}),
    Case("date dots spaced", {"due": date(2024, 3, 5)}, ["Due 05. 03. 2024"], {"due": [0]}),
    Case("date short year", {"due": date(2024, 3, 5)}, ["Due 05.03.24"], {"due": [0]}),
    Case("date year first slashes", {"due": date(2024, 3, 5)}, ["Due 2024/3/5"], {"due": [0]}),
    Case("date long", {"due": date(2024, 3, 5)}, ["Due on March 5, 2024."], {"due": {0: "high"}}),
    Case("date ordinal", {"due": date(2024, 3, 5)}, ["Due 5th of March 2024"], {"due": [0]}),
    Case("date month short", {"due": date(2024, 3, 5)}, ["Due 5-Mar-24"], {"due": [0]}),
    Case("date German", {"due": date(2024, 3, 5)}, ["Due 5. März 2024"], {"due": [0]}),
    Case("date Spanish", {"due": date(2024, 3, 5)}, ["Due 5 de marzo de 2024"], {"due": [0]}),
    Case("date Chinese", {"due": date(2024, 3, 5)}, ["Due 2024年3月5日"], {"due": [0]}),
    Case("date compact", {"due": date(2024, 3, 5)}, ["Due 20240305"], {"due": [0]}),
    Case("date in text field", {"due": "2024-03-05"}, ["Due March 5, 2024"], {"due": [0]}),
    Case("datetime", {"at": datetime(2024, 3, 5, 14, 30)}, ["5 March 2024, 2:30 pm"], {"at": [0]}),
    Case("time of day", {"opens": time(14, 30)}, ["Opens at 2:30 pm"], {"opens": [0]}),
    Case("month only", {"due": date(2024, 3, 1)}, ["Due in March 2024"], {"due": {0: "medium"}}),
    Case("other month only", {"due": date(2024, 4, 1)}, ["Due in March 2024"], {}),
    Case("other day", {"due": date(2024, 3, 15)}, ["Due 5 March 2024"], {}),
    Case("date against number", {"due": date(2024, 3, 5)}, ["Due: 2024 boxes of 5"], {}),
    Case("impossible order", {"due": date(2024, 5, 31)}, ["Due 31/05/2024"], {"due": [0]}),
    Case(
        "whole date before a part",
        {"due": date(2024, 3, 5)},
        ["Due in March 2024", "Due 5 March 2024"],
        {"due": [1]},
    ),
    # texts
    Case("text", {"vendor": "ACME GmbH"}, ["sold by ACME GmbH, Berlin"], {"vendor": {0: "high"}}),
    Case("text case", {"vendor": "Acme GmbH"}, ["Vendor: ACME GMBH"], {"vendor": {0: "high"}}),
    Case(
        "text over lines", {"vendor": "Acme Trading Ltd"}, ["Acme\nTrading  Ltd"], {"vendor": [0]}
    ),
    Case("text quoted", {"title": '"The Long Way"'}, ["called “The Long Way”"], {"title": [0]}),
    Case("text ligature", {"office": "Office Five"}, ["the O\ufb03ce Five"], {"office": [0]}),
    Case(
        "text typo", {"vendor": "Acme Trading Ltd"}, ["by Acme Tradinq Ltd"], {"vendor": {0: "low"}}
    ),
    Case(
        "text partial",
        {"vendor": "ACME Corporation Ltd"},
        ["Vendor: ACME Corporation"],
        {"vendor": {0: "medium"}},
    ),
    Case(
        "name order", {"author": "John Smith"}, ["Author: Smith, John"], {"author": {0: "medium"}}
    ),
    Case(
        "cited part of a summary",
        {"summary": "Ruby was made in 1993. It is fun to use."},
        ["Ruby was made in 1993."],
        {"summary": [0]},
    ),
    Case("identifier", {"invoice_number": "INV-001"}, ["Invoice INV-001"], {"invoice_number": [0]}),
    Case("identifier inside", {"invoice_number": "INV-001"}, ["Invoice INV-0012"], {}),
    Case("identifier one off", {"invoice_number": "INV-2024-0001"}, ["Invoice INV-2024-0002"], {}),
    Case(
        "identifier separators",
        {"iban": "DE89370400440532013000"},
        ["IBAN DE89 3704 0044 0532 0130 00"],
        {"iban": [0]},
    ),
    Case(
        "phone separators", {"phone": "+49 30 1234567"}, ["Tel. (+49) 30/123 45 67"], {"phone": [0]}
    ),
    Case(
        "numeric identifier",
        {"invoice_number": "42183017"},
        ["Invoice Number: 42183017"],
        {"invoice_number": {0: "high"}},
    ),
    Case("text one number off", {"vendor": "Acme Trading 24 Ltd"}, ["by Acme Trading 25 Ltd"], {}),
    Case("text inside longer words", {"code": "azure int"}, ["to azure interior"], {}),
    Case("word inside word", {"city": "Rome"}, ["a Romeo and a chrome tap"], {}),
    Case("short code is exact", {"country": "US"}, ["tell us more"], {}),
    Case("short code", {"country": "US"}, ["Country: US"], {"country": {0: "high"}}),
    Case("currency by sign", {"currency": "EUR"}, ["Total 1.234,50 €"], {"currency": {0: "low"}}),
    Case(
        "enum by value",
        {"status": Status.IN_PROGRESS},
        ["Status: in progress"],
        {"status": {0: "high"}},
    ),
    Case(
        "enum by name", {"incoterm": Incoterm.DELIVERED}, ["Incoterm: delivered"], {"incoterm": [0]}
    ),
    Case("enum of numbers", {"level": Level.HIGH}, ["Level 3"], {"level": [0]}),
    Case(
        "name alone in the answer",
        {"country": "DE"},
        [("The country is Germany.", "Berlin, Germany")],
        {"country": {0: "low"}},
    ),
    # yes and no
    Case("true yes", {"paid": True}, ["Paid: yes"], {"paid": {0: "high"}}),
    Case("false no", {"paid": False}, ["Paid: no"], {"paid": {0: "high"}}),
    Case("true against no", {"paid": True}, ["Paid: no"], {}),
    Case("false against yes", {"paid": False}, ["Paid: yes"], {}),
    Case(
        "true by name",
        {"tax_exempt": True},
        ["The buyer is tax exempt."],
        {"tax_exempt": {0: "low"}},
    ),
    Case(
        "false by not",
        {"refundable": False},
        ["This fee is not refundable."],
        {"refundable": {0: "high"}},
    ),
    Case("false by name is nothing", {"refundable": False}, ["A refundable fee."], {}),
    Case("check mark", {"signed": True}, ["\u2611 signed"], {"signed": {0: "high"}}),
    # names and neighbours
    Case(
        "name in the answer",
        {"total": 500},
        [("The total is 500.", "amount payable 500")],
        {"total": {0: "high"}},
    ),
    Case(
        "value only in the answer",
        {"total": 500},
        [("The total is 500.", "2 x 250")],
        {"total": {0: "medium"}},
    ),
    Case("short value only in the answer", {"qty": 12}, [("It has 12 of them.", "a dozen")], {}),
    Case("number nowhere", {"total": 500}, [("The total is high.", "2 x 250")], {}),
    Case(
        "camel case", {"invoiceTotal": 500}, ["Invoice total: 500"], {"invoiceTotal": {0: "high"}}
    ),
    Case(
        "abbreviated name",
        {"invoice_number": 77},
        ["Invoice No. 77"],
        {"invoice_number": {0: "high"}},
    ),
    Case("label above", {"total": 77}, ["Total\n77"], {"total": {0: "high"}}),
    Case("label behind", {"total": 77}, ["77 in total"], {"total": {0: "high"}}),
    Case(
        "alias",
        Aliased.model_validate({"Rechnungsnummer": "77", "when": "2024-03-05"}),
        ["Rechnungsnummer 77", "Lieferdatum 05.03.2024"],
        {"number": {0: "high"}, "when": {1: "high"}},
    ),
    # one value, two places
    Case(
        "named place wins",
        {"total": 1250},
        ["Total due: 1,250", "Previous balance 1,250"],
        {"total": {0: "high"}},
    ),
    Case(
        "named place wins later",
        {"qty": 12},
        ["12 months of warranty", "Qty: 12"],
        {"qty": {1: "high"}},
    ),
    Case(
        "two sources both named",
        {"total": 1250},
        ["Total: 1,250", "total 1250.00"],
        {"total": [0, 1]},
    ),
    Case(
        "long text in two places",
        {"vendor": "Acme Trading Ltd"},
        ["Vendor Acme Trading Ltd", "Acme Trading Ltd, Berlin"],
        {"vendor": {0: "high", 1: "high"}},
    ),
    Case("short number in many places", {"qty": 1}, ["1 page", "1 year", "1 box", "1 door"], {}),
    Case(
        "exact before loose",
        {"vendor": "Acme Trading Ltd"},
        ["Acme Trading Ltd", "Acme Tradinq Ltd"],
        {"vendor": [0]},
    ),
    # several fields, one value
    Case(
        "subtotal and total",
        {"subtotal": 100, "total": 100},
        ["Subtotal: 100", "Total: 100"],
        {"subtotal": {0: "high"}, "total": {1: "high"}},
    ),
    Case(
        "total and total tax",
        {"total": 20, "total_tax": 20},
        ["Total tax: 20", "Total: 20"],
        {"total": {1: "high"}, "total_tax": {0: "high"}},
    ),
    Case(
        "only a part of the name",
        {"total": 20, "total_tax": 20},
        ["Total tax: 20"],
        {"total": {0: "low"}, "total_tax": {0: "high"}},
    ),
    Case(
        "two dates alike",
        {"invoice_date": date(2024, 3, 5), "due_date": date(2024, 3, 5)},
        ["Due date 05.03.2024", "Invoice date 05.03.2024"],
        {"invoice_date": [1], "due_date": [0]},
    ),
    Case(
        "both in one text",
        {"subtotal": 100, "total": 100},
        ["Subtotal 100 Tax 0 Total 100"],
        {"subtotal": {0: "high"}, "total": {0: "high"}},
    ),
    Case(
        "neither named",
        {"net": 100, "gross": 100},
        ["paid 100"],
        {"net": {0: "low"}, "gross": {0: "low"}},
    ),
    Case(
        "only the other named",
        {"net": 100, "gross": 100},
        ["Net 100"],
        {"net": {0: "high"}, "gross": {0: "low"}},
    ),
    Case(
        "other value between",
        {"tax": 20, "total": 120},
        ["Subtotal 100 Tax 20 Total 120"],
        {"tax": {0: "high"}, "total": {0: "high"}},
    ),
    Case(
        "amount of the other",
        {"net": 1250.5, "gross": 1250.5},
        ["Net 1,250.50"],
        {"net": {0: "high"}, "gross": {0: "low"}},
    ),
    Case(
        "holders tell",
        {"billing": {"city": "Berlin"}, "shipping": {"city": "Berlin"}},
        ["Shipping: Berlin", "Billing: Berlin"],
        {"billing.city": {1: "high"}, "shipping.city": {0: "high"}},
    ),
    Case(
        "the top is no row",
        {"vendor": "Acme Trading", "qty": 2},
        ["Acme Trading 2 150"],
        {"vendor": {0: "high"}, "qty": {0: "low"}},
    ),
    Case(
        "parents tell",
        Parties(
            billing_address=Address(street="A St 1", city="Berlin"),
            shipping_address=Address(street="B St 2", city="Berlin"),
        ),
        ["Shipping address: B St 2, Berlin", "Billing address: A St 1, Berlin"],
        {
            "billing_address.street": [1],
            "billing_address.city": [1],
            "shipping_address.street": [0],
            "shipping_address.city": [0],
        },
    ),
    # lists
    Case(
        "list of numbers",
        {"sizes": [10, 20]},
        ["Sizes: 10 and 20"],
        {"sizes[0]": [0], "sizes[1]": [0]},
    ),
    Case(
        "list of texts",
        {"tags": ["solar power", "wind power"]},
        ["on wind power", "on solar power"],
        {"tags[0]": [1], "tags[1]": [0]},
    ),
    Case(
        "rows in two texts",
        {"lines": [{"name": "Widget", "price": 10}, {"name": "Gadget", "price": 10}]},
        ["Gadget 10", "Widget 10"],
        {"lines[0].name": [1], "lines[0].price": [1], "lines[1].name": [0], "lines[1].price": [0]},
    ),
    Case(
        "rows in one table",
        Order(
            vendor="Acme Trading",
            lines=[
                Line(name="Widget", qty=2, price=D("150.00")),
                Line(name="Gadget", qty=1, price=D("99.00")),
            ],
            total=D("399.00"),
        ),
        ["Widget 2 150.00 300.00\nGadget 1 99.00 99.00\nTotal 399.00"],
        {
            "lines[0].name": [0],
            "lines[0].qty": [0],
            "lines[0].price": [0],
            "lines[1].name": [0],
            "lines[1].qty": [0],
            "lines[1].price": [0],
            "total": {0: "high"},
        },
    ),
    Case(
        "rows with names",
        {"lines": [{"name": "Widget", "price": 10}, {"name": "Gadget", "price": 10}]},
        ["Gadget price 10", "Widget price 10"],
        {
            "lines[0].name": [1],
            "lines[0].price": {1: "high"},
            "lines[1].name": [0],
            "lines[1].price": {0: "high"},
        },
    ),
    Case(
        "columns are no thousands",
        {"lines": [{"name": "Widget", "qty": 2, "price": 150}]},
        ["Widget 2 150"],
        {"lines[0].name": [0], "lines[0].qty": [0], "lines[0].price": [0]},
    ),
    Case(
        "dictionary keys",
        {"fees": {"setup": 100, "monthly fee": 20}},
        ["Setup 100", "Monthly fee 20"],
        {"fees.setup": {0: "high"}, "fees['monthly fee']": {1: "high"}},
    ),
    Case("list at the top", [{"name": "Widget"}], ["a Widget"], {"[0].name": [0]}),
    # nothing to support
    Case("empty values", {"a": None, "b": "", "c": [], "d": {}}, ["None of it"], {}),
    Case("not there", {"vendor": "Acme Trading Ltd"}, ["Total: 500"], {}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_citations_support_the_fields_they_speak_of(case: Case) -> None:
    """A citation is mapped to exactly the fields that its text supports."""
    blocks = []
    for index, item in enumerate(case.cited):
        sentence, text = item if isinstance(item, tuple) else ("", item)
        raw = {"type": "char_location", "cited_text": text, "document_index": index}
        blocks.append(TextBlock(sentence, (raw,)))
    mapped = map_citations(case.value, blocks)
    found = {
        path: {citation.metadata["document_index"]: citation.confidence for citation in citations}
        for path, citations in mapped.items()
    }
    expected = dict(case.expected)
    for path, wanted in expected.items():
        if isinstance(wanted, list):
            found[path] = sorted(found.get(path, ()))
    assert found == expected, {path: [c.match_reason for c in cs] for path, cs in mapped.items()}
    assert all(citation.match_reason for citations in mapped.values() for citation in citations)
