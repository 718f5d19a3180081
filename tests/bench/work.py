"""The jobs that every contender answers, and how a contender tells what it took."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-6-luna"}
MOST = {"anthropic": 100_000, "openai": 50_000}
MOST_PDFS = 140
MAX_TOKENS = 100
PDF_BYTES = 1_000_000
TEXT = "Classify the ticket in one word. Ticket {n}: the printer on floor {n} is out of paper."
ASK = "Which ticket is this?"


@dataclass(frozen=True, slots=True)
class Work:
    """So many jobs of a kind, text or pdf, for a provider, in provider batches of a size."""

    kind: str
    provider: str
    count: int
    per_batch: int
    folder: Path

    @property
    def model(self) -> str:
        return MODELS[self.provider]

    def prompts(self) -> Iterator[str]:
        return (TEXT.format(n=n) for n in range(self.count))

    def pdf(self, n: int) -> Path:
        return self.folder / "pdfs" / f"{n}.pdf"

    @property
    def jobs_file(self) -> Path:
        return self.folder / "jobs.jsonl"

    def starts(self) -> range:
        return range(0, self.count, self.per_batch)

    def ordinals(self, start: int) -> range:
        return range(start, min(start + self.per_batch, self.count))


def content(work: Work, n: int) -> Any:
    """What a plain script sends as the content of a user message."""
    if work.kind == "text":
        return TEXT.format(n=n)
    import base64

    data = base64.b64encode(work.pdf(n).read_bytes()).decode()
    if work.provider == "anthropic":
        source = {"type": "base64", "media_type": "application/pdf", "data": data}
        return [{"type": "document", "source": source}, {"type": "text", "text": ASK}]
    file = {"filename": f"{n}.pdf", "file_data": f"data:application/pdf;base64,{data}"}
    return [{"type": "file", "file": file}, {"type": "text", "text": ASK}]


def body(work: Work, n: int) -> dict[str, Any]:
    """What a plain script sends for one job."""
    limit = "max_tokens" if work.provider == "anthropic" else "max_completion_tokens"
    messages = [{"role": "user", "content": content(work, n)}]
    return {"model": work.model, limit: MAX_TOKENS, "messages": messages}


def write_jobs(work: Work) -> None:
    """Write all jobs into one file, a line each."""
    with work.jobs_file.open("w") as file:
        for n, prompt in enumerate(work.prompts()):
            file.write(json.dumps({"id": str(n), "prompt": prompt}) + "\n")


def write_pdfs(work: Work) -> None:
    """Write as many PDFs of one page as there are jobs, each of 1 MB that no other shares."""
    work.pdf(0).parent.mkdir(parents=True, exist_ok=True)
    for n in range(work.count):
        text = b"BT /F1 12 Tf 72 720 Td (Ticket %d: the printer is out of paper.) Tj ET" % n
        font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        objects = [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            page + b"/Resources<</Font<</F1 5 0 R>>>>>>",
            b"<</Length %d>>stream\n%b\nendstream" % (len(text), text),
            font,
            b"<</Length %d>>stream\n%b\nendstream" % (PDF_BYTES, os.urandom(PDF_BYTES)),
        ]
        data, places = b"%PDF-1.7\n", []
        for number, value in enumerate(objects, start=1):
            places.append(len(data))
            data += b"%d 0 obj\n%b\nendobj\n" % (number, value)
        table = b"".join(b"%010d 00000 n \n" % place for place in places)
        start = len(data)
        data += b"xref\n0 7\n0000000000 65535 f \n%b" % table
        data += b"trailer\n<</Size 7/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % start
        work.pdf(n).write_bytes(data)


class Clock:
    """Wall and CPU seconds from here on; what was imported before is not in them."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    def tell(self, **phases: float) -> None:
        """Say what a contender took, on standard output."""
        cpu = time.process_time() - self._cpu
        told = {"wall": self.wall, "cpu": cpu, "peak_mb": _peak_mb(), "phases": phases}
        print("BENCH " + json.dumps(told), flush=True)


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # The usual number, `ru_maxrss`, also counts the process that this one was forked from.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
