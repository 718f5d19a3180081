"""Citations that look right and are not: a value that stands in a text which does not mean it.

A wrong citation is a fault, the more so with confidence high; a missed one is only a miss. Each
line holds an answer's fields, the cited texts, and the fields that these support.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batchata_prefect.answers import TextBlock
from batchata_prefect.content import citations
from batchata_prefect.content.bounds import Work, bounds
from batchata_prefect.content.citations import map_citations

D = Decimal
SHARED = Path(__file__).parents[4] / "shared" / "cases" / "wire" / "citation_traps.jsonl"


class Trap(NamedTuple):
    """Fields of an answer, the cited texts, and field -> confidence (`...` where any will do)."""

    fields: Mapping[str, Any]
    cited: Sequence[str]
    supported: Mapping[str, Any] = {}


PERSIAN = "\u06f1\u066c\u06f2\u06f3\u06f4\u066b\u06f5\u06f6"
ARABIC = "\u0662\u0660\u0662\u0666/\u0660\u0663/\u0660\u0664"

TRAPS = [
    # A number in an identifier
    Trap({"total": 2024}, ["Invoice 2024-001, total 15"]),
    Trap({"total": 2024}, ["Invoice 2024, total 15"]),
    Trap({"total": 2024}, ["Invoice #2024, total 15"]),
    Trap({"total": 4711}, ["Order no. 4711. Total: 80"]),
    Trap({"sequence": 1}, ["Sequence of invoice 2024-001"]),
    Trap({"quantity": 2024}, ["Quantity, see 2024-A"]),
    Trap({"amount": 3704}, ["IBAN DE89 3704 0044 0532 0130 00"]),
    Trap({"amount": 1111}, ["Paid with 4111 1111 1111 1234"]),
    Trap({"total": 1234567}, ["Phone: +49 30 1234567"]),
    Trap({"amount": 4567}, ["Amount: call (555) 123-4567"]),
    Trap({"version": 1.2}, ["Version 1.2.3"]),
    Trap({"version": "1.2"}, ["Version 1.2.3"]),
    Trap({"version": 1.2}, ["Version 1.2.x"]),
    Trap({"months": 12}, ["Article 12. Months of notice: 3"]),
    Trap({"days": 365}, ["Days with 365@example.com"]),
    Trap({"invoice_number": "INV-001"}, ["Invoice INV-001-2"]),
    Trap({"invoice_number": "2024-001"}, ["Invoice INV-2024-001"]),
    Trap({"website": "example.com"}, ["Write to ann@example.com"]),
    Trap({"last_name": "Smith"}, ["Last name: Smith-Jones"]),
    # A larger number
    Trap({"amount": D(10)}, ["Amount: 10.000 EUR"]),
    Trap({"amount": 10}, ["Amount: 10,000.00"]),
    Trap({"age": 20}, ["Age: twenty-five"]),
    Trap({"age": 5}, ["Age: twenty-five"]),
    Trap({"age": 25}, ["Age: twenty-five"], {"age": "high"}),
    Trap({"people": 2}, ["People: two hundred"]),
    Trap({"revenue": D("1.2")}, ["Revenue: 1.2 million"], {"revenue": "medium"}),
    # A masked number
    Trap({"amount": 1234}, ["Amount: **** **** **** 1234"]),
    Trap({"amount": 1234}, ["Amount: ****1234"]),
    Trap({"amount": 1234}, ["Amount: xxxx 1234"]),
    Trap({"amount": 1234}, ["Amount: XXXX-XXXX-1234"]),
    Trap({"amount": 1234}, ["Amount: \u2022\u2022\u2022\u2022 1234"]),
    Trap({"amount": 1234}, ["Amount charged to card ending in 1234"]),
    Trap({"card": "1234"}, ["Card: **** 1234"], {"card": "medium"}),
    Trap({"amount": 1234}, ["Amount: **1234**"], {"amount": "high"}),
    Trap({"amount": 1234}, ["* Amount: 1234"], {"amount": "high"}),
    # An ordinal, a reference
    Trap({"pages": 3}, ["Page 3"]),
    Trap({"pages": 3}, ["Page no. 3 of 7"]),
    Trap({"pages": 3}, ["the 3rd page"]),
    Trap({"page_count": 3}, ["Page 3 of 7"]),
    Trap({"chapters": 12}, ["see chapter 12"]),
    Trap({"rooms": 12}, ["Room 12"]),
    Trap({"page": 3}, ["Page 3 of 7"], {"page": "high"}),
    Trap({"pages": 3}, ["Pages: 3"], {"pages": "high"}),
    Trap({"floor": 2}, ["on the 2nd floor"], {"floor": "high"}),
    # Check boxes
    Trap({"insured": False}, ["Insured: \u2611 yes \u2610 no"]),
    Trap({"insured": True}, ["Insured: [ ] yes [x] no"]),
    Trap({"insured": False}, ["Insured: [ ] yes [x] no"], {"insured": "high"}),
    Trap({"insured": True}, ["Insured: yes [x] no [ ]"], {"insured": "high"}),
    Trap({"insured": True}, ["Insured: yes [ ] no [x]"]),
    Trap({"insured": True}, ["Insured \u2610 yes \u2612 no"]),
    Trap({"insured": True}, ["Insured: [ ] yes [ ] no"]),
    Trap({"insured": False}, ["Insured: [ ] yes [ ] no"]),
    Trap({"insured": True}, ["Insured: [x] yes [x] no"]),
    Trap({"insured": True}, ["Insured: [x]"], {"insured": "high"}),
    Trap({"insured": True}, ["Insured: [ ]"]),
    Trap({"insured": True}, ["\u2612 Insured"], {"insured": "high"}),
    Trap({"insured": True, "leased": True}, ["[x] Insured [ ] Leased"], {"insured": "high"}),
    Trap({"insured": "no"}, ["Insured: [x] yes [ ] no"]),
    Trap({"status": "approved"}, ["Status: [ ] approved [x] rejected"]),
    Trap({"status": "rejected"}, ["Status: [ ] approved [x] rejected"], {"status": "high"}),
    Trap({"term": 12}, ["Term: [ ] 12 months [x] 24 months"]),
    Trap({"term": 24}, ["Term: [ ] 12 months [x] 24 months"], {"term": ...}),
    # Yes, no and not
    Trap({"has_insurance": True}, ["The vehicle has no insurance."]),
    Trap({"has_insurance": False}, ["The vehicle has no insurance."], {"has_insurance": "high"}),
    Trap({"has_insurance": True}, ["sold without insurance"]),
    Trap({"insured": True}, ["The driver was never insured."]),
    Trap({"insured": True}, ["It is not currently insured."]),
    Trap({"insured": True}, ["Is the vehicle insured?"]),
    Trap({"insured": True}, ["Insured: declined"]),
    Trap({"insured": True}, ["Insured:\nno"]),
    Trap({"insured": True}, ["It lacks an insured party"]),
    Trap({"paid": True}, ["Insured: no; paid: yes"], {"paid": "high"}),
    Trap({"insured": True}, ["Insured: no; paid: yes"]),
    Trap({"insured": False}, ["Insured, parking: no"]),
    Trap({"non_refundable": True}, ["Non-refundable: yes"], {"non_refundable": "high"}),
    Trap({"smoking": True}, ["Non-smoking"]),
    Trap({"status": "approved"}, ["Status: not yet approved"]),
    Trap({"status": "approved"}, ["Status: never approved"]),
    Trap({"status": "approved"}, ["The request hasn't been approved"]),
    Trap({"status": "active"}, ["Status: no longer active"]),
    Trap({"status": "paid"}, ["Status: unpaid"]),
    Trap({"status": "approved"}, ["Status: non-approved"]),
    Trap({"animals": "dogs"}, ["Animals: no dogs"]),
    Trap({"status": "paid"}, ["Status: paid, not overdue"], {"status": "high"}),
    Trap({"total": 500}, ["Total is not 500"]),
    Trap({"contract_number": "K-77"}, ["Contract no K-77"], {"contract_number": "high"}),
    # A neighbour's name
    Trap({"phone": "+49 30 7654321"}, ["Fax: +49 30 7654321"]),
    Trap({"phone": "555-0100"}, ["Phone: 555-0199 Fax: 555-0100"]),
    Trap({"phone": "555-0199"}, ["Phone: 555-0199 Fax: 555-0100"], {"phone": "high"}),
    Trap({"growth": 0.12}, ["Revenue fell 12%; growth was 3%"]),
    Trap({"churn": 0.12}, ["Revenue rose 12%; churn was 3%"]),
    Trap({"growth": 0.12}, ["Growth was 3%; margin reached 12%"]),
    Trap({"growth": 0.12}, ["a 12% decline"]),
    Trap({"change": 0.12}, ["The change: it fell 12%"]),
    Trap({"change": -0.12}, ["The change: it fell 12%"], {"change": "medium"}),
    Trap({"gross": 119}, ["Net 119"]),
    Trap({"start": date(2026, 3, 4)}, ["End: 4 March 2026"]),
    Trap({"total": 20}, ["Total tax: 20"]),
    Trap({"total": 119}, ["Total incl. tax: 119"], {"total": "high"}),
    # A sign
    Trap({"balance": -2}, ["Balance: two (2) items"]),
    Trap({"balance": -2}, ["Balance (2) items"]),
    Trap({"term": 12}, ["Term: twelve (12) months"], {"term": "high"}),
    Trap({"net": -500}, ["Net loss (500)"], {"net": "high"}),
    Trap({"temperature": 5}, ["Temperature: minus 5 degrees"]),
    Trap({"temperature": 2}, ["Temperature: minus two"]),
    Trap({"temperature": -5}, ["Temperature: minus 5 degrees"], {"temperature": "high"}),
    # Dates
    Trap({"due": date(2026, 4, 3)}, ["Due 04.03.2026"]),
    Trap({"due": date(2026, 3, 14)}, ["Due 03.14.2026"], {"due": "high"}),
    Trap({"due": date(2026, 4, 3)}, ["Due 04/03/2026"], {"due": "medium"}),
    Trap(
        {"start": date(2026, 3, 1), "end": date(2026, 3, 31)},
        ["Start and end: March 1 - 31, 2026"],
        {"start": ..., "end": ...},
    ),
    Trap({"start": date(2026, 3, 1)}, ["1. bis 31. M\u00e4rz 2026"], {"start": "medium"}),
    Trap({"start": date(2026, 3, 1)}, ["Start: 01.\u201331.03.2026"], {"start": "high"}),
    Trap({"start": date(2026, 3, 1)}, ["Start: 01.03.2026\u201331.03.2026"], {"start": "high"}),
    Trap({"start": date(2026, 2, 28)}, ["Start: 28 February to 3 March 2026"], {"start": "high"}),
    Trap({"start": date(2031, 3, 1)}, ["Start: 1 March - 31 March 2026"]),
    # Other digits, broken words, slashes
    Trap({"total": D("1234.56")}, [f"Total {PERSIAN}"], {"total": "high"}),
    Trap({"total": 234}, ["Total \u0661\u066c\u0662\u0663\u0664"]),
    Trap({"due": date(2026, 3, 4)}, [f"Due {ARABIC}"], {"due": "high"}),
    Trap({"topic": "preferences"}, ["Topic: prefer\u00ad\nences"], {"topic": "high"}),
    Trap({"topic": "preferences"}, ["Topic: prefer\u0002\nences"], {"topic": "high"}),
    Trap({"rating": 4}, ["Rating: 4/5"], {"rating": "high"}),
    Trap({"rating": 5}, ["Rating: 4/5"]),
    Trap({"quantity": 1}, ["Quantity: 1/2"]),
    # A part of a number, a bound, a share of another kind
    Trap({"hours": 11}, ["Hours: 1\u00bd"]),
    Trap({"hours": 1.5}, ["Hours: 1\u00bd"], {"hours": "high"}),
    Trap({"ratio": 1}, ["Ratio: \u00bd"]),
    Trap({"ratio": 0.5}, ["Ratio: \u00bd"], {"ratio": "high"}),
    Trap({"hours": 1}, ["Hours: 1 1/2"]),
    Trap({"total": 1001}, ["Total: 100\u00b9"]),
    Trap({"area": 102}, ["Area: 10\u00b2"]),
    Trap({"amount": 1}, ["Amount: 1 x 10^5"]),
    Trap({"area": 25}, ["Area: 25 m\u00b2"], {"area": "high"}),
    Trap({"amount": 500}, ["Amount 500 04/03/2026"], {"amount": "high"}),
    Trap({"total": 500}, ["Total: (500.00)"], {"total": "medium"}),
    Trap({"total": -500}, ["Total: (500.00)"], {"total": "high"}),
    Trap({"total": 500}, ["Total: 500-"], {"total": "medium"}),
    Trap({"rate": 12.5}, ["Rate: 12.5 \u2030"], {"rate": "medium"}),
    Trap({"rate": 0.0125}, ["Rate: 12.5 \u2030"], {"rate": "high"}),
    Trap({"quantity": 5}, ["Quantity discount: 5%"], {"quantity": "medium"}),
    Trap({"salary": 50000}, ["Salary: 50,000\u201360,000"], {"salary": "medium"}),
    Trap({"amount": 100}, ["Amount: up to 100"], {"amount": "medium"}),
    Trap({"total": 1234}, ["Total: #1234"]),
    Trap({"quantity": 3}, ["Quantity: 3A"]),
    Trap({"wins": 3, "losses": 5}, ["5 wins, 3 losses"], {"losses": "low"}),
    Trap({"wins": 5, "losses": 3}, ["5 wins, 3 losses"], {"wins": "high", "losses": "high"}),
    Trap({"adults": 2}, ["1 adult and 2 children"]),
    Trap({"quantity": 3, "price": 5}, ["Quantity 3, price 5"], {"quantity": ..., "price": ...}),
    Trap({"unit_price": 19}, ["Total price: 19"]),
    Trap({"line_total": 119}, ["Total: 119"], {"line_total": ...}),
    Trap({"start": date(2026, 12, 28)}, ["Start: 28 December \u2013 3 January 2026"]),
    Trap({"start": date(2025, 12, 28)}, ["Start 28 December - 3 January 2026"], {"start": ...}),
    # Answers on lines of their own, on lines to write on, and denials of something else
    Trap({"insured": False}, ["Insured\n[ ] yes\n[x] no"], {"insured": "high"}),
    Trap({"insured": True}, ["Insured\n[ ] yes\n[x] no"]),
    Trap({"insured": False}, ["Insured:\nYes \u2610\nNo \u2611"], {"insured": "high"}),
    Trap({"insured": True}, ["Insured:\nYes \u2610\nNo \u2611"]),
    Trap(
        {"insured": True, "leased": False},
        ["Insured:\n[x] yes\n[ ] no\nLeased:\n[ ] yes\n[x] no"],
        {"insured": "high", "leased": "high"},
    ),
    Trap(
        {"insured": False, "leased": True}, ["Insured:\n[x] yes\n[ ] no\nLeased:\n[ ] yes\n[x] no"]
    ),
    Trap({"insured": True}, ["Insured ___ yes _x_ no"]),
    Trap({"insured": False}, ["Insured ___ yes _x_ no"], {"insured": "high"}),
    Trap({"insured": False}, ["Insured: ____"]),
    Trap({"insured": True}, ["Insured: [\u221a] yes [ ] no"], {"insured": "high"}),
    Trap({"insured": False}, ["[ ] not insured"]),
    Trap({"insured": False}, ["[x] not insured"], {"insured": "high"}),
    Trap({"insured": False}, ["Insured: not applicable"]),
    Trap({"insured": False}, ["Insured: not yes"]),
    Trap({"insured": False}, ["insured but not leased"]),
    Trap({"insured": False}, ["The insured has no car"]),
    Trap({"insured": False}, ["Insured no. 4711"]),
    Trap({"insured": False}, ["No proof it is insured"]),
    Trap({"insured": False}, ["The car has no radio and is insured"]),
    Trap({"insured": False}, ["It is not true that the car is not insured."]),
    Trap({"insured": False}, ["Insured: No, expired"], {"insured": "high"}),
    Trap({"pets_allowed": False}, ["Pets are not allowed"], {"pets_allowed": "high"}),
    Trap({"status": "approved"}, ["Status: approved? no"]),
    Trap({"status": "approved"}, ["Status: ~~approved~~ rejected"]),
    Trap({"status": "approved"}, ["Status: yet to be approved"]),
    Trap({"status": "approved"}, ["Status: rejected (previously approved)"]),
    Trap({"status": "approved"}, ["Status: approved.\nNo further action."], {"status": "high"}),
    # A longer name
    Trap({"name": "Lee"}, ["Name: Lee-Smith"]),
    Trap({"time": "10:30"}, ["Time: 10:30:45"]),
    Trap({"host": "10.0.0.1"}, ["Host: 10.0.0.1:80"], {"host": "high"}),
    Trap({"email": "ann@example.com"}, ["Email: ann@example.com.au"]),
    Trap({"email": "ann@example.com"}, ["Write to ann@example.com."], {"email": "high"}),
    Trap({"currency": "EUR"}, ["Total: 100 EUR/month"], {"currency": ...}),
]  # fmt: skip


def mapped(fields: Mapping[str, Any], cited: Sequence[str], *, said: bool) -> dict[str, Any]:
    """Field -> place and confidence of its citations; `said` where the answer repeats the texts."""
    blocks = [
        TextBlock(
            text if said else "",
            ({"type": "char_location", "cited_text": text, "document_index": at},),
        )
        for at, text in enumerate(cited)
    ]
    found = map_citations(fields, blocks)
    return {
        path: {(one.metadata or {})["document_index"]: one.confidence for one in citations}
        for path, citations in found.items()
    }


@pytest.mark.parametrize("said", [False, True], ids=["cited", "said too"])
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.fields} {trap.cited[0]}"[:60])
def test_a_citation_is_never_falsely_sure(trap: Trap, said: bool) -> None:
    """Only the fields that a text means are mapped to it, as surely as it says."""
    found = mapped(trap.fields, trap.cited, said=said)
    assert set(found) == set(trap.supported), found
    for path, confidence in trap.supported.items():
        assert confidence is ... or set(found[path].values()) == {confidence}, found


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
        for path, places in line.get("cites", {}).items():
            assert [place + 1 for place in found[path]] == places, (line["id"], found)


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
    found = mapped({f"field_{at}": value for at in range(count)}, cited, said=False)
    most = bounds().mapping_steps // 40
    assert most - works[0].left < 1.5 * most
    if works[0].left <= 0:
        assert {sure for places in found.values() for sure in places.values()} <= {"low"}
