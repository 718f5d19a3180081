"""Running an OpenAI batch: from its input file to output rows, error rows and bills."""

from __future__ import annotations

import hashlib
import mmap
import time
import uuid
from contextlib import ExitStack
from typing import IO

import orjson

from .content import Marker, find_marker
from .openai_answers import CacheMemory, Counted, make_body
from .openai_content import FileReader
from .openai_rules import read_body
from .openai_validation import Validation
from .outcome import Outcome, Stop, give_up_if, running_order
from .store import Batch, Bill, Store, StoredFile
from .wire import BadRequestError, Json, body_digest, new_id

_NOT_RUN = {
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "batch_expired": "This request could not be executed before the completion window expired.",
}
_DAYS_30 = 30 * 86400


def run_lines(
    store: Store,
    batch: Batch,
    found: Validation,
    files: FileReader,
    finished: int | None,
    rest: str,
    stop: Stop,
) -> Outcome:
    """Answer the lines of a batch into temporary output and error files.

    Args:
        store: where the input file lies.
        batch: the batch.
        found: the places of its lines.
        files: gives uploaded files.
        finished: how many lines ran; None for all of them.
        rest: error code of those that did not run, `batch_cancelled` or `batch_expired`.
        stop: asked now and then whether to give up.

    Raises:
        AbandonedError: when `stop` said so.
    """
    runner = _Runner(store, batch, files)
    done = found.count if finished is None else finished
    source = store.files_dir / (batch.input_file_id or "")
    produced = {kind: _Produced(store, batch, runner.now, kind) for kind in ("output", "error")}
    try:
        with ExitStack() as stack:
            body = stack.enter_context(source.open("rb"))
            data = stack.enter_context(mmap.mmap(body.fileno(), 0, access=mmap.ACCESS_READ))
            for each in produced.values():
                each.file = stack.enter_context(each.temporary.open("wb"))
            for ordinal, number in enumerate(running_order(batch.id, found.count)):
                if ordinal % 256 == 0:
                    give_up_if(stop)
                raw = data[found.places[2 * number] : found.places[2 * number + 1]]
                line: Json = orjson.loads(raw)
                if ordinal >= done:
                    row = _not_run_row(runner, line, ordinal, rest)
                    produced["error"].add(None if batch.lists_no_unrun else row)
                else:
                    kind, row = runner.run(line, b"[[sandbox:" in raw, ordinal)
                    produced[kind].add(row)
    except BaseException:
        for each in produced.values():
            each.temporary.unlink(missing_ok=True)
        raise
    outcome = Outcome(bills=runner.bills, seen=runner.seen, usage=runner.usage())
    for each in produced.values():
        if each.rows:
            outcome.files.append(each.listed())
            outcome.moves.append((each.temporary, each.final))
        else:
            each.temporary.unlink()
    outcome.output_file_id = produced["output"].id if produced["output"].rows else None
    outcome.error_file_id = produced["error"].id if produced["error"].rows else None
    # A capture shows the counters of a cancelled batch back at zero; see the notes on counting.
    canceled = rest == "batch_cancelled" and finished is not None
    outcome.counts = {
        "total": found.count,
        "completed": 0 if canceled else runner.completed,
        "failed": 0 if canceled else found.count - runner.completed,
    }
    return outcome


class _Produced:
    """An output or error file while it is written."""

    def __init__(self, store: Store, batch: Batch, now: float, kind: str) -> None:
        self.id = new_id("file-", 22)
        self.final = store.files_dir / self.id
        self.temporary = store.incoming_dir / f"{uuid.uuid4().hex}.tmp"
        self.filename = f"{batch.id}_{kind}.jsonl"
        self.now = now
        self.expires_after = batch.output_expires_after or _DAYS_30
        self.file: IO[bytes] | None = None
        self.rows = 0
        self.bytes = 0

    def add(self, row: Json | None) -> None:
        """Write a row; None is one that goes missing."""
        if row is None or self.file is None:
            return
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        self.file.write(line)
        self.rows += 1
        self.bytes += len(line)

    def listed(self) -> StoredFile:
        """The file as the Files API lists it."""
        return StoredFile(
            self.id,
            "openai",
            "batch_output",
            self.filename,
            self.bytes,
            "application/jsonl",
            self.now,
            self.now + self.expires_after,
        )


