"""Citations mapped to the fields that they support: usual forms, and texts that only look right.

A wrong citation is a fault, the more so with confidence high; a missed one is only a miss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, Field

from batchata_prefect.answers import Citation, TextBlock
from batchata_prefect.content import citations
from batchata_prefect.content.bounds import Work, bounds
from batchata_prefect.content.citations import map_citations

D = Decimal
SHARED = Path(__file__).parents[4] / "shared" / "cases" / "wire" / "citation_traps.jsonl"


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


@dataclass
class Seal:
    color: str
    pages: list[int]


class Open(BaseModel, extra="allow"):
    total: int


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
    """An answer, the cited texts, and the fields that these support.

    Attributes:
        value: The answer.
        cited: Cited texts, or pairs of the answer's sentence and the cited text.
        supported: Path of a field -> the confidence of all of its citations; or the places of
            these in `cited`, in their order; or the confidence at each place; or `...` where all
            of that is open. None where the field may or may not be supported.
    """

    value: Any
    cited: Sequence[str | tuple[str, str]]
    supported: Mapping[str, Any] = {}


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
PERSIAN = "\u06f1\u066c\u06f2\u06f3\u06f4\u066b\u06f5\u06f6"
ARABIC = "\u0662\u0660\u0662\u0666/\u0660\u0663/\u0660\u0664"

CASES = [
    # numbers: every usual form
    Case({"total": 1250}, ["Total: 1250"], {"total": "high"}),
    Case({"total": 1250}, ["Total: 1,250"], {"total": "high"}),
    Case({"total": 1234.5}, ["Total $1,234.50"], {"total": "high"}),
    Case({"total": D("1234.50")}, ["Total 1.234,50 EUR"], {"total": [0]}),
    Case({"total": D("1234.50")}, ["Total 1 234,50 €"], {"total": [0]}),
    Case({"total": D("1234567")}, ["Total 1\u202f234\u202f567"], {"total": [0]}),
    Case({"total": D("1234.50")}, ["Total CHF 1'234.50"], {"total": [0]}),
    Case({"total": 123456}, ["Total Rs 1,23,456"], {"total": [0]}),
    Case({"total": 12500}, ["Total 12\u2019500"], {"total": [0]}),
    Case({"total": 1250}, ["Total \uff11\uff12\uff15\uff10"], {"total": [0]}),
    Case({"total": 500}, ["Total USD500"], {"total": [0]}),
    Case({"total": 500}, ["Total 500€"], {"total": [0]}),
    Case({"tax_rate": 0.19}, ["Tax rate 19 %"], {"tax_rate": "high"}),
    Case({"tax_rate": 19}, ["Tax rate: 19%"], {"tax_rate": "high"}),
    Case({"net": -500}, ["Net loss (500)"], {"net": "high"}),
    Case({"net": -500}, ["Net ($500)"], {"net": [0]}),
    Case({"net": -500}, ["Net \u2212500"], {"net": "high"}),
    Case({"net": -500}, ["Net 500.00-"], {"net": [0]}),
    Case({"net": D("-12.34")}, ["Net -$12.34"], {"net": [0]}),
    Case({"discount": -50}, ["Discount 50.00"], {"discount": "medium"}),
    Case({"revenue": 1200000}, ["Revenue of $1.2 million"], {"revenue": "high"}),
    Case({"revenue": 3.4e9}, ["Revenue: $3.4bn"], {"revenue": [0]}),
    Case({"users": 5000}, ["We have 5k users"], {"users": [0]}),
    Case({"revenue": 1.2}, ["Revenue of $1.2 million"], {"revenue": [0]}),
    Case({"total": 0.1 + 0.2}, ["Total 0.30"], {"total": [0]}),
    Case({"weight": 12}, ["Weight 12kg"], {"weight": [0]}),
    Case({"employees": 12}, ["twelve employees"], {"employees": [0]}),
    Case({"total": "1234.50"}, ["Total 1,234.50"], {"total": [0]}),
    Case({"rate": 0.5}, ["Rate .5"], {"rate": [0]}),
    # numbers: traps
    Case({"qty": 234}, ["Qty 12345"]),
    Case({"qty": 234}, ["Qty 1,234"]),
    Case({"qty": 234}, ["Qty 1 234 €"]),
    Case({"qty": 12}, ["Qty 3.12"]),
    Case({"qty": 12}, ["Qty 12.5"]),
    Case({"qty": 2024}, ["Qty, see INV-2024-001"]),
    Case({"qty": 4}, ["Qty of PS4 consoles"]),
    Case({"qty": 2}, ["Qty in release 1.2.3"]),
    Case({"qty": 5}, ["Qty as of 5 March 2024"]),
    Case({"qty": 3}, ["Qty on 2024-03-05"]),
    Case({"qty": 12}, ["Qty 12/03/2024"]),
    Case({"qty": 30}, ["Qty counted at 12:30"]),
    Case({"year": 2024}, ["Year ended 31 December 2024"], {"year": [0]}),
    Case({"qty": 500}, ["The loss was (500)"]),
    Case({"balance": 500}, ["Balance -500"]),
    Case({"maximum": 500}, ["Maximum in 100-500"], {"maximum": [0]}),
    Case({"qty": 15}, ["a rebate of 15%"]),
    Case({"rate": 1.234}, ["Sum: 1,234"]),
    Case({"qty": 1}, ["one of the best"]),
    Case({"qty": 12}, ["Qty counted at 12:30"]),
    Case({"qty": 500}, ["Qty 12 500"]),
    Case({"lines": [{"name": "Widget", "qty": 234}]}, ["Widget 1 234 €"], {"lines[0].name": [0]}),
    Case({"total": 100}, ["Total 120, deposit 100"], {"total": "low"}),
    Case({"total": 12}, ["Total unknown. Weight 12 kg"], {"total": "medium"}),
    # dates
    Case({"due": date(2024, 3, 5)}, ["Due 2024-03-05"], {"due": "high"}),
    Case({"due": date(2024, 3, 5)}, ["Due: 05/03/2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due: 3/5/2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 5.3.2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 05. 03. 2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 05.03.24"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 2024/3/5"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due on March 5, 2024."], {"due": "high"}),
    Case({"due": date(2024, 3, 5)}, ["Due 5th of March 2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 5-Mar-24"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 5. März 2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 5 de marzo de 2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 2024年3月5日"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 20240305"], {"due": [0]}),
    Case({"due": "2024-03-05"}, ["Due March 5, 2024"], {"due": [0]}),
    Case({"at": datetime(2024, 3, 5, 14, 30)}, ["5 March 2024, 2:30 pm"], {"at": [0]}),
    Case({"opens": time(14, 30)}, ["Opens at 2:30 pm"], {"opens": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due 2024 March 5"], {"due": "high"}),
    Case({"due": date(2024, 3, 5)}, ["Due 24/03/05"], {"due": "medium"}),
    Case({"due": date(2024, 3, 1)}, ["Due in March 2024"], {"due": "medium"}),
    Case({"due": date(2024, 4, 1)}, ["Due in March 2024"]),
    Case({"due": date(2024, 3, 15)}, ["Due 5 March 2024"]),
    Case({"due": date(2024, 3, 5)}, ["Due: 2024 boxes of 5"]),
    Case({"due": date(2024, 5, 31)}, ["Due 31/05/2024"], {"due": [0]}),
    Case({"due": date(2024, 3, 5)}, ["Due in March 2024", "Due 5 March 2024"], {"due": [1]}),
    # texts
    Case({"vendor": "ACME GmbH"}, ["sold by ACME GmbH, Berlin"], {"vendor": "high"}),
    Case({"vendor": "Acme GmbH"}, ["Vendor: ACME GMBH"], {"vendor": "high"}),
    Case({"vendor": "Acme Trading Ltd"}, ["Acme\nTrading  Ltd"], {"vendor": [0]}),
    Case({"title": '"The Long Way"'}, ["called “The Long Way”"], {"title": [0]}),
    Case({"office": "Office Five"}, ["the O\ufb03ce Five"], {"office": [0]}),
    Case({"vendor": "Acme Trading Ltd"}, ["by Acme Tradinq Ltd"], {"vendor": "low"}),
    Case({"vendor": "ACME Corporation Ltd"}, ["Vendor: ACME Corporation"], {"vendor": "medium"}),
    Case({"author": "John Smith"}, ["Author: Smith, John"], {"author": "medium"}),
    Case(
        {"summary": "Ruby was made in 1993. It is fun to use."},
        ["Ruby was made in 1993."],
        {"summary": [0]},
    ),
    Case({"invoice_number": "INV-001"}, ["Invoice INV-001"], {"invoice_number": [0]}),
    Case({"invoice_number": "INV-001"}, ["Invoice INV-0012"]),
    Case({"invoice_number": "INV-2024-0001"}, ["Invoice INV-2024-0002"]),
    Case({"iban": "DE89370400440532013000"}, ["IBAN DE89 3704 0044 0532 0130 00"], {"iban": [0]}),
    Case({"phone": "+49 30 1234567"}, ["Tel. (+49) 30/123 45 67"], {"phone": [0]}),
    Case({"invoice_number": "42183017"}, ["Invoice Number: 42183017"], {"invoice_number": "high"}),
    Case({"vendor": "Acme Trading 24 Ltd"}, ["by Acme Trading 25 Ltd"]),
    Case({"code": "azure int"}, ["to azure interior"]),
    Case({"city": "Rome"}, ["a Romeo and a chrome tap"]),
    Case({"country": "US"}, ["tell us more"]),
    Case({"country": "US"}, ["Country: US"], {"country": "high"}),
    Case({"currency": "EUR"}, ["Total 1.234,50 €"], {"currency": "low"}),
    Case({"status": Status.IN_PROGRESS}, ["Status: in progress"], {"status": "high"}),
    Case({"incoterm": Incoterm.DELIVERED}, ["Incoterm: delivered"], {"incoterm": [0]}),
    Case({"level": Level.HIGH}, ["Level 3"], {"level": [0]}),
    Case({"country": "DE"}, [("The country is Germany.", "Berlin, Germany")], {"country": "low"}),
    # yes and no
    Case({"paid": True}, ["Paid: yes"], {"paid": "high"}),
    Case({"paid": False}, ["Paid: no"], {"paid": "high"}),
    Case({"paid": True}, ["Paid: no"]),
    Case({"paid": False}, ["Paid: yes"]),
    Case({"tax_exempt": True}, ["The buyer is tax exempt."], {"tax_exempt": "low"}),
    Case({"refundable": False}, ["This fee is not refundable."], {"refundable": "high"}),
    Case({"refundable": False}, ["A refundable fee."]),
    Case({"signed": True}, ["\u2611 signed"], {"signed": "high"}),
    # names and neighbours
    Case({"total": 500}, [("The total is 500.", "amount payable 500")], {"total": "high"}),
    Case({"total": 500}, [("The total is 500.", "2 x 250")], {"total": "medium"}),
    Case({"qty": 12}, [("It has 12 of them.", "a dozen")]),
    Case({"total": 500}, [("The total is high.", "2 x 250")]),
    Case({"invoiceTotal": 500}, ["Invoice total: 500"], {"invoiceTotal": "high"}),
    Case({"invoice_number": 77}, ["Invoice No. 77"], {"invoice_number": "high"}),
    Case({"total": 77}, ["Total\n77"], {"total": "high"}),
    Case({"total": 77}, ["77 in total"], {"total": "high"}),
    Case(
        Aliased.model_validate({"Rechnungsnummer": "77", "when": "2024-03-05"}),
        ["Rechnungsnummer 77", "Lieferdatum 05.03.2024"],
        {"number": {0: "high"}, "when": {1: "high"}},
    ),
    # one value, two places
    Case({"total": 1250}, ["Total due: 1,250", "Previous balance 1,250"], {"total": {0: "high"}}),
    Case({"qty": 12}, ["12 months of warranty", "Qty: 12"], {"qty": {1: "high"}}),
    Case({"total": 1250}, ["Total: 1,250", "total 1250.00"], {"total": [0, 1]}),
    Case(
        {"vendor": "Acme Trading Ltd"},
        ["Vendor Acme Trading Ltd", "Acme Trading Ltd, Berlin"],
        {"vendor": {0: "high", 1: "high"}},
    ),
    Case({"qty": 1}, ["1 page", "1 year", "1 box", "1 door"]),
    Case({"vendor": "Acme Trading Ltd"}, ["Acme Trading Ltd", "Acme Tradinq Ltd"], {"vendor": [0]}),
    # several fields, one value
    Case(
        {"subtotal": 100, "total": 100},
        ["Subtotal: 100", "Total: 100"],
        {"subtotal": {0: "high"}, "total": {1: "high"}},
    ),
    Case(
        {"total": 20, "total_tax": 20},
        ["Total tax: 20", "Total: 20"],
        {"total": {1: "high"}, "total_tax": {0: "high"}},
    ),
    Case({"total": 20, "total_tax": 20}, ["Total tax: 20"], {"total": "low", "total_tax": "high"}),
    Case(
        {"invoice_date": date(2024, 3, 5), "due_date": date(2024, 3, 5)},
        ["Due date 05.03.2024", "Invoice date 05.03.2024"],
        {"invoice_date": [1], "due_date": [0]},
    ),
    Case(
        {"subtotal": 100, "total": 100},
        ["Subtotal 100 Tax 0 Total 100"],
        {"subtotal": "high", "total": "high"},
    ),
    Case({"net": 100, "gross": 100}, ["paid 100"], {"net": "low", "gross": "low"}),
    Case({"net": 100, "gross": 100}, ["Net 100"], {"net": "high", "gross": "low"}),
    Case(
        {"tax": 20, "total": 120},
        ["Subtotal 100 Tax 20 Total 120"],
        {"tax": "high", "total": "high"},
    ),
    Case({"net": 1250.5, "gross": 1250.5}, ["Net 1,250.50"], {"net": "high", "gross": "low"}),
    Case(
        {"billing": {"city": "Berlin"}, "shipping": {"city": "Berlin"}},
        ["Shipping: Berlin", "Billing: Berlin"],
        {"billing.city": {1: "high"}, "shipping.city": {0: "high"}},
    ),
    Case(
        {"vendor": "Acme Trading", "qty": 2},
        ["Acme Trading 2 150"],
        {"vendor": "high", "qty": "low"},
    ),
    Case(
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
    # answers of other kinds, fields that the model has not declared, numbers that are none
    Case(Seal("red", [2]), ["Seal: red, of 2 pages"], {"color": "low", "pages[0]": "high"}),
    Case(
        Open.model_validate({"total": 3, "vat": 19}),
        ["Total: 3, VAT: 19"],
        {"total": [0], "vat": [0]},
    ),
    Case({"total": float("nan"), "vat": D("Infinity")}, ["Total nan, VAT infinity"]),
    # lists
    Case({"sizes": [10, 20]}, ["Sizes: 10 and 20"], {"sizes[0]": [0], "sizes[1]": [0]}),
    Case(
        {"tags": ["solar power", "wind power"]},
        ["on wind power", "on solar power"],
        {"tags[0]": [1], "tags[1]": [0]},
    ),
    Case(
        {"lines": [{"name": "Widget", "price": 10}, {"name": "Gadget", "price": 10}]},
        ["Gadget 10", "Widget 10"],
        {"lines[0].name": [1], "lines[0].price": [1], "lines[1].name": [0], "lines[1].price": [0]},
    ),
    Case(
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
            "total": "high",
        },
    ),
    Case(
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
        {"lines": [{"name": "Widget", "qty": 2, "price": 150}]},
        ["Widget 2 150"],
        {"lines[0].name": [0], "lines[0].qty": [0], "lines[0].price": [0]},
    ),
    Case(
        {"fees": {"setup": 100, "monthly fee": 20}},
        ["Setup 100", "Monthly fee 20"],
        {"fees.setup": {0: "high"}, "fees['monthly fee']": {1: "high"}},
    ),
    Case([{"name": "Widget"}], ["a Widget"], {"[0].name": [0]}),
    # nothing to support
    Case({"a": None, "b": "", "c": [], "d": {}}, ["None of it"]),
    Case({"vendor": "Acme Trading Ltd"}, ["Total: 500"]),
    # The value in two places
    Case({"deposit": 1500}, ["Rent 1,500", "Deposit: 1,500"], {"deposit": [1]}),
    Case({"rent": 900}, ["Rent: 900 EUR", "the rent of 900 EUR"], {"rent": [0, 1]}),
    Case({"signed": MARCH_4}, ["Starts 4 March 2026", "Signed 4 March 2026"], {"signed": [1]}),
    Case({"city": "Hamburg"}, ["Port of Hamburg", "City: Hamburg"], {"city": [1, 0]}),
    Case({"tenant": "Ann Lee"}, ["Landlord: Ann Lee", "Tenant: Ann Lee"], {"tenant": {1: "high"}}),
    Case({"total": 50}, ["Fee 50\nTotal 50"], {"total": "high"}),
    Case({"tenant": "Ann Lee"}, ["Landlord: Ann Lee"], {"tenant": "medium"}),
    Case({"total": 80}, ["Total 90\nPaid 80"], {"total": "low"}),
    Case({"units": 40}, ["40 chairs", "40 tables"], {"units": {0: "low", 1: "low"}}),
    # Digits inside of digits
    Case({"total": 125}, ["Total 12500"]),
    Case({"total": 500}, ["Total 12500"]),
    Case({"total": 345}, ["Total 12,345,678"]),
    Case({"total": 345}, ["Gesamt Total 12.345.678"]),
    Case({"total": 99}, ["Total 1.99"]),
    Case({"total": 1}, ["Total 1,99"]),
    Case({"extension": 4411}, ["Extension of the phone 030-4411-220"]),
    Case({"number": 12}, ["Number NW12 8AB"]),
    Case({"port": 168}, ["Port of 192.168.0.1"]),
    Case({"months": 3}, ["Months, see section 2.3.1"]),
    Case({"count": 24}, ["Count: ask office24@example.com"]),
    Case({"count": 77}, ["Count at https://example.com/77/x"]),
    Case({"count": 31}, ["Count of a31f7"]),
    Case({"count": 306}, ["Count 978-0-306-40615-7"]),
    Case({"total": 500}, ["Total EUR1500"]),
    Case({"code": "4711"}, ["Code 47110"]),
    Case({"code": "4711"}, ["Code 4711.5"]),
    Case({"code": "0042"}, ["Code 0042"], {"code": "high"}),
    Case({"code": "0042"}, ["Code 42"]),
    # Dates against numbers
    Case({"employees": 2026}, ["Employees as of March 2026"]),
    Case({"pages": 4}, ["Pages of 4 March 2026"]),
    Case({"pages": 3}, ["Pages of 04/03/2026"]),
    Case({"pages": 12}, ["4 March 2026, pages: 12"], {"pages": "high"}),
    Case({"issued": MARCH_4}, ["Issued 4326 copies"]),
    Case({"amount": 20260304}, ["Amount 20,260,304"], {"amount": [0]}),
    Case({"issued": date(2026, 3, 4)}, ["Issued as version 4.3"]),
    Case({"founded_year": 1987}, ["Founded in 1987"], {"founded_year": "high"}),
    Case({"tax_year": 2025}, ["Tax year ending 31.12.2025"], {"tax_year": [0]}),
    Case({"ratio": 12.3}, ["Ratio measured at 12:30"]),
    Case(
        {"sent_at": datetime(2026, 3, 4, 9, 5)}, ["Sent 2026-03-04T09:05:00Z"], {"sent_at": "high"}
    ),
    Case(
        {"sent_at": datetime(2026, 3, 4, 9, 5)}, ["Sent 2026-03-04, 17:30"], {"sent_at": "medium"}
    ),
    Case({"closes": time(21, 0)}, ["Closes at 9 pm"], {"closes": [0]}),
    Case({"closes": time(21, 0)}, ["Closes at 9 am"]),
    # Dates in every order
    Case({"due": MARCH_4}, ["Due 04.03.2026"], {"due": "high"}),
    Case({"due": date(2026, 3, 14)}, ["Due 04.03.2026"]),
    Case({"due": date(2026, 3, 14)}, ["Due 03/14/2026"], {"due": "high"}),
    Case({"due": MARCH_4}, ["Due 04/03/2026"], {"due": [0]}),
    Case({"due": date(2026, 4, 3)}, ["Due 04/03/2026"], {"due": [0]}),
    Case({"due": date(2026, 4, 3)}, ["Fällig Due 13.04.2026"]),
    Case({"due": MARCH_4}, ["Due 2026.03.04"], {"due": "high"}),
    Case({"due": MARCH_4}, ["Due Wednesday, March 4th, 2026"], {"due": "high"}),
    Case({"due": MARCH_4}, ["Due Mittwoch, den 4. März 2026"], {"due": "high"}),
    Case({"due": date(2026, 8, 1)}, ["Due le 1er août 2026"], {"due": "high"}),
    Case({"due": MARCH_4}, ["Due 2026年3月4日"], {"due": "high"}),
    Case({"due": MARCH_4}, ["Due 4 Mar '26"], {"due": "high"}),
    Case({"born": date(1958, 7, 9)}, ["Born 9 July 1958"], {"born": "high"}),
    Case({"born": date(1998, 7, 9)}, ["Born 09.07.98"], {"born": "high"}),
    Case({"due": MARCH_4}, ["Due on 4 March"], {"due": "medium"}),
    Case({"due": MARCH_4}, ["The shop opened on 4 March"]),
    Case({"due": date(2025, 3, 4)}, ["Due in March 2026"]),
    Case(
        {"start": MARCH_4, "end": date(2026, 3, 9)},
        ["Start 04.03.2026 - End 09.03.2026"],
        {"start": "high", "end": "high"},
    ),
    Case({"period": "March 2026"}, ["Period: March 2026"], {"period": "high"}),
    # Currency, percent, negative, separators
    Case({"fee": D("19.99")}, ["Fee US$ 19.99"], {"fee": "high"}),
    Case({"fee": D("1250.00")}, ["Fee £1,250"], {"fee": "high"}),
    Case({"fee": D("1250.5")}, ["Fee 1.250,50€"], {"fee": "high"}),
    Case({"fee": 12000}, ["Fee ¥12,000"], {"fee": "high"}),
    Case({"fee": 250}, ["Fee CHF 250.-"], {"fee": [0]}),
    Case({"fee": 250}, ["Fee 250,- EUR"], {"fee": [0]}),
    Case({"fee": D("19.99")}, ["Fee 19.90"]),
    Case({"fee": D("19.9")}, ["Fee 19.90"], {"fee": "high"}),
    Case({"fee": D("1.25")}, ["Fee 1,250"], {"fee": "medium"}),
    Case({"fee": D("1.25")}, ["You pay 1,250"]),
    Case({"fee": 125}, ["Fee 1.25"]),
    Case({"weight": D("1.234")}, ["Weight 1.234 kg"], {"weight": [0]}),
    Case({"weight": D("1.234")}, ["Weight 1,234 kg"], {"weight": [0]}),
    Case({"rate": D("0.075")}, ["Rate: 7.5%"], {"rate": "high"}),
    Case({"rate": D("7.5")}, ["Rate: 7,5 Prozent"], {"rate": "high"}),
    Case({"discount": 10}, ["VAT 10%\nDiscount 10"], {"discount": "high"}),
    Case({"seats": 0.2}, ["20 seats"]),
    Case({"result": D("-1250.5")}, ["Result (1,250.50)"], {"result": "high"}),
    Case({"result": -1250}, ["Result (€1,250)"], {"result": "high"}),
    Case({"pages": 12}, ["Report (12 pages)"], {"pages": "high"}),
    Case({"balance": D("-99.00")}, ["Balance 99.00 CR-"], {"balance": "medium"}),
    Case({"total": 100}, ["Discount -\nTotal 100"], {"total": "high"}),
    Case({"total": 100}, ["Total - 100"], {"total": [0]}),
    Case({"revenue": 3_400_000}, ["Revenue EUR 3.4m"], {"revenue": "high"}),
    Case({"length": 3_400_000}, ["Length 3.4 metres"]),
    Case({"revenue": 3400}, ["Revenue 3.4k"], {"revenue": "high"}),
    Case({"tax": 0}, ["Tax: 0.00"], {"tax": "high"}),
    Case({"tax": 0}, ["Tax is not charged"]),
    Case({"account": "12345678901234567"}, ["Account 12345678901234567"], {"account": "high"}),
    Case({"change": D("4.5")}, ["Change +4.5%"], {"change": [0]}),
    # Several fields with one value
    Case(
        {"net": 100, "gross": 100},
        ["Net 100", "Gross 100"],
        {"net": {0: "high"}, "gross": {1: "high"}},
    ),
    Case(
        {"unit_price": D("9.5"), "total": D("9.5")},
        ["Unit price 9.50 Quantity 1 Total 9.50"],
        {"unit_price": "high", "total": "high"},
    ),
    Case(
        {"ordered": MARCH_4, "shipped": MARCH_4},
        ["Ordered: 2026-03-04", "Shipped: 2026-03-04"],
        {"ordered": {0: "high"}, "shipped": {1: "high"}},
    ),
    Case(
        {"buyer": "Acme Ltd", "payer": "Acme Ltd"},
        ["Buyer: Acme Ltd", "Payer: Acme Ltd"],
        {"buyer": [0], "payer": [1]},
    ),
    Case(
        {"paid": True, "shipped": True},
        ["Paid: yes", "Shipped: yes"],
        {"paid": {0: "high"}, "shipped": {1: "high"}},
    ),
    Case(
        {"paid": True, "shipped": False},
        ["Paid: yes, shipped: no"],
        {"paid": "high", "shipped": "high"},
    ),
    Case({"rooms": 3, "floor": 3}, ["3 rooms on floor 3"], {"rooms": "high", "floor": "high"}),
    # Lists and paths
    Case({"a": {"b": [{"c": {"price": 77.5}}]}}, ["Price 77.50"], {"a.b[0].c.price": "high"}),
    Case(
        {"visits": [MARCH_4, date(2026, 3, 9)]},
        ["Visits: 4 March 2026", "Visits: 9 March 2026"],
        {"visits[0]": {0: "high"}, "visits[1]": {1: "high"}},
    ),
    Case({"tags": ["garden chairs", "sofa beds"]}, ["garden chairs only"], {"tags[0]": [0]}),
    Case(
        {"grid": [[1200, 1300], [1400, 1500]]},
        ["Grid 1200 1300", "Grid 1400 1500"],
        {"grid[0][0]": [0], "grid[0][1]": [0], "grid[1][0]": [1], "grid[1][1]": [1]},
    ),
    Case(
        {"items": [{"sku": "A-100", "price": 20}, {"sku": "B-200", "price": 30}]},
        ["A-100 20\nB-200 30"],
        {"items[0].sku": [0], "items[0].price": [0], "items[1].sku": [0], "items[1].price": [0]},
    ),
    Case({"items": [{"sku": "A-100", "price": 20}]}, ["A-100 30\nB-200 20"], {"items[0].sku": [0]}),
    Case(
        {"items": [{"sku": "A-100", "price": 20}, {"sku": "B-200", "price": 20}]},
        ["B-200 20"],
        {"items[1].sku": [0], "items[1].price": [0], "items[0].price": "low"},
    ),
    Case(
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
            "net.currency": None,
            "gross.amount": {4: "high"},
            "gross.currency": None,
        },
    ),
    # Texts: quoted, partial, inside of others, in other spellings
    Case({"title": "The Long Way"}, ["a film, “The Long Way”, of 1998"], {"title": "high"}),
    Case({"nickname": "O'Neil"}, ["Nickname: O\u2019Neil"], {"nickname": "high"}),
    Case(
        {"vendor": "Acme Trading Company Limited"},
        ["Vendor: Acme Trading Company"],
        {"vendor": "medium"},
    ),
    Case({"vendor": "Acme"}, ["Vendor: Acmeco Ltd"]),
    Case(
        {"subject": "maintenance contract"}, ["Subject: mainte-\nnance contract"], {"subject": [0]}
    ),
    Case({"city": "Zürich"}, ["City: Zu\u0308rich"], {"city": "high"}),
    Case({"city": "Zürich"}, ["City: Zurich"], {"city": [0]}),
    Case({"street": "Hauptstraße 5"}, ["Street: HAUPTSTRASSE 5"], {"street": "high"}),
    Case({"street": "Hauptstraße 5"}, ["Street: Hauptstraße 55"]),
    Case({"email": "ann@example.com"}, ["mail to Ann@Example.com."], {"email": "high"}),
    Case({"contact": "ann@example.com"}, ["mail joann@example.com"]),
    Case({"contact": "ann@example.com"}, ["Contact: bob@example.com"]),
    Case({"phone": "+1 (555) 010-4477"}, ["Phone 1-555-010-4477"], {"phone": [0]}),
    Case({"phone": "+1 (555) 010-4477"}, ["Phone 1-555-010-4478"]),
    Case({"state": "IN"}, ["in the state of Ohio"]),
    Case({"status": "open"}, ["The shop opens at nine"]),
    Case({"status": "not paid"}, ["Status: not paid"], {"status": "high"}),
    Case({"vendor": "Acme Trading"}, ["Vendor:"]),
    Case({"type": "Invoice"}, ["Invoice 17"], {"type": [0]}),
    # Enums and booleans
    Case({"plan": Plan.PRO}, ["Plan: Pro annual"], {"plan": "high"}),
    Case({"plan": Plan.PRO}, ["Plan: PRO"], {"plan": [0]}),
    Case({"plan": Plan.FREE}, ["Plan: Pro annual"]),
    Case({"plan": Plan.FREE}, ["a freestanding plan"]),
    Case({"terms": "net-30"}, ["Terms: net 30"], {"terms": [0]}),
    Case({"insured": True}, ["[x] Insured"], {"insured": "high"}),
    Case({"insured": False}, ["\u2610 Insured"], {"insured": "high"}),
    Case({"insured": True}, ["\u2610 Insured"]),
    Case({"renewable": False}, ["The lease isn't renewable."], {"renewable": "high"}),
    Case({"furnished": True}, ["No pets. Furnished: yes"], {"furnished": "high"}),
    Case({"furnished": True}, ["Parking: yes"]),
    Case({"is_active": True}, ["Active: yes"], {"is_active": "high"}),
    # The field's name in the text around
    Case({"order_number": 8812}, ["Order number: 8812"], {"order_number": "high"}),
    Case({"order_number": 8812}, ["Order number\n8812"], {"order_number": "high"}),
    Case({"order_number": 12}, ["Number of guests: 12"], {"order_number": "low"}),
    Case({"child": 2}, ["2 of the children"], {"child": "low"}),
    Case({"date_of_birth": MARCH_4}, ["Birth date: 4 March 2026"], {"date_of_birth": "high"}),
    Case(
        {"total": 20, "subtotal": 80},
        ["Subtotal: 80", "Total: 20"],
        {"total": {1: "high"}, "subtotal": {0: "high"}},
    ),
]

TRAPS = [
    # A number in an identifier
    Case({"total": 2024}, ["Invoice 2024-001, total 15"]),
    Case({"total": 2024}, ["Invoice 2024, total 15"]),
    Case({"total": 2024}, ["Invoice #2024, total 15"]),
    Case({"total": 4711}, ["Order no. 4711. Total: 80"]),
    Case({"sequence": 1}, ["Sequence of invoice 2024-001"]),
    Case({"quantity": 2024}, ["Quantity, see 2024-A"]),
    Case({"amount": 3704}, ["IBAN DE89 3704 0044 0532 0130 00"]),
    Case({"amount": 1111}, ["Paid with 4111 1111 1111 1234"]),
    Case({"total": 1234567}, ["Phone: +49 30 1234567"]),
    Case({"amount": 4567}, ["Amount: call (555) 123-4567"]),
    Case({"version": 1.2}, ["Version 1.2.3"]),
    Case({"version": "1.2"}, ["Version 1.2.3"]),
    Case({"version": 1.2}, ["Version 1.2.x"]),
    Case({"months": 12}, ["Article 12. Months of notice: 3"]),
    Case({"days": 365}, ["Days with 365@example.com"]),
    Case({"invoice_number": "INV-001"}, ["Invoice INV-001-2"]),
    Case({"invoice_number": "2024-001"}, ["Invoice INV-2024-001"]),
    Case({"website": "example.com"}, ["Write to ann@example.com"]),
    Case({"last_name": "Smith"}, ["Last name: Smith-Jones"]),
    # A larger number
    Case({"amount": D(10)}, ["Amount: 10.000 EUR"]),
    Case({"amount": 10}, ["Amount: 10,000.00"]),
    Case({"age": 20}, ["Age: twenty-five"]),
    Case({"age": 5}, ["Age: twenty-five"]),
    Case({"age": 25}, ["Age: twenty-five"], {"age": "high"}),
    Case({"people": 2}, ["People: two hundred"]),
    Case({"revenue": D("1.2")}, ["Revenue: 1.2 million"], {"revenue": "medium"}),
    # A masked number
    Case({"amount": 1234}, ["Amount: **** **** **** 1234"]),
    Case({"amount": 1234}, ["Amount: ****1234"]),
    Case({"amount": 1234}, ["Amount: xxxx 1234"]),
    Case({"amount": 1234}, ["Amount: XXXX-XXXX-1234"]),
    Case({"amount": 1234}, ["Amount: \u2022\u2022\u2022\u2022 1234"]),
    Case({"amount": 1234}, ["Amount charged to card ending in 1234"]),
    Case({"card": "1234"}, ["Card: **** 1234"], {"card": "medium"}),
    Case({"amount": 1234}, ["Amount: **1234**"], {"amount": "high"}),
    Case({"amount": 1234}, ["* Amount: 1234"], {"amount": "high"}),
    # An ordinal, a reference
    Case({"pages": 3}, ["Page 3"]),
    Case({"pages": 3}, ["Page no. 3 of 7"]),
    Case({"pages": 3}, ["the 3rd page"]),
    Case({"page_count": 3}, ["Page 3 of 7"]),
    Case({"chapters": 12}, ["see chapter 12"]),
    Case({"rooms": 12}, ["Room 12"]),
    Case({"page": 3}, ["Page 3 of 7"], {"page": "high"}),
    Case({"pages": 3}, ["Pages: 3"], {"pages": "high"}),
    Case({"floor": 2}, ["on the 2nd floor"], {"floor": "high"}),
    # Check boxes
    Case({"insured": False}, ["Insured: \u2611 yes \u2610 no"]),
    Case({"insured": True}, ["Insured: [ ] yes [x] no"]),
    Case({"insured": False}, ["Insured: [ ] yes [x] no"], {"insured": "high"}),
    Case({"insured": True}, ["Insured: yes [x] no [ ]"], {"insured": "high"}),
    Case({"insured": True}, ["Insured: yes [ ] no [x]"]),
    Case({"insured": True}, ["Insured \u2610 yes \u2612 no"]),
    Case({"insured": True}, ["Insured: [ ] yes [ ] no"]),
    Case({"insured": False}, ["Insured: [ ] yes [ ] no"]),
    Case({"insured": True}, ["Insured: [x] yes [x] no"]),
    Case({"insured": True}, ["Insured: [x]"], {"insured": "high"}),
    Case({"insured": True}, ["Insured: [ ]"]),
    Case({"insured": True}, ["\u2612 Insured"], {"insured": "high"}),
    Case({"insured": True, "leased": True}, ["[x] Insured [ ] Leased"], {"insured": "high"}),
    Case({"insured": "no"}, ["Insured: [x] yes [ ] no"]),
    Case({"status": "approved"}, ["Status: [ ] approved [x] rejected"]),
    Case({"status": "rejected"}, ["Status: [ ] approved [x] rejected"], {"status": "high"}),
    Case({"term": 12}, ["Term: [ ] 12 months [x] 24 months"]),
    Case({"term": 24}, ["Term: [ ] 12 months [x] 24 months"], {"term": ...}),
    # Yes, no and not
    Case({"has_insurance": True}, ["The vehicle has no insurance."]),
    Case({"has_insurance": False}, ["The vehicle has no insurance."], {"has_insurance": "high"}),
    Case({"has_insurance": True}, ["sold without insurance"]),
    Case({"insured": True}, ["The driver was never insured."]),
    Case({"insured": True}, ["It is not currently insured."]),
    Case({"insured": True}, ["Is the vehicle insured?"]),
    Case({"insured": True}, ["Insured: declined"]),
    Case({"insured": True}, ["Insured:\nno"]),
    Case({"insured": True}, ["It lacks an insured party"]),
    Case({"paid": True}, ["Insured: no; paid: yes"], {"paid": "high"}),
    Case({"insured": True}, ["Insured: no; paid: yes"]),
    Case({"insured": False}, ["Insured, parking: no"]),
    Case({"non_refundable": True}, ["Non-refundable: yes"], {"non_refundable": "high"}),
    Case({"smoking": True}, ["Non-smoking"]),
    Case({"status": "approved"}, ["Status: not yet approved"]),
    Case({"status": "approved"}, ["Status: never approved"]),
    Case({"status": "approved"}, ["The request hasn't been approved"]),
    Case({"status": "active"}, ["Status: no longer active"]),
    Case({"status": "paid"}, ["Status: unpaid"]),
    Case({"status": "approved"}, ["Status: non-approved"]),
    Case({"animals": "dogs"}, ["Animals: no dogs"]),
    Case({"status": "paid"}, ["Status: paid, not overdue"], {"status": "high"}),
    Case({"total": 500}, ["Total is not 500"]),
    Case({"contract_number": "K-77"}, ["Contract no K-77"], {"contract_number": "high"}),
    # A neighbour's name
    Case({"phone": "+49 30 7654321"}, ["Fax: +49 30 7654321"]),
    Case({"phone": "555-0100"}, ["Phone: 555-0199 Fax: 555-0100"]),
    Case({"phone": "555-0199"}, ["Phone: 555-0199 Fax: 555-0100"], {"phone": "high"}),
    Case({"growth": 0.12}, ["Revenue fell 12%; growth was 3%"]),
    Case({"churn": 0.12}, ["Revenue rose 12%; churn was 3%"]),
    Case({"growth": 0.12}, ["Growth was 3%; margin reached 12%"]),
    Case({"growth": 0.12}, ["a 12% decline"]),
    Case({"change": 0.12}, ["The change: it fell 12%"]),
    Case({"change": -0.12}, ["The change: it fell 12%"], {"change": "medium"}),
    Case({"gross": 119}, ["Net 119"]),
    Case({"start": date(2026, 3, 4)}, ["End: 4 March 2026"]),
    Case({"total": 20}, ["Total tax: 20"]),
    Case({"total": 119}, ["Total incl. tax: 119"], {"total": "high"}),
    # A sign
    Case({"balance": -2}, ["Balance: two (2) items"]),
    Case({"balance": -2}, ["Balance (2) items"]),
    Case({"term": 12}, ["Term: twelve (12) months"], {"term": "high"}),
    Case({"net": -500}, ["Net loss (500)"], {"net": "high"}),
    Case({"temperature": 5}, ["Temperature: minus 5 degrees"]),
    Case({"temperature": 2}, ["Temperature: minus two"]),
    Case({"temperature": -5}, ["Temperature: minus 5 degrees"], {"temperature": "high"}),
    # Dates
    Case({"due": date(2026, 4, 3)}, ["Due 04.03.2026"]),
    Case({"due": date(2026, 3, 14)}, ["Due 03.14.2026"], {"due": "high"}),
    Case({"due": date(2026, 4, 3)}, ["Due 04/03/2026"], {"due": "medium"}),
    Case(
        {"start": date(2026, 3, 1), "end": date(2026, 3, 31)},
        ["Start and end: March 1 - 31, 2026"],
        {"start": ..., "end": ...},
    ),
    Case({"start": date(2026, 3, 1)}, ["1. bis 31. M\u00e4rz 2026"], {"start": "medium"}),
    Case({"start": date(2026, 3, 1)}, ["Start: 01.\u201331.03.2026"], {"start": "high"}),
    Case({"start": date(2026, 3, 1)}, ["Start: 01.03.2026\u201331.03.2026"], {"start": "high"}),
    Case({"start": date(2026, 2, 28)}, ["Start: 28 February to 3 March 2026"], {"start": "high"}),
    Case({"start": date(2031, 3, 1)}, ["Start: 1 March - 31 March 2026"]),
    # Other digits, broken words, slashes
    Case({"total": D("1234.56")}, [f"Total {PERSIAN}"], {"total": "high"}),
    Case({"total": 234}, ["Total \u0661\u066c\u0662\u0663\u0664"]),
    Case({"due": date(2026, 3, 4)}, [f"Due {ARABIC}"], {"due": "high"}),
    Case({"topic": "preferences"}, ["Topic: prefer\u00ad\nences"], {"topic": "high"}),
    Case({"topic": "preferences"}, ["Topic: prefer\u0002\nences"], {"topic": "high"}),
    Case({"rating": 4}, ["Rating: 4/5"], {"rating": "high"}),
    Case({"rating": 5}, ["Rating: 4/5"]),
    Case({"quantity": 1}, ["Quantity: 1/2"]),
    # A part of a number, a bound, a share of another kind
    Case({"hours": 11}, ["Hours: 1\u00bd"]),
    Case({"hours": 1.5}, ["Hours: 1\u00bd"], {"hours": "high"}),
    Case({"ratio": 1}, ["Ratio: \u00bd"]),
    Case({"ratio": 0.5}, ["Ratio: \u00bd"], {"ratio": "high"}),
    Case({"hours": 1}, ["Hours: 1 1/2"]),
    Case({"total": 1001}, ["Total: 100\u00b9"]),
    Case({"area": 102}, ["Area: 10\u00b2"]),
    Case({"amount": 1}, ["Amount: 1 x 10^5"]),
    Case({"area": 25}, ["Area: 25 m\u00b2"], {"area": "high"}),
    Case({"amount": 500}, ["Amount 500 04/03/2026"], {"amount": "high"}),
    Case({"total": 500}, ["Total: (500.00)"], {"total": "medium"}),
    Case({"total": -500}, ["Total: (500.00)"], {"total": "high"}),
    Case({"total": 500}, ["Total: 500-"], {"total": "medium"}),
    Case({"rate": 12.5}, ["Rate: 12.5 \u2030"], {"rate": "medium"}),
    Case({"rate": 0.0125}, ["Rate: 12.5 \u2030"], {"rate": "high"}),
    Case({"quantity": 5}, ["Quantity discount: 5%"], {"quantity": "medium"}),
    Case({"salary": 50000}, ["Salary: 50,000\u201360,000"], {"salary": "medium"}),
    Case({"amount": 100}, ["Amount: up to 100"], {"amount": "medium"}),
    Case({"total": 1234}, ["Total: #1234"]),
    Case({"quantity": 3}, ["Quantity: 3A"]),
    Case({"wins": 3, "losses": 5}, ["5 wins, 3 losses"], {"losses": "low"}),
    Case({"wins": 5, "losses": 3}, ["5 wins, 3 losses"], {"wins": "high", "losses": "high"}),
    Case({"adults": 2}, ["1 adult and 2 children"]),
    Case({"quantity": 3, "price": 5}, ["Quantity 3, price 5"], {"quantity": ..., "price": ...}),
    Case({"unit_price": 19}, ["Total price: 19"]),
    Case({"line_total": 119}, ["Total: 119"], {"line_total": ...}),
    Case({"start": date(2026, 12, 28)}, ["Start: 28 December \u2013 3 January 2026"]),
    Case({"start": date(2025, 12, 28)}, ["Start 28 December - 3 January 2026"], {"start": ...}),
    # Answers on lines of their own, on lines to write on, and denials of something else
    Case({"insured": False}, ["Insured\n[ ] yes\n[x] no"], {"insured": "high"}),
    Case({"insured": True}, ["Insured\n[ ] yes\n[x] no"]),
    Case({"insured": False}, ["Insured:\nYes \u2610\nNo \u2611"], {"insured": "high"}),
    Case({"insured": True}, ["Insured:\nYes \u2610\nNo \u2611"]),
    Case(
        {"insured": True, "leased": False},
        ["Insured:\n[x] yes\n[ ] no\nLeased:\n[ ] yes\n[x] no"],
        {"insured": "high", "leased": "high"},
    ),
    Case(
        {"insured": False, "leased": True}, ["Insured:\n[x] yes\n[ ] no\nLeased:\n[ ] yes\n[x] no"]
    ),
    Case({"insured": True}, ["Insured ___ yes _x_ no"]),
    Case({"insured": False}, ["Insured ___ yes _x_ no"], {"insured": "high"}),
    Case({"insured": False}, ["Insured: ____"]),
    Case({"insured": True}, ["Insured: [\u221a] yes [ ] no"], {"insured": "high"}),
    Case({"insured": False}, ["[ ] not insured"]),
    Case({"insured": False}, ["[x] not insured"], {"insured": "high"}),
    Case({"insured": False}, ["Insured: not applicable"]),
    Case({"insured": False}, ["Insured: not yes"]),
    Case({"insured": False}, ["insured but not leased"]),
    Case({"insured": False}, ["The insured has no car"]),
    Case({"insured": False}, ["Insured no. 4711"]),
    Case({"insured": False}, ["No proof it is insured"]),
    Case({"insured": False}, ["The car has no radio and is insured"]),
    Case({"insured": False}, ["It is not true that the car is not insured."]),
    Case({"insured": False}, ["Insured: No, expired"], {"insured": "high"}),
    Case({"pets_allowed": False}, ["Pets are not allowed"], {"pets_allowed": "high"}),
    Case({"status": "approved"}, ["Status: approved? no"]),
    Case({"status": "approved"}, ["Status: ~~approved~~ rejected"]),
    Case({"status": "approved"}, ["Status: yet to be approved"]),
    Case({"status": "approved"}, ["Status: rejected (previously approved)"]),
    Case({"status": "approved"}, ["Status: approved.\nNo further action."], {"status": "high"}),
    # A longer name
    Case({"name": "Lee"}, ["Name: Lee-Smith"]),
    Case({"time": "10:30"}, ["Time: 10:30:45"]),
    Case({"host": "10.0.0.1"}, ["Host: 10.0.0.1:80"], {"host": "high"}),
    Case({"email": "ann@example.com"}, ["Email: ann@example.com.au"]),
    Case({"email": "ann@example.com"}, ["Write to ann@example.com."], {"email": "high"}),
    Case({"currency": "EUR"}, ["Total: 100 EUR/month"], {"currency": ...}),
]


def mapped(value: Any, cited: Sequence[str | tuple[str, str]], *, said: bool = False) -> Any:
    """Field -> its citations; `said` where the answer repeats the texts.

    The answer's own JSON stands behind the cited texts, so nothing may come from it.
    """
    blocks: list[TextBlock] = []
    for at, item in enumerate(cited):
        sentence, text = item if isinstance(item, tuple) else (item if said else "", item)
        raw = {"type": "char_location", "cited_text": text, "document_index": at}
        blocks.append(TextBlock(sentence, (raw,)))
    dump = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    dump = asdict(dump) if is_dataclass(dump) else dump
    blocks.append(TextBlock(f"\n```json\n{json.dumps(dump, default=str)}\n```"))
    return map_citations(value, blocks)


def places(found: Sequence[Citation]) -> dict[int, str | None]:
    """Place of each citation in what was cited -> its confidence."""
    return {(one.metadata or {})["document_index"]: one.confidence for one in found}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        *(pytest.param(case, False, id=f"{case.value} {case.cited}"[:80]) for case in CASES),
        *(pytest.param(case, False, id=f"{case.value} {case.cited}"[:80]) for case in TRAPS),
        *(pytest.param(case, True, id=f"said {case.value} {case.cited}"[:80]) for case in TRAPS),
    ],
)
def test_a_citation_supports_what_it_speaks_of_and_nothing_else(case: Case, said: bool) -> None:
    """Only the fields that a text means are mapped to it, as surely as the table says."""
    found = mapped(case.value, case.cited, said=said)
    why = {path: [one.match_reason for one in citations] for path, citations in found.items()}
    may_be = {path for path, wanted in case.supported.items() if wanted is None}
    assert found.keys() | may_be == case.supported.keys(), why
    assert all(map(all, why.values()))
    for path, wanted in case.supported.items():
        if isinstance(wanted, str):
            assert set(places(found[path]).values()) == {wanted}, why
        elif isinstance(wanted, list):
            assert list(places(found[path])) == wanted, why
        elif isinstance(wanted, dict):
            assert places(found[path]) == wanted, why


READ = {
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
}


@pytest.mark.skipif(not SHARED.exists(), reason="the collected traps are not here")
@pytest.mark.parametrize("said", [False, True], ids=["cited", "said too"])
def test_the_collected_traps_are_told(said: bool) -> None:
    """Each line's fields are mapped as it says, and no others."""
    for line in map(json.loads, SHARED.read_text(encoding="utf-8").splitlines()):
        fields = {name: READ[kind](value) for name, (kind, value) in line["fields"].items()}
        found = mapped(fields, line["blocks"], said=said)
        assert set(found) == set(line["exact"]), (line["id"], found)
        for path, wanted in line.get("cites", {}).items():
            assert [place + 1 for place in places(found[path])] == wanted, (line["id"], found)


@pytest.mark.parametrize("count", [480, 3_000])
@pytest.mark.parametrize("value", [5, "Acme Trading", "The supplier of chairs here", True])
def test_mapping_does_a_bounded_work(
    count: int, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many fields and many citations cost a bounded number of steps, and then none is sure."""
    works: list[Work] = []

    class Counted(Work):
        def __init__(self, steps: int) -> None:
            super().__init__(steps // 40)
            works.append(self)

    monkeypatch.setattr(citations, "Work", Counted)
    cited = [f"Field {at}: 5, 5, Acme Trading. The suppliers of a long list" for at in range(480)]
    found = mapped({f"field_{at}": value for at in range(count)}, cited)
    most = bounds().mapping_steps // 40
    assert most - works[0].left < 1.5 * most
    if works[0].left <= 0:
        assert {one.confidence for each in found.values() for one in each} <= {"low"}
