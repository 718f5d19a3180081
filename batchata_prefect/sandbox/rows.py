"""Running a batch: from its requests on disk to result rows and bills, for all providers.

What is billed beside tokens a test orders in a request's text, as in
`[[sandbox:bill web_searches 3 compaction 500 20]]`: names of fees with how often, and kinds of
further passes with their tokens in and out; a pass of `advisor_message` or `fallback_message` has
its model before them. Tools are used only as far as the request has them, and never more often
than it allows.
"""

from __future__ import annotations

import hashlib
import mmap
import random
import time
import uuid
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import orjson

from .content import FileReader, Marker, Prompt, find_marker
from .store import Batch, Bill, Store, StoredFile
from .wire import Json, Refusal, RefusedError, body_digest, is_object

Stop = Callable[[], bool]
"""Asked now and then by a computation; true when its result is no longer wanted."""


_PASSES = ("message", "compaction")
_PASSES_OF_A_MODEL = ("advisor_message", "fallback_message")


class AbandonedError(Exception):
    """A computation was told to stop."""


@dataclass(slots=True)
class Counted:
    """What is charged for.

    Attributes:
        input: Tokens of the request, those read from and written to a cache too.
        output: Tokens of the answer, the reasoning too.
        fees: Fee -> uses.
        passes: Kind, model (None for the request's own), tokens in and out.
        tier: Service tier that answered; None for the usual one.
        region: Region that answered; None for any.
    """

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    fees: dict[str, int] = field(default_factory=dict[str, int])
    passes: list[tuple[str, str | None, int, int]] = field(
        default_factory=list[tuple[str, str | None, int, int]]
    )
    tier: str | None = None
    region: str | None = None

    def spend(self, marker: Marker | None, given: int, written: int, reasoning: int) -> bool:
        """Note the tokens, or those that a test ordered; whether a cache may have held some."""
        is_ordered = marker is not None and marker.name == "tokens"
        if marker is not None and is_ordered:
            given, written = (int(each) for each in marker.rest.split()[:2])
        self.input, self.output, self.reasoning = given, written, min(reasoning, written)
        return not is_ordered

    def extras(self) -> str:
        """What is charged beside the tokens as JSON; empty where there is nothing."""
        if not (self.fees or self.passes or self.tier or self.region):
            return ""
        return orjson.dumps([self.fees, self.passes, self.tier, self.region]).decode()


@dataclass(slots=True)
class Outcome:
    """Everything that ending a batch changes. Files lie under a temporary name until then."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[Json] | None = None
    usage: Json | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    bills: list[Bill] = field(default_factory=list[Bill])
    files: list[StoredFile] = field(default_factory=list[StoredFile])
    seen: list[str] = field(default_factory=list[str])
    moves: list[tuple[Path, Path]] = field(default_factory=list[tuple[Path, Path]])

    def discard(self) -> None:
        """Remove the temporary files of an outcome that is not committed."""
        for temporary, _ in self.moves:
            temporary.unlink(missing_ok=True)


class Produced:
    """A file of result rows while it is written."""

    def __init__(self, store: Store, final: Path) -> None:
        self.final = final
        self.temporary = store.incoming_dir / f"{uuid.uuid4().hex}.tmp"
        self.rows = 0
        self.bytes = 0
        self._file: IO[bytes] = self.temporary.open("wb")

    def add(self, row: Json) -> None:
        """Write a row."""
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        self._file.write(line)
        self.rows += 1
        self.bytes += len(line)

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()


class Encoder(ABC):
    """What differs between providers in answering a request; made for one batch or direct call.

    A row ends in one of four ways: `succeeded`, `errored`, `canceled` or `expired`.
    """

    provider: ClassVar[str]
    id_key: ClassVar[str] = "custom_id"
    """Where its id lies in a request of a batch."""
    body_key: ClassVar[str]
    """Where the body lies in a request of a batch."""
    words: ClassVar[Mapping[str, str]]
    """Status of a batch that ended, by the way; `errored` is one that failed as a whole."""
    errors: ClassVar[Mapping[str, Refusal]]
    """Failures that a test can order with `[[sandbox:errored ...]]`; `api_error` where no other."""

    def __init__(self, endpoint: str, files: FileReader, batch: Batch | None) -> None:
        self.endpoint = endpoint
        self.files = files
        self.batch = batch
        self.now = time.time()
        self.head = "" if batch is None else hashlib.sha256(batch.id.encode()).hexdigest()[:14]

    @abstractmethod
    def read(self, body: Json, size: int = 0) -> tuple[Any, Prompt]:
        """Check a body of `size` bytes; gives the traits of its model and what it says."""

    @abstractmethod
    def answer(
        self, body: Json, model: Any, prompt: Prompt, marker: Marker | None, number: str
    ) -> tuple[Json, Counted | None]:
        """The answer to a checked body, and what it costs, None for nothing.

        `marker` is what a test ordered, `number` makes the ids of the answer.
        """

    @abstractmethod
    def row(self, custom_id: str, number: str, kind: str, result: Any) -> Json:
        """A result row; `result` is an answer or a `RefusedError`, None where it did not run."""

    @abstractmethod
    def produced(self, store: Store) -> dict[str, Produced]:
        """The files of rows of each kind; two kinds may share one."""

    @abstractmethod
    def outcome(self, kinds: Counter[str], bills: list[Bill], made: dict[str, Produced]) -> Outcome:
        """How a batch came out whose rows are of these kinds."""

    def ordered_error(self, marker: Marker) -> RefusedError:
        """The failure that a test ordered."""
        kind = marker.rest.split()[0] if marker.rest else "api_error"
        return (self.errors.get(kind) or self.errors["api_error"]).of()

    def number(self, ordinal: int) -> str:
        """What makes the ids of a row."""
        return f"{self.head}{ordinal:08x}"

    def keep(self, outcome: Outcome, made: Produced, filename: str, seconds: float) -> str:
        """Have a file of rows be one of the provider's; gives its id."""
        file_id, until = made.final.name, self.now + seconds
        outcome.moves.append((made.temporary, made.final))
        outcome.files.append(
            StoredFile(
                file_id,
                self.provider,
                "batch_output",
                filename,
                made.bytes,
                "application/jsonl",
                self.now,
                until,
            )
        )
        return file_id


