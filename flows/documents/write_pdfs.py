"""Writes the two invoices beside this file; run it after changing their text."""

from __future__ import annotations

from pathlib import Path

INVOICES = {
    "invoice-1042.pdf": [
        """INVOICE

Vendor: Northwind Paper Supply Ltd
Bill to: Brightwater Bakery, 5 Harbour Road, Port Ellery
Invoice number: NW-1042
Invoice date: 2026-09-30
Due date: 2026-10-30
Currency: USD

  40  Paper bags, large, box of 500       $18.50      $740.00
  12  Cake boxes, 30 cm, box of 100       $32.25      $387.00
   6  Baking parchment, roll of 200 m     $21.00      $126.00

Continued on page 2""",
        """INVOICE NW-1042, page 2

Subtotal: $1,253.00
Sales tax: $100.24
Total: $1,353.24

Payment terms: 30 days net
Please pay by bank transfer and give the invoice number as the reference.""",
    ],
    "invoice-2297.pdf": [
        """INVOICE

Vendor: Ardent Lift Hire
Bill to: Halvorsen Properties Ltd, 14 Quay Street, Port Ellery
Invoice number: 2297/B
Invoice date: 2026-10-26
Due date: 2026-11-09
Currency: USD

  2  Forklift 2.5 t, weekend rate         $490.00     $980.00
  1  Delivery and collection              $135.00     $135.00

Subtotal: $1,115.00
Sales tax: $89.20
Total: $1,204.20

Payment terms: 14 days net"""
    ],
}


def pdf(pages: list[str]) -> bytes:
    """A PDF with one page of plain text for each text, in Courier, 11 points."""
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
    ]
    for number, text in enumerate(pages):
        escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        lines = " T* ".join(f"({line}) Tj" for line in escaped.splitlines())
        stream = f"BT /F1 11 Tf 15 TL 60 780 Td {lines} ET".encode("ascii")
        bodies.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * number)
        )
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    data, places = b"%PDF-1.4\n", list[int]()
    for number, body in enumerate(bodies, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        data
        + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\n"
        % (
            len(bodies) + 1,
            table,
            len(bodies) + 1,
        )
        + b"startxref\n%d\n%%%%EOF\n" % len(data)
    )


if __name__ == "__main__":
    for name, pages in INVOICES.items():
        (Path(__file__).parent / name).write_bytes(pdf(pages))
