"""Running a Message Batch: from its requests on disk to result rows and bills."""

from __future__ import annotations

import mmap
import time
import uuid
import zlib

import orjson

from .anthropic_answers import Billing, CacheMemory, make_message
from .anthropic_content import FileReader
from .anthropic_rules import read_params
from .content import Marker, find_marker
from .outcome import Outcome, Stop, give_up_if, load_index, running_order
from .store import Batch, Bill, Store
from .wire import BadRequestError, Json, body_digest

ENDPOINT = "/v1/messages"
MAX_REQUEST_BYTES = 32_000_000
"""Of one Messages request (platform.claude.com api/errors: 32 MB; the smaller reading)."""


def run_rows(
    store: Store, batch: Batch, files: FileReader, finished: int | None, rest: str, stop: Stop
) -> Outcome:
    """Answer the requests of a batch into a temporary results file.

    Args:
        store: where the requests lie.
        batch: the batch.
        files: gives uploaded files.
        finished: how many requests ran; None for all of them.
        rest: result type of those that did not run, `canceled` or `expired`.
        stop: asked now and then whether to give up.

    Raises:
        AbandonedError: when `stop` said so.
    """
    source = store.batches_dir / f"{batch.id}.json"
    final = store.batches_dir / f"{batch.id}.results.jsonl"
    temporary = store.batches_dir / f"{batch.id}.{uuid.uuid4().hex}.tmp"
    places = load_index(store.batches_dir / f"{batch.id}.index")
    runner = _Runner(store, batch, files)
    outcome = Outcome(
        counts={"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        moves=[(temporary, final)],
    )
    done = batch.count if finished is None else finished
    try:
        with (
            source.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body,
            temporary.open("wb") as results,
        ):
            for ordinal, number in enumerate(running_order(batch.id, batch.count)):
                if ordinal % 256 == 0:
                    give_up_if(stop)
                raw = body[places[2 * number] : places[2 * number + 1]]
                entry: Json = orjson.loads(raw)
                if ordinal >= done:
                    kind, line = rest, {"custom_id": entry["custom_id"], "result": {"type": rest}}
                    line = None if batch.lists_no_unrun else line
                else:
                    kind, line, bill = runner.run(entry, raw, ordinal)
                    if bill is not None:
                        outcome.bills.append(bill)
                outcome.counts[kind] += 1
                if line is not None:
                    results.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    except BaseException:
        outcome.discard()
        raise
    outcome.seen = runner.seen
    return outcome


class _Runner:
    def __init__(self, store: Store, batch: Batch, files: FileReader) -> None:
        self.store = store
        self.batch = batch
        self.files = files
        self.cache = CacheMemory()
        self.seen: list[str] = []
        self.id_head = "msg_01" + batch.id[-12:]
        self.now = time.time()

    def run(self, entry: Json, raw: bytes, ordinal: int) -> tuple[str, Json | None, Bill | None]:
        """The result kind, the row (None for a missing one) and the bill of a request."""
        custom_id: str = entry["custom_id"]
        params: Json = entry["params"]
        digest = body_digest(params)
        try:
            if len(raw) > MAX_REQUEST_BYTES:
                raise too_large()
            model, reader = read_params(
                params,
                version=self.batch.version,
                betas=self.batch.betas,
                batch=True,
                files=self.files,
            )
            marker = None
            if b"[[sandbox:" in raw or reader.prompt.documents:
                marker = self._ordered(find_marker(reader.prompt), digest)
            if marker is not None:
                if marker.name == "errored":
                    raise _ordered_error(marker)
                if marker.name in ("expired", "canceled"):
                    row = {"custom_id": custom_id, "result": {"type": marker.name}}
                    return marker.name, row, None
                if marker.name == "missing":
                    return "succeeded", None, None
            message, billing = make_message(
                params,
                model,
                reader,
                marker,
                f"{self.id_head}{ordinal:08d}",
                tier="batch",
                cache=self.cache,
            )
        except BadRequestError as problem:
            return "errored", errored_row(custom_id, problem, self.batch.id), None
        row = {"custom_id": custom_id, "result": {"type": "succeeded", "message": message}}
        return "succeeded", row, self._bill(custom_id, digest, model.id, billing)

    def _ordered(self, marker: Marker | None, digest: str) -> Marker | None:
        if marker is None or marker.name != "once":
            return marker
        self.seen.append(digest)
        if self.store.has_seen(digest):
            return None
        name, _, rest = marker.rest.partition(" ")
        return Marker(name, rest)

    def _bill(
        self, custom_id: str, digest: str, model: str, billing: Billing | None
    ) -> Bill | None:
        if billing is None:
            return None
        return make_bill(ENDPOINT, self.batch.id, custom_id, digest, model, billing, self.now)


def make_bill(
    endpoint: str,
    batch_id: str | None,
    custom_id: str | None,
    digest: str,
    model: str,
    billing: Billing,
    at: float,
) -> Bill:
    """The ledger's row for a Messages request that costs money."""
    return Bill(
        "anthropic",
        endpoint,
        batch_id,
        custom_id,
        digest,
        model,
        billing.input,
        billing.output,
        billing.cache_read,
        billing.cache_write_5m,
        billing.cache_write_1h,
        billing.extras.stored(),
        at,
    )


def errored_row(custom_id: str, problem: BadRequestError, batch_id: str) -> Json:
    """A result row of a request that failed, with the error nested twice as the API does."""
    ran = problem.at_run_time or problem.error_type not in (
        "invalid_request_error",
        "not_found_error",
        "request_too_large",
    )
    error: Json = {"type": problem.error_type, "message": problem.message}
    if not ran or problem.at_run_time:
        error = {"details": {"error_visibility": "user_facing"}, **error}
    suffix = zlib.crc32(f"{batch_id}{custom_id}".encode())
    return {
        "custom_id": custom_id,
        "result": {
            "type": "errored",
            "error": {
                "type": "error",
                "error": error,
                "request_id": f"workerreq_01Sandbox{suffix:010d}" if ran else None,
            },
        },
    }


def too_large() -> BadRequestError:
    """The error of a single request above the limit."""
    return BadRequestError(
        "Request exceeds the maximum size", error_type="request_too_large", status=413
    )


_ORDERED_TEXTS = {
    "api_error": "Internal server error",
    "overloaded_error": "Overloaded",
    "rate_limit_error": "This request would exceed your organization's rate limit.",
}


def _ordered_error(marker: Marker) -> BadRequestError:
    kind = marker.rest.split()[0] if marker.rest.split() else "api_error"
    text = _ORDERED_TEXTS.get(kind, "The sandbox was asked to fail this request.")
    return BadRequestError(text, error_type=kind)