def run_batch(
    store: Store,
    encoder: Encoder,
    source: Path,
    places: array[int],
    *,
    finished: int | None,
    rest: str,
    stop: Stop,
) -> Outcome:
    """Answer the requests of a batch into temporary files.

    Args:
        store: what was answered before.
        encoder: the provider's ways.
        source: file that holds the requests.
        places: start and end of each in it.
        finished: how many requests ran; None for all of them.
        rest: kind of those that did not run, `canceled` or `expired`.
        stop: whether to give up.
    """
    batch, runner = encoder.batch, _Runner(store, encoder)
    assert batch is not None
    count = len(places) // 2
    order = list(range(count))
    # Shuffled, as not all providers promise an order, and the same each time for a batch.
    random.Random(batch.id).shuffle(order)  # noqa: S311
    done = count if finished is None else finished
    made = encoder.produced(store)
    try:
        with ExitStack() as stack:
            for each in set(made.values()):
                stack.callback(each.close)
            file = stack.enter_context(source.open("rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            for ordinal, request in enumerate(order):
                if ordinal % 256 == 0 and stop():
                    raise AbandonedError  # noqa: TRY301 - it discards what was made, as any other
                raw = data[places[2 * request] : places[2 * request + 1]]
                entry: Json = orjson.loads(raw)
                if ordinal < done:
                    kind, row = runner.run(entry, raw, ordinal)
                else:
                    kind, number = rest, encoder.number(ordinal)
                    row = encoder.row(entry[encoder.id_key], number, kind, None)
                    row = None if batch.lists_no_unrun else row
                runner.kinds[kind] += 1
                if row is not None:
                    made[kind].add(row)
    except BaseException:
        for each in made.values():
            each.temporary.unlink(missing_ok=True)
        raise
    outcome = encoder.outcome(runner.kinds, runner.bills, made)
    outcome.seen = runner.seen
    return outcome


class _Runner:
    """Answers one request after another."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self.store = store
        self.encoder = encoder
        self.kinds: Counter[str] = Counter()
        self.bills: list[Bill] = []
        self.seen: list[str] = []

    def run(self, entry: Json, raw: bytes, ordinal: int) -> tuple[str, Json | None]:
        """Kind and row (None for a missing one) of a request."""
        encoder = self.encoder
        custom_id: str = entry[encoder.id_key]
        body: Json = entry[encoder.body_key]
        digest, number, marker = body_digest(body), encoder.number(ordinal), None
        try:
            model, prompt = encoder.read(body, len(raw))
            if b"[[sandbox:" in raw or prompt.documents:
                marker = self._ordered(find_marker(prompt), digest)
            if marker is not None:
                if marker.name == "errored":
                    raise encoder.ordered_error(marker)
                if marker.name in ("expired", "canceled"):
                    return marker.name, encoder.row(custom_id, number, marker.name, None)
                if marker.name == "missing":
                    return "succeeded", None
            answer, counted = encoder.answer(body, model, prompt, marker, number)
        except RefusedError as problem:
            return "errored", encoder.row(custom_id, number, "errored", problem)
        if counted is not None:
            self.bills.append(make_bill(encoder, custom_id, digest, model.id, counted))
        return "succeeded", encoder.row(custom_id, number, "succeeded", answer)

    def _ordered(self, marker: Marker | None, digest: str) -> Marker | None:
        if marker is None or marker.name != "once":
            return marker
        self.seen.append(digest)
        if self.store.has_seen(digest):
            return None
        name, _, rest = marker.rest.partition(" ")
        return Marker(name, rest)


def make_bill(
    encoder: Encoder, custom_id: str | None, digest: str, model: str, counted: Counted
) -> Bill:
    """The ledger's row for a request that costs money."""
    return (
        encoder.provider,
        None if encoder.batch is None else encoder.batch.id,
        custom_id,
        digest,
        encoder.endpoint,
        model,
        counted.input,
        counted.output,
        counted.cache_read,
        counted.cache_write_5m,
        counted.cache_write_1h,
        counted.extras(),
        encoder.now,
    )


def ordered(marker: Marker | None, body: Json) -> Counted:
    """What a test ordered, as far as the body's tools allow it: by `max_uses`, and all together."""
    counted = Counted()
    if marker is None or marker.name != "bill":
        return counted
    words, wanted = iter(marker.rest.split()), Counter[str]()
    for name in words:
        if name in _PASSES or name in _PASSES_OF_A_MODEL:
            model = next(words) if name in _PASSES_OF_A_MODEL else None
            counted.passes.append((name, model, int(next(words)), int(next(words))))
        else:
            wanted[name] = int(next(words))
    tools: Any = body.get("tools")
    given = {str(tool.get("type", "")): tool for tool in tools or () if is_object(tool)}
    most = body.get("max_tool_calls")
    left = most if isinstance(most, int) else 1 << 30
    for fee, kind in (("web_searches", "web_search"), ("file_searches", "file_search")):
        tool = next((tool for name, tool in given.items() if name.startswith(kind)), None)
        if tool is not None and (uses := min(wanted[fee], tool.get("max_uses") or left, left)):
            counted.fees[fee] = uses
            left -= uses
    return counted