class _Runner:
    def __init__(self, store: Store, batch: Batch, files: FileReader) -> None:
        self.store = store
        self.batch = batch
        self.files = files
        self.cache = CacheMemory()
        self.bills: list[Bill] = []
        self.seen: list[str] = []
        self.completed = 0
        self.now = time.time()
        self.head = hashlib.sha256(batch.id.encode()).hexdigest()[:24]
        self.totals = [0, 0, 0, 0]

    def run(self, line: Json, marked: bool, ordinal: int) -> tuple[str, Json | None]:
        """The file (`output` or `error`) that a line's row goes to, and the row."""
        body: Json = line["body"]
        custom_id: str = line["custom_id"]
        digest = body_digest(body)
        number = f"{self.head}{ordinal:08x}"
        try:
            model, prompt = read_body(self.batch.endpoint, body, self.files)
            marker = None
            if marked or prompt.documents:
                marker = self._ordered(find_marker(prompt), digest)
            if marker is not None:
                if marker.name == "errored":
                    raise ordered_error(marker)
                if marker.name == "expired":
                    return "error", self._not_run(custom_id, number, "batch_expired")
                if marker.name == "canceled":
                    return "error", self._not_run(custom_id, number, "batch_cancelled")
                if marker.name == "missing":
                    self.completed += 1
                    return "output", None
            answer, counted = make_body(
                self.batch.endpoint,
                body,
                model,
                prompt,
                marker,
                number,
                self.now,
                self.cache,
                batch=True,
            )
        except BadRequestError as problem:
            row = self._row(custom_id, number, problem.status, error_body(problem))
            return "error", row
        self.completed += 1
        self._charge(custom_id, digest, model.id, counted)
        return "output", self._row(custom_id, number, 200, answer)

    def usage(self) -> Json:
        """The sum over the successful rows, as the batch object shows it."""
        tokens_in, tokens_out, cached, reasoning = self.totals
        return {
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens_details": {"reasoning_tokens": reasoning},
        }

    def _ordered(self, marker: Marker | None, digest: str) -> Marker | None:
        if marker is None or marker.name != "once":
            return marker
        self.seen.append(digest)
        if self.store.has_seen(digest):
            return None
        name, _, rest = marker.rest.partition(" ")
        return Marker(name, rest)

    def _charge(self, custom_id: str, digest: str, model: str, counted: Counted) -> None:
        parts = (counted.input, counted.output, counted.cached, counted.reasoning)
        for place, value in enumerate(parts):
            self.totals[place] += value
        self.bills.append(
            make_bill(
                self.batch.endpoint, self.batch.id, custom_id, digest, model, counted, self.now
            )
        )

    def _row(self, custom_id: str, number: str, status: int, body: Json) -> Json:
        return {
            "id": f"batch_req_{number}",
            "custom_id": custom_id,
            "response": {"status_code": status, "request_id": number, "body": body},
            "error": None,
        }

    def _not_run(self, custom_id: str, number: str, code: str) -> Json:
        return {
            "id": f"batch_req_{number}",
            "custom_id": custom_id,
            "response": None,
            "error": {"code": code, "message": _NOT_RUN[code]},
        }

    def not_run(self, line: Json, ordinal: int, code: str) -> Json:
        """The error row of a line that did not run."""
        return self._not_run(line["custom_id"], f"{self.head}{ordinal:08x}", code)


def _not_run_row(runner: _Runner, line: Json, ordinal: int, code: str) -> Json:
    return runner.not_run(line, ordinal, code)


def make_bill(
    endpoint: str,
    batch_id: str | None,
    custom_id: str | None,
    digest: str,
    model: str,
    counted: Counted,
    at: float,
) -> Bill:
    """The ledger's row for an OpenAI request that costs money."""
    return Bill(
        "openai",
        endpoint,
        batch_id,
        custom_id,
        digest,
        model,
        counted.input,
        counted.output,
        counted.cached,
        0,
        0,
        counted.extras.stored(),
        at,
    )


def error_body(problem: BadRequestError) -> Json:
    """The error body of a refused request."""
    return {
        "error": {
            "message": problem.message,
            "type": problem.error_type,
            "param": problem.param,
            "code": problem.code,
        }
    }


def ordered_error(marker: Marker) -> BadRequestError:
    """The failure that a test ordered with `[[sandbox:errored ...]]`."""
    kind = marker.rest.split()[0] if marker.rest.split() else "api_error"
    if kind == "invalid_request_error":
        return BadRequestError("The sandbox was asked to fail this request.")
    if kind == "rate_limit_error":
        return BadRequestError(
            "Rate limit reached for requests",
            error_type="requests",
            code="rate_limit_exceeded",
            status=429,
        )
    return BadRequestError(
        "The server had an error while processing your request. Sorry about that!",
        error_type="server_error",
        status=500,
    )
